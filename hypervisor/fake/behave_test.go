// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"context"
	"encoding/binary"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/primitives"
)

func TestADetachThatWasGivenUpHappensWhenTheGuestHears(t *testing.T) {
	m := rawFile(t, "d", 1<<20)
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		a := h.Adapter()
		attach(t, a, onID, "d", m)
		hear := h.Deafen(onID)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := a.Detach(ctx, onID, "d")
		wants(t, "Detach", err, primitives.CodeUnavailable)
		a.Close()
		if got := h.Disks(onID)[0]; !got.Live || !got.Detaching {
			t.Errorf("the disk is shown as %+v, want leaving", got)
		}
		hear()
		if got := h.Disks(onID)[0]; got.Live || !got.Config {
			t.Errorf("the disk is shown as %+v, want it in the definition only", got)
		}
		res, err := h.Adapter().Detach(t.Context(), onID, "d")
		if err != nil || res.Live != hypervisor.Already || res.Config != hypervisor.Done {
			t.Errorf("Detach again = %+v, %v", res, err)
		}
	})
}

func TestAStalledDomainDoesLateWhatItWasAsked(t *testing.T) {
	m := rawFile(t, "d", 1<<20)
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		a := h.Adapter()
		resume := h.Stall(onID)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := a.Attach(ctx, hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: m})
		wants(t, "Attach", err, primitives.CodeUnavailable)
		has(t, h, onID)
		resume()
		has(t, h, onID, "d")
	})
}

func TestAPausedGuestLetsGoWhenItRuns(t *testing.T) {
	m := rawFile(t, "d", 1<<20)
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		a := h.Adapter()
		attach(t, a, onID, "d", m)
		resume := h.Pause(onID)
		done := make(chan error)
		go func() {
			_, err := a.Detach(t.Context(), onID, "d")
			done <- err
		}()
		synctest.Wait()
		has(t, h, onID, "d")
		resume()
		if err := <-done; err != nil {
			t.Errorf("Detach = %v", err)
		}
		has(t, h, onID)
	})
}

func TestADeafGuestIsNotShutDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		hear := h.Deafen(onID)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		wants(t, "Shutdown", h.Adapter().Shutdown(ctx, onID), primitives.CodeUnavailable)
		hear() // it was asked, and does it now
		if err := h.Adapter().Shutdown(t.Context(), onID); err != nil {
			t.Errorf("Shutdown = %v", err)
		}
		domains, _ := h.Adapter().Domains(t.Context())
		if got := domains[1].State; got != hypervisor.StateOff {
			t.Errorf("the domain is %v", got)
		}
	})
}

func TestAnAgentThatDiesDuringAFreezeLeavesTheGuestFrozen(t *testing.T) {
	h := newHost()
	a := h.Adapter()
	report, err := a.Freeze(t.Context(), onID, time.Minute, func(context.Context) error {
		if !h.Frozen(onID) {
			t.Error("the guest is not frozen")
		}
		return a.Close()
	})
	if err != nil || report.ThawErr == nil || !h.Frozen(onID) {
		t.Errorf("Freeze = %+v, %v; frozen %v", report, err, h.Frozen(onID))
	}
	next := h.Adapter()
	if err := next.Thaw(t.Context(), onID); err != nil || h.Frozen(onID) {
		t.Errorf("Thaw = %v; frozen %v", err, h.Frozen(onID))
	}
	if h.Freezes() != 1 {
		t.Errorf("Freezes = %d, want 1", h.Freezes())
	}
}

func TestATransientDomainEndsWithItsDisks(t *testing.T) {
	h := fake.NewHost()
	h.Define("t", onID, fake.DomainOptions{Running: true})
	a := h.Adapter()
	attach(t, a, onID, "d", rawFile(t, "d", 1<<20))
	h.Stop(onID)
	_, err := a.Disks(t.Context(), onID)
	wants(t, "Disks", err, primitives.CodeNotFound)
	has(t, h, onID)
}

func TestAnImageBelowAnotherDiskCannotBeWritten(t *testing.T) {
	h := newHost()
	base := rawFile(t, "base", 1<<20)
	if err := h.Start(offID); err != nil {
		t.Fatal(err)
	}
	attach(t, h.Adapter(), onID, "top", overlay(t, base))
	_, err := h.Adapter().Attach(t.Context(), hypervisor.AttachRequest{Domain: offID, Disk: "base", Mapping: base})
	wants(t, "Attach of the base", err, primitives.CodeInUse)
	base.Access = primitives.ReadOnly
	attach(t, h.Adapter(), offID, "base", base)
}

func TestADomainDoesNotStartWithoutItsImages(t *testing.T) {
	h := newHost()
	m := rawFile(t, "d", 1<<20)
	attach(t, h.Adapter(), offID, "d", m)
	if err := os.Remove(m.File.Path); err != nil {
		t.Fatal(err)
	}
	wants(t, "Start", h.Adapter().Start(t.Context(), offID), primitives.CodeNotFound)
	wants(t, "Host.Start", h.Start(offID), primitives.CodeNotFound)
}

func TestDisksOfOthersComeChangeAndGo(t *testing.T) {
	h := newHost()
	m := rawFile(t, "theirs", 1<<20)
	h.AddForeignDisk(onID, "vda", hypervisor.Source{Form: primitives.FormFile, Path: m.File.Path, Format: primitives.FormatRaw})
	got, err := h.Adapter().Disks(t.Context(), onID)
	if err != nil || len(got) != 1 || got[0].ID != "" || got[0].Target != "vda" || !got[0].Live || !got[0].Config {
		t.Fatalf("Disks = %+v, %v", got, err)
	}
	_, err = h.Adapter().Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: m})
	wants(t, "Attach of their image", err, primitives.CodeInUse)
	h.AddForeignDisk(onID, "vda", hypervisor.Source{Form: primitives.FormFile, Path: "/elsewhere", Format: primitives.FormatRaw})
	attach(t, h.Adapter(), onID, "d", m)
	if got := h.Disks(onID); len(got) != 2 || got[0].Source.Path != "/elsewhere" || got[1].Target != "vdb" {
		t.Errorf("Disks = %+v", got)
	}
	h.RemoveDisk(onID, "vda")
	h.Drop(onID, "d")
	has(t, h, onID)
}

