// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// mutants are machines and callers that leave one rule out, and what breaks then.
var mutants = map[string]struct {
	flaws  maintenance.Flaw
	wrong  misdeed
	breaks []string
}{
	"a host takes older orders":                        {maintenance.FollowsAnyStamp, 0, []string{"I3:"}},
	"a host counts old answers":                        {maintenance.CountsStaleAnswers, 0, []string{"I5:"}},
	"a host counts who objects as ready":               {maintenance.IgnoresObjections, 0, []string{"I7:", "L3:"}},
	"a host cuts off unasked":                          {maintenance.ForcesUnasked, 0, []string{"I11:"}},
	"a host cuts off without a line":                   {maintenance.ForcesUnaudited, 0, []string{"I11:"}},
	"a host forgets its fence at a restart":            {maintenance.UnfencesOnRestart, 0, []string{"I1:", "I9:"}},
	"management counts reports of earlier epochs":      {maintenance.CountsStaleReports, 0, []string{"I1:", "I5:"}},
	"management counts reports from before a boot":     {maintenance.CountsOldBoots, 0, []string{"I5:"}},
	"management does not see that uses changed":        {maintenance.IgnoresDigest, 0, []string{"I1:", "I5:"}},
	"management fences over an objection":              {maintenance.FencesOverObjection, 0, []string{"I7:"}},
	"management takes drained for fenced":              {maintenance.SkipsFencing, 0, []string{"I1:"}},
	"management returns a device in the same epoch":    {maintenance.CancelsInPlace, 0, []string{"I3:", "I4:", "L1:"}},
	"a host lets granted uses in while it fences":      {maintenance.KeepsGrants, 0, []string{"I1:", "I2:"}},
	"management sends each order once":                 {maintenance.RepeatsNothing, 0, []string{"L1:", "L2:", "L3:"}},
	"a caller keeps its gate in memory only":           {0, forgetsGates, []string{"I1:", "I2:", "I6:", "I9:"}},
	"a caller lets uses in without a look at the door": {0, admitsPastTheDoor, []string{"I1:", "I2:", "I6:"}},
}

// TestEachRuleLeftOutIsSeen has the property test look at machines that are wrong
// in one way each.
// Cases: E50, E52, E53, E60, E69
func TestEachRuleLeftOutIsSeen(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(2000))
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			var buffer []op
			for seed := range uint64(200_000) {
				s := scheduleOf(seed, buffer)
				buffer = s.ops
				trouble := run(&s, m.flaws, m.wrong, nil)
				if trouble == "" {
					continue
				}
				if !slices.ContainsFunc(m.breaks, func(i string) bool { return strings.HasPrefix(trouble, i) }) {
					tell(t, s, m.flaws, m.wrong)
					t.Fatalf("seed %#x breaks %q, want one of %v", seed, trouble, m.breaks)
				}
				t.Logf("seen at seed %#x: %s", seed, trouble)
				return
			}
			t.Fatal("nobody saw it")
		})
	}
}
