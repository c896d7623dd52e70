// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/agent/transfer"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/mem"
)

// open returns a house with a volume one/a that holds pattern 1.
func open(t *testing.T) *house {
	t.Helper()
	h := boot(t, newWorld(t), -1)
	t.Cleanup(h.bury)
	oneVolume(h)
	return h
}

// try runs an operation to its end and returns its error.
func (h *house) try(kind string, args any) error {
	op, err := h.engine.Start(h.t.Context(), operation.Request{Kind: kind, Args: args})
	if err == nil {
		op, err = h.engine.Wait(h.t.Context(), op.ID)
	}
	if err == nil {
		err = op.Err()
	}
	return err
}

// wants fails unless err has the code and its text names all of these.
func wants(t *testing.T, err error, code primitives.Code, naming ...string) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("error = %v, want %v", err, code)
		return
	}
	for _, name := range naming {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("error = %v, want it to name %q", err, name)
		}
	}
}

func (h *house) reconcile() {
	h.t.Helper()
	if err := h.disks.Reconcile(h.t.Context()); err != nil {
		h.t.Error(err)
	}
}

func (h *house) uses() int {
	h.t.Helper()
	uses, err := h.disks.Uses("")
	if err != nil {
		h.t.Fatal(err)
	}
	return len(uses)
}

func (h *house) mappings(dev string) []primitives.Mapping {
	h.t.Helper()
	d, err := h.devices.Device(dev)
	if err != nil {
		h.t.Fatal(err)
	}
	all, err := d.Facets().Map.Mappings(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

func TestWrongAttachRequestsBeginNothing(t *testing.T) {
	h := open(t)
	for name, c := range map[string]struct {
		args attach.AttachArgs
		code primitives.Code
	}{
		"unknown device":  {attach.AttachArgs{URI: uri("none/a"), Domain: "guest"}, primitives.CodeNotFound},
		"unknown domain":  {attach.AttachArgs{URI: uri("one/a"), Domain: "nobody"}, primitives.CodeNotFound},
		"no domain":       {attach.AttachArgs{URI: uri("one/a")}, primitives.CodeInvalid},
		"a device's name": {attach.AttachArgs{URI: primitives.URI{Device: "one"}, Domain: "guest"}, primitives.CodeInvalid},
		"an odd name":     {attach.AttachArgs{URI: primitives.URI{Device: "one", Volume: "../x"}, Domain: "guest"}, primitives.CodeInvalid},
		"an unknown bus":  {attach.AttachArgs{URI: uri("one/a"), Domain: "guest", Bus: "isa"}, primitives.CodeInvalid},
	} {
		if _, err := h.engine.Start(t.Context(), operation.Request{Kind: attach.KindAttach, Args: c.args}); !errors.Is(err, c.code) {
			t.Errorf("%s: Start = %v, want %v", name, err, c.code)
		}
	}
	wants(t, h.try(attach.KindAttach, attach.AttachArgs{URI: uri("one/none"), Domain: "guest"}), primitives.CodeNotFound, "one/none")
	h.sound(0)
}

func TestSecondWriterIsRefusedAndNamesTheFirst(t *testing.T) {
	h := open(t)
	disk := h.attach("one/a")
	h.w.host.Add("other", fake.Options{})
	for _, ro := range []bool{false, true} {
		wants(t, h.try(attach.KindAttach, attach.AttachArgs{URI: uri("one/a"), Domain: "other", ReadOnly: ro}), primitives.CodeInUse, string(disk.ID))
	}
	h.sound(0)
}

func TestReadersShareAVolume(t *testing.T) {
	h := open(t)
	h.w.host.Add("other", fake.Options{})
	for _, domain := range []string{"guest", "other"} {
		h.run(attach.KindAttach, attach.AttachArgs{URI: uri("one/a"), Domain: domain, ReadOnly: true})
	}
	if h.uses() != 2 || len(h.mappings("one")) != 2 {
		t.Errorf("%d uses, %d mappings; want two each", h.uses(), len(h.mappings("one")))
	}
}

// TestOfTwoClientsOneWins lets many ask at once for the same and for the
// opposite: one gets what it wants, the others are told why not.
func TestOfTwoClientsOneWins(t *testing.T) {
	h := open(t)
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() {
			if i%2 == 0 {
				errs[i] = h.try(attach.KindAttach, attach.AttachArgs{URI: uri("one/a"), Domain: "guest"})
				return
			}
			errs[i] = h.try(volume.KindDelink, volume.DelinkArgs{URI: uri("one/a")})
		})
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, primitives.CodeConflict) && !errors.Is(err, primitives.CodeInUse) && !errors.Is(err, primitives.CodeNotFound):
			t.Errorf("a loser got %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d requests won, want one", won, len(errs))
	}
	h.sound(-1)
}

