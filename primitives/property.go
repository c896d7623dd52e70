// SPDX-License-Identifier: Apache-2.0

package primitives

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
)

// PropType is the type of a property's value. Values travel as strings.
type PropType uint8

const (
	PropString   PropType = iota
	PropInt               // decimal, within int64
	PropBool              // "true" or "false"
	PropBytes             // decimal bytes; people may type 20G, 512Mi, 4096
	PropDuration          // as time.ParseDuration reads it, such as "1m30s"
	PropEnum              // one of Enum
	PropList              // comma-separated, without empty members
)

// String returns the type's name.
func (t PropType) String() string {
	return [...]string{"string", "int", "bool", "bytes", "duration", "enum", "list"}[t]
}

// Scope is a set of places where a property may be given.
type Scope uint8

const (
	ScopeDevice Scope = 1 << iota
	ScopeVolume
	ScopeSnapshot
	ScopeOp // given on one call, never persisted
)

// Mutability says when a property may change.
type Mutability uint8

const (
	Immutable      Mutability = iota // never after creation
	MutableOffline                   // while nothing maps the subject
	MutableOnline                    // at any time
)

// String returns the mutability in words.
func (m Mutability) String() string {
	return [...]string{"immutable", "offline", "online"}[m]
}

// PropSpec describes one property.
type PropSpec struct {
	Name, Help, Example string
	Type                PropType
	Scope               Scope
	Required            bool
	Default             string // as normalised; empty: none
	Enum                []string
	Min, Max            *int64 // PropInt, PropBytes: value; PropDuration: nanoseconds; PropString, PropList: length
	Pattern             string // a regular expression (RE2) that matches the whole value
	Secret              bool   // travels in Secrets, never in Props, never in logs
	Mutable             Mutability
	Inherit             bool     // a device's value is the default for its volumes
	Requires, Conflicts []string // names of other properties
	Since, Deprecated   string   // versions of the driver
}

// Schema is the whole set of properties of a driver.
type Schema struct {
	Version int
	Props   []PropSpec
}

// Props are properties by name. storage.Device validates and normalises them
// before a driver sees them, so a driver parses without checking again.
type Props map[string]string

// Clone returns a copy; nil stays nil.
func (p Props) Clone() Props { return maps.Clone(p) }

const redacted = "[secret]"

// Secrets are secret properties by name. Printing, formatting, logging and
// marshalling show the names at most, never a value.
type Secrets struct{ values map[string][]byte }

// NewSecrets returns Secrets holding a copy of values.
func NewSecrets(values map[string][]byte) Secrets {
	if len(values) == 0 {
		return Secrets{}
	}
	s := Secrets{values: make(map[string][]byte, len(values))}
	for name, v := range values {
		s.values[name] = slices.Clone(v)
	}
	return s
}

// Get returns a copy of the secret of that name.
func (s Secrets) Get(name string) ([]byte, bool) {
	v, ok := s.values[name]
	return slices.Clone(v), ok
}

// Names returns the names in order.
func (s Secrets) Names() []string { return slices.Sorted(maps.Keys(s.values)) }

// String shows the names only.
func (s Secrets) String() string { return fmt.Sprintf("secrets%v", s.Names()) }

// GoString shows the names only.
func (s Secrets) GoString() string { return s.String() }

// Format shows the names only, for every verb.
func (s Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalJSON writes a placeholder.
func (s Secrets) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// UnmarshalJSON reads what MarshalJSON wrote, which holds no secret: the result
// is empty. Anything else is refused, so that no secret comes from where none
// may be.
func (s *Secrets) UnmarshalJSON(data []byte) error {
	if string(data) != `"`+redacted+`"` && string(data) != "null" {
		return fmt.Errorf("secrets are never read from JSON")
	}
	*s = Secrets{}
	return nil
}

// LogValue shows the names only.
func (s Secrets) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Change is a complete edit of a subject's properties: the old state, the new
// state and the keys removed between them.
type Change struct {
	Scope    Scope
	Subject  URI
	Old, New Props
	Removed  []string
	Secrets  Secrets
	InUse    bool // something maps the subject now
}

// Driver speaks to one kind of storage.
type Driver interface {
	// Info describes the driver. It does no I/O and always answers alike.
	Info() DriverInfo
	// Validate checks what the schema cannot say, before anything is persisted.
	// It may probe the backend; it changes nothing. It returns every problem,
	// none of which concerns the schema's own rules: the caller has checked those.
	Validate(ctx context.Context, c Change) []Problem
	// Open connects to a device. It returns within ctx even if the backend is
	// dead, with CodeUnavailable; it recovers whatever a crash left behind:
	// interrupted writes become Incomplete or vanish. Opening twice at once is
	// allowed and gives two independent backends of one store.
	Open(ctx context.Context, o OpenRequest) (Backend, error)
}

// DriverInfo is what a driver says of itself.
type DriverInfo struct {
	Name           string // registry key; a duplicate stops the start of tenond
	Version        string
	Summary        string // one line for people
	APIMin, APIMax int    // versions of this package's contract that the driver speaks
	Schema         Schema
}

// APIVersion is the version of this package's contract.
const APIVersion = 1

// OpenRequest asks a driver for a device.
type OpenRequest struct {
	Name    string // the device's name
	Props   Props
	Secrets Secrets
	Host    HostInfo
}

// HostInfo tells a driver where it runs.
type HostInfo struct {
	ID     string // stable over reboots
	BootID string // changes at each boot; mappings of an earlier boot are void
	RunDir string // an existing folder of the driver's own for this device; sockets go here
}
