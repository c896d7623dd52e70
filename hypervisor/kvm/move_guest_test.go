// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package kvm_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/primitives"
)

// moveTime is how long one move may take on a busy machine.
const moveTime = 2 * time.Minute

// told is what the guest's writer says.
type told struct {
	Writes, Verified, Errors uint64
	First, Sum               string
	Longest                  int64 `json:"longest_us"`
}

// ask puts a question to the guest's writer.
func (h *host) ask(t *testing.T, question string) told {
	t.Helper()
	out, err := h.shell.Run(t.Context(), "writer "+question)
	if err != nil {
		t.Fatal(err)
	}
	var got told
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Errors > 0 {
		t.Errorf("the guest's writer met %d errors, the first: %s", got.Errors, got.First)
	}
	return got
}

// movable attaches a disk and takes it away at the end.
func (h *host) movable(t *testing.T, a *kvm.Adapter, id hypervisor.DiskID, m primitives.Mapping) {
	t.Helper()
	if res, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: id, Mapping: m}); err != nil || res.ConfigErr != nil {
		t.Fatalf("Attach = %+v, %v", res, err)
	}
	t.Cleanup(func() {
		if _, err := a.Detach(context.Background(), onID, id); err != nil {
			t.Error(err)
		}
	})
}

// ready waits until a copy is ready.
func ready(t *testing.T, a *kvm.Adapter, r hypervisor.MoveRequest) {
	t.Helper()
	s := until(t, a, r, func(s hypervisor.MoveStatus) bool { return s.Phase != hypervisor.MoveCopying })
	if s.Phase != hypervisor.MoveReady {
		t.Fatalf("MoveStatus = %+v, want ready", s)
	}
}

// until looks at a move until it is as wanted.
func until(t *testing.T, a *kvm.Adapter, r hypervisor.MoveRequest, wanted func(hypervisor.MoveStatus) bool) hypervisor.MoveStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), moveTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := a.MoveStatus(ctx, r)
		if err != nil {
			t.Fatalf("MoveStatus = %v", err)
		}
		if wanted(s) {
			return s
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the move stays at %+v", s)
		}
	}
}

// shownDisk returns what libvirt shows of a disk, but for where its bytes are.
func (h *host) shownDisk(t *testing.T, id hypervisor.DiskID, flags libvirt.DomainXMLFlags) libvirtxml.DomainDisk {
	t.Helper()
	text, err := h.domain(t, onID).GetXMLDesc(flags)
	if err != nil {
		t.Fatal(err)
	}
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	for _, disk := range d.Devices.Disks {
		if disk.Serial == string(id) {
			disk.Source, disk.BackingStore, disk.Driver.Type = nil, nil, ""
			return disk
		}
	}
	t.Fatalf("libvirt shows no disk %s", id)
	return libvirtxml.DomainDisk{}
}

