// SPDX-License-Identifier: Apache-2.0

package show_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// afterNoon is when people look.
var afterNoon = noon.AsTime().Add(3*time.Minute + 12*time.Second)

var blockedDevice = &tenonv1.Maintenance{
	Device: "fast", Phase: tenonv1.MaintenancePhase_MAINTENANCE_PHASE_BLOCKED, HostPhase: tenonv1.HostPhase_HOST_PHASE_DRAINING,
	Gate: tenonv1.Gate_GATE_CLOSED, Stamp: &tenonv1.Stamp{Term: 1, Epoch: 7, Rank: 1}, SinceTime: noon,
	DeadlineTime: timestamppb.New(noon.AsTime().Add(10 * time.Minute)), ManagedBy: "this host",
	Intents: []*tenonv1.MaintenanceIntent{{
		Id: "mnt-4f6k2m9p", Revision: 1, Requester: "uid=0/pid=4711", Reason: "swap disk 3", Impact: tenonv1.Impact_IMPACT_DISCONNECT,
		ExpectedDuration: durationpb.New(2 * time.Hour), RespondWithin: durationpb.New(time.Minute), DrainWithin: durationpb.New(10 * time.Minute),
		OnRespond: tenonv1.OnDeadline_ON_DEADLINE_HOLD, OnDrain: tenonv1.OnDeadline_ON_DEADLINE_ESCALATE, ReturnHome: true,
		Policy: []*tenonv1.PolicyStep{{Action: tenonv1.PolicyAction_POLICY_ACTION_MOVE, Target: "slow"}, {Action: tenonv1.PolicyAction_POLICY_ACTION_ASK}},
	}},
	Uses: []*tenonv1.MaintenanceUse{
		{
			Id: "disk-d-4f6k2m9p", Kind: "disk", Subject: "tenon://fast/vm1", Domain: "web01", Disk: "d-4f6k2m9p", Writer: true, State: tenonv1.UseState_USE_STATE_WORKING,
			Action: "move to slow", Percent: 37.4, Eta: durationpb.New(80 * time.Second),
		},
		{
			Id: "disk-d-77aa01bc", Kind: "disk", Subject: "tenon://fast/db", Domain: "db", Disk: "sda", State: tenonv1.UseState_USE_STATE_OBJECTED,
			Reason: &tenonv1.UseReason{Code: "backup-running", Text: "the nightly backup runs", Retryable: true, RetryIn: durationpb.New(30 * time.Minute)},
		},
		{
			Id: "operation-0660e273c77539-fzotfyg2", Kind: "operation", Subject: "disk.move 6f2c0f3a-0000-4000-8000-000000000001 d-4f6k2m9p",
			State: tenonv1.UseState_USE_STATE_ACCEPTED,
		},
		{
			Id: "copy-019ab1c2", Kind: "transfer", Subject: "tenon://fast/a-volume-with-a-name-that-is-longer-than-most@nightly",
			Domain: "a-domain-of-a-long-name", State: tenonv1.UseState_USE_STATE_NOTIFIED,
		},
		{Id: "sub-backup@fast", Kind: "subscriber", Subject: "backup", State: tenonv1.UseState_USE_STATE_READY, How: tenonv1.ReadyHow_READY_HOW_CLOSED},
	},
	ForeignUses: []*tenonv1.ForeignUse{{Name: "qemu-img (pid 812)", Pid: 812, Path: "/srv/fast/volumes/x"}},
	Blockers: []*tenonv1.Blocker{
		{Kind: "use", Name: "disk-d-77aa01bc (fast/db): objected: the nightly backup runs"}, {Kind: "process", Name: "qemu-img (pid 812)"},
	},
}

var quietDevice = &tenonv1.Maintenance{
	Device: "slow", Phase: tenonv1.MaintenancePhase_MAINTENANCE_PHASE_IN_SERVICE, HostPhase: tenonv1.HostPhase_HOST_PHASE_OPEN, Gate: tenonv1.Gate_GATE_OPEN,
	ManagedBy: "this host",
}

