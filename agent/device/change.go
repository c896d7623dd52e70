// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// Spec describes a device to be added.
type Spec struct {
	Name    string
	Driver  string
	Props   primitives.Props
	Secrets primitives.Secrets
}

// Edit describes a change of a device. What is not named stays as it is.
type Edit struct {
	Name    string
	Set     primitives.Props
	Remove  []string           // properties and secrets to take away
	Secrets primitives.Secrets // to set
}

// Origin says whose request it is.
type Origin struct{ RequestID, Caller string }

// Add starts device.add. The secrets are put aside first and taken away again
// when the operation fails.
func (r *Registry) Add(ctx context.Context, s Spec, o Origin) (operation.Operation, error) {
	if err := primitives.CheckDeviceName(s.Name); err != nil {
		return operation.Operation{}, err
	}
	driver, err := r.drivers.Get(s.Driver)
	if err != nil {
		return operation.Operation{}, err
	}
	change := primitives.Change{Scope: primitives.ScopeDevice, Subject: primitives.URI{Device: s.Name}, New: s.Props, Secrets: s.Secrets}
	if err := fatal(storage.Check(driver.Info().Schema, change)); err != nil {
		return operation.Operation{}, err
	}
	ref, err := r.vault.put(s.Name, s.Secrets)
	if err != nil {
		return operation.Operation{}, err
	}
	op, err := r.engine.Start(ctx, operation.Request{
		RequestID: o.RequestID, Kind: KindAdd, Caller: o.Caller,
		Args: AddArgs{Name: s.Name, Driver: s.Driver, Props: s.Props, SecretsRef: ref},
	})
	if err != nil || op.State.Finished() { // refused, or a repeat of what ended
		return op, errors.Join(err, r.dropUnused(ref))
	}
	return op, nil
}

// Update starts device.update.
func (r *Registry) Update(ctx context.Context, e Edit, o Origin) (operation.Operation, error) {
	record, err := r.record(e.Name)
	if err != nil {
		return operation.Operation{}, err
	}
	args := UpdateArgs{Name: e.Name, Set: e.Set, Remove: e.Remove}
	merged, changed, err := r.secretsAfter(record, e)
	if err != nil {
		return operation.Operation{}, err
	}
	if changed {
		if args.SecretsRef, err = r.vault.put(e.Name, merged); err != nil {
			return operation.Operation{}, err
		}
		args.NoSecrets = args.SecretsRef == ""
	}
	op, err := r.engine.Start(ctx, operation.Request{RequestID: o.RequestID, Kind: KindUpdate, Caller: o.Caller, Args: args})
	if err != nil || op.State.Finished() {
		return op, errors.Join(err, r.dropUnused(args.SecretsRef))
	}
	return op, nil
}

func fatal(_ primitives.Props, problems []primitives.Problem) error {
	for _, p := range problems {
		if p.Fatal {
			return &primitives.Error{Code: primitives.CodeInvalid, Problems: problems}
		}
	}
	return nil
}

func (r *Registry) record(name string) (journal.Device, error) {
	var d journal.Device
	err := r.journal.View(func(tx *journal.Tx) (err error) {
		d, err = tx.Device(name)
		return err
	})
	if errors.Is(err, primitives.CodeNotFound) {
		err = unknown(name)
	}
	return d, err
}

// dropUnused takes secrets away unless a device has them.
func (r *Registry) dropUnused(ref string) error {
	if ref == "" {
		return nil
	}
	used := false
	err := r.journal.View(func(tx *journal.Tx) error {
		devices, err := tx.Devices()
		for _, d := range devices {
			used = used || d.SecretsRef == ref
		}
		return err
	})
	if err != nil || used {
		return err
	}
	return r.vault.drop(ref)
}

// memory is what the steps of this package's operations remember.
type memory struct {
	Old, New journal.Device
	Fenced   bool // the storage was found closed for service
}

func (r *Registry) addKind() operation.Kind[AddArgs, memory] {
	type run = operation.Run[AddArgs, memory]
	return operation.Kind[AddArgs, memory]{
		Name:    KindAdd,
		Subject: func(a AddArgs) string { return a.Name },
		Admit: func(tx *journal.Tx, o *run) error {
			o.Claim(operation.OnDevice(o.Args.Name), false)
			if _, err := tx.Device(o.Args.Name); err == nil {
				return primitives.Errorf(primitives.CodeExists, "the device is configured already").
					On(primitives.URI{Device: o.Args.Name}).Trying("choose another name, or change it with: tenonctl device update %s", o.Args.Name)
			}
			return nil
		},
		Steps: []operation.Step[AddArgs, memory]{{
			Name: "validate",
			Do: func(ctx context.Context, o *run) (err error) {
				o.Memory.New, o.Memory.Fenced, err = r.try(ctx, journal.Device{
					Name: o.Args.Name, Driver: o.Args.Driver, Props: o.Args.Props, SecretsRef: o.Args.SecretsRef,
					Added: time.Now().UTC(),
				}, nil)
				return err
			},
			Undo: func(_ context.Context, o *run) error { return r.vault.drop(o.Args.SecretsRef) },
		}, {
			Name: "persist",
			Do: func(_ context.Context, o *run) error {
				err := r.journal.Update(func(tx *journal.Tx) error {
					return errors.Join(tx.PutDevice(o.Memory.New), r.openDoor(tx, o.Memory.New, o.Memory.Fenced))
				})
				if err == nil {
					r.insert(o.Memory.New)
				}
				return err
			},
			Undo: func(_ context.Context, o *run) error {
				r.take(o.Args.Name)
				return r.journal.Update(func(tx *journal.Tx) error { return r.forget(tx, o.Args.Name) })
			},
		}, {
			Name:  "open",
			Final: true, // it was open a moment ago; from here on the keeper cares for it
			Do: func(ctx context.Context, o *run) error {
				_, _ = r.Check(ctx, o.Args.Name)
				return nil
			},
		}},
		Result: func(o *run) any { return r.result(o.Args.Name) },
	}
}

