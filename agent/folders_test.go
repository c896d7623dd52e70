// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tenon-storage/tenon/agent"
	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

// A socket's mode is of no use to a group that cannot pass the folder around it.
func TestTheSocketsGroupCanPassTheRunFolderAndNobodyTheState(t *testing.T) {
	drivers, err := storage.NewTable(mem.New())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := config.Default()
	c.StateDir, c.RunDir = filepath.Join(dir, "state"), filepath.Join(dir, "run")
	a, err := agent.New(c, agent.Parts{Drivers: drivers, BootID: "boot-1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	for path, want := range map[string]os.FileMode{c.StateDir: 0o700, c.RunDir: 0o711} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %o, want %o", filepath.Base(path), got, want)
		}
	}
}
