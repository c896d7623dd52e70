// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"slices"
	"time"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// An op is one thing that happens. What it does depends on the world it meets, so
// that a schedule stays one when some of its ops are taken out.
type op struct {
	kind    opKind
	device  uint8
	host    uint8
	a, b, c uint8
}

type opKind uint8

// The kinds of op.
const (
	opDeliver opKind = iota // any message, once or so that it comes again
	opDo                    // the next action of a host
	opLose                  // a message
	opAdmit
	opRelease
	opAnswer
	opFinish // an action that is under way
	opPrepare
	opEnd
	opExtend
	opOverrule
	opGrant
	opTime
	opJump // a clock jumps
	opCrash
	opReboot
	opJournal // a host loses its journal
	opManagement
	opFailover
	opJoin
	opLeave
	opStorage
	opForeign
	opChange // the device is another one
	opReport
	opSend
	opSettle // all that is under way arrives, and is done
	opKinds
)

// weights say how often each kind comes.
var weights = [opKinds]uint8{
	opDeliver: 40, opDo: 32, opLose: 4, opAdmit: 12, opRelease: 7, opAnswer: 10, opFinish: 8,
	opPrepare: 9, opEnd: 4, opExtend: 1, opOverrule: 3, opGrant: 3, opTime: 8, opJump: 1, opCrash: 4, opReboot: 1, opJournal: 1,
	opManagement: 3, opFailover: 1, opJoin: 6, opLeave: 1, opStorage: 1, opForeign: 2, opChange: 4, opReport: 3, opSend: 3, opSettle: 24,
}

// deck has each kind as often as its weight says.
var deck = func() (all []opKind) {
	for kind, n := range weights {
		for range n {
			all = append(all, opKind(kind))
		}
	}
	return all
}()

// A dice is a small fast generator (splitmix64): a schedule's seed is all of its state.
type dice uint64

func (d *dice) roll() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// A schedule is a world to begin with and what happens in it.
type schedule struct {
	seed    uint64
	devices int
	lease   time.Duration
	skewed  int
	goal    uint8 // which of L1, L2, L3 is looked at in the end; others: none
	ops     []op
}

// scheduleOf returns the schedule of a seed. buffer is reused.
func scheduleOf(seed uint64, buffer []op) schedule {
	d := dice(seed)
	r := d.roll()
	s := schedule{seed: seed, devices: 1, ops: buffer[:0], goal: uint8(r >> 32 % 16)}
	if r%16 == 0 {
		s.devices = 2
	}
	if r>>8%16 == 0 {
		s.lease = 20 * time.Second
		s.skewed = int(r >> 16 & 15)
	}
	for range 20 + r>>24%16 {
		r := d.roll()
		s.ops = append(s.ops, op{
			kind: deck[r%uint64(len(deck))], device: uint8(r >> 16), host: uint8(r >> 24), a: uint8(r >> 32), b: uint8(r >> 40), c: uint8(r >> 48),
		})
	}
	return s
}

// apply has one op happen.
func (w *world) apply(o op) {
	device := int(o.device) % len(w.devices)
	d := w.devices[device]
	a := d.agents[int(o.host)%hosts]
	switch o.kind {
	case opDeliver, opLose:
		w.move(o)
	case opDo:
		w.do(device, a, o.a)
	case opAdmit:
		w.admit(device, a, int(o.a)%slots, o.b)
	case opRelease:
		if len(a.uses) > 0 {
			w.release(device, a, a.uses[int(o.a)%len(a.uses)].ID, hows[int(o.b)%len(hows)])
		}
	case opAnswer:
		w.answer(device, a, o)
	case opFinish:
		if len(a.running) > 0 {
			w.finish(device, a, int(o.a)%len(a.running), o.b%4 != 0)
		}
	case opTime:
		w.pass(time.Duration(o.a%16) * time.Second)
	case opJump:
		w.jump(device, a, o.a)
	case opSettle:
		w.deliverAll()
		w.doAll()
		w.deliverAll()
	case opCrash, opReboot, opJournal, opJoin, opForeign, opChange, opReport:
		w.applyHost(o, device, a)
	default:
		w.applyManagement(o, device)
	}
}

