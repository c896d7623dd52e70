// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
	"github.com/tenon-storage/tenon/storage/mem"
)

// wrongReturns are what can have become of a device of mem while it was away.
func wrongReturns() map[string]struct {
	cases  string
	spoil  func(h *house) (mend func())
	reason string
} {
	fail := func(call string, code primitives.Code) func(h *house) func() {
		return func(h *house) func() {
			return h.w.mem.Fault("one", mem.Fault{Op: call, Err: primitives.Errorf(code, "%s is refused", call)})
		}
	}
	return map[string]struct {
		cases  string
		spoil  func(h *house) (mend func())
		reason string
	}{
		"absent":    {"E160", fail("describe", primitives.CodeUnavailable), "describe is refused"},
		"read-only": {"E164", fail("write", primitives.CodeDenied), "written to"},
	}
}

// Cases: E160, E164
func TestADeviceThatCannotBeUsedDoesNotReturn(t *testing.T) {
	for name, c := range wrongReturns() {
		t.Run(name, func(t *testing.T) {
			h := boot(t, newWorld(t), -1)
			defer h.bury()
			oneVolume(h)
			h.prepare("one", protocol.Intent{ID: "m1"})
			h.until("one", "in maintenance", phase(protocol.InMaintenance))
			mend := c.spoil(h)
			if _, err := h.upkeep.End(t.Context(), maintenance.EndRequest{Device: "one"}); err != nil {
				t.Fatal(err)
			}
			m := h.until("one", "failed to return", phase(protocol.ReturnFailed))
			if !strings.Contains(m.Failure, c.reason) || m.Gate == protocol.GateOpen {
				t.Errorf("%s: it is %+v, want a closed gate and %q", name, m, c.reason)
			}
			err := h.tries(volume.KindCreate, volume.CreateArgs{URI: uri("one/b"), Size: volumeSize})
			if err == nil {
				t.Errorf("%s: a volume could be made on a device that did not return", name)
			}
			mend()
			h.end("one") // tries again
			h.content("one/a", 1)
		})
	}
}

// TestAnotherStorageUnderTheOldNameDoesNotReturn: the folder that comes back is
// another one, or is not mounted.
//
// Cases: E161, E163
func TestAnotherStorageUnderTheOldNameDoesNotReturn(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, path string){
		"not mounted": func(t *testing.T, path string) { mkdir(t, path) },
		"another":     func(t *testing.T, path string) { rename(t, path+"-other", path) },
	} {
		t.Run(name, func(t *testing.T) {
			h := boot(t, newWorld(t), -1)
			defer h.bury()
			h.addDir("one")
			h.addDir("one-other")
			h.create("one/a", 1)
			h.run("device.remove", struct{ Name string }{"one-other"})
			h.prepare("one", protocol.Intent{ID: "m1"})
			h.until("one", "in maintenance", phase(protocol.InMaintenance))
			path := filepath.Join(h.w.folder, "images", "one")
			rename(t, path, path+".away")
			replace(t, path)
			if _, err := h.upkeep.End(t.Context(), maintenance.EndRequest{Device: "one"}); err != nil {
				t.Fatal(err)
			}
			m := h.until("one", "failed to return", phase(protocol.ReturnFailed))
			if m.Failure == "" || m.Gate == protocol.GateOpen {
				t.Errorf("it is %+v, want a closed gate and why", m)
			}
			if name == "not mounted" {
				if left, err := os.ReadDir(path); err != nil || len(left) > 0 {
					t.Errorf("the mount point holds %v, %v; want nothing written to it", left, err)
				}
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			rename(t, path+".away", path)
			h.end("one")
			h.content("one/a", 1)
		})
	}
}

// Cases: E162
func TestADeviceOfAnotherSizeDoesNotReturn(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	h.addMem("one", "one", primitives.Props{"capacity": "67108864"})
	h.create("one/a", 1)
	h.prepare("one", protocol.Intent{ID: "m1"})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	err := h.journal.Update(func(tx *journal.Tx) error { // it is another one by the time that it returns
		d, err := tx.Device("one")
		d.Props["capacity"] = "134217728"
		return errors.Join(err, tx.PutDevice(d))
	})
	if err != nil {
		t.Fatal(err)
	}
	h.bury()
	h = boot(t, w, -1)
	defer h.bury()
	if _, err := h.upkeep.End(t.Context(), maintenance.EndRequest{Device: "one"}); err != nil {
		t.Fatal(err)
	}
	m := h.until("one", "failed to return", phase(protocol.ReturnFailed))
	if !strings.Contains(m.Failure, "67108864") || !strings.Contains(m.Failure, "134217728") {
		t.Errorf("failure = %q, want both sizes", m.Failure)
	}
	// A person who wants it so overrules the host.
	_, err = h.upkeep.Override(t.Context(), maintenance.OverrideRequest{Device: "one", Subject: h.journal.HostID(), Permission: "boss", Reason: "it was grown"})
	if err != nil {
		t.Fatal(err)
	}
	h.until("one", "in service", phase(protocol.InService))
	h.content("one/a", 1)
}

