// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/tenon-storage/tenon/agent/rpc"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

const (
	beat  = 20 * time.Millisecond
	limit = 20 * time.Second
)

// desk is a manager that does what a test tells it, session by session.
type desk struct {
	tenonv1.UnimplementedManagementServiceServer
	sessions chan deskSession
}

// deskSession is a session that the test answers; the stream lives until end is closed.
type deskSession struct {
	grpc.BidiStreamingServer[tenonv1.SessionRequest, tenonv1.SessionResponse]
	end chan struct{}
}

func (d *desk) Session(s grpc.BidiStreamingServer[tenonv1.SessionRequest, tenonv1.SessionResponse]) error {
	session := deskSession{s, make(chan struct{})}
	select {
	case d.sessions <- session:
	case <-s.Context().Done():
		return s.Context().Err()
	}
	select {
	case <-session.end:
	case <-s.Context().Done():
	}
	return nil
}

// serveDesk serves a desk on a socket until the test or the returned function ends it.
func serveDesk(t *testing.T, socket string) (*desk, func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{sessions: make(chan deskSession)}
	server := grpc.NewServer()
	tenonv1.RegisterManagementServiceServer(server, d)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	stop := sync.OnceFunc(func() { server.Stop(); <-served })
	t.Cleanup(stop)
	return d, stop
}

// agentSide is an agent that remembers what it was told.
type agentSide struct {
	mu      sync.Mutex // guards what follows
	manager string
	term    uint64
	own     uint64 // the term in which it managed itself
	orders  []protocol.Order
	taken   chan struct{} // one for each batch of orders
	first   []protocol.Report
	later   chan []protocol.Report
}

func newAgentSide(first ...protocol.Report) *agentSide {
	return &agentSide{first: first, later: make(chan []protocol.Report), taken: make(chan struct{}, 100)}
}

func (a *agentSide) Enrol(_ context.Context, manager string, term uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if term <= a.own {
		return primitives.Errorf(primitives.CodeConflict, "term %d is not later than %d", term, a.own)
	}
	a.manager, a.term = manager, term
	return nil
}

func (a *agentSide) Enrolled() (string, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.manager, a.term
}

func (a *agentSide) Orders(_ context.Context, orders []protocol.Order) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.orders = append(a.orders, orders...)
	a.taken <- struct{}{}
	return nil
}

