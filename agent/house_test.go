// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/move"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/agent/transfer"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/internal/nbd"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/dir"
	"github.com/tenon-storage/tenon/storage/mem"
)

const volumeSize = 1 << 20

// world is what outlives the agent: storage, domains and the state folder.
type world struct {
	mem    *mem.Driver
	host   *fake.Host
	domain hypervisor.DomainID
	folder string
	boot   string
	hasty  bool // devices get little time to open
	// manager is the address of an outside manager; empty: the host manages itself.
	manager string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	folder, err := os.MkdirTemp("", "tc") // short: sockets go below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	w := &world{mem: mem.New(), host: fake.NewHost(), folder: folder, boot: "first boot"}
	w.domain = w.host.Add("guest", fake.Options{})
	if err := os.Mkdir(filepath.Join(folder, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	return w
}

// stores are the stores of mem in use.
var stores = []string{"one", "two", "three", "new"}

// house is one life of the agent.
type house struct {
	t       *testing.T
	w       *world
	r       *reaper
	journal *journal.Journal
	engine  *operation.Engine
	devices *device.Registry
	disks   *attach.Service
	volumes *volume.Service
	upkeep  *maintenance.Service
}

// boot starts the agent as agent.New does, with a reaper at its side. The reaper
// lets n events of what the agent resumes pass; negative: all.
func boot(t *testing.T, w *world, n int) *house {
	t.Helper()
	h := &house{t: t, w: w}
	h.r = newReaper(func() {
		for _, s := range stores {
			w.mem.Crash(s)
		}
	})
	drivers, err := storage.NewTable(mortal{w.mem, h.r}, mortal{dir.Driver{}, h.r})
	if err != nil {
		t.Fatal(err)
	}
	h.journal, err = journal.Open(filepath.Join(w.folder, "state", "journal.db"), journal.Options{
		Before: func() error { return h.r.event("commit") },
	})
	if err != nil {
		t.Fatal(err)
	}
	h.engine = operation.New(h.journal, operation.Options{})
	var openTime time.Duration
	if w.hasty {
		openTime = 200 * time.Millisecond
	}
	h.devices, err = device.New(h.journal, h.engine, drivers, device.Options{
		OpenTime: openTime,
		StateDir: filepath.Join(w.folder, "state"),
		Host:     primitives.HostInfo{ID: h.journal.HostID(), BootID: w.boot, RunDir: filepath.Join(w.folder, "run")},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.host.Intercept(h.r.intercept)
	h.disks = attach.New(h.journal, h.engine, h.devices, w.host.Open(), attach.Options{DetachTime: 5 * time.Second})
	h.volumes = volume.New(h.journal, h.engine, h.devices, h.disks)
	snapshot.New(h.journal, h.engine, h.devices, h.disks, snapshot.Options{})
	transfer.New(h.engine, h.devices)
	move.New(h.journal, h.engine, h.devices, h.disks, move.Options{Poll: time.Millisecond})
	h.upkeep, err = maintenance.New(h.journal, h.engine, h.devices, h.disks, w.host.Open(), maintenance.Options{
		Boot: w.boot, Manager: w.manager, Tick: 20 * time.Millisecond, DetachTime: 5 * time.Second, ShutdownTime: 5 * time.Second,
		LostAfter: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.volumes.DropStreams(); err != nil {
		t.Fatal(err)
	}
	h.devices.Start()
	for _, name := range h.devices.Names() {
		if _, err := h.devices.Await(t.Context(), name); err != nil && !errors.Is(err, primitives.CodeUnavailable) && !errors.Is(err, primitives.CodeFenced) {
			t.Fatal(err)
		}
	}
	if n >= 0 {
		h.r.arm(n)
	}
	if err := h.engine.Resume(); err != nil {
		t.Fatal(err)
	}
	h.upkeep.Start()
	return h
}

// bury clears away what is left of a dead agent, as the kernel does.
func (h *house) bury() {
	h.t.Helper()
	h.r.finish()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.upkeep.Stop()
	h.engine.Stop(ctx)
	_ = h.devices.Close()
	if err := h.journal.Close(); err != nil {
		h.t.Error(err)
	}
	h.w.host.Intercept(nil)
}

// run runs an operation to its end and fails unless it succeeded.
func (h *house) run(kind string, args any) operation.Operation {
	h.t.Helper()
	op, err := h.engine.Start(h.t.Context(), operation.Request{Kind: kind, Args: args})
	if err == nil {
		op, err = h.engine.Wait(h.t.Context(), op.ID)
	}
	if err == nil {
		err = op.Err()
	}
	if err != nil {
		h.t.Fatalf("%s: %v", kind, err)
	}
	return op
}

func result[R any](t *testing.T, op operation.Operation) R {
	t.Helper()
	r, err := operation.Decode[R](op)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// addMem configures a device of mem.
func (h *house) addMem(name, store string, more primitives.Props) {
	h.t.Helper()
	props := primitives.Props{"store": store}
	for k, v := range more {
		props[k] = v
	}
	h.wait(h.devices.Add(h.t.Context(), device.Spec{Name: name, Driver: mem.Name, Props: props}, device.Origin{}))
}

func (h *house) addDir(name string) {
	h.t.Helper()
	path := filepath.Join(h.w.folder, "images", name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		h.t.Fatal(err)
	}
	h.wait(h.devices.Add(h.t.Context(), device.Spec{Name: name, Driver: dir.Name, Props: primitives.Props{"path": path, "format": "raw"}}, device.Origin{}))
}

func (h *house) wait(op operation.Operation, err error) {
	h.t.Helper()
	if err == nil {
		op, err = h.engine.Wait(h.t.Context(), op.ID)
	}
	if err == nil {
		err = op.Err()
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func uri(s string) primitives.URI {
	u, err := primitives.ParseURI(s)
	if err != nil {
		panic(err)
	}
	return u
}

// pattern depends on the position, so that a block in the wrong place shows.
func pattern(seed byte, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i>>8) ^ byte(i*7) ^ seed
	}
	return p
}

// create makes a volume that holds a pattern.
func (h *house) create(u string, seed byte) {
	h.t.Helper()
	h.run(volume.KindCreate, volume.CreateArgs{URI: uri(u), Size: volumeSize})
	w, err := h.volumes.Write(h.t.Context(), uri(u), "")
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := w.WriteAt(pattern(seed, volumeSize), 0); err != nil {
		h.t.Fatal(err)
	}
	if _, err := w.Commit(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

// attach gives the domain a disk.
func (h *house) attach(u string) attach.Disk {
	h.t.Helper()
	return result[attach.Disk](h.t, h.run(attach.KindAttach, attach.AttachArgs{URI: uri(u), Domain: "guest"}))
}

// content fails unless a volume or snapshot holds the pattern.
func (h *house) content(u string, seed byte) {
	h.t.Helper()
	r, err := h.volumes.Read(h.t.Context(), uri(u))
	if err != nil {
		h.t.Errorf("%s: %v", u, err)
		return
	}
	defer r.Close()
	got := make([]byte, volumeSize)
	if _, err := r.ReadAt(got, 0); err != nil {
		h.t.Errorf("%s: %v", u, err)
	}
	if !bytes.Equal(got, pattern(seed, volumeSize)) {
		h.t.Errorf("%s does not hold pattern %d any more", u, seed)
	}
}

// absent fails unless there is no such object.
func (h *house) absent(u string) {
	h.t.Helper()
	if _, err := h.stat(u); !errors.Is(err, primitives.CodeNotFound) {
		h.t.Errorf("Stat(%s) = %v, want not found", u, err)
	}
}

func (h *house) size(u string) int64 {
	h.t.Helper()
	o, err := h.stat(u)
	if err != nil {
		h.t.Error(err)
	}
	return o.Size
}

func (h *house) stat(u string) (primitives.Object, error) {
	h.t.Helper()
	d, err := h.devices.Device(uri(u).Device)
	if err != nil {
		h.t.Fatal(err)
	}
	return d.Stat(h.t.Context(), uri(u), primitives.Op{})
}

// guest opens a disk as the domain does.
func (h *house) guest(disk hypervisor.DiskID) *nbd.Client {
	h.t.Helper()
	shown, err := h.disks.Shown(h.t.Context(), h.w.domain)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range shown {
		if d.ID == disk && d.Source.Network != nil {
			c, err := nbd.Dial(h.t.Context(), "unix", d.Source.Network.Socket, nbd.Options{Export: d.Source.Network.Export})
			if err != nil {
				h.t.Fatalf("the guest cannot open its disk: %v", err)
			}
			return c
		}
	}
	h.t.Fatalf("the guest has no disk %s", disk)
	return nil
}

func (h *house) guestWrites(disk hypervisor.DiskID, seed byte) {
	h.t.Helper()
	c := h.guest(disk)
	defer c.Close()
	if err := c.WriteAt(h.t.Context(), pattern(seed, volumeSize), 0, 0); err != nil {
		h.t.Error(err)
	}
	if err := c.Flush(h.t.Context()); err != nil {
		h.t.Error(err)
	}
}

func (h *house) guestReads(disk hypervisor.DiskID, seed byte) {
	h.t.Helper()
	c := h.guest(disk)
	defer c.Close()
	got := make([]byte, volumeSize)
	if err := c.ReadAt(h.t.Context(), got, 0); err != nil {
		h.t.Error(err)
	}
	if !bytes.Equal(got, pattern(seed, volumeSize)) {
		h.t.Errorf("the guest does not read pattern %d from disk %s any more", seed, disk)
	}
}

// settled waits for every operation to end.
func (h *house) settled() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	running, err := h.engine.List(ctx, operation.Filter{States: []operation.State{operation.Running}})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, op := range running {
		if now, err := h.engine.Wait(ctx, op.ID); err != nil {
			h.t.Fatalf("operation %s stays at %q: %s: %v", op.Kind, now.Step, now.Note, err)
		}
	}
}

// sound fails for everything that is orphaned: a use, mapping, disk or object
// that belongs to nothing, and a guest that is frozen.
func (h *house) sound(tombstones int) {
	h.t.Helper()
	ctx := h.t.Context()
	if err := h.disks.Reconcile(ctx); err != nil {
		h.t.Errorf("Reconcile: %v", err)
	}
	if h.w.host.Frozen(h.w.domain) {
		h.t.Error("the guest is frozen")
	}
	ops, err := h.engine.List(ctx, operation.Filter{})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, op := range ops {
		if op.Note != "" {
			h.t.Errorf("operation %s left something: %s", op.Kind, op.Note)
		}
	}
	var have []string
	for _, name := range h.devices.Names() {
		have = append(have, h.soundDevice(name)...)
	}
	slices.Sort(have)
	var want []string
	uses, err := h.disks.Uses("")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, u := range uses {
		if u.Kind != journal.UseDisk {
			h.t.Errorf("use %s of kind %s is left", u.ID, u.Kind)
			continue
		}
		want = append(want, u.ID)
	}
	slices.Sort(want)
	if !slices.Equal(have, want) {
		h.t.Errorf("mappings of %v, uses %v", have, want)
	}
	shown, err := h.disks.Shown(ctx, h.w.domain)
	if err != nil {
		h.t.Fatal(err)
	}
	disks := 0
	for _, d := range shown {
		if d.ID != "" || slices.ContainsFunc(uses, func(u journal.Use) bool { return u.Target == d.Target }) {
			disks++
		}
	}
	if disks != len(uses) {
		h.t.Errorf("%d disks, %d uses", disks, len(uses))
	}
	h.soundFiles(tombstones)
}

// soundDevice returns the consumers of a device's mappings.
func (h *house) soundDevice(name string) (consumers []string) {
	h.t.Helper()
	d, err := h.devices.Device(name)
	if err != nil {
		h.t.Fatal(err)
	}
	mappings, err := d.Facets().Map.Mappings(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, m := range mappings {
		consumers = append(consumers, m.Consumer)
		if !m.Active {
			h.t.Errorf("mapping %s of %s is not active", m.ID, m.Consumer)
		}
	}
	page, err := d.List(h.t.Context(), primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindVolume, primitives.KindSnapshot}})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, o := range page.Objects {
		if o.State != primitives.Ready {
			h.t.Errorf("%s is %v", o.URI.Short(), o.State)
		}
	}
	return consumers
}

func (h *house) soundFiles(tombstones int) {
	h.t.Helper()
	found := 0
	for _, name := range h.devices.Names() {
		d, err := h.devices.Device(name)
		if err != nil {
			h.t.Fatal(err)
		}
		page, err := d.List(h.t.Context(), primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindTombstone}})
		if err != nil {
			h.t.Fatal(err)
		}
		found += len(page.Objects)
	}
	if tombstones >= 0 && found != tombstones {
		h.t.Errorf("%d tombstones, want %d", found, tombstones)
	}
	secrets := 0
	files, err := os.ReadDir(filepath.Join(h.w.folder, "state", "secrets"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".json") {
			secrets++
		}
	}
	states, err := h.devices.List()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, s := range states {
		if len(s.Secrets) > 0 {
			secrets--
		}
	}
	if secrets != 0 {
		h.t.Error(fmt.Sprint(secrets, " files with secrets belong to no device"))
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// empty fails unless there is nothing in the folder.
func empty(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) > 0 {
		t.Fatalf("%s holds %v, %v; want nothing", path, entries, err)
	}
}

// filesHolding returns the files below folder that hold one of the texts.
func filesHolding(t *testing.T, folder string, texts ...string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, text := range texts {
			if bytes.Contains(data, []byte(text)) || bytes.Contains(data, []byte(base64.StdEncoding.EncodeToString([]byte(text)))) {
				paths = append(paths, path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}
