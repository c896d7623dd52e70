// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"errors"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// ask describes one call to libvirt.
type ask struct {
	what   string              // for errors, such as "attach vdb"
	domain hypervisor.DomainID // the domain it concerns
	waits  bool                // it waits for QEMU, so a stopped QEMU can make it hang
	agent  bool                // the guest agent may be what it waits for: its success says nothing about QEMU
	limit  time.Duration       // 0: the adapter's
}

// lane is the breaker's name of what may hang: one domain, or one kind of reading.
// One that is slow, such as libvirt's first look at QEMU, says nothing about others.
func (q ask) lane() lane {
	if q.waits {
		return lane{name: string(q.domain), changes: true}
	}
	return lane{name: q.what}
}

// call runs one call to libvirt in its own goroutine and waits no longer than
// ctx and the limit allow. A call that was not waited for goes on; its result is
// dropped and logged.
func call[T any](ctx context.Context, a *Adapter, q ask, fn func(virt.Conn) (T, error)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, ended(ctx, q.what)
	}
	limit := q.limit
	if limit == 0 {
		limit = a.limit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errLimit)
	defer cancel()
	conn, err := a.link.get(ctx)
	if err != nil {
		return none, err
	}
	if q.waits {
		if err := a.admitDomain(ctx, conn, q); err != nil {
			return none, err
		}
	}
	v, err := run(ctx, a, conn, q, fn)
	if err == nil && q.waits && !q.agent {
		a.breaker.succeeded(q.lane(), time.Now())
	}
	if e, ok := errors.AsType[*virt.Error](err); ok {
		if e.Remote {
			a.link.drop(conn, e)
		}
		if e.Code == virt.CodeOperationTimeout && q.waits {
			a.breaker.trip(q.lane())
		}
		err = classify(q.what, e)
	}
	return v, err
}

// run is the bare bounded call.
func run[T any](ctx context.Context, a *Adapter, conn virt.Conn, q ask, fn func(virt.Conn) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var none T
	ticket, err := a.breaker.admit(q.lane(), q.what, time.Now())
	if err != nil {
		return none, err
	}
	results := make(chan result, 1)
	if q.waits {
		a.glances.changed()
	}
	go func() {
		v, err := fn(conn)
		if q.waits {
			a.glances.changed() // before anybody knows
		}
		results <- result{v, err}
		if late := ticket.returned(); late {
			a.log.WarnContext(ctx, "a call that was given up has returned", "call", q.what, "domain", q.domain,
				"took", time.Since(ticket.start), "err", err)
		}
	}()
	select {
	case r := <-results:
		a.log.DebugContext(ctx, "libvirt was called", "call", q.what, "domain", q.domain, "took", time.Since(ticket.start), "err", r.err)
		return r.v, r.err
	case <-ctx.Done():
	}
	if q.waits {
		// A call that is about to return is none that hangs, and what it did is known.
		last := time.NewTimer(lastWord)
		defer last.Stop()
		select {
		case r := <-results:
			return r.v, r.err
		case <-last.C:
		}
	}
	ticket.abandon()
	a.log.WarnContext(ctx, "a call was given up", "call", q.what, "domain", q.domain, "took", time.Since(ticket.start))
	return none, ended(ctx, q.what)
}

// lastWord is how long a call that changes a domain is waited for when its
// context has ended.
const lastWord = 250 * time.Millisecond

// monitorLimit is how long a monitor may be busy with one command before calls
// on its domain are refused instead of queued: libvirt lets them wait for 30 s.
const monitorLimit = 10 * time.Second

// admitDomain refuses a call on a domain whose monitor is stuck, also where
// another process got it stuck. It asks only where no call has just succeeded.
func (a *Adapter) admitDomain(ctx context.Context, conn virt.Conn, q ask) error {
	if a.breaker.wasFree(q.lane(), time.Now()) {
		return nil
	}
	probe := ask{what: "probe the monitor of " + string(q.domain), domain: q.domain}
	busy, err := run(ctx, a, conn, probe, func(c virt.Conn) (uint64, error) { return c.Occupied(string(q.domain)) })
	if err != nil {
		if _, ok := errors.AsType[*virt.Error](err); ok {
			return nil // the call itself finds out what is wrong
		}
		return err
	}
	stuck := time.Duration(busy) * time.Millisecond
	if stuck >= monitorLimit || stuck > 0 && a.breaker.tripped(q.lane()) {
		return notAnswering(q.what, stuck)
	}
	a.breaker.reset(q.lane())
	return nil
}

// probe asks beforehand what admitDomain would ask before the next call that
// changes the domain. An answer other than that it is free is left for that to get.
func (a *Adapter) probe(c virt.Conn, v view) {
	lane := ask{domain: hypervisor.DomainID(v.UUID), waits: true}.lane()
	if a.breaker.wasFree(lane, time.Now()) {
		return
	}
	began := time.Now()
	if busy, err := c.Occupied(v.UUID); err == nil && busy == 0 {
		a.breaker.succeeded(lane, began)
	}
}

var errLimit = errors.New("the limit for one call has passed")

// ended is the error of a call whose context ended first.
func ended(ctx context.Context, what string) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) {
		return primitives.Errorf(primitives.CodeCancelled, "%s: %w", what, cause)
	}
	return primitives.Errorf(primitives.CodeUnavailable, "%s: no answer in time: %w", what, cause)
}
