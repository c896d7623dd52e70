// SPDX-License-Identifier: Apache-2.0

package binding

import (
	"encoding/json"
	"errors"
	"fmt"

	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// Domains lists running and defined domains.
func (v *Conn) Domains() ([]virt.Domain, error) {
	all, err := v.c.ListAllDomains(0)
	if err != nil {
		return nil, translate(err)
	}
	var out []virt.Domain
	var errs []error
	listed := make(map[string]*libvirt.Domain, len(all))
	for i := range all {
		d, err := describe(&all[i])
		if err == nil {
			out = append(out, d)
			listed[d.UUID] = &all[i]
			continue
		}
		if e, ok := errors.AsType[libvirt.Error](err); ok && e.Code == libvirt.ERR_NO_DOMAIN {
			err = nil // it went while the list was read
		}
		errs = append(errs, translate(err), translate(all[i].Free()))
	}
	return out, errors.Join(append(errs, v.keepOnly(listed))...)
}

// ByName looks a domain up.
func (v *Conn) ByName(name string) (virt.Domain, error) {
	return v.found(v.c.LookupDomainByName(name))
}

// found describes a domain that was looked up, and keeps its handle.
func (v *Conn) found(d *libvirt.Domain, err error) (virt.Domain, error) {
	if err != nil {
		return virt.Domain{}, translate(err)
	}
	out, err := describe(d)
	if err != nil {
		return virt.Domain{}, errors.Join(translate(err), translate(d.Free()))
	}
	return out, v.keep(out.UUID, d)
}

// State returns one domain's state.
func (v *Conn) State(domain string) (virt.Domain, error) {
	var out virt.Domain
	err := v.with(domain, func(d *libvirt.Domain) (err error) {
		out, err = describe(d)
		return err
	})
	return out, err
}

// describe makes two calls to libvirt: UUID and name are in the handle.
func describe(d *libvirt.Domain) (virt.Domain, error) {
	uuid, err := d.GetUUIDString()
	if err != nil {
		return virt.Domain{}, err
	}
	name, err := d.GetName()
	if err != nil {
		return virt.Domain{}, err
	}
	persistent, err := d.IsPersistent()
	if err != nil {
		return virt.Domain{}, err
	}
	state, reason, err := d.GetState()
	if err != nil {
		return virt.Domain{}, err
	}
	run, why := runOf(state, reason)
	return virt.Domain{UUID: uuid, Name: name, Run: run, Reason: why, Persistent: persistent}, nil
}

// pauses are the reasons of a pause that somebody may have to act on.
var pauses = map[libvirt.DomainPausedReason]string{
	libvirt.DOMAIN_PAUSED_USER:            "user",
	libvirt.DOMAIN_PAUSED_MIGRATION:       "migration",
	libvirt.DOMAIN_PAUSED_SAVE:            "save",
	libvirt.DOMAIN_PAUSED_DUMP:            "dump",
	libvirt.DOMAIN_PAUSED_IOERROR:         "ioerror",
	libvirt.DOMAIN_PAUSED_WATCHDOG:        "watchdog",
	libvirt.DOMAIN_PAUSED_FROM_SNAPSHOT:   "snapshot",
	libvirt.DOMAIN_PAUSED_SHUTTING_DOWN:   "shutting down",
	libvirt.DOMAIN_PAUSED_SNAPSHOT:        "snapshot",
	libvirt.DOMAIN_PAUSED_CRASHED:         "crashed",
	libvirt.DOMAIN_PAUSED_STARTING_UP:     "starting up",
	libvirt.DOMAIN_PAUSED_POSTCOPY:        "post-copy",
	libvirt.DOMAIN_PAUSED_POSTCOPY_FAILED: "post-copy failed",
}

func runOf(state libvirt.DomainState, reason int) (virt.Run, string) {
	switch state {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED:
		return virt.Running, ""
	case libvirt.DOMAIN_PAUSED:
		return virt.Paused, pauses[libvirt.DomainPausedReason(reason)]
	case libvirt.DOMAIN_PMSUSPENDED:
		return virt.Paused, "suspended by the guest"
	case libvirt.DOMAIN_CRASHED:
		return virt.Crashed, ""
	case libvirt.DOMAIN_SHUTDOWN:
		return virt.ShuttingDown, ""
	}
	return virt.Off, ""
}

// XML returns one half of a domain.
func (v *Conn) XML(domain string, half virt.Half) (string, error) {
	var flags libvirt.DomainXMLFlags
	if half == virt.Config {
		flags = libvirt.DOMAIN_XML_INACTIVE
	}
	var out string
	err := v.with(domain, func(d *libvirt.Domain) (err error) {
		out, err = d.GetXMLDesc(flags)
		return err
	})
	return out, err
}

// Occupied tells how long the monitor has been busy, in milliseconds.
func (v *Conn) Occupied(domain string) (uint64, error) {
	var busy uint64
	err := v.with(domain, func(d *libvirt.Domain) error {
		info, err := d.GetControlInfo(0)
		if err == nil && info.State != libvirt.DOMAIN_CONTROL_OK {
			busy = info.StateTime
		}
		return err
	})
	return busy, err
}

// Start starts a defined domain.
func (v *Conn) Start(domain string) error {
	return v.with(domain, func(d *libvirt.Domain) error { return d.Create() })
}

// Shutdown asks the guest to power off.
func (v *Conn) Shutdown(domain string) error {
	return v.with(domain, func(d *libvirt.Domain) error { return d.Shutdown() })
}

// Suspend stops a domain's processors.
func (v *Conn) Suspend(domain string) error {
	return v.with(domain, func(d *libvirt.Domain) error { return d.Suspend() })
}

// Resume lets a domain's processors go on.
func (v *Conn) Resume(domain string) error {
	return v.with(domain, func(d *libvirt.Domain) error { return d.Resume() })
}

// Freeze freezes the guest's file systems.
func (v *Conn) Freeze(domain string, seconds int) (int, error) {
	return v.agent(domain, "guest-fsfreeze-freeze", seconds)
}

// Thaw thaws the guest's file systems.
func (v *Conn) Thaw(domain string, seconds int) (int, error) {
	return v.agent(domain, "guest-fsfreeze-thaw", seconds)
}

// agent asks the guest agent something that it answers with a number.
// virDomainFSFreeze would do, but the binding drops the number and only the
// domain as a whole has a timeout there, which others may have set.
func (v *Conn) agent(domain, command string, seconds int) (int, error) {
	request, err := json.Marshal(map[string]string{"execute": command})
	if err != nil {
		return 0, err
	}
	var text string
	err = v.with(domain, func(d *libvirt.Domain) (err error) {
		text, err = d.QemuAgentCommand(string(request), libvirt.DomainQemuAgentCommandTimeout(seconds), 0)
		return err
	})
	if err != nil {
		return 0, err
	}
	var reply struct{ Return *int }
	if err := json.Unmarshal([]byte(text), &reply); err != nil || reply.Return == nil {
		return 0, fmt.Errorf("the guest agent answered %s with %.80q", command, text)
	}
	return *reply.Return, nil
}
