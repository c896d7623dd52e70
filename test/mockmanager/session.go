// SPDX-License-Identifier: Apache-2.0

package mockmanager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/tenon-storage/tenon/agent/rpc"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

const (
	defaultHeartbeat = 5 * time.Second
	silentBeats      = 3
	messageBytes     = 1 << 20
	// queued is how many messages wait for a slow agent; more are lost, which full states survive.
	queued = 1024
)

var (
	errSilentAgent = errors.New("the agent was silent for too long")
	errReplaced    = errors.New("a later session of the same agent start took over")
)

// session is one agent's stream. Messages go through two channels on which
// faults befall them; both belong to mu of the manager.
type session struct {
	m         *Manager
	hello     *tenonv1.AgentHello
	cancel    context.CancelCauseFunc
	out       chan *tenonv1.SessionResponse
	down      channel[*tenonv1.MaintenanceOrder]
	up        channel[*tenonv1.AgentReports]
	waiting   []*tenonv1.MaintenanceOrder // ordered since the last flush
	reported  bool
	lateAfter sync.WaitGroup // of messages that come later
	left      bool           // it is over: nothing may be begun any more
	done      chan struct{}  // closed with left
}

// Session serves one agent.
func (m *Manager) Session(stream grpc.BidiStreamingServer[tenonv1.SessionRequest, tenonv1.SessionResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	m.record.message(fromAgent, hello.GetHostId(), "", first)
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := &session{m: m, hello: hello, cancel: cancel, out: make(chan *tenonv1.SessionResponse, queued), done: make(chan struct{})}
	if refusal := m.enter(s); refusal != nil {
		m.record.message(fromManager, hello.GetHostId(), "", refusal)
		return stream.Send(refusal)
	}
	defer m.leave(s)
	heard := make(chan error, 1)
	interval := hello.GetHeartbeatInterval().AsDuration()
	if interval <= 0 {
		interval = defaultHeartbeat
	}
	silence := time.AfterFunc(silentBeats*interval, func() { cancel(errSilentAgent) })
	defer silence.Stop()
	// Recv returns when this function does, since that ends the stream.
	go func() { heard <- s.listen(stream, func() { silence.Reset(silentBeats * interval) }) }()
	return s.speak(ctx, stream, heard)
}

// enter takes an agent, or says why not.
func (m *Manager) enter(s *session) *tenonv1.SessionResponse {
	m.mu.Lock()
	defer m.mu.Unlock()
	host, start := s.hello.GetHostId(), s.hello.GetAgentStartId()
	old := m.sessions[host]
	switch {
	case host == "" || start == "":
		return rpc.RefusalMessage(tenonv1.SessionRefusal_SESSION_REFUSAL_UNSPECIFIED, "the first message must be a hello that names host and agent start", 0)
	case m.past[host+" "+start]:
		return rpc.RefusalMessage(tenonv1.SessionRefusal_SESSION_REFUSAL_HOST_ID_TAKEN,
			fmt.Sprintf("another agent with host id %s was started after this one", host), time.Second)
	case old != nil && old.hello.GetAgentStartId() != start:
		return rpc.RefusalMessage(tenonv1.SessionRefusal_SESSION_REFUSAL_HOST_ID_TAKEN,
			fmt.Sprintf("another agent with host id %s has a session that answers", host), old.hello.GetHeartbeatInterval().AsDuration())
	case old != nil:
		old.end(errReplaced)
	case m.starts[host] != "" && m.starts[host] != start:
		m.past[host+" "+m.starts[host]] = true
	}
	m.sessions[host], m.starts[host] = s, start
	s.say(&tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Welcome{Welcome: &tenonv1.ManagerWelcome{ManagerId: m.o.ID, Term: m.term}}})
	orders, reports := m.take()
	s.befall(orders, reports)
	s.unsettle(m.chaos)
	for _, d := range m.machines {
		for i := range d.Members {
			if d.Members[i].Host == host {
				s.refusedStep(d, protocol.HostJoined{Host: host, Boot: s.hello.GetBootId(), AgentStart: start, By: m.o.ID})
				break
			}
		}
	}
	s.flush()
	m.wake()
	return nil
}

