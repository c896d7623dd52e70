// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed cases.txt
var listed string

// aCase is one case of a list.
type aCase struct {
	id    string // such as "E20"
	part  string // of tenon that brings it; "" is what is there, "- REASON" that tenon does not meet it
	title string
	tests []string // that show it: "FOLDER NAME"
}

// aList is one list of cases, in order.
type aList struct {
	letters, title string
	cases          []*aCase
}

// book is every list, with the tests.
type book struct {
	lists    []aList
	byID     map[string]*aCase
	mistakes []string
}

// collect reads the lists and looks for the tests in tree.
func collect(tree fs.FS) (*book, error) {
	b, err := parse(listed)
	if err != nil {
		return nil, err
	}
	marks, err := scan(tree)
	if err != nil {
		return nil, err
	}
	for _, m := range marks {
		b.add(m)
	}
	return b, nil
}

// parse reads the lists.
func parse(text string) (*book, error) {
	b := &book{byID: map[string]*aCase{}}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if head, ok := strings.CutPrefix(line, "== "); ok {
			letters, title, _ := strings.Cut(head, " ")
			b.lists = append(b.lists, aList{letters: letters, title: title})
			continue
		}
		fields := strings.Split(line, "|")
		if len(fields) != 3 || len(b.lists) == 0 {
			return nil, fmt.Errorf("cases.txt:%d: expected NUMBER | PART | TITLE below a list's head", n)
		}
		c := &aCase{id: strings.TrimSpace(fields[0]), part: strings.TrimSpace(fields[1]), title: strings.TrimSpace(fields[2])}
		l := &b.lists[len(b.lists)-1]
		if !strings.HasPrefix(c.id, l.letters) || c.title == "" || b.byID[c.id] != nil {
			return nil, fmt.Errorf("cases.txt:%d: %q is not a new number of list %s with a title", n, c.id, l.letters)
		}
		b.byID[c.id] = c
		l.cases = append(l.cases, c)
	}
	return b, nil
}

// add notes that a test shows cases.
func (b *book) add(m mark) {
	for _, id := range m.ids {
		c := b.byID[id]
		if c == nil {
			b.mistakes = append(b.mistakes, fmt.Sprintf("%s: there is no case %s", m.place, id))
			continue
		}
		if !slices.Contains(c.tests, m.test) {
			c.tests = append(c.tests, m.test)
		}
	}
}

// cases returns every case in order.
func (b *book) cases() []*aCase {
	var all []*aCase
	for _, l := range b.lists {
		all = append(all, l.cases...)
	}
	return all
}

// wrong returns every mistake: marks of no case, and cases of nobody.
func (b *book) wrong() []string {
	all := slices.Clone(b.mistakes)
	for _, c := range b.cases() {
		if c.part == "" && len(c.tests) == 0 {
			all = append(all, fmt.Sprintf("%s (%s) has no test, and cases.txt names no part of tenon that will bring it", c.id, c.title))
		}
	}
	return all
}

// mostTests is how many tests of one case are named; the rest is counted.
const mostTests = 4

// page returns docs/cases.md.
func (b *book) page() string {
	var out strings.Builder
	out.WriteString(head)
	shown, owed, unmet := b.count()
	fmt.Fprintf(&out, "\n%d cases: %d have tests, %d wait for the part of tenon that brings them, %d are not met.\n", shown+owed+unmet, shown, owed, unmet)
	for _, l := range b.lists {
		fmt.Fprintf(&out, "\n## %s\n\n| Case | What happens | Shown by |\n|---|---|---|\n", l.title)
		for _, c := range l.cases {
			fmt.Fprintf(&out, "| %s | %s | %s |\n", c.id, c.title, c.shownBy())
		}
	}
	return out.String()
}

const head = `# Cases

Generated from the tests by ` + "`go run ./test/cases -write`" + `; ` + "`make test`" + ` fails when it is out of date. The lists stand in
` + "`test/cases/cases.txt`" + `. A test says which cases it shows in a comment of its own line, ` + "`// Cases: E20, C3.5`" + `, above the
test, the subtest or the row of its table. E are the cases of maintenance and moves, C3 the traps of hypervisors, S those of
the storage contract, T those of transfers and the archive.
`

func (b *book) count() (shown, owed, unmet int) {
	for _, c := range b.cases() {
		switch {
		case len(c.tests) > 0:
			shown++
		case strings.HasPrefix(c.part, "- "):
			unmet++
		default:
			owed++
		}
	}
	return shown, owed, unmet
}

// shownBy names the tests of a case, or who brings it.
func (c *aCase) shownBy() string {
	if reason, unmet := strings.CutPrefix(c.part, "- "); unmet && len(c.tests) == 0 {
		return "*not met: " + reason + "*"
	}
	if len(c.tests) == 0 {
		return "*to come with: " + c.part + "*"
	}
	slices.Sort(c.tests)
	var names []string
	for _, t := range c.tests[:min(len(c.tests), mostTests)] {
		names = append(names, "`"+strings.ReplaceAll(t, "|", `\|`)+"`")
	}
	text := strings.Join(names, ", ")
	if more := len(c.tests) - mostTests; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if c.part != "" {
		text += "; more with: " + c.part
	}
	return text
}
