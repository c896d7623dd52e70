// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"fmt"
	"regexp"

	"github.com/tenon-storage/tenon/primitives"
)

var propName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

const anyScope = primitives.ScopeDevice | primitives.ScopeVolume | primitives.ScopeSnapshot | primitives.ScopeOp

// CheckSchema finds what is wrong with a driver's schema itself. Its problems
// are defects of the driver.
func CheckSchema(schema primitives.Schema) []primitives.Problem {
	var problems []primitives.Problem
	names := make(map[string]bool)
	for _, spec := range schema.Props {
		names[spec.Name] = true
	}
	seen := make(map[string]bool)
	for _, spec := range schema.Props {
		complain := func(format string, args ...any) {
			problems = append(problems, primitives.Problem{Prop: property(spec.Name), Message: fmt.Sprintf(format, args...), Fatal: true})
		}
		if !propName.MatchString(spec.Name) {
			complain("the name is not of a-z, 0-9 and '-', beginning with a letter")
		}
		if seen[spec.Name] {
			complain("the name is there twice")
		}
		seen[spec.Name] = true
		if spec.Scope == 0 || spec.Scope&^anyScope != 0 {
			complain("its scope is %#x", uint8(spec.Scope))
		}
		for _, other := range append(append([]string(nil), spec.Requires...), spec.Conflicts...) {
			if !names[other] || other == spec.Name {
				complain("it refers to %q, which is no other property", other)
			}
		}
		checkType(spec, complain)
		checkDefault(spec, complain)
	}
	return problems
}

func checkType(spec primitives.PropSpec, complain func(string, ...any)) {
	if spec.Type > primitives.PropList {
		complain("its type is %d, which does not exist", spec.Type)
		return
	}
	if _, err := wholePattern(spec.Pattern); err != nil {
		complain("its pattern does not compile: %v", err)
	}
	if spec.Pattern != "" && spec.Type != primitives.PropString && spec.Type != primitives.PropList {
		complain("a pattern does not go with %v", spec.Type)
	}
	if (spec.Type == primitives.PropEnum) != (len(spec.Enum) > 0) && spec.Type != primitives.PropList {
		complain("enum values go with an enum, which needs some")
	}
	if spec.Min != nil && spec.Max != nil && *spec.Min > *spec.Max {
		complain("its minimum %d is above its maximum %d", *spec.Min, *spec.Max)
	}
	if (spec.Min != nil || spec.Max != nil) && (spec.Type == primitives.PropBool || spec.Type == primitives.PropEnum) {
		complain("limits do not go with %v", spec.Type)
	}
	if spec.Secret && spec.Type != primitives.PropString {
		complain("a secret is a string, not %v", spec.Type)
	}
	const both = primitives.ScopeDevice | primitives.ScopeVolume
	if spec.Inherit && spec.Scope&both != both {
		complain("what is inherited belongs to both device and volume")
	}
}

func checkDefault(spec primitives.PropSpec, complain func(string, ...any)) {
	switch {
	case spec.Default == "":
	case spec.Secret:
		complain("a secret has no default")
	case spec.Required:
		complain("what has a default cannot be required")
	default:
		normal, err := normalise(spec, spec.Default)
		if err != nil {
			complain("its default is wrong: %v", err)
		} else if normal != spec.Default {
			complain("its default %q is spelt %q when normalised", spec.Default, normal)
		}
	}
}
