// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// work is a note, written before a data file is made, that says which files may
// be left without a record that needs them. Its owner holds the lock of the
// first layer for as long as it lives. Open looks through the notes of the dead
// and removes what no record needs; it never has to look at anything else.
type work struct {
	Volume primitives.Handle // the family that the layers are for
	Name   string            // its volume's name
	Layers []layerRef
	Origin *origin // the family that may hold a reference to this one without need
}

// job is a note of this process.
type job struct {
	file string
	hold *hold
}

func workFile(layer string) string { return workDir + "/" + layer + recordSuffix }

// begin writes the note for new layers of r and takes the first one's lock.
func (s *session) begin(r record, layers ...layerRef) (*job, error) {
	return s.note(layers[0].ID, work{Volume: r.Handle, Name: r.Name, Layers: layers, Origin: r.Origin})
}

// note writes a note under an id that is also its lock's.
func (s *session) note(id string, w work) (*job, error) {
	h, err := s.lockLayer(id, true)
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, fmt.Errorf("the lock of %s is taken", id)
	}
	j := &job{file: workFile(id), hold: h}
	if err := s.createJSON(j.file, w); err != nil {
		h.release()
		return nil, err
	}
	return j, nil
}

// end forgets a job that is done: its layers are in a record, or gone.
func (s *session) end(j *job) error {
	if j == nil {
		return nil
	}
	defer j.hold.release()
	s.about("forget", j.file)
	// Without a wait for the disk: a note that comes back after a crash is read
	// again, and finds nothing to do.
	if err := s.root.Remove(j.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// recover ends the work of the dead. The device's lock is held.
func (s *session) recover(ctx context.Context) error {
	if err := s.clearTemps(); err != nil {
		return err
	}
	if err := s.clearMappings(); err != nil {
		return err
	}
	if err := s.remove(fenceFile); err != nil { // of a fence that did not come to stand, or stands no more
		return err
	}
	names, err := s.names(workDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		id, ok := strings.CutSuffix(name, recordSuffix)
		if !ok {
			continue
		}
		if err := s.recoverWork(id); err != nil {
			return fmt.Errorf("clear away %s: %w", s.host(workFile(id)), err)
		}
	}
	return nil
}

func (s *session) recoverWork(id string) error {
	h, err := s.lockLayer(id, true)
	if err != nil || h == nil {
		return err // nil: its owner is alive
	}
	defer h.release()
	var note work
	err = s.readJSON(workFile(id), &note)
	if _, damaged := errors.AsType[*errDamaged](err); damaged {
		return nil // a note of ours is whole or absent: this is somebody else's file
	}
	if err != nil {
		return err
	}
	r, err := s.find(note.Volume, note.Name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if r.family != nil && r.State == stateCreating && !resumable(r.family) {
		if err := s.remove(r.file); err != nil {
			return err
		}
		r = record{}
	}
	for _, l := range note.Layers {
		if r.family != nil && r.layer(l.ID) != nil {
			continue
		}
		if err := s.remove(l.file()); err != nil {
			return err
		}
	}
	if r.family == nil && note.Origin != nil {
		if err := s.unrefer(*note.Origin, note.Volume); err != nil {
			return err
		}
	}
	return s.end(&job{file: workFile(id)})
}

// resumable reports whether an interrupted create waits for its repeat.
func resumable(f *family) bool { return f.MadeBy.Kind == kindWrite && f.MadeBy.ID != "" }

// sweep removes what an interrupted create left under a name that is wanted now.
func (s *session) sweep(r record) error {
	if err := s.remove(r.file); err != nil {
		return err
	}
	for _, l := range r.Layers {
		if err := s.remove(l.file()); err != nil {
			return err
		}
	}
	if r.Origin != nil {
		if err := s.unrefer(*r.Origin, r.Handle); err != nil {
			return err
		}
	}
	return s.end(&job{file: workFile(r.Head)})
}

// refer notes in a snapshot that a clone needs it. It happens after the clone's
// record is there and before its data is.
func (s *session) refer(o origin, d dependent) error {
	src, err := s.find(o.Volume, o.Name)
	if err != nil {
		return err
	}
	snap := src.byHandle(o.Snapshot)
	if snap == nil {
		return fs.ErrNotExist
	}
	snap.Clones = append(snap.Clones, d)
	return s.save(src)
}

// unrefer takes the note back.
func (s *session) unrefer(o origin, clone primitives.Handle) error {
	src, err := s.find(o.Volume, o.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	snap := src.byHandle(o.Snapshot)
	if snap == nil {
		return nil
	}
	kept := snap.Clones[:0]
	for _, d := range snap.Clones {
		if d.Handle != clone {
			kept = append(kept, d)
		}
	}
	if len(kept) == len(snap.Clones) {
		return nil
	}
	snap.Clones = kept
	return s.save(src)
}
