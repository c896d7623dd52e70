// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/dir"
)

// TestAFencedDeviceIsFencedOnEveryHost opens one directory as two hosts.
func TestAFencedDeviceIsFencedOnEveryHost(t *testing.T) {
	path := newDevice(t, "ext4")
	here, there := request(t, path), request(t, path)
	there.Host.ID = "other"
	b, ob := openAs(t, here), openAs(t, there)
	create(t, b, "a", primitives.FormatRaw, seedA)

	m := active(t, ob, "a")
	if all, err := b.Facets().Fence.Holders(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("Holders() beside a mapping of another host = %+v, %v; want those of this host, none", all, err)
	}
	_, err := b.Facets().Fence.Fence(t.Context(), op("fence"))
	if e := refused(t, err, primitives.CodeInUse, "Fence beside a mapping of another host"); !strings.Contains(fmt.Sprint(e.Blocked), "on host other") {
		t.Errorf("Fence names %v, want the other host", e.Blocked)
	}
	must(t, ob.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))

	fence(t, b)
	if !fenced(t, ob) {
		t.Error("Describe() on the other host says not fenced")
	}
	_, err = ob.Read(t.Context(), vol("a"), primitives.Op{})
	if e := refused(t, err, primitives.CodeFenced, "Read on the other host"); !strings.Contains(e.Error(), "by host host") {
		t.Errorf("Read on the other host = %v, want who fenced it", e)
	}
	fence(t, ob)
	unfence(t, ob)
	holds(t, b, vol("a"), content(seedA, mib))
}

// TestOpenOfAFencedDeviceChangesNothing also has the capabilities be what they
// were, though nothing can be tried out.
func TestOpenOfAFencedDeviceChangesNothing(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			path := newDevice(t, kind)
			b := open(t, path)
			create(t, b, "a", primitives.FormatRaw, seedA)
			before, err := b.Describe(t.Context())
			must(t, err)
			fence(t, b)
			was := modified(t, path)
			again := open(t, path)
			now, err := again.Describe(t.Context())
			must(t, err)
			if d := cmp.Diff(before.Caps, now.Caps); d != "" || !now.Fenced || now.Health != primitives.Healthy || now.Backend != before.Backend {
				t.Errorf("Describe() of a fenced device = %+v; capabilities (-before +now):\n%s", now, d)
			}
			_, err = again.List(t.Context(), primitives.ListRequest{})
			refused(t, err, primitives.CodeFenced, "List")
			must(t, again.Close())
			if d := cmp.Diff(was, modified(t, path)); d != "" {
				t.Errorf("the folder was changed (-before +after):\n%s", d)
			}
			unfence(t, b)
			holds(t, b, vol("a"), content(seedA, mib))
		})
	}
}

// modified tells of each file and folder when it last changed.
func modified(t *testing.T, path string) map[string]time.Time {
	t.Helper()
	all := map[string]time.Time{}
	must(t, filepath.Walk(path, func(name string, info os.FileInfo, err error) error {
		if err == nil {
			all[name] = info.ModTime()
		}
		return err
	}))
	return all
}

