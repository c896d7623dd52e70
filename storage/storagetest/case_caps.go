// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

var capChecks = []check{
	{cases: []int{91}, name: "capabilities agree with the facets, and neither changes", run: capsAgreeWithFacets},
	{cases: []int{92}, name: "every declared format and erase works, no other is taken", run: formatsAndErases},
	{cases: []int{92}, name: "a device that is not manageable makes and removes nothing", needs: []need{unmanageable}, run: unmanageableRefuses},
	{cases: []int{93}, name: "no object can do more than its device", run: objectCapsAreNarrower},
}

var unmanageable = declared("Manageable is true", func(p profile) bool { return !p.desc.Caps.Manageable })

// Case 91. What a nil facet leaves out is then declared as absent too.
func capsAgreeWithFacets(c *C) {
	b := c.open()
	first := c.p.offers
	for range 2 {
		f := b.Facets()
		c.same(offers{f.Snapshots != nil, f.Resize != nil, f.Delta != nil, f.Map != nil, f.Import != nil, f.Fence != nil} == first, true, "what the facets offer")
		b = c.crashAndReopen()
	}
	d := c.describe(b)
	caps := d.Caps
	if !first.snapshots && (caps.Snapshot || caps.SnapshotGroup || caps.SnapshotLive != primitives.LiveNone || caps.Revert != primitives.RevertNone) {
		c.Errorf("no snapshots are offered and yet Snapshot %v, group %v, live %v, revert %d are declared", caps.Snapshot, caps.SnapshotGroup, caps.SnapshotLive, caps.Revert)
	}
	if !first.resize && (caps.ResizeOnline || caps.Shrink) {
		c.Errorf("no resize is offered and yet online %v, shrink %v are declared", caps.ResizeOnline, caps.Shrink)
	}
	if !first.delta && caps.DeltaAcrossDelink {
		c.Errorf("no delta is offered and yet DeltaAcrossDelink is declared")
	}
	if first.mapper != (len(caps.Forms) > 0) {
		c.Errorf("mapping is offered: %v, forms declared: %v", first.mapper, caps.Forms)
	}
	if len(caps.Formats) == 0 || slices.Contains(caps.Formats, "") {
		c.Errorf("formats = %q, want at least one, each with a name", caps.Formats)
	}
	if !slices.Contains(caps.Erase, primitives.EraseNone) {
		c.Errorf("erase = %v, want at least none", caps.Erase)
	}
	if d.Health != primitives.Healthy || d.AtTime.IsZero() || d.Total < -1 || d.Free < -1 || d.MaxVolume < 0 {
		c.Errorf("description of a fresh store = %+v, want healthy, with a time and sound numbers", d)
	}
}

// Case 92. The facets and flags have their checks in the other files.
func formatsAndErases(c *C) {
	b := c.open()
	img := c.full(c.seed())
	for _, f := range c.p.desc.Caps.Formats {
		r := c.createRequest(c.p.size)
		r.Format = f
		if o := c.createBy(b, "vol-"+string(f), img, r); o.Format != f {
			c.Errorf("create of format %q = %q", f, o.Format)
		}
		c.holds(b, c.u("vol-"+string(f)), img)
	}
	r := c.createRequest(c.p.size)
	r.Format = "no such format"
	_, err := b.Write(c.ctx, c.u("wrong"), r)
	c.refused(err, "create of an unknown format", primitives.CodeInvalid, primitives.CodeUnsupported)
	c.absent(b, c.u("wrong"))
	for _, e := range []primitives.Erase{primitives.EraseNone, primitives.EraseDiscard, primitives.EraseZero} {
		name := fmt.Sprintf("erase-%v", e)
		c.create(b, name, img)
		dead := c.delink(b, c.u(name))
		if slices.Contains(c.p.desc.Caps.Erase, e) {
			c.destroyBy(b, dead, e)
			continue
		}
		err := b.Destroy(c.ctx, dead, primitives.DestroyRequest{Op: c.op(), Erase: e})
		c.refused(err, fmt.Sprintf("destroy with erase %v, which is not declared", e), primitives.CodeUnsupported)
		c.relink(b, dead, primitives.URI{})
		c.holds(b, c.u(name), img)
	}
}

// Case 92.
func unmanageableRefuses(c *C) {
	b := c.open()
	_, err := b.Write(c.ctx, c.u("vol"), c.createRequest(c.p.size))
	c.refused(err, "create on a device that is not manageable", primitives.CodeUnsupported, primitives.CodeDenied)
}

// Case 93.
func objectCapsAreNarrower(c *C) {
	b := c.open()
	u := c.u("vol")
	c.create(b, "vol", c.full(c.seed()))
	c.narrower(b, c.stat(b, u))
	if c.p.caps.Snapshot {
		c.snapshot(b, "snap", u)
		o := c.stat(b, u.At("snap"))
		c.narrower(b, o)
		if o.Caps.Shrink || o.Caps.ResizeOnline {
			c.Errorf("a snapshot can be resized")
		}
		c.remove(b, u.At("snap"))
	}
	if b.Facets().Map != nil {
		m := c.attached(b, u, primitives.ReadWrite, "guest")
		c.narrower(b, c.stat(b, u))
		c.unmap(b, m)
	}
	c.delink(b, u)
	for _, o := range c.tombstones(b) {
		c.narrower(b, o)
	}
}

// narrower checks an object's capabilities against its device's.
func (c *C) narrower(b primitives.Backend, o primitives.Object) {
	c.Helper()
	dev, obj := c.describe(b).Caps, o.Caps
	for name, more := range map[string]bool{
		"RandomWrite":       obj.RandomWrite && !dev.RandomWrite,
		"SharedAcrossHosts": obj.SharedAcrossHosts && !dev.SharedAcrossHosts,
		"ExclusiveActivate": obj.ExclusiveActivate && !dev.ExclusiveActivate,
		"Snapshot":          obj.Snapshot && !dev.Snapshot,
		"SnapshotGroup":     obj.SnapshotGroup && !dev.SnapshotGroup,
		"ResizeOnline":      obj.ResizeOnline && !dev.ResizeOnline,
		"Shrink":            obj.Shrink && !dev.Shrink,
		"DeltaAcrossDelink": obj.DeltaAcrossDelink && !dev.DeltaAcrossDelink,
		"Manageable":        obj.Manageable && !dev.Manageable,
		"SnapshotLive":      obj.SnapshotLive != primitives.LiveNone && dev.SnapshotLive == primitives.LiveNone,
		"Revert":            obj.Revert != primitives.RevertNone && dev.Revert == primitives.RevertNone,
		"Formats":           !subset(obj.Formats, dev.Formats),
		"Forms":             !subset(obj.Forms, dev.Forms),
		"Erase":             !subset(obj.Erase, dev.Erase),
	} {
		if more {
			c.Errorf("%v %v has more of %s than its device", o.Kind, o.URI.Short(), name)
		}
	}
}

func subset[T comparable](part, whole []T) bool {
	return !slices.ContainsFunc(part, func(x T) bool { return !slices.Contains(whole, x) })
}
