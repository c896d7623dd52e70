// SPDX-License-Identifier: Apache-2.0

// Package hypervisortest is the contract of [hypervisor.Adapter] as a suite. An
// adapter's test hands it a hypervisor with domains and ways to make storage, and
// calls Run. The suite knows no hypervisor: what one cannot do is a capability, a
// nil facet or a nil member of [Harness], and the cases that need it are skipped
// with the reason.
//
// Numbers such as E92 in comments are those of the project's list of edge cases.
package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Harness is what an adapter's test gives to the suite.
type Harness struct {
	// Open returns an adapter on the hypervisor; the suite closes it.
	Open func(t *testing.T) hypervisor.Adapter
	// Domain is running, persistent, booted, has a guest agent if the hypervisor
	// knows such, no disks of tenon's and room for four more. The suite leaves it
	// so.
	Domain hypervisor.DomainID
	// Off is defined and not running. The suite may start it, and ends it again.
	Off hypervisor.DomainID
	// Guest looks into Domain. nil: the suite cannot check content.
	Guest Guest
	// Boot starts Off and returns before its guest is up. nil: it has no guest.
	Boot func(t *testing.T)
	// Storages are the kinds of mappings that the adapter must take. The first is
	// a raw file, or the nearest thing to it.
	Storages []Storage
	// Targets are further kinds that a disk can move to.
	Targets []Storage
	// NamedFile makes a raw file whose name ends in name. nil: names are not free.
	NamedFile func(t *testing.T, name string, size int64) primitives.Mapping
	// Buses are the buses to try beside the default.
	Buses []string

	// Brief is how long calls get that are to run out of time; 0: 2 s, which is
	// right for a real hypervisor.
	Brief time.Duration

	// Deafen makes a domain's guest ignore requests until hear is called.
	Deafen func(t *testing.T, d hypervisor.DomainID) (hear func())
	// Refuse makes a domain's guest refuse to give disks back until relent is called.
	Refuse func(t *testing.T, d hypervisor.DomainID) (relent func())
	// Stall makes what runs a domain stop answering until resume is called.
	Stall func(t *testing.T, d hypervisor.DomainID) (resume func())
	// HangAgent makes a domain's guest agent stop answering until resume is called.
	HangAgent func(t *testing.T, d hypervisor.DomainID) (resume func())
	// AgentLimit is how long the adapter lets an agent take; for HangAgent.
	AgentLimit time.Duration
	// Transient runs a domain that has no definition and room for one disk, and ends it with
	// the case.
	Transient func(t *testing.T) hypervisor.DomainID
	// Kill ends a domain as a crash does.
	Kill func(t *testing.T, d hypervisor.DomainID)
}

// Guest looks into a running domain.
type Guest interface {
	// Run runs a POSIX shell script and returns what it printed; a script that
	// fails is an error.
	Run(ctx context.Context, script string) (string, error)
	// Device waits for a disk and returns the path of its device.
	Device(ctx context.Context, d hypervisor.Disk) (string, error)
	// Gone waits until the guest does not have the disk any more.
	Gone(ctx context.Context, d hypervisor.Disk) error
}

// Storage is one kind of mapping.
type Storage struct {
	Name string
	// Layered says that its volumes lie upon others, so that no disk can move there.
	Layered bool
	// New makes a volume that reads as zero and maps it for writing.
	New func(t *testing.T, size int64) primitives.Mapping
	// Grow makes the volume larger and returns its mapping. nil: not while mapped.
	Grow func(t *testing.T, m primitives.Mapping, size int64) primitives.Mapping
	// Overlay makes an overlay directly upon a mapping. nil: there is no such thing.
	Overlay func(t *testing.T, m primitives.Mapping) primitives.Mapping
}

// Lack is the reason of a skip.
type Lack string

