// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// disk is a disk of a running domain that can do everything, of one/v.
func disk(id string) maintenance.Facts {
	f := maintenance.Facts{Known: true, Size: 100 << 20, Bytes: 40 << 20}
	f.ID, f.Kind, f.Subject, f.URI = id, "disk", "one/v", primitives.URI{Device: "one", Volume: "v"}
	f.Domain = hypervisor.Domain{Name: "web", State: hypervisor.StateRunning, Caps: hypervisor.Caps{
		AttachLive: true, DetachLive: true, Move: true, Pause: true,
		Accepts: []primitives.Acceptable{{Form: primitives.FormFile}},
	}}
	f.Disk = hypervisor.Disk{ID: "d", Target: "vdb", Live: true}
	return f
}

// device is one that a disk could go to.
func device(name string, free int64) maintenance.Target {
	return maintenance.Target{Name: name, Open: true, Gate: protocol.GateOpen, Free: free, Map: true, Forms: []primitives.Form{primitives.FormFile}}
}

func steps(actions ...protocol.Action) protocol.Policy {
	var p protocol.Policy
	for _, a := range actions {
		p = append(p, protocol.PolicyStep{Action: a})
	}
	return p
}

// Cases: E70, E85, E86, E87
func TestTheFirstFeasibleStepOfAPolicyIsPlanned(t *testing.T) {
	full, roomy := device("full", 1<<20), device("roomy", 1<<40)
	gated := device("gated", 1<<41)
	gated.Gate, gated.IDs = protocol.GateClosed, []string{"m7"}
	taken := device("taken", 1<<40)
	taken.Taken = map[string]bool{"v": true}
	off, strange, shared, snapped, busy := disk("u"), disk("u"), disk("u"), disk("u"), disk("u")
	off.Domain.State = hypervisor.StateOff
	strange.Disk.ID = ""
	shared.Sharers = []primitives.Blocker{{Kind: "disk", Name: "d2 of domain other"}}
	snapped.Overlay = true
	busy.Disk.Job = "backup"
	unknown := maintenance.Facts{}
	unknown.ID, unknown.Kind = "u", "disk"
	copying := disk("u")
	copying.Kind = "transfer"
	client := disk("u")
	client.Kind = "subscriber"
	for name, c := range map[string]struct {
		use     maintenance.Facts
		impact  protocol.Impact
		policy  protocol.Policy
		targets []maintenance.Target
		want    string // action, with the target
		says    string // a part of some blocker or note
	}{
		"to the roomiest":                  {use: disk("u"), targets: []maintenance.Target{device("small", 1<<30), roomy}, want: "move roomy"},
		"to the one that is named":         {use: disk("u"), policy: protocol.Policy{{Action: protocol.Move, Target: "small"}}, targets: []maintenance.Target{device("small", 1<<30), roomy}, want: "move small"},
		"to none that is not there":        {use: disk("u"), policy: protocol.Policy{{Action: protocol.Move, Target: "nil"}}, targets: []maintenance.Target{roomy}, want: "ask", says: "nil: it is not configured"},
		"not to a full one":                {use: disk("u"), targets: []maintenance.Target{full}, want: "ask", says: "the disk needs"},
		"not to one in maintenance":        {use: disk("u"), targets: []maintenance.Target{gated}, want: "ask", says: "in maintenance itself, m7"},
		"not beside its namesake":          {use: disk("u"), targets: []maintenance.Target{taken}, want: "ask", says: "has a volume v already"},
		"nowhere to go":                    {use: disk("u"), want: "ask", says: "no other device"},
		"the next step then":               {use: disk("u"), policy: steps(protocol.Move, protocol.Detach), targets: []maintenance.Target{full}, want: "detach"},
		"pause for a stall":                {use: disk("u"), impact: protocol.IOStall, policy: steps(protocol.Pause), want: "pause"},
		"no pause when it goes away":       {use: disk("u"), policy: steps(protocol.Pause), want: "ask", says: "only who let go"},
		"ignore a stall":                   {use: disk("u"), impact: protocol.IOStall, policy: steps(protocol.Ignore), want: "ignore"},
		"no ignoring a disconnect":         {use: disk("u"), policy: steps(protocol.Ignore), want: "ask"},
		"no detach from data that is lost": {use: disk("u"), impact: protocol.DataLoss, policy: steps(protocol.Detach, protocol.Shutdown), want: "ask", says: "does not come back"},
		"shut down":                        {use: disk("u"), policy: steps(protocol.Shutdown), want: "shutdown"},
		"off holds nothing":                {use: off, want: "wait", says: "off"},
		"off, and its data is lost":        {use: off, impact: protocol.DataLoss, targets: []maintenance.Target{roomy}, want: "ask", says: "only disks of running domains"},
		"not tenon's":                      {use: strange, targets: []maintenance.Target{roomy}, want: "ask", says: "not attached by tenon"},
		"shared by two":                    {use: shared, targets: []maintenance.Target{roomy}, want: "ask", says: "d2 of domain other"},
		"beneath a hypervisor's snapshot":  {use: snapped, targets: []maintenance.Target{roomy}, want: "ask", says: "hypervisor's own"},
		"while a job runs on it":           {use: busy, targets: []maintenance.Target{roomy}, want: "ask", says: `"backup"`},
		"a domain that does not answer":    {use: unknown, targets: []maintenance.Target{roomy}, want: "ask", says: "could not be looked at"},
		"a copy ends by itself":            {use: copying, want: "wait"},
		"a client answers for itself":      {use: client, want: "ask"},
	} {
		impact := c.impact
		if impact == 0 {
			impact = protocol.Disconnect
		}
		got := maintenance.Decide(maintenance.Situation{
			Device: "one", Impact: impact, Policy: c.policy, Users: []maintenance.Facts{c.use}, Targets: c.targets,
			Rate: 10 << 20, Mover: true, Pauser: true, Powerer: true,
		})[0]
		if have := strings.TrimSpace(got.Action + " " + got.Target); have != c.want {
			t.Errorf("%s: %q, want %q; it says %v %v", name, have, c.want, got.Blockers, got.Notes)
		}
		var said []string
		for _, b := range got.Blockers {
			said = append(said, b.Name)
		}
		if text := strings.Join(append(said, got.Notes...), "\n"); !strings.Contains(text, c.says) {
			t.Errorf("%s: it says %q, want %q in it", name, text, c.says)
		}
		if got.Action == "move" && (got.Bytes != 40<<20 || got.Seconds != 4) {
			t.Errorf("%s: %d bytes in %v s, want 40 MiB in 4 s", name, got.Bytes, got.Seconds)
		}
	}
}

