// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

func TestEveryCaseHasATestOrAPartThatBringsItAndEveryMarkIsACase(t *testing.T) {
	b, err := collect(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range b.wrong() {
		t.Error(wrong)
	}
	if n := len(b.cases()); n < 350 {
		t.Errorf("the lists hold %d cases, want all of them", n)
	}
}

func TestThePageIsWhatTheTestsSay(t *testing.T) {
	b, err := collect(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(root + "/" + page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(text), "\n"), strings.Split(b.page(), "\n")); diff != "" {
		t.Errorf("%s is out of date: go run ./test/cases -write (-is +want):\n%s", page, diff)
	}
}

const planted = `package x_test

// TestAbove is documented.
//
// Cases: E20, C3.5
func TestAbove(t *testing.T) {}

// Cases: S7
func TestTable(t *testing.T) {
	for name, c := range map[string]int{
		// Cases: T3
		"a row": 1,
		"another": 2, // E21
	} {
		t.Run(name, nil)
	}
	// Cases: E22
	t.Run("a subtest", func(t *testing.T) {
		// Cases: E23
		work()
	})
	work() // prose about E24 shows nothing
}

func TestBehind(t *testing.T) { // E25, C3.2
}

var rows = []row{
	{"InATable", func(s *suite) { // E26
	}},
	{name: "by its field", run: f}, // E27
}
`

func TestMarksAreFoundAboveBehindAndInTests(t *testing.T) {
	marks, err := scan(fstest.MapFS{
		"x/x_test.go":          {Data: []byte(planted)},
		"x/x.go":               {Data: []byte("package x\n\n// Cases: E1\nfunc notATest() {}\n")},
		"build/old_test.go":    {Data: []byte("not Go")},
		"x/testdata/y_test.go": {Data: []byte("not Go")},
		"storage/storagetest/case_x.go": {Data: []byte(`package storagetest

var checks = []check{{cases: []int{11, 12}, name: "a promise", run: f}}
`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range marks {
		got = append(got, strings.Join(m.ids, "+")+" "+m.test)
	}
	slices.Sort(got)
	want := []string{
		"E20+C3.5 x TestAbove",
		"E21 x TestTable/another",
		"E22 x TestTable/a_subtest",
		"E23 x TestTable/a_subtest",
		"E25+C3.2 x TestBehind",
		"E26 x InATable",
		"E27 x by_its_field",
		"S11+S12 storage/storagetest a_promise",
		"S7 x TestTable",
		"T3 x TestTable/a_row",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
}

func TestAMarkOfNoCaseAndACaseOfNobodyAreFound(t *testing.T) {
	b, err := parse("== E Things\nE1 | | shown\nE2 | | of nobody\nE3 | xen | to come\nE4 | - it cannot be | odd\n")
	if err != nil {
		t.Fatal(err)
	}
	b.add(mark{ids: []string{"E1", "E9"}, test: "x TestX", place: "x/x_test.go:7"})
	got := b.wrong()
	if len(got) != 2 || !strings.Contains(got[0], "x_test.go:7: there is no case E9") || !strings.Contains(got[1], "E2 (of nobody)") {
		t.Errorf("wrong = %q, want the mark of E9 and the case E2", got)
	}
	for _, line := range []string{"| E1 | shown | `x TestX` |", "| E3 | to come | *to come with: xen* |", "| E4 | odd | *not met: it cannot be* |", "4 cases: 1 have tests, 2 wait for the part of tenon that brings them, 1 are not met"} {
		if !strings.Contains(b.page(), line) {
			t.Errorf("the page lacks %q:\n%s", line, b.page())
		}
	}
}

func TestAMarkWithoutATestAndAMistypedListAreErrors(t *testing.T) {
	if _, err := scan(fstest.MapFS{"x/x_test.go": {Data: []byte("package x_test\n\n// Cases: E20\n\nvar x int\n")}}); err == nil {
		t.Error("a mark above no test is no error")
	}
	marks, err := scan(fstest.MapFS{"x/x_test.go": {Data: []byte("package x_test\n\n// Cases: E20 and E21\nfunc TestX(t *testing.T) {}\n")}})
	if err != nil || len(marks) != 1 || marks[0].ids[0] != "E20 and E21" {
		t.Errorf("marks = %v, %v; want the mistyped list as a number that is none", marks, err)
	}
	for _, bad := range []string{"E1 | | before a head\n", "== E Things\nE1 | twice\n", "== E Things\nE1 | | a\nE1 | | b\n", "== E Things\nS1 | | a\n", "== E Things\nE1 | |\n"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("parse(%q) is no error", bad)
		}
	}
}
