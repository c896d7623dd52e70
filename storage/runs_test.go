// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

func TestRunsCoverTheRangeAndOnlyZerosAreCalledZero(t *testing.T) {
	size, at, whole := holes()
	d := open(t, mem.New(), nil, storage.Options{})
	create(t, d, vol("a"), size, at)
	for _, u := range []primitives.URI{vol("a"), snapshot(t, d, vol("a"))} {
		for _, c := range []struct{ from, to int64 }{{0, size}, {1, size - 1}, {2 * mib, 4 * mib}, {4 * mib, 6 * mib}, {5, 5}, {size, size}} {
			next, zeros := c.from, int64(0)
			for run := range d.Runs(t.Context(), u, c.from, c.to) {
				if run.Off != next || run.Len <= 0 {
					t.Fatalf("Runs(%s, %d, %d) yields %+v after %d", u.Short(), c.from, c.to, run, next)
				}
				next += run.Len
				if run.Zero {
					zeros += run.Len
					if content := whole[run.Off:next]; !bytes.Equal(content, make([]byte, run.Len)) {
						t.Errorf("Runs(%s) calls %+v zero, but it is not", u.Short(), run)
					}
				}
			}
			if next != c.to {
				t.Errorf("Runs(%s, %d, %d) ends at %d", u.Short(), c.from, c.to, next)
			}
			if c.to-c.from == size && zeros < size/2 {
				t.Errorf("Runs(%s) calls %d of %d bytes zero, want most", u.Short(), zeros, size)
			}
		}
	}
}

func TestRunsAreToBeReadWhereTheDeviceCannotSay(t *testing.T) {
	data := func(off, n int64) primitives.Extent {
		return primitives.Extent{Off: off, Len: n, Kind: primitives.ExtentData}
	}
	read := func(off, n int64) storage.Run { return storage.Run{Off: off, Len: n} }
	zero := func(off, n int64) storage.Run { return storage.Run{Off: off, Len: n, Zero: true} }
	for sentence, c := range map[string]struct {
		told oddDelta
		want []storage.Run
	}{
		"it says all":                     {oddDelta{data(mib, mib)}, []storage.Run{zero(0, mib), read(mib, mib), zero(2*mib, 2*mib)}},
		"it says nothing is there":        {nil, []storage.Run{zero(0, 4*mib)}},
		"it cannot say":                   {oddDelta{primitives.CodeNoDelta}, []storage.Run{read(0, 4*mib)}},
		"it stops saying":                 {oddDelta{data(mib, mib), errors.New("broken")}, []storage.Run{zero(0, mib), read(mib, mib), read(2*mib, 2*mib)}},
		"it says what cannot be":          {oddDelta{data(mib, mib), data(0, mib)}, []storage.Run{zero(0, mib), read(mib, mib), read(2*mib, 2*mib)}},
		"it says what was not asked for":  {oddDelta{data(3*mib, 2*mib)}, []storage.Run{read(0, 4*mib)}},
		"it tells of zeros by themselves": {oddDelta{primitives.Extent{Len: 4 * mib, Kind: primitives.ExtentZero}}, []storage.Run{zero(0, 4*mib)}},
	} {
		t.Run(sentence, func(t *testing.T) {
			drv := broken{Driver: mem.New(), wrap: func(b primitives.Backend) primitives.Backend { return backend{Backend: b, delta: c.told} }}
			d := open(t, drv, nil, storage.Options{})
			create(t, d, vol("a"), 4*mib, nil)
			var got []storage.Run
			for run := range d.Runs(t.Context(), snapshot(t, d, vol("a")), 0, 4*mib) {
				got = append(got, run)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Runs (-want +got):\n%s", diff)
			}
		})
	}
}

// A guest may fill a hole after it was told of.
func TestRunsOfAVolumeInUseAreToBeRead(t *testing.T) {
	d := mapped(t, mem.New(), storage.Options{})
	create(t, d, vol("a"), 4*mib, nil)
	m, err := d.Facets().Map.Map(t.Context(), vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "disk"})
	if err == nil {
		_, err = d.Facets().Map.Activate(t.Context(), m.ID, primitives.Op{})
	}
	if err != nil {
		t.Fatal(err)
	}
	for run := range d.Runs(t.Context(), vol("a"), 0, 4*mib) {
		if run.Zero {
			t.Errorf("Runs yields %+v of a volume that a guest writes to", run)
		}
	}
}
