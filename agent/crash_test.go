// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/snapshot"
	"github.com/tenon-storage/tenon/agent/transfer"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/mem"
)

// request is the id under which the operation is asked for that dies.
const request = "the-request"

// scenario is one operation, with what must hold before and after it.
type scenario struct {
	prepare func(h *house)
	start   func(h *house) (operation.Operation, error)
	done    func(h *house) // what must hold when it succeeded
	undone  func(h *house) // what must hold when it was taken back, or never began
	// tombs are the tombstones after success and after failure.
	tombs, tombsUndone int
	// trouble, if not nil, spoils calls of the hypervisor in the first life, so
	// that the operation fails and is taken back; it fails with code then.
	trouble func(call string, at fake.Point) error
	code    primitives.Code
	// spoil is trouble that needs the house.
	spoil func(h *house, call string, at fake.Point) error
}

func start(h *house, kind string, args any) (operation.Operation, error) {
	return h.engine.Start(h.t.Context(), operation.Request{RequestID: request, Kind: kind, Args: args})
}

// disk is the first disk of a volume.
func (h *house) disk(u string) hypervisor.DiskID {
	h.t.Helper()
	uses, err := h.disks.Uses("")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, use := range uses {
		if use.URI == uri(u) {
			return hypervisor.DiskID(use.Disk)
		}
	}
	h.t.Fatalf("no disk uses %s", u)
	return ""
}

func (h *house) tombstone(dev string) string {
	h.t.Helper()
	d, err := h.devices.Device(dev)
	if err != nil {
		h.t.Fatal(err)
	}
	page, err := d.List(h.t.Context(), primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindTombstone}})
	if err != nil || len(page.Objects) != 1 {
		h.t.Fatalf("tombstones = %v, %v; want one", page.Objects, err)
	}
	return page.Objects[0].Tombstone.ID
}

func (h *house) diskCount(want int) {
	h.t.Helper()
	disks, err := h.disks.Disks(h.t.Context(), "guest")
	if err != nil {
		h.t.Fatal(err)
	}
	if len(disks) != want {
		h.t.Errorf("the guest has %d disks, want %d", len(disks), want)
	}
}

var remap = primitives.Props{"snapshots": "remap"}

// twoDisks gives the guest a disk of one/a and one of DEVICE/b, and lets it write.
func twoDisks(props primitives.Props, second string, secondProps primitives.Props) func(*house) {
	return func(h *house) {
		h.addMem("one", "one", props)
		if second != "one" {
			h.addMem(second, second, secondProps)
		}
		h.create("one/a", 1)
		h.create(second+"/b", 2)
		h.attach("one/a")
		h.attach(second + "/b")
		h.guestWrites(h.disk("one/a"), 3)
		h.guestWrites(h.disk(second+"/b"), 4)
	}
}

func snapshotDone(second string) func(h *house) {
	return func(h *house) {
		h.content("one/a@s", 3)
		h.content(second+"/b@s", 4)
		h.guestReads(h.disk("one/a"), 3)
		h.guestWrites(h.disk("one/a"), 5)
		h.guestWrites(h.disk(second+"/b"), 6)
		h.content("one/a@s", 3)
		h.content(second+"/b@s", 4)
		h.guestReads(h.disk(second+"/b"), 6)
	}
}

func snapshotUndone(second string) func(h *house) {
	return func(h *house) {
		h.absent("one/a@s")
		h.absent(second + "/b@s")
		h.guestReads(h.disk("one/a"), 3)
		h.guestWrites(h.disk(second+"/b"), 6)
		h.guestReads(h.disk(second+"/b"), 6)
	}
}

func takeSnapshot(second string, freeze bool) func(*house) (operation.Operation, error) {
	return func(h *house) (operation.Operation, error) {
		return start(h, snapshot.KindCreate, snapshot.CreateArgs{
			URIs: []primitives.URI{uri("one/a"), uri(second + "/b")}, Name: "s", Domain: "guest", Freeze: freeze,
		})
	}
}

func oneVolume(h *house) {
	h.addMem("one", "one", nil)
	h.create("one/a", 1)
}

func image(h *house) string { return filepath.Join(h.w.folder, "images", "old.img") }

// lost loses the answer of a call; refused has nothing of it happen.
func lost(call string) func(string, fake.Point) error {
	return func(c string, at fake.Point) error {
		if c == call && at == fake.After {
			return primitives.Errorf(primitives.CodeUnavailable, "the answer is lost")
		}
		return nil
	}
}

func refused(call string) func(string, fake.Point) error {
	return func(c string, at fake.Point) error {
		if c == call && at == fake.Before {
			return primitives.Errorf(primitives.CodeDenied, "no")
		}
		return nil
	}
}

