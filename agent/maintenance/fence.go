// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// looksAtOnce is how many devices are looked at at once: there may be many, and
// each look goes through the host's processes.
const looksAtOnce = 4

// fenceTime bounds one attempt to fence, unfence or verify a device.
const fenceTime = 5 * time.Minute

// gateOnly is the method of a fence that is no more than the closed gate.
const gateOnly = "closed gate"

// look asks who has the device open, and tells the host's half.
func (s *Service) look(ctx context.Context, name string, a protocol.Look) {
	select {
	case s.looks <- struct{}{}:
		defer func() { <-s.looks }()
	case <-ctx.Done():
		return
	}
	foreign, err := s.foreigners(ctx, name)
	if s.ctx.Err() != nil {
		return
	}
	failure := ""
	if err != nil {
		failure = "nobody could look who has it open: " + err.Error()
	}
	_ = s.happened(name, func(t *turn, _ *ward) (protocol.HostEvent, error) {
		uses, err := t.uses(name)
		return protocol.Looked{Stamp: a.Stamp, Serial: a.Serial, Uses: uses, Foreign: foreign, Failure: failure}, err
	})
}

// foreigners returns who has a part of the device open that no recorded use
// accounts for: by the host's own word, and by what the hypervisor shows of disks
// that somebody attached behind tenon's back.
func (s *Service) foreigners(ctx context.Context, name string) ([]protocol.Foreign, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	var held []journal.Use
	var stalled bool
	err := s.journal.View(func(tx *journal.Tx) error {
		for u := range tx.EachUse() {
			if u.URI.Device == name && !u.Dormant {
				held = append(held, u)
			}
		}
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		stalled = rec.Host.Order.Impact == protocol.IOStall
		return err
	})
	if err != nil {
		return nil, err
	}
	disks, err := s.strangeDisks(ctx, name, held)
	if err != nil {
		return nil, err
	}
	holders, err := s.devices.Holders(ctx, name)
	if errors.Is(err, primitives.CodeUnsupported) {
		return disks, nil // the driver cannot look; what the hypervisor shows is all there is
	}
	if err != nil {
		return disks, err
	}
	for _, h := range holders {
		if !accounted(h, held, stalled) {
			disks = append(disks, protocol.Foreign{Name: h.Name, PID: h.PID, Path: h.Path})
		}
	}
	return disks, nil
}

// accounted reports whether a holder belongs to a recorded use: to one of the same
// volume, or to any where the host cannot tell what is held.
func accounted(h primitives.Holder, held []journal.Use, stalled bool) bool {
	if h.URI.Volume == "" {
		return stalled && len(held) > 0
	}
	return slices.ContainsFunc(held, func(u journal.Use) bool { return u.URI.Parent() == h.URI.Parent() })
}

// strangeDisks returns the disks that domains show on the device and that are not
// recorded, or whose domain was said to be off.
func (s *Service) strangeDisks(ctx context.Context, name string, held []journal.Use) (found []protocol.Foreign, err error) {
	if s.adapter == nil {
		return nil, nil
	}
	domains, err := s.disks.Domains(ctx)
	if err != nil {
		return nil, err
	}
	for _, domain := range domains {
		shown, err := s.disks.Shown(ctx, domain.ID)
		if errors.Is(err, primitives.CodeNotFound) {
			continue
		}
		if err != nil {
			return found, err
		}
		for _, d := range shown {
			if !d.Live || !s.liesIn(name, d.Source) {
				continue // in a definition only: nothing is open, and its start is asked for
			}
			known := slices.ContainsFunc(held, func(u journal.Use) bool {
				return u.Domain == string(domain.ID) && shows(u, d)
			})
			if !known {
				found = append(found, protocol.Foreign{Name: fmt.Sprintf("disk %s of domain %s", d.Target, domain.Name), Path: d.Source.String()})
			}
		}
	}
	return found, nil
}

// liesIn reports whether a disk's bytes, or those beneath them, lie in a device.
func (s *Service) liesIn(name string, src hypervisor.Source) bool {
	paths := append([]string{src.Path}, src.Chain...)
	if src.Network != nil {
		paths = append(paths, src.Network.Socket)
	}
	return slices.ContainsFunc(paths, func(p string) bool { return p != "" && s.devices.Below(p) == name })
}

