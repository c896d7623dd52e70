// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

func TestOpenTellsEveryMistakeBeforeAnythingHappens(t *testing.T) {
	drv := mem.New()
	_, err := storage.Open(t.Context(), drv, request(primitives.Props{"capacity": "1KB", "snapshot": "none"}), storage.Options{})
	e := wantCode(t, "Open", err, primitives.CodeInvalid)
	if len(e.Problems) != 2 || e.URI.Device != "dev" {
		t.Errorf("Open = %v, want the problems of two properties of dev", e)
	}
	_, err = storage.Open(t.Context(), drv, request(primitives.Props{"granule": "513", "facets": "map,mop"}), storage.Options{})
	e = wantCode(t, "Open with what only the driver knows to be wrong", err, primitives.CodeInvalid)
	if len(e.Problems) != 2 || e.Problems[0].Prop != "properties.granule" {
		t.Errorf("Open = %v, want the driver's two problems", e)
	}
}

func TestOpenRefusesDriversItCannotUse(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*primitives.DriverInfo)
		want   primitives.Code
	}{
		"of a newer contract": {func(i *primitives.DriverInfo) { i.APIMin, i.APIMax = 9, 9 }, primitives.CodeUnsupported},
		"of an older one":     {func(i *primitives.DriverInfo) { i.APIMin, i.APIMax = 0, 0 }, primitives.CodeUnsupported},
		"with a wrong schema": {func(i *primitives.DriverInfo) { i.Schema.Props[0].Scope = 0 }, primitives.CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			drv := broken{Driver: mem.New(), info: func(i primitives.DriverInfo) primitives.DriverInfo { tt.change(&i); return i }}
			_, err := storage.Open(t.Context(), drv, request(nil), storage.Options{})
			wantCode(t, "Open", err, tt.want)
		})
	}
}

func TestPersistedPropertiesAreNotProbedAgain(t *testing.T) {
	drv := broken{Driver: mem.New(), validate: func(primitives.Change) []primitives.Problem {
		return []primitives.Problem{{Prop: "store", Message: "it is not there today", Fatal: true}}
	}}
	_, err := storage.Open(t.Context(), drv, request(nil), storage.Options{})
	wantCode(t, "Open for the first time", err, primitives.CodeInvalid)
	open(t, drv, nil, storage.Options{Persisted: true})
}

func TestOpenOfADeadDeviceEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drv := mem.New()
		drv.Fault("one", mem.Fault{Op: "open", Dead: true})
		_, err := storage.Open(t.Context(), drv, request(nil), storage.Options{})
		wantCode(t, "Open", err, primitives.CodeUnavailable)
	})
}

