// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// A world is some devices, each with its management and with one agent on each of
// some hosts, and the messages that are under way. What callers of the machines
// promise, it keeps: what is durable survives a crash, the rest does not.
type world struct {
	devices []*device
	net     []message
	reached [maintenance.ReturnFailed + 1]bool
	trouble string // the first invariant that did not hold
	trace   func(string)
	flaws   maintenance.Flaw
	wrong   misdeed
	boots   [hosts]int
	skewed  int // how clocks differ, in sixteenths
	lease   time.Duration
	apart   [hosts]bool // hosts that no message reaches or leaves
	// Where something dies: at the step of that number. Nothing does at 0.
	steps, crashAt, manageSteps, forgetAt int
}

// A misdeed is a promise that a caller of the machines does not keep.
type misdeed uint8

const (
	admitsPastTheDoor misdeed = 1 << iota // what comes in without a look at the door
	forgetsGates                          // an agent keeps its gate in memory only
)

const (
	hosts     = 3
	slots     = 4 // uses of one device on one host
	netLimit  = 24
	theClient = "client"
)

type device struct {
	name   string
	m      *maintenance.Management
	agents [hosts]*agent
	// What management was told, as the world knows it.
	heard       [hosts]heard
	permissions []string
}

// heard is the newest report of a host that management took since it was started.
type heard struct {
	start  int
	report *maintenance.Report
	digest string // of the report with which the host counted as drained
}

// An agent is one device on one host: its journal, its storage and its users.
type agent struct {
	host, start int
	h           maintenance.Host
	uses        []maintenance.Use
	door        maintenance.Door
	todo        []maintenance.HostAction
	running     []maintenance.ActOn
	joined      bool // is on the roster
	met         bool // this start of the agent joined
	foreign     bool // somebody whom nobody registered has the device open
	changed     bool // the device is no longer what it was
	fence       bool // stands in the storage
	fencedAt    maintenance.Stamp
	fencedFor   maintenance.Impact
	closedAt    maintenance.Stamp
	old         maintenance.Stamp // of an order that does not count any more
	audited     []maintenance.Audit
	restored    int
}

// A message is an order to a host, or a report of one.
type message struct {
	device, host int
	start        int // of the agent that sent it
	order        *maintenance.Order
	report       *maintenance.Report
}

var (
	hostNames = [hosts]string{"h0", "h1", "h2"}
	useNames  = [slots]string{"u0", "u1", "u2", "u3"}
	useKinds  = [slots]string{"disk", "disk", "transfer", "subscriber"}
	numbers   = func() (n [256]string) {
		for i := range n {
			n[i] = strconv.Itoa(i)
		}
		return
	}()
)

// policies are those of uses.
var policies = []maintenance.Policy{
	nil,
	{{Action: maintenance.Move}, {Action: maintenance.Detach}},
	{{Action: maintenance.Ask}},
	{{Action: maintenance.Pause}, {Action: maintenance.Shutdown, Restart: true}},
	{{Action: maintenance.Ignore}, {Action: maintenance.Ask}, {Action: maintenance.Shutdown}},
}

// newWorld returns devices in service; all hosts but the last one know it.
func newWorld(devices int, lease time.Duration, flaws maintenance.Flaw, wrong misdeed) *world {
	w := &world{lease: lease, flaws: flaws, wrong: wrong}
	for i := range devices {
		d := &device{name: "d" + numbers[i]}
		w.devices = append(w.devices, d)
		d.m = maintenance.NewManagement(d.name, 1)
		d.m.Lease, d.m.Skew = lease, lease/4
		d.m.Break(flaws)
		for h := range hosts {
			a := &agent{host: h, h: maintenance.Host{Device: d.name, ID: hostNames[h], Boot: numbers[0], AgentStart: numbers[0]}}
			a.h.Break(flaws)
			d.agents[h] = a
		}
		for h := range hosts - 1 {
			w.join(i, h)
		}
	}
	for range 3 {
		w.deliverAll()
		w.doAll()
	}
	return w
}

// say tells what happens, where somebody listens: callers ask that first, for words cost time.
func (w *world) say(parts ...string) {
	text := ""
	for _, p := range parts {
		text += p + " "
	}
	w.trace(text)
}

// fail notes that something does not hold.
func (w *world) fail(parts ...string) {
	if w.trouble != "" {
		return
	}
	for _, p := range parts {
		w.trouble += p + " "
	}
}

func (w *world) post(m message) {
	if len(w.net) == netLimit {
		copy(w.net, w.net[1:])
		w.net = w.net[:netLimit-1]
	}
	w.net = append(w.net, m)
}

