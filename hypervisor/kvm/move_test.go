// SPDX-License-Identifier: Apache-2.0

package kvm_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/fake"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// newMove attaches a disk and returns its move elsewhere. The fake's disks have 16 MiB.
func newMove(t *testing.T, a *kvm.Adapter) hypervisor.MoveRequest {
	t.Helper()
	r := hypervisor.MoveRequest{Domain: onID, Disk: "d", From: attach(t, a, "d").Mapping, To: fileMapping("/img/to", "raw")}
	r.From.Size, r.To.Size = 16<<20, 16<<20
	return r
}

func phase(t *testing.T, a *kvm.Adapter, r hypervisor.MoveRequest, want hypervisor.MovePhase) hypervisor.MoveStatus {
	t.Helper()
	got, err := a.MoveStatus(t.Context(), r)
	if err != nil || got.Phase != want {
		t.Errorf("MoveStatus = %v (%s), %v; want %v", got.Phase, got.Failure, err, want)
	}
	return got
}

// begin begins a move, and looks at it until it is ready.
func begin(t *testing.T, a *kvm.Adapter, r hypervisor.MoveRequest) {
	t.Helper()
	if err := a.StartMove(t.Context(), r); err != nil {
		t.Fatalf("StartMove = %v", err)
	}
	phase(t, a, r, hypervisor.MoveCopying)
	phase(t, a, r, hypervisor.MoveReady)
}

// Cases: E111, E112, E113
func TestACopyThatEndedSaysWhy(t *testing.T) {
	for name, c := range map[string]struct{ said, want string }{
		"with a reason":  {"No space left on device", "No space left on device"},
		"without a word": {"", "the hypervisor gave no reason"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newFake(t)
			a := newAdapter(t, l, kvm.Options{})
			r := newMove(t, a)
			begin(t, a, r)
			l.FailCopy(onID, "vda", c.said)
			awaitFailure(t, a, r, c.want)
			wantCode(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeConflict)
			if err := a.CancelMove(t.Context(), r); err != nil {
				t.Errorf("CancelMove = %v", err)
			}
			other := r
			other.To = fileMapping("/img/other", "raw")
			if got := phase(t, a, other, hypervisor.MoveNone); got.Failure != "" {
				t.Errorf("a move to elsewhere shows %q", got.Failure)
			}
			begin(t, a, r)
			l.Kill(onID)
			if got := phase(t, a, r, hypervisor.MoveNone); got.Failure != "" {
				t.Errorf("a move whose domain ended shows %q", got.Failure)
			}
		})
	}
}

// awaitFailure waits for the event that says why, which comes when it comes.
func awaitFailure(t *testing.T, a *kvm.Adapter, r hypervisor.MoveRequest, want string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ctx := within(t, 10*time.Second)
	for {
		got := phase(t, a, r, hypervisor.MoveNone)
		if got.Failure == want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("Failure = %q, want %q", got.Failure, want)
		}
	}
}

// Cases: E25, C3.4, C3.17
func TestAMoveThatTheDefinitionDidNotFollowIsHalfDoneAndIsFinished(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := newMove(t, a)
		l.KeepDefinition(onID, true)
		begin(t, a, r)
		l.Fail(onID, "UpdateDevice definition", virt.Errorf(virt.CodeOperationFailed, "no"))
		if err := a.FinishMove(t.Context(), r); err == nil {
			t.Error("FinishMove = nil, want the definition's error")
		}
		phase(t, a, r, hypervisor.MoveHalf)
		wantCode(t, "CancelMove", a.CancelMove(t.Context(), r), primitives.CodeConflict)
		for range 2 {
			if err := a.FinishMove(t.Context(), r); err != nil {
				t.Errorf("FinishMove again = %v", err)
			}
			phase(t, a, r, hypervisor.MoveDone)
		}
	})
}

