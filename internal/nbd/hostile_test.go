// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/internal/nbd"
)

// script is a connection whose peer says what was written down: the first
// speech at once, and one more for each request sent to it; after the last it
// hangs up.
type script struct {
	speech chan *bytes.Reader // what may be said now, in order
	later  chan *bytes.Reader // what waits for a request
	saying *bytes.Reader
	closed chan struct{}
	end    sync.Once
}

func scripted(first []byte, later ...[]byte) net.Conn {
	s := &script{
		speech: make(chan *bytes.Reader, len(later)), later: make(chan *bytes.Reader, len(later)),
		saying: bytes.NewReader(first), closed: make(chan struct{}),
	}
	for _, speech := range later {
		s.later <- bytes.NewReader(speech)
	}
	close(s.later)
	if len(later) == 0 {
		close(s.speech)
	}
	return s
}

func (s *script) Read(p []byte) (int, error) {
	for s.saying.Len() == 0 {
		select {
		case next, more := <-s.speech:
			if !more {
				return 0, io.EOF
			}
			s.saying = next
		case <-s.closed:
			return 0, net.ErrClosed
		}
	}
	return s.saying.Read(p)
}

func (s *script) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(p, be(uint32(0x25609513))) {
		return len(p), nil
	}
	if next, more := <-s.later; more {
		s.speech <- next
		if len(s.later) == 0 {
			close(s.speech)
		}
	}
	return len(p), nil
}

