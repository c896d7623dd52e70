// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/primitives/maintenance"
	"github.com/tenon-storage/tenon/storage"
)

// probeName is the volume that proves a returned device writable. It is never
// committed, so it never exists.
const probeName = "tenon-return-probe"

// Remembered is what a device has to be again when it returns.
type Remembered struct {
	Backend string // the identity that the storage reports; empty: it reports none
	Total   int64  // bytes; -1: it does not tell
}

// Shut closes a device for service: from here on nobody gets it, and it is not
// opened any more but by the methods of this file. Those who have it are served
// to the end of their calls. A repeat is success.
func (r *Registry) Shut(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[name]; e != nil {
		e.shut = true
	}
}

// Reopen ends what Shut began and opens the device. A device that is not shut is
// success.
func (r *Registry) Reopen(ctx context.Context, name string) {
	r.mu.Lock()
	e := r.entries[name]
	if e != nil {
		e.shut, e.failure = false, nil
	}
	r.mu.Unlock()
	if e != nil {
		r.lookWithin(ctx, e)
	}
}

// Holders lists what has a part of the device open on this host, whoever opened
// it. CodeUnsupported where the driver cannot tell.
func (r *Registry) Holders(ctx context.Context, name string) (holders []primitives.Holder, err error) {
	err = r.exclusively(ctx, name, func(d *storage.Device, f primitives.Fencer) error {
		if f == nil {
			return cannotFence(name)
		}
		holders, err = f.Holders(ctx)
		return err
	})
	return holders, err
}

// Fence closes a device that is shut: its storage refuses everybody's I/O on this
// host, which was verified. It tells what the device has to be again when it
// returns. CodeInUse names who still has it open; CodeUnsupported where the
// driver cannot fence: then nothing but tenond itself keeps away from it.
func (r *Registry) Fence(ctx context.Context, name string, op primitives.Op) (report primitives.FenceReport, was Remembered, err error) {
	err = r.exclusively(ctx, name, func(d *storage.Device, f primitives.Fencer) error {
		desc, err := d.Describe(ctx)
		if err != nil {
			return err
		}
		was = Remembered{Backend: desc.Backend, Total: desc.Total}
		if f == nil {
			return cannotFence(name)
		}
		report, err = f.Fence(ctx, op)
		return err
	})
	if err == nil || errors.Is(err, primitives.CodeUnsupported) {
		r.letGo(name)
	}
	return report, was, err
}

// letGo closes a shut device, so that nothing of tenond's is open on it.
func (r *Registry) letGo(name string) {
	r.mu.Lock()
	var open *storage.Device
	if e := r.entries[name]; e != nil && e.shut {
		open, e.device = e.device, nil
	}
	r.mu.Unlock()
	if open != nil {
		r.closeOld(name, open)
	}
}

// Verify looks whether a shut device is the one that it was: identity, size and,
// where its driver knows it, mount. It changes nothing.
func (r *Registry) Verify(ctx context.Context, name string, was Remembered) error {
	return r.exclusively(ctx, name, func(d *storage.Device, _ primitives.Fencer) error { return same(ctx, d, was) })
}

func same(ctx context.Context, d *storage.Device, was Remembered) error {
	now, err := d.Describe(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("ask it what it is: %w", err)
	case was.Backend != "" && now.Backend != was.Backend:
		return primitives.Errorf(primitives.CodeFenced, "another storage came back: it is %q and was %q", now.Backend, was.Backend).
			Trying("bring the right storage back and end the maintenance again")
	case was.Total > 0 && now.Total >= 0 && now.Total != was.Total:
		return primitives.Errorf(primitives.CodeFenced, "its size changed: it has %d bytes and had %d", now.Total, was.Total).
			Trying("bring the right storage back; if the change is wanted, override the host and end the maintenance again")
	case now.Health == primitives.Unreachable:
		return primitives.Errorf(primitives.CodeUnavailable, "it is unreachable: %s", now.HealthNote)
	}
	return nil
}

