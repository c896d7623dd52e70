// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package main

import (
	"errors"
	"fmt"
	"time"

	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// protocolRounds is how many whole maintenances one measurement steps through.
const protocolRounds = 20000

// benchSteps puts both halves of the protocol through whole maintenances, with
// progress and an objection, and counts the events that either half took.
func benchSteps() ([]row, error) {
	var each []time.Duration
	for range runs {
		s := newSteps()
		began := time.Now()
		for range protocolRounds {
			if err := s.round(); err != nil {
				return nil, err
			}
		}
		// Picoseconds stand in for nanoseconds, so that a median of parts is kept.
		each = append(each, time.Since(began)*1000/time.Duration(s.events))
	}
	return []row{lowerIs("a step of the protocol, both halves", "ns", float64(median(each))/1000, nil, 1000)}, nil
}

// steps are both halves, with nothing between them.
type steps struct {
	host       *protocol.Host
	management *protocol.Management
	uses       []protocol.Use
	events     int
	rounds     int
	failed     error
}

func newSteps() *steps {
	s := &steps{
		host:       &protocol.Host{Device: "d", ID: "h", Boot: "b", AgentStart: "a"},
		management: &protocol.Management{Device: "d", Term: 1},
	}
	s.ask(protocol.HostJoined{Host: "h", Boot: "b", AgentStart: "a", By: "bench"})
	return s
}

// tell steps the host's half and carries out what it asks for at once.
func (s *steps) tell(e protocol.HostEvent) {
	s.events++
	for _, a := range s.host.Step(e) {
		switch a := a.(type) {
		case protocol.SendReport:
			s.ask(protocol.Reported{Report: s.host.Report(s.uses)})
		case protocol.Look:
			s.tell(protocol.Looked{Stamp: a.Stamp, Serial: a.Serial, Uses: s.uses})
		case protocol.RaiseFence:
			s.tell(protocol.Fenced{Stamp: a.Stamp, OK: true, Method: "none", Evidence: "none"})
		case protocol.Verify:
			s.tell(protocol.Verified{Stamp: a.Stamp, Uses: s.uses, OK: true})
		}
	}
}

// ask steps management's half and delivers what it sends.
func (s *steps) ask(e protocol.ManagementEvent) {
	s.events++
	actions, err := s.management.Step(e)
	s.failed = errors.Join(s.failed, err)
	for _, a := range actions {
		if send, ok := a.(protocol.Send); ok {
			s.tell(protocol.Ordered{Order: send.Order, Uses: s.uses})
		}
	}
}

// round is one maintenance of a device with two uses.
func (s *steps) round() error {
	s.rounds++
	id := fmt.Sprint(s.rounds)
	s.uses = []protocol.Use{{ID: "one", Kind: "transfer"}, {ID: "two", Kind: "transfer"}}
	s.tell(protocol.UsesSeen{Uses: s.uses})
	s.ask(protocol.Prepare{Intent: protocol.Intent{ID: id, Requester: "bench", Impact: protocol.Disconnect, Respond: time.Hour, Drain: time.Hour}})
	stamp := s.host.Order.Stamp
	for _, use := range []string{"one", "two"} {
		s.tell(protocol.Answered{Use: use, Stamp: stamp, Boot: "b", Answer: protocol.Accept, ETA: time.Minute})
		for percent := 25.0; percent < 100; percent += 25 {
			s.tell(protocol.Answered{Use: use, Stamp: stamp, Boot: "b", Answer: protocol.Progress, Percent: percent})
			s.tell(protocol.Elapsed{By: time.Second})
			s.ask(protocol.Elapsed{By: time.Second})
		}
	}
	s.tell(protocol.Answered{Use: "two", Stamp: stamp, Boot: "b", Answer: protocol.Object, Reason: protocol.Reason{Code: "busy", Text: "busy"}})
	s.tell(protocol.Answered{Use: "two", Stamp: stamp, Boot: "b", Answer: protocol.Withdraw})
	for len(s.uses) > 0 {
		gone := s.uses[0].ID
		s.uses = s.uses[1:]
		s.tell(protocol.Gone{Use: gone, How: protocol.Closed})
	}
	if s.management.Phase != protocol.InMaintenance {
		return errors.Join(s.failed, fmt.Errorf("after round %d management is in phase %d, the host in %d", s.rounds, s.management.Phase, s.host.Phase))
	}
	s.ask(protocol.End{ID: id, By: "bench"})
	if s.management.Phase != protocol.InService || s.failed != nil {
		return errors.Join(s.failed, fmt.Errorf("after its end round %d has management in phase %d, the host in %d", s.rounds, s.management.Phase, s.host.Phase))
	}
	return nil
}
