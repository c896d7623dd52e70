// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

func ptr(n int64) *int64 { return &n }

// zoo has a property of every kind.
func zoo() primitives.Schema {
	const device, volume = primitives.ScopeDevice, primitives.ScopeVolume
	return primitives.Schema{Version: 3, Props: []primitives.PropSpec{
		{Name: "path", Scope: device, Required: true, Pattern: "/.*", Example: "/srv/a", Help: "where it is"},
		{Name: "count", Scope: device, Type: primitives.PropInt, Min: ptr(-2), Max: ptr(9), Mutable: primitives.MutableOnline},
		{Name: "fast", Scope: device, Type: primitives.PropBool, Default: "false", Mutable: primitives.MutableOffline},
		{Name: "block", Scope: device, Type: primitives.PropBytes, Min: ptr(512), Max: ptr(1 << 40), Default: "4096"},
		{Name: "wait", Scope: device, Type: primitives.PropDuration, Max: ptr(3600e9), Mutable: primitives.MutableOnline},
		{Name: "mode", Scope: device | volume, Type: primitives.PropEnum, Enum: []string{"thin", "thick"}, Default: "thin", Inherit: true},
		{Name: "hosts", Scope: device, Type: primitives.PropList, Pattern: "[a-z.]+", Max: ptr(3), Mutable: primitives.MutableOnline},
		{Name: "user", Scope: device, Requires: []string{"key"}},
		{Name: "key", Scope: device, Secret: true},
		{Name: "anonymous", Scope: device, Type: primitives.PropBool, Conflicts: []string{"user"}, Mutable: primitives.MutableOnline},
		{Name: "old-name", Scope: device, Deprecated: "2"},
		{Name: "label", Scope: volume, Min: ptr(2), Max: ptr(5)},
		{Name: "pace", Scope: primitives.ScopeOp, Type: primitives.PropBytes},
	}}
}

func creation(props primitives.Props) primitives.Change {
	return primitives.Change{Scope: primitives.ScopeDevice, New: props}
}

func edit(old, set primitives.Props, removed ...string) primitives.Change {
	return primitives.Change{Scope: primitives.ScopeDevice, Old: old, New: set, Removed: removed}
}

func withSecret(c primitives.Change, name string) primitives.Change {
	c.Secrets = primitives.NewSecrets(map[string][]byte{name: []byte("canary")})
	return c
}

func inUse(c primitives.Change) primitives.Change { c.InUse = true; return c }

