// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"path/filepath"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

func maps(t testing.TB, b primitives.Backend) []primitives.Mapping {
	t.Helper()
	all, err := b.Facets().Map.Mappings(t.Context())
	must(t, err)
	return all
}

// TestAMappingEndsWithTheBootOfItsHost opens the device again as the same host
// after a boot, and as another host.
func TestAMappingEndsWithTheBootOfItsHost(t *testing.T) {
	path := newDevice(t, "ext4")
	now := request(t, path)
	b := openAs(t, now)
	create(t, b, "a", primitives.FormatRaw, seedA)
	m := active(t, b, "a")

	if got := maps(t, openAs(t, now)); len(got) != 1 || got[0].ID != m.ID || !got[0].Active {
		t.Errorf("Mappings() of a restarted agent = %+v, want the active one", got)
	}
	other := request(t, path)
	other.Host.ID = "other"
	ob := openAs(t, other)
	if got := maps(t, ob); len(got) != 0 {
		t.Errorf("Mappings() on another host = %+v, want none", got)
	}
	om, err := ob.Facets().Map.Map(t.Context(), vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
	must(t, err)
	_, err = ob.Facets().Map.Activate(t.Context(), om.ID, primitives.Op{})
	refused(t, err, primitives.CodeInUse, "Activate on another host")
	_, err = ob.Delink(t.Context(), vol("a"), primitives.DelinkRequest{})
	refused(t, err, primitives.CodeInUse, "Delink on another host")
	must(t, ob.Facets().Map.Unmap(t.Context(), om.ID, primitives.UnmapRequest{}))

	later := now
	later.Host.BootID = "later"
	lb := openAs(t, later)
	if got := maps(t, lb); len(got) != 0 {
		t.Errorf("Mappings() after a boot = %+v, want none", got)
	}
	if left := entries(t, filepath.Join(path, "mappings")); len(left) != 0 {
		t.Errorf("mappings of an earlier boot are left: %v", left)
	}
	holds(t, lb, vol("a"), content(seedA, mib))
}

// TestMappedFormsAreSpelledOut is what a hypervisor is told of a chain.
func TestMappedFormsAreSpelledOut(t *testing.T) {
	b := open(t, newDevice(t, "ext4"))
	create(t, b, "a", primitives.FormatQcow2, seedA)
	must(t, snap(t.Context(), b, "s1"))
	must(t, snap(t.Context(), b, "s2"))
	m := active(t, b, "a")
	if m.File.Format != primitives.FormatQcow2 || len(m.File.Backing) != 2 || m.File.Backing[1].Format != primitives.FormatQcow2 {
		t.Errorf("Map() = %+v, want three qcow2 files", m.File)
	}
	if !m.Direct || !m.Discard || m.Logical != 512 {
		t.Errorf("Map() = direct %t, discard %t, blocks of %d; want true, true, 512", m.Direct, m.Discard, m.Logical)
	}
	must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
	_, err := b.Facets().Map.Map(t.Context(), vol("a"), primitives.MapRequest{
		Access: primitives.ReadOnly, Accept: []primitives.Acceptable{{Form: primitives.FormFile, Format: primitives.FormatRaw}, {Form: primitives.FormNetwork, Protocol: "nbd"}},
	})
	refused(t, err, primitives.CodeUnsupported, "Map for somebody who takes no qcow2")
}

// TestCapabilitiesSayWhatTheFileSystemCan is the table of the documentation.
func TestCapabilitiesSayWhatTheFileSystemCan(t *testing.T) {
	type caps struct {
		def       primitives.Format
		live      primitives.LiveSnapshot
		group     bool
		raw       bool // raw volumes have snapshots
		copyClone bool // of a qcow2 snapshot
	}
	cases := map[string]caps{
		"ext4":  {primitives.FormatQcow2, primitives.LiveRemap, true, false, false},
		"tmpfs": {primitives.FormatQcow2, primitives.LiveRemap, true, false, false},
		"xfs":   {primitives.FormatRaw, primitives.LiveTransparent, false, true, false},
		"btrfs": {primitives.FormatRaw, primitives.LiveTransparent, false, true, false},
	}
	for kind, want := range cases {
		t.Run(kind, func(t *testing.T) {
			b := open(t, newDevice(t, kind))
			d, err := b.Describe(t.Context())
			must(t, err)
			create(t, b, "raw", primitives.FormatRaw, seedA)
			create(t, b, "a", primitives.FormatQcow2, seedA)
			must(t, snap(t.Context(), b, "s"))
			raw, err := b.Stat(t.Context(), vol("raw"), primitives.Op{})
			must(t, err)
			s, err := b.Stat(t.Context(), vol("a").At("s"), primitives.Op{})
			must(t, err)
			got := caps{d.Caps.Formats[0], d.Caps.SnapshotLive, d.Caps.SnapshotGroup, raw.Caps.Snapshot, s.Caps.CloneIsCopy}
			if got != want {
				t.Errorf("capabilities = %+v, want %+v", got, want)
			}
			_, err = b.Facets().Snapshots.Snapshot(t.Context(), []primitives.URI{vol("raw")}, "s", op("raw"))
			if !want.raw {
				if e := refused(t, err, primitives.CodeUnsupported, "Snapshot of a raw volume"); e.Try == "" {
					t.Errorf("the refusal says nothing to try")
				}
			} else if err != nil {
				t.Errorf("Snapshot of a raw volume = %v", err)
			}
		})
	}
}
