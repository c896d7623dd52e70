// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// jsonObject is a schema of JSON Schema 2020-12, with the few keywords that a
// driver's schema needs.
type jsonObject struct {
	Schema      string                  `json:"$schema,omitempty"`
	ID          string                  `json:"$id,omitempty"`
	Title       string                  `json:"title,omitempty"`
	Description string                  `json:"description,omitempty"`
	Version     int                     `json:"x-tenon-schema-version,omitempty"`
	Type        string                  `json:"type,omitempty"`
	Properties  map[string]jsonProperty `json:"properties"`
	Required    []string                `json:"required,omitempty"`
	Needs       map[string][]string     `json:"dependentRequired,omitempty"`
	AllOf       []jsonNot               `json:"allOf,omitempty"`
	Additional  bool                    `json:"additionalProperties"`
	Defs        map[string]jsonObject   `json:"$defs,omitempty"`
}

// jsonNot forbids two properties at once.
type jsonNot struct {
	Not struct {
		Required []string `json:"required"`
	} `json:"not"`
}

type jsonProperty struct {
	Type        []string `json:"type"`
	Description string   `json:"description,omitempty"`
	Default     any      `json:"default,omitempty"`
	Examples    []string `json:"examples,omitempty"`
	Enum        []any    `json:"enum,omitempty"`
	Minimum     *int64   `json:"minimum,omitempty"`
	Maximum     *int64   `json:"maximum,omitempty"`
	MinLength   *int64   `json:"minLength,omitempty"`
	MaxLength   *int64   `json:"maxLength,omitempty"`
	Pattern     string   `json:"pattern,omitempty"`
	WriteOnly   bool     `json:"writeOnly,omitempty"`
	Deprecated  bool     `json:"deprecated,omitempty"`
	TenonType   string   `json:"x-tenon-type"`
	Mutable     string   `json:"x-tenon-mutable"`
	Inherit     bool     `json:"x-tenon-inherit,omitempty"`
	Since       string   `json:"x-tenon-since,omitempty"`
}

// JSONSchema writes a driver's schema as JSON Schema 2020-12. The schema itself
// is that of a device's properties and secrets; $defs holds those of volumes,
// snapshots and calls. Values may be given as strings, as people type them, or
// as JSON's own numbers and booleans; secrets are writeOnly. What JSON Schema
// has no word for begins with x-tenon-.
func JSONSchema(info primitives.DriverInfo) ([]byte, error) {
	doc := jsonScope(info.Schema, primitives.ScopeDevice)
	doc.Schema = "https://json-schema.org/draft/2020-12/schema"
	doc.ID = "urn:tenon:driver:" + info.Name
	doc.Title = "Properties of a device of driver " + info.Name
	doc.Description = info.Summary
	doc.Version = info.Schema.Version
	for name, scope := range map[string]primitives.Scope{
		"volume": primitives.ScopeVolume, "snapshot": primitives.ScopeSnapshot, "call": primitives.ScopeOp,
	} {
		if len(specsOf(info.Schema, scope)) == 0 {
			continue
		}
		if doc.Defs == nil {
			doc.Defs = make(map[string]jsonObject)
		}
		doc.Defs[name] = jsonScope(info.Schema, scope)
	}
	return json.MarshalIndent(doc, "", "  ")
}

func jsonScope(schema primitives.Schema, scope primitives.Scope) jsonObject {
	specs := specsOf(schema, scope)
	o := jsonObject{Type: "object", Properties: make(map[string]jsonProperty)}
	for _, spec := range schema.Props {
		if _, here := specs[spec.Name]; !here {
			continue
		}
		o.Properties[spec.Name] = jsonOf(spec)
		if spec.Required {
			o.Required = append(o.Required, spec.Name)
		}
		for _, other := range spec.Requires {
			if specs[other].Default == "" { // a default is there anyway
				if o.Needs == nil {
					o.Needs = make(map[string][]string)
				}
				o.Needs[spec.Name] = append(o.Needs[spec.Name], other)
			}
		}
		for _, other := range spec.Conflicts {
			var n jsonNot
			n.Not.Required = []string{spec.Name, other}
			o.AllOf = append(o.AllOf, n)
		}
	}
	return o
}

func jsonOf(spec primitives.PropSpec) jsonProperty {
	p := jsonProperty{
		Type: []string{"string"}, Description: spec.Help, WriteOnly: spec.Secret, Deprecated: spec.Deprecated != "",
		TenonType: spec.Type.String(), Mutable: spec.Mutable.String(), Inherit: spec.Inherit, Since: spec.Since,
	}
	if spec.Default != "" {
		p.Default = spec.Default
	}
	if spec.Example != "" {
		p.Examples = []string{spec.Example}
	}
	switch spec.Type {
	case primitives.PropInt:
		// Limits of numbers say nothing about strings, which the device checks.
		p.Type, p.Pattern = []string{"integer", "string"}, `^\s*[+-]?[0-9]+\s*$`
		p.Minimum, p.Maximum = spec.Min, spec.Max
	case primitives.PropBytes:
		p.Type, p.Pattern = []string{"integer", "string"}, `^\s*[0-9]+(\.[0-9]+)? ?([Bb]|[KkMmGgTtPpEe]([Ii][Bb]?)?)?\s*$`
		p.Minimum, p.Maximum = spec.Min, spec.Max
	case primitives.PropDuration:
		p.Pattern = `^\s*[+-]?([0-9.]+(ns|us|µs|ms|s|m|h))+\s*$|^\s*0\s*$`
	case primitives.PropBool:
		p.Type, p.Pattern = []string{"boolean", "string"}, `^\s*([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[Yy][Ee][Ss]|[Nn][Oo]|[Oo][Nn]|[Oo][Ff][Ff])\s*$`
	case primitives.PropEnum:
		for _, e := range spec.Enum {
			p.Enum = append(p.Enum, e)
		}
	case primitives.PropList:
		p.Pattern = listPattern(spec)
	case primitives.PropString:
		p.MinLength, p.MaxLength = spec.Min, spec.Max
		if spec.Pattern != "" {
			p.Pattern = `^(?:` + spec.Pattern + `)$`
		}
	}
	return p
}

// listPattern describes members between commas.
func listPattern(spec primitives.PropSpec) string {
	member := `[^,]*[^,\s][^,]*`
	if len(spec.Enum) > 0 {
		quoted := slices.Clone(spec.Enum)
		for i, e := range quoted {
			quoted[i] = `\s*` + regexp.QuoteMeta(e) + `\s*`
		}
		member = "(?:" + strings.Join(quoted, "|") + ")"
	}
	return "^" + member + "(," + member + ")*$"
}
