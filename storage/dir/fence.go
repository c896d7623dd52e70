// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// fencer is the Fence facet. A device is fenced while its data folder has
// another name: one durable rename makes and ends the fence, so no crash leaves
// half of one, and every path that a guest, a tool or root knows leads nowhere,
// on every host that sees the directory.
type fencer struct{ b *backend }

// fence is the record beside it, for people and for the next Open. That it is
// missing or wrong changes nothing.
type fence struct {
	Host, Boot string
	Since      time.Time
	Filesystem learnt
}

// learnt is of the file system what an Open of a fenced device cannot try out.
type learnt struct{ Reflink, Direct, Punch bool }

func (s *session) isFenced() (bool, error) {
	info, err := s.root.Lstat(fencedDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, &errNotRegular{fencedDir, info.Mode()}
	}
	return true, nil
}

func (s *session) errFenced() error {
	e := primitives.Errorf(primitives.CodeFenced, "it is closed for service")
	var f fence
	if err := s.readJSON(fenceFile, &f); err == nil {
		e = primitives.Errorf(primitives.CodeFenced, "it is closed for service by host %s since %s", f.Host, f.Since.Format(time.RFC3339))
	}
	return e.Trying("wait until its maintenance has ended")
}

// recall takes over what was known of the file system when the fence was made.
func (b *backend) recall(t tree) {
	known := guess(t)
	var f fence
	if t.readJSON(fenceFile, &f) == nil {
		known.reflink, known.direct, known.punch = f.Filesystem.Reflink, f.Filesystem.Direct, f.Filesystem.Punch
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fs = known
}

// Fence closes the device.
func (f fencer) Fence(ctx context.Context, _ primitives.Op) (primitives.FenceReport, error) {
	if f.b.isClosed() {
		return primitives.FenceReport{}, errClosed()
	}
	var r primitives.FenceReport
	err := f.b.freeing(ctx, func() (err error) {
		r, err = f.b.fence(ctx)
		return err
	})
	return r, classify(primitives.URI{Device: f.b.name}, err)
}

func (b *backend) fence(ctx context.Context) (primitives.FenceReport, error) {
	s, err := b.reach(ctx, true)
	if err != nil {
		return primitives.FenceReport{}, err
	}
	defer s.leave()
	stood := s.fenced
	if !stood {
		if err := s.checkIdle(ctx); err != nil {
			return primitives.FenceReport{}, err
		}
		if err := s.setAside(); err != nil {
			return primitives.FenceReport{}, err
		}
	}
	r, err := s.verifyFence(ctx)
	if err != nil && !stood {
		err = errors.Join(err, s.putBack())
	}
	return r, err
}

// checkIdle refuses to fence what somebody uses.
func (s *session) checkIdle(ctx context.Context) error {
	all, err := s.activeMappings(func(mapping) bool { return true })
	if err != nil {
		return err
	}
	var by []primitives.Blocker
	for _, m := range all {
		blocker := m.blocker()
		if m.Host != s.machine.ID {
			blocker.Name += " on host " + m.Host
		}
		by = append(by, blocker)
	}
	// Readers, writers and copies of every tenond hold the lock of a layer.
	busy, err := s.anyLayerUsed()
	if err != nil {
		return err
	}
	if busy {
		by = append(by, primitives.Blocker{Kind: "operation", Name: "a reader or writer of a tenond"})
	}
	held, err := s.look(ctx, dataDir)
	if err != nil {
		return err
	}
	return errHolders(append(by, blockers(held)...))
}

func blockers(held []primitives.Holder) []primitives.Blocker {
	by := make([]primitives.Blocker, len(held))
	for i, h := range held {
		by[i] = primitives.Blocker{Kind: h.Kind, Name: h.Name}
	}
	return by
}

func errHolders(by []primitives.Blocker) error {
	if len(by) == 0 {
		return nil
	}
	return primitives.Errorf(primitives.CodeInUse, "parts of it are open").By(by...).
		Trying("detach the disks and stop what is named")
}

// setAside is the fence itself.
func (s *session) setAside() error {
	record := fence{
		Host: s.machine.ID, Boot: s.machine.BootID, Since: time.Now().UTC(),
		Filesystem: learnt{s.fs.reflink, s.fs.direct, s.fs.punch},
	}
	if err := s.writeJSON(fenceFile, record); err != nil {
		return err
	}
	return s.rename(dataDir, fencedDir)
}

// putBack ends the fence.
func (s *session) putBack() error {
	if err := s.rename(fencedDir, dataDir); err != nil {
		return err
	}
	return s.remove(fenceFile)
}

// verifyFence tries every path that anybody could know, and looks once more for
// who came between the look before and the fence.
func (s *session) verifyFence(ctx context.Context) (primitives.FenceReport, error) {
	if _, err := s.root.Lstat(dataDir); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = primitives.Errorf(primitives.CodeConflict, "somebody made %s anew while it is set aside as %s", s.host(dataDir), s.host(fencedDir)).
				Trying("move it away")
		}
		return primitives.FenceReport{}, err
	}
	names, err := s.names(fencedDir)
	if err != nil {
		return primitives.FenceReport{}, err
	}
	for _, name := range names {
		f, err := os.Open(filepath.Join(s.host(dataDir), name))
		if err == nil {
			err = primitives.Errorf(primitives.CodeInternal, "%s can still be opened", f.Name())
			return primitives.FenceReport{}, errors.Join(err, f.Close())
		}
	}
	how, err := s.verifyUnheld(ctx, names)
	if err != nil {
		return primitives.FenceReport{}, err
	}
	return primitives.FenceReport{
		Method:   "data folder set aside",
		Evidence: fmt.Sprintf("%s is gone, opening each of %d files in it failed; %s", s.host(dataDir), len(names), how),
	}, nil
}

