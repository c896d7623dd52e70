// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/tenon-storage/tenon/primitives"
)

var importChecks = []check{
	{cases: []int{85}, name: "an imported image is the volume, uncopied", needs: []need{importer, adoptable}, run: importAdopts},
	{cases: []int{85}, name: "an image that refers to other files is not imported", needs: []need{importer, adoptable}, run: importRefusesReferences},
	{cases: []int{84, 85}, name: "an import takes the caller's word for the format, or refuses it", needs: []need{importer, adoptable}, run: importDoesNotProbe},
	{cases: []int{85}, name: "an import that cannot be done changes nothing", needs: []need{importer, adoptable}, run: importRefusals},
}

// imports reports whether the store makes volumes of that format.
func (c *C) imports(f primitives.Format) bool { return slices.Contains(c.p.desc.Caps.Formats, f) }

// lay puts an image file where the driver can adopt it.
func (c *C) lay(name string, content []byte) string {
	c.Helper()
	path := filepath.Join(c.store.ImportDir(c.TB), name)
	c.must(os.WriteFile(path, content, 0o600), "write an image file")
	return path
}

func (c *C) importFrom(path string, f primitives.Format) primitives.ImportRequest {
	return primitives.ImportRequest{Op: c.op(), Path: path, Format: f}
}

// Case 85. Both names lead to the same bytes, whichever is written.
func importAdopts(c *C) {
	if !c.imports(primitives.FormatRaw) {
		c.skip(Reason{Declared, "Formats has no raw"})
	}
	b := c.open()
	img := c.full(c.seed())
	path := c.lay("disk.img", img)
	r := c.importFrom(path, primitives.FormatRaw)
	made, err := b.Facets().Import.Import(c.ctx, c.u("vol"), r)
	c.must(err, "import")
	c.sound(made)
	again, err := b.Facets().Import.Import(c.ctx, c.u("vol"), r)
	c.must(err, "import, repeated")
	c.repeats(again, made, "import")
	if made.Size != img.size() || made.Format != primitives.FormatRaw || made.State != primitives.Ready {
		c.Errorf("import = %d bytes of %q, %v; want %d of raw, ready", made.Size, made.Format, made.State, img.size())
	}
	c.holds(b, c.u("vol"), img)
	c.overwrite(b, c.u("vol"), img, c.seed(), 4096, 100_000)
	onDisk, err := os.ReadFile(path)
	c.must(err, "read the image file")
	if d := img.differs(onDisk); d != "" {
		c.Errorf("the image file after a write to the volume: %s", d)
	}
	b = c.crashAndReopen()
	c.holds(b, c.u("vol"), img)
	c.delink(b, c.u("vol"))
	if _, err := os.Stat(path); err != nil {
		c.Errorf("the image file after delink of the volume: %v", err)
	}
}

// Case 85. The clean image is the control: the header is not what is refused.
func importRefusesReferences(c *C) {
	if !c.imports(primitives.FormatQcow2) {
		c.skip(Reason{Declared, "Formats has no qcow2"})
	}
	b := c.open()
	size := c.p.size
	made, err := b.Facets().Import.Import(c.ctx, c.u("clean"), c.importFrom(c.lay("clean.qcow2", qcow2Image(uint64(size), "", false)), primitives.FormatQcow2))
	c.must(err, "import of a qcow2 image")
	if made.Size != size || made.Format != primitives.FormatQcow2 {
		c.Errorf("import = %d bytes of %q, want %d of qcow2", made.Size, made.Format, size)
	}
	c.holds(b, c.u("clean"), make(image, size))
	for name, content := range map[string][]byte{
		"absolute": qcow2Image(uint64(size), "/etc/passwd", false),
		"relative": qcow2Image(uint64(size), "clean.qcow2", false),
		"json":     qcow2Image(uint64(size), `json:{"driver":"file","filename":"/etc/passwd"}`, false),
		"data":     qcow2Image(uint64(size), "", true),
	} {
		_, err := b.Facets().Import.Import(c.ctx, c.u(name), c.importFrom(c.lay(name+".qcow2", content), primitives.FormatQcow2))
		c.refused(err, "import of an image with a reference: "+name, primitives.CodeInvalid)
		c.absent(b, c.u(name))
	}
	c.same(c.names(b), []string{"clean"}, "the listing")
}

// Cases 84, 85.
func importDoesNotProbe(c *C) {
	b := c.open()
	qcow2 := qcow2Image(1<<30, "/etc/passwd", false)
	if c.imports(primitives.FormatRaw) {
		img := make(image, roundUp(int64(len(qcow2)), c.p.desc.Granule))
		copy(img, qcow2)
		made, err := b.Facets().Import.Import(c.ctx, c.u("raw"), c.importFrom(c.lay("looks-like.qcow2", img), primitives.FormatRaw))
		c.must(err, "import as raw of bytes that look like qcow2")
		if made.Format != primitives.FormatRaw || made.Size != img.size() {
			c.Errorf("import = %d bytes of %q, want %d of raw", made.Size, made.Format, img.size())
		}
		c.holds(b, c.u("raw"), img)
	}
	path := c.lay("noise.img", c.full(c.seed()))
	_, err := b.Facets().Import.Import(c.ctx, c.u("noise"), c.importFrom(path, primitives.FormatQcow2))
	c.refused(err, "import of noise as qcow2", primitives.CodeInvalid, primitives.CodeUnsupported)
	_, err = b.Facets().Import.Import(c.ctx, c.u("noise"), c.importFrom(path, ""))
	c.refused(err, "import without a format", primitives.CodeInvalid)
	_, err = b.Facets().Import.Import(c.ctx, c.u("noise"), c.importFrom(path, "no such format"))
	c.refused(err, "import of an unknown format", primitives.CodeInvalid, primitives.CodeUnsupported)
	c.absent(b, c.u("noise"))
}

// Case 85.
func importRefusals(c *C) {
	b := c.open()
	img := c.full(c.seed())
	c.create(b, "taken", img)
	format := c.p.desc.Caps.Formats[0]
	path := c.lay("disk.img", c.full(c.seed()))
	_, err := b.Facets().Import.Import(c.ctx, c.u("taken"), c.importFrom(path, primitives.FormatRaw))
	c.refused(err, "import to a taken name", primitives.CodeExists)
	_, err = b.Facets().Import.Import(c.ctx, c.u("vol"), c.importFrom("disk.img", format))
	c.refused(err, "import of a relative path", primitives.CodeInvalid)
	_, err = b.Facets().Import.Import(c.ctx, c.u("vol"), c.importFrom(path+"-nothing", format))
	c.refused(err, "import of an absent file", primitives.CodeInvalid, primitives.CodeNotFound)
	_, err = b.Facets().Import.Import(c.ctx, c.u("vol"), c.importFrom(filepath.Dir(path), format))
	c.refused(err, "import of a folder", primitives.CodeInvalid, primitives.CodeUnsupported)
	c.absent(b, c.u("vol"))
	c.holds(b, c.u("taken"), img)
}