// raiseFence closes the device for service and tells what came of it. A stall
// that guests live through needs no more than the closed gate.
func (s *Service) raiseFence(ctx context.Context, name string, a protocol.RaiseFence) {
	if a.Impact == protocol.IOStall {
		_ = s.happened(name, func(*turn, *ward) (protocol.HostEvent, error) {
			return protocol.Fenced{Stamp: a.Stamp, OK: true, Method: gateOnly, Evidence: "I/O only stalls; every use is ready for that"}, nil
		})
		return
	}
	ctx, cancel := context.WithTimeout(ctx, fenceTime)
	defer cancel()
	s.devices.Shut(name)
	report, was, err := s.devices.Fence(ctx, name, primitives.Op{ID: fenceID(a.Stamp, name)})
	if s.ctx.Err() != nil {
		return
	}
	e := protocol.Fenced{Stamp: a.Stamp, OK: err == nil, Method: report.Method, Evidence: report.Evidence}
	if err != nil {
		e.Failure = err.Error()
		e.Unchanged = errors.Is(err, primitives.CodeInUse)
	}
	_ = s.happened(name, func(_ *turn, w *ward) (protocol.HostEvent, error) {
		if w.rec.Was == nil && (was != device.Remembered{}) {
			w.rec.Was = &was // a second fence of the same maintenance finds what may have changed
		}
		return e, nil
	})
	if e.Unchanged {
		s.devices.Reopen(ctx, name)
	}
}

func fenceID(stamp protocol.Stamp, name string) string {
	return fmt.Sprintf("maintenance/%s/%d/%d", name, stamp.Term, stamp.Epoch)
}

// verify looks whether the device is what it was, ends its fence and proves that
// it works. Only then may it be used.
func (s *Service) verify(ctx context.Context, name string, a protocol.Verify) {
	ctx, cancel := context.WithTimeout(ctx, fenceTime)
	defer cancel()
	start := time.Now()
	evidence, err := s.takeBack(ctx, name, a)
	if s.ctx.Err() != nil {
		return
	}
	s.log.InfoContext(ctx, "returned device looked at", "device", name, "took", time.Since(start), "err", err)
	_ = s.happened(name, func(t *turn, w *ward) (protocol.HostEvent, error) {
		e := protocol.Verified{Stamp: a.Stamp, OK: err == nil, Evidence: evidence}
		if !e.OK {
			e.Failure = err.Error()
			return e, nil
		}
		var usesErr error
		e.Uses, usesErr = t.uses(name)
		return e, usesErr
	})
}

// takeBack does what verify tells of.
func (s *Service) takeBack(ctx context.Context, name string, a protocol.Verify) (evidence string, err error) {
	var was device.Remembered
	var host protocol.Host
	err = s.journal.View(func(tx *journal.Tx) error {
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		if rec.Was != nil {
			was = *rec.Was
		}
		host = rec.Host
		return err
	})
	if err != nil {
		return "", err
	}
	if host.Phase != protocol.HostVerifying || host.Order.Stamp != a.Stamp {
		return "", primitives.Errorf(primitives.CodeConflict, "the order changed meanwhile")
	}
	s.devices.Shut(name)
	if err := s.devices.Verify(ctx, name, was); err != nil {
		return "", err
	}
	if err := s.devices.Unfence(ctx, name, primitives.Op{ID: fenceID(a.Stamp, name)}); err != nil {
		return "", err
	}
	err = s.happened(name, func(*turn, *ward) (protocol.HostEvent, error) { return protocol.Unfenced{Stamp: a.Stamp}, nil })
	if err != nil {
		return "", err
	}
	s.devices.Reopen(ctx, name)
	if _, err := s.devices.Device(name); err != nil {
		return "", err
	}
	return fmt.Sprintf("identity %q, %d bytes, opened and written to", was.Backend, was.Total), nil
}

// wakeDormant makes the sleeping records of a device's disks count again: from
// here on their domains may start, and their mappings are restored.
func (t *turn) wakeDormant(name string) error {
	uses, err := t.tx.Uses()
	if err != nil {
		return err
	}
	for _, u := range uses {
		if u.URI.Device == name && u.Dormant {
			u.Dormant = false
			t.seen = nil
			if err := t.tx.PutUse(u); err != nil {
				return err
			}
		}
	}
	return nil
}
