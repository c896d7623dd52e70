// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// maxUnknownError bounds an error chunk of a kind we do not know.
const maxUnknownError = 64 << 10

// chunk is the header of "Structured reply chunk message".
type chunk struct {
	flags, kind uint16
	length      uint32
}

// receive reads replies until the connection ends. It is the one goroutine that
// reads, and owns what has arrived until a call is finished.
func (c *Client) receive(r *bufio.Reader) {
	defer close(c.read)
	for {
		if err := c.receiveOne(r); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // a server may not hang up first
			}
			c.fail(err)
			return
		}
	}
}

func (c *Client) receiveOne(r *bufio.Reader) error {
	var magic [4]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return err
	}
	switch m := binary.BigEndian.Uint32(magic[:]); {
	case m == magicSimple:
		return c.receiveSimple(r)
	case m == magicStructured && c.info.Structured:
		return c.receiveChunk(r)
	default:
		return violation("reply with magic %#x", m)
	}
}

// lookup finds the call of a reply. While the connection is being closed replies
// may come for calls that have failed already; they cannot be skipped, since a
// simple reply's length depends on its request, and need not be.
func (c *Client) lookup(cookie uint64) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.pending[cookie]
	if r == nil && c.err != nil {
		return nil, c.err
	}
	if r == nil {
		return nil, violation("reply to request %d, which is not under way", cookie)
	}
	return r, nil
}

// settle finishes a call whose last reply has arrived.
func (c *Client) settle(r *call, err error) {
	c.mu.Lock()
	_, pending := c.pending[r.cookie]
	delete(c.pending, r.cookie)
	c.mu.Unlock()
	if pending {
		<-c.slots
	}
	r.finish(err)
}

// receiveSimple reads the rest of "Simple reply message".
func (c *Client) receiveSimple(br *bufio.Reader) error {
	var head [12]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return err
	}
	r, err := c.lookup(binary.BigEndian.Uint64(head[4:]))
	if err != nil {
		return err
	}
	if c.info.Structured && (r.cmd == cmdRead || r.cmd == cmdBlockStatus) || len(r.parts.pieces) > 0 {
		return violation("simple reply to a %v", r.cmd)
	}
	if code := binary.BigEndian.Uint32(head[:]); code != 0 {
		c.settle(r, r.wrap(errnoOf(code), ""))
		return nil
	}
	if r.cmd == cmdRead {
		if err := receiveData(br, r, 0, int64(r.length)); err != nil {
			return err
		}
	}
	c.settle(r, nil)
	return nil
}

// receiveData moves n bytes from the connection to their place in a read.
func receiveData(br *bufio.Reader, r *call, at, n int64) error {
	for n > 0 {
		if _, err := br.Peek(1); err != nil {
			return err
		}
		data, err := br.Peek(int(min(n, int64(br.Buffered()))))
		if err != nil {
			return err
		}
		r.store(at, data)
		if _, err := br.Discard(len(data)); err != nil {
			return err
		}
		at, n = at+int64(len(data)), n-int64(len(data))
	}
	return nil
}

// receiveChunk reads the rest of "Structured reply chunk message". "For all other
// messages with unknown or unexpected type or inconsistent contents, the client
// MUST initiate a hard disconnect."
func (c *Client) receiveChunk(br *bufio.Reader) error {
	var head [16]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return err
	}
	h := chunk{
		flags:  binary.BigEndian.Uint16(head[:]),
		kind:   binary.BigEndian.Uint16(head[2:]),
		length: binary.BigEndian.Uint32(head[12:]),
	}
	r, err := c.lookup(binary.BigEndian.Uint64(head[4:]))
	if err != nil {
		return err
	}
	switch {
	case h.kind == chunkNone && h.length == 0 && h.flags&replyDone != 0:
	case h.kind == chunkData && r.cmd == cmdRead:
		err = receivePart(br, r, h)
	case h.kind == chunkHole && r.cmd == cmdRead && h.length == 12:
		err = receiveHole(br, r)
	case h.kind == chunkBlockStatus && r.cmd == cmdBlockStatus:
		err = c.receiveStatus(br, r, h)
	case h.kind&chunkIsError != 0:
		err = receiveError(br, r, h)
	default:
		err = violation("chunk of type %d, flags %#x, %d bytes in reply to a %v", h.kind, h.flags, h.length, r.cmd)
	}
	if err != nil || h.flags&replyDone == 0 {
		return err
	}
	if r.failure == nil {
		if err := c.verify(r); err != nil {
			return err
		}
	}
	c.settle(r, r.failure)
	return nil
}

