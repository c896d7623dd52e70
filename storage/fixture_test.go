// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

// broken is the mem driver with parts of it replaced.
type broken struct {
	*mem.Driver
	info     func(primitives.DriverInfo) primitives.DriverInfo
	validate func(primitives.Change) []primitives.Problem
	wrap     func(primitives.Backend) primitives.Backend
}

func (d broken) Info() primitives.DriverInfo {
	if d.info == nil {
		return d.Driver.Info()
	}
	return d.info(d.Driver.Info())
}

func (d broken) Validate(ctx context.Context, c primitives.Change) []primitives.Problem {
	if d.validate == nil {
		return d.Driver.Validate(ctx, c)
	}
	return d.validate(c)
}

func (d broken) Open(ctx context.Context, o primitives.OpenRequest) (primitives.Backend, error) {
	b, err := d.Driver.Open(ctx, o)
	if err != nil || d.wrap == nil {
		return b, err
	}
	return d.wrap(b), nil
}

// backend replaces single methods.
type backend struct {
	primitives.Backend
	describe func(context.Context) (primitives.Description, error)
	clone    func(context.Context) (primitives.Object, error)
	read     func(primitives.Reader) primitives.Reader
	delta    primitives.DeltaReader
}

func (b backend) Describe(ctx context.Context) (primitives.Description, error) {
	if b.describe == nil {
		return b.Backend.Describe(ctx)
	}
	return b.describe(ctx)
}

func (b backend) Clone(ctx context.Context, src, dst primitives.URI, r primitives.CloneRequest) (primitives.Object, error) {
	if b.clone == nil {
		return b.Backend.Clone(ctx, src, dst, r)
	}
	return b.clone(ctx)
}

func (b backend) Read(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
	r, err := b.Backend.Read(ctx, u, op)
	if err != nil || b.read == nil {
		return r, err
	}
	return b.read(r), nil
}

func (b backend) Facets() primitives.Facets {
	f := b.Backend.Facets()
	if b.delta != nil {
		f.Delta = b.delta
	}
	return f
}

// request opens store "one" as device dev.
func request(props primitives.Props) primitives.OpenRequest {
	all := primitives.Props{"store": "one", "facets": "snapshots,resize,delta,fence"}
	for k, v := range props {
		all[k] = v
	}
	return primitives.OpenRequest{Name: "dev", Props: all, Host: primitives.HostInfo{ID: "host", BootID: "boot"}}
}

func open(t *testing.T, d primitives.Driver, props primitives.Props, o storage.Options) *storage.Device {
	t.Helper()
	dev, err := storage.Open(t.Context(), d, request(props), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	return dev
}

func vol(name string) primitives.URI { return primitives.URI{Device: "dev", Volume: name} }

func create(t *testing.T, d primitives.Backend, u primitives.URI, size int64, at map[int64][]byte) primitives.Object {
	t.Helper()
	w, err := d.Write(t.Context(), u, primitives.WriteRequest{Create: true, Size: size})
	if err != nil {
		t.Fatal(err)
	}
	for off, p := range at {
		if _, err := w.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	o, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// pattern depends on the position, so that moved bytes are seen.
func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i) ^ byte(i>>8)*3 ^ byte(i>>16)*7 ^ seed | 1
	}
	return p
}

func content(t *testing.T, d primitives.Backend, u primitives.URI) []byte {
	t.Helper()
	r, err := d.Read(t.Context(), u, primitives.Op{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantContent(t *testing.T, d primitives.Backend, u primitives.URI, want []byte) {
	t.Helper()
	if got := content(t, d, u); !bytes.Equal(got, want) {
		t.Errorf("content of %s (%d bytes) differs from what is expected (%d bytes)", u.Short(), len(got), len(want))
	}
}

// wantCode checks the code and that the error is the contract's.
func wantCode(t *testing.T, what string, err error, want primitives.Code) *primitives.Error {
	t.Helper()
	e, ok := errors.AsType[*primitives.Error](err)
	if !ok || e.Code != want {
		t.Fatalf("%s = %v, want %v", what, err, want)
	}
	return e
}

func wantBlocker(t *testing.T, e *primitives.Error, want primitives.Blocker) {
	t.Helper()
	if !slices.Contains(e.Blocked, want) {
		t.Errorf("blockers = %v, want %v among them", e.Blocked, want)
	}
}
