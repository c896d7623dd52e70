// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/dir"
)

// comeback is how a device that was fenced comes back from its service, and what
// Open and Describe say to whoever has to find out.
type comeback struct {
	change func(t *testing.T, at string) (undo func())
	more   primitives.Props // of the device
	open   primitives.Code  // 0: it opens
	health primitives.Health
	note   string // a part of it
	other  bool   // Backend is another's
	resize bool   // Total is another
	fenced bool   // it can be seen that the fence stands
	closed bool   // Unfence is refused
}

func comebacks() map[string]comeback {
	return map[string]comeback{
		"as it was": {
			change: func(*testing.T, string) func() { return func() {} }, fenced: true,
		},
		// Cases: E160
		"not at all": {
			open: primitives.CodeUnavailable, health: primitives.Unreachable, note: "no such file", closed: true,
			change: func(t *testing.T, at string) func() {
				back := setAside(t, at)
				must(t, os.Remove(at))
				return func() { must(t, os.Mkdir(at, 0o755)); back() }
			},
		},
		// Cases: E161
		"as another device": {
			open: primitives.CodeFenced, health: primitives.Failed, note: "another file system is mounted there", other: true, closed: true,
			change: func(t *testing.T, at string) func() {
				back := setAside(t, at)
				must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
				must(t, open(t, at).Close())
				return func() { must(t, unix.Unmount(at, 0)); back() }
			},
		},
		// Cases: E161
		"as a file system that is no device": {
			open: primitives.CodeUnavailable, health: primitives.Unreachable, note: "lost its identity", closed: true,
			change: func(t *testing.T, at string) func() {
				back := setAside(t, at)
				must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
				must(t, os.WriteFile(filepath.Join(at, "thesis.txt"), nil, 0o600))
				return func() { must(t, unix.Unmount(at, 0)); back() }
			},
		},
		// Cases: E162
		"larger": {
			fenced: true, resize: true,
			change: func(t *testing.T, at string) func() {
				larger := small(t, "ext4", 128*mib)
				run(t, "cp", "-a", at+"/.", larger)
				back := setAside(t, at)
				must(t, unix.Mount(larger, at, "", unix.MS_BIND, ""))
				return func() { must(t, unix.Unmount(at, 0)); back() }
			},
		},
		// Cases: E161
		"in part": {
			open: primitives.CodeFenced, health: primitives.Failed, note: "data is gone", closed: true,
			change: func(t *testing.T, at string) func() {
				away := filepath.Join(t.TempDir(), "away")
				run(t, "mv", filepath.Join(at, "data.fenced"), away)
				return func() { run(t, "mv", away, filepath.Join(at, "data.fenced")) }
			},
		},
		// Cases: E163
		"without its mount": {
			open: primitives.CodeUnavailable, health: primitives.Unreachable, note: "not mounted", closed: true,
			change: setAside,
		},
		// Cases: E163
		"without its mount, over a copy of it": {
			more: primitives.Props{"mount-point": "true"}, open: primitives.CodeUnavailable, health: primitives.Unreachable, note: "no file system is mounted", closed: true,
			change: func(t *testing.T, at string) func() {
				hidden := at + "-copy"
				run(t, "cp", "-a", at, hidden)
				back := setAside(t, at)
				must(t, os.Remove(at))
				must(t, os.Rename(hidden, at))
				return func() { must(t, os.RemoveAll(at)); must(t, os.Mkdir(at, 0o755)); back() }
			},
		},
		// Cases: E164
		"read-only": {
			health: primitives.Degraded, note: "read-only", fenced: true, closed: true,
			change: func(t *testing.T, at string) func() {
				must(t, unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
				return func() { must(t, unix.Mount("", at, "", unix.MS_REMOUNT, "")) }
			},
		},
	}
}

// setAside takes the file system away from its mount point.
func setAside(t *testing.T, at string) (back func()) {
	t.Helper()
	aside := filepath.Join(t.TempDir(), "aside")
	must(t, os.Mkdir(aside, 0o755))
	must(t, unix.Mount(at, aside, "", unix.MS_BIND, ""))
	must(t, unix.Unmount(at, 0))
	return func() {
		must(t, unix.Mount(aside, at, "", unix.MS_BIND, ""))
		must(t, unix.Unmount(aside, 0))
	}
}

// TestWhatComesBackOtherwiseThanItWentIsToldApart asks both the backend that
// was open all the time and one that is opened then, and takes no harm by
// either: undone, the device is what it was.
//
// Cases: E160, E161, E162, E163, E164
func TestWhatComesBackOtherwiseThanItWentIsToldApart(t *testing.T) {
	for name, c := range comebacks() {
		t.Run(name, func(t *testing.T) {
			at := small(t, "ext4", 64*mib)
			o := request(t, at)
			for k, v := range c.more {
				o.Props[k] = v
			}
			b := openAs(t, o)
			create(t, b, "a", primitives.FormatRaw, seedA)
			was, err := b.Describe(t.Context())
			must(t, err)
			fence(t, b)
			o.Props["identity"] = was.Backend
			undo := c.change(t, at)

			c.check(t, b, was)
			again, err := dir.Driver{}.Open(t.Context(), o)
			if c.open != 0 {
				refused(t, err, c.open, "Open")
			} else {
				must(t, err)
				c.check(t, again, was)
				must(t, again.Close())
			}
			err = b.Facets().Fence.Unfence(t.Context(), op("unfence"))
			if c.closed != (err != nil) {
				t.Errorf("Unfence() = %v, want it refused: %t", err, c.closed)
			}

			undo()
			unfence(t, b)
			now, err := b.Describe(t.Context())
			must(t, err)
			if now.Backend != was.Backend || now.Total != was.Total || now.Health != primitives.Healthy || now.Fenced {
				t.Errorf("Describe() in the end = %+v, want as before", now)
			}
			holds(t, b, vol("a"), content(seedA, mib))
		})
	}
}

func (c comeback) check(t *testing.T, b primitives.Backend, was primitives.Description) {
	t.Helper()
	d, err := b.Describe(t.Context())
	must(t, err)
	if d.Health != c.health || !strings.Contains(d.HealthNote, c.note) || (c.note == "") != (d.HealthNote == "") {
		t.Errorf("Describe() = %v %q, want %v with %q", d.Health, d.HealthNote, c.health, c.note)
	}
	if c.other != (d.Backend != was.Backend) {
		t.Errorf("Describe() = identity %s, was %s; want another: %t", d.Backend, was.Backend, c.other)
	}
	if c.fenced != d.Fenced {
		t.Errorf("Describe() = fenced %t, want %t", d.Fenced, c.fenced)
	}
	reachable := c.health != primitives.Unreachable && c.health != primitives.Failed
	if reachable && c.resize == (d.Total == was.Total) {
		t.Errorf("Describe() = %d bytes, was %d; want another size: %t", d.Total, was.Total, c.resize)
	}
	if !reachable && d.Total != -1 {
		t.Errorf("Describe() = %d bytes of a device that cannot be reached, want -1", d.Total)
	}
	if reachable && d.Caps.Manageable == (c.note == "read-only") {
		t.Errorf("Describe() = manageable %t with %q", d.Caps.Manageable, d.HealthNote)
	}
}
