// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package kvm_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/hypervisortest"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/test/guest"
)

// bootTime is how long a guest may take to boot on a busy machine without KVM.
const bootTime = 2 * time.Minute

// agentLimit is how long the guest agent gets, which always hangs in one case.
const agentLimit = 3 * time.Second

// host is a libvirt in this process with two guests.
type host struct {
	root  guest.Root
	on    guest.Domain
	off   guest.Domain
	conn  *libvirt.Connect // beside the adapter's, for what the contract has no word for
	first *kvm.Adapter     // for what needs none of its own: libvirt takes some thirty connections of this kind in the life of a process
	shell *guest.Shell
}

// newHost defines two guests, boots the first, and returns when it answers. A
// process can have one such host.
func newHost(t *testing.T) *host {
	t.Helper()
	image, err := guest.Build(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	root, err := guest.NewRoot(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	h := &host{
		root: root,
		on:   guest.Domain{Name: "on", UUID: onID, Image: image, Dir: root.Dir},
		off:  guest.Domain{Name: "off", UUID: offID, Image: image, Dir: root.Dir},
	}
	for d, start := range map[guest.Domain]bool{h.on: true, h.off: false} {
		if err := root.Define(d, start); err != nil {
			t.Fatal(err)
		}
	}
	h.first = h.open(t) // starts libvirt in this process, its event loop, and the guest
	t.Cleanup(func() { h.first.Close() })
	if _, err := h.first.Domains(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.conn, err = libvirt.NewConnect(root.URI())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	h.shell, err = guest.Dial(ctx, h.on.ShellSocket())
	if err != nil {
		console, _ := os.ReadFile(h.on.ConsoleFile())
		t.Fatalf("%v\nthe console says:\n%s", err, console)
	}
	t.Cleanup(func() { h.shell.Close() })
	h.awaitAgent(t, h.first)
	return h
}

func (h *host) open(t *testing.T) *kvm.Adapter {
	t.Helper()
	a, err := kvm.New(kvm.Options{URI: h.root.URI(), SnapshotDir: filepath.Join(h.root.Dir, "overlays"), FreezeLimit: agentLimit})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// awaitAgent returns when libvirt is connected to the guest agent.
func (h *host) awaitAgent(t *testing.T, a *kvm.Adapter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	_ = a.Watch(ctx, func(hypervisor.DomainID) {
		all, err := a.Domains(ctx)
		for _, d := range all {
			if err == nil && d.ID == onID && d.Caps.Freeze {
				cancel()
			}
		}
	})
	if !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Fatal("the guest agent did not come up")
	}
}

func (h *host) domain(t *testing.T, id hypervisor.DomainID) *libvirt.Domain {
	t.Helper()
	d, err := h.conn.LookupDomainByUUIDString(string(id))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Free() })
	return d
}

// suspend pauses a domain: its guest hears nothing, and QEMU answers.
func (h *host) suspend(t *testing.T, id hypervisor.DomainID) func() {
	t.Helper()
	d := h.domain(t, id)
	if err := d.Suspend(); err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if err := d.Resume(); err != nil {
			t.Error(err)
		}
	})
}

// signal sends a signal to a domain's QEMU.
func (h *host) signal(t *testing.T, id hypervisor.DomainID, sig unix.Signal) {
	t.Helper()
	if err := unix.Kill(h.pid(t, id), sig); err != nil {
		t.Fatal(err)
	}
}

