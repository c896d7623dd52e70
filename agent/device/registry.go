// SPDX-License-Identifier: Apache-2.0

package device

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/internal/durable"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// Options say where and how devices are opened.
type Options struct {
	Log      *slog.Logger
	Host     primitives.HostInfo // RunDir holds a folder per device
	StateDir string              // holds the secrets
	OpenTime time.Duration       // how long a device may take to open; 0: 20 s
}

// Registry holds the configured devices. It is safe for concurrent use.
type Registry struct {
	journal *journal.Journal
	engine  *operation.Engine
	drivers storage.Table
	options Options
	log     *slog.Logger
	vault   *vault

	keeper DoorKeeper // set before Start; nil: new devices are in service at once

	ctx  context.Context // ends at Close
	stop context.CancelFunc
	work sync.WaitGroup // the keepers of the entries

	mu      sync.Mutex // guards entries and every entry's fields
	entries map[string]*entry
}

// State is whether a device can be used.
type State string

// The states of a device.
const (
	Opening     State = "opening"     // being opened for the first time since tenond started
	Open        State = "open"        // open; Description tells its health
	Unreachable State = "unreachable" // could not be opened; tried again in the background
	Fenced      State = "fenced"      // closed for service; its maintenance opens it again
)

// Status is what is known of a device, without asking it.
type Status struct {
	Name        string
	Driver      string
	Props       primitives.Props // as given
	Secrets     []string         // names of the secrets that it has
	State       State
	Failure     *operation.Failure     // why it is unreachable
	Description primitives.Description // valid where Described; may be half a minute old
	Described   bool
	Uses        int
	Added       time.Time
	Updated     time.Time
	RetryAt     time.Time // when an unreachable device is tried again
}