// jump has a clock jump, of one side only. A lease counts on clocks that go nearly alike.
func (w *world) jump(device int, a *agent, luck uint8) {
	switch {
	case luck%3 == 0 || w.lease > 0:
		w.pass(-time.Hour)
	case luck%3 == 1:
		w.step(device, a, maintenance.Elapsed{By: time.Hour})
	default:
		w.manage(device, maintenance.Elapsed{By: time.Hour})
	}
}

// move delivers or loses one message that is under way.
func (w *world) move(o op) {
	if len(w.net) == 0 {
		return
	}
	i := int(o.a) % len(w.net)
	m := w.net[i]
	if o.kind == opLose || o.b%4 != 0 {
		w.net = append(w.net[:i], w.net[i+1:]...)
	}
	if o.kind == opDeliver {
		w.deliver(m)
	}
}

// applyHost has something happen to a host.
func (w *world) applyHost(o op, device int, a *agent) {
	switch o.kind {
	case opCrash:
		if w.trace != nil {
			w.say(hostNames[a.host], "crashes")
		}
		w.restart(a.host, false)
		if o.a%2 == 0 {
			w.join(device, a.host)
		}
	case opReboot:
		if w.trace != nil {
			w.say(hostNames[a.host], "boots")
		}
		w.restart(a.host, true)
		if o.a%2 == 0 {
			w.join(device, a.host)
		}
	case opJournal:
		if w.trace != nil {
			w.say(hostNames[a.host], "loses its journal")
		}
		w.loseJournal(device, a.host)
	case opJoin:
		if w.trace != nil {
			w.say(hostNames[a.host], "joins")
		}
		w.join(device, a.host)
	case opForeign:
		a.foreign = !a.foreign
	case opChange:
		a.changed = !a.changed
	case opReport:
		w.report(device, a)
	default:
	}
}

// applyManagement has somebody ask something of management.
func (w *world) applyManagement(o op, device int) {
	d := w.devices[device]
	host := hostNames[int(o.host)%hosts]
	switch o.kind {
	case opPrepare:
		i := intentOf(o)
		if i.Permission != "" {
			d.permissions = append(d.permissions, i.Permission)
		}
		if w.trace != nil {
			w.say("prepare", i.ID, i.Impact.String())
		}
		w.manage(device, maintenance.Prepare{Intent: i})
	case opEnd:
		if w.trace != nil {
			w.say("end")
		}
		w.manage(device, maintenance.End{ID: []string{"", "m0", "m1"}[o.a%3], By: "somebody"})
	case opExtend:
		w.manage(device, maintenance.Extend{Drain: time.Duration(o.a%32) * time.Second, Respond: time.Duration(o.b%32) * time.Second})
	case opOverrule:
		subject := host
		if o.a%2 == 0 {
			subject = useNames[o.b%slots]
		}
		permission := "p" + numbers[o.c%3]
		if o.c%8 == 0 {
			permission = ""
		}
		d.permissions = append(d.permissions, permission)
		if w.trace != nil {
			w.say("overrule", subject)
		}
		w.manage(device, maintenance.Overrule{Override: maintenance.Override{Subject: subject, Permission: permission, By: "somebody"}})
	case opGrant:
		w.manage(device, maintenance.GrantUse{Grant: maintenance.Grant{ID: "g" + numbers[o.b], Subject: useNames[o.a%slots], By: "somebody"}})
	case opManagement:
		if w.trace != nil {
			w.say("management starts anew")
		}
		d.m.LoseMemory()
		for i := range d.heard {
			d.heard[i].report = nil
		}
		w.manage(device, maintenance.Reloaded{})
	case opFailover:
		w.manage(device, maintenance.Failover{Term: d.m.Term + uint64(o.a%2), By: "another"})
	case opLeave:
		if w.manage(device, maintenance.HostLeft{Host: host, By: "somebody"}) == nil {
			a := d.agents[int(o.host)%hosts]
			a.joined, a.met = false, false
			d.heard[a.host].report = nil // management forgot it
		}
	case opStorage:
		w.manage(device, maintenance.StorageFenced{Host: host, By: "array", Lifted: o.a%2 == 0})
	case opSend:
		if a := d.agents[int(o.host)%hosts]; a.joined {
			order := d.m.OrderFor(host)
			w.post(message{device: device, host: a.host, order: &order})
		}
	default:
	}
}

var hows = []maintenance.How{"", maintenance.Moved, maintenance.Detached, maintenance.Closed}

