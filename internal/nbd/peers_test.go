// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/internal/nbd"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// packages tells where a missing peer comes from.
var packages = map[string]string{
	"nbdkit": "nbdkit", "nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin", "qemu-nbd": "qemu-utils",
	"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "qemu-storage-daemon": "qemu-system-common",
}

// lacking fails the test by the name of the tool that is not there.
func lacking(t *testing.T, tool string, err error) {
	t.Helper()
	if errors.Is(err, command.ErrNotFound) {
		t.Fatalf("this test needs %s: install the package %s", tool, packages[tool])
	}
}

// run runs a tool to its end and returns its stdout.
func run(t *testing.T, tool string, args ...string) string {
	t.Helper()
	out, err := tryRun(t, tool, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tryRun is run of a tool that may fail.
func tryRun(t *testing.T, tool string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := command.Run(ctx, command.Cmd{Path: tool, Args: args})
	lacking(t, tool, err)
	return string(r.Stdout), err
}

// shortDir is a t.TempDir that does not spend a socket path's 107 bytes on the
// test's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(os.TempDir(), "nbd"+rand.Text())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// peer is a server of another make.
type peer struct {
	socket  string
	process *command.Process
}

// start starts a server that writes pidFile when it listens on socket.
func start(t *testing.T, tool string, args func(socket, pidFile string) []string) peer {
	t.Helper()
	dir := shortDir(t)
	socket, pidFile := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := command.Start(ctx, command.Cmd{Path: tool, Args: args(socket, pidFile)}, command.StartOptions{ReadyFile: pidFile})
	lacking(t, tool, err)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return peer{socket: socket, process: p}
}

func nbdkit(t *testing.T, args ...string) peer {
	t.Helper()
	return start(t, "nbdkit", func(socket, pidFile string) []string {
		return append([]string{"-f", "-U", socket, "-P", pidFile}, args...)
	})
}

func qemuNBD(t *testing.T, args ...string) peer {
	t.Helper()
	return start(t, "qemu-nbd", func(socket, pidFile string) []string {
		return append([]string{"--persistent", "--shared=8", "--discard=unmap", "-k", socket, "--pid-file", pidFile}, args...)
	})
}

// storageDaemon exports one image as "vol".
func storageDaemon(t *testing.T, format, image string) peer {
	t.Helper()
	return start(t, "qemu-storage-daemon", func(socket, pidFile string) []string {
		return []string{
			"--blockdev", "driver=file,node-name=f,discard=unmap,filename=" + image,
			"--blockdev", "driver=" + format + ",node-name=d,discard=unmap,file=f",
			"--nbd-server", "addr.type=unix,addr.path=" + socket,
			"--export", "type=nbd,id=e,node-name=d,name=vol,writable=on",
			"--pidfile", pidFile,
		}
	})
}

// image makes an empty disk image.
func image(t *testing.T, format string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk."+format)
	run(t, "qemu-img", "create", "-q", "-f", format, path, fmt.Sprint(size))
	return path
}

func dial(t *testing.T, p peer, o nbd.Options) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(t.Context(), "unix", p.socket, o)
	if err != nil {
		t.Fatalf("Dial = %v, want nil", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close = %v, want nil", err)
		}
	})
	return c
}

// pattern is n bytes that differ from those of any other offset or seed.
func pattern(seed, off int64, n int) []byte {
	from := off / 8 * 8
	p := make([]byte, 0, n+16)
	for at := from; at < off+int64(n); at += 8 {
		p = binary.BigEndian.AppendUint64(p, uint64(at/8+1)*0x9e3779b97f4a7c15^uint64(seed))
	}
	return p[off-from:][:n:n]
}

// differs names the first byte that is not as it should be.
func differs(t *testing.T, what string, off int64, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("%s: byte %d = %#x, want %#x", what, off+int64(i), got[i], want[i])
			return
		}
	}
	t.Errorf("%s: %d bytes, want %d", what, len(got), len(want))
}

func mustWrite(t *testing.T, c *nbd.Client, off int64, p []byte) {
	t.Helper()
	if err := c.WriteAt(t.Context(), p, off, 0); err != nil {
		t.Fatalf("WriteAt(%d bytes at %d) = %v, want nil", len(p), off, err)
	}
}

func mustRead(t *testing.T, c *nbd.Client, off int64, n int) []byte {
	t.Helper()
	p := pattern(-1, off, n) // not zeroes: what is not read must be seen
	if err := c.ReadAt(t.Context(), p, off); err != nil {
		t.Fatalf("ReadAt(%d bytes at %d) = %v, want nil", n, off, err)
	}
	return p
}

func mustExtents(t *testing.T, c *nbd.Client, metaContext string, off, n int64) (extents []nbd.Extent) {
	t.Helper()
	for e, err := range c.Extents(t.Context(), metaContext, off, n) {
		if err != nil {
			t.Fatalf("Extents(%s, %d, %d) = %v, want nil", metaContext, off, n, err)
		}
		extents = append(extents, e)
	}
	return extents
}
