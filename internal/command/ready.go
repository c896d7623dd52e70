// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// errNotReady is the error of a program that ended before it was ready.
var errNotReady = errors.New("ended before it was ready")

// watch waits for a file to appear, by inotify(7) on its folder.
type watch struct {
	path   string
	events *os.File
}

func watchFor(path string) (*watch, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, &fs.PathError{Op: "wait for", Path: path, Err: errors.Join(fs.ErrExist, err)}
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &watch{path: path, events: os.NewFile(uintptr(fd), "inotify")}
	dir := filepath.Dir(path)
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		w.close()
		return nil, &fs.PathError{Op: "watch", Path: dir, Err: err}
	}
	return w, nil
}

// wait returns nil once the file is there, or why it will not be waited for.
func (w *watch) wait(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-ended:
			cancel(errNotReady)
		case <-ctx.Done():
		}
	}()
	defer context.AfterFunc(ctx, func() {
		_ = w.events.SetReadDeadline(time.Unix(1, 0)) // fails only if closed
	})()
	buf := make([]byte, 4096)
	for {
		if _, err := os.Lstat(w.path); err == nil {
			return nil
		}
		// What happened does not matter: any event is a reason to look again.
		if _, err := w.events.Read(buf); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("wait for %s: %w", w.path, err)
		}
	}
}

func (w *watch) close() { w.events.Close() }