func TestDetachThatTheGuestIgnoresFailsAndTheUseStays(t *testing.T) {
	h := open(t)
	disk := h.attach("one/a")
	hear := h.w.host.Deafen(h.w.domain)
	err := h.try(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: disk.ID, Timeout: 50 * time.Millisecond})
	wants(t, err, primitives.CodeUnavailable)
	h.reconcile()
	if h.uses() != 1 || len(h.mappings("one")) != 1 {
		t.Fatalf("%d uses, %d mappings; want both kept", h.uses(), len(h.mappings("one")))
	}
	wants(t, h.try(volume.KindDelink, volume.DelinkArgs{URI: uri("one/a")}), primitives.CodeInUse)
	hear() // the guest lets go at last
	if err := h.try(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: disk.ID}); err != nil {
		t.Errorf("detach again = %v", err)
	}
	h.diskCount(0)
	h.sound(0)
}

func TestDetachThatTheGuestRefusesIsInUse(t *testing.T) {
	h := open(t)
	disk := h.attach("one/a")
	relent := h.w.host.Refuse(h.w.domain)
	defer relent()
	wants(t, h.try(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: disk.ID}), primitives.CodeInUse)
	h.sound(0)
	h.diskCount(1)
}

func TestCancelledDetachLeavesTheDiskInUse(t *testing.T) {
	h := open(t)
	disk := h.attach("one/a")
	defer h.w.host.Deafen(h.w.domain)()
	op, err := h.engine.Start(t.Context(), operation.Request{Kind: attach.KindDetach, Args: attach.DetachArgs{Domain: "guest", Disk: disk.ID}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.engine.Cancel(t.Context(), op.ID); err != nil {
		t.Fatal(err)
	}
	op, err = h.engine.Wait(t.Context(), op.ID)
	if err != nil || op.State != operation.Cancelled {
		t.Errorf("operation = %s, %v", op.State, err)
	}
	if h.uses() != 1 {
		t.Errorf("%d uses, want the disk's", h.uses())
	}
}

// TestDiskThatLeavesByItselfIsNoticed is a late detach, a domain that ended, and
// somebody who used the hypervisor's own tools.
func TestDiskThatLeavesByItselfIsNoticed(t *testing.T) {
	for name, leave := range map[string]func(h *house, d hypervisor.DiskID){
		"late": func(h *house, d hypervisor.DiskID) {
			hear := h.w.host.Deafen(h.w.domain)
			_ = h.try(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: d, Timeout: 20 * time.Millisecond})
			hear()
			h.w.host.Drop(h.w.domain, d)
		},
		"behind our back": func(h *house, d hypervisor.DiskID) { h.w.host.Drop(h.w.domain, d) },
		"domain removed":  func(h *house, _ hypervisor.DiskID) { h.w.host.Remove(h.w.domain) },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			leave(h, h.attach("one/a").ID)
			h.reconcile()
			if h.uses() != 0 || len(h.mappings("one")) != 0 {
				t.Errorf("%d uses, %d mappings; want none", h.uses(), len(h.mappings("one")))
			}
			if err := h.try(volume.KindDelink, volume.DelinkArgs{URI: uri("one/a")}); err != nil {
				t.Errorf("delink = %v", err)
			}
		})
	}
}

func TestDomainThatIsOffKeepsItsDisk(t *testing.T) {
	h := open(t)
	h.attach("one/a")
	h.w.host.Kill(h.w.domain)
	h.reconcile()
	if h.uses() != 1 {
		t.Errorf("%d uses, want that of the definition's disk", h.uses())
	}
}