// spoiled is a scenario in which something goes wrong besides.
func spoiled(s scenario, trouble func(string, fake.Point) error, code primitives.Code) scenario {
	s.trouble, s.code = trouble, code
	return s
}

var scenarios = map[string]scenario{
	"device add": {
		prepare: func(*house) {},
		start: func(h *house) (operation.Operation, error) {
			return h.devices.Add(h.t.Context(), device.Spec{
				Name: "new", Driver: mem.Name, Props: primitives.Props{"store": "new"},
				Secrets: primitives.NewSecrets(map[string][]byte{"token": []byte("canary")}),
			}, device.Origin{RequestID: request})
		},
		done:   func(h *house) { h.create("new/v", 1); h.content("new/v", 1) },
		undone: func(h *house) { h.noDevice("new") },
	},
	"device update": {
		prepare: oneVolume,
		start: func(h *house) (operation.Operation, error) {
			return h.devices.Update(h.t.Context(), device.Edit{Name: "one", Set: primitives.Props{"capacity": "67108864", "note": "x"}}, device.Origin{RequestID: request})
		},
		done:   func(h *house) { h.note("one", "x"); h.content("one/a", 1) },
		undone: func(h *house) { h.note("one", ""); h.content("one/a", 1) },
	},
	"device remove": {
		prepare: func(h *house) { h.addMem("new", "new", nil) },
		start: func(h *house) (operation.Operation, error) {
			return start(h, device.KindRemove, device.RemoveArgs{Name: "new"})
		},
		done:   func(h *house) { h.noDevice("new") },
		undone: func(h *house) { h.create("new/v", 1) },
	},
	"volume create": {
		prepare: oneVolume,
		start: func(h *house) (operation.Operation, error) {
			return start(h, volume.KindCreate, volume.CreateArgs{URI: uri("one/b"), Size: volumeSize})
		},
		done:   func(h *house) { h.size("one/b") },
		undone: func(h *house) { h.absent("one/b") },
	},
	"volume clone": {
		prepare: oneVolume,
		start: func(h *house) (operation.Operation, error) {
			return start(h, volume.KindClone, volume.CloneArgs{From: uri("one/a"), To: uri("one/b")})
		},
		done:   func(h *house) { h.content("one/b", 1); h.content("one/a", 1) },
		undone: func(h *house) { h.absent("one/b"); h.content("one/a", 1) },
	},
	"volume resize": {
		prepare: oneVolume,
		start: func(h *house) (operation.Operation, error) {
			return start(h, volume.KindResize, volume.ResizeArgs{URI: uri("one/a"), Size: 2 * volumeSize})
		},
		done: func(h *house) {
			h.content("one/a", 1)
			if got := h.size("one/a"); got != 2*volumeSize {
				h.t.Errorf("size = %d", got)
			}
		},
		undone: func(h *house) { h.content("one/a", 1) },
	},
	"volume delink": {
		prepare: oneVolume,
		start: func(h *house) (operation.Operation, error) {
			return start(h, volume.KindDelink, volume.DelinkArgs{URI: uri("one/a")})
		},
		done:   func(h *house) { h.absent("one/a"); h.tombstone("one") },
		undone: func(h *house) { h.content("one/a", 1) },
		tombs:  1,
	},
	"volume relink": {
		prepare: func(h *house) {
			oneVolume(h)
			h.run(volume.KindDelink, volume.DelinkArgs{URI: uri("one/a")})
		},
		start: func(h *house) (operation.Operation, error) {
			return start(h, volume.KindRelink, volume.RelinkArgs{Device: "one", Tombstone: h.tombstone("one"), As: uri("one/c")})
		},
		done:        func(h *house) { h.content("one/c", 1) },
		undone:      func(h *house) { h.absent("one/c"); h.tombstone("one") },
		tombsUndone: 1,
	},
	"volume destroy": {
		prepare: func(h *house) {
			oneVolume(h)
			h.run(volume.KindDelink, volume.DelinkArgs{URI: uri("one/a")})
		},
		start: func(h *house) (operation.Operation, error) {
			return start(h, volume.KindDestroy, volume.DestroyArgs{Device: "one", Tombstone: h.tombstone("one")})
		},
		done:        func(h *house) { h.absent("one/a") },
		undone:      func(h *house) { h.tombstone("one") },
		tombsUndone: 1,
	},
	"volume import": {
		prepare: func(h *house) {
			h.addDir("files")
			h.writeImage(7)
			h.w.host.AddForeign(h.w.domain, "vda", hypervisor.Source{Form: primitives.FormFile, Path: image(h), Format: primitives.FormatRaw}, primitives.ReadWrite)
		},
		start: func(h *house) (operation.Operation, error) {
			return start(h, volume.KindImport, volume.ImportArgs{URI: uri("files/old"), Path: image(h), Format: primitives.FormatRaw})
		},
		done: func(h *house) {
			h.diskCount(1)
			if uses, _ := h.disks.Uses("files"); len(uses) != 1 || uses[0].Target != "vda" {
				h.t.Errorf("uses = %+v, want the guest's vda adopted", uses)
			}
			h.imageHolds(7)
		},
		undone: func(h *house) { h.absent("files/old"); h.imageHolds(7) },
	},
	"transfer copy": {
		prepare: func(h *house) {
			oneVolume(h)
			h.addMem("two", "two", nil)
		},
		start: func(h *house) (operation.Operation, error) {
			return start(h, transfer.KindCopy, transfer.CopyArgs{From: uri("one/a"), To: uri("two/b")})
		},
		done:   func(h *house) { h.content("two/b", 1); h.content("one/a", 1) },
		undone: func(h *house) { h.absent("two/b"); h.content("one/a", 1) },
	},
	"disk attach": {
		prepare: oneVolume,
		start: func(h *house) (operation.Operation, error) {
			return start(h, attach.KindAttach, attach.AttachArgs{URI: uri("one/a"), Domain: "guest"})
		},
		done: func(h *house) {
			h.diskCount(1)
			h.guestReads(h.disk("one/a"), 1)
			h.guestWrites(h.disk("one/a"), 2)
		},
		undone: func(h *house) { h.diskCount(0); h.content("one/a", 1) },
	},
	"disk detach": {
		prepare: func(h *house) {
			oneVolume(h)
			h.attach("one/a")
			h.guestWrites(h.disk("one/a"), 2)
		},
		start: func(h *house) (operation.Operation, error) {
			return start(h, attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: h.disk("one/a")})
		},
		done:   func(h *house) { h.diskCount(0); h.content("one/a", 2) },
		undone: func(h *house) { h.diskCount(1); h.guestReads(h.disk("one/a"), 2) },
	},
	"disk resize": {
		prepare: func(h *house) {
			oneVolume(h)
			h.attach("one/a")
		},
		start: func(h *house) (operation.Operation, error) {
			return start(h, attach.KindResize, attach.ResizeArgs{Domain: "guest", Disk: h.disk("one/a"), Size: 2 * volumeSize})
		},
		done: func(h *house) {
			if v, g := h.size("one/a"), h.w.host.Size(h.w.domain, h.disk("one/a")); v != 2*volumeSize || g != v {
				h.t.Errorf("the volume has %d bytes, the guest sees %d", v, g)
			}
			h.guestReads(h.disk("one/a"), 1)
		},
		undone: func(h *house) { h.guestReads(h.disk("one/a"), 1) },
	},
	"snapshot with a switch, frozen": {
		prepare: twoDisks(remap, "one", nil), start: takeSnapshot("one", true), done: snapshotDone("one"), undone: snapshotUndone("one"),
	},
	"snapshot with a switch of two devices": {
		prepare: twoDisks(remap, "two", remap), start: takeSnapshot("two", false), done: snapshotDone("two"), undone: snapshotUndone("two"),
	},
	"snapshot without a switch, frozen": {
		prepare: twoDisks(nil, "two", nil), start: takeSnapshot("two", true), done: snapshotDone("two"), undone: snapshotUndone("two"),
	},
	"snapshot of both kinds, frozen": {
		prepare: twoDisks(remap, "two", nil), start: takeSnapshot("two", true), done: snapshotDone("two"), undone: snapshotUndone("two"),
	},
	"snapshot revert": {
		prepare: func(h *house) {
			oneVolume(h)
			h.run(snapshot.KindCreate, snapshot.CreateArgs{URIs: []primitives.URI{uri("one/a")}, Name: "s"})
			h.attach("one/a")
			h.guestWrites(h.disk("one/a"), 2)
			h.run(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: h.disk("one/a")})
		},
		start: func(h *house) (operation.Operation, error) {
			return start(h, snapshot.KindRevert, snapshot.RevertArgs{URI: uri("one/a@s")})
		},
		done:   func(h *house) { h.content("one/a", 1); h.content("one/a@s", 1) },
		undone: func(h *house) { h.content("one/a", 2); h.content("one/a@s", 1) },
	},
}

