// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"crypto/sha256"
	"fmt"

	"github.com/tenon-storage/tenon/hypervisor"
)

// Options describe a domain of Add. The zero value is running, persistent, and
// has a guest agent.
type Options struct {
	Off       bool
	Transient bool
	NoAgent   bool
}

// Add is Define for who does not care about the ID, which follows from the name.
// The domain reconnects.
func (h *Host) Add(name string, o Options) hypervisor.DomainID {
	sum := sha256.Sum256([]byte(name))
	id := hypervisor.DomainID(fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]))
	h.Define(name, id, DomainOptions{Running: !o.Off, Persistent: !o.Transient, Agent: !o.NoAgent, Reconnects: true})
	return id
}

// Remove is Undefine.
func (h *Host) Remove(id hypervisor.DomainID) { h.Undefine(id) }

// Open is Adapter.
func (h *Host) Open() *Adapter { return h.Adapter() }

// Point is the moment of an effect at which Intercept is asked.
type Point uint8

// The moments.
const (
	Before Point = iota // nothing has happened yet
	After               // everything has happened; an error means that the answer is lost
)

// String returns the moment in words.
func (p Point) String() string { return [...]string{"before", "after"}[p] }

// Intercept has f asked before and after each effect, by the name of its method,
// such as "Attach", or "AttachConfig" for the definition's half of it; f's error
// becomes the answer. nil ends that.
func (h *Host) Intercept(f func(call string, at Point) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.intercept = f
}

// Freezes returns how many times a guest was frozen.
func (h *Host) Freezes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.frozenTimes
}

func methodOf(effect string) string {
	return map[string]string{
		"attach": "Attach", "attach-config": "AttachConfig", "detach": "Detach", "detach-config": "DetachConfig",
		"switch": "Switch", "switch-config": "SwitchConfig", "resize": "ResizeDisk", "freeze": "Freeze", "thaw": "Thaw",
		"start": "Start", "shutdown": "Shutdown", "snapshot": "CreateSnapshot", "snapshot-delete": "DeleteSnapshot",
		"pause": "Pause", "resume": "Resume", "move": "StartMove", "converge": "Converge", "pivot": "FinishMove",
		"pivot-config": "FinishMoveConfig", "pivot-back": "FinishMoveBack", "cancel-move": "CancelMove",
	}[effect]
}
