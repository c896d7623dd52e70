// SPDX-License-Identifier: Apache-2.0

package binding

import (
	"errors"

	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// Listen registers every event that says something about a domain's disks or
// state.
func (v *Conn) Listen(handle func(virt.Event)) error {
	emit := func(d *libvirt.Domain, kind virt.EventKind, device string) {
		uuid, err := d.GetUUIDString() // a local copy: no call to libvirt
		if err != nil {
			kind, uuid, device = virt.Changed, "", ""
		}
		handle(virt.Event{Kind: kind, Domain: uuid, Device: device})
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	add := func(id int, err error) {
		switch {
		case err == nil:
			v.callbacks = append(v.callbacks, id)
		case !unsupported(err): // an older libvirt lacks some; a lost event costs time only
			errs = append(errs, translate(err))
		}
	}
	add(v.c.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventLifecycle) {
		emit(d, virt.Changed, "")
	}))
	add(v.c.DomainEventRebootRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain) {
		emit(d, virt.Changed, "")
	}))
	add(v.c.DomainEventDeviceAddedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDeviceAdded) {
		emit(d, virt.Changed, "")
	}))
	add(v.c.DomainEventDeviceRemovedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventDeviceRemoved) {
		emit(d, virt.DeviceRemoved, e.DevAlias)
	}))
	add(v.c.DomainEventDeviceRemovalFailedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventDeviceRemovalFailed) {
		emit(d, virt.RemovalFailed, e.DevAlias)
	}))
	add(v.c.DomainEventBlockJob2Register(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventBlockJob) {
		emit(d, virt.Changed, "")
	}))
	add(v.c.DomainEventIOErrorReasonRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventIOErrorReason) {
		emit(d, virt.Changed, "")
	}))
	add(v.c.DomainEventAgentLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventAgentLifecycle) {
		emit(d, virt.Changed, "")
	}))
	return errors.Join(errs...)
}
