// SPDX-License-Identifier: Apache-2.0

// Package hook_test tries packaging/hooks/qemu where it will stand: below
// /etc/libvirt/hooks of real libvirtds, two of them, each with a name space, a
// host name and an identity of its own. One of them has a tenond.
package hook_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/test/host"
)

// Cases: E75, E76
func TestTheHookKeepsDomainsAwayFromADeviceInMaintenance(t *testing.T) {
	w := newWorld(t)
	w.define("web", "fast/web01")
	w.define("db", "fast/db01")
	w.define("plain", "")
	stray := w.file("fast/stray")
	w.wanderer(w.file("fast/moving"))

	w.step("a domain starts while the device is in service", func(t *testing.T) {
		w.must(t, w.here, "start", "web")
	})
	w.step("a disk attached behind tenon's back is found and blocks", func(t *testing.T) {
		w.must(t, w.here, "attach-disk", "web", stray, "vdz", "--driver", "qemu", "--subdriver", "raw", "--live")
		w.ctl(t, "maintenance", "prepare", "fast", "--id", "m-1", "--reason", "new disks", "--expected", "2h", "--policy", "ask")
		m := w.await(t, "the stray disk is named", func(m status) bool { return m.names(stray) })
		if m.Phase == "MAINTENANCE_PHASE_FENCING" || m.Phase == "MAINTENANCE_PHASE_IN_MAINTENANCE" {
			t.Errorf("phase = %s although somebody has the device open", m.Phase)
		}
		w.must(t, w.here, "destroy", "web") // a guest that has not booted lets go of nothing
		w.await(t, "the stray disk is gone", func(m status) bool { return !m.names(stray) })
	})
	w.step("a domain does not start while the gate is closed", func(t *testing.T) {
		w.refused(t, w.here, []string{"m-1", "2h", "slow"}, "start", "db")
	})
	w.step("a domain without tenon's disks starts all the same", func(t *testing.T) {
		w.must(t, w.here, "start", "plain")
		w.must(t, w.here, "destroy", "plain")
	})
	w.step("a domain does not migrate in while the gate is closed, and runs on where it is", func(t *testing.T) {
		w.refused(t, w.there, []string{"m-1", "2h", "slow"}, w.migration()...)
		w.running(t, w.there, "wanderer")
	})
	w.step("with tenond killed tenon's domains stay where they are and others start", func(t *testing.T) {
		if err := w.tenond.Kill(); err != nil {
			t.Fatal(err)
		}
		w.refused(t, w.here, []string{"not known", "tenond"}, "start", "db")
		w.refused(t, w.there, []string{"not known", "tenond"}, w.migration()...)
		w.running(t, w.there, "wanderer")
		w.must(t, w.here, "start", "plain")
		w.must(t, w.here, "destroy", "plain")
	})
	w.step("the gate is still closed when tenond is back", func(t *testing.T) {
		w.start()
		w.refused(t, w.here, []string{"m-1"}, "start", "db")
	})
	w.step("after the cancel all of them come", func(t *testing.T) {
		w.ctl(t, "maintenance", "cancel", "fast")
		w.await(t, "the device is in service", func(m status) bool { return m.Phase == "MAINTENANCE_PHASE_IN_SERVICE" && m.Gate == "GATE_OPEN" })
		w.must(t, w.here, "start", "db")
		w.must(t, w.here, "destroy", "db")
		w.must(t, w.there, w.migration()...)
		w.running(t, w.here, "wanderer")
		w.must(t, w.here, "destroy", "wanderer")
	})
	w.step("a start that races the gate is a use or is refused", w.race)
}

