// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"cmp"
	"context"
	"slices"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Attach gives a disk to a domain: live, then in the definition.
func (a *Adapter) Attach(ctx context.Context, r hypervisor.AttachRequest) (hypervisor.AttachResult, error) {
	r.Bus = cmp.Or(r.Bus, busVirtio)
	if err := checkAttach(r); err != nil {
		return hypervisor.AttachResult{}, err
	}
	if err := a.checkName(r); err != nil {
		return hypervisor.AttachResult{}, err
	}
	v, err := a.look(ctx, r.Domain)
	if err != nil {
		return hypervisor.AttachResult{}, err
	}
	plan, err := planAttach(v, r)
	if err != nil {
		return hypervisor.AttachResult{}, err
	}
	res := hypervisor.AttachResult{Live: plan.live, Config: plan.config}
	if plan.live == hypervisor.Done {
		if err := a.attachLive(ctx, r); err != nil {
			return hypervisor.AttachResult{Live: hypervisor.Failed}, err
		}
	}
	if plan.config == hypervisor.Done {
		if err := a.attachConfig(ctx, r); err != nil {
			if plan.live == hypervisor.NotAsked {
				return hypervisor.AttachResult{Config: hypervisor.Failed}, err
			}
			res.Config, res.ConfigErr = hypervisor.Failed, err
		}
	}
	// The disk is there; not being able to show it is no reason to say otherwise.
	res.Disk = plan.disk.shown(r.Domain)
	for _, x := range a.host.Disks(r.Domain) {
		if x.ID == r.Disk {
			res.Disk = x
		}
	}
	return res, nil
}

// checkName refuses a domain that does not bear the name that is asked for.
func (a *Adapter) checkName(r hypervisor.AttachRequest) error {
	if r.Name == "" {
		return nil
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	for _, d := range a.host.domains {
		if d.name == r.Name && d.id != r.Domain {
			return primitives.Errorf(primitives.CodeConflict, "the name %q belongs to another domain now: %s is not %s", r.Name, d.id, r.Domain)
		}
		if d.name == r.Name {
			return nil
		}
	}
	return primitives.Errorf(primitives.CodeNotFound, "domain %q does not exist", r.Name)
}

func (a *Adapter) attachLive(ctx context.Context, r hypervisor.AttachRequest) error {
	c := Call{Name: "attach", Domain: r.Domain, Disks: []hypervisor.DiskID{r.Disk}}
	return a.act(ctx, c, func(d *domain) error {
		plan, err := planAttach(d.view(), r)
		if err != nil || plan.live != hypervisor.Done {
			return err
		}
		if err := a.host.open(plan.disk); err != nil {
			return err
		}
		plan.disk.instance = a.host.nextInstance()
		d.live = append(d.live, plan.disk)
		return nil
	})
}

func (a *Adapter) attachConfig(ctx context.Context, r hypervisor.AttachRequest) error {
	c := Call{Name: "attach-config", Domain: r.Domain, Disks: []hypervisor.DiskID{r.Disk}}
	return a.act(ctx, c, func(d *domain) error {
		plan, err := planAttach(d.view(), r)
		if err != nil || plan.config != hypervisor.Done {
			return err
		}
		d.config = append(d.config, plan.disk)
		return nil
	})
}

// attachPlan says what to do for each half: Done stands for "to be done".
type attachPlan struct {
	live, config hypervisor.Outcome
	disk         disk
}

// planAttach decides how to reach what r asks for from what v shows.
func planAttach(v view, r hypervisor.AttachRequest) (attachPlan, error) {
	wantLive, wantConfig, err := halves(v, r.Where, "attach")
	if err != nil {
		return attachPlan{}, err
	}
	live, config := find(v.live, r.Disk), find(v.config, r.Disk)
	if live != nil && live.detaching {
		return attachPlan{}, primitives.Errorf(primitives.CodeConflict, "disk %s of domain %s is being detached", r.Disk, v.name).
			Trying("wait until it is gone, or repeat the detach")
	}
	for _, have := range []*disk{live, config} {
		if have != nil && (!have.source.Shows(r.Mapping) || have.access != r.Mapping.Access || have.bus != r.Bus) {
			return attachPlan{}, primitives.Errorf(primitives.CodeConflict, "domain %s has a disk %s already, on %v as %s",
				v.name, r.Disk, have.source, have.target).By(primitives.Blocker{Kind: "disk", Name: string(r.Disk)})
		}
	}
	plan := attachPlan{live: step(wantLive, live != nil), config: step(wantConfig, config != nil)}
	if have := cmp.Or(live, config); have != nil {
		plan.disk = *have
	}
	if plan.live != hypervisor.Done && plan.config != hypervisor.Done {
		return plan, nil
	}
	if plan.live == hypervisor.Done && r.Bus == busVirtio && v.freeSlots() == 0 {
		return attachPlan{}, primitives.Errorf(primitives.CodeNoSpace, "domain %s has no free slot for another virtio disk", v.name).
			Trying("attach the disk to the scsi bus")
	}
	plan.disk = newDisk(r, chooseTarget(v, r.Bus, live, config))
	return plan, nil
}

// halves says which halves of a domain a request means.
func halves(v view, where hypervisor.Where, what string) (live, config bool, err error) {
	switch {
	case where == hypervisor.LiveOnly && !v.up:
		return false, false, notRunning(v, what)
	case where == hypervisor.ConfigOnly && !v.persistent:
		return false, false, primitives.Errorf(primitives.CodeUnsupported, "%s: domain %s has no persistent definition", what, v.name)
	}
	return v.up && where != hypervisor.ConfigOnly, v.persistent && where != hypervisor.LiveOnly, nil
}

func step(wanted, there bool) hypervisor.Outcome {
	switch {
	case !wanted:
		return hypervisor.NotAsked
	case there:
		return hypervisor.Already
	}
	return hypervisor.Done
}

func newDisk(r hypervisor.AttachRequest, target string) disk {
	x := disk{id: r.Disk, target: target, bus: r.Bus, access: r.Mapping.Access, source: sourceOf(r.Mapping), handle: r.Mapping.Handle, size: r.Mapping.Size}
	if x.size == 0 {
		x.size = sizeOf(x.source)
	}
	return x
}

// sourceOf is what a hypervisor shows of a mapping: not its secrets.
func sourceOf(m primitives.Mapping) hypervisor.Source {
	s := hypervisor.Source{Form: m.Form}
	switch m.Form {
	case primitives.FormBlock:
		s.Path, s.Format = m.Block.Path, primitives.FormatRaw
	case primitives.FormFile:
		s.Path, s.Format = m.File.Path, m.File.Format
		for _, b := range m.File.Backing {
			s.Chain = append(s.Chain, b.Path)
		}
	case primitives.FormNetwork:
		s.Network = &primitives.NetworkMap{
			Protocol: m.Network.Protocol, Export: m.Network.Export, Socket: m.Network.Socket,
			Hosts: slices.Clone(m.Network.Hosts), User: m.Network.User,
		}
	}
	return s
}
