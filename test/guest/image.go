// SPDX-License-Identifier: Apache-2.0

// Package guest builds a small Linux guest from Debian's packages and talks to it: what the tests of the hypervisor
// adapters, the demonstration and the benchmarks run instead of a fake.
//
// The guest is Debian's cloud kernel, busybox, mke2fs and the QEMU guest agent in one initramfs. It needs no disk and no
// network, is up some three seconds after QEMU starts without KVM, and reacts to hotplug, to the guest agent's freeze and
// thaw and to the power button.
//
//	image, err := guest.Build(ctx, log)          // kernel and initramfs, cached between runs
//	root, err := guest.NewRoot(ctx, log)         // a root for qemu:///embed?root=…
//	xml := guest.DomainXML(guest.Domain{…})      // for virDomainCreateXML or virDomainDefineXML
//	shell, err := guest.Dial(ctx, domain.ShellSocket())
//	out, err := shell.Run(ctx, "dd if=$(disk SERIAL) bs=1M count=4 | sha256sum")
//
// Commands that the guest has beside busybox's and mkfs.ext4 (docs in rootfs/bin): "disk SERIAL" waits for a disk and
// prints its device, "disk-gone SERIAL" waits until it has left, "disk-size SERIAL" prints its bytes. /dev/by-serial holds a link for each.
package guest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// An Image is what a guest boots from. Both are paths of files that several guests share and none may change.
type Image struct {
	Kernel string
	Initrd string
}

// Build returns the test guest's kernel and initramfs. The first call on a machine downloads Debian's packages (about
// 30 MB) and takes some seconds; later ones find the image in the user's cache folder, under a key made from everything that
// this package puts in. Calls at the same time, in several processes too, build once. What is done is written to log.
func Build(ctx context.Context, log io.Writer) (Image, error) {
	key, err := recipeKey()
	if err != nil {
		return Image{}, err
	}
	dir, err := cached(ctx, filepath.Join("guest", key), func(dir string) error {
		start := time.Now()
		fmt.Fprintf(log, "guest: building the test guest from Debian's packages\n")
		if err := build(ctx, log, dir); err != nil {
			return fmt.Errorf("build the test guest: %w", err)
		}
		fmt.Fprintf(log, "guest: built in %.1f s\n", time.Since(start).Seconds())
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	return Image{Kernel: filepath.Join(dir, kernelFile), Initrd: filepath.Join(dir, initrdFile)}, nil
}

// sources is what decides how the image comes out.
//
//go:embed rootfs cpio.go elf.go build.go writer/main.go
var sources embed.FS

// recipeKey is a digest of this package's part in the image and of the Debian release. The packages' own versions are
// not in it: an image stays good when Debian publishes a new kernel, and a machine without network keeps its guest.
func recipeKey() (string, error) {
	digest := sha256.New()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	digest.Write(release)
	err = fs.WalkDir(sources, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := sources.ReadFile(name)
		fmt.Fprintf(digest, "%s %d\n", name, len(content))
		digest.Write(content)
		return err
	})
	return hex.EncodeToString(digest.Sum(nil))[:16], err
}

// cached returns the folder called name below tenon's cache folder. If it is not there, fill makes its content in a folder beside
// it, which takes the name when complete.
func cached(ctx context.Context, name string, fill func(dir string) error) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(base, "tenon", name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, filepath.Join(parent, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil // another process built it while this one waited
	}
	draft, err := os.MkdirTemp(parent, ".draft-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(draft)
	if err := fill(draft); err != nil {
		return "", err
	}
	if err := os.Chmod(draft, 0o755); err != nil {
		return "", err
	}
	return dir, os.Rename(draft, dir)
}

// lockFile takes an exclusive lock on a file, made if needed, and returns what gives it back.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), file.Close())
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the lock on %s: %w", name, ctx.Err()), file.Close())
		}
	}
}