func (a *agentSide) Reports(ctx context.Context) iter.Seq[[]protocol.Report] {
	return func(yield func([]protocol.Report) bool) {
		if !yield(a.first) {
			return
		}
		for {
			select {
			case batch := <-a.later:
				if !yield(batch) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// dial runs a link to the socket until the test ends.
func dial(t *testing.T, a *agentSide, socket string) {
	t.Helper()
	l, err := rpc.NewManagerLink(a, rpc.ManagerOptions{
		Address: "unix:" + socket, Host: rpc.Host{ID: "host-1", BootID: "boot-1", Version: "test"}, AgentStart: "start-1",
		Heartbeat: beat, MaxPause: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// next waits for a session and its hello.
func (d *desk) next(t *testing.T) (deskSession, *tenonv1.AgentHello) {
	t.Helper()
	select {
	case s := <-d.sessions:
		return s, s.hear(t).GetHello()
	case <-time.After(limit):
		t.Fatal("no agent dialled")
	}
	panic("not reached")
}

// hear receives one message; the end of the stream ends the test.
func (s deskSession) hear(t *testing.T) *tenonv1.SessionRequest {
	t.Helper()
	m, err := s.Recv()
	if err != nil {
		t.Fatalf("Recv = %v", err)
	}
	return m
}

// reports returns the next message of reports; heartbeats are passed by.
func (s deskSession) reports(t *testing.T) *tenonv1.AgentReports {
	t.Helper()
	for {
		if r := s.hear(t).GetReports(); r != nil {
			return r
		}
	}
}

func (s deskSession) say(t *testing.T, m *tenonv1.SessionResponse) {
	t.Helper()
	if err := s.Send(m); err != nil {
		t.Fatal(err)
	}
}

func welcome(manager string, term uint64) *tenonv1.SessionResponse {
	return &tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Welcome{Welcome: &tenonv1.ManagerWelcome{ManagerId: manager, Term: term}}}
}

func TestAnAgentTellsEverythingFirstAndThenWhatChanged(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m")
	d, _ := serveDesk(t, socket)
	a := newAgentSide(protocol.Report{Device: "fast", Seq: 1}, protocol.Report{Device: "slow", Seq: 1})
	dial(t, a, socket)
	s, hello := d.next(t)
	if hello.GetHostId() != "host-1" || hello.GetBootId() != "boot-1" || hello.GetAgentStartId() != "start-1" {
		t.Errorf("hello = %v", hello)
	}
	s.say(t, welcome("m1", 7))
	if r := s.reports(t); len(r.GetReports()) != 2 || !r.GetComplete() {
		t.Errorf("first reports = %v, want both devices and complete", r)
	}
	if manager, term := a.Enrolled(); manager != "m1" || term != 7 {
		t.Errorf("Enrolled = %s, %d; want m1, 7", manager, term)
	}
	a.later <- []protocol.Report{{Device: "fast", Seq: 2}}
	if r := s.reports(t); len(r.GetReports()) != 1 || r.GetComplete() || r.GetReports()[0].GetSeq() != 2 {
		t.Errorf("later reports = %v, want one of seq 2", r)
	}
	s.say(t, &tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Question{Question: &tenonv1.ManagerQuestion{Devices: []string{"fast", "gone"}}}})
	if r := s.reports(t); len(r.GetReports()) != 1 || r.GetReports()[0].GetSeq() != 2 {
		t.Errorf("answer = %v, want the last report of fast", r)
	}
	s.say(t, &tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Question{Question: &tenonv1.ManagerQuestion{}}})
	if r := s.reports(t); len(r.GetReports()) != 2 || !r.GetComplete() {
		t.Errorf("answer = %v, want the last reports of both", r)
	}
}

func TestOrdersReachTheAgentAndOnesHalfUnderstoodDoNot(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m")
	d, _ := serveDesk(t, socket)
	a := newAgentSide()
	dial(t, a, socket)
	s, _ := d.next(t)
	s.say(t, welcome("m1", 7))
	unknown := rpc.OrderMessage(fullOrder())
	unknown.Phase = 99
	for _, m := range []*tenonv1.MaintenanceOrder{unknown, rpc.OrderMessage(fullOrder())} {
		s.say(t, &tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Orders{Orders: &tenonv1.ManagerOrders{Orders: []*tenonv1.MaintenanceOrder{m}}}})
	}
	select {
	case <-a.taken:
	case <-time.After(limit):
		t.Fatal("no order came")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if diff := cmp.Diff([]protocol.Order{fullOrder()}, a.orders); diff != "" {
		t.Errorf("orders (-want +got):\n%s", diff)
	}
}

// A manager that takes the connection and then says nothing is left, whatever it
// had said before, and so is one that does not even speak gRPC.
//
// Cases: E8
func TestASilentManagerIsLeftAndDialledAgain(t *testing.T) {
	t.Run("after the welcome", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "m")
		d, _ := serveDesk(t, socket)
		dial(t, newAgentSide(protocol.Report{Device: "fast", Seq: 1}), socket)
		first, _ := d.next(t)
		first.say(t, welcome("m1", 7))
		second, hello := d.next(t) // nobody answered the heartbeats
		if hello.GetManagerId() != "m1" || hello.GetTerm() != 7 {
			t.Errorf("second hello = %v, want the manager followed", hello)
		}
		second.say(t, welcome("m1", 7))
		if r := second.reports(t); !r.GetComplete() || len(r.GetReports()) != 1 {
			t.Errorf("reports of the second session = %v, want everything again", r)
		}
	})
	t.Run("before the welcome", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "m")
		d, _ := serveDesk(t, socket)
		dial(t, newAgentSide(), socket)
		d.next(t)
		d.next(t)
	})
	t.Run("a socket that nobody serves", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "m")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dial(t, newAgentSide(), socket)
		for range 2 {
			if _, err := l.Accept(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestASessionThatIsAnsweredStays(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m")
	d, _ := serveDesk(t, socket)
	dial(t, newAgentSide(protocol.Report{Device: "fast", Seq: 3, UsesDigest: "d", Seen: protocol.Stamp{Term: 7, Epoch: 2}}), socket)
	s, _ := d.next(t)
	s.say(t, welcome("m1", 7))
	for n := uint64(1); n <= 12; { // four times as long as silence is suffered
		h := s.hear(t).GetHeartbeat()
		if h == nil {
			continue
		}
		if h.GetNumber() != n {
			t.Fatalf("heartbeat = %d, want %d", h.GetNumber(), n)
		}
		if len(h.GetDevices()) == 1 {
			if g := h.GetDevices()[0]; g.GetSeq() != 3 || g.GetUsesDigest() != "d" || g.GetSeen().GetEpoch() != 2 {
				t.Errorf("digest = %v, want seq, digest and seen of the report", g)
			}
		}
		s.say(t, &tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Heartbeat{Heartbeat: &tenonv1.ManagerHeartbeat{Number: n}}})
		n++
	}
}

// Cases: E5
func TestAManagerOfALowerTermIsToldAndNotFollowed(t *testing.T) {
	for name, w := range map[string]*tenonv1.SessionResponse{
		"a lower term":                  welcome("m0", 6),
		"the same term, another's name": welcome("m0", 7),
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "m")
			d, _ := serveDesk(t, socket)
			a := newAgentSide(protocol.Report{Device: "fast", Seq: 1})
			a.manager, a.term = "m1", 7
			dial(t, a, socket)
			s, _ := d.next(t)
			s.say(t, w)
			if stale := s.hear(t).GetStale(); stale.GetManagerId() != "m1" || stale.GetTerm() != 7 {
				t.Errorf("answer = %v, want that term 7 of m1 is followed", stale)
			}
			close(s.end)
			if manager, term := a.Enrolled(); manager != "m1" || term != 7 {
				t.Errorf("Enrolled = %s, %d; want m1, 7", manager, term)
			}
			later, _ := d.next(t)
			later.say(t, welcome("m2", 8))
			later.reports(t)
			if manager, term := a.Enrolled(); manager != "m2" || term != 8 {
				t.Errorf("Enrolled = %s, %d; want m2, 8", manager, term)
			}
		})
	}
}