func (s *script) Close() error                     { s.end.Do(func() { close(s.closed) }); return nil }
func (s *script) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "script"} }
func (s *script) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "script"} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// be concatenates numbers, big-endian, and bytes.
func be(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		if s, ok := p.(string); ok {
			b.WriteString(s)
		} else if err := binary.Write(&b, binary.BigEndian, p); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func optionReply(option, kind uint32, data []byte) []byte {
	return be(uint64(0x3e889045565a9), option, kind, uint32(len(data)), data)
}

const (
	ack         = uint32(1)
	unsupported = uint32(1<<31 + 1)
	contextID   = uint32(7)
)

var hello = be("NBDMAGIC", "IHAVEOPT", uint16(3))

// greeting is a server's side of a handshake about a disk of 1 MiB.
func greeting(structured bool) []byte {
	info := optionReply(7, 3, be(uint16(0), uint64(mib), uint16(1|4|8|32|64)))
	if !structured {
		return slices.Concat(hello, optionReply(8, unsupported, nil), info, optionReply(7, ack, nil))
	}
	return slices.Concat(hello, optionReply(8, ack, nil),
		optionReply(10, 4, be(contextID, nbd.BaseAllocation)), optionReply(10, ack, nil), info, optionReply(7, ack, nil))
}

// chunk is a structured reply chunk to the client's first request.
func chunk(flags, kind uint16, payload []byte) []byte {
	return be(uint32(0x668e33ef), flags, kind, uint64(1), uint32(len(payload)), payload)
}

// liar is chunk with a length of its own.
func liar(flags, kind uint16, length uint32) []byte {
	return be(uint32(0x668e33ef), flags, kind, uint64(1), length)
}

// answered connects to a scripted server with one speech for each request.
func answered(t testing.TB, structured bool, replies ...[]byte) *nbd.Client {
	t.Helper()
	conn := scripted(greeting(structured), replies...)
	c, err := nbd.NewClient(t.Context(), conn, nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
	if err != nil {
		t.Fatalf("NewClient = %v, want nil", err)
	}
	return c
}

func data(off int64, n int) []byte { return be(uint64(off), pattern(1, off, n)) }

func TestPartsOfAReadMayComeInAnyOrder(t *testing.T) {
	const at = 4096
	hole := be(uint64(at+2000), uint32(1000))
	for name, replies := range map[string][]byte{
		"in order":        slices.Concat(chunk(0, 1, data(at, 2000)), chunk(0, 2, hole), chunk(1, 1, data(at+3000, 1096))),
		"backwards":       slices.Concat(chunk(0, 1, data(at+3000, 1096)), chunk(0, 2, hole), chunk(0, 1, data(at, 2000)), chunk(1, 0, nil)),
		"middle last":     slices.Concat(chunk(0, 1, data(at+3000, 1096)), chunk(0, 1, data(at, 2000)), chunk(1, 2, hole)),
		"unknown flag":    slices.Concat(chunk(0x80, 1, data(at, 2000)), chunk(0, 2, hole), chunk(0x81, 1, data(at+3000, 1096))),
		"many small ones": append(small(at, 2000, 8), slices.Concat(chunk(0, 2, hole), chunk(1, 1, data(at+3000, 1096)))...),
	} {
		t.Run(name, func(t *testing.T) {
			want := pattern(1, at, 4096)
			clear(want[2000:3000])
			differs(t, name, at, mustRead(t, answered(t, true, replies), at, 4096), want)
		})
	}
}

// small is n bytes in chunks of size.
func small(off int64, n, size int) (b []byte) {
	for at := 0; at < n; at += size {
		b = append(b, chunk(0, 1, data(off+int64(at), size))...)
	}
	return b
}

// breaches are replies to a read of 4,096 bytes at 4,096, after which a client
// must hang up.
func breaches() map[string][]byte {
	whole := chunk(1, 1, data(4096, 4096))
	return map[string][]byte{
		"gap":                    slices.Concat(chunk(0, 1, data(4096, 2000)), chunk(1, 1, data(7000, 1192))),
		"overlap that adds up":   slices.Concat(chunk(0, 1, data(4096, 2000)), chunk(0, 1, data(5096, 2000)), chunk(1, 1, data(8000, 96))),
		"same part twice":        slices.Concat(chunk(0, 1, data(4096, 4096)), chunk(1, 1, data(4096, 4096))),
		"hole over data":         slices.Concat(chunk(0, 1, data(4096, 4096)), chunk(1, 2, be(uint64(5000), uint32(10)))),
		"done without data":      chunk(1, 0, nil),
		"data before the range":  chunk(1, 1, data(4000, 4096)),
		"data beyond the range":  chunk(1, 1, data(4097, 4096)),
		"data of no bytes":       chunk(1, 1, be(uint64(4096))),
		"hole of no bytes":       chunk(1, 2, be(uint64(4096), uint32(0))),
		"hole far away":          chunk(1, 2, be(uint64(1<<63), uint32(4096))),
		"none but not done":      chunk(0, 0, nil),
		"none with data":         chunk(1, 0, []byte{1}),
		"absurd data length":     be(liar(1, 1, 1<<32-1), uint64(4096)),
		"absurd error length":    liar(1, 1<<15+1, 1<<32-1),
		"absurd unknown error":   liar(1, 1<<15+99, 1<<32-1),
		"short error":            chunk(1, 1<<15+1, []byte{0, 0, 0, 5}),
		"error message too long": chunk(1, 1<<15+1, be(uint32(5), uint16(9), "no")),
		"status for a read":      chunk(1, 5, be(contextID, uint32(4096), uint32(0))),
		"unknown chunk":          chunk(1, 99, nil),
		"simple reply to a read": be(uint32(0x67446698), uint32(0), uint64(1), pattern(1, 4096, 4096)),
		"unknown cookie":         be(uint32(0x668e33ef), uint16(1), uint16(0), uint64(99), uint32(0)),
		"unknown magic":          be(uint32(0xdeadbeef), whole),
	}
}

func TestReadInTooManyPiecesIsRefused(t *testing.T) {
	var replies []byte
	for at := int64(0); at < 16*kib; at += 2 { // every second byte
		replies = append(replies, chunk(0, 1, data(at, 1))...)
	}
	if err := answered(t, true, replies).ReadAt(t.Context(), make([]byte, 16*kib), 0); !errors.Is(err, nbd.ErrProtocol) {
		t.Errorf("ReadAt = %v, want ErrProtocol", err)
	}
}

func TestServerThatBreaksTheProtocolIsHungUpOn(t *testing.T) {
	for name, replies := range breaches() {
		t.Run(name, func(t *testing.T) {
			c := answered(t, true, replies)
			err := c.ReadAt(t.Context(), make([]byte, 4096), 4096)
			if !errors.Is(err, nbd.ErrProtocol) || !errors.Is(err, nbd.ErrDisconnected) {
				t.Errorf("ReadAt = %v, want ErrProtocol and ErrDisconnected", err)
			}
			if err := c.Flush(t.Context()); !errors.Is(err, nbd.ErrDisconnected) {
				t.Errorf("Flush afterwards = %v, want ErrDisconnected", err)
			}
		})
	}
}

func TestAbsurdBlockStatusIsRefused(t *testing.T) {
	for name, replies := range map[string][]byte{
		"absurd length":   liar(1, 5, 1<<32-4),
		"no extent":       chunk(1, 5, be(contextID)),
		"half an extent":  chunk(1, 5, be(contextID, uint32(1))),
		"empty extent":    chunk(1, 5, be(contextID, uint32(0), uint32(0))),
		"unknown context": chunk(1, 5, be(uint32(8), uint32(512), uint32(0))),
		"context twice":   slices.Concat(chunk(0, 5, be(contextID, uint32(512), uint32(0))), chunk(1, 5, be(contextID, uint32(512), uint32(0)))),
		"no context":      chunk(1, 0, nil),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := answered(t, true, replies).BlockStatus(t.Context(), 0, mib); !errors.Is(err, nbd.ErrProtocol) {
				t.Errorf("BlockStatus = %v, want ErrProtocol", err)
			}
		})
	}
}