// New returns the registry of the devices that the journal holds, none of them
// open yet, and registers its kinds of operation. Call Run then.
func New(j *journal.Journal, e *operation.Engine, drivers storage.Table, o Options) (*Registry, error) {
	if o.OpenTime == 0 {
		o.OpenTime = 20 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	v, err := openVault(filepath.Join(o.StateDir, "secrets"))
	if err != nil {
		return nil, err
	}
	r := &Registry{journal: j, engine: e, drivers: drivers, options: o, log: o.Log, vault: v, entries: make(map[string]*entry)}
	r.ctx, r.stop = context.WithCancel(context.Background())
	if err := r.load(); err != nil {
		return nil, err
	}
	operation.Register(e, r.addKind())
	operation.Register(e, r.updateKind())
	operation.Register(e, r.removeKind())
	return r, nil
}

// load reads the configured devices and sweeps secrets that nothing refers to.
func (r *Registry) load() error {
	keep := make(map[string]bool)
	err := r.journal.View(func(tx *journal.Tx) error {
		devices, err := tx.Devices()
		if err != nil {
			return err
		}
		for _, d := range devices {
			keep[d.SecretsRef] = true
			r.entries[d.Name] = newEntry(d)
		}
		operations, err := tx.Operations()
		for _, o := range operations {
			var args struct{ SecretsRef string }
			if !operation.State(o.State).Finished() && json.Unmarshal(o.Args, &args) == nil {
				keep[args.SecretsRef] = true
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.vault.sweep(keep)
}

// Start begins to open every device, all at once, and keeps them open until
// Close. It waits for none of them.
func (r *Registry) Start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		r.keep(e)
	}
}

// Close closes every device. What they have mapped stays.
func (r *Registry) Close() error {
	r.stop()
	r.work.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var closing sync.WaitGroup
	errs := make([]error, len(r.entries))
	i := 0
	for _, e := range r.entries {
		at := i
		if d := e.device; d != nil {
			closing.Go(func() { errs[at] = d.Close() })
		}
		i++
	}
	closing.Wait()
	return errors.Join(errs...)
}

// Drivers describes the drivers of this tenond, in order of name.
func (r *Registry) Drivers() []primitives.DriverInfo {
	var infos []primitives.DriverInfo
	for _, name := range r.drivers.Names() {
		if d, err := r.drivers.Get(name); err == nil {
			infos = append(infos, d.Info())
		}
	}
	return infos
}

// Driver describes one driver. CodeNotFound.
func (r *Registry) Driver(name string) (primitives.DriverInfo, error) {
	d, err := r.drivers.Get(name)
	if err != nil {
		return primitives.DriverInfo{}, primitives.Errorf(primitives.CodeNotFound, "driver %q does not exist", name).
			Trying("see: tenonctl driver list")
	}
	return d.Info(), nil
}

// Device returns an open device. CodeNotFound for one that is not configured,
// CodeUnavailable for one that is not open, CodeFenced for one that is closed for
// service.
func (r *Registry) Device(name string) (*storage.Device, error) {
	d, shut, err := r.device(name)
	if shut {
		return nil, r.fenced(name)
	}
	return d, err
}

func (r *Registry) device(name string) (d *storage.Device, shut bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[name]
	switch {
	case e == nil:
		return nil, false, unknown(name)
	case e.shut:
		return nil, true, nil
	case e.device == nil:
		return nil, false, e.unavailable()
	}
	return e.device, false, nil
}

// Await is Device that waits while the device is being opened for the first
// time since the start.
func (r *Registry) Await(ctx context.Context, name string) (*storage.Device, error) {
	r.mu.Lock()
	e := r.entries[name]
	r.mu.Unlock()
	if e == nil {
		return nil, unknown(name)
	}
	select {
	case <-e.tried:
	case <-ctx.Done():
		return nil, &primitives.Error{Code: primitives.CodeOf(ctx.Err()), Op: "wait for device " + name, Err: context.Cause(ctx)}
	case <-r.ctx.Done():
	}
	return r.Device(name)
}

func unknown(name string) error {
	return primitives.Errorf(primitives.CodeNotFound, "device %q is not configured", name).
		On(primitives.URI{Device: name}).Trying("see: tenonctl device list")
}

// Names returns the names of the configured devices, in order.
func (r *Registry) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.entries))
	for name := range r.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// List tells the state of every device, in order of name, and asks none.
func (r *Registry) List() ([]Status, error) {
	uses, err := r.uses()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Status
	for name, e := range r.entries {
		list = append(list, e.status(r, uses[name]))
	}
	slices.SortFunc(list, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// Get tells the state of a device and does not ask it. CodeNotFound.
func (r *Registry) Get(name string) (Status, error) {
	uses, err := r.uses()
	if err != nil {
		return Status{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[name]
	if e == nil {
		return Status{}, unknown(name)
	}
	return e.status(r, uses[name]), nil
}

// uses counts the recorded uses by device.
func (r *Registry) uses() (map[string]int, error) {
	count := make(map[string]int)
	err := r.journal.View(func(tx *journal.Tx) error {
		uses, err := tx.Uses()
		for _, u := range uses {
			count[u.URI.Device]++
		}
		return err
	})
	return count, err
}

// Check asks the device how it is now, and opens one that is unreachable. The
// status tells what came of it. CodeNotFound.
func (r *Registry) Check(ctx context.Context, name string) (Status, error) {
	r.mu.Lock()
	e := r.entries[name]
	r.mu.Unlock()
	if e == nil {
		return Status{}, unknown(name)
	}
	ctx, cancel := context.WithTimeout(ctx, r.options.OpenTime)
	defer cancel()
	r.look(ctx, e)
	return r.Get(name)
}

// request is what a driver gets to open the device.
func (r *Registry) request(d journal.Device) (primitives.OpenRequest, error) {
	secrets, err := r.vault.get(d.SecretsRef)
	if err != nil {
		return primitives.OpenRequest{}, err
	}
	host := r.options.Host
	host.RunDir = filepath.Join(host.RunDir, d.Name)
	if err := durable.MkdirAll(host.RunDir, 0o700); err != nil {
		return primitives.OpenRequest{}, fmt.Errorf("run-time folder of device %s: %w", d.Name, err)
	}
	return primitives.OpenRequest{Name: d.Name, Props: r.identified(d), Secrets: secrets, Host: host}, nil
}

// identified returns the device's properties with the identity that it reported
// when it was added, where its driver has a property for that: a directory whose
// file system is not mounted is then noticed instead of filled.
func (r *Registry) identified(d journal.Device) primitives.Props {
	const identity = "identity"
	driver, err := r.drivers.Get(d.Driver)
	if err != nil || d.Backend == "" {
		return d.Props
	}
	for _, spec := range driver.Info().Schema.Props {
		if spec.Name == identity && spec.Scope&primitives.ScopeDevice != 0 && d.Props[identity] == "" {
			props := d.Props.Clone()
			if props == nil {
				props = make(primitives.Props)
			}
			props[identity] = d.Backend
			return props
		}
	}
	return d.Props
}
