// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// opener is somebody who has a file open.
type opener struct {
	kind string // as a primitives.Holder's
	pid  int
	name string // as people know it
	file string // in the folder; empty: the folder itself, or one that has no name any more
	path string
}

// lookAround goes through the host once: its processes, the mounts that each of
// their namespaces has, and the loop devices. own are children that are known
// to have begun.
func lookAround(ctx context.Context, t target, own map[int]bool) ([]opener, error) {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	inode := map[uint64]bool{t.folder.ino: true}
	for id := range t.files {
		inode[id.ino] = true
	}
	root, device, err := t.inFilesystem()
	if err != nil {
		return nil, err
	}
	var found []opener
	namespaces := map[string]bool{}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		switch {
		case pid == os.Getpid():
		case own[pid]:
			found = append(found, t.openedBy(pid, inode)...)
		default:
			found = append(found, t.held(ctx, pid, inode)...)
		}
		// Mounts of other namespaces are seen through any process in it.
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err == nil && !namespaces[ns] {
			namespaces[ns] = true
			found = append(found, mountsOf(pid, root, device)...)
		}
	}
	loops, err := t.loops()
	return append(found, loops...), err
}

// startTime is how long a program that is being started may have copies of our
// descriptors; it closes them when it begins.
const startTime = 200 * time.Millisecond

// held is openedBy that gives a child of ours the time to begin.
func (t target) held(ctx context.Context, pid int, inode map[uint64]bool) []opener {
	found := t.openedBy(pid, inode)
	if len(found) == 0 || statusOf(pid).parent != os.Getpid() {
		return found
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(startTime / 10)
	defer tick.Stop()
	for len(found) > 0 {
		select {
		case <-tick.C:
			found = t.openedBy(pid, inode)
		case <-ctx.Done():
			return found
		}
	}
	return nil
}

// status is what /proc/PID/stat tells (proc_pid_stat(5)).
type status struct {
	state  string // "D" waits for a disk, or for a server
	parent int
}

func statusOf(pid int) status {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return status{}
	}
	return parseStatus(string(data))
}

// parseStatus reads what follows the program's name, which may hold anything.
func parseStatus(line string) status {
	parts := strings.Fields(line[strings.LastIndex(line, ")")+1:])
	if len(parts) < 2 {
		return status{}
	}
	parent, err := strconv.Atoi(parts[1])
	if err != nil {
		return status{}
	}
	return status{parts[0], parent}
}

// openedBy looks through one process. One that ends meanwhile holds nothing.
func (t target) openedBy(pid int, inode map[uint64]bool) []opener {
	seen := map[string]bool{}
	var found []opener
	look := func(link string) {
		file, path, ok := t.meets(link)
		if ok && !seen[file] {
			seen[file] = true
			found = append(found, opener{kind: "process", pid: pid, name: fmt.Sprintf("%s (pid %d)", processName(pid), pid), file: file, path: path})
		}
	}
	folder := fmt.Sprintf("/proc/%d", pid)
	if d, err := os.Open(folder + "/fd"); err == nil {
		names, _ := d.Readdirnames(-1)
		_ = d.Close() // it was read only
		for _, name := range names {
			look(folder + "/fd/" + name)
		}
	}
	// Who stands in the folder gets at its files by name, whatever it is called.
	look(folder + "/cwd")
	look(folder + "/root")
	if statusOf(pid).state == "D" {
		return found // to ask for its memory may hang with it; the leases see what it has mapped
	}
	if m, err := os.Open(folder + "/maps"); err == nil {
		for lines := bufio.NewScanner(m); lines.Scan(); {
			if area, ino := parseMap(lines.Text()); inode[ino] {
				look(folder + "/map_files/" + area)
			}
		}
		_ = m.Close() // it was read only
	}
	return found
}

