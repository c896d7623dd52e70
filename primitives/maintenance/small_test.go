// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"fmt"
	"reflect"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// bits packs fields one after another.
type bits struct {
	all uint64
	at  uint
}

func (b *bits) put(n uint64, width uint) {
	b.all |= n << b.at
	b.at += width
}

func (b *bits) flag(f bool) {
	if f {
		b.all |= 1 << b.at
	}
	b.at++
}

func (b *bits) get(width uint) uint64 {
	n := b.all >> b.at & (1<<width - 1)
	b.at += width
	return n
}

func (b *bits) is() bool { return b.get(1) == 1 }

// emptyDigest is that of no uses.
var emptyDigest = (&maintenance.Host{}).Report(nil).UsesDigest

func (s *search) pack(w *small) key {
	k := key{net: w.net, first: s.packHost(&w.hosts[0]), second: s.packHost(&w.hosts[1])}
	var b bits
	m := w.m
	b.put(uint64(m.Phase), 3)
	b.put(m.Epoch, 4)
	b.put(uint64(m.Rank), 2)
	b.flag(len(m.Intents) > 0)
	b.flag(len(m.Members) > 1)
	for i := range m.Members {
		mb := &m.Members[i]
		b.flag(mb.Late)
		b.flag(mb.Fenced)
		b.flag(mb.Digest != "")
		b.put(uint64(mb.Ack.Phase), 4)
		b.put(mb.Ack.Seen.Epoch, 4)
		b.put(uint64(mb.Ack.Seen.Rank), 2)
		b.flag(mb.Ack.Ready)
		b.flag(mb.Ack.Digest != "")
	}
	k.management = b.all
	if s.checks > 0 {
		s.checks--
		s.compare(w, k)
	}
	return k
}

func (s *search) packHost(w *smallHost) uint64 {
	var b bits
	h := w.h
	b.flag(w.joined)
	b.flag(w.use)
	b.flag(w.entering)
	if h.Order.Stamp == (maintenance.Stamp{}) {
		b.put(0, 6)
	} else {
		b.put(1+s.order(h.Order), 6)
	}
	b.put(uint64(h.Phase), 4)
	b.put(uint64(h.Gate), 2)
	b.flag(h.Fence.Intended)
	b.flag(h.Fence.Verified)
	b.put(uint64(h.FencedFor), 2)
	b.flag(h.Doubt)
	b.flag(h.Blank)
	b.flag(h.Looking)
	b.flag(len(h.Outcomes) > 0)
	b.put(uint64(h.Waiting), 1)
	return b.all
}

func (s *search) unpack(k key) small {
	w := small{net: k.net}
	s.unpackHost(k.first, 0, &w.hosts[0])
	s.unpackHost(k.second, 1, &w.hosts[1])
	b := bits{all: k.management}
	m := &maintenance.Management{Device: "d", Term: 1}
	m.Phase, m.Epoch, m.Rank = maintenance.Phase(b.get(3)), b.get(4), uint8(b.get(2))
	if b.is() {
		m.Intents = []maintenance.Planned{{Intent: theIntent, Asked: theIntent}}
	}
	count := 1 + int(b.get(1))
	m.Members = make([]maintenance.Member, count, 2)
	for i := range m.Members {
		mb := &m.Members[i]
		mb.Host, mb.Boot, mb.AgentStart = hostNames[i], "0", "0"
		mb.Late, mb.Fenced = b.is(), b.is()
		if b.is() {
			mb.Digest = emptyDigest
		}
		mb.Ack.Phase = maintenance.HostPhase(b.get(4))
		mb.Ack.Seen.Epoch, mb.Ack.Seen.Rank = b.get(4), uint8(b.get(2))
		if mb.Ack.Seen.Epoch > 0 {
			mb.Ack.Seen.Term = 1
		}
		mb.Ack.Ready = b.is()
		if b.is() {
			mb.Ack.Digest = emptyDigest
		}
	}
	m.Break(s.flaws)
	w.m = m
	return w
}

func (s *search) unpackHost(packed uint64, i int, w *smallHost) {
	b := bits{all: packed}
	h := &maintenance.Host{Device: "d", ID: hostNames[i], Boot: "0", AgentStart: "0"}
	w.joined, w.use, w.entering = b.is(), b.is(), b.is()
	if order := b.get(6); order > 0 {
		h.Order = s.orders[order-1]
	}
	h.Phase, h.Gate = maintenance.HostPhase(b.get(4)), maintenance.Gate(b.get(2))
	h.Fence.Intended, h.Fence.Verified = b.is(), b.is()
	h.FencedFor = maintenance.Impact(b.get(2))
	h.Doubt, h.Blank, h.Looking = b.is(), b.is(), b.is()
	if b.is() {
		h.Outcomes = []maintenance.Outcome{theOutcome}
	}
	h.Waiting = int(b.get(1))
	if len(h.Outcomes) > 0 {
		h.Outcomes[0].Waits = h.Waiting > 0
	}
	h.Break(s.flaws)
	w.h = h
}

var (
	theUse     = maintenance.Use{ID: "u", Kind: "transfer", Subject: "v"}
	theOutcome = maintenance.Outcome{ID: "u", Kind: "transfer", Subject: "v", State: maintenance.UseNotified}
)

// compareUnread sees that a message that is taken out of the network would do nothing.
func (s *search) compareUnread(w *small, m smallMessage) {
	if s.unread == 0 {
		return
	}
	s.unread--
	now := s.pack(w)
	read := s.unpack(now)
	if m.order != nil {
		h := &read.hosts[m.host]
		h.h.Step(maintenance.Ordered{Order: *m.order, Uses: h.uses()})
	} else if _, err := read.m.Step(maintenance.Reported{Report: *m.report}); err != nil {
		return
	}
	read.forget()
	if s.flaws == 0 && s.pack(&read) != now {
		panic(fmt.Sprintf("a message that was taken for dead is not: %+v %+v", m.order, m.report))
	}
}

// compare sees that packing loses nothing.
func (s *search) compare(w *small, k key) {
	again := s.unpack(k)
	w.m.Break(s.flaws)
	for i := range w.hosts {
		w.hosts[i].h.Break(s.flaws)
		a, b := *w.hosts[i].h, *again.hosts[i].h
		a.Order.Phase, b.Order.Phase = 0, 0
		if !reflect.DeepEqual(a, b) {
			panic(fmt.Sprintf("packing a host loses something:\n%+v\n%+v", a, b))
		}
	}
	a, b := *w.m, *again.m
	if len(a.Intents) == 0 {
		a.Intents, b.Intents = nil, nil
	}
	if !reflect.DeepEqual(a, b) {
		panic(fmt.Sprintf("packing management loses something:\n%+v\n%+v", a, b))
	}
}
