// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
)

const (
	// requestsAtOnce bounds the requests, and with MaxPayload the memory, that
	// one connection can keep busy. QEMU's server has the same.
	requestsAtOnce = 16
	// descriptorsPerReply bounds a block status reply to 64 KiB: the client
	// asks on.
	descriptorsPerReply = 8 << 10
)

// transmit answers requests until the client leaves or ctx ends.
func (s *session) transmit(ctx context.Context) {
	work, cancel := context.WithCancel(ctx)
	turns := make(chan struct{}, requestsAtOnce)
	var busy sync.WaitGroup
	polite := false
	for !polite {
		turns <- struct{}{}
		r, payload, err := s.nextRequest()
		if err != nil {
			break
		}
		if polite = r.cmd == cmdDisc; polite {
			break
		}
		busy.Go(func() {
			defer func() { <-turns }()
			if err := s.handle(work, r, payload); err != nil {
				s.conn.Close() // ends nextRequest, too
			}
		})
	}
	if polite {
		// "SHOULD wait for inflight requests to be serviced."
		busy.Wait()
	}
	cancel()
	busy.Wait()
}

// nextRequest reads a request and, of a write, its data. Data too long to be
// taken is read over, and the write refused later.
func (s *session) nextRequest() (request, []byte, error) {
	var head [requestSize]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return request{}, nil, err
	}
	r, err := parseRequest(head[:])
	if err != nil || r.cmd != cmdWrite {
		return r, nil, err
	}
	if r.length > s.export.MaxPayload {
		_, err := io.CopyN(io.Discard, s.r, int64(r.length))
		return r, nil, err
	}
	payload := make([]byte, r.length)
	_, err = io.ReadFull(s.r, payload)
	return r, payload, err
}

// handle performs one request and replies. Its error means that no reply could
// be sent.
func (s *session) handle(ctx context.Context, r request, payload []byte) error {
	if err := s.refusal(r); err != nil {
		return s.replyError(r, err)
	}
	if r.cmd == cmdBlockStatus {
		return s.handleStatus(ctx, r)
	}
	data, err := s.perform(ctx, r, payload)
	if err != nil {
		return s.replyError(r, err)
	}
	return s.replyData(r, data)
}

// perform lets the backend do it; data is what a read gives.
func (s *session) perform(ctx context.Context, r request, payload []byte) (data []byte, err error) {
	b, off, length := s.export.Backend, int64(r.offset), int64(r.length)
	switch r.cmd {
	case cmdRead:
		data = make([]byte, length)
		return data, b.ReadAt(ctx, data, off)
	case cmdWrite:
		err = b.WriteAt(ctx, payload, off, 0)
	case cmdWriteZeroes:
		err = b.WriteZeroes(ctx, off, length, r.flags&NoHole)
	case cmdTrim:
		err = b.Trim(ctx, off, length, 0)
	case cmdFlush:
		return nil, b.Flush(ctx)
	}
	if err == nil && r.flags&FUA != 0 {
		err = b.Flush(ctx)
	}
	return nil, err
}

// flagsOf are the command flags that a command may have ("Command flags"). FUA
// must be accepted with all of them.
var flagsOf = map[command]Flags{
	cmdRead: FUA | flagDF, cmdWrite: FUA, cmdFlush: FUA, cmdTrim: FUA,
	cmdWriteZeroes: FUA | NoHole, cmdBlockStatus: FUA | flagReqOne,
}

// refusal is why a request is not performed, with the errors of "Error values".
func (s *session) refusal(r request) error {
	e := s.export
	known, ok := flagsOf[r.cmd]
	changes := r.cmd == cmdWrite || r.cmd == cmdTrim || r.cmd == cmdWriteZeroes
	payload := r.cmd == cmdRead || r.cmd == cmdWrite
	least := uint64(e.MinBlock)
	switch {
	case !ok || r.flags&^known != 0:
		return fmt.Errorf("%v with flags %#x: %w", r.cmd, r.flags, syscall.EINVAL)
	case changes && e.ReadOnly:
		return fmt.Errorf("the export is read-only: %w", syscall.EPERM)
	case r.cmd == cmdFlush:
		return nil
	case r.cmd == cmdBlockStatus && s.allocation != e:
		return fmt.Errorf("no metadata context was selected: %w", syscall.EINVAL)
	case r.offset > uint64(e.Size) || uint64(r.length) > uint64(e.Size)-r.offset:
		if changes && r.cmd != cmdTrim {
			return fmt.Errorf("the export ends at %d: %w", e.Size, syscall.ENOSPC)
		}
		return fmt.Errorf("the export ends at %d: %w", e.Size, syscall.EINVAL)
	case r.offset%least != 0 || uint64(r.length)%least != 0:
		return fmt.Errorf("blocks have %d bytes: %w", least, syscall.EINVAL)
	case payload && r.length > e.MaxPayload:
		return fmt.Errorf("at most %d bytes at once: %w", e.MaxPayload, syscall.EINVAL)
	}
	return nil
}

