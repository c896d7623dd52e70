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