// verifyUnheld makes sure that nobody has a file of the device open that is
// fenced. The kernel grants a write lease only to the one who alone has a file
// open, so a lease on each also rules out users that are no process.
func (s *session) verifyUnheld(ctx context.Context, names []string) (how string, err error) {
	held, err := s.look(ctx, fencedDir)
	if err != nil {
		return "", err
	}
	if err := errHolders(blockers(held)); err != nil {
		return "", err
	}
	how = "no process, mount or loop device has one open"
	for _, name := range names {
		err := s.aloneWith(ctx, fencedDir+"/"+name)
		switch {
		case errors.Is(err, errNoLeases):
			return how, nil
		case errors.Is(err, errLeased):
			// Who it is shows in a moment, or never: the kernel itself, perhaps.
			held, err := s.look(ctx, fencedDir)
			if err == nil && len(held) == 0 {
				held = []primitives.Holder{{Kind: "process", Name: "somebody whom this host does not show, with " + s.host(fencedDir+"/"+name)}}
			}
			return "", errors.Join(err, errHolders(blockers(held)))
		case err != nil:
			return "", err
		}
	}
	return how + ", and each was ours alone by a lease", nil
}

var (
	errLeased   = errors.New("somebody else has the file open")
	errNoLeases = errors.New("the file system has no leases")
)

// leaseTime is how long a file may stay open in one of the agent's own moments:
// a look at it, or a program that is being started with a copy of a descriptor.
const leaseTime = 2 * time.Second

// aloneWith takes a write lease on a file and gives it back.
func (s *session) aloneWith(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.lease(name)
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errLeased
		}
	}
}

func (s *session) lease(name string) error {
	f, err := s.open(name, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close() // which also ends the lease
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	if err == nil || errors.Is(err, unix.EAGAIN) {
		return err
	}
	return errNoLeases // EINVAL on NFS and FUSE, EACCES without the capability
}

// Unfence opens the device again.
func (f fencer) Unfence(ctx context.Context, _ primitives.Op) error {
	if f.b.isClosed() {
		return errClosed()
	}
	err := f.b.freeing(ctx, func() error { return f.b.unfence(ctx) })
	return classify(primitives.URI{Device: f.b.name}, err)
}

func (b *backend) unfence(ctx context.Context) error {
	s, err := b.reach(ctx, true)
	if err != nil {
		return err
	}
	defer s.leave()
	if !s.fenced {
		return s.checkFolders()
	}
	err = s.putBack()
	if errors.Is(err, fs.ErrExist) {
		return primitives.Errorf(primitives.CodeConflict, "somebody made %s anew while it was set aside as %s", s.host(dataDir), s.host(fencedDir)).
			Trying("move it away")
	}
	if err != nil {
		return err
	}
	// What a crash before the fence left is cleared away now.
	return s.probeAgain(ctx)
}
