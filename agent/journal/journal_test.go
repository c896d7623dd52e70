// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
)

func open(t *testing.T, path string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func TestRecordsSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "journal.db")
	j := open(t, path)
	now := time.Date(2026, 11, 22, 14, 0, 0, 0, time.UTC)
	device := journal.Device{Name: "fast", Driver: "dir", Props: primitives.Props{"path": "/srv"}, SecretsRef: "r", Backend: "b", Added: now}
	use := journal.Use{ID: "disk-1", Kind: journal.UseDisk, URI: primitives.URI{Device: "fast", Volume: "v"}, Access: primitives.ReadWrite, Domain: "d", Disk: "1", Admitted: now}
	op := journal.Operation{
		ID: "1", RequestID: "r1", Kind: "k", Args: json.RawMessage(`{"A":1}`), State: "running",
		Memory: json.RawMessage(`null`), Claims: []journal.Claim{{Name: "x", Shared: true}}, Created: now,
		Failure: json.RawMessage(`null`), Result: json.RawMessage(`null`),
	}
	err := j.Update(func(tx *journal.Tx) error {
		return errors.Join(tx.PutDevice(device), tx.PutUse(use), tx.PutOperation(op))
	})
	if err != nil {
		t.Fatal(err)
	}
	host := j.HostID()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	j = open(t, path)
	if j.HostID() != host || len(host) != 36 {
		t.Errorf("HostID() = %q, want %q as before", j.HostID(), host)
	}
	err = j.View(func(tx *journal.Tx) error {
		gotDevice, err1 := tx.Device("fast")
		gotUse, err2 := tx.Use("disk-1")
		gotOp, err3 := tx.OperationByRequest("r1")
		if d := cmp.Diff(device, gotDevice) + cmp.Diff(use, gotUse) + cmp.Diff(op, gotOp); d != "" {
			t.Errorf("records differ after reopening (-wrote +read):\n%s", d)
		}
		return errors.Join(err1, err2, err3)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFileIsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	open(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %o, want 600", info.Mode().Perm())
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	open(t, path)
	// A second descriptor is another holder to flock(2), whatever the process.
	_, err := journal.Open(path, journal.Options{})
	if !errors.Is(err, primitives.CodeInUse) {
		t.Fatalf("second Open = %v, want in use", err)
	}
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	stop := errors.New("stop")
	var dead bool
	j, err := journal.Open(path, journal.Options{Before: func() error {
		if dead {
			return stop
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	dead = true
	if err := j.Update(func(tx *journal.Tx) error { return tx.PutDevice(journal.Device{Name: "a"}) }); !errors.Is(err, stop) {
		t.Fatalf("Update = %v, want the error of Before", err)
	}
	err = j.View(func(tx *journal.Tx) error { _, err := tx.Device("a"); return err })
	if !errors.Is(err, primitives.CodeNotFound) {
		t.Errorf("Device after a failed Update = %v, want not found", err)
	}
}

// TestDamagedFileIsRefusedAndKept overwrites each page, truncates and empties
// the file: every damage that is noticed is an error, and no byte changes.
//
// Cases: E28
func TestDamagedFileIsRefusedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	j := open(t, path)
	for i := range 50 {
		if err := j.Update(func(tx *journal.Tx) error {
			return tx.PutOperation(journal.Operation{ID: fmt.Sprint(i), RequestID: fmt.Sprint("r", i), Args: json.RawMessage(`"` + string(make([]byte, 0)) + `"`)})
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	garbage := make([]byte, page)
	for i := range garbage {
		garbage[i] = byte(i*7 + 3)
	}
	cases := map[string][]byte{
		"empty":            {},
		"not a journal":    []byte("hello\n"),
		"both descriptors": append(append([]byte{}, append(garbage, garbage...)...), whole[2*page:]...),
		"cut in half":      whole[:len(whole)/2/page*page],
		"cut to two pages": whole[:2*page],
	}
	refused := 0
	for off := 2 * page; off < len(whole); off += page {
		damaged := append([]byte{}, whole...)
		copy(damaged[off:], garbage)
		cases[fmt.Sprintf("page %d", off/page)] = damaged
	}
	for name, data := range cases {
		path := filepath.Join(t.TempDir(), "journal.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(path, journal.Options{})
		if err == nil { // a free page: nothing of the content is damaged
			if name == "empty" || name == "not a journal" || name == "both descriptors" {
				t.Errorf("%s: Open succeeded", name)
			}
			j.Close()
			continue
		}
		refused++
		if !errors.Is(err, primitives.CodeInternal) {
			t.Errorf("%s: Open = %v, want code internal", name, err)
		}
		if e, ok := errors.AsType[*primitives.Error](err); !ok || e.Try == "" {
			t.Errorf("%s: no advice in %v", name, err)
		}
		now, err := os.ReadFile(path)
		if err != nil || !cmp.Equal(now, data) {
			t.Errorf("%s: the damaged file was changed", name)
		}
	}
	if refused < 6 {
		t.Errorf("%d damages were noticed, want at least 6", refused)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	j := open(t, path)
	if err := journal.SetFormat(j, journal.FormatVersion+1); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if _, err := journal.Open(path, journal.Options{}); !errors.Is(err, primitives.CodeUnsupported) {
		t.Errorf("Open of a newer format = %v, want unsupported", err)
	}
}
