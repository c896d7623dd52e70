// SPDX-License-Identifier: Apache-2.0

package maintenance_test

import (
	"testing"

	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// bad says which invariant a state breaks: I1 to I4, as the model has them.
func bad(w *small) string {
	for i := range w.hosts {
		x := &w.hosts[i]
		h := x.h
		switch {
		case w.m.Phase == maintenance.InMaintenance && x.joined && (x.use || h.Gate == maintenance.GateOpen):
			return "I1"
		case h.Phase == maintenance.HostFenced && x.use:
			return "I2"
		case h.Order.Stamp.Epoch > w.m.Epoch:
			return "I3"
		case w.m.Phase == maintenance.InService && i < len(w.m.Members) && h.Order.Stamp.SameEpoch(w.m.Stamp()) && h.Phase == maintenance.HostFenced:
			return "I4"
		}
	}
	return ""
}

// A finding is what a search came to.
type finding struct {
	states int
	broken string // an invariant; empty: all of them hold
	trace  []string
	goals  [maintenance.ReturnFailed + 1]bool
}

// run walks breadth first through all states.
func (v variant) run() finding {
	s := &search{variant: v, known: map[string]int{}, checks: 20_000, unread: 20_000}
	first := s.first()
	first.forget()
	s.post(&first)
	start := s.pack(&first)
	states := []key{start}
	numbers := map[key]int32{start: 0}
	parents := []int32{-1}
	edges := [][2]int32{}
	var f finding
	for at := 0; at < len(states); at++ {
		w := s.unpack(states[at])
		if f.broken = bad(&w); f.broken != "" {
			f.states, f.trace = len(states), s.path(states, parents, at)
			return f
		}
		f.goals[w.m.Phase] = true
		s.next(states[at], func(_ func() string, to key) {
			n, found := numbers[to]
			if !found {
				n = int32(len(states))
				numbers[to] = n
				states = append(states, to)
				parents = append(parents, int32(at))
			}
			if n != int32(at) {
				edges = append(edges, [2]int32{int32(at), n})
			}
		})
	}
	f.states = len(states)
	if trap := s.trap(states, edges); trap >= 0 {
		f.broken, f.trace = "L1", s.path(states, parents, trap)
	}
	return f
}

// path tells how a state came about.
func (s *search) path(states []key, parents []int32, at int) []string {
	if parents[at] < 0 {
		return nil
	}
	from := int(parents[at])
	trace := s.path(states, parents, from)
	told := ""
	s.next(states[from], func(label func() string, to key) {
		if told == "" && to == states[at] {
			told = label()
		}
	})
	return append(trace, told)
}

// trap returns a state from which the device never comes back, or -1.
func (s *search) trap(states []key, edges [][2]int32) int {
	begin := make([]int32, len(states)+1)
	for _, e := range edges {
		begin[e[1]+1]++
	}
	for i := range states {
		begin[i+1] += begin[i]
	}
	before := make([]int32, len(edges))
	fill := append([]int32(nil), begin...)
	for _, e := range edges {
		before[fill[e[1]]] = e[0]
		fill[e[1]]++
	}
	good := make([]bool, len(states))
	var queue []int32
	for i, k := range states {
		b := bits{all: k.management}
		if maintenance.Phase(b.get(3)) == maintenance.InService {
			good[i] = true
			queue = append(queue, int32(i))
		}
	}
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, p := range before[begin[n]:begin[n+1]] {
			if !good[p] {
				good[p] = true
				queue = append(queue, p)
			}
		}
	}
	for i := range good {
		if !good[i] {
			return i
		}
	}
	return -1
}

// TestTheModelsTable reproduces what an exhaustive search of a model of the
// protocol found, with the machines themselves in the place of the model.
// Cases: E1, E2, E3, E40, E41, E42, E43, E44, E75, E76, E82, E83, E84
func TestTheModelsTable(t *testing.T) {
	table := map[string]struct {
		variant
		broken string
	}{
		"full protocol":                                {variant{}, ""},
		"acks not tied to epoch":                       {variant{flaws: maintenance.CountsStaleReports}, "I1"},
		"gate kept in memory only":                     {variant{forgetsGate: true}, "I1"},
		"agent accepts lower epoch":                    {variant{flaws: maintenance.FollowsAnyStamp}, "I1"},
		"gate check and use record not atomic":         {variant{notAtomic: true}, "I2"},
		"incoming migration skips the gate":            {variant{skipsGate: true}, "I2"},
		"drained reported before gate closed":          {variant{earlyDrained: true}, ""},
		"fenced reported before fenced":                {variant{earlyFenced: true}, ""},
		"both of the above":                            {variant{earlyDrained: true, earlyFenced: true}, "I1"},
		"no second phase, and early drained report":    {variant{flaws: maintenance.SkipsFencing, earlyDrained: true}, "I1"},
		"late host starts open, but is enrolled":       {variant{startsOpen: true}, ""},
		"late host not enrolled, but starts closed":    {variant{unlisted: true}, ""},
		"late host not enrolled and starts open":       {variant{unlisted: true, startsOpen: true}, "I1"},
		"full protocol, with four rounds":              {variant{more: 2}, ""},
		"full protocol, and hosts lose their journals": {variant{losesJournals: true}, ""},
		"cancel keeps the epoch":                       {variant{flaws: maintenance.CancelsInPlace}, "L1"},
	}
	for name, row := range table {
		t.Run(name, func(t *testing.T) {
			f := row.run()
			t.Logf("%d states, broken: %q in %d steps", f.states, f.broken, len(f.trace))
			if f.broken != row.broken {
				for _, line := range f.trace {
					t.Log(line)
				}
				t.Fatalf("breaks %q, want %q", f.broken, row.broken)
			}
			if row.broken == "" && (!f.goals[maintenance.InMaintenance] || !f.goals[maintenance.Returning]) {
				t.Error("never comes to maintenance and back")
			}
		})
	}
}
