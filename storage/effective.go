// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"bytes"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// Effective returns what holds for a subject of that scope: its own properties,
// then what it inherits from the device, then the schema's defaults. Properties
// that only devices have are always among them, so that a driver needs nothing
// else.
func Effective(schema primitives.Schema, scope primitives.Scope, device, own primitives.Props) primitives.Props {
	out := primitives.Props{}
	for _, spec := range schema.Props {
		if spec.Secret || spec.Scope&(scope|primitives.ScopeDevice) == 0 {
			continue
		}
		atDevice, configured := device[spec.Name]
		value, given := own[spec.Name]
		switch forSubject := spec.Scope&scope != 0; {
		case given && forSubject:
			out[spec.Name] = value
		case configured && (spec.Inherit || !forSubject || scope == primitives.ScopeDevice):
			out[spec.Name] = atDevice
		case spec.Default != "":
			out[spec.Name] = spec.Default
		}
	}
	return out
}

// inherit adds to own what a new subject of that scope takes from the device.
func inherit(schema primitives.Schema, scope primitives.Scope, device, own primitives.Props) {
	for _, spec := range schema.Props {
		value, configured := device[spec.Name]
		if _, given := own[spec.Name]; configured && !given && spec.Inherit && spec.Scope&scope != 0 {
			own[spec.Name] = value
		}
	}
}

// mergedSecrets returns a device's secrets with those of one call over them.
func mergedSecrets(device, call primitives.Secrets) primitives.Secrets {
	if len(call.Names()) == 0 {
		return device
	}
	values := make(map[string][]byte)
	for _, s := range []primitives.Secrets{device, call} {
		for _, name := range s.Names() {
			values[name], _ = s.Get(name)
		}
	}
	return primitives.NewSecrets(values)
}

// newSecrets returns the secrets of a call that are not merely the device's again.
func newSecrets(device, call primitives.Secrets) primitives.Secrets {
	var repeated []string
	for _, name := range call.Names() {
		have, ok := device.Get(name)
		if given, _ := call.Get(name); ok && bytes.Equal(have, given) {
			repeated = append(repeated, name)
		}
	}
	return withoutSecrets(call, repeated)
}

// withoutSecrets returns the secrets that removed does not name.
func withoutSecrets(s primitives.Secrets, removed []string) primitives.Secrets {
	values := make(map[string][]byte)
	for _, name := range s.Names() {
		if !slices.Contains(removed, name) {
			values[name], _ = s.Get(name)
		}
	}
	return primitives.NewSecrets(values)
}
