// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package guest_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/test/guest"
)

// runEventLoop starts libvirt's event loop, which must run before the first connection and cannot be stopped.
var runEventLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	go func() {
		for libvirt.EventRunDefaultImpl() == nil {
		}
	}()
	return nil
})

// newRoot makes a root that the test's end removes, with the guests that run in it.
func newRoot(t *testing.T) guest.Root {
	t.Helper()
	root, err := guest.NewRoot(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return root
}

func connect(t *testing.T, root guest.Root) *libvirt.Connect {
	t.Helper()
	if err := runEventLoop(); err != nil {
		t.Fatal(err)
	}
	conn, err := libvirt.NewConnect(root.URI())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// dial waits for the guest to boot and shows its console if it does not.
func dial(t *testing.T, d guest.Domain) *guest.Shell {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	shell, err := guest.Dial(ctx, d.ShellSocket())
	if err != nil {
		console, _ := os.ReadFile(d.ConsoleFile())
		t.Fatalf("%v\nthe console says:\n%s", err, console)
	}
	t.Cleanup(func() { shell.Close() })
	return shell
}

func run(t *testing.T, shell *guest.Shell, script string) string {
	t.Helper()
	out, err := shell.Run(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func build(t *testing.T) guest.Image {
	t.Helper()
	image, err := guest.Build(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// One guest serves all that follows, because booting is what costs time here, and because a process can have one root only.
func TestGuestHasWhatTheAdaptersTestsNeed(t *testing.T) {
	var left string // the pid of the guest that outlives this test
	t.Cleanup(func() {
		// What has ended and is not yet forgotten has no arguments.
		if arguments, _ := os.ReadFile("/proc/" + left + "/cmdline"); left != "" && len(arguments) > 0 {
			t.Errorf("process %s, a guest of a removed root, still runs: %q", left, arguments)
		}
	})
	root := newRoot(t)
	d := guest.Domain{Name: "one", UUID: "8b1f3f0e-0000-4000-8000-000000000002", Image: build(t), Dir: root.Dir}
	if err := root.Define(d, true); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, root) // starts the guest
	domain, err := conn.LookupDomainByName(d.Name)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	watch(t, conn, libvirt.DOMAIN_EVENT_STOPPED, func() { close(stopped) })
	shell := dial(t, d)

	for _, step := range []struct {
		promise string
		check   func(*testing.T)
	}{
		{"it says on the console that it is up", func(t *testing.T) { checkConsole(t, d) }},
		{"it finds a virtio disk by its serial", func(t *testing.T) { checkHotplug(t, domain, shell, "virtio", "vdb") }},
		{"it finds a SCSI disk by its serial", func(t *testing.T) { checkHotplug(t, domain, shell, "scsi", "sda") }},
		{"its writer verifies what it wrote, and notices what it did not write", func(t *testing.T) { checkWriter(t, domain, shell) }},
		{"its agent freezes and thaws a mounted ext4", func(t *testing.T) { checkFreeze(t, domain, shell) }},
		{"the power button turns it off", func(t *testing.T) {
			if err := domain.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN); err != nil {
				t.Fatal(err)
			}
			<-stopped
		}},
	} {
		if !t.Run(step.promise, step.check) {
			return
		}
	}
	if err := domain.Create(); err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(filepath.Join(root.Dir, "run/qemu/one.pid"))
	if err != nil {
		t.Fatal(err)
	}
	left = strings.TrimSpace(string(pid))
}

// watch calls seen at the first lifecycle event of that kind.
func watch(t *testing.T, conn *libvirt.Connect, kind libvirt.DomainEventType, seen func()) {
	t.Helper()
	once := sync.OnceFunc(seen)
	id, err := conn.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, _ *libvirt.Domain, event *libvirt.DomainEventLifecycle) {
		if event.Event == kind {
			once()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.DomainEventDeregister(id) })
}

func checkConsole(t *testing.T, d guest.Domain) {
	console, err := os.ReadFile(d.ConsoleFile())
	if err != nil || !strings.Contains(string(console), "GUEST READY") {
		t.Errorf("the console's file holds %q (%v), want GUEST READY", console, err)
	}
}

func checkHotplug(t *testing.T, domain *libvirt.Domain, shell *guest.Shell, bus, target string) {
	const mib = 1 << 20
	image := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(image, make([]byte, 16*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	serial := "disk-" + bus
	disk := fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/>
		<target dev='%s' bus='%s'/><serial>%s</serial></disk>`, image, target, bus, serial)
	if err := domain.AttachDeviceFlags(disk, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		t.Fatal(err)
	}
	if got := run(t, shell, "disk-size "+serial); got != fmt.Sprint(16*mib) {
		t.Errorf("disk-size %s = %s, want %d", serial, got, 16*mib)
	}
	run(t, shell, "echo written by the guest | dd of=$(disk "+serial+") conv=notrunc,fsync")
	content, err := os.ReadFile(image)
	if err != nil || !strings.HasPrefix(string(content), "written by the guest\n") {
		t.Errorf("the disk's image begins with %q (%v)", content[:32], err)
	}
	if bus == "virtio" {
		return // checkFreeze goes on with it
	}
	if err := domain.DetachDeviceFlags(disk, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		t.Fatal(err)
	}
	run(t, shell, "disk-gone "+serial)
}

func checkWriter(t *testing.T, domain *libvirt.Domain, shell *guest.Shell) {
	image := filepath.Join(t.TempDir(), "writer.raw")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/>
		<target dev='vdc' bus='virtio'/><serial>disk-writer</serial></disk>`, image)
	if err := domain.AttachDeviceFlags(disk, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		t.Fatal(err)
	}
	for _, round := range []struct {
		promise string
		meddle  func() error
		clean   bool
	}{
		{"a disk that keeps what is written is clean", func() error { return nil }, true},
		{"a disk that lost its blocks is not", func() error { return os.WriteFile(image, make([]byte, 1<<20), 0o600) }, false},
	} {
		run(t, shell, "writer start $(disk disk-writer)")
		run(t, shell, `until [ "$(writer status | sed 's/.*"writes":\([0-9]*\).*/\1/')" -ge 500 ]; do sleep 0.1; done`)
		if err := round.meddle(); err != nil {
			t.Fatal(err)
		}
		var told struct {
			Writes, Verified, Errors uint64
			First, Sum               string
		}
		if err := json.Unmarshal([]byte(run(t, shell, "writer stop")), &told); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		same := told.Sum == fmt.Sprintf("%x", sha256.Sum256(content))
		if (told.Errors == 0) != round.clean || !same || told.Writes < 500 || told.Verified == 0 {
			t.Errorf("%s: the writer says %+v; its sum is the image's: %t", round.promise, told, same)
		}
	}
	if err := domain.DetachDeviceFlags(disk, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		t.Fatal(err)
	}
	run(t, shell, "disk-gone disk-writer")
}

func checkFreeze(t *testing.T, domain *libvirt.Domain, shell *guest.Shell) {
	run(t, shell, "mkfs.ext4 -q $(disk disk-virtio) && mount $(disk disk-virtio) /mnt")
	// The agent answers before libvirt has noticed that it is connected, so ask until libvirt has.
	deadline := time.After(30 * time.Second)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for err := domain.FSFreeze(nil, 0); err != nil; err = domain.FSFreeze(nil, 0) {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
	state := run(t, shell, "touch /mnt/new >/dev/null 2>&1 & sleep 0.3; grep State: /proc/$!/status")
	if !strings.Contains(state, "disk sleep") {
		t.Errorf("a writer on the frozen file system has %q, want disk sleep", state)
	}
	if err := domain.FSThaw(nil, 0); err != nil {
		t.Fatal(err)
	}
	run(t, shell, "until [ -e /mnt/new ]; do sleep 0.1; done")
}
