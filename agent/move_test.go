// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/agent/move"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/primitives"
)

// folders gives the guest a disk of one/a, on a folder, and a second folder.
func folders(h *house) {
	h.addDir("one")
	h.addDir("two")
	h.create("one/a", 1)
	h.attach("one/a")
	h.imageWrites(h.disk("one/a"), 3)
}

func twoOnFolders(h *house) {
	folders(h)
	h.create("one/b", 2)
	h.attach("one/b")
	h.imageWrites(h.disk("one/b"), 4)
}

// image is the file that the guest has open as a disk.
func (h *house) image(disk hypervisor.DiskID) string {
	h.t.Helper()
	shown, err := h.disks.Shown(h.t.Context(), h.w.domain)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range shown {
		if d.ID == disk {
			return d.Source.Path
		}
	}
	h.t.Fatalf("the guest has no disk %s", disk)
	return ""
}

// imageWrites is guestWrites on a disk that is a file.
func (h *house) imageWrites(disk hypervisor.DiskID, seed byte) {
	h.t.Helper()
	if err := h.w.host.Write(h.w.domain, disk, 0, pattern(seed, volumeSize)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) imageReads(disk hypervisor.DiskID, seed byte) {
	h.t.Helper()
	got, err := os.ReadFile(h.image(disk))
	if err != nil {
		h.t.Fatal(err)
	}
	if !bytes.Equal(got, pattern(seed, volumeSize)) {
		h.t.Errorf("the guest does not read pattern %d from disk %s any more", seed, disk)
	}
}

// on fails unless the guest has a disk of the volume, in the folder of its
// device, that holds the pattern and goes on working.
func (h *house) on(u string, seed byte) {
	h.t.Helper()
	d := h.disk(u)
	if image := h.image(d); !strings.Contains(image, "/images/"+uri(u).Device+"/") {
		h.t.Errorf("the disk of %s is on %s", u, image)
	}
	h.imageReads(d, seed)
	h.imageWrites(d, seed+10)
	h.imageReads(d, seed+10)
}

func startMove(to string, also ...move.Pair) func(*house) (operation.Operation, error) {
	return func(h *house) (operation.Operation, error) {
		return start(h, move.KindMove, move.Args{Domain: "guest", Disk: "one/a", To: uri(to), Also: also})
	}
}

func movedBack(volumes ...string) func(*house) {
	return func(h *house) {
		h.on("one/a", 3)
		for _, v := range volumes {
			h.absent(v)
		}
	}
}

// failing ends the copy of one/a, or of the volume named, when a call is begun.
func failing(call string, why string) func(*house, string, fake.Point) error {
	return func(h *house, c string, at fake.Point) error {
		if c == call && at == fake.Before {
			h.w.host.FailMove(h.w.domain, h.disk("one/a"), why)
		}
		return nil
	}
}

// moves are operations of disk.move, whole ones and troubled ones.
func moves() map[string]scenario {
	one := scenario{
		prepare: folders, start: startMove("two"),
		done:   func(h *house) { h.on("two/a", 3); h.absent("one/a") },
		undone: movedBack("two/a"), tombs: 1,
	}
	pair := scenario{
		prepare: twoOnFolders, start: startMove("two", move.Pair{Disk: "one/b", To: uri("two/c")}),
		done: func(h *house) {
			h.on("two/a", 3)
			h.on("two/c", 4)
			h.absent("one/a")
			h.absent("one/b")
		},
		undone: func(h *house) { movedBack("two/a", "two/c")(h); h.on("one/b", 4) }, tombs: 2,
	}
	mixed := pair
	mixed.spoil, mixed.code = failing("FinishMove", "Input/output error"), primitives.CodeUnavailable
	mixed.tombsUndone = -1 // none where it never began to switch, else one of each
	mixed.undone = func(h *house) {
		// The first disk stays, whatever becomes of the second.
		h.on("one/a", 3)
		h.absent("two/a")
	}
	failed := one
	failed.spoil, failed.code, failed.tombsUndone = mixed.spoil, mixed.code, mixed.tombsUndone
	return map[string]scenario{
		"one disk": one,
		"within a device": {
			prepare: folders, start: startMove("one/z"),
			done:   func(h *house) { h.on("one/z", 3); h.absent("one/a") },
			undone: movedBack("one/z"), tombs: 1,
		},
		"two disks": pair,
		"a source with dependents": {
			prepare: func(h *house) {
				h.addMem("one", "one", primitives.Props{"delete-with-snapshots": "refused"})
				h.addDir("two")
				h.create("one/a", 1)
				h.run(snapshot.KindCreate, snapshot.CreateArgs{URIs: []primitives.URI{uri("one/a")}, Name: "s"})
				h.attach("one/a")
			},
			start: startMove("two"),
			done: func(h *house) {
				h.content("one/a", 1) // it is free, and as it was
				h.content("one/a@s", 1)
				h.notes("one/a stays as a volume")
				h.disk("two/a")
			},
			undone: func(h *house) { h.guestReads(h.disk("one/a"), 1); h.absent("two/a"); h.content("one/a@s", 1) },
		},
		"a switch whose answer is lost":       spoiled(one, lost("FinishMove"), 0),
		"a copy that fails":                   failed,
		"a start that is refused":             spoiled(one, refused("StartMove"), primitives.CodeDenied),
		"one of two that fails at the switch": mixed,
	}
}

// notes fails unless the result of the move says so.
func (h *house) notes(says string) {
	h.t.Helper()
	ops, err := h.engine.List(h.t.Context(), operation.Filter{Kind: move.KindMove})
	if err != nil || len(ops) != 1 {
		h.t.Fatalf("moves = %v, %v; want one", ops, err)
	}
	r := result[move.Result](h.t, ops[0])
	if len(r.Disks) != 1 || !r.Disks[0].Moved || !strings.Contains(r.Disks[0].Note, says) {
		h.t.Errorf("result = %+v, want one that notes %q", r, says)
	}
}

// Cases: E115, E119, E125, C3.22
func TestDeathAtEveryPointOfAMove(t *testing.T) {
	for name, s := range moves() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, s, noSecondDeath)
		})
	}
}

func TestDeathWhileAMoveRecovers(t *testing.T) {
	for _, name := range []string{"one disk", "two disks", "a copy that fails"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, moves()[name], func(n int) int { return n % 5 })
		})
	}
}
