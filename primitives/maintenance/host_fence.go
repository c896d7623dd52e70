// SPDX-License-Identifier: Apache-2.0

package maintenance

// look asks who has the device open, unless that is pointless.
func (t *hostTurn) look() {
	if !t.closing() || t.Fence.Intended {
		return
	}
	t.Looks++
	t.Looking, t.Quiet = true, 0
	t.do(Look{Stamp: t.Order.Stamp, Serial: t.Looks})
}

// advance goes on towards drained. When the last use is released somebody looks
// anew: what was seen before may have been that use's.
func (t *hostTurn) advance() {
	switch {
	case !t.closing() || t.Fence.Intended:
	case t.Waiting > 0 && t.Phase == HostDrained:
		t.enter(HostDraining, "a use came", "")
	case t.Waiting == 0 && t.Phase == HostDraining:
		t.look()
	}
}

// looked decides whether the device is drained.
func (t *hostTurn) looked(e Looked) {
	if e.Stamp != t.Order.Stamp || e.Serial != t.Looks || !t.closing() || t.Fence.Intended {
		t.reject("", Stale, "somebody looked for an earlier order")
		return
	}
	t.Looking = false
	t.report = true
	t.Foreign, t.Failure = e.Foreign, e.Failure
	t.see(e.Uses)
	switch {
	case t.Waiting > 0 || len(e.Foreign) > 0 || e.Failure != "":
		if t.Phase == HostDrained {
			t.enter(HostDraining, "the device is used", "")
		}
	case t.wantsFence():
		t.Fence, t.FencedFor, t.Doubt = FenceState{Intended: true}, t.Order.Impact, true
		t.enter(HostFencing, "nothing found open", "")
		t.do(t.raise())
	default:
		t.enter(HostDrained, "nothing found open", "")
	}
}

// fenced takes the result of a RaiseFence.
func (t *hostTurn) fenced(e Fenced) {
	if t.Phase != HostFencing || e.Stamp != t.Order.Stamp {
		t.reject("", Stale, "that fence was for an earlier order")
		return
	}
	t.Quiet, t.report = 0, true
	switch {
	case e.OK:
		t.Fence = FenceState{Intended: true, Verified: true, Method: e.Method, Evidence: e.Evidence}
		t.Gate, t.Failure = GateFenced, ""
		t.enter(HostFenced, "fenced by "+e.Method, e.Evidence)
	case e.Unchanged:
		t.Fence, t.Gate, t.Failure = FenceState{}, GateClosed, e.Failure
		t.enter(HostDraining, "could not be fenced", e.Failure)
	default:
		t.Failure = e.Failure // the fence may stand: try again in a while
	}
}

// unfenced notes that the fence is down, on the way to open.
func (t *hostTurn) unfenced(e Unfenced) {
	if !t.verifying() || e.Stamp != t.Order.Stamp {
		t.reject("", Stale, "that was for an earlier order")
		return
	}
	t.Fence, t.Gate = FenceState{}, GateClosed
}

// verifying says whether a Verify counts: one is due, or the last one found
// another device, and somebody may have brought the right one back since.
func (h *Host) verifying() bool { return h.Phase == HostVerifying || h.Phase == HostReturnFailed }

// verified opens the gate, if the device is what it was.
func (t *hostTurn) verified(e Verified) {
	if !t.verifying() || e.Stamp != t.Order.Stamp {
		t.reject("", Stale, "that was for an earlier order")
		return
	}
	t.Quiet, t.report = 0, true
	if !e.OK {
		t.Failure = e.Failure
		t.enter(HostReturnFailed, "not what it was", e.Failure)
		return
	}
	if t.unleased() {
		t.Failure = "the device is what it was; waiting for the lease"
		t.enter(HostVerifying, "verified", e.Evidence)
		return
	}
	t.opened(e.Uses, e.Evidence)
}

// restarted takes up the work of an agent that is no more.
func (t *hostTurn) restarted(e Restarted) {
	rebooted := e.Boot != t.Boot
	t.Boot, t.AgentStart, t.Seq = e.Boot, e.AgentStart, 0
	t.Lease.Probe, t.Lease.Age = 0, 0
	if rebooted {
		t.void()
	}
	switch {
	case t.flaw.has(unfencesOnRestart) && t.Fence.Intended:
		t.Fence, t.Gate, t.Phase = FenceState{}, GateOpen, HostOpen
	case t.Phase == HostFenced:
		t.Fence.Verified = false
		t.enter(HostFencing, "the agent restarted", "")
	case t.Phase == HostDrained || t.Phase == HostDraining:
		t.enter(HostDraining, "the agent restarted", "")
		t.Looks++
		t.Looking = true
	}
	t.out = append(t.out, t.Resume()...)
	t.report = true
}

// void drops what uses answered before the host booted.
func (t *hostTurn) void() {
	t.Foreign = nil
	for i := range t.Outcomes {
		o := &t.Outcomes[i]
		if o.Acting || o.Cut != "" || o.Residue {
			continue
		}
		o.State, o.How, o.Evidence, o.Reason, o.Silent = UseNotified, "", "", nil, 0
		t.count(o)
	}
}
