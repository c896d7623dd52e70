// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// chunkSize is the unit of allocation and of copying on write.
const chunkSize = 64 << 10

// chunk is shared by every content that refers to it. While refs is above one
// nobody writes to data, so a Reader that holds a reference reads without a lock.
type chunk struct {
	refs int
	data []byte
}

// content is the bytes of one volume or snapshot. Chunks that are absent are
// zero, or base's where there is a base; a nil chunk is zero and hides base's.
type content struct {
	size   int64
	chunks map[int64]*chunk
	base   *content // only during a snapshot that awaits its switch
}

// space is the memory that one store takes. Its methods need the store's lock.
type space struct{ used int64 }

func newContent(size int64) *content {
	return &content{size: size, chunks: make(map[int64]*chunk)}
}

// at returns the chunk of that index, nil for zeros.
func (c *content) at(i int64) *chunk {
	for ; c != nil; c = c.base {
		if k, ok := c.chunks[i]; ok {
			return k
		}
	}
	return nil
}

// readAt copies bytes that are known to lie within the content.
func (c *content) readAt(p []byte, off int64) {
	for len(p) > 0 {
		i, in := off/chunkSize, off%chunkSize
		n := min(int64(len(p)), chunkSize-in)
		if k := c.at(i); k != nil {
			copy(p[:n], k.data[in:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

// own returns a chunk of c's alone, to write to.
func (sp *space) own(c *content, i, limit int64) (*chunk, error) {
	have := c.at(i)
	mine, isMine := c.chunks[i]
	if isMine && mine != nil && mine.refs == 1 {
		return mine, nil
	}
	if limit > 0 && sp.used+chunkSize > limit {
		return nil, primitives.Errorf(primitives.CodeNoSpace, "%d of %d bytes are taken", sp.used, limit)
	}
	fresh := &chunk{refs: 1, data: make([]byte, chunkSize)}
	if have != nil {
		copy(fresh.data, have.data)
	}
	sp.used += chunkSize
	sp.drop(mine)
	c.chunks[i] = fresh
	return fresh, nil
}

func (sp *space) drop(k *chunk) {
	if k == nil {
		return
	}
	if k.refs--; k.refs == 0 {
		sp.used -= chunkSize
	}
}

func (sp *space) writeAt(c *content, p []byte, off, limit int64) (int, error) {
	done := 0
	for done < len(p) {
		i, in := off/chunkSize, off%chunkSize
		k, err := sp.own(c, i, limit)
		if err != nil {
			return done, err
		}
		n := copy(k.data[in:], p[done:])
		done, off = done+n, off+int64(n)
	}
	return done, nil
}

// zeroAt gives whole chunks back and overwrites the parts of others.
func (sp *space) zeroAt(c *content, off, n, limit int64) error {
	for n > 0 {
		i, in := off/chunkSize, off%chunkSize
		part := min(n, chunkSize-in)
		switch {
		case c.at(i) == nil:
		case part == chunkSize:
			sp.drop(c.chunks[i])
			c.chunks[i] = nil
			if c.base == nil {
				delete(c.chunks, i)
			}
		default:
			k, err := sp.own(c, i, limit)
			if err != nil {
				return err
			}
			clear(k.data[in : in+part])
		}
		off, n = off+part, n-part
	}
	return nil
}

// fork returns a content of the same bytes that shares every chunk.
func (c *content) fork() *content {
	f := newContent(c.size)
	for _, i := range c.indexes() {
		if k := c.at(i); k != nil {
			k.refs++
			f.chunks[i] = k
		}
	}
	return f
}

func (sp *space) release(c *content) {
	for _, k := range c.chunks {
		sp.drop(k)
	}
	c.chunks = nil
}

// resize keeps all bytes beyond the size zero, so growing needs no work.
func (sp *space) resize(c *content, size, limit int64) error {
	if size < c.size {
		// Up to the end of the last chunk, which the old size may have touched.
		end := (c.size + chunkSize - 1) / chunkSize * chunkSize
		if err := sp.zeroAt(c, size, end-size, limit); err != nil {
			return err
		}
	}
	c.size = size
	return nil
}

// indexes returns, in order, every index at which c or its base has a chunk.
func (c *content) indexes() []int64 {
	var all []int64
	for ; c != nil; c = c.base {
		for i := range c.chunks {
			all = append(all, i)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// alone returns the bytes that would be free without c.
func (c *content) alone() int64 {
	var n int64
	for _, k := range c.chunks {
		if k != nil && k.refs == 1 {
			n += chunkSize
		}
	}
	return n
}

// wipe overwrites the chunks that are c's alone.
func (c *content) wipe() {
	for _, k := range c.chunks {
		if k != nil && k.refs == 1 {
			clear(k.data)
		}
	}
}