// opens reports whether the domain's QEMU has a file open.
func (h *host) opens(t *testing.T, path string) bool {
	t.Helper()
	fds := filepath.Join("/proc", strconv.Itoa(h.pid(t, onID)), "fd")
	entries, err := os.ReadDir(fds)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(fds, e.Name())); err == nil && to == path {
			return true
		}
	}
	return false
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// writingMoves moves three disks of one domain at once, there and back, while the
// guest writes to one of them and reads back what it wrote.
func (h *host) writingMoves(t *testing.T) {
	a := h.first
	var moves []hypervisor.MoveRequest
	for _, id := range []hypervisor.DiskID{"moves-written", "moves-still", "moves-too"} {
		r := hypervisor.MoveRequest{Domain: onID, Disk: id, From: rawFile(t, string(id)+"-A", 16<<20), To: rawFile(t, string(id)+"-B", 16<<20), ToIsZero: true}
		h.movable(t, a, id, r.From)
		moves = append(moves, r)
	}
	limits := libvirt.DomainBlockIoTuneParameters{TotalIopsSecSet: true, TotalIopsSec: 4321}
	target := shown(t, a, moves[0].Disk).Target
	if err := h.domain(t, onID).SetBlockIoTune(target, &limits, libvirt.DOMAIN_AFFECT_LIVE|libvirt.DOMAIN_AFFECT_CONFIG); err != nil {
		t.Fatal(err)
	}
	live, config := h.shownDisk(t, moves[0].Disk, 0), h.shownDisk(t, moves[0].Disk, libvirt.DOMAIN_XML_INACTIVE)
	if live.IOTune == nil || live.IOTune.TotalIopsSec != 4321 {
		t.Fatalf("libvirt shows %+v as limits", live.IOTune)
	}
	dev, err := h.shell.Run(t.Context(), "disk moves-written")
	if err == nil {
		_, err = h.shell.Run(t.Context(), "writer start "+dev)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		for _, r := range moves {
			if err := a.StartMove(t.Context(), r); err != nil {
				t.Fatalf("StartMove = %v", err)
			}
		}
		for _, r := range moves {
			ready(t, a, r)
		}
		for i, r := range moves {
			if err := a.FinishMove(t.Context(), r); err != nil {
				t.Fatalf("FinishMove = %v", err)
			}
			if h.opens(t, r.From.File.Path) {
				t.Errorf("QEMU has %s open after the move of %s", r.From.File.Path, r.Disk)
			}
			moves[i].From, moves[i].To, moves[i].ToIsZero = r.To, r.From, false
		}
		if got := h.ask(t, "status"); got.Writes == 0 {
			t.Error("the writer did not write")
		}
	}
	got := h.ask(t, "stop")
	t.Logf("%d writes, %d verified", got.Writes, got.Verified)
	if on := sumOf(t, moves[0].From.File.Path); on != got.Sum {
		t.Errorf("the guest read %s, the file that the disk is on has %s", got.Sum, on)
	}
	if diff := cmp.Diff(live, h.shownDisk(t, moves[0].Disk, 0)); diff != "" {
		t.Errorf("the running domain's disk changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(config, h.shownDisk(t, moves[0].Disk, libvirt.DOMAIN_XML_INACTIVE)); diff != "" {
		t.Errorf("the definition's disk changed (-before +after):\n%s", diff)
	}
}

// fullTarget moves a disk to where there is no room for it.
func (h *host) fullTarget(t *testing.T) {
	a := h.first
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	r := hypervisor.MoveRequest{Domain: onID, Disk: "moves-full", From: rawFile(t, "from.img", 16<<20), To: rawFile(t, "to.img", 16<<20)}
	r.To.File.Path = filepath.Join(small, "to.img")
	if err := errors.Join(os.WriteFile(r.To.File.Path, nil, 0o600), os.Truncate(r.To.File.Path, 16<<20)); err != nil {
		t.Fatal(err)
	}
	h.movable(t, a, r.Disk, r.From)
	h.writes(t, r.Disk)
	if err := a.StartMove(t.Context(), r); err != nil {
		t.Fatalf("StartMove = %v", err)
	}
	s := until(t, a, r, func(s hypervisor.MoveStatus) bool {
		return s.Phase == hypervisor.MoveNone && strings.Contains(s.Failure, "No space left")
	})
	t.Logf("the copy failed: %s", s.Failure)
	wantCode(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeConflict)
	if got := shown(t, a, r.Disk); !got.Source.Shows(r.From) || got.Job != "" || h.opens(t, r.To.File.Path) {
		t.Errorf("after the failure the disk is %+v; the target is open: %v", got, h.opens(t, r.To.File.Path))
	}
	if got := h.ask(t, "stop"); got.Sum != sumOf(t, r.From.File.Path) {
		t.Error("the source is not what the guest reads")
	}
}

// writes starts the writer on a disk, and lets it write to most of it.
func (h *host) writes(t *testing.T, id hypervisor.DiskID) {
	t.Helper()
	script := "dd if=/dev/urandom of=$(disk %[1]s) bs=1M 2>/dev/null; writer start $(disk %[1]s)"
	if _, err := h.shell.Run(t.Context(), fmt.Sprintf(script, id)); err != nil {
		t.Fatal(err)
	}
}

// lostTarget takes the target away from a copy.
func (h *host) lostTarget(t *testing.T) {
	a := h.first
	socket := filepath.Join(h.shortDir(t), "s")
	server := serveNBD(t, rawFile(t, "nbd.img", 16<<20).File.Path, socket, "e")
	to := nbdMapping(primitives.NetworkMap{Export: "e", Socket: socket})
	to.Size = 16 << 20
	r := hypervisor.MoveRequest{Domain: onID, Disk: "moves-lost", From: rawFile(t, "from.img", 16<<20), To: to, Bandwidth: 1 << 20}
	h.movable(t, a, r.Disk, r.From)
	h.writes(t, r.Disk)
	if err := a.StartMove(t.Context(), r); err != nil {
		t.Fatalf("StartMove = %v", err)
	}
	until(t, a, r, func(s hypervisor.MoveStatus) bool { return s.Phase == hypervisor.MoveCopying && s.Done > 0 })
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := until(t, a, r, func(s hypervisor.MoveStatus) bool { return s.Phase == hypervisor.MoveNone && s.Failure != "" })
	t.Logf("the copy failed: %s", s.Failure)
	if err := a.CancelMove(t.Context(), r); err != nil {
		t.Errorf("CancelMove = %v", err)
	}
	if got := h.ask(t, "stop"); got.Sum != sumOf(t, r.From.File.Path) {
		t.Error("the source is not what the guest reads")
	}
}

// outrun copies slower than the guest writes, until the writes wait.
func (h *host) outrun(t *testing.T) {
	a := h.first
	r := hypervisor.MoveRequest{
		Domain: onID, Disk: "moves-outrun", From: rawFile(t, "from.img", 4<<20), To: rawFile(t, "to.img", 4<<20), ToIsZero: true,
		Bandwidth: 512 << 10,
	}
	h.movable(t, a, r.Disk, r.From)
	h.writes(t, r.Disk)
	if err := a.StartMove(t.Context(), r); err != nil {
		t.Fatalf("StartMove = %v", err)
	}
	s := until(t, a, r, func(s hypervisor.MoveStatus) bool {
		return s.Phase != hypervisor.MoveCopying || s.Done > r.To.Size+1<<20
	})
	if s.Phase != hypervisor.MoveCopying {
		t.Errorf("a copy that is slower than the guest is %v after %d of %d bytes", s.Phase, s.Done, s.Total)
	}
	t.Logf("outrun: %d of %d bytes", s.Done, s.Total)
	if err := a.Converge(t.Context(), r); err != nil {
		t.Fatalf("Converge = %v", err)
	}
	ready(t, a, r)
	if err := a.FinishMove(t.Context(), r); err != nil {
		t.Fatalf("FinishMove = %v", err)
	}
	if got := h.ask(t, "stop"); got.Sum != sumOf(t, r.To.File.Path) {
		t.Error("the target is not what the guest reads")
	}
}

// thinMoves moves a disk of few bytes and sees how much room the target takes.
func (h *host) thinMoves(t *testing.T) {
	a := h.first
	const size, data = 64 << 20, 1 << 20
	for i, c := range []struct {
		name    string
		discard bool
		to      primitives.Mapping
	}{
		{"to a raw file", true, rawFile(t, "to.img", size)},
		{"to a raw file, of a disk without discard", false, rawFile(t, "to2.img", size)},
		{"to qcow2", true, qcow2File(t, size)},
		{"to qcow2, of a disk without discard", false, qcow2File(t, size)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := hypervisor.MoveRequest{Domain: onID, Disk: hypervisor.DiskID(fmt.Sprintf("moves-thin-%d", i)), From: rawFile(t, "from.img", size), To: c.to, ToIsZero: true}
			r.From.Discard = c.discard
			h.movable(t, a, r.Disk, r.From)
			if _, err := h.shell.Run(t.Context(), fmt.Sprintf("dd if=/dev/urandom of=$(disk %s) bs=1M count=1 seek=32 2>/dev/null", r.Disk)); err != nil {
				t.Fatal(err)
			}
			if err := a.StartMove(t.Context(), r); err != nil {
				t.Fatalf("StartMove = %v", err)
			}
			ready(t, a, r)
			if err := a.FinishMove(t.Context(), r); err != nil {
				t.Fatalf("FinishMove = %v", err)
			}
			var st unix.Stat_t
			if err := unix.Stat(c.to.File.Path, &st); err != nil {
				t.Fatal(err)
			}
			t.Logf("the target takes %d KiB", st.Blocks/2)
			if took := st.Blocks * 512; took > 4*data {
				t.Errorf("the target takes %d bytes for %d of data", took, data)
			}
		})
	}
}

// uncachedMove moves a disk that goes past the host's cache to a file system that
// has nothing else.
func (h *host) uncachedMove(t *testing.T) {
	a := h.first
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	r := hypervisor.MoveRequest{Domain: onID, Disk: "moves-uncached", From: rawFile(t, "from.img", 1<<20), To: rawFile(t, "to.img", 1<<20)}
	r.From.Direct, r.To.File.Path = true, filepath.Join(dir, "to.img")
	if err := errors.Join(os.WriteFile(r.To.File.Path, nil, 0o600), os.Truncate(r.To.File.Path, 1<<20)); err != nil {
		t.Fatal(err)
	}
	h.movable(t, a, r.Disk, r.From)
	err := a.StartMove(t.Context(), r)
	wantCode(t, "StartMove", err, primitives.CodeUnsupported)
	t.Log(err)
	if s, err := a.MoveStatus(t.Context(), r); err != nil || s.Phase != hypervisor.MoveNone {
		t.Errorf("MoveStatus = %+v, %v", s, err)
	}
	if got := shown(t, a, r.Disk); !got.Source.Shows(r.From) || got.Job != "" {
		t.Errorf("the disk is %+v", got)
	}
}
