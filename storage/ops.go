// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/internal/keylock"
	"github.com/tenon-storage/tenon/primitives"
)

// Facets tells what the backend offers. Its members go through the device too.
func (d *Device) Facets() primitives.Facets { return d.facets }

// Describe tells the device's state and capabilities.
func (d *Device) Describe(ctx context.Context) (primitives.Description, error) {
	c := call{name: "describe", uri: primitives.URI{Device: d.name}}
	desc, err := perform(ctx, d, c, func(ctx context.Context, _ primitives.Op) (primitives.Description, error) {
		return d.backend.Describe(ctx)
	})
	if err == nil {
		d.mu.Lock()
		d.traits = &desc
		d.mu.Unlock()
	}
	return desc, err
}

// known returns a description that may be old: good for what does not change. A
// device that cannot be described is left to say so in the call itself.
func (d *Device) known(ctx context.Context) primitives.Description {
	d.mu.Lock()
	traits := d.traits
	d.mu.Unlock()
	if traits != nil {
		return *traits
	}
	desc, err := d.Describe(ctx)
	if err != nil {
		return primitives.Description{}
	}
	return desc
}

// refuse records and returns an error found before the driver was asked.
func (d *Device) refuse(op string, u primitives.URI, err error) error {
	err = classify(op, u, err)
	d.stats.record(op, err, 0)
	return err
}

// object refuses what does not name an object of this device.
func (d *Device) object(u primitives.URI) error {
	if err := u.Check(); err != nil {
		return err
	}
	if u.Device != d.name {
		return primitives.Invalid("uri", "%s is not on device %s", u.Short(), d.name)
	}
	if u.Volume == "" {
		return primitives.Invalid("uri", "%s names a device; expected DEVICE/VOLUME or DEVICE/VOLUME@SNAPSHOT", u.Short())
	}
	return nil
}

func (d *Device) volume(field string, u primitives.URI) error {
	if err := d.object(u); err != nil {
		return err
	}
	if !u.IsVolume() {
		return primitives.Invalid(field, "%s is a snapshot; expected a volume", u.Short())
	}
	return nil
}

// size refuses what no volume can have. The driver rounds it up.
func (d *Device) size(ctx context.Context, size int64) error {
	if size <= 0 {
		return primitives.Invalid("size", "%d is not a size; expected at least 1 byte", size)
	}
	if most := d.known(ctx).MaxVolume; most > 0 && size > most {
		return primitives.Invalid("size", "%d is more than the largest volume of this device, %d bytes", size, most)
	}
	return nil
}

func (d *Device) format(ctx context.Context, f primitives.Format) error {
	formats := d.known(ctx).Caps.Formats
	if f == "" || len(formats) == 0 || slices.Contains(formats, f) {
		return nil
	}
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = string(f)
	}
	return primitives.Invalid("format", "%q is not offered by this device; expected one of %s", f, strings.Join(names, ", "))
}

// arguments spell a request for comparison with its repeats. Secrets are no part
// of it.
func arguments(op primitives.Op, format string, args ...any) string {
	s := fmt.Sprintf(format, args...)
	for _, name := range slices.Sorted(maps.Keys(op.Props)) {
		s += fmt.Sprintf(" %s=%q", name, op.Props[name])
	}
	if op.IfGen != 0 {
		s += fmt.Sprintf(" at generation %d", op.IfGen)
	}
	return s
}

// Stat looks one object up. It waits for nobody.
func (d *Device) Stat(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Object, error) {
	if err := d.object(u); err != nil {
		return primitives.Object{}, d.refuse("stat", u, err)
	}
	c := call{name: "stat", uri: u, op: op}
	return perform(ctx, d, c, func(ctx context.Context, op primitives.Op) (primitives.Object, error) {
		return d.backend.Stat(ctx, u, op)
	})
}

// List pages through objects. It waits for nobody.
func (d *Device) List(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
	c := call{name: "list", uri: primitives.URI{Device: d.name}, op: r.Op}
	if err := d.listable(r); err != nil {
		return primitives.Page{}, d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, d, c, func(ctx context.Context, op primitives.Op) (primitives.Page, error) {
		r.Op = op
		return d.backend.List(ctx, r)
	})
}

func (d *Device) listable(r primitives.ListRequest) error {
	if r.Limit < 0 {
		return primitives.Invalid("limit", "%d is negative", r.Limit)
	}
	for _, k := range r.Kinds {
		if k < primitives.KindVolume || k > primitives.KindTombstone {
			return primitives.Invalid("kinds", "%d is no kind of object", uint8(k))
		}
	}
	if r.Of.IsZero() {
		return nil
	}
	return d.volume("of", r.Of)
}

