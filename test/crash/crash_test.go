// SPDX-License-Identifier: Apache-2.0

// Package crash_test kills the real tenond, again and again and at random
// moments, while people work with the real tenonctl: create, write, clone,
// snapshot, revert, copy, resize, delink, relink and destroy. After each life it
// compares what is there with what was promised: nothing is lost, nothing is
// left over, and every operation ended, well or with a reason.
//
// A round is repeated with TENON_CRASH_SEED; which instruction the signal hits
// is up to the machine. TENON_CRASH_ROUNDS makes it longer.
package crash_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/test/host"
)

const (
	rounds = 30
	lanes  = 4
	// life is the longest that a tenond of this test is left alone: enough for
	// a few operations of each lane.
	life = 120 * time.Millisecond
)

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// build builds the real binaries, once for the whole test.
func build(t *testing.T) string {
	t.Helper()
	const root = "../.."
	// Go's test cache knows the files that a test opens, but not those that a
	// compiler opens for it. So the test looks at all of them.
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && (e.Name() == "build" || strings.HasPrefix(e.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	_, err = command.Run(t.Context(), command.Cmd{
		Path: "go", Args: []string{"build", "-tags", "libvirt_dlopen", "-o", bin + "/", "./cmd/tenond", "./cmd/tenonctl"}, Dir: root,
	})
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// world is what outlives a tenond: the devices' folders, and what their users
// were promised.
type world struct {
	t      *testing.T
	tenond *host.Tenond
	lanes  []*lane
	random *rand.Rand
	events map[string]int // how often which operation ended how
	mu     sync.Mutex     // guards events
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	folder := t.TempDir()
	tenond, err := host.NewTenond(folder, build(t), "")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, tenond: tenond, random: rand.New(rand.NewPCG(seed, 0)), events: map[string]int{}}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(folder, "tenond.log"))
			t.Logf("tenond said:\n%s", tail(string(log), 4<<10))
		}
	})
	w.start()
	for _, d := range devices {
		path := w.folder(d.name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := tenond.Run(t.Context(), "device", "add", d.name, "--driver", "dir", "-p", "path="+path, "-p", "format="+d.format); err != nil {
			t.Fatal(err)
		}
	}
	for i := range lanes {
		w.lanes = append(w.lanes, newLane(w, i, rand.New(rand.NewPCG(seed, uint64(i)+1))))
	}
	return w
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

func (w *world) folder(device string) string { return filepath.Join(w.tenond.Dir, device) }

func (w *world) start() {
	w.t.Helper()
	if _, err := w.tenond.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// killLater lets tenond live for a random time, and no longer.
func (w *world) killLater(most time.Duration) {
	w.t.Helper()
	moment := time.NewTimer(time.Duration(w.random.Int64N(int64(most))))
	defer moment.Stop()
	<-moment.C
	if err := w.tenond.Kill(); err != nil {
		w.t.Fatal(err)
	}
}

// round is one life of tenond and its end: every lane works until tenond dies,
// and what was under way then is asked for again from the next one.
func (w *world) round() {
	w.t.Helper()
	died, back := make(chan struct{}), make(chan struct{})
	var work sync.WaitGroup
	faults := make([]error, len(w.lanes))
	for i, l := range w.lanes {
		work.Go(func() { faults[i] = l.work(w.t.Context(), died, back) })
	}
	w.killLater(life)
	close(died)
	w.start()
	if w.random.IntN(3) == 0 { // while it takes up what the first one left
		w.killLater(life / 4)
		w.start()
	}
	for _, d := range devices { // until it is open, requests are to be repeated
		if _, err := w.tenond.Run(w.t.Context(), "device", "check", d.name); err != nil {
			w.t.Error(err)
		}
	}
	close(back)
	work.Wait()
	if err := errors.Join(faults...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(verb, end string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events[verb+" "+end]++
}

// The name is short because sockets go below a folder that is called like it.
func TestAKilledTenondLosesNothing(t *testing.T) {
	seed := number(t, "TENON_CRASH_SEED", rand.Uint64())
	t.Logf("TENON_CRASH_SEED=%d", seed)
	w := newWorld(t, seed)
	for i := range number(t, "TENON_CRASH_ROUNDS", rounds) {
		w.round()
		w.audit()
		w.lanes[w.random.IntN(lanes)].checkOne(t)
		if t.Failed() {
			t.Fatalf("in round %d", i+1)
		}
	}
	for _, l := range w.lanes {
		l.checkAll(t)
	}
	if err := w.tenond.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	w.auditFolders()
	for _, event := range slices.Sorted(maps.Keys(w.events)) {
		t.Logf("%4d %s", w.events[event], event)
	}
}
