// SPDX-License-Identifier: Apache-2.0

package kvm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/fake"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// bad days, in a bubble where minutes pass at once.
func inBubble(t *testing.T, run func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter)) {
	synctest.Test(t, func(t *testing.T) {
		l := newFake(t)
		run(t, l, newAdapter(t, l, kvm.Options{}))
	})
}

func attach(t *testing.T, a *kvm.Adapter, id hypervisor.DiskID) hypervisor.AttachRequest {
	t.Helper()
	r := hypervisor.AttachRequest{Domain: onID, Disk: id, Mapping: fileMapping("/img/"+string(id), "raw")}
	if res, err := a.Attach(t.Context(), r); err != nil || res.ConfigErr != nil {
		t.Fatalf("Attach(%s) = %+v, %v", id, res, err)
	}
	return r
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func shown(t *testing.T, a *kvm.Adapter, id hypervisor.DiskID) hypervisor.Disk {
	t.Helper()
	disks, err := a.Disks(t.Context(), onID)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		if d.ID == id {
			return d
		}
	}
	return hypervisor.Disk{}
}

func wantCode(t *testing.T, what string, err error, want primitives.Code) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s = %v, want %v", what, err, want)
	}
}

func TestALostEventCostsADetachTimeAndNothingElse(t *testing.T) { // C3.20
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		attach(t, a, "d")
		l.Behave(onID, fake.Manners{LoseEvents: true, Delay: time.Second})
		start := time.Now()
		if res, err := a.Detach(t.Context(), onID, "d"); err != nil || res.Live != hypervisor.Done {
			t.Fatalf("Detach = %+v, %v", res, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("Detach took %v", took)
		}
	})
}

// Cases: E94
func TestNewsThatComesBeforeTheDetachCallReturnsIsHeard(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		attach(t, a, "d")
		l.Behave(onID, fake.Manners{Early: true, Refuses: true})
		start := time.Now()
		_, err := a.Detach(t.Context(), onID, "d")
		wantCode(t, "Detach", err, primitives.CodeInUse)
		l.Behave(onID, fake.Manners{Early: true})
		if res, err := a.Detach(t.Context(), onID, "d"); err != nil || res.Live != hypervisor.Done {
			t.Errorf("Detach = %+v, %v", res, err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("both took %v: the news was missed", took)
		}
	})
}

func TestADetachAsksAgainUntilTheGuestHears(t *testing.T) { // E91
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		attach(t, a, "d")
		l.Behave(onID, fake.Manners{Deaf: true})
		time.AfterFunc(time.Minute, func() { l.Forget(onID); l.Behave(onID, fake.Manners{}) })
		if _, err := a.Detach(within(t, 2*time.Minute), onID, "d"); err != nil {
			t.Errorf("Detach = %v", err)
		}
	})
}

func TestALateRefusalOfAnEarlierDetachEndsNoLaterOne(t *testing.T) { // E95, C3.2
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		attach(t, a, "d")
		l.Behave(onID, fake.Manners{Deaf: true})
		_, err := a.Detach(within(t, time.Second), onID, "d")
		wantCode(t, "Detach", err, primitives.CodeUnavailable)
		alias := l.Alias(onID, "d")
		l.Behave(onID, fake.Manners{}) // it hears, and the disk goes
		synctest.Wait()
		if got := shown(t, a, "d"); got.Live || got.Detaching {
			t.Fatalf("the disk is shown as %+v", got)
		}
		attach(t, a, "d")
		l.Emit(virt.Event{Kind: virt.RemovalFailed, Domain: onID, Device: alias})
		synctest.Wait()
		if got := shown(t, a, "d"); !got.Live || got.Detaching {
			t.Errorf("after late news of the earlier disk, the new one is shown as %+v", got)
		}
		l.Behave(onID, fake.Manners{Delay: time.Second})
		time.AfterFunc(time.Second/2, func() { l.Emit(virt.Event{Kind: virt.RemovalFailed, Domain: onID, Device: alias}) })
		if _, err := a.Detach(t.Context(), onID, "d"); err != nil {
			t.Errorf("Detach of the new disk = %v", err)
		}
	})
}

