// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// Check holds a change against a schema. It returns the properties to persist,
// which are what was given, spelt as drivers read it, without defaults; and
// every problem, of which only fatal ones refuse the change. It does no I/O.
//
// A key that New lacks is unchanged, unless Removed names it. An Old of nil
// means creation, in which everything may be chosen. Secrets are the complete
// new set.
func Check(schema primitives.Schema, c primitives.Change) (primitives.Props, []primitives.Problem) {
	k := checker{schema: schema, change: c, specs: specsOf(schema, c.Scope), props: primitives.Props{}}
	k.merge()
	k.unknownRemovals()
	k.secrets()
	k.missing()
	k.relations()
	k.mutability()
	slices.SortStableFunc(k.problems, func(a, b primitives.Problem) int { return strings.Compare(a.Prop, b.Prop) })
	return k.props, k.problems
}

type checker struct {
	schema   primitives.Schema
	change   primitives.Change
	specs    map[string]primitives.PropSpec // those of the change's scope
	props    primitives.Props               // the new state, normalised
	problems []primitives.Problem
}

func specsOf(schema primitives.Schema, scope primitives.Scope) map[string]primitives.PropSpec {
	specs := make(map[string]primitives.PropSpec)
	for _, s := range schema.Props {
		if s.Scope&scope != 0 {
			specs[s.Name] = s
		}
	}
	return specs
}

func (k *checker) fatal(field, format string, args ...any) {
	k.problems = append(k.problems, primitives.Problem{Prop: field, Message: fmt.Sprintf(format, args...), Fatal: true})
}

func property(name string) string { return "properties." + name }

func secret(name string) string { return "secrets." + name }

// merge takes what is kept from Old and what is given in New.
func (k *checker) merge() {
	for name, value := range k.change.Old {
		if _, given := k.change.New[name]; !given && !slices.Contains(k.change.Removed, name) {
			k.props[name] = value
		}
	}
	for name, value := range k.change.New {
		spec, known := k.specs[name]
		switch {
		case !known:
			k.unknown(name)
		case spec.Secret:
			k.fatal(property(name), "it is a secret and must be given as one, not as a property")
		default:
			k.take(spec, value)
		}
	}
}

func (k *checker) take(spec primitives.PropSpec, value string) {
	normal, err := normalise(spec, value)
	if err != nil {
		k.fatal(property(spec.Name), "%v", err)
		return
	}
	k.props[spec.Name] = normal
	if spec.Deprecated != "" {
		k.problems = append(k.problems, primitives.Problem{
			Prop:    property(spec.Name),
			Message: "it is deprecated since version " + spec.Deprecated + " of the driver",
		})
	}
}

func (k *checker) unknown(name string) {
	for _, s := range k.schema.Props {
		if s.Name == name {
			k.fatal(property(name), "it cannot be given here: it belongs to a %s", scopeWords(s.Scope))
			return
		}
	}
	known := slices.Sorted(maps.Keys(k.specs))
	hint := didYouMean(name, known)
	if hint == "" && len(known) > 0 {
		hint = "; known are " + strings.Join(known, ", ")
	}
	k.fatal(property(name), "there is no such property%s", hint)
}

func scopeWords(s primitives.Scope) string {
	var words []string
	for i, w := range []string{"device", "volume", "snapshot", "call"} {
		if s&(1<<i) != 0 {
			words = append(words, w)
		}
	}
	return strings.Join(words, " or ")
}

func (k *checker) unknownRemovals() {
	for _, name := range k.change.Removed {
		if _, both := k.change.New[name]; both {
			k.fatal(property(name), "it is both given and removed")
		} else if _, known := k.specs[name]; !known {
			k.unknown(name)
		}
	}
}

func (k *checker) secrets() {
	for _, name := range k.change.Secrets.Names() {
		spec, known := k.specs[name]
		if known && spec.Secret {
			continue
		}
		if known {
			k.fatal(secret(name), "it is not a secret; give it as a property")
			continue
		}
		k.fatal(secret(name), "there is no such secret%s", didYouMean(name, k.secretNames()))
	}
}

func (k *checker) secretNames() []string {
	var names []string
	for name, s := range k.specs {
		if s.Secret {
			names = append(names, name)
		}
	}
	return names
}

// given reports whether a property or secret has a value of its own.
func (k *checker) given(name string) bool {
	if _, ok := k.change.Secrets.Get(name); ok {
		return true
	}
	_, ok := k.props[name]
	return ok
}

func (k *checker) missing() {
	for name, spec := range k.specs {
		if !spec.Required || (k.given(name) && (spec.Secret || k.props[name] != "")) || k.complained(name) {
			continue
		}
		field := property(name)
		if spec.Secret {
			field = secret(name)
		}
		k.fatal(field, "it is required%s", forExample(spec))
	}
}

func forExample(spec primitives.PropSpec) string {
	if spec.Example == "" {
		return ""
	}
	return fmt.Sprintf("; for example %s=%s", spec.Name, spec.Example)
}

// complained keeps one mistake from being told twice.
func (k *checker) complained(name string) bool {
	return slices.ContainsFunc(k.problems, func(p primitives.Problem) bool { return p.Fatal && p.Prop == property(name) })
}

func (k *checker) relations() {
	for name, spec := range k.specs {
		if !k.given(name) {
			continue
		}
		for _, other := range spec.Requires {
			if !k.given(other) && k.specs[other].Default == "" {
				k.fatal(property(name), "it needs %s too", other)
			}
		}
		for _, other := range spec.Conflicts {
			if k.given(other) && (name < other || !slices.Contains(k.specs[other].Conflicts, name)) {
				k.fatal(property(name), "it cannot be given together with %s", other)
			}
		}
	}
}

// mutability compares what was effective with what would be.
func (k *checker) mutability() {
	if k.change.Old == nil {
		return
	}
	for name, spec := range k.specs {
		if spec.Secret || k.complained(name) {
			continue
		}
		was, is := orDefault(spec, k.change.Old), orDefault(spec, k.props)
		switch {
		case was == is || spec.Mutable == primitives.MutableOnline:
		case spec.Mutable == primitives.Immutable:
			k.fatal(property(name), "it is %q and cannot be changed to %q: it is fixed at creation", was, is)
		case k.change.InUse:
			k.fatal(property(name), "it is %q and can be changed to %q only while nothing uses %s", was, is, subject(k.change.Subject))
		}
	}
}

func subject(u primitives.URI) string {
	if u.IsZero() {
		return "it"
	}
	return u.Short()
}

func orDefault(spec primitives.PropSpec, p primitives.Props) string {
	if v, ok := p[spec.Name]; ok {
		return v
	}
	return spec.Default
}

// fatal returns the problems that refuse a change, and the others.
func fatal(problems []primitives.Problem) (refuse, warn []primitives.Problem) {
	for _, p := range problems {
		if p.Fatal {
			refuse = append(refuse, p)
		} else {
			warn = append(warn, p)
		}
	}
	return refuse, warn
}