func TestTheDefinitionGetsTheSettingsOfTheTarget(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := newMove(t, a)
		r.To = fileMapping("/img/to", "qcow2")
		r.To.Size, r.To.Direct, r.To.Discard = r.From.Size, true, true
		begin(t, a, r)
		if err := a.FinishMove(t.Context(), r); err != nil {
			t.Fatalf("FinishMove = %v", err)
		}
		d := l.Definition(onID).Devices.Disks[0]
		if d.Driver.Type != "qcow2" || d.Driver.Cache != "none" || d.Driver.IO != "native" || d.Driver.Discard != "unmap" || d.Serial != "d" {
			t.Errorf("the definition has %+v, serial %s", *d.Driver, d.Serial)
		}
	})
}

// Cases: E24
func TestAPivotThatDoesNotEndIsFoundAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := newMove(t, a)
		begin(t, a, r)
		l.HoldJobs(onID, true)
		wantCode(t, "FinishMove", a.FinishMove(within(t, time.Minute), r), primitives.CodeUnavailable)
		phase(t, a, r, hypervisor.MoveReady)
		wantCode(t, "CancelMove", a.CancelMove(t.Context(), r), primitives.CodeConflict)
		if _, err := a.Attach(within(t, time.Second), hypervisor.AttachRequest{Domain: onID, Disk: "e", Mapping: fileMapping("/img/e", "raw")}); err != nil {
			t.Errorf("Attach of another disk meanwhile = %v", err)
		}
		l.HoldJobs(onID, false)
		if err := a.FinishMove(t.Context(), r); err != nil {
			t.Errorf("FinishMove again = %v", err)
		}
		phase(t, a, r, hypervisor.MoveDone)
	})
}

// Cases: E125, C3.18
func TestAPivotThatFailsLeavesItsDiskAndEveryOtherOne(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		one := newMove(t, a)
		two := hypervisor.MoveRequest{Domain: onID, Disk: "e", From: attach(t, a, "e").Mapping, To: fileMapping("/img/to-e", "raw")}
		two.From.Size, two.To.Size = one.From.Size, one.From.Size
		begin(t, a, one)
		begin(t, a, two)
		if err := a.FinishMove(t.Context(), one); err != nil {
			t.Fatalf("FinishMove = %v", err)
		}
		l.Fail(onID, "BlockJobSwitch", virt.Errorf(virt.CodeInternal, "internal error: unable to execute QEMU command 'job-complete'"))
		wantCode(t, "FinishMove of the second", a.FinishMove(t.Context(), two), primitives.CodeInternal)
		phase(t, a, one, hypervisor.MoveDone)
		phase(t, a, two, hypervisor.MoveReady)
		if err := a.CancelMove(t.Context(), two); err != nil {
			t.Errorf("CancelMove = %v", err)
		}
		phase(t, a, two, hypervisor.MoveNone)
	})
}

// Cases: C3.3
func TestACopyThatFailsUnderThePivotIsNoSuccess(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := newMove(t, a)
		begin(t, a, r)
		l.HoldJobs(onID, true)
		time.AfterFunc(time.Second, func() { l.FailCopy(onID, "vda", "Input/output error") })
		wantCode(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeConflict)
		if got := phase(t, a, r, hypervisor.MoveNone); got.Failure != "Input/output error" {
			t.Errorf("Failure = %q", got.Failure)
		}
	})
}

func TestADomainThatEndsUnderThePivotLeavesItOpenWhichSideItIsOn(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := newMove(t, a)
		begin(t, a, r)
		l.HoldJobs(onID, true)
		time.AfterFunc(time.Second, func() { l.Kill(onID) })
		wantCode(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeUnavailable)
		phase(t, a, r, hypervisor.MoveNone)
	})
}

