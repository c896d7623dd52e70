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
