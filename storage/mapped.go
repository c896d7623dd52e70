// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"sync"

	"github.com/tenon-storage/tenon/primitives"
)

// maxMapped bounds what mapped remembers.
const maxMapped = 64

// mapped remembers the mappings that Map made and nobody has activated since, so
// that Activate, which is told an ID and needs the volume's lock, need not list
// every mapping of the device. Its zero value is ready.
type mapped struct {
	mu  sync.Mutex // guards all
	all map[primitives.MappingID]primitives.Mapping
}

func (t *mapped) put(m primitives.Mapping) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.Active { // it may be deactivated before it is activated again
		delete(t.all, m.ID)
		return
	}
	if t.all == nil || len(t.all) >= maxMapped {
		t.all = make(map[primitives.MappingID]primitives.Mapping)
	}
	t.all[m.ID] = m
}

// take returns a mapping once: what a later Activate finds may be another's work.
func (t *mapped) take(id primitives.MappingID) (primitives.Mapping, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m, ok := t.all[id]
	delete(t.all, id)
	return m, ok
}