// race starts a domain while the gate closes, a few times over. Whoever wins, no
// device is fenced under a domain that runs.
func (w *world) race(t *testing.T) {
	outcomes := map[bool]int{}
	for i := range 4 {
		started := make(chan error, 1)
		go func() { _, err := w.here.Virsh(t.Context(), "start", "db"); started <- err }()
		if i%2 == 1 {
			w.awaitRunning(t, "db") // by a nose: the start is not over when the gate begins to close
		}
		w.ctl(t, "maintenance", "prepare", "fast", "--id", fmt.Sprintf("race-%d", i), "--policy", "ask")
		err := <-started
		outcomes[err == nil]++
		m := w.status(t)
		if err == nil && (m.Host == "HOST_PHASE_DRAINED" || m.Host == "HOST_PHASE_FENCING" || m.Host == "HOST_PHASE_FENCED" || !m.uses("db")) {
			t.Errorf("round %d: db runs, host phase = %s, uses = %v; want a use that blocks", i, m.Host, m.Uses)
		}
		// The fence may take the file away from a domain that came in too late to be a use.
		if text := stderr(err); err != nil && !strings.Contains(text, fmt.Sprintf("race-%d", i)) && !strings.Contains(text, "No such file") {
			t.Errorf("round %d: the start failed, but not by the gate or the fence: %s", i, text)
		}
		w.ctl(t, "maintenance", "cancel", "fast")
		w.await(t, "the device is in service", func(m status) bool { return m.Phase == "MAINTENANCE_PHASE_IN_SERVICE" && m.Gate == "GATE_OPEN" })
		if err == nil {
			w.must(t, w.here, "destroy", "db")
		}
	}
	if outcomes[true] == 0 {
		t.Error("no start came before the gate; the race tried nothing")
	}
	t.Logf("of 4 starts %d came before the gate and %d after it", outcomes[true], outcomes[false])
}

// status is what this test reads of tenonctl's JSON.
type status struct {
	Phase   string `json:"phase"`
	Host    string `json:"host_phase"`
	Gate    string `json:"gate"`
	Foreign []struct {
		Name string `json:"name"`
		Path string `json:"path"`
	} `json:"foreign_uses"`
	Uses []struct {
		Domain  string `json:"domain"`
		Subject string `json:"subject"`
		State   string `json:"state"`
	} `json:"uses"`
}

// names tells whether a foreign user has path open.
func (s status) names(path string) bool {
	for _, f := range s.Foreign {
		if strings.Contains(f.Path, filepath.Base(path)) || strings.Contains(f.Name, filepath.Base(path)) {
			return true
		}
	}
	return false
}

func (s status) uses(domain string) bool {
	for _, u := range s.Uses {
		if strings.Contains(u.Domain, domain) || strings.Contains(u.Subject, domain) {
			return true
		}
	}
	return false
}

func (w *world) status(t *testing.T) status {
	t.Helper()
	var s status
	if err := w.tenond.RunJSON(t.Context(), &s, "maintenance", "status", "fast"); err != nil {
		t.Fatal(err)
	}
	return s
}

// await looks at the device until done says so.
func (w *world) await(t *testing.T, what string, done func(status) bool) status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		s := w.status(t)
		if done(s) {
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting until %s: the device is still %+v", what, s)
		case <-tick.C:
		}
	}
}

// must runs virsh.
func (w *world) must(t *testing.T, l *host.Libvirtd, args ...string) string {
	t.Helper()
	out, err := l.Virsh(t.Context(), args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr(err))
	}
	return out
}

// refused runs virsh and wants it to fail with all of these words.
func (w *world) refused(t *testing.T, l *host.Libvirtd, words []string, args ...string) {
	t.Helper()
	_, err := l.Virsh(t.Context(), args...)
	if err == nil {
		t.Fatalf("virsh %v succeeded, want a refusal", args)
	}
	for _, word := range words {
		if !strings.Contains(stderr(err), word) {
			t.Errorf("virsh %v was refused without %q: %s", args, word, stderr(err))
		}
	}
}

// awaitRunning waits until the hypervisor runs a domain.
func (w *world) awaitRunning(t *testing.T, domain string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if state, err := w.here.Virsh(ctx, "domstate", domain); err == nil && state == "running" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("domain %s does not run", domain)
		case <-tick.C:
		}
	}
}

func (w *world) running(t *testing.T, l *host.Libvirtd, domain string) {
	t.Helper()
	if state := w.must(t, l, "domstate", domain); state != "running" {
		t.Errorf("domain %s is %s, want running", domain, state)
	}
}

func (w *world) ctl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.tenond.Run(t.Context(), args...)
	if err != nil {
		t.Fatalf("tenonctl %v: %s", args, stderr(err))
	}
	return out
}

// stderr is all that a command said of its failure.
func stderr(err error) string {
	if e, ok := errors.AsType[*command.Error](err); ok {
		return e.Stderr
	}
	return fmt.Sprint(err)
}

var sourceFile = regexp.MustCompile(`<source file='([^']*)'`)

// sourceOf returns the file of a domain's one disk.
func sourceOf(t *testing.T, definition string) string {
	t.Helper()
	found := sourceFile.FindStringSubmatch(definition)
	if found == nil {
		t.Fatalf("no disk on a file in %s", definition)
	}
	if _, err := os.Stat(found[1]); err != nil {
		t.Fatal(err)
	}
	return found[1]
}
