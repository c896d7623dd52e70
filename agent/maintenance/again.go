// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"time"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

const (
	// sightTicks is how many ticks an agent may take to see its devices and domains
	// before a step that it cannot judge counts as not possible.
	sightTicks = 30
	// moveTries is how often a move is begun that nothing but the moment kept from
	// its end, such as the death of tenond or libvirt.
	moveTries = 4
)

// arrangeOnceSeen arranges a step, again and again while devices are being opened
// or the domain does not answer: an agent that has just started sees neither, and
// a step that is given up is not tried again.
func (s *Service) arrangeOnceSeen(ctx context.Context, name string, a protocol.ActOn) (*act, error) {
	for waited := 0; ; waited++ {
		x, err := s.arrange(ctx, name, a)
		if waited == sightTicks || !errors.Is(err, primitives.CodeUnavailable) || !s.pause(ctx) {
			return x, err
		}
	}
}

// opening reports whether a device is still being opened for the first time.
func (s *Service) opening() bool {
	for _, name := range s.devices.Names() {
		if st, err := s.devices.Get(name); err == nil && st.State == device.Opening {
			return true
		}
	}
	return false
}

// pause waits for a tick. false: ctx has ended.
func (s *Service) pause(ctx context.Context) bool {
	timer := time.NewTimer(s.options.Tick)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// actMoves moves a disk, and begins anew where the move was taken back for what
// may have passed.
func (s *Service) actMoves(ctx context.Context, name string, a protocol.ActOn, d *doing) (protocol.How, string, error) {
	for {
		how, evidence, err := s.actMove(ctx, name, a, d)
		again := d.act
		again.Try++
		if err == nil || !passing(err) || again.Try == moveTries || !s.pause(ctx) {
			return how, evidence, err
		}
		s.log.InfoContext(ctx, "move of a maintenance begins anew", "device", name, "use", a.Use, "try", again.Try, "err", err)
		if _, failed := s.write(name, a, again); failed != nil {
			return how, evidence, errors.Join(err, failed)
		}
		s.mu.Lock()
		d.act = again
		s.mu.Unlock()
	}
}

// passing reports whether the same request may succeed later.
func passing(err error) bool {
	return !heldByMaintenance(err) && primitives.CodeOf(err).Retry() == primitives.RetrySame
}
