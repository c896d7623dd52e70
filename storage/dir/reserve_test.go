// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

func TestAFullDeviceCanBeEmptiedThroughTenon(t *testing.T) {
	for kind, room := range map[string]int64{"ext4": 24 * mib, "xfs": 320 * mib, "btrfs": 128 * mib} {
		t.Run(kind, func(t *testing.T) {
			at := small(t, kind, room)
			b := open(t, at)
			for _, name := range []string{"a", "b"} {
				w, err := b.Write(t.Context(), vol(name), primitives.WriteRequest{Op: op("make " + name), Create: true, Size: mib, Format: primitives.FormatRaw})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.WriteAt(content(1, mib), 0); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			fill(t, filepath.Join(at, "foreign"))
			for _, name := range []string{"a", "b"} {
				tomb, err := b.Delink(t.Context(), vol(name), primitives.DelinkRequest{Op: op("delink " + name)})
				if err != nil {
					t.Fatalf("Delink(%s) on a full device = %v", name, err)
				}
				if err := b.Destroy(t.Context(), tomb, primitives.DestroyRequest{Op: op("destroy " + name)}); err != nil {
					t.Fatalf("Destroy(%s) on a full device = %v", name, err)
				}
				if name == "a" {
					fill(t, filepath.Join(at, "foreign"))
				}
			}
		})
	}
}

// fill writes to a file until the file system has no byte left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err == nil {
			if _, err = f.Write(make([]byte, size)); err == nil {
				err = f.Sync()
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
}

// TestAGuestGoesOnOnceAFullDeviceHasRoom is the storage's side of a guest that
// is paused for want of space: nothing of what it had written is lost, and the
// device says what is the matter until there is room.
//
// Cases: E140
func TestAGuestGoesOnOnceAFullDeviceHasRoom(t *testing.T) {
	for _, f := range []primitives.Format{primitives.FormatRaw, primitives.FormatQcow2} {
		t.Run(string(f), func(t *testing.T) {
			at := small(t, "ext4", 32*mib)
			b := open(t, at)
			must(t, write(t, b, "a", primitives.WriteRequest{Op: op("make"), Create: true, Size: 8 * mib, Format: f}, content(seedA, mib)))
			m, g := attached(t, b, "a")
			foreign := filepath.Join(at, "foreign")
			fill(t, foreign)
			if d, err := b.Describe(t.Context()); err != nil || d.Health != primitives.Degraded || d.HealthNote == "" {
				t.Errorf("Describe() of a full device = %v %q, %v; want degraded, and why", d.Health, d.HealthNote, err)
			}
			now := content(seedB, 8*mib)
			_, err := g.WriteAt(now[4*mib:6*mib], 4*mib)
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("a guest's write to a full device = %v, want no space left", err)
			}
			must(t, os.Remove(foreign))
			must(t, syncFS(at))
			if d, err := b.Describe(t.Context()); err != nil || d.Health != primitives.Healthy {
				t.Errorf("Describe() of a device that has room again = %v %q, %v; want healthy", d.Health, d.HealthNote, err)
			}
			_, err = g.WriteAt(now[mib:], mib)
			must(t, err)
			must(t, g.Flush())
			must(t, g.Close())
			must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
			copy(now, content(seedA, mib))
			holds(t, b, vol("a"), now)
		})
	}
}

// TestTheReserveIsTakenAgainOnceThereIsRoom spends it, and looks where it lies.
func TestTheReserveIsTakenAgainOnceThereIsRoom(t *testing.T) {
	at := small(t, "btrfs", 128*mib)
	b := open(t, at)
	create(t, b, "a", primitives.FormatRaw, seedA)
	create(t, b, "b", primitives.FormatRaw, seedB)
	reserve := func() int64 {
		info, err := os.Stat(filepath.Join(at, "lock"))
		must(t, err)
		return info.Size()
	}
	held := reserve()
	if held == 0 {
		t.Fatal("a new device holds no reserve")
	}
	must(t, os.Truncate(filepath.Join(at, "lock"), 0)) // as another tenond would spend it
	must(t, removes(vol("a"), primitives.EraseNone)(t.Context(), b, ""))
	must(t, b.Close())
	b = open(t, at)
	if got := reserve(); got != held {
		t.Errorf("the reserve after the next Open = %d bytes, want %d", got, held)
	}
	foreign := filepath.Join(at, "foreign")
	fill(t, foreign)
	tomb, err := b.Delink(t.Context(), vol("b"), primitives.DelinkRequest{Op: op("delink b")})
	must(t, err)
	spent := reserve() == 0
	must(t, os.Remove(foreign))
	must(t, syncFS(at))
	must(t, b.Destroy(t.Context(), tomb, primitives.DestroyRequest{Op: op("destroy b")}))
	if got := reserve(); got != held {
		t.Errorf("the reserve after a destroy (spent before: %t) = %d bytes, want %d", spent, got, held)
	}
}