// leave forgets a session, and returns when nothing of it is to come.
func (m *Manager) leave(s *session) {
	m.mu.Lock()
	host := s.hello.GetHostId()
	if m.sessions[host] == s {
		delete(m.sessions, host)
	}
	m.orders, m.reports = append(s.down.faults, m.orders...), append(s.up.faults, m.reports...) // for the next one
	s.left = true
	close(s.done)
	m.wake()
	m.mu.Unlock()
	s.lateAfter.Wait()
}

// end ends a session. The caller holds the manager's mu.
func (s *session) end(why error) { s.cancel(why) }

// refusedStep steps a machine and writes down a refusal. The caller holds mu.
func (s *session) refusedStep(d *machine, e protocol.ManagementEvent) {
	if err := s.m.step(d, e); err != nil {
		s.m.record.event(s.hello.GetHostId(), "%s: %T refused: %v", d.Device, e, err)
	}
}

// befall adds faults. The caller holds mu.
func (s *session) befall(orders, reports []Fault) {
	s.down.faults, s.up.faults = append(s.down.faults, orders...), append(s.up.faults, reports...)
}

// unsettle sets the odds. The caller holds mu.
func (s *session) unsettle(c *Chaos) {
	s.down.chaos, s.up.chaos = nil, nil
	if c != nil {
		s.down.odds, s.up.odds = *c, *c
		s.down.chaos, s.up.chaos = rand.New(rand.NewPCG(c.Seed, 1)), rand.New(rand.NewPCG(c.Seed, 2))
	}
}

// order remembers an order for the next flush. The caller holds mu.
func (s *session) order(o protocol.Order) {
	if s.left {
		return
	}
	s.waiting = append(s.waiting, rpc.OrderMessage(o))
	if len(s.waiting) == 1 {
		// Whoever holds mu may have more; what it ordered goes as one message.
		s.lateAfter.Go(func() {
			s.m.mu.Lock()
			defer s.m.mu.Unlock()
			s.flush()
		})
	}
}

// flush sends what was ordered, as far as nothing befalls it. The caller holds mu.
func (s *session) flush() {
	var now []*tenonv1.MaintenanceOrder
	for _, o := range s.waiting {
		v := s.down.pass(o)
		if v.did != "" {
			s.m.record.message(fromManager, s.hello.GetHostId(), v.did, ordersMessage([]*tenonv1.MaintenanceOrder{o}))
		}
		now = append(now, v.now...)
		if len(v.later) > 0 {
			s.later(v.after, func() { s.orders(v.later) })
		}
	}
	s.waiting = nil
	s.orders(now)
}

func (s *session) orders(all []*tenonv1.MaintenanceOrder) {
	if len(all) == 0 {
		return
	}
	for part := range rpc.Parts(all, messageBytes) {
		s.say(ordersMessage(part.Messages))
	}
}

func ordersMessage(all []*tenonv1.MaintenanceOrder) *tenonv1.SessionResponse {
	return &tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Orders{Orders: &tenonv1.ManagerOrders{Orders: all}}}
}

// later does something under mu after a while, unless the session has ended.
func (s *session) later(after time.Duration, do func()) {
	if s.left {
		return
	}
	s.lateAfter.Go(func() {
		timer := time.NewTimer(after)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.done:
			return
		}
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		do()
	})
}

// say queues a message; one too many is lost.
func (s *session) say(m *tenonv1.SessionResponse) {
	select {
	case s.out <- m:
	default:
		s.m.record.message(fromManager, s.hello.GetHostId(), "lose", m)
	}
}

// speak sends what is queued until the session ends.
func (s *session) speak(ctx context.Context, stream grpc.BidiStreamingServer[tenonv1.SessionRequest, tenonv1.SessionResponse], heard <-chan error) error {
	host := s.hello.GetHostId()
	for {
		select {
		case m := <-s.out:
			s.m.record.message(fromManager, host, "", m)
			if err := stream.Send(m); err != nil {
				return err
			}
		case err := <-heard:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ctx.Done():
			why := context.Cause(ctx)
			s.m.record.event(host, "session ended: %v", why)
			if errors.Is(why, errReplaced) {
				return stream.Send(rpc.RefusalMessage(tenonv1.SessionRefusal_SESSION_REFUSAL_REPLACED, why.Error(), 0))
			}
			return why
		}
	}
}