func TestAManagerOfTheHostsOwnTermIsToldToo(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m")
	d, _ := serveDesk(t, socket)
	a := newAgentSide(protocol.Report{Device: "fast", Seq: 1})
	a.own = 1
	dial(t, a, socket)
	s, _ := d.next(t)
	s.say(t, welcome("m1", 1))
	if stale := s.hear(t).GetStale(); stale.GetTerm() != 1 {
		t.Errorf("answer = %v, want that term 1 is taken", stale)
	}
	close(s.end)
	s, _ = d.next(t)
	s.say(t, welcome("m1", 2))
	s.reports(t)
	if manager, term := a.Enrolled(); manager != "m1" || term != 2 {
		t.Errorf("Enrolled = %s, %d; want m1, 2", manager, term)
	}
}

func TestARefusedAgentDialsAgainWhenItWasToldTo(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m")
	d, _ := serveDesk(t, socket)
	dial(t, newAgentSide(), socket)
	s, _ := d.next(t)
	const pause = 300 * time.Millisecond
	refused := time.Now()
	m := rpc.RefusalMessage(tenonv1.SessionRefusal_SESSION_REFUSAL_HOST_ID_TAKEN, "another agent has this host id", pause)
	s.say(t, m)
	d.next(t)
	if waited := time.Since(refused); waited < pause {
		t.Errorf("dialled again after %v, want at least %v", waited, pause)
	}
}

func TestAManagerThatComesBackFindsTheAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m")
	d, stop := serveDesk(t, socket)
	dial(t, newAgentSide(protocol.Report{Device: "fast", Seq: 1}), socket)
	s, _ := d.next(t)
	s.say(t, welcome("m1", 7))
	s.reports(t)
	stop()
	d, _ = serveDesk(t, socket)
	s, _ = d.next(t)
	s.say(t, welcome("m1", 7))
	if r := s.reports(t); !r.GetComplete() || len(r.GetReports()) != 1 {
		t.Errorf("reports = %v, want everything", r)
	}
}

func TestOnlyUnixSocketsAndLoopbackAreDialled(t *testing.T) {
	for _, good := range []string{"unix:/run/m.sock", "unix:///run/m.sock", "127.0.0.1:7100", "[::1]:7100", "localhost:7100", "127.3.2.1:80"} {
		if err := rpc.CheckManagerAddress(good); err != nil {
			t.Errorf("CheckManagerAddress(%q) = %v", good, err)
		}
	}
	for _, bad := range []string{"", "unix:", "unix:/", "unix:run/m.sock", "10.0.0.1:7100", "example.org:7100", "127.0.0.1", "127.0.0.1:", ":7100", "0.0.0.0:7100", "[::]:7100"} {
		err := rpc.CheckManagerAddress(bad)
		if e, ok := errors.AsType[*primitives.Error](err); !ok || e.Code != primitives.CodeInvalid || len(e.Problems) != 1 {
			t.Errorf("CheckManagerAddress(%q) = %v, want one problem", bad, err)
		}
	}
}

func TestWhatPassesTheWireIsWhatWasSaid(t *testing.T) {
	order, err := rpc.OrderFromMessage(rpc.OrderMessage(fullOrder()))
	if diff := cmp.Diff(fullOrder(), order); err != nil || diff != "" {
		t.Errorf("order, %v (-want +got):\n%s", err, diff)
	}
	report, err := rpc.ReportFromMessage(rpc.ReportMessage(fullReport()))
	if diff := cmp.Diff(fullReport(), report); err != nil || diff != "" {
		t.Errorf("report, %v (-want +got):\n%s", err, diff)
	}
	for _, p := range []protocol.HostPhase{protocol.HostUnknown, protocol.HostReturnFailed} {
		for _, g := range []protocol.Gate{protocol.GateUnknown, protocol.GateFenced} {
			in := protocol.Report{Device: "d", Phase: p, Gate: g}
			if out, err := rpc.ReportFromMessage(rpc.ReportMessage(in)); err != nil || !reflect.DeepEqual(in, out) {
				t.Errorf("%v comes back as %v, %v", in, out, err)
			}
		}
	}
	for _, how := range []protocol.How{protocol.Moved, protocol.Detached, protocol.Paused, protocol.Stopped, protocol.Closed, protocol.Tolerates, protocol.Removed} {
		in := protocol.Report{Device: "d", Uses: []protocol.UseReport{{ID: "u", How: how}}}
		if out, err := rpc.ReportFromMessage(rpc.ReportMessage(in)); err != nil || !reflect.DeepEqual(in, out) {
			t.Errorf("%v comes back as %v, %v", in, out, err)
		}
	}
	// The zero order, which says open and nothing else, is whole.
	zero := protocol.Order{Device: "d", Gate: protocol.GateOpen}
	if out, err := rpc.OrderFromMessage(rpc.OrderMessage(zero)); err != nil || !reflect.DeepEqual(zero, out) {
		t.Errorf("%v comes back as %v, %v", zero, out, err)
	}
}

// The two full values really are full: a field that is added to the protocol and
// forgotten on the wire fails the test above.
func TestTheFullMessagesLeaveNoFieldOut(t *testing.T) {
	for _, v := range []any{fullOrder(), fullReport()} {
		for _, empty := range zeroFields(reflect.ValueOf(v), reflect.TypeOf(v).Name()) {
			t.Errorf("%s is zero", empty)
		}
	}
}

