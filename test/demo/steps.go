// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tenon-storage/tenon/test/guest"
)

// pattern is how much the guest writes and checks, in MiB.
const pattern = 16

// devices adds two devices and a volume on each.
func (d *demo) devices(ctx context.Context) {
	d.chapter("Two devices on two file systems")
	d.step(ctx, "refuse a misspelt property", func(ctx context.Context) (string, error) {
		_, err := d.ctl(ctx, "device", "add", "fast", "--driver", "dir", "-p", "pth="+d.paths["fast"])
		return refused(err, 2, "pth", "path")
	})
	for _, a := range []struct{ device, kind string }{{"fast", "XFS"}, {"vault", "ext4"}} {
		d.step(ctx, fmt.Sprintf("add device %s: a folder on %s", a.device, a.kind), func(ctx context.Context) (string, error) {
			_, err := d.do(ctx, "device", "add", a.device, "--driver", "dir", "-p", "path="+d.paths[a.device])
			return "", err
		})
	}
	d.step(ctx, "create fast/web01, raw, 96 MiB", func(ctx context.Context) (string, error) {
		op, err := d.do(ctx, "volume", "create", "fast/web01", "--size", "96M", "--format", "raw")
		if err == nil && op.Volume.Size != 96*mib {
			err = fmt.Errorf("it has %d bytes", op.Volume.Size)
		}
		return fmt.Sprintf("%d bytes, of which %d are taken", op.Volume.Size, op.Volume.Used), err
	})
	d.step(ctx, "create vault/db01, qcow2, 64 MiB", func(ctx context.Context) (string, error) {
		_, err := d.do(ctx, "volume", "create", "vault/db01", "--size", "64M", "--format", "qcow2")
		return "", err
	})
}

// attach plugs both volumes into the running guest, which writes to them.
func (d *demo) attach(ctx context.Context) {
	d.chapter("Into the running guest")
	d.step(ctx, "the guest has booted", func(ctx context.Context) (_ string, err error) {
		d.shell, err = guest.Dial(ctx, d.domain.ShellSocket())
		if err != nil {
			return "", err
		}
		return d.inGuest(ctx, "uname -sr")
	})
	for _, a := range []struct {
		uri  string
		into *disk
		size int64
	}{{"fast/web01", &d.web, 96 * mib}, {"vault/db01", &d.db, 64 * mib}} {
		d.step(ctx, "attach "+a.uri, func(ctx context.Context) (string, error) {
			op, err := d.do(ctx, "disk", "attach", a.uri, domainName)
			if err != nil {
				return "", err
			}
			*a.into = op.Disk
			return d.seen(ctx, a.into.ID, a.size)
		})
	}
	d.step(ctx, "the guest makes a file system and a checksummed file", func(ctx context.Context) (string, error) {
		out, err := d.inGuest(ctx, `set -e
mkfs.ext4 -q -F $(disk %[1]s) && mkdir -p /mnt && mount -t ext4 $(disk %[1]s) /mnt
dd if=/dev/urandom of=/mnt/file bs=1M count=%[2]d 2>/dev/null && sync
dd if=/mnt/file of=$(disk %[3]s) bs=1M conv=fsync 2>/dev/null
sha256sum </mnt/file | cut -d' ' -f1`, d.web.ID, pattern, d.db.ID)
		d.before = strings.TrimSpace(out)
		return fmt.Sprintf("%d MiB in a file on one disk and raw on the other, sha256 %.12s…", pattern, d.before), err
	})
}

// seen checks that the guest sees a disk by its serial, with that size.
func (d *demo) seen(ctx context.Context, serial string, size int64) (string, error) {
	got, err := d.inGuest(ctx, "disk-size %s", serial)
	if err == nil && got != fmt.Sprint(size) {
		err = fmt.Errorf("the guest sees %s bytes, not %d", got, size)
	}
	return fmt.Sprintf("the guest sees the disk by its serial %s with %s bytes", serial, got), err
}

