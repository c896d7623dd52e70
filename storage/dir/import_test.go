// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/dir"
)

func adopt(t testing.TB, b primitives.Backend, name, path string, f primitives.Format) (primitives.Object, error) {
	t.Helper()
	return b.Facets().Import.Import(t.Context(), vol(name), primitives.ImportRequest{Op: op("import-" + name), Path: path, Format: f})
}

// TestAnImageIsAdoptedUnderItsGuest adopts a disk that QEMU has open and writes to.
func TestAnImageIsAdoptedUnderItsGuest(t *testing.T) {
	for _, f := range []primitives.Format{primitives.FormatRaw, primitives.FormatQcow2} {
		t.Run(string(f), func(t *testing.T) {
			path := newDevice(t, "ext4")
			image := filepath.Join(filepath.Dir(path), "disk.img")
			run(t, "qemu-img", "create", "-q", "-f", string(f), image, "1M")
			g := openGuest(t, primitives.Mapping{Access: primitives.ReadWrite, File: &primitives.FileMap{Path: image, Format: f}})
			want := content(seedA, 64<<10)
			_, err := g.WriteAt(want, 0)
			must(t, err)
			must(t, g.Flush())

			b := open(t, path)
			o, err := adopt(t, b, "a", image, f)
			must(t, err)
			if o.Size != mib || o.Format != f || o.State != primitives.Ready {
				t.Errorf("Import() = %s of format %s, want 1 MiB of %s, ready", describe(o), o.Format, f)
			}
			m := active(t, b, "a")
			var one, two unix.Stat_t
			must(t, unix.Stat(image, &one))
			must(t, unix.Stat(m.File.Path, &two))
			if one.Ino != two.Ino {
				t.Errorf("the mapping leads to another file than the guest has open")
			}
			_, err = b.Read(t.Context(), vol("a"), primitives.Op{})
			refused(t, err, primitives.CodeInUse, "Read of an attached disk")
			copy(want[4096:], content(seedB, 4096))
			_, err = g.WriteAt(want, 0)
			must(t, err)
			must(t, g.Close())
			must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
			holds(t, b, vol("a"), want)
		})
	}
}

func TestWhatCannotBeAdoptedInPlaceIsRefused(t *testing.T) {
	path := newDevice(t, "ext4")
	beside := filepath.Dir(path)
	b := open(t, path)
	file := func(name string, data []byte) string {
		p := filepath.Join(beside, name)
		must(t, os.WriteFile(p, data, 0o600))
		return p
	}
	raw := file("raw", content(seedA, mib))
	link := filepath.Join(beside, "link")
	must(t, os.Symlink(raw, link))
	fifo := filepath.Join(beside, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	elsewhere := filepath.Join(on(t, "tmpfs"), "raw")
	must(t, os.WriteFile(elsewhere, content(seedA, mib), 0o600))
	backed := filepath.Join(beside, "backed")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", backed)
	split := filepath.Join(beside, "split")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+split+".raw,data_file_raw=on", split, "1M")
	locked := filepath.Join(beside, "locked")
	// Not luks: making a key measures the processor, and gives up on a busy host.
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=s3cret", "-o", "encrypt.format=aes,encrypt.key-secret=s", locked, "1M")

	cases := map[string]struct {
		path   string
		format primitives.Format
		want   primitives.Code
	}{
		"a symbolic link":           {link, primitives.FormatRaw, primitives.CodeUnsupported},
		"a pipe":                    {fifo, primitives.FormatRaw, primitives.CodeUnsupported},
		"a device":                  {"/dev/null", primitives.FormatRaw, primitives.CodeUnsupported},
		"a folder":                  {beside, primitives.FormatRaw, primitives.CodeUnsupported},
		"another file system":       {elsewhere, primitives.FormatRaw, primitives.CodeUnsupported},
		"nothing":                   {raw + "x", primitives.FormatRaw, primitives.CodeInvalid},
		"a relative path":           {"raw", primitives.FormatRaw, primitives.CodeInvalid},
		"raw called qcow2":          {raw, primitives.FormatQcow2, primitives.CodeInvalid},
		"no format":                 {raw, "", primitives.CodeInvalid},
		"an empty file":             {file("empty", nil), primitives.FormatRaw, primitives.CodeInvalid},
		"a broken qcow2":            {file("broken", append([]byte("QFI\xfb\x00\x00\x00\x03"), make([]byte, 4096)...)), primitives.FormatQcow2, primitives.CodeInvalid},
		"qcow2 with a backing file": {backed, primitives.FormatQcow2, primitives.CodeInvalid},
		"qcow2 with a data file":    {split, primitives.FormatQcow2, primitives.CodeInvalid},
		"encrypted qcow2":           {locked, primitives.FormatQcow2, primitives.CodeInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := adopt(t, b, "refused", c.path, c.format)
			refused(t, err, c.want, "Import")
			if _, err := b.Stat(t.Context(), vol("refused"), primitives.Op{}); err == nil {
				t.Errorf("a refused import left a volume")
			}
		})
	}
	if left := entries(t, filepath.Join(path, "data")); len(left) != 0 {
		t.Errorf("refused imports left %v", left)
	}
}

