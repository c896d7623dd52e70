// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"
)

// cache holds the decoded records of one part as of one transaction, so that
// whoever goes through all of them need not decode them each time. It is used only
// by transactions that see exactly what it holds.
type cache[T any] struct {
	mu   sync.Mutex // guards what follows
	at   int        // the transaction after which it is true; 0: it holds nothing
	keys []string
	list []T
}

// changes are what a transaction did to a part, until it is durable.
type changes[T any] map[string]*T // nil: deleted

// sees returns the transaction whose outcome t sees, besides its own changes.
func (t *Tx) sees() int {
	if t.tx.Writable() {
		return t.tx.ID() - 1
	}
	return t.tx.ID()
}

// read returns every record of a part, in order of key. The slice is shared: it
// never leaves this package.
func (c *cache[T]) read(t *Tx, bucket []byte, own changes[T]) ([]T, error) {
	if len(own) > 0 {
		return all[T](t, bucket)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != 0 && c.at == t.sees() {
		return c.list, nil
	}
	list, err := all[T](t, bucket)
	if err != nil || t.sees() < c.at {
		return list, err // an older view: what is held is of use to newer ones
	}
	c.keys = c.keys[:0]
	err = t.tx.Bucket(bucket).ForEach(func(key, _ []byte) error {
		c.keys = append(c.keys, string(key))
		return nil
	})
	c.at, c.list = t.sees(), list
	return list, err
}

// each yields the records of a part as one transaction sees them.
func each[T any](t *Tx, bucket []byte, c *cache[T], own changes[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		list, err := c.read(t, bucket, own)
		if err != nil {
			t.fail(err)
		}
		for _, v := range list {
			if !yield(v) {
				return
			}
		}
	}
}

// commit takes over what a transaction that is durable now did.
func (c *cache[T]) commit(id int, own changes[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != id-1 || c.at == 0 {
		return
	}
	c.at = id
	if len(own) > 0 {
		c.list = slices.Clone(c.list) // readers have the old one
	}
	for _, key := range slices.SortedFunc(maps.Keys(own), cmp.Compare[string]) {
		v := own[key]
		i, found := slices.BinarySearch(c.keys, key)
		switch {
		case v == nil && found:
			c.keys, c.list = slices.Delete(c.keys, i, i+1), slices.Delete(c.list, i, i+1)
		case v != nil && found:
			c.list[i] = *v
		case v != nil:
			c.keys, c.list = slices.Insert(c.keys, i, key), slices.Insert(c.list, i, *v)
		}
	}
}