// The reasons.
const (
	NoGuest     Lack = "the harness cannot look into a guest"
	NoBoot      Lack = "the harness has no guest that boots"
	NoDeafen    Lack = "the harness cannot make a guest ignore requests"
	NoRefuse    Lack = "the harness cannot make a guest refuse"
	NoStall     Lack = "the harness cannot stop a domain's process"
	NoHang      Lack = "the harness cannot stop a guest agent"
	NoKill      Lack = "the harness cannot kill a domain"
	NoNames     Lack = "the harness cannot choose the names of files"
	NoResize    Lack = "the adapter offers no Resize"
	NoFreeze    Lack = "the adapter offers no Freeze"
	NoSwitch    Lack = "the adapter offers no Switch"
	NoPower     Lack = "the adapter offers no Power"
	NoSnapshot  Lack = "the adapter offers no Snapshot"
	NoPause     Lack = "the adapter offers no Pause"
	NoMove      Lack = "the adapter offers no Move"
	NoTransient Lack = "the harness has no transient domain"
	NoOverlay   Lack = "none of the storages has overlays"
	NoSlots     Lack = "the adapter does not know how many slots are free"
	NotLive     Lack = "the domain's capabilities exclude it"
)

const (
	// size of most volumes.
	size = 16 << 20
	// patience is for what must happen; nothing waits for it to pass.
	patience = time.Minute
	// stallBrief is long enough to tell a hanging call from a slow one.
	stallBrief = 2 * time.Second
)

// check is one promise of the contract.
type check struct {
	name string
	run  func(*suite)
}

// Run holds an adapter to every promise.
func Run(t *testing.T, h Harness) {
	a := h.Open(t)
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	if h.Brief == 0 {
		h.Brief = stallBrief
	}
	disks := 0
	for _, c := range slices.Concat(basics, attaching, detaching, resizing, switching, freezing, snapshotting, powering, pausing, moving, troubling) {
		t.Run(c.name, func(t *testing.T) {
			// It outlives the case's own context, because cleaning up needs it too.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*patience)
			t.Cleanup(cancel)
			c.run(&suite{T: t, h: h, a: a, ctx: ctx, disks: &disks})
		})
	}
}

// suite is one case under way.
type suite struct {
	*testing.T
	h     Harness
	a     hypervisor.Adapter
	ctx   context.Context // of this one case, as testing.T's is
	disks *int
}

// sub runs a part of a case under its own name.
func (s *suite) sub(name string, run func(*suite)) {
	s.T.Helper()
	s.T.Run(name, func(t *testing.T) {
		part := *s
		part.T = t
		run(&part)
	})
}

// lack skips a case and says why.
func (s *suite) lack(why Lack) {
	s.Helper()
	s.Skipf("skipped: %s", why)
}

// id returns a disk ID that no other case has.
func (s *suite) id() hypervisor.DiskID {
	*s.disks++
	return hypervisor.DiskID(fmt.Sprintf("suite-%d", *s.disks))
}

// file makes a volume of the first storage.
func (s *suite) file() primitives.Mapping {
	s.Helper()
	return s.h.Storages[0].New(s.T, size)
}

func request(d hypervisor.DomainID, id hypervisor.DiskID, m primitives.Mapping) hypervisor.AttachRequest {
	return hypervisor.AttachRequest{Domain: d, Disk: id, Mapping: m}
}

// attach attaches and, at the end of the case, detaches again.
func (s *suite) attach(r hypervisor.AttachRequest) hypervisor.AttachResult {
	s.Helper()
	s.Cleanup(func() { s.clear(r.Domain, r.Disk) })
	res, err := s.a.Attach(s.ctx, r)
	if err != nil {
		s.Fatalf("Attach(%s, %v) = %v", r.Disk, r.Mapping.Form, err)
	}
	if res.ConfigErr != nil {
		s.Fatalf("Attach(%s): the definition: %v", r.Disk, res.ConfigErr)
	}
	return res
}

// clear takes a disk away, whatever the case left of it.
func (s *suite) clear(d hypervisor.DomainID, id hypervisor.DiskID) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.a.Detach(ctx, d, id); err != nil && !errors.Is(err, primitives.CodeNotFound) {
		s.Errorf("after the case: Detach(%s) = %v", id, err)
	}
}

