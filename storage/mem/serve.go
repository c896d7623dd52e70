// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/tenon-storage/tenon/internal/nbd"
	"github.com/tenon-storage/tenon/primitives"
)

// exportName is the one export of every socket.
const exportName = "volume"

// goodbye is how long a client that hung up may take to be noticed.
const goodbye = 500 * time.Millisecond

// server answers on one mapping's socket. The store's lock guards its fields.
type server struct {
	s        *store
	l        net.Listener
	limit    int64 // of the store's space
	readOnly bool
	pick     func() *content // what is shown
	end      context.CancelFunc
	stopped  bool
	clients  int
	left     chan struct{} // closed when the last client leaves; nil without any
}

// serve begins to answer on socket with the content that pick chooses anew for
// each request. The store's lock is held.
func serve(s *store, limit int64, socket string, pick func() *content, readOnly bool) (*server, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, primitives.Errorf(primitives.CodeUnavailable, "a stale socket is in the way: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, primitives.Errorf(primitives.CodeUnavailable, "no socket for the mapping: %w", err)
	}
	sv := &server{s: s, l: l, limit: limit, readOnly: readOnly, pick: pick}
	var ctx context.Context
	ctx, sv.end = context.WithCancel(context.Background())
	go sv.accept(ctx)
	return sv, nil
}

// accept serves each client by itself, so that a new one sees the size of now.
func (sv *server) accept(ctx context.Context) {
	for {
		conn, err := sv.l.Accept()
		if err != nil {
			return
		}
		size, ok := sv.enter()
		if !ok {
			_ = conn.Close()
			return
		}
		go func() {
			defer sv.leave()
			_ = nbd.Serve(ctx, newOneConn(conn), nbd.Export{Name: exportName, Size: size, ReadOnly: sv.readOnly, Backend: bytesOf{sv}})
		}()
	}
}

func (sv *server) enter() (size int64, ok bool) {
	sv.s.mu.Lock()
	defer sv.s.mu.Unlock()
	if sv.stopped {
		return 0, false
	}
	if sv.clients++; sv.clients == 1 {
		sv.left = make(chan struct{})
	}
	return sv.pick().size, true
}

func (sv *server) leave() {
	sv.s.mu.Lock()
	defer sv.s.mu.Unlock()
	if sv.clients--; sv.clients == 0 {
		close(sv.left)
	}
}

// show changes what the socket leads to, without its clients noticing.
func (sv *server) show(pick func() *content) { sv.pick = pick }

func (sv *server) connections() int {
	if sv == nil {
		return 0
	}
	return sv.clients
}

// stop lets no request in any more. The clients' connections end on their own
// goroutines, which may wait for the store's lock. The socket is gone at once,
// since the next Activate makes one of the same name.
func (sv *server) stop() {
	sv.stopped = true
	_ = sv.l.Close()
	sv.end()
}

// lastLeft waits a moment for clients that have hung up already. The store's lock
// is not held.
func (sv *server) lastLeft(ctx context.Context) {
	if sv == nil {
		return
	}
	sv.s.mu.Lock()
	busy, left := sv.clients > 0, sv.left
	sv.s.mu.Unlock()
	if !busy {
		return
	}
	t := time.NewTimer(goodbye)
	defer t.Stop()
	select {
	case <-left:
	case <-t.C:
	case <-ctx.Done():
	}
}

// bytesOf is a server's content as its clients change it.
type bytesOf struct{ sv *server }

var _ nbd.Backend = bytesOf{}

// on runs one request against what the socket shows now.
func (b bytesOf) on(off, n int64, run func(*content) error) error {
	b.sv.s.mu.Lock()
	defer b.sv.s.mu.Unlock()
	if b.sv.stopped {
		return syscall.ESHUTDOWN
	}
	c := b.sv.pick()
	if off > c.size || n > c.size-off {
		return fmt.Errorf("%d bytes at %d are beyond %d: %w", n, off, c.size, syscall.EINVAL)
	}
	err := run(c)
	if errors.Is(err, primitives.CodeNoSpace) {
		return fmt.Errorf("%w: %w", err, syscall.ENOSPC)
	}
	return err
}

func (b bytesOf) ReadAt(_ context.Context, p []byte, off int64) error {
	return b.on(off, int64(len(p)), func(c *content) error { c.readAt(p, off); return nil })
}

func (b bytesOf) WriteAt(_ context.Context, p []byte, off int64, _ nbd.Flags) error {
	return b.on(off, int64(len(p)), func(c *content) error {
		_, err := b.sv.s.space.writeAt(c, p, off, b.sv.limit)
		return err
	})
}

func (b bytesOf) WriteZeroes(_ context.Context, off, length int64, _ nbd.Flags) error {
	return b.on(off, length, func(c *content) error { return b.sv.s.space.zeroAt(c, off, length, b.sv.limit) })
}

func (b bytesOf) Trim(ctx context.Context, off, length int64, flags nbd.Flags) error {
	return b.WriteZeroes(ctx, off, length, flags)
}

func (b bytesOf) Flush(context.Context) error { return nil }

// oneConn is a listener that accepts one connection and fails when that ends.
type oneConn struct {
	addr    net.Addr
	pending chan net.Conn
	over    chan struct{}
	close   func()
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{addr: c.LocalAddr(), pending: make(chan net.Conn, 1), over: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.over) })
	l.pending <- &lastConn{Conn: c, l: l}
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.pending:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error { l.close(); return nil }

func (l *oneConn) Addr() net.Addr { return l.addr }

// lastConn ends its listener when it ends.
type lastConn struct {
	net.Conn
	l *oneConn
}

func (c *lastConn) Close() error {
	defer c.l.close()
	return c.Conn.Close()
}
