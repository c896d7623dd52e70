// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"bytes"
	"context"
	"iter"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tenon-storage/tenon/internal/nbd"
)

// memory is a backend in memory. before, if set, may delay or fail an operation.
type memory struct {
	before  func(ctx context.Context, what string) error
	flushes atomic.Int32

	mu    sync.RWMutex // guards bytes
	bytes []byte
}

func newMemory(size int64) *memory { return &memory{bytes: make([]byte, size)} }

// content is what the disk holds. The lock also tells the race detector what
// it cannot see: that a client in another process has had its replies.
func (m *memory) content() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.bytes)
}

// do runs f unless before says otherwise.
func (m *memory) do(ctx context.Context, what string, f func()) error {
	if m.before != nil {
		if err := m.before(ctx, what); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	return nil
}

func (m *memory) ReadAt(ctx context.Context, p []byte, off int64) error {
	return m.do(ctx, "read", func() { copy(p, m.bytes[off:]) })
}

func (m *memory) WriteAt(ctx context.Context, p []byte, off int64, _ nbd.Flags) error {
	return m.do(ctx, "write", func() { copy(m.bytes[off:], p) })
}

func (m *memory) WriteZeroes(ctx context.Context, off, length int64, _ nbd.Flags) error {
	return m.do(ctx, "zero", func() { clear(m.bytes[off:][:length]) })
}

func (m *memory) Trim(ctx context.Context, off, length int64, _ nbd.Flags) error {
	return m.do(ctx, "trim", func() { clear(m.bytes[off:][:length]) })
}

func (m *memory) Flush(ctx context.Context) error {
	return m.do(ctx, "flush", func() { m.flushes.Add(1) })
}

// Extents tells pages of 4 KiB that are zero to be holes.
func (m *memory) Extents(_ context.Context, off, length int64) iter.Seq2[nbd.Extent, error] {
	const page = 4096
	return func(yield func(nbd.Extent, error) bool) {
		for at, end := off, off+length; at < end; {
			n := min(page-at%page, end-at)
			m.mu.RLock()
			zero := bytes.Count(m.bytes[at:at+n], []byte{0}) == int(n)
			m.mu.RUnlock()
			e := nbd.Extent{Offset: at, Length: n}
			if zero {
				e.Flags = hole
			}
			if !yield(e, nil) {
				return
			}
			at += n
		}
	}
}

// export is m as an export.
func (m *memory) export(name string) nbd.Export {
	return nbd.Export{Name: name, Size: int64(len(m.bytes)), Backend: m, Extents: m.Extents}
}

// serve serves exports for the test's life, or until stop is called, which
// returns what Serve did.
func serve(t *testing.T, exports ...nbd.Export) (p peer, stop func() error) {
	t.Helper()
	p.socket = filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	return p, serveOn(t, l, exports...)
}

func serveOn(t *testing.T, l net.Listener, exports ...nbd.Export) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- nbd.Serve(ctx, l, exports...) }()
	stop = sync.OnceValue(func() error { cancel(); return <-result })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
	return stop
}
