// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/command"
)

// A Root is a folder in which libvirt's QEMU driver runs inside of the calling process, without any daemon, through the
// URI qemu:///embed. One process may use it at a time, and the libvirt event loop must be running before that process connects.
type Root struct {
	Dir string
}

// qemuConf is the least that libvirt needs to run guests as root, without its log daemon, cgroups or name spaces. Without
// the user, libvirt distrusts a /dev/kvm that only root can open and probes QEMU again and again, for a minute.
const qemuConf = `user = "root"
group = "root"
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
dynamic_ownership = 0
`

// maxRoot is the length of a root's path that leaves room for the sockets that libvirt makes below it.
const maxRoot = 50

// NewRoot makes an empty root with a short path. The caller owes it a Remove.
func NewRoot(ctx context.Context, log io.Writer) (Root, error) {
	dir, err := os.MkdirTemp("", "tn-")
	if err != nil {
		return Root{}, err
	}
	root, err := EmbedRoot(ctx, log, dir)
	if err != nil {
		return Root{}, errors.Join(err, os.RemoveAll(dir))
	}
	return root, nil
}

// EmbedRoot makes dir, which must exist, a root: it writes libvirt's settings there and what libvirt would otherwise
// find out by starting QEMU for four seconds. That happens once for each machine; the result is kept in the user's cache folder.
func EmbedRoot(ctx context.Context, log io.Writer, dir string) (Root, error) {
	if len(dir) > maxRoot {
		return Root{}, fmt.Errorf("the path %s has %d bytes: libvirt's sockets below it need one of at most %d", dir, len(dir), maxRoot)
	}
	root := Root{Dir: dir}
	if err := root.configure(); err != nil {
		return Root{}, err
	}
	return root, SeedCache(ctx, log, filepath.Join(dir, "cache"))
}

// SeedCache fills libvirt's cache folder with what libvirt would find out by starting QEMU, which is found out once for each
// machine. It serves a libvirtd as well as a root.
func SeedCache(ctx context.Context, log io.Writer, dir string) error {
	seed, err := cached(ctx, filepath.Join("libvirt-probe", probeKey()), func(draft string) error { return probe(ctx, log, draft) })
	if err != nil {
		return fmt.Errorf("let libvirt probe QEMU: %w", err)
	}
	return os.CopyFS(dir, os.DirFS(seed))
}

func (r Root) configure() error {
	etc := filepath.Join(r.Dir, "etc")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(etc, "qemu.conf"), []byte(qemuConf), 0o644)
}

// probeKey changes with what libvirt compares before it trusts what it remembered: the programs' files and the kernel.
func probeKey() string {
	digest := sha256.New()
	fmt.Fprintln(digest, "domcapabilities, version") // what probe asks
	for _, file := range []string{
		"/usr/bin/qemu-system-x86_64",
		"/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
		"/dev/kvm",
	} {
		if info, err := os.Stat(file); err == nil {
			fmt.Fprintln(digest, file, info.Size(), info.ModTime().UnixNano(), info.Mode())
		}
	}
	if kernel, err := os.ReadFile("/proc/version"); err == nil {
		digest.Write(kernel)
	}
	return hex.EncodeToString(digest.Sum(nil))[:16]
}

// probe has libvirt describe this machine's QEMU and puts what it remembered into dir.
func probe(ctx context.Context, log io.Writer, dir string) (err error) {
	fmt.Fprintln(log, "guest: letting libvirt probe QEMU, once for this machine")
	work, err := os.MkdirTemp("", "tn-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	root := Root{Dir: work}
	if err := root.configure(); err != nil {
		return err
	}
	_, err = command.Run(ctx, command.Cmd{
		Path: "virsh",
		// version makes it look at every QEMU of the host's architecture, which is more than one.
		Args: []string{"-q", "-c", root.URI(), "domcapabilities --virttype qemu --machine q35; version"},
	})
	if err != nil {
		return err
	}
	return os.CopyFS(dir, os.DirFS(filepath.Join(work, "cache")))
}

// URI is what to connect to.
func (r Root) URI() string { return "qemu:///embed?root=" + r.Dir }

// Define leaves a definition of d for the next process that connects to the root, as if d had been defined there before. With
// start, d boots at that moment.
func (r Root) Define(d Domain, start bool) error {
	folder := filepath.Join(r.Dir, "etc", "qemu")
	if err := os.MkdirAll(filepath.Join(folder, "autostart"), 0o755); err != nil {
		return err
	}
	file := filepath.Join(folder, d.Name+".xml")
	if err := os.WriteFile(file, []byte(DomainXML(d)), 0o600); err != nil {
		return err
	}
	if !start {
		return nil
	}
	return os.Symlink(file, filepath.Join(folder, "autostart", d.Name+".xml"))
}

// Remove kills the guests that still run in the root, waits for them, and removes the folder. A guest outlives the
// process that started it, so a test that fails half-way needs this.
func (r Root) Remove(ctx context.Context) error {
	running, err := filepath.Glob(filepath.Join(r.Dir, "run", "qemu", "*.pid"))
	if err != nil {
		return err
	}
	var failures []error
	for _, file := range running {
		failures = append(failures, r.kill(ctx, file))
	}
	return errors.Join(append(failures, os.RemoveAll(r.Dir))...)
}

// kill ends the process that a pid file names, if it still is a QEMU of this root.
func (r Root) kill(ctx context.Context, pidFile string) error {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return ignoreMissing(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", pidFile, err)
	}
	// The handle stays with this process even if its number is used again.
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(handle)
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(arguments, []byte(r.Dir+"/")) {
		return ignoreMissing(err)
	}
	if err := unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return waitForEnd(ctx, handle)
}

// waitForEnd returns when the process of handle has ended, which makes the handle readable.
func waitForEnd(ctx context.Context, handle int) error {
	const look = 200 * time.Millisecond // between looks at ctx
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, int(look.Milliseconds()))
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return ctx.Err()
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
