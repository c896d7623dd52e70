// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/test/guest"
	"github.com/tenon-storage/tenon/test/host"
)

const (
	moveSize = 4 << 30
	moveRuns = 5 // a move takes seconds, and both sides write the whole disk each time
)

// mover moves a disk's bytes to another place and tells how long that took. What
// the move left behind is taken away after the clock has stopped.
type mover interface {
	move(ctx context.Context) (time.Duration, error)
	serial() string
}

// benchMove moves a disk of 4 GiB under a running guest with tenonctl and, in
// turn, one with the same content with virsh blockcopy. In a second series the
// guest writes meanwhile, and its longest request is what counts.
func benchMove(ctx context.Context, b *bench) ([]row, error) {
	h, err := newMoveHost(ctx, b)
	if err != nil {
		return nil, err
	}
	tenon, err := h.throughTenond(ctx, b)
	if err != nil {
		return nil, err
	}
	bare, err := h.throughVirsh(ctx, b)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := movesInTurn(ctx, tenon, bare, func(ctx context.Context, m mover) (time.Duration, error) { return m.move(ctx) })
	if err != nil {
		return nil, err
	}
	rows := []row{lowerIs("live move of a 4 GiB disk, as a whole command", "ms", millis(ours),
		map[string]float64{"virsh blockcopy --pivot": millis(theirs)}, 1.1)}
	ourStall, theirStall, err := movesInTurn(ctx, tenon, bare, h.longestWrite)
	if err != nil {
		return rows, err // what was measured is told all the same
	}
	return append(rows,
		lowerIs("longest write of the guest during such a move", "ms", millis(ourStall),
			map[string]float64{"virsh blockcopy --pivot": millis(theirStall)}, 1.5)), nil
}

// movesInTurn measures both sides in turn and returns their medians.
func movesInTurn(ctx context.Context, ours, theirs mover, measure func(context.Context, mover) (time.Duration, error)) (our, their time.Duration, err error) {
	var tenon, peer []time.Duration
	for i := range moveRuns + 1 { // the first round warms both sides up
		t, err := measure(ctx, ours)
		if err != nil {
			return 0, 0, fmt.Errorf("move with tenon: %w", err)
		}
		p, err := measure(ctx, theirs)
		if err != nil {
			return 0, 0, fmt.Errorf("move with virsh: %w", err)
		}
		if i > 0 {
			tenon, peer = append(tenon, t), append(peer, p)
		}
	}
	return median(tenon), median(peer), nil
}

// moveHost is a guest with one disk of each side.
type moveHost struct {
	libvirtd *host.Libvirtd
	tenond   *host.Tenond
	shell    *guest.Shell
	content  string // a file with the bytes that both disks begin with
}

