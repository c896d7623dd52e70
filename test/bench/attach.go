// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"libvirt.org/go/libvirt"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/test/guest"
	"github.com/tenon-storage/tenon/test/host"
)

const benchDomain = "bench"

// benchAttach attaches a volume through tenond's API and, in turn, a file of the
// same size through libvirt's binding, to the same running guest and into its
// definition too. Both are measured by the client, from the call to the answer;
// then both once more as an operator has them, as whole commands.
func benchAttach(ctx context.Context, b *bench) ([]row, error) {
	h, err := newAttachHost(ctx, b)
	if err != nil {
		return nil, err
	}
	tenon, bare, err := inTurn(ctx, h.throughTenond, h.bare)
	if err != nil {
		return nil, err
	}
	tenonctl, virsh, err := inTurn(ctx, h.tenonctl, h.virsh)
	if err != nil {
		return nil, err
	}
	return []row{
		lowerIs("attach a raw volume, live and config", "ms", millis(tenon),
			map[string]float64{"bare libvirt": millis(bare)}, 1.15),
		lowerIs("the same as a whole command, tenonctl disk attach", "ms", millis(tenonctl),
			map[string]float64{"virsh attach-device": millis(virsh)}, 1.15),
	}, nil
}

// attempt attaches and detaches once and returns how long the attach took.
type attempt func(ctx context.Context, round int) (time.Duration, error)

// inTurn makes the attempts of both sides in turn and returns their medians.
func inTurn(ctx context.Context, ours, theirs attempt) (our, their time.Duration, err error) {
	var tenon, peer []time.Duration
	for i := range runs + 1 { // the first round warms both sides up
		t, err := rested(ctx, ours, i)
		if err != nil {
			return 0, 0, err
		}
		p, err := rested(ctx, theirs, i)
		if err != nil {
			return 0, 0, err
		}
		if i > 0 {
			tenon, peer = append(tenon, t), append(peer, p)
		}
	}
	return median(tenon), median(peer), nil
}

// restTime is what the guest, libvirt and tenond need to come to rest after a
// detach: the guest works on it for a while after the disk is gone, and tenond looks
// half a second later at what has changed. Without it an attempt pays for the one
// before, and the two sides leave each other different things: bare libvirt right
// after bare libvirt took 17.5 ms, and 11.8 ms after a rest.
const restTime = time.Second

