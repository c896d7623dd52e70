// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/dir"
)

func identityOf(t testing.TB, b primitives.Backend) string {
	t.Helper()
	d, err := b.Describe(t.Context())
	must(t, err)
	return d.Backend
}

func tryOpen(t testing.TB, path string, more primitives.Props) error {
	t.Helper()
	o := request(t, path)
	for k, v := range more {
		o.Props[k] = v
	}
	b, err := dir.Driver{}.Open(t.Context(), o)
	if err == nil {
		_ = b.Close()
	}
	return err
}

// TestAnUnmountedPathIsNeverFilled unmounts the file system under an open device.
func TestAnUnmountedPathIsNeverFilled(t *testing.T) {
	at := small(t, "ext4", 64*mib)
	b := open(t, at)
	create(t, b, "a", primitives.FormatRaw, seedA)
	id := identityOf(t, b)
	// An open device holds nothing open, so this needs no force.
	must(t, unix.Unmount(at, 0))
	calls := map[string]func() error{
		"Write": func() error {
			_, err := b.Write(t.Context(), vol("b"), primitives.WriteRequest{Create: true, Size: mib})
			return err
		},
		"Clone": func() error {
			_, err := b.Clone(t.Context(), vol("a"), vol("b"), primitives.CloneRequest{})
			return err
		},
		"Map": func() error {
			_, err := b.Facets().Map.Map(t.Context(), vol("a"), primitives.MapRequest{Access: primitives.ReadOnly})
			return err
		},
		"List": func() error {
			_, err := b.List(t.Context(), primitives.ListRequest{})
			return err
		},
	}
	for name, call := range calls {
		refused(t, call(), primitives.CodeUnavailable, name+" on an unmounted path")
	}
	if d, err := b.Describe(t.Context()); err != nil || d.Health != primitives.Unreachable || d.HealthNote == "" {
		t.Errorf("Describe() = %v %q, %v; want unreachable with a note", d.Health, d.HealthNote, err)
	}
	refused(t, tryOpen(t, at, primitives.Props{"identity": id}), primitives.CodeUnavailable, "Open with the identity of what is not mounted")
	if left := entries(t, at); len(left) != 0 {
		t.Errorf("the folder beneath holds %v, want nothing", left)
	}
	must(t, unix.Mount("tmpfs", at, "tmpfs", 0, "")) // for the cleanup
}

func TestAnotherDeviceAtThePathIsFenced(t *testing.T) {
	at := on(t, "ext4")
	b := open(t, at)
	id := identityOf(t, b)
	must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	open(t, at) // somebody made the other file system a device too
	_, err := b.Stat(t.Context(), vol("a"), primitives.Op{})
	refused(t, err, primitives.CodeFenced, "Stat where another device is mounted")
	if d, err := b.Describe(t.Context()); err != nil || d.Health != primitives.Failed {
		t.Errorf("Describe() = %v, %v; want failed", d.Health, err)
	}
	refused(t, tryOpen(t, at, primitives.Props{"identity": id}), primitives.CodeFenced, "Open with another identity")
}

func TestOpenAgainIsTheSameDevice(t *testing.T) {
	at := on(t, "tmpfs")
	first, second := open(t, at), open(t, at)
	if a, b := identityOf(t, first), identityOf(t, second); a != b {
		t.Errorf("identities = %s and %s, want the same", a, b)
	}
	must(t, tryOpen(t, at, primitives.Props{"identity": identityOf(t, first)}))
}

// TestOnlyAnEmptyDirectoryBecomesADevice also holds Validate to changing nothing.
func TestOnlyAnEmptyDirectoryBecomesADevice(t *testing.T) {
	used, empty := on(t, "tmpfs"), on(t, "tmpfs")
	must(t, os.WriteFile(filepath.Join(used, "thesis.txt"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(empty, "lost+found"), 0o700))
	file := filepath.Join(used, "thesis.txt")
	cases := map[string]struct {
		path string
		more primitives.Props
		want primitives.Code // 0: it opens
	}{
		"with somebody's file":    {path: used, want: primitives.CodeInvalid},
		"absent":                  {path: filepath.Join(used, "nothing"), want: primitives.CodeUnavailable},
		"a file":                  {path: file, want: primitives.CodeUnavailable},
		"relative":                {path: "device", want: primitives.CodeInvalid},
		"no mount point":          {path: empty, more: primitives.Props{"mount-point": "true"}, want: primitives.CodeUnavailable},
		"as a new file system is": {path: empty},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			before := entries(t, used)
			p := primitives.Props{"path": c.path}
			for k, v := range c.more {
				p[k] = v
			}
			problems := dir.Driver{}.Validate(t.Context(), primitives.Change{Scope: primitives.ScopeDevice, New: p})
			if (c.want != 0) != (len(problems) > 0) {
				t.Errorf("Validate() = %v", problems)
			}
			if c.want == 0 && len(entries(t, empty)) > 1 {
				t.Errorf("Validate made %v", entries(t, empty))
			}
			err := tryOpen(t, c.path, c.more)
			if c.want == 0 {
				must(t, err)
				return
			}
			refused(t, err, c.want, "Open")
			if after := entries(t, used); !slices.Equal(before, after) {
				t.Errorf("Open changed a directory that it refused: %v", after)
			}
		})
	}
}