// snapshot freezes the guest, snapshots both disks and goes on writing.
func (d *demo) snapshot(ctx context.Context) {
	d.chapter("A snapshot of both disks at one point in time")
	d.step(ctx, "the guest keeps writing in the background", func(ctx context.Context) (string, error) {
		return d.inGuest(ctx, `(i=0; while :; do i=$((i+1)); echo $i >>/mnt/log; dd if=/mnt/log of=$(disk %s) bs=4k seek=8192 conv=fsync 2>/dev/null; done) >/dev/null 2>&1 &`, d.db.ID)
	})
	d.step(ctx, "snapshot create --domain demo --freeze", func(ctx context.Context) (string, error) {
		op, err := d.do(ctx, "snapshot", "create", "fast/web01", "vault/db01", "--name", "before", "--domain", domainName, "--freeze")
		if err != nil {
			return "", err
		}
		s := op.SnapshotSet
		if s.Level != "SNAPSHOT_LEVEL_FROZEN" {
			return "", fmt.Errorf("the guest has an agent, but the level is %s: %s", s.Level, s.Note)
		}
		return fmt.Sprintf("level reached: frozen; the guest's file systems stood still for %s", s.Frozen), nil
	})
	d.step(ctx, "the qcow2 disk was switched to an overlay, live", func(ctx context.Context) (string, error) {
		var l disks
		if err := d.tenond.RunJSON(ctx, &l, "disk", "list", domainName); err != nil {
			return "", err
		}
		for _, k := range l.Disks {
			if k.ID == d.db.ID {
				if k.Source.Path == d.db.Source.Path || k.Source.Path == "" {
					return "", fmt.Errorf("it still writes to %q", k.Source.Path)
				}
				return fmt.Sprintf("it wrote to …%s, now to …%s", tail(d.db.Source.Path), tail(k.Source.Path)), nil
			}
		}
		return "", errors.New("disk list does not show it")
	})
	d.step(ctx, "the guest overwrites its file", func(ctx context.Context) (string, error) {
		out, err := d.inGuest(ctx, `set -e
dd if=/dev/urandom of=/mnt/file bs=1M count=%[1]d conv=notrunc 2>/dev/null && sync
dd if=/mnt/file of=$(disk %[2]s) bs=1M conv=fsync 2>/dev/null
sha256sum </mnt/file | cut -d' ' -f1`, pattern, d.db.ID)
		if err == nil && strings.TrimSpace(out) == d.before {
			err = errors.New("the checksum did not change")
		}
		return fmt.Sprintf("now sha256 %.12s…, then %.12s…", out, d.before), err
	})
	d.step(ctx, "the qcow2 snapshot holds what was there before", func(ctx context.Context) (string, error) {
		sum, _, err := d.checksum(ctx, "vault/db01@before", pattern*mib)
		if err != nil {
			return "", err
		}
		return same("vault/db01@before", d.before, sum)
	})
	d.step(ctx, "a clone of the XFS snapshot mounts and holds it too", d.cloneHolds)
}

// cloneHolds attaches a clone, lets the guest mount it and compares the file.
func (d *demo) cloneHolds(ctx context.Context) (string, error) {
	if _, err := d.do(ctx, "volume", "clone", "fast/web01@before", "fast/clone"); err != nil {
		return "", err
	}
	op, err := d.do(ctx, "disk", "attach", "fast/clone", domainName)
	if err != nil {
		return "", err
	}
	clone := op.Disk.ID
	sum, err := d.inGuest(ctx, `set -e
mkdir -p /clone && mount -t ext4 $(disk %s) /clone
sha256sum </clone/file | cut -d' ' -f1
umount /clone`, clone)
	if err != nil {
		return "", err
	}
	if _, err := d.do(ctx, "disk", "detach", domainName, clone); err != nil {
		return "", err
	}
	return same("the file on the clone", d.before, sum)
}

