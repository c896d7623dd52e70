// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// link is the way to libvirt: made when first needed, and again, with all its
// events, when it was lost.
type link struct {
	open   virt.Opener
	uri    string
	log    *slog.Logger
	handle func(virt.Event)

	mu      sync.Mutex // guards what follows
	conn    virt.Conn  // nil: none
	dialing *dial      // nil: nobody connects now
	closed  bool
}

// dial is one attempt to connect, which may hang.
type dial struct {
	done chan struct{} // closed after err is set
	err  error
}

// get returns a living connection. Callers that need one at the same time share
// one attempt, so that a hanging libvirt costs one goroutine.
func (l *link) get(ctx context.Context) (virt.Conn, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, primitives.Errorf(primitives.CodeUnavailable, "the adapter is closed")
	}
	if l.conn != nil && lost(l.conn) {
		l.discard("libvirt closed the connection")
	}
	if conn := l.conn; conn != nil {
		l.mu.Unlock()
		return conn, nil
	}
	d := l.dialing
	if d == nil {
		d = &dial{done: make(chan struct{})}
		l.dialing = d
		go l.dial(d)
	}
	l.mu.Unlock()
	select {
	case <-d.done:
		if d.err != nil {
			return nil, unreachable(l.uri, d.err)
		}
		return l.get(ctx)
	case <-ctx.Done():
		return nil, ended(ctx, "connect to "+l.uri)
	}
}

// dial makes one attempt. Events are registered before anybody uses the
// connection, so that none is missed.
func (l *link) dial(d *dial) {
	defer close(d.done)
	start := time.Now()
	conn, err := l.open(l.uri)
	if err == nil {
		if err = conn.Listen(l.handle); err != nil {
			_ = conn.Close() // the reason to give it up says more
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialing, d.err = nil, err
	if err != nil {
		l.log.Debug("connect failed", "uri", l.uri, "took", time.Since(start), "err", err)
		return
	}
	l.log.Info("connected", "uri", l.uri, "took", time.Since(start))
	l.conn = conn
	if l.closed {
		l.discard("the adapter was closed")
	}
}

// drop gives a connection up that has shown to be broken.
func (l *link) drop(conn virt.Conn, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn {
		l.discard(why.Error())
	}
}

// discard forgets the connection; mu is held. Closing may hang, and nothing
// depends on its end.
func (l *link) discard(why string) {
	l.log.Warn("connection lost", "uri", l.uri, "why", why)
	conn := l.conn
	l.conn = nil
	go func() {
		if err := conn.Close(); err != nil {
			l.log.Debug("close failed", "uri", l.uri, "err", err)
		}
	}()
}

// close ends the link for good. A repeat does nothing.
func (l *link) close() error {
	l.mu.Lock()
	conn := l.conn
	l.conn, l.closed = nil, true
	l.mu.Unlock()
	if conn == nil {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- conn.Close() }()
	timer := time.NewTimer(closeLimit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return primitives.Errorf(primitives.CodeUnavailable, "libvirt did not close the connection within %v", closeLimit)
	}
}

const closeLimit = 5 * time.Second

func lost(conn virt.Conn) bool {
	select {
	case <-conn.Lost():
		return true
	default:
		return false
	}
}
