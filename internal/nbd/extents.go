// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"errors"
	"iter"
	"slices"
)

// BlockStatus asks once for the status of length bytes at off in every granted
// metadata context, by name. The server may answer for less than was asked, but
// for something; what it says beyond the range is left out. Use Extents to cover
// a range.
func (c *Client) BlockStatus(ctx context.Context, off, length int64) (map[string][]Extent, error) {
	if len(c.contexts) == 0 {
		return nil, &Error{
			Command: cmdBlockStatus.String(), Offset: off, Length: length,
			Err: errors.ErrUnsupported, Message: "no metadata context was granted",
		}
	}
	if err := c.check(cmdBlockStatus, off, length); err != nil || length == 0 {
		return nil, err
	}
	r := newCall(cmdBlockStatus, 0, off, min(length, maxStatus))
	if err := c.do(ctx, r, nil); err != nil {
		return nil, err
	}
	status := make(map[string][]Extent, len(r.extents))
	for id, extents := range r.extents {
		status[c.contexts[id]] = extents
	}
	return status, nil
}

// maxStatus is the longest range asked for at once: below 2³², and a multiple of
// every permitted minimum block size.
const maxStatus = 1<<32 - 1<<16

// Extents yields the extents of one metadata context from off up to off+length:
// in order, without gaps, neighbours with different flags. The range may begin
// and end within a block. It asks the server as it goes, so the volume may
// change under it. A failure is yielded once, last; a context that was not
// granted is errors.ErrUnsupported.
func (c *Client) Extents(ctx context.Context, metaContext string, off, length int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if err := c.check(cmdBlockStatus, off, length); err != nil && !errors.Is(err, ErrUnaligned) {
			yield(Extent{}, err)
			return
		}
		if !slices.Contains(c.info.MetaContexts, metaContext) {
			yield(Extent{}, &Error{
				Command: cmdBlockStatus.String(), Offset: off, Length: length,
				Err: errors.ErrUnsupported, Message: "metadata context " + metaContext + " was not granted",
			})
			return
		}
		c.extents(ctx, metaContext, off, length, yield)
	}
}

// extents holds each extent back until it knows that the next one differs.
func (c *Client) extents(ctx context.Context, metaContext string, off, length int64, yield func(Extent, error) bool) {
	end := off + length
	// Blocks are asked for whole: off rounds down, and the end up.
	block := c.info.MinBlock
	at := off / block * block
	last := min((end+block-1)/block*block, c.info.Size)
	var held Extent
	for at < last && length > 0 {
		status, err := c.BlockStatus(ctx, at, last-at)
		if err != nil {
			if held.Length > 0 && !yield(held, nil) {
				return
			}
			yield(Extent{}, err)
			return
		}
		for _, e := range status[metaContext] {
			at = e.End()
			e = clip(e, off, end)
			switch {
			case e.Length == 0:
			case held.Length == 0:
				held = e
			case held.Flags == e.Flags:
				held.Length += e.Length
			case !yield(held, nil):
				return
			default:
				held = e
			}
		}
	}
	if held.Length > 0 {
		yield(held, nil)
	}
}

// clip is the part of e from off up to end.
func clip(e Extent, off, end int64) Extent {
	from, to := max(e.Offset, off), min(e.End(), end)
	return Extent{Offset: from, Length: max(to-from, 0), Flags: e.Flags}
}
