// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

// Validate reports every problem that Add would refuse or warn of. It changes
// nothing. An error means that it could not be found out.
func (r *Registry) Validate(ctx context.Context, s Spec) ([]primitives.Problem, error) {
	if err := primitives.CheckDeviceName(s.Name); err != nil {
		return problemsOf(err)
	}
	driver, err := r.drivers.Get(s.Driver)
	if err != nil {
		return problemsOf(err)
	}
	var taken []primitives.Problem
	if _, err := r.record(s.Name); err == nil {
		taken = append(taken, primitives.Problem{Prop: "name", Message: "the device is configured already; without a driver its update is validated", Fatal: true})
	} else if !errors.Is(err, primitives.CodeNotFound) {
		return nil, err
	}
	problems, err := r.problems(ctx, driver, primitives.Change{
		Scope: primitives.ScopeDevice, Subject: primitives.URI{Device: s.Name}, New: s.Props, Secrets: s.Secrets,
	})
	return append(taken, problems...), err
}

// ValidateEdit reports every problem that Update would refuse or warn of, with
// the device's stored properties and secrets and its present uses. It changes
// nothing. An error means that it could not be found out; CodeNotFound for a
// device that is not configured.
func (r *Registry) ValidateEdit(ctx context.Context, e Edit) ([]primitives.Problem, error) {
	record, err := r.record(e.Name)
	if err != nil {
		return nil, err
	}
	driver, err := r.drivers.Get(record.Driver)
	if err != nil {
		return nil, err
	}
	secrets, _, err := r.secretsAfter(record, e)
	if err != nil {
		return nil, err
	}
	change, err := r.changeTo(record, UpdateArgs{Name: e.Name, Set: e.Set, Remove: e.Remove}, secrets)
	if err != nil {
		return nil, err
	}
	return r.problems(ctx, driver, change)
}

// problems returns what is wrong with a change. An error means that it could
// not be found out.
func (r *Registry) problems(ctx context.Context, driver primitives.Driver, c primitives.Change) ([]primitives.Problem, error) {
	ctx, cancel := context.WithTimeout(ctx, r.options.OpenTime)
	defer cancel()
	v, err := storage.Validate(ctx, driver, c)
	if err != nil {
		return problemsOf(err)
	}
	return v.Warnings, nil
}

func problemsOf(err error) ([]primitives.Problem, error) {
	if e, ok := errors.AsType[*primitives.Error](err); ok && e.Code == primitives.CodeInvalid {
		return e.Problems, nil
	}
	return nil, err
}

// secretsAfter returns the secrets of a device after an edit, and whether they
// differ. Stored ones that cannot be read do not matter to an edit that gives some.
func (r *Registry) secretsAfter(d journal.Device, e Edit) (merged primitives.Secrets, changed bool, err error) {
	stored, err := r.vault.get(d.SecretsRef)
	if err != nil && len(e.Secrets.Names()) == 0 {
		return primitives.Secrets{}, false, err
	}
	merged, changed = merge(stored, e)
	return merged, changed, nil
}

// merge returns the secrets after an edit, and whether they differ.
func merge(old primitives.Secrets, e Edit) (merged primitives.Secrets, changed bool) {
	values := make(map[string][]byte)
	for _, name := range old.Names() {
		values[name], _ = old.Get(name)
	}
	for _, name := range e.Remove {
		if _, had := values[name]; had {
			delete(values, name)
			changed = true
		}
	}
	for _, name := range e.Secrets.Names() {
		values[name], _ = e.Secrets.Get(name)
		changed = true
	}
	return primitives.NewSecrets(values), changed
}

// after returns properties as an update leaves them.
func after(old primitives.Props, a UpdateArgs) primitives.Props {
	next := make(primitives.Props)
	maps.Copy(next, old)
	maps.Copy(next, a.Set)
	for _, name := range a.Remove {
		delete(next, name)
	}
	return next
}

// change returns what an update does to a device, for its driver and schema.
func (r *Registry) change(old journal.Device, a UpdateArgs) (primitives.Change, error) {
	ref := old.SecretsRef
	if a.SecretsRef != "" || a.NoSecrets {
		ref = a.SecretsRef
	}
	secrets, err := r.vault.get(ref)
	if err != nil {
		return primitives.Change{}, err
	}
	return r.changeTo(old, a, secrets)
}

// changeTo is change where the secrets after the update are known.
func (r *Registry) changeTo(old journal.Device, a UpdateArgs, secrets primitives.Secrets) (primitives.Change, error) {
	uses, err := r.uses()
	if err != nil {
		return primitives.Change{}, err
	}
	c := primitives.Change{
		Scope: primitives.ScopeDevice, Subject: primitives.URI{Device: old.Name},
		Old: old.Props.Clone(), New: a.Set.Clone(), Secrets: secrets, InUse: uses[old.Name] > 0,
	}
	if c.Old == nil {
		c.Old = make(primitives.Props) // nil would mean a new device
	}
	for _, name := range a.Remove {
		_, had := old.Props[name]
		_, both := a.Set[name]
		// What the device does not have is gone already, but a name that no device
		// has is a slip; the schema says so.
		if had || both || !r.has(old.Driver, name) {
			c.Removed = append(c.Removed, name)
		}
	}
	return c, nil
}

// has reports whether a driver's devices can have a property or secret.
func (r *Registry) has(driver, name string) bool {
	d, err := r.drivers.Get(driver)
	return err == nil && slices.ContainsFunc(d.Info().Schema.Props, func(s primitives.PropSpec) bool { return s.Name == name })
}