func TestTheDefinitionKeepsTheDiskWhileTheGuestDoes(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		attach(t, a, "d")
		l.Behave(onID, fake.Manners{Refuses: true})
		_, err := a.Detach(t.Context(), onID, "d")
		wantCode(t, "Detach", err, primitives.CodeInUse)
		if got := shown(t, a, "d"); !got.Live || !got.Config {
			t.Errorf("the disk is shown as %+v, want it in both halves", got)
		}
	})
}

func TestADomainThatMigratesAwayEndsADetach(t *testing.T) { // E97
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		attach(t, a, "d")
		l.Behave(onID, fake.Manners{Deaf: true})
		time.AfterFunc(time.Second, func() { l.Undefine(onID); l.Kill(onID) })
		if res, err := a.Detach(t.Context(), onID, "d"); err != nil || res.Config != hypervisor.NotAsked {
			t.Errorf("Detach = %+v, %v", res, err)
		}
	})
}

func TestATransientDomainHasNoDefinitionToChange(t *testing.T) { // E128
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		l.Undefine(onID)
		r := hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: fileMapping("/d", "raw")}
		if res, err := a.Attach(t.Context(), r); err != nil || res.Live != hypervisor.Done || res.Config != hypervisor.NotAsked {
			t.Errorf("Attach = %+v, %v", res, err)
		}
		if res, err := a.Detach(t.Context(), onID, "d"); err != nil || res.Live != hypervisor.Done || res.Config != hypervisor.NotAsked {
			t.Errorf("Detach = %+v, %v", res, err)
		}
	})
}

func TestABlockJobKeepsItsDisk(t *testing.T) { // E101
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := attach(t, a, "d")
		to := fileMapping("/over", "qcow2", primitives.FileMap{Path: r.Mapping.File.Path, Format: "raw"})
		if err := a.Switch(t.Context(), onID, []hypervisor.DiskSwitch{{Disk: "d", To: to}}); err != nil {
			t.Fatal(err)
		}
		other, _ := l.Open("")
		if err := other.BlockCommit(onID, "vda"); err != nil {
			t.Fatal(err)
		}
		if got := shown(t, a, "d").Job; got != "active-commit" {
			t.Errorf("Job = %q, want active-commit", got)
		}
		_, err := a.Detach(t.Context(), onID, "d")
		wantCode(t, "Detach", err, primitives.CodeInUse)
		wantCode(t, "ResizeDisk", a.ResizeDisk(t.Context(), onID, "d", 1<<30), primitives.CodeInUse)
	})
}

func TestAFailureInTheDefinitionLeavesTheLiveDiskAndSaysSo(t *testing.T) { // C3.17
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		l.Fail(onID, "AttachDevice definition", virt.Errorf(virt.CodeInternal, "cannot write the definition"))
		r := hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: fileMapping("/d", "raw")}
		res, err := a.Attach(t.Context(), r)
		if err != nil || res.Live != hypervisor.Done || res.Config != hypervisor.Failed || res.ConfigErr == nil {
			t.Errorf("Attach = %+v, %v; want live done, config failed with its error", res, err)
		}
		res, err = a.Attach(t.Context(), r)
		if err != nil || res.Live != hypervisor.Already || res.Config != hypervisor.Done {
			t.Errorf("Attach again = %+v, %v; want live already, config done", res, err)
		}
	})
}

func TestAFailureInTheRunningDomainLeavesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		l.Fail(onID, "AttachDevice running domain", virt.Errorf(virt.CodeInternal, "flux"))
		r := hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: fileMapping("/d", "raw")}
		_, err := a.Attach(t.Context(), r)
		wantCode(t, "Attach", err, primitives.CodeInternal)
		if got := shown(t, a, "d"); got.ID != "" {
			t.Errorf("the disk is shown as %+v, want nothing", got)
		}
	})
}

