// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxInFlight bounds the requests under way on one connection, those whose
	// callers gave up included. qemu-nbd reads no more than 16 at a time.
	maxInFlight = 128
	// partsAtOnce is how many parts of one split request are under way.
	partsAtOnce = 8
	// patience is how long a send may go on after its context has ended, and
	// how long Close waits for the server. A message that is cut off ends the
	// connection, so a server that still reads is given the time.
	patience = time.Second
)

// Client is one connection to one export. Its methods may be called from many
// goroutines at once; their requests are then under way at the same time, and
// may be carried out in any order. Every error but a refusal of one request
// ends the connection: then all requests fail with ErrDisconnected.
type Client struct {
	info     Info
	options  Options
	contexts map[uint32]string // granted metadata contexts by id
	conn     net.Conn

	send  chan struct{} // full while somebody writes to conn
	slots chan struct{} // one element per request in flight

	mu      sync.Mutex // guards what follows
	pending map[uint64]*call
	cookie  uint64
	err     error // why no request can be sent any more

	dead chan struct{} // closed when err is set
	read chan struct{} // closed when the reading goroutine has ended
}

// Info returns what the server said about the export.
func (c *Client) Info() Info { return c.info }

// Size is the export's size in bytes.
func (c *Client) Size() int64 { return c.info.Size }

// MetaContexts are the metadata contexts that the server granted.
func (c *Client) MetaContexts() []string { return c.info.MetaContexts }

// ReadAt fills p with the bytes at off, all or none: after a failure p's
// content is undefined. When ctx ends it returns at once, and p is the caller's again.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.check(cmdRead, off, int64(len(p))); err != nil {
		return err
	}
	return c.split(ctx, off, int64(len(p)), c.payloadLimit(), func(ctx context.Context, at, n int64) error {
		r := newCall(cmdRead, 0, at, n)
		r.buf = p[at-off:][:n]
		return c.do(ctx, r, nil)
	})
}

// WriteAt writes p at off. Without FUA the bytes may be lost with the server's
// power until Flush has returned. After a failure, the end of ctx included, any
// part of p may have been written or may still be.
func (c *Client) WriteAt(ctx context.Context, p []byte, off int64, flags Flags) error {
	if err := c.check(cmdWrite, off, int64(len(p))); err != nil {
		return err
	}
	return c.durably(ctx, flags&FUA, func(flags Flags) error {
		return c.split(ctx, off, int64(len(p)), c.payloadLimit(), func(ctx context.Context, at, n int64) error {
			return c.do(ctx, newCall(cmdWrite, flags, at, n), p[at-off:][:n])
		})
	})
}

// WriteZeroes makes length bytes at off read as zeroes; flags are FUA, NoHole
// and FastZero. Where the server cannot do it itself, zeroes are sent, unless
// FastZero asks for errors.ErrUnsupported instead.
func (c *Client) WriteZeroes(ctx context.Context, off, length int64, flags Flags) error {
	if err := c.check(cmdWriteZeroes, off, length); err != nil {
		return err
	}
	flags &= FUA | NoHole | FastZero
	if flags&FastZero != 0 && !c.info.CanFastZero {
		return &Error{Command: "fast " + cmdWriteZeroes.String(), Offset: off, Length: length, Err: errors.ErrUnsupported}
	}
	if !c.info.CanZero {
		return c.sendZeroes(ctx, off, length, flags)
	}
	return c.durably(ctx, flags, func(flags Flags) error {
		return c.split(ctx, off, length, maxEffect, func(ctx context.Context, at, n int64) error {
			return c.do(ctx, newCall(cmdWriteZeroes, flags, at, n), nil)
		})
	})
}

func (c *Client) sendZeroes(ctx context.Context, off, length int64, flags Flags) error {
	limit := min(c.payloadLimit(), max(1<<20, c.info.MinBlock))
	zeroes := make([]byte, min(length, limit))
	return c.durably(ctx, flags&FUA, func(flags Flags) error {
		return c.split(ctx, off, length, limit, func(ctx context.Context, at, n int64) error {
			return c.do(ctx, newCall(cmdWrite, flags, at, n), zeroes[:n])
		})
	})
}

