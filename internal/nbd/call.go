// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// call is one request and what has come of it. The reading goroutine alone uses
// parts, extents and failure, and its caller after done is closed.
type call struct {
	request
	parts   coverage            // of a read: what has arrived
	extents map[uint32][]Extent // of a block status, by context id
	failure error               // the first error chunk

	done chan struct{} // closed when err is set

	mu       sync.Mutex // guards what follows
	buf      []byte     // of a read: the caller's, nil once the call is over for the caller
	finished bool
	err      error
}

func newCall(cmd command, flags Flags, off, length int64) *call {
	return &call{
		request: request{cmd: cmd, flags: flags, offset: uint64(off), length: uint32(length)},
		done:    make(chan struct{}),
	}
}

// store copies data that arrived for a read. A caller that gave up owns its
// buffer again, so its data is dropped.
func (r *call) store(at int64, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buf != nil {
		copy(r.buf[at:], data)
	}
}

func (r *call) storeZeroes(at, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buf != nil {
		clear(r.buf[at:][:n])
	}
}

// abandon takes the buffer back. The call stays pending: its reply must be
// understood to find the next one.
func (r *call) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = nil
}

func (r *call) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.finished {
		return
	}
	r.finished, r.err, r.buf = true, err, nil
	close(r.done)
}

func (r *call) wrap(err error, message string) error {
	return &Error{Command: r.cmd.String(), Offset: int64(r.offset), Length: int64(r.length), Err: err, Message: message}
}

// do sends one request and waits for its reply.
func (c *Client) do(ctx context.Context, r *call, payload []byte) error {
	if c.options.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.options.Timeout)
		defer cancel()
	}
	if err := c.submit(ctx, r, payload); err != nil {
		return err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		r.abandon()
		return r.wrap(context.Cause(ctx), "")
	}
	if errors.Is(r.err, syscall.ESHUTDOWN) {
		// "If the client receives an NBD_ESHUTDOWN error it MUST initiate a
		// soft disconnect."
		c.disconnect(fmt.Errorf("%w: %w", ErrDisconnected, r.err))
	}
	return r.err
}

// submit waits for its turn and sends. Once the call is pending, what becomes of
// it, a failed send included, is told by done.
func (c *Client) submit(ctx context.Context, r *call, payload []byte) error {
	for _, turn := range []chan struct{}{c.slots, c.send} {
		select {
		case <-c.dead:
			return c.failure()
		default:
		}
		select {
		case turn <- struct{}{}:
		case <-c.dead:
			return c.failure()
		case <-ctx.Done():
			if turn == c.send {
				<-c.slots
			}
			return r.wrap(context.Cause(ctx), "")
		}
	}
	defer func() { <-c.send }()
	if ctx.Err() != nil {
		<-c.slots
		return r.wrap(context.Cause(ctx), "")
	}
	if err := c.register(r); err != nil {
		return err
	}
	defer c.limitSend(ctx)()
	message := net.Buffers{r.append(make([]byte, 0, requestSize))}
	if len(payload) > 0 {
		message = append(message, payload)
	}
	if _, err := message.WriteTo(c.conn); err != nil {
		c.fail(err)
	}
	return nil
}

func (c *Client) register(r *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	c.cookie++
	r.cookie = c.cookie
	c.pending[r.cookie] = r
	return nil
}

// limitSend gives a send patience after ctx has ended. Half a message would be
// the end of the connection for everybody, so the end of one caller's context
// does not cut it; a server that reads nothing does.
func (c *Client) limitSend(ctx context.Context) (lift func()) {
	ran := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ran)
		_ = c.conn.SetWriteDeadline(time.Now().Add(patience)) // fails only if closed
	})
	return func() {
		if !stop() {
			<-ran
			_ = c.conn.SetWriteDeadline(time.Time{})
		}
	}
}

func (c *Client) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// end refuses further requests with err and fails those under way.
func (c *Client) end(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
		close(c.dead)
	}
	err = c.err
	calls := c.pending
	c.pending = make(map[uint64]*call)
	c.mu.Unlock()
	for _, r := range calls {
		r.finish(err)
	}
}

// fail gives the connection up because of err.
func (c *Client) fail(err error) {
	c.end(fmt.Errorf("%w: %w", ErrDisconnected, err))
	c.conn.Close() // err has the cause; closing ends the reading goroutine
}

// disconnect is a soft disconnect ("Terminating the transmission phase"). The
// reading goroutine closes the connection once the server has.
func (c *Client) disconnect(why error) {
	c.end(why)
	// These fail only on a connection that is closed already.
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	c.send <- struct{}{}
	defer func() { <-c.send }()
	// Once more: the send that ended just now may have lifted its own limit.
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	_, _ = c.conn.Write(request{cmd: cmdDisc}.append(nil))
}
