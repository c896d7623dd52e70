// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/internal/command"
)

const (
	kernelFile = "vmlinuz"
	initrdFile = "initrd.img"

	// The cloud kernel has every driver that the guest needs and comes in 27 MB.
	kernelPackage = "linux-image-cloud-amd64"
)

// userland is what the guest's programs come from. Nothing of it gets installed on this machine.
var userland = []string{"busybox-static", "e2fsprogs", "qemu-guest-agent"}

// modules is what the kernel package has outside of the kernel itself and the guest needs; what they depend on is added.
var modules = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_console",
	"virtio_rng",      // without it the first random bytes, which mkfs.ext4 wants, take four seconds
	"button", "evdev", // the power button, and the device file that acpid reads it from
}

// build makes the image in dir.
func build(ctx context.Context, log io.Writer, dir string) error {
	work := filepath.Join(dir, ".work")
	unpacked := filepath.Join(work, "unpacked")
	if err := os.MkdirAll(unpacked, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	kernel, err := kernelVersion(ctx)
	if err != nil {
		return err
	}
	packages, err := download(ctx, log, work, append([]string{kernel}, userland...))
	if err != nil {
		return err
	}
	for _, file := range packages {
		fmt.Fprintf(log, "guest: unpacking %s\n", filepath.Base(file))
		if _, err := command.Run(ctx, command.Cmd{Path: "dpkg-deb", Args: []string{"-x", file, unpacked}}); err != nil {
			return err
		}
	}
	version := strings.TrimPrefix(kernel, "linux-image-")
	entries, err := rootEntries(ctx, unpacked, version)
	if err != nil {
		return err
	}
	if err := writeInitrd(filepath.Join(dir, initrdFile), entries); err != nil {
		return err
	}
	return os.Rename(filepath.Join(unpacked, "boot", "vmlinuz-"+version), filepath.Join(dir, kernelFile))
}

// kernelVersion returns the package that holds the newest cloud kernel: what the meta package depends on.
func kernelVersion(ctx context.Context) (string, error) {
	shown, err := command.Run(ctx, command.Cmd{Path: "apt-cache", Args: []string{"show", "--no-all-versions", kernelPackage}})
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(string(shown.Stdout), "\n") {
		if depends, ok := strings.CutPrefix(line, "Depends: "); ok {
			name, _, _ := strings.Cut(depends, " ")
			return name, nil
		}
	}
	return "", fmt.Errorf("apt-cache knows no dependency of %s: is there an amd64 Debian archive in the sources?", kernelPackage)
}

// download fetches packages into dir and returns their files.
func download(ctx context.Context, log io.Writer, dir string, packages []string) ([]string, error) {
	// Without this, apt warns that its user cannot write to dir.
	args := append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)
	fetch := command.Cmd{Path: "apt-get", Args: args, Dir: dir}
	if _, err := command.Run(ctx, fetch); err != nil {
		// The archive drops a package soon after it has published a newer one.
		fmt.Fprintf(log, "guest: apt-get download: %v; once more after apt-get update\n", err)
		if _, err := command.Run(ctx, command.Cmd{Path: "apt-get", Args: []string{"-q", "update"}}); err != nil {
			return nil, err
		}
		if _, err := command.Run(ctx, fetch); err != nil {
			return nil, err
		}
	}
	return filepath.Glob(filepath.Join(dir, "*.deb"))
}

// rootEntries lists all files of the initramfs.
func rootEntries(ctx context.Context, unpacked, kernel string) ([]entry, error) {
	files := map[string]entry{}
	for _, part := range []func() error{
		func() error { return addScripts(files) },
		func() error { return addBusybox(ctx, files, unpacked) },
		func() error { return addPrograms(files, unpacked) },
		func() error { return addWriter(ctx, files, unpacked) },
		func() error { return addModules(files, filepath.Join(unpacked, "lib", "modules", kernel)) },
	} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	// The kernel opens the console before init has mounted /dev.
	files["dev/console"] = entry{Mode: typeChar | 0o600, Major: 5, Minor: 1}
	for _, dir := range []string{"proc", "sys", "tmp", "mnt", "run", "var/run", "var/log"} {
		files[dir] = entry{Mode: typeDir | 0o755}
	}
	return inOrder(files), nil
}