// Cases: E114, C3.19
func TestACopyThatIsOutrunIsBegunAnewWithSynchronousWrites(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := newMove(t, a)
		r.Bandwidth = 4 << 20
		l.Outrun(onID, true)
		if err := a.StartMove(t.Context(), r); err != nil {
			t.Fatalf("StartMove = %v", err)
		}
		for range 10 {
			phase(t, a, r, hypervisor.MoveCopying)
		}
		for range 2 {
			if err := a.Converge(t.Context(), r); err != nil {
				t.Fatalf("Converge = %v", err)
			}
			if got, want := l.Copies(onID)["vda"], (virt.CopyOptions{Bandwidth: 4 << 20, Synchronous: true}); got != want {
				t.Errorf("the copy is %+v, want %+v", got, want)
			}
			phase(t, a, r, hypervisor.MoveCopying)
			phase(t, a, r, hypervisor.MoveCopying)
		}
		phase(t, a, r, hypervisor.MoveReady) // a repeat did not begin again
	})
}

func TestTheRepeatOfAMoveThatIsBeingCancelledIsAConflict(t *testing.T) {
	inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
		r := newMove(t, a)
		begin(t, a, r)
		l.HoldJobs(onID, true)
		wantCode(t, "CancelMove", a.CancelMove(within(t, time.Minute), r), primitives.CodeUnavailable)
		wantCode(t, "StartMove", a.StartMove(t.Context(), r), primitives.CodeConflict)
		phase(t, a, r, hypervisor.MoveCopying)
		l.HoldJobs(onID, false)
		if err := a.CancelMove(t.Context(), r); err != nil {
			t.Errorf("CancelMove again = %v", err)
		}
	})
}

func TestATargetUponAnotherImageIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *fake.Libvirt, a *kvm.Adapter) {
		r := newMove(t, a)
		r.To = fileMapping("/img/to", "qcow2")
		r.To.Size, r.To.File.Backing = r.From.Size, []primitives.FileMap{{Path: "/img/base", Format: "raw"}}
		wantCode(t, "StartMove", a.StartMove(t.Context(), r), primitives.CodeUnsupported)
	})
}

func TestAMoveOfADomainThatDoesNotAnswerIsUnavailable(t *testing.T) {
	for name, call := range map[string]func(context.Context, *kvm.Adapter, hypervisor.MoveRequest) error{
		"MoveStatus": func(ctx context.Context, a *kvm.Adapter, r hypervisor.MoveRequest) error {
			_, err := a.MoveStatus(ctx, r)
			return err
		},
		"FinishMove": func(ctx context.Context, a *kvm.Adapter, r hypervisor.MoveRequest) error { return a.FinishMove(ctx, r) },
		"CancelMove": func(ctx context.Context, a *kvm.Adapter, r hypervisor.MoveRequest) error { return a.CancelMove(ctx, r) },
		"Pause":      func(ctx context.Context, a *kvm.Adapter, _ hypervisor.MoveRequest) error { return a.Pause(ctx, onID) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
				r := newMove(t, a)
				begin(t, a, r)
				resume := l.Stall(onID)
				defer resume()
				start := time.Now()
				wantCode(t, name, call(within(t, time.Second), a, r), primitives.CodeUnavailable)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("%s took %v", name, took)
				}
			})
		})
	}
}

// Cases: E141, E142
func TestAResumeSeesThatTheDomainGoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		hurts int
		want  primitives.Code
	}{
		"it runs":                              {0, 0},
		"NBD: the first request only connects": {1, 0},
		"its storage fails":                    {5, primitives.CodeInUse},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *fake.Libvirt, a *kvm.Adapter) {
				l.Hurt(onID, c.hurts)
				err := a.Resume(t.Context(), onID)
				if c.want == 0 && err != nil || c.want != 0 && !errors.Is(err, c.want) {
					t.Errorf("Resume = %v", err)
				}
				d, _ := a.Domain(t.Context(), onID)
				if paused := d.State == hypervisor.StatePaused; paused != (c.want != 0) {
					t.Errorf("the domain is %v (%s)", d.State, d.Reason)
				}
			})
		})
	}
}
