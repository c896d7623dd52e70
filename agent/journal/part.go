// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/binary"
	"errors"
	"iter"

	"go.etcd.io/bbolt"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// Part is a part of the journal whose records are another package's types. The
// journal keeps them and knows nothing of what is in them.
type Part string

// The parts of agent/maintenance.
const (
	Hosts       Part = "maintenance/hosts"      // by device: the host's half and what was done for it
	Managements Part = "maintenance/management" // by device: the managing half, while this host has it
	Manager     Part = "maintenance/manager"    // one record: who manages this host
	Policies    Part = "policies"               // by device or use: what to do about it
	Subscribers Part = "subscribers"            // by id: who wants to be told
)

func (p Part) bucket() []byte { return []byte(p) }

// Put writes a record of a part.
func Put[T any](t *Tx, p Part, key string, v T) error { return put(t, p.bucket(), key, v) }

// Get reads a record of a part; CodeNotFound.
func Get[T any](t *Tx, p Part, key string) (T, error) {
	return get[T](t, p.bucket(), string(p)+" record", key)
}

// Find is Get that says without an error that there is no such record.
func Find[T any](t *Tx, p Part, key string) (v T, found bool, err error) {
	v, err = Get[T](t, p, key)
	if errors.Is(err, primitives.CodeNotFound) {
		return v, false, nil
	}
	return v, err == nil, err
}

// Records yields the records of a part in order of key. An error ends it.
func Records[T any](t *Tx, p Part) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		c := t.tx.Bucket(p.bucket()).Cursor()
		for key, data := c.First(); key != nil; key, data = c.Next() {
			var v T
			if err := decode(p.bucket(), key, data, &v); err != nil {
				t.fail(err)
				return
			}
			if !yield(string(key), v) {
				return
			}
		}
	}
}

// Drop forgets a record of a part; an unknown one is success.
func Drop(t *Tx, p Part, key string) error { return t.tx.Bucket(p.bucket()).Delete([]byte(key)) }

// fail keeps the first error of an iteration, which ends the transaction.
func (t *Tx) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// PutDoor writes the gate of a device.
func (t *Tx) PutDoor(device string, d maintenance.Door) error {
	return put(t, bucketDoors, device, d)
}

// Door reads the gate of a device. One of which nothing is recorded is
// maintenance.GateUnknown, which admits nobody.
func (t *Tx) Door(device string) (maintenance.Door, error) {
	d, err := get[maintenance.Door](t, bucketDoors, "door of", device)
	if errors.Is(err, primitives.CodeNotFound) {
		return maintenance.Door{Gate: maintenance.GateUnknown}, nil
	}
	return d, err
}

// Refused counts that a door refused somebody, which leaves nothing else behind:
// what was begun in the transaction is given up.
func (t *Tx) Refused() { t.j.refusals.Add(1) }

// Refusals tells how often doors refused somebody since Open.
func (j *Journal) Refusals() uint64 { return j.refusals.Load() }

// DeleteDoor forgets the gate of a device; an unknown one is success.
func (t *Tx) DeleteDoor(device string) error { return t.tx.Bucket(bucketDoors).Delete([]byte(device)) }

// AppendAudit adds a line to the audit. Lines stay in the order in which they
// came, and none is ever changed.
func AppendAudit[T any](t *Tx, line T) error {
	n, err := t.tx.Bucket(bucketAudit).NextSequence()
	if err != nil {
		return err
	}
	return put(t, bucketAudit, string(binary.BigEndian.AppendUint64(nil, n)), line)
}

// Audit reads the lines of the audit, oldest first.
func Audit[T any](t *Tx) ([]T, error) { return all[T](t, bucketAudit) }

// TrimAudit deletes the oldest lines that may go, until at most keep are left
// or none may go any more.
func TrimAudit[T any](t *Tx, keep int, mayGo func(T) bool) error {
	b := t.tx.Bucket(bucketAudit)
	first, _ := b.Cursor().First()
	if first == nil || b.Sequence()-binary.BigEndian.Uint64(first) < uint64(keep) {
		return nil // there cannot be so many
	}
	return trim(b, keep, mayGo)
}

func trim[T any](b *bbolt.Bucket, keep int, mayGo func(T) bool) error {
	count := 0
	if err := b.ForEach(func(_, _ []byte) error { count++; return nil }); err != nil {
		return err
	}
	var old [][]byte
	c := b.Cursor()
	for key, data := c.First(); key != nil && count-len(old) > keep; key, data = c.Next() {
		var line T
		if err := decode(bucketAudit, key, data, &line); err != nil {
			return err
		}
		if mayGo(line) {
			old = append(old, append([]byte(nil), key...))
		}
	}
	for _, key := range old {
		if err := b.Delete(key); err != nil {
			return err
		}
	}
	return nil
}