func TestSchemaRefusesEveryKindOfMistake(t *testing.T) {
	ok := primitives.Props{"path": "/srv"}
	with := func(k, v string) primitives.Change {
		return creation(primitives.Props{"path": "/srv", k: v})
	}
	for name, tt := range map[string]struct {
		change primitives.Change
		field  string
		says   string // a part of the message
	}{
		"an unknown key":                        {with("colour", "red"), "properties.colour", "no such property; known are"},
		"a misspelt key":                        {with("cuont", "1"), "properties.cuont", `did you mean "count"?`},
		"a key of another scope":                {with("label", "abc"), "properties.label", "belongs to a volume"},
		"a required one missing":                {creation(nil), "properties.path", "for example path=/srv/a"},
		"a required one empty":                  {creation(primitives.Props{"path": ""}), "properties.path", "does not have the form"},
		"a number that is none":                 {with("count", "many"), "properties.count", "not a whole number"},
		"a number with a fraction":              {with("count", "1.5"), "properties.count", "not a whole number"},
		"a number too large for int64":          {with("count", "9223372036854775808"), "properties.count", "not a whole number"},
		"a number too small":                    {with("count", "-3"), "properties.count", "at least -2"},
		"a number too large":                    {with("count", "10"), "properties.count", "at most 9"},
		"a bool that is none":                   {with("fast", "maybe"), "properties.fast", "neither true nor false"},
		"bytes with a decimal unit":             {with("block", "4KB"), "properties.block", "write K or KiB"},
		"bytes too few":                         {with("block", "1"), "properties.block", "at least 512"},
		"a duration without a unit":             {with("wait", "5"), "properties.wait", "expected one such as"},
		"a duration too long":                   {with("wait", "2h"), "properties.wait", "at most 1h0m0s"},
		"an enum value that is none":            {with("mode", "thim"), "properties.mode", `not one of thin, thick; did you mean "thin"?`},
		"an enum value in another case":         {with("mode", "THIN"), "properties.mode", "not one of thin, thick"},
		"a list with an empty member":           {with("hosts", "a,,b"), "properties.hosts", "empty member"},
		"a list with a bad member":              {with("hosts", "a,B"), "properties.hosts", `"B" does not have the form`},
		"a list too long":                       {with("hosts", "a,b,c,d"), "properties.hosts", "at most 3 members"},
		"a string of another form":              {with("path", "srv"), "properties.path", `expected something like "/srv/a"`},
		"a string that only begins in the form": {with("path", "x/srv"), "properties.path", "does not have the form"},
		"a string that is not UTF-8":            {with("user", "\xff"), "properties.user", "UTF-8"},
		"a secret among the properties":         {with("key", "canary"), "properties.key", "must be given as one"},
		"a secret that does not exist":          {withSecret(creation(ok), "kee"), "secrets.kee", `did you mean "key"?`},
		"a property among the secrets":          {withSecret(creation(ok), "user"), "secrets.user", "not a secret"},
		"one that needs another":                {with("user", "me"), "properties.user", "needs key too"},
		"two that exclude each other":           {withSecret(creation(primitives.Props{"path": "/srv", "user": "me", "anonymous": "yes"}), "key"), "properties.anonymous", "together with user"},
		// Cases: S95
		"an immutable one changed":                {edit(ok, primitives.Props{"path": "/other"}), "properties.path", "fixed at creation"},
		"an immutable one changed from a default": {edit(ok, primitives.Props{"block": "8K"}), "properties.block", `it is "4096" and cannot be changed to "8192"`},
		"an immutable one removed":                {edit(primitives.Props{"path": "/srv", "block": "8192"}, nil, "block"), "properties.block", "fixed at creation"},
		"an offline one changed in use":           {inUse(edit(ok, primitives.Props{"fast": "on"})), "properties.fast", "only while nothing uses"},
		"a required one removed":                  {edit(ok, nil, "path"), "properties.path", "required"},
		"an unknown one removed":                  {edit(ok, nil, "colour"), "properties.colour", "no such property"},
		"one given and removed":                   {edit(ok, primitives.Props{"count": "1"}, "count"), "properties.count", "both given and removed"},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := storage.Check(zoo(), tt.change)
			for _, p := range problems {
				if strings.Contains(p.Message, "canary") {
					t.Errorf("%v shows a secret", p)
				}
				if p.Prop == tt.field && p.Fatal && strings.Contains(p.Message, tt.says) {
					return
				}
			}
			t.Errorf("Check = %v, want a fatal problem of %s that says %q", problems, tt.field, tt.says)
		})
	}
}

func TestSchemaTellsAllMistakesAtOnceAndEachOnce(t *testing.T) {
	_, problems := storage.Check(zoo(), withSecret(creation(primitives.Props{
		"count": "x", "fast": "x", "wait": "x", "colour": "x", "mode": "x", "user": "me", "anonymous": "true",
	}), "kee"))
	var fields []string
	for _, p := range problems {
		fields = append(fields, p.Prop)
	}
	want := []string{
		"properties.anonymous", "properties.colour", "properties.count", "properties.fast", "properties.mode",
		"properties.path", "properties.user", "properties.wait", "secrets.kee",
	}
	if d := cmp.Diff(want, fields); d != "" {
		t.Errorf("fields with problems differ (-want +got):\n%s", d)
	}
}

func TestSchemaNormalisesWhatPeopleType(t *testing.T) {
	got, problems := storage.Check(zoo(), creation(primitives.Props{
		"path": "/srv", "count": " +7 ", "fast": "Yes", "block": "1.5M", "wait": "90s", "mode": "thick", "hosts": "a, b ,c",
	}))
	want := primitives.Props{"path": "/srv", "count": "7", "fast": "true", "block": "1572864", "wait": "1m30s", "mode": "thick", "hosts": "a,b,c"}
	if d := cmp.Diff(want, got); d != "" || len(problems) > 0 {
		t.Errorf("Check = %v, differs (-want +got):\n%s", problems, d)
	}
	again, problems := storage.Check(zoo(), edit(got, got))
	if d := cmp.Diff(got, again); d != "" || len(problems) > 0 {
		t.Errorf("Check of what it returned = %v, differs (-want +got):\n%s", problems, d)
	}
}

// Cases: S96
func TestSchemaKeepsWhatAChangeDoesNotName(t *testing.T) {
	old := primitives.Props{"path": "/srv", "count": "1", "wait": "1s"}
	got, problems := storage.Check(zoo(), inUse(edit(old, primitives.Props{"count": "2"}, "wait")))
	if d := cmp.Diff(primitives.Props{"path": "/srv", "count": "2"}, got); d != "" || len(problems) > 0 {
		t.Errorf("Check = %v, differs (-want +got):\n%s", problems, d)
	}
	if d := cmp.Diff(primitives.Props{"path": "/srv", "count": "1", "wait": "1s"}, old); d != "" {
		t.Errorf("Check changed its argument:\n%s", d)
	}
}