// copy takes the snapshot to the other device.
func (d *demo) copy(ctx context.Context) {
	d.chapter("To the other device")
	d.step(ctx, "copy fast/web01@before to vault/web01-copy", func(ctx context.Context) (string, error) {
		op, err := d.do(ctx, "copy", "fast/web01@before", "vault/web01-copy")
		return fmt.Sprintf("%s, %d of %d bytes taken", op.Volume.Format, op.Volume.Used, op.Volume.Size), err
	})
	d.step(ctx, "compare source and copy end to end", func(ctx context.Context) (string, error) {
		var sums []string
		var size int64
		for _, uri := range []string{"fast/web01@before", "vault/web01-copy"} {
			sum, n, err := d.checksum(ctx, uri, 0)
			if err != nil {
				return "", err
			}
			sums, size = append(sums, sum), n
		}
		return same(fmt.Sprintf("all %d bytes", size), sums...)
	})
}

// resize grows a disk under the running guest.
func (d *demo) resize(ctx context.Context) {
	d.chapter("Larger, while the guest runs")
	for _, r := range []struct {
		disk *disk
		size int64
	}{{&d.web, 128 * mib}, {&d.db, 80 * mib}} {
		d.step(ctx, fmt.Sprintf("resize the disk of %s to %d MiB", strings.TrimPrefix(r.disk.URI, "tenon://"), r.size/mib), func(ctx context.Context) (string, error) {
			if _, err := d.do(ctx, "disk", "resize", domainName, r.disk.ID, "--size", fmt.Sprint(r.size)); err != nil {
				return "", err
			}
			return d.seen(ctx, r.disk.ID, r.size)
		})
	}
}

// takeAway detaches, delinks, relinks and destroys.
func (d *demo) takeAway(ctx context.Context) {
	d.chapter("Away, back, and away for good")
	d.step(ctx, "delink is refused while the guest has the disk", func(ctx context.Context) (string, error) {
		_, err := d.ctl(ctx, "volume", "delink", "fast/web01")
		return refused(err, 1, "in use", domainName)
	})
	d.step(ctx, "detach both disks", func(ctx context.Context) (string, error) {
		if _, err := d.inGuest(ctx, "kill %%1 2>/dev/null; pkill -f /mnt/log; sync; umount /mnt"); err != nil {
			return "", err
		}
		for _, k := range []disk{d.web, d.db} {
			if _, err := d.do(ctx, "disk", "detach", domainName, k.ID); err != nil {
				return "", err
			}
			if _, err := d.inGuest(ctx, "disk-gone %s", k.ID); err != nil {
				return "", err
			}
		}
		return "the guest sees neither any more", nil
	})
	var tombstone string
	d.step(ctx, "delink and relink fast/web01", func(ctx context.Context) (string, error) {
		was, _, err := d.checksum(ctx, "fast/web01", 0)
		if err != nil {
			return "", err
		}
		op, err := d.do(ctx, "volume", "delink", "fast/web01")
		if err != nil {
			return "", err
		}
		if _, err := d.ctl(ctx, "volume", "show", "fast/web01"); err == nil {
			return "", errors.New("it still has its name after delink")
		}
		if _, err := d.do(ctx, "volume", "relink", "fast", op.Tombstone.ID); err != nil {
			return "", err
		}
		is, _, err := d.checksum(ctx, "fast/web01", 0)
		if err != nil {
			return "", err
		}
		return same("before delink and after relink", was, is)
	})
	d.step(ctx, "delink and destroy it, erased with zeros", func(ctx context.Context) (string, error) {
		op, err := d.do(ctx, "volume", "delink", "fast/web01")
		if err != nil {
			return "", err
		}
		tombstone = op.Tombstone.ID
		_, err = d.do(ctx, "volume", "destroy", "fast", tombstone, "--erase", "zero")
		return "", err
	})
	d.step(ctx, "nothing of it is left", func(ctx context.Context) (string, error) {
		out, err := d.ctl(ctx, "volume", "list", "fast", "--tombstones")
		if err == nil && (strings.Contains(out, tombstone) || strings.Contains(out, "web01")) {
			err = fmt.Errorf("still listed: %s", out)
		}
		return "", err
	})
}

func tail(path string) string { return path[strings.LastIndex(path, "/"):] }