var servicedDevice = &tenonv1.Maintenance{
	Device: "fast", Phase: tenonv1.MaintenancePhase_MAINTENANCE_PHASE_RETURN_FAILED, HostPhase: tenonv1.HostPhase_HOST_PHASE_RETURN_FAILED,
	Gate: tenonv1.Gate_GATE_FENCED, Stamp: &tenonv1.Stamp{Term: 1, Epoch: 8, Rank: 1}, SinceTime: noon, DeadlineTime: noon, ManagedBy: "manager rack7",
	Fence: &tenonv1.FenceState{Intended: true, Verified: true, Method: "data folder set aside", Evidence: "open of volumes/: no such file or directory"}, Failure: "the store is dir:7c1e, it was dir:0b22",
}

var maintenanceGolden = map[string]func() string{
	"maintenance":         func() string { return style.Maintenance(blockedDevice, afterNoon) },
	"maintenance-quiet":   func() string { return style.Maintenance(quietDevice, afterNoon) },
	"maintenance-changed": func() string { return style.Maintenance(servicedDevice, afterNoon) },
	"maintenances": func() string {
		return style.Maintenances([]*tenonv1.Maintenance{blockedDevice, quietDevice}, afterNoon)
	},
	"maintenance-lines": func() string {
		return show.MaintenanceLine(quietDevice) + show.MaintenanceLine(blockedDevice) + show.MaintenanceLine(servicedDevice)
	},
	"maintenance-frame":        func() string { return style.MaintenanceFrame(blockedDevice, afterNoon, 120, 24) },
	"maintenance-frame-narrow": func() string { return style.MaintenanceFrame(blockedDevice, afterNoon, 80, 24) },
	"maintenance-frame-low":    func() string { return style.MaintenanceFrame(blockedDevice, afterNoon, 80, 5) },
	"plan": func() string {
		return show.Plan(&tenonv1.MaintenancePlan{Device: "fast", Digest: "5f2c9a", Uses: []*tenonv1.PlannedUse{
			{Id: "disk-d-4f6k2m9p", Kind: "disk", Subject: "tenon://fast/vm1", Domain: "web01", Disk: "d-4f6k2m9p", Action: "move", Target: "slow", SizeBytes: 20 << 30, Duration: durationpb.New(205 * time.Second)},
			{Id: "disk-d-77aa01bc", Kind: "disk", Subject: "tenon://fast/db", Domain: "db", Disk: "sda", Action: "ask", Blockers: []*tenonv1.Blocker{{Kind: "snapshot", Name: "fast/db@overlay"}}, Notes: []string{"move: slow has not enough space"}},
			{Id: "copy-019a", Kind: "transfer", Subject: "tenon://fast/vm1@nightly", Action: "wait"},
		}})
	},
	"plan-empty": func() string { return show.Plan(&tenonv1.MaintenancePlan{Device: "fast", Digest: "e3b0"}) },
	"audit": func() string {
		return style.AuditLines([]*tenonv1.MaintenanceAuditLine{
			{Time: noon, Device: "fast", MaintenanceId: "mnt-4f6k2m9p", Who: "uid=0/pid=4711", What: "prepare", Before: "in service", After: "preparing", Stamp: &tenonv1.Stamp{Term: 1, Epoch: 7}},
			{Time: later, Device: "fast", MaintenanceId: "mnt-4f6k2m9p", Who: "uid=0/pid=4720", What: "override use disk-d-77aa01bc", Override: "Jo, ticket 4711", Evidence: "guest is gone for good", Stamp: &tenonv1.Stamp{Term: 1, Epoch: 7}},
		})
	},
	"notices": func() string {
		return show.Notice(&tenonv1.MaintenanceNotice{
			Device: "fast", UseId: "sub-backup@fast", Phase: tenonv1.MaintenancePhase_MAINTENANCE_PHASE_ANNOUNCED, Impact: tenonv1.Impact_IMPACT_IO_STALL,
			ExpectedDuration: durationpb.New(2 * time.Hour), NotBeforeIn: durationpb.New(time.Hour), DrainWithin: durationpb.New(time.Minute), Reason: "swap\ndisk 3",
		}) + show.Cancellation(&tenonv1.MaintenanceCancellation{Device: "fast", Phase: tenonv1.MaintenancePhase_MAINTENANCE_PHASE_IN_SERVICE})
	},
}

