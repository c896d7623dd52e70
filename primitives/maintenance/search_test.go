// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"fmt"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// The small world of the exhaustive search: one device, two hosts of which one
// joins late, one use on each, some rounds of maintenance. A message stays in the
// network, so that it may be lost (never read), late, out of order or repeated.
//
// Two reductions keep the states few, and lose none that matters. What can be sent
// at any time is in the network at once: to be unread there is to be unsent. What
// can have no effect any more, whatever follows, is taken out of it: an order that
// its host left behind, and a report on an epoch that management left behind.
// Where a variant listens to such messages they stay.

// A variant is what is wrong with the small world.
type variant struct {
	flaws                     maintenance.Flaw
	forgetsGate               bool // the gate is kept in memory only
	notAtomic                 bool // the gate is looked at, and later the use is recorded
	skipsGate                 bool // incoming migration comes in past the gate
	earlyDrained, earlyFenced bool // an agent reports before what it reports is durable
	startsOpen, unlisted      bool // how the late host begins, and whether it joins the roster
	// The rest is no fault, and not in the model.
	more          uint64 // rounds of maintenance beyond two
	losesJournals bool   // hosts do
}

// lastPrepare is the highest epoch in which a maintenance is begun.
func (v variant) lastPrepare() uint64 { return 3 + 2*v.more }

// A small is one state of the small world.
type small struct {
	m     *maintenance.Management
	hosts [2]smallHost
	net   uint64 // messages, by their place in the search's dictionary
}

type smallHost struct {
	joined, use, entering bool
	h                     *maintenance.Host
}

// A key is a small, packed. It unpacks to the same.
type key struct{ management, net, first, second uint64 }

// A search is one walk through all states of a variant.
type search struct {
	variant
	words  []smallMessage
	known  map[string]int
	orders []maintenance.Order // that hosts took
	checks int                 // states that are unpacked again to compare
	unread int                 // messages that are read to see that they need not be
}

// A smallMessage is an order to a host, or a report of one.
type smallMessage struct {
	host   int
	order  *maintenance.Order
	report *maintenance.Report
}

// word returns the message's place in the dictionary.
func (s *search) word(m smallMessage) uint64 {
	var text string
	if m.order != nil {
		text = fmt.Sprint("order ", m.host, m.order.Stamp, m.order.Gate)
	} else {
		text = fmt.Sprint("report ", m.host, m.report.Seen, m.report.Phase, m.report.UsesDigest, len(m.report.Uses))
	}
	at, found := s.known[text]
	if !found {
		at = len(s.words)
		if at == 64 {
			panic("the dictionary is full")
		}
		s.words = append(s.words, m)
		s.known[text] = at
	}
	return 1 << at
}

// order returns the place of an order that a host took.
func (s *search) order(o maintenance.Order) uint64 {
	for i := range s.orders {
		if s.orders[i].Stamp == o.Stamp && s.orders[i].Gate == o.Gate {
			return uint64(i)
		}
	}
	s.orders = append(s.orders, o)
	return uint64(len(s.orders) - 1)
}

// first returns where the search begins: one host open, the other not there yet.
func (s *search) first() small {
	w := small{m: maintenance.NewManagement("d", 1)}
	for i := range w.hosts {
		h := &maintenance.Host{Device: "d", ID: hostNames[i], Boot: "0", AgentStart: "0"}
		if i == 1 && s.startsOpen {
			h.Phase, h.Gate = maintenance.HostOpen, maintenance.GateOpen
		}
		w.hosts[i].h = h
	}
	w.hosts[0].joined = true
	must(w.m.Step(maintenance.HostJoined{Host: "h0", Boot: "0", AgentStart: "0"}))
	h := w.hosts[0].h
	h.Step(maintenance.Ordered{Order: w.m.OrderFor("h0")})
	h.Step(maintenance.Verified{Stamp: h.Order.Stamp, OK: true})
	return w
}

func must(_ []maintenance.ManagementAction, err error) {
	if err != nil {
		panic(err)
	}
}

var theIntent = maintenance.Intent{ID: "m", Impact: maintenance.Disconnect}

func (w *smallHost) uses() []maintenance.Use {
	if w.use {
		return []maintenance.Use{theUse}
	}
	return nil
}

