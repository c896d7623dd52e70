// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// messageBytes is what one message of a session holds at most, unless one
// device alone takes more.
const messageBytes = 1 << 20

var (
	errSilentManager = primitives.Errorf(primitives.CodeUnavailable, "the manager was silent for too long")
	errStoppedHere   = primitives.Errorf(primitives.CodeUnavailable, "the agent has no more to report")
)

// refusedError says that the manager does not take this agent, or no longer.
type refusedError struct {
	refusal tenonv1.SessionRefusal
	reason  string
	retryIn time.Duration
}

// Error returns the manager's reason.
func (e *refusedError) Error() string {
	return fmt.Sprintf("the manager refused this agent (%s): %s", e.refusal, e.reason)
}

// session is one stream to a manager. One goroutine receives, one follows the
// agent's reports; everything is decided and sent by the one that runs run.
type session struct {
	link     *ManagerLink
	stream   grpc.BidiStreamingClient[tenonv1.SessionRequest, tenonv1.SessionResponse]
	silence  *time.Timer // ends the session unless it is put off in time
	received chan *tenonv1.SessionResponse
	changed  chan []protocol.Report
	last     map[string]*tenonv1.MaintenanceReport // by device: what was reported last
	beats    uint64
	running  sync.WaitGroup
}

func newSession(l *ManagerLink, cancel context.CancelCauseFunc) *session {
	return &session{
		link: l, received: make(chan *tenonv1.SessionResponse), changed: make(chan []protocol.Report),
		last: map[string]*tenonv1.MaintenanceReport{}, silence: time.AfterFunc(silentBeats*l.o.Heartbeat, func() { cancel(errSilentManager) }),
	}
}

// wait returns when every goroutine of the session has ended. Its context must
// have ended.
func (s *session) wait() {
	s.silence.Stop()
	s.running.Wait()
}

func (s *session) run(ctx context.Context, client tenonv1.ManagementServiceClient) (welcomed bool, err error) {
	// What a dead peer never reads fills the connection, and a send then waits for
	// ever: the timer's end of ctx is what frees it.
	defer func() {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
	}()
	if s.stream, err = client.Session(ctx); err != nil {
		return false, err
	}
	if err := s.hello(); err != nil {
		return false, err
	}
	ended := make(chan error, 2)
	s.running.Go(func() { ended <- s.receive(ctx) })
	if err := s.welcome(ctx, ended); err != nil {
		return false, err
	}
	s.running.Go(func() { ended <- s.follow(ctx) })
	return true, s.loop(ctx, ended)
}

func (s *session) hello() error {
	h := s.link.o.Host
	manager, term := s.link.managed.Enrolled()
	return s.send(&tenonv1.SessionRequest{Message: &tenonv1.SessionRequest_Hello{Hello: &tenonv1.AgentHello{
		HostId: h.ID, BootId: h.BootID, AgentStartId: s.link.o.AgentStart, Version: h.Version,
		ManagerId: manager, Term: term, HeartbeatInterval: during(s.link.o.Heartbeat),
	}}})
}

// send sends m; the end of the stream says why it could not when it is received.
func (s *session) send(m *tenonv1.SessionRequest) error { return s.stream.Send(m) }

