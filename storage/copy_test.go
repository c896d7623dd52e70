// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

const mib = 1 << 20

// holes is a volume of 10 MiB that is mostly zero, odd at the end.
func holes() (size int64, at map[int64][]byte, whole []byte) {
	at = map[int64][]byte{0: pattern(100, 1), 3*mib - 50: pattern(100, 2), 7 * mib: pattern(mib+5, 3), 10*mib - 4096: pattern(4096, 4)}
	whole = make([]byte, 10*mib)
	for off, p := range at {
		copy(whole[off:], p)
	}
	return 10 * mib, at, whole
}

// pair is two devices on two stores of one driver.
func pair(t *testing.T, srcProps, dstProps primitives.Props) (src, dst *storage.Device, drv *mem.Driver) {
	t.Helper()
	drv = mem.New()
	if dstProps == nil {
		dstProps = primitives.Props{}
	}
	src = open(t, drv, srcProps, storage.Options{})
	r := request(dstProps)
	r.Name, r.Props["store"] = "far", "two"
	dst, err := storage.Open(t.Context(), drv, r, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dst.Close() })
	return src, dst, drv
}

func far(name string) primitives.URI { return primitives.URI{Device: "far", Volume: name} }

func snapshot(t *testing.T, d primitives.Backend, u primitives.URI) primitives.URI {
	t.Helper()
	if _, err := d.Facets().Snapshots.Snapshot(t.Context(), []primitives.URI{u}, "s", primitives.Op{}); err != nil {
		t.Fatal(err)
	}
	return u.At("s")
}

func calls(d *storage.Device, op string) (n uint64) {
	for _, s := range d.Stats() {
		if s.Op == op && s.Code == 0 {
			n += s.Count
		}
	}
	return n
}

// Cases: T121
func TestCopyIsEqualAndSparse(t *testing.T) {
	size, at, whole := holes()
	for name, tt := range map[string]struct {
		src          primitives.Props
		fromSnapshot bool
		fewReads     bool
	}{
		"a snapshot by extents":        {nil, true, true},
		"a snapshot without a delta":   {primitives.Props{"facets": "snapshots"}, true, false},
		"a volume, which is looked at": {nil, false, true},
		"a volume without a delta":     {primitives.Props{"facets": "none"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst, _ := pair(t, tt.src, nil)
			create(t, src, vol("a"), size, at)
			from := vol("a")
			if tt.fromSnapshot {
				from = snapshot(t, src, from)
			}
			var mu sync.Mutex
			var seen []primitives.Progress
			report := func(p primitives.Progress) { mu.Lock(); seen = append(seen, p); mu.Unlock() }
			o, err := storage.Copy(t.Context(), src, from, dst, far("b"), storage.CopyRequest{Op: primitives.Op{ID: "c", Report: report}})
			if err != nil {
				t.Fatal(err)
			}
			wantContent(t, dst, far("b"), whole)
			if o.Size != size || o.Used > 2*mib {
				t.Errorf("copy has %d bytes and takes %d, want %d and little", o.Size, o.Used, size)
			}
			if last := seen[len(seen)-1]; last.Done != size || last.Total != size {
				t.Errorf("last progress = %+v, want all of %d", last, size)
			}
			if !slices.IsSortedFunc(seen, func(a, b primitives.Progress) int { return int(a.Done - b.Done) }) {
				t.Errorf("progress goes back: %v", seen)
			}
			reads := calls(src, "read-at")
			if few := reads < 8; few != tt.fewReads {
				t.Errorf("the source was read %d times, want few to be %t", reads, tt.fewReads)
			}
		})
	}
}

