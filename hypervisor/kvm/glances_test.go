// SPDX-License-Identifier: Apache-2.0

package kvm_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/fake"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// watched is a way to libvirt that counts how often a domain is read and given a
// disk, and may lose all events.
type watched struct {
	virt.Conn
	reads, attaches *atomic.Int64
	deaf            *atomic.Bool
}

func (r watched) AttachDevice(domain, xml string, half virt.Half) error {
	r.attaches.Add(1)
	return r.Conn.AttachDevice(domain, xml, half)
}

func (r watched) Listen(handle func(virt.Event)) error {
	return r.Conn.Listen(func(e virt.Event) {
		if !r.deaf.Load() {
			handle(e)
		}
	})
}

func (r watched) XML(domain string, half virt.Half) (string, error) {
	if half == virt.Live {
		r.reads.Add(1)
	}
	return r.Conn.XML(domain, half)
}

// glancing runs a test with an adapter whose reads are counted, and with somebody
// else who changes the same domains.
func glancing(t *testing.T, run func(t *testing.T, l *fake.Libvirt, a, other *kvm.Adapter, w watched)) {
	synctest.Test(t, func(t *testing.T) {
		l := newFake(t)
		w := watched{reads: new(atomic.Int64), attaches: new(atomic.Int64), deaf: new(atomic.Bool)}
		a := kvm.NewOver(func(uri string) (_ virt.Conn, err error) {
			w.Conn, err = l.Open(uri)
			return w, err
		}, kvm.Options{})
		t.Cleanup(func() { a.Close() })
		run(t, l, a, newAdapter(t, l, kvm.Options{}), w)
	})
}

// glance looks at the running domain and forgets that it was read.
func glance(t *testing.T, a *kvm.Adapter, w watched) {
	t.Helper()
	synctest.Wait() // until every event of what was done before has come
	if _, err := a.Domain(t.Context(), onID); err != nil {
		t.Fatal(err)
	}
	w.reads.Store(0)
}

func TestAnAttachBuildsOnceUponALookThatWasJustTaken(t *testing.T) {
	glancing(t, func(t *testing.T, _ *fake.Libvirt, a, _ *kvm.Adapter, w watched) {
		glance(t, a, w)
		attach(t, a, "d")
		if got := w.reads.Load(); got != 0 {
			t.Errorf("the domain was read %d times for the attach, want none", got)
		}
		synctest.Wait()
		attach(t, a, "e")
		if got := w.reads.Load(); got != 1 {
			t.Errorf("the domain was read %d times for a second attach, want once", got)
		}
		if d, e := shown(t, a, "d"), shown(t, a, "e"); d.Target == e.Target || !e.Live || !e.Config {
			t.Errorf("disks = %+v and %+v, want two in both halves", d, e)
		}
	})
}

func TestALookAtADomainAlsoProbesIt(t *testing.T) {
	glancing(t, func(t *testing.T, l *fake.Libvirt, a, _ *kvm.Adapter, w watched) {
		glance(t, a, w)
		if got := l.Probed(onID); got != 1 {
			t.Errorf("a look probed the domain %d times, want once", got)
		}
		attach(t, a, "d")
		if got := l.Probed(onID); got != 1 {
			t.Errorf("the attach after a look probed the domain %d times more, want not at all", got-1)
		}
	})
}

func TestALookDoesNotFreeADomainThatIsStuck(t *testing.T) {
	glancing(t, func(t *testing.T, l *fake.Libvirt, a, other *kvm.Adapter, w watched) {
		r := hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: fileMapping("/img/d", "raw")}
		resume := l.Stall(onID)
		defer resume()
		_, err := other.Attach(within(t, 20*time.Second), r)
		wantCode(t, "Attach to a stopped domain", err, primitives.CodeUnavailable)
		glance(t, a, w)
		start := time.Now()
		_, err = a.Attach(t.Context(), r)
		wantCode(t, "Attach to a domain that another got stuck", err, primitives.CodeUnavailable)
		if took := time.Since(start); took != 0 {
			t.Errorf("it was refused after %v, want at once", took)
		}
	})
}

// What is known to have happened since makes a look worthless.
func TestALookIsForgottenWhenAnythingHappens(t *testing.T) {
	for what, happen := range map[string]func(t *testing.T, l *fake.Libvirt, a, other *kvm.Adapter){
		"time passes":          func(*testing.T, *fake.Libvirt, *kvm.Adapter, *kvm.Adapter) { <-time.After(time.Second) },
		"somebody attaches":    func(t *testing.T, _ *fake.Libvirt, _, other *kvm.Adapter) { attach(t, other, "x") },
		"the agent attaches":   func(t *testing.T, _ *fake.Libvirt, a, _ *kvm.Adapter) { attach(t, a, "x"); attach(t, a, "y") },
		"the domain is paused": func(_ *testing.T, l *fake.Libvirt, _, _ *kvm.Adapter) { l.Pause(onID, "ioerror") },
	} {
		t.Run(what, func(t *testing.T) {
			glancing(t, func(t *testing.T, l *fake.Libvirt, a, other *kvm.Adapter, w watched) {
				glance(t, a, w)
				happen(t, l, a, other)
				synctest.Wait()
				w.reads.Store(0)
				attach(t, a, "d")
				if got := w.reads.Load(); got != 1 {
					t.Errorf("the domain was read %d times, want once", got)
				}
			})
		})
	}
}