func TestValidateMakesNothing(t *testing.T) {
	drv := mem.New()
	v, err := storage.Validate(t.Context(), drv, primitives.Change{Scope: primitives.ScopeDevice, New: primitives.Props{"store": "one", "capacity": "1G"}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(primitives.Props{"store": "one", "capacity": "1073741824"}, v.Props); d != "" {
		t.Errorf("properties to persist differ (-want +got):\n%s", d)
	}
	if v.Effective["granule"] != "4096" {
		t.Errorf("effective properties = %v, want the default granule", v.Effective)
	}
}

func TestEveryErrorIsClassifiedAndNamed(t *testing.T) {
	for err, want := range map[error]primitives.Code{
		syscall.ENOSPC:           primitives.CodeNoSpace,
		syscall.EDQUOT:           primitives.CodeNoSpace,
		syscall.EROFS:            primitives.CodeDenied,
		syscall.EACCES:           primitives.CodeDenied,
		syscall.ENOENT:           primitives.CodeNotFound,
		syscall.EEXIST:           primitives.CodeExists,
		syscall.EBUSY:            primitives.CodeInUse,
		syscall.EIO:              primitives.CodeUnavailable,
		syscall.ESTALE:           primitives.CodeUnavailable,
		syscall.EINVAL:           primitives.CodeInternal,
		context.DeadlineExceeded: primitives.CodeUnavailable,
		context.Canceled:         primitives.CodeCancelled,
		errors.New("odd"):        primitives.CodeInternal,
		primitives.CodeFenced:    primitives.CodeFenced,
		&primitives.Error{}:      primitives.CodeInternal,
		&primitives.Error{Code: primitives.CodeDependents}:   primitives.CodeDependents,
		errors.Join(errors.New("odd"), primitives.CodeInUse): primitives.CodeInUse,
	} {
		for _, wrapped := range []error{err, fmt.Errorf("while at it: %w", err)} {
			drv := mem.New()
			dev := open(t, drv, nil, storage.Options{})
			drv.Fault("one", mem.Fault{Op: "delink", Err: wrapped})
			_, got := dev.Delink(t.Context(), vol("a"), primitives.DelinkRequest{})
			e := wantCode(t, fmt.Sprintf("Delink with %v", wrapped), got, want)
			if e.Op != "delink" || e.URI != vol("a") {
				t.Errorf("error = %q of %v, want it to name the call and the object", e.Op, e.URI)
			}
			if strings.Contains(err.Error(), "odd") && !strings.Contains(got.Error(), "odd") {
				t.Errorf("error = %v, want it to tell its cause %v", got, err)
			}
		}
	}
}

func TestWrongNamesNeverReachTheDriver(t *testing.T) {
	drv := mem.New()
	dev := open(t, drv, nil, storage.Options{})
	drv.Fault("one", mem.Fault{Err: errors.New("the driver was called")})
	ctx := t.Context()
	for _, u := range []primitives.URI{
		{},
		{Device: "dev"},
		{Device: "other", Volume: "a"},
		vol(".."), vol("a/b"), vol("a\nb"),
		vol(strings.Repeat("x", 300)),
		{Device: "dev", Volume: "a", Snapshot: ".."},
		{Device: "dev", Snapshot: "s"},
	} {
		f := dev.Facets()
		for name, call := range map[string]func() error{
			"stat":   func() error { _, err := dev.Stat(ctx, u, primitives.Op{}); return err },
			"read":   func() error { _, err := dev.Read(ctx, u, primitives.Op{}); return err },
			"write":  func() error { _, err := dev.Write(ctx, u, primitives.WriteRequest{}); return err },
			"clone":  func() error { _, err := dev.Clone(ctx, u, vol("b"), primitives.CloneRequest{}); return err },
			"clone'": func() error { _, err := dev.Clone(ctx, vol("b"), u, primitives.CloneRequest{}); return err },
			"delink": func() error { _, err := dev.Delink(ctx, u, primitives.DelinkRequest{}); return err },
			"resize": func() error { _, err := f.Resize.Resize(ctx, u, 1, primitives.Op{}); return err },
			"snapshot": func() error {
				_, err := f.Snapshots.Snapshot(ctx, []primitives.URI{u}, "s", primitives.Op{})
				return err
			},
			"copy": func() error {
				_, err := storage.Copy(ctx, dev, vol("b"), dev, u, storage.CopyRequest{})
				return err
			},
		} {
			wantCode(t, fmt.Sprintf("%s of %v", name, u), call(), primitives.CodeInvalid)
		}
	}
}

func TestWrongRequestsNeverReachTheDriver(t *testing.T) {
	drv := mem.New()
	dev := open(t, drv, nil, storage.Options{})
	if _, err := dev.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	drv.Fault("one", mem.Fault{Err: errors.New("the driver was called")})
	ctx := t.Context()
	write := func(w primitives.WriteRequest) error { _, err := dev.Write(ctx, vol("a"), w); return err }
	for name, tt := range map[string]struct {
		err   error
		field string
	}{
		"size 0":            {write(primitives.WriteRequest{Create: true}), "size"},
		"negative size":     {write(primitives.WriteRequest{Create: true, Size: -1}), "size"},
		"size beyond limit": {write(primitives.WriteRequest{Create: true, Size: 1 << 60}), "size"},
		"foreign format":    {write(primitives.WriteRequest{Create: true, Size: 1, Format: "vhd"}), "format"},
		"resume without id": {write(primitives.WriteRequest{Create: true, Size: 1, Resume: true}), "request id"},
		"unknown property":  {write(primitives.WriteRequest{Create: true, Size: 1, Op: primitives.Op{Props: primitives.Props{"nte": "x"}}}), "properties.nte"},
		"device's property": {write(primitives.WriteRequest{Create: true, Size: 1, Op: primitives.Op{Props: primitives.Props{"capacity": "1G"}}}), "properties.capacity"},
		"negative keep": {func() error {
			_, err := dev.Delink(ctx, vol("a"), primitives.DelinkRequest{Keep: -1})
			return err
		}(), "keep"},
		"odd erase":    {dev.Destroy(ctx, primitives.Tombstone{ID: "t"}, primitives.DestroyRequest{Erase: 9}), "erase"},
		"clone itself": {func() error { _, err := dev.Clone(ctx, vol("a"), vol("a"), primitives.CloneRequest{}); return err }(), "destination"},
		"odd kind": {func() error {
			_, err := dev.List(ctx, primitives.ListRequest{Kinds: []primitives.Kind{9}})
			return err
		}(), "kinds"},
	} {
		e := wantCode(t, name, tt.err, primitives.CodeInvalid)
		if len(e.Problems) != 1 || e.Problems[0].Prop != tt.field {
			t.Errorf("%s: problems = %v, want one of %s", name, e.Problems, tt.field)
		}
	}
}

func TestVolumeStoresWhatItInherits(t *testing.T) {
	drv := mem.New()
	dev := open(t, drv, primitives.Props{"note": "the device's"}, storage.Options{})
	create(t, dev, vol("a"), 4096, nil)
	w, err := dev.Write(t.Context(), vol("b"), primitives.WriteRequest{Create: true, Size: 1, Op: primitives.Op{Props: primitives.Props{"note": "its own"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := dev.Update(primitives.Change{New: primitives.Props{"note": "another"}}); err != nil {
		t.Fatal(err)
	}
	create(t, dev, vol("c"), 4096, nil)
	for name, want := range map[string]string{"a": "the device's", "b": "its own", "c": "another"} {
		o, err := dev.Stat(t.Context(), vol(name), primitives.Op{})
		if err != nil || o.Props["note"] != want {
			t.Errorf("note of %s = %q, %v, want %q", name, o.Props["note"], err, want)
		}
	}
}

func TestUpdateRefusesWhatNeedsAReopen(t *testing.T) {
	dev := open(t, mem.New(), nil, storage.Options{})
	before := dev.Props()
	wantCode(t, "Update of an offline property", dev.Update(primitives.Change{New: primitives.Props{"capacity": "1G"}}), primitives.CodeUnsupported)
	wantCode(t, "Update of an immutable property", dev.Update(primitives.Change{New: primitives.Props{"granule": "512"}}), primitives.CodeInvalid)
	wantCode(t, "Update of an unknown property", dev.Update(primitives.Change{New: primitives.Props{"x": "1"}}), primitives.CodeInvalid)
	if d := cmp.Diff(before, dev.Props()); d != "" {
		t.Errorf("a refused Update changed the properties:\n%s", d)
	}
}

func TestADriverThatIgnoresItsContextBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend {
			return backend{Backend: b, clone: func(context.Context) (primitives.Object, error) {
				<-stuck
				return primitives.Object{Handle: "late"}, nil
			}}
		}}
		dev := open(t, drv, nil, storage.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := primitives.CloneRequest{Op: primitives.Op{ID: "op-1"}}
		start := time.Now()
		_, err := dev.Clone(ctx, vol("a"), vol("b"), r)
		wantCode(t, "Clone", err, primitives.CodeUnavailable)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("Clone took %s, want little more than its deadline", took)
		}

		// The driver still works on it, so nobody may overlap with it …
		_, err = dev.Write(t.Context(), vol("b"), primitives.WriteRequest{Create: true, Size: 1})
		wantBlocker(t, wantCode(t, "Write meanwhile", err, primitives.CodeConflict), primitives.Blocker{Kind: "operation", Name: "op-1"})
		if busy := dev.Busy(); len(busy) != 1 || busy[0].ID != "op-1" {
			t.Errorf("Busy = %v, want the clone", busy)
		}
		if _, err := dev.Stat(t.Context(), vol("a"), primitives.Op{}); primitives.CodeOf(err) != primitives.CodeNotFound {
			t.Errorf("Stat meanwhile = %v, want an answer", err)
		}
		// … and a repeat gets what it comes to.
		close(stuck)
		o, err := dev.Clone(t.Context(), vol("a"), vol("b"), r)
		if err != nil || o.Handle != "late" {
			t.Errorf("the repeat = %q, %v, want the outcome of the first", o.Handle, err)
		}
		synctest.Wait()
		if busy := dev.Busy(); len(busy) > 0 {
			t.Errorf("Busy = %v, want nothing", busy)
		}
	})
}

func TestCallsWithoutADeadlineAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drv := mem.New()
		dev := open(t, drv, nil, storage.Options{CallTimeout: 10 * time.Second, StallTimeout: time.Hour})
		create(t, dev, vol("a"), 4096, nil)
		clear := drv.Fault("one", mem.Fault{Dead: true})
		start := time.Now()
		_, err := dev.Describe(t.Context())
		wantCode(t, "Describe", err, primitives.CodeUnavailable)
		if took := time.Since(start).Round(time.Second); took != 10*time.Second {
			t.Errorf("Describe took %s, want 10s", took)
		}
		start = time.Now()
		_, err = dev.Clone(t.Context(), vol("a"), vol("b"), primitives.CloneRequest{})
		wantCode(t, "Clone", err, primitives.CodeUnavailable)
		if took := time.Since(start).Round(time.Minute); took != time.Hour {
			t.Errorf("Clone took %s, want 1h", took)
		}
		clear()
		if _, err := dev.Clone(t.Context(), vol("a"), vol("b"), primitives.CloneRequest{}); err != nil {
			t.Errorf("Clone of a device that is back = %v", err)
		}
	})
}

func TestProgressKeepsALongCallAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dev *storage.Device
		drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend {
			return slowCopier{b}
		}}
		dev = open(t, drv, nil, storage.Options{StallTimeout: time.Minute})
		if _, err := dev.CopyTo(t.Context(), vol("a"), primitives.CopyTarget{URI: vol("b")}, primitives.Op{}); err != nil {
			t.Errorf("CopyTo = %v, want success after an hour of progress", err)
		}
	})
}

// slowCopier reports twice a minute for an hour.
type slowCopier struct{ primitives.Backend }

func (slowCopier) CopyTo(ctx context.Context, _ primitives.URI, _ primitives.CopyTarget, op primitives.Op) (primitives.Object, error) {
	for range 120 {
		select {
		case <-time.After(30 * time.Second):
			op.Report(primitives.Progress{})
		case <-ctx.Done():
			return primitives.Object{}, ctx.Err()
		}
	}
	return primitives.Object{}, nil
}

func TestAPanicOfADriverIsAnError(t *testing.T) {
	drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend {
		return backend{Backend: b, describe: func(context.Context) (primitives.Description, error) { panic("ouch") }}
	}}
	dev := open(t, drv, nil, storage.Options{})
	_, err := dev.Describe(t.Context())
	wantCode(t, "Describe", err, primitives.CodeInternal)
	if _, err := dev.List(t.Context(), primitives.ListRequest{}); err != nil {
		t.Errorf("List afterwards = %v", err)
	}
}

