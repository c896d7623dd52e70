// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

// spy opens every data file, to see what became of the bytes when the names are gone.
func spy(t testing.TB, path string) map[string]*os.File {
	t.Helper()
	files := map[string]*os.File{}
	for _, name := range entries(t, filepath.Join(path, "data")) {
		f, err := os.Open(filepath.Join(path, "data", name))
		must(t, err)
		t.Cleanup(func() { _ = f.Close() })
		files[name] = f
	}
	return files
}

// has reports whether any of the files still holds a part of p.
func has(t testing.TB, files map[string]*os.File, p []byte) bool {
	t.Helper()
	for _, f := range files {
		info, err := f.Stat()
		must(t, err)
		all := make([]byte, info.Size())
		_, err = f.ReadAt(all, 0)
		must(t, err)
		if bytes.Contains(all, p[1000:1200]) {
			return true
		}
	}
	return false
}

func destroy(t testing.TB, b primitives.Backend, u primitives.URI, e primitives.Erase) {
	t.Helper()
	dead, err := b.Delink(t.Context(), u, primitives.DelinkRequest{})
	must(t, err)
	must(t, b.Destroy(t.Context(), dead, primitives.DestroyRequest{Erase: e}))
}

func TestErasedBytesAreGone(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		for _, f := range []primitives.Format{primitives.FormatRaw, primitives.FormatQcow2} {
			for _, e := range []primitives.Erase{primitives.EraseZero, primitives.EraseDiscard} {
				t.Run(kind+" "+string(f)+" "+e.String(), func(t *testing.T) {
					path := newDevice(t, kind)
					b := open(t, path)
					p := create(t, b, "a", f, seedA)
					files := spy(t, path)
					if !has(t, files, p) {
						t.Fatal("the bytes cannot be found even before")
					}
					destroy(t, b, vol("a"), e)
					if has(t, files, p) {
						t.Errorf("the bytes are still there after Destroy with %v", e)
					}
				})
			}
		}
	}
}

// TestTheEraseOfASharedLayerIsOwed destroys a snapshot whose file its volume
// needs: the bytes are erased when the volume goes, although that asks for none.
func TestTheEraseOfASharedLayerIsOwed(t *testing.T) {
	path := newDevice(t, "ext4")
	b := open(t, path)
	p := create(t, b, "a", primitives.FormatQcow2, seedA)
	must(t, snap(t.Context(), b, "s"))
	must(t, write(t, b, "a", primitives.WriteRequest{Op: op("w")}, content(seedB, mib)))
	files := spy(t, path)
	destroy(t, b, vol("a").At("s"), primitives.EraseZero)
	holds(t, b, vol("a"), content(seedB, mib))
	destroy(t, b, vol("a"), primitives.EraseNone)
	if has(t, files, p) {
		t.Errorf("the snapshot's bytes survived the erase that was asked for")
	}
	if !has(t, files, content(seedB, mib)) {
		t.Errorf("what nobody asked to erase was erased; the test proves nothing")
	}
}

// TestZerosAreNotPromisedWhereTheyErasedNothing: Btrfs writes elsewhere.
func TestZerosAreNotPromisedWhereTheyErasedNothing(t *testing.T) {
	b := open(t, newDevice(t, "btrfs"))
	d, err := b.Describe(t.Context())
	must(t, err)
	if slices.Contains(d.Caps.Erase, primitives.EraseZero) {
		t.Errorf("Erase = %v on Btrfs, want no zero", d.Caps.Erase)
	}
	create(t, b, "a", primitives.FormatRaw, seedA)
	dead, err := b.Delink(t.Context(), vol("a"), primitives.DelinkRequest{})
	must(t, err)
	err = b.Destroy(t.Context(), dead, primitives.DestroyRequest{Erase: primitives.EraseZero})
	refused(t, err, primitives.CodeUnsupported, "Destroy with zero")
	_, err = b.Relink(t.Context(), dead, primitives.URI{}, primitives.Op{})
	must(t, err) // refused means unchanged
	holds(t, b, vol("a"), content(seedA, mib))
}
