// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/primitives"
)

// A path that tenond could not use is a mistake of the file.
func TestPathsThatCannotServeAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	long := "/" + strings.Repeat("x", 99)
	for text, want := range map[string]string{
		"state_dir: " + file:                        "is a file",
		"run_dir: " + file:                          "is a file",
		"socket: " + long:                           "100 bytes; expected at most 99",
		"run_dir: " + long:                          "112 bytes; expected at most 99",
		"socket: " + long[:99]:                      "",
		"socket: /s\nrun_dir: " + long:              "",
		"run_dir: " + long + "\nsocket: /s":         "",
		"state_dir: " + long:                        "",
		"state_dir: " + filepath.Dir(file) + "/new": "",
	} {
		_, err := config.Parse("t.yaml", []byte(text+"\n"))
		if want == "" && err != nil || want != "" && (!errors.Is(err, primitives.CodeInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("Parse(%q) = %v, want %q", text, err, want)
		}
	}
}

// The longest path that is taken can be bound to while it is being made.
func TestTheLongestSocketCanBeMade(t *testing.T) {
	folder, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	path := folder + "/" + strings.Repeat("x", 99-len(folder)-1)
	if _, err := config.Parse("t.yaml", []byte("socket: "+path+"\n")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path+".4194304")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
