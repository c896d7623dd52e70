// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

// qmp runs one command of a guest's monitor.
func (g *qemuGuest) qmp(t testing.TB, command, arguments string) {
	t.Helper()
	conn, err := net.Dial("unix", g.run+"/qmp")
	must(t, err)
	defer conn.Close()
	r := bufio.NewScanner(conn)
	fmt.Fprintf(conn, "{\"execute\":\"qmp_capabilities\",\"id\":0}\n{\"execute\":%q,\"arguments\":%s,\"id\":1}\n", command, arguments)
	for r.Scan() {
		var reply struct {
			ID    *int
			Error *struct{ Desc string }
		}
		must(t, json.Unmarshal(r.Bytes(), &reply))
		if reply.Error != nil {
			t.Fatalf("%s: %s", command, reply.Error.Desc)
		}
		if reply.ID != nil && *reply.ID == 1 {
			return
		}
	}
	t.Fatalf("%s: the monitor closed: %v", command, r.Err())
}

// attached maps and activates a volume and starts a guest on it.
func attached(t testing.TB, b primitives.Backend, name string) (primitives.Mapping, *qemuGuest) {
	t.Helper()
	m := active(t, b, name)
	return m, openGuest(t, m)
}

func active(t testing.TB, b primitives.Backend, name string) primitives.Mapping {
	t.Helper()
	f := b.Facets().Map
	m, err := f.Map(t.Context(), vol(name), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
	must(t, err)
	m, err = f.Activate(t.Context(), m.ID, primitives.Op{})
	must(t, err)
	return m
}

func newDevice(t testing.TB, kind string) string {
	t.Helper()
	path := filepath.Join(on(t, kind), "device")
	must(t, os.Mkdir(path, 0o755))
	t.Cleanup(func() { audit(t, path) })
	return path
}

// TestSettleBelievesTheHypervisorOnlyWhereItsLocksAgree holds a real image open
// in a real QEMU while the two halves of a live snapshot are taken.
func TestSettleBelievesTheHypervisorOnlyWhereItsLocksAgree(t *testing.T) {
	b := open(t, newDevice(t, "ext4"))
	then := create(t, b, "a", primitives.FormatQcow2, seedA)
	m, g := attached(t, b, "a")
	snaps := b.Facets().Snapshots
	set, err := snaps.Snapshot(t.Context(), []primitives.URI{vol("a")}, "s", op("snap"))
	must(t, err)
	if len(set.Switch) != 1 || set.Snapshots[0].State != primitives.Pending {
		t.Fatalf("Snapshot() = %+v, want one pending and one switch", set)
	}

	_, err = snaps.Settle(t.Context(), []primitives.URI{vol("a")}, "s", true, op("early"))
	refused(t, err, primitives.CodeInUse, "Settle before the guest switched")

	next := set.Switch[0].File
	g.qmp(t, "blockdev-add", blockdev(t, "next", *next, nil, false))
	g.qmp(t, "blockdev-snapshot", `{"node":"n0","overlay":"next"}`)
	now := bytes.Clone(then)
	copy(now, content(seedB, 4096))
	_, err = g.WriteAt(now[:4096], 0)
	must(t, err)
	must(t, g.Flush())

	_, err = snaps.Settle(t.Context(), []primitives.URI{vol("a")}, "s", false, op("late"))
	if e := refused(t, err, primitives.CodeInUse, "Settle as not switched, after the switch"); len(e.Blocked) == 0 {
		t.Errorf("Settle names nobody who holds the overlay")
	}
	done, err := snaps.Settle(t.Context(), []primitives.URI{vol("a")}, "s", true, op("settle"))
	must(t, err)
	if done[0].State != primitives.Ready {
		t.Errorf("Settle() = %s, want ready", describe(done[0]))
	}
	holds(t, b, vol("a").At("s"), then) // while the guest has it as its backing file

	err = b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{})
	refused(t, err, primitives.CodeInUse, "Unmap under the guest")
	must(t, g.Close())
	must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
	holds(t, b, vol("a"), now)
}

