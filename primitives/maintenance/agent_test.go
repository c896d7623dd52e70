// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import "github.com/tenon-storage/tenon/primitives/maintenance"

// do carries out what a host has to do next.
func (w *world) do(device int, a *agent, luck uint8) {
	if len(a.todo) == 0 {
		return
	}
	act := a.todo[0]
	a.todo = append(a.todo[:0], a.todo[1:]...)
	switch act := act.(type) {
	case maintenance.Look:
		e := maintenance.Looked{Stamp: act.Stamp, Serial: act.Serial, Uses: a.uses}
		if a.foreign {
			e.Foreign = []maintenance.Foreign{{Name: "qemu-img", PID: 1, Path: "/x"}}
		}
		w.step(device, a, e)
	case maintenance.RaiseFence:
		w.raise(device, a, act, luck)
	case maintenance.Verify:
		w.verify(device, a, act, luck)
	case maintenance.CutOff:
		w.release(device, a, act.Use, "")
	case maintenance.ActOn:
		for _, r := range a.running {
			if r.Use == act.Use && r.Index == act.Index {
				return // it is carried out already
			}
		}
		a.running = append(a.running, act)
	case maintenance.CancelAct:
		for i, r := range a.running {
			if r.Use == act.Use && r.Index == act.Index {
				w.finish(device, a, i, luck%4 == 0)
				return
			}
		}
		w.step(device, a, maintenance.ActionFailed{Use: act.Use, Index: act.Index, Reason: maintenance.Reason{Code: "cancelled"}})
	case maintenance.Restore:
		if a.h.Gate == maintenance.GateOpen {
			a.restored++
			w.step(device, a, maintenance.Settled{Use: act.Use})
		}
	}
}

func (w *world) raise(device int, a *agent, act maintenance.RaiseFence, luck uint8) {
	e := maintenance.Fenced{Stamp: act.Stamp}
	switch {
	case a.foreign:
		e.Unchanged, e.Failure = !a.fence, "in use"
	case luck%16 == 1:
		e.Failure = "no idea"
	default:
		if act.Impact != maintenance.IOStall && holders(a) > 0 {
			w.fail("I2:", hostNames[a.host], "is told to fence with a live use")
		}
		if !a.fence {
			a.fence, a.fencedFor = true, act.Impact
		}
		a.fencedAt = act.Stamp
		e.OK, e.Method = true, "test"
	}
	w.step(device, a, e)
}

func (w *world) verify(device int, a *agent, act maintenance.Verify, luck uint8) {
	if a.fence && (act.Stamp.Compare(a.fencedAt) <= 0 || act.Stamp.SameEpoch(a.fencedAt)) {
		w.fail("I9:", hostNames[a.host], "unfences without an order of a higher epoch")
	}
	if !a.changed || luck%2 == 0 {
		a.fence = false
		if luck%2 == 0 {
			w.step(device, a, maintenance.Unfenced{Stamp: act.Stamp})
		}
	}
	w.step(device, a, maintenance.Verified{Stamp: act.Stamp, OK: !a.changed, Uses: a.uses, Failure: "another device"})
}

// finish ends an action that is carried out.
func (w *world) finish(device int, a *agent, i int, success bool) {
	act := a.running[i]
	a.running = append(a.running[:i], a.running[i+1:]...)
	at := a.find(act.Use)
	if at < 0 {
		return
	}
	how := maintenance.How("")
	switch act.Step.Action {
	case maintenance.Move:
		how = maintenance.Moved
		if success && !w.moveIn(device, a, at) {
			success = false
		}
	case maintenance.Detach:
		how = maintenance.Detached
	case maintenance.Shutdown:
		how = maintenance.Stopped
	case maintenance.Pause:
		how = maintenance.Paused
	default:
	}
	switch {
	case !success:
		w.step(device, a, maintenance.ActionFailed{Use: act.Use, Index: act.Index, Reason: maintenance.Reason{Code: "failed"}})
	case how == maintenance.Paused:
		w.step(device, a, maintenance.Answered{Use: act.Use, Stamp: a.h.Order.Stamp, Boot: a.h.Boot, Answer: maintenance.Ready, How: how})
	default:
		w.release(device, a, act.Use, how)
	}
}

