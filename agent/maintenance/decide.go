// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// waits is the action of a use that ends by itself.
const waits = "wait"

// situation is all that decides what a maintenance does to the uses of a device.
type situation struct {
	Device  string
	Impact  protocol.Impact
	Policy  protocol.Policy // of the intent; empty: the uses' own
	Users   []facts
	Targets []target
	Rate    int64 // bytes per second
	// What the hypervisor offers at all.
	Mover, Pauser, Powerer bool
}

// facts are what is known of one use.
type facts struct {
	user
	Domain  hypervisor.Domain // zero: not known
	Known   bool              // the domain and its disks were read
	Disk    hypervisor.Disk   // as the domain shows it; zero: it does not
	Bytes   int64             // that a move copies
	Size    int64             // of the volume
	Sharers []primitives.Blocker
	Overlay bool // a hypervisor's snapshot lies upon the disk
}

// target is a device that a disk could go to.
type target struct {
	Name   string
	Open   bool // it can be used at all
	Gate   protocol.Gate
	IDs    []string // of the maintenances that cover it
	Free   int64    // -1: unknown
	Map    bool
	Forms  []primitives.Form
	Max    int64 // the largest volume; 0: no limit known
	Grains int64 // volume sizes are multiples of it
	Taken  map[string]bool
}

// decide plans every use. Targets fill up as they are given out, so that two
// disks are not promised the same room.
func decide(s situation) []PlanUse {
	targets := slices.Clone(s.Targets)
	plans := make([]PlanUse, 0, len(s.Users))
	users := slices.Clone(s.Users)
	slices.SortFunc(users, func(a, b facts) int { return cmp.Compare(a.ID, b.ID) })
	for _, f := range users {
		p := s.use(f, targets)
		for i := range targets {
			if targets[i].Name == p.Target && targets[i].Free >= 0 {
				targets[i].Free -= p.Bytes
			}
		}
		plans = append(plans, p)
	}
	return plans
}

// use plans one use: the first step of its policy that is feasible.
func (s situation) use(f facts, targets []target) PlanUse {
	p := PlanUse{ID: f.ID, Kind: f.Kind, Subject: f.Subject, Domain: cmp.Or(f.Domain.Name, f.Use.Domain), Disk: f.Use.Disk}
	switch f.Kind {
	case kindDisk:
	case kindSubscriber:
		p.Action, p.Notes = string(protocol.Ask), []string{"the client answers for itself"}
		return p
	default:
		p.Action, p.Notes = waits, []string{"it comes to its end by itself"}
		return p
	}
	if f.off() && s.Impact != protocol.DataLoss {
		p.Action, p.Notes = waits, []string{"its domain is off and holds nothing"}
		return p
	}
	for _, step := range s.policy(f) {
		to, blockers := s.feasible(step, f, targets)
		if len(blockers) == 0 {
			p.take(step, to, f, s.Rate)
			return p
		}
		p.Blockers = append(p.Blockers, blockers...)
	}
	p.Action = string(protocol.Ask)
	p.Notes = append(p.Notes, "no step of its policy can be taken; it blocks until somebody answers for it")
	return p
}

func (s situation) policy(f facts) protocol.Policy {
	switch {
	case len(s.Policy) > 0:
		return s.Policy
	case len(f.Policy) > 0:
		return f.Policy
	}
	return protocol.DefaultPolicy()
}

// off reports that the domain is known to be off.
func (f facts) off() bool {
	return f.Known && (f.Domain.State == hypervisor.StateOff || f.Domain.State == hypervisor.StateCrashed)
}

// take makes a step the use's plan.
func (p *PlanUse) take(step protocol.PolicyStep, to string, f facts, rate int64) {
	p.Action, p.Target = string(step.Action), to
	switch step.Action {
	case protocol.Move:
		p.Bytes = f.Bytes
		if rate > 0 {
			p.Seconds = float64(f.Bytes) / float64(rate)
		}
	case protocol.Shutdown:
		p.Notes = append(p.Notes, "the whole domain is shut down")
		if step.Restart {
			p.Notes = append(p.Notes, "it is started again when the device is back")
		}
	case protocol.Pause:
		p.Notes = append(p.Notes, "the whole domain is paused")
	case protocol.Ask:
		p.Notes = append(p.Notes, "somebody has to answer for it")
	}
}

// feasible says why a step cannot be taken; nothing: it can, with a move to the
// device named.
func (s situation) feasible(step protocol.PolicyStep, f facts, targets []target) (to string, by []primitives.Blocker) {
	no := func(kind, format string, args ...any) (string, []primitives.Blocker) {
		return "", []primitives.Blocker{{Kind: kind, Name: string(step.Action) + ": " + fmt.Sprintf(format, args...)}}
	}
	domain := cmp.Or(f.Domain.Name, f.Use.Domain)
	switch step.Action {
	case protocol.Ask:
		return "", nil
	case protocol.Ignore, protocol.Pause:
		if s.Impact != protocol.IOStall {
			return no("impact", "the device goes away; only who let go of it is ready")
		}
	case protocol.Detach, protocol.Shutdown:
		if s.Impact == protocol.DataLoss {
			return no("impact", "the data does not come back")
		}
	}
	if step.Action == protocol.Ignore {
		return "", nil
	}
	if !f.Known {
		return no("domain", "%s could not be looked at", domain)
	}
	if by := s.able(step.Action, f, domain); len(by) > 0 {
		return "", by
	}
	if step.Action == protocol.Move {
		return choose(step.Target, f, targets)
	}
	return "", nil
}