// meets reports whether a link of /proc leads to one of the files.
func (t target) meets(link string) (file, path string, ok bool) {
	id, links, err := identify(unix.AT_FDCWD, link, 0)
	if err != nil {
		return "", "", false
	}
	file, ok = t.files[id]
	gone := links == 0 && id.major == t.folder.major && id.minor == t.folder.minor
	if !ok && id != t.folder && !gone {
		return "", "", false
	}
	if path, err = os.Readlink(link); err != nil {
		return "", "", false
	}
	// What was removed while it was open has kept its path.
	return file, path, ok || id == t.folder || strings.HasPrefix(path, t.path+"/")
}

// parseMap reads one line of /proc/PID/maps: the memory area, and the inode of
// the file in it, 0 without one.
func parseMap(line string) (area string, ino uint64) {
	parts := strings.Fields(line)
	if len(parts) < 5 {
		return "", 0
	}
	ino, err := strconv.ParseUint(parts[4], 10, 64)
	if err != nil {
		return "", 0
	}
	return parts[0], ino
}

// mountLine is what one line of mountinfo says (proc_pid_mountinfo(5)).
type mountLine struct {
	id     uint64
	device string // major:minor
	root   string // what of the file system is mounted
	at     string // where
}

func parseMount(line string) (mountLine, bool) {
	parts := strings.Fields(line)
	if len(parts) < 5 {
		return mountLine{}, false
	}
	id, err := strconv.ParseUint(parts[0], 10, 64)
	return mountLine{id, parts[2], unescape(parts[3]), unescape(parts[4])}, err == nil
}

// unescape undoes what the kernel does to spaces and the like: \040.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func readMounts(pid string) ([]mountLine, error) {
	data, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mountLine
	for line := range strings.Lines(string(data)) {
		if m, ok := parseMount(line); ok {
			all = append(all, m)
		}
	}
	return all, nil
}

// inFilesystem returns the folder's path within its file system, and the file
// system's number as mountinfo has it, which on Btrfs is not the one of stat.
func (t target) inFilesystem() (root, device string, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, t.path, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return "", "", &os.PathError{Op: "statx", Path: t.path, Err: err}
	}
	real, err := filepath.EvalSymlinks(t.path)
	if err != nil {
		return "", "", err
	}
	mounts, err := readMounts("self")
	if err != nil {
		return "", "", err
	}
	for _, m := range mounts {
		if m.id != st.Mnt_id {
			continue
		}
		rel, err := filepath.Rel(m.at, real)
		return filepath.Join(m.root, rel), m.device, err
	}
	return "", "", errors.New("no mount shows " + t.path)
}

// mountsOf lists the mounts of the folder itself, or of what is in it: they
// lead to it whatever it is called.
func mountsOf(pid int, root, device string) []opener {
	mounts, err := readMounts(strconv.Itoa(pid))
	if err != nil {
		return nil // the process ended
	}
	var found []opener
	for _, m := range mounts {
		if m.device != device || m.root != root && !strings.HasPrefix(m.root, root+"/") {
			continue
		}
		file := strings.TrimPrefix(strings.TrimPrefix(m.root, root), "/")
		found = append(found, opener{kind: "mount", name: "the mount at " + m.at, file: file, path: m.at})
	}
	return found
}

// loops lists the loop devices over one of the files.
func (t target) loops() ([]opener, error) {
	links, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	names := map[string]fileID{}
	for id, name := range t.files {
		names[name] = id
	}
	var found []opener
	for _, link := range links {
		data, err := os.ReadFile(link)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			continue // let go meanwhile
		}
		if err != nil {
			return nil, err
		}
		path := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), " (deleted)")
		file := filepath.Base(path)
		want, ok := names[file]
		if !ok && filepath.Dir(path) != t.path {
			continue
		}
		// Of another namespace the path may lead nowhere here; no other device's
		// file has such a name.
		if id, _, err := identify(unix.AT_FDCWD, path, 0); err == nil && ok && id != want {
			continue
		}
		device := "/dev/" + strings.Split(link, "/")[3]
		if !ok {
			file = ""
		}
		found = append(found, opener{kind: "loop", name: device, file: file, path: path})
	}
	return slices.Compact(found), nil
}
