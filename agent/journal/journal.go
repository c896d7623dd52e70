// SPDX-License-Identifier: Apache-2.0

// Package journal keeps, in one file that survives a crash at any point, what
// the agent intends and nobody else knows: the configured devices, the
// operations under way and the recently finished ones, and the uses of devices
// on this host. What devices and hypervisors can tell is not in it.
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
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/tenon-storage/tenon/internal/durable"
	"github.com/tenon-storage/tenon/primitives"
)

// FormatVersion is the version of the file's format that this package writes.
const FormatVersion = 1

// lockWait is how long Open waits for another process to let go of the file: a
// predecessor that is just ending, not one that runs.
const lockWait = time.Second

var (
	bucketMeta       = []byte("meta")
	bucketDevices    = []byte("devices")
	bucketOperations = []byte("operations")
	bucketRequests   = []byte("requests") // request id -> operation id
	bucketUses       = []byte("uses")

	keyMeta = []byte("journal")
)

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
		for _, name := range [][]byte{bucketMeta, bucketDevices, bucketOperations, bucketRequests, bucketUses} {
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
	return os.Chmod(j.path, 0o600)
}

// closeQuietly closes a file that is being refused already.
func closeQuietly(db *bbolt.DB) {
	defer func() { _ = recover() }()
	_ = db.Close()
}

func (j *Journal) readMeta(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketDevices, bucketOperations, bucketRequests, bucketUses} {
		if tx.Bucket(name) == nil {
			return damaged(j.path, fmt.Errorf("the part %q is missing", name))
		}
	}
	if err := json.Unmarshal(tx.Bucket(bucketMeta).Get(keyMeta), &j.meta); err != nil {
		return damaged(j.path, fmt.Errorf("its description: %w", err))
	}
	if j.meta.Format != FormatVersion {
		return primitives.Errorf(primitives.CodeUnsupported, "the journal %s has format %d, this tenond knows %d", j.path, j.meta.Format, FormatVersion).
			Trying("run the version of tenond that wrote it")
	}
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
	return j.db.Update(func(tx *bbolt.Tx) error {
		if err := change(&Tx{tx: tx}); err != nil {
			return err
		}
		if j.before == nil {
			return nil
		}
		return j.before()
	})
}

// View runs read on one consistent state of the journal.
func (j *Journal) View(read func(*Tx) error) error {
	return j.db.View(func(tx *bbolt.Tx) error { return read(&Tx{tx: tx}) })
}

// Close lets go of the file.
func (j *Journal) Close() error { return j.db.Close() }
