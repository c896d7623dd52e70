// SPDX-License-Identifier: Apache-2.0

package hypervisortest

import (
	"slices"
	"strconv"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

var resizing = []check{
	{"TheGuestSeesAGrownDisk", func(s *suite) {
		s.resizer()
		for _, storage := range s.h.Storages {
			if storage.Grow == nil {
				continue
			}
			s.sub(storage.Name, func(s *suite) {
				const grown = 2 * size
				m := storage.New(s.T, size)
				r := request(s.h.Domain, s.id(), m)
				s.attach(r)
				var sum string
				if s.h.Guest != nil {
					sum = s.write(s.device(r.Domain, r.Disk), 3)
				}
				storage.Grow(s.T, m, grown)
				for _, attempt := range []string{"first", "repeat"} {
					if err := s.resizer().ResizeDisk(s.ctx, r.Domain, r.Disk, grown); err != nil {
						s.Fatalf("ResizeDisk, %s = %v", attempt, err)
					}
				}
				if s.h.Guest == nil {
					return
				}
				dev := s.device(r.Domain, r.Disk)
				if got := s.run("blockdev --getsize64 %s", dev); got != strconv.Itoa(grown) {
					s.Errorf("the guest sees %s bytes, want %d", got, grown)
				}
				if got := s.sum(dev); got != sum {
					s.Errorf("the guest reads %s after growing, want %s", got, sum)
				}
			})
		}
	}},
	{"ADiskIsNeverShrunk", func(s *suite) {
		r := request(s.h.Domain, s.id(), s.file())
		s.attach(r)
		s.code("ResizeDisk to half", s.resizer().ResizeDisk(s.ctx, r.Domain, r.Disk, size/2), primitives.CodeUnsupported)
		s.code("ResizeDisk to nothing", s.resizer().ResizeDisk(s.ctx, r.Domain, r.Disk, 0), primitives.CodeInvalid)
	}},
	{"ResizeOfAnUnknownDiskIsNotFound", func(s *suite) {
		s.code("ResizeDisk", s.resizer().ResizeDisk(s.ctx, s.h.Domain, s.id(), size), primitives.CodeNotFound)
		s.code("ResizeDisk", s.resizer().ResizeDisk(s.ctx, nobody, s.id(), size), primitives.CodeNotFound)
	}},
}

func (s *suite) resizer() hypervisor.Resizer {
	s.Helper()
	if s.a.Facets().Resize == nil {
		s.lack(NoResize)
	}
	return s.a.Facets().Resize
}

var switching = []check{
	{"AllDisksSwitchAndTheGuestGoesOn", switchAll},
	{"OneWrongOverlayLeavesAllDisksWhereTheyAre", func(s *suite) {
		sw, storage := s.switcher()
		first, second := storage.New(s.T, size), storage.New(s.T, size)
		one, two := request(s.h.Domain, s.id(), first), request(s.h.Domain, s.id(), second)
		s.attach(one)
		s.attach(two)
		wrong := storage.Overlay(s.T, first) // upon the other disk's volume
		err := sw.Switch(s.ctx, s.h.Domain, []hypervisor.DiskSwitch{{Disk: one.Disk, To: storage.Overlay(s.T, first)}, {Disk: two.Disk, To: wrong}})
		s.code("Switch", err, primitives.CodeUnsupported)
		s.shows(s.h.Domain, one.Disk, first)
		s.shows(s.h.Domain, two.Disk, second)
	}},
	{"AFailedSwitchLeavesAllDisksWhereTheyAre", func(s *suite) {
		sw, storage := s.switcher()
		first, second := storage.New(s.T, size), storage.New(s.T, size)
		one, two := request(s.h.Domain, s.id(), first), request(s.h.Domain, s.id(), second)
		s.attach(one)
		s.attach(two)
		missing := storage.Overlay(s.T, second)
		file := *missing.File
		file.Path += ".missing"
		missing.File = &file
		err := sw.Switch(s.ctx, s.h.Domain, []hypervisor.DiskSwitch{{Disk: one.Disk, To: storage.Overlay(s.T, first)}, {Disk: two.Disk, To: missing}})
		if err == nil {
			s.Errorf("Switch to a missing overlay = nil, want an error")
		}
		s.shows(s.h.Domain, one.Disk, first)
		s.shows(s.h.Domain, two.Disk, second)
	}},
	{"ADomainThatIsOffSwitchesInItsDefinition", func(s *suite) {
		sw, storage := s.switcher()
		m := storage.New(s.T, size)
		r := request(s.h.Off, s.id(), m)
		s.attach(r)
		to := storage.Overlay(s.T, m)
		for _, attempt := range []string{"first", "repeat"} {
			if err := sw.Switch(s.ctx, s.h.Off, []hypervisor.DiskSwitch{{Disk: r.Disk, To: to}}); err != nil {
				s.Fatalf("Switch, %s = %v", attempt, err)
			}
			s.shows(s.h.Off, r.Disk, to)
		}
	}},
	{"ASwitchOfAnUnknownDiskIsNotFound", func(s *suite) {
		sw, storage := s.switcher()
		to := storage.Overlay(s.T, storage.New(s.T, size))
		s.code("Switch", sw.Switch(s.ctx, s.h.Domain, []hypervisor.DiskSwitch{{Disk: s.id(), To: to}}), primitives.CodeNotFound)
		id := s.id()
		s.code("Switch of one disk twice", sw.Switch(s.ctx, s.h.Domain, []hypervisor.DiskSwitch{{Disk: id, To: to}, {Disk: id, To: to}}), primitives.CodeInvalid)
	}},
}

// switcher returns the facet and a storage that has overlays.
func (s *suite) switcher() (hypervisor.Switcher, Storage) {
	s.Helper()
	if s.a.Facets().Switch == nil {
		s.lack(NoSwitch)
	}
	i := slices.IndexFunc(s.h.Storages, func(st Storage) bool { return st.Overlay != nil })
	if i < 0 {
		s.lack(NoOverlay)
	}
	return s.a.Facets().Switch, s.h.Storages[i]
}

// switchAll switches disks of every storage that has overlays, in one call,
// twice over, with a guest that keeps its content.
func switchAll(s *suite) {
	sw, _ := s.switcher()
	type subject struct {
		hypervisor.AttachRequest
		storage Storage
		sum     string
	}
	var all []*subject
	for _, storage := range s.h.Storages {
		if storage.Overlay == nil {
			continue
		}
		x := &subject{AttachRequest: request(s.h.Domain, s.id(), storage.New(s.T, size)), storage: storage}
		s.attach(x.AttachRequest)
		if s.h.Guest != nil {
			x.sum = s.write(s.device(x.Domain, x.Disk), len(all)+1)
		}
		all = append(all, x)
	}
	for round := range 2 {
		var disks []hypervisor.DiskSwitch
		for _, x := range all {
			x.Mapping = x.storage.Overlay(s.T, x.Mapping)
			disks = append(disks, hypervisor.DiskSwitch{Disk: x.Disk, To: x.Mapping})
		}
		for _, attempt := range []string{"first", "repeat"} {
			if err := sw.Switch(s.ctx, s.h.Domain, disks); err != nil {
				s.Fatalf("Switch, round %d, %s = %v", round, attempt, err)
			}
		}
		for _, x := range all {
			s.shows(x.Domain, x.Disk, x.Mapping)
			s.want(x.Domain, x.Disk, true, true)
			// The definition followed: it is asked for what is there already.
			if got := s.attach(x.AttachRequest); got.Live != hypervisor.Already || got.Config != hypervisor.Already {
				s.Errorf("%s: after Switch, Attach = live %v, config %v; want already in both", x.storage.Name, got.Live, got.Config)
			}
			if s.h.Guest == nil {
				continue
			}
			dev := s.device(x.Domain, x.Disk)
			if got := s.sum(dev); got != x.sum {
				s.Errorf("%s: the guest reads %s after the switch, want %s", x.storage.Name, got, x.sum)
			}
			x.sum = s.write(dev, 100*round+50)
		}
	}
}

var snapshotting = []check{
	{"ASnapshotComesAndGoesWhileTheGuestWrites", snapshotLife},
	{"OnlyTheNewestSnapshotCanBeDeleted", func(s *suite) {
		sn := s.snapshotter()
		r := request(s.h.Domain, s.id(), s.file())
		s.attach(r)
		s.snap("older")
		s.snap("newer")
		all, err := sn.Snapshots(s.ctx, s.h.Domain)
		if err != nil || len(all) != 2 || all[0].Name != "older" || all[1].Name != "newer" {
			s.Errorf("Snapshots = %v, %v; want older, newer", all, err)
		}
		s.code("DeleteSnapshot(older)", sn.DeleteSnapshot(s.ctx, s.h.Domain, "older"), primitives.CodeDependents)
	}},
	{"ADiskOnASnapshotsOverlayCannotBeDetached", func(s *suite) { // E157
		s.snapshotter()
		r := request(s.h.Domain, s.id(), s.file())
		s.attach(r)
		s.snap("holds")
		_, err := s.a.Detach(s.ctx, r.Domain, r.Disk)
		s.code("Detach", err, primitives.CodeDependents)
		s.want(r.Domain, r.Disk, true, true)
	}},
	{"ADomainThatIsOffHasNoSnapshotMade", func(s *suite) {
		_, err := s.snapshotter().CreateSnapshot(s.ctx, s.h.Off, "x")
		s.code("CreateSnapshot", err, primitives.CodeUnsupported)
		_, err = s.snapshotter().CreateSnapshot(s.ctx, s.h.Domain, "../escape")
		s.code("CreateSnapshot of a bad name", err, primitives.CodeInvalid)
	}},
}

func (s *suite) snapshotter() hypervisor.Snapshotter {
	s.Helper()
	if s.a.Facets().Snapshot == nil {
		s.lack(NoSnapshot)
	}
	return s.a.Facets().Snapshot
}

// snap makes a snapshot that the end of the case deletes.
func (s *suite) snap(name string) hypervisor.Snapshot {
	s.Helper()
	s.Cleanup(func() {
		if err := s.snapshotter().DeleteSnapshot(s.within(patience), s.h.Domain, name); err != nil {
			s.Errorf("after the case: DeleteSnapshot(%s) = %v", name, err)
		}
	})
	got, err := s.snapshotter().CreateSnapshot(s.ctx, s.h.Domain, name)
	if err != nil {
		s.Fatalf("CreateSnapshot(%s) = %v", name, err)
	}
	return got
}

func snapshotLife(s *suite) {
	sn := s.snapshotter()
	m := s.file()
	r := request(s.h.Domain, s.id(), m)
	s.attach(r)
	const name = "Before, the upgrade" // E126
	got := s.snap(name)
	if got.Name != name || got.Created.IsZero() || !slices.Contains(got.Disks, r.Disk) {
		s.Errorf("CreateSnapshot = %+v, want its name, time and disk %s", got, r.Disk)
	}
	if _, err := sn.CreateSnapshot(s.ctx, s.h.Domain, name); true {
		s.code("CreateSnapshot again", err, primitives.CodeExists)
	}
	if disk, _ := s.disk(s.h.Domain, r.Disk); disk.Source.Shows(m) {
		s.Errorf("the disk is still on %v", disk.Source)
	}
	var sum string
	if s.h.Guest != nil {
		sum = s.write(s.device(r.Domain, r.Disk), 5)
	}
	for _, attempt := range []string{"first", "repeat"} {
		if err := sn.DeleteSnapshot(s.ctx, s.h.Domain, name); err != nil {
			s.Fatalf("DeleteSnapshot, %s = %v", attempt, err)
		}
	}
	s.shows(r.Domain, r.Disk, m)
	if all, err := sn.Snapshots(s.ctx, s.h.Domain); err != nil || len(all) != 0 {
		s.Errorf("Snapshots = %v, %v; want none", all, err)
	}
	if s.h.Guest != nil {
		if got := s.sum(s.device(r.Domain, r.Disk)); got != sum {
			s.Errorf("the guest reads %s after the merge, want what it wrote above the snapshot: %s", got, sum)
		}
	}
	// Both halves are back on the volume.
	if got := s.attach(r); got.Live != hypervisor.Already || got.Config != hypervisor.Already {
		s.Errorf("after DeleteSnapshot, Attach = live %v, config %v; want already in both", got.Live, got.Config)
	}
}
