// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/primitives"
)

// qemuImg makes and grows images. Each is named by a description of its nodes,
// never by a path that QEMU would look into or a backing file that a header names.
const qemuImg = "qemu-img"

// chainNode describes a chain to QEMU: every driver and every file is named, and
// the lowest image is told that it has nothing below it.
func (t tree) chainNode(chain []layerRef) map[string]any {
	var below any // nil: nothing
	for i := len(chain) - 1; i >= 0; i-- {
		below = t.layerNode(chain[i], below)
	}
	return below.(map[string]any)
}

func (t tree) layerNode(l layerRef, below any) map[string]any {
	node := map[string]any{
		"driver": string(l.Format),
		"file":   map[string]any{"driver": "file", "filename": t.host(l.file())},
	}
	if l.Format == primitives.FormatQcow2 {
		node["backing"] = below
	}
	return node
}

// imageName is what qemu-img takes in place of a file name.
func (t tree) imageName(chain []layerRef) (string, error) {
	data, err := json.Marshal(t.chainNode(chain))
	return "json:" + string(data), err
}

// makeQcow2 makes an empty image, over what l has below it. It gets its name
// when it is whole.
func (s *session) makeQcow2(ctx context.Context, l layer, size int64) error {
	tmp := dataDir + "/" + tmpPrefix + rand.Text()
	f, err := s.create(tmp, imagePerm) // qemu-img keeps the permissions of a file that is there
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	args := []string{"create", "-q", "-f", "qcow2", "-o", "compat=1.1"}
	if len(l.Below) > 0 {
		// -u: the header is for people who look at the image by hand. It is
		// relative, so it stays true where the device is mounted elsewhere.
		args = append(args, "-u", "-b", path.Base(l.Below[0].file()), "-F", string(l.Below[0].Format))
	}
	args = append(args, s.host(tmp), strconv.FormatInt(size, 10))
	if err := s.qemuImg(ctx, args...); err != nil {
		return errors.Join(err, s.root.Remove(tmp))
	}
	if err := s.flushFile(tmp); err != nil {
		return errors.Join(err, s.root.Remove(tmp))
	}
	return s.rename(tmp, l.file())
}

func (t tree) flushFile(name string) error {
	f, err := t.open(name, os.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// qemuImg runs qemu-img for what changes an image.
func (s *session) qemuImg(ctx context.Context, args ...string) error {
	s.about("run", qemuImg+" "+args[0])
	_, err := command.Run(ctx, command.Cmd{Path: qemuImg, Args: args})
	return s.explain(err)
}

// explain gives a failed tool's error its cause where the cause can be seen: it
// says in English only that the file system is full.
func (s *session) explain(err error) error {
	if err == nil {
		return nil
	}
	var st unix.Statfs_t
	if unix.Statfs(s.host("."), &st) != nil {
		return err
	}
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		return fmt.Errorf("%w (%w)", unix.EROFS, err)
	case int64(st.Bavail)*st.Bsize < 1<<20:
		return fmt.Errorf("%w (%w)", unix.ENOSPC, err)
	}
	return err
}

// growQcow2 sets the size of an image that nobody has open.
func (s *session) growQcow2(ctx context.Context, l layerRef, size int64) error {
	// Without what is below it: growing reads nothing there, and a header must
	// not lead anywhere.
	name, err := s.imageName([]layerRef{l})
	if err != nil {
		return err
	}
	if err := s.qemuImg(ctx, "resize", "-q", name, strconv.FormatInt(size, 10)); err != nil {
		return err
	}
	return s.syncLayer(l)
}

// qcow2Header is the part of an image's header that decides whether the image
// stands alone (docs/interop/qcow2.txt in QEMU's sources).
type qcow2Header struct {
	Version     uint32
	BackingFile bool
	DataFile    bool
	Encrypted   bool
	Size        int64
}

const (
	qcow2Magic         = 0x514649fb
	qcow2HeaderSize    = 104
	qcow2HeaderMin     = 72
	qcow2ExternalData  = 1 << 2 // of the incompatible features
	qcow2MaxSize       = 1 << 62
	qcow2OldestVersion = 2
	qcow2NewestVersion = 3
)

var errNoQcow2 = errors.New("no qcow2 image")

// parseQcow2 reads a header. It is a reader of five fields, so that an image is
// known to stand alone before QEMU is told to open it.
func parseQcow2(b []byte) (qcow2Header, error) {
	if len(b) < qcow2HeaderMin || binary.BigEndian.Uint32(b) != qcow2Magic {
		return qcow2Header{}, errNoQcow2
	}
	h := qcow2Header{
		Version:     binary.BigEndian.Uint32(b[4:]),
		BackingFile: binary.BigEndian.Uint64(b[8:]) != 0,
		Encrypted:   binary.BigEndian.Uint32(b[32:]) != 0,
	}
	if h.Version < qcow2OldestVersion || h.Version > qcow2NewestVersion {
		return qcow2Header{}, fmt.Errorf("qcow2 version %d is unknown", h.Version)
	}
	size := binary.BigEndian.Uint64(b[24:])
	if size > qcow2MaxSize {
		return qcow2Header{}, fmt.Errorf("a qcow2 image cannot have %d bytes", size)
	}
	h.Size = int64(size)
	if h.Version >= 3 {
		if len(b) < qcow2HeaderSize {
			return qcow2Header{}, errNoQcow2
		}
		h.DataFile = binary.BigEndian.Uint64(b[72:])&qcow2ExternalData != 0
	}
	return h, nil
}

func readQcow2Header(f *os.File) (qcow2Header, error) {
	b := make([]byte, qcow2HeaderSize)
	n, err := f.ReadAt(b, 0)
	if n == 0 && err != nil {
		return qcow2Header{}, errors.Join(errNoQcow2, err)
	}
	return parseQcow2(b[:n])
}

// imageSize reads the size that the image itself has: a hypervisor that grows an
// image writes it there at once.
func (s *session) imageSize(l layerRef) (int64, error) {
	f, err := s.open(l.file(), os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h, err := readQcow2Header(f)
	return h.Size, err
}
