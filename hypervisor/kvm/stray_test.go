// SPDX-License-Identifier: Apache-2.0

package kvm_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/fake"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// inForgotten is inBubble with a move whose switch libvirt has forgotten.
func inForgotten(t *testing.T, run func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter, r hypervisor.MoveRequest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newFake(t)
		first := newAdapter(t, l, kvm.Options{})
		r := newMove(t, first)
		begin(t, first, r)
		l.Lose(onID, "vda")
		run(t, l, newAdapter(t, l, kvm.Options{}), r)
	})
}

// definedOn fails unless the definition has the disk there.
func definedOn(t *testing.T, l *fake.Libvirt, want string) {
	t.Helper()
	if got := l.Definition(onID).Devices.Disks[0].Source.File.File; got != want {
		t.Errorf("the definition has the disk on %s, want %s", got, want)
	}
}

// Cases: E24
func TestASwitchThatLibvirtForgotIsTakenBackAndCanBeMadeAgain(t *testing.T) {
	inForgotten(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter, r hypervisor.MoveRequest) {
		phase(t, a, r, hypervisor.MoveHalf)
		if err := a.StartMove(t.Context(), r); err != nil {
			t.Errorf("StartMove = %v", err)
		}
		wantCode(t, "CancelMove", a.CancelMove(t.Context(), r), primitives.CodeConflict)
		wantCode(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeConflict)
		if away, open := l.Stray(onID, "vda"); away || open {
			t.Errorf("the guest is on the target: %v; the target is open: %v", away, open)
		}
		definedOn(t, l, r.From.File.Path)
		phase(t, a, r, hypervisor.MoveNone)
		begin(t, a, r)
		if err := a.FinishMove(t.Context(), r); err != nil {
			t.Errorf("FinishMove of the second try = %v", err)
		}
		phase(t, a, r, hypervisor.MoveDone)
		definedOn(t, l, r.To.File.Path)
	})
}

func TestTheWayBackFromAForgottenSwitchGoesOnWhereItWasCutOff(t *testing.T) {
	inForgotten(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter, r hypervisor.MoveRequest) {
		wantCode(t, "FinishMove", a.FinishMove(within(t, time.Millisecond), r), primitives.CodeUnavailable)
		phase(t, a, r, hypervisor.MoveHalf)
		definedOn(t, l, r.To.File.Path) // where a guest that is started again has everything
		next := newAdapter(t, l, kvm.Options{})
		wantCode(t, "FinishMove", next.FinishMove(t.Context(), r), primitives.CodeConflict)
		phase(t, next, r, hypervisor.MoveNone)
	})
}

func TestAFailureOnTheWayBackLeavesTheGuestOnTheTarget(t *testing.T) {
	inForgotten(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter, r hypervisor.MoveRequest) {
		time.AfterFunc(time.Millisecond, func() { l.FailBack(onID, "vda") })
		wantCode(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeInternal)
		phase(t, a, r, hypervisor.MoveHalf)
		definedOn(t, l, r.To.File.Path)
		wantCode(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeConflict)
		phase(t, a, r, hypervisor.MoveNone)
	})
}

func TestAGuestThatEndsOnTheWayBackIsDefinedOnTheTarget(t *testing.T) {
	inForgotten(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter, r hypervisor.MoveRequest) {
		time.AfterFunc(time.Millisecond, func() { l.Kill(onID) })
		if err := a.FinishMove(t.Context(), r); err == nil {
			t.Error("FinishMove = nil")
		}
		phase(t, a, r, hypervisor.MoveDone)
	})
}

func TestWhatALostSwitchLeftOpenIsClosedByTheNextMove(t *testing.T) {
	for name, close := range map[string]func(*testing.T, *kvm.Adapter, hypervisor.MoveRequest) error{
		"CancelMove": func(t *testing.T, a *kvm.Adapter, r hypervisor.MoveRequest) error {
			return a.CancelMove(t.Context(), r)
		},
		"StartMove": func(t *testing.T, a *kvm.Adapter, r hypervisor.MoveRequest) error { return a.StartMove(t.Context(), r) },
	} {
		t.Run(name+" of a copy that goes on", func(t *testing.T) {
			inForgotten(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter, r hypervisor.MoveRequest) {
				l.CopyOn(onID, "vda")
				phase(t, a, r, hypervisor.MoveNone)
				if err := close(t, a, r); err != nil {
					t.Errorf("%s = %v", name, err)
				}
				if _, open := l.Stray(onID, "vda"); open {
					t.Error("the target is still open")
				}
			})
		})
		t.Run(name, func(t *testing.T) {
			inForgotten(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter, r hypervisor.MoveRequest) {
				l.Home(onID, "vda")
				phase(t, a, r, hypervisor.MoveNone)
				if err := close(t, a, r); err != nil {
					t.Errorf("%s = %v", name, err)
				}
				if _, open := l.Stray(onID, "vda"); open {
					t.Error("the target is still open")
				}
			})
		})
	}
}

func TestAMergeWhoseSwitchLibvirtForgotIsNotMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFake(t)
		a := newAdapter(t, l, kvm.Options{})
		attach(t, a, "d")
		if _, err := a.CreateSnapshot(t.Context(), onID, "s"); err != nil {
			t.Fatal(err)
		}
		l.Fail(onID, "BlockJobPivot", virt.Errorf(virt.CodeOperationFailed, "libvirt died"))
		wantCode(t, "DeleteSnapshot", a.DeleteSnapshot(t.Context(), onID, "s"), primitives.CodeInternal)
		l.Lose(onID, "vda")
		wantCode(t, "DeleteSnapshot again", a.DeleteSnapshot(t.Context(), onID, "s"), primitives.CodeConflict)
	})
}
