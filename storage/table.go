// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// Table is the explicit set of drivers of a program. There is no registration:
// what is not listed does not exist, and there is no default.
type Table struct{ drivers map[string]primitives.Driver }

// NewTable makes a table. A driver without a name, two of one name, a contract
// that this package does not speak, and a schema that is wrong in itself are
// errors; all of them are told at once.
func NewTable(drivers ...primitives.Driver) (Table, error) {
	t := Table{drivers: make(map[string]primitives.Driver)}
	var mistakes []error
	for i, d := range drivers {
		if d == nil {
			mistakes = append(mistakes, fmt.Errorf("driver %d of the table is nil", i))
			continue
		}
		name := d.Info().Name
		if err := usable(d.Info()); err != nil {
			mistakes = append(mistakes, fmt.Errorf("driver %d of the table, %q: %w", i, name, err))
		}
		if _, twice := t.drivers[name]; twice {
			mistakes = append(mistakes, fmt.Errorf("driver %q is in the table twice", name))
		}
		t.drivers[name] = d
	}
	if err := errors.Join(mistakes...); err != nil {
		return Table{}, &primitives.Error{Code: primitives.CodeInternal, Err: err}
	}
	return t, nil
}

// usable reports why a driver cannot be opened by this package.
func usable(info primitives.DriverInfo) error {
	if err := primitives.CheckDeviceName(info.Name); err != nil {
		return primitives.Errorf(primitives.CodeInternal, "a driver needs a name of a-z, 0-9 and '-', not %q", info.Name)
	}
	if info.APIMin > primitives.APIVersion || info.APIMax < primitives.APIVersion {
		return primitives.Errorf(primitives.CodeUnsupported, "it speaks versions %d to %d of the contract, not %d", info.APIMin, info.APIMax, primitives.APIVersion)
	}
	if problems := CheckSchema(info.Schema); len(problems) > 0 {
		return &primitives.Error{Code: primitives.CodeInternal, Err: errors.New("its schema is wrong"), Problems: problems}
	}
	return nil
}

// Get returns the driver of that name, or CodeInvalid for the field "driver".
func (t Table) Get(name string) (primitives.Driver, error) {
	if d, ok := t.drivers[name]; ok {
		return d, nil
	}
	return nil, primitives.Invalid("driver", "there is no driver %q%s", name, didYouMean(name, t.Names())).
		Trying("List the drivers with: tenonctl driver list")
}

// Names returns the drivers' names in order.
func (t Table) Names() []string { return slices.Sorted(maps.Keys(t.drivers)) }