// verify checks that a reply without an error is complete.
func (c *Client) verify(r *call) error {
	switch {
	case r.cmd == cmdRead && !r.parts.complete(int64(r.length)):
		return violation("reply to a read of %d bytes at %d has gaps", r.length, r.offset)
	case r.cmd == cmdBlockStatus && len(r.extents) != len(c.contexts):
		return violation("block status of %d metadata contexts, not %d", len(r.extents), len(c.contexts))
	}
	return nil
}

// place checks that n bytes at an absolute offset lie in a read and are new, and
// returns their place in it.
func place(r *call, offset uint64, n int64) (at int64, err error) {
	if offset < r.offset || offset-r.offset > uint64(r.length) || n > int64(r.length)-int64(offset-r.offset) {
		return 0, violation("%d bytes at %d in reply to a read of %d at %d", n, offset, r.length, r.offset)
	}
	at = int64(offset - r.offset)
	return at, r.parts.add(at, at+n)
}

// receivePart reads NBD_REPLY_TYPE_OFFSET_DATA.
func receivePart(br *bufio.Reader, r *call, h chunk) error {
	if h.length < 9 {
		return violation("data chunk of %d bytes", h.length)
	}
	var offset [8]byte
	if _, err := io.ReadFull(br, offset[:]); err != nil {
		return err
	}
	n := int64(h.length) - 8
	at, err := place(r, binary.BigEndian.Uint64(offset[:]), n)
	if err != nil {
		return err
	}
	return receiveData(br, r, at, n)
}

// receiveHole reads NBD_REPLY_TYPE_OFFSET_HOLE.
func receiveHole(br *bufio.Reader, r *call) error {
	var hole [12]byte
	if _, err := io.ReadFull(br, hole[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(hole[8:]))
	if n == 0 {
		return violation("hole of no bytes")
	}
	at, err := place(r, binary.BigEndian.Uint64(hole[:]), n)
	if err != nil {
		return err
	}
	r.storeZeroes(at, n)
	return nil
}

// receiveStatus reads NBD_REPLY_TYPE_BLOCK_STATUS. Descriptors are kept as they
// arrive and not allocated for beforehand, so a length costs its sender as much
// as us.
func (c *Client) receiveStatus(br *bufio.Reader, r *call, h chunk) error {
	count := (int64(h.length) - 4) / 8
	if h.length%8 != 4 || count < 1 || count > maxDescriptors {
		return violation("block status of %d bytes", h.length)
	}
	var buf [8]byte
	if _, err := io.ReadFull(br, buf[:4]); err != nil {
		return err
	}
	id := binary.BigEndian.Uint32(buf[:])
	if _, known := c.contexts[id]; !known || r.extents[id] != nil {
		return violation("block status of metadata context %d, unknown or sent twice", id)
	}
	var extents []Extent
	at, end := int64(r.offset), int64(r.offset)+int64(r.length)
	for range count {
		if _, err := io.ReadFull(br, buf[:]); err != nil {
			return err
		}
		n := int64(binary.BigEndian.Uint32(buf[:]))
		if n == 0 {
			return violation("extent of no bytes")
		}
		// The last may reach beyond the request: only what was asked is kept.
		if n = min(n, end-at); n > 0 {
			extents = appendExtent(extents, Extent{Offset: at, Length: n, Flags: binary.BigEndian.Uint32(buf[4:])})
			at += n
		}
	}
	if r.extents == nil {
		r.extents = make(map[uint32][]Extent)
	}
	r.extents[id] = extents
	return nil
}

// appendExtent appends e, or lengthens the last extent if their flags are equal.
func appendExtent(extents []Extent, e Extent) []Extent {
	if last := len(extents) - 1; last >= 0 && extents[last].Flags == e.Flags && extents[last].End() == e.Offset {
		extents[last].Length += e.Length
		return extents
	}
	return append(extents, e)
}

// receiveError reads an error chunk, of a known type or another.
func receiveError(br *bufio.Reader, r *call, h chunk) error {
	fixed, limit := uint32(6), uint32(maxUnknownError)
	switch h.kind {
	case chunkError:
		limit = fixed + maxString
	case chunkErrorOffset:
		fixed = 14
		limit = fixed + maxString
	}
	if h.length < fixed || h.length > limit {
		return violation("error chunk %d of %d bytes", h.kind, h.length)
	}
	data := make([]byte, h.length)
	if _, err := io.ReadFull(br, data); err != nil {
		return err
	}
	code, n := binary.BigEndian.Uint32(data), uint32(binary.BigEndian.Uint16(data[4:]))
	if n > h.length-fixed {
		return violation("error message of %d bytes in a chunk of %d", n, h.length)
	}
	if r.failure == nil {
		r.failure = r.wrap(errnoOf(code), printable(data[6:][:n]))
	}
	return nil
}