func TestAReaderHoldsItsObject(t *testing.T) {
	dev := open(t, mem.New(), nil, storage.Options{LockWait: time.Millisecond})
	ctx := t.Context()
	create(t, dev, vol("a"), 4096, nil)
	f := dev.Facets()
	if _, err := f.Snapshots.Snapshot(ctx, []primitives.URI{vol("a")}, "s", primitives.Op{}); err != nil {
		t.Fatal(err)
	}
	ofSnapshot, err := dev.Read(ctx, vol("a").At("s"), primitives.Op{ID: "copying"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Snapshots.Snapshot(ctx, []primitives.URI{vol("a")}, "t", primitives.Op{}); err != nil {
		t.Errorf("Snapshot beside a reader of another snapshot = %v", err)
	}
	if _, err := f.Resize.Resize(ctx, vol("a"), 8192, primitives.Op{}); err != nil {
		t.Errorf("Resize beside a reader of a snapshot = %v", err)
	}
	for name, call := range map[string]func() error{
		"delink of the snapshot": func() error { _, err := dev.Delink(ctx, vol("a").At("s"), primitives.DelinkRequest{}); return err },
		"delink of the volume":   func() error { _, err := dev.Delink(ctx, vol("a"), primitives.DelinkRequest{}); return err },
	} {
		wantBlocker(t, wantCode(t, name, call(), primitives.CodeConflict), primitives.Blocker{Kind: "operation", Name: "copying"})
	}
	if err := ofSnapshot.Close(); err != nil {
		t.Fatal(err)
	}
	ofVolume, err := dev.Read(ctx, vol("a"), primitives.Op{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = dev.Write(ctx, vol("a"), primitives.WriteRequest{})
	wantBlocker(t, wantCode(t, "write", err, primitives.CodeConflict), primitives.Blocker{Kind: "operation", Name: "read of dev/a"})
	if err := ofVolume.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.Delink(ctx, vol("a"), primitives.DelinkRequest{}); err != nil {
		t.Errorf("delink after the readers = %v", err)
	}
}

func TestCallsAfterCloseAreUnavailable(t *testing.T) {
	dev := open(t, mem.New(), nil, storage.Options{})
	ctx := t.Context()
	create(t, dev, vol("a"), 4096, nil)
	r, err := dev.Read(ctx, vol("a"), primitives.Op{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := dev.Write(ctx, vol("b"), primitives.WriteRequest{Create: true, Size: 4096})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, statErr := dev.Stat(ctx, vol("a"), primitives.Op{})
	_, readErr := r.ReadAt(make([]byte, 1), 0)
	_, writeErr := w.WriteAt(make([]byte, 1), 0)
	_, commitErr := w.Commit(ctx)
	var extentsErr error
	for _, extentsErr = range dev.Facets().Delta.Extents(ctx, primitives.DeltaRequest{Target: vol("a")}) {
	}
	for name, err := range map[string]error{"stat": statErr, "read-at": readErr, "write-at": writeErr, "commit": commitErr, "extents": extentsErr} {
		wantCode(t, name, err, primitives.CodeUnavailable)
	}
}

func TestCloseGivesUpOnADriverThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend {
			return backend{Backend: b, describe: func(context.Context) (primitives.Description, error) {
				<-stuck
				return primitives.Description{}, nil
			}}
		}}
		dev := open(t, drv, nil, storage.Options{})
		answered := make(chan error, 1)
		go func() {
			_, err := dev.Describe(t.Context())
			answered <- err
		}()
		synctest.Wait()
		start := time.Now()
		if err := dev.Close(); err != nil || time.Since(start) > time.Second {
			t.Errorf("Close = %v after %s, want success at once", err, time.Since(start))
		}
		wantCode(t, "Describe", <-answered, primitives.CodeUnavailable)
		close(stuck)
	})
}

func TestStatsCountCallsByOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drv := mem.New()
		dev := open(t, drv, nil, storage.Options{})
		drv.Fault("one", mem.Fault{Op: "stat", Delay: time.Second, Times: 1})
		for range 3 {
			_, _ = dev.Stat(t.Context(), vol("a"), primitives.Op{})
		}
		_, _ = dev.Stat(t.Context(), vol(".."), primitives.Op{})
		_, _ = dev.List(t.Context(), primitives.ListRequest{})
		want := []storage.CallStats{
			{Op: "list", Count: 1},
			{Op: "open", Count: 1},
			{Op: "stat", Code: primitives.CodeInvalid, Count: 1},
			{Op: "stat", Code: primitives.CodeNotFound, Count: 3, Total: time.Second, Max: time.Second},
		}
		if d := cmp.Diff(want, dev.Stats()); d != "" {
			t.Errorf("Stats differ (-want +got):\n%s", d)
		}
	})
}
