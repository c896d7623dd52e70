// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"maps"
	"slices"
	"time"

	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Metrics are the numbers of this host's maintenances since tenond started. States
// are as of now; the rest only grows.
type Metrics struct {
	Devices         []DeviceMetrics
	Respond         Histogram         // seconds from a notice to a use's first answer
	Drain           Histogram         // seconds from the closing of the gate to drained
	Fence           Histogram         // seconds from drained to fenced
	Return          Histogram         // seconds from being told to open to open
	Objections      map[string]uint64 // by code
	Forced          uint64
	Refused         uint64 // uses, operations and domains that a gate turned away
	StaleAnswers    uint64
	DuplicateOrders uint64
	StaleOrders     uint64
	DeadlinesMissed uint64
	ReturnsFailed   uint64
	Moved           uint64 // disks
	MovedBytes      uint64
}

// DeviceMetrics is where one device stands.
type DeviceMetrics struct {
	Device  string
	Phase   protocol.HostPhase
	Gate    protocol.Gate
	Age     time.Duration // of the phase
	Uses    map[protocol.UseState]int
	Foreign int
}

// Histogram counts durations by upper bound in seconds. Counts has one more
// element than Bounds: what is above them all.
type Histogram struct {
	Bounds []float64
	Counts []uint64
	Sum    float64
}

func newHistogram() Histogram {
	bounds := []float64{0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400}
	return Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}
}

func (h *Histogram) observe(d time.Duration) {
	i, _ := slices.BinarySearch(h.Bounds, d.Seconds())
	h.Counts[i]++
	h.Sum += d.Seconds()
}

func (h Histogram) clone() Histogram {
	h.Counts = slices.Clone(h.Counts)
	return h
}

// metrics are the growing numbers. Service.mu guards them.
type metrics struct{ Metrics }

func newMetrics() metrics {
	return metrics{Metrics{
		Respond: newHistogram(), Drain: newHistogram(), Fence: newHistogram(), Return: newHistogram(),
		Objections: make(map[string]uint64),
	}}
}

// Metrics returns the numbers as they are now.
func (s *Service) Metrics() Metrics {
	var m Metrics
	err := s.peek(func(t *turn) error {
		m = s.metrics.Metrics
		m.Respond, m.Drain, m.Fence, m.Return = m.Respond.clone(), m.Drain.clone(), m.Fence.clone(), m.Return.clone()
		m.Objections = maps.Clone(m.Objections)
		m.Devices, m.Refused = nil, s.journal.Refusals()
		devices, err := t.tx.Devices()
		if err != nil {
			return err
		}
		for _, d := range devices {
			w, err := t.ward(d.Name)
			if err != nil {
				return err
			}
			h := &w.rec.Host
			x := DeviceMetrics{Device: d.Name, Phase: h.Phase, Gate: h.Gate, Age: t.now.Sub(w.rec.Since), Uses: make(map[protocol.UseState]int), Foreign: len(h.Foreign)}
			for _, o := range h.Outcomes {
				x.Uses[o.State]++
			}
			m.Devices = append(m.Devices, x)
		}
		return nil
	})
	if err != nil {
		s.log.Warn("metrics are not complete", "err", err)
	}
	return m
}

// noted is what the metrics learn of within a turn; it counts once that is durable.
type noted struct {
	answers                                       []string // uses that answered
	objected                                      []string // codes
	forced, stale, duplicate, staleOrders, missed uint64
}

// note learns from one step of the host's half.
func (w *ward) note(e protocol.HostEvent, actions []protocol.HostAction, overdue bool) {
	n := &w.noted
	if a, is := e.(protocol.Answered); is {
		n.answers = append(n.answers, a.Use)
		if a.Answer == protocol.Object {
			n.objected = append(n.objected, a.Reason.Code)
		}
	}
	_, ordered := e.(protocol.Ordered)
	_, answered := e.(protocol.Answered)
	for _, a := range actions {
		switch a := a.(type) {
		case protocol.CutOff:
			n.forced++
		case protocol.Rejected:
			switch {
			case ordered && a.Err.Code == protocol.Duplicate:
				n.duplicate++
			case ordered && a.Err.Code == protocol.Stale:
				n.staleOrders++
			case answered && a.Err.Code == protocol.Stale:
				n.stale++
			}
		}
	}
	if !overdue && w.rec.Host.Overdue {
		n.missed++
	}
}

// measure counts what a turn brought; mu is held.
func (s *Service) measure(w *ward) {
	m, mem, now := &s.metrics, s.memoryOf(w.name), time.Now()
	for _, code := range w.noted.objected {
		m.Objections[code]++
	}
	m.Forced += w.noted.forced
	m.StaleAnswers += w.noted.stale
	m.DuplicateOrders += w.noted.duplicate
	m.StaleOrders += w.noted.staleOrders
	m.DeadlinesMissed += w.noted.missed
	for _, use := range w.noted.answers {
		if since, told := mem.begun["told "+use]; told {
			m.Respond.observe(now.Sub(since))
			delete(mem.begun, "told "+use)
		}
	}
	for _, a := range w.todo {
		if n, is := a.(protocol.Notify); is {
			if _, told := mem.begun["told "+n.Use]; !told {
				mem.begun["told "+n.Use] = now
			}
		}
	}
	w.timePhase(m, mem, now)
}

// timePhase measures how long the phases take.
func (w *ward) timePhase(m *metrics, mem *memory, now time.Time) {
	after := w.rec.Host.Phase
	if after == w.before {
		return
	}
	span := func(from string, h *Histogram) {
		if since, begun := mem.begun[from]; begun {
			h.observe(now.Sub(since))
			delete(mem.begun, from)
		}
	}
	switch after {
	case protocol.HostDraining:
		if w.before == protocol.HostOpen || w.before == protocol.HostNoticed {
			mem.begun["drain"] = now
		}
	case protocol.HostDrained:
		span("drain", &m.Drain)
		mem.begun["fence"] = now
	case protocol.HostFenced:
		span("fence", &m.Fence)
	case protocol.HostVerifying:
		mem.begun["return"] = now
	case protocol.HostReturnFailed:
		m.ReturnsFailed++
	case protocol.HostOpen:
		span("return", &m.Return)
		clear(mem.begun)
	}
}
