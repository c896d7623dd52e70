// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"fmt"

	"github.com/tenon-storage/tenon/primitives"
)

type resizer struct{ b *backend }

func (r resizer) Resize(ctx context.Context, u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
	b := r.b
	return call(ctx, b, "resize", func() (primitives.Object, error) {
		if err := b.mine(u); err != nil {
			return primitives.Object{}, err
		}
		want, err := b.cfg.roundUp(size)
		if err != nil {
			return primitives.Object{}, err
		}
		args := fmt.Sprintf("resize of %s to %d bytes", u.Short(), want)
		return once(b.s, op.ID, args, func() (primitives.Object, error) { return b.resize(u, want, op) })
	})
}

func (b *backend) resize(u primitives.URI, size int64, op primitives.Op) (primitives.Object, error) {
	v, err := b.s.changeable(u, op.IfGen)
	if err != nil {
		return primitives.Object{}, err
	}
	if v.state == primitives.Incomplete {
		return primitives.Object{}, errIncomplete(u)
	}
	if size == v.c.size {
		return b.render(u, &v.object), nil
	}
	if size < v.c.size {
		// A guest that still uses the tail would find it gone.
		if err := b.s.unmapped(v, u); err != nil {
			return primitives.Object{}, err
		}
	}
	if err := b.s.space.resize(v.c, size, b.cfg.capacity); err != nil {
		return primitives.Object{}, err
	}
	v.gen++
	return b.render(u, &v.object), nil
}