// pid returns the process of a domain's QEMU.
func (h *host) pid(t *testing.T, id hypervisor.DomainID) int {
	t.Helper()
	name := map[hypervisor.DomainID]string{onID: h.on.Name, offID: h.off.Name}[id]
	text, err := os.ReadFile(filepath.Join(h.root.Dir, "run", "qemu", name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// kill ends a domain as a crash of its QEMU does, and returns when libvirt knows.
func (h *host) kill(t *testing.T, id hypervisor.DomainID) {
	t.Helper()
	h.signal(t, id, unix.SIGKILL)
	d := h.domain(t, id)
	for {
		up, err := d.IsActive()
		if err != nil || !up {
			return
		}
	}
}

// inside looks into the guest.
type inside struct{ shell *guest.Shell }

func (g inside) Run(ctx context.Context, script string) (string, error) {
	return g.shell.Run(ctx, script)
}

func (g inside) Device(ctx context.Context, d hypervisor.Disk) (string, error) {
	return g.shell.Run(ctx, "disk "+d.Serial)
}

func (g inside) Gone(ctx context.Context, d hypervisor.Disk) error {
	_, err := g.shell.Run(ctx, "disk-gone "+d.Serial)
	return err
}

// TestOnRealGuests is what needs QEMU and a guest that boots. It is one test,
// because a process can have one embedded libvirt only.
func TestOnRealGuests(t *testing.T) {
	h := newHost(t)
	t.Run("Contract", h.contract)
	// Cases: E122, E123, E131, C3.4, C3.8, C3.18
	t.Run("DisksMoveWhileTheGuestWritesAndStayWhatTheyAre", h.writingMoves)
	// Cases: E111
	t.Run("ACopyThatFillsItsTargetFailsAndLeavesTheSource", h.fullTarget)
	// Cases: E112
	t.Run("ACopyWhoseTargetGoesAwayFailsAndLeavesTheSource", h.lostTarget)
	// Cases: E114, C3.19
	t.Run("ACopyThatTheGuestOutrunsConverges", h.outrun)
	// Cases: E24
	t.Run("ASwitchThatLibvirtForgotIsTakenBackUnderAGuestThatWrites", h.forgottenSwitches)
	// Cases: E130
	t.Run("ATargetThatCannotDoWithoutTheHostsCacheIsRefused", h.uncachedMove)
	// Cases: E129
	t.Run("AThinDiskIsThinAfterItsMove", h.thinMoves)
	t.Run("AGuestSurvivesTheRestartOfItsNBDServer", h.nbdServerRestarts)
	t.Run("ALibvirtThatIsAwayIsSaid", libvirtAway)
}

// libvirtAway looks for a libvirt where none is.
func libvirtAway(t *testing.T) {
	a, err := kvm.New(kvm.Options{URI: "qemu:///system?socket=/nowhere/libvirt-sock"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if info := a.Info(t.Context()); info.Connected || !strings.Contains(info.Note, "/nowhere/libvirt-sock") {
		t.Errorf("Info = %+v, want not connected and why", info)
	}
	_, err = a.Domains(t.Context())
	wantCode(t, "Domains", err, primitives.CodeUnavailable)
}

// nbdServerRestarts restarts the server under a disk: tenon's own exporter is
// upgraded like this.
func (h *host) nbdServerRestarts(t *testing.T) {
	a := h.open(t)
	t.Cleanup(func() { a.Close() })
	file := rawFile(t, "nbd.img", 16<<20).File.Path
	socket := filepath.Join(h.shortDir(t), "s")
	server := serveNBD(t, file, socket, "e")
	m := nbdMapping(primitives.NetworkMap{Export: "e", Socket: socket})
	r := hypervisor.AttachRequest{Domain: onID, Disk: "restarted", Mapping: m}
	if _, err := a.Attach(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := a.Detach(context.Background(), onID, r.Disk); err != nil {
			t.Error(err)
		}
	})
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	read := make(chan error, 1)
	go func() {
		_, err := h.shell.Run(ctx, "dd if=$(disk restarted) of=/dev/null bs=64k count=8 skip=100 2>/dev/null")
		read <- err
	}()
	h.untilPaused(t, read, 3*time.Second)
	serveNBD(t, file, socket, "e")
	// Without a reconnect delay the first request after a resume only makes QEMU
	// connect again, and pauses the guest once more.
	for h.untilPaused(t, read, time.Minute) {
		if err := h.domain(t, onID).Resume(); err != nil {
			t.Fatal(err)
		}
	}
}

// untilPaused returns true when the guest is paused for an I/O error, false when
// its read has succeeded or the time has passed. libvirt 9.0 knows no reconnect
// delay for NBD, and QEMU then pauses the guest when the server goes; with a
// newer one the read waits, and the guest runs on.
func (h *host) untilPaused(t *testing.T, read chan error, limit time.Duration) bool {
	t.Helper()
	enough := time.NewTimer(limit)
	defer enough.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		state, reason, err := h.domain(t, onID).GetState()
		if err != nil {
			t.Fatal(err)
		}
		if state == libvirt.DOMAIN_PAUSED && libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_IOERROR {
			return true
		}
		select {
		case err := <-read:
			if err != nil {
				t.Errorf("the guest's read = %v", err)
			}
			return false
		case <-enough.C:
			return false
		case <-tick.C:
		}
	}
}

// contract holds the adapter to its contract. Content is checked inside of the
// guest.
func (h *host) contract(t *testing.T) {
	hypervisortest.Run(t, hypervisortest.Harness{
		Open:      func(t *testing.T) hypervisor.Adapter { return h.open(t) },
		Domain:    onID,
		Off:       offID,
		Guest:     inside{h.shell},
		Boot:      h.boot,
		Storages:  h.realStorages(),
		Targets:   []hypervisortest.Storage{{Name: "qcow2", New: qcow2File}},
		NamedFile: rawFile,
		Buses:     []string{"scsi"},
		Deafen:    h.suspend,
		Stall: func(t *testing.T, d hypervisor.DomainID) func() {
			h.signal(t, d, unix.SIGSTOP)
			return sync.OnceFunc(func() { h.signal(t, d, unix.SIGCONT) })
		},
		HangAgent: func(t *testing.T, _ hypervisor.DomainID) func() {
			tell := func(sig string) {
				if _, err := h.shell.Run(context.Background(), "kill -"+sig+" $(pidof qemu-ga)"); err != nil {
					t.Error(err)
				}
			}
			tell("STOP")
			return sync.OnceFunc(func() { tell("CONT") })
		},
		AgentLimit: agentLimit,
		Transient:  h.transient,
		Kill:       h.kill,
	})
}

// boot starts the second guest.
func (h *host) boot(t *testing.T) {
	t.Helper()
	a := h.open(t)
	defer a.Close()
	if err := a.Start(t.Context(), offID); err != nil {
		t.Fatal(err)
	}
}

// transient runs a domain that nobody defined.
func (h *host) transient(t *testing.T) hypervisor.DomainID {
	t.Helper()
	d, err := h.conn.DomainCreateXML(guest.DomainXML(guest.Domain{Name: "transient", Image: h.on.Image, Dir: h.root.Dir}), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Destroy(), d.Free()); err != nil {
			t.Error(err)
		}
	})
	id, err := d.GetUUIDString()
	if err != nil {
		t.Fatal(err)
	}
	return hypervisor.DomainID(id)
}

// qcow2File makes an empty qcow2 file that lies upon nothing.
func qcow2File(t *testing.T, size int64) primitives.Mapping {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, strconv.FormatInt(size, 10))
	return primitives.Mapping{
		Form: primitives.FormFile, Access: primitives.ReadWrite, Size: size, Discard: true,
		File: &primitives.FileMap{Path: path, Format: primitives.FormatQcow2},
	}
}

