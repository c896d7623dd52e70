// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// moduleOrder returns the modules wanted and all that they depend on, each after what it depends on. A module's own
// .modinfo section names its dependencies, so no depmod has to run.
func moduleOrder(wanted []string, read func(module string) ([]byte, error)) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(string) error
	visit = func(module string) error {
		if seen[module] {
			return nil
		}
		seen[module] = true
		object, err := read(module)
		if err != nil {
			return err
		}
		needs, err := moduleNeeds(object)
		if err != nil {
			return fmt.Errorf("kernel module %s: %w", module, err)
		}
		for _, need := range needs {
			if err := visit(need); err != nil {
				return fmt.Errorf("%s needs %w", module, err)
			}
		}
		order = append(order, module)
		return nil
	}
	for _, module := range wanted {
		if err := visit(module); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleNeeds returns the names of the modules that a kernel module's object file says it depends on.
func moduleNeeds(object []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	return parseDepends(info), nil
}

// parseDepends finds "depends=a,b" among the zero-terminated fields of a .modinfo section.
func parseDepends(info []byte) []string {
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(list, ",")
		}
	}
	return nil
}

// findModules maps the name of each kernel module below root to its file, names in the kernel's spelling (_ for -).
func findModules(root string) (map[string]string, error) {
	modules := map[string]string{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok && err == nil {
			modules[strings.ReplaceAll(name, "-", "_")] = file
		}
		return err
	})
	return modules, err
}

// libraryFolders is where a Debian program's shared libraries live.
var libraryFolders = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"}

// A closure collects a program's shared libraries, from an unpacked package where it has them and from this machine otherwise.
type closure struct {
	unpacked string
	files    map[string]string // path in the guest -> path here
}

// add puts a program that lies at file here and at inside in the guest into the closure, with everything that it loads.
func (c *closure) add(inside, file string) error {
	if _, done := c.files[inside]; done {
		return nil
	}
	c.files[inside] = file
	program, err := elf.Open(file)
	if err != nil {
		return err
	}
	defer program.Close()
	if loader := interpreter(program); loader != "" {
		if err := c.addLibrary(loader); err != nil {
			return err
		}
	}
	libraries, err := program.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, library := range libraries {
		if err := c.addLibrary(library); err != nil {
			return fmt.Errorf("%s: %w", inside, err)
		}
	}
	return nil
}

// addLibrary adds a library given by its name, or the dynamic loader given by its path.
func (c *closure) addLibrary(library string) error {
	if path.IsAbs(library) {
		return c.add(library, library)
	}
	for _, folder := range libraryFolders {
		for _, root := range []string{c.unpacked, "/"} {
			file := filepath.Join(root, folder, library)
			if _, err := os.Stat(file); err == nil {
				return c.add(path.Join(libraryFolders[0], library), file)
			}
		}
	}
	return fmt.Errorf("shared library %s is in none of %s", library, strings.Join(libraryFolders, ", "))
}

func interpreter(program *elf.File) string {
	for _, p := range program.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		text := make([]byte, p.Filesz)
		if _, err := p.ReadAt(text, 0); err != nil {
			return ""
		}
		return strings.TrimRight(string(text), "\x00")
	}
	return ""
}
