// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// mark says that a test shows cases.
type mark struct {
	ids   []string
	test  string // "FOLDER NAME", or "FOLDER NAME/SUBTEST"
	place string // file and line
}

// A comment shows cases when it is one line of this kind. The first is what new tests write; the second, nothing but
// numbers, stands behind the rows of older tables.
var (
	marked  = regexp.MustCompile(`^// Cases?: (.*)$`)
	bare    = regexp.MustCompile(`^// (?:E|C3\.|S|T)\d+(?:, (?:E|C3\.|S|T)\d+)*$`)
	numbers = regexp.MustCompile(`^(?:E|C3\.|S|T)\d+$`)
)

// suites are folders whose checks are tests although their files are not called so.
var suites = []string{"storage/storagetest", "hypervisor/hypervisortest"}

// scan finds every mark in tree.
func scan(tree fs.FS) ([]mark, error) {
	var all []mark
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "build" || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		case !strings.HasSuffix(name, "_test.go") && !slices.Contains(suites, path.Dir(name)):
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		found, err := scanFile(name, text)
		all = append(all, found...)
		return err
	})
	return all, err
}

// source is one parsed file.
type source struct {
	set    *token.FileSet
	file   *ast.File
	folder string
}

func scanFile(name string, text []byte) ([]mark, error) {
	s := source{set: token.NewFileSet(), folder: path.Dir(name)}
	file, err := parser.ParseFile(s.set, name, text, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	s.file = file
	all := s.checks()
	for _, group := range file.Comments {
		for _, c := range group.List {
			ids := idsOf(c.Text)
			if len(ids) == 0 {
				continue
			}
			m := mark{ids: ids, place: fmt.Sprintf("%s:%d", name, s.line(c.Pos()))}
			if m.test = s.testAt(group, c); m.test == "" {
				return nil, fmt.Errorf("%s: the cases %v stand above no test", m.place, ids)
			}
			all = append(all, m)
		}
	}
	return all, nil
}

// idsOf returns the cases that a comment shows. What is written where a number should be is returned too, so that it
// is found to be none.
func idsOf(text string) []string {
	list, ok := "", bare.MatchString(text)
	if ok {
		list = strings.TrimPrefix(text, "// ")
	} else if m := marked.FindStringSubmatch(text); m != nil {
		list = m[1]
	}
	var ids []string
	for _, id := range strings.Split(strings.TrimSuffix(list, "."), ",") {
		if id = strings.TrimSpace(id); id != "" {
			ids = append(ids, id)
		}
	}
	if !ok && !strings.HasPrefix(text, "// Cases:") && !slices.ContainsFunc(ids, numbers.MatchString) {
		return nil // prose that begins with the word "Case:"
	}
	return ids
}

func (s source) line(p token.Pos) int { return s.set.Position(p).Line }

// testAt returns the test that a comment belongs to: the function that it documents, or the subtest or row that it
// stands above, behind or in.
func (s source) testAt(group *ast.CommentGroup, c *ast.Comment) string {
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		switch {
		case !ok:
			if list, ok := d.(*ast.GenDecl); ok && list.Pos() <= c.Pos() && c.End() <= list.End() {
				return s.named("", s.rowAt(list, group, c)) // a suite's table
			}
		case f.Doc == group, s.line(f.Pos()) == s.line(c.Pos()), s.line(f.Pos()) == s.line(group.End())+1:
			return s.named(f.Name.Name, "")
		case f.Pos() <= c.Pos() && c.End() <= f.End():
			return s.named(f.Name.Name, s.rowAt(f, group, c))
		}
	}
	return ""
}

// named is how a test is called in the page. A row of a suite stands in no function.
func (s source) named(function, row string) string {
	name := strings.Trim(function+"/"+strings.ReplaceAll(row, " ", "_"), "/")
	if name == "" {
		return ""
	}
	return s.folder + " " + name
}

// rowAt returns the name of the subtest or row that a comment belongs to, or "": the string that begins on the
// comment's line or the next one, or else the innermost row that the comment is in.
func (s source) rowAt(in ast.Node, group *ast.CommentGroup, c *ast.Comment) string {
	beside, around := "", ""
	ast.Inspect(in, func(n ast.Node) bool {
		if n == nil {
			return false
		}
		text, ok := nameOf(n)
		if !ok {
			return true
		}
		switch at := s.line(n.Pos()); {
		case beside == "" && (at == s.line(c.Pos()) || at == s.line(group.End())+1):
			beside = text
		case n.Pos() <= c.Pos() && c.End() <= n.End():
			around = text
		}
		return true
	})
	if beside != "" {
		return beside
	}
	return around
}

// nameOf returns the name of a subtest, t.Run("NAME", …), or of a row: {"NAME", …}, {name: "NAME", …} or "NAME": {…}.
func nameOf(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.SelectorExpr); ok && len(n.Args) == 2 && (f.Sel.Name == "Run" || f.Sel.Name == "sub") {
			return literal(n.Args[0])
		}
	case *ast.KeyValueExpr:
		return literal(n.Key)
	case *ast.CompositeLit:
		if len(n.Elts) == 0 {
			return "", false
		}
		if text, ok := literal(n.Elts[0]); ok {
			return text, true
		}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && (key.Name == "name" || key.Name == "promise") {
					return literal(kv.Value)
				}
			}
		}
	}
	return "", false
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}

// checks returns the marks of the storage suite, whose checks carry their numbers as {cases: []int{11}, name: "…"}.
func (s source) checks() []mark {
	if s.folder != suites[0] {
		return nil
	}
	var all []mark
	ast.Inspect(s.file, func(n ast.Node) bool {
		row, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		name, named := nameOf(row)
		ids := checkNumbers(row)
		if named && len(ids) > 0 {
			all = append(all, mark{ids: ids, test: s.folder + " " + strings.ReplaceAll(name, " ", "_"), place: s.set.Position(row.Pos()).String()})
		}
		return true
	})
	return all
}

func checkNumbers(row *ast.CompositeLit) []string {
	var ids []string
	for _, e := range row.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		key, ok := kv.Key.(*ast.Ident)
		list, isList := kv.Value.(*ast.CompositeLit)
		if !ok || key.Name != "cases" || !isList {
			continue
		}
		for _, n := range list.Elts {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.INT {
				ids = append(ids, "S"+l.Value)
			}
		}
	}
	return ids
}
