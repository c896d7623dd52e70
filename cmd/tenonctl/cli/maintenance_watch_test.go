// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/cmd/tenonctl/cli"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/storage/mem"
)

// newDaemon runs a tenond of its own with the domain web01.
func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{driver: mem.New(), host: fake.NewHost(), config: config.Default(), held: make(map[string]func()), calls: newTally()}
	d.host.Add("web01", fake.Options{})
	run, err := os.MkdirTemp("", "tenonctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	d.config.StateDir, d.config.RunDir, d.config.Socket = t.TempDir(), filepath.Join(run, "run"), filepath.Join(run, "s")
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.stop() })
	return d
}

// run runs a command line as on a terminal and returns what it printed.
func (d *daemon) run(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	var out, bad bytes.Buffer
	code := cli.Run(ctx, cli.Env{
		In: strings.NewReader(""), Out: &out, Err: &bad, Now: time.Now, Zone: time.UTC, OutIsTerminal: true,
		Getenv: func(name string) string {
			if name == "TENON_SOCKET" {
				return d.config.Socket
			}
			return ""
		},
	}, args)
	if code != 0 {
		t.Errorf("tenonctl %s = exit %d, %s", strings.Join(args, " "), code, bad.String())
	}
	return out.String()
}

var redraw = regexp.MustCompile("\x1b\\[([0-9]+)A\r\x1b\\[J")

// screen is what a terminal shows after text.
func screen(t *testing.T, text string) []string {
	t.Helper()
	var lines []string
	for len(text) > 0 {
		at := redraw.FindStringSubmatchIndex(text)
		part, up := text, 0
		if at != nil {
			part = text[:at[0]]
			up, _ = strconv.Atoi(text[at[2]:at[3]])
			text = text[at[1]:]
		} else {
			text = ""
		}
		if part != "" {
			lines = append(lines, strings.Split(strings.TrimSuffix(part, "\n"), "\n")...)
		}
		if up > len(lines) {
			t.Fatalf("went up %d lines of %d", up, len(lines))
		}
		lines = lines[:len(lines)-up]
	}
	return lines
}

func TestAWatchOnATerminalDrawsOverWhatItDrew(t *testing.T) {
	d := newDaemon(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d.run(ctx, t, "device", "add", "fast", "--driver", "mem", "-p", "store=fast")
	d.run(ctx, t, "device", "add", "slow", "--driver", "mem", "-p", "store=slow")
	d.run(ctx, t, "volume", "create", "fast/vm1", "--size", "8M")
	d.run(ctx, t, "disk", "attach", "fast/vm1", "web01")
	d.host.PaceMoves(1 << 20)
	drawn := d.run(ctx, t, "maintenance", "prepare", "fast", "--policy", "move:slow", "--wait")
	if n := len(redraw.FindAllString(drawn, -1)); n < 2 {
		t.Errorf("drew %d times over what was there, want it more often", n)
	}
	if !strings.Contains(drawn, "[==") {
		t.Errorf("no bar ever grew in %q", drawn)
	}
	lines := screen(t, drawn)
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "fast  in maintenance for ") {
		t.Errorf("the screen ends as %q, want it to begin with the phase that was waited for", lines)
	}
	if heads := strings.Count(strings.Join(lines, "\n"), "fast  "); heads != 1 {
		t.Errorf("the screen ends as %q, want one frame", lines)
	}
}
