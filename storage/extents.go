// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

type deltaReader struct {
	d     *Device
	inner primitives.DeltaReader
}

// Extents holds both objects until the sequence ends. A sequence that the driver
// yields out of order, or outside of what was asked for, is CodeInternal, since a
// copy made from it would be wrong.
func (r deltaReader) Extents(ctx context.Context, q primitives.DeltaRequest) iter.Seq2[primitives.Extent, error] {
	keys := reading(q.Target)
	if !q.Base.IsZero() {
		keys = append(keys, reading(q.Base)...)
	}
	return r.extents(ctx, q, keys)
}

// extents yields what the driver yields, from a goroutine of its own, so that a
// driver that blocks does not block the caller.
func (r deltaReader) extents(ctx context.Context, q primitives.DeltaRequest, keys []keylock.Key) iter.Seq2[primitives.Extent, error] {
	return func(yield func(primitives.Extent, error) bool) {
		if err := r.valid(q); err != nil {
			yield(primitives.Extent{}, r.d.refuse("extents", q.Target, err))
			return
		}
		ctx, stop := context.WithCancelCause(ctx)
		found := make(chan primitives.Extent, 256)
		ended := make(chan error, 1)
		defer func() {
			stop(errEnough)
			for range ended { // closed soon, as ctx ended
			}
		}()
		go func() {
			c := call{name: "extents", uri: q.Target, op: q.Op, keys: keys, long: true}
			c.op.Report = nil // reports only show that the listing is alive
			ended <- do(ctx, r.d, c, func(ctx context.Context, op primitives.Op) error {
				q.Op = op
				return r.feed(ctx, q, found)
			})
			close(ended)
		}()
		for {
			select {
			case e := <-found:
				if !yield(e, nil) {
					return
				}
			case err := <-ended:
				drain(found, err, yield)
				return
			}
		}
	}
}

var errEnough = errors.New("the caller has seen enough")

// drain yields what was found before the end.
func drain(found <-chan primitives.Extent, err error, yield func(primitives.Extent, error) bool) {
	for {
		select {
		case e := <-found:
			if !yield(e, nil) {
				return
			}
			continue
		default:
		}
		if err != nil {
			yield(primitives.Extent{}, err)
		}
		return
	}
}

func (r deltaReader) valid(q primitives.DeltaRequest) error {
	if q.Off < 0 || q.Len < 0 {
		return primitives.Invalid("offset", "%d bytes at %d are no range", q.Len, q.Off)
	}
	if err := r.d.object(q.Target); err != nil || q.Base.IsZero() {
		return err
	}
	return r.d.object(q.Base)
}

// feed checks each extent and hands it over. Waiting for the caller is no
// stall of the driver, so it is reported as life.
func (r deltaReader) feed(ctx context.Context, q primitives.DeltaRequest, found chan<- primitives.Extent) error {
	pulse := time.NewTicker(r.d.options.StallTimeout / 4)
	defer pulse.Stop()
	at := q.Off
	for e, err := range r.inner.Extents(ctx, q) {
		if err != nil {
			return err
		}
		if e.Off < at || e.Len <= 0 || e.Kind < primitives.ExtentData || e.Kind > primitives.ExtentZero || beyond(e, q) {
			return primitives.Errorf(primitives.CodeInternal, "the driver yielded %d bytes at %d after %d", e.Len, e.Off, at)
		}
		at = e.Off + e.Len
		for sent := false; !sent; {
			select {
			case found <- e:
				sent = true
			case <-pulse.C:
				q.Op.Report(primitives.Progress{Done: at})
			case <-ctx.Done():
				return ended(ctx)
			}
		}
	}
	return nil
}

// beyond reports whether e leaves the range that q asks for.
func beyond(e primitives.Extent, q primitives.DeltaRequest) bool {
	return q.Len > 0 && (e.Off-q.Off > q.Len || e.Len > q.Len-(e.Off-q.Off))
}