func TestAReadOnlyDeviceCannotBeFencedAndSaysSo(t *testing.T) {
	at := small(t, "ext4", 64*mib)
	b := open(t, at)
	create(t, b, "a", primitives.FormatRaw, seedA)
	must(t, unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	f := b.Facets().Fence
	_, err := f.Fence(t.Context(), op("fence"))
	if e := refused(t, err, primitives.CodeDenied, "Fence of a read-only device"); e.Try == "" {
		t.Error("Fence says nothing to try")
	}
	if fenced(t, b) {
		t.Error("Describe() says fenced")
	}
	unfence(t, b) // of what is not fenced
	holds(t, b, vol("a"), content(seedA, mib))

	must(t, unix.Mount("", at, "", unix.MS_REMOUNT, ""))
	fence(t, b)
	must(t, unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	fence(t, b) // it stands, and is verified
	if d, err := b.Describe(t.Context()); err != nil || !d.Fenced || d.Health != primitives.Degraded {
		t.Errorf("Describe() = fenced %t, %v, %v; want fenced and degraded", d.Fenced, d.Health, err)
	}
	refused(t, f.Unfence(t.Context(), op("unfence")), primitives.CodeDenied, "Unfence of a read-only device")
	must(t, unix.Mount("", at, "", unix.MS_REMOUNT, ""))
	unfence(t, b)
	holds(t, b, vol("a"), content(seedA, mib))
}

func TestAFullDeviceCanBeFencedAndOpenedAgain(t *testing.T) {
	for kind, room := range map[string]int64{"ext4": 24 * mib, "xfs": 320 * mib, "btrfs": 128 * mib} {
		t.Run(kind, func(t *testing.T) {
			at := small(t, kind, room)
			b := open(t, at)
			create(t, b, "a", primitives.FormatRaw, seedA)
			fill(t, filepath.Join(at, "foreign"))
			fence(t, b)
			fill(t, filepath.Join(at, "foreign"))
			unfence(t, b)
			holds(t, b, vol("a"), content(seedA, mib))
		})
	}
}

// TestAFolderThatIsMadeInThePlaceOfDataIsNoDevice shows that a fenced device
// does not become an empty one.
func TestAFolderThatIsMadeInThePlaceOfDataIsNoDevice(t *testing.T) {
	path := newDevice(t, "ext4")
	b := open(t, path)
	create(t, b, "a", primitives.FormatRaw, seedA)
	fence(t, b)
	data := filepath.Join(path, "data")
	must(t, os.Mkdir(data, 0o711))
	_, err := b.Read(t.Context(), vol("a"), primitives.Op{})
	refused(t, err, primitives.CodeFenced, "Read")
	if !fenced(t, open(t, path)) {
		t.Error("Describe() says not fenced")
	}
	_, err = b.Facets().Fence.Fence(t.Context(), op("fence"))
	refused(t, err, primitives.CodeConflict, "Fence, repeated")
	refused(t, b.Facets().Fence.Unfence(t.Context(), op("unfence")), primitives.CodeConflict, "Unfence")
	must(t, os.Remove(data))
	unfence(t, b)
	holds(t, b, vol("a"), content(seedA, mib))
}

// TestAnEraseThatMeetsAFenceLosesNothing sets the folder aside in the moment in
// which an erase has let the device's lock go and not yet got the layer's.
func TestAnEraseThatMeetsAFenceLosesNothing(t *testing.T) {
	path := newDevice(t, "ext4")
	begun := make(chan struct{})
	drv := dir.Stepping(func(step string) {
		if strings.HasPrefix(step, "replace trash/") {
			close(begun)
		}
	})
	b, err := drv.Open(t.Context(), request(t, path))
	must(t, err)
	create(t, b, "a", primitives.FormatRaw, seedA)
	tomb, err := b.Delink(t.Context(), vol("a"), primitives.DelinkRequest{Op: op("delink")})
	must(t, err)
	destroy := func() error {
		return b.Destroy(t.Context(), tomb, primitives.DestroyRequest{Op: op("destroy"), Erase: primitives.EraseZero})
	}
	layers := lockBytes(t, path, 1, 0)
	destroyed := make(chan error, 1)
	go func() { destroyed <- destroy() }()
	<-begun
	device := lockBytes(t, path, 0, 1) // granted once the erase has let it go
	must(t, os.Rename(filepath.Join(path, "data"), filepath.Join(path, "data.fenced")))
	must(t, device.Close())
	must(t, layers.Close())
	refused(t, <-destroyed, primitives.CodeFenced, "Destroy")
	if left := entries(t, filepath.Join(path, "data.fenced")); len(left) != 1 {
		t.Errorf("the fenced folder holds %v, want the volume's file", left)
	}
	unfence(t, b)
	again := open(t, path)
	must(t, again.Destroy(t.Context(), tomb, primitives.DestroyRequest{Op: op("destroy"), Erase: primitives.EraseZero}))
	if left := entries(t, filepath.Join(path, "data")); len(left) != 0 {
		t.Errorf("data holds %v after the destroy, want nothing", left)
	}
}

// lockBytes takes the locks that another tenond would.
func lockBytes(t *testing.T, path string, from, n int64) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK, Start: from, Len: n}))
	return f
}

// TestHoldersOfThousandsOfVolumesAreFoundInOneLook bounds generously: to go
// through the host's processes once per volume takes minutes.
func TestHoldersOfThousandsOfVolumesAreFoundInOneLook(t *testing.T) {
	const volumes, bound = 5000, 5 * time.Second
	path := newDevice(t, "tmpfs")
	b := open(t, path)
	for i := range volumes {
		must(t, write(t, b, fmt.Sprintf("vol%05d", i), primitives.WriteRequest{Create: true, Size: mib, Format: primitives.FormatRaw}, nil))
	}
	release := shell(t, `exec 3<"$1"`, dataFile(t, b, "vol04000"))
	begun := time.Now()
	all, err := b.Facets().Fence.Holders(t.Context())
	must(t, err)
	t.Logf("Holders() of %d volumes took %s", volumes, time.Since(begun))
	if took := time.Since(begun); took > bound {
		t.Errorf("Holders() took %s, want less than %s", took, bound)
	}
	if len(all) != 1 || all[0].URI != vol("vol04000") {
		t.Errorf("Holders() = %+v, want the one of vol04000", all)
	}
	release()
	begun = time.Now()
	fence(t, b)
	t.Logf("Fence() of %d volumes took %s", volumes, time.Since(begun))
	unfence(t, b)
}
