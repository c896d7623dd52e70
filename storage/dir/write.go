// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// Kinds of recorded requests.
const (
	kindWrite     = "write"
	kindOverwrite = "overwrite"
	kindClone     = "clone"
	kindImport    = "import"
	kindSnapshot  = "snapshot"
	kindRevert    = "revert"
	kindDelink    = "delink"
	kindRelink    = "relink"
	kindResize    = "resize"
)

// Write opens a volume for writing, or makes one.
func (b *backend) Write(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	out, err := b.write(ctx, u, w)
	if err != nil {
		return nil, classify(u, err)
	}
	return out, nil
}

func (b *backend) write(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	if err := b.mineVolume(u); err != nil {
		return nil, err
	}
	s, err := b.change(ctx)
	if err != nil {
		return nil, err
	}
	defer s.leave()
	if w.Create {
		return s.openCreate(ctx, u, w)
	}
	return s.openOverwrite(ctx, u, w)
}

// creation is what a request to create comes to.
type creation uint8

const (
	createFresh  creation = iota
	createAnew            // after what an interrupted one left is swept away
	createResume          // go on with an interrupted one
	createReplay          // it is done already
)

// decideCreate compares a request to create u with what has the name. It serves
// clones and imports too.
func decideCreate(u primitives.URI, have *family, cond condition, want request, resume bool) (creation, error) {
	switch {
	case have == nil:
		return createFresh, nil
	case cond == debris:
		return createAnew, nil
	case cond == making:
		return 0, fail(primitives.CodeConflict, u, "operation %q is making it", have.MadeBy.ID)
	case have.MadeBy.clashes(want):
		return 0, fail(primitives.CodeConflict, u, "operation %q made it with other arguments: %s", want.ID, have.MadeBy.Args)
	case cond == torn && have.State == stateCreating && have.MadeBy.repeats(want):
		if resume {
			return createResume, nil
		}
		return createAnew, nil
	case cond == torn && have.State == stateCreating && resume:
		return 0, fail(primitives.CodeConflict, u, "operation %q began it, not %q", have.MadeBy.ID, want.ID)
	case cond == torn && have.State == stateCreating:
		return 0, errTorn(u, have)
	case have.MadeBy.repeats(want) && cond == torn:
		return 0, errTorn(u, have)
	case have.MadeBy.repeats(want):
		return createReplay, nil
	}
	return 0, fail(primitives.CodeExists, u, "a %s volume of %d bytes has that name", have.Format, have.Size)
}

// present reads what has the name, in whatever condition.
func (s *session) present(u primitives.URI) (record, condition, error) {
	r, err := s.load(u.Volume)
	if errors.Is(err, primitives.CodeNotFound) {
		return record{file: volumeFile(u.Volume)}, 0, nil
	}
	if err != nil {
		return record{}, 0, err
	}
	cond, err := s.conditionOf(r.family)
	return r, cond, err
}

func (s *session) openCreate(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	size, err := roundUp(w.Size)
	if err != nil {
		return nil, err
	}
	format, err := s.chooseFormat(w.Format, w.Props)
	if err != nil {
		return nil, err
	}
	by := request{Kind: kindWrite, ID: w.ID, Args: fmt.Sprintf("%d bytes, %s", size, format)}
	r, cond, err := s.present(u)
	if err != nil {
		return nil, err
	}
	what, err := decideCreate(u, r.family, cond, by, w.Resume)
	if err != nil {
		return nil, err
	}
	switch what {
	case createReplay:
		o, err := s.volumeObject(r, cond)
		return &replayed{size: r.Size, u: u, object: o}, err
	case createResume:
		return s.resumeCreate(ctx, u, r)
	case createAnew:
		if err := s.sweep(r); err != nil {
			return nil, err
		}
	}
	r = record{s.newFamily(u, format, size, by, w.Props), volumeFile(u.Volume)}
	j, err := s.reserve(r)
	if err != nil {
		return nil, err
	}
	if err := s.makeImage(ctx, r.Layers[0], size); err != nil {
		return nil, errors.Join(err, s.discard(r, j))
	}
	return s.startWriter(ctx, &writer{create: true, record: r, job: j}, u)
}

// newFamily is the record of a volume that is to be made.
func (b *backend) newFamily(u primitives.URI, format primitives.Format, size int64, by request, p primitives.Props) *family {
	l := layer{ID: newID(), Format: format}
	return &family{
		Version: recordVersion, Handle: newHandle(), Name: u.Volume, Format: format, Size: size, State: stateCreating,
		Created: time.Now().UTC(), Props: stored(p), Head: l.ID, Layers: []layer{l}, MadeBy: by,
	}
}

// reserve takes the name for a volume that is being made.
func (s *session) reserve(r record) (*job, error) {
	j, err := s.begin(r, r.Layers[0].ref())
	if err != nil {
		return nil, err
	}
	if err := s.createJSON(r.file, r.family); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fail(primitives.CodeExists, primitives.URI{Device: s.name, Volume: r.Name}, "the file system takes the name of another volume for the same")
		}
		return nil, errors.Join(err, s.end(j))
	}
	return j, nil
}

