// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

// Name is the adapter's name.
const Name = "fake"

// accepts is what a fake guest can be given, best first: what a QEMU guest can.
var accepts = []primitives.Acceptable{
	{Form: primitives.FormBlock, Format: primitives.FormatRaw},
	{Form: primitives.FormFile, Format: primitives.FormatRaw},
	{Form: primitives.FormFile, Format: primitives.FormatQcow2},
	{Form: primitives.FormNetwork, Protocol: protocolNBD},
}

// Adapter is a connection to a host.
type Adapter struct {
	host    *Host
	closed  chan struct{} // closed under host.mu
	close   func()
	freezes keylock.Set // by domain: one freeze at a time
	since   int         // what happened before was never told to this connection
}

var _ hypervisor.Adapter = (*Adapter)(nil)

// Adapter returns a new connection. Several can be open at once.
func (h *Host) Adapter() *Adapter {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := &Adapter{host: h, closed: make(chan struct{}), since: h.nextInstance()}
	a.close = sync.OnceFunc(func() { close(a.closed) })
	return a
}

// Close ends the connection. Calls under way end with CodeUnavailable, and none
// of them has an effect any more, unless a stalled domain has taken it already.
// It may be called from a hook: so an agent dies at that moment.
func (a *Adapter) Close() error {
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	a.close()
	return nil
}

// Info describes the adapter.
func (a *Adapter) Info(context.Context) hypervisor.Info {
	info := hypervisor.Info{Name: Name, Hypervisor: "fake host", Library: "in process", Connected: true, Accepts: slices.Clone(accepts)}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	if err := a.alive(); err != nil {
		info.Connected, info.Note = false, err.Error()
	}
	return info
}

// Facets says that everything is offered.
func (a *Adapter) Facets() hypervisor.Facets {
	return hypervisor.Facets{Resize: a, Freeze: a, Switch: a, Power: a, Snapshot: a, Pause: a, Move: a}
}

// Domains lists every domain, in order of name.
func (a *Adapter) Domains(ctx context.Context) ([]hypervisor.Domain, error) {
	if err := a.enter(ctx, Call{Name: "domains"}); err != nil {
		return nil, err
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	out := make([]hypervisor.Domain, 0, len(a.host.domains))
	for _, d := range a.host.domains {
		out = append(out, d.view().shown())
	}
	slices.SortFunc(out, func(a, b hypervisor.Domain) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Domain finds one domain.
func (a *Adapter) Domain(ctx context.Context, nameOrID string) (hypervisor.Domain, error) {
	if nameOrID == "" {
		return hypervisor.Domain{}, primitives.Invalid("domain", "it is empty; expected a domain's name or ID")
	}
	if err := a.enter(ctx, Call{Name: "domain"}); err != nil {
		return hypervisor.Domain{}, err
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	if d := a.host.domains[hypervisor.DomainID(strings.ToLower(nameOrID))]; d != nil {
		return d.view().shown(), nil
	}
	for _, d := range a.host.domains {
		if d.name == nameOrID {
			return d.view().shown(), nil
		}
	}
	return hypervisor.Domain{}, primitives.Errorf(primitives.CodeNotFound, "domain %q does not exist", nameOrID)
}

// Disks lists a domain's disks.
func (a *Adapter) Disks(ctx context.Context, d hypervisor.DomainID) ([]hypervisor.Disk, error) {
	if err := a.enter(ctx, Call{Name: "disks", Domain: d}); err != nil {
		return nil, err
	}
	v, err := a.look(ctx, d)
	if err != nil {
		return nil, err
	}
	return v.disks(), nil
}

// look reads a domain as it is now. It is part of another call, so no fault
// strikes it.
func (a *Adapter) look(ctx context.Context, id hypervisor.DomainID) (view, error) {
	if ctx.Err() != nil {
		return view{}, ended(ctx, "read domain "+string(id))
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	if err := a.alive(); err != nil {
		return view{}, err
	}
	d := a.host.domains[id]
	if d == nil {
		return view{}, noDomain(id)
	}
	return d.view(), nil
}

// alive reports why the connection serves no call; host.mu is held.
func (a *Adapter) alive() error {
	select {
	case <-a.closed:
		return primitives.Errorf(primitives.CodeUnavailable, "the connection to the fake host is closed")
	default:
	}
	if a.host.away != "" {
		return primitives.Errorf(primitives.CodeUnavailable, "the fake host is away: %s", a.host.away)
	}
	return nil
}

// aliveNow is alive for who does not hold host.mu.
func (a *Adapter) aliveNow() error {
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	return a.alive()
}

// await waits until a domain is as wanted; done is called with nil for one that
// is gone. It looks once more when ctx has ended, so that the answer is the latest.
func (a *Adapter) await(ctx context.Context, id hypervisor.DomainID, done func(*domain) (bool, error)) error {
	for {
		a.host.mu.Lock()
		ok, err := done(a.host.domains[id])
		if !ok && err == nil {
			err = a.alive()
		}
		news := a.host.news
		a.host.mu.Unlock()
		switch {
		case ok || err != nil:
			return err
		case ctx.Err() != nil:
			return primitives.Errorf(primitives.CodeUnavailable, "no answer in time: %w", context.Cause(ctx))
		}
		select {
		case <-news:
		case <-ctx.Done():
		case <-a.closed:
		}
	}
}

func noDomain(id hypervisor.DomainID) *primitives.Error {
	return primitives.Errorf(primitives.CodeNotFound, "domain %s does not exist", id)
}

func noDisk(d hypervisor.DomainID, id hypervisor.DiskID) *primitives.Error {
	return primitives.Errorf(primitives.CodeNotFound, "domain %s has no disk %s", d, id)
}

func notRunning(v view, what string) *primitives.Error {
	return primitives.Errorf(primitives.CodeUnsupported, "%s: domain %s is not running", what, v.name)
}

// ended is the error of a call whose context ended before anything happened.
func ended(ctx context.Context, what string) error {
	code := primitives.CodeUnavailable
	if errors.Is(ctx.Err(), context.Canceled) {
		code = primitives.CodeCancelled
	}
	return primitives.Errorf(code, "%s: %w", what, context.Cause(ctx))
}
