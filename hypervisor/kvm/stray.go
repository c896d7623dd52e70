// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// A libvirt that dies between having QEMU switch a disk and writing down that it
// did takes the job, when it is back, for one that was cancelled: its XML shows the
// source in both halves, while the guest writes to the target. All that libvirt does
// to the disk from then on goes to the wrong image. What follows asks QEMU, and puts
// QEMU back to where libvirt believes it to be: no call makes libvirt believe
// something else.

// stray is a disk that QEMU has on the target of a move while libvirt shows the
// source.
type stray struct {
	on      string        // the node that the guest is on; "": it is being brought back
	home    string        // the node of the source, which libvirt has left open
	targets []string      // the nodes of the target, upper layer first
	job     *virt.NodeJob // what brings it back; nil: nothing yet
}

// backJob names the job that brings a disk back.
func backJob(r hypervisor.MoveRequest) string { return "tenon-back-" + string(r.Disk) }

// strayOf asks QEMU where a disk is that libvirt shows on the source, without a
// job. nil: it is there; left are the nodes of the target that are open all the same,
// and that no disk needs.
func (a *Adapter) strayOf(ctx context.Context, v view, r hypervisor.MoveRequest, disk *libvirtxml.DomainDisk) (away *stray, left []string, err error) {
	nodes, err := a.nodes(ctx, r.Domain)
	if err != nil {
		return nil, nil, err
	}
	top, s := sortNodes(nodes, r, disk)
	switch {
	case top == nil:
		return nil, nil, nil
	case strings.HasPrefix(top.Name, indexed(disk)):
		if uses(v, r.To) {
			return nil, nil, nil
		}
		return nil, s.targets, nil
	}
	q := ask{what: "ask QEMU for the jobs of disk " + string(r.Disk), domain: r.Domain, waits: true}
	jobs, err := call(ctx, a, q, func(c virt.Conn) ([]virt.NodeJob, error) { return c.NodeJobs(string(r.Domain)) })
	if err != nil {
		return nil, nil, err
	}
	if i := slices.IndexFunc(jobs, func(j virt.NodeJob) bool { return j.ID == backJob(r) }); i >= 0 {
		s.on, s.job = "", &jobs[i]
		return &s, nil, nil
	}
	if !mentions(top.File, r.To) {
		return nil, nil, nil // some filter of QEMU's upon the source, or a job that ends now
	}
	return &s, nil, nil
}

// refuseLost refuses to merge where QEMU is not on what libvirt shows, because libvirt
// forgot the switch of an earlier merge: the overlay's old bytes would be written over
// what the guest has written to the base since.
func (a *Adapter) refuseLost(ctx context.Context, v view, disk *libvirtxml.DomainDisk) error {
	if disk.Alias == nil || disk.Source == nil || disk.Source.Index == 0 {
		return nil
	}
	nodes, err := a.nodes(ctx, hypervisor.DomainID(v.UUID))
	if err != nil {
		return err
	}
	i := slices.IndexFunc(nodes, func(n virt.Node) bool { return slices.Contains(strings.Split(n.Device, "/"), disk.Alias.Name) })
	if i < 0 || strings.HasPrefix(nodes[i].Name, indexed(disk)) || !strings.HasPrefix(nodes[i].Name, "libvirt-") || nodes[i].Driver == "copy-on-read" {
		return nil
	}
	return primitives.Errorf(primitives.CodeConflict, "libvirt was restarted within a switch of %s of domain %s: it shows %v, but QEMU is on %s",
		disk.Target.Dev, v.Name, sourceOf(disk), nodes[i].File).
		Trying("copy the data out of the running guest: neither a merge nor a restart of the domain would find what it has written since")
}