func (r *Registry) result(name string) Status {
	s, err := r.Get(name)
	if err != nil {
		return Status{Name: name, Failure: operation.FailureOf(err)}
	}
	return s
}

// try validates a device and opens it once, and returns it as it is to be
// persisted, and whether its storage is fenced. A nil change: a new device.
func (r *Registry) try(ctx context.Context, d journal.Device, change *primitives.Change) (_ journal.Device, fenced bool, err error) {
	driver, err := r.drivers.Get(d.Driver)
	if err != nil {
		return d, false, err
	}
	secrets, err := r.vault.get(d.SecretsRef)
	if err != nil {
		return d, false, err
	}
	if change == nil {
		change = &primitives.Change{Scope: primitives.ScopeDevice, Subject: primitives.URI{Device: d.Name}, New: d.Props}
	}
	change.Secrets = secrets
	ctx, cancel := context.WithTimeout(ctx, r.options.OpenTime)
	defer cancel()
	v, err := storage.Validate(ctx, driver, *change)
	if err != nil {
		return d, false, err
	}
	d.Props = v.Props
	o, err := r.open(ctx, d)
	if err != nil {
		return d, false, err
	}
	d.Backend = o.description.Backend
	return d, o.description.Fenced, errors.Join(r.alone(d), o.device.Close())
}

// alone refuses a second device over one store: uses are recorded by URI, and
// one volume would have two. CodeExists names the other device.
func (r *Registry) alone(d journal.Device) error {
	if d.Backend == "" {
		return nil
	}
	var devices []journal.Device
	err := r.journal.View(func(tx *journal.Tx) (err error) {
		devices, err = tx.Devices()
		return err
	})
	if err != nil {
		return err
	}
	for _, other := range devices {
		if other.Name != d.Name && other.Driver == d.Driver && other.Backend == d.Backend {
			return primitives.Errorf(primitives.CodeExists, "it is the same storage as device %s", other.Name).
				On(primitives.URI{Device: d.Name}).By(primitives.Blocker{Kind: "device", Name: other.Name}).
				Trying("use device %s, or remove it first", other.Name)
		}
	}
	return nil
}

// insert makes a persisted device known and begins to keep it open.
func (r *Registry) insert(d journal.Device) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entries[d.Name] != nil || r.ctx.Err() != nil {
		return
	}
	e := newEntry(d)
	r.entries[d.Name] = e
	r.keep(e)
}

// take makes a device unknown and closes it.
func (r *Registry) take(name string) {
	r.mu.Lock()
	e := r.entries[name]
	delete(r.entries, name)
	var d *storage.Device
	if e != nil {
		e.gone, d, e.device = true, e.device, nil
		e.stop()
	}
	r.mu.Unlock()
	if d != nil {
		if err := d.Close(); err != nil {
			r.log.Warn("device did not close", "device", name, "err", err)
		}
	}
}