// able says what of the domain or the hypervisor is in a step's way.
func (s situation) able(a protocol.Action, f facts, domain string) (by []primitives.Blocker) {
	no := func(kind, format string, args ...any) {
		by = append(by, primitives.Blocker{Kind: kind, Name: string(a) + ": " + fmt.Sprintf(format, args...)})
	}
	running := f.Domain.State == hypervisor.StateRunning || f.Domain.State == hypervisor.StatePaused
	switch a {
	case protocol.Move, protocol.Detach:
		if f.Disk.ID == "" {
			no("disk", "%s of domain %s was not attached by tenon", f.Use.Disk, domain)
		}
		if f.Disk.Job != "" {
			no("disk", "the job %q runs on %s of domain %s", f.Disk.Job, f.Disk.Target, domain)
		}
		if f.Overlay {
			no("snapshot", "a snapshot of the hypervisor's own lies upon %s of domain %s", f.Disk.Target, domain)
		}
	}
	switch a {
	case protocol.Move:
		if !s.Mover || running && !f.Domain.Caps.Move {
			no("domain", "%s cannot move disks while it runs", domain)
		}
		if !running {
			no("domain", "%s is %s; only disks of running domains are moved", domain, f.Domain.State)
		}
		by = append(by, f.Sharers...)
	case protocol.Detach:
		if running && !f.Domain.Caps.DetachLive {
			no("domain", "%s gives no disk back while it runs", domain)
		}
	case protocol.Pause:
		if !s.Pauser || !f.Domain.Caps.Pause {
			no("domain", "%s cannot be paused", domain)
		}
	case protocol.Shutdown:
		if !s.Powerer {
			no("domain", "%s cannot be shut down by tenon", domain)
		}
	}
	return by
}

// choose picks the device that a disk goes to: the one named, or the one with the
// most room. It says of each why it does not do, where none does.
func choose(named string, f facts, targets []target) (string, []primitives.Blocker) {
	var best *target
	var by []primitives.Blocker
	found := false
	for i := range targets {
		t := &targets[i]
		if named != "" && t.Name != named {
			continue
		}
		found = true
		if why := t.unfit(f); why != "" {
			by = append(by, primitives.Blocker{Kind: "device", Name: t.Name + ": " + why})
			continue
		}
		if best == nil || t.Free > best.Free {
			best = t
		}
	}
	switch {
	case best != nil:
		return best.Name, nil
	case named != "" && !found:
		return "", []primitives.Blocker{{Kind: "device", Name: named + ": it is not configured, or is the device itself"}}
	case !found:
		return "", []primitives.Blocker{{Kind: "device", Name: "there is no other device"}}
	}
	return "", by
}

// unfit says why a disk cannot go to a device; empty: it can.
func (t *target) unfit(f facts) string {
	switch {
	case t.Gate != protocol.GateOpen && len(t.IDs) > 0:
		return fmt.Sprintf("it is in maintenance itself, %s", t.IDs[0])
	case t.Gate != protocol.GateOpen:
		return "nothing new may use it"
	case !t.Open:
		return "it is not open"
	case !t.Map:
		return "it cannot be mapped"
	case !accepts(f.Domain.Caps.Accepts, t.Forms):
		return "the domain takes none of its forms"
	case t.Free >= 0 && t.Free < f.Bytes:
		return fmt.Sprintf("it has %d bytes free, the disk needs %d", t.Free, f.Bytes)
	case t.Max > 0 && f.Size > t.Max:
		return fmt.Sprintf("its volumes have at most %d bytes, the disk has %d", t.Max, f.Size)
	case t.Grains > 0 && f.Size%t.Grains != 0:
		return fmt.Sprintf("its volumes are multiples of %d bytes, the disk has %d", t.Grains, f.Size)
	case t.Taken[f.URI.Volume]:
		return fmt.Sprintf("it has a volume %s already", f.URI.Volume)
	}
	return ""
}

// accepts reports whether a domain takes one of the forms.
func accepts(takes []primitives.Acceptable, forms []primitives.Form) bool {
	return slices.ContainsFunc(takes, func(a primitives.Acceptable) bool { return slices.Contains(forms, a.Form) })
}

// digestOf is equal for two plans that do the same to the same uses. Bytes and
// seconds are not in it: a guest that writes would change them.
func digestOf(device string, i protocol.Intent, uses []PlanUse) string {
	type what struct {
		ID, Action, Target string
	}
	all := make([]what, 0, len(uses))
	for _, u := range uses {
		all = append(all, what{u.ID, u.Action, u.Target})
	}
	data, err := json.Marshal(struct {
		Device string
		Impact protocol.Impact
		Uses   []what
	}{device, i.Impact, all})
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

// differences says in words what changed from one plan to another.
func differences(before, after []PlanUse) []string {
	had := make(map[string]PlanUse)
	for _, u := range before {
		had[u.ID] = u
	}
	var out []string
	for _, u := range after {
		b, known := had[u.ID]
		delete(had, u.ID)
		switch {
		case !known:
			out = append(out, fmt.Sprintf("%s (%s) came: %s", u.ID, u.Subject, u.words()))
		case b.words() != u.words():
			out = append(out, fmt.Sprintf("%s (%s): %s instead of %s", u.ID, u.Subject, u.words(), b.words()))
		}
	}
	for _, u := range before {
		if _, left := had[u.ID]; left {
			out = append(out, fmt.Sprintf("%s (%s) is gone", u.ID, u.Subject))
		}
	}
	return out
}

func (p PlanUse) words() string {
	if p.Target != "" {
		return p.Action + " to " + p.Target
	}
	return p.Action
}