func TestMappingsAreMadeAgainAfterAReboot(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	oneVolume(h)
	h.attach("one/a")
	h.bury()
	w.host.Kill(w.domain)
	w.boot = "next boot"
	h = boot(t, w, -1)
	defer h.bury()
	if len(h.mappings("one")) != 0 {
		t.Fatal("mappings outlived the reboot")
	}
	h.reconcile()
	h.sound(0)
}

func TestHypervisorThatIsAwayChangesNothing(t *testing.T) {
	h := open(t)
	h.attach("one/a")
	back := h.w.host.Leave("gone fishing")
	h.reconcile()
	if h.uses() != 1 || len(h.mappings("one")) != 1 {
		t.Errorf("%d uses, %d mappings; want both kept", h.uses(), len(h.mappings("one")))
	}
	h.run(volume.KindCreate, volume.CreateArgs{URI: uri("one/b"), Size: volumeSize})
	wants(t, h.try(attach.KindAttach, attach.AttachArgs{URI: uri("one/b"), Domain: "guest"}), primitives.CodeUnavailable)
	back()
	h.sound(0)
}

// TestNameThatGoesToAnotherDomainIsNoticed renames domains between two attaches.
func TestNameThatGoesToAnotherDomainIsNoticed(t *testing.T) {
	h := open(t)
	h.attach("one/a") // from here on "guest" is remembered
	h.run(volume.KindCreate, volume.CreateArgs{URI: uri("one/b"), Size: volumeSize})
	h.w.host.Remove(h.w.domain)
	h.w.host.Define("guest", "11111111-2222-4333-8444-555555555555", fake.DomainOptions{Running: true, Persistent: true})
	wants(t, h.try(attach.KindAttach, attach.AttachArgs{URI: uri("one/b"), Domain: "guest"}), primitives.CodeConflict)
	if err := h.try(attach.KindAttach, attach.AttachArgs{URI: uri("one/b"), Domain: "guest"}); err != nil {
		t.Errorf("the repeat = %v", err)
	}
}

func TestOrphanedMappingsGoAndForeignOnesStay(t *testing.T) {
	h := open(t)
	d, err := h.devices.Device("one")
	if err != nil {
		t.Fatal(err)
	}
	for _, consumer := range []string{"disk-tlost", "somebody else"} {
		m, err := d.Facets().Map.Map(t.Context(), uri("one/a"), primitives.MapRequest{Access: primitives.ReadOnly, Consumer: consumer})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Facets().Map.Activate(t.Context(), m.ID, primitives.Op{}); err != nil {
			t.Fatal(err)
		}
	}
	h.reconcile()
	if left := h.mappings("one"); len(left) != 1 || left[0].Consumer != "somebody else" {
		t.Errorf("mappings = %+v, want the foreign one only", left)
	}
}

func TestLostRecordIsWrittenAgain(t *testing.T) {
	h := open(t)
	disk := h.attach("one/a")
	if err := h.journal.Update(func(tx *journal.Tx) error { return tx.DeleteUse(disk.Use) }); err != nil {
		t.Fatal(err)
	}
	h.reconcile()
	h.sound(0)
	if err := h.try(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: disk.ID}); err != nil {
		t.Error(err)
	}
}

func TestWatchWakesTheReconciler(t *testing.T) {
	h := open(t)
	disk := h.attach("one/a")
	h.disks.Start()
	defer h.disks.Stop()
	h.w.host.Drop(h.w.domain, disk.ID)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); h.uses() != 0; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("nobody noticed")
		}
	}
}

func TestDeviceWithUsesIsNotRemoved(t *testing.T) {
	h := open(t)
	disk := h.attach("one/a")
	wants(t, h.try(device.KindRemove, device.RemoveArgs{Name: "one"}), primitives.CodeInUse, string(disk.ID))
	h.run(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: disk.ID})
	h.run(device.KindRemove, device.RemoveArgs{Name: "one"})
	h.noDevice("one")
	h.addMem("one", "one", nil) // and everything on it is there
	h.content("one/a", 1)
}