// nodes asks QEMU what it has open; nil where it may not be asked.
func (a *Adapter) nodes(ctx context.Context, d hypervisor.DomainID) ([]virt.Node, error) {
	q := ask{what: "ask QEMU which images it is on", domain: d, waits: true}
	nodes, err := call(ctx, a, q, func(c virt.Conn) ([]virt.Node, error) { return c.Nodes(string(d)) })
	if errors.Is(err, primitives.CodeUnsupported) || errors.Is(err, primitives.CodeDenied) {
		return nil, nil // libvirt's word is all there is
	}
	return nodes, err
}

// uses reports whether libvirt shows a disk of the running domain that reads from
// what m describes.
func uses(v view, m primitives.Mapping) bool {
	at := sourceOfMapping(m).String()
	return slices.ContainsFunc(disksIn(v.live), func(d libvirtxml.DomainDisk) bool {
		s := sourceOf(&d)
		return s.String() == at || slices.Contains(s.Chain, at) ||
			d.Mirror != nil && d.Mirror.Source != nil && whereIs(d.Mirror.Source).String() == at
	})
}

// indexed begins the names of a disk's nodes.
func indexed(disk *libvirtxml.DomainDisk) string {
	return fmt.Sprintf("libvirt-%d-", disk.Source.Index)
}

// sortNodes finds the disk's top node and what a stray would be. libvirt that shows
// no index, or a disk without a device, has no top.
func sortNodes(nodes []virt.Node, r hypervisor.MoveRequest, disk *libvirtxml.DomainDisk) (top *virt.Node, s stray) {
	for i, n := range nodes {
		if slices.Contains(strings.Split(n.Device, "/"), disk.Alias.Name) && disk.Source.Index > 0 {
			top, s.on = &nodes[i], n.Name
		}
		switch {
		case strings.HasPrefix(n.Name, indexed(disk)):
			if s.home == "" || strings.HasSuffix(n.Name, "-format") {
				s.home = n.Name
			}
		case strings.HasPrefix(n.Name, "libvirt-") && mentions(n.File, r.To):
			s.targets = append(s.targets, n.Name)
		}
	}
	// The layer of the format uses the one of the file.
	slices.SortStableFunc(s.targets, func(a, b string) int {
		return strings.Compare(a[strings.LastIndexByte(a, '-'):], b[strings.LastIndexByte(b, '-'):])
	})
	return top, s
}

// mentions reports whether a node's file is what m describes.
func mentions(file string, m primitives.Mapping) bool {
	var path string
	switch m.Form {
	case primitives.FormBlock:
		path = m.Block.Path
	case primitives.FormFile:
		path = m.File.Path
	default:
		at := strings.Join(append(slices.Clone(m.Network.Hosts), m.Network.Socket), "")
		return strings.Contains(file, at)
	}
	quoted, err := json.Marshal(path)
	return file == path || err == nil && strings.HasPrefix(file, "json:") && strings.Contains(file, string(quoted))
}

// backLook is how often the job that brings a disk back is looked at: libvirt has
// no events of it.
const backLook = 200 * time.Millisecond

// bringBack copies what the guest has written back to the source and has QEMU use
// that, so that libvirt is right again. It goes on where an earlier call ended. A
// guest that ends meanwhile starts from the side that has everything: the
// definition shows the target until both sides are the same. The error says that
// the move is to be begun again.
func (a *Adapter) bringBack(ctx context.Context, r hypervisor.MoveRequest, s *stray) error {
	if s.job == nil {
		if err := a.moveConfig(ctx, r); err != nil {
			return err
		}
		a.log.WarnContext(ctx, "libvirt has forgotten that a disk was switched; it is copied back", "domain", r.Domain, "disk", r.Disk)
		err := a.askNode(ctx, r, func(c virt.Conn) error { return c.MirrorNode(string(r.Domain), backJob(r), s.on, s.home) })
		if err != nil {
			return err
		}
	}
	s, err := a.awaitBack(ctx, r, func(s *stray) bool { return s == nil || s.job == nil || s.job.Ready })
	if err != nil {
		return err
	}
	if s != nil && s.job == nil {
		return primitives.Errorf(primitives.CodeInternal, "the copy of disk %s of domain %s back to %v failed; see QEMU's log", r.Disk, r.Domain, sourceOfMapping(r.From)).
			Trying("repeat when the source can be written; the guest goes on upon the target")
	}
	if s != nil {
		if err := a.home(ctx, r, s); err != nil {
			return err
		}
	}
	return primitives.Errorf(primitives.CodeConflict, "libvirt was restarted within the switch of disk %s of domain %s and has forgotten it; the disk was brought back to %v",
		r.Disk, r.Domain, sourceOfMapping(r.From)).Trying("begin the move again")
}