func TestASwitchThatACrashCutInTwoIsCompletedByARepeat(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := attach(t, a, "d")
		to := fileMapping("/over", "qcow2", primitives.FileMap{Path: r.Mapping.File.Path, Format: "raw"})
		l.Fail(onID, "UpdateDevice definition", virt.Errorf(virt.CodeInternal, "not now"))
		l.KeepDefinition(onID, true) // a libvirt that lets the definition be
		err := a.Switch(t.Context(), onID, []hypervisor.DiskSwitch{{Disk: "d", To: to}})
		wantCode(t, "Switch", err, primitives.CodeInternal)
		if got := shown(t, a, "d"); !got.Source.Shows(to) {
			t.Errorf("the disk is on %v, want %s", got.Source, to.File.Path)
		}
		if err := a.Switch(t.Context(), onID, []hypervisor.DiskSwitch{{Disk: "d", To: to}}); err != nil {
			t.Errorf("Switch again = %v", err)
		}
		r.Mapping = to
		if res, err := a.Attach(t.Context(), r); err != nil || res.Config != hypervisor.Already {
			t.Errorf("Attach = %+v, %v; want the definition on the overlay already", res, err)
		}
	})
}

func TestAFreezeThatFailsIsThawed(t *testing.T) { // E153
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		l.Behave(onID, fake.Manners{FreezeFail: true})
		rep, err := a.Freeze(t.Context(), onID, time.Minute, func(context.Context) error {
			t.Errorf("the callback ran without a freeze")
			return nil
		})
		if err == nil || rep.ThawErr != nil || l.Frozen(onID) != 0 {
			t.Errorf("Freeze = %+v, %v, frozen %d; want an error and a thawed guest", rep, err, l.Frozen(onID))
		}
	})
}

func TestACallerThatGoesAwayDuringAFreezeLeavesAThawedGuest(t *testing.T) { // C3.14
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := a.Freeze(ctx, onID, time.Hour, func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) || l.Frozen(onID) != 0 {
			t.Errorf("Freeze = %v, frozen %d; want the cancel and a thawed guest", err, l.Frozen(onID))
		}
	})
}

func TestASecondFreezeWaitsForTheFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		inside, free := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			_, err := a.Freeze(t.Context(), onID, time.Hour, func(context.Context) error { close(inside); <-free; return nil })
			done <- err
		}()
		<-inside
		_, err := a.Freeze(within(t, time.Minute), onID, time.Minute, func(context.Context) error { return nil })
		wantCode(t, "a second Freeze", err, primitives.CodeUnavailable)
		if l.Frozen(onID) == 0 {
			t.Errorf("the second freeze has thawed the first")
		}
		close(free)
		if err := <-done; err != nil {
			t.Errorf("the first Freeze = %v", err)
		}
	})
}

// Cases: E27
func TestACrashLeftFreezeIsThawed(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		other, _ := l.Open("")
		if _, err := other.Freeze(onID, 1); err != nil {
			t.Fatal(err)
		}
		if err := a.Thaw(t.Context(), onID); err != nil || l.Frozen(onID) != 0 {
			t.Errorf("Thaw = %v, frozen %d", err, l.Frozen(onID))
		}
	})
}

func TestAHangingCallEndsAtItsLimitAndLaterOnesAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		resume := l.Stall(onID)
		r := hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: fileMapping("/d", "raw")}
		start := time.Now()
		_, err := a.Attach(t.Context(), r)
		wantCode(t, "Attach", err, primitives.CodeUnavailable)
		if took := time.Since(start); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("Attach took %v, want the limit of 30 s", took)
		}
		start = time.Now()
		_, err = a.Attach(t.Context(), r)
		wantCode(t, "Attach again", err, primitives.CodeUnavailable)
		if took := time.Since(start); took != 0 {
			t.Errorf("Attach again took %v, want no time", took)
		}
		// Another process runs into the same domain: libvirt would let it wait for 30 s.
		other := newAdapter(t, l, kvm.Options{})
		_, err = other.Attach(t.Context(), r)
		wantCode(t, "Attach by another process", err, primitives.CodeUnavailable)
		if took := time.Since(start); took != 0 {
			t.Errorf("Attach by another process took %v, want no time", took)
		}
		resume()
		synctest.Wait()
		if res, err := a.Attach(t.Context(), r); err != nil || res.Live != hypervisor.Already {
			t.Errorf("Attach after the stall = %+v, %v; want what the hanging call did", res, err)
		}
	})
}