func newMoveHost(ctx context.Context, b *bench) (*moveHost, error) {
	image, err := guest.Build(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	h := &moveHost{content: filepath.Join(b.dir, "content")}
	if err := fillFile(h.content, moveSize); err != nil {
		return nil, err
	}
	if h.libvirtd, err = host.StartLibvirtd(ctx, b.dir); err != nil {
		return nil, err
	}
	b.undo = append(b.undo, h.libvirtd.Stop)
	d := guest.Domain{Name: benchDomain, Image: image, Dir: b.dir}
	if err := h.libvirtd.Boot(ctx, guest.DomainXML(d)); err != nil {
		return nil, err
	}
	if h.tenond, err = b.tenond(ctx, h.libvirtd.URI()); err != nil {
		return nil, err
	}
	if h.shell, err = guest.Dial(ctx, d.ShellSocket()); err != nil {
		return nil, err
	}
	b.undo = append(b.undo, func(context.Context) error { return h.shell.Close() })
	return h, nil
}

// fillFile writes a file whose bytes are nowhere zero for long, so that no side
// can leave anything out.
func fillFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(block) // never fails
	for n := int64(0); n < size && err == nil; n += int64(len(block)) {
		_, err = f.Write(block)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// longestWrite moves while the guest writes and returns the longest that one of
// its requests took from the move's beginning to its end.
func (h *moveHost) longestWrite(ctx context.Context, m mover) (time.Duration, error) {
	if _, err := h.shell.Run(ctx, "writer start $(disk "+m.serial()+")"); err != nil {
		return 0, err
	}
	if _, err := h.writer(ctx, "status"); err != nil { // forgets what was before
		return 0, err
	}
	_, err := m.move(ctx)
	if err != nil {
		return 0, err
	}
	told, err := h.writer(ctx, "status")
	if err != nil {
		return 0, err
	}
	// The writer is not told to stop, which would read the whole disk.
	_, err = h.shell.Run(ctx, "killall writer; until ! pidof writer >/dev/null; do sleep 0.1; done")
	if told.Errors > 0 || told.Writes == 0 {
		err = errors.Join(err, fmt.Errorf("the guest's writer: %+v", told))
	}
	return time.Duration(told.LongestUS) * time.Microsecond, err
}

// written is what the guest's writer tells.
type written struct {
	Writes    uint64 `json:"writes"`
	Errors    uint64 `json:"errors"`
	First     string `json:"first"`
	LongestUS int64  `json:"longest_us"`
}

func (h *moveHost) writer(ctx context.Context, question string) (written, error) {
	var told written
	out, err := h.shell.Run(ctx, "writer "+question)
	if err != nil {
		return told, err
	}
	return told, json.Unmarshal([]byte(out), &told)
}

// tenonMover moves a disk between two devices.
type tenonMover struct {
	tenond *host.Tenond
	disk   string
	at     int
}

var moveDevices = []string{"one", "two"}

func (h *moveHost) throughTenond(ctx context.Context, b *bench) (mover, error) {
	for _, name := range moveDevices {
		if _, err := b.addDevice(ctx, h.tenond, name); err != nil {
			return nil, err
		}
	}
	if _, err := h.tenond.Run(ctx, "volume", "create", "one/v", "--size", fmt.Sprint(moveSize), "--format", "raw"); err != nil {
		return nil, err
	}
	if _, err := h.tenond.Run(ctx, "volume", "write", "one/v", "--input", h.content); err != nil {
		return nil, err
	}
	var answer struct{ Disk struct{ ID string } }
	if err := h.tenond.RunJSON(ctx, &answer, "disk", "attach", "one/v", benchDomain); err != nil {
		return nil, err
	}
	return &tenonMover{tenond: h.tenond, disk: answer.Disk.ID}, nil
}

func (m *tenonMover) serial() string { return m.disk }

func (m *tenonMover) move(ctx context.Context) (time.Duration, error) {
	from, to := moveDevices[m.at], moveDevices[1-m.at]
	began := time.Now()
	_, err := m.tenond.Run(ctx, "disk", "move", benchDomain, m.disk, to)
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	m.at = 1 - m.at
	var left struct {
		Volumes []struct {
			Tombstone struct{ ID string }
		}
	}
	if err := m.tenond.RunJSON(ctx, &left, "volume", "list", from, "--tombstones"); err != nil {
		return 0, err
	}
	for _, v := range left.Volumes {
		if _, err := m.tenond.Run(ctx, "volume", "destroy", from, v.Tombstone.ID); err != nil {
			return 0, err
		}
	}
	return took, nil
}

// virshMover moves a disk between two files.
type virshMover struct {
	libvirtd *host.Libvirtd
	files    []string
}

const virshSerial, virshTarget = "bare-move", "vdy"

func (h *moveHost) throughVirsh(ctx context.Context, b *bench) (mover, error) {
	folder, err := b.folder("virsh")
	if err != nil {
		return nil, err
	}
	m := &virshMover{libvirtd: h.libvirtd, files: []string{filepath.Join(folder, "a.raw"), filepath.Join(folder, "b.raw")}}
	if err := os.Rename(h.content, m.files[0]); err != nil {
		return nil, err
	}
	xml := filepath.Join(folder, "disk.xml")
	if err := os.WriteFile(xml, fmt.Appendf(nil, `<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap' error_policy='stop'/>`+
		`<source file='%s'/><target dev='%s' bus='virtio'/><serial>%s</serial></disk>`, m.files[0], virshTarget, virshSerial), 0o600); err != nil {
		return nil, err
	}
	_, err = h.libvirtd.Virsh(ctx, "attach-device", benchDomain, xml, "--live", "--config")
	return m, err
}

func (m *virshMover) serial() string { return virshSerial }

func (m *virshMover) move(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	// Whoever uses virsh makes the target first too.
	err := errors.Join(os.WriteFile(m.files[1], nil, 0o600), os.Truncate(m.files[1], moveSize))
	if err != nil {
		return 0, err
	}
	_, err = m.libvirtd.Virsh(ctx, "blockcopy", benchDomain, virshTarget, "--dest", m.files[1], "--format", "raw",
		"--reuse-external", "--transient-job", "--wait", "--pivot")
	// With a guest that writes, virsh may pivot when the copy is at its end but not
	// ready, and leaves the job to whoever called it.
	for tries := 0; err != nil && tries < 200; tries++ {
		_, err = m.libvirtd.Virsh(ctx, "blockjob", benchDomain, virshTarget, "--pivot")
	}
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	slices.Reverse(m.files)
	return took, os.Remove(m.files[1])
}
