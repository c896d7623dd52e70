// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// An event is one line of "go test -json"; go doc test2json explains it.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of a build event
	FailedBuild string // why a package failed without running
	Test        string
	Elapsed     float64
	Output      string
}

// Counts says how many tests came out how. A test that has subtests counts by them, and by itself only if it failed on its own.
type Counts struct {
	Passed, Failed, Skipped int
	broken                  int // packages that failed outside of a test: they did not compile, or crashed
}

func (c Counts) good() bool {
	return c.Failed == 0 && c.broken == 0 && c.Passed > 0
}

// A test is one test or subtest on its way.
type test struct {
	pkg, name string
	output    strings.Builder
	parent    bool
	failed    bool // one of its subtests did
	ended     bool
}

// A reader keeps what events have told so far.
type reader struct {
	out      io.Writer
	counts   Counts
	tests    map[string]*test            // by package and name
	loose    map[string]*strings.Builder // output of packages and builds, outside of tests
	failures map[string]int              // by package
	skips    []string
}

// summarize reads events until the end and writes the report as they come.
func summarize(in io.Reader, out io.Writer) (Counts, error) {
	r := &reader{
		out:      out,
		tests:    map[string]*test{},
		loose:    map[string]*strings.Builder{},
		failures: map[string]int{},
	}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(out, "%s", line) // something that the go command says before it speaks JSON
			} else {
				r.take(e)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return r.counts, err
		}
	}
	r.close()
	return r.counts, nil
}

func (r *reader) take(e event) {
	switch {
	case e.ImportPath != "":
		r.looseOutput(e.ImportPath).WriteString(e.Output)
	case e.Test != "":
		r.takeTest(e)
	default:
		r.takePackage(e)
	}
}

func (r *reader) takeTest(e event) {
	t := r.test(e.Package, e.Test)
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "run":
		if above := r.above(t); above != nil {
			above.parent = true
		}
	case "pass":
		if !t.parent {
			r.counts.Passed++
		}
	case "skip":
		r.counts.Skipped++
		r.skips = append(r.skips, fmt.Sprintf("%s %s: %s", short(t.pkg), t.name, reason(t.output.String())))
	case "fail":
		r.fail(t)
	default: // pause, cont, bench, artifacts: nothing to report
		return
	}
	if e.Action != "output" && e.Action != "run" {
		t.ended = true
		t.output.Reset()
	}
}

func (r *reader) fail(t *test) {
	if above := r.above(t); above != nil {
		above.failed = true
	}
	if t.failed {
		return // its subtest has been reported
	}
	r.counts.Failed++
	r.failures[t.pkg]++
	fmt.Fprintf(r.out, "FAIL  %s %s\n%s", short(t.pkg), t.name, indent(t.output.String()))
}

// failUnended reports the tests that were running when their process ended. A parent's own output is with its subtest's.
func (r *reader) failUnended(pkg string) {
	for _, key := range slices.Sorted(maps.Keys(r.tests)) {
		if t := r.tests[key]; t.pkg == pkg && !t.ended && !t.parent {
			t.ended = true
			r.fail(t)
		}
	}
}

func (r *reader) takePackage(e event) {
	switch e.Action {
	case "output":
		r.looseOutput(e.Package).WriteString(e.Output)
	case "pass":
		fmt.Fprintf(r.out, "ok    %s  %.1f s\n", short(e.Package), e.Elapsed)
	case "skip":
		fmt.Fprintf(r.out, "-     %s  no tests\n", short(e.Package))
	case "fail":
		r.failUnended(e.Package)
		fmt.Fprintf(r.out, "FAIL  %s  %.1f s\n", short(e.Package), e.Elapsed)
		if r.failures[e.Package] > 0 {
			return
		}
		r.counts.broken++
		text := r.looseOutput(e.Package).String()
		if e.FailedBuild != "" {
			text = r.looseOutput(e.FailedBuild).String()
		}
		fmt.Fprint(r.out, indent(text))
	}
}

// close prints the end of the report.
func (r *reader) close() {
	if len(r.skips) > 0 {
		fmt.Fprintln(r.out, "\nskipped:")
	}
	for _, skip := range r.skips {
		fmt.Fprintln(r.out, "  "+skip)
	}
	if r.counts.broken > 0 {
		fmt.Fprintf(r.out, "\n%d package(s) failed outside of a test: they did not compile, or their process ended early\n", r.counts.broken)
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", r.counts.Passed, r.counts.Failed, r.counts.Skipped)
}

func (r *reader) test(pkg, name string) *test {
	key := pkg + " " + name
	if r.tests[key] == nil {
		r.tests[key] = &test{pkg: pkg, name: name}
	}
	return r.tests[key]
}

// above returns the test that t is a subtest of.
func (r *reader) above(t *test) *test {
	if i := strings.LastIndexByte(t.name, '/'); i >= 0 {
		return r.test(t.pkg, t.name[:i])
	}
	return nil
}

func (r *reader) looseOutput(pkg string) *strings.Builder {
	if r.loose[pkg] == nil {
		r.loose[pkg] = new(strings.Builder)
	}
	return r.loose[pkg]
}

// logged is how the testing package begins a line that a test logged.
var logged = regexp.MustCompile(`^\s+[\w.-]+\.go:\d+: `)

// reason finds what a test said when it skipped: the last thing that it logged.
func reason(output string) string {
	found := "no reason given"
	for line := range strings.Lines(output) {
		if where := logged.FindString(line); where != "" {
			found = strings.TrimSpace(line[len(where):])
		}
	}
	return found
}

func indent(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString("      " + strings.TrimRight(line, "\n") + "\n")
	}
	return out.String()
}

// short leaves the module's path out of a package's.
func short(pkg string) string {
	const module = "github.com/tenon-storage/tenon"
	if pkg == module {
		return "."
	}
	return strings.TrimPrefix(pkg, module+"/")
}