func TestStatusBeyondTheRequestIsLeftOut(t *testing.T) {
	c := answered(t, true, chunk(1, 5, be(contextID, uint32(512), uint32(0), uint32(1<<32-512), uint32(3))))
	got, err := c.BlockStatus(t.Context(), 4096, 1024)
	want := map[string][]nbd.Extent{nbd.BaseAllocation: {{Offset: 4096, Length: 512}, {Offset: 4608, Length: 512, Flags: hole}}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("BlockStatus = %v (-want +got):\n%s", err, diff)
	}
}

func TestErrorChunksFailTheReadOnly(t *testing.T) {
	message := be(uint32(28), uint16(4), "full")
	simple := be(uint32(0x67446698), uint32(0), uint64(2)) // to the flush
	for name, replies := range map[string][]byte{
		"alone":        chunk(1, 1<<15+1, message),
		"at an offset": chunk(1, 1<<15+2, be(message, uint64(5000))),
		"after data":   slices.Concat(chunk(0, 1, data(4096, 10)), chunk(1, 1<<15+1, message)),
		"before data":  slices.Concat(chunk(0, 1<<15+1, message), chunk(1, 1, data(4096, 4096))),
		"unknown kind": chunk(1, 1<<15+99, be(message, "and more")),
		"the first of": slices.Concat(chunk(0, 1<<15+1, message), chunk(1, 1<<15+1, be(uint32(5), uint16(0)))),
	} {
		t.Run(name, func(t *testing.T) {
			c := answered(t, true, replies, simple)
			err := c.ReadAt(t.Context(), make([]byte, 4096), 4096)
			if !errors.Is(err, syscall.ENOSPC) || !strings.HasSuffix(err.Error(), ": full") {
				t.Errorf("ReadAt = %v, want ENOSPC and its message", err)
			}
			if err := c.Flush(t.Context()); err != nil {
				t.Errorf("Flush afterwards = %v, want nil", err)
			}
		})
	}
}

func TestShutdownEndsTheConnectionPolitely(t *testing.T) {
	c := answered(t, false, be(uint32(0x67446698), uint32(108), uint64(1)))
	if err := c.Flush(t.Context()); !errors.Is(err, syscall.ESHUTDOWN) {
		t.Errorf("Flush = %v, want ESHUTDOWN", err)
	}
	if err := c.Flush(t.Context()); !errors.Is(err, nbd.ErrDisconnected) {
		t.Errorf("Flush afterwards = %v, want ErrDisconnected", err)
	}
}

func TestUnknownErrorValueIsEINVAL(t *testing.T) {
	c := answered(t, false, be(uint32(0x67446698), uint32(7777), uint64(1)))
	if err := c.Flush(t.Context()); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Flush = %v, want EINVAL", err)
	}
}