// detach detaches and wants that outcome.
func (s *suite) detach(d hypervisor.DomainID, id hypervisor.DiskID, want hypervisor.DetachResult) {
	s.Helper()
	got, err := s.a.Detach(s.ctx, d, id)
	if err != nil || got != want {
		s.Fatalf("Detach(%s) = live %v, config %v, %v; want live %v, config %v", id, got.Live, got.Config, err, want.Live, want.Config)
	}
}

// disk returns a disk as the hypervisor shows it now, and whether it does.
func (s *suite) disk(d hypervisor.DomainID, id hypervisor.DiskID) (hypervisor.Disk, bool) {
	s.Helper()
	disks, err := s.a.Disks(s.ctx, d)
	if err != nil {
		s.Fatalf("Disks = %v", err)
	}
	i := slices.IndexFunc(disks, func(x hypervisor.Disk) bool { return x.ID == id })
	if i < 0 {
		return hypervisor.Disk{}, false
	}
	return disks[i], true
}

// want fails unless the hypervisor shows the disk in these halves.
func (s *suite) want(d hypervisor.DomainID, id hypervisor.DiskID, live, config bool) {
	s.Helper()
	got, _ := s.disk(d, id)
	if got.Live != live || got.Config != config {
		s.Errorf("disk %s is shown live %v, config %v; want live %v, config %v", id, got.Live, got.Config, live, config)
	}
}

// shows fails unless the disk is on the mapping.
func (s *suite) shows(d hypervisor.DomainID, id hypervisor.DiskID, m primitives.Mapping) {
	s.Helper()
	got, ok := s.disk(d, id)
	if !ok || !got.Source.Shows(m) {
		s.Errorf("disk %s is on %v (%s), want %v", id, got.Source, got.Source.Format, m)
	}
}

// code fails unless err has the code.
func (s *suite) code(what string, err error, want ...primitives.Code) {
	s.Helper()
	if err == nil || !slices.Contains(want, primitives.CodeOf(err)) {
		s.Errorf("%s = %v, want %v", what, err, want)
	}
}

// domain returns a domain as it is listed.
func (s *suite) domain(d hypervisor.DomainID) hypervisor.Domain {
	s.Helper()
	all, err := s.a.Domains(s.ctx)
	if err != nil {
		s.Fatalf("Domains = %v", err)
	}
	i := slices.IndexFunc(all, func(x hypervisor.Domain) bool { return x.ID == d })
	if i < 0 {
		s.Fatalf("Domains = %v, want %s among them", all, d)
	}
	return all[i]
}

// within returns a context for a call that is to run out of time.
func (s *suite) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(s.ctx, d)
	s.Cleanup(cancel)
	return ctx
}

// run runs a script in the guest.
func (s *suite) run(script string, args ...any) string {
	s.Helper()
	out, err := s.h.Guest.Run(s.ctx, fmt.Sprintf(script, args...))
	if err != nil {
		s.Fatalf("in the guest: %v", err)
	}
	return strings.TrimSpace(out)
}

// device waits for the disk in the guest.
func (s *suite) device(d hypervisor.DomainID, id hypervisor.DiskID) string {
	s.Helper()
	disk, ok := s.disk(d, id)
	if !ok {
		s.Fatalf("disk %s is not shown", id)
	}
	dev, err := s.h.Guest.Device(s.ctx, disk)
	if err != nil {
		s.Fatalf("in the guest: %v", err)
	}
	return dev
}

// Content that depends on its position, so that a block in the wrong place shows.
const (
	writePattern = `seq %d 15000 | head -c 65536 | dd of=%s bs=64k conv=fsync 2>/dev/null`
	readPattern  = `blockdev --flushbufs %[1]s && dd if=%[1]s bs=64k count=1 2>/dev/null | md5sum | cut -d' ' -f1`
)

// write has the guest write a pattern and returns its checksum.
func (s *suite) write(dev string, seed int) string {
	s.Helper()
	s.run(writePattern, seed, dev)
	return s.sum(dev)
}

// sum has the guest read the place of the pattern from the disk, not from memory.
func (s *suite) sum(dev string) string {
	s.Helper()
	return s.run(readPattern, dev)
}
