// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/internal/nbd"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/dir"
	"github.com/tenon-storage/tenon/storage/storagetest"
)

// On a file system without reflinks raw volumes have no snapshots and qcow2
// volumes have them by overlays.
func TestContractOnExt4(t *testing.T) { contract(t, "ext4") }

func TestContractOnXFS(t *testing.T) { contract(t, "xfs") }

func TestContractOnBtrfs(t *testing.T) { contract(t, "btrfs") }

func contract(t *testing.T, kind string) {
	storagetest.Run(t, storagetest.Harness{
		New: func(t testing.TB) storagetest.Store { return store(t, on(t, kind)) },
		NewSmall: func(t testing.TB, capacity int64) storagetest.Store {
			return store(t, small(t, "ext4", capacity+8<<20))
		},
		Variants: []storagetest.Variant{
			{Name: "raw", Format: primitives.FormatRaw},
			{Name: "qcow2", Format: primitives.FormatQcow2, Slow: true},
		},
		Many: 100, // thousands are in memory, below
	})
}

// TestContractThroughADevice runs the suite as the agent sees the driver.
func TestContractThroughADevice(t *testing.T) {
	storagetest.Run(t, storagetest.Harness{
		New: func(t testing.TB) storagetest.Store {
			s := store(t, on(t, "tmpfs"))
			s.Strict = true
			s.Open = func(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
				return storage.Open(ctx, s.Driver, o, storage.Options{LockWait: 100 * time.Millisecond})
			}
			return s
		},
		Variants: []storagetest.Variant{
			{Name: "raw", Format: primitives.FormatRaw},
		},
		Many: 5000,
	})
}

// store is a device in a folder of its own below parent. When the check has
// ended, nothing may be lost or left over.
func store(t testing.TB, parent string) storagetest.Store {
	path := filepath.Join(parent, "device")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { audit(t, path) })
	drv := &recording{}
	return storagetest.Store{
		Driver:    drv,
		Props:     primitives.Props{"path": path},
		Crash:     drv.crash,
		Guest:     guest,
		Recycle:   recycle,
		Vanish:    func(t testing.TB, dead primitives.Tombstone) { vanish(t, path, dead) },
		GoAway:    func(t testing.TB) func() { return goAway(t, path) },
		ImportDir: func(testing.TB) string { return parent },
		Outside:   func(t testing.TB) []string { return entries(t, parent) },
	}
}

// recording remembers what it opened, so that it can be killed.
type recording struct {
	dir.Driver
	mu   sync.Mutex
	open []primitives.Backend
}

func (r *recording) Open(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
	b, err := r.Driver.Open(ctx, o)
	if err == nil {
		r.mu.Lock()
		r.open = append(r.open, b)
		r.mu.Unlock()
	}
	return b, err
}

func (r *recording) crash() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.open {
		dir.Abandon(b)
	}
	r.open = nil
}

func entries(t testing.TB, folder string) []string {
	t.Helper()
	all, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

// recycle puts another file where the mapping leads.
func recycle(t testing.TB, m primitives.Mapping) {
	t.Helper()
	old, err := os.ReadFile(m.File.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.File.Path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.File.Path, old, 0o600); err != nil {
		t.Fatal(err)
	}
}

// vanish takes the data files of a tombstone away.
func vanish(t testing.TB, path string, dead primitives.Tombstone) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path, "trash", dead.ID+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var record struct{ Layers []struct{ ID, Format string } }
	if err := json.Unmarshal(data, &record); err != nil {
		t.Fatal(err)
	}
	for _, l := range record.Layers {
		if err := os.Remove(filepath.Join(path, "data", l.ID+"."+l.Format)); err != nil {
			t.Fatal(err)
		}
	}
}

// goAway mounts an empty file system over the device, as an unmount of its own
// would show the empty folder beneath.
func goAway(t testing.TB, path string) (back func()) {
	t.Helper()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	return func() {
		// Detached, because a program that is being started may have a copy of a
		// descriptor for a moment.
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	}
}

// guest opens a mapping as QEMU does: with the locks that QEMU takes.
func guest(t testing.TB, m primitives.Mapping) storagetest.Guest {
	t.Helper()
	return openGuest(t, m)
}

// qemuGuest is a QEMU without a processor: its block layer, reached over NBD.
type qemuGuest struct {
	client *nbd.Client
	daemon *command.Process
	run    string // its folder, with the sockets
}

func openGuest(t testing.TB, m primitives.Mapping) *qemuGuest {
	t.Helper()
	g := startGuest(t, m, "--nbd-server", "addr.type=unix,addr.path=RUN/s", "--export",
		"type=nbd,id=e,node-name=n0,name=g,writable="+map[bool]string{true: "on", false: "off"}[m.Access == primitives.ReadWrite])
	var err error
	if g.client, err = nbd.Dial(t.Context(), "unix", g.run+"/s", nbd.Options{Export: "g"}); err != nil {
		t.Fatalf("connect to a guest: %v", err)
	}
	return g
}

// startGuest starts a guest that opens the mapping. RUN in more is its folder.
func startGuest(t testing.TB, m primitives.Mapping, more ...string) *qemuGuest {
	t.Helper()
	chain := append([]primitives.FileMap{*m.File}, m.File.Backing...)
	var args []string
	var below any
	for i := len(chain) - 1; i >= 0; i-- {
		readOnly := i > 0 || m.Access == primitives.ReadOnly
		args = append(args, "--blockdev", blockdev(t, fmt.Sprintf("n%d", i), chain[i], below, readOnly))
		below = fmt.Sprintf("n%d", i)
	}
	run := scratch(t, mounts.dir)
	for _, arg := range more {
		args = append(args, strings.ReplaceAll(arg, "RUN", run))
	}
	args = append(args, "--chardev", "socket,id=c,server=on,wait=off,path="+run+"/qmp", "--monitor", "chardev=c", "--pidfile", run+"/pid")
	p, err := command.Start(t.Context(), command.Cmd{Path: "qemu-storage-daemon", Args: args},
		command.StartOptions{Pdeathsig: syscall.SIGKILL, ReadyFile: run + "/pid"})
	if err != nil {
		t.Fatalf("start a guest: %v", err)
	}
	g := &qemuGuest{daemon: p, run: run}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// blockdev describes one node to QEMU.
func blockdev(t testing.TB, name string, f primitives.FileMap, below any, readOnly bool) string {
	t.Helper()
	node := map[string]any{
		"driver": string(f.Format), "node-name": name, "read-only": readOnly,
		"file": map[string]any{"driver": "file", "filename": f.Path, "read-only": readOnly},
	}
	if f.Format == primitives.FormatQcow2 {
		node["backing"] = below
	}
	data, err := json.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (g *qemuGuest) ReadAt(p []byte, off int64) (int, error) {
	return len(p), g.client.ReadAt(context.Background(), p, off)
}

func (g *qemuGuest) WriteAt(p []byte, off int64) (int, error) {
	return len(p), g.client.WriteAt(context.Background(), p, off, 0)
}

func (g *qemuGuest) Flush() error { return g.client.Flush(context.Background()) }

func (g *qemuGuest) Close() error {
	defer g.daemon.Stop(context.Background())
	if g.client == nil {
		return nil
	}
	return g.client.Close()
}
