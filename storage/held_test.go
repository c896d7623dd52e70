// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

// mapped opens a device that can map.
func mapped(t *testing.T, drv primitives.Driver, o storage.Options) *storage.Device {
	t.Helper()
	r := request(primitives.Props{"facets": "snapshots,resize,delta,map"})
	r.Host.RunDir = t.TempDir()
	dev, err := storage.Open(t.Context(), drv, r, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	return dev
}

func TestAGuestWaitsForReadersOfItsVolume(t *testing.T) {
	dev := mapped(t, mem.New(), storage.Options{LockWait: time.Millisecond})
	ctx := t.Context()
	create(t, dev, vol("a"), 4096, nil)
	r, err := dev.Read(ctx, vol("a"), primitives.Op{ID: "copy"})
	if err != nil {
		t.Fatal(err)
	}
	f := dev.Facets().Map
	writer, err := f.Map(ctx, vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Activate(ctx, writer.ID, primitives.Op{})
	wantBlocker(t, wantCode(t, "Activate beside a reader", err, primitives.CodeConflict), primitives.Blocker{Kind: "operation", Name: "copy"})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Activate(ctx, writer.ID, primitives.Op{}); err != nil {
		t.Errorf("Activate after it = %v", err)
	}
	// A volume that a guest writes to is read whole: its extents may change.
	if _, err := storage.Copy(ctx, dev, vol("a"), dev, vol("b"), storage.CopyRequest{}); err != nil {
		t.Errorf("Copy of a volume in use = %v", err)
	}
	if n := calls(dev, "extents"); n != 0 {
		t.Errorf("the extents of a volume in use were asked for")
	}
	if err := f.Deactivate(ctx, writer.ID, primitives.Op{}); err != nil {
		t.Error(err)
	}
	if err := f.Unmap(ctx, writer.ID, primitives.UnmapRequest{}); err != nil {
		t.Error(err)
	}
}

// What Map said of an active mapping is not true any more once it is deactivated.
func TestAGuestWaitsForReadersAlsoWhenItsMappingWasActiveOnce(t *testing.T) {
	dev := mapped(t, mem.New(), storage.Options{LockWait: time.Millisecond})
	ctx := t.Context()
	create(t, dev, vol("a"), 4096, nil)
	f := dev.Facets().Map
	again := func() primitives.MappingID {
		t.Helper()
		m, err := f.Map(ctx, vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
		if err != nil {
			t.Fatal(err)
		}
		return m.ID
	}
	id := again()
	if _, err := f.Activate(ctx, id, primitives.Op{}); err != nil {
		t.Fatal(err)
	}
	again()
	if err := f.Deactivate(ctx, id, primitives.Op{}); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.Read(ctx, vol("a"), primitives.Op{ID: "copy"}); err != nil {
		t.Fatal(err)
	}
	_, err := f.Activate(ctx, id, primitives.Op{})
	wantBlocker(t, wantCode(t, "Activate beside a reader", err, primitives.CodeConflict), primitives.Blocker{Kind: "operation", Name: "copy"})
}

func TestAnActivateAfterItsMapListsNoMappings(t *testing.T) {
	dev := mapped(t, mem.New(), storage.Options{})
	create(t, dev, vol("a"), 4096, nil)
	f := dev.Facets().Map
	m, err := f.Map(t.Context(), vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err = f.Activate(t.Context(), m.ID, primitives.Op{}); err != nil || !m.Active {
		t.Fatalf("Activate = %+v, %v", m, err)
	}
	if n := calls(dev, "mappings"); n != 0 {
		t.Errorf("the mappings were listed %d times, want not at all", n)
	}
}

func TestAbortFreesTheVolumeEvenAfterItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drv := mem.New()
		dev := open(t, drv, nil, storage.Options{})
		w, err := dev.Write(t.Context(), vol("a"), primitives.WriteRequest{Create: true, Size: 4096})
		if err != nil {
			t.Fatal(err)
		}
		clear := drv.Fault("one", mem.Fault{Op: "abort", Dead: true})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		wantCode(t, "Abort of a dead device", w.Abort(ctx), primitives.CodeCancelled)
		if took := time.Since(start); took > time.Second {
			t.Errorf("Abort took %s, want it to leave the rest to itself", took)
		}
		clear()
		synctest.Wait()
		if err := w.Abort(t.Context()); err != nil {
			t.Errorf("Abort again = %v", err)
		}
		create(t, dev, vol("a"), 8192, nil)
	})
}

func TestAFailedCommitCanBeRepeated(t *testing.T) {
	drv := mem.New()
	dev := open(t, drv, nil, storage.Options{})
	ctx := t.Context()
	w, err := dev.Write(ctx, vol("a"), primitives.WriteRequest{Create: true, Size: 4096})
	if err != nil {
		t.Fatal(err)
	}
	drv.Fault("one", mem.Fault{Op: "commit", Times: 1, Err: primitives.CodeUnavailable})
	_, err = w.Commit(ctx)
	wantCode(t, "Commit", err, primitives.CodeUnavailable)
	first, err := w.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.Commit(ctx); err != nil || again.Handle != first.Handle {
		t.Errorf("Commit again = %q, %v, want %q", again.Handle, err, first.Handle)
	}
	if err := w.Abort(ctx); err != nil {
		t.Errorf("Abort after Commit = %v", err)
	}
	if _, err := dev.Stat(ctx, vol("a"), primitives.Op{}); err != nil {
		t.Errorf("Stat = %v, want the committed volume", err)
	}
}

func TestASecretIsShownNowhere(t *testing.T) {
	const canary = "canary-7f3a"
	var log bytes.Buffer
	drv := mem.New()
	r := request(primitives.Props{"note": "hello"})
	r.Secrets = primitives.NewSecrets(map[string][]byte{"token": []byte(canary)})
	o := storage.Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	dev, err := storage.Open(t.Context(), drv, r, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	shown := fmt.Sprintf("%v %+v", create(t, dev, vol("a"), 4096, nil), dev.Props())

	drv.Fault("one", mem.Fault{Op: "stat", Err: primitives.CodeInternal})
	_, err = dev.Stat(t.Context(), vol("a"), primitives.Op{})
	shown += err.Error()
	bad := r
	bad.Props = primitives.Props{"store": "one", "token": canary}
	_, err = storage.Open(t.Context(), drv, bad, o)
	shown += wantCode(t, "Open with a secret among the properties", err, primitives.CodeInvalid).Error()
	bad = r
	bad.Secrets = primitives.NewSecrets(map[string][]byte{"token": []byte(canary + "x")})
	_, err = storage.Open(t.Context(), drv, bad, o)
	shown += wantCode(t, "Open with another token", err, primitives.CodeInvalid).Error()
	if strings.Contains(shown+log.String(), canary) {
		t.Errorf("a secret is shown in:\n%s\n%s", shown, log.String())
	}
	if !strings.Contains(log.String(), "op=stat") {
		t.Errorf("the failure is not in the log:\n%s", log.String())
	}
}

func TestUpdateKeepsTheSecretsThatItDoesNotName(t *testing.T) {
	drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend { return secretive{b} }}
	r := request(nil)
	r.Secrets = primitives.NewSecrets(map[string][]byte{"token": []byte("old")})
	dev, err := storage.Open(t.Context(), drv, r, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	for _, step := range []struct {
		change primitives.Change
		want   string
	}{
		{primitives.Change{New: primitives.Props{"note": "x"}}, "old"},
		{primitives.Change{Secrets: primitives.NewSecrets(map[string][]byte{"token": []byte("new")})}, "new"},
		{primitives.Change{Removed: []string{"token"}}, ""},
	} {
		if err := dev.Update(step.change); err != nil {
			t.Fatal(err)
		}
		o, err := dev.Stat(t.Context(), vol("a"), primitives.Op{})
		if err != nil || string(o.Handle) != step.want {
			t.Errorf("the driver got secret %q, %v after %+v, want %q", o.Handle, err, step.change, step.want)
		}
	}
}

// secretive answers Stat with the secret that the call carries.
type secretive struct{ primitives.Backend }

func (secretive) Stat(_ context.Context, _ primitives.URI, op primitives.Op) (primitives.Object, error) {
	token, _ := op.Secrets.Get("token")
	return primitives.Object{Handle: primitives.Handle(token)}, nil
}

// adopting offers an Importer that is never to be reached.
type adopting struct{ primitives.Backend }

func (a adopting) Facets() primitives.Facets {
	f := a.Backend.Facets()
	f.Import = a
	return f
}

func (adopting) Import(_ context.Context, _ primitives.URI, r primitives.ImportRequest) (primitives.Object, error) {
	return primitives.Object{Handle: primitives.Handle(r.Path)}, nil
}

func TestImportNeedsAPathAndAFormat(t *testing.T) {
	drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend { return adopting{b} }}
	dev := open(t, drv, nil, storage.Options{})
	for name, tt := range map[string]struct {
		r     primitives.ImportRequest
		field string
	}{
		"no path":          {primitives.ImportRequest{Format: "raw"}, "path"},
		"a relative path":  {primitives.ImportRequest{Path: "a.img", Format: "raw"}, "path"},
		"no format":        {primitives.ImportRequest{Path: "/a.img"}, "format"},
		"a foreign format": {primitives.ImportRequest{Path: "/a.img", Format: "vmdk"}, "format"},
	} {
		_, err := dev.Facets().Import.Import(t.Context(), vol("a"), tt.r)
		e := wantCode(t, "Import with "+name, err, primitives.CodeInvalid)
		if e.Problems[0].Prop != tt.field {
			t.Errorf("Import with %s complains about %s, want %s", name, e.Problems[0].Prop, tt.field)
		}
	}
	if _, err := dev.Facets().Import.Import(t.Context(), vol("a"), primitives.ImportRequest{Path: "/a.img", Format: "raw"}); err != nil {
		t.Errorf("Import = %v", err)
	}
}