func TestCopyToALargerVolumeHasAZeroTail(t *testing.T) {
	src, dst, _ := pair(t, nil, nil)
	data := pattern(mib, 9)
	create(t, src, vol("a"), mib, map[int64][]byte{0: data})
	if _, err := storage.Copy(t.Context(), src, vol("a"), dst, far("b"), storage.CopyRequest{Size: 2*mib + 1}); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 2*mib+4096)
	copy(want, data)
	wantContent(t, dst, far("b"), want)
	_, err := storage.Copy(t.Context(), src, vol("a"), dst, far("c"), storage.CopyRequest{Size: mib - 1})
	wantCode(t, "Copy to a smaller volume", err, primitives.CodeInvalid)
	_, err = storage.Copy(t.Context(), src, vol("a"), src, vol("a"), storage.CopyRequest{})
	wantCode(t, "Copy onto itself", err, primitives.CodeInvalid)
	_, err = storage.Copy(t.Context(), src, vol("a"), dst, far("b"), storage.CopyRequest{})
	wantCode(t, "Copy to a name that is taken", err, primitives.CodeExists)
}

func TestCopyTakesTheOfferOfTheDevice(t *testing.T) {
	src, dst, _ := pair(t, primitives.Props{"offload": "true"}, nil)
	size, at, whole := holes()
	create(t, src, vol("a"), size, at)
	r := storage.CopyRequest{Op: primitives.Op{ID: "c"}}
	first, err := storage.Copy(t.Context(), src, vol("a"), dst, far("b"), r)
	if err != nil {
		t.Fatal(err)
	}
	wantContent(t, dst, far("b"), whole)
	if calls(src, "copy-to") != 1 || calls(dst, "write") != 0 {
		t.Errorf("stats = %v and %v, want an offload and no stream", src.Stats(), dst.Stats())
	}
	r.Resume = true
	again, err := storage.Copy(t.Context(), src, vol("a"), dst, far("b"), r)
	if err != nil || again.Handle != first.Handle {
		t.Errorf("the repeat = %q, %v, want %q", again.Handle, err, first.Handle)
	}
}

func TestARefusedOfferIsStreamed(t *testing.T) {
	src, dst, drv := pair(t, primitives.Props{"offload": "true"}, nil)
	create(t, src, vol("a"), mib, map[int64][]byte{0: pattern(mib, 1)})
	drv.Fault("one", mem.Fault{Op: "copy-to", Err: primitives.CodeNoOffload})
	if _, err := storage.Copy(t.Context(), src, vol("a"), dst, far("b"), storage.CopyRequest{Op: primitives.Op{ID: "c"}}); err != nil {
		t.Fatal(err)
	}
	wantContent(t, dst, far("b"), pattern(mib, 1))
}

func TestAFailedCopyLeavesNothing(t *testing.T) {
	size, at, whole := holes()
	for name, f := range map[string]struct {
		store string
		fault mem.Fault
		want  primitives.Code
	}{
		"no space for the target": {"two", mem.Fault{Op: "write-at", Skip: 1, Err: errors.New("quota")}, primitives.CodeInternal},
		// Cases: T124
		"source fails": {"one", mem.Fault{Op: "read-at", Skip: 1, Err: primitives.CodeUnavailable}, primitives.CodeUnavailable},
		// Cases: T125
		"commit fails": {"two", mem.Fault{Op: "commit", Err: primitives.CodeNoSpace}, primitives.CodeNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst, drv := pair(t, nil, nil)
			create(t, src, vol("a"), size, at)
			clear := drv.Fault(f.store, f.fault)
			r := storage.CopyRequest{Op: primitives.Op{ID: "c"}}
			_, err := storage.Copy(t.Context(), src, vol("a"), dst, far("b"), r)
			wantCode(t, "Copy", err, f.want)
			_, err = dst.Stat(t.Context(), far("b"), primitives.Op{})
			wantCode(t, "Stat of the target", err, primitives.CodeNotFound)
			if busy := append(src.Busy(), dst.Busy()...); len(busy) > 0 {
				t.Errorf("Busy = %v, want nothing", busy)
			}
			clear()
			if _, err := storage.Copy(t.Context(), src, vol("a"), dst, far("b"), r); err != nil {
				t.Fatal(err)
			}
			wantContent(t, dst, far("b"), whole)
		})
	}
}

