// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

// fencer is the Fence facet. The store itself refuses: it is the hardware of
// this driver, so its fence outlives every backend.
type fencer struct{ b *backend }

// passesFence are the calls that a fenced store answers.
var passesFence = map[string]bool{"describe": true, "holders": true, "fence": true, "unfence": true}

func errFenced() error {
	return primitives.Errorf(primitives.CodeFenced, "the device is closed for service").Trying("Wait until its maintenance has ended")
}

// Holders tells the active mappings of this host and who is connected to them.
func (f fencer) Holders(ctx context.Context) ([]primitives.Holder, error) {
	return call(ctx, f.b, "holders", func() ([]primitives.Holder, error) {
		return f.b.s.holders(func(m *mapping) bool { return m.host == f.b.host.ID && m.boot == f.b.host.BootID }, f.b.name), nil
	})
}

// holders lists what the mappings that choose takes hold, as device sees it.
func (s *store) holders(choose func(*mapping) bool, device string) []primitives.Holder {
	var all []primitives.Holder
	for _, m := range s.maps {
		if !m.active || !choose(m) {
			continue
		}
		u := primitives.URI{Device: device, Volume: m.u.Volume, Snapshot: m.u.Snapshot}
		all = append(all, primitives.Holder{URI: u, Kind: "mapping", Name: string(m.id) + " of " + m.consumer, Path: m.socket})
		if n := m.connected(); n > 0 {
			all = append(all, primitives.Holder{URI: u, Kind: "process", Name: fmt.Sprintf("%d clients of %s", n, m.socket), Path: m.socket})
		}
	}
	slices.SortFunc(all, func(a, b primitives.Holder) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind))
	})
	return all
}

// Fence closes the store for everybody.
func (f fencer) Fence(ctx context.Context, _ primitives.Op) (primitives.FenceReport, error) {
	return call(ctx, f.b, "fence", func() (primitives.FenceReport, error) {
		s := f.b.s
		var by []primitives.Blocker
		for _, h := range s.holders(func(*mapping) bool { return true }, f.b.name) {
			by = append(by, primitives.Blocker{Kind: h.Kind, Name: h.Name})
		}
		by = append(by, s.streams()...)
		if len(by) > 0 {
			return primitives.FenceReport{}, primitives.Errorf(primitives.CodeInUse, "parts of it are open").By(by...).Trying("Detach the disks first")
		}
		s.fenced = true
		return primitives.FenceReport{Method: "store refuses", Evidence: "no mapping is active and no reader or writer open"}, nil
	})
}

// Unfence opens the store again.
func (f fencer) Unfence(ctx context.Context, _ primitives.Op) error {
	return do(ctx, f.b, "unfence", func() error {
		f.b.s.fenced = false
		return nil
	})
}

// streams names the Readers and Writers of living backends.
func (s *store) streams() []primitives.Blocker {
	var by []primitives.Blocker
	for b := range s.sessions {
		if b.readers > 0 {
			by = append(by, primitives.Blocker{Kind: "operation", Name: fmt.Sprintf("%d readers of %s", b.readers, b.name)})
		}
	}
	for _, v := range s.volumes {
		if v.writer != nil && !v.writer.b.isGone() {
			by = append(by, primitives.Blocker{Kind: "operation", Name: cmp.Or(v.writer.op.ID, "a writer of "+v.name)})
		}
	}
	return by
}
