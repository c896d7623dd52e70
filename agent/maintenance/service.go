// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Options are the optional parts of New; zero values mean the defaults.
type Options struct {
	Log  *slog.Logger
	Boot string // identity of this boot of the host
	// Manager is the address of the outside manager that is configured. Where it is
	// set this host never manages itself, also before the manager was ever heard of.
	Manager      string
	Tick         time.Duration // how often devices on their way are looked after. 1 s
	Heartbeat    time.Duration // how often the agent's own work says that it lives. 10 s
	ShutdownTime time.Duration // how long a guest may take to power off. 5 min
	DetachTime   time.Duration // how long a guest may take to let go of a disk. 30 s
	LostAfter    time.Duration // how long a subscriber that went away may come back. 1 min
	Rate         int64         // bytes per second that a plan reckons with. 200 MiB/s
	KeepAudit    int           // lines of the audit that are kept. 20000
	Acts         int           // moves, detaches and the like under way at once. 8
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Tick = cmp.Or(o.Tick, time.Second)
	o.Heartbeat = cmp.Or(o.Heartbeat, 10*time.Second)
	o.ShutdownTime = cmp.Or(o.ShutdownTime, 5*time.Minute)
	o.DetachTime = cmp.Or(o.DetachTime, 30*time.Second)
	o.LostAfter = cmp.Or(o.LostAfter, time.Minute)
	o.Rate = cmp.Or(o.Rate, 200<<20)
	o.KeepAudit = cmp.Or(o.KeepAudit, 20000)
	o.Acts = cmp.Or(o.Acts, 8)
	return o
}

// Service takes this host's devices into maintenance and back. It is safe for
// concurrent use.
type Service struct {
	journal *journal.Journal
	engine  *operation.Engine
	devices *device.Registry
	disks   *attach.Service
	adapter hypervisor.Adapter // nil: this host runs no domains
	options Options
	log     *slog.Logger
	start   string // identity of this start of the agent

	ctx   context.Context // ends at Stop
	stop  context.CancelFunc
	work  sync.WaitGroup // every goroutine of the service
	wake  chan struct{}  // the devices are to be looked after now; holds one wish
	slots chan struct{}  // one for each act under way
	looks chan struct{}  // one for each look under way

	// mu guards what follows. Where a transaction that changes the journal is
	// needed too, mu is locked inside of it and held until it is durable.
	mu       sync.Mutex
	boot     string
	started  bool
	manager  manager
	memories map[string]*memory // by device: what need not survive
	watchers map[*watcher]struct{}
	asked    map[*reporting]struct{}  // those who read Reports
	streams  map[string]*Subscription // by id: of the clients that are there
	away     map[string]time.Time     // by id: since when one that blocks is not there
	plans    []Plan                   // the newest last, to tell what changed since
	metrics  metrics
}

// memory is what is known of a device beside its records.
type memory struct {
	record *record              // as it is in the journal; nil: to be read
	clock  time.Time            // when its record was brought up to date last, with the steady clock
	acks   map[string]ackOf     // what the managing half counts, by host
	acts   map[string]*doing    // by use: what is being done now
	queue  *queue               // what is to be done in order
	busy   bool                 // on its way: looked after at each tick
	told   protocol.Order       // what subscribers were told last
	begun  map[string]time.Time // when what the metrics measure began
}

// New returns the service and registers its kinds of operation. Devices that are
// fenced are shut here, so it is called before the registry's Start; call Start
// once the operations resume.
func New(j *journal.Journal, e *operation.Engine, devices *device.Registry, disks *attach.Service, adapter hypervisor.Adapter, o Options) (*Service, error) {
	o = o.withDefaults()
	s := &Service{
		journal: j, engine: e, devices: devices, disks: disks, adapter: adapter, options: o, log: o.Log,
		start: rand.Text(), boot: o.Boot,
		wake: make(chan struct{}, 1), slots: make(chan struct{}, o.Acts), looks: make(chan struct{}, looksAtOnce),
		memories: make(map[string]*memory), watchers: make(map[*watcher]struct{}),
		asked: make(map[*reporting]struct{}), streams: make(map[string]*Subscription), away: make(map[string]time.Time),
		metrics: newMetrics(),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.registerKinds()
	devices.KeepDoors(s)
	if err := s.reapply(); err != nil {
		return nil, err
	}
	return s, nil
}

// Start lets what was under way go on and looks after the devices until Stop.
func (s *Service) Start() {
	s.mu.Lock()
	s.started = true
	for name, m := range s.memories {
		if m.queue != nil {
			s.runQueue(name, m.queue)
		}
	}
	s.mu.Unlock()
	s.work.Go(func() { s.tend(s.ctx) })
	s.work.Go(func() { s.followOperations(s.ctx) })
	if s.adapter != nil {
		s.work.Go(func() { s.followDomains(s.ctx) })
	}
}

// Stop ends what Start began. What was under way goes on at the next start.
func (s *Service) Stop() {
	s.stop()
	s.mu.Lock()
	for _, sub := range s.streams {
		sub.end()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// memoryOf returns what is remembered of a device; mu is held.
func (s *Service) memoryOf(name string) *memory {
	m := s.memories[name]
	if m == nil {
		m = &memory{acts: make(map[string]*doing), acks: make(map[string]ackOf), begun: make(map[string]time.Time)}
		s.memories[name] = m
	}
	return m
}

// poke asks for the devices to be looked after now.
func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // it is wanted already
	}
}

// stopping reports that the service, or the call, is at its end.
func (s *Service) stopping(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return primitives.Errorf(primitives.CodeUnavailable, "tenond is stopping").Trying("repeat the request when tenond runs again")
	}
	return ctx.Err()
}

// Added gives a new device its door, in the transaction that adds it: where this
// host manages itself the device is in service at once, else it is gated until
// its manager sends an order.
func (s *Service) Added(tx *journal.Tx, d journal.Device, fenced bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.memories, d.Name)
	t := s.begin(tx)
	w, err := t.ward(d.Name)
	if err != nil {
		return err
	}
	if s.manager.ID == "" && s.options.Manager == "" {
		if err := t.manageHere(w); err != nil {
			return err
		}
		if !fenced {
			if err := t.vouch(w, "opened and looked at as it was added"); err != nil {
				return err
			}
		}
	}
	// What is to be done follows once the device is there.
	s.work.Go(func() { s.resume(d.Name) })
	return t.write()
}

// resume has done what a new device's host half still wants, once the device can
// be reached.
func (s *Service) resume(name string) {
	ctx, cancel := context.WithTimeout(s.ctx, lookTime)
	defer cancel()
	ticker := time.NewTicker(min(s.options.Tick, 100*time.Millisecond))
	defer ticker.Stop()
	for !slices.Contains(s.devices.Names(), name) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return // it was taken back, or the next start resumes it
		}
	}
	_, err := s.update(func(t *turn) error {
		w, err := t.ward(name)
		if err == nil {
			w.todo = append(w.todo, w.rec.Host.Resume()...)
		}
		return err
	})
	if err != nil && !errors.Is(err, primitives.CodeNotFound) && s.ctx.Err() == nil {
		s.log.Error("maintenance could not be taken up", "device", name, "err", err)
	}
}

// Removed forgets what is kept of a device, in the transaction that forgets it.
func (s *Service) Removed(tx *journal.Tx, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.memories, name)
	return errors.Join(journal.Drop(tx, journal.Hosts, name), journal.Drop(tx, journal.Managements, name),
		journal.Drop(tx, journal.Policies, policyKey(name, "")))
}