// rawFile makes a sparse file.
func rawFile(t *testing.T, name string, size int64) primitives.Mapping {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return primitives.Mapping{
		Form: primitives.FormFile, Access: primitives.ReadWrite, Size: size, Discard: true,
		File: &primitives.FileMap{Path: path, Format: primitives.FormatRaw},
	}
}

// overlay makes a qcow2 file upon a file.
func overlay(t *testing.T, m primitives.Mapping) primitives.Mapping {
	t.Helper()
	path := filepath.Join(t.TempDir(), "overlay.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", m.File.Path, "-F", string(m.File.Format), path)
	m.File = &primitives.FileMap{
		Path: path, Format: primitives.FormatQcow2,
		Backing: append([]primitives.FileMap{{Path: m.File.Path, Format: m.File.Format}}, m.File.Backing...),
	}
	return m
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	res, err := command.Run(t.Context(), command.Cmd{Path: name, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(res.Stdout))
}

func (h *host) realStorages() []hypervisortest.Storage {
	growFile := func(t *testing.T, m primitives.Mapping, size int64) primitives.Mapping {
		t.Helper()
		if err := os.Truncate(m.File.Path, size); err != nil {
			t.Fatal(err)
		}
		m.Size = size
		return m
	}
	return []hypervisortest.Storage{
		{
			Name: "raw file", New: func(t *testing.T, n int64) primitives.Mapping { return rawFile(t, "disk.img", n) },
			Grow: growFile, Overlay: overlay,
		},
		{Name: "raw file, direct", New: func(t *testing.T, n int64) primitives.Mapping {
			m := rawFile(t, "direct.img", n)
			m.Direct, m.Logical, m.Physical = true, 512, 4096
			return m
		}, Grow: growFile, Overlay: overlay},
		{Name: "qcow2 chain", Layered: true, New: func(t *testing.T, n int64) primitives.Mapping {
			return overlay(t, overlay(t, rawFile(t, "base.img", n)))
		}, Grow: func(_ *testing.T, m primitives.Mapping, size int64) primitives.Mapping {
			m.Size = size // QEMU grows the file itself
			return m
		}, Overlay: overlay},
		{Name: "block", New: loopDevice, Grow: growLoop},
		{Name: "nbd", New: h.nbdExport},
	}
}

// loopDevice makes a block device.
func loopDevice(t *testing.T, size int64) primitives.Mapping {
	t.Helper()
	m := rawFile(t, "loop.img", size)
	dev := run(t, "losetup", "--find", "--show", m.File.Path)
	t.Cleanup(func() {
		if _, err := command.Run(context.Background(), command.Cmd{Path: "losetup", Args: []string{"-d", dev}}); err != nil {
			t.Error(err)
		}
	})
	return primitives.Mapping{
		Form: primitives.FormBlock, Access: primitives.ReadWrite, Size: size, Direct: true,
		Block: &primitives.BlockMap{Path: dev},
	}
}

func growLoop(t *testing.T, m primitives.Mapping, size int64) primitives.Mapping {
	t.Helper()
	file := run(t, "losetup", "--noheadings", "--output", "BACK-FILE", m.Block.Path)
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	run(t, "losetup", "-c", m.Block.Path)
	m.Size = size
	return m
}

// nbdExport serves a file over a unix socket.
func (h *host) nbdExport(t *testing.T, size int64) primitives.Mapping {
	t.Helper()
	socket, export := filepath.Join(h.shortDir(t), "s"), "tenon, disk"
	serveNBD(t, rawFile(t, "nbd.img", size).File.Path, socket, export)
	m := nbdMapping(primitives.NetworkMap{Export: export, Socket: socket})
	m.Size = size
	return m
}

// shortDir makes a folder with a short path, for unix sockets.
func (h *host) shortDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(h.root.Dir, rand.Text()[:6])
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func serveNBD(t *testing.T, file, socket, export string) *command.Process {
	t.Helper()
	server, err := command.Start(t.Context(), command.Cmd{Path: "qemu-nbd", Args: []string{
		"--persistent", "--shared=4", "--format=raw", "--socket=" + socket, "--export-name=" + export, file,
	}},
		command.StartOptions{Pdeathsig: unix.SIGKILL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
	awaitSocket(t, server, socket)
	return server
}

// awaitSocket returns when a server has made its socket.
func awaitSocket(t *testing.T, server *command.Process, socket string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-server.Done():
			t.Fatal(fmt.Errorf("the NBD server ended: %s", server.Stderr()))
		case <-t.Context().Done():
			t.Fatal("the NBD server made no socket")
		}
	}
}
