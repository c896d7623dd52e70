// SPDX-License-Identifier: Apache-2.0

package mem_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/mem"
)

func code(t *testing.T, what string, err error, want primitives.Code) {
	t.Helper()
	if primitives.CodeOf(err) != want {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
}

func TestFaultStrikesTheCallsItNames(t *testing.T) {
	d := mem.New()
	b := open(t, d, nil)
	odd := errors.New("odd")
	clear := d.Fault("one", mem.Fault{Op: "stat", Skip: 1, Times: 2, Err: odd})
	d.Fault("two", mem.Fault{Err: odd})
	for i, want := range []error{nil, odd, odd, nil} {
		_, err := b.Stat(t.Context(), uri(t, "dev/a"), primitives.Op{})
		if struck := errors.Is(err, odd); struck != (want != nil) {
			t.Errorf("stat %d = %v, want the fault to be %v", i, err, want)
		}
	}
	clear()
	clear()
	if _, err := b.List(t.Context(), primitives.ListRequest{}); err != nil {
		t.Errorf("list = %v, want success", err)
	}
}

func TestFaultAfterwardsLosesOnlyTheAnswer(t *testing.T) {
	d := mem.New()
	b := open(t, d, nil)
	u := uri(t, "dev/a")
	create(t, b, u, 8192, pattern(8192, 1))
	d.Fault("one", mem.Fault{Op: "clone", Point: mem.After, Times: 1, Err: primitives.CodeUnavailable})
	r := primitives.CloneRequest{Op: primitives.Op{ID: "x"}}
	_, err := b.Clone(t.Context(), u, uri(t, "dev/b"), r)
	code(t, "the clone whose answer is lost", err, primitives.CodeUnavailable)
	made, err := b.Stat(t.Context(), uri(t, "dev/b"), primitives.Op{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Clone(t.Context(), u, uri(t, "dev/b"), r)
	if err != nil || again.Handle != made.Handle {
		t.Errorf("the repeat = %q, %v, want %q", again.Handle, err, made.Handle)
	}
}

func TestDelayEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := mem.New()
		b := open(t, d, nil)
		d.Fault("one", mem.Fault{Op: "describe", Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := b.Describe(ctx)
		code(t, "describe", err, primitives.CodeUnavailable)
		if took := time.Since(start); took != time.Minute {
			t.Errorf("describe took %s, want a minute", took)
		}
		if _, err := b.Describe(t.Context()); err != nil || time.Since(start) != time.Hour+time.Minute {
			t.Errorf("describe without a deadline = %v after %s, want success after an hour more", err, time.Since(start))
		}
	})
}

func TestAFullStoreTakesNothingAndGivesSpaceBack(t *testing.T) {
	const chunk = 64 << 10
	b := open(t, mem.New(), primitives.Props{"capacity": "131072"})
	w, err := b.Write(t.Context(), uri(t, "dev/a"), primitives.WriteRequest{Create: true, Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(pattern(2*chunk, 1), 0); err != nil {
		t.Fatal(err)
	}
	_, err = w.WriteAt([]byte("x"), 2*chunk)
	code(t, "write to a full store", err, primitives.CodeNoSpace)
	if _, err := w.WriteAt([]byte("y"), 0); err != nil {
		t.Errorf("write to space that is taken already = %v", err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	desc, err := b.Describe(t.Context())
	if err != nil || desc.Total != 2*chunk || desc.Free != 2*chunk {
		t.Errorf("describe = %d of %d free, %v, want all of it", desc.Free, desc.Total, err)
	}
}

func TestSharedBytesTakeSpaceOnce(t *testing.T) {
	const chunk = 64 << 10
	b := open(t, mem.New(), primitives.Props{"capacity": "262144"})
	u := uri(t, "dev/a")
	create(t, b, u, 2*chunk, pattern(2*chunk, 1))
	for _, name := range []string{"dev/b", "dev/c"} {
		if _, err := b.Clone(t.Context(), u, uri(t, name), primitives.CloneRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	free := func() int64 {
		desc, err := b.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return desc.Free
	}
	if got := free(); got != 2*chunk {
		t.Errorf("free = %d beside two clones, want %d", got, 2*chunk)
	}
	for _, name := range []string{"dev/a", "dev/b", "dev/c"} {
		dead, err := b.Delink(t.Context(), uri(t, name), primitives.DelinkRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Destroy(t.Context(), dead, primitives.DestroyRequest{Erase: primitives.EraseZero}); err != nil {
			t.Fatal(err)
		}
	}
	if got := free(); got != 4*chunk {
		t.Errorf("free = %d after all was destroyed, want %d", got, 4*chunk)
	}
}

func TestAStoreWithATokenIsClosedToOthers(t *testing.T) {
	d := mem.New()
	with := func(token string) error {
		o := primitives.OpenRequest{Name: "dev", Props: primitives.Props{"store": "one"}}
		if token != "" {
			o.Secrets = primitives.NewSecrets(map[string][]byte{"token": []byte(token)})
		}
		b, err := d.Open(t.Context(), o)
		if err == nil {
			t.Cleanup(func() { _ = b.Close() })
		}
		return err
	}
	if err := with("right"); err != nil {
		t.Fatal(err)
	}
	code(t, "open without the token", with(""), primitives.CodeDenied)
	code(t, "open with another", with("wrong"), primitives.CodeDenied)
	if err := with("right"); err != nil {
		t.Errorf("open with the token = %v", err)
	}
	problems := d.Validate(t.Context(), primitives.Change{Scope: primitives.ScopeDevice, New: primitives.Props{"store": "one"}})
	if len(problems) != 1 || !problems[0].Fatal || problems[0].Prop != "token" {
		t.Errorf("Validate without the token = %v, want that problem", problems)
	}
}

func TestAVolumeWithSnapshotsIsKeptWherePolicySaysSo(t *testing.T) {
	b := open(t, mem.New(), primitives.Props{"delete-with-snapshots": "refused"})
	u := uri(t, "dev/a")
	create(t, b, u, 8192, nil)
	if _, err := b.Facets().Snapshots.Snapshot(t.Context(), []primitives.URI{u}, "s", primitives.Op{}); err != nil {
		t.Fatal(err)
	}
	_, err := b.Delink(t.Context(), u, primitives.DelinkRequest{})
	code(t, "delink of a volume with a snapshot", err, primitives.CodeDependents)
	if _, err := b.Delink(t.Context(), u.At("s"), primitives.DelinkRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Delink(t.Context(), u, primitives.DelinkRequest{}); err != nil {
		t.Errorf("delink after its snapshot = %v", err)
	}
}

func TestASourceIsKeptWhileItsClonesNeedIt(t *testing.T) {
	b := open(t, mem.New(), primitives.Props{"clones": "dependent"})
	u := uri(t, "dev/a")
	create(t, b, u, 8192, pattern(8192, 1))
	for name, full := range map[string]bool{"dev/linked": false, "dev/full": true} {
		if _, err := b.Clone(t.Context(), u, uri(t, name), primitives.CloneRequest{Full: full}); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := b.Stat(t.Context(), u, primitives.Op{}); err != nil || o.Dependents != 1 {
		t.Errorf("dependents = %d, %v, want the linked clone", o.Dependents, err)
	}
	bury := func(u primitives.URI) primitives.Tombstone {
		t.Helper()
		dead, err := b.Delink(t.Context(), u, primitives.DelinkRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return dead
	}
	source := bury(u)
	var e *primitives.Error
	err := b.Destroy(t.Context(), source, primitives.DestroyRequest{})
	code(t, "destroy of the source", err, primitives.CodeDependents)
	want := primitives.Blocker{Kind: "volume", Name: "dev/linked"}
	if !errors.As(err, &e) || len(e.Blocked) != 1 || e.Blocked[0] != want {
		t.Errorf("destroy of the source = %v, want the blocker %v", err, want)
	}
	if err := b.Destroy(t.Context(), bury(uri(t, "dev/linked")), primitives.DestroyRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Destroy(t.Context(), source, primitives.DestroyRequest{}); err != nil {
		t.Errorf("destroy of the source after its clone = %v", err)
	}
}

func TestACrashReleasesWhatAFaultHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := mem.New()
		b := open(t, d, nil)
		r, err := b.Write(t.Context(), uri(t, "dev/a"), primitives.WriteRequest{Create: true, Size: 8192})
		if err != nil {
			t.Fatal(err)
		}
		d.Fault("one", mem.Fault{Dead: true})
		held := make(chan error, 2)
		go func() { _, err := r.WriteAt([]byte("x"), 0); held <- err }()
		go func() { _, err := b.Describe(context.Background()); held <- err }()
		synctest.Wait()
		d.Crash("one")
		for range 2 {
			code(t, "the held call", <-held, primitives.CodeUnavailable)
		}
	})
}
