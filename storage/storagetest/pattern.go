// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// image is what a volume is expected to hold, byte for byte.
//
// Content is always a pattern in which each 8-byte word depends on a seed and on
// its own offset, so that bytes in the wrong place are as wrong as wrong bytes.
// The function can be turned round: a mismatch is reported as "pattern 3 of
// offset 4096", which usually names the bug.
type image []byte

const wordSize = 8

// word returns the pattern's 8 bytes at the aligned offset off. Seeds are 1 to 65535.
func word(seed int, off int64) uint64 {
	z := uint64(seed)<<48 | uint64(off/wordSize)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// origin is the inverse of word.
func origin(w uint64) (seed int, off int64) {
	w ^= w>>31 ^ w>>62
	w *= 0x319642b2d24d8ec3
	w ^= w>>27 ^ w>>54
	w *= 0x96de1b173f119089
	w ^= w>>30 ^ w>>60
	return int(w >> 48), int64(w&(1<<48-1)) * wordSize
}

// fill writes the pattern of seed into p as it stands at offset off of a volume.
func fill(p []byte, seed int, off int64) {
	var b [wordSize]byte
	for len(p) > 0 {
		for off%wordSize == 0 && len(p) >= wordSize {
			binary.LittleEndian.PutUint64(p, word(seed, off))
			p, off = p[wordSize:], off+wordSize
		}
		aligned := off / wordSize * wordSize
		binary.LittleEndian.PutUint64(b[:], word(seed, aligned))
		n := copy(p, b[off-aligned:])
		p, off = p[n:], off+int64(n)
	}
}

// pattern returns n bytes of the pattern of seed from offset off on.
func pattern(seed int, off, n int64) []byte {
	p := make([]byte, n)
	fill(p, seed, off)
	return p
}

func (m image) size() int64 { return int64(len(m)) }

// write puts the pattern of seed over a range.
func (m image) write(seed int, off, n int64) image {
	fill(m[off:off+n], seed, off)
	return m
}

func (m image) zero(off, n int64) image {
	clear(m[off : off+n])
	return m
}

func (m image) clone() image { return bytes.Clone(m) }

// resized returns a copy of another size; a new tail is zero.
func (m image) resized(size int64) image {
	r := make(image, size)
	copy(r, m)
	return r
}

// differs says where got departs from m and what stands there instead; empty
// means that they are equal.
func (m image) differs(got []byte) string {
	if len(got) != len(m) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(m))
	}
	if bytes.Equal(m, got) {
		return ""
	}
	first, count := -1, 0
	for i := range m {
		if m[i] != got[i] {
			if first < 0 {
				first = i
			}
			count++
		}
	}
	at := int64(first) / wordSize * wordSize
	return fmt.Sprintf("%d of %d bytes differ, first at offset %d: got %s, want %s",
		count, len(m), first, describe(got, at), describe(m, at))
}

// describe names the word at the aligned offset off of p.
func describe(p []byte, off int64) string {
	end := min(off+wordSize, int64(len(p)))
	b := p[off:end]
	if len(bytes.Trim(b, "\x00")) == 0 {
		return "zeros"
	}
	if len(b) == wordSize {
		if seed, from := origin(binary.LittleEndian.Uint64(b)); seed > 0 && seed < 1<<12 && from < 1<<40 {
			return fmt.Sprintf("pattern %d of offset %d", seed, from)
		}
	}
	return fmt.Sprintf("bytes %x", b)
}

// span is a range of bytes.
type span struct{ off, n int64 }

// data returns the blocks of m that are not all zero, neighbours joined.
func (m image) data() []span {
	const block = 4096
	zeros := make([]byte, block)
	var spans []span
	for off := int64(0); off < m.size(); off += block {
		n := min(block, m.size()-off)
		if bytes.Equal(m[off:off+n], zeros[:n]) {
			continue
		}
		if last := len(spans) - 1; last >= 0 && spans[last].off+spans[last].n == off {
			spans[last].n += n
			continue
		}
		spans = append(spans, span{off, n})
	}
	return spans
}
