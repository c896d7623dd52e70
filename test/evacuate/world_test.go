// SPDX-License-Identifier: Apache-2.0

package evacuate_test

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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/test/guest"
	"github.com/tenon-storage/tenon/test/host"
)

const (
	serviced, refuge = "x", "e" // the device that goes into maintenance, and the other
	// A tenond that dies lives for that many writes of its journal. A start takes
	// some, and something has to be left to get on.
	shortestLife, longestLife = 6, 20
	patience                  = 2 * time.Minute
)

// world is a host with two guests and two devices.
type world struct {
	t       *testing.T
	libvirt *host.Libvirtd
	tenond  *host.Tenond
	shell   *guest.Shell // of the guest that writes
	moved   string       // the ID of the disk that it writes to
	writes  uint64

	mortal bool // tenond is to die; read by the test's own goroutine only, at each step
	random *rand.Rand
	deaths atomic.Int64
	births atomic.Int64
	pid    atomic.Int64 // of the tenond that was started last
	ending atomic.Bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("TENON_EVACUATE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 0, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("TENON_EVACUATE_SEED=%d", seed)
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 0))}
	dir, err := os.MkdirTemp("", "tv") // short: sockets go below it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image, err := guest.Build(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	folders := map[string]string{}
	for device, kind := range map[string]string{serviced: "xfs", refuge: "ext4"} {
		mounted, unmount, err := host.MountLoop(t.Context(), dir, kind, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		w.atEnd(unmount)
		folders[device] = filepath.Join(mounted, "tenon")
		if err := os.Mkdir(folders[device], 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if w.libvirt, err = host.StartLibvirtd(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	w.atEnd(w.libvirt.Stop)
	if w.tenond, err = host.NewTenond(dir, w.build(), w.libvirt.URI()); err != nil {
		t.Fatal(err)
	}
	w.tenond.Binary = filepath.Join(filepath.Dir(w.tenond.Binary), "mortal")
	w.keep()
	t.Cleanup(func() {
		if t.Failed() {
			w.tell()
		}
	})
	for device, folder := range folders {
		w.do("device", "add", device, "--driver", "dir", "-p", "path="+folder)
	}
	for volume, size := range map[string]string{"moved": "32M", "kept": "16M", "spare": "16M"} {
		w.do("volume", "create", serviced+"/"+volume, "--size", size, "--format", "raw")
	}
	w.boot(dir, image)
	return w
}

// boot starts both guests and lets the first one write.
func (w *world) boot(dir string, image guest.Image) {
	w.t.Helper()
	for i, name := range []string{"mover", "keeper"} {
		d := guest.Domain{Name: name, UUID: fmt.Sprintf("7e3a0a52-5b0c-4b52-9a53-0d2f7c1f6b0%d", i), Image: image, Dir: dir}
		if err := w.libvirt.Boot(w.t.Context(), guest.DomainXML(d)); err != nil {
			w.t.Fatal(err)
		}
		shell, err := guest.Dial(w.t.Context(), d.ShellSocket())
		if err != nil {
			w.t.Fatal(err)
		}
		w.atEnd(func(context.Context) error { return shell.Close() })
		if name == "mover" {
			w.shell = shell
		}
	}
	w.do("disk", "attach", serviced+"/moved", "mover")
	w.moved = w.disks("mover")[0].ID
	if _, err := w.shell.Run(w.t.Context(), "writer start $(disk "+w.moved+")"); err != nil {
		w.t.Fatal(err)
	}
}

// build builds the programs. Go's test cache knows the files that a test opens, but
// not those that a compiler opens for it; so the test looks at all.
func (w *world) build() string {
	w.t.Helper()
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && (e.Name() == "build" || strings.HasPrefix(e.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	bin := w.t.TempDir()
	_, err = command.Run(w.t.Context(), command.Cmd{
		Path: "go", Args: []string{"build", "-tags", "libvirt_dlopen", "-o", bin + "/", "./test/evacuate/mortal", "./cmd/tenonctl"}, Dir: root,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return bin
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

// keep starts tenond, and starts it again whenever it has died.
func (w *world) keep() {
	w.t.Helper()
	if _, err := w.tenond.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.pid.Store(int64(w.tenond.Pid()))
	ctx, cancel := context.WithCancel(context.Background())
	var keeper sync.WaitGroup
	keeper.Go(func() {
		for stillborn := 0; stillborn < 20; {
			select {
			case <-w.tenond.Done():
			case <-ctx.Done():
				return
			}
			if w.ending.Load() {
				return
			}
			w.deaths.Add(1)
			stillborn++ // it may die while it starts, too
			if _, err := w.tenond.Start(ctx); err == nil {
				stillborn = 0
				w.pid.Store(int64(w.tenond.Pid()))
				w.births.Add(1)
			}
		}
		w.t.Error("tenond does not start any more")
	})
	w.atEnd(func(stop context.Context) error {
		w.ending.Store(true)
		cancel()
		keeper.Wait()
		return w.tenond.Stop(stop)
	})
}

// next ends the present life of tenond, for one of the kind that is wanted now.
func (w *world) next(mortal bool) {
	w.t.Helper()
	w.mortal = mortal
	w.fate()
	lives := w.births.Load()
	if err := syscall.Kill(int(w.pid.Load()), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		w.t.Fatal(err)
	}
	if err := w.reborn(lives); err != nil {
		w.t.Fatal(err)
	}
}

// reborn waits for a tenond that was started after so many.
func (w *world) reborn(lives int64) error {
	return w.poll("tenond runs again", func() (bool, error) { return w.births.Load() > lives, nil })
}

// fate says before which write the next tenond dies, if it is to die.
func (w *world) fate() {
	w.t.Helper()
	file := filepath.Join(w.tenond.Dir, "tenond.yaml.die-at")
	var err error
	if w.mortal {
		err = os.WriteFile(file, strconv.AppendInt(nil, int64(shortestLife+w.random.IntN(longestLife-shortestLife)), 10), 0o600)
	} else if err = os.Remove(file); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// do runs tenonctl until it succeeds: again where tenond has died meanwhile.
func (w *world) do(args ...string) {
	w.t.Helper()
	w.fate()
	var err error
	for range 30 {
		lives := w.births.Load()
		if _, err = w.tenond.Run(w.t.Context(), args...); err == nil {
			return
		}
		if w.reborn(lives) != nil {
			break
		}
	}
	w.t.Fatalf("%v: %v", args, err)
}

// What the test reads of tenonctl's JSON.
type (
	status struct {
		Phase    string
		Gate     string
		Blockers []struct{ Name string }
		Foreign  []foreign `json:"foreign_uses"`
		Fence    struct{ Verified bool }
	}
	foreign struct{ Name, Path string }
	disk    struct {
		ID, URI string
		Source  struct{ Path string }
	}
	told struct {
		Writes, Verified, Errors uint64
		First, Sum               string
	}
)

// tell shows how things stand, for those who read why the test failed. It runs
// before tenond is stopped.
func (w *world) tell() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{{"maintenance", "status", serviced}, {"operation", "list"}} {
		out, err := w.tenond.Run(ctx, args...)
		w.t.Logf("%v: %v\n%s", args, err, out)
	}
	w.t.Logf("the tenond that ran last said:\n%s", w.tenond.Log())
}

// await waits until the device stands as it should. Answers that a death prevents
// are asked for again.
func (w *world) await(what string, holds func(status) bool) {
	w.t.Helper()
	w.fate()
	var last status
	var failed error
	err := w.poll(what, func() (bool, error) {
		var s status
		failed = w.tenond.RunJSON(w.t.Context(), &s, "maintenance", "status", serviced)
		if failed == nil {
			last = s
		}
		return failed == nil && holds(s), nil
	})
	if err != nil {
		w.t.Fatalf("%v; the device is %+v; the last answer's error is %v; disks: %+v", err, last, failed, w.disks("mover"))
	}
}

// poll asks again and again, as long as patience lasts.
func (w *world) poll(what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(w.t.Context(), patience, fmt.Errorf("%v were not enough", patience))
	defer cancel()
	return host.Await(ctx, what, done)
}

func (w *world) disks(domain string) []disk {
	w.t.Helper()
	var list struct{ Disks []disk }
	err := w.poll("disks are listed", func() (bool, error) {
		return w.tenond.RunJSON(w.t.Context(), &list, "disk", "list", domain) == nil, nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Disks
}

// lies tells on which device the moved disk is; "" where that cannot be told now.
func (w *world) lies(id string) string {
	for _, d := range w.disks("mover") {
		if d.ID == id {
			device, _, _ := strings.Cut(strings.TrimPrefix(d.URI, "tenon://"), "/")
			return device
		}
	}
	return ""
}

// sourceOf is the file with a volume's bytes: the one of its size and name that is
// not open anywhere is found by what the device's own record says.
func (w *world) sourceOf(volume string) string {
	w.t.Helper()
	record, err := os.ReadFile(filepath.Join(w.tenond.Dir, "xfs", "tenon", "volumes", "="+volume+".json"))
	if err != nil {
		w.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(w.tenond.Dir, "xfs", "tenon", "data", "*.raw"))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range files {
		if id := strings.TrimSuffix(filepath.Base(f), ".raw"); strings.Contains(string(record), id) {
			return f
		}
	}
	w.t.Fatalf("no file of %v belongs to %s: %s", files, volume, record)
	return ""
}

func (w *world) virsh(args ...string) {
	w.t.Helper()
	if out, err := w.libvirt.Virsh(w.t.Context(), args...); err != nil {
		w.t.Fatalf("virsh %v: %v: %s", args, err, out)
	}
}

// unharmed checks that the writing guest has gone on and met no error.
func (w *world) unharmed() {
	w.t.Helper()
	said := w.writer("status")
	if said.Errors > 0 || said.Writes <= w.writes {
		w.t.Errorf("the guest's writer: %+v, after %d writes before", said, w.writes)
	}
	w.writes = said.Writes
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

// leaveNothing compares the disk with the volume and checks that nothing holds a
// device any more.
func (w *world) leaveNothing() {
	w.t.Helper()
	said := w.writer("stop")
	w.do("disk", "detach", "mover", w.moved)
	file := filepath.Join(w.t.TempDir(), "disk")
	w.do("volume", "read", serviced+"/moved", "--output", file)
	content, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if sum := sha256.Sum256(content); said.Errors > 0 || hex.EncodeToString(sum[:]) != said.Sum {
		w.t.Errorf("the volume has checksum %x, the guest says %+v", sum, said)
	}
	for device, volumes := range map[string]int{serviced: 3, refuge: 0} {
		var list struct{ Volumes []struct{ URI string } }
		var shown struct{ Uses int }
		err := errors.Join(w.tenond.RunJSON(w.t.Context(), &list, "volume", "list", device), w.tenond.RunJSON(w.t.Context(), &shown, "device", "show", device))
		if err != nil || len(list.Volumes) != volumes || shown.Uses != 0 {
			w.t.Errorf("device %s ends with volumes %v and %d uses: %v", device, list.Volumes, shown.Uses, err)
		}
	}
}
