// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

var propChecks = []check{
	{cases: []int{94}, name: "wrong device properties are refused and named", needs: []need{strict}, run: wrongDeviceProps},
	{cases: []int{94}, name: "wrong properties of one call are refused before anything happens", needs: []need{strict}, run: wrongCallProps},
	{cases: []int{97}, name: "properties come back as they were stored", run: propsRoundTrip},
	{cases: []int{97}, name: "secrets appear in no object and no error", run: secretsStaySecret},
	{cases: []int{98}, name: "validate changes nothing", run: validateChangesNothing},
}

// misfits returns values that a property cannot have.
func misfits(s primitives.PropSpec) []string {
	var wrong []string
	switch s.Type {
	case primitives.PropInt, primitives.PropBytes:
		wrong = append(wrong, "many", "99999999999999999999")
	case primitives.PropBool:
		wrong = append(wrong, "perhaps")
	case primitives.PropDuration:
		wrong = append(wrong, "soon")
	case primitives.PropEnum:
		wrong = append(wrong, "none-of-"+strings.Join(s.Enum, "-"))
	case primitives.PropString:
		if s.Max != nil && *s.Max < 1<<16 {
			wrong = append(wrong, strings.Repeat("x", int(*s.Max)+1))
		}
	}
	numeric := s.Type == primitives.PropInt || s.Type == primitives.PropBytes
	if numeric && s.Min != nil {
		wrong = append(wrong, fmt.Sprint(*s.Min-1))
	}
	if numeric && s.Max != nil {
		wrong = append(wrong, fmt.Sprint(*s.Max+1))
	}
	return wrong
}

// names reports whether an error names a property among its problems.
func (c *C) namesProp(err error, prop string) bool {
	e, ok := errors.AsType[*primitives.Error](err)
	return ok && slices.ContainsFunc(e.Problems, func(p primitives.Problem) bool { return strings.Contains(p.Prop, prop) })
}

// Case 94.
func wrongDeviceProps(c *C) {
	try := func(what, prop string, change func(p primitives.Props)) {
		c.Helper()
		r := c.openRequest("a")
		change(r.Props)
		_, err := c.tryOpen(c.ctx, r)
		c.refused(err, "open with "+what, primitives.CodeInvalid)
		if err != nil && !c.namesProp(err, prop) {
			c.Errorf("open with %s = %v, want a problem that names %s", what, err, prop)
		}
	}
	try("an unknown property", "no-such-property", func(p primitives.Props) { p["no-such-property"] = "1" })
	for _, s := range c.store.Driver.Info().Schema.Props {
		if s.Scope&primitives.ScopeDevice == 0 || s.Secret {
			continue
		}
		for _, v := range misfits(s) {
			try(fmt.Sprintf("%s=%.40s", s.Name, v), s.Name, func(p primitives.Props) { p[s.Name] = v })
		}
		if s.Required {
			try("no "+s.Name, s.Name, func(p primitives.Props) { delete(p, s.Name) })
		}
	}
	try("two mistakes at once", "second-mistake", func(p primitives.Props) { p["first-mistake"], p["second-mistake"] = "1", "2" })
	c.same(c.names(c.open()), []string{}, "the listing after all that")
}

// Case 94.
func wrongCallProps(c *C) {
	b := c.open()
	img := c.full(c.seed())
	made := c.create(b, "vol", img)
	op := func() primitives.Op {
		op := c.op()
		op.Props = primitives.Props{"no-such-property": "1"}
		return op
	}
	_, err := b.Write(c.ctx, c.u("new"), primitives.WriteRequest{Op: op(), Create: true, Size: c.p.size, Format: c.v.Format})
	c.refused(err, "create with an unknown property", primitives.CodeInvalid)
	_, err = b.Clone(c.ctx, c.u("vol"), c.u("new"), primitives.CloneRequest{Op: op()})
	c.refused(err, "clone with an unknown property", primitives.CodeInvalid)
	_, err = b.Delink(c.ctx, c.u("vol"), primitives.DelinkRequest{Op: op()})
	c.refused(err, "delink with an unknown property", primitives.CodeInvalid)
	c.absent(b, c.u("new"))
	c.repeats(c.stat(b, c.u("vol")), made, "stat")
	c.holds(b, c.u("vol"), img)
}

// freeText finds a property of volumes that takes any text.
func (c *C) freeText() string {
	for _, s := range c.store.Driver.Info().Schema.Props {
		if s.Scope&primitives.ScopeVolume != 0 && s.Type == primitives.PropString && s.Pattern == "" && !s.Secret {
			return s.Name
		}
	}
	return ""
}

