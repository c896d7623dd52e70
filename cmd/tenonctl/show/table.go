// SPDX-License-Identifier: Apache-2.0

package show

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// gap stands between columns.
const gap = "  "

// table is rows under a header. A header that begins with '>' aligns its column
// to the right.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// String prints the table with aligned columns and without trailing spaces.
func (t *table) String() string {
	names := make([]string, len(t.header))
	right := make([]bool, len(t.header))
	for i, h := range t.header {
		names[i], right[i] = strings.TrimPrefix(h, ">"), strings.HasPrefix(h, ">")
	}
	all := append([][]string{names}, t.rows...)
	widths := make([]int, len(names))
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range all {
		cells := make([]string, len(row))
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if right[i] {
				cells[i] = pad + cell
			} else {
				cells[i] = cell + pad
			}
		}
		b.WriteString(strings.TrimRight(strings.Join(cells, gap), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// sheet is one thing, line by line: a name and its value.
type sheet struct{ lines [][2]string }

// add adds a line; a value of several lines is indented under its name.
func (s *sheet) add(name, value string) { s.lines = append(s.lines, [2]string{name, value}) }

// addIf adds a line unless the value is empty.
func (s *sheet) addIf(name, value string) {
	if value != "" {
		s.add(name, value)
	}
}

// addMap adds a line for each key, in order.
func (s *sheet) addMap(name string, m map[string]string) {
	for i, key := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			name = ""
		}
		s.add(name, key+" = "+m[key])
	}
}

// addList adds a line for each value.
func (s *sheet) addList(name string, values []string) {
	for i, v := range values {
		if i > 0 {
			name = ""
		}
		s.add(name, v)
	}
}

// String prints the sheet with aligned values.
func (s *sheet) String() string {
	width := 0
	for _, l := range s.lines {
		width = max(width, utf8.RuneCountInString(l[0]))
	}
	var b strings.Builder
	for _, l := range s.lines {
		pad := strings.Repeat(" ", width-utf8.RuneCountInString(l[0]))
		b.WriteString(strings.TrimRight(l[0]+pad+gap+l[1], " "))
		b.WriteByte('\n')
	}
	return b.String()
}
