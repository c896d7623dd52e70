// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/internal/nbd"
)

const hole = nbd.StateHole | nbd.StateZero

func TestExtentsCoverTheRangeInOrderAndToldZeroesAreZeroes(t *testing.T) {
	eachPeer(t, []string{nbd.BaseAllocation}, func(t *testing.T, c *nbd.Client) {
		if len(c.MetaContexts()) == 0 {
			return // simple replies: TestExtentsWithoutTheContextAreUnsupported
		}
		want := make([]byte, diskSize)
		for _, at := range []int64{0, 3 * mib, 10 * mib, diskSize - 128*kib} {
			copy(want[at:], pattern(2, at, 128*kib))
			mustWrite(t, c, at, want[at:at+128*kib])
		}
		end := int64(1000)
		var zeroes int64
		for _, e := range mustExtents(t, c, nbd.BaseAllocation, 1000, diskSize-2000) {
			if e.Offset != end || e.Length <= 0 {
				t.Fatalf("extent %+v begins where the last did not end, at %d", e, end)
			}
			end = e.End()
			if e.Flags&nbd.StateZero != 0 {
				zeroes += e.Length
				differs(t, "zero extent", e.Offset, make([]byte, e.Length), want[e.Offset:end])
			}
		}
		if end != diskSize-1000 {
			t.Errorf("extents end at %d, want %d", end, diskSize-1000)
		}
		if zeroes < diskSize-2*mib {
			t.Errorf("extents tell %d bytes of zeroes, want all but 2 MiB at least", zeroes)
		}
	})
}

func TestQcow2HolesAreFoundExactly(t *testing.T) {
	c := dial(t, qemuNBD(t, "-f", "qcow2", image(t, "qcow2", 64*mib)), nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
	mustWrite(t, c, mib, pattern(1, mib, 2*mib))
	if err := c.WriteZeroes(t.Context(), 2*mib, mib/2, nbd.NoHole); err != nil {
		t.Fatal(err)
	}
	want := []nbd.Extent{
		{Offset: 0, Length: mib, Flags: hole},
		{Offset: mib, Length: mib},
		{Offset: 2 * mib, Length: mib / 2, Flags: hole},
		{Offset: 2*mib + mib/2, Length: mib / 2},
		{Offset: 3 * mib, Length: 61 * mib, Flags: hole},
	}
	if diff := cmp.Diff(want, mustExtents(t, c, nbd.BaseAllocation, 0, 64*mib)); diff != "" {
		t.Errorf("extents (-want +got):\n%s", diff)
	}
}

func TestExtentsOfAHugeEmptyDiskAreOne(t *testing.T) {
	const huge = 1 << 44 // 16 TiB: more than one request can ask for
	c := dial(t, nbdkit(t, "null", "16T"), nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
	want := []nbd.Extent{{Offset: 0, Length: huge, Flags: hole}}
	if diff := cmp.Diff(want, mustExtents(t, c, nbd.BaseAllocation, 0, huge)); diff != "" {
		t.Errorf("extents (-want +got):\n%s", diff)
	}
	differs(t, "null disk", huge-mib, mustRead(t, c, huge-mib, mib), make([]byte, mib))
}

func TestManyExtentsAreAllFound(t *testing.T) {
	// 4,096 data pieces and as many holes, at least two replies of the server.
	c := dial(t, nbdkit(t, "sparse-random", "1G", "percent=20", "runlength=65536", "seed=1"), nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
	extents := mustExtents(t, c, nbd.BaseAllocation, 0, c.Size())
	if len(extents) < 1000 {
		t.Errorf("extents = %d, want thousands", len(extents))
	}
	for i, e := range extents {
		if i%37 != 0 {
			continue
		}
		got := mustRead(t, c, e.Offset, int(min(e.Length, mib)))
		isZero := !slices.ContainsFunc(got, func(b byte) bool { return b != 0 })
		if told := e.Flags&nbd.StateZero != 0; told != isZero {
			t.Errorf("extent %+v: zeroes = %v", e, isZero)
		}
	}
}

func TestDirtyBitmapTellsWhatChanged(t *testing.T) {
	path := image(t, "qcow2", 64*mib)
	run(t, "qemu-img", "bitmap", "--add", "-g", "64k", path, "b0")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write 1M 64k", "-c", "write 10M 100k", path)
	p := qemuNBD(t, "--read-only", "-f", "qcow2", "-B", "b0", "-A", path)
	const bitmap = "qemu:dirty-bitmap:b0"

	names, err := nbd.ListMetaContexts(t.Context(), "unix", p.socket, "", "qemu:dirty-bitmap:")
	if err != nil || !slices.Equal(names, []string{bitmap}) {
		t.Errorf("ListMetaContexts = %v, %v, want %s", names, err, bitmap)
	}
	wanted := []string{nbd.BaseAllocation, "qemu:allocation-depth", bitmap}
	c := dial(t, p, nbd.Options{MetaContexts: append([]string{"qemu:dirty-bitmap:nonesuch"}, wanted...)})
	if diff := cmp.Diff(wanted, c.MetaContexts()); diff != "" {
		t.Errorf("granted contexts (-want +got):\n%s", diff)
	}
	want := []nbd.Extent{
		{Offset: 0, Length: mib},
		{Offset: mib, Length: 64 * kib, Flags: nbd.StateDirty},
		{Offset: mib + 64*kib, Length: 9*mib - 64*kib},
		{Offset: 10 * mib, Length: 128 * kib, Flags: nbd.StateDirty},
		{Offset: 10*mib + 128*kib, Length: 54*mib - 128*kib},
	}
	if diff := cmp.Diff(want, mustExtents(t, c, bitmap, 0, 64*mib)); diff != "" {
		t.Errorf("dirty extents (-want +got):\n%s", diff)
	}
	if depth := mustExtents(t, c, "qemu:allocation-depth", 0, mib); len(depth) != 1 || depth[0].Flags != 0 {
		t.Errorf("allocation depth = %v, want one extent of 0", depth)
	}
}

func TestExtentsWithoutTheContextAreUnsupported(t *testing.T) {
	for name, p := range map[string]peer{
		"simple replies": nbdkit(t, "--no-sr", "memory", "1M"),
		"another server": nbdkit(t, "memory", "1M"),
	} {
		c := dial(t, p, nbd.Options{MetaContexts: []string{"qemu:dirty-bitmap:b"}})
		for _, err := range c.Extents(t.Context(), "qemu:dirty-bitmap:b", 0, mib) {
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: Extents = %v, want ErrUnsupported", name, err)
			}
		}
		if _, err := c.BlockStatus(t.Context(), 0, mib); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: BlockStatus = %v, want ErrUnsupported", name, err)
		}
	}
}

func TestLoopOverExtentsMayStopEarly(t *testing.T) {
	c := dial(t, nbdkit(t, "sparse-random", "1G", "seed=1"), nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
	for e, err := range c.Extents(t.Context(), nbd.BaseAllocation, 0, c.Size()) {
		if err != nil || e.Offset != 0 {
			t.Errorf("first extent = %+v, %v, want one at 0", e, err)
		}
		break
	}
	mustRead(t, c, 0, 512)
}
