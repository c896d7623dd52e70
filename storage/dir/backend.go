// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// granule is the sector of every hypervisor; images that exist already have
// sizes that are multiples of it.
const granule = 512

// backend is one opened device. It holds nothing open: see tree.
type backend struct {
	driver  Driver
	name    string
	folder  string // its path, as configured
	uuid    string
	mounted bool // a file system must be mounted on folder
	machine primitives.HostInfo
	tools   bool // qemu-img and qemu-storage-daemon are installed

	mu      sync.Mutex // guards what follows
	closed  bool
	fs      filesystem
	streams map[*stream]bool // open readers and writers
	daemons map[int]bool     // storage daemons of calls, readers and writers

	reserved bool // the reserve is held, as far as this backend knows
}

var _ primitives.Backend = (*backend)(nil)

// session is one operation on the device.
type session struct {
	*backend
	tree
	fs     filesystem
	meta   *hold // the device's lock, for operations that change records
	fenced bool  // the device is closed for service
}

func errClosed() *primitives.Error {
	return primitives.Errorf(primitives.CodeUnavailable, "the device is closed")
}

// enter opens the directory for an operation and makes sure that it is still
// the device's. It answers within ctx even if the file system hangs.
func (b *backend) enter(ctx context.Context) (*session, error) {
	if b.isClosed() {
		return nil, errClosed()
	}
	return b.enterEvenClosed(ctx, false)
}

func (b *backend) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// enterEvenClosed is for taking back what was begun before Close.
func (b *backend) enterEvenClosed(ctx context.Context, locked bool) (*session, error) {
	s, err := b.reach(ctx, locked)
	if err != nil {
		return nil, err
	}
	if s.fenced {
		defer s.leave()
		return nil, s.errFenced()
	}
	if locked && !s.fs.probed {
		if err := s.probeAgain(ctx); err != nil {
			s.leave()
			return nil, err
		}
	}
	return s, nil
}

// reach is enterEvenClosed for what a fenced device does too.
func (b *backend) reach(ctx context.Context, locked bool) (*session, error) {
	s, err := b.session(ctx)
	if err == nil && locked {
		s.meta, err = s.lockMeta(ctx)
	}
	if err == nil {
		s.fenced, err = s.isFenced()
	}
	if err != nil {
		if s != nil {
			s.leave()
		}
		return nil, err
	}
	return s, nil
}

// relock takes the device's lock again in the middle of an operation.
func (s *session) relock(ctx context.Context) error {
	var err error
	if s.meta, err = s.lockMeta(ctx); err != nil {
		return err
	}
	// Meanwhile somebody else had it.
	if s.fenced, err = s.isFenced(); err == nil && s.fenced {
		err = s.errFenced()
	}
	if err != nil {
		s.meta.release()
	}
	return err
}

// probeAgain is for a file system that was read-only or full at Open.
func (s *session) probeAgain(ctx context.Context) error {
	if s.fs = s.probe(s.tree); !s.fs.probed {
		return nil
	}
	return s.recover(ctx)
}

func (b *backend) session(ctx context.Context) (*session, error) {
	b.mu.Lock()
	fs := b.fs
	b.mu.Unlock()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	type opened struct {
		t   tree
		err error
	}
	done := make(chan opened, 1)
	go func() {
		t, err := b.openTree()
		done <- opened{t, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, o.err
		}
		return &session{backend: b, tree: o.t, fs: fs}, nil
	case <-ctx.Done():
		go func() { // the directory hangs; what comes of it is let go
			if o := <-done; o.err == nil {
				_ = o.t.close()
			}
		}()
		return nil, unanswered(ctx)
	}
}

func (b *backend) openTree() (tree, error) {
	root, err := os.OpenRoot(b.folder)
	if err != nil {
		return tree{}, unreachable(b.folder, err)
	}
	t := tree{root: root, path: b.folder, step: b.driver.step}
	err = t.checkIdentity(b.uuid)
	if err == nil && b.mounted {
		err = t.checkMounted() // what lies beneath the mount may be a copy of it
	}
	if err != nil {
		return tree{}, errors.Join(err, t.close())
	}
	return t, nil
}

// change is enter for an operation that changes records: nobody else changes
// any until leave.
func (b *backend) change(ctx context.Context) (*session, error) {
	if b.isClosed() {
		return nil, errClosed()
	}
	return b.enterEvenClosed(ctx, true)
}

func (s *session) leave() {
	s.meta.release()
	_ = s.tree.close() // a directory opened for reading
}

// mine refuses names of other devices, and names that are none.
func (b *backend) mine(us ...primitives.URI) error {
	for _, u := range us {
		if err := u.Check(); err != nil {
			return err
		}
		if u.Device != b.name {
			return primitives.Invalid("uri", "%s is not on device %s", u.Short(), b.name).On(u)
		}
		if u.Volume == "" {
			return primitives.Invalid("uri", "%s names no volume; write DEVICE/VOLUME", u.Short()).On(u)
		}
	}
	return nil
}

func (b *backend) mineVolume(us ...primitives.URI) error {
	for _, u := range us {
		if err := b.mine(u); err != nil {
			return err
		}
		if u.IsSnapshot() {
			return primitives.Invalid("uri", "%s is a snapshot; expected a volume", u.Short()).On(u)
		}
	}
	return nil
}

