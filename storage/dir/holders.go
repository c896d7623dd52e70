// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// QEMU locks single bytes of an image that it has open, with locks that belong
// to the open file (block/file-posix.c): from qemuPerms on one for each
// permission that it uses, from qemuShared on one for each that it grants
// nobody else. Bit 1 is the permission to write.
const (
	qemuPerms  = 100
	qemuShared = 200
	qemuBytes  = 64
	qemuWrite  = 1
)

// qemuHolds reports whether a QEMU has the file open. Where it was told not to
// lock, only the list of processes tells.
func qemuHolds(f *os.File) (bool, error) {
	return lockedBySomebody(f, qemuPerms, qemuShared+qemuBytes-qemuPerms)
}

// qemuWrites reports whether a QEMU may write to the file.
func qemuWrites(f *os.File) (bool, error) { return lockedBySomebody(f, qemuPerms+qemuWrite, 1) }

func lockedBySomebody(f *os.File, from, n int64) (bool, error) {
	lk := &unix.Flock_t{Type: unix.F_WRLCK, Start: from, Len: n}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, lk); err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOLCK) {
			return false, nil // a file system without locks
		}
		return false, err
	}
	return lk.Type != unix.F_UNLCK, nil
}

// checkReleased refuses to end a mapping whose file somebody has open.
func (s *session) checkReleased(u primitives.URI, m mapping, r record) error {
	// A program that is being started has copies of our descriptors until it
	// begins; nobody starts one meanwhile.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := s.open(r.layer(m.Layer).file(), os.O_RDONLY)
	if err != nil {
		return nil // what is gone is held by nobody who could still use the path
	}
	defer f.Close()
	// The processes first: they have names.
	by, err := s.openBy(f)
	if err != nil {
		return err
	}
	if len(by) == 0 {
		locked, err := qemuHolds(f)
		if err != nil || !locked {
			return err
		}
		by = []primitives.Blocker{{Kind: "process", Name: "a QEMU that this host does not show"}}
	}
	return fail(primitives.CodeInUse, u, "%s is open", s.host(r.layer(m.Layer).file())).By(by...).
		Trying("detach the disk or stop what holds it; unmap with force only when it can never write again")
}

// openBy lists the processes of this host that have the file open, other than
// readers of this device's own.
func (s *session) openBy(f *os.File) ([]primitives.Blocker, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &want); err != nil {
		return nil, err
	}
	own := s.ownDescriptors()
	own[procFD(os.Getpid(), f.Fd())] = true
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var by []primitives.Blocker
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if holdsOpen(pid, &want, own) {
			by = append(by, primitives.Blocker{Kind: "process", Name: fmt.Sprintf("%s (pid %d)", processName(pid), pid)})
		}
	}
	return by, nil
}

func procFD(pid int, fd uintptr) string { return fmt.Sprintf("/proc/%d/fd/%d", pid, fd) }

// holdsOpen looks through one process's descriptors. A process that ends
// meanwhile holds nothing.
func holdsOpen(pid int, want *unix.Stat_t, own map[string]bool) bool {
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	if own[folder] {
		return false
	}
	d, err := os.Open(folder)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		fd := filepath.Join(folder, name)
		target, err := os.Readlink(fd)
		// Only files on file systems begin with a slash; a device's or a pipe's
		// stat could not match, and one on a dead server would hang.
		if err != nil || own[fd] || !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/dev/") {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fd, &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino {
			return true
		}
	}
	return false
}

func processName(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "a process that ended"
	}
	return strings.TrimSpace(string(name))
}

// ownDescriptors names what this device's open readers and writers hold: their
// descriptors, and everything of their storage daemons.
func (b *backend) ownDescriptors() map[string]bool {
	b.mu.Lock()
	open := make([]*stream, 0, len(b.streams))
	for st := range b.streams {
		open = append(open, st)
	}
	b.mu.Unlock()
	own := map[string]bool{}
	for _, st := range open {
		st.mu.RLock()
		switch img := st.img.(type) {
		case *rawImage:
			own[procFD(os.Getpid(), img.f.Fd())] = true
		case *qcow2Image:
			own[fmt.Sprintf("/proc/%d/fd", img.daemon.Pid())] = true
		}
		st.mu.RUnlock()
	}
	return own
}