// forget drops what does not matter for what follows, and counts without end.
func (w *small) forget() {
	for i := range w.hosts {
		h := w.hosts[i].h
		h.Seq, h.Looks, h.Quiet = 0, 0, 0
		h.Outcomes = h.Outcomes[:len(h.Outcomes):len(h.Outcomes)]
		if len(h.Outcomes) == 0 {
			h.Outcomes = nil
		}
	}
	for i := range w.m.Members {
		w.m.Members[i].Last, w.m.Members[i].Ack.Seq = nil, 0
		w.m.Members[i].Ack.Uses, w.m.Members[i].Quiet = 0, 0
	}
}

// next tells every state that can follow.
func (s *search) next(k key, tell func(label func() string, to key)) {
	s.nextManagement(k, tell)
	for i := range 2 {
		s.nextHost(k, i, tell)
	}
	for at := range s.words {
		if k.net>>at&1 == 0 {
			continue
		}
		m := s.words[at]
		w := s.unpack(k)
		if m.report != nil {
			if _, err := w.m.Step(maintenance.Reported{Report: *m.report}); err != nil {
				continue
			}
			s.tell(&w, tell, func() string {
				return fmt.Sprintf("management takes that h%d is %s at %s", m.host, m.report.Phase, m.report.Seen)
			})
			continue
		}
		h := &w.hosts[m.host]
		if !h.joined {
			continue
		}
		h.h.Step(maintenance.Ordered{Order: *m.order, Uses: h.uses()})
		s.tell(&w, tell, func() string { return fmt.Sprintf("h%d takes %s %s", m.host, m.order.Stamp, m.order.Gate) })
	}
}

func (s *search) tell(w *small, tell func(func() string, key), label func() string) {
	w.forget()
	s.post(w)
	s.sweep(w)
	tell(label, s.pack(w))
}

// post puts what can be sent into the network.
func (s *search) post(w *small) {
	for i := range w.m.Members {
		order := w.m.OrderFor(hostNames[i])
		w.net |= s.word(smallMessage{host: i, order: &order})
	}
	for i := range w.hosts {
		h := &w.hosts[i]
		if !h.joined {
			continue
		}
		switch h.h.Phase {
		case maintenance.HostDrained, maintenance.HostFenced, maintenance.HostOpen:
			if h.h.Order.Stamp != (maintenance.Stamp{}) && (!h.use || h.h.Phase == maintenance.HostOpen) {
				s.report(w, i, h.h)
			}
		default:
		}
		if !h.use && (s.earlyDrained || s.earlyFenced) {
			s.postEarly(w, i)
		}
	}
}

func (s *search) report(w *small, host int, h *maintenance.Host) {
	r := h.Report(nil)
	r.Seq = 0
	w.net |= s.word(smallMessage{host: host, report: &r})
}

// postEarly has a host report where it is about to arrive.
func (s *search) postEarly(w *small, i int) {
	for at := range s.words {
		m := s.words[at]
		if w.net>>at&1 == 0 || m.host != i || m.order == nil || m.order.Stamp.Compare(w.hosts[i].h.Order.Stamp) <= 0 {
			continue
		}
		if m.order.Gate == maintenance.GateClosed && s.earlyDrained || m.order.Gate == maintenance.GateFenced && s.earlyFenced {
			var unsaved smallHost
			s.unpackHost(s.packHost(&w.hosts[i]), i, &unsaved)
			unsaved.h.Step(maintenance.Ordered{Order: *m.order})
			unsaved.h.Step(maintenance.Looked{Stamp: m.order.Stamp, Serial: unsaved.h.Looks})
			unsaved.h.Step(maintenance.Fenced{Stamp: m.order.Stamp, OK: true})
			s.report(w, i, unsaved.h)
		}
	}
}

// sweep takes out what can have no effect any more.
func (s *search) sweep(w *small) {
	for at := range s.words {
		if w.net>>at&1 == 0 {
			continue
		}
		m := s.words[at]
		dead := m.order != nil && s.flaws&maintenance.FollowsAnyStamp == 0 && m.order.Stamp.Compare(w.hosts[m.host].h.Order.Stamp) <= 0 ||
			m.report != nil && s.flaws&maintenance.CountsStaleReports == 0 && m.report.Seen.Epoch < w.m.Epoch
		if dead {
			w.net &^= 1 << at
			s.compareUnread(w, m)
		}
	}
}

