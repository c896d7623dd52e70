// SPDX-License-Identifier: Apache-2.0

package journal_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// format1 writes a file of format 1 that holds a device, a use and an operation.
func format1(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.db")
	j, err := journal.Open(path, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = j.Update(func(tx *journal.Tx) error {
		return errors.Join(
			tx.PutDevice(journal.Device{Name: "fast", Driver: "dir"}),
			tx.PutUse(journal.Use{ID: "disk-1", Kind: journal.UseDisk, URI: primitives.URI{Device: "fast", Volume: "v"}}),
			tx.PutOperation(journal.Operation{ID: "1", RequestID: "r1"}))
	})
	if err := errors.Join(err, journal.MakeFormat1(j), j.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// A device of the older format was in service, so it stays in service.
//
// Cases: E30
func TestAnOlderJournalIsTakenOverWithOpenDoors(t *testing.T) {
	j := open(t, format1(t))
	err := j.View(func(tx *journal.Tx) error {
		door, err1 := tx.Door("fast")
		use, err2 := tx.Use("disk-1")
		_, err3 := tx.OperationByRequest("r1")
		if door.Gate != maintenance.GateOpen || use.URI.Volume != "v" {
			t.Errorf("after the upgrade: door %+v, use %+v", door, use)
		}
		return errors.Join(err1, err2, err3)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Update(func(tx *journal.Tx) error { return journal.AppendAudit(tx, "line") }); err != nil {
		t.Errorf("AppendAudit after the upgrade = %v", err)
	}
}

// Cases: E30
func TestAnUpgradeThatFailsLeavesTheOlderJournal(t *testing.T) {
	path := format1(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	if j, err := journal.Open(path, journal.Options{Before: func() error { return stop }}); !errors.Is(err, stop) {
		t.Fatalf("Open = %v, %v; want the error of the commit", j, err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !cmp.Equal(before, after) {
		t.Fatalf("the file was changed by an upgrade that failed: %v", err)
	}
	open(t, path)
}

func TestADeviceWithoutADoorIsClosed(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	err := j.View(func(tx *journal.Tx) error {
		door, err := tx.Door("nobody")
		if door.Gate != maintenance.GateUnknown {
			t.Errorf("Door = %+v, want unknown", door)
		}
		if _, refusal := door.Admit("u", "v"); refusal == nil {
			t.Error("a door of which nothing is recorded admits")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheAuditIsTrimmedFromItsOldEndAndOnlyWhereItMay(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	for i := range 10 {
		if err := j.Update(func(tx *journal.Tx) error { return journal.AppendAudit(tx, i) }); err != nil {
			t.Fatal(err)
		}
	}
	var got []int
	err := j.Update(func(tx *journal.Tx) (err error) {
		if err := journal.TrimAudit(tx, 4, func(n int) bool { return n != 1 }); err != nil {
			return err
		}
		got, err = journal.Audit[int](tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]int{1, 7, 8, 9}, got); d != "" {
		t.Errorf("audit after trimming (-want +got):\n%s", d)
	}
}

func TestCommitsAreCounted(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal.db"))
	before := j.Commits()
	_ = j.Update(func(*journal.Tx) error { return nil })
	_ = j.Update(func(*journal.Tx) error { return errors.New("no") })
	if got := j.Commits() - before; got != 1 {
		t.Errorf("Commits grew by %d, want 1: a failed transaction costs none", got)
	}
}