func TestSpellingADefaultOutChangesNothing(t *testing.T) {
	_, problems := storage.Check(zoo(), inUse(edit(primitives.Props{"path": "/srv"}, primitives.Props{"block": "4K", "fast": "off"})))
	if len(problems) > 0 {
		t.Errorf("Check = %v, want no problem", problems)
	}
}

func TestDeprecatedIsAWarning(t *testing.T) {
	_, problems := storage.Check(zoo(), creation(primitives.Props{"path": "/srv", "old-name": "x"}))
	if len(problems) != 1 || problems[0].Fatal || problems[0].Prop != "properties.old-name" {
		t.Errorf("Check = %v, want one warning", problems)
	}
}

func TestVolumeInheritsFromItsDevice(t *testing.T) {
	device := primitives.Props{"path": "/srv", "mode": "thick"}
	for name, tt := range map[string]struct {
		device, own, want primitives.Props
	}{
		"nothing given":    {device, nil, primitives.Props{"path": "/srv", "mode": "thick", "fast": "false", "block": "4096"}},
		"own over device":  {device, primitives.Props{"mode": "thin"}, primitives.Props{"path": "/srv", "mode": "thin", "fast": "false", "block": "4096"}},
		"default at last":  {primitives.Props{"path": "/srv"}, nil, primitives.Props{"path": "/srv", "mode": "thin", "fast": "false", "block": "4096"}},
		"own beside these": {device, primitives.Props{"label": "abc"}, primitives.Props{"path": "/srv", "mode": "thick", "fast": "false", "block": "4096", "label": "abc"}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, storage.Effective(zoo(), primitives.ScopeVolume, tt.device, tt.own)); d != "" {
				t.Errorf("Effective differs (-want +got):\n%s", d)
			}
		})
	}
}

func TestSchemaOfADriverIsChecked(t *testing.T) {
	const device = primitives.ScopeDevice
	if problems := storage.CheckSchema(zoo()); len(problems) > 0 {
		t.Errorf("CheckSchema = %v, want no problem", problems)
	}
	for name, spec := range map[string]primitives.PropSpec{
		"a name with a capital":          {Name: "Path", Scope: device},
		"no name":                        {Scope: device},
		"no scope":                       {Name: "a"},
		"a scope that does not exist":    {Name: "a", Scope: 64},
		"a type that does not exist":     {Name: "a", Scope: device, Type: 77},
		"an enum of nothing":             {Name: "a", Scope: device, Type: primitives.PropEnum},
		"enum values for an int":         {Name: "a", Scope: device, Type: primitives.PropInt, Enum: []string{"1"}},
		"a pattern that does not parse":  {Name: "a", Scope: device, Pattern: "("},
		"a pattern for a bool":           {Name: "a", Scope: device, Type: primitives.PropBool, Pattern: "x"},
		"a minimum above the maximum":    {Name: "a", Scope: device, Type: primitives.PropInt, Min: ptr(2), Max: ptr(1)},
		"limits for a bool":              {Name: "a", Scope: device, Type: primitives.PropBool, Min: ptr(2)},
		"a default that is not allowed":  {Name: "a", Scope: device, Type: primitives.PropInt, Default: "x"},
		"a default not normalised":       {Name: "a", Scope: device, Type: primitives.PropBytes, Default: "4K"},
		"a default for what is required": {Name: "a", Scope: device, Required: true, Default: "x"},
		"a secret that is a number":      {Name: "a", Scope: device, Type: primitives.PropInt, Secret: true},
		"a secret with a default":        {Name: "a", Scope: device, Secret: true, Default: "x"},
		"inherited by nobody":            {Name: "a", Scope: device, Inherit: true},
		"needs what is not there":        {Name: "a", Scope: device, Requires: []string{"b"}},
		"excludes itself":                {Name: "a", Scope: device, Conflicts: []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			if problems := storage.CheckSchema(primitives.Schema{Props: []primitives.PropSpec{spec}}); len(problems) == 0 {
				t.Error("CheckSchema found nothing")
			}
		})
	}
	twice := primitives.PropSpec{Name: "a", Scope: device}
	if problems := storage.CheckSchema(primitives.Schema{Props: []primitives.PropSpec{twice, twice}}); len(problems) == 0 {
		t.Error("CheckSchema found nothing wrong with a name that is there twice")
	}
}
