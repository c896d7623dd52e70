// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/dir"
)

func fence(t testing.TB, b primitives.Backend) primitives.FenceReport {
	t.Helper()
	r, err := b.Facets().Fence.Fence(t.Context(), op("fence"))
	must(t, err)
	return r
}

func unfence(t testing.TB, b primitives.Backend) {
	t.Helper()
	must(t, b.Facets().Fence.Unfence(t.Context(), op("unfence")))
}

func fenced(t testing.TB, b primitives.Backend) bool {
	t.Helper()
	d, err := b.Describe(t.Context())
	must(t, err)
	return d.Fenced
}

// What the tests tell the child that keeps a file mapped and not open.
const (
	childMaps  = "TENON_DIR_MAPS"
	childReady = "TENON_DIR_READY"
)

// holdMapped maps a file, closes it, and stays.
func holdMapped(file, ready string) int {
	f, err := os.Open(file)
	if err == nil {
		_, err = syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED)
	}
	if err == nil {
		err = errors.Join(f.Close(), os.WriteFile(ready, nil, 0o600))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {}
}

// start runs a program until the test or release ends it. It is ready when it
// has made the file that @READY in its arguments or environment stands for.
func start(t testing.TB, env []string, path string, args ...string) (release func()) {
	t.Helper()
	ready := filepath.Join(scratch(t, mounts.dir), "ready")
	subst := func(all []string) []string {
		out := slices.Clone(all)
		for i := range out {
			out[i] = strings.ReplaceAll(out[i], "@READY", ready)
		}
		return out
	}
	p, err := command.Start(t.Context(), command.Cmd{Path: path, Args: subst(args), Env: subst(env)},
		command.StartOptions{Pdeathsig: syscall.SIGKILL, ReadyFile: ready})
	if err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	release = func() { p.Signal(syscall.SIGKILL); <-p.Done() }
	t.Cleanup(release)
	return release
}

// shell runs a line of shell with $1 set, then stays.
func shell(t testing.TB, line, arg string) (release func()) {
	t.Helper()
	return start(t, nil, "sh", "-c", line+`; : > "$2"; exec sleep 100`, "sh", arg, "@READY")
}

// holder is a way to have a data file open.
type holder struct {
	kind string // as it is told
	hold func(t *testing.T, file string) (release func())
}

func holderKinds() map[string]holder {
	return map[string]holder{
		"a process that reads": {"process", func(t *testing.T, file string) func() { return shell(t, `exec 3<"$1"`, file) }},
		"a process in the folder": {"process", func(t *testing.T, file string) func() {
			return shell(t, `cd "$1"`, filepath.Dir(file))
		}},
		"a process that has it mapped and not open": {"process", func(t *testing.T, file string) func() {
			return start(t, []string{childMaps + "=" + file, childReady + "=@READY"}, "/proc/self/exe")
		}},
		"a bind mount of it": {"mount", func(t *testing.T, file string) func() {
			at := filepath.Join(scratch(t, mounts.dir), "bound here") // a space, which mountinfo escapes
			must(t, os.WriteFile(at, nil, 0o600))
			must(t, unix.Mount(file, at, "", unix.MS_BIND, ""))
			return func() { must(t, unix.Unmount(at, 0)) }
		}},
		"a bind mount of the folder in another namespace": {"mount", func(t *testing.T, file string) func() {
			return start(t, nil, "unshare", "-m", "sh", "-c", `mount --bind "$1" /mnt && : > "$2" && exec sleep 100`, "sh", filepath.Dir(file), "@READY")
		}},
		"a loop device": {"loop", func(t *testing.T, file string) func() {
			device := strings.TrimSpace(run(t, "losetup", "--find", "--show", file))
			return func() { run(t, "losetup", "--detach", device) }
		}},
	}
}

