// SPDX-License-Identifier: Apache-2.0

package tenon_test

import (
	"fmt"
	"go/ast"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// TestArchitecture holds the six rules of docs/architecture.md and the few habits that a program can see. It parses the
// sources itself: Go's test cache knows which files a test opens, but not which ones a "go list" started by it would.
func TestArchitecture(t *testing.T) {
	sources, err := parseTree(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range check(sources) {
		t.Error(violation)
	}
}

// check returns every violation, sorted.
func check(sources []source) []string {
	var all []string
	for _, rule := range []func([]source) []string{
		importsKeepToTheirFloor,
		sharpToolsStayInTheirDrawers,
		driversRunTheContract,
		nothingRunsBeforeMain,
		nothingImportsInACircle,
		packagesSayWhatTheyAre,
		filesAreInOrder,
	} {
		all = append(all, rule(sources)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Rules 1, 2 and 6: who may import whom.

// importsKeepToTheirFloor looks at each import of one of our packages by another one, and at all that primitives imports.
func importsKeepToTheirFloor(sources []source) []string {
	var bad []string
	for _, s := range sources {
		if s.dir == "." && s.test {
			continue // this test itself
		}
		for _, imported := range s.imports {
			to, isOurs := ours(imported)
			if !isOurs {
				if below(s.dir, "primitives") && !s.test && !standard(imported) {
					bad = append(bad, fmt.Sprintf("%s imports %s: primitives imports the standard library only", s.path, imported))
				}
				continue
			}
			if reason := forbidden(s, to); reason != "" {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", s.path, to, reason))
			}
		}
	}
	return bad
}

// A floor is a part of the house, with what it may import beside itself.
type floor struct {
	may    []string // these folders and what is below them
	reason string   // what to answer to other imports
}

// floors are the parts of the house. A folder belongs to the longest name here. Drivers and adapters follow forbiddenSide
// besides, and what is below test may import anything.
var floors = map[string]floor{
	"primitives":   {nil, "primitives imports nothing of ours"},
	"internal":     {[]string{"primitives"}, "internal holds tools with no policy and may import only primitives"},
	"storage":      {[]string{"primitives", "internal"}, "storage may import only primitives and internal"},
	"hypervisor":   {[]string{"primitives", "internal"}, "hypervisor may import only primitives and internal"},
	"agent":        {[]string{"primitives", "internal", "storage", "hypervisor"}, "below agent only agent/rpc knows the API, and nothing imports cmd or test"},
	"agent/rpc":    {[]string{"primitives", "internal", "storage", "hypervisor", "agent", "api"}, "agent/rpc may not import cmd or test"},
	"api":          {nil, "api holds the protocol buffers and imports nothing of ours"},
	"cmd/tenond":   {[]string{"primitives", "internal", "agent", "api"}, "cmd/tenond only wires the agent; drivers and adapters stand in the agent's tables"},
	"cmd/tenonctl": {[]string{"api", "internal/command"}, "tenonctl knows only the API, and how to run a program"},
}

// The tables of drivers and of adapters: the only files outside of tests that may import one.
const (
	driverTable  = "agent/drivers.go"
	adapterTable = "agent/adapters.go"
)

// forbidden says why s may not import our folder to, or "" if it may.
func forbidden(s source, to string) string {
	if below(s.dir, "test") {
		return ""
	}
	if below(to, "test") && s.test {
		return "" // the test guest, for example
	}
	name, f, ok := floorOf(s.dir)
	if !ok {
		return fmt.Sprintf("the folder %s has no place in the house; if it deserves one, give it a floor in architecture_test.go", part(s.dir, 2))
	}
	if s.test && below(s.dir, "cmd") {
		return "" // the tests of the commands stand above the whole house
	}
	if isSide(to) {
		return forbiddenSide(s, to)
	}
	if below(to, name) || below(to, f.may...) {
		return ""
	}
	return f.reason
}

// floorOf returns the floor that dir belongs to.
func floorOf(dir string) (string, floor, bool) {
	for at := dir; at != "."; at = path.Dir(at) {
		if f, ok := floors[at]; ok {
			return at, f, true
		}
	}
	return "", floor{}, false
}

// isSide tells whether dir belongs to a driver, to an adapter or to one of their suites.
func isSide(dir string) bool {
	return strings.HasPrefix(dir, "storage/") || strings.HasPrefix(dir, "hypervisor/")
}

// forbiddenSide says why s may not import a driver, an adapter or a suite.
func forbiddenSide(s source, to string) string {
	side, _, _ := strings.Cut(to, "/") // storage or hypervisor
	suite := side + "/" + side + "test"
	from, target := part(s.dir, 2), part(to, 2)
	switch {
	case from == target:
		return ""
	case below(s.dir, "storage") && side == "hypervisor", below(s.dir, "hypervisor") && side == "storage":
		return "only agent imports both sides"
	case s.test && target == suite:
		return ""
	case s.test && (target == "storage/mem" || target == "hypervisor/fake"):
		return "" // everyone's fakes
	case s.test && below(s.dir, "agent"):
		return ""
	case target == suite:
		return "a suite is for tests"
	case s.path == driverTable && side == "storage", s.path == adapterTable && side == "hypervisor":
		return ""
	case below(s.dir, "agent", "cmd"):
		return fmt.Sprintf("only the tables %s and %s know drivers and adapters", driverTable, adapterTable)
	}
	return "a driver or adapter is imported by no sibling and not by the contract"
}

// Rule 3: sharp tools stay in their drawers.

// drawers says where a package, or all packages below that path, may be imported. Folders below test may import anything.
var drawers = map[string][]string{
	"libvirt.org/go":               {"hypervisor/kvm"},
	"github.com/digitalocean":      {"hypervisor/kvm"},
	"os/exec":                      {"internal/command"},
	"google.golang.org/grpc":       {"api", "agent/rpc", "cmd"},
	"github.com/grpc-ecosystem":    {"agent/rpc", "cmd"},
	"github.com/prometheus":        {"agent/metrics"},
	"go.etcd.io/bbolt":             {"agent/journal"},
	"github.com/spf13/cobra":       {"cmd/tenonctl"},
	"github.com/vbauerster/mpb":    {"cmd/tenonctl"},
	"github.com/coreos/go-systemd": {"agent", "cmd/tenond"},
}

func sharpToolsStayInTheirDrawers(sources []source) []string {
	var bad []string
	for _, s := range sources {
		if below(s.dir, "test") {
			continue
		}
		for _, imported := range s.imports {
			for tool, places := range drawers {
				if below(imported, tool) && !below(s.dir, places...) {
					bad = append(bad, fmt.Sprintf("%s imports %s, which stays in %s", s.path, imported, strings.Join(places, ", ")))
				}
			}
		}
	}
	return bad
}

// Rule 4: each driver runs storagetest, each adapter hypervisortest.

func driversRunTheContract(sources []source) []string {
	var bad []string
	for _, side := range []string{"storage", "hypervisor"} {
		suite := side + "/" + side + "test"
		proved := map[string]bool{}
		for _, s := range sources {
			folder := part(s.dir, 2)
			if !below(s.dir, side) || folder == side || folder == suite {
				continue
			}
			proved[folder] = proved[folder] || s.test && s.calls(module+"/"+suite, "Run")
		}
		for folder, ok := range proved {
			if !ok {
				bad = append(bad, fmt.Sprintf("%s has no test that calls %s.Run", folder, path.Base(suite)))
			}
		}
	}
	return bad
}

// Rule 5: no registration behind the reader's back.

func nothingRunsBeforeMain(sources []source) []string {
	var bad []string
	for _, s := range sources {
		if s.test || s.generated {
			continue
		}
		for _, declared := range s.file.Decls {
			if f, ok := declared.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				bad = append(bad, fmt.Sprintf("%s has a func init: name things in a table instead", s.path))
			}
		}
	}
	return bad
}

// Rule 6, second half. The compiler refuses a circle of packages of one build; this sees those across build tags too.

func nothingImportsInACircle(sources []source) []string {
	graph := map[string][]string{}
	for _, s := range sources {
		for _, imported := range s.imports {
			if to, ok := ours(imported); ok && !s.test && !slices.Contains(graph[s.dir], to) {
				graph[s.dir] = append(graph[s.dir], to)
			}
		}
	}
	var bad []string
	done := map[string]bool{}
	var walk func(dir string, way []string)
	walk = func(dir string, way []string) {
		if i := slices.Index(way, dir); i >= 0 {
			bad = append(bad, fmt.Sprintf("%s import in a circle", strings.Join(append(way[i:], dir), " -> ")))
			return
		}
		if done[dir] {
			return
		}
		for _, to := range slices.Sorted(slices.Values(graph[dir])) {
			walk(to, append(slices.Clone(way), dir))
		}
		done[dir] = true
	}
	for _, dir := range slices.Sorted(maps.Keys(graph)) {
		walk(dir, nil)
	}
	return bad
}

// The habits.

// vagueNames say nothing about what is in a package.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "impl", "misc"}

func packagesSayWhatTheyAre(sources []source) []string {
	var bad []string
	documented := map[string]bool{}
	for _, s := range sources {
		for _, name := range []string{s.file.Name.Name, path.Base(s.dir)} {
			if slices.Contains(vagueNames, strings.TrimSuffix(name, "_test")) {
				bad = append(bad, fmt.Sprintf("%s: a package called %s says nothing about what is in it", s.dir, name))
			}
		}
		if s.test {
			continue
		}
		want := "Package " + s.file.Name.Name + " "
		if s.file.Name.Name == "main" {
			want = "Command "
		}
		documented[s.dir] = documented[s.dir] || s.file.Doc != nil && strings.HasPrefix(s.file.Doc.Text(), want)
	}
	for dir, ok := range documented {
		if !ok {
			bad = append(bad, fmt.Sprintf(`%s has no package comment that begins with "Package NAME" or, for a program, "Command NAME"`, dir))
		}
	}
	return bad
}

const (
	licence  = "// SPDX-License-Identifier: Apache-2.0"
	maxLines = 700
)

func filesAreInOrder(sources []source) []string {
	var bad []string
	for _, s := range sources {
		if s.generated {
			continue
		}
		if s.firstLine != licence {
			bad = append(bad, fmt.Sprintf("%s: the first line is not %q", s.path, licence))
		}
		if s.lines > maxLines {
			bad = append(bad, fmt.Sprintf("%s has %d lines, more than %d: it holds more than one idea", s.path, s.lines, maxLines))
		}
		if s.mentions("time", "Sleep") {
			bad = append(bad, fmt.Sprintf("%s uses time.Sleep: wait for the event, or use testing/synctest", s.path))
		}
		for _, group := range s.file.Comments {
			if i := slices.IndexFunc(group.List, silencesLinter); i >= 0 {
				bad = append(bad, fmt.Sprintf("%s silences a linter (%s): repair what it found, or its configuration", s.path, group.List[i].Text))
			}
		}
	}
	return bad
}

func silencesLinter(c *ast.Comment) bool {
	text := strings.TrimSpace(strings.TrimLeft(c.Text, "/*"))
	return strings.HasPrefix(text, "nolint") || strings.HasPrefix(text, "lint:ignore")
}