// troubled are operations that fail and are taken back, or whose answers are lost.
func troubled() map[string]scenario {
	attaching, resizing := scenarios["disk attach"], scenarios["disk resize"]
	frozen, both := scenarios["snapshot with a switch, frozen"], scenarios["snapshot of both kinds, frozen"]
	return map[string]scenario{
		"attach that is refused":        spoiled(attaching, refused("Attach"), primitives.CodeDenied),
		"attach whose answer is lost":   spoiled(attaching, lost("Attach"), primitives.CodeUnavailable),
		"resize that the guest refuses": spoiled(resizing, refused("ResizeDisk"), primitives.CodeDenied),
		"switch that is refused":        spoiled(frozen, refused("Switch"), primitives.CodeDenied),
		"switch of both kinds, refused": spoiled(both, refused("Switch"), primitives.CodeDenied),
		"switch whose answer is lost":   spoiled(frozen, lost("Switch"), 0),
		"freeze that is refused":        spoiled(frozen, refused("Freeze"), 0),
		"detach that the guest refuses": spoiled(scenarios["disk detach"], refused("Detach"), primitives.CodeDenied),
	}
}

func (h *house) noDevice(name string) {
	h.t.Helper()
	if _, err := h.devices.Get(name); !errors.Is(err, primitives.CodeNotFound) {
		h.t.Errorf("device %s: %v, want not found", name, err)
	}
}

