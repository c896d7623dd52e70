// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/primitives"
)

const moved = 1 << 20

// newMove returns a host with disk d on a file of a pattern, and a move of it to an
// empty one.
func newMove(t *testing.T) (*fake.Host, *fake.Adapter, hypervisor.MoveRequest) {
	t.Helper()
	h := newHost()
	a := h.Adapter()
	r := hypervisor.MoveRequest{Domain: onID, Disk: "d", From: rawFile(t, "from", moved), To: rawFile(t, "to", moved)}
	if err := os.WriteFile(r.From.File.Path, bytes.Repeat([]byte("pattern "), moved/8), 0o600); err != nil {
		t.Fatal(err)
	}
	attach(t, a, onID, "d", r.From)
	return h, a, r
}

// status fails unless the move is in that phase.
func status(t *testing.T, a *fake.Adapter, r hypervisor.MoveRequest, want hypervisor.MovePhase) hypervisor.MoveStatus {
	t.Helper()
	got, err := a.MoveStatus(t.Context(), r)
	if err != nil || got.Phase != want {
		t.Errorf("MoveStatus = %v, %v, %v; want %v", got.Phase, got.Failure, err, want)
	}
	return got
}

func begin(t *testing.T, a *fake.Adapter, r hypervisor.MoveRequest) {
	t.Helper()
	if err := a.StartMove(t.Context(), r); err != nil {
		t.Fatalf("StartMove = %v", err)
	}
}

