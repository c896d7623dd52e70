// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"time"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// cutEvery is how long after an attempt that did not help a use is cut off again.
const cutEvery = 15 * time.Second

// cutOff takes the device away from a use, again and again until it is gone: the
// audit has who allowed it. An operation is cancelled, a subscriber is not waited
// for any more, a disk is detached, or its guest shut down where it does not let
// go of the disk.
func (s *Service) cutOff(ctx context.Context, name string, a protocol.CutOff) {
	if !s.claimCut(name, a.Use) {
		return
	}
	defer s.endCut(name, a.Use)
	for {
		err := s.cutOnce(ctx, name, a.Use)
		if err == nil || s.ctx.Err() != nil {
			return
		}
		s.log.WarnContext(ctx, "use could not be cut off yet", "device", name, "use", a.Use, "err", err)
		again := time.NewTimer(cutEvery)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}

// claimCut reports whether nobody is cutting the use off already.
func (s *Service) claimCut(name, use string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.memoryOf(name)
	if m.acts["cut "+use] != nil {
		return false
	}
	m.acts["cut "+use] = &doing{cancel: func() {}}
	return true
}

func (s *Service) endCut(name, use string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.memoryOf(name).acts, "cut "+use)
}

// cutOnce makes one attempt. nil: the use is gone, or is not to be cut any more.
func (s *Service) cutOnce(ctx context.Context, name, use string) error {
	var u user
	var there, wanted bool
	err := s.journal.View(func(tx *journal.Tx) error {
		c, err := count(tx)
		if err != nil {
			return err
		}
		u, there = c.find(name, use)
		rec, _, err := journal.Find[record](tx, journal.Hosts, name)
		o, known := rec.Host.Outcome(use)
		wanted = known && o.Cut != ""
		return err
	})
	if err != nil || !wanted {
		return err
	}
	how := protocol.Detached
	if there {
		if how, err = s.take(ctx, name, u); err != nil {
			return err
		}
	}
	return s.happened(name, func(t *turn, _ *ward) (protocol.HostEvent, error) {
		if how == protocol.Stopped {
			if err := t.sleep(use); err != nil {
				return nil, err
			}
		}
		return protocol.Gone{Use: use, How: how, Evidence: "cut off"}, nil
	})
}

// take takes the device away from one use.
func (s *Service) take(ctx context.Context, name string, u user) (protocol.How, error) {
	switch u.Kind {
	case kindDisk:
		return s.takeDisk(ctx, name, u)
	case kindSubscriber:
		return protocol.Closed, s.unblock(u.ID)
	case kindStream:
		return "", primitives.Errorf(primitives.CodeInUse, "a client still reads or writes %s; it ends with its connection", u.URI.Short())
	}
	if _, err := s.engine.Cancel(ctx, u.Operation); err != nil && !errors.Is(err, primitives.CodeNotFound) {
		return "", err
	}
	if _, err := s.engine.Wait(ctx, u.Operation); err != nil && !errors.Is(err, primitives.CodeNotFound) {
		return "", err
	}
	return protocol.Closed, nil
}

// takeDisk detaches a disk. A guest that does not let go of it is shut down.
func (s *Service) takeDisk(ctx context.Context, name string, u user) (protocol.How, error) {
	failure := error(primitives.Errorf(primitives.CodeUnsupported, "%s of domain %s was not attached by tenon", u.Use.Disk, u.Domain))
	if u.record.Disk != "" {
		op, err := s.startPatiently(ctx, operation.Request{
			Kind: attach.KindDetach, Caller: caller,
			Args: attach.DetachArgs{Domain: u.Domain, Disk: attach.DiskName(u.record.Disk), Timeout: s.options.DetachTime},
		})
		if err == nil {
			op, err = s.engine.Wait(ctx, op.ID)
		}
		if err == nil {
			err = op.Err()
		}
		if err == nil {
			return protocol.Detached, nil
		}
		failure = err
	}
	if s.adapter == nil || s.adapter.Facets().Power == nil {
		return "", failure
	}
	how, _, err := s.actShutdown(ctx, name, protocol.ActOn{Use: u.ID}, act{Domain: u.Domain, Disk: u.Use.Disk, From: u.URI})
	if err != nil {
		return "", errors.Join(failure, err)
	}
	return how, nil
}