// rested makes an attempt that begins in nobody's aftermath.
func rested(ctx context.Context, a attempt, round int) (time.Duration, error) {
	timer := time.NewTimer(restTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	return a(ctx, round)
}

// attachHost is a guest that both sides attach to.
type attachHost struct {
	tenond   *host.Tenond
	libvirtd *host.Libvirtd
	disks    tenonv1.DiskServiceClient
	ops      tenonv1.OperationServiceClient
	domain   *libvirt.Domain
	shell    *guest.Shell
	image    string
}

func newAttachHost(ctx context.Context, b *bench) (*attachHost, error) {
	image, err := guest.Build(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	l, err := host.StartLibvirtd(ctx, b.dir)
	if err != nil {
		return nil, err
	}
	b.undo = append(b.undo, l.Stop)
	d := guest.Domain{Name: benchDomain, Image: image, Dir: b.dir}
	if err := l.Boot(ctx, guest.DomainXML(d)); err != nil {
		return nil, err
	}
	t, err := b.tenond(ctx, l.URI())
	if err != nil {
		return nil, err
	}
	folder, err := b.addDevice(ctx, t, "fast")
	if err != nil {
		return nil, err
	}
	if _, err := t.Run(ctx, "volume", "create", "fast/v", "--size", "64M", "--format", "raw"); err != nil {
		return nil, err
	}
	h := &attachHost{tenond: t, libvirtd: l, image: filepath.Join(folder, "..", "bare.raw")}
	if err := errors.Join(os.WriteFile(h.image, nil, 0o600), os.Truncate(h.image, 64<<20)); err != nil {
		return nil, err
	}
	if h.shell, err = guest.Dial(ctx, d.ShellSocket()); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+t.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	h.disks, h.ops = tenonv1.NewDiskServiceClient(conn), tenonv1.NewOperationServiceClient(conn)
	virt, err := libvirt.NewConnect(l.URI())
	if err != nil {
		return nil, err
	}
	if h.domain, err = virt.LookupDomainByName(benchDomain); err != nil {
		return nil, err
	}
	b.undo = append(b.undo, func(context.Context) error {
		_, err := virt.Close()
		return errors.Join(h.shell.Close(), conn.Close(), h.domain.Free(), err)
	})
	return h, nil
}

// throughTenond attaches and detaches through the API; the attach is measured.
func (h *attachHost) throughTenond(ctx context.Context, _ int) (time.Duration, error) {
	start := time.Now()
	asked, err := h.disks.AttachDisk(ctx, &tenonv1.AttachDiskRequest{Uri: "fast/v", Domain: benchDomain})
	if err != nil {
		return 0, err
	}
	op, err := h.wait(ctx, asked.GetOperation())
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	return took, h.detach(ctx, op.GetDisk().GetId())
}

// tenonctl is throughTenond as a whole command.
func (h *attachHost) tenonctl(ctx context.Context, _ int) (time.Duration, error) {
	start := time.Now()
	var answer struct{ Disk struct{ ID string } }
	err := h.tenond.RunJSON(ctx, &answer, "disk", "attach", "fast/v", benchDomain)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	return took, h.detach(ctx, answer.Disk.ID)
}

// detach waits for the disk in the guest and takes it away again.
func (h *attachHost) detach(ctx context.Context, disk string) error {
	if _, err := h.shell.Run(ctx, "disk "+disk); err != nil {
		return err
	}
	gone, err := h.disks.DetachDisk(ctx, &tenonv1.DetachDiskRequest{Domain: benchDomain, Disk: disk})
	if err != nil {
		return err
	}
	_, err = h.wait(ctx, gone.GetOperation())
	return err
}

func (h *attachHost) wait(ctx context.Context, op *tenonv1.Operation) (*tenonv1.Operation, error) {
	if op.GetState() == tenonv1.OperationState_OPERATION_STATE_RUNNING {
		r, err := h.ops.WaitOperation(ctx, &tenonv1.WaitOperationRequest{Id: op.GetId()})
		if err != nil {
			return nil, err
		}
		op = r.GetOperation()
	}
	if op.GetState() != tenonv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return nil, fmt.Errorf("%s: %s", op.GetState(), op.GetFailure().GetMessage())
	}
	return op, nil
}

// bare does the same with nothing but libvirt: one call for the running domain
// and one for its definition, as tenon makes them.
func (h *attachHost) bare(ctx context.Context, round int) (time.Duration, error) {
	serial, xml := h.bareDisk("bare", round)
	start := time.Now()
	if err := h.domain.AttachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		return 0, err
	}
	if err := h.domain.AttachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG); err != nil {
		return 0, err
	}
	return time.Since(start), h.unplug(ctx, serial, xml)
}

// virsh is bare as a whole command.
func (h *attachHost) virsh(ctx context.Context, round int) (time.Duration, error) {
	serial, xml := h.bareDisk("virsh", round)
	file := h.image + ".xml"
	if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := h.libvirtd.Virsh(ctx, "attach-device", benchDomain, file, "--live", "--config"); err != nil {
		return 0, err
	}
	return time.Since(start), h.unplug(ctx, serial, xml)
}

// bareDisk describes a disk as tenon would.
func (h *attachHost) bareDisk(by string, round int) (serial, xml string) {
	serial = fmt.Sprintf("%s-%d", by, round)
	return serial, fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap' error_policy='stop'/>`+
		`<source file='%s'/><target dev='vdz' bus='virtio'/><serial>%s</serial><alias name='ua-%s'/></disk>`, h.image, serial, serial)
}

// unplug is detach without tenond.
func (h *attachHost) unplug(ctx context.Context, serial, xml string) error {
	if _, err := h.shell.Run(ctx, "disk "+serial); err != nil {
		return err
	}
	for _, half := range []libvirt.DomainDeviceModifyFlags{libvirt.DOMAIN_DEVICE_MODIFY_LIVE, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG} {
		if err := h.domain.DetachDeviceFlags(xml, half); err != nil {
			return err
		}
	}
	_, err := h.shell.Run(ctx, "disk-gone "+serial)
	return err
}