// manage steps the management of a device.
func (w *world) manage(device int, e maintenance.ManagementEvent) error {
	d := w.devices[device]
	stamp, phase := d.m.Stamp(), d.m.Phase
	actions, err := d.m.Step(e)
	if err != nil {
		if d.m.Stamp() != stamp || d.m.Phase != phase {
			w.fail("a refusal changed management:", err.Error())
		}
		return err
	}
	if d.m.Stamp().Compare(stamp) < 0 {
		w.fail("I3: management's stamp decreased")
	}
	w.reached[d.m.Phase] = true
	w.transition(d, phase)
	for _, a := range actions {
		if s, ok := a.(maintenance.Send); ok {
			w.post(message{device: device, host: int(s.Host[1] - '0'), order: &s.Order})
		}
	}
	w.check(d)
	if w.manageSteps++; w.manageSteps == w.forgetAt {
		w.reload(device)
	}
	return nil
}

// reload is a crash of management: what is durable is read again.
func (w *world) reload(device int) {
	d := w.devices[device]
	text, err := json.Marshal(d.m)
	if err != nil {
		panic(err)
	}
	d.m = &maintenance.Management{}
	if err := json.Unmarshal(text, d.m); err != nil {
		panic(err)
	}
	d.m.Break(w.flaws)
	for i := range d.heard {
		d.heard[i].report = nil
	}
	w.manage(device, maintenance.Reloaded{})
}

func (w *world) join(device, host int) {
	a := w.devices[device].agents[host]
	if err := w.manage(device, maintenance.HostJoined{Host: hostNames[host], Boot: a.h.Boot, AgentStart: a.h.AgentStart}); err == nil {
		a.joined, a.met = true, true
		d := w.devices[device]
		if d.heard[host].start != a.start {
			d.heard[host] = heard{start: a.start, digest: d.heard[host].digest}
		}
	}
}

// step steps a host, keeps what is durable and queues what is to be done.
func (w *world) step(device int, a *agent, e maintenance.HostEvent) {
	before := hostBefore{a.h.Order.Stamp, a.h.Gate, a.h.Phase, a.h.Fence}
	actions := a.h.Step(e)
	a.door = a.h.Door()
	for _, act := range actions {
		switch act := act.(type) {
		case maintenance.Audit:
			if act.Permission != "" {
				a.audited = append(a.audited, act)
			}
		case maintenance.SendReport:
			w.report(device, a)
		case maintenance.Rejected, maintenance.Notify:
		case maintenance.CutOff:
			w.checkCut(w.devices[device], a, act)
			a.todo = append(a.todo, act)
		default:
			a.todo = append(a.todo, act)
		}
	}
	if before.stamp != a.h.Order.Stamp {
		a.old = before.stamp
	}
	w.checkStep(a, before, e)
	w.check(w.devices[device])
	if w.steps++; w.steps == w.crashAt {
		w.restart(a.host, false)
		w.join(device, a.host)
	}
}

func (w *world) report(device int, a *agent) {
	if !a.met {
		return
	}
	r := a.h.Report(a.uses)
	w.post(message{device: device, host: a.host, start: a.start, report: &r})
}

// deliver hands a message over.
func (w *world) deliver(m message) {
	if w.apart[m.host] {
		return
	}
	d := w.devices[m.device]
	a := d.agents[m.host]
	if m.order != nil {
		if !a.joined {
			return
		}
		if w.trace != nil {
			w.say("order", m.order.Stamp.String(), m.order.Gate.String(), "reaches", hostNames[m.host])
		}
		w.step(m.device, a, maintenance.Ordered{Order: *m.order, Uses: a.uses})
		return
	}
	if w.trace != nil {
		w.say("report of", hostNames[m.host], m.report.Seen.String(), m.report.Phase.String(), "comes in")
	}
	epoch := d.m.Epoch
	err := w.manage(m.device, maintenance.Reported{Report: *m.report})
	w.heard(d, m, epoch, err)
}

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

// deliverAll delivers every message that is under way now, in order.
func (w *world) deliverAll() {
	for range len(w.net) {
		if len(w.net) == 0 {
			return
		}
		m := w.net[0]
		w.net = append(w.net[:0], w.net[1:]...)
		w.deliver(m)
	}
}

// doAll carries out what hosts have to do now.
func (w *world) doAll() {
	for i, d := range w.devices {
		for _, a := range d.agents {
			for range len(a.todo) {
				w.do(i, a, 2)
			}
		}
	}
}

// pass lets time go by, for each by its own clock.
func (w *world) pass(by time.Duration) {
	for i, d := range w.devices {
		for h, a := range d.agents {
			own := by
			if w.skewed>>h&1 == 1 {
				own = by - by/16
			}
			w.step(i, a, maintenance.Elapsed{By: own})
		}
		w.manage(i, maintenance.Elapsed{By: by + by/16*time.Duration(w.skewed&1)})
	}
}
