// SPDX-License-Identifier: Apache-2.0

// Package binding puts libvirt's own Go binding behind [virt.Conn]. It decides
// nothing. Built with the tag libvirt_dlopen it needs no libvirt to build or to
// start; Open then fails on a host that has none.
package binding

import (
	"errors"
	"fmt"
	"sync"

	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// startLoop registers and runs libvirt's event loop. libvirt has one per
// process, which must run before the first connection is made and has no end;
// hence the one package variable and the one goroutine that is never waited for.
var startLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return translate(err)
	}
	go func() {
		for {
			// It fails only when there is no loop, and then at once.
			if err := libvirt.EventRunDefaultImpl(); err != nil {
				return
			}
		}
	}()
	return nil
})

// Keepalive: a daemon that does not answer for so long is lost.
const (
	keepaliveSeconds = 5
	keepaliveMissed  = 5
)

// Conn is a libvirt connection.
type Conn struct {
	c        *libvirt.Connect
	uri      string
	lost     chan struct{}
	loseOnce sync.Once

	mu        sync.Mutex // guards what follows
	callbacks []int
	monitors  []int                      // callbacks of QEMU's own events
	handles   map[string]*libvirt.Domain // by UUID; nil once closed
}

// Open connects to uri.
func Open(uri string) (virt.Conn, error) {
	if err := startLoop(); err != nil {
		return nil, err
	}
	c, err := libvirt.NewConnect(uri)
	if err != nil {
		return nil, translate(err)
	}
	conn := &Conn{c: c, uri: uri, lost: make(chan struct{}), handles: map[string]*libvirt.Domain{}}
	lost := func(*libvirt.Connect, libvirt.ConnectCloseReason) {
		conn.loseOnce.Do(func() { close(conn.lost) })
	}
	if err := c.RegisterCloseCallback(lost); err != nil && !unsupported(err) {
		return nil, errors.Join(translate(err), conn.Close())
	}
	// The embedded driver has no wire to keep alive.
	if err := c.SetKeepAlive(keepaliveSeconds, keepaliveMissed); err != nil && !unsupported(err) {
		return nil, errors.Join(translate(err), conn.Close())
	}
	return conn, nil
}

// Lost is closed when libvirt has said that the connection is dead, and by Close.
func (v *Conn) Lost() <-chan struct{} { return v.lost }

// Close ends the connection and its events.
func (v *Conn) Close() error {
	v.loseOnce.Do(func() { close(v.lost) })
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, id := range v.callbacks {
		errs = append(errs, translate(v.c.DomainEventDeregister(id)))
	}
	for _, id := range v.monitors {
		errs = append(errs, translate(v.c.DomainQemuEventDeregister(id)))
	}
	v.callbacks, v.monitors = nil, nil
	// Each holds a reference to the connection, which would stay open.
	for _, d := range v.handles {
		errs = append(errs, translate(d.Free()))
	}
	v.handles = nil
	if err := v.c.UnregisterCloseCallback(); err != nil && !unsupported(err) {
		errs = append(errs, translate(err))
	}
	_, err := v.c.Close()
	return errors.Join(append(errs, translate(err))...)
}

// Library names libvirt.
func (v *Conn) Library() (string, error) {
	n, err := v.c.GetLibVersion()
	return "libvirt " + version(n), translate(err)
}

// Hypervisor names QEMU.
func (v *Conn) Hypervisor() (string, error) {
	n, err := v.c.GetVersion()
	return "QEMU " + version(n), translate(err)
}

// version prints libvirt's way to put three numbers into one.
func version(n uint32) string { return fmt.Sprintf("%d.%d.%d", n/1000000, n/1000%1000, n%1000) }

// with runs fn on a domain. Looking a domain up is a call to libvirt of its own,
// half of those that an attach would make, so its handle is kept: it names the
// domain by its UUID and stays right whatever becomes of the domain.
func (v *Conn) with(uuid string, fn func(*libvirt.Domain) error) error {
	d, err := v.handle(uuid)
	if err != nil {
		return translate(err)
	}
	err = translate(fn(d))
	if e, ok := errors.AsType[*virt.Error](err); ok && e.Code == virt.CodeNoDomain {
		err = errors.Join(err, v.forget(uuid))
	}
	return errors.Join(err, translate(d.Free()))
}

// handle returns a reference to a domain, which the caller frees.
func (v *Conn) handle(uuid string) (*libvirt.Domain, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if d := v.handles[uuid]; d != nil {
		return d, d.Ref()
	}
	v.mu.Unlock() // libvirt may hang in a look-up
	d, err := v.c.LookupDomainByUUIDString(uuid)
	v.mu.Lock()
	if err != nil || v.handles == nil || v.handles[uuid] != nil {
		return d, err
	}
	if err := d.Ref(); err != nil {
		return nil, errors.Join(err, d.Free())
	}
	v.handles[uuid] = d
	return d, nil
}

func (v *Conn) forget(uuid string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.handles[uuid]
	if d == nil {
		return nil
	}
	delete(v.handles, uuid)
	return translate(d.Free())
}

// keep replaces the kept handle of a domain by one whose name is fresh. It takes
// the reference over.
func (v *Conn) keep(uuid string, d *libvirt.Domain) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.handles[uuid]
	if v.handles == nil { // closed meanwhile
		old = d
	} else {
		v.handles[uuid] = d
	}
	if old == nil {
		return nil
	}
	return translate(old.Free())
}

// keepOnly replaces the kept handles by those of a listing, whose names are
// fresh. It takes the references over.
func (v *Conn) keepOnly(listed map[string]*libvirt.Domain) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.handles
	if old == nil { // closed meanwhile
		old = listed
	} else {
		v.handles = listed
	}
	var errs []error
	for _, d := range old {
		errs = append(errs, translate(d.Free()))
	}
	return errors.Join(errs...)
}

// translate turns libvirt's error into a virt.Error.
func translate(err error) error {
	if err == nil {
		return nil
	}
	var e libvirt.Error
	if !errors.As(err, &e) {
		return err
	}
	return &virt.Error{
		Code:   virt.Code(e.Code),
		Remote: e.Domain == libvirt.FROM_RPC || e.Domain == libvirt.FROM_REMOTE,
		Text:   e.Message,
	}
}

func unsupported(err error) bool {
	e, ok := errors.AsType[libvirt.Error](err)
	return ok && (e.Code == libvirt.ERR_NO_SUPPORT || e.Code == libvirt.ERR_OPERATION_UNSUPPORTED)
}