func TestAnAdoptedFileStaysItsOwners(t *testing.T) {
	path := newDevice(t, "ext4")
	image := filepath.Join(filepath.Dir(path), "disk.img")
	data := append(content(seedA, mib), 7) // not a whole number of sectors
	must(t, os.WriteFile(image, data, 0o640))
	b := open(t, path)
	o, err := adopt(t, b, "a", image, primitives.FormatRaw)
	must(t, err)
	if o.Size != mib+512 {
		t.Errorf("Import() = %d bytes, want the last sector whole", o.Size)
	}
	holds(t, b, vol("a"), data)
	if info, err := os.Stat(image); err != nil || info.Size() != mib+1 || info.Mode().Perm() != 0o640 {
		t.Errorf("the adopted file was changed: %v", info)
	}
	_, err = adopt(t, b, "again", image, primitives.FormatRaw)
	if e := refused(t, err, primitives.CodeExists, "Import of an adopted file"); !strings.Contains(e.Error(), "d/a") {
		t.Errorf("Import of an adopted file = %v, want the volume named", e)
	}

	dead, err := b.Delink(t.Context(), vol("a"), primitives.DelinkRequest{})
	must(t, err)
	err = b.Destroy(t.Context(), dead, primitives.DestroyRequest{Erase: primitives.EraseZero})
	refused(t, err, primitives.CodeUnsupported, "Destroy with erase of a file with another name")
	must(t, b.Destroy(t.Context(), dead, primitives.DestroyRequest{}))
	if got, err := os.ReadFile(image); err != nil || len(got) != len(data) {
		t.Errorf("destroy took the owner's file: %v", err)
	}
}

func FuzzParseQcow2(f *testing.F) {
	header := make([]byte, 112)
	copy(header, "QFI\xfb")
	binary.BigEndian.PutUint32(header[4:], 3)
	binary.BigEndian.PutUint64(header[24:], mib)
	f.Add(header)
	f.Add(header[:72])
	f.Add([]byte("QFI\xfb"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := dir.ParseQcow2(b)
		if err != nil {
			return
		}
		if h.Size < 0 || len(b) < 72 {
			t.Errorf("parseQcow2 = %+v of %d bytes", h, len(b))
		}
		// What decides about references must not be overlooked.
		if backing := binary.BigEndian.Uint64(b[8:]) != 0; backing != h.BackingFile {
			t.Errorf("BackingFile = %t, want %t", h.BackingFile, backing)
		}
		if h.Version == 3 && (b[79]&4 != 0) != h.DataFile {
			t.Errorf("DataFile = %t", h.DataFile)
		}
	})
}
