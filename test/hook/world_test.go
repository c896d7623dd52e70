// SPDX-License-Identifier: Apache-2.0

package hook_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/test/guest"
	"github.com/tenon-storage/tenon/test/host"
)

// world is two hosts: here, with tenond and the hook, and there, with neither.
type world struct {
	t           *testing.T
	dir         string
	here, there *host.Libvirtd
	tenond      *host.Tenond
	image       guest.Image
	failed      bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "tn-") // libvirt's sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if w.image, err = guest.Build(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	bin := w.build()
	w.installHook(bin)
	w.here, w.there = w.libvirtd("here"), w.libvirtd("there")
	if w.tenond, err = host.NewTenond(w.folder("tenon"), bin, w.here.URI()); err != nil {
		t.Fatal(err)
	}
	w.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("tenond said:\n%s", w.tenond.Log())
		}
		if err := w.tenond.Stop(context.Background()); err != nil && !strings.Contains(err.Error(), "killed") {
			t.Error(err)
		}
	})
	for _, device := range []string{"fast", "slow"} {
		w.ctl(t, "device", "add", device, "--driver", "dir", "-p", "path="+w.folder(device), "-p", "format=raw")
	}
	for _, volume := range []string{"web01", "db01", "stray", "moving"} {
		w.ctl(t, "volume", "create", "fast/"+volume, "--size", "16M")
	}
	return w
}

func (w *world) folder(name string) string {
	w.t.Helper()
	folder := filepath.Join(w.dir, name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return folder
}

// build builds the real binaries.
func (w *world) build() string {
	w.t.Helper()
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
		w.t.Fatal(err)
	}
	bin := w.folder("bin")
	_, err = command.Run(w.t.Context(), command.Cmd{
		Path: "go", Args: []string{"build", "-tags", "libvirt_dlopen", "-o", bin + "/", "./cmd/tenond", "./cmd/tenonctl"}, Dir: root,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return bin
}

// installHook puts the real hook where the libvirtd called here will look for it
// when it starts: only then does libvirt look.
func (w *world) installHook(bin string) {
	w.t.Helper()
	script, err := filepath.Abs("../../packaging/hooks/qemu")
	if err != nil {
		w.t.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/sh\nTENONCTL=%s/tenonctl TENON_SOCKET=%s/tenon/run/tenond.sock exec %s \"$@\"\n", bin, w.dir, script)
	if err := os.WriteFile(filepath.Join(w.folder("here/etc/libvirt/hooks"), "qemu"), []byte(text), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) libvirtd(name string) *host.Libvirtd {
	w.t.Helper()
	l, err := host.StartLibvirtd(w.t.Context(), w.folder(name))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Stop(ctx); err != nil {
			w.t.Error(err)
		}
	})
	return l
}

// start starts tenond.
func (w *world) start() {
	w.t.Helper()
	if _, err := w.tenond.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// step runs a part; after one that failed there is nothing to learn from the next.
func (w *world) step(name string, run func(*testing.T)) {
	w.t.Helper()
	if !w.failed {
		w.failed = !w.t.Run(name, run)
	}
}

// define makes a domain here that does not run, with a disk of tenon or none.
func (w *world) define(name, uri string) {
	w.t.Helper()
	w.defineAt(w.here, guest.Domain{Name: name, Image: w.image, Dir: w.dir})
	if uri != "" {
		w.ctl(w.t, "disk", "attach", uri, name)
	}
}

func (w *world) defineAt(l *host.Libvirtd, d guest.Domain) {
	w.t.Helper()
	file := filepath.Join(w.dir, d.Name+".xml")
	if err := os.WriteFile(file, []byte(guest.DomainXML(d)), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.must(w.t, l, "define", file)
}

// file returns the file that holds a volume's bytes, by having a domain that
// never starts take it for a moment.
func (w *world) file(uri string) string {
	w.t.Helper()
	name := "of-" + filepath.Base(uri)
	w.define(name, uri)
	path := sourceOf(w.t, w.must(w.t, w.here, "dumpxml", name))
	w.ctl(w.t, "disk", "detach", name, uri)
	w.must(w.t, w.here, "undefine", name)
	return path
}

// wanderer is a domain that runs there, on a file of the device here.
func (w *world) wanderer(file string) {
	w.t.Helper()
	w.defineAt(w.there, guest.Domain{Name: "wanderer", Image: w.image, Dir: w.dir, Devices: fmt.Sprintf(`<disk type='file' device='disk'>
  <driver name='qemu' type='raw'/>
  <source file='%s'/>
  <target dev='vda' bus='virtio'/>
  <alias name='ua-tenon-wanderer'/>
</disk>`, file)})
	w.must(w.t, w.there, "start", "wanderer")
}

// migration are virsh's words that bring wanderer here. Two hosts on one machine
// share its files and its addresses.
func (w *world) migration() []string {
	return []string{"migrate", "--live", "--unsafe", "wanderer", w.here.URI(), "--migrateuri", "tcp://127.0.0.1"}
}
