// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/tenon-storage/tenon/internal/nbd"
)

// FuzzHandshake: whatever a server begins with, the client returns, and an export
// it accepts obeys "Size constraints".
func FuzzHandshake(f *testing.F) {
	f.Add(greeting(true))
	f.Add(greeting(false))
	f.Add(slices.Concat(hello, optionReply(8, unsupported, nil), optionReply(7, unsupported, nil), make([]byte, 10)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		c, err := nbd.NewClient(t.Context(), scripted(stream), nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
		if err != nil {
			return
		}
		defer c.Close()
		if i := c.Info(); i.Size < 0 || i.MinBlock < 1 || i.MinBlock > 65536 || i.MaxPayload < i.MinBlock || i.MaxPayload%i.MinBlock != 0 {
			t.Errorf("Info = %+v, want sizes within bounds", i)
		}
	})
}

// FuzzReplies: whatever a server replies, the client returns, and extents it
// accepts lie in the range asked for, in order.
func FuzzReplies(f *testing.F) {
	f.Add(true, false, slices.Concat(chunk(0, 1, data(4096, 4000)), chunk(1, 2, be(uint64(8096), uint32(96)))))
	f.Add(true, true, chunk(1, 5, be(contextID, uint32(512), uint32(0), uint32(1<<31), uint32(3))))
	f.Add(false, false, be(uint32(0x67446698), uint32(0), uint64(1), make([]byte, 4096)))
	for _, replies := range breaches() {
		f.Add(true, false, replies)
	}
	f.Fuzz(func(t *testing.T, structured, status bool, replies []byte) {
		c := answered(t, structured, replies)
		defer c.Close()
		if !status {
			_ = c.ReadAt(t.Context(), make([]byte, 4096), 4096)
			return
		}
		extents, err := c.BlockStatus(t.Context(), 4096, 65536)
		if err != nil {
			return
		}
		at := int64(4096)
		for _, e := range extents[nbd.BaseAllocation] {
			if e.Offset != at || e.Length <= 0 || e.End() > 4096+65536 {
				t.Errorf("extent %+v, want one at %d within the range", e, at)
			}
			at = e.End()
		}
	})
}

// once is a listener of one connection.
type once struct {
	net.Listener
	conn chan net.Conn
	end  context.Context
}

func (o once) Accept() (net.Conn, error) {
	select {
	case c := <-o.conn:
		return c, nil
	case <-o.end.Done():
		return nil, net.ErrClosed
	}
}

func (o once) Close() error { return nil }

// hungUp tells when the server has closed the connection.
type hungUp struct {
	net.Conn
	closed context.CancelFunc
}

func (h hungUp) Close() error { h.closed(); return h.Conn.Close() }

// FuzzServer: whatever a client sends, the server ends the connection and
// touches nothing outside the export (memory would panic).
func FuzzServer(f *testing.F) {
	option := func(n uint32, data []byte) []byte { return be("IHAVEOPT", n, uint32(len(data)), data) }
	request := func(flags, cmd uint16, off uint64, n uint32) []byte {
		return be(uint32(0x25609513), flags, cmd, uint64(9), off, n)
	}
	flags, open := be(uint32(3)), option(7, be(uint32(0), uint16(1), uint16(3)))
	query := be(uint32(0), uint32(1), uint32(15), nbd.BaseAllocation)
	f.Add(slices.Concat(flags, option(3, nil), option(6, be(uint32(0), uint16(0))), option(2, nil)))
	f.Add(slices.Concat(flags, option(8, nil), option(9, query), option(10, query), open,
		request(0, 0, 0, 4096), request(1, 1, 512, 4), []byte("data"), request(1, 6, 0, 65536), request(8, 7, 0, 65536), request(0, 2, 0, 0)))
	f.Add(slices.Concat(be(uint32(0)), option(1, []byte("disk")), request(0, 0, 1<<63, 1<<31), request(0, 1, 0, 1<<32-1)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l := once{conn: make(chan net.Conn, 1), end: ctx}
		l.conn <- hungUp{Conn: scripted(stream), closed: cancel}
		if err := nbd.Serve(ctx, l, newMemory(64*kib).export("disk")); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
}

func TestOldClientIsServedByExportNameAndSimpleReplies(t *testing.T) {
	m := newMemory(mib)
	copy(m.bytes, pattern(1, 0, mib))
	p, _ := serve(t, m.export("disk"))
	conn, err := net.Dial("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	message := be(uint32(1), "IHAVEOPT", uint32(1), uint32(4), "disk", // no NO_ZEROES
		uint32(0x25609513), uint16(0), uint16(0), uint64(42), uint64(4096), uint32(512))
	if _, err := conn.Write(message); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 18+10+124+16+512)
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	if size := binary.BigEndian.Uint64(got[18:]); size != mib {
		t.Errorf("size = %d, want %d", size, mib)
	}
	differs(t, "reply", 0, got[152:], be(uint32(0x67446698), uint32(0), uint64(42), pattern(1, 4096, 512)))
}