// nextManagement: management begins, cancels, ends and forgets.
func (s *search) nextManagement(k key, tell func(func() string, key)) {
	step := func(label string, e maintenance.ManagementEvent, before func(*small)) {
		w := s.unpack(k)
		if before != nil {
			before(&w)
		}
		if _, err := w.m.Step(e); err == nil {
			s.tell(&w, tell, func() string { return label })
		}
	}
	w := s.unpack(k)
	if len(w.m.Intents) == 0 && w.m.Phase == maintenance.InService && w.m.Epoch <= s.lastPrepare() {
		step("prepare", maintenance.Prepare{Intent: theIntent}, nil)
	}
	if len(w.m.Intents) > 0 {
		step("cancel or end", maintenance.End{ID: "m"}, nil)
	}
	step("management starts anew", maintenance.Reloaded{}, func(w *small) { w.m.LoseMemory() })
	if late := &w.hosts[1]; !late.joined {
		early := w.m.Phase != maintenance.Fencing && w.m.Phase != maintenance.InMaintenance
		switch {
		case s.unlisted:
			w.hosts[1].joined = true
			s.tell(&w, tell, func() string { return "h1 is there, and nobody knows" })
		case early || !s.startsOpen:
			step("h1 joins", maintenance.HostJoined{Host: "h1", Boot: "0", AgentStart: "0"}, func(w *small) { w.hosts[1].joined = true })
		}
	}
}

// nextHost: a host does what it is to do, restarts, and its use comes and goes.
func (s *search) nextHost(k key, i int, tell func(func() string, key)) {
	w := s.unpack(k)
	if !w.hosts[i].joined {
		return
	}
	on := func(label string, change func(*smallHost)) {
		w := s.unpack(k)
		change(&w.hosts[i])
		s.tell(&w, tell, func() string { return fmt.Sprintf("h%d %s", i, label) })
	}
	for _, act := range w.hosts[i].h.Resume() {
		switch act := act.(type) {
		case maintenance.Look:
			on("looks", func(h *smallHost) {
				h.h.Step(maintenance.Looked{Stamp: act.Stamp, Serial: act.Serial, Uses: h.uses()})
			})
		case maintenance.RaiseFence:
			on("fences", func(h *smallHost) { h.h.Step(maintenance.Fenced{Stamp: act.Stamp, OK: true}) })
		case maintenance.Verify:
			on("verifies", func(h *smallHost) {
				h.h.Step(maintenance.Verified{Stamp: act.Stamp, OK: true, Uses: h.uses()})
			})
		}
	}
	s.nextUse(&w.hosts[i], on)
	if s.losesJournals {
		on("loses its journal", func(h *smallHost) {
			*h.h = maintenance.Host{Device: "d", ID: h.h.ID, Boot: "0", AgentStart: "0"}
			h.h.Break(s.flaws)
			h.entering = false
		})
	}
	on("restarts", func(h *smallHost) {
		h.entering = false
		if s.forgetsGate && h.h.Gate != maintenance.GateOpen {
			h.h.Gate, h.h.Phase, h.h.Fence = maintenance.GateOpen, maintenance.HostOpen, maintenance.FenceState{}
		}
		h.h.Step(maintenance.Restarted{Boot: "0", AgentStart: "0"})
	})
}

// nextUse: a use comes in and goes.
func (s *search) nextUse(h *smallHost, on func(string, func(*smallHost))) {
	come := func(h *smallHost) {
		h.use, h.entering = true, false
		h.h.Step(maintenance.UsesSeen{Uses: h.uses()})
	}
	_, refusal := h.h.Door().Admit("u", "v")
	switch {
	case h.use:
		on("releases its use", func(h *smallHost) {
			h.use = false
			h.h.Step(maintenance.Gone{Use: "u"})
		})
	case h.entering:
		on("records a use", come)
	case refusal == nil && s.notAtomic:
		on("finds the gate open", func(h *smallHost) { h.entering = true })
	case refusal == nil:
		on("lets a use in", come)
	case s.skipsGate:
		on("has a migration come in past the gate", come)
	}
}