func TestFreezeThatFailsIsToldAndTheSnapshotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(h *house)
		level snapshot.Level
		note  string
	}{
		"it works":      {func(*house) {}, snapshot.Frozen, ""},
		"agent refuses": {func(h *house) { h.w.host.Intercept(refusing("Freeze")) }, snapshot.CrashConsistent, "did not freeze"},
		"domain is off": {func(h *house) { h.w.host.Kill(h.w.domain) }, snapshot.CrashConsistent, "off"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.attach("one/a")
			c.spoil(h)
			set := result[snapshot.Set](t, h.run(snapshot.KindCreate, snapshot.CreateArgs{Domain: "guest", Name: "s", Freeze: true}))
			if set.Level != c.level || !strings.Contains(set.Note, c.note) || (c.note == "") != (set.Note == "") {
				t.Errorf("level %q, note %q; want %q, %q", set.Level, set.Note, c.level, c.note)
			}
			h.content("one/a@s", 1)
		})
	}
}

func TestSnapshotOfSeveralDevicesWithoutFreezeSaysSo(t *testing.T) {
	h := open(t)
	h.addMem("two", "two", nil)
	h.create("two/b", 2)
	h.attach("one/a")
	h.attach("two/b")
	set := result[snapshot.Set](t, h.run(snapshot.KindCreate, snapshot.CreateArgs{Domain: "guest", Name: "s"}))
	if set.Level != snapshot.PerGroup || len(set.Groups) != 2 {
		t.Errorf("set = %+v, want two groups and no word of one moment", set)
	}
}

// E156, E157
func TestHypervisorsOwnSnapshotStandsInTheWay(t *testing.T) {
	h := open(t)
	h.run(snapshot.KindCreate, snapshot.CreateArgs{URIs: []primitives.URI{uri("one/a")}, Name: "old"})
	disk := h.attach("one/a")
	a := h.w.host.Open()
	defer a.Close()
	if _, err := a.Facets().Snapshot.CreateSnapshot(t.Context(), h.w.domain, "theirs"); err != nil {
		t.Fatal(err)
	}
	wants(t, h.try(snapshot.KindCreate, snapshot.CreateArgs{Domain: "guest", Name: "s"}), primitives.CodeInUse, "theirs", string(disk.ID))
	wants(t, h.try(snapshot.KindRevert, snapshot.RevertArgs{URI: uri("one/a@old")}), primitives.CodeInUse, "theirs", string(disk.ID))
}

func TestRevertBeneathADiskIsRefused(t *testing.T) {
	h := open(t)
	h.run(snapshot.KindCreate, snapshot.CreateArgs{URIs: []primitives.URI{uri("one/a")}, Name: "s"})
	disk := h.attach("one/a")
	wants(t, h.try(snapshot.KindRevert, snapshot.RevertArgs{URI: uri("one/a@s")}), primitives.CodeInUse, string(disk.ID))
}

func refusing(call string) func(string, fake.Point) error {
	return func(c string, at fake.Point) error {
		if c == call && at == fake.Before {
			return primitives.Errorf(primitives.CodeUnavailable, "no")
		}
		return nil
	}
}

func TestDeadDeviceDelaysNobody(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	oneVolume(h)
	h.addMem("two", "two", nil)
	h.bury()
	clear := w.mem.Fault("two", mem.Fault{Op: "open", Dead: true})
	defer clear()
	w.hasty = true
	h = boot(t, w, -1)
	defer h.bury()
	h.content("one/a", 1)
	s, err := h.devices.Get("two")
	if err != nil || s.State == device.Open {
		t.Fatalf("two is %s, %v", s.State, err)
	}
	wants(t, h.try(volume.KindCreate, volume.CreateArgs{URI: uri("two/x"), Size: volumeSize}), primitives.CodeUnavailable, "two")
	clear()
	if s, err = h.devices.Check(t.Context(), "two"); err != nil || s.State != device.Open {
		t.Errorf("after it came back two is %s, %v", s.State, err)
	}
	h.run(volume.KindCreate, volume.CreateArgs{URI: uri("two/x"), Size: volumeSize})
}

