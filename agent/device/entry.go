// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

const (
	firstRetry   = time.Second // after a failed open; doubles
	longestRetry = time.Minute
	lookEvery    = 30 * time.Second // at an open device
)

// entry is one configured device. The registry's mutex guards its fields; turn
// lets one goroutine at a time open or ask the device.
type entry struct {
	turn  chan struct{}
	tried chan struct{} // closed after the first attempt to open it
	first sync.Once     // closes tried
	stop  context.CancelFunc

	record      journal.Device
	secrets     []string
	device      *storage.Device // nil while not open
	failure     error           // of the last attempt to open it
	description primitives.Description
	described   bool
	retryAt     time.Time
	gone        bool // removed: never to be opened again
	shut        bool // closed for service: opened by nobody but the methods of fence.go
}

func newEntry(d journal.Device) *entry {
	return &entry{record: d, turn: make(chan struct{}, 1), tried: make(chan struct{}), stop: func() {}}
}

func (e *entry) attempted() { e.first.Do(func() { close(e.tried) }) }

// unavailable says why the device is not open.
func (e *entry) unavailable() error {
	u := primitives.URI{Device: e.record.Name}
	if e.failure == nil {
		return primitives.Errorf(primitives.CodeUnavailable, "the device is being opened").On(u).Trying("repeat the request in a moment")
	}
	err := &primitives.Error{Code: primitives.CodeUnavailable, URI: u, Err: e.failure}
	if cause, ok := errors.AsType[*primitives.Error](e.failure); ok {
		err.Try = cause.Try
	}
	return err
}

func (e *entry) status(r *Registry, uses int) Status {
	s := Status{
		Name: e.record.Name, Driver: e.record.Driver, Props: e.record.Props.Clone(), Secrets: e.secrets,
		Description: e.description, Described: e.described, Uses: uses,
		Added: e.record.Added, Updated: e.record.Updated,
	}
	switch {
	case e.shut:
		s.State = Fenced
	case e.device != nil:
		s.State = Open
	case e.failure != nil:
		s.State, s.Failure, s.RetryAt = Unreachable, operation.FailureOf(e.failure), e.retryAt
	default:
		s.State = Opening
	}
	return s
}

// keep starts the keeper of an entry: it opens the device, tries again with
// growing pauses while that fails, and looks at it now and then.
func (r *Registry) keep(e *entry) {
	ctx, stop := context.WithCancel(r.ctx)
	e.stop = stop
	r.work.Go(func() {
		defer stop()
		defer e.attempted()
		retry := firstRetry
		for ctx.Err() == nil {
			pause := lookEvery
			if !r.lookWithin(ctx, e) {
				pause, retry = retry, min(2*retry, longestRetry)
				r.mu.Lock()
				e.retryAt = time.Now().Add(pause)
				r.mu.Unlock()
			} else {
				retry = firstRetry
			}
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		}
	})
}

func (r *Registry) lookWithin(ctx context.Context, e *entry) bool {
	ctx, cancel := context.WithTimeout(ctx, r.options.OpenTime)
	defer cancel()
	return r.look(ctx, e)
}

// look opens the device if it is not open or does not answer, and asks how it
// is. It reports whether the device is open.
func (r *Registry) look(ctx context.Context, e *entry) bool {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return false
	}
	r.mu.Lock()
	d, record, gone, shut := e.device, e.record, e.gone, e.shut
	r.mu.Unlock()
	if gone {
		return false
	}
	if shut {
		e.attempted()
		return true // its maintenance opens it again
	}
	if d != nil && r.describe(ctx, e, d) {
		return true
	}
	opened, err := r.open(ctx, record)
	r.mu.Lock()
	defer r.mu.Unlock()
	defer e.attempted() // after its outcome can be seen
	if err == nil && (e.gone || e.shut || !e.record.Updated.Equal(record.Updated)) {
		r.work.Go(func() { r.closeOld(record.Name, opened.device) }) // it changed meanwhile
		return false
	}
	if err != nil && d != nil {
		return true // it may answer again; until then its health tells
	}
	if err != nil {
		if e.failure == nil || e.failure.Error() != err.Error() {
			r.log.WarnContext(ctx, "device is unreachable", "device", record.Name, "err", err)
		}
		e.failure = err
		return false
	}
	r.log.InfoContext(ctx, "device opened", "device", record.Name, "driver", record.Driver, "backend", opened.description.Backend)
	e.device, e.failure, e.secrets = opened.device, nil, opened.secrets
	e.description, e.described = opened.description, opened.described
	if d != nil {
		r.work.Go(func() { r.closeOld(record.Name, d) }) // what it still does gets no answer anyway
	}
	return true
}

func (r *Registry) closeOld(name string, d *storage.Device) {
	if err := d.Close(); err != nil {
		r.log.Warn("device did not close", "device", name, "err", err)
	}
}

// opened is a device that has just been opened, with what it said of itself.
type opened struct {
	device      *storage.Device
	description primitives.Description
	described   bool
	secrets     []string
}

// open opens a device and makes sure that it is the one that was added.
func (r *Registry) open(ctx context.Context, record journal.Device) (opened, error) {
	driver, err := r.drivers.Get(record.Driver)
	if err != nil {
		return opened{}, primitives.Errorf(primitives.CodeUnsupported, "this tenond has no driver %q", record.Driver)
	}
	request, err := r.request(record)
	if err != nil {
		return opened{}, err
	}
	d, err := storage.Open(ctx, driver, request, storage.Options{Log: r.log.With("device", record.Name), Persisted: true})
	if err != nil {
		return opened{}, err
	}
	o := opened{device: d, secrets: request.Secrets.Names()}
	o.description, err = d.Describe(ctx)
	o.described = err == nil
	if o.described && record.Backend != "" && o.description.Backend != record.Backend {
		err := primitives.Errorf(primitives.CodeFenced, "the storage there is %s, but %s was added", o.description.Backend, record.Backend).
			On(primitives.URI{Device: record.Name}).Trying("bring the right storage back, or remove the device and add it anew")
		return opened{}, errors.Join(err, d.Close())
	}
	return o, nil
}

// describe asks an open device how it is, and reports whether it answers. One
// that does not is shown as unreachable by its health, and stays open until it
// can be opened anew: some backends do not survive the loss of a connection.
func (r *Registry) describe(ctx context.Context, e *entry, d *storage.Device) (answers bool) {
	ctx, cancel := context.WithTimeout(ctx, r.options.OpenTime/2) // the rest is for opening it anew
	defer cancel()
	desc, err := d.Describe(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		e.description.Health, e.description.HealthNote = primitives.Unreachable, err.Error()
		e.description.AtTime = time.Now()
		return false
	}
	if e.description.Health != desc.Health {
		r.log.WarnContext(ctx, "device changed its health", "device", e.record.Name, "health", desc.Health, "note", desc.HealthNote)
	}
	e.description, e.described = desc, true
	return true
}
