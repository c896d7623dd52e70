// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// imageExists is the check of images that looks at the host's files.
func imageExists(path string) error {
	if _, err := os.Stat(path); err != nil {
		return primitives.Errorf(primitives.CodeNotFound, "open image: %w", err)
	}
	return nil
}

// files returns the paths that a disk opens, its own first.
func (x disk) files() []string {
	if x.source.Path == "" {
		return nil // the network, or an empty drive
	}
	return append([]string{x.source.Path}, x.source.Chain...)
}

// opens reports whether a disk has a file open, and whether it writes to it. A copy
// of it writes to its target.
func (x disk) opens(path string) (open, writes bool) {
	if x.copy != nil && x.copy.source.Path == path {
		return true, true
	}
	for i, p := range x.files() {
		if p == path {
			return true, i == 0 && x.access == primitives.ReadWrite
		}
	}
	return false, false
}

// open refuses an image, or socket, that is missing, and one that another running disk
// writes to or that this one would write to below another; mu is held.
func (h *Host) open(x disk) error {
	if x.source.Network != nil && x.source.Network.Socket != "" {
		if err := h.check(x.source.Network.Socket); err != nil {
			return err
		}
	}
	for i, path := range x.files() {
		if !h.overlays[path] {
			if err := h.check(path); err != nil {
				return err
			}
		}
		mine := i == 0 && x.access == primitives.ReadWrite
		for _, d := range h.domains {
			for _, other := range d.live {
				open, writes := other.opens(path)
				if !open || !mine && !writes || x.instance != 0 && other.instance == x.instance {
					continue
				}
				return primitives.Errorf(primitives.CodeInUse, "%s is in use by %s of domain %s", path, other.target, d.name).
					By(primitives.Blocker{Kind: "domain", Name: d.name})
			}
		}
	}
	return nil
}

// sizeOf returns the size of a raw image; 0 where it cannot be told.
func sizeOf(s hypervisor.Source) int64 {
	if s.Path == "" || s.Format != primitives.FormatRaw {
		return 0
	}
	info, there := stat(s.Path)
	if !there {
		return 0
	}
	return info.Size()
}

func stat(path string) (info fs.FileInfo, there bool) {
	info, err := os.Stat(path)
	return info, err == nil
}

// grow does to a disk's image what a hypervisor does when it is told the disk's
// new size: a file is made larger, a block device must be larger already.
func grow(s hypervisor.Source, size int64) error {
	if s.Form == primitives.FormNetwork {
		return nil
	}
	info, there := stat(s.Path)
	if !there {
		return nil // an image that CheckImages lets pass without a file
	}
	switch {
	case s.Form == primitives.FormBlock:
		if info.Mode().IsRegular() && info.Size() < size {
			return primitives.Errorf(primitives.CodeConflict, "%s has %d bytes; a device must grow first", s.Path, info.Size())
		}
		return nil
	case s.Format == primitives.FormatQcow2:
		return growQcow2(s.Path, size)
	case info.Size() < size:
		if err := os.Truncate(s.Path, size); err != nil {
			return primitives.Errorf(primitives.CodeInternal, "grow image: %w", err)
		}
	}
	return nil
}

// Places in a qcow2 header.
const (
	qcow2Magic       = 0x514649fb
	qcow2ClusterBits = 20
	qcow2Size        = 24
	qcow2L1Entries   = 36
	qcow2Header      = 40
)

// growQcow2 writes a larger size into an image's header, as far as its table has
// room for it. An empty file is taken to stand for an image.
func growQcow2(path string, size int64) (err error) {
	wrap := func(err error) error { return primitives.Errorf(primitives.CodeInternal, "grow %s: %w", path, err) }
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return wrap(err)
	}
	defer f.Close()
	header := make([]byte, qcow2Header)
	if n, err := f.ReadAt(header, 0); n == 0 && errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return wrap(err)
	}
	if binary.BigEndian.Uint32(header) != qcow2Magic {
		return wrap(errors.New("it is not qcow2"))
	}
	cluster := int64(1) << binary.BigEndian.Uint32(header[qcow2ClusterBits:])
	if room := int64(binary.BigEndian.Uint32(header[qcow2L1Entries:])) * cluster * (cluster / 8); size > room {
		return wrap(fmt.Errorf("its table has room for %d bytes, and the fake makes no larger one", room))
	}
	if have := int64(binary.BigEndian.Uint64(header[qcow2Size:])); have >= size {
		return nil
	}
	if _, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(size)), qcow2Size); err != nil {
		return wrap(err)
	}
	return nil
}
