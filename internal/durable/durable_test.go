// SPDX-License-Identifier: Apache-2.0

package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/internal/durable"
)

// names lists a folder, so that a forgotten temporary file is seen.
func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func mustWrite(t *testing.T, path, content string) {
	t.Helper()
	if err := durable.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatalf("WriteFile(%s) = %v, want nil", path, err)
	}
}

func TestWriteFileReplacesContentAndModeAndLeavesNothingElse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	mustWrite(t, path, "old and longer")
	if err := durable.WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatalf("WriteFile = %v, want nil", err)
	}
	if got := mustRead(t, path); got != "new" {
		t.Errorf("content = %q, want %q", got, "new")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v (%v), want 0600", info.Mode(), err)
	}
	if diff := cmp.Diff([]string{"state"}, names(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestWriteFileWorksInTheCurrentFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	mustWrite(t, "state", "here")
	if got := mustRead(t, "state"); got != "here" {
		t.Errorf("content = %q, want %q", got, "here")
	}
}

func TestFailedWriteFileLeavesTheOldAndNoTemporary(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Errorf("WriteFile over a folder = nil, want an error")
	}
	if diff := cmp.Diff([]string{"taken"}, names(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestReaderNeverSeesHalfAWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	mustWrite(t, path, fmt.Sprintf("%05d", 0))
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 50 {
			if err := durable.WriteFile(path, fmt.Appendf(nil, "%05d", i), 0o644); err != nil {
				t.Errorf("WriteFile = %v, want nil", err)
			}
		}
	})
	for range 500 {
		if got := mustRead(t, path); len(got) != 5 {
			t.Errorf("content = %q, want five digits", got)
		}
	}
	wg.Wait()
}

func TestWriteJSONIsReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.json")
	if err := durable.WriteJSON(path, map[string]int{"b": 2, "a": 1}, 0o644); err != nil {
		t.Fatalf("WriteJSON = %v, want nil", err)
	}
	if got, want := mustRead(t, path), "{\n  \"a\": 1,\n  \"b\": 2\n}\n"; got != want {
		t.Errorf("content = %q, want %q", got, want)
	}
	if err := durable.WriteJSON(path, func() {}, 0o644); err == nil {
		t.Errorf("WriteJSON of a function = nil, want an error")
	}
	if got := mustRead(t, path); got[0] != '{' {
		t.Errorf("a refused WriteJSON changed the file to %q", got)
	}
}

func TestRenameMovesBetweenFolders(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "into", "to")
	mustWrite(t, from, "x")
	if err := durable.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := durable.Rename(from, to); err != nil {
		t.Fatalf("Rename = %v, want nil", err)
	}
	if got := mustRead(t, to); got != "x" {
		t.Errorf("content = %q, want x", got)
	}
	if err := durable.Rename(from, to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second Rename = %v, want ErrNotExist", err)
	}
}

func TestRenameNoReplaceHasOneWinner(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "to")
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		from := filepath.Join(dir, fmt.Sprint("from", i))
		mustWrite(t, from, "x")
		wg.Go(func() {
			err := durable.RenameNoReplace(from, to)
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, fs.ErrExist) {
				t.Errorf("RenameNoReplace = %v, want nil or ErrExist", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || len(names(t, dir)) != 8 {
		t.Errorf("winners = %d and files = %v, want 1 and 8", won.Load(), names(t, dir))
	}
}

func TestRemoveOfAMissingFileSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	mustWrite(t, path, "x")
	if err := durable.Remove(path); err != nil {
		t.Errorf("Remove = %v, want nil", err)
	}
	if err := durable.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second Remove = %v, want ErrNotExist", err)
	}
}

func TestMkdirAllIsRepeatableAndRefusesAFile(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := durable.MkdirAll(deep, 0o750); err != nil {
			t.Fatalf("MkdirAll = %v, want nil", err)
		}
	}
	if info, err := os.Stat(deep); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("Stat = %v, %v, want a folder of mode 0750", info, err)
	}
	file := filepath.Join(dir, "file")
	mustWrite(t, file, "x")
	for _, path := range []string{file, filepath.Join(file, "below")} {
		if err := durable.MkdirAll(path, 0o755); err == nil {
			t.Errorf("MkdirAll(%s) = nil, want an error", path)
		}
	}
}

func TestSyncSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	mustWrite(t, file, "x")
	if err := errors.Join(durable.SyncFile(file), durable.SyncDir(dir)); err != nil {
		t.Errorf("Sync = %v, want nil", err)
	}
	if err := durable.SyncDir(file); err == nil {
		t.Errorf("SyncDir of a file = nil, want an error")
	}
	if err := durable.SyncFile(filepath.Join(dir, "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncFile of nothing = %v, want ErrNotExist", err)
	}
}
