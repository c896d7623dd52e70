// SPDX-License-Identifier: Apache-2.0

// Package journal keeps, in one file that survives a crash at any point, what
// the agent intends and nobody else knows: the configured devices, the
// operations under way and the recently finished ones, the uses of devices on
// this host, and what is ordered and promised about their maintenance. What
// devices and hypervisors can tell is not in it.
package journal

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tenon-storage/tenon/internal/durable"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// FormatVersion is the version of the file's format that this package writes.
const FormatVersion = 2

// lockWait is how long Open waits for another process to let go of the file: a
// predecessor that is just ending, not one that runs.
const lockWait = time.Second

var (
	bucketMeta       = []byte("meta")
	bucketDevices    = []byte("devices")
	bucketOperations = []byte("operations")
	bucketRequests   = []byte("requests") // request id -> operation id
	bucketUses       = []byte("uses")

	// Since format 2.
	bucketDoors = []byte("doors") // device -> its gate
	bucketAudit = []byte("audit") // number -> one line

	keyMeta = []byte("journal")
)

// buckets1 are the parts of a file of format 1, buckets2 what format 2 added.
func buckets1() [][]byte {
	return [][]byte{bucketMeta, bucketDevices, bucketOperations, bucketRequests, bucketUses}
}

func buckets2() [][]byte {
	names := [][]byte{bucketDoors, bucketAudit}
	for _, p := range []Part{Hosts, Managements, Manager, Policies, Subscribers} {
		names = append(names, p.bucket())
	}
	return names
}

// meta is what the file says of itself.
type meta struct {
	Format  int
	HostID  string
	Created time.Time
}

// Options are the optional parts of Open.
type Options struct {
	// Before is asked before every commit; an error makes the commit fail and
	// leaves the file as it was. Tests stop an agent dead with it.
	Before func() error
}

// Journal is an open journal file. It is safe for concurrent use.
type Journal struct {
	db     *bbolt.DB
	path   string
	before func() error
	meta   meta

	commits    atomic.Uint64
	refusals   atomic.Uint64
	uses       cache[Use]
	operations cache[Operation]
}

// Open opens the journal at path and makes one, readable by its owner only,
// where there is none. A file that another process has open is CodeInUse, one
// that is damaged CodeInternal, one of a newer format CodeUnsupported; none of
// them is touched.
func Open(path string, o Options) (*Journal, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("create the journal %s: %w", path, err)
		}
	} else if err != nil {
		return nil, openError(path, err)
	}
	j := &Journal{path: path, before: o.Before}
	if err := j.open(); err != nil {
		return nil, err
	}
	return j, nil
}

// create makes an empty journal under another name first, so that a crash leaves
// either none or a whole one, and a damaged file is never taken for a new one.
func create(path string) (err error) {
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bbolt.Open(draft, 0o600, &bbolt.Options{Timeout: lockWait})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range append(buckets1(), buckets2()...) {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		data, err := json.Marshal(meta{Format: FormatVersion, HostID: newHostID(), Created: time.Now().UTC()})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyMeta, data)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	err = durable.RenameNoReplace(draft, path)
	if errors.Is(err, fs.ErrExist) {
		return nil // another process was quicker; Open tells who has it
	}
	return err
}

// open opens the file and reads all of it once. bbolt trusts its pages, so a
// damaged one may end in a panic or a fault on mapped memory: both become errors.
func (j *Journal) open() (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if p := recover(); p != nil {
			err = damaged(j.path, fmt.Errorf("%v", p))
		}
		if err != nil && j.db != nil {
			closeQuietly(j.db)
		}
	}()
	if info, err := os.Stat(j.path); err == nil && info.Size() == 0 {
		return damaged(j.path, errors.New("the file is empty")) // bbolt would begin a new one
	}
	j.db, err = bbolt.Open(j.path, 0o600, &bbolt.Options{Timeout: lockWait})
	if err != nil {
		return openError(j.path, err)
	}
	err = j.db.View(func(tx *bbolt.Tx) error {
		var damage []error
		for err := range tx.Check() {
			damage = append(damage, err)
		}
		if len(damage) > 0 {
			return damaged(j.path, errors.Join(damage...))
		}
		return j.readMeta(tx)
	})
	if err != nil {
		return err
	}
	if err := j.upgrade(); err != nil {
		return err
	}
	return os.Chmod(j.path, 0o600)
}

// closeQuietly closes a file that is being refused already.
func closeQuietly(db *bbolt.DB) {
	defer func() { _ = recover() }()
	_ = db.Close()
}

