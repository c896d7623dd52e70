// SPDX-License-Identifier: Apache-2.0

package tenon_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/tenon-storage/tenon"

// A source is one parsed Go file.
type source struct {
	path      string // from the module's root, with slashes
	dir       string // its folder, "." for the root
	test      bool   // its name ends in _test.go
	generated bool   // it came out of the protocol buffers' compiler
	firstLine string
	lines     int
	file      *ast.File
	imports   []string
}

// parseTree parses each Go file of the module, those of every build tag, and leaves out what Go leaves out too: testdata, hidden
// folders, folders that are modules of their own, and build, which holds what was built.
func parseTree(tree fs.FS) ([]source, error) {
	var sources []source
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return enter(tree, name)
		case path.Ext(name) != ".go":
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		s, err := parseSource(name, text)
		sources = append(sources, s)
		return err
	})
	return sources, err
}

// enter returns fs.SkipDir for a folder that holds nothing of the module.
func enter(tree fs.FS, dir string) error {
	base := path.Base(dir)
	if dir == "." {
		return nil
	}
	if base == "testdata" || dir == "build" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return fs.SkipDir
	}
	if _, err := fs.Stat(tree, path.Join(dir, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func parseSource(name string, text []byte) (source, error) {
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return source{}, err
	}
	s := source{
		path:      name,
		dir:       path.Dir(name),
		test:      strings.HasSuffix(name, "_test.go"),
		generated: strings.HasSuffix(name, ".pb.go"),
		lines:     strings.Count(string(text), "\n"),
		file:      file,
	}
	s.firstLine, _, _ = strings.Cut(string(text), "\n")
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return source{}, err
		}
		s.imports = append(s.imports, imported)
	}
	return s, nil
}

// ours returns the folder of a package of this module.
func ours(imported string) (dir string, ok bool) {
	if imported == module {
		return ".", true
	}
	return strings.CutPrefix(imported, module+"/")
}

// standard tells whether a package belongs to Go's standard library.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// below tells whether dir is one of parents or lies below one.
func below(dir string, parents ...string) bool {
	return slices.ContainsFunc(parents, func(parent string) bool {
		return dir == parent || strings.HasPrefix(dir, parent+"/")
	})
}

// part returns the first n elements of dir: the part of the house that it belongs to.
func part(dir string, n int) string {
	elements := strings.Split(dir, "/")
	return strings.Join(elements[:min(n, len(elements))], "/")
}

// calls tells whether s calls function of the package that it imports by that path.
func (s source) calls(imported, function string) bool {
	name := s.nameOf(imported)
	if name == "" {
		return false
	}
	found := false
	ast.Inspect(s.file, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && isSelector(call.Fun, name, function) {
			found = true
		}
		return !found
	})
	return found
}

// mentions tells whether s uses a name of the package that it imports by that path, in a call or as a value.
func (s source) mentions(imported, selected string) bool {
	name := s.nameOf(imported)
	if name == "" {
		return false
	}
	found := false
	ast.Inspect(s.file, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok && isSelector(e, name, selected) {
			found = true
		}
		return !found
	})
	return found
}

// nameOf returns the name that s has for a package, "" if it does not import it.
func (s source) nameOf(imported string) string {
	i := slices.Index(s.imports, imported)
	if i < 0 {
		return ""
	}
	if alias := s.file.Imports[i].Name; alias != nil {
		return alias.Name
	}
	return path.Base(imported)
}

func isSelector(e ast.Expr, pkg, name string) bool {
	selector, ok := e.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != name {
		return false
	}
	x, ok := selector.X.(*ast.Ident)
	return ok && x.Name == pkg
}
