// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// Holders tells what has a part of the device open on this host.
func (f fencer) Holders(ctx context.Context) ([]primitives.Holder, error) {
	all, err := f.b.holders(ctx)
	return all, classify(primitives.URI{Device: f.b.name}, err)
}

func (b *backend) holders(ctx context.Context) ([]primitives.Holder, error) {
	if b.isClosed() {
		return nil, errClosed()
	}
	s, err := b.reach(ctx, true) // so that no program that a change starts is met
	if err != nil {
		return nil, err
	}
	defer s.leave()
	folder := dataDir
	if s.fenced {
		folder = fencedDir
	}
	held, err := s.look(ctx, folder)
	if err != nil {
		return nil, err
	}
	active, err := s.activeMappings(s.here)
	if err != nil {
		return nil, err
	}
	for _, m := range active {
		held = append(held, primitives.Holder{
			URI:  primitives.URI{Device: s.name, Volume: m.Name, Snapshot: m.Snapshot},
			Kind: "mapping", Name: m.blocker().Name, Path: s.mappedPath(m),
		})
	}
	return held, nil
}

// activeMappings lists those that choose takes, of any host.
func (s *session) activeMappings(choose func(mapping) bool) ([]mapping, error) {
	return s.everyMapping(func(m mapping) bool { return m.Active && choose(m) })
}

// mappedPath is where the mapping leads, for people.
func (s *session) mappedPath(m mapping) string {
	r, err := s.load(m.Name)
	if err != nil || s.locate(&m, r) != nil {
		return ""
	}
	return s.host(r.layer(m.Layer).file())
}

// target is what is looked for: the files of one folder, by what they are and
// not by their names, and the folder itself.
type target struct {
	path   string            // of the folder
	folder fileID            //
	files  map[fileID]string // names in it
}

// fileID names one file of this host, as stat shows it.
type fileID struct {
	major, minor uint32
	ino          uint64
}

// identify asks for a file's identity without waiting for a server: of a file
// on another file system, which may be dead, what the kernel remembers will do.
func identify(at int, path string, flags int) (id fileID, links uint32, err error) {
	var st unix.Statx_t
	err = unix.Statx(at, path, flags|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_NLINK, &st)
	return fileID{st.Dev_major, st.Dev_minor, st.Ino}, st.Nlink, err
}

// aim lists the folder once; one look at the host then serves for all files.
func (s *session) aim(folder string) (target, error) {
	d, err := s.root.Open(folder)
	if err != nil {
		return target{}, err
	}
	defer d.Close()
	t := target{path: s.host(folder), files: map[fileID]string{}}
	if t.folder, _, err = identify(int(d.Fd()), "", unix.AT_EMPTY_PATH); err != nil {
		return target{}, err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return target{}, err
	}
	for _, name := range names {
		id, _, err := identify(int(d.Fd()), name, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			t.files[id] = name
		}
	}
	return t, nil
}

// look finds who has a file below folder open, but for this process and the
// storage daemons of its own calls, which hold the locks of layers.
func (s *session) look(ctx context.Context, folder string) ([]primitives.Holder, error) {
	t, err := s.aim(folder)
	if err != nil {
		return nil, err
	}
	own := s.employed()
	begun := maps.Clone(own) // what the look knows of; it may go on when ctx has ended
	var found []opener
	err = bounded(ctx, func() error {
		all, err := lookAround(ctx, t, begun)
		if err == nil {
			found = all
		}
		return err
	})
	if err != nil && ctx.Err() != nil && !errors.Is(ctx.Err(), context.Canceled) {
		err = primitives.Errorf(primitives.CodeUnavailable, "the look at this host's processes did not end in time: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	maps.Copy(own, s.employed()) // began meanwhile
	held, known := []opener{}, map[string]bool{}
	for _, o := range found {
		known[o.file] = true
		if !own[o.pid] {
			held = append(held, o)
		}
	}
	locked, err := s.lookForLocks(folder, t, known)
	if err != nil {
		return nil, err
	}
	return s.presentHolders(append(held, locked...)), nil
}

// employed are the processes of this device's own calls.
func (b *backend) employed() map[int]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.daemons)
}

// lookForLocks finds the images that a QEMU has open which this host does not
// show: one of another host, on a shared file system.
func (s *session) lookForLocks(folder string, t target, known map[string]bool) ([]opener, error) {
	var found []opener
	for _, name := range slices.Sorted(maps.Values(t.files)) {
		if known[name] || strings.HasPrefix(name, tmpPrefix) {
			continue
		}
		f, err := s.open(folder+"/"+name, os.O_RDONLY)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			return nil, err
		}
		if err != nil {
			continue // gone, or no file of ours
		}
		locked, err := qemuHolds(f)
		_ = f.Close() // nothing was written
		if err != nil {
			return nil, err
		}
		if locked {
			found = append(found, opener{kind: "process", name: "a QEMU that this host does not show", file: name, path: filepath.Join(t.path, name)})
		}
	}
	return found, nil
}

// presentHolders names the objects that are held.
func (s *session) presentHolders(found []opener) []primitives.Holder {
	if len(found) == 0 {
		return nil
	}
	owners := s.owners()
	var held []primitives.Holder
	for _, o := range found {
		u, ok := owners[o.file]
		if !ok {
			u = primitives.URI{Device: s.name}
		}
		held = append(held, primitives.Holder{URI: u, Kind: o.kind, PID: o.pid, Name: o.name, Path: o.path})
	}
	slices.SortFunc(held, func(a, b primitives.Holder) int {
		return cmp.Or(cmp.Compare(a.URI.Short(), b.URI.Short()), cmp.Compare(a.PID, b.PID), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(held)
}

// owners tells which object each data file belongs to.
func (s *session) owners() map[string]primitives.URI {
	owners := map[string]primitives.URI{}
	_ = s.families(func(r record) error { // it passes over what it cannot read
		if r.inTrash() {
			return nil
		}
		u := primitives.URI{Device: s.name, Volume: r.Name}
		for _, l := range r.Layers {
			owners[filepath.Base(l.file())] = u
		}
		for _, snap := range r.Snapshots {
			if l := r.layer(snap.Layer); l != nil && l.ID != r.Head && !snap.gone() {
				owners[filepath.Base(l.file())] = u.At(snap.Name)
			}
		}
		return nil
	})
	return owners
}
