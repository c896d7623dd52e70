// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// Validated is a change that may be persisted.
type Validated struct {
	Props     primitives.Props     // what to persist: given values, normalised, without defaults
	Effective primitives.Props     // with inherited values and defaults
	Warnings  []primitives.Problem // refuse nothing
}

// Validate checks a change against the driver's schema and, when that holds, by
// the driver itself, which may probe the backend. It changes nothing. The error
// has CodeInvalid and every mistake.
func Validate(ctx context.Context, driver primitives.Driver, c primitives.Change) (Validated, error) {
	schema := driver.Info().Schema
	props, problems := Check(schema, c)
	refuse, warn := fatal(problems)
	v := Validated{Props: props, Effective: Effective(schema, c.Scope, nil, props), Warnings: warn}
	if len(refuse) == 0 {
		c.New = v.Effective
		more, err := askDriver(ctx, driver, c)
		if err != nil {
			return Validated{}, classify("validate", c.Subject, err)
		}
		refuse, warn = fatal(qualified(schema, more))
		v.Warnings = append(v.Warnings, warn...)
	}
	if len(refuse) > 0 {
		return Validated{}, &primitives.Error{Code: primitives.CodeInvalid, Op: "validate", URI: c.Subject, Problems: append(refuse, v.Warnings...)}
	}
	return v, nil
}

// askDriver runs Driver.Validate so that neither a hang nor a panic of it
// reaches the caller.
func askDriver(ctx context.Context, driver primitives.Driver, c primitives.Change) ([]primitives.Problem, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, DefaultCallTimeout, errTimeout)
	defer cancel()
	done := make(chan error, 1)
	var problems []primitives.Problem
	go func() {
		_, err := protected(func() (struct{}, error) {
			problems = driver.Validate(ctx, c)
			return struct{}{}, nil
		})
		done <- err
	}()
	select {
	case err := <-done:
		return problems, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// qualified writes a driver's bare property names as the caller knows them.
func qualified(schema primitives.Schema, problems []primitives.Problem) []primitives.Problem {
	for i, p := range problems {
		if strings.Contains(p.Prop, ".") {
			continue
		}
		for _, spec := range schema.Props {
			switch {
			case spec.Name != p.Prop:
			case spec.Secret:
				problems[i].Prop = secret(p.Prop)
			default:
				problems[i].Prop = property(p.Prop)
			}
		}
	}
	return problems
}