// Describe tells the state of the directory now. A path that is gone or is
// another's is a state too, not an error.
func (b *backend) Describe(ctx context.Context) (primitives.Description, error) {
	b.mu.Lock()
	closed, known := b.closed, b.fs
	b.mu.Unlock()
	if closed {
		return primitives.Description{}, errClosed()
	}
	d := primitives.Description{Backend: b.uuid, Total: -1, Free: -1, Granule: granule, AtTime: time.Now()}
	s, err := b.reach(ctx, false)
	if err != nil {
		d.Health, d.HealthNote = primitives.Unreachable, err.Error()
		if other, ok := errors.AsType[*errForeign](err); ok {
			d.Health, d.Backend = primitives.Failed, other.have
		}
		d.Caps = b.caps(known)
		return d, nil
	}
	defer s.leave()
	d.Fenced = s.fenced
	if !s.fenced {
		if err := s.checkFolders(); err != nil {
			d.Health, d.HealthNote, d.Caps = primitives.Failed, err.Error(), b.caps(known)
			return d, nil
		}
	}
	var st unix.Statfs_t
	if err := bounded(ctx, func() error { return unix.Statfs(s.host("."), &st) }); err != nil {
		d.Health, d.HealthNote, d.Caps = primitives.Unreachable, err.Error(), b.caps(known)
		return d, nil
	}
	d.Total, d.Free = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	if !known.probed && st.Flags&unix.ST_RDONLY == 0 && !s.fenced {
		known = b.probe(s.tree)
	}
	d.Caps = b.caps(known)
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		d.Health, d.HealthNote, d.Caps.Manageable = primitives.Degraded, "the file system is mounted read-only", false
	case d.Free < st.Bsize*16:
		d.Health, d.HealthNote = primitives.Degraded, "the file system is full"
	}
	return d, nil
}

// caps are the device's capabilities: what some of its objects can.
func (b *backend) caps(fs filesystem) primitives.Caps {
	c := primitives.Caps{
		Manageable: true, RandomWrite: true, ExclusiveActivate: true, ZeroOnCreate: true, ThinProvisioned: true,
		SharedAcrossHosts: fs.shared, CloneIsCopy: !fs.reflink, DelinkFreesName: true,
		DeleteWithSnaps: primitives.DeleteTakesSnapshots, ResizeOnline: true,
		Formats: []primitives.Format{primitives.FormatRaw},
		Forms:   []primitives.Form{primitives.FormFile},
		Erase:   []primitives.Erase{primitives.EraseNone, primitives.EraseDiscard},
	}
	if !fs.copyOnWrite {
		c.Erase = append(c.Erase, primitives.EraseZero)
	}
	if b.tools {
		c.Formats = []primitives.Format{primitives.FormatQcow2, primitives.FormatRaw}
		c.Snapshot, c.SnapshotLive, c.SnapshotGroup, c.Revert = true, primitives.LiveRemap, true, primitives.RevertKeepsLater
	}
	if fs.reflink {
		// Reflinks of several files are taken one after the other, so no group.
		c.Snapshot, c.SnapshotLive, c.SnapshotGroup, c.Revert = true, primitives.LiveTransparent, false, primitives.RevertKeepsLater
		if b.tools {
			c.Formats = []primitives.Format{primitives.FormatRaw, primitives.FormatQcow2}
		}
	}
	return c
}

// Facets offers everything: what one object cannot, its capabilities tell.
func (b *backend) Facets() primitives.Facets {
	return primitives.Facets{Snapshots: snapshots{b}, Resize: resizer{b}, Delta: delta{b}, Map: mapper{b}, Import: importer{b}, Fence: fencer{b}}
}

// Stat looks one object up.
func (b *backend) Stat(ctx context.Context, u primitives.URI, _ primitives.Op) (primitives.Object, error) {
	if err := b.mine(u); err != nil {
		return primitives.Object{}, err
	}
	s, err := b.enter(ctx)
	if err != nil {
		return primitives.Object{}, classify(u, err)
	}
	defer s.leave()
	o, err := s.stat(u)
	return o, classify(u, err)
}

func (s *session) stat(u primitives.URI) (primitives.Object, error) {
	f, cond, err := s.lookup(u.Parent())
	if err != nil {
		return primitives.Object{}, err
	}
	if u.IsVolume() {
		return s.volumeObject(f, cond)
	}
	snap := f.snapshot(u.Snapshot)
	if snap == nil {
		return primitives.Object{}, notFound(u)
	}
	return s.snapshotObject(f, snap)
}

// CopyTo offers nothing: the caller streams.
func (b *backend) CopyTo(ctx context.Context, src primitives.URI, _ primitives.CopyTarget, _ primitives.Op) (primitives.Object, error) {
	if err := b.mine(src); err != nil {
		return primitives.Object{}, err
	}
	s, err := b.enter(ctx)
	if err != nil {
		return primitives.Object{}, classify(src, err)
	}
	s.leave()
	return primitives.Object{}, fail(primitives.CodeNoOffload, src, "a directory cannot copy by itself")
}

// Close ends the use of the device. Readers are closed; writers that were
// neither committed nor aborted are left as a crash would leave them.
func (b *backend) Close() error {
	b.mu.Lock()
	b.closed = true
	open := b.streams
	b.streams = map[*stream]bool{}
	b.mu.Unlock()
	for st := range open {
		st.abandon()
	}
	return nil
}