func TestTwoVolumesOfOneGuestAreSnapshottedTogether(t *testing.T) {
	b := open(t, newDevice(t, "ext4"))
	create(t, b, "a", primitives.FormatQcow2, seedA)
	create(t, b, "b", primitives.FormatQcow2, seedB)
	m, g := attached(t, b, "a") // b is not mapped
	both := []primitives.URI{vol("a"), vol("b")}
	set, err := b.Facets().Snapshots.Snapshot(t.Context(), both, "s", op("snap"))
	must(t, err)
	if len(set.Snapshots) != 2 || len(set.Switch) != 1 {
		t.Fatalf("Snapshot() = %d snapshots and %d switches, want 2 and 1", len(set.Snapshots), len(set.Switch))
	}
	_, err = b.Write(t.Context(), vol("b"), primitives.WriteRequest{Op: op("write")})
	refused(t, err, primitives.CodeConflict, "Write to a volume whose snapshot is not settled")
	_, err = b.Facets().Snapshots.Settle(t.Context(), both, "s", false, op("settle"))
	must(t, err)
	must(t, g.Close())
	must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
	holds(t, b, vol("a"), content(seedA, mib))
	holds(t, b, vol("b"), content(seedB, mib))
}

// TestOnlyTheHypervisorGrowsAnImageItHasOpen shows that the driver leaves the
// image alone and sees the size when it is there.
func TestOnlyTheHypervisorGrowsAnImageItHasOpen(t *testing.T) {
	b := open(t, newDevice(t, "ext4"))
	create(t, b, "a", primitives.FormatQcow2, seedA)
	m := active(t, b, "a")
	g := startGuest(t, m) // an export would not let its image grow
	resize := b.Facets().Resize.Resize
	o, err := resize(t.Context(), vol("a"), 2*mib, op("grow"))
	must(t, err)
	if o.State != primitives.Pending || o.Size != mib {
		t.Errorf("Resize() under a guest = %s, want pending with the old size", describe(o))
	}
	g.qmp(t, "block_resize", fmt.Sprintf(`{"node-name":"n0","size":%d}`, 2*mib))
	o, err = b.Stat(t.Context(), vol("a"), primitives.Op{})
	must(t, err)
	if o.State != primitives.Ready || o.Size != 2*mib {
		t.Errorf("Stat() after the guest grew it = %s, want ready with the new size", describe(o))
	}
	again, err := b.Facets().Map.Map(t.Context(), vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
	must(t, err)
	if again.Size != 2*mib || again.Epoch <= m.Epoch {
		t.Errorf("Map() = %d bytes of epoch %d, want %d of more than %d", again.Size, again.Epoch, 2*mib, m.Epoch)
	}
	_, err = resize(t.Context(), vol("a"), 3*mib, op("grow more"))
	must(t, err)
	if o, err = resize(t.Context(), vol("a"), 2*mib, op("never mind")); err != nil || o.State != primitives.Ready {
		t.Errorf("Resize() to the present size = %s, %v; want the pending one called off", describe(o), err)
	}
	must(t, g.Close())
	must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
	holds(t, b, vol("a"), content(seedA, mib))
}

func TestARawFileGrowsUnderItsGuest(t *testing.T) {
	b := open(t, newDevice(t, "xfs"))
	create(t, b, "a", primitives.FormatRaw, seedA)
	m := active(t, b, "a")
	g := startGuest(t, m) // an export would not let its image grow
	o, err := b.Facets().Resize.Resize(t.Context(), vol("a"), 2*mib, op("grow"))
	must(t, err)
	if o.State != primitives.Ready || o.Size != 2*mib {
		t.Errorf("Resize() = %s, want ready with the new size", describe(o))
	}
	g.qmp(t, "block_resize", fmt.Sprintf(`{"node-name":"n0","size":%d}`, 2*mib))
	must(t, g.Close())
	must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
	holds(t, b, vol("a"), content(seedA, mib))
}

// TestAForcedUnmapLeavesTheHolderAlone also shows who is named.
func TestAForcedUnmapLeavesTheHolderAlone(t *testing.T) {
	b := open(t, newDevice(t, "ext4"))
	create(t, b, "a", primitives.FormatRaw, seedA)
	m, g := attached(t, b, "a")
	err := b.Facets().Map.Deactivate(t.Context(), m.ID, primitives.Op{})
	if e := refused(t, err, primitives.CodeInUse, "Deactivate under a guest"); len(e.Blocked) == 0 || e.Blocked[0].Kind != "process" {
		t.Errorf("Deactivate names %v, want the process", e.Blocked)
	}
	must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{Force: true}))
	p := make([]byte, 512)
	if _, err := g.ReadAt(p, 0); err != nil {
		t.Errorf("read of the guest after a forced unmap = %v", err)
	}
	must(t, g.Close())
}
