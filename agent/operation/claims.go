// SPDX-License-Identifier: Apache-2.0

package operation

import (
	"slices"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
)

// OnDevice is the name under which operations claim a device.
func OnDevice(name string) string { return "device " + name }

// OnVolume is the name under which operations claim a volume and its snapshots.
func OnVolume(u primitives.URI) string { return "volume " + u.Parent().Short() }

// OnDisk is the name under which operations claim a disk.
func OnDisk(id string) string { return "disk " + id }

// claims says which operation holds which name. The engine's mutex guards it.
type claims map[string][]holder

type holder struct {
	operation string
	shared    bool
}

// conflict returns CodeConflict naming the operations that stand in the way of
// operation id's wishes; nil when there are none.
func (c claims) conflict(id string, wished []journal.Claim) error {
	var blocked []primitives.Blocker
	var name string
	for _, w := range wished {
		for _, h := range c[w.Name] {
			if h.operation == id || h.shared && w.Shared {
				continue
			}
			b := primitives.Blocker{Kind: "operation", Name: h.operation}
			if !slices.Contains(blocked, b) {
				blocked = append(blocked, b)
				name = w.Name
			}
		}
	}
	if len(blocked) == 0 {
		return nil
	}
	return primitives.Errorf(primitives.CodeConflict, "another operation is at work on %s", name).
		By(blocked...).Trying("wait for it with: tenonctl operation wait %s", blocked[0].Name)
}

func (c claims) take(id string, wished []journal.Claim) {
	for _, w := range wished {
		c[w.Name] = append(c[w.Name], holder{operation: id, shared: w.Shared})
	}
}

func (c claims) release(id string, held []journal.Claim) {
	for _, w := range held {
		left := slices.DeleteFunc(c[w.Name], func(h holder) bool { return h.operation == id })
		if len(left) == 0 {
			delete(c, w.Name)
			continue
		}
		c[w.Name] = left
	}
}

// Claimed reports whether an operation that runs holds the name.
func (e *Engine) Claimed(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.claims[name]) > 0
}

// Running tells how many operations run.
func (e *Engine) Running() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.tasks)
}
