// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/dir"
)

// scenario is an operation that is killed before each of its steps in turn, and
// then repeated.
type scenario struct {
	on    string                                                             // the file system
	setup func(t testing.TB, b primitives.Backend, path string)              // what is there before
	act   func(ctx context.Context, b primitives.Backend, path string) error // in the child, then again in the parent
	check func(t testing.TB, b primitives.Backend)                           // after the repeat
}

// The seeds of the volumes that scenarios make.
const (
	seedA = 11
	seedB = 22
)

func raw(t testing.TB, b primitives.Backend, _ string) {
	create(t, b, "a", primitives.FormatRaw, seedA)
}

func qcow2(t testing.TB, b primitives.Backend, _ string) {
	create(t, b, "a", primitives.FormatQcow2, seedA)
}

// snapped is a qcow2 or raw volume with a snapshot of other content below it.
func snapped(f primitives.Format) func(testing.TB, primitives.Backend, string) {
	return func(t testing.TB, b primitives.Backend, _ string) {
		create(t, b, "a", f, seedA)
		must(t, snap(t.Context(), b, "s1"))
		must(t, write(t, b, "a", primitives.WriteRequest{Op: op("again")}, content(seedB, mib)))
		must(t, snap(t.Context(), b, "s2"))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func snap(ctx context.Context, b primitives.Backend, name string) error {
	_, err := b.Facets().Snapshots.Snapshot(ctx, []primitives.URI{vol("a")}, name, op("snap-"+name))
	return err
}

func putAll(ctx context.Context, b primitives.Backend, name string, r primitives.WriteRequest, p []byte) error {
	w, err := b.Write(ctx, vol(name), r)
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(p, 0); err != nil {
		return err
	}
	_, err = w.Commit(ctx)
	return err
}

func creates(f primitives.Format) func(context.Context, primitives.Backend, string) error {
	return func(ctx context.Context, b primitives.Backend, _ string) error {
		return putAll(ctx, b, "b", primitives.WriteRequest{Op: op("op"), Create: true, Resume: true, Size: mib, Format: f}, content(seedB, mib))
	}
}

func clones(of string, full bool) func(context.Context, primitives.Backend, string) error {
	return func(ctx context.Context, b primitives.Backend, _ string) error {
		_, err := b.Clone(ctx, vol("a").At(of), vol("b"), primitives.CloneRequest{Op: op("op"), Full: full, Size: 2 * mib})
		return err
	}
}

// holdsIn checks one object and that the volume's first content is where it was.
func holdsIn(u primitives.URI, seed uint64) func(testing.TB, primitives.Backend) {
	return func(t testing.TB, b primitives.Backend) {
		t.Helper()
		holds(t, b, u, content(seed, mib))
	}
}

func removes(u primitives.URI, erase primitives.Erase) func(context.Context, primitives.Backend, string) error {
	return func(ctx context.Context, b primitives.Backend, _ string) error {
		t, err := b.Delink(ctx, u, primitives.DelinkRequest{Op: op("delink")})
		if errors.Is(err, primitives.CodeNotFound) {
			return nil // it was destroyed before
		}
		if err != nil {
			return err
		}
		return b.Destroy(ctx, t, primitives.DestroyRequest{Op: op("destroy"), Erase: erase})
	}
}

func leaves(snapshots ...string) func(testing.TB, primitives.Backend) {
	return func(t testing.TB, b primitives.Backend) {
		t.Helper()
		p, err := b.List(t.Context(), primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone}})
		must(t, err)
		var names []string
		for _, o := range p.Objects {
			names = append(names, o.URI.Short())
		}
		if fmt.Sprint(names) != fmt.Sprint(snapshots) {
			t.Errorf("what is left = %v, want %v", names, snapshots)
		}
	}
}

