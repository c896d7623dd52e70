// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// filesystem is what the device's file system can do, found by doing it.
type filesystem struct {
	probed      bool // false: it could not be written to, so nothing below is known
	reflink     bool
	direct      bool // O_DIRECT
	punch       bool // holes can be punched into files
	shared      bool // other hosts may see the same files
	copyOnWrite bool // overwriting a block leaves the old one where it was
	block       int
}

// File systems by their magic number (statfs(2)), for what cannot be tried.
const (
	magicBtrfs    = 0x9123683e
	magicZFS      = 0x2fc12fc1
	magicF2FS     = 0xf2f52010
	magicNilfs    = 0x3434
	magicBcachefs = 0xca451a4e
	magicNFS      = 0x6969
	magicCephFS   = 0x00c36400
	magicSMB2     = 0xfe534d42
	magicCIFS     = 0xff534d42
	magicOCFS2    = 0x7461636f
	magicGFS2     = 0x01161970
)

// probeName marks the two files of a probe, which are gone when it ends.
const probeName = dataDir + "/" + tmpPrefix + "probe-"

// probe tries the file system and remembers the answer.
func (b *backend) probe(t tree) filesystem {
	fs := guess(t)
	fs.probed = fs.try(t) == nil
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fs = fs
	return fs
}

// guess tells what can be told without writing.
func guess(t tree) filesystem {
	fs := filesystem{block: 4096}
	var st unix.Statfs_t
	if err := unix.Statfs(t.host("."), &st); err == nil {
		fs.block = int(st.Bsize)
		switch uint32(st.Type) {
		case magicBtrfs, magicZFS, magicF2FS, magicNilfs, magicBcachefs:
			fs.copyOnWrite = true
		case magicNFS, magicCephFS, magicSMB2, magicCIFS, magicOCFS2, magicGFS2:
			fs.shared = true
		}
	}
	return fs
}

func (fs *filesystem) try(t tree) error {
	from, err := t.probeFile()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := t.probeFile()
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := from.Write(make([]byte, 64<<10)); err != nil {
		return err
	}
	fs.reflink = unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil
	fs.punch = unix.Fallocate(int(from.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096) == nil
	flags, err := unix.FcntlInt(from.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(from.Fd(), unix.F_SETFL, flags|unix.O_DIRECT)
	}
	fs.direct = err == nil
	return nil
}

// probeFile makes a file that has no name any more.
func (t tree) probeFile() (*os.File, error) {
	name := probeName + rand.Text()
	f, err := t.create(name, 0o600)
	if err != nil {
		return nil, err
	}
	if err := t.root.Remove(name); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// installed reports whether every program is in $PATH.
func installed(programs ...string) bool {
	for _, p := range programs {
		found := false
		for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
			info, err := os.Stat(filepath.Join(folder, p))
			found = found || err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
		}
		if !found {
			return false
		}
	}
	return true
}

// prepare looks at what the device can do and clears away what a crash left.
func (b *backend) prepare(ctx context.Context) error {
	b.tools = installed(qemuImg, storageDaemon)
	b.clearSockets()
	s, err := b.reach(ctx, false)
	if err != nil {
		return err
	}
	fenced := s.fenced
	if fenced {
		b.recall(s.tree)
	} else {
		err = s.checkFolders()
	}
	s.leave()
	if err != nil || fenced {
		return err // a fenced device is left as it is
	}
	// The first change probes the file system and clears away.
	if s, err = b.change(ctx); err != nil {
		return err
	}
	s.leave()
	b.keepReserve(ctx)
	return nil
}

// checkFolders refuses a layout that was tampered with.
func (t tree) checkFolders() error {
	for _, name := range []string{volumesDir, trashDir, dataDir, mappingsDir, workDir} {
		info, err := t.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return primitives.Errorf(primitives.CodeFenced, "%s is gone: this is not all of the device", t.host(name)).
				Trying("bring the folder back; tenon never removes it")
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return &errNotRegular{name, info.Mode()}
		}
	}
	return nil
}

// clearTemps removes records that a crash kept from being finished. The device's
// lock is held, so nobody is writing one.
func (t tree) clearTemps() error {
	folders := []string{".", volumesDir, trashDir, workDir, dataDir, mappingsDir}
	for _, folder := range folders {
		f, err := t.root.Open(folder)
		if err != nil {
			return err
		}
		names, err := f.Readdirnames(-1)
		_ = f.Close()
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, tmpPrefix) {
				if err := t.root.Remove(folder + "/" + name); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