func TestTwoDisksAreNotPromisedTheSameRoom(t *testing.T) {
	a, b := disk("a"), disk("b")
	b.URI.Volume = "w"
	plan := maintenance.Decide(maintenance.Situation{
		Device: "one", Impact: protocol.Disconnect, Users: []maintenance.Facts{a, b}, Targets: []maintenance.Target{device("two", 50<<20)}, Mover: true,
	})
	if plan[0].Action != "move" || plan[1].Action != "ask" {
		t.Errorf("plan = %+v, want the second disk to find no room", plan)
	}
}

func TestADigestIsOfWhatIsDoneAndNotOfHowLongItTakes(t *testing.T) {
	i := protocol.Intent{Impact: protocol.Disconnect}
	a := []maintenance.PlanUse{{ID: "u", Action: "move", Target: "two", Bytes: 1}}
	b := []maintenance.PlanUse{{ID: "u", Action: "move", Target: "two", Bytes: 2, Seconds: 3}}
	c := []maintenance.PlanUse{{ID: "u", Action: "move", Target: "three"}, {ID: "v", Action: "ask", Subject: "one/v"}}
	if maintenance.DigestOf("one", i, a) != maintenance.DigestOf("one", i, b) {
		t.Error("a plan whose bytes differ has another digest")
	}
	if maintenance.DigestOf("one", i, a) == maintenance.DigestOf("one", i, c) {
		t.Error("another plan has the same digest")
	}
	want := []string{"u (): move to three instead of move to two", "v (one/v) came: ask"}
	if d := cmp.Diff(want, maintenance.Differences(a, c)); d != "" {
		t.Errorf("Differences (-want +got):\n%s", d)
	}
}