// TestADiskAttachedBehindTenonsBackBlocks: nobody registered it, so it is named
// with where it lies, until it is gone.
//
// Cases: E53
func TestADiskAttachedBehindTenonsBackBlocks(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	h.addDir("one")
	h.create("one/a", 1)
	path := filepath.Join(h.w.folder, "images", "one", "stray.img")
	if err := os.WriteFile(path, pattern(1, volumeSize), 0o600); err != nil {
		t.Fatal(err)
	}
	h.w.host.AddForeignDisk(h.w.domain, "vdz", hypervisor.Source{Form: primitives.FormFile, Path: path, Format: primitives.FormatRaw})
	h.prepare("one", protocol.Intent{ID: "m1"})
	m := h.until("one", "blocked", phase(protocol.Blocked))
	if len(m.Foreign) != 1 || !strings.Contains(m.Foreign[0].Name, "vdz of domain guest") || m.Foreign[0].Path != path {
		t.Errorf("foreign = %+v, want vdz of the guest with %s", m.Foreign, path)
	}
	h.w.host.RemoveDisk(h.w.domain, "vdz")
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.end("one")
}

// Cases: E75, E76
func TestADomainWithADiskInAGatedDeviceMayNotComeHere(t *testing.T) {
	h := boot(t, newWorld(t), -1)
	defer h.bury()
	h.addDir("one")
	h.addDir("two")
	h.create("one/a", 1)
	h.attach("one/a")
	h.prepare("one", protocol.Intent{ID: "m1", Policy: asking()})
	images := filepath.Join(h.w.folder, "images")
	for what, c := range map[string]struct {
		source  string
		refused bool
	}{
		"a path in it":     {filepath.Join(images, "one", "data", "x.raw"), true},
		"a volume of it":   {"one/x", true},
		"its URI":          {"tenon://one/x", true},
		"another device":   {filepath.Join(images, "two", "x"), false},
		"another's volume": {"two/x", false},
		"a like name":      {filepath.Join(images, "one-more", "x"), false},
		"none of tenon's":  {"/var/lib/libvirt/images/x.qcow2", false},
	} {
		err := h.upkeep.AdmitDomain(t.Context(), maintenance.AdmitDomainRequest{
			Domain: "11111111-2222-3333-4444-555555555555", Name: "comer", Sources: []string{c.source}, Incoming: true,
		})
		if !c.refused && err != nil {
			t.Errorf("%s: %v, want admitted", what, err)
		}
		if c.refused {
			h.refuses(what, err, primitives.CodeConflict, "m1")
		}
	}
}

// Cases: E43
func TestAFencedDeviceStaysFencedOverARestart(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	h.addDir("one")
	h.create("one/a", 1)
	h.prepare("one", protocol.Intent{ID: "m1"})
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.bury()
	w.boot = "second boot"
	h = boot(t, w, -1)
	defer h.bury()
	h.idle("one")
	m, err := h.upkeep.Get(t.Context(), "one")
	if err != nil || m.Phase != protocol.InMaintenance || m.Gate != protocol.GateFenced {
		t.Errorf("after a restart it is %+v, %v; want in maintenance and fenced", m, err)
	}
	h.refuses("create", h.tries(volume.KindCreate, volume.CreateArgs{URI: uri("one/b"), Size: volumeSize}), primitives.CodeFenced, "m1")
	h.end("one")
	h.content("one/a", 1)
}

// A device that cannot fence says so, and its maintenance waits for a person.
func TestADriverThatCannotFenceSaysSo(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	defer h.bury()
	h.r.unfenceable.Store(true)
	h.addMem("one", "one", nil)
	h.prepare("one", protocol.Intent{ID: "m1"})
	m := h.until("one", "waiting for its fence", func(m maintenance.Maintenance) bool { return m.Failure != "" })
	if !strings.Contains(m.Failure, "cannot fence") || m.Phase == protocol.InMaintenance {
		t.Errorf("it is %+v, want it to say that it cannot be fenced", m)
	}
	_, err := h.upkeep.Override(t.Context(), maintenance.OverrideRequest{Device: "one", Subject: h.journal.HostID(), Permission: "boss"})
	if err != nil {
		t.Fatal(err)
	}
	h.until("one", "in maintenance", phase(protocol.InMaintenance))
	h.end("one")
	h.until("one", "open again", func(m maintenance.Maintenance) bool { return m.Gate == protocol.GateOpen })
	h.create("one/a", 1)
}