func TestLinksAndDevicesInsideAreRefused(t *testing.T) {
	cases := map[string]func(t *testing.T, file, secret string){
		"symbolic link":          func(t *testing.T, file, secret string) { must(t, os.Symlink(secret, file)) },
		"link within the device": func(t *testing.T, file, _ string) { must(t, os.Symlink("../tenon-device.json", file)) },
		"device node":            func(t *testing.T, file, _ string) { must(t, unix.Mknod(file, unix.S_IFCHR|0o600, 1<<8|3)) },
		"pipe":                   func(t *testing.T, file, _ string) { must(t, unix.Mkfifo(file, 0o600)) },
	}
	for name, plant := range cases {
		t.Run(name, func(t *testing.T) {
			at := on(t, "ext4")
			b := open(t, at)
			for _, f := range []primitives.Format{primitives.FormatRaw, primitives.FormatQcow2} {
				u := vol(string(f))
				create(t, b, u.Volume, f, seedA)
				m, err := b.Facets().Map.Map(t.Context(), u, primitives.MapRequest{Access: primitives.ReadWrite})
				must(t, err)
				must(t, os.Remove(m.File.Path))
				secret := filepath.Join(t.TempDir(), "secret")
				must(t, os.WriteFile(secret, content(seedB, mib), 0o600))
				plant(t, m.File.Path, secret)
				_, err = b.Read(t.Context(), u, primitives.Op{})
				refused(t, err, primitives.CodeFenced, "Read")
				_, err = b.Facets().Map.Activate(t.Context(), m.ID, primitives.Op{})
				refused(t, err, primitives.CodeFenced, "Activate")
				must(t, b.Facets().Map.Unmap(t.Context(), m.ID, primitives.UnmapRequest{}))
				_, err = b.Write(t.Context(), u, primitives.WriteRequest{Op: op("w")})
				refused(t, err, primitives.CodeFenced, "Write")
				if got, err := os.ReadFile(secret); err != nil || !slices.Equal(got, content(seedB, mib)) {
					t.Errorf("the file outside was changed")
				}
			}
		})
	}
}

func TestAReadOnlyFileSystemIsReadable(t *testing.T) {
	at := small(t, "ext4", 64*mib)
	b := open(t, at)
	create(t, b, "a", primitives.FormatRaw, seedA)
	must(t, unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	for _, b := range []primitives.Backend{b, open(t, at)} {
		d, err := b.Describe(t.Context())
		must(t, err)
		if d.Health != primitives.Degraded || !strings.Contains(d.HealthNote, "read-only") || d.Caps.Manageable {
			t.Errorf("Describe() = %v %q, manageable %t; want degraded, read-only, not manageable", d.Health, d.HealthNote, d.Caps.Manageable)
		}
		holds(t, b, vol("a"), content(seedA, mib))
		err = write(t, b, "b", primitives.WriteRequest{Create: true, Size: mib, Format: primitives.FormatRaw}, nil)
		refused(t, err, primitives.CodeDenied, "Write")
		_, err = b.Delink(t.Context(), vol("a"), primitives.DelinkRequest{})
		refused(t, err, primitives.CodeDenied, "Delink")
		if _, err := b.Stat(t.Context(), vol("b"), primitives.Op{}); !errors.Is(err, primitives.CodeNotFound) {
			t.Errorf("Stat of what could not be made = %v, want not found", err)
		}
	}
	must(t, unix.Mount("", at, "", unix.MS_REMOUNT, ""))
	audit(t, at)
}

// TestAFullFileSystemKeepsNothingHalfMade fills it in every way that takes space.
func TestAFullFileSystemKeepsNothingHalfMade(t *testing.T) {
	at := small(t, "ext4", 24*mib)
	b := open(t, at)
	create(t, b, "a", primitives.FormatRaw, seedA)
	big := content(seedB, 8*mib)
	must(t, write(t, b, "big", primitives.WriteRequest{Create: true, Size: 8 * mib, Format: primitives.FormatQcow2}, big))
	must(t, os.WriteFile(filepath.Join(at, "lost+found", "ballast"), make([]byte, 6*mib), 0o600))
	before := used(t, at)
	_, err := b.Clone(t.Context(), vol("big"), vol("copy"), primitives.CloneRequest{Op: op("copy"), Full: true})
	refused(t, err, primitives.CodeNoSpace, "Clone")
	err = write(t, b, "more", primitives.WriteRequest{Create: true, Size: 16 * mib, Format: primitives.FormatQcow2}, content(seedA, 16*mib))
	refused(t, err, primitives.CodeNoSpace, "Write")
	if after := used(t, at); after > before+mib {
		t.Errorf("%d bytes are taken after what failed, %d before", after, before)
	}
	holds(t, b, vol("a"), content(seedA, mib))
	holds(t, b, vol("big"), big)
	audit(t, at)
}

func used(t testing.TB, at string) int64 {
	t.Helper()
	must(t, syncFS(at))
	var st unix.Statfs_t
	must(t, unix.Statfs(at, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// syncFS makes what was removed count as free.
func syncFS(at string) error {
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// TestADirectoryThatComesUpDuringOpenIsNotFilled takes the empty file system
// that is at the path away at any moment of Open: what shows then is somebody's,
// and may not be taken for what was found empty.
func TestADirectoryThatComesUpDuringOpenIsNotFilled(t *testing.T) {
	at := on(t, "tmpfs")
	must(t, os.WriteFile(filepath.Join(at, "thesis.txt"), nil, 0o600))
	for i := range 300 {
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
		unmounted := make(chan error, 1)
		go func() {
			for range i * 100 { // later each time
				runtime.Gosched()
			}
			unmounted <- unix.Unmount(at, unix.MNT_DETACH)
		}()
		_ = tryOpen(t, at, nil) // it may have been in time
		must(t, <-unmounted)
		if left := entries(t, at); !slices.Equal(left, []string{"thesis.txt"}) {
			t.Fatalf("the folder beneath holds %v, want what it held", left)
		}
	}
}
