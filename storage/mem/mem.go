// SPDX-License-Identifier: Apache-2.0

// Package mem is the reference storage driver: it keeps the whole contract of
// package primitives in memory, so it is what tests of everything above storage
// use as a device. Faults, delays, dead stores and crashes are scripted with
// [Driver.Fault] and [Driver.Crash]; they make calls fail as a real backend
// would, they never make the store itself inconsistent.
//
// It has no Importer: importing means that two names lead to the same bytes,
// and bytes in memory have no second name.
package mem

import (
	"context"
	"crypto/rand"
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// Name is the driver's name in the table of drivers.
const Name = "mem"

// Driver is one universe of stores. Two devices with the same property "store"
// see the same volumes, from however many hosts; another Driver shares nothing.
// Stores last as long as the Driver, whatever is opened and closed meanwhile.
type Driver struct {
	universe string

	mu     sync.Mutex // guards stores
	stores map[string]*store
}

var _ primitives.Driver = (*Driver)(nil)

// New returns an empty universe.
func New() *Driver {
	return &Driver{universe: rand.Text()[:8], stores: make(map[string]*store)}
}

// Info describes the driver.
func (d *Driver) Info() primitives.DriverInfo {
	return primitives.DriverInfo{
		Name:    Name,
		Version: "1",
		Summary: "volumes in memory, lost when tenond stops; for tests",
		APIMin:  primitives.APIVersion,
		APIMax:  primitives.APIVersion,
		Schema:  schema(),
	}
}

// Validate checks what the schema cannot say. It creates no store.
func (d *Driver) Validate(ctx context.Context, c primitives.Change) []primitives.Problem {
	if c.Scope != primitives.ScopeDevice {
		return nil
	}
	_, problems := parseConfig(c.New)
	if s := d.lookup(c.New["store"]); s != nil {
		if err := s.admit(c.Secrets); err != nil {
			problems = append(problems, primitives.Problem{Prop: "token", Message: "not the token of store " + c.New["store"], Fatal: true})
		}
	}
	return problems
}

// Open connects to the store, making it when it is new. Writers that a crash or
// a Close left behind become Incomplete; mappings of an earlier boot of this
// host are forgotten.
func (d *Driver) Open(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
	cfg, problems := parseConfig(o.Props)
	if len(problems) > 0 {
		return nil, &primitives.Error{Code: primitives.CodeInvalid, Problems: problems}
	}
	s := d.store(cfg.store)
	if err := s.faults.gate(ctx, "open", Before); err != nil {
		return nil, err
	}
	if err := s.admit(o.Secrets); err != nil {
		return nil, err
	}
	b := newBackend(d, s, cfg, o)
	if err := s.faults.gate(ctx, "open", After); err != nil {
		_ = b.Close()
		return nil, err
	}
	return b, nil
}

// Crash ends every open backend of the store as kill -9 would: their calls
// answer CodeUnavailable, their writers are neither committed nor aborted, and
// mappings stay, since guests outlive the agent.
func (d *Driver) Crash(store string) { d.store(store).crash() }

// SetHealth makes Describe of the store report that condition.
func (d *Driver) SetHealth(store string, h primitives.Health, note string) {
	s := d.store(store)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health, s.healthNote = h, note
}

func (d *Driver) lookup(name string) *store {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stores[name]
}

func (d *Driver) store(name string) *store {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stores[name]
	if s == nil {
		s = newStore(Name + ":" + d.universe + "/" + name)
		if d.stores == nil {
			d.stores = make(map[string]*store)
		}
		d.stores[name] = s
	}
	return s
}

// byIdentity finds the store that Description.Backend names.
func (d *Driver) byIdentity(backend string) *store {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.stores {
		if s.identity == backend {
			return s
		}
	}
	return nil
}