func (h *house) note(name, want string) {
	h.t.Helper()
	s, err := h.devices.Get(name)
	if err != nil || s.State != device.Open || s.Props["note"] != want {
		h.t.Errorf("device %s = %s with note %q, %v; want open with %q", name, s.State, s.Props["note"], err, want)
	}
}

func (h *house) writeImage(seed byte) {
	h.t.Helper()
	if err := os.WriteFile(image(h), pattern(seed, volumeSize), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) imageHolds(seed byte) {
	h.t.Helper()
	got, err := os.ReadFile(image(h))
	if err != nil || string(got) != string(pattern(seed, volumeSize)) {
		h.t.Errorf("the image does not hold its content any more: %v", err)
	}
}

// TestDeathAtEveryPoint kills the agent after every event of every kind of
// operation.
func TestDeathAtEveryPoint(t *testing.T) {
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, s, noSecondDeath)
		})
	}
}

// TestDeathWhileTakingBack kills the agent after every event of operations that
// fail.
func TestDeathWhileTakingBack(t *testing.T) {
	for name, s := range troubled() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, s, noSecondDeath)
		})
	}
}

// TestDeathWhileRecovering kills the agent a second time, soon after it began to
// recover from the first.
func TestDeathWhileRecovering(t *testing.T) {
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everywhere(t, s, func(n int) int { return n % 5 })
		})
	}
}

func noSecondDeath(int) int { return -1 }

func everywhere(t *testing.T, s scenario, second func(n int) int) {
	for n := 0; ; n++ {
		finished := false
		ok := t.Run(fmt.Sprint("after ", n), func(t *testing.T) { finished = dieAndLiveAgain(t, s, n, second(n)) })
		if finished || !ok {
			return
		}
		if n > 200 {
			t.Fatal("it never comes to its end")
		}
	}
}

// dieAndLiveAgain lets the agent die after n events, and in its next life after
// again events unless that is negative. It reports whether the operation had
// come to its end before the first death.
func dieAndLiveAgain(t *testing.T, s scenario, n, again int) (finished bool) {
	w := newWorld(t)
	h := boot(t, w, -1)
	s.prepare(h)
	if s.spoil != nil {
		s.trouble = func(call string, at fake.Point) error { return s.spoil(h, call, at) }
	}
	if s.trouble != nil {
		w.host.Intercept(func(call string, at fake.Point) error {
			if err := h.r.intercept(call, at); err != nil {
				return err
			}
			return s.trouble(call, at)
		})
	}
	h.r.arm(n)
	op, err := s.start(h)
	if err == nil {
		h.endOrDeath(op.ID)
	} else if h.r.alive() == nil {
		t.Fatal(err)
	}
	finished = h.r.finish()
	h.bury()
	if again >= 0 {
		h = boot(t, w, again)
		h.endOrDeath(op.ID)
		h.bury()
	}

	h = boot(t, w, -1)
	defer h.bury()
	h.settled()
	state := h.outcome(s)
	switch {
	case state == operation.Succeeded:
		h.sound(s.tombs)
		s.done(h)
	case finished && s.code == 0:
		t.Error("nobody died and yet it did not succeed")
	default:
		h.sound(s.tombsUndone)
		s.undone(h)
	}
	h.sound(-1)
	return finished
}

// endOrDeath waits until the operation ends or the agent is dead.
func (h *house) endOrDeath(id string) {
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = h.engine.Wait(ctx, id)
	}()
	select {
	case <-ended:
	case <-h.r.died:
	}
	cancel()
	<-ended
}

// outcome returns the state of the operation, "" if it never began.
func (h *house) outcome(s scenario) operation.State {
	h.t.Helper()
	ops, err := h.engine.List(h.t.Context(), operation.Filter{})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, o := range ops {
		if o.RequestID != request {
			continue
		}
		if code := primitives.CodeOf(o.Err()); code != 0 && code != s.code && code != primitives.CodeCancelled {
			h.t.Errorf("the operation is %s: %v", o.State, o.Err())
		}
		return o.State
	}
	return ""
}
