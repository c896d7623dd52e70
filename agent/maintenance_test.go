// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// reached is how long a device may take to come somewhere.
const reached = 20 * time.Second

// until waits for a device to be as it should, and fails with what it is instead.
func (h *house) until(device, what string, is func(maintenance.Maintenance) bool) maintenance.Maintenance {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), reached)
	defer cancel()
	var last maintenance.Maintenance
	for m, err := range h.upkeep.Watch(ctx, device) {
		if err != nil {
			h.t.Fatalf("%s never came to be %s: %v\nit is %+v", device, what, err, last)
		}
		if last = m; is(m) {
			return m
		}
	}
	h.t.Fatalf("%s never came to be %s", device, what)
	return last
}

func phase(p protocol.Phase) func(maintenance.Maintenance) bool {
	return func(m maintenance.Maintenance) bool { return m.Phase == p }
}

// goTo prepares a device and waits until it is there.
func (h *house) prepare(device string, i protocol.Intent) maintenance.Maintenance {
	h.t.Helper()
	m, err := h.upkeep.Prepare(h.t.Context(), maintenance.PrepareRequest{Device: device, Caller: "tester", Intent: i})
	if err != nil {
		h.t.Fatalf("Prepare(%s) = %v", device, err)
	}
	return m
}

func (h *house) end(device string) {
	h.t.Helper()
	if _, err := h.upkeep.End(h.t.Context(), maintenance.EndRequest{Device: device, Caller: "tester"}); err != nil {
		h.t.Fatalf("End(%s) = %v", device, err)
	}
	h.until(device, "in service", phase(protocol.InService))
}

// refuses fails unless err refuses for a maintenance, naming its id.
func (h *house) refuses(what string, err error, code primitives.Code, id string) {
	h.t.Helper()
	e, ok := errors.AsType[*primitives.Error](err)
	named := ok && slices.Contains(e.Blocked, primitives.Blocker{Kind: "maintenance", Name: id})
	if !ok || e.Code != code || !named || e.Try == "" {
		h.t.Errorf("%s = %v, want %s naming maintenance %s and what to try", what, err, code, id)
	}
}

// Cases: E68
func TestADeviceWithoutUsesGoesIntoMaintenanceAndComesBack(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.prepare("one", protocol.Intent{ID: "m1", Reason: "new fans"})
	m := h.until("one", "in maintenance", phase(protocol.InMaintenance))
	if !m.Fence.Verified || m.Gate != protocol.GateFenced || m.ManagedBy != maintenance.ThisHost {
		t.Errorf("in maintenance it is %+v, want a verified fence", m)
	}
	_, err := h.engine.Start(t.Context(), operation.Request{Kind: volume.KindCreate, Args: volume.CreateArgs{URI: uri("one/b"), Size: volumeSize}})
	h.refuses("create on a fenced device", err, primitives.CodeFenced, "m1")
	if _, err := h.devices.Device("one"); !errors.Is(err, primitives.CodeFenced) {
		t.Errorf("Device = %v, want fenced", err)
	}
	h.end("one")
	h.content("one/a", 1)
	h.attach("one/a")
}

func TestADetachPolicyEmptiesADevice(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	oneVolume(h)
	h.attach("one/a")
	h.guestWrites(h.disk("one/a"), 4)
	h.prepare("one", protocol.Intent{ID: "m1", Policy: protocol.Policy{{Action: protocol.Detach}}})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.diskCount(0)
	_, err := h.engine.Start(t.Context(), operation.Request{Kind: attach.KindAttach, Args: attach.AttachArgs{URI: uri("one/a"), Domain: "guest"}})
	h.refuses("attach to a fenced device", err, primitives.CodeFenced, "m1")
	h.end("one")
	h.content("one/a", 4)
	h.sound(0)
}
