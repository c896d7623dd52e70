// SPDX-License-Identifier: Apache-2.0

// Package move_test moves the disk of a real guest to and fro between two real
// file systems, fifty times, while the guest writes to it and checks what it
// wrote, and kills tenond and libvirtd at random moments meanwhile. The guest must
// never notice, nothing may be lost and nothing left over.
//
// A run is repeated with TENON_MOVE_SEED; which instruction a signal hits is up to
// the machine. TENON_MOVES makes it longer.
package move_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/test/guest"
	"github.com/tenon-storage/tenon/test/host"
)

const (
	moves = 50
	// tries is how many moves may be taken back, for each that succeeds: a daemon
	// may die at a moment that ends one.
	tries    = 3
	diskSize = 32 << 20
	// life is the longest that a daemon which is to be killed is left alone: a
	// little more than a move takes.
	life   = 1500 * time.Millisecond
	domain = "mover"
)

// devices are a folder on a file system of its own each.
var devices = []struct{ name, fs string }{{"e", "ext4"}, {"x", "xfs"}}

var formats = []string{"raw", "qcow2"}

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

// build builds the real binaries. Go's test cache knows the files that a test
// opens, but not those that a compiler opens for it; so the test looks at all.
func build(t *testing.T) string {
	t.Helper()
	const root = "../.."
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

// world is the host, and what its guest was promised.
type world struct {
	t       *testing.T
	libvirt *host.Libvirtd
	tenond  *host.Tenond
	shell   *guest.Shell
	random  *rand.Rand
	disk    string // its ID
	at      int    // the device that it is on
	writes  uint64
	events  map[string]int
}

// shortDir is a temporary folder with a path short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	image, err := guest.Build(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	bin, dir := build(t), shortDir(t)
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 0)), events: map[string]int{}}
	folders := map[string]string{}
	for _, d := range devices {
		mounted, unmount, err := host.MountLoop(t.Context(), dir, d.fs, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		w.atEnd(unmount)
		folders[d.name] = filepath.Join(mounted, "tenon")
		if err := os.Mkdir(folders[d.name], 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if w.libvirt, err = host.StartLibvirtd(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	w.atEnd(w.libvirt.Stop)
	d := guest.Domain{Name: domain, UUID: "7e3a0a52-5b0c-4b52-9a53-0d2f7c1f6a02", Image: image, Dir: dir}
	if err := w.libvirt.Boot(t.Context(), guest.DomainXML(d)); err != nil {
		t.Fatal(err)
	}
	if w.tenond, err = host.NewTenond(dir, bin, w.libvirt.URI()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("tenond said:\n%s", w.tenond.Log())
		}
	})
	w.start()
	w.atEnd(w.tenond.Stop)
	for _, d := range devices {
		w.ctl("device", "add", d.name, "--driver", "dir", "-p", "path="+folders[d.name])
	}
	if w.shell, err = guest.Dial(t.Context(), d.ShellSocket()); err != nil {
		t.Fatal(err)
	}
	w.atEnd(func(context.Context) error { return w.shell.Close() })
	return w
}

// atEnd takes something down that the test's own context does not outlive.
func (w *world) atEnd(down func(context.Context) error) {
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := down(ctx); err != nil {
			w.t.Error(err)
		}
	})
}

func (w *world) start() {
	w.t.Helper()
	if _, err := w.tenond.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ctl(args ...string) string {
	w.t.Helper()
	out, err := w.tenond.Run(w.t.Context(), args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) ask(answer any, args ...string) {
	w.t.Helper()
	if err := w.tenond.RunJSON(w.t.Context(), answer, args...); err != nil {
		w.t.Fatal(err)
	}
}

// told is what the guest's writer says.
type told struct {
	Writes, Verified, Errors uint64
	First, Sum               string
	LongestUS                int64 `json:"longest_us"`
}

func (w *world) writer(question string) told {
	w.t.Helper()
	out, err := w.shell.Run(w.t.Context(), "writer "+question)
	if err != nil {
		w.t.Fatal(err)
	}
	var said told
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		w.t.Fatalf("the writer said %q: %v", out, err)
	}
	return said
}

// operation is the part of an operation that tells how it ended.
type operation struct {
	ID, State string
	Failure   struct{ Code, Message string }
	DiskMove  struct {
		Disks []struct {
			Moved           bool
			From, To, Note  string
			Tombstone, Disk struct{ ID string }
		}
	} `json:"disk_move"`
}

// killLibvirt kills libvirtd at this moment, or at the first one after it that
// libvirt itself survives. While libvirt 9.0.0 ends a copy that was switched, it
// records the domain with <mirror … job=”>, which it refuses to read when it comes
// back ("unknown mirror job type ”"): it then shows a domain as off whose QEMU goes
// on, and nobody above libvirt can mend that.
func (w *world) killLibvirt() error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for spared := false; ; spared = true {
		if err := syscall.Kill(w.libvirt.Pid(), syscall.SIGSTOP); err != nil {
			return err
		}
		record, err := os.ReadFile(w.libvirt.Record(domain))
		if err != nil || !strings.Contains(string(record), "job=''") {
			if spared {
				w.events["libvirtd spared a while"]++
			}
			return errors.Join(err, w.libvirt.Kill())
		}
		if err := syscall.Kill(w.libvirt.Pid(), syscall.SIGCONT); err != nil {
			return err
		}
		<-tick.C
	}
}