func TestAJobHoldsItsDisk(t *testing.T) {
	h := newHost()
	a := h.Adapter()
	m := rawFile(t, "d", 1<<20)
	attach(t, a, onID, "d", m)
	h.SetJob(onID, "vda", "copy")
	_, err := a.Detach(t.Context(), onID, "d")
	wants(t, "Detach", err, primitives.CodeInUse)
	wants(t, "Switch", a.Switch(t.Context(), onID, []hypervisor.DiskSwitch{{Disk: "d", To: overlay(t, m)}}), primitives.CodeInUse)
	h.SetJob(onID, "vda", "")
	if _, err := a.Detach(t.Context(), onID, "d"); err != nil {
		t.Errorf("Detach after the job = %v", err)
	}
}

func TestAResizeGrowsTheFile(t *testing.T) {
	h := newHost()
	a := h.Adapter()
	raw := rawFile(t, "raw", 1<<20)
	qcow2 := rawFile(t, "qcow2", 1<<16)
	qcow2.File.Format, qcow2.Size = primitives.FormatQcow2, 1<<20
	header := make([]byte, 104)
	copy(header, "QFI\xfb\x00\x00\x00\x03")
	header[23] = 16                                // cluster bits
	binary.BigEndian.PutUint64(header[24:], 1<<20) // size
	binary.BigEndian.PutUint32(header[36:], 1)     // entries of the table: 512 MiB
	if err := os.WriteFile(qcow2.File.Path, header, 0o600); err != nil {
		t.Fatal(err)
	}
	attach(t, a, onID, "raw", raw)
	attach(t, a, onID, "qcow2", qcow2)
	for _, id := range []hypervisor.DiskID{"raw", "qcow2"} {
		if err := a.ResizeDisk(t.Context(), onID, id, 2<<20); err != nil {
			t.Errorf("ResizeDisk(%s) = %v", id, err)
		}
		if got := h.Size(onID, id); got != 2<<20 {
			t.Errorf("the guest sees %d bytes of %s", got, id)
		}
	}
	if info, err := os.Stat(raw.File.Path); err != nil || info.Size() != 2<<20 {
		t.Errorf("the raw file has %v bytes, %v", info.Size(), err)
	}
	content, err := os.ReadFile(qcow2.File.Path)
	if err != nil || binary.BigEndian.Uint64(content[24:]) != 2<<20 {
		t.Errorf("the qcow2 file's header is %x, %v", content, err)
	}
	wants(t, "ResizeDisk beyond the table", a.ResizeDisk(t.Context(), onID, "qcow2", 1<<30), primitives.CodeInternal)
}

func TestOnlyADomainThatReconnectsMovesAndGrowsNetworkDisks(t *testing.T) {
	at := func(socket string) primitives.Mapping {
		return primitives.Mapping{
			Form: primitives.FormNetwork, Access: primitives.ReadWrite, Size: 1 << 20, Handle: "volume",
			Network: &primitives.NetworkMap{Protocol: "nbd", Export: "x", Socket: rawFile(t, socket, 0).File.Path},
		}
	}
	for name, reconnects := range map[string]bool{"reconnects": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			h := fake.NewHost()
			h.Define("d", onID, fake.DomainOptions{Running: true, Persistent: true, Reconnects: reconnects})
			a := h.Adapter()
			first, second, other := at("1"), at("2"), at("3")
			other.Handle = "another volume"
			attach(t, a, onID, "d", first)
			wants(t, "Switch to another volume", a.Switch(t.Context(), onID, []hypervisor.DiskSwitch{{Disk: "d", To: other}}), primitives.CodeUnsupported)
			for what, err := range map[string]error{
				"Switch":     a.Switch(t.Context(), onID, []hypervisor.DiskSwitch{{Disk: "d", To: second}}),
				"ResizeDisk": a.ResizeDisk(t.Context(), onID, "d", 2<<20),
			} {
				if reconnects && err != nil {
					t.Errorf("%s = %v", what, err)
				}
				if !reconnects {
					wants(t, what, err, primitives.CodeUnsupported)
				}
			}
		})
	}
}

func TestAnAbsentHypervisorIsUnavailableAndWakesItsWatchersWhenItIsBack(t *testing.T) {
	h := newHost()
	a := h.Adapter()
	back := h.Leave("its daemon was stopped")
	_, err := a.Domains(t.Context())
	wants(t, "Domains", err, primitives.CodeUnavailable)
	if info := a.Info(t.Context()); info.Connected || info.Note == "" {
		t.Errorf("Info = %+v, want not connected and why", info)
	}
	ctx, cancel := context.WithCancel(t.Context())
	wakes, done := make(chan hypervisor.DomainID, 10), make(chan error, 1)
	go func() { done <- a.Watch(ctx, func(d hypervisor.DomainID) { wakes <- d }) }()
	h.Kill(onID)
	select {
	case d := <-wakes:
		t.Errorf("a wake for %q from an absent hypervisor", d)
	default:
	}
	back()
	if got := <-wakes; got != "" {
		t.Errorf("the first wake is for %q, want any", got)
	}
	cancel()
	<-done
}