// inOrder adds the folders that files lie in and returns all sorted, so that folders come before what they hold.
func inOrder(files map[string]entry) []entry {
	for _, name := range slices.Collect(maps.Keys(files)) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			files[dir] = entry{Mode: typeDir | 0o755}
		}
	}
	var entries []entry
	for _, name := range slices.Sorted(maps.Keys(files)) {
		e := files[name]
		e.Path = name
		entries = append(entries, e)
	}
	return entries
}

// addScripts adds this package's own files.
func addScripts(files map[string]entry) error {
	return fs.WalkDir(sources, "rootfs", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := sources.ReadFile(name)
		files[strings.TrimPrefix(name, "rootfs/")] = entry{Mode: typeFile | 0o755, Data: content}
		return err
	})
}

// addBusybox adds busybox and a link for each of its applets whose place no script has taken.
func addBusybox(ctx context.Context, files map[string]entry, unpacked string) error {
	const inside = "bin/busybox"
	here := filepath.Join(unpacked, inside)
	content, err := os.ReadFile(here)
	if err != nil {
		return err
	}
	files[inside] = entry{Mode: typeFile | 0o755, Data: content}
	applets, err := command.Run(ctx, command.Cmd{Path: here, Args: []string{"--list"}})
	if err != nil {
		return err
	}
	files["sbin/init"] = entry{Mode: typeSymlink | 0o777, Data: []byte("/" + inside)}
	for applet := range strings.FieldsSeq(string(applets.Stdout)) {
		name := path.Join("bin", applet)
		if _, taken := files[name]; !taken {
			files[name] = entry{Mode: typeSymlink | 0o777, Data: []byte("/" + inside)}
		}
	}
	return nil
}

// addPrograms adds the guest agent and mke2fs with their libraries and settings.
func addPrograms(files map[string]entry, unpacked string) error {
	programs := closure{unpacked: unpacked, files: map[string]string{
		"/etc/mke2fs.conf": filepath.Join(unpacked, "etc/mke2fs.conf"),
	}}
	for inside, name := range map[string]string{"/usr/sbin/qemu-ga": "usr/sbin/qemu-ga", "/sbin/mkfs.ext4": "sbin/mke2fs"} {
		if err := programs.add(inside, filepath.Join(unpacked, name)); err != nil {
			return err
		}
	}
	for inside, here := range programs.files {
		content, err := os.ReadFile(here)
		if err != nil {
			return err
		}
		files[strings.TrimPrefix(inside, "/")] = entry{Mode: typeFile | 0o755, Data: content}
	}
	return nil
}

// addWriter builds the program that writes and verifies, which needs nothing but the standard library, and adds it.
func addWriter(ctx context.Context, files map[string]entry, work string) error {
	const source = "writer/main.go"
	dir := filepath.Join(work, "writer")
	content, err := sources.ReadFile(source)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	program := filepath.Join(dir, "writer")
	if err := os.WriteFile(filepath.Join(dir, "main.go"), content, 0o644); err != nil {
		return err
	}
	_, err = command.Run(ctx, command.Cmd{
		Path: "go", Args: []string{"build", "-trimpath", "-ldflags=-s -w", "-o", program, "main.go"},
		Env: []string{"CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off"}, Dir: dir,
	})
	if err != nil {
		return err
	}
	built, err := os.ReadFile(program)
	files["bin/writer"] = entry{Mode: typeFile | 0o755, Data: built}
	return err
}

// addModules adds the kernel modules below root that the guest needs, and the order in which to load them.
func addModules(files map[string]entry, root string) error {
	found, err := findModules(root)
	if err != nil {
		return err
	}
	read := func(module string) ([]byte, error) {
		file, ok := found[module]
		if !ok {
			return nil, fmt.Errorf("kernel module %s, which is not below %s", module, root)
		}
		return os.ReadFile(file)
	}
	order, err := moduleOrder(modules, read)
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, module := range order {
		object, err := read(module)
		if err != nil {
			return err
		}
		files["lib/modules/"+module+".ko"] = entry{Mode: typeFile | 0o644, Data: object}
		fmt.Fprintf(&list, "%s.ko\n", module)
	}
	files["lib/modules/order"] = entry{Mode: typeFile | 0o644, Data: []byte(list.String())}
	return nil
}

// writeInitrd writes the archive as it is: QEMU hands it over by DMA, and unpacking it would cost the guest more time.
func writeInitrd(name string, entries []entry) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	if err := writeCPIO(out, entries); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return file.Close()
}
