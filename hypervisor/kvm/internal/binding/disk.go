// SPDX-License-Identifier: Apache-2.0

package binding

import (
	"errors"

	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

func affects(half virt.Half) libvirt.DomainDeviceModifyFlags {
	if half == virt.Config {
		return libvirt.DOMAIN_DEVICE_MODIFY_CONFIG
	}
	return libvirt.DOMAIN_DEVICE_MODIFY_LIVE
}

// AttachDevice adds a device.
func (v *Conn) AttachDevice(domain, xml string, half virt.Half) error {
	return v.with(domain, func(d *libvirt.Domain) error { return d.AttachDeviceFlags(xml, affects(half)) })
}

// DetachDevice asks for a device's removal. The call by alias does not wait for
// the guest, unlike the one by XML, which does for 5 s and then reports success.
func (v *Conn) DetachDevice(domain, alias string, half virt.Half) error {
	return v.with(domain, func(d *libvirt.Domain) error { return d.DetachDeviceAlias(alias, affects(half)) })
}

// UpdateDevice changes a device.
func (v *Conn) UpdateDevice(domain, xml string, half virt.Half) error {
	return v.with(domain, func(d *libvirt.Domain) error { return d.UpdateDeviceFlags(xml, affects(half)) })
}

// BlockCapacity returns the size that the running domain sees.
func (v *Conn) BlockCapacity(domain, target string) (int64, error) {
	var size int64
	err := v.with(domain, func(d *libvirt.Domain) error {
		info, err := d.GetBlockInfo(target, 0)
		if err == nil {
			size = int64(info.Capacity)
		}
		return err
	})
	return size, err
}

// BlockResize tells the running domain a disk's size in bytes.
func (v *Conn) BlockResize(domain, target string, size int64) error {
	return v.with(domain, func(d *libvirt.Domain) error {
		return d.BlockResize(target, uint64(size), libvirt.DOMAIN_BLOCK_RESIZE_BYTES)
	})
}

// SnapshotCreate makes a snapshot of disks.
func (v *Conn) SnapshotCreate(domain, xml string, flags virt.SnapshotFlags) error {
	f := libvirt.DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.DOMAIN_SNAPSHOT_CREATE_ATOMIC
	if flags.NoMetadata {
		f |= libvirt.DOMAIN_SNAPSHOT_CREATE_NO_METADATA
	}
	if flags.ReuseExternal {
		f |= libvirt.DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
	}
	return v.with(domain, func(d *libvirt.Domain) error {
		s, err := d.CreateSnapshotXML(xml, f)
		if err != nil {
			return err
		}
		return s.Free()
	})
}

// Snapshots returns the XML of each snapshot.
func (v *Conn) Snapshots(domain string) ([]string, error) {
	var out []string
	err := v.with(domain, func(d *libvirt.Domain) error {
		all, err := d.ListAllSnapshots(0)
		if err != nil {
			return err
		}
		var errs []error
		for i := range all {
			text, err := all[i].GetXMLDesc(0)
			out = append(out, text)
			errs = append(errs, err, all[i].Free())
		}
		return errors.Join(errs...)
	})
	return out, err
}

// SnapshotForget removes a snapshot's metadata.
func (v *Conn) SnapshotForget(domain, name string) error {
	return v.with(domain, func(d *libvirt.Domain) error {
		s, err := d.SnapshotLookupByName(name, 0)
		if err != nil {
			return err
		}
		return errors.Join(s.Delete(libvirt.DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY), s.Free())
	})
}

// BlockCommit begins to merge the top layer into the one below.
func (v *Conn) BlockCommit(domain, target string) error {
	return v.with(domain, func(d *libvirt.Domain) error {
		return d.BlockCommit(target, "", "", 0, libvirt.DOMAIN_BLOCK_COMMIT_ACTIVE|libvirt.DOMAIN_BLOCK_COMMIT_SHALLOW)
	})
}

// BlockJobPivot ends a ready job with its result.
func (v *Conn) BlockJobPivot(domain, target string) error {
	return v.with(domain, func(d *libvirt.Domain) error {
		return d.BlockJobAbort(target, libvirt.DOMAIN_BLOCK_JOB_ABORT_PIVOT)
	})
}

// BlockCopy begins to copy a disk. A job that does not outlive the domain is the
// only one that libvirt allows for a domain with a definition.
func (v *Conn) BlockCopy(domain, target, xml string, o virt.CopyOptions) error {
	flags := libvirt.DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.DOMAIN_BLOCK_COPY_TRANSIENT_JOB
	if o.Synchronous {
		flags |= libvirt.DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
	}
	params := libvirt.DomainBlockCopyParameters{BandwidthSet: o.Bandwidth > 0, Bandwidth: o.Bandwidth}
	return v.with(domain, func(d *libvirt.Domain) error { return d.BlockCopy(target, xml, &params, flags) })
}

// BlockJob tells of the job on a disk.
func (v *Conn) BlockJob(domain, target string) (virt.Job, error) {
	var out virt.Job
	err := v.with(domain, func(d *libvirt.Domain) error {
		info, err := d.GetBlockJobInfo(target, libvirt.DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
		if err == nil {
			out = virt.Job{Copy: info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_COPY, Done: int64(info.Cur), Total: int64(info.End)}
		}
		return err
	})
	return out, err
}

// BlockJobSwitch asks for the end of a ready job with its result. libvirt would
// otherwise let nobody change the domain until it has ended.
func (v *Conn) BlockJobSwitch(domain, target string) error {
	return v.with(domain, func(d *libvirt.Domain) error {
		return d.BlockJobAbort(target, libvirt.DOMAIN_BLOCK_JOB_ABORT_PIVOT|libvirt.DOMAIN_BLOCK_JOB_ABORT_ASYNC)
	})
}

// BlockJobCancel asks for the end of a job without its result.
func (v *Conn) BlockJobCancel(domain, target string) error {
	return v.with(domain, func(d *libvirt.Domain) error {
		return d.BlockJobAbort(target, libvirt.DOMAIN_BLOCK_JOB_ABORT_ASYNC)
	})
}