// moveIn records a moved disk on another device, if its door lets it in.
func (w *world) moveIn(device int, a *agent, at int) bool {
	if len(w.devices) == 1 {
		return true // to a device that is not looked at here
	}
	other := (device + 1) % len(w.devices)
	return w.admit(other, w.devices[other].agents[a.host], int(a.uses[at].ID[1]-'0'), 0)
}

func (a *agent) find(use string) int {
	for i := range a.uses {
		if a.uses[i].ID == use {
			return i
		}
	}
	return -1
}

// admit records a use if the door lets it in: one transaction.
func (w *world) admit(device int, a *agent, slot int, policy uint8) bool {
	if a.find(useNames[slot]) >= 0 {
		return false
	}
	u := maintenance.Use{
		ID: useNames[slot], Kind: useKinds[slot], Subject: "v" + numbers[slot], Writer: true,
		Policy: policies[int(policy)%len(policies)], Owner: theClient,
	}
	admission, refusal := a.door.Admit(u.ID, u.Subject)
	if refusal != nil && w.wrong&admitsPastTheDoor == 0 {
		return false
	}
	u.Admitted, u.Grant = admission.Stamp, admission.Grant
	if refusal != nil {
		u.Admitted = a.door.Seen
	}
	if w.trace != nil {
		w.say("use", u.ID, "comes in on", hostNames[a.host])
	}
	a.uses = append(a.uses, u)
	w.step(device, a, maintenance.UsesSeen{Uses: a.uses})
	return true
}

// release takes a use out: one transaction.
func (w *world) release(device int, a *agent, use string, how maintenance.How) {
	at := a.find(use)
	if at < 0 {
		w.step(device, a, maintenance.Gone{Use: use, How: how})
		return
	}
	if w.trace != nil {
		w.say("use", use, "is released on", hostNames[a.host], string(how))
	}
	a.uses = append(a.uses[:at:at], a.uses[at+1:]...)
	w.step(device, a, maintenance.Gone{Use: use, How: how})
}

// holders counts the uses that have the device open.
func holders(a *agent) int {
	n := 0
	for i := range a.uses {
		if a.uses[i].Kind != "subscriber" {
			n++
		}
	}
	return n
}

// restart is a crash of a host's agent: what it had to do and was doing is lost.
func (w *world) restart(host int, reboot bool) {
	if reboot {
		w.boots[host]++
	}
	for i, d := range w.devices {
		a := d.agents[host]
		a.todo, a.running = a.todo[:0], a.running[:0]
		a.start++
		a.met = false
		if w.wrong&forgetsGates != 0 && a.h.Gate == maintenance.GateClosed {
			a.h.Gate, a.h.Phase = maintenance.GateOpen, maintenance.HostOpen
			a.door = a.h.Door()
		}
		if reboot {
			a.uses, a.foreign = nil, false
		}
		w.step(i, a, maintenance.Restarted{Boot: numbers[w.boots[host]%256], AgentStart: numbers[a.start%256]})
		w.step(i, a, maintenance.UsesSeen{Uses: a.uses})
	}
}

// loseJournal has a host forget what it knew of a device. Its uses are found by looking.
func (w *world) loseJournal(device, host int) {
	a := w.devices[device].agents[host]
	a.h = maintenance.Host{Device: a.h.Device, ID: a.h.ID, Boot: a.h.Boot}
	a.h.Break(w.flaws)
	a.door = a.h.Door()
	a.closedAt, a.old = maintenance.Stamp{}, maintenance.Stamp{}
	for i := range a.uses {
		a.uses[i].Admitted, a.uses[i].Grant = maintenance.Stamp{}, ""
	}
	w.restart(host, false)
}
