// SPDX-License-Identifier: Apache-2.0

package mockmanager

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

const (
	defaultID   = "mock"
	defaultTerm = 2 // an agent that nobody manages has term 1
	defaultTick = 50 * time.Millisecond
)

// Options say as whom a manager serves, and where.
type Options struct {
	Listen   string        // unix:/PATH or HOST:PORT
	ID       string        // empty: "mock"
	Term     uint64        // 0: 2
	TakeOver bool          // go on in a later term where an agent follows one
	Tick     time.Duration // how often time passes for the machines; 0: 50 ms
	Record   io.Writer     // takes every message as a line of JSON; nil: none
	Lease    time.Duration // the partition policy of every device; 0: hosts are waited for
	Skew     time.Duration
}

// Manager serves ManagementService and keeps one machine for each device. What
// it must not lose is what Restart leaves it.
type Manager struct {
	tenonv1.UnimplementedManagementServiceServer
	o       Options
	record  *recorder
	server  *grpc.Server
	address string
	running sync.WaitGroup
	stop    context.CancelFunc

	mu       sync.Mutex // guards what follows
	term     uint64
	machines map[string]*machine
	sessions map[string]*session // by host
	starts   map[string]string   // by host: the agent start of its last session
	past     map[string]bool     // HOST START: was followed by another agent start
	changed  chan struct{}       // closed and made anew whenever anything changes
	orders   []Fault             // for the next session, or the present ones
	reports  []Fault
	chaos    *Chaos
}

// machine is one device, and what a crash leaves of it.
type machine struct {
	*protocol.Management
	stored []byte
}

// Start serves until ctx ends or Stop is called.
func Start(ctx context.Context, o Options) (*Manager, error) {
	o.ID, o.Term, o.Tick = cmp.Or(o.ID, defaultID), cmp.Or(o.Term, defaultTerm), cmp.Or(o.Tick, defaultTick)
	network, address := "tcp", o.Listen
	if path, ok := strings.CutPrefix(o.Listen, "unix:"); ok {
		network, address = "unix", path
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		o: o, record: &recorder{out: o.Record, start: time.Now()}, server: grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.WaitForHandlers(true)), address: o.Listen,
		term: o.Term, machines: map[string]*machine{}, sessions: map[string]*session{}, starts: map[string]string{}, past: map[string]bool{}, changed: make(chan struct{}),
	}
	if network == "tcp" {
		m.address = l.Addr().String() // where the port was chosen
	}
	tenonv1.RegisterManagementServiceServer(m.server, m)
	ctx, m.stop = context.WithCancel(ctx)
	m.running.Go(func() { m.tick(ctx) })
	m.running.Go(func() {
		if err := m.server.Serve(l); err != nil {
			m.record.event("", "stopped serving: %v", err)
		}
	})
	context.AfterFunc(ctx, m.server.Stop)
	return m, nil
}

// Address is where agents dial.
func (m *Manager) Address() string { return m.address }

// Stop ends every session and returns when nothing runs any more.
func (m *Manager) Stop() error {
	m.stop()
	m.running.Wait()
	m.record.mu.Lock()
	defer m.record.mu.Unlock()
	return m.record.err
}

// tick lets time pass.
func (m *Manager) tick(ctx context.Context) {
	ticker := time.NewTicker(m.o.Tick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			m.mu.Lock()
			for _, d := range m.machines {
				_ = m.step(d, protocol.Elapsed{By: now.Sub(last)}) // time is never refused
			}
			m.mu.Unlock()
			last = now
		}
	}
}

// step steps a machine, makes it durable, and then sends. The caller holds mu.
func (m *Manager) step(d *machine, e protocol.ManagementEvent) error {
	phase := d.Phase
	actions, err := d.Step(e)
	if err != nil {
		return err
	}
	if d.stored, err = json.Marshal(d.Management); err != nil {
		return err
	}
	for _, a := range actions {
		switch a := a.(type) {
		case protocol.Send:
			if s := m.sessions[a.Host]; s != nil {
				s.order(a.Order)
			}
		case protocol.Audit:
			m.record.event(a.Subject, "%s: %s %s", d.Device, a.Who, a.What)
		}
	}
	if d.Phase != phase {
		m.record.event("", "%s: %s, was %s", d.Device, d.Phase, phase)
	}
	if _, timed := e.(protocol.Elapsed); !timed || len(actions) > 0 || d.Phase != phase {
		m.wake()
	}
	return nil
}

// wake tells everybody who waits. The caller holds mu.
func (m *Manager) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// device returns a device's machine. The empty name is the only device there is;
// a name that nobody reported makes a device without hosts. The caller holds mu.
func (m *Manager) device(name string) (*machine, error) {
	if name == "" && len(m.machines) == 1 {
		for only := range maps.Values(m.machines) {
			return only, nil
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%d devices are known (%s): name one", len(m.machines), strings.Join(slices.Sorted(maps.Keys(m.machines)), ", "))
	}
	if m.machines[name] == nil {
		d := &machine{Management: protocol.NewManagement(name, m.term)}
		d.Lease, d.Skew = m.o.Lease, m.o.Skew
		m.machines[name] = d
	}
	return m.machines[name], nil
}

// Do lets something happen to a device: a [protocol.Prepare], for example.
func (m *Manager) Do(device string, e protocol.ManagementEvent) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.device(device)
	if err != nil {
		return err
	}
	m.record.event("", "%s: %T", d.Device, e)
	return m.step(d, e)
}

