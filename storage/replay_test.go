// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

// counting counts clones and lets each take a second.
func counting(n *int, mu *sync.Mutex) broken {
	return broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend {
		return backend{Backend: b, clone: func(ctx context.Context) (primitives.Object, error) {
			mu.Lock()
			*n++
			mu.Unlock()
			select {
			case <-time.After(time.Second):
				return primitives.Object{Handle: "made"}, nil
			case <-ctx.Done():
				return primitives.Object{}, ctx.Err()
			}
		}}
	}}
}

func withID(id string) primitives.CloneRequest {
	return primitives.CloneRequest{Op: primitives.Op{ID: id}}
}

func TestARepeatIsAnsweredWithoutTheDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		dev := open(t, counting(&n, &mu), nil, storage.Options{})
		for range 3 {
			if o, err := dev.Clone(t.Context(), vol("a"), vol("b"), withID("x")); err != nil || o.Handle != "made" {
				t.Fatalf("Clone = %q, %v", o.Handle, err)
			}
		}
		if n != 1 {
			t.Errorf("the driver was called %d times, want once", n)
		}
		_, err := dev.Clone(t.Context(), vol("a"), vol("c"), withID("x"))
		e := wantCode(t, "the id for something else", err, primitives.CodeConflict)
		wantBlocker(t, e, primitives.Blocker{Kind: "operation", Name: "x"})
		if n != 1 {
			t.Errorf("the driver was called for a refused request")
		}
	})
}

func TestRepeatsJoinARequestUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		dev := open(t, counting(&n, &mu), nil, storage.Options{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if o, err := dev.Clone(t.Context(), vol("a"), vol("b"), withID("x")); err != nil || o.Handle != "made" {
					t.Errorf("Clone = %q, %v", o.Handle, err)
				}
			})
		}
		wg.Wait()
		if n != 1 {
			t.Errorf("the driver was called %d times, want once", n)
		}
	})
}

func TestACancelledRequestIsNotReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		dev := open(t, counting(&n, &mu), nil, storage.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		first, joined := make(chan error, 1), make(chan error, 1)
		go func() { _, err := dev.Clone(ctx, vol("a"), vol("b"), withID("x")); first <- err }()
		synctest.Wait()
		go func() { _, err := dev.Clone(t.Context(), vol("a"), vol("b"), withID("x")); joined <- err }()
		synctest.Wait()
		cancel()
		wantCode(t, "the cancelled one", <-first, primitives.CodeCancelled)
		if err := <-joined; err != nil {
			t.Errorf("the one that waited for it = %v, want success by a run of its own", err)
		}
		if n != 2 {
			t.Errorf("the driver was called %d times, want twice", n)
		}
	})
}

func TestARefusalIsReplayedOnlyIfItLasts(t *testing.T) {
	drv := mem.New()
	dev := open(t, drv, nil, storage.Options{})
	ctx := t.Context()
	_, err := dev.Clone(ctx, vol("a"), vol("b"), withID("x"))
	wantCode(t, "Clone of what is not there", err, primitives.CodeNotFound)
	create(t, dev, vol("a"), 4096, nil)
	if _, err := dev.Clone(ctx, vol("a"), vol("b"), withID("x")); err != nil {
		t.Errorf("the repeat after it came = %v", err)
	}
	_, err = dev.Clone(ctx, vol("a"), vol("c"), primitives.CloneRequest{Op: primitives.Op{ID: "y"}, Size: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	small := primitives.CloneRequest{Op: primitives.Op{ID: "z"}, Size: 4096}
	for range 2 {
		_, err = dev.Clone(ctx, vol("c"), vol("d"), small)
		wantCode(t, "Clone to less", err, primitives.CodeInvalid)
	}
}

func TestOldRequestsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n := 0
		dev := open(t, counting(&n, &mu), nil, storage.Options{Remember: 2})
		for _, id := range []string{"1", "2", "1", "3", "1", "2"} {
			if _, err := dev.Clone(t.Context(), vol("a"), vol("b"), withID(id)); err != nil {
				t.Fatal(err)
			}
		}
		if n != 4 { // 1, 2, 3, and 2 again, which was the one used least recently
			t.Errorf("the driver was called %d times, want 4", n)
		}
	})
}

func TestAWriteIsReplayedByItsCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := open(t, mem.New(), nil, storage.Options{})
		ctx := t.Context()
		req := primitives.WriteRequest{Op: primitives.Op{ID: "x"}, Create: true, Size: 4096}
		w, err := dev.Write(ctx, vol("a"), req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = dev.Write(ctx, vol("a"), req)
		wantBlocker(t, wantCode(t, "the repeat under way", err, primitives.CodeConflict), primitives.Blocker{Kind: "operation", Name: "x"})
		if err := w.Abort(ctx); err != nil {
			t.Fatal(err)
		}
		if w, err = dev.Write(ctx, vol("a"), req); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt([]byte("first"), 0); err != nil {
			t.Fatal(err)
		}
		made, err := w.Commit(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if w, err = dev.Write(ctx, vol("a"), req); err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt([]byte("again"), 0); err != nil {
			t.Fatal(err)
		}
		again, err := w.Commit(ctx)
		if err != nil || again.Handle != made.Handle {
			t.Errorf("Commit of the repeat = %q, %v, want %q", again.Handle, err, made.Handle)
		}
		if got := string(content(t, dev, vol("a"))[:5]); got != "first" {
			t.Errorf("content = %q, want what was committed first", got)
		}
		req.Size = 8192
		_, err = dev.Write(ctx, vol("a"), req)
		wantCode(t, "the id with another size", err, primitives.CodeConflict)
	})
}
