// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// The device's folder. Every record and every data file has one of these as its
// parent, so no name below the device's folder has more than three parts.
const (
	volumesDir  = "volumes"  // one record per volume: the namespace
	trashDir    = "trash"    // the records of delinked volumes
	dataDir     = "data"     // the bytes, under names that never change
	mappingsDir = "mappings" // what is mapped, on which host
	workDir     = "work"     // what is under way: the only thing Open has to look through

	fencedDir = "data.fenced" // dataDir while the device is closed for service
	fenceFile = "fence.json"  // who closed it
)

// maxRecord bounds what is read as a record.
const maxRecord = 8 << 20

// tmpPrefix marks a record that is being written. No name of ours begins so.
const tmpPrefix = ".tmp-"

// tree is the device's folder, opened for the time of one operation: holding it
// longer would keep the administrator from unmounting the file system. All names
// are relative to it and cannot leave it; symbolic links and anything but
// regular files are refused where a file is expected.
//
// internal/durable works on paths, which follow links; these are the same steps
// beneath an [os.Root].
type tree struct {
	root *os.Root
	path string       // as configured, for tools and mappings
	step func(string) // told before each step that changes the disk; may be nil
}

func (t tree) close() error { return t.root.Close() }

// host returns the absolute path of name.
func (t tree) host(name string) string { return filepath.Join(t.path, name) }

func (t tree) about(what, name string) {
	if t.step != nil {
		t.step(what + " " + name)
	}
}

// errNotRegular says that something of another kind lies where a file of ours should.
type errNotRegular struct {
	name string
	mode fs.FileMode
}

func (e *errNotRegular) Error() string {
	return fmt.Sprintf("%s is not a regular file but %s; tenon follows no links and opens no devices", e.name, e.mode.Type())
}

// lstat describes name, which must be a regular file.
func (t tree) lstat(name string) (fs.FileInfo, error) {
	info, err := t.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &errNotRegular{name, info.Mode()}
	}
	return info, nil
}

// open opens the regular file name. It takes hold of what lies there first,
// without opening it, because opening can itself do harm (a FIFO blocks, a tape
// rewinds), and then opens that very file: a record that is replaced meanwhile
// is read as it was, and nothing else can come in between.
func (t tree) open(name string, flag int) (*os.File, error) {
	folder, err := t.root.Open(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	held, err := t.openAt(folder, path.Base(name), name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	info, err := held.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &errNotRegular{name, info.Mode()}
	}
	f, err := t.openAt(folder, fmt.Sprintf("/proc/self/fd/%d", held.Fd()), name, flag)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: /proc is not mounted", t.host(name))
	}
	return f, err
}

// openAt opens what lies at the path, from folder on, as name.
func (t tree) openAt(folder *os.File, at, name string, flag int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(folder.Fd()), at, flag|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue // FUSE and NFS
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), t.host(name)), nil
	}
}

// create makes the empty file name, which must not exist.
func (t tree) create(name string, perm fs.FileMode) (*os.File, error) {
	t.about("create", name)
	return t.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// readJSON reads a record.
func (t tree) readJSON(name string, v any) error {
	f, err := t.open(name, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return err
	}
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(v); err != nil {
		return &errDamaged{name, err}
	}
	return nil
}

// errDamaged says that a record cannot be read as one.
type errDamaged struct {
	name string
	err  error
}

func (e *errDamaged) Error() string {
	return fmt.Sprintf("the record %s is damaged: %v", e.name, e.err)
}
func (e *errDamaged) Unwrap() error { return e.err }

// writeJSON makes name hold v: after a crash the old record is there or the new one, whole.
func (t tree) writeJSON(name string, v any) error {
	tmp, err := t.writeTemp(name, v, true)
	if err != nil {
		return err
	}
	t.about("replace", name)
	if err := t.root.Rename(tmp, name); err != nil {
		return errors.Join(err, t.root.Remove(tmp))
	}
	return t.syncDir(path.Dir(name))
}

// createJSON is writeJSON that fails with fs.ErrExist where name exists.
func (t tree) createJSON(name string, v any) error {
	tmp, err := t.writeTemp(name, v, true)
	if err != nil {
		return err
	}
	if err := t.rename(tmp, name); err != nil {
		return errors.Join(err, t.root.Remove(tmp))
	}
	return nil
}

// writeVolatile is writeJSON without the wait for the disk: readers see the old
// record or the new one, but a loss of power may leave either, or nothing.
func (t tree) writeVolatile(name string, v any) error {
	tmp, err := t.writeTemp(name, v, false)
	if err != nil {
		return err
	}
	t.about("replace", name)
	if err := t.root.Rename(tmp, name); err != nil {
		return errors.Join(err, t.root.Remove(tmp))
	}
	return nil
}

func (t tree) writeTemp(name string, v any, durable bool) (tmp string, err error) {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	tmp = path.Join(path.Dir(name), tmpPrefix+rand.Text())
	f, err := t.create(tmp, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, t.root.Remove(tmp))
	}
	return tmp, nil
}

// rename moves a file durably and fails with fs.ErrExist where newName exists.
func (t tree) rename(oldName, newName string) error {
	from, err := t.root.Open(path.Dir(oldName))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := t.root.Open(path.Dir(newName))
	if err != nil {
		return err
	}
	defer to.Close()
	t.about("rename", oldName+" "+newName)
	err = unix.Renameat2(int(from.Fd()), path.Base(oldName), int(to.Fd()), path.Base(newName), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// NFS and some FUSE file systems lack the flag. The device's lock is held
		// around every rename of ours, so nobody makes newName in between.
		if _, err := t.root.Lstat(newName); err == nil {
			return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: unix.EEXIST}
		}
		err = t.root.Rename(oldName, newName)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: err}
	}
	// The new name first: after a crash in between both names beat neither.
	return errors.Join(syncFolder(to), syncFolder(from))
}

// remove takes name away durably; a missing one is success.
func (t tree) remove(name string) error {
	t.about("remove", name)
	if err := t.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return t.syncDir(path.Dir(name))
}

// names lists a folder. Entries that begin with a dot are not ours to name.
func (t tree) names(folder string) ([]string, error) {
	f, err := t.root.Open(folder)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	kept := all[:0]
	for _, name := range all {
		if !strings.HasPrefix(name, ".") {
			kept = append(kept, name)
		}
	}
	return kept, nil
}

func (t tree) syncDir(name string) error {
	f, err := t.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(syncFolder(f), f.Close())
}

func syncFolder(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, unix.EINVAL) {
		return nil // a file system with nothing to flush for a folder (fsync(2))
	}
	return err
}

// identityOf names one incarnation of a file: a file that took its path, or even
// its inode number, has another. Empty where the file system cannot tell.
func identityOf(f *os.File) string {
	h, _, err := unix.NameToHandleAt(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	if err == nil {
		return fmt.Sprintf("%d:%x", h.Type(), h.Bytes())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return ""
	}
	return fmt.Sprintf("ino:%d", st.Ino)
}

// newID returns 16 characters that no other object of any device has.
func newID() string { return strings.ToLower(rand.Text()[:16]) }

func newHandle() primitives.Handle { return primitives.Handle(newID()) }

// truncate sets the size of a data file.
func (t tree) truncate(name string, size int64) error {
	f, err := t.open(name, os.O_RDWR)
	if err != nil {
		return err
	}
	t.about("truncate", name)
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}