func scenarios() map[string]scenario {
	all := map[string]scenario{
		"create raw":       {on: "ext4", setup: raw, act: creates(primitives.FormatRaw), check: holdsIn(vol("b"), seedB)},
		"create qcow2":     {on: "ext4", setup: raw, act: creates(primitives.FormatQcow2), check: holdsIn(vol("b"), seedB)},
		"overlay snapshot": {on: "ext4", setup: qcow2, check: holdsIn(vol("a").At("s"), seedA), act: func(ctx context.Context, b primitives.Backend, _ string) error { return snap(ctx, b, "s") }},
		"reflink snapshot": {on: "xfs", setup: raw, check: holdsIn(vol("a").At("s"), seedA), act: func(ctx context.Context, b primitives.Backend, _ string) error { return snap(ctx, b, "s") }},
		"copying clone":    {on: "ext4", setup: raw, act: clones("", true), check: holdsIn(vol("b"), seedA)},
		"reflink clone":    {on: "xfs", setup: qcow2, act: clones("", false), check: holdsIn(vol("b"), seedA)},
		"overlay clone":    {on: "ext4", setup: snapped(primitives.FormatQcow2), act: clones("s1", false), check: holdsIn(vol("b"), seedA)},
		"overlay revert":   {on: "ext4", setup: snapped(primitives.FormatQcow2), act: reverts, check: holdsIn(vol("a"), seedA)},
		"reflink revert":   {on: "xfs", setup: snapped(primitives.FormatRaw), act: reverts, check: holdsIn(vol("a"), seedA)},
		"resize raw":       {on: "ext4", setup: raw, act: grows, check: holdsIn(vol("a"), seedA)},
		"resize qcow2":     {on: "ext4", setup: qcow2, act: grows, check: holdsIn(vol("a"), seedA)},
		"settle":           {on: "ext4", setup: qcow2, act: settles, check: holdsIn(vol("a").At("s"), seedA)},
		"relink":           {on: "ext4", setup: snapped(primitives.FormatQcow2), act: relinks, check: holdsIn(vol("b").At("s1"), seedA)},
		"fence":            {on: "ext4", setup: snapped(primitives.FormatQcow2), act: fences, check: isFenced(seedA)},
		"fence on XFS":     {on: "xfs", setup: snapped(primitives.FormatRaw), act: fences, check: isFenced(seedA)},
		"unfence":          {on: "ext4", setup: fencedAfter(snapped(primitives.FormatQcow2)), act: unfences, check: holdsIn(vol("a").At("s1"), seedA)},
		"import":           {on: "ext4", setup: foreign, act: imports, check: holdsIn(vol("b"), seedB)},
		"destroy a volume": {on: "ext4", setup: snapped(primitives.FormatQcow2), act: removes(vol("a"), primitives.EraseNone), check: leaves()},
		"erase a volume":   {on: "ext4", setup: raw, act: removes(vol("a"), primitives.EraseZero), check: leaves()},
		"destroy a snapshot in the middle": {
			on: "ext4", setup: snapped(primitives.FormatQcow2),
			act: removes(vol("a").At("s2"), primitives.EraseZero), check: leaves("d/a", "d/a@s1"),
		},
		"destroy a reflinked snapshot": {
			on: "xfs", setup: snapped(primitives.FormatRaw),
			act: removes(vol("a").At("s1"), primitives.EraseZero), check: leaves("d/a", "d/a@s2"),
		},
		"destroy a dependent clone": {
			on: "ext4", act: removes(vol("b"), primitives.EraseNone), check: leaves("d/a", "d/a@s1", "d/a@s2"),
			setup: func(t testing.TB, b primitives.Backend, path string) {
				snapped(primitives.FormatQcow2)(t, b, path)
				must(t, clones("s1", false)(t.Context(), b, path))
			},
		},
	}
	return all
}

func fences(ctx context.Context, b primitives.Backend, _ string) error {
	_, err := b.Facets().Fence.Fence(ctx, op("op"))
	return err
}

func unfences(ctx context.Context, b primitives.Backend, _ string) error {
	return b.Facets().Fence.Unfence(ctx, op("op"))
}

// fencedAfter is a setup that leaves the device fenced.
func fencedAfter(setup func(testing.TB, primitives.Backend, string)) func(testing.TB, primitives.Backend, string) {
	return func(t testing.TB, b primitives.Backend, path string) {
		setup(t, b, path)
		must(t, fences(t.Context(), b, path))
	}
}

// isFenced checks that the fence stands, and what is behind it.
func isFenced(seed uint64) func(testing.TB, primitives.Backend) {
	return func(t testing.TB, b primitives.Backend) {
		t.Helper()
		if d, err := b.Describe(t.Context()); err != nil || !d.Fenced {
			t.Errorf("Describe() = fenced %t, %v; want fenced", d.Fenced, err)
		}
		_, err := b.Read(t.Context(), vol("a").At("s1"), primitives.Op{})
		refused(t, err, primitives.CodeFenced, "Read")
		must(t, unfences(t.Context(), b, ""))
		holdsIn(vol("a").At("s1"), seed)(t, b)
	}
}

func reverts(ctx context.Context, b primitives.Backend, _ string) error {
	_, err := b.Facets().Snapshots.Revert(ctx, vol("a"), "s1", op("op"))
	return err
}