func zeroFields(v reflect.Value, name string) []string {
	switch v.Kind() {
	case reflect.Struct:
		var all []string
		for i := range v.NumField() {
			all = append(all, zeroFields(v.Field(i), name+"."+v.Type().Field(i).Name)...)
		}
		return all
	case reflect.Pointer:
		if !v.IsNil() {
			return zeroFields(v.Elem(), name)
		}
	case reflect.Slice:
		if v.Len() > 0 {
			return zeroFields(v.Index(0), name+"[0]")
		}
	}
	if v.IsZero() {
		return []string{name}
	}
	return nil
}

func TestManyReportsTakeSeveralMessagesAndLoseNone(t *testing.T) {
	var all []*tenonv1.MaintenanceReport
	for i := range 100 {
		all = append(all, &tenonv1.MaintenanceReport{Device: fmt.Sprintf("device-%03d", i)})
	}
	var got []*tenonv1.MaintenanceReport
	parts, lasts := 0, 0
	for p := range rpc.Parts(all, 200) {
		parts++
		if p.Last {
			lasts++
		}
		got = append(got, p.Messages...)
	}
	if !slices.Equal(all, got) || parts < 5 || lasts != 1 {
		t.Errorf("%d parts, %d last, %d reports; want several, one, 100", parts, lasts, len(got))
	}
	for p := range rpc.Parts([]*tenonv1.MaintenanceReport{}, 200) {
		if !p.Last || len(p.Messages) > 0 {
			t.Errorf("part of nothing = %v, want one that is last and empty", p)
		}
	}
}

func fullOrder() protocol.Order {
	return protocol.Order{
		Device: "backend-1", IDs: []string{"m-1", "m-2"}, Stamp: protocol.Stamp{Term: 7, Epoch: 3, Rank: protocol.RankFence},
		Phase: protocol.Fencing, Gate: protocol.GateFenced, Impact: protocol.DataLoss, Expected: time.Hour, NotBefore: time.Minute,
		Respond: time.Second, Drain: 2 * time.Second, OnRespond: protocol.OnDeadlineEscalate, OnDrain: protocol.OnDeadlineForce,
		Permission: "ops", Policy: protocol.Policy{{Action: protocol.Shutdown, Target: "t", Restart: true}}, Reason: "new disks",
		Alternatives: []string{"slow"}, Return: true, Grants: []protocol.Grant{{ID: "g", Subject: "web01", By: "ops"}}, Overridden: []protocol.Override{{Subject: "u-9", Permission: "p", By: "ops", Reason: "r"}},
		Lease: time.Minute, Heard: 4, HeardFrom: "start-1",
	}
}

func fullReport() protocol.Report {
	stamp := protocol.Stamp{Term: 7, Epoch: 3, Rank: 1}
	return protocol.Report{
		Device: "backend-1", Host: "host-1", Boot: "boot-1", AgentStart: "start-1", Seq: 9, Seen: stamp, Gate: protocol.GateClosed,
		Phase: protocol.HostDraining, Fence: protocol.FenceState{Intended: true, Verified: true, Method: "m", Evidence: "e"},
		Uses: []protocol.UseReport{{
			ID: "u-1", Kind: "disk", Subject: "web01", Domain: "web", Disk: "d", Writer: true, Admitted: stamp, Grant: "g", State: protocol.UseObjected,
			Action: "move", How: protocol.Moved, Percent: 12.5, ETA: time.Minute, Silent: time.Second,
			Reason: &protocol.Reason{Code: "busy", Text: "backup", Retryable: true, RetryIn: time.Hour},
		}},
		UsesDigest: "digest", Foreign: []protocol.Foreign{{Name: "qemu-img (pid 812)", PID: 812, Path: "/x"}}, Failure: "no", Lapsed: true, Leased: true,
	}
}
