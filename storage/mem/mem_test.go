// SPDX-License-Identifier: Apache-2.0

package mem_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/mem"
)

func open(t *testing.T, d *mem.Driver, props primitives.Props) primitives.Backend {
	t.Helper()
	if props == nil {
		props = primitives.Props{}
	}
	if props["store"] == "" {
		props["store"] = "one"
	}
	b, err := d.Open(t.Context(), primitives.OpenRequest{
		Name: "dev", Props: props,
		Host: primitives.HostInfo{ID: "host", BootID: "boot", RunDir: t.TempDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func uri(t *testing.T, s string) primitives.URI {
	t.Helper()
	u, err := primitives.ParseURI(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func create(t *testing.T, b primitives.Backend, u primitives.URI, size int64, data []byte) primitives.Object {
	t.Helper()
	w, err := b.Write(t.Context(), u, primitives.WriteRequest{Create: true, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	o, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func content(t *testing.T, b primitives.Backend, u primitives.URI) []byte {
	t.Helper()
	r, err := b.Read(t.Context(), u, primitives.Op{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16) ^ seed
	}
	return p
}

func TestVolumesOutliveTheirBackend(t *testing.T) {
	d, want := mem.New(), pattern(200<<10, 7)
	b := open(t, d, nil)
	create(t, b, uri(t, "dev/a"), int64(len(want)), want)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, open(t, d, nil), uri(t, "dev/a")); !bytes.Equal(got, want) {
		t.Error("content differs after Close and Open")
	}
}

func TestCrashLeavesAWriterIncompleteAndResumable(t *testing.T) {
	d, u := mem.New(), uri(t, "dev/a")
	b := open(t, d, nil)
	req := primitives.WriteRequest{Op: primitives.Op{ID: "op"}, Create: true, Size: 8192}
	w, err := b.Write(t.Context(), u, req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	d.Crash("one")
	if _, err := w.Commit(t.Context()); primitives.CodeOf(err) != primitives.CodeUnavailable {
		t.Errorf("Commit after the crash = %v, want unavailable", err)
	}
	b = open(t, d, nil)
	o, err := b.Stat(t.Context(), u, primitives.Op{})
	if err != nil || o.State != primitives.Incomplete {
		t.Fatalf("Stat = %v, %v, want an incomplete volume", o.State, err)
	}
	req.Resume = true
	if w, err = b.Write(t.Context(), u, req); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := content(t, b, u); got[0] != 'x' {
		t.Errorf("first byte = %q, want what was written before the crash", got[0])
	}
}

func TestDeadStoreAnswersWhenTheContextEnds(t *testing.T) {
	d := mem.New()
	b := open(t, d, nil)
	clear := d.Fault("one", mem.Fault{Dead: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Describe(ctx); primitives.CodeOf(err) != primitives.CodeCancelled {
		t.Errorf("Describe = %v, want cancelled", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 1)
	defer cancel()
	if _, err := b.Describe(ctx); primitives.CodeOf(err) != primitives.CodeUnavailable {
		t.Errorf("Describe = %v, want unavailable", err)
	}
	clear()
	if _, err := b.Describe(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRemapKeepsTheOldBytesUntilTheSwitch(t *testing.T) {
	b := open(t, mem.New(), primitives.Props{"snapshots": "remap"})
	u := uri(t, "dev/a")
	create(t, b, u, 8192, pattern(8192, 1))
	f := b.Facets()
	m, err := f.Map.Map(t.Context(), u, primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err = f.Map.Activate(t.Context(), m.ID, primitives.Op{}); err != nil {
		t.Fatal(err)
	}
	for _, switched := range []bool{false, true} {
		set, err := f.Snapshots.Snapshot(t.Context(), []primitives.URI{u}, "s", primitives.Op{})
		if err != nil {
			t.Fatal(err)
		}
		if len(set.Switch) != 1 || set.Switch[0].Epoch <= m.Epoch || set.Snapshots[0].State != primitives.Pending {
			t.Fatalf("Snapshot = %+v, want a pending snapshot and a mapping of a later epoch than %d", set, m.Epoch)
		}
		if _, err := f.Snapshots.Settle(t.Context(), []primitives.URI{u}, "s", switched, primitives.Op{}); err != nil {
			t.Fatal(err)
		}
		o, err := b.Stat(t.Context(), u.At("s"), primitives.Op{})
		if switched != (err == nil) || (switched && o.State != primitives.Ready) {
			t.Errorf("Stat after Settle(%t) = %v, %v", switched, o.State, err)
		}
		if got := content(t, b, u); !bytes.Equal(got, pattern(8192, 1)) {
			t.Errorf("content differs after Settle(%t)", switched)
		}
	}
}