func (j *Journal) readMeta(tx *bbolt.Tx) error {
	need := buckets1()
	if tx.Bucket(bucketMeta) != nil {
		if err := json.Unmarshal(tx.Bucket(bucketMeta).Get(keyMeta), &j.meta); err != nil {
			return damaged(j.path, fmt.Errorf("its description: %w", err))
		}
	}
	if j.meta.Format >= 2 {
		need = append(need, buckets2()...)
	}
	if j.meta.Format > FormatVersion {
		return j.foreign()
	}
	for _, name := range need {
		if tx.Bucket(name) == nil {
			return damaged(j.path, fmt.Errorf("the part %q is missing", name))
		}
	}
	if j.meta.Format < 1 {
		return j.foreign()
	}
	return nil
}

func (j *Journal) foreign() error {
	return primitives.Errorf(primitives.CodeUnsupported, "the journal %s has format %d, this tenond knows up to %d", j.path, j.meta.Format, FormatVersion).
		Trying("run the version of tenond that wrote it")
}

// upgrade makes a file of format 1 one of format 2, all of it or nothing. Format
// 1 knew no maintenance, so every device in it was in service: its door is open.
func (j *Journal) upgrade() error {
	if j.meta.Format == FormatVersion {
		return nil
	}
	next := j.meta
	next.Format = FormatVersion
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	err = j.Update(func(t *Tx) error {
		for _, name := range buckets2() {
			if _, err := t.tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		devices, err := t.Devices()
		if err != nil {
			return err
		}
		for _, d := range devices {
			if err := t.PutDoor(d.Name, maintenance.Door{Gate: maintenance.GateOpen}); err != nil {
				return err
			}
		}
		return t.tx.Bucket(bucketMeta).Put(keyMeta, data)
	})
	if err != nil {
		return fmt.Errorf("bring the journal %s from format %d to %d: %w", j.path, j.meta.Format, FormatVersion, err)
	}
	j.meta = next
	return nil
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return primitives.Errorf(primitives.CodeInUse, "the journal %s is open in another process", path).
			By(primitives.Blocker{Kind: "process", Name: "tenond"}).
			Trying("stop the other tenond, or give this one another state_dir")
	case errors.Is(err, fs.ErrPermission):
		return &primitives.Error{Code: primitives.CodeDenied, Err: fmt.Errorf("open the journal: %w", err)}
	}
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return &primitives.Error{Code: primitives.CodeInternal, Err: fmt.Errorf("open the journal: %w", pathErr)}
	}
	return damaged(path, err)
}

func damaged(path string, err error) error {
	return primitives.Errorf(primitives.CodeInternal, "the journal %s is damaged and was left untouched: %w", path, err).
		Trying("restore it from a backup, or move it aside to start without devices and operations; domains and volumes are not touched by that")
}

// newHostID returns a random identity in the form of a UUID.
func newHostID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// HostID returns the host's identity, made once with the file.
func (j *Journal) HostID() string { return j.meta.HostID }

// Path returns where the file is.
func (j *Journal) Path() string { return j.path }

// Update runs change in a transaction: all of it is durable when Update returned
// nil, and nothing of it happened otherwise. Transactions that change run one at
// a time.
func (j *Journal) Update(change func(*Tx) error) error {
	var t *Tx
	id := 0
	err := j.db.Update(func(tx *bbolt.Tx) error {
		t, id = &Tx{tx: tx, j: j}, tx.ID()
		if err := t.run(change); err != nil {
			return err
		}
		if j.before == nil {
			return nil
		}
		return j.before()
	})
	if err == nil {
		j.commits.Add(1)
		j.uses.commit(id, t.uses)
		j.operations.commit(id, t.operations)
	}
	return err
}

// Commits tells how many transactions were made durable since Open. Each costs
// two fsyncs: of the pages written, then of the one that makes them count.
func (j *Journal) Commits() uint64 { return j.commits.Load() }

// View runs read on one consistent state of the journal.
func (j *Journal) View(read func(*Tx) error) error {
	return j.db.View(func(tx *bbolt.Tx) error {
		t := &Tx{tx: tx, j: j}
		return t.run(read)
	})
}

// run runs f, and fails also where an iteration in it broke off.
func (t *Tx) run(f func(*Tx) error) error {
	if err := f(t); err != nil {
		return err
	}
	return t.err
}

// Close lets go of the file.
func (j *Journal) Close() error { return j.db.Close() }
