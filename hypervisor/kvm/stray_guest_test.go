// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package kvm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// forgottenSwitches has QEMU end copies itself. libvirt then takes them for cancelled,
// as it does when it dies between its order and its note of it.
func (h *host) forgottenSwitches(t *testing.T) {
	const size = 8 << 20
	for i, c := range []struct {
		name     string
		from, to primitives.Mapping
	}{
		{"raw file to raw file", rawFile(t, "From, a.img", size), rawFile(t, "To, a.img", size)},
		{"qcow2 chain to qcow2", overlay(t, overlay(t, rawFile(t, "base.img", size))), qcow2File(t, size)},
		{"raw file to block", rawFile(t, "from.img", size), loopDevice(t, size)},
		{"block to nbd", loopDevice(t, size), h.nbdExport(t, size)},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.forgottenSwitch(t, hypervisor.MoveRequest{
				Domain: onID, Disk: hypervisor.DiskID(fmt.Sprintf("moves-forgotten-%d", i)), From: c.from, To: c.to, ToIsZero: true,
			})
		})
	}
}

func (h *host) forgottenSwitch(t *testing.T, r hypervisor.MoveRequest) {
	a := h.first
	h.movable(t, a, r.Disk, r.From)
	h.writes(t, r.Disk)
	if err := a.StartMove(t.Context(), r); err != nil {
		t.Fatalf("StartMove = %v", err)
	}
	ready(t, a, r)
	h.completeCopy(t, shown(t, a, r.Disk).Target)
	until(t, a, r, func(s hypervisor.MoveStatus) bool { return s.Phase == hypervisor.MoveHalf })
	if got := shown(t, a, r.Disk); !got.Source.Shows(r.From) {
		t.Fatalf("libvirt shows %v: it has not forgotten the switch", got.Source)
	}
	wantCode(t, "CancelMove", a.CancelMove(t.Context(), r), primitives.CodeConflict)
	ctx, cancel := context.WithTimeout(t.Context(), moveTime)
	defer cancel()
	err := a.FinishMove(ctx, r)
	wantCode(t, "FinishMove", err, primitives.CodeConflict)
	t.Log(err)
	if s, err := a.MoveStatus(ctx, r); err != nil || s.Phase != hypervisor.MoveNone {
		t.Fatalf("MoveStatus = %+v, %v; want the disk back", s, err)
	}
	if err := a.StartMove(ctx, r); err != nil {
		t.Fatalf("StartMove again = %v", err)
	}
	ready(t, a, r)
	if err := a.FinishMove(ctx, r); err != nil {
		t.Fatalf("FinishMove of the second try = %v", err)
	}
	if s, err := a.MoveStatus(ctx, r); err != nil || s.Phase != hypervisor.MoveDone {
		t.Errorf("MoveStatus = %+v, %v; want done", s, err)
	}
	got := h.ask(t, "stop")
	if got.Writes == 0 || got.Verified == 0 {
		t.Errorf("the writer says %+v", got)
	}
	if _, err := a.Detach(ctx, r.Domain, r.Disk); err != nil {
		t.Fatal(err)
	}
	r.Disk += "-b" // from the target alone, through another disk
	h.movable(t, a, r.Disk, r.To)
	sum, err := h.shell.Run(ctx, fmt.Sprintf("sha256sum $(disk %s) | cut -d' ' -f1", r.Disk))
	if err != nil || sum != got.Sum {
		t.Errorf("the target has %s, %v; the guest had read %s", sum, err, got.Sum)
	}
}

// completeCopy has QEMU end a copy without libvirt's order.
func (h *host) completeCopy(t *testing.T, target string) {
	t.Helper()
	d := h.domain(t, onID)
	ask := func(command string) string {
		out, err := d.QemuMonitorCommand(command, libvirt.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
		if err != nil || strings.Contains(out, `"error"`) {
			t.Fatalf("%s = %s, %v", command, out, err)
		}
		return out
	}
	var jobs struct {
		Return []struct{ Device string }
	}
	if err := json.Unmarshal([]byte(ask(`{"execute":"query-block-jobs"}`)), &jobs); err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs.Return {
		if strings.HasPrefix(j.Device, "copy-"+target+"-") {
			ask(fmt.Sprintf(`{"execute":"job-complete","arguments":{"id":%q}}`, j.Device))
			return
		}
	}
	t.Fatalf("QEMU has no copy of %s: %v", target, jobs.Return)
}