func TestBadHandshakesAreRefused(t *testing.T) {
	export := func(size uint64, data ...any) []byte {
		return slices.Concat(hello, optionReply(8, ack, nil), optionReply(10, ack, nil),
			optionReply(7, 3, be(uint16(0), size, uint16(1))), be(data...), optionReply(7, ack, nil))
	}
	blocks := func(sizes ...uint32) []byte { return optionReply(7, 3, be(uint16(3), sizes)) }
	for name, c := range map[string]struct {
		stream []byte
		want   error
	}{
		"no NBD server":         {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), nbd.ErrProtocol},
		"oldstyle":              {be("NBDMAGIC", uint64(0x00420281861253)), errors.ErrUnsupported},
		"not fixed newstyle":    {be("NBDMAGIC", "IHAVEOPT", uint16(0)), errors.ErrUnsupported},
		"hangs up":              {hello, io.EOF},
		"reply to another":      {slices.Concat(hello, optionReply(9, ack, nil)), nbd.ErrProtocol},
		"absurd option length":  {slices.Concat(hello, be(uint64(0x3e889045565a9), uint32(8), ack, uint32(1<<32-1))), nbd.ErrProtocol},
		"size beyond 2^63":      {export(1 << 63), nbd.ErrProtocol},
		"no size":               {slices.Concat(hello, optionReply(8, ack, nil), optionReply(10, ack, nil), optionReply(7, ack, nil)), nbd.ErrProtocol},
		"block size no power":   {export(mib, blocks(3, 4096, mib)), nbd.ErrProtocol},
		"block size zero":       {export(mib, blocks(0, 4096, mib)), nbd.ErrProtocol},
		"block size too large":  {export(mib, blocks(1<<17, 1<<17, mib)), nbd.ErrProtocol},
		"payload below a block": {export(mib, blocks(4096, 4096, 512)), nbd.ErrProtocol},
		"unasked context":       {slices.Concat(hello, optionReply(8, ack, nil), optionReply(10, 4, be(uint32(1), "x:y")), optionReply(10, ack, nil)), nbd.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			conn := scripted(c.stream)
			_, err := nbd.NewClient(t.Context(), conn, nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
			if !errors.Is(err, c.want) {
				t.Errorf("NewClient = %v, want %v", err, c.want)
			}
		})
	}
}

func TestServerWithoutGoIsEnteredByExportName(t *testing.T) {
	tail := be(uint64(mib), uint16(1|4))
	for name, stream := range map[string][]byte{
		"with zeroes":    slices.Concat(be("NBDMAGIC", "IHAVEOPT", uint16(1)), optionReply(8, unsupported, nil), optionReply(7, unsupported, nil), tail, make([]byte, 124)),
		"without zeroes": slices.Concat(hello, optionReply(8, unsupported, nil), optionReply(7, unsupported, nil), tail),
	} {
		replies := be(uint32(0x67446698), uint32(0), uint64(1), pattern(1, 512, 512))
		c, err := nbd.NewClient(t.Context(), scripted(stream, replies), nbd.Options{})
		if err != nil || c.Size() != mib {
			t.Fatalf("%s: NewClient = %v, want a disk of 1 MiB", name, err)
		}
		differs(t, name, 512, mustRead(t, c, 512, 512), pattern(1, 512, 512))
	}
}

// TestLyingLengthsCostNoMemory: what a peer claims is not allocated for.
func TestLyingLengthsCostNoMemory(t *testing.T) {
	replies := breaches()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, name := range []string{"absurd data length", "absurd error length", "absurd unknown error"} {
		c := answered(t, true, replies[name])
		if err := c.ReadAt(t.Context(), make([]byte, 4096), 4096); err == nil {
			t.Errorf("ReadAt = nil, want an error")
		}
	}
	// The largest honest block status, cut off after its header.
	if _, err := answered(t, true, liar(1, 5, 4+8<<20)).BlockStatus(t.Context(), 0, mib); err == nil {
		t.Errorf("BlockStatus = nil, want an error")
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 4*mib { // four connections' read buffers are 1 MiB
		t.Errorf("allocated %d bytes, want 4 MiB at most", got)
	}
}

func TestEndOfContextEndsAStuckHandshake(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := nbd.NewClient(ctx, ours, nbd.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("NewClient = %v, want DeadlineExceeded", err)
	}
}

func TestServerThatTakesNoDataIsGivenUp(t *testing.T) {
	ours, theirs := net.Pipe() // unbuffered: a send lasts until it is read
	go theirs.Write(greeting(false))
	go io.CopyN(io.Discard, theirs, 4+16+16+45+28) // the handshake and a header, but no data
	c, err := nbd.NewClient(t.Context(), ours, nbd.Options{})
	if err != nil {
		t.Fatalf("NewClient = %v, want nil", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.WriteAt(ctx, make([]byte, mib), 0, 0); err == nil {
		t.Errorf("WriteAt = nil, want an error")
	}
	if err := c.Flush(t.Context()); !errors.Is(err, nbd.ErrDisconnected) {
		t.Errorf("Flush after half a message = %v, want ErrDisconnected", err)
	}
}