func (r *Registry) updateKind() operation.Kind[UpdateArgs, memory] {
	type run = operation.Run[UpdateArgs, memory]
	return operation.Kind[UpdateArgs, memory]{
		Name:    KindUpdate,
		Subject: func(a UpdateArgs) string { return a.Name },
		Check: func(_ context.Context, o *run) error {
			old, err := r.record(o.Args.Name)
			if err != nil {
				return err
			}
			driver, err := r.drivers.Get(old.Driver)
			if err != nil {
				return err
			}
			change, err := r.change(old, o.Args)
			if err != nil {
				return err
			}
			return fatal(storage.Check(driver.Info().Schema, change))
		},
		Admit: func(tx *journal.Tx, o *run) (err error) {
			o.Claim(operation.OnDevice(o.Args.Name), false)
			if o.Memory.Old, err = tx.Device(o.Args.Name); err != nil {
				return err
			}
			return Leave(tx, o.Args.Name)
		},
		Steps: []operation.Step[UpdateArgs, memory]{{
			Name: "validate",
			Do: func(ctx context.Context, o *run) error {
				change, err := r.change(o.Memory.Old, o.Args)
				if err != nil {
					return err
				}
				next := o.Memory.Old
				next.Props, next.Updated = after(o.Memory.Old.Props, o.Args), time.Now().UTC()
				if o.Args.SecretsRef != "" || o.Args.NoSecrets {
					next.SecretsRef = o.Args.SecretsRef
				}
				o.Memory.New, _, err = r.try(ctx, next, &change)
				return err
			},
			Undo: func(_ context.Context, o *run) error {
				if o.Args.SecretsRef == o.Memory.Old.SecretsRef {
					return nil
				}
				return r.vault.drop(o.Args.SecretsRef)
			},
		}, {
			Name: "persist",
			Do: func(_ context.Context, o *run) error {
				return r.journal.Update(func(tx *journal.Tx) error { return tx.PutDevice(o.Memory.New) })
			},
			Undo: func(_ context.Context, o *run) error {
				return r.journal.Update(func(tx *journal.Tx) error { return tx.PutDevice(o.Memory.Old) })
			},
		}, {
			Name:  "apply",
			Final: true,
			Do: func(ctx context.Context, o *run) error {
				change, err := r.change(o.Memory.Old, o.Args)
				if err != nil {
					return err
				}
				r.apply(ctx, o.Memory.New, change)
				if o.Memory.Old.SecretsRef == o.Memory.New.SecretsRef {
					return nil
				}
				return r.vault.drop(o.Memory.Old.SecretsRef)
			},
		}},
		Result: func(o *run) any { return r.result(o.Args.Name) },
	}
}

// apply lets the open device have its new properties. Where it cannot take them
// while open it is closed and opened again.
func (r *Registry) apply(ctx context.Context, d journal.Device, change primitives.Change) {
	r.mu.Lock()
	e := r.entries[d.Name]
	if e == nil {
		r.mu.Unlock()
		return
	}
	open := e.device
	e.record, e.secrets = d, change.Secrets.Names()
	r.mu.Unlock()
	if open == nil || open.Update(change) != nil {
		r.reopen(d.Name)
	}
	_, _ = r.Check(ctx, d.Name)
}

// reopen closes a device so that the next look opens it anew.
func (r *Registry) reopen(name string) {
	r.mu.Lock()
	var open *storage.Device
	if e := r.entries[name]; e != nil {
		open, e.device, e.failure, e.described = e.device, nil, nil, false
	}
	r.mu.Unlock()
	if open == nil {
		return
	}
	if err := open.Close(); err != nil {
		r.log.Warn("device did not close", "device", name, "err", err)
	}
}

func (r *Registry) removeKind() operation.Kind[RemoveArgs, memory] {
	type run = operation.Run[RemoveArgs, memory]
	return operation.Kind[RemoveArgs, memory]{
		Name:    KindRemove,
		Subject: func(a RemoveArgs) string { return a.Name },
		Check: func(_ context.Context, o *run) error {
			_, err := r.record(o.Args.Name)
			return err
		},
		Admit: func(tx *journal.Tx, o *run) (err error) {
			o.Claim(operation.OnDevice(o.Args.Name), false)
			if o.Memory.Old, err = tx.Device(o.Args.Name); err != nil {
				return err
			}
			if err := removable(tx, o.Args.Name); err != nil {
				return err
			}
			return unused(tx, o.Args.Name)
		},
		Steps: []operation.Step[RemoveArgs, memory]{{
			Name:  "remove",
			Final: true,
			Do: func(_ context.Context, o *run) error {
				r.take(o.Args.Name)
				err := r.journal.Update(func(tx *journal.Tx) error { return r.forget(tx, o.Args.Name) })
				if err != nil {
					return err
				}
				return errors.Join(r.vault.drop(o.Memory.Old.SecretsRef), os.RemoveAll(filepath.Join(r.options.Host.RunDir, o.Args.Name)))
			},
		}},
	}
}

// unused reports CodeInUse naming every use of the device.
func unused(tx *journal.Tx, name string) error {
	uses, err := tx.Uses()
	if err != nil {
		return err
	}
	var blocked []primitives.Blocker
	for _, u := range uses {
		if u.URI.Device == name {
			blocked = append(blocked, Blocker(u))
		}
	}
	if len(blocked) == 0 {
		return nil
	}
	return primitives.Errorf(primitives.CodeInUse, "%d uses of the device are recorded", len(blocked)).
		On(primitives.URI{Device: name}).By(blocked...).Trying("detach the disks and wait for the operations")
}

// Blocker names a use for people.
func Blocker(u journal.Use) primitives.Blocker {
	switch u.Kind {
	case journal.UseDisk:
		disk := u.Disk
		if disk == "" {
			disk = u.Target
		}
		return primitives.Blocker{Kind: "disk", Name: disk + " of domain " + u.Domain}
	case journal.UseTransfer:
		return primitives.Blocker{Kind: "operation", Name: u.Operation}
	}
	return primitives.Blocker{Kind: "process", Name: "a client that reads or writes " + u.URI.Short()}
}