func TestMaintenanceLooksAsPromised(t *testing.T) { looksAsPromised(t, maintenanceGolden) }

// A frame that wrapped or scrolled could not be drawn over.
func TestAFrameFitsTheTerminal(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {40, 10}, {20, 4}, {2, 3}, {1, 1}} {
		width, height := size[0], size[1]
		frame := style.MaintenanceFrame(blockedDevice, afterNoon, width, height)
		lines := strings.Split(strings.TrimSuffix(frame, "\n"), "\n")
		if len(lines) > max(2, height-1) {
			t.Errorf("frame of %d by %d has %d lines, want fewer than the terminal", width, height, len(lines))
		}
		for _, l := range lines {
			if utf8.RuneCountInString(l) > width {
				t.Errorf("frame of %d by %d has the line %q, want none that wraps", width, height, l)
			}
		}
	}
}

func TestAPolicyReadsBackWhatItPrints(t *testing.T) {
	for text, want := range map[string][]*tenonv1.PolicyStep{
		"move": {{Action: tenonv1.PolicyAction_POLICY_ACTION_MOVE}},
		"move:slow,detach,ask": {
			{Action: tenonv1.PolicyAction_POLICY_ACTION_MOVE, Target: "slow"}, {Action: tenonv1.PolicyAction_POLICY_ACTION_DETACH}, {Action: tenonv1.PolicyAction_POLICY_ACTION_ASK},
		},
		"pause,shutdown:restart,shutdown,ignore": {
			{Action: tenonv1.PolicyAction_POLICY_ACTION_PAUSE},
			{Action: tenonv1.PolicyAction_POLICY_ACTION_SHUTDOWN, Restart: true},
			{Action: tenonv1.PolicyAction_POLICY_ACTION_SHUTDOWN},
			{Action: tenonv1.PolicyAction_POLICY_ACTION_IGNORE},
		},
	} {
		steps, err := show.ParsePolicy(text)
		if err != nil || len(steps) != len(want) {
			t.Errorf("ParsePolicy(%q) = %v, %v, want %v", text, steps, err, want)
			continue
		}
		for i := range steps {
			if !proto.Equal(steps[i], want[i]) {
				t.Errorf("ParsePolicy(%q)[%d] = %v, want %v", text, i, steps[i], want[i])
			}
		}
		if got := show.Policy(steps); got != text {
			t.Errorf("Policy(ParsePolicy(%q)) = %q, want the same", text, got)
		}
	}
	for _, text := range []string{"", "frob", "move:", "detach:now", "shutdown:never", "move,,ask", "MOVE", "move slow"} {
		if got, err := show.ParsePolicy(text); err == nil {
			t.Errorf("ParsePolicy(%q) = %v, want an error", text, got)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	for _, s := range []string{"move:slow,detach,ask", "shutdown:restart", "move:,", " move , ask "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		steps, err := show.ParsePolicy(s)
		if err != nil {
			return
		}
		again, err := show.ParsePolicy(show.Policy(steps))
		if err != nil || len(again) != len(steps) {
			t.Fatalf("ParsePolicy(Policy(%q)) = %v, %v, want %v", s, again, err, steps)
		}
		for i := range steps {
			if !proto.Equal(steps[i], again[i]) {
				t.Errorf("ParsePolicy(Policy(%q))[%d] = %v, want %v", s, i, again[i], steps[i])
			}
		}
	})
}
