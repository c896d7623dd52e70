// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/primitives"
)

func TestEveryKeyIsRead(t *testing.T) {
	own := ownGroup(t)
	got, err := config.Parse("t.yaml", []byte(`# all of them
state_dir: /s/
run_dir: "/r"
socket: /x/y.sock
socket_group: `+own.Name+`
hypervisor:
  kvm:
    uri: qemu:///embed?root=/tmp/x
maintenance:
  manager: unix:/m/manager.sock
log:
  level: debug
  format: json
limits:
  operations: 5
  transfers: 2
  keep_operations: 10
  keep_for: 2h
  device_open: 1s
  detach: 2s
  freeze: 3s
`))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		StateDir: "/s", RunDir: "/r", Socket: "/x/y.sock", SocketGroup: own.Name,
		Hypervisor:  config.Hypervisor{KVM: config.KVM{URI: "qemu:///embed?root=/tmp/x"}},
		Maintenance: config.Maintenance{Manager: "unix:/m/manager.sock"},
		Log:         config.Log{Level: slog.LevelDebug, Format: "json"},
		Limits: config.Limits{
			Operations: 5, Transfers: 2, KeepOperations: 10, KeepFor: 2 * time.Hour,
			DeviceOpen: time.Second, Detach: 2 * time.Second, Freeze: 3 * time.Second,
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Parse (-want +got):\n%s", d)
	}
}

// ownGroup returns the group of this process: one that any host has.
func ownGroup(t *testing.T) *user.Group {
	t.Helper()
	g, err := user.LookupGroupId(strconv.Itoa(os.Getegid()))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAManagerElsewhereIsRefusedUntilConnectionsAreEncrypted(t *testing.T) {
	for address, ok := range map[string]bool{
		"''": true, "unix:/run/m.sock": true, "127.0.0.1:7000": true, "localhost:7000": true, "'[::1]:7000'": true,
		"unix:m.sock": false, "10.0.0.1:7000": false, "manager.example:7000": false, "127.0.0.1": false, "/run/m.sock": false,
	} {
		_, err := config.Parse("t.yaml", []byte("maintenance:\n  manager: "+address+"\n"))
		if (err == nil) != ok {
			t.Errorf("manager %s: %v, want accepted %v", address, err, ok)
		}
	}
}

func TestAnEmptyGroupMeansNone(t *testing.T) {
	got, err := config.Parse("t.yaml", []byte("socket_group: \"\"\n"))
	if err != nil || got.SocketGroup != "" {
		t.Errorf("SocketGroup = %q, %v; want none", got.SocketGroup, err)
	}
}

func TestAnEmptyFileIsTheDefault(t *testing.T) {
	for _, text := range []string{"", "\n\n", "# only a comment\n", "limits:\n", "---\n"} {
		got, err := config.Parse("t.yaml", []byte(text))
		if err != nil {
			t.Errorf("Parse(%q) = %v", text, err)
			continue
		}
		if d := cmp.Diff(config.Default(), got); d != "" {
			t.Errorf("Parse(%q) (-default +got):\n%s", text, d)
		}
	}
}

func TestSocketFollowsRunDir(t *testing.T) {
	got, err := config.Parse("t.yaml", []byte("run_dir: /elsewhere\n"))
	if err != nil || got.Socket != "/elsewhere/tenond.sock" {
		t.Errorf("Socket = %q, %v; want it in run_dir", got.Socket, err)
	}
}

func TestAMissingFileIsTheDefaultOnlyWhereAllowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no.yaml")
	if _, err := config.Load(path, true); err != nil {
		t.Error(err)
	}
	if _, err := config.Load(path, false); err == nil {
		t.Error("Load of a missing file that was asked for succeeded")
	}
}

func TestEveryMistakeIsReportedWithItsLine(t *testing.T) {
	_, err := config.Parse("t.yaml", []byte(`state_dir: relative
colour: blue
log:
  level: loud
  format: 7
  extra: {a: 1}
limits:
  operations: many
  transfers: 0
  keep_for: 3
  keep_operations: 99999999999999999999
hypervisor: kvm
log: {}
devices:
  - fast
socket_group: no-such-group
`))
	e, ok := errors.AsType[*primitives.Error](err)
	if !ok || e.Code != primitives.CodeInvalid {
		t.Fatalf("Parse = %v, want invalid", err)
	}
	want := []string{
		`t.yaml:1: state_dir: "relative" is not an absolute path`,
		`t.yaml:2: colour: is unknown; expected one of hypervisor, limits, log, maintenance, run_dir, socket, socket_group, state_dir`,
		`t.yaml:4: log.level: "loud": expected one of debug, info, warn, error`,
		`t.yaml:5: log.format: expected text, got "7"`,
		`t.yaml:6: log.extra: is unknown; expected one of format, level`,
		`t.yaml:8: limits.operations: expected a whole number, got "many"`,
		`t.yaml:9: limits.transfers: 0: expected 1 to 1000`,
		`t.yaml:10: limits.keep_for: expected a duration such as 30s or 24h, got "3"`,
		`t.yaml:11: limits.keep_operations:`,
		`t.yaml:12: hypervisor: expected keys and values, got "kvm"`,
		`t.yaml:13: log: is set on line 3 already`,
		`t.yaml:14: devices: is unknown; expected one of hypervisor, limits, log, maintenance, run_dir, socket, socket_group, state_dir`,
		`t.yaml:16: socket_group: there is no group "no-such-group" on this host; make it with: groupadd --system no-such-group`,
	}
	var got []string
	for _, p := range e.Problems {
		got = append(got, p.Prop+": "+p.Message)
	}
	if len(got) != len(want) {
		t.Fatalf("%d problems, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("problem %d = %s\nwant %s", i, got[i], want[i])
		}
	}
}

func TestBrokenYAMLNamesTheLine(t *testing.T) {
	_, err := config.Parse("t.yaml", []byte("log:\n  level: [debug\n"))
	if err == nil || !strings.Contains(err.Error(), "t.yaml:") {
		t.Errorf("Parse = %v, want an error with the line", err)
	}
}

func FuzzParseNeverPanics(f *testing.F) {
	for _, s := range []string{"", "a: b", "log: {level: debug}", "limits: [1]", "? x\n: y", "&a [*a]", "<<: {log: 1}", "state_dir: !!binary x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = config.Parse("f.yaml", []byte(s))
	})
}

func TestEveryKeyIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range config.Keys() {
		if !strings.Contains(string(page), "\n| `"+key+"` |") {
			t.Errorf("docs/configuration.md has no row for %s", key)
		}
	}
}