// handleStatus answers NBD_CMD_BLOCK_STATUS.
func (s *session) handleStatus(ctx context.Context, r request) error {
	if r.length == 0 {
		return s.replyError(r, fmt.Errorf("block status of no bytes: %w", syscall.EINVAL))
	}
	limit := descriptorsPerReply
	if r.flags&flagReqOne != 0 {
		limit = 1
	}
	extents, err := s.status(ctx, int64(r.offset), int64(r.length), limit)
	if err != nil {
		return s.replyError(r, err)
	}
	b := binary.BigEndian.AppendUint32(nil, contextID)
	for _, e := range extents {
		b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
		b = binary.BigEndian.AppendUint32(b, e.Flags)
	}
	return s.replyChunk(r, chunkBlockStatus, b)
}

// status is the extents of a range, without gaps, up to limit of them. What the
// export does not tell of is data: "a server MAY always safely report a status
// of 0".
func (s *session) status(ctx context.Context, off, length int64, limit int) ([]Extent, error) {
	var extents []Extent
	at, end := off, off+length
	add := func(to int64, flags uint32) {
		if to > at {
			extents = appendExtent(extents, Extent{Offset: at, Length: to - at, Flags: flags})
			at = to
		}
	}
	for e, err := range s.export.Extents(ctx, off, length) {
		if err != nil {
			return nil, err
		}
		add(min(e.Offset, end), 0)
		add(min(e.End(), end), e.Flags)
		if len(extents) > limit {
			return extents[:limit], nil // the last may still have grown
		}
	}
	add(end, 0)
	return extents[:min(len(extents), limit)], nil
}

// replyData sends success: with data for a read, in one chunk, since all of it
// is known to be good.
func (s *session) replyData(r request, data []byte) error {
	if !s.structured {
		return s.send(simpleHeader(r, 0), data)
	}
	if len(data) == 0 {
		return s.replyChunk(r, chunkNone, nil)
	}
	return s.replyChunk(r, chunkData, binary.BigEndian.AppendUint64(nil, r.offset), data)
}

// replyError sends an error, in words where the client can take them.
func (s *session) replyError(r request, err error) error {
	code := codeOf(err)
	if code == 95 {
		code = 22 // ENOTSUP is for FAST_ZERO, which is not offered
	}
	if errors.Is(err, context.Canceled) {
		code = 108 // the server or the client is leaving
	}
	if !s.structured {
		return s.send(simpleHeader(r, code))
	}
	message := printable([]byte(err.Error()))
	message = message[:min(len(message), maxString)]
	b := binary.BigEndian.AppendUint32(nil, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	return s.replyChunk(r, chunkError, append(b, message...))
}

// replyChunk sends one structured reply chunk, the only one of its reply.
func (s *session) replyChunk(r request, kind uint16, payload ...[]byte) error {
	length := 0
	for _, p := range payload {
		length += len(p)
	}
	b := binary.BigEndian.AppendUint32(nil, magicStructured)
	b = binary.BigEndian.AppendUint16(b, replyDone)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return s.send(append([][]byte{b}, payload...)...)
}

func simpleHeader(r request, code uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicSimple)
	b = binary.BigEndian.AppendUint32(b, code)
	return binary.BigEndian.AppendUint64(b, r.cookie)
}

func (s *session) send(message ...[]byte) error {
	s.replies.Lock()
	defer s.replies.Unlock()
	buffers := net.Buffers(message)
	_, err := buffers.WriteTo(s.conn)
	return err
}
