// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// A legal name holds no slash and no NUL, so it is a legal file name once
// something stands before it that keeps leading dots and dashes away. Nothing is
// escaped: what the administrator sees in the folder is the name.
const (
	namePrefix   = "="
	recordSuffix = ".json"
)

func volumeFile(name string) string { return volumesDir + "/" + namePrefix + name + recordSuffix }
func trashFile(id string) string    { return trashDir + "/" + id + recordSuffix }

// volumeName is the inverse of volumeFile.
func volumeName(file string) (string, bool) {
	name, ok := strings.CutPrefix(file, namePrefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(name, recordSuffix)
}

// record is a family and the file that it lies in.
type record struct {
	*family
	file string
}

// load reads the record of the volume of that name.
func (s *session) load(name string) (record, error) {
	r, err := s.loadFile(volumeFile(name))
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.Name != name {
		// Another name: a file system that takes two names for one, by case or by
		// Unicode normalisation. That volume is not the one asked for.
		return record{}, notFound(primitives.URI{Device: s.name, Volume: name})
	}
	return r, err
}

func (s *session) loadFile(file string) (record, error) {
	var f family
	if err := s.readJSON(file, &f); err != nil {
		return record{}, err
	}
	if f.Version != recordVersion {
		return record{}, primitives.Errorf(primitives.CodeUnsupported, "record %s is of version %d, this driver knows %d", s.host(file), f.Version, recordVersion).
			Trying("use a newer tenond")
	}
	s.grown(&f)
	return record{&f, file}, nil
}

// save replaces a record, durably and at once.
func (s *session) save(r record) error { return s.writeJSON(r.file, r.family) }

// condition is a volume's state as the record and the layer's lock tell it together.
type condition uint8

const (
	ready   condition = iota
	making            // a create, clone or import is at work: not there yet
	writing           // an overwrite is at work
	torn              // an interrupted write that can go on
	debris            // an interrupted create that nobody can go on with: not there
)

func (s *session) conditionOf(f *family) (condition, error) {
	if f.State == stateReady {
		return ready, nil
	}
	use, err := s.layerUse(f.Head)
	if err != nil {
		return 0, err
	}
	switch {
	case f.State == stateWriting && use == beingWritten:
		return writing, nil
	case f.State == stateWriting:
		return torn, nil
	case use == beingWritten:
		return making, nil
	case f.MadeBy.Kind == kindWrite && f.MadeBy.ID != "":
		return torn, nil
	}
	return debris, nil
}

// lookup reads the record of a volume that exists for callers.
func (s *session) lookup(u primitives.URI) (record, condition, error) {
	r, cond, err := s.steady(u)
	if err != nil {
		return record{}, 0, err
	}
	if cond == making || cond == debris {
		return record{}, 0, notFound(u)
	}
	return r, cond, nil
}

// steady reads a record and its condition as they were at one moment. Record and
// lock are looked at one after the other, and a writer that commits in between
// would look like one that died.
func (s *session) steady(u primitives.URI) (record, condition, error) {
	r, err := s.load(u.Volume)
	for err == nil {
		var cond condition
		if cond, err = s.conditionOf(r.family); err != nil || cond != torn && cond != debris {
			return r, cond, err
		}
		before := r
		if r, err = s.load(u.Volume); err == nil && r.sameWrite(before.family) {
			return r, cond, nil
		}
	}
	return record{}, 0, err
}

// sameWrite reports whether nothing was begun or ended between two readings.
func (f *family) sameWrite(g *family) bool {
	return f.Handle == g.Handle && f.State == g.State && f.Generation == g.Generation && f.Head == g.Head && f.Writing == g.Writing
}

// whole is lookup for what needs a volume whose content is whole.
func (s *session) whole(u primitives.URI) (record, error) {
	r, cond, err := s.lookup(u)
	if err != nil {
		return record{}, err
	}
	switch cond {
	case torn:
		return record{}, errTorn(u, r.family)
	case writing:
		return record{}, fail(primitives.CodeIncomplete, u, "it is being written")
	}
	return r, nil
}

func errTorn(u primitives.URI, f *family) error {
	by := f.MadeBy
	if f.State == stateWriting {
		by = f.Writing
	}
	return fail(primitives.CodeIncomplete, u, "operation %q was interrupted while it wrote it", by.ID).
		Trying("resume that operation, or delink the volume")
}

// settled is whole for what also cannot be done while a snapshot waits for Settle.
func (s *session) settled(u primitives.URI) (record, error) {
	r, err := s.whole(u)
	if err != nil {
		return record{}, err
	}
	if names := r.pending(); len(names) > 0 {
		return record{}, errPending(u, names)
	}
	return r, nil
}

func errPending(u primitives.URI, names []string) *primitives.Error {
	e := fail(primitives.CodeConflict, u, "a snapshot waits for the hypervisor to switch")
	for _, n := range names {
		e = e.By(primitives.Blocker{Kind: "snapshot", Name: u.At(n).Short()})
	}
	return e.Trying("repeat once the snapshot is settled")
}

// families calls f with every record, linked and delinked, until it errs.
// Records that vanish meanwhile, or are damaged, are passed over.
func (s *session) families(f func(record) error) error {
	for _, folder := range []string{volumesDir, trashDir} {
		names, err := s.names(folder)
		if err != nil {
			return err
		}
		for _, name := range names {
			r, err := s.loadFile(folder + "/" + name)
			if err != nil {
				continue
			}
			if err := f(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// find returns the record of the family of that handle, wherever it lies. name
// is where to look first. errors.Is(err, fs.ErrNotExist) says that there is none.
func (s *session) find(h primitives.Handle, name string) (record, error) {
	if r, err := s.loadFile(volumeFile(name)); err == nil && r.Handle == h {
		return r, nil
	}
	found := record{}
	stop := errors.New("found")
	err := s.families(func(r record) error {
		if r.Handle == h {
			found = r
			return stop
		}
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		return record{}, err
	}
	if found.family == nil {
		return record{}, fs.ErrNotExist
	}
	return found, nil
}

func (r record) inTrash() bool { return strings.HasPrefix(r.file, trashDir+"/") }