// listen takes what the agent says.
func (s *session) listen(stream grpc.BidiStreamingServer[tenonv1.SessionRequest, tenonv1.SessionResponse], alive func()) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		alive()
		s.take(m)
	}
}

// take does what one message asks for.
func (s *session) take(m *tenonv1.SessionRequest) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.left {
		return
	}
	host := s.hello.GetHostId()
	switch said := m.GetMessage().(type) {
	case *tenonv1.SessionRequest_Reports:
		v := s.up.pass(said.Reports)
		s.m.record.message(fromAgent, host, v.did, m)
		for _, r := range v.now {
			s.reports(r)
		}
		if len(v.later) > 0 {
			s.later(v.after, func() {
				for _, r := range v.later {
					s.reports(r)
				}
			})
		}
		return
	case *tenonv1.SessionRequest_Heartbeat:
		s.heartbeat(said.Heartbeat)
	case *tenonv1.SessionRequest_Stale:
		if s.m.o.TakeOver && said.Stale.GetTerm() >= s.m.term {
			if err := s.m.failOver(said.Stale.GetTerm() + 1); err != nil {
				s.m.record.event(host, "take over: %v", err)
			}
		}
	}
	s.m.record.message(fromAgent, host, "", m)
}

// reports gives reports to their machines. The caller holds mu.
func (s *session) reports(all *tenonv1.AgentReports) {
	if s.m.sessions[s.hello.GetHostId()] != s {
		return // another session of the host took over
	}
	for _, message := range all.GetReports() {
		r, err := rpc.ReportFromMessage(message)
		if err == nil && (r.Host != s.hello.GetHostId() || r.AgentStart != s.hello.GetAgentStartId()) {
			err = fmt.Errorf("it is of host %s, agent start %s", r.Host, r.AgentStart)
		}
		var d *machine
		if err == nil {
			d, err = s.m.device(r.Device)
		}
		if err != nil {
			s.m.record.event(s.hello.GetHostId(), "report refused: %v", err)
			continue
		}
		if _, member := memberOf(d.Management, r.Host); !member {
			s.refusedStep(d, protocol.HostJoined{Host: r.Host, Boot: r.Boot, AgentStart: r.AgentStart, By: s.m.o.ID})
		}
		s.refusedStep(d, protocol.Reported{Report: r})
	}
	s.reported = true
	s.m.wake()
}

// heartbeat answers, and asks or tells again where something was lost. The caller holds mu.
func (s *session) heartbeat(beat *tenonv1.AgentHeartbeat) {
	s.say(&tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Heartbeat{Heartbeat: &tenonv1.ManagerHeartbeat{Number: beat.GetNumber()}}})
	var ask []string
	for _, g := range beat.GetDevices() {
		d := s.m.machines[g.GetDevice()]
		if d == nil {
			ask = append(ask, g.GetDevice())
			continue
		}
		mb, member := memberOf(d.Management, s.hello.GetHostId())
		if !member || mb.Last == nil || mb.Last.Seq < g.GetSeq() || mb.Last.UsesDigest != g.GetUsesDigest() {
			ask = append(ask, g.GetDevice())
			continue
		}
		seen := protocol.Stamp{Term: g.GetSeen().GetTerm(), Epoch: g.GetSeen().GetEpoch(), Rank: uint8(g.GetSeen().GetRank())}
		if seen.Compare(d.Stamp()) < 0 {
			s.order(d.OrderFor(s.hello.GetHostId()))
		}
	}
	if len(ask) > 0 {
		s.say(&tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Question{Question: &tenonv1.ManagerQuestion{Devices: ask}}})
	}
}

func memberOf(d *protocol.Management, host string) (protocol.Member, bool) {
	for _, mb := range d.Members {
		if mb.Host == host {
			return mb, true
		}
	}
	return protocol.Member{}, false
}
