// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"context"
	"sync/atomic"

	"github.com/tenon-storage/tenon/primitives"
)

// bentFencer is a Fencer each of whose calls can be replaced alone.
type bentFencer struct {
	holders func(ctx context.Context) ([]primitives.Holder, error)
	fence   func(ctx context.Context, op primitives.Op) (primitives.FenceReport, error)
	unfence func(ctx context.Context, op primitives.Op) error
}

func (f *bentFencer) Holders(ctx context.Context) ([]primitives.Holder, error) { return f.holders(ctx) }

func (f *bentFencer) Fence(ctx context.Context, op primitives.Op) (primitives.FenceReport, error) {
	return f.fence(ctx, op)
}

func (f *bentFencer) Unfence(ctx context.Context, op primitives.Op) error { return f.unfence(ctx, op) }

// through runs a call on a fenced store as if it were open. The fence stands
// again when it ends; what the call gave lives on.
func through(ctx context.Context, f primitives.Fencer, call func() error) error {
	err := call()
	if primitives.CodeOf(err) != primitives.CodeFenced {
		return err
	}
	if err := f.Unfence(ctx, primitives.Op{}); err != nil {
		return err
	}
	err = call()
	_, _ = f.Fence(ctx, primitives.Op{}) // refused where the call holds something: it stays open
	return err
}

// fenceMutants fence wrongly.
var fenceMutants = []Mutant{
	bends("a fence does not look for holders", func(b *bent) {
		fence := b.fencer.fence
		b.fencer.fence = func(ctx context.Context, op primitives.Op) (primitives.FenceReport, error) {
			r, err := fence(ctx, op)
			if primitives.CodeOf(err) == primitives.CodeInUse {
				return primitives.FenceReport{Method: "hope", Evidence: "none"}, nil
			}
			return r, err
		}
	}),
	remembers("a fence is forgotten on reopen", func() func(*bent, primitives.OpenRequest) {
		return func(b *bent, _ primitives.OpenRequest) { _ = b.fencer.unfence(context.Background(), primitives.Op{}) }
	}),
	bends("unfence loses content", func(b *bent) {
		unfence := b.fencer.unfence
		b.fencer.unfence = func(ctx context.Context, op primitives.Op) error {
			d, err := b.in.Describe(ctx)
			if err != nil || !d.Fenced {
				return err
			}
			if err := unfence(ctx, op); err != nil {
				return err
			}
			w, err := b.in.Write(ctx, primitives.URI{Device: device, Volume: "vol"}, primitives.WriteRequest{})
			if err != nil {
				return nil
			}
			if err := w.ZeroAt(0, 512); err != nil {
				return err
			}
			_, err = w.Commit(ctx)
			return err
		}
	}),
	bends("a fenced device is still read", func(b *bent) {
		read := b.read
		b.read = func(ctx context.Context, u primitives.URI, op primitives.Op) (r primitives.Reader, err error) {
			err = through(ctx, b.in.Facets().Fence, func() (err error) {
				r, err = read(ctx, u, op)
				return err
			})
			return r, err
		}
	}),
	bends("a fenced device is still mapped", func(b *bent) {
		doMap := b.maps.doMap
		b.maps.doMap = func(ctx context.Context, u primitives.URI, r primitives.MapRequest) (m primitives.Mapping, err error) {
			err = through(ctx, b.in.Facets().Fence, func() (err error) {
				m, err = doMap(ctx, u, r)
				return err
			})
			return m, err
		}
	}),
	bends("a fenced device does not say so", func(b *bent) {
		describe := b.describe
		b.describe = func(ctx context.Context) (primitives.Description, error) {
			d, err := describe(ctx)
			d.Fenced = false
			return d, err
		}
	}),
	bends("holders are those that this backend let in", func(b *bent) {
		activate, holders := b.maps.activate, b.fencer.holders
		var let atomic.Bool
		b.maps.activate = func(ctx context.Context, id primitives.MappingID, op primitives.Op) (primitives.Mapping, error) {
			let.Store(true)
			return activate(ctx, id, op)
		}
		b.fencer.holders = func(ctx context.Context) ([]primitives.Holder, error) {
			if !let.Load() {
				return nil, nil
			}
			return holders(ctx)
		}
	}),
	bends("holders are those of the last look", func(b *bent) {
		holders := b.fencer.holders
		var last atomic.Pointer[[]primitives.Holder]
		b.fencer.holders = func(ctx context.Context) ([]primitives.Holder, error) {
			if seen := last.Load(); seen != nil {
				return *seen, nil
			}
			all, err := holders(ctx)
			last.Store(&all)
			return all, err
		}
	}),
	bends("a repeated fence is a conflict", func(b *bent) {
		fence := b.fencer.fence
		b.fencer.fence = func(ctx context.Context, op primitives.Op) (primitives.FenceReport, error) {
			if d, err := b.in.Describe(ctx); err == nil && d.Fenced {
				return primitives.FenceReport{}, primitives.Errorf(primitives.CodeConflict, "it is fenced already")
			}
			return fence(ctx, op)
		}
	}),
	bends("unfence of a device that is not fenced fails", func(b *bent) {
		unfence := b.fencer.unfence
		b.fencer.unfence = func(ctx context.Context, op primitives.Op) error {
			if d, err := b.in.Describe(ctx); err == nil && !d.Fenced {
				return primitives.Errorf(primitives.CodeConflict, "it is not fenced")
			}
			return unfence(ctx, op)
		}
	}),
	bends("a fence says nothing of how it was made", func(b *bent) {
		fence := b.fencer.fence
		b.fencer.fence = func(ctx context.Context, op primitives.Op) (primitives.FenceReport, error) {
			_, err := fence(ctx, op)
			return primitives.FenceReport{}, err
		}
	}),
}