func sameBytes(t *testing.T, r hypervisor.MoveRequest) {
	t.Helper()
	from, err := os.ReadFile(r.From.File.Path)
	if err != nil {
		t.Fatal(err)
	}
	to, err := os.ReadFile(r.To.File.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(from, to) {
		t.Error("the two sides differ")
	}
}

func TestACopyGetsOnByTheHostsPaceAndTheMovesBandwidth(t *testing.T) {
	h, a, r := newMove(t)
	h.PaceMoves(moved / 2)
	r.Bandwidth = moved / 4
	begin(t, a, r)
	for i := range int64(4) {
		if got := status(t, a, r, hypervisor.MoveCopying); got.Done != i*moved/4 || got.Total != moved {
			t.Errorf("look %d = %d of %d", i, got.Done, got.Total)
		}
	}
	status(t, a, r, hypervisor.MoveReady)
	sameBytes(t, r)
}

func TestAWriteDuringACopyReachesBothSides(t *testing.T) {
	h, a, r := newMove(t)
	h.PaceMoves(0)
	begin(t, a, r)
	for _, offset := range []int64{0, moved - 7} { // what was copied, and what was not
		if err := h.Write(onID, "d", offset, []byte("written")); err != nil {
			t.Fatal(err)
		}
		h.Copy(onID, "d", moved/2)
	}
	status(t, a, r, hypervisor.MoveReady)
	sameBytes(t, r)
}

// Cases: E114
func TestACopyThatIsOutrunComesToItsEndWhenItConverges(t *testing.T) {
	h, a, r := newMove(t)
	h.Outrun(onID)
	begin(t, a, r)
	for range 3 {
		status(t, a, r, hypervisor.MoveCopying)
	}
	if got := status(t, a, r, hypervisor.MoveCopying); got.Done != 3*moved || got.Total != 4*moved {
		t.Errorf("an outrun copy did %d of %d bytes", got.Done, got.Total)
	}
	for range 2 {
		if err := a.Converge(t.Context(), r); err != nil {
			t.Errorf("Converge = %v", err)
		}
	}
	if got := status(t, a, r, hypervisor.MoveCopying); got.Done != 0 {
		t.Errorf("a copy begun anew did %d bytes", got.Done)
	}
	status(t, a, r, hypervisor.MoveReady)
	sameBytes(t, r)
}

func TestACopyThatWasOutrunForAWhileMissesNothing(t *testing.T) {
	h, a, r := newMove(t)
	h.PaceMoves(moved / 2)
	rest := h.Outrun(onID)
	begin(t, a, r)
	status(t, a, r, hypervisor.MoveCopying)
	rest()
	status(t, a, r, hypervisor.MoveCopying)
	status(t, a, r, hypervisor.MoveCopying)
	status(t, a, r, hypervisor.MoveReady)
	sameBytes(t, r)
}

// Cases: E111, E112
func TestAFailedCopyLeavesTheSourceAndSaysWhyToWhoWasThere(t *testing.T) {
	for name, why := range map[string]string{"an error": "no space left on device", "it vanished": ""} {
		t.Run(name, func(t *testing.T) {
			h, a, r := newMove(t)
			begin(t, a, r)
			h.FailMove(onID, "d", why)
			if got := status(t, a, r, hypervisor.MoveNone); got.Failure != why {
				t.Errorf("Failure = %q, want %q", got.Failure, why)
			}
			if got := status(t, h.Adapter(), r, hypervisor.MoveNone); got.Failure != "" {
				t.Errorf("a later connection was told %q", got.Failure)
			}
			wants(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeConflict)
			begin(t, a, r)
			if got := status(t, a, r, hypervisor.MoveCopying); got.Failure != "" {
				t.Errorf("a move begun again shows %q", got.Failure)
			}
		})
	}
}

// Cases: E112
func TestATargetThatCannotBeWrittenFailsTheCopy(t *testing.T) {
	_, a, r := newMove(t)
	begin(t, a, r)
	if err := os.Remove(r.To.File.Path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.To.File.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	status(t, a, r, hypervisor.MoveCopying)
	if got := status(t, a, r, hypervisor.MoveNone); !strings.Contains(got.Failure, "directory") {
		t.Errorf("Failure = %q, want the cause", got.Failure)
	}
}

// Cases: E24, E25
func TestAnAgentThatDiesAtAnyMomentOfAPivotFindsWhereItIs(t *testing.T) {
	for moment, want := range map[string]hypervisor.MovePhase{
		"before move":         hypervisor.MoveNone,
		"after move":          hypervisor.MoveCopying,
		"before pivot":        hypervisor.MoveReady,
		"after pivot":         hypervisor.MoveHalf,
		"before pivot-config": hypervisor.MoveHalf,
		"after pivot-config":  hypervisor.MoveDone,
	} {
		t.Run(moment, func(t *testing.T) {
			h, a, r := newMove(t)
			h.Hook(func(m string) {
				if m == moment {
					a.Close()
				}
			})
			err := a.StartMove(t.Context(), r)
			if err == nil {
				h.Copy(onID, "d", moved)
				err = a.FinishMove(t.Context(), r)
			}
			wants(t, "the call", err, primitives.CodeUnavailable)
			h.Hook(nil)
			next := h.Adapter()
			status(t, next, r, want)
			begin(t, next, r)
			h.Copy(onID, "d", moved)
			for range 2 {
				if err := next.FinishMove(t.Context(), r); err != nil {
					t.Errorf("FinishMove = %v", err)
				}
			}
			status(t, next, r, hypervisor.MoveDone)
			wants(t, "CancelMove", next.CancelMove(t.Context(), r), primitives.CodeConflict)
			sameBytes(t, r)
		})
	}
}

func TestAPivotThatFailsLeavesTheSourceAndTheCopy(t *testing.T) {
	h, a, r := newMove(t)
	mine := errors.New("no")
	h.Fault(fake.Fault{Call: "pivot", Times: 1, Err: mine})
	begin(t, a, r)
	h.Copy(onID, "d", moved)
	if err := a.FinishMove(t.Context(), r); !errors.Is(err, mine) {
		t.Errorf("FinishMove = %v", err)
	}
	status(t, a, r, hypervisor.MoveReady)
	if err := a.FinishMove(t.Context(), r); err != nil {
		t.Errorf("FinishMove again = %v", err)
	}
	if got := h.Disks(onID)[0]; !got.Source.Shows(r.To) || got.Job != "" {
		t.Errorf("the disk is shown as %+v", got)
	}
}

// Cases: E24
func TestALostSwitchIsUndoneAndTheMoveBegunAgain(t *testing.T) {
	h, a, r := newMove(t)
	begin(t, a, r)
	h.Copy(onID, "d", moved)
	h.LoseSwitch(onID, "d")
	if err := h.Write(onID, "d", 100, []byte("on the target only")); err != nil {
		t.Fatal(err)
	}
	status(t, a, r, hypervisor.MoveHalf)
	begin(t, a, r)
	wants(t, "CancelMove", a.CancelMove(t.Context(), r), primitives.CodeConflict)
	wants(t, "FinishMove", a.FinishMove(t.Context(), r), primitives.CodeConflict)
	sameBytes(t, r)
	status(t, a, r, hypervisor.MoveNone)
	begin(t, a, r)
	h.Copy(onID, "d", moved)
	if err := a.FinishMove(t.Context(), r); err != nil {
		t.Errorf("FinishMove = %v", err)
	}
	status(t, a, r, hypervisor.MoveDone)
}

// Cases: E116
func TestADomainThatEndsTakesItsCopyWithIt(t *testing.T) {
	h, a, r := newMove(t)
	begin(t, a, r)
	h.Stop(onID)
	status(t, a, r, hypervisor.MoveNone)
	wants(t, "StartMove", a.StartMove(t.Context(), r), primitives.CodeUnsupported)
	if err := h.Start(onID); err != nil {
		t.Fatal(err)
	}
	status(t, a, r, hypervisor.MoveNone)
}

func TestADomainThatEndsAfterThePivotIsDefinedWithTheTarget(t *testing.T) {
	h, a, r := newMove(t)
	begin(t, a, r)
	h.Copy(onID, "d", moved)
	h.Hook(func(m string) {
		if m == "after pivot" {
			h.Kill(onID)
		}
	})
	if err := a.FinishMove(t.Context(), r); err != nil {
		t.Errorf("FinishMove = %v", err)
	}
	status(t, a, r, hypervisor.MoveDone)
}

func TestACopyHoldsItsTarget(t *testing.T) {
	h, a, r := newMove(t)
	begin(t, a, r)
	_, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "other", Mapping: r.To})
	wants(t, "Attach of the target", err, primitives.CodeInUse)
	if err := a.CancelMove(t.Context(), r); err != nil {
		t.Fatalf("CancelMove = %v", err)
	}
	attach(t, a, onID, "other", r.To)
	wants(t, "StartMove", a.StartMove(t.Context(), r), primitives.CodeInUse)
	status(t, a, r, hypervisor.MoveNone)
	if got := h.Disks(onID)[0].Job; got != "" {
		t.Errorf("a move that was refused left a job (%s)", got)
	}
}

func TestAHurtDomainPausesAgainUntilItIsHealed(t *testing.T) {
	h := newHost()
	a := h.Adapter()
	heal := h.Hurt(onID)
	err := a.Resume(t.Context(), onID)
	wants(t, "Resume", err, primitives.CodeInUse)
	if !strings.Contains(err.Error(), "ioerror") {
		t.Errorf("Resume = %v, want the reason", err)
	}
	heal()
	d, err := a.Domain(t.Context(), "on")
	if err != nil || d.State != hypervisor.StatePaused || d.Reason != "ioerror" {
		t.Errorf("after healing the domain is %v (%s), %v; want it paused", d.State, d.Reason, err)
	}
	for range 2 {
		if err := a.Resume(t.Context(), onID); err != nil {
			t.Errorf("Resume = %v", err)
		}
	}
	d, err = a.Domain(t.Context(), "on")
	if err != nil || d.State != hypervisor.StateRunning || d.Reason != "" {
		t.Errorf("the domain is %v (%s), %v", d.State, d.Reason, err)
	}
}
