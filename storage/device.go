// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// Defaults of Options.
const (
	DefaultCallTimeout  = time.Minute
	DefaultStallTimeout = 15 * time.Minute
	DefaultLockWait     = 2 * time.Second
	DefaultRemember     = 1024
)

// Options say how a Device treats its backend. The zero value is right for most.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
	// CallTimeout bounds calls whose context has no deadline.
	CallTimeout time.Duration
	// StallTimeout bounds, in their stead, calls that move bytes: clone, copyTo,
	// commit, destroy, resize, revert and import. Each report of progress begins
	// it anew, because a fixed limit for these is always too short for somebody.
	StallTimeout time.Duration
	// LockWait is how long a call waits for others on the same object, at most,
	// before it answers CodeConflict.
	LockWait time.Duration
	// Remember is how many ended requests are kept for repeats.
	Remember int
	// Persisted says that the properties passed Validate before they were
	// persisted. The driver's own Validate is then not asked again, so that a
	// backend which is away today is CodeUnavailable and no mistake in the
	// properties. The schema is checked in any case.
	Persisted bool
}

func (o Options) withDefaults() Options {
	o.CallTimeout = cmp.Or(o.CallTimeout, DefaultCallTimeout)
	o.StallTimeout = cmp.Or(o.StallTimeout, DefaultStallTimeout)
	o.LockWait = cmp.Or(o.LockWait, DefaultLockWait)
	o.Remember = cmp.Or(o.Remember, DefaultRemember)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Device is one opened storage device. It is safe for concurrent use. It is a
// primitives.Backend whose methods keep the contract even where the driver does
// not: see the package's documentation.
type Device struct {
	name    string
	driver  primitives.DriverInfo
	backend primitives.Backend
	facets  primitives.Facets
	options Options
	locks   locks
	replays *replays
	stats   stats
	mapped  mapped

	life context.Context // ends at Close; no request's context
	end  context.CancelCauseFunc

	mu      sync.Mutex              // guards everything below
	props   primitives.Props        // given, normalised
	secrets primitives.Secrets      // of the device
	traits  *primitives.Description // the last one; nil before the first
	closed  bool
	calls   sync.WaitGroup // driver's methods that run; Add only while not closed
}

var _ primitives.Backend = (*Device)(nil)

// Open checks the properties and opens the device. It returns within ctx and
// Options.CallTimeout, even if the driver does not. The codes: CodeInvalid with
// every mistake in name or properties, CodeUnsupported for a driver of another
// contract, and what the driver answers, such as CodeUnavailable or CodeDenied.
func Open(ctx context.Context, driver primitives.Driver, r primitives.OpenRequest, o Options) (*Device, error) {
	uri := primitives.URI{Device: r.Name}
	d, err := open(ctx, driver, r, o.withDefaults())
	if err != nil {
		return nil, classify("open", uri, err)
	}
	return d, nil
}

func open(ctx context.Context, driver primitives.Driver, r primitives.OpenRequest, o Options) (*Device, error) {
	info := driver.Info()
	if err := usable(info); err != nil {
		return nil, fmt.Errorf("driver %s: %w", info.Name, err)
	}
	if err := primitives.CheckDeviceName(r.Name); err != nil {
		return nil, err
	}
	given, err := checkedProps(ctx, driver, r, o)
	if err != nil {
		return nil, err
	}
	d := &Device{name: r.Name, driver: info, options: o, replays: newReplays(o.Remember), props: given, secrets: r.Secrets}
	d.life, d.end = context.WithCancelCause(context.Background())
	r.Props = Effective(info.Schema, primitives.ScopeDevice, nil, given)
	d.backend, err = openBackend(ctx, d, func(ctx context.Context) (primitives.Backend, error) {
		b, err := driver.Open(ctx, r)
		if err == nil && b == nil {
			err = errors.New("the driver opened nothing")
		}
		return b, err
	})
	if err != nil {
		d.end(errClosed)
		return nil, err
	}
	offered, err := protected(func() (primitives.Facets, error) { return d.backend.Facets(), nil })
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.facets = d.wrapFacets(offered)
	return d, nil
}

// openBackend opens a backend; one that comes too late is closed.
func openBackend(ctx context.Context, d *Device, open func(context.Context) (primitives.Backend, error)) (primitives.Backend, error) {
	c := call{name: "open", uri: primitives.URI{Device: d.name}}
	b, l, err := hold(ctx, d, c, func(ctx context.Context, _ primitives.Op) (primitives.Backend, error) { return open(ctx) },
		func(late primitives.Backend) error { return late.Close() })
	if l != nil {
		l.end(d, nil, nil)
	}
	return b, err
}

func checkedProps(ctx context.Context, driver primitives.Driver, r primitives.OpenRequest, o Options) (primitives.Props, error) {
	change := primitives.Change{Scope: primitives.ScopeDevice, Subject: primitives.URI{Device: r.Name}, New: r.Props, Secrets: r.Secrets}
	if !o.Persisted {
		ctx, cancel := context.WithTimeoutCause(ctx, o.CallTimeout, errTimeout)
		defer cancel()
		v, err := Validate(ctx, driver, change)
		return v.Props, err
	}
	props, problems := Check(driver.Info().Schema, change)
	if refuse, _ := fatal(problems); len(refuse) > 0 {
		return nil, &primitives.Error{Code: primitives.CodeInvalid, Problems: refuse}
	}
	return props, nil
}

// Name returns the device's name.
func (d *Device) Name() string { return d.name }

// Driver describes the device's driver.
func (d *Device) Driver() primitives.DriverInfo { return d.driver }

// Props returns the properties as given, normalised and without defaults.
func (d *Device) Props() primitives.Props {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.props.Clone()
}

// Stats returns what the calls so far took, by call and outcome.
func (d *Device) Stats() []CallStats { return d.stats.all() }

// Busy returns the calls that hold an object now, and the Readers and Writers
// that are open, the oldest first. A call whose caller gave up stays here until
// the driver returns from it.
func (d *Device) Busy() []Running { return d.locks.running() }

// Update changes the properties of the open device. Only those that the schema
// calls mutable online can change; for others the answer is CodeUnsupported and
// the device must be opened again. Later calls carry the new ones. New and
// Secrets hold what changes, Removed what goes; Old is ignored. It does not ask
// Driver.Validate.
func (d *Device) Update(c primitives.Change) error {
	err := d.update(c)
	return classify("update", primitives.URI{Device: d.name}, err)
}

func (d *Device) update(c primitives.Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Scope, c.Subject, c.Old = primitives.ScopeDevice, primitives.URI{Device: d.name}, d.props
	if c.Old == nil {
		c.Old = primitives.Props{}
	}
	c.Secrets = withoutSecrets(mergedSecrets(d.secrets, c.Secrets), c.Removed)
	next, problems := Check(d.driver.Schema, c)
	if refuse, _ := fatal(problems); len(refuse) > 0 {
		return &primitives.Error{Code: primitives.CodeInvalid, Problems: refuse}
	}
	specs := specsOf(d.driver.Schema, primitives.ScopeDevice)
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		spec := specs[name]
		if !spec.Secret && spec.Mutable != primitives.MutableOnline && orDefault(spec, d.props) != orDefault(spec, next) {
			return primitives.Errorf(primitives.CodeUnsupported, "%s cannot change while the device is open", name)
		}
	}
	d.props, d.secrets = next, c.Secrets
	return nil
}

