// SPDX-License-Identifier: Apache-2.0

package tenon_test

import (
	"fmt"
	"maps"
	"path"
	"strings"
	"testing"
	"testing/fstest"
)

// planted is a source tree: file name -> text.
type planted map[string]string

// goFile writes a documented Go file of the package whose folder dir is. An import that begins with "./" is one of ours.
func goFile(dir, body string, imports ...string) string {
	name, kind := path.Base(dir), "Package"
	if strings.HasPrefix(dir, "cmd/") {
		name, kind = "main", "Command"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n\n// %s %s is planted.\npackage %s\n", licence, kind, name, name)
	for _, imported := range imports {
		if inside, ok := strings.CutPrefix(imported, "./"); ok {
			imported = module + "/" + inside
		}
		fmt.Fprintf(&text, "import %q\n", imported)
	}
	return text.String() + body
}

// legal is a small house in order.
func legal() planted {
	return planted{
		"primitives/uri.go":                  goFile("primitives", "", "net/url"),
		"primitives/uri_test.go":             goFile("primitives", "", "./primitives", "github.com/google/go-cmp/cmp"),
		"internal/command/command.go":        goFile("internal/command", "", "os/exec"),
		"internal/nbd/nbd.go":                goFile("internal/nbd", "", "./primitives", "./internal/command"),
		"storage/device.go":                  goFile("storage", "", "./primitives", "./internal/nbd"),
		"storage/device_test.go":             goFile("storage", "", "./storage", "./storage/mem"),
		"storage/storagetest/run.go":         goFile("storage/storagetest", "func Run() {}\n", "./primitives", "./storage"),
		"storage/storagetest/run_test.go":    goFile("storage/storagetest", "", "./storage/mem"),
		"storage/mem/mem.go":                 goFile("storage/mem", "", "./primitives"),
		"storage/mem/mem_test.go":            goFile("storage/mem", "var _ = func() { storagetest.Run() }\n", "./storage/storagetest"),
		"storage/dir/dir.go":                 goFile("storage/dir", "", "./primitives", "./internal/command", "./storage/dir/qcow"),
		"storage/dir/qcow/qcow.go":           goFile("storage/dir/qcow", ""),
		"storage/dir/dir_test.go":            goFile("storage/dir", "var _ = func() { storagetest.Run() }\n", "./storage/storagetest", "./test/host"),
		"hypervisor/hypervisor.go":           goFile("hypervisor", "", "./primitives"),
		"hypervisor/hypervisortest/run.go":   goFile("hypervisor/hypervisortest", "func Run() {}\n", "./hypervisor"),
		"hypervisor/kvm/kvm.go":              goFile("hypervisor/kvm", "", "./hypervisor", "libvirt.org/go/libvirt", "github.com/digitalocean/go-qemu/qmp"),
		"hypervisor/kvm/kvm_test.go":         goFile("hypervisor/kvm", "var _ = func() { hypervisortest.Run() }\n", "./hypervisor/hypervisortest", "./test/guest"),
		"agent/agent.go":                     goFile("agent", "", "./storage", "./hypervisor", "./agent/rpc"),
		"agent/drivers.go":                   goFile("agent", "", "./storage/dir", "./storage/mem"),
		"agent/adapters.go":                  goFile("agent", "", "./hypervisor/kvm"),
		"agent/agent_test.go":                goFile("agent", "", "./storage/mem", "./hypervisor/hypervisortest"),
		"agent/rpc/rpc.go":                   goFile("agent/rpc", "", "./api/tenon/v1", "google.golang.org/grpc"),
		"agent/journal/journal.go":           goFile("agent/journal", "", "go.etcd.io/bbolt"),
		"agent/metrics/metrics.go":           goFile("agent/metrics", "", "github.com/prometheus/client_golang/prometheus"),
		"api/tenon/v1/doc.go":                goFile("api/tenon/v1", ""),
		"api/tenon/v1/tenon.pb.go":           "// Generated.\npackage v1\nimport \"google.golang.org/grpc\"\nfunc init() {}\n",
		"cmd/tenond/main.go":                 goFile("cmd/tenond", "func main() {}\n", "./agent", "google.golang.org/grpc"),
		"cmd/tenonctl/main.go":               goFile("cmd/tenonctl", "func main() {}\n", "./api/tenon/v1", "./internal/command", "github.com/spf13/cobra", "github.com/vbauerster/mpb/v8"),
		"cmd/tenonctl/main_test.go":          goFile("cmd/tenonctl", "", "./agent"),
		"test/guest/guest.go":                goFile("test/guest", "", "./internal/command", "libvirt.org/go/libvirt", "os/exec"),
		"test/nested/go.mod":                 "module nested\n",
		"test/nested/util.go":                "package util\n",
		"storage/dir/testdata/src/broken.go": "not Go",
		"build/left.go":                      "not Go either",
	}
}

// violations parses and checks the legal house with changes made to it.
func violations(t *testing.T, changes planted) []string {
	t.Helper()
	house := legal()
	maps.Copy(house, changes)
	tree := fstest.MapFS{}
	for name, text := range house {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	sources, err := parseTree(tree)
	if err != nil {
		t.Fatal(err)
	}
	return check(sources)
}

func TestAHouseInOrderHasNoViolation(t *testing.T) {
	for _, violation := range violations(t, nil) {
		t.Error(violation)
	}
}

func TestAnEmptyHouseHasNoViolation(t *testing.T) {
	sources, err := parseTree(fstest.MapFS{})
	if got := check(sources); err != nil || len(got) > 0 {
		t.Errorf("violations in an empty tree = %q, %v, want none", got, err)
	}
}

// Each case is the change that breaks the house, and what the one message about it must contain.
func TestEachPlantedViolationIsSeen(t *testing.T) {
	for name, c := range map[string]struct {
		changes planted
		want    []string
	}{
		"primitives imports another module": {
			planted{"primitives/bad.go": goFile("primitives", "", "golang.org/x/sync/errgroup")},
			[]string{"primitives/bad.go", "golang.org/x/sync/errgroup", "standard library only"},
		},
		"primitives imports one of ours": {
			planted{"primitives/bad.go": goFile("primitives", "", "./internal/command")},
			[]string{"primitives/bad.go", "internal/command", "nothing of ours"},
		},
		"a tool imports upward": {
			planted{"internal/undo/bad.go": goFile("internal/undo", "", "./storage")},
			[]string{"internal/undo/bad.go", "imports storage", "no policy"},
		},
		"storage imports the agent": {
			planted{"storage/bad.go": goFile("storage", "", "./agent/journal")},
			[]string{"storage/bad.go", "agent/journal", "only primitives and internal"},
		},
		"storage imports the hypervisor": {
			planted{"storage/bad.go": goFile("storage", "", "./hypervisor")},
			[]string{"storage/bad.go", "imports hypervisor", "only primitives and internal"},
		},
		"storage imports an adapter": {
			planted{"storage/bad.go": goFile("storage", "", "./hypervisor/kvm")},
			[]string{"storage/bad.go", "hypervisor/kvm", "only agent imports both sides"},
		},
		"an adapter's test imports a driver": {
			planted{"hypervisor/kvm/bad_test.go": goFile("hypervisor/kvm", "", "./storage/dir")},
			[]string{"hypervisor/kvm/bad_test.go", "storage/dir", "only agent imports both sides"},
		},
		"a driver imports its sibling": {
			planted{"storage/dir/bad.go": goFile("storage/dir", "", "./storage/mem")},
			[]string{"storage/dir/bad.go", "storage/mem", "no sibling"},
		},
		"a driver imports a sibling's inside": {
			planted{"storage/mem/bad.go": goFile("storage/mem", "", "./storage/dir/qcow")},
			[]string{"storage/mem/bad.go", "storage/dir/qcow", "no sibling"},
		},
		"the contract imports a driver": {
			planted{"storage/bad.go": goFile("storage", "", "./storage/mem")},
			[]string{"storage/bad.go", "storage/mem", "not by the contract"},
		},
		"a driver imports the suite outside of tests": {
			planted{"storage/dir/bad.go": goFile("storage/dir", "", "./storage/storagetest")},
			[]string{"storage/dir/bad.go", "storage/storagetest", "a suite is for tests"},
		},
		"the agent imports a driver beside the table": {
			planted{"agent/bad.go": goFile("agent", "", "./storage/dir")},
			[]string{"agent/bad.go", "storage/dir", "agent/drivers.go"},
		},
		"the table of drivers imports an adapter": {
			planted{"agent/drivers.go": goFile("agent", "", "./hypervisor/kvm")},
			[]string{"agent/drivers.go", "hypervisor/kvm", "agent/adapters.go"},
		},
		"a part of the agent knows the API": {
			planted{"agent/attach/bad.go": goFile("agent/attach", "", "./api/tenon/v1")},
			[]string{"agent/attach/bad.go", "api/tenon/v1", "only agent/rpc"},
		},
		"tenond imports a driver": {
			planted{"cmd/tenond/bad.go": goFile("cmd/tenond", "", "./storage/dir")},
			[]string{"cmd/tenond/bad.go", "storage/dir", "agent/drivers.go"},
		},
		"tenond imports a contract": {
			planted{"cmd/tenond/bad.go": goFile("cmd/tenond", "", "./storage")},
			[]string{"cmd/tenond/bad.go", "imports storage", "only wires"},
		},
		"tenonctl imports more than the API": {
			planted{"cmd/tenonctl/bad.go": goFile("cmd/tenonctl", "", "./primitives")},
			[]string{"cmd/tenonctl/bad.go", "primitives", "only the API"},
		},
		"tenonctl imports another tool": {
			planted{"cmd/tenonctl/bad.go": goFile("cmd/tenonctl", "", "./internal/nbd")},
			[]string{"cmd/tenonctl/bad.go", "internal/nbd", "only the API"},
		},
		"the API imports one of ours": {
			planted{"api/tenon/v1/bad.go": goFile("api/tenon/v1", "", "./primitives")},
			[]string{"api/tenon/v1/bad.go", "primitives", "nothing of ours"},
		},
		"product code imports the test guest": {
			planted{"hypervisor/kvm/bad.go": goFile("hypervisor/kvm", "", "./test/guest")},
			[]string{"hypervisor/kvm/bad.go", "test/guest", "only primitives and internal"},
		},
		"a new part has no floor": {
			planted{"pkg/store/bad.go": goFile("pkg/store", "", "./primitives")},
			[]string{"pkg/store/bad.go", "primitives", "no place in the house"},
		},
		"libvirt outside of kvm": {
			planted{"agent/bad.go": goFile("agent", "", "libvirt.org/go/libvirtxml")},
			[]string{"agent/bad.go", "libvirt.org/go/libvirtxml", "stays in hypervisor/kvm"},
		},
		"go-qemu outside of kvm": {
			planted{"storage/dir/bad.go": goFile("storage/dir", "", "github.com/digitalocean/go-qemu/qmp")},
			[]string{"storage/dir/bad.go", "go-qemu/qmp", "stays in hypervisor/kvm"},
		},
		"os/exec outside of the command runner": {
			planted{"storage/dir/bad_test.go": goFile("storage/dir", "", "os/exec")},
			[]string{"storage/dir/bad_test.go", "os/exec", "stays in internal/command"},
		},
		"gRPC below the API": {
			planted{"agent/bad.go": goFile("agent", "", "google.golang.org/grpc/codes")},
			[]string{"agent/bad.go", "google.golang.org/grpc/codes", "stays in api, agent/rpc, cmd"},
		},
		"Prometheus outside of metrics": {
			planted{"agent/rpc/bad.go": goFile("agent/rpc", "", "github.com/prometheus/client_golang/prometheus")},
			[]string{"agent/rpc/bad.go", "prometheus", "stays in agent/metrics"},
		},
		"the database outside of the journal": {
			planted{"agent/bad.go": goFile("agent", "", "go.etcd.io/bbolt")},
			[]string{"agent/bad.go", "bbolt", "stays in agent/journal"},
		},
		"cobra in tenond": {
			planted{"cmd/tenond/bad.go": goFile("cmd/tenond", "", "github.com/spf13/cobra")},
			[]string{"cmd/tenond/bad.go", "cobra", "stays in cmd/tenonctl"},
		},
		"progress bars in the agent": {
			planted{"agent/bad.go": goFile("agent", "", "github.com/vbauerster/mpb/v8")},
			[]string{"agent/bad.go", "mpb", "stays in cmd/tenonctl"},
		},
		"a driver without the suite": {
			planted{"storage/lvm/lvm.go": goFile("storage/lvm", "", "./primitives")},
			[]string{"storage/lvm has no test that calls storagetest.Run"},
		},
		"a driver that imports the suite and does not run it": {
			planted{"storage/dir/dir_test.go": goFile("storage/dir", "var _ = storagetest.Run\n", "./storage/storagetest")},
			[]string{"storage/dir has no test that calls storagetest.Run"},
		},
		"an adapter without the suite": {
			planted{"hypervisor/kvm/kvm_test.go": goFile("hypervisor/kvm", "")},
			[]string{"hypervisor/kvm has no test that calls hypervisortest.Run"},
		},
		"registration by init": {
			planted{"storage/dir/bad.go": goFile("storage/dir", "func init() {}\n")},
			[]string{"storage/dir/bad.go", "func init"},
		},
		"a circle": {
			planted{"internal/command/bad.go": goFile("internal/command", "", "./internal/nbd")},
			[]string{"internal/command -> internal/nbd", "circle"},
		},
		"a package without a comment": {
			planted{"internal/undo/undo.go": licence + "\n\npackage undo\n"},
			[]string{"internal/undo has no package comment"},
		},
		"a package whose comment is about something else": {
			planted{"internal/undo/undo.go": licence + "\n\n// Here we go.\npackage undo\n"},
			[]string{"internal/undo has no package comment"},
		},
		"a package with a vague name": {
			planted{"internal/util/util.go": goFile("internal/util", "")},
			[]string{"internal/util", "says nothing"},
		},
		"a file without its licence": {
			planted{"internal/nbd/bad.go": "package nbd\n"},
			[]string{"internal/nbd/bad.go", "SPDX-License-Identifier"},
		},
		"a file with too many lines": {
			planted{"internal/nbd/bad.go": goFile("internal/nbd", strings.Repeat("\n", maxLines))},
			[]string{"internal/nbd/bad.go", "more than one idea"},
		},
		"sleep in a test": {
			planted{"internal/nbd/bad_test.go": goFile("internal/nbd", "func f() { time.Sleep(1) }\n", "time")},
			[]string{"internal/nbd/bad_test.go", "time.Sleep"},
		},
		"sleep under another name": {
			planted{"internal/nbd/bad.go": licence + "\n\npackage nbd\n\nimport clock \"time\"\n\nvar pause = clock.Sleep\n"},
			[]string{"internal/nbd/bad.go", "time.Sleep"},
		},
		"a silenced linter": {
			planted{"internal/nbd/bad.go": goFile("internal/nbd", "var x = 1 //nolint:unused // reason\n")},
			[]string{"internal/nbd/bad.go", "silences a linter"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := violations(t, c.changes)
			if len(got) != 1 {
				t.Fatalf("violations = %q, want one", got)
			}
			for _, part := range c.want {
				if !strings.Contains(got[0], part) {
					t.Errorf("violation = %q, want %q in it", got[0], part)
				}
			}
		})
	}
}