// settles takes a live snapshot whose guest switches at once.
func settles(ctx context.Context, b primitives.Backend, _ string) error {
	f := b.Facets()
	m, err := f.Map.Map(ctx, vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
	if err != nil {
		return err
	}
	if have, err := b.Stat(ctx, vol("a").At("s"), primitives.Op{}); err != nil || have.State == primitives.Pending {
		if err != nil {
			if _, err := f.Map.Activate(ctx, m.ID, primitives.Op{}); err != nil {
				return err
			}
		}
		if err := snap(ctx, b, "s"); err != nil {
			return err
		}
	}
	if _, err := f.Snapshots.Settle(ctx, []primitives.URI{vol("a")}, "s", true, op("op")); err != nil {
		return err
	}
	return f.Map.Unmap(ctx, m.ID, primitives.UnmapRequest{})
}

func grows(ctx context.Context, b primitives.Backend, _ string) error {
	_, err := b.Facets().Resize.Resize(ctx, vol("a"), 3*mib, op("op"))
	return err
}

func relinks(ctx context.Context, b primitives.Backend, _ string) error {
	t, err := b.Delink(ctx, vol("a"), primitives.DelinkRequest{Op: op("delink")})
	if err != nil && !errors.Is(err, primitives.CodeNotFound) {
		return err
	}
	if errors.Is(err, primitives.CodeNotFound) {
		_, err := b.Stat(ctx, vol("b"), primitives.Op{})
		return err
	}
	_, err = b.Relink(ctx, t, vol("b"), op("relink"))
	return err
}

// foreign lays an image beside the device.
func foreign(t testing.TB, b primitives.Backend, path string) {
	raw(t, b, path)
	must(t, os.WriteFile(imageBeside(path), content(seedB, mib), 0o600))
}

// imageBeside is where foreign lays it.
func imageBeside(path string) string { return filepath.Join(filepath.Dir(path), "image") }

func imports(ctx context.Context, b primitives.Backend, path string) error {
	_, err := b.Facets().Import.Import(ctx, vol("b"), primitives.ImportRequest{Op: op("op"), Path: imageBeside(path), Format: primitives.FormatRaw})
	return err
}

// What the tests tell the child.
const (
	childAct  = "TENON_DIR_ACT"  // the scenario
	childStep = "TENON_DIR_STEP" // the step before which it dies
	childPath = "TENON_DIR_PATH" // the device
	childRun  = "TENON_DIR_RUN"  // a run folder
)

// child runs one scenario and kills itself. It exits with 0 when the operation
// was done before that step came.
func child(act string) int {
	last, _ := strconv.Atoi(os.Getenv(childStep))
	armed, step := false, 0
	drv := dir.Stepping(func(string) {
		if !armed {
			return
		}
		if step++; step > last {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	b, err := drv.Open(context.Background(), primitives.OpenRequest{
		Name: device, Props: primitives.Props{"path": os.Getenv(childPath)},
		Host: primitives.HostInfo{ID: "host", BootID: "boot", RunDir: os.Getenv(childRun)},
	})
	if err == nil {
		armed = true
		err = scenarios()[act].act(context.Background(), b, os.Getenv(childPath))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	return 0
}

// TestKilledAnywhereNothingIsLostAndNothingOrphaned kills the process before
// every single step that changes the disk.
func TestKilledAnywhereNothingIsLostAndNothingOrphaned(t *testing.T) {
	for name, sc := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for step := 0; ; step++ {
				if killedAt(t, name, sc, step) {
					t.Logf("%d steps", step)
					return
				}
				if t.Failed() {
					t.Fatalf("when killed before step %d", step+1)
				}
			}
		})
	}
}

// killedAt reports whether the operation ended before that step came.
func killedAt(t *testing.T, name string, sc scenario, step int) bool {
	t.Helper()
	parent := on(t, sc.on)
	path := filepath.Join(parent, "device")
	must(t, os.Mkdir(path, 0o755))
	b := open(t, path)
	sc.setup(t, b, path)
	must(t, b.Close())

	_, err := command.Run(t.Context(), command.Cmd{Path: "/proc/self/exe", Env: []string{
		childAct + "=" + name, childStep + "=" + strconv.Itoa(step), childPath + "=" + path, childRun + "=" + host(t).RunDir,
	}})
	done := err == nil
	if e, ok := errors.AsType[*command.Error](err); ok && e.ExitCode == 3 {
		t.Fatalf("the operation failed by itself: %v", err)
	}
	audit(t, path)

	b = open(t, path)
	if err := sc.act(t.Context(), b, path); err != nil {
		t.Errorf("the repeat = %v", err)
		return done
	}
	sc.check(t, b)
	must(t, b.Close())
	audit(t, path)
	return done
}
