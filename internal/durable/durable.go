// SPDX-License-Identifier: Apache-2.0

// Package durable changes files and folders so that the change survives a loss
// of power once the call has returned. A file's bytes and the folder entry that
// names it are flushed separately by Linux file systems, so every function here
// flushes both.
package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteFile makes path hold data with exactly perm (no umask): a reader, or a
// crash at any point, sees the old content or the new one, whole. A symbolic
// link at path is replaced, not followed. After a failure the old content is
// there, unless only the folder's flush failed: then either may be after a crash.
func WriteFile(path string, data []byte, perm fs.FileMode) (err error) {
	dir, base := filepath.Split(path)
	f, err := os.CreateTemp(filepath.Clean(dir), "."+base+".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close() // a second Close fails and does no harm
			err = errors.Join(err, ignoreMissing(os.Remove(f.Name())))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// WriteJSON is WriteFile of v as indented JSON with a newline at its end.
func WriteJSON(path string, v any, perm fs.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return WriteFile(path, append(data, '\n'), perm)
}

// Rename is os.Rename, which replaces a file at newPath, made durable. It
// flushes folders only: the caller has flushed the content.
func Rename(oldPath, newPath string) error {
	if err := os.Rename(oldPath, newPath); err != nil {
		return err
	}
	return syncParents(oldPath, newPath)
}

// RenameNoReplace is Rename that fails with fs.ErrExist where newPath exists.
// Of several callers racing for newPath exactly one succeeds.
func RenameNoReplace(oldPath, newPath string) error {
	err := unix.Renameat2(unix.AT_FDCWD, oldPath, unix.AT_FDCWD, newPath, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// NFS and some FUSE file systems lack the flag. link(2) refuses an
		// existing name too, for files; a crash in between leaves both names.
		if err := os.Link(oldPath, newPath); err != nil {
			return err
		}
		return errors.Join(os.Remove(oldPath), syncParents(oldPath, newPath))
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldPath, New: newPath, Err: err}
	}
	return syncParents(oldPath, newPath)
}

// Remove is os.Remove made durable.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll is os.MkdirAll made durable: each folder that it makes is flushed
// into its parent. Folders that existed keep their mode.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Flushed even if somebody else just made it: they may not have done so yet.
	return SyncDir(parent)
}

// SyncDir flushes a folder's entries: the names in it, not what they name.
func SyncDir(dir string) error { return sync(dir, os.O_RDONLY|unix.O_DIRECTORY) }

// SyncFile flushes a file's bytes and size, by whomever written: another
// process's writes are flushed too. The name needs SyncDir.
func SyncFile(path string) error { return sync(path, os.O_RDONLY) }

func sync(path string, flag int) error {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return err
	}
	err = f.Sync()
	if flag&unix.O_DIRECTORY != 0 && errors.Is(err, unix.EINVAL) {
		// A file system with nothing to flush for a folder says so this way
		// (fsync(2), EINVAL); for a file it would be a real failure.
		err = nil
	}
	return errors.Join(err, f.Close())
}

func syncParents(oldPath, newPath string) error {
	from, to := filepath.Dir(oldPath), filepath.Dir(newPath)
	// The new name first: after a crash in between both names beat neither.
	err := SyncDir(to)
	if from != to {
		err = errors.Join(err, SyncDir(from))
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
