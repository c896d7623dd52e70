// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"context"
	"errors"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Start starts a defined domain with the disks of its definition.
func (a *Adapter) Start(ctx context.Context, id hypervisor.DomainID) error {
	v, err := a.look(ctx, id)
	if err != nil || v.up {
		return err
	}
	return a.act(ctx, Call{Name: "start", Domain: id}, a.host.start)
}

// Shutdown asks the guest to power off and waits until the domain has ended.
func (a *Adapter) Shutdown(ctx context.Context, id hypervisor.DomainID) error {
	v, err := a.look(ctx, id)
	if err != nil || !v.up {
		return err
	}
	err = a.act(ctx, Call{Name: "shutdown", Domain: id}, func(d *domain) error {
		d.stopping = d.up // what the guest does about it, settle says
		return nil
	})
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // a transient one ended by itself
	}
	if err != nil {
		return err
	}
	err = a.await(ctx, id, func(d *domain) (bool, error) { return d == nil || !d.up, nil })
	if ctx.Err() != nil && errors.Is(err, primitives.CodeUnavailable) {
		return primitives.Errorf(primitives.CodeUnavailable, "domain %s is still up: %w", v.name, context.Cause(ctx)).
			By(primitives.Blocker{Kind: "domain", Name: v.name}).Trying("repeat when the guest has booted and responds")
	}
	return err
}