func TestACancelledCopyReturnsEvenIfTheDriverDoesNot(t *testing.T) {
	for _, side := range []string{"one", "two"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, dst, drv := pair(t, nil, nil)
				size, at, _ := holes()
				create(t, src, vol("a"), size, at)
				clear := drv.Fault(side, mem.Fault{Op: map[string]string{"one": "read-at", "two": "write-at"}[side], Dead: true})
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start := time.Now()
				_, err := storage.Copy(ctx, src, vol("a"), dst, far("b"), storage.CopyRequest{Op: primitives.Op{ID: "c"}})
				wantCode(t, "Copy", err, primitives.CodeUnavailable)
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("Copy took %s, want little more than its deadline", took)
				}
				clear()
				synctest.Wait()
				_, err = dst.Stat(t.Context(), far("b"), primitives.Op{})
				wantCode(t, "Stat of the target", err, primitives.CodeNotFound)
				if busy := append(src.Busy(), dst.Busy()...); len(busy) > 0 {
					t.Errorf("Busy = %v, want nothing", busy)
				}
			})
		})
	}
}

// Cases: T126
func TestACopyGoesOnAfterACrash(t *testing.T) {
	src, dst, drv := pair(t, nil, nil)
	size, at, whole := holes()
	create(t, src, vol("a"), size, at)
	from := snapshot(t, src, vol("a"))
	r := storage.CopyRequest{Op: primitives.Op{ID: "c"}}
	drv.Fault("two", mem.Fault{Op: "write-at", Skip: 2, Times: 1, Crash: true})
	_, err := storage.Copy(t.Context(), src, from, dst, far("b"), r)
	wantCode(t, "Copy in a crash", err, primitives.CodeUnavailable)

	req := request(primitives.Props{"store": "two"})
	req.Name = "far"
	again, err := storage.Open(t.Context(), drv, req, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	o, err := again.Stat(t.Context(), far("b"), primitives.Op{})
	if err != nil || o.State != primitives.Incomplete {
		t.Fatalf("Stat after the crash = %v, %v, want incomplete", o.State, err)
	}
	_, err = storage.Copy(t.Context(), src, from, again, far("b"), r)
	wantCode(t, "Copy without Resume", err, primitives.CodeIncomplete)
	_, err = storage.Copy(t.Context(), src, from, again, far("b"), storage.CopyRequest{Op: primitives.Op{ID: "d"}, Resume: true})
	wantCode(t, "Copy by another request", err, primitives.CodeConflict)
	r.Resume = true
	if _, err := storage.Copy(t.Context(), src, from, again, far("b"), r); err != nil {
		t.Fatal(err)
	}
	wantContent(t, again, far("b"), whole)
}

// Cases: T123
func TestResumeTrustsNothingThatWasWritten(t *testing.T) {
	src, dst, drv := pair(t, nil, nil)
	create(t, src, vol("a"), 2*mib, map[int64][]byte{0: pattern(10, 1)})
	w, err := dst.Write(t.Context(), far("b"), primitives.WriteRequest{Op: primitives.Op{ID: "c"}, Create: true, Size: 2 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(bytes.Repeat([]byte("x"), 2*mib), 0); err != nil {
		t.Fatal(err)
	}
	drv.Crash("two")
	req := request(primitives.Props{"store": "two"})
	req.Name = "far"
	again, err := storage.Open(t.Context(), drv, req, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if _, err := storage.Copy(t.Context(), src, vol("a"), again, far("b"), storage.CopyRequest{Op: primitives.Op{ID: "c"}, Resume: true}); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 2*mib)
	copy(want, pattern(10, 1))
	wantContent(t, again, far("b"), want)
}

// oddDelta yields what a test says.
type oddDelta []any

func (d oddDelta) Extents(context.Context, primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
	return func(yield func(primitives.Extent, error) bool) {
		for _, x := range d {
			e, _ := x.(primitives.Extent)
			err, _ := x.(error)
			if !yield(e, err) {
				return
			}
		}
	}
}

func TestCopySurvivesAListingThatBreaksOff(t *testing.T) {
	size, at, whole := holes()
	data := func(off, n int64) primitives.Extent {
		return primitives.Extent{Off: off, Len: n, Kind: primitives.ExtentData}
	}
	for name, d := range map[string]oddDelta{
		"at once":             {primitives.CodeNoDelta},
		"after some":          {data(0, 4096), data(3*mib-4096, 8192), errors.New("broken")},
		"for going backwards": {data(0, 4096), data(0, 4096)},
		"for an empty extent": {data(0, 0)},
		"for an odd kind":     {primitives.Extent{Len: 1, Kind: 9}},
	} {
		t.Run(name, func(t *testing.T) {
			drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend { return backend{Backend: b, delta: d} }}
			src := open(t, drv, nil, storage.Options{})
			create(t, src, vol("a"), size, at)
			from := snapshot(t, src, vol("a"))
			if _, err := storage.Copy(t.Context(), src, from, src, vol("b"), storage.CopyRequest{}); err != nil {
				t.Fatal(err)
			}
			wantContent(t, src, vol("b"), whole)
		})
	}
}

// shortReader ends before its size says.
type shortReader struct{ primitives.Reader }

func (s shortReader) Size() int64 { return s.Reader.Size() + mib }

// Cases: T120
func TestCopyOfASourceThatEndsEarlyFails(t *testing.T) {
	drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend {
		return backend{Backend: b, read: func(r primitives.Reader) primitives.Reader { return shortReader{r} }}
	}}
	src := open(t, drv, primitives.Props{"facets": "none"}, storage.Options{})
	create(t, src, vol("a"), mib, nil)
	_, err := storage.Copy(t.Context(), src, vol("a"), src, vol("b"), storage.CopyRequest{})
	if err == nil {
		t.Fatal("Copy succeeded, want an error")
	}
	_, err = src.Stat(t.Context(), vol("b"), primitives.Op{})
	wantCode(t, "Stat of the target", err, primitives.CodeNotFound)
}

// bounded counts the bytes that are being read at once.
type bounded struct {
	primitives.Reader
	now, most *atomic.Int64
}

func (b bounded) ReadAt(p []byte, off int64) (int, error) {
	n := b.now.Add(int64(len(p)))
	defer b.now.Add(-int64(len(p)))
	for m := b.most.Load(); n > m && !b.most.CompareAndSwap(m, n); m = b.most.Load() {
	}
	return b.Reader.ReadAt(p, off)
}

func TestCopyBuffersLittle(t *testing.T) {
	var now, most atomic.Int64
	drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend {
		return backend{Backend: b, read: func(r primitives.Reader) primitives.Reader { return bounded{r, &now, &most} }}
	}}
	src := open(t, drv, primitives.Props{"facets": "none"}, storage.Options{})
	create(t, src, vol("a"), 64*mib, map[int64][]byte{0: pattern(8*mib, 1)})
	if _, err := storage.Copy(t.Context(), src, vol("a"), src, vol("b"), storage.CopyRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := most.Load(); got > 8*mib {
		t.Errorf("%d bytes were in flight at once, want at most %d", got, 8*mib)
	}
}

func TestManyCallersDisturbNobody(t *testing.T) {
	dev := open(t, mem.New(), nil, storage.Options{LockWait: time.Minute})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			u := vol(fmt.Sprint(i % 8))
			w, err := dev.Write(t.Context(), u, primitives.WriteRequest{Create: true, Size: 1 << 16})
			if err != nil {
				if primitives.CodeOf(err) != primitives.CodeExists {
					t.Errorf("Write of %s = %v", u.Short(), err)
				}
				return
			}
			if _, err := w.WriteAt(pattern(1<<16, byte(i)), 0); err != nil {
				t.Error(err)
			}
			if _, err := w.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if busy := dev.Busy(); len(busy) > 0 {
		t.Errorf("Busy = %v, want nothing", busy)
	}
	page, err := dev.List(t.Context(), primitives.ListRequest{})
	if err != nil || len(page.Objects) != 8 {
		t.Errorf("List = %d objects, %v, want 8", len(page.Objects), err)
	}
}
