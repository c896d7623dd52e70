// SPDX-License-Identifier: Apache-2.0

package hook_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/internal/command"
)

func TestWithoutTenonctlTheHookKeepsTenonsDomainsAwayAndNoOthers(t *testing.T) {
	script, err := filepath.Abs("../../packaging/hooks/qemu")
	if err != nil {
		t.Fatal(err)
	}
	const (
		with    = `<domain><devices><disk><alias name="ua-tenon-one_abc"/></disk></devices></domain>`
		without = `<domain><devices><disk><alias name="ua-other"/></disk></devices></domain>`
	)
	for name, c := range map[string]struct {
		operation, definition string
		refused               bool
	}{
		"a start with a disk of tenon":             {"prepare", with, true},
		"a migration with a disk of tenon":         {"migrate", with, true},
		"a start without one":                      {"prepare", without, false},
		"an end, which cannot be refused":          {"release", with, false},
		"a reconnect, whose refusal kills domains": {"reconnect", with, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := command.Run(t.Context(), command.Cmd{
				Path: script, Args: []string{"web", c.operation, "begin", "-"}, Env: []string{"TENONCTL=/nowhere/tenonctl"},
				Stdin: strings.NewReader(c.definition),
			})
			if (err != nil) != c.refused {
				t.Errorf("hook = %v, want refused %v", err, c.refused)
			}
			if c.refused && !strings.Contains(stderr(err), "web") {
				t.Errorf("the refusal does not name the domain: %s", stderr(err))
			}
			if len(r.Stdout) > 0 {
				t.Errorf("the hook printed %q, which libvirt takes for a definition", r.Stdout)
			}
		})
	}
}
