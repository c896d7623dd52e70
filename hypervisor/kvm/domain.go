// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// Domains lists every domain, in order of name.
func (a *Adapter) Domains(ctx context.Context) ([]hypervisor.Domain, error) {
	views, err := call(ctx, a, ask{what: "list domains"},
		func(c virt.Conn) ([]view, error) { return listViews(c, &a.readings) })
	if err != nil {
		return nil, err
	}
	out := make([]hypervisor.Domain, len(views))
	for i, v := range views {
		out[i] = v.domain()
	}
	slices.SortFunc(out, func(a, b hypervisor.Domain) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Domain finds one domain. An attach to it that comes at once builds upon what
// was seen here (see [glances]).
func (a *Adapter) Domain(ctx context.Context, nameOrID string) (hypervisor.Domain, error) {
	if nameOrID == "" {
		return hypervisor.Domain{}, primitives.Invalid("domain", "it is empty; expected a domain's name or ID")
	}
	g := a.glances.begin(nameOrID)
	v, err := call(ctx, a, ask{what: fmt.Sprintf("find domain %q", nameOrID)}, func(c virt.Conn) (view, error) {
		d, err := lookUp(c, nameOrID)
		if err != nil {
			return view{}, err
		}
		v, err := readView(c, d, &a.readings)
		if err == nil && v.live != nil {
			a.probe(c, v)
		}
		return v, err
	})
	a.glances.end(g, v, err)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	return v.domain(), nil
}

// lookUp asks for a name only where no domain has it as its ID.
func lookUp(c virt.Conn, nameOrID string) (virt.Domain, error) {
	id := strings.ToLower(nameOrID)
	if checkDomain(hypervisor.DomainID(id)) == nil {
		d, err := c.State(id)
		if e, ok := errors.AsType[*virt.Error](err); !ok || e.Code != virt.CodeNoDomain {
			return d, err
		}
	}
	return c.ByName(nameOrID)
}

// Disks lists a domain's disks.
func (a *Adapter) Disks(ctx context.Context, d hypervisor.DomainID) ([]hypervisor.Disk, error) {
	v, err := a.look(ctx, d)
	if err != nil {
		return nil, err
	}
	a.removals.settle(d, v)
	return v.disks(func(alias string) bool { return a.removals.has(d, alias) }), nil
}

// claim takes the right to change a domain's disks and reads what there is. It
// is refused while a call that was given up may still change something, so that
// what was read stays true until unlock.
func (a *Adapter) claim(ctx context.Context, d hypervisor.DomainID, what string) (v view, unlock func(), err error) {
	unlock, err = a.reserve(ctx, d, what)
	if err != nil {
		return view{}, nil, err
	}
	v, err = a.look(ctx, d)
	if err != nil {
		unlock()
		return view{}, nil, err
	}
	return v, unlock, nil
}

// reserve is claim without reading anything.
func (a *Adapter) reserve(ctx context.Context, d hypervisor.DomainID, what string) (unlock func(), err error) {
	if err := checkDomain(d); err != nil {
		return nil, err
	}
	unlock, err = a.lock(ctx, domainKey(d))
	if err != nil {
		return nil, err
	}
	if _, err := a.breaker.admit(ask{domain: d, waits: true}.lane(), what, time.Now()); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// look reads a domain as it is now.
func (a *Adapter) look(ctx context.Context, d hypervisor.DomainID) (view, error) {
	return a.lookNamed(ctx, d, "")
}

// lookNamed is look at a domain that has to bear a name, unless that is "".
func (a *Adapter) lookNamed(ctx context.Context, d hypervisor.DomainID, name string) (view, error) {
	if err := checkDomain(d); err != nil {
		return view{}, err
	}
	return call(ctx, a, ask{what: "read domain " + string(d), domain: d}, func(c virt.Conn) (view, error) {
		state, err := stateOf(c, d, name)
		if err != nil {
			return view{}, err
		}
		return readView(c, state, &a.readings)
	})
}

func stateOf(c virt.Conn, d hypervisor.DomainID, name string) (virt.Domain, error) {
	if name == "" {
		return c.State(string(d))
	}
	state, err := c.ByName(name)
	if err == nil && state.UUID != string(d) {
		err = primitives.Errorf(primitives.CodeConflict, "the name %q belongs to another domain now: %s is not %s", name, state.UUID, d).
			Trying("repeat the request")
	}
	return state, err
}

// listViews reads all domains; one that goes away meanwhile is left out.
func listViews(c virt.Conn, read *readings) ([]view, error) {
	all, err := c.Domains()
	if err != nil {
		return nil, err
	}
	var out []view
	for _, d := range all {
		v, err := readView(c, d, read)
		if e, ok := errors.AsType[*virt.Error](err); ok && e.Code == virt.CodeNoDomain {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// readView reads both halves of a domain. None of it waits for QEMU. The name is
// that in the XML: d may have had another when it was looked up.
func readView(c virt.Conn, d virt.Domain, read *readings) (view, error) {
	v := view{Domain: d}
	if d.Run != virt.Off && d.Run != virt.Crashed {
		live, err := readHalf(c, d.UUID, virt.Live, read)
		if err != nil {
			return view{}, err
		}
		if live.ID == nil { // only a running domain has a number: it ended just now
			v.Run, v.Reason = virt.Off, ""
		} else {
			v.live, v.Name = live, live.Name
		}
	}
	if d.Persistent {
		config, err := readHalf(c, d.UUID, virt.Config, read)
		if err != nil {
			return view{}, err
		}
		v.config, v.Name = config, config.Name
	}
	return v, nil
}

func readHalf(c virt.Conn, uuid string, half virt.Half, read *readings) (*libvirtxml.Domain, error) {
	text, err := c.XML(uuid, half)
	if err != nil {
		return nil, err
	}
	if d := read.get(uuid, half, text); d != nil {
		return d, nil
	}
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		return nil, primitives.Errorf(primitives.CodeInternal, "read the XML of domain %s: %w", uuid, err)
	}
	read.put(uuid, half, text, &d)
	return &d, nil
}
