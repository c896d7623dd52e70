// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/hypervisor"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Idle reports that nothing is on its way about a device: it stays as it is until
// somebody wants something else of it.
func (s *Service) Idle(device string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.memories[device]
	return m == nil || !m.busy && len(m.acts) == 0 && (m.queue == nil || len(m.queue.actions) == 0 && !m.queue.running)
}

// Noted reports that somebody else started the domain since maintenance shut it
// down: it is not started again.
func (s *Service) Noted(domain hypervisor.DomainID) (noted bool) {
	_ = s.journal.View(func(tx *journal.Tx) error {
		for _, rec := range journal.Records[record](tx, journal.Hosts) {
			for _, d := range rec.Deeds {
				noted = noted || d.Domain == string(domain) && d.How == protocol.Stopped && d.Void
			}
		}
		return nil
	})
	return noted
}
