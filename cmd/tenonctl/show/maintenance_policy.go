// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"strings"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// restart is what follows a shutdown that is undone afterwards.
const restart = "restart"

// Policy prints the steps of a policy as ParsePolicy reads them, such as
// "move:slow,detach,shutdown:restart".
func Policy(steps []*tenonv1.PolicyStep) string {
	var all []string
	for _, s := range steps {
		text := word(s.GetAction())
		switch {
		case s.GetTarget() != "":
			text += ":" + s.GetTarget()
		case s.GetRestart():
			text += ":" + restart
		}
		all = append(all, text)
	}
	return strings.Join(all, ",")
}

// policyActions are the words of a policy.
var policyActions = map[string]tenonv1.PolicyAction{
	"move": tenonv1.PolicyAction_POLICY_ACTION_MOVE, "detach": tenonv1.PolicyAction_POLICY_ACTION_DETACH,
	"pause": tenonv1.PolicyAction_POLICY_ACTION_PAUSE, "shutdown": tenonv1.PolicyAction_POLICY_ACTION_SHUTDOWN,
	"ignore": tenonv1.PolicyAction_POLICY_ACTION_IGNORE, "ask": tenonv1.PolicyAction_POLICY_ACTION_ASK,
}

// ParsePolicy reads the steps of a policy.
func ParsePolicy(text string) ([]*tenonv1.PolicyStep, error) {
	var steps []*tenonv1.PolicyStep
	for part := range strings.SplitSeq(text, ",") {
		name, more, given := strings.Cut(strings.TrimSpace(part), ":")
		action, ok := policyActions[name]
		if !ok {
			return nil, fmt.Errorf("%q: expected move, move:DEVICE, detach, pause, shutdown, shutdown:restart, ignore or ask", part)
		}
		step := &tenonv1.PolicyStep{Action: action}
		switch {
		case !given:
		case name == "move" && more != "":
			step.Target = more
		case name == "shutdown" && more == restart:
			step.Restart = true
		default:
			return nil, fmt.Errorf("%q: only move:DEVICE and shutdown:restart have something after the colon", part)
		}
		steps = append(steps, step)
	}
	return steps, nil
}