// killing kills one daemon at a random moment and starts it again.
func (w *world) killing(after time.Duration, kill func() error, start func(context.Context) error) error {
	moment := time.NewTimer(after)
	defer moment.Stop()
	<-moment.C
	return errors.Join(kill(), start(w.t.Context()))
}

// move asks for the disk to go to the other device, kills what chance wants
// killed, and returns how it ended.
func (w *world) move(request string) operation {
	w.t.Helper()
	var began operation
	w.ask(&began, "disk", "move", domain, w.disk, devices[1-w.at].name, "--async", "--request-id", request)
	var work sync.WaitGroup
	faults := make([]error, 2)
	if w.random.IntN(2) == 0 {
		after := time.Duration(w.random.Int64N(int64(life)))
		w.events["tenond killed"]++
		work.Go(func() {
			faults[0] = w.killing(after, w.tenond.Kill, func(ctx context.Context) error { _, err := w.tenond.Start(ctx); return err })
		})
	}
	if w.random.IntN(4) == 0 {
		after := time.Duration(w.random.Int64N(int64(life)))
		w.events["libvirtd killed"]++
		work.Go(func() { faults[1] = w.killing(after, w.killLibvirt, w.libvirt.Start) })
	}
	work.Wait()
	if err := errors.Join(faults...); err != nil {
		w.t.Fatal(err)
	}
	var op operation
	// It fails where the operation does, whose end is printed all the same.
	_ = w.tenond.RunJSON(w.t.Context(), &op, "operation", "wait", began.ID, "--timeout", "1m")
	w.ask(&op, "operation", "show", began.ID)
	return op
}

// settle checks, after each try, that the guest noticed nothing and that what the
// move left is what was promised, and takes that away.
func (w *world) settle(op operation, moved bool) {
	w.t.Helper()
	from, to := devices[w.at].name, devices[1-w.at].name
	if moved {
		w.at = 1 - w.at
	}
	said := w.writer("status")
	if said.Errors > 0 || said.Writes <= w.writes {
		w.t.Errorf("the guest's writer: %+v, after %d writes before", said, w.writes)
	}
	w.writes = said.Writes
	var volumes struct{ Volumes []struct{ URI string } }
	for i, d := range devices {
		w.ask(&volumes, "volume", "list", d.name)
		if want := i == w.at; (len(volumes.Volumes) == 1) != want || len(volumes.Volumes) > 1 {
			w.t.Errorf("device %s has %v after a move from %s to %s that ended as %+v", d.name, volumes.Volumes, from, to, op)
		}
		for _, id := range w.tombstones(d.name) {
			w.events["tombstone destroyed"]++
			w.ctl("volume", "destroy", d.name, id)
		}
	}
}

func (w *world) tombstones(device string) (ids []string) {
	w.t.Helper()
	var list struct{ Tombstones []struct{ ID string } }
	w.ask(&list, "volume", "list", device, "--tombstones")
	for _, t := range list.Tombstones {
		ids = append(ids, t.ID)
	}
	return ids
}

// Cases: E115, E119, E123, E129, E131
func TestAGuestWritesThroughFiftyMoves(t *testing.T) {
	seed := number(t, "TENON_MOVE_SEED", rand.Uint64())
	t.Logf("TENON_MOVE_SEED=%d", seed)
	w := newWorld(t, seed)
	wanted := int(number(t, "TENON_MOVES", moves))
	// A disk keeps its format when it moves, so one disk of each goes half of the way.
	w.journey(formats[0], wanted/2)
	w.journey(formats[1], wanted-wanted/2)
	w.leaveNothing()
}