// Trim tells the server that nobody needs length bytes at off any more; what
// they read as is then undefined. A server that cannot use the hint fails with
// errors.ErrUnsupported.
func (c *Client) Trim(ctx context.Context, off, length int64, flags Flags) error {
	if err := c.check(cmdTrim, off, length); err != nil {
		return err
	}
	if !c.info.CanTrim {
		return &Error{Command: cmdTrim.String(), Offset: off, Length: length, Err: errors.ErrUnsupported}
	}
	return c.durably(ctx, flags&FUA, func(flags Flags) error {
		return c.split(ctx, off, length, maxEffect, func(ctx context.Context, at, n int64) error {
			return c.do(ctx, newCall(cmdTrim, flags, at, n), nil)
		})
	})
}

// Flush returns once every write that had returned before is on stable storage.
// A server that cannot say so fails with errors.ErrUnsupported.
func (c *Client) Flush(ctx context.Context) error {
	if !c.info.CanFlush {
		return &Error{Command: cmdFlush.String(), Err: errors.ErrUnsupported}
	}
	return c.do(ctx, newCall(cmdFlush, 0, 0, 0), nil)
}

// Close ends the connection politely and waits for the server to have seen
// it, a second at most. Requests under way fail with ErrClosed. Closing twice is
// as closing once.
func (c *Client) Close() error {
	c.disconnect(ErrClosed)
	<-c.read
	return nil
}

// check refuses what the server would have to, with the errors it should use
// ("Error values"), and what must not be sent ("Size constraints").
func (c *Client) check(cmd command, off, length int64) error {
	refuse := func(err error, why string) error {
		return &Error{Command: cmd.String(), Offset: off, Length: length, Err: err, Message: why}
	}
	changes := cmd == cmdWrite || cmd == cmdWriteZeroes || cmd == cmdTrim
	switch {
	case changes && c.info.ReadOnly:
		return refuse(syscall.EPERM, "the export is read-only")
	case off < 0 || length < 0:
		return refuse(syscall.EINVAL, "negative range")
	case off > c.info.Size || length > c.info.Size-off:
		why := fmt.Sprintf("the export ends at %d", c.info.Size)
		if changes && cmd != cmdTrim {
			return refuse(syscall.ENOSPC, why)
		}
		return refuse(syscall.EINVAL, why)
	case off%c.info.MinBlock != 0 || length%c.info.MinBlock != 0:
		return refuse(ErrUnaligned, fmt.Sprintf("blocks have %d bytes", c.info.MinBlock))
	}
	return nil
}

// payloadLimit is the longest read or write sent as one request.
func (c *Client) payloadLimit() int64 {
	limit := c.info.MaxPayload
	if asked := c.options.MaxRequest; asked > 0 {
		limit = min(limit, max(asked/c.info.MinBlock, 1)*c.info.MinBlock)
	}
	return limit
}

// split does a range in parts of at most limit bytes, several at once. The first
// failure ends the others.
func (c *Client) split(ctx context.Context, off, length, limit int64, do func(ctx context.Context, off, n int64) error) error {
	if length == 0 {
		return nil
	}
	if length <= limit {
		return do(ctx, off, length)
	}
	parts, partly := errgroup.WithContext(ctx)
	parts.SetLimit(partsAtOnce)
	for end := off + length; off < end && partly.Err() == nil; off += min(limit, end-off) {
		at, n := off, min(limit, end-off)
		parts.Go(func() error { return do(partly, at, n) })
	}
	return parts.Wait()
}

// durably runs do with flags; a server without FUA gets a flush after it.
func (c *Client) durably(ctx context.Context, flags Flags, do func(Flags) error) error {
	flush := flags&FUA != 0 && !c.info.CanFUA
	if flush {
		flags &^= FUA
	}
	if err := do(flags); err != nil || !flush {
		return err
	}
	return c.Flush(ctx)
}

// At returns the export as the interfaces of package io, for the life of ctx.
func (c *Client) At(ctx context.Context) interface {
	io.ReaderAt
	io.WriterAt
} {
	return ioAt{ctx: ctx, c: c}
}

// ioAt carries a context because io.ReaderAt cannot.
type ioAt struct {
	ctx context.Context
	c   *Client
}

func (a ioAt) ReadAt(p []byte, off int64) (int, error) {
	short := off+int64(len(p)) > a.c.Size()
	if off >= a.c.Size() {
		return 0, io.EOF
	}
	if short {
		p = p[:a.c.Size()-off]
	}
	if err := a.c.ReadAt(a.ctx, p, off); err != nil {
		return 0, err
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

func (a ioAt) WriteAt(p []byte, off int64) (int, error) {
	if err := a.c.WriteAt(a.ctx, p, off, 0); err != nil {
		return 0, err
	}
	return len(p), nil
}