// discard undoes reserve.
func (s *session) discard(r record, j *job) error {
	err := s.remove(r.file)
	for _, l := range r.Layers {
		err = errors.Join(err, s.remove(l.file()))
	}
	if r.Origin != nil {
		err = errors.Join(err, s.unrefer(*r.Origin, r.Handle))
	}
	if err != nil {
		j.hold.release() // the note stays for the next Open
		return err
	}
	return s.end(j)
}

func (s *session) resumeCreate(ctx context.Context, u primitives.URI, r record) (primitives.Writer, error) {
	head := r.layer(r.Head)
	h, err := s.lockLayer(head.ID, true)
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, fail(primitives.CodeConflict, u, "operation %q is making it", r.MadeBy.ID)
	}
	j := &job{file: workFile(head.ID), hold: h}
	_, err = s.lstat(head.file())
	if errors.Is(err, fs.ErrNotExist) {
		err = s.makeImage(ctx, *head, r.Size)
	} else if err == nil && head.Format == primitives.FormatRaw {
		err = s.truncate(head.file(), r.Size)
	}
	if err != nil {
		h.release()
		return nil, err
	}
	return s.startWriter(ctx, &writer{create: true, record: r, job: j}, u)
}

func (s *session) openOverwrite(ctx context.Context, u primitives.URI, w primitives.WriteRequest) (primitives.Writer, error) {
	r, cond, err := s.lookup(u)
	if err != nil {
		return nil, err
	}
	if err := checkGeneration(u, w.Op, r.Generation); err != nil {
		return nil, err
	}
	switch {
	case cond == writing:
		return nil, fail(primitives.CodeConflict, u, "operation %q is writing it", r.Writing.ID)
	case cond == torn && (w.ID == "" || r.Writing.ID != w.ID):
		if w.Resume {
			return nil, fail(primitives.CodeConflict, u, "another operation, %q, was interrupted while it wrote it", r.Writing.ID).
				Trying("write it again with that request id, or delink the volume")
		}
		return nil, errTorn(u, r.family)
	}
	if names := r.pending(); len(names) > 0 {
		return nil, errPending(u, names)
	}
	if err := s.checkUnmapped(u, r.Handle); err != nil {
		return nil, err
	}
	h, err := s.lockLayer(r.Head, true)
	if err != nil {
		return nil, err
	}
	if h == nil {
		return nil, errBeingRead(u)
	}
	r.State, r.Writing = stateWriting, request{Kind: kindOverwrite, ID: w.ID}
	if err := s.save(r); err != nil {
		h.release()
		return nil, err
	}
	return s.startWriter(ctx, &writer{record: r, job: &job{hold: h}}, u)
}

func errBeingRead(u primitives.URI) error {
	return fail(primitives.CodeInUse, u, "it is being read").Trying("repeat when the copy or read has ended")
}

// startWriter opens the image of a writer whose lock is held.
func (s *session) startWriter(ctx context.Context, w *writer, u primitives.URI) (primitives.Writer, error) {
	w.stream = &stream{b: s.backend, u: u, size: w.Size, hold: w.job.hold}
	chain, err := w.layer(w.Head).chain(), error(nil)
	if w.create && w.Format == primitives.FormatQcow2 {
		w.img = s.openLate(chain, w.Size)
	} else {
		w.img, err = s.openImage(ctx, chain, w.Size, true)
	}
	if err == nil {
		err = s.track(w.stream)
	}
	if err == nil {
		return w, nil
	}
	if w.create {
		return nil, errors.Join(err, s.discard(w.record, w.job))
	}
	// Nothing was written, so nothing is torn; the record says so before the lock
	// does, as with a commit.
	w.State, w.Writing = stateReady, request{}
	err = errors.Join(err, s.save(w.record))
	w.abandon()
	return nil, err
}

// roundUp returns the size of a volume for which size bytes were asked.
func roundUp(size int64) (int64, error) {
	if size <= 0 {
		return 0, primitives.Invalid("size", "%d is not a size; expected at least 1 byte", size)
	}
	if size > 1<<62 {
		return 0, primitives.Invalid("size", "%d bytes are more than a file may have", size)
	}
	return (size + granule - 1) / granule * granule, nil
}

// chooseFormat returns the format of a new volume.
func (s *session) chooseFormat(want primitives.Format, p primitives.Props) (primitives.Format, error) {
	if want == "" {
		want = primitives.Format(p[propFormat])
	}
	formats := s.caps(s.fs).Formats
	if want == "" {
		return formats[0], nil
	}
	for _, f := range formats {
		if f == want {
			return f, nil
		}
	}
	if want == primitives.FormatQcow2 {
		return "", primitives.Errorf(primitives.CodeUnsupported, "qcow2 needs %s and %s, which are not installed", qemuImg, storageDaemon).
			Trying("install qemu-utils and qemu-system-common")
	}
	return "", primitives.Invalid("format", "%q: expected one of %v", want, formats)
}

// stored keeps of the effective properties those that belong to a volume.
func stored(p primitives.Props) primitives.Props {
	kept := primitives.Props{}
	for _, spec := range (Driver{}).Info().Schema.Props {
		if v, ok := p[spec.Name]; ok && spec.Scope&primitives.ScopeVolume != 0 {
			kept[spec.Name] = v
		}
	}
	return kept
}