// Unfence ends the fence of a shut device and proves that it can be written to.
// Where it cannot, it is fenced again. The device stays shut.
func (r *Registry) Unfence(ctx context.Context, name string, op primitives.Op) error {
	defer r.letGo(name)
	return r.exclusively(ctx, name, func(d *storage.Device, f primitives.Fencer) error {
		if f == nil {
			return writable(ctx, d, name)
		}
		unfence, again := op, op
		unfence.ID, again.ID = op.ID+"/unfence", op.ID+"/again"
		if err := f.Unfence(ctx, unfence); err != nil {
			return err
		}
		err := writable(ctx, d, name)
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.options.OpenTime)
			defer cancel()
			_, fenceErr := f.Fence(ctx, again)
			err = errors.Join(err, fenceErr)
		}
		return err
	})
}

// writable begins a small volume and gives it up.
func writable(ctx context.Context, d *storage.Device, name string) error {
	desc, err := d.Describe(ctx)
	if err != nil {
		return err
	}
	size := max(desc.Granule, 4096)
	w, err := d.Write(ctx, primitives.URI{Device: name, Volume: probeName}, primitives.WriteRequest{
		Op: primitives.Op{ID: probeName}, Create: true, Size: size, Resume: true,
	})
	if err == nil {
		_, err = w.WriteAt(make([]byte, 512), 0)
		err = errors.Join(err, w.Abort(context.WithoutCancel(ctx)))
	}
	if err != nil {
		return fmt.Errorf("prove that it can be written to: %w", err)
	}
	return nil
}

// exclusively runs f on a device's backend: the open one, or one opened for it alone
// and closed afterwards. It keeps the keeper from opening the device meanwhile.
func (r *Registry) exclusively(ctx context.Context, name string, f func(*storage.Device, primitives.Fencer) error) error {
	r.mu.Lock()
	e := r.entries[name]
	r.mu.Unlock()
	if e == nil {
		return unknown(name)
	}
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return &primitives.Error{Code: primitives.CodeOf(ctx.Err()), Op: "wait for device " + name, Err: context.Cause(ctx)}
	}
	r.mu.Lock()
	d, record := e.device, e.record
	r.mu.Unlock()
	if d != nil {
		return f(d, d.Facets().Fence)
	}
	o, err := r.open(ctx, record)
	if err != nil {
		return err
	}
	return errors.Join(f(o.device, o.device.Facets().Fence), o.device.Close())
}

func cannotFence(name string) error {
	return primitives.Errorf(primitives.CodeUnsupported, "the driver of device %s cannot fence it: it cannot keep others on this host away", name).
		On(primitives.URI{Device: name}).Trying("see that nobody uses it, and override the host: tenonctl maintenance override %s HOST --permission WHO --reason TEXT", name)
}

// Below tells which device a path on this host lies in: below the folder that
// the device is configured with, or below the one for its sockets. "" for none.
func (r *Registry) Below(path string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, e := range r.entries {
		if within(path, e.record.Props["path"]) || within(path, r.options.Host.RunDir+"/"+name) {
			return name
		}
	}
	return ""
}

// within reports whether path is folder or below it.
func within(path, folder string) bool {
	return strings.HasPrefix(folder, "/") && (path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/"))
}

// fenced refuses a shut device, in the words of its gate.
func (r *Registry) fenced(name string) error {
	var door maintenance.Door
	err := r.journal.View(func(tx *journal.Tx) (err error) {
		door, err = tx.Door(name)
		return err
	})
	u := primitives.URI{Device: name}
	if err != nil || len(door.IDs) == 0 {
		return errors.Join(primitives.Errorf(primitives.CodeFenced, "the device is closed for service").On(u).
			Trying("see: tenonctl maintenance status %s", name), err)
	}
	door.Gate = maintenance.GateFenced // the device is shut before that is recorded
	return refused(door, u)
}