// TestDeviceThatDiesInTheMiddleLeavesNothing lets the target's device fail, and
// the clean-up with it.
func TestDeviceThatDiesInTheMiddleLeavesNothing(t *testing.T) {
	for name, request := range map[string]struct {
		kind string
		args any
	}{
		"create": {volume.KindCreate, volume.CreateArgs{URI: uri("two/b"), Size: volumeSize}},
		"copy":   {transfer.KindCopy, transfer.CopyArgs{From: uri("one/a"), To: uri("two/b")}},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.addMem("two", "two", nil)
			// The store dies with the writer open, as when a connection is lost.
			clear := h.w.mem.Fault("two", mem.Fault{Op: "commit", Crash: true, Times: 1})
			defer clear()
			wants(t, h.try(request.kind, request.args), primitives.CodeUnavailable)
			if _, err := h.devices.Check(t.Context(), "two"); err != nil { // opens it anew
				t.Fatal(err)
			}
			h.engine.RetryLeft()
			h.waitForLeft()
			h.absent("two/b")
			h.sound(0)
		})
	}
}

// waitForLeft waits until nothing is left to take back.
func (h *house) waitForLeft() {
	h.t.Helper()
	ops, err := h.engine.List(h.t.Context(), operation.Filter{})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, op := range ops {
		if op.Note == "" {
			continue
		}
		if op, err = h.engine.Wait(h.t.Context(), op.ID); err != nil || op.Note != "" {
			h.t.Fatalf("operation %s left %q, %v", op.Kind, op.Note, err)
		}
	}
}

func TestUnmountedDirectoryIsNoticedAndNotFilled(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	h.addDir("files")
	h.create("files/v", 1)
	h.bury()
	path := filepath.Join(w.folder, "images", "files")
	rename(t, path, path+".away")
	mkdir(t, path)
	h = boot(t, w, -1)
	s, err := h.devices.Get("files")
	if err != nil || s.State != device.Unreachable || s.Failure == nil || s.Failure.Try == "" {
		t.Errorf("status = %+v, %v; want unreachable, with advice", s, err)
	}
	h.bury()
	empty(t, path)
	remove(t, path)
	rename(t, path+".away", path)
	h = boot(t, w, -1)
	defer h.bury()
	h.content("files/v", 1)
}

func TestSecretsAreNowhereButInTheirFile(t *testing.T) {
	w := newWorld(t)
	h := boot(t, w, -1)
	const canary, second = "canary-4711", "canary-4712"
	spec := device.Spec{
		Name: "new", Driver: mem.Name, Props: primitives.Props{"store": "new"},
		Secrets: primitives.NewSecrets(map[string][]byte{"token": []byte(canary)}),
	}
	h.wait(h.devices.Add(t.Context(), spec, device.Origin{RequestID: "r"}))
	h.wait(h.devices.Add(t.Context(), spec, device.Origin{RequestID: "r"})) // the same request
	spec.Secrets = primitives.NewSecrets(map[string][]byte{"token": []byte(second)})
	if _, err := h.devices.Add(t.Context(), spec, device.Origin{RequestID: "r"}); !errors.Is(err, primitives.CodeConflict) {
		t.Errorf("the same request with another secret = %v, want conflict", err)
	}
	// The store was closed with the first token, so the driver refuses another.
	op, err := h.devices.Update(t.Context(), device.Edit{Name: "new", Secrets: spec.Secrets}, device.Origin{})
	if err == nil {
		op, err = h.engine.Wait(t.Context(), op.ID)
	}
	if err == nil {
		err = op.Err()
	}
	wants(t, err, primitives.CodeInvalid, "token")
	s, err := h.devices.Get("new")
	if err != nil || strings.Join(s.Secrets, ",") != "token" {
		t.Errorf("secrets = %v, %v", s.Secrets, err)
	}
	h.sound(0)
	h.bury()
	h = boot(t, w, -1)
	defer h.bury()
	h.create("new/v", 1) // it opens with its secret
	for _, text := range filesHolding(t, w.folder, canary, second) {
		if !strings.Contains(text, "/state/secrets/new.") {
			t.Errorf("a secret is in %s", text)
		}
	}
}
