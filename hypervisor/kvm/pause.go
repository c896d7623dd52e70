// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// Pause stops a domain's processors. QEMU answers when all requests of the guest
// have ended.
func (a *Adapter) Pause(ctx context.Context, d hypervisor.DomainID) error {
	v, err := a.look(ctx, d)
	switch {
	case err != nil:
		return err
	case v.live == nil:
		return offNow(v, "pause")
	case v.Run == virt.Paused:
		return nil
	}
	q := ask{what: "pause domain " + v.Name, domain: d, waits: true}
	return a.do(ctx, q, func(c virt.Conn) error { return c.Suspend(string(d)) })
}

// ioerror is libvirt's reason of a domain that its hypervisor paused because a
// request of the guest failed.
const ioerror = "ioerror"

// steady is how long a domain that was paused for an I/O error has to run before it
// counts as going on: QEMU repeats the request that failed at once.
const steady = time.Second

// resumes is how often such a domain is resumed. Over NBD, QEMU spends the first
// request after a resume on connecting to the server again, and pauses once more.
const resumes = 2

// Resume lets a domain's processors go on, and sees that they do.
func (a *Adapter) Resume(ctx context.Context, d hypervisor.DomainID) error {
	for again := range resumes + 1 {
		v, err := a.look(ctx, d)
		switch {
		case err != nil:
			return err
		case v.live == nil:
			return offNow(v, "resume")
		case v.Run != virt.Paused:
			return nil
		case again == resumes:
			return primitives.Errorf(primitives.CodeInUse, "domain %s pauses again at once: %s", v.Name, v.Reason).
				By(primitives.Blocker{Kind: "domain", Name: v.Name}).Trying("see that its disks' devices work, then repeat")
		}
		q := ask{what: "resume domain " + v.Name, domain: d, waits: true}
		if err := a.do(ctx, q, func(c virt.Conn) error { return c.Resume(string(d)) }); err != nil {
			return err
		}
		if v.Reason == ioerror {
			if err := a.awaitPause(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitPause looks, again at each event, until the domain is paused or has run for
// a while.
func (a *Adapter) awaitPause(ctx context.Context, d hypervisor.DomainID) error {
	me := a.watchers.join()
	defer a.watchers.leave(me)
	enough := time.NewTimer(steady)
	defer enough.Stop()
	for {
		if v, err := a.look(ctx, d); err != nil || v.Run != virt.Running {
			return err
		}
		select {
		case <-me.ready:
			a.watchers.take(me)
		case <-enough.C:
			return nil
		case <-ctx.Done():
			return ended(ctx, "see whether domain "+string(d)+" goes on")
		}
	}
}

// offNow refuses what needs a domain that is up at the moment.
func offNow(v view, what string) *primitives.Error {
	return primitives.Errorf(primitives.CodeConflict, "%s: domain %s is off", what, v.Name).Trying("start the domain first")
}
