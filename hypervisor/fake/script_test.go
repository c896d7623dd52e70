// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/primitives"
)

// attach attaches and wants success.
func attach(t *testing.T, a *fake.Adapter, d hypervisor.DomainID, id hypervisor.DiskID, m primitives.Mapping) {
	t.Helper()
	if _, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: d, Disk: id, Mapping: m}); err != nil {
		t.Fatalf("Attach(%s) = %v", id, err)
	}
}

// has fails unless the domain has exactly these disks.
func has(t *testing.T, h *fake.Host, d hypervisor.DomainID, want ...hypervisor.DiskID) {
	t.Helper()
	var got []hypervisor.DiskID
	for _, x := range h.Disks(d) {
		got = append(got, x.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("disks of %s (-want +got):\n%s", d, diff)
	}
}

func wants(t *testing.T, what string, err error, code primitives.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("%s = %v, want %v", what, err, code)
	}
}

func TestAFaultStrikesItsCallAndDomainAsOftenAsAsked(t *testing.T) {
	h := newHost()
	a := h.Adapter()
	mine := errors.New("no")
	h.Fault(fake.Fault{Call: "attach", Domain: onID, Skip: 1, Times: 1, Err: mine})
	m := []primitives.Mapping{rawFile(t, "0", 1<<20), rawFile(t, "1", 1<<20), rawFile(t, "2", 1<<20)}
	attach(t, a, offID, "other", m[2]) // the definition only, of another domain
	attach(t, a, onID, "first", m[0])
	_, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "second", Mapping: m[1]})
	if !errors.Is(err, mine) {
		t.Errorf("Attach = %v, want the fault's error", err)
	}
	has(t, h, onID, "first")
	attach(t, a, onID, "second", m[1])
	has(t, h, onID, "first", "second")
}

func TestAFaultOfTheDefinitionLeavesTheRunningHalf(t *testing.T) {
	h := newHost()
	h.Fault(fake.Fault{Call: "attach-config", Times: 1})
	res, err := h.Adapter().Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: rawFile(t, "d", 1<<20)})
	if err != nil || res.Live != hypervisor.Done || res.Config != hypervisor.Failed || res.ConfigErr == nil {
		t.Errorf("Attach = %+v, %v; want live done, config failed", res, err)
	}
	if got := h.Disks(onID)[0]; !got.Live || got.Config {
		t.Errorf("the disk is shown as %+v", got)
	}
}

func TestALostAnswerHasHappened(t *testing.T) {
	h := newHost()
	a := h.Adapter()
	m := rawFile(t, "d", 1<<20)
	h.Fault(fake.Fault{Call: "attach", After: true, Times: 1})
	_, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: m})
	wants(t, "Attach", err, primitives.CodeUnavailable)
	has(t, h, onID, "d")

	to := overlay(t, m)
	h.Fault(fake.Fault{Call: "switch", After: true, Times: 1})
	wants(t, "Switch", a.Switch(t.Context(), onID, []hypervisor.DiskSwitch{{Disk: "d", To: to}}), primitives.CodeUnavailable)
	if got := h.Disks(onID)[0].Source; !got.Shows(to) {
		t.Errorf("after the switch the disk is on %v, want %v", got, to.File.Path)
	}
}

func TestAHangingCallEndsWithItsContextOrItsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		a := h.Adapter()
		clear := h.Fault(fake.Fault{Call: "disks", Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := a.Disks(ctx, onID)
		wants(t, "Disks", err, primitives.CodeUnavailable)

		done := make(chan error)
		go func() {
			_, err := a.Disks(t.Context(), onID)
			done <- err
		}()
		synctest.Wait()
		clear()
		if err := <-done; err != nil {
			t.Errorf("Disks after the fault = %v", err)
		}
	})
}

func TestAnAgentThatDiesAtAHookHasNoEffectAnyMore(t *testing.T) {
	for moment, want := range map[string]struct{ live, config bool }{
		"before attach":        {false, false},
		"after attach":         {true, false},
		"before attach-config": {true, false},
		"after attach-config":  {true, true},
	} {
		t.Run(moment, func(t *testing.T) {
			h := newHost()
			a := h.Adapter()
			h.Hook(func(now string) {
				if now == moment {
					a.Close()
				}
			})
			r := hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: rawFile(t, "d", 1<<20)}
			a.Attach(t.Context(), r) // nobody hears the answer
			h.Hook(nil)
			var got hypervisor.Disk
			if disks := h.Disks(onID); len(disks) > 0 {
				got = disks[0]
			}
			if got.Live != want.live || got.Config != want.config {
				t.Errorf("left live %v, config %v; want %v", got.Live, got.Config, want)
			}
			_, err := a.Domains(t.Context())
			wants(t, "Domains of the dead", err, primitives.CodeUnavailable)
			attach(t, h.Adapter(), onID, "d", r.Mapping) // the next agent completes it
			if got := h.Disks(onID)[0]; !got.Live || !got.Config {
				t.Errorf("after a repeat the disk is shown as %+v", got)
			}
		})
	}
}

func TestAHookThatNeverReturnsHoldsNobodyUp(t *testing.T) {
	h := newHost()
	dead := h.Adapter()
	reached, end := make(chan struct{}), make(chan struct{})
	h.Hook(func(string) {
		close(reached)
		<-end
	})
	m := rawFile(t, "d", 1<<20)
	done := make(chan error)
	go func() {
		_, err := dead.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "dead", Mapping: m})
		done <- err
	}()
	<-reached
	dead.Close()
	h.Hook(nil)
	attach(t, h.Adapter(), onID, "alive", m)
	close(end)
	wants(t, "Attach of the dead", <-done, primitives.CodeUnavailable)
	has(t, h, onID, "alive")
}

func TestInterceptMakesItsErrorTheAnswer(t *testing.T) {
	h := newHost()
	mine := errors.New("dead")
	var seen []string
	h.Intercept(func(call string, at fake.Point) error {
		seen = append(seen, at.String()+" "+call)
		if call == "Attach" && at == fake.After {
			return mine
		}
		return nil
	})
	_, err := h.Adapter().Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: rawFile(t, "d", 1<<20)})
	if !errors.Is(err, mine) {
		t.Errorf("Attach = %v, want the answer lost", err)
	}
	has(t, h, onID, "d")
	if want := []string{"before Attach", "after Attach"}; !slices.Equal(seen, want) {
		t.Errorf("asked at %v, want %v", seen, want)
	}
}

func TestCallsAreLoggedInOrder(t *testing.T) {
	h := newHost()
	a := h.Adapter()
	m := rawFile(t, "d", 1<<20)
	attach(t, a, onID, "d", m)
	attach(t, a, onID, "d", m) // nothing to do
	if _, err := a.Disks(t.Context(), onID); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Detach(t.Context(), onID, "d"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range h.Calls() {
		got = append(got, c.Name)
	}
	if want := []string{"attach", "attach-config", "disks", "detach", "detach-config"}; !slices.Equal(got, want) {
		t.Errorf("Calls = %v, want %v", got, want)
	}
	if got, want := h.Calls()[0].String(), "attach "+string(onID)+" d"; got != want {
		t.Errorf("Calls()[0] = %q, want %q", got, want)
	}
}
