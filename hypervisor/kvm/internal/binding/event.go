// SPDX-License-Identifier: Apache-2.0

package binding

import (
	"encoding/json"
	"errors"
	"strings"

	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// Listen registers every event that says something about a domain's disks or
// state.
func (v *Conn) Listen(handle func(virt.Event)) error {
	tell := func(d *libvirt.Domain, e virt.Event) {
		uuid, err := d.GetUUIDString() // a local copy: no call to libvirt
		if e.Domain = uuid; err != nil {
			e = virt.Event{Kind: virt.Changed}
		}
		handle(e)
	}
	emit := func(d *libvirt.Domain, kind virt.EventKind, device string) {
		tell(d, virt.Event{Kind: kind, Device: device})
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
	add(v.c.DomainEventBlockJob2Register(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventBlockJob) {
		if e.Status == libvirt.DOMAIN_BLOCK_JOB_FAILED && e.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_COPY {
			emit(d, virt.CopyFailed, e.Disk)
		}
		emit(d, virt.Changed, "")
	}))
	add(v.c.DomainEventIOErrorReasonRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventIOErrorReason) {
		emit(d, virt.Changed, "")
	}))
	add(v.c.DomainEventAgentLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventAgentLifecycle) {
		emit(d, virt.Changed, "")
	}))
	id, err := v.c.DomainQemuMonitorEventRegister(nil, "BLOCK_JOB_COMPLETED",
		func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainQemuMonitorEvent) {
			if target, why := failedCopy(e.Details); why != "" {
				tell(d, virt.Event{Kind: virt.CopyFailed, Device: target, Text: why})
			}
		}, 0)
	switch {
	case err == nil:
		v.monitors = append(v.monitors, id)
	case !unsupported(err):
		errs = append(errs, translate(err))
	}
	return errors.Join(errs...)
}

// failedCopy reads what QEMU says of a job that has ended. libvirt's own event has
// no place for the reason; its name for the job of a copy begins with "copy-TARGET-".
func failedCopy(details string) (target, why string) {
	var job struct{ Device, Error string }
	if json.Unmarshal([]byte(details), &job) != nil {
		return "", ""
	}
	rest, ours := strings.CutPrefix(job.Device, "copy-")
	target, _, more := strings.Cut(rest, "-")
	if !ours || !more {
		return "", ""
	}
	return target, job.Error
}
