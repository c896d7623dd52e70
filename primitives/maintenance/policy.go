// SPDX-License-Identifier: Apache-2.0

package maintenance

// Action is one thing that can be done about a disk on a device that goes into
// maintenance.
type Action string

// The actions.
const (
	Move     Action = "move"     // to another device, while the domain runs
	Detach   Action = "detach"   // take the disk away from the domain
	Pause    Action = "pause"    // stop the domain's processors; enough for IOStall only
	Shutdown Action = "shutdown" // ask the guest to power off
	Ignore   Action = "ignore"   // nothing; the use does not block (IOStall only)
	Ask      Action = "ask"      // wait for somebody to answer for it
)

// Policy is an ordered list: the first step that is feasible is taken.
type Policy []PolicyStep

// PolicyStep is one action with what it needs.
type PolicyStep struct {
	Action  Action `json:"action"`
	Target  string `json:"target,omitempty"`  // Move: the device; empty: chosen by free space and capability
	Restart bool   `json:"restart,omitempty"` // Shutdown: started again when the device returned
}

// DefaultPolicy moves, and asks where that cannot be done.
func DefaultPolicy() Policy { return Policy{{Action: Move}, {Action: Ask}} }