// intentOf returns the intent that somebody asks for.
func intentOf(o op) maintenance.Intent {
	i := maintenance.Intent{
		ID: []string{"m0", "m1"}[o.a%2], Revision: uint64(o.a >> 6), Requester: "somebody", Impact: maintenance.Impact(1 + o.b%3),
		NotBefore: time.Duration(o.b>>6) / 3 * 10 * time.Second, Return: o.b&16 != 0,
		OnDrain: maintenance.OnDeadline(o.c % 3), OnRespond: maintenance.OnDeadline(o.c / 3 % 3),
		Drain: time.Duration(o.c>>4%4) * 10 * time.Second, Respond: time.Duration(o.c>>6) * 5 * time.Second,
	}
	if o.a&32 != 0 {
		i.Permission = "p" + numbers[o.a%2]
	}
	if o.a&16 != 0 {
		i.Policy = policies[1]
	}
	return i
}

// answer has a client answer: mostly to the order that counts, sometimes to one before, from a boot before, or for another one's use.
func (w *world) answer(device int, a *agent, o op) {
	if len(a.uses) == 0 {
		return
	}
	e := maintenance.Answered{
		Use: a.uses[int(o.a)%len(a.uses)].ID, By: theClient, Stamp: a.h.Order.Stamp, Boot: a.h.Boot,
		Answer: maintenance.Answer(1 + o.b%5), ETA: time.Minute, Percent: float64(o.c % 100),
		How:    []maintenance.How{maintenance.Tolerates, maintenance.Closed, maintenance.Moved, maintenance.Paused}[o.c%4],
		Reason: maintenance.Reason{Code: "busy", Text: "not now"},
	}
	before, known := a.h.Outcome(e.Use)
	wrong := true
	switch o.b >> 4 {
	case 1:
		e.Stamp = a.old
		wrong = !e.Stamp.SameEpoch(a.h.Order.Stamp)
	case 2:
		e.Boot = "earlier"
	case 3:
		e.By = "thief"
	default:
		wrong = false
	}
	if w.trace != nil {
		w.say("use", e.Use, "answers", numbers[e.Answer], string(e.How))
	}
	w.step(device, a, e)
	after, _ := a.h.Outcome(e.Use)
	if wrong && known && (before.State != after.State || before.How != after.How) {
		w.fail("I5: an answer that is not to this notice counted")
	}
}

// rounds is how often everything that is under way arrives, at most, until a goal is reached.
const rounds = 24

// fair ends what hinders, and lets everything that is under way arrive, until done or for too long.
func (w *world) fair(rounds int, unwilling bool, each func(), done func() bool) bool {
	for range rounds {
		for i, d := range w.devices {
			for h, a := range d.agents {
				a.foreign, a.changed = false, false
				if a.joined && !a.met {
					w.join(i, h)
				}
				w.manage(i, maintenance.StorageFenced{Host: hostNames[h], Lifted: true})
			}
		}
		each()
		w.pass(6 * time.Second)
		for range 3 {
			w.deliverAll()
			w.doAll()
		}
		if done() {
			return true
		}
		if !unwilling {
			w.obey()
		}
	}
	return done()
}

// obey has every client do what it is asked.
func (w *world) obey() {
	for i, d := range w.devices {
		for _, a := range d.agents {
			for len(a.running) > 0 {
				w.finish(i, a, 0, a.running[0].Step.Action != maintenance.Move || len(w.devices) == 1)
			}
			if a.h.Gate == maintenance.GateOpen {
				continue
			}
			for _, u := range slices.Clone(a.uses) {
				how := maintenance.Moved
				w.step(i, a, maintenance.Answered{Use: u.ID, Stamp: a.h.Order.Stamp, Boot: a.h.Boot, Answer: maintenance.Ready, How: how, Evidence: "seen"})
				if u.Kind != "subscriber" {
					w.release(i, a, u.ID, how)
				}
			}
			for _, o := range slices.Clone(a.h.Outcomes) {
				if o.Residue {
					w.step(i, a, maintenance.Answered{Use: o.ID, Stamp: a.h.Order.Stamp, Boot: a.h.Boot, Answer: maintenance.Ready, How: maintenance.Moved, Evidence: "seen"})
				}
			}
		}
	}
}
