// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// events writes each line "ACTION TEST OUTPUT" as an event of the package p; a TEST of - is the package itself.
func events(lines ...string) string {
	var out strings.Builder
	for _, line := range lines {
		fields := strings.SplitN(line, " ", 3)
		test, output := strings.TrimPrefix(fields[1], "-"), ""
		if len(fields) == 3 {
			output = fields[2] + "\n"
		}
		fmt.Fprintf(&out, `{"Action":%q,"Package":"github.com/tenon-storage/tenon/p","Test":%q,"Output":%q}`+"\n", fields[0], test, output)
	}
	return out.String()
}

func TestSummarizeCountsPromisesAndShowsWhatFailed(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want Counts
		good bool
		says []string
	}{
		"nothing ran": {"", Counts{}, false, []string{"0 passed, 0 failed, 0 skipped"}},
		"subtests count, their parent does not": {
			events("run A", "run A/x", "run A/y", "pass A/x", "pass A/y", "pass A", "pass -"),
			Counts{Passed: 2},
			true,
			[]string{"ok    p", "2 passed, 0 failed, 0 skipped"},
		},
		"a failed subtest is told once, with its output": {
			events("run A", "run A/x", "output A/x     a_test.go:7: broken", "fail A/x", "fail A", "fail -"),
			Counts{Failed: 1},
			false,
			[]string{"FAIL  p A/x\n", "a_test.go:7: broken"},
		},
		"a parent that fails itself counts beside its subtests": {
			events("run A", "run A/x", "pass A/x", "fail A", "fail -"),
			Counts{Passed: 1, Failed: 1},
			false,
			[]string{"FAIL  p A\n"},
		},
		"a skip gives its reason": {
			events("run A", "output A     a_test.go:7: setting up", "output A     a_test.go:9: no snapshots here", "output A --- SKIP: A (0.00s)", "skip A", "run B", "pass B"),
			Counts{Passed: 1, Skipped: 1},
			true,
			[]string{"p A: no snapshots here"},
		},
		"a crash outside of a test": {
			events("output - panic: in TestMain", "fail -"),
			Counts{broken: 1},
			false,
			[]string{"panic: in TestMain", "1 package(s) failed outside of a test"},
		},
		"a test whose process ended under it": {
			events("run A", "output A last words", "fail -"),
			Counts{Failed: 1},
			false,
			[]string{"FAIL  p A\n      last words\n", "FAIL  p  0.0 s"},
		},
		"a package that does not compile": {
			`{"ImportPath":"p [p.test]","Action":"build-output","Output":"p/a.go:3: undefined: x\n"}` + "\n" +
				`{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}` + "\n" + events("run A", "pass A"),
			Counts{Passed: 1, broken: 1},
			false,
			[]string{"undefined: x", "1 passed, 0 failed, 0 skipped"},
		},
		"text that is no event": {"go: no such module\n", Counts{}, false, []string{"go: no such module"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			got, err := summarize(strings.NewReader(c.in), &out)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateComparable(Counts{})); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if got.good() != c.good {
				t.Errorf("good = %v, want %v", got.good(), c.good)
			}
			for _, text := range c.says {
				if !strings.Contains(out.String(), text) {
					t.Errorf("it says\n%s\nwant %q in it", out.String(), text)
				}
			}
		})
	}
}
