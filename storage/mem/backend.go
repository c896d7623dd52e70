// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// backend is one opened device: a session with a store.
type backend struct {
	driver *Driver
	s      *store
	cfg    config
	name   string
	host   primitives.HostInfo

	// life ends with the session, so that it releases calls that a fault holds;
	// it is no request's context.
	life context.Context
	end  context.CancelCauseFunc

	readers int // open ones; the store's lock guards it
}

var _ primitives.Backend = (*backend)(nil)

func newBackend(d *Driver, s *store, cfg config, o primitives.OpenRequest) *backend {
	b := &backend{driver: d, s: s, cfg: cfg, name: o.Name, host: o.Host}
	b.life, b.end = context.WithCancelCause(context.Background())
	s.join(b)
	return b
}

func (b *backend) isGone() bool { return b.life.Err() != nil }

// call runs one request under the store's lock, between the faults before and
// after it.
func call[T any](ctx context.Context, b *backend, op string, run func() (T, error)) (T, error) {
	var zero T
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(b.life, func() { cancel(errGone()) })
	defer stop()

	if b.isGone() {
		return zero, errGone()
	}
	if err := b.s.faults.gate(ctx, op, Before); err != nil {
		return zero, err
	}
	b.s.mu.Lock()
	if b.isGone() {
		b.s.mu.Unlock()
		return zero, errGone()
	}
	if b.s.fenced && !passesFence[op] {
		b.s.mu.Unlock()
		return zero, errFenced()
	}
	got, err := run()
	b.s.mu.Unlock()
	if err != nil {
		return zero, err
	}
	// A context that ends now changes nothing: the request is done.
	if err := b.s.faults.gate(context.WithoutCancel(ctx), op, After); err != nil {
		if held, ok := any(got).(interface{ drop() }); ok {
			held.drop()
		}
		return zero, err
	}
	return got, nil
}

// do is call for requests that answer nothing.
func do(ctx context.Context, b *backend, op string, run func() error) error {
	_, err := call(ctx, b, op, func() (struct{}, error) { return struct{}{}, run() })
	return err
}

// mine refuses names of other devices and names that are none.
func (b *backend) mine(us ...primitives.URI) error {
	for _, u := range us {
		if err := u.Check(); err != nil {
			return err
		}
		if u.Device != b.name {
			return primitives.Invalid("uri", "%s is not on device %s", u.Short(), b.name)
		}
		if u.Volume == "" {
			return primitives.Invalid("uri", "%s names no volume", u.Short())
		}
	}
	return nil
}

// Close ends the session.
func (b *backend) Close() error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.end(errGone())
	delete(b.s.sessions, b)
	return nil
}

func (b *backend) Describe(ctx context.Context) (primitives.Description, error) {
	return call(ctx, b, "describe", func() (primitives.Description, error) {
		d := primitives.Description{
			Backend:    b.s.identity,
			Health:     b.s.health,
			HealthNote: b.s.healthNote,
			Caps:       b.cfg.caps(),
			Total:      -1, Free: -1,
			Granule:   b.cfg.granule,
			MaxVolume: maxVolume,
			Fenced:    b.s.fenced,
			AtTime:    time.Now(),
		}
		if b.cfg.capacity > 0 {
			d.Total, d.Free = b.cfg.capacity, max(0, b.cfg.capacity-b.s.space.used)
		}
		return d, nil
	})
}

func (b *backend) Facets() primitives.Facets {
	var f primitives.Facets
	if b.cfg.has("snapshots") {
		f.Snapshots = snapshots{b}
	}
	if b.cfg.has("resize") {
		f.Resize = resizer{b}
	}
	if b.cfg.has("delta") {
		f.Delta = delta{b}
	}
	if b.cfg.has("map") {
		f.Map = mapper{b}
	}
	if b.cfg.has("fence") {
		f.Fence = fencer{b}
	}
	return f
}

func (b *backend) Stat(ctx context.Context, u primitives.URI, _ primitives.Op) (primitives.Object, error) {
	return call(ctx, b, "stat", func() (primitives.Object, error) {
		if err := b.mine(u); err != nil {
			return primitives.Object{}, err
		}
		o, err := b.s.object(u)
		if err != nil {
			return primitives.Object{}, err
		}
		return b.render(u, o), nil
	})
}

// render shows an object to callers.
func (b *backend) render(u primitives.URI, o *object) primitives.Object {
	out := primitives.Object{
		URI: primitives.URI{Device: b.name, Volume: u.Volume, Snapshot: u.Snapshot}, Handle: o.handle,
		Kind: primitives.KindVolume, State: o.state,
		Size: o.c.size, Used: o.c.alone(), Format: primitives.FormatRaw,
		Generation: o.gen, Parent: o.parent, Dependents: len(b.s.needers[o.handle]),
		Created: o.created, Props: o.props.Clone(), Caps: b.cfg.caps(),
	}
	if u.IsSnapshot() {
		out.Kind = primitives.KindSnapshot
		out.Caps.Snapshot, out.Caps.SnapshotGroup = false, false
		out.Caps.SnapshotLive, out.Caps.Revert = primitives.LiveNone, primitives.RevertNone
		out.Caps.ResizeOnline, out.Caps.Shrink = false, false
	}
	if o.state != primitives.Ready {
		caps := primitives.Caps{
			Manageable: true, DelinkFreesName: true, RandomWrite: true,
			DeleteWithSnaps: out.Caps.DeleteWithSnaps, Formats: out.Caps.Formats, Erase: out.Caps.Erase,
		}
		out.Caps = caps
	}
	return out
}

// stored keeps of the effective properties those that belong to a volume.
func stored(p primitives.Props) primitives.Props {
	out := primitives.Props{}
	for _, spec := range schema().Props {
		if v, ok := p[spec.Name]; ok && spec.Scope&primitives.ScopeVolume != 0 {
			out[spec.Name] = v
		}
	}
	return out
}

func (b *backend) Read(ctx context.Context, u primitives.URI, op primitives.Op) (primitives.Reader, error) {
	return call(ctx, b, "read", func() (primitives.Reader, error) {
		if err := b.mine(u); err != nil {
			return nil, err
		}
		o, err := b.s.readable(u)
		if err != nil {
			return nil, err
		}
		if err := o.atGeneration(op.IfGen, u); err != nil {
			return nil, err
		}
		b.readers++
		return &reader{b: b, c: o.c.fork()}, nil
	})
}

// reader reads the bytes as they were when it was opened, whatever happens to
// the object meanwhile.
type reader struct {
	b *backend
	c *content

	mu     sync.RWMutex // guards closed, and c against its release
	closed bool
}

func (r *reader) Size() int64 { return r.c.size }

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.b.s.faults.gate(r.b.life, "read-at", Before); err != nil {
		return 0, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	switch {
	case r.closed:
		return 0, primitives.Errorf(primitives.CodeUnavailable, "the reader is closed")
	case off < 0:
		return 0, primitives.Invalid("offset", "%d is negative", off)
	case off >= r.c.size:
		return 0, io.EOF
	}
	n := min(int64(len(p)), r.c.size-off)
	r.c.readAt(p[:n], off)
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (r *reader) drop() { _ = r.Close() }

func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	r.b.s.mu.Lock()
	defer r.b.s.mu.Unlock()
	r.b.s.space.release(r.c)
	r.b.readers--
	return nil
}