// Clone makes a volume with the content of another or of a snapshot.
func (d *Device) Clone(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
	c := call{
		name: "clone", uri: dst, op: r.Op, scope: primitives.ScopeVolume, long: true,
		keys: append(reading(src), naming(dst)...),
		args: arguments(r.Op, "clone %s to %s size %d full %t", src.Short(), dst.Short(), r.Size, r.Full),
	}
	if err := d.clonable(ctx, src, dst, r); err != nil {
		return primitives.Object{}, d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, d, c, func(ctx context.Context, op primitives.Op) (primitives.Object, error) {
		r.Op = op
		return d.backend.Clone(ctx, src, dst, r)
	})
}

func (d *Device) clonable(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) error {
	if err := d.object(src); err != nil {
		return err
	}
	if err := d.volume("destination", dst); err != nil {
		return err
	}
	if src == dst {
		return primitives.Invalid("destination", "%s is the source itself", dst.Short())
	}
	if r.Size != 0 {
		return d.size(ctx, r.Size)
	}
	return nil
}

// CopyTo offers a copy that the host does not move. Copy uses it.
func (d *Device) CopyTo(ctx context.Context, src primitives.URI, dst primitives.CopyTarget, op primitives.Op) (primitives.Object, error) {
	c := call{
		name: "copy-to", uri: src, op: op, long: true, keys: reading(src),
		args: arguments(op, "copy %s to %s on %s", src.Short(), dst.URI.Short(), dst.Backend),
	}
	err := d.object(src)
	if err == nil {
		err = dst.URI.Check()
	}
	if err != nil {
		return primitives.Object{}, d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, d, c, func(ctx context.Context, op primitives.Op) (primitives.Object, error) {
		return d.backend.CopyTo(ctx, src, dst, op)
	})
}

// Delink takes an object out of the namespace and keeps its data.
func (d *Device) Delink(ctx context.Context, u primitives.URI, r primitives.DelinkRequest) (primitives.Tombstone, error) {
	c := call{name: "delink", uri: u, op: r.Op, keys: removing(u), args: arguments(r.Op, "delink %s keep %s", u.Short(), r.Keep)}
	err := d.object(u)
	if err == nil && r.Keep < 0 {
		err = primitives.Invalid("keep", "%s is negative", r.Keep)
	}
	if err != nil {
		return primitives.Tombstone{}, d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, d, c, func(ctx context.Context, op primitives.Op) (primitives.Tombstone, error) {
		r.Op = op
		return d.backend.Delink(ctx, u, r)
	})
}

// Relink brings a tombstone back.
func (d *Device) Relink(ctx context.Context, t primitives.Tombstone, as primitives.URI, op primitives.Op) (primitives.Object, error) {
	target := as
	if target.IsZero() && !t.Was.IsZero() {
		target = t.Was
		target.Device = d.name // another device of the same store may have delinked it
	}
	c := call{
		name: "relink", uri: target, op: op, keys: append(naming(target), tombKey(t.ID)),
		args: arguments(op, "relink %s as %s", t.ID, as.Short()),
	}
	var err error
	if !target.IsZero() {
		err = d.object(target)
	}
	if err != nil {
		return primitives.Object{}, d.refuse(c.name, c.uri, err)
	}
	return perform(ctx, d, c, func(ctx context.Context, op primitives.Op) (primitives.Object, error) {
		return d.backend.Relink(ctx, t, as, op)
	})
}

// Destroy releases a tombstone's data.
func (d *Device) Destroy(ctx context.Context, t primitives.Tombstone, r primitives.DestroyRequest) error {
	c := call{
		name: "destroy", uri: t.Was, op: r.Op, long: true, keys: []keylock.Key{tombKey(t.ID)},
		args: arguments(r.Op, "destroy %s erase %d", t.ID, r.Erase),
	}
	if err := d.erasable(ctx, r.Erase); err != nil {
		return d.refuse(c.name, c.uri, err)
	}
	return do(ctx, d, c, func(ctx context.Context, op primitives.Op) error {
		r.Op = op
		return d.backend.Destroy(ctx, t, r)
	})
}

func (d *Device) erasable(ctx context.Context, e primitives.Erase) error {
	if e > primitives.EraseZero {
		return primitives.Invalid("erase", "%d is no way to erase", uint8(e))
	}
	ways := d.known(ctx).Caps.Erase
	if e == primitives.EraseNone || len(ways) == 0 || slices.Contains(ways, e) {
		return nil
	}
	return primitives.Errorf(primitives.CodeUnsupported, "this device cannot erase by %s", e)
}