// enter counts a call in, unless the device is closed.
func (d *Device) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.calls.Add(1)
	}
	return !d.closed
}

// usable reports why no call can begin now.
func (d *Device) usable(ctx context.Context) error {
	if d.life.Err() != nil {
		return errClosed
	}
	return ended(ctx)
}

// Close ends the use of the device: calls under way end with CodeUnavailable,
// open Writers become Incomplete at the next Open, mappings stay. It waits a
// moment for calls to return and gives up on a driver that hangs. A repeat does
// nothing.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	d.end(errClosed)

	closed := make(chan error, 1)
	go func() {
		waited := make(chan struct{})
		go func() { d.calls.Wait(); close(waited) }()
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-waited:
		case <-t.C:
		}
		_, err := protected(func() (struct{}, error) { return struct{}{}, d.backend.Close() })
		closed <- err
	}()
	t := time.NewTimer(d.options.CallTimeout)
	defer t.Stop()
	select {
	case err := <-closed:
		return classify("close", primitives.URI{Device: d.name}, err)
	case <-t.C:
		return classify("close", primitives.URI{Device: d.name}, errTimeout)
	}
}

// effectiveOp gives the driver what holds for this call. Properties and secrets
// that are not for such a call are refused; the device's own, repeated, are let
// pass.
func (d *Device) effectiveOp(c call) (primitives.Op, error) {
	d.mu.Lock()
	device, secrets := d.props, d.secrets
	d.mu.Unlock()
	effective := Effective(d.driver.Schema, primitives.ScopeDevice, nil, device)
	own := primitives.Props{}
	onCall := specsOf(d.driver.Schema, c.scope|primitives.ScopeOp)
	for name, value := range c.op.Props {
		if _, ok := onCall[name]; !ok && value == effective[name] {
			continue
		}
		own[name] = value
	}
	scope := c.scope | primitives.ScopeOp
	c.op.Secrets = newSecrets(secrets, c.op.Secrets)
	if c.scope != 0 || len(own) > 0 || len(c.op.Secrets.Names()) > 0 {
		inherit(d.driver.Schema, c.scope, device, own)
		props, problems := Check(d.driver.Schema, primitives.Change{Scope: scope, Subject: c.uri, New: own, Secrets: c.op.Secrets})
		if refuse, _ := fatal(problems); len(refuse) > 0 {
			return primitives.Op{}, &primitives.Error{Code: primitives.CodeInvalid, Problems: refuse}
		}
		own = props
	}
	op := c.op
	op.Props = Effective(d.driver.Schema, scope, device, own)
	op.Secrets = mergedSecrets(secrets, c.op.Secrets)
	return op, nil
}