// receive hands on what the manager says, and puts the silence off.
func (s *session) receive(ctx context.Context) error {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		s.silence.Reset(silentBeats * s.link.o.Heartbeat)
		select {
		case s.received <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow hands on what the agent reports.
func (s *session) follow(ctx context.Context) error {
	for batch := range s.link.managed.Reports(ctx) {
		select {
		case s.changed <- batch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return errStoppedHere
}

// welcome waits to be taken, and follows the manager if nobody later is followed.
func (s *session) welcome(ctx context.Context, ended <-chan error) error {
	var m *tenonv1.SessionResponse
	select {
	case m = <-s.received:
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if r := m.GetRefusal(); r != nil {
		return refusalOf(r)
	}
	w := m.GetWelcome()
	if w.GetManagerId() == "" || w.GetTerm() == 0 {
		return primitives.Errorf(primitives.CodeInvalid, "the manager began with no welcome that names it and its term")
	}
	manager, term := s.link.managed.Enrolled()
	switch {
	case w.GetTerm() < term, w.GetTerm() == term && manager != "" && manager != w.GetManagerId():
		s.stale(ctx, manager, term, ended)
		return primitives.Errorf(primitives.CodeConflict, "manager %s has term %d, and this host follows manager %s of term %d", w.GetManagerId(), w.GetTerm(), manager, term)
	case w.GetTerm() > term || manager == "":
		err := s.link.managed.Enrol(ctx, w.GetManagerId(), w.GetTerm())
		if errors.Is(err, primitives.CodeConflict) {
			// What this host managed by itself had that term already.
			s.stale(ctx, manager, max(term, w.GetTerm()), ended)
		}
		if err != nil {
			return err
		}
	}
	s.link.o.Log.InfoContext(ctx, "manager session began", "manager", w.GetManagerId(), "term", w.GetTerm())
	return nil
}

// stale tells a manager that a later one is followed, and gives it until the
// session is silent to have heard it.
func (s *session) stale(ctx context.Context, manager string, term uint64, ended <-chan error) {
	err := s.send(&tenonv1.SessionRequest{Message: &tenonv1.SessionRequest_Stale{Stale: &tenonv1.StaleTerm{ManagerId: manager, Term: term}}})
	if err != nil || s.stream.CloseSend() != nil {
		return // the session is over already
	}
	for {
		select {
		case <-s.received:
		case err := <-ended:
			s.link.o.Log.DebugContext(ctx, "stale manager hung up", "err", err)
			return
		case <-ctx.Done():
			return
		}
	}
}

func refusalOf(r *tenonv1.ManagerRefusal) error {
	return &refusedError{refusal: r.GetRefusal(), reason: r.GetReason(), retryIn: r.GetRetryIn().AsDuration()}
}

func (s *session) loop(ctx context.Context, ended <-chan error) error {
	beat := time.NewTicker(s.link.o.Heartbeat)
	defer beat.Stop()
	complete := true // of the first batch, which holds every device
	for {
		var err error
		select {
		case m := <-s.received:
			err = s.take(ctx, m)
		case batch := <-s.changed:
			err = s.report(batch, complete)
			complete = false
		case <-beat.C:
			err = s.heartbeat()
		case err = <-ended:
			// The stream's own end says more than the context's.
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// take does what the manager says. An order that cannot be read is refused with
// all that came beside it; the session goes on, so that the report shows which
// order is in force.
func (s *session) take(ctx context.Context, m *tenonv1.SessionResponse) error {
	switch said := m.GetMessage().(type) {
	case *tenonv1.SessionResponse_Refusal:
		return refusalOf(said.Refusal)
	case *tenonv1.SessionResponse_Question:
		return s.answer(said.Question.GetDevices())
	case *tenonv1.SessionResponse_Orders:
		orders, err := ordersFrom(said.Orders.GetOrders())
		if err == nil {
			err = s.link.managed.Orders(ctx, orders)
		}
		if err != nil {
			s.link.o.Log.ErrorContext(ctx, "orders refused", "count", len(said.Orders.GetOrders()), "err", err)
		}
	}
	return nil
}

func ordersFrom(messages []*tenonv1.MaintenanceOrder) ([]protocol.Order, error) {
	orders := make([]protocol.Order, 0, len(messages))
	for _, m := range messages {
		o, err := OrderFromMessage(m)
		if err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, nil
}

// answer tells again what was told of the devices, or of all.
func (s *session) answer(devices []string) error {
	if len(devices) == 0 {
		return s.tell(s.inOrder(), true)
	}
	var known []*tenonv1.MaintenanceReport
	for _, d := range devices {
		if m := s.last[d]; m != nil {
			known = append(known, m)
		}
	}
	return s.tell(known, false)
}

func (s *session) inOrder() []*tenonv1.MaintenanceReport {
	all := make([]*tenonv1.MaintenanceReport, 0, len(s.last))
	for _, device := range slices.Sorted(maps.Keys(s.last)) {
		all = append(all, s.last[device])
	}
	return all
}

func (s *session) report(batch []protocol.Report, complete bool) error {
	messages := make([]*tenonv1.MaintenanceReport, len(batch))
	for i, r := range batch {
		messages[i] = ReportMessage(r)
		s.last[r.Device] = messages[i]
	}
	return s.tell(messages, complete)
}

// tell sends reports in messages of bounded size; the last one is marked where
// they are all there are.
func (s *session) tell(reports []*tenonv1.MaintenanceReport, complete bool) error {
	for parts := range Parts(reports, messageBytes) {
		m := &tenonv1.AgentReports{Reports: parts.Messages, Complete: complete && parts.Last}
		if err := s.send(&tenonv1.SessionRequest{Message: &tenonv1.SessionRequest_Reports{Reports: m}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) heartbeat() error {
	s.beats++
	beat := &tenonv1.AgentHeartbeat{Number: s.beats}
	for _, m := range s.inOrder() {
		beat.Devices = append(beat.Devices, &tenonv1.DeviceDigest{Device: m.GetDevice(), Seq: m.GetSeq(), Seen: m.GetSeen(), UsesDigest: m.GetUsesDigest()})
	}
	return s.send(&tenonv1.SessionRequest{Message: &tenonv1.SessionRequest_Heartbeat{Heartbeat: beat}})
}

// Part is some of many messages.
type Part[M proto.Message] struct {
	Messages []M
	Last     bool
}

// Parts yields messages in parts of at most limit bytes, or of one message that
// is larger. No message at all is one empty part.
func Parts[M proto.Message](all []M, limit int) iter.Seq[Part[M]] {
	return func(yield func(Part[M]) bool) {
		for {
			n, size := 0, 0
			for n < len(all) && (n == 0 || size+proto.Size(all[n]) <= limit) {
				size += proto.Size(all[n])
				n++
			}
			last := n == len(all)
			if !yield(Part[M]{Messages: all[:n], Last: last}) || last {
				return
			}
			all = all[n:]
		}
	}
}
