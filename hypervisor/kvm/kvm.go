// SPDX-License-Identifier: Apache-2.0

// Package kvm drives QEMU/KVM through libvirt.
//
// libvirt's calls take no context and block as long as QEMU does, so every one
// runs in a goroutine of its own with a deadline, and a domain that does not
// answer is left alone until it does (see [breaker]). Reading XML does not wait
// for QEMU, so listings work whatever a guest does.
//
// A disk of tenon's carries the alias "ua-tenon-" + ID, by which it is found
// again in both halves of a domain, and the ID as its serial.
package kvm

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/binding"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

// Name is the adapter's name.
const Name = "kvm"

// DefaultURI is the system's libvirt.
const DefaultURI = "qemu:///system"

// Options are the optional settings of an adapter.
type Options struct {
	// URI is what to connect to; empty: DefaultURI. "qemu:///embed?root=DIR" runs
	// libvirt's QEMU driver in this process, for tests and demonstrations; one
	// process can use one such DIR.
	URI string
	// Log gets one line for each call that libvirt left hanging and each change
	// of the connection. nil discards.
	Log *slog.Logger
	// SnapshotDir takes the overlays of hypervisor snapshots of disks that are no
	// files. Empty: such disks cannot have hypervisor snapshots.
	SnapshotDir string
	// CallLimit bounds each single call to libvirt beside the caller's context;
	// 0: 30 s.
	CallLimit time.Duration
	// FreezeLimit bounds how long a guest may take to freeze, while it writes back
	// what it holds dirty; 0: 30 s. Without a bound libvirt waits for hours.
	FreezeLimit time.Duration
}

const (
	defaultCallLimit   = 30 * time.Second
	defaultFreezeLimit = 30 * time.Second
)

// accepts is what a QEMU guest can be given, best first.
var accepts = []primitives.Acceptable{
	{Form: primitives.FormBlock, Format: primitives.FormatRaw},
	{Form: primitives.FormFile, Format: primitives.FormatRaw},
	{Form: primitives.FormFile, Format: primitives.FormatQcow2},
	{Form: primitives.FormNetwork, Protocol: protocolNBD},
}

// Adapter is the hypervisor adapter of KVM.
type Adapter struct {
	log         *slog.Logger
	link        link
	breaker     breaker
	limit       time.Duration
	freezeLimit time.Duration
	snapshotDir string
	locks       keylock.Set
	removals    removals
	copies      copies
	watchers    watchers
	readings    readings
	glances     glances
}

var _ hypervisor.Adapter = (*Adapter)(nil)

// New returns an adapter. It does not connect: that happens at the first call,
// and again whenever the connection was lost, so that the agent starts on a host
// whose libvirt is away.
func New(o Options) (*Adapter, error) { return newOver(binding.Open, o), nil }

// newOver returns an adapter over another way to libvirt.
func newOver(open virt.Opener, o Options) *Adapter {
	a := &Adapter{
		log:         cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		limit:       cmp.Or(o.CallLimit, defaultCallLimit),
		freezeLimit: cmp.Or(o.FreezeLimit, defaultFreezeLimit),
		snapshotDir: o.SnapshotDir,
	}
	a.link.open, a.link.uri, a.link.log = open, cmp.Or(o.URI, DefaultURI), a.log
	a.link.handle = a.handle
	return a
}

// Info describes the adapter.
func (a *Adapter) Info(ctx context.Context) hypervisor.Info {
	info := hypervisor.Info{Name: Name, Accepts: accepts}
	var err error
	info.Library, err = call(ctx, a, ask{what: "read libvirt's version", limit: infoLimit}, virt.Conn.Library)
	if err != nil {
		info.Note = err.Error()
		return info
	}
	info.Connected = true
	info.Hypervisor, err = call(ctx, a, ask{what: "read QEMU's version"}, virt.Conn.Hypervisor)
	if err != nil {
		info.Note = err.Error()
	}
	return info
}

// infoLimit keeps Info quick when libvirt hangs. QEMU's version may take longer:
// a libvirt that has just started looks at every QEMU on the host first.
const infoLimit = 5 * time.Second

// Facets says that everything is offered.
func (a *Adapter) Facets() hypervisor.Facets {
	return hypervisor.Facets{Resize: a, Freeze: a, Switch: a, Power: a, Snapshot: a, Pause: a, Move: a}
}

// Close ends the connection. Calls under way end with CodeUnavailable.
func (a *Adapter) Close() error { return a.link.close() }

// handle takes an event of libvirt: it wakes who waits for it and decides nothing.
func (a *Adapter) handle(e virt.Event) {
	a.glances.changed()
	a.removals.event(e)
	a.copies.event(e)
	a.watchers.add(hypervisor.DomainID(e.Domain))
}
