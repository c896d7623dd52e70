// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestAnUnknownSocketGroupIsRefusedBeforeAnythingStarts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tenond.yaml")
	text := "state_dir: " + dir + "/state\nrun_dir: " + dir + "/run\nsocket_group: no-such-group\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--config", file, "--check-config"}, {"--config", file}} {
		var stdout, stderr bytes.Buffer
		if code := run(args, &stdout, &stderr); code != exitUsage {
			t.Errorf("run(%v) = %d, want %d", args, code, exitUsage)
		}
		for _, want := range []string{file + ":3: socket_group", `"no-such-group"`} {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("run(%v) says %q, want %s in it", args, stderr.String(), want)
			}
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("run(%v) left %v, %v; want the file alone", args, entries, err)
		}
	}
}

func TestCheckConfigAcceptsAGroupOfThisHost(t *testing.T) {
	group, err := user.LookupGroupId(strconv.Itoa(os.Getegid()))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tenond.yaml")
	if err := os.WriteFile(file, []byte("socket_group: "+group.Name+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run([]string{"--config", file, "--check-config"}, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Errorf("run = %d, %q; want 0 and no word", code, stderr.String())
	}
}