// TestWhoeverHasAVolumeOpenIsNamedAndStopsTheFence tries every way there is to
// get at the bytes without tenon.
//
// Cases: E53
func TestWhoeverHasAVolumeOpenIsNamedAndStopsTheFence(t *testing.T) {
	for name, way := range holderKinds() {
		for _, kind := range []string{"ext4", "btrfs"} { // where mountinfo and stat number devices alike, and not
			t.Run(name+" on "+kind, func(t *testing.T) {
				path := newDevice(t, kind)
				b := open(t, path)
				create(t, b, "a", primitives.FormatRaw, seedA)
				create(t, b, "b", primitives.FormatRaw, seedB)
				file := dataFile(t, b, "a")
				release := way.hold(t, file)

				all, err := b.Facets().Fence.Holders(t.Context())
				must(t, err)
				if len(all) != 1 || all[0].Kind != way.kind || all[0].Name == "" || all[0].URI.Device != device || all[0].Path == "" {
					t.Errorf("Holders() = %+v, want one of kind %q", all, way.kind)
				}
				if strings.Contains(name, "folder") == (len(all) == 1 && all[0].URI == vol("a")) {
					t.Errorf("Holders() = %+v, want the volume where it is known", all)
				}
				_, err = b.Facets().Fence.Fence(t.Context(), op("fence"))
				e := refused(t, err, primitives.CodeInUse, "Fence")
				if len(e.Blocked) != 1 || e.Blocked[0].Kind != way.kind {
					t.Errorf("Fence names %v, want the %s", e.Blocked, way.kind)
				}
				if fenced(t, b) {
					t.Error("Describe() says fenced after a fence was refused")
				}
				holds(t, b, vol("a"), content(seedA, mib))

				release()
				waitFor(t, "no holder", func() bool {
					all, err := b.Facets().Fence.Holders(t.Context())
					return err == nil && len(all) == 0
				})
				fence(t, b)
				unfence(t, b)
				holds(t, b, vol("a"), content(seedA, mib))
			})
		}
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s did not come about", what)
		}
	}
}

// dataFile is where a volume's bytes lie.
func dataFile(t testing.TB, b primitives.Backend, name string) string {
	t.Helper()
	f := b.Facets().Map
	m, err := f.Map(t.Context(), vol(name), primitives.MapRequest{Access: primitives.ReadOnly, Consumer: "test"})
	must(t, err)
	must(t, f.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
	return m.File.Path
}

// TestWhoComesBetweenTheLookAndTheFenceHasItTakenBack lets a holder in at the
// last moment before the rename.
func TestWhoComesBetweenTheLookAndTheFenceHasItTakenBack(t *testing.T) {
	for name, way := range holderKinds() {
		t.Run(name, func(t *testing.T) {
			path := newDevice(t, "xfs")
			file, release := "", func() {}
			drv := dir.Stepping(func(step string) {
				if step == "rename data data.fenced" && file != "" {
					release = way.hold(t, file)
					file = ""
				}
			})
			b, err := drv.Open(t.Context(), request(t, path))
			must(t, err)
			create(t, b, "a", primitives.FormatRaw, seedA)
			file = dataFile(t, b, "a")
			_, err = b.Facets().Fence.Fence(t.Context(), op("fence"))
			if e := refused(t, err, primitives.CodeInUse, "Fence"); len(e.Blocked) != 1 || e.Blocked[0].Kind != way.kind {
				t.Errorf("Fence names %v, want the %s", e.Blocked, way.kind)
			}
			if fenced(t, b) || slices.Contains(entries(t, path), "fence.json") {
				t.Errorf("the fence was not taken back: %v", entries(t, path))
			}
			holds(t, b, vol("a"), content(seedA, mib))
			release()
			fence(t, b)
			unfence(t, b)
		})
	}
}

func TestARemovedFileThatIsStillOpenStopsTheFence(t *testing.T) {
	b := open(t, newDevice(t, "ext4"))
	create(t, b, "a", primitives.FormatRaw, seedA)
	release := shell(t, `exec 3<"$1"`, dataFile(t, b, "a"))
	must(t, removes(vol("a"), primitives.EraseNone)(t.Context(), b, ""))
	_, err := b.Facets().Fence.Fence(t.Context(), op("fence"))
	refused(t, err, primitives.CodeInUse, "Fence beside who has a removed file open")
	release()
	fence(t, b)
	unfence(t, b)
}

// TestNoPathLeadsToAFencedVolume tries as root, and with the tools of others.
func TestNoPathLeadsToAFencedVolume(t *testing.T) {
	b := open(t, newDevice(t, "xfs"))
	for _, f := range []primitives.Format{primitives.FormatRaw, primitives.FormatQcow2} {
		create(t, b, string(f), f, seedA)
	}
	paths := []string{dataFile(t, b, "raw"), dataFile(t, b, "qcow2")}
	r := fence(t, b)
	if !strings.Contains(r.Evidence, "lease") {
		t.Errorf("Fence() = %+v, want the leases among the evidence", r)
	}
	for _, path := range paths {
		for _, flag := range []int{os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREATE} {
			if f, err := os.OpenFile(path, flag, 0o600); err == nil {
				t.Errorf("%s was opened with flags %x", path, flag)
				_ = f.Close()
			}
		}
		for _, args := range [][]string{{"info", path}, {"info", "-U", path}, {"check", path}, {"create", "-f", "raw", path, "1M"}} {
			if _, err := command.Run(t.Context(), command.Cmd{Path: "qemu-img", Args: args}); err == nil {
				t.Errorf("qemu-img %s succeeded", strings.Join(args, " "))
			}
		}
	}
	unfence(t, b)
	for _, f := range []string{"raw", "qcow2"} {
		holds(t, b, vol(f), content(seedA, mib))
	}
}