// journey moves a new disk so many times, while the guest writes to it.
func (w *world) journey(format string, wanted int) {
	w.t.Helper()
	w.at, w.writes = 0, 0
	w.ctl("volume", "create", devices[0].name+"/disk", "--size", strconv.Itoa(diskSize), "--format", format)
	var attached struct{ Disk struct{ ID string } }
	w.ask(&attached, "disk", "attach", devices[0].name+"/disk", domain)
	w.disk = attached.Disk.ID
	if _, err := w.shell.Run(w.t.Context(), "writer start $(disk "+w.disk+")"); err != nil {
		w.t.Fatal(err)
	}
	began := time.Now()
	for done, tried := 0, 0; done < wanted; tried++ {
		if tried > tries*wanted {
			w.t.Fatalf("%d of %d moves succeeded", done, tried)
		}
		op := w.move(fmt.Sprintf("%s-%d", format, tried))
		moved := op.State == "OPERATION_STATE_SUCCEEDED"
		if moved {
			done++
			w.events["moved"]++
		} else {
			w.events["taken back: "+op.Failure.Code]++
			w.t.Logf("taken back: %s", op.Failure.Message)
			if op.State != "OPERATION_STATE_FAILED" || op.Failure.Message == "" {
				w.t.Errorf("operation = %+v", op)
			}
		}
		w.settle(op, moved)
		if w.t.Failed() {
			w.t.Fatalf("in try %d of the %s disk; libvirt shows\n%s", tried, format, w.shown())
		}
	}
	w.t.Logf("%d moves of a %s disk in %v: %v", wanted, format, time.Since(began).Round(time.Second), w.events)
	w.compare()
}

// shown is what libvirt says of the domain's disks, running and defined.
func (w *world) shown() string {
	w.t.Helper()
	var all []string
	for _, args := range [][]string{{"dumpxml", domain}, {"dumpxml", domain, "--inactive"}, {"blockjob", domain, "vda"}} {
		text, err := w.libvirt.Virsh(w.t.Context(), args...)
		if at := strings.Index(text, "<disk"); at >= 0 {
			text = text[at : strings.LastIndex(text, "</disk>")+len("</disk>")]
		}
		all = append(all, fmt.Sprintf("%v: %s (%v)", args, text, err))
	}
	return strings.Join(all, "\n")
}

// compare has the guest verify what it wrote, and compares its disk with the
// volume as tenond reads it.
func (w *world) compare() {
	w.t.Helper()
	said := w.writer("stop")
	if said.Errors > 0 || said.Verified == 0 || said.Sum == "" {
		w.t.Fatalf("the guest's writer: %+v", said)
	}
	w.t.Logf("the guest wrote %d times and verified %d blocks", said.Writes, said.Verified)
	w.ctl("disk", "detach", domain, w.disk)
	file := filepath.Join(w.t.TempDir(), "disk")
	w.ctl("volume", "read", devices[w.at].name+"/disk", "--output", file)
	content, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != said.Sum {
		w.t.Errorf("the volume has checksum %x, the guest's disk had %s", sum, said.Sum)
	}
	w.ctl("volume", "delink", devices[w.at].name+"/disk")
}

// leaveNothing checks that nothing holds a device any more.
func (w *world) leaveNothing() {
	w.t.Helper()
	for _, d := range devices {
		folder := filepath.Join(w.tenond.Dir, d.fs, "tenon")
		for _, part := range []string{"work", "mappings"} {
			entries, err := os.ReadDir(filepath.Join(folder, part))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				w.t.Error(err)
			}
			for _, e := range entries {
				w.t.Errorf("%s/%s/%s is left over", d.name, part, e.Name())
			}
		}
	}
	for _, d := range devices {
		for _, id := range w.tombstones(d.name) {
			w.ctl("volume", "destroy", d.name, id)
		}
		w.ctl("device", "remove", d.name) // refused while anything uses it
	}
	var running struct{ Operations []operation }
	w.ask(&running, "operation", "list", "--state", "running")
	if len(running.Operations) > 0 {
		w.t.Errorf("operations still run: %+v", running.Operations)
	}
}