// Befall lets faults befall the next messages of every session, those to come included.
func (m *Manager) Befall(faults ...Fault) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range faults {
		if !slices.Contains([]string{"lose", "repeat", "reorder", "delay", "late"}, f.Do) {
			return fmt.Errorf("nothing that befalls messages is called %q", f.Do)
		}
		switch f.Of {
		case "orders":
			m.orders = append(m.orders, f)
		case "reports":
			m.reports = append(m.reports, f)
		default:
			return fmt.Errorf("faults are of orders or of reports, not of %q", f.Of)
		}
	}
	for _, s := range m.sessions {
		s.befall(m.take())
	}
	return nil
}

// take hands the faults that wait to a session. The caller holds mu.
func (m *Manager) take() (orders, reports []Fault) {
	if len(m.sessions) == 0 {
		return nil, nil
	}
	orders, reports = m.orders, m.reports
	m.orders, m.reports = nil, nil
	return orders, reports
}

// Unsettle lets chance befall the messages of every session; nil ends it.
func (m *Manager) Unsettle(c *Chaos) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chaos = c
	for _, s := range m.sessions {
		s.unsettle(c)
	}
}

// Disconnect cuts the session of a host, or of all where it is empty. Agents dial again.
func (m *Manager) Disconnect(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, s := range m.sessions {
		if host == "" || host == name {
			s.end(errors.New("cut on purpose"))
		}
	}
}

// Restart forgets what a crash of the manager would: sessions, and what hosts
// acknowledged. What was made durable is read again.
func (m *Manager) Restart() error {
	m.Disconnect("")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record.event("", "restarted")
	for name, d := range m.machines {
		if d.stored == nil {
			delete(m.machines, name)
			continue
		}
		fresh := new(protocol.Management)
		if err := json.Unmarshal(d.stored, fresh); err != nil {
			return err
		}
		d.Management = fresh
		if err := m.step(d, protocol.Reloaded{}); err != nil {
			return err
		}
	}
	return nil
}

// FailOver goes on as another manager of a later term.
func (m *Manager) FailOver(id string) error {
	m.Disconnect("")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.o.ID = cmp.Or(id, m.o.ID)
	return m.failOver(m.term + 1)
}

// failOver begins a term. The caller holds mu.
func (m *Manager) failOver(term uint64) error {
	m.term = term
	m.record.event("", "%s goes on in term %d", m.o.ID, term)
	for _, d := range m.machines {
		if err := m.step(d, protocol.Failover{Term: term, By: m.o.ID}); err != nil {
			return err
		}
	}
	return nil
}

// State returns a copy of where a device stands, what hosts acknowledged included.
func (m *Manager) State(device string) (protocol.Management, []protocol.Blocker, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.device(device)
	if err != nil {
		return protocol.Management{}, nil, err
	}
	return m.copied(d), d.Blockers(), nil
}

// copied returns a copy that further steps leave alone. The caller holds mu.
func (m *Manager) copied(d *machine) protocol.Management {
	c := *d.Management
	c.Members, c.Intents = slices.Clone(c.Members), slices.Clone(c.Intents)
	return c
}

// Await waits until done says so of a device.
func (m *Manager) Await(ctx context.Context, device string, done func(protocol.Management, []protocol.Blocker) bool) error {
	for {
		m.mu.Lock()
		changed := m.changed
		var state string
		d, err := m.device(device)
		if err == nil {
			blockers := d.Blockers()
			if done(m.copied(d), blockers) {
				m.mu.Unlock()
				return nil
			}
			state = fmt.Sprintf("%s is %s at %s, with %d hosts; blocked by %d, such as %v", d.Device, d.Phase, d.Stamp(), len(d.Members), len(blockers), blockers[:min(len(blockers), 3)])
		}
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err, errors.New(state))
		}
	}
}

// AwaitPhase waits until a device is in that phase.
func (m *Manager) AwaitPhase(ctx context.Context, device string, p protocol.Phase) error {
	err := m.Await(ctx, device, func(s protocol.Management, _ []protocol.Blocker) bool { return s.Phase == p })
	if err != nil {
		return fmt.Errorf("waiting until the device is %s: %w", p, err)
	}
	return nil
}

// AwaitHosts waits until that many hosts have a session and reported.
func (m *Manager) AwaitHosts(ctx context.Context, n int) error {
	for {
		m.mu.Lock()
		changed, have := m.changed, 0
		for _, s := range m.sessions {
			if s.reported {
				have++
			}
		}
		m.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d hosts, have %d: %w", n, have, context.Cause(ctx))
		}
	}
}