func TestADomainThatHasJustAnsweredIsNotProbed(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		attach(t, a, "d") // two calls
		if got := l.Probed(onID); got != 1 {
			t.Errorf("an attach probed the domain %d times, want once", got)
		}
		<-time.After(2 * time.Second)
		if _, err := a.Freeze(t.Context(), onID, time.Minute, func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		before := l.Probed(onID)
		attach(t, a, "e")
		if got := l.Probed(onID) - before; got != 1 {
			t.Errorf("after the guest agent answered, an attach probed the domain %d times, want once: the agent is not QEMU", got)
		}
	})
}

func TestHangingCallsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		const bound = 64
		var last error
		for n := range bound + 1 {
			id := hypervisor.DomainID(strings.ReplaceAll("8b1f3f0e-0001-4000-8000-0000000000XX", "XX", string([]byte{'0' + byte(n/10), '0' + byte(n%10)})))
			if err := l.Define(fake.DomainXML(string(id), "d"), true); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(l.Stall(string(id)))
			_, last = a.Attach(within(t, time.Second), hypervisor.AttachRequest{Domain: id, Disk: "d", Mapping: fileMapping("/d", "raw")})
			wantCode(t, "Attach", last, primitives.CodeUnavailable)
		}
		if !strings.Contains(last.Error(), "64 calls") {
			t.Errorf("Attach beyond the bound = %v, want it refused for the bound", last)
		}
		if _, err := a.Domains(t.Context()); err != nil {
			t.Errorf("Domains = %v", err)
		}
	})
}

func TestAnAbsentLibvirtIsSaidAndComesBackWithItsEvents(t *testing.T) { // E115, C3.20
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		l.Away(virt.Errorf(38, "Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory"))
		info := a.Info(t.Context())
		if info.Connected || !strings.Contains(info.Note, "Failed to connect socket") || len(info.Accepts) == 0 {
			t.Errorf("Info = %+v, want not connected, why, and what is accepted", info)
		}
		_, err := a.Domains(t.Context())
		wantCode(t, "Domains", err, primitives.CodeUnavailable)

		wakes := make(chan hypervisor.DomainID, 100)
		ctx, stop := context.WithCancel(t.Context())
		watching := make(chan error, 1)
		go func() { watching <- a.Watch(ctx, func(d hypervisor.DomainID) { wakes <- d }) }()
		<-time.After(time.Minute)
		if n := l.Opened(); n < 3 || n > 10 {
			t.Errorf("%d attempts to connect within a minute, want some, with growing pauses", n)
		}
		l.Away(nil)
		awaitWake(t, wakes, "")
		attach(t, a, "d")
		awaitWake(t, wakes, onID)

		l.Away(errors.New("restarting"))
		l.Away(nil) // connections are lost
		awaitWake(t, wakes, "")
		attach(t, a, "e")
		awaitWake(t, wakes, onID)
		stop()
		if err := <-watching; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch = %v", err)
		}
	})
}

func awaitWake(t *testing.T, wakes <-chan hypervisor.DomainID, want hypervisor.DomainID) {
	t.Helper()
	for {
		select {
		case got := <-wakes:
			if got == want {
				return
			}
		case <-time.After(time.Hour):
			t.Fatalf("no wake for %q", want)
		}
	}
}

func TestASlowReceiverOfWakesLosesNoDomain(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		ctx, stop := context.WithCancel(t.Context())
		gate, seen := make(chan struct{}), map[hypervisor.DomainID]int{}
		watching := make(chan error, 1)
		go func() { watching <- a.Watch(ctx, func(d hypervisor.DomainID) { <-gate; seen[d]++ }) }()
		synctest.Wait()
		for range 1000 {
			l.Emit(virt.Event{Kind: virt.Changed, Domain: onID})
			l.Emit(virt.Event{Kind: virt.Changed, Domain: offID})
		}
		synctest.Wait()
		close(gate)
		synctest.Wait()
		stop()
		<-watching
		if seen[onID] == 0 || seen[offID] == 0 || seen[onID] > 2 {
			t.Errorf("wakes = %v, want each domain, many events in one", seen)
		}
	})
}