// home ends the way back, when both sides are the same and stay so.
func (a *Adapter) home(ctx context.Context, r hypervisor.MoveRequest, s *stray) error {
	back := r
	back.From, back.To = r.To, r.From
	if err := a.moveConfig(ctx, back); err != nil {
		return err
	}
	if err := a.askNode(ctx, r, func(c virt.Conn) error { return c.CompleteNodeJob(string(r.Domain), backJob(r)) }); err != nil {
		return err
	}
	if _, err := a.awaitBack(ctx, r, func(s *stray) bool { return s == nil }); err != nil {
		return err
	}
	return a.closeNodes(ctx, r, s.targets)
}

// closeLeft closes what a libvirt that died left open of a target.
func (a *Adapter) closeLeft(ctx context.Context, r hypervisor.MoveRequest, p place) error {
	if len(p.left) == 0 {
		return nil
	}
	if err := a.endForgotten(ctx, r, p.live.Target.Dev); err != nil {
		return err
	}
	return a.closeNodes(ctx, r, p.left)
}

// endForgotten gives up the copies of a disk that QEMU alone knows of: a libvirt that
// dies as it begins one does not find it again, and it would copy on. libvirt calls a
// job by what it is, the disk's target and the node that it reads.
func (a *Adapter) endForgotten(ctx context.Context, r hypervisor.MoveRequest, target string) error {
	tick := time.NewTicker(backLook)
	defer tick.Stop()
	for {
		var jobs []virt.NodeJob
		err := a.askNode(ctx, r, func(c virt.Conn) (err error) {
			jobs, err = c.NodeJobs(string(r.Domain))
			return err
		})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(jobs, func(j virt.NodeJob) bool { return strings.HasPrefix(j.ID, "copy-"+target+"-libvirt-") })
		if i < 0 {
			return nil
		}
		if err := a.askNode(ctx, r, func(c virt.Conn) error { return c.EndNodeJob(string(r.Domain), jobs[i].ID) }); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ended(ctx, "end the forgotten copy of disk "+string(r.Disk))
		}
	}
}

// closeNodes closes what is left of a target.
func (a *Adapter) closeNodes(ctx context.Context, r hypervisor.MoveRequest, nodes []string) error {
	for _, node := range nodes {
		if err := a.askNode(ctx, r, func(c virt.Conn) error { return c.DeleteNode(string(r.Domain), node) }); err != nil {
			return err
		}
	}
	return nil
}

func (a *Adapter) askNode(ctx context.Context, r hypervisor.MoveRequest, fn func(virt.Conn) error) error {
	return a.do(ctx, ask{what: "bring disk " + string(r.Disk) + " back", domain: r.Domain, waits: true}, fn)
}

// awaitBack looks at a stray until it is as wanted; nil: it is none any more.
func (a *Adapter) awaitBack(ctx context.Context, r hypervisor.MoveRequest, wanted func(*stray) bool) (*stray, error) {
	tick := time.NewTicker(backLook)
	defer tick.Stop()
	for {
		p, err := a.placeNow(ctx, r)
		if err != nil || wanted(p.stray) {
			return p.stray, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return p.stray, ended(ctx, "bring disk "+string(r.Disk)+" back")
		}
	}
}
