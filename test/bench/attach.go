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
// definition too. Both are measured by the client, from the call to the answer.
func benchAttach(ctx context.Context, b *bench) ([]row, error) {
	h, err := newAttachHost(ctx, b)
	if err != nil {
		return nil, err
	}
	var tenon, bare []time.Duration
	for i := range runs + 1 { // the first round warms both sides up
		t, err := h.throughTenond(ctx)
		if err != nil {
			return nil, err
		}
		l, err := h.bare(ctx, i)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			tenon, bare = append(tenon, t), append(bare, l)
		}
	}
	return []row{lowerIs("attach a raw volume, live and config", "ms", millis(median(tenon)),
		map[string]float64{"bare libvirt": millis(median(bare))}, 1.15)}, nil
}

// attachHost is a guest that both sides attach to.
type attachHost struct {
	disks  tenonv1.DiskServiceClient
	ops    tenonv1.OperationServiceClient
	domain *libvirt.Domain
	shell  *guest.Shell
	image  string
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
	h := &attachHost{image: filepath.Join(folder, "..", "bare.raw")}
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
func (h *attachHost) throughTenond(ctx context.Context) (time.Duration, error) {
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
	disk := op.GetDisk().GetId()
	if _, err := h.shell.Run(ctx, "disk "+disk); err != nil {
		return 0, err
	}
	gone, err := h.disks.DetachDisk(ctx, &tenonv1.DetachDiskRequest{Domain: benchDomain, Disk: disk})
	if err != nil {
		return 0, err
	}
	_, err = h.wait(ctx, gone.GetOperation())
	return took, err
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
	serial := fmt.Sprintf("bare-%d", round)
	xml := fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap' error_policy='stop'/>`+
		`<source file='%s'/><target dev='vdz' bus='virtio'/><serial>%s</serial><alias name='ua-%s'/></disk>`, h.image, serial, serial)
	start := time.Now()
	if err := h.domain.AttachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		return 0, err
	}
	if err := h.domain.AttachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG); err != nil {
		return 0, err
	}
	took := time.Since(start)
	if _, err := h.shell.Run(ctx, "disk "+serial); err != nil {
		return 0, err
	}
	if err := h.domain.DetachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		return 0, err
	}
	if err := h.domain.DetachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG); err != nil {
		return 0, err
	}
	_, err := h.shell.Run(ctx, "disk-gone "+serial)
	return took, err
}