// Case 97.
func propsRoundTrip(c *C) {
	b := c.open()
	r := c.createRequest(c.p.size)
	if r.Props == nil {
		r.Props = primitives.Props{}
	}
	given := c.v.VolumeProps.Clone()
	if text := c.freeText(); text != "" {
		if given == nil {
			given = primitives.Props{}
		}
		given[text] = "größe = 1,2; \"x\""
	}
	maps.Copy(r.Props, given)
	img := c.full(c.seed())
	made := c.createBy(b, "vol", img, r)
	for name, want := range given {
		if made.Props[name] != want {
			c.Errorf("property %s came back as %q, want %q", name, made.Props[name], want)
		}
	}
	volumeProps := map[string]bool{}
	for _, s := range c.store.Driver.Info().Schema.Props {
		volumeProps[s.Name] = s.Scope&(primitives.ScopeVolume|primitives.ScopeSnapshot) != 0 && !s.Secret
	}
	for name := range made.Props {
		if !volumeProps[name] {
			c.Errorf("property %s=%q is no volume's and came back with one", name, made.Props[name])
		}
	}
	want := made.Props.Clone()
	for name := range given {
		r.Props[name], made.Props[name] = "changed by the caller", "changed by the caller"
	}
	c.same(c.stat(b, c.u("vol")).Props, want, "the properties")
	c.overwrite(b, c.u("vol"), img, c.seed(), 0, 4096)
	b = c.crashAndReopen()
	c.same(c.stat(b, c.u("vol")).Props, want, "the properties after a crash")
	c.same(c.list(b, primitives.ListRequest{})[0].Props, want, "the properties listed")
}

// Case 97. The canary travels with every call of a bare driver; a caller's side
// takes only secrets that the schema knows, which are the store's own.
func secretsStaySecret(c *C) {
	const canary = "canary-8f31c2"
	values := [][]byte{}
	for _, name := range c.store.Secrets.Names() {
		v, _ := c.store.Secrets.Get(name)
		values = append(values, v)
	}
	secrets := c.store.Secrets
	if c.store.Open == nil {
		secrets = primitives.NewSecrets(map[string][]byte{"password": []byte(canary)})
		values = append(values, []byte(canary))
	}
	if len(values) == 0 {
		c.skip(Reason{NoHook, "Secrets of the store"})
	}
	scan := func(what string, v any) {
		c.Helper()
		asJSON, _ := json.Marshal(v)
		text := append([]byte(fmt.Sprintf("%v %+v %#v %q ", v, v, v, v)), asJSON...)
		for _, secret := range values {
			if bytes.Contains(text, secret) {
				c.Errorf("%s shows a secret: %s", what, text)
			}
		}
	}
	op := func() primitives.Op {
		op := c.op()
		op.Secrets = secrets
		return op
	}
	b := c.open()
	r := c.createRequest(c.p.size)
	r.Secrets = secrets
	scan("create", c.createBy(b, "vol", c.blank(), r))
	o, err := b.Stat(c.ctx, c.u("vol"), op())
	c.must(err, "stat")
	scan("stat", o)
	scan("list", c.list(b, primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone}}))
	scan("describe", c.describe(b))
	o, err = b.Clone(c.ctx, c.u("vol"), c.u("clone"), primitives.CloneRequest{Op: op()})
	c.must(err, "clone")
	scan("clone", o)
	if m := b.Facets().Map; m != nil {
		r := c.mapRequest(primitives.ReadWrite, "guest")
		r.Secrets = secrets
		got, err := m.Map(c.ctx, c.u("vol"), r)
		c.must(err, "map")
		scan("map", got)
	}
	_, err = b.Write(c.ctx, c.u("vol"), primitives.WriteRequest{Op: op(), Create: true, Size: c.p.size, Format: c.v.Format})
	scan("a refused create", c.refusal(err, "create over another", primitives.CodeExists))
	_, err = b.Delink(c.ctx, c.u("nobody"), primitives.DelinkRequest{Op: op()})
	scan("a refused delink", c.refusal(err, "delink of an absent volume", primitives.CodeNotFound))
	_, err = b.Clone(c.ctx, c.u("vol"), c.u("small"), primitives.CloneRequest{Op: op(), Size: 1})
	scan("a refused clone", c.refusal(err, "smaller clone", primitives.CodeInvalid))
	dead, err := b.Delink(c.ctx, c.u("clone"), primitives.DelinkRequest{Op: op()})
	c.must(err, "delink")
	scan("delink", dead)
}

// Case 98.
func validateChangesNothing(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "vol", img)
	before := c.describe(b)
	drv := c.store.Driver
	working := primitives.Change{Scope: primitives.ScopeDevice, Subject: primitives.URI{Device: device}, New: c.openRequest("a").Props, Secrets: c.store.Secrets}
	for range 2 {
		for _, p := range drv.Validate(c.ctx, working) {
			if p.Fatal {
				c.Errorf("validate of properties that work = %s: %s", p.Prop, p.Message)
			}
		}
	}
	cancelled, cancel := context.WithCancel(c.ctx)
	cancel()
	_ = drv.Validate(cancelled, working)
	_ = drv.Validate(c.ctx, primitives.Change{Scope: primitives.ScopeDevice, Subject: primitives.URI{Device: device}})
	_ = drv.Validate(c.ctx, primitives.Change{Scope: primitives.ScopeVolume, Subject: c.u("vol"), Old: primitives.Props{}, New: primitives.Props{}, InUse: true})
	after := c.describe(b)
	c.same(after.Backend, before.Backend, "the identity after validate")
	c.same(c.names(b, primitives.KindVolume, primitives.KindTombstone), []string{"vol"}, "the listing after validate")
	b = c.crashAndReopen()
	c.holds(b, c.u("vol"), img)
}
