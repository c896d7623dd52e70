// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

// churn does to volume x, and to the snapshots of volume a, whatever changes a
// record or moves it.
func churn(ctx context.Context, t *testing.T, b primitives.Backend, round int) error {
	id := func(what string) primitives.Op { return op(fmt.Sprint(what, round)) }
	f := b.Facets()
	if err := putAll(ctx, b, "x", primitives.WriteRequest{Op: id("make"), Create: true, Size: mib, Format: primitives.FormatRaw}, content(seedB, 4096)); err != nil {
		return err
	}
	m, err := f.Map.Map(ctx, vol("x"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
	if err == nil {
		_, err = f.Map.Activate(ctx, m.ID, id("activate"))
	}
	if err == nil {
		_, err = f.Snapshots.Snapshot(ctx, []primitives.URI{vol("a")}, "more", id("snap"))
	}
	if err == nil {
		_, err = f.Resize.Resize(ctx, vol("x"), 2*mib, id("grow"))
	}
	if err == nil {
		err = f.Map.Unmap(ctx, m.ID, primitives.UnmapRequest{})
	}
	for _, u := range []primitives.URI{vol("a").At("more"), vol("x")} {
		var tomb primitives.Tombstone
		if err == nil {
			tomb, err = b.Delink(ctx, u, primitives.DelinkRequest{Op: id("delink" + u.Short())})
		}
		if err == nil {
			_, err = b.Relink(ctx, tomb, primitives.URI{}, id("relink"+u.Short()))
		}
		if err == nil {
			tomb, err = b.Delink(ctx, u, primitives.DelinkRequest{Op: id("again" + u.Short())})
		}
		if err == nil {
			err = b.Destroy(ctx, tomb, primitives.DestroyRequest{Op: id("destroy" + u.Short())})
		}
	}
	return err
}

// TestLookingBesideChangesNeverFails lists and looks up without the device's
// lock while records are replaced, moved and removed. What is there all the time
// is seen each time, once.
func TestLookingBesideChangesNeverFails(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := open(t, newDevice(t, kind))
			create(t, b, "a", primitives.FormatRaw, seedA)
			must(t, snap(t.Context(), b, "s"))
			ended := make(chan error, 1)
			go func() {
				var err error
				for round := 0; round < 15 && err == nil; round++ {
					err = churn(t.Context(), t, b, round)
				}
				ended <- err
			}()
			for looks := 0; ; looks++ {
				look(t, b)
				select {
				case err := <-ended:
					must(t, err)
					t.Logf("%d looks", looks)
					return
				default:
				}
			}
		})
	}
}

// look looks in every way, once.
func look(t *testing.T, b primitives.Backend) {
	t.Helper()
	kinds := []primitives.Kind{primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone}
	seen := map[string]int{}
	for r := (primitives.ListRequest{Kinds: kinds, Limit: 2}); ; {
		p, err := b.List(t.Context(), r)
		must(t, err)
		for _, o := range p.Objects {
			if o.Kind != primitives.KindTombstone {
				seen[o.URI.Short()]++
			}
		}
		if r.Cursor = p.Next; r.Cursor == "" {
			break
		}
	}
	if seen["d/a"] != 1 || seen["d/a@s"] != 1 {
		t.Fatalf("List() = %v, want a and its snapshot once", seen)
	}
	if p, err := b.List(t.Context(), primitives.ListRequest{Of: vol("a")}); err != nil || len(p.Objects) == 0 {
		t.Fatalf("List() of a's snapshots = %v, %v", p.Objects, err)
	}
	for _, u := range []primitives.URI{vol("a"), vol("a").At("s")} {
		if o, err := b.Stat(t.Context(), u, primitives.Op{}); err != nil || o.State != primitives.Ready || o.Size != mib {
			t.Fatalf("Stat(%s) = %s, %v; want ready with its size", u.Short(), describe(o), err)
		}
	}
	if o, err := b.Stat(t.Context(), vol("x"), primitives.Op{}); err == nil && o.State != primitives.Ready || err != nil && !errors.Is(err, primitives.CodeNotFound) {
		t.Fatalf("Stat() of what comes and goes = %s, %v; want ready or not found", describe(o), err)
	}
	for _, m := range maps(t, b) {
		if m.URI != vol("x") || m.Size != mib && m.Size != 2*mib {
			t.Fatalf("Mappings() = %+v, want the one of x", m)
		}
	}
}

// TestAListingMissesNoVolumeWhoseRecordIsReplaced is the one thing that looking
// beside changes did find: Btrfs moves a name that is replaced to the end of its
// folder, beyond where a reader that began before will look.
func TestAListingMissesNoVolumeWhoseRecordIsReplaced(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := open(t, newDevice(t, kind))
			create(t, b, "a", primitives.FormatRaw, seedA)
			m := active(t, b, "a") // a mapping has a record too
			must(t, b.Facets().Map.Deactivate(t.Context(), m.ID, primitives.Op{}))
			ended := make(chan error, 1)
			go func() {
				var err error
				for round := 0; round < 150 && err == nil; round++ {
					_, err = b.Facets().Resize.Resize(t.Context(), vol("a"), int64(round+2)*mib, op(fmt.Sprint("grow", round)))
					if err == nil { // whose record is replaced as well
						_, err = b.Facets().Map.Map(t.Context(), vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
					}
				}
				ended <- err
			}()
			for looks := 0; ; looks++ {
				p, err := b.List(t.Context(), primitives.ListRequest{})
				must(t, err)
				if len(p.Objects) != 1 {
					t.Fatalf("List() = %d volumes in look %d, want 1", len(p.Objects), looks)
				}
				if all := maps(t, b); len(all) != 1 {
					t.Fatalf("Mappings() = %d in look %d, want 1", len(all), looks)
				}
				select {
				case err := <-ended:
					must(t, err)
					must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
					return
				default:
				}
			}
		})
	}
}