func TestAnOverlayWhoseDiskWasTakenAwayIsNeverDeleted(t *testing.T) {
	l := newFake(t)
	l.CheckFiles(func(path string) error { _, err := os.Stat(path); return err })
	a := newAdapter(t, l, kvm.Options{})
	m := fakeFile(t, "disk.img", 1<<20)
	if _, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: m}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateSnapshot(t.Context(), onID, "s"); err != nil {
		t.Fatal(err)
	}
	overlay := shown(t, a, "d").Source.Path
	other, _ := l.Open("")
	for _, half := range []virt.Half{virt.Live, virt.Config} { // somebody takes it away with virsh
		if err := other.DetachDevice(onID, l.Alias(onID, "d"), half); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.DeleteSnapshot(t.Context(), onID, "s"); err != nil {
		t.Errorf("DeleteSnapshot = %v", err)
	}
	if _, err := os.Stat(overlay); err != nil {
		t.Errorf("the overlay, which has the disk's newest content: %v", err)
	}
}

func TestAnOverlayThatIsThereAlreadyIsNotOverwritten(t *testing.T) {
	l := newFake(t)
	a := newAdapter(t, l, kvm.Options{})
	m := fakeFile(t, "disk.img", 1<<20)
	if _, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: m}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.File.Path+".hypervisor-snapshot.s", []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := a.CreateSnapshot(t.Context(), onID, "s")
	wantCode(t, "CreateSnapshot", err, primitives.CodeExists)
}

func TestDisksThatAreNoFilesNeedAFolderForOverlays(t *testing.T) {
	l := newFake(t)
	r := hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: primitives.Mapping{
		Form: primitives.FormBlock, Access: primitives.ReadWrite,
		Block: &primitives.BlockMap{Path: "/dev/x"},
	}}
	without, dir := newAdapter(t, l, kvm.Options{}), t.TempDir()
	if _, err := without.Attach(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	_, err := without.CreateSnapshot(t.Context(), onID, "s")
	wantCode(t, "CreateSnapshot", err, primitives.CodeUnsupported)
	with := newAdapter(t, l, kvm.Options{SnapshotDir: dir})
	if _, err := with.CreateSnapshot(t.Context(), onID, "s"); err != nil {
		t.Fatalf("CreateSnapshot = %v", err)
	}
	if got, want := shown(t, with, "d").Source.Path, filepath.Join(dir, onID, "vda.hypervisor-snapshot.s"); got != want {
		t.Errorf("the overlay is %s, want %s", got, want)
	}
	if err := with.DeleteSnapshot(t.Context(), onID, "s"); err != nil {
		t.Errorf("DeleteSnapshot = %v", err)
	}
}

func TestALibvirtThatLooksAtQEMUHoldsUpItsVersionOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		done := l.Look()
		defer done()
		if info := a.Info(t.Context()); !info.Connected || info.Hypervisor != "" || info.Note == "" {
			t.Errorf("Info = %+v, want it connected, and why there is no version", info)
		}
		info := a.Info(t.Context())
		for _, part := range []string{"libvirt has not answered", "read QEMU's version"} {
			if !strings.Contains(info.Note, part) {
				t.Errorf("Info again says %q, want %q in it", info.Note, part)
			}
		}
		if all, err := a.Domains(t.Context()); err != nil || len(all) != 2 {
			t.Errorf("Domains = %v, %v", all, err)
		}
		attach(t, a, "d")
		done()
		synctest.Wait()
		if info := a.Info(t.Context()); info.Hypervisor == "" || info.Note != "" {
			t.Errorf("Info afterwards = %+v", info)
		}
	})
}
