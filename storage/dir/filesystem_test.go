// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/command"
)

// inNamespace marks the process that has a mount namespace of its own.
const inNamespace = "TENON_TEST_NAMESPACE"

// TestMain gives the tests a mount namespace of their own, so that every file
// system they mount is gone when they end, however they end.
func TestMain(m *testing.M) {
	if act := os.Getenv(childAct); act != "" {
		os.Exit(child(act))
	}
	if file := os.Getenv(childMaps); file != "" {
		os.Exit(holdMapped(file, os.Getenv(childReady)))
	}
	if os.Getenv(inNamespace) == "" {
		if err := enterNamespace(); err != nil {
			fmt.Fprintf(os.Stderr, "these tests mount file systems and need root: %v\n", err)
			os.Exit(1)
		}
	}
	dir, err := os.MkdirTemp("", "tenon-dir-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	mounts.dir = dir
	code := m.Run()
	for _, at := range mounts.done {
		_ = unix.Unmount(at, unix.MNT_DETACH)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// enterNamespace starts this program again in the thread that has left.
func enterNamespace() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inNamespace+"=1"))
}

// mounts are the file systems that the tests share, one of each kind.
var mounts struct {
	sync.Mutex
	dir    string
	done   map[string]string // where each kind is mounted
	serial atomic.Int64
}

// on returns an empty folder on a file system of that kind: ext4, xfs, btrfs or tmpfs.
func on(t testing.TB, kind string) string {
	t.Helper()
	mounts.Lock()
	defer mounts.Unlock()
	at, ok := mounts.done[kind]
	if !ok {
		at = filepath.Join(mounts.dir, kind)
		mount(t, kind, at, 4<<30)
		if mounts.done == nil {
			mounts.done = map[string]string{}
		}
		mounts.done[kind] = at
	}
	return scratch(t, at)
}

// scratch returns a new folder with a short path, for sockets. It can be asked
// for in a cleanup too, when t.TempDir is gone.
func scratch(t testing.TB, parent string) string {
	t.Helper()
	dir := filepath.Join(parent, strconv.FormatInt(mounts.serial.Add(1), 10))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// small returns an empty file system of its own with about that much room.
func small(t testing.TB, kind string, room int64) string {
	t.Helper()
	at := filepath.Join(t.TempDir(), "small")
	mount(t, kind, at, room)
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", at, err)
		}
	})
	return at
}

// mount makes a file system in a sparse file and mounts it.
func mount(t testing.TB, kind, at string, size int64) {
	t.Helper()
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if kind == "tmpfs" {
		run(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", size), "tmpfs", at)
		return
	}
	img := at + ".img"
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	switch kind {
	case "ext4":
		run(t, "mkfs.ext4", "-q", "-F", "-m", "0", img)
	case "xfs":
		run(t, "mkfs.xfs", "-q", "-f", "-m", "reflink=1", img)
	case "btrfs":
		run(t, "mkfs.btrfs", "-q", "-f", img)
	default:
		t.Fatalf("no file system %q", kind)
	}
	run(t, "mount", "-o", "loop", img, at)
	// The loop device keeps it; a killed test leaves nothing behind.
	if err := os.Remove(img); err != nil {
		t.Fatal(err)
	}
}

// run runs a tool that the tests cannot do without.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	r, err := command.Run(t.Context(), command.Cmd{Path: program, Args: args})
	if err != nil {
		t.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
	}
	return string(r.Stdout)
}
