// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/primitives"
)

// importer is the Import facet. An image is adopted by a second name (link(2)),
// so it can be adopted while a guest has it open; it is looked at and not changed.
type importer struct{ b *backend }

// Import makes the image at a path a volume.
func (f importer) Import(ctx context.Context, u primitives.URI, r primitives.ImportRequest) (primitives.Object, error) {
	o, err := f.adopt(ctx, u, r)
	return o, classify(u, err)
}

func (f importer) adopt(ctx context.Context, u primitives.URI, req primitives.ImportRequest) (primitives.Object, error) {
	if err := f.b.mineVolume(u); err != nil {
		return primitives.Object{}, err
	}
	s, err := f.b.change(ctx)
	if err != nil {
		return primitives.Object{}, err
	}
	defer s.leave()
	have, cond, err := s.present(u)
	if err != nil {
		return primitives.Object{}, err
	}
	by := request{Kind: kindImport, ID: req.ID, Args: fmt.Sprintf("%s as %s", req.Path, req.Format)}
	what, err := decideCreate(u, have.family, cond, by, false)
	if err != nil {
		return primitives.Object{}, err
	}
	switch what {
	case createReplay:
		return s.volumeObject(have, cond)
	case createAnew:
		if err := s.sweep(have); err != nil {
			return primitives.Object{}, err
		}
	}
	file, err := s.openForeign(req.Path)
	if err != nil {
		return primitives.Object{}, err
	}
	defer file.Close()
	size, err := s.inspectForeign(ctx, file, req)
	if err != nil {
		return primitives.Object{}, err
	}
	return s.link(u, file, size, by, req)
}

// openForeign opens what may be adopted: a regular file of the device's own
// file system, which has not been adopted before.
func (s *session) openForeign(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, primitives.Invalid("path", "%q: expected an absolute path on this host", path)
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, primitives.Invalid("path", "%s: there is no such file", path)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, primitives.Errorf(primitives.CodeUnsupported, "%s is not a regular file but %s", path, info.Mode().Type()).
			Trying("give the path of the file itself; copy a block device with volume write")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := s.checkForeign(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *session) checkForeign(f *os.File, path string) error {
	var theirs, ours unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &theirs), unix.Stat(s.host(dataDir), &ours)); err != nil {
		return err
	}
	if theirs.Mode&unix.S_IFMT != unix.S_IFREG {
		return primitives.Errorf(primitives.CodeUnsupported, "%s changed while it was looked at", path)
	}
	if theirs.Dev != ours.Dev {
		return primitives.Errorf(primitives.CodeUnsupported, "%s is on another file system than %s, so it cannot be adopted without copying", path, s.path).
			Trying("create a volume and write the image to it, or add a device on that file system")
	}
	if theirs.Nlink < 2 {
		return nil
	}
	names, err := s.names(dataDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		info, err := s.lstat(dataDir + "/" + name)
		if err != nil {
			continue
		}
		if mine, err := f.Stat(); err == nil && os.SameFile(info, mine) {
			return primitives.Errorf(primitives.CodeExists, "%s has been adopted already, as %s", path, s.ownerOf(name)).
				Trying("use that volume; two volumes of the same bytes would overwrite each other")
		}
	}
	return nil
}

// ownerOf names the volume that a data file belongs to, for people.
func (s *session) ownerOf(file string) string {
	owner := "a part of some volume"
	_ = s.families(func(r record) error {
		for _, l := range r.Layers {
			if l.file() == dataDir+"/"+file {
				owner = primitives.URI{Device: s.name, Volume: r.Name}.Short()
				if r.inTrash() {
					owner = "tombstone " + r.Delinked.ID
				}
			}
		}
		return nil
	})
	return owner
}

// inspectForeign returns the volume size of an image that stands alone. The
// format is the caller's word: raw bytes stay raw whatever they begin with.
func (s *session) inspectForeign(ctx context.Context, f *os.File, req primitives.ImportRequest) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	switch req.Format {
	case primitives.FormatRaw:
		if info.Size() == 0 {
			return 0, primitives.Invalid("path", "%s is empty", req.Path)
		}
		return roundUp(info.Size())
	case primitives.FormatQcow2:
		return s.inspectQcow2(ctx, f, req.Path)
	}
	return 0, primitives.Invalid("format", "%q: expected raw or qcow2; the format is never guessed", req.Format)
}

func (s *session) inspectQcow2(ctx context.Context, f *os.File, path string) (int64, error) {
	if _, err := s.chooseFormat(primitives.FormatQcow2, nil); err != nil {
		return 0, err
	}
	h, err := readQcow2Header(f)
	if err != nil {
		return 0, primitives.Invalid("format", "%s is not a qcow2 image: %v", path, err)
	}
	switch {
	case h.BackingFile:
		return 0, primitives.Invalid("path", "%s has a backing file; flatten it first (qemu-img convert)", path)
	case h.DataFile:
		return 0, primitives.Invalid("path", "%s keeps its data in another file; convert it first (qemu-img convert)", path)
	case h.Encrypted:
		return 0, primitives.Invalid("path", "%s is encrypted inside; only plain images can be adopted", path)
	case h.Size == 0 || h.Size%granule != 0:
		return 0, primitives.Invalid("path", "%s has %d bytes inside, which is no multiple of %d", path, h.Size, granule)
	}
	// QEMU's own word, through our descriptor; -U, because a guest may have it open.
	name := fmt.Sprintf(`json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"/proc/%d/fd/%d"}}`, os.Getpid(), f.Fd())
	if _, err := command.Run(ctx, command.Cmd{Path: qemuImg, Args: []string{"info", "-U", "--output=json", name}}); err != nil {
		if ctx.Err() != nil {
			return 0, err
		}
		return 0, primitives.Invalid("path", "QEMU cannot open %s as qcow2: %v", path, err)
	}
	return h.Size, nil
}

// link gives the file its second name, and the volume its record.
func (s *session) link(u primitives.URI, f *os.File, size int64, by request, req primitives.ImportRequest) (primitives.Object, error) {
	r := record{s.newFamily(u, req.Format, size, by, req.Props), volumeFile(u.Volume)}
	j, err := s.reserve(r)
	if err != nil {
		return primitives.Object{}, err
	}
	if err := s.linkFile(f, r.Layers[0]); err != nil {
		return primitives.Object{}, errors.Join(err, s.discard(r, j))
	}
	return s.publish(r, j)
}

func (s *session) linkFile(f *os.File, l layer) error {
	folder, err := s.root.Open(dataDir)
	if err != nil {
		return err
	}
	defer folder.Close()
	s.about("link", l.file())
	// By descriptor, so that it is the file that was looked at.
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), int(folder.Fd()), filepath.Base(l.file()), unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: s.host(l.file()), Err: err}
	}
	return errors.Join(f.Sync(), syncFolder(folder))
}