// A call that was given up may end between a look and what is done upon it.
func TestALookIsForgottenWhenAHangingCallReturns(t *testing.T) {
	glancing(t, func(t *testing.T, l *fake.Libvirt, a, _ *kvm.Adapter, w watched) {
		resume := l.Stall(onID)
		r := hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: fileMapping("/img/d", "raw")}
		_, err := a.Attach(within(t, time.Second), r)
		wantCode(t, "Attach to a stopped domain", err, primitives.CodeUnavailable)
		w.deaf.Store(true)
		glance(t, a, w)
		resume()
		synctest.Wait()
		w.attaches.Store(0)
		if res, err := a.Attach(t.Context(), r); err != nil || res.Live != hypervisor.Already {
			t.Errorf("Attach after the stall = %+v, %v; want what the hanging call did", res, err)
		}
		if got := w.attaches.Load(); got != 1 {
			t.Errorf("Attach after the stall made %d calls, want one for the definition", got)
		}
	})
}

// Somebody else changes the domain after the look, and libvirt says nothing. The
// attach must come to what it would have come to without the look.
func TestAnAttachUponALookThatIsNoLongerTrueLooksAgain(t *testing.T) {
	type outcome struct {
		live, config hypervisor.Outcome
		target       string
	}
	for what, c := range map[string]struct {
		happen func(t *testing.T, l *fake.Libvirt, other *kvm.Adapter)
		want   outcome
	}{
		"a disk took the name in both halves": {
			func(t *testing.T, _ *fake.Libvirt, other *kvm.Adapter) { attach(t, other, "x") },
			outcome{hypervisor.Done, hypervisor.Done, "vdb"},
		},
		"a disk took the name in the definition": {
			func(t *testing.T, _ *fake.Libvirt, other *kvm.Adapter) {
				r := hypervisor.AttachRequest{Domain: onID, Disk: "x", Mapping: fileMapping("/img/x", "raw"), Where: hypervisor.ConfigOnly}
				if _, err := other.Attach(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			},
			outcome{hypervisor.Done, hypervisor.Done, "vda"},
		},
		"the domain ended": {
			func(_ *testing.T, l *fake.Libvirt, _ *kvm.Adapter) { l.Kill(onID) },
			outcome{hypervisor.NotAsked, hypervisor.Done, "vda"},
		},
	} {
		t.Run(what, func(t *testing.T) {
			glancing(t, func(t *testing.T, l *fake.Libvirt, a, other *kvm.Adapter, w watched) {
				w.deaf.Store(true)
				glance(t, a, w)
				c.happen(t, l, other)
				res, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: fileMapping("/img/d", "raw")})
				if got := (outcome{res.Live, res.Config, res.Disk.Target}); err != nil || res.ConfigErr != nil || got != c.want {
					t.Errorf("Attach = %+v, %v; want %+v", res, err, c.want)
				}
				if d := shown(t, a, "d"); !d.Config || d.Live != (c.want.live == hypervisor.Done) {
					t.Errorf("the disk is %+v, want it as the result says", d)
				}
			})
		})
	}
}

func TestAnAttachThatIsRefusedUponATrueLookIsNotRepeated(t *testing.T) {
	glancing(t, func(t *testing.T, l *fake.Libvirt, a, _ *kvm.Adapter, w watched) {
		glance(t, a, w)
		l.Fail(onID, "AttachDevice running domain", virt.Errorf(virt.CodeOperationFailed, "no")) // the next one only
		res, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Disk: "d", Mapping: fileMapping("/img/d", "raw")})
		if err == nil || res.Live != hypervisor.Failed {
			t.Errorf("Attach = %+v, %v; want libvirt's refusal", res, err)
		}
	})
}

func TestALookAtADomainThatIsOffIsNotBuiltUpon(t *testing.T) {
	glancing(t, func(t *testing.T, l *fake.Libvirt, a, _ *kvm.Adapter, w watched) {
		w.deaf.Store(true)
		if _, err := a.Domain(t.Context(), offID); err != nil {
			t.Fatal(err)
		}
		l.Start(offID)
		res, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: offID, Disk: "d", Mapping: fileMapping("/img/d", "raw")})
		if err != nil || res.Live != hypervisor.Done {
			t.Errorf("Attach = %+v, %v; want it in the domain, which runs now", res, err)
		}
	})
}

func TestALookUnderAnotherNameIsNotBuiltUpon(t *testing.T) {
	glancing(t, func(t *testing.T, _ *fake.Libvirt, a, _ *kvm.Adapter, w watched) {
		glance(t, a, w)
		_, err := a.Attach(t.Context(), hypervisor.AttachRequest{Domain: onID, Name: "off", Disk: "d", Mapping: fileMapping("/img/d", "raw")})
		wantCode(t, "Attach to a domain of another name", err, primitives.CodeConflict)
	})
}
