// SPDX-License-Identifier: Apache-2.0

// Package host builds what a virtualization host has around tenond, in private
// folders of the caller: a libvirtd of its own, file systems on loop devices,
// tenond itself and tenonctl. The demo and the benchmarks stand on it. It needs
// root, and leaves nothing behind but the folder it was given.
package host

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/test/guest"
)

// poll is the pause between two looks at something that sends no event.
const poll = 20 * time.Millisecond

// Await looks again and again until done says so or ctx ends.
func Await(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// answers reports whether somebody listens on a unix socket.
func answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// privateFolders are the paths that libvirtd has compiled in. A daemon of our
// own gets them bound to folders of its own, in a mount namespace of its own.
var privateFolders = []string{"run/libvirt", "etc/libvirt", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt"}

// Without user and group root, libvirt takes /dev/kvm for unusable by the
// guests' user, distrusts its cache and probes QEMU anew for each call.
const qemuConf = `user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
stdio_handler = "file"
`

// Two daemons on one machine are two hosts: libvirt migrates nothing between two
// that have one UUID or one name.
const libvirtdConf = `auth_unix_rw = "none"
unix_sock_group = "root"
host_uuid = "%s"
`

// Libvirtd is a libvirt daemon beside anybody else's.
type Libvirtd struct {
	dir     string
	script  string // what starts it
	process *command.Process
}

// StartLibvirtd starts a libvirtd that keeps everything below dir.
func StartLibvirtd(ctx context.Context, dir string) (*Libvirtd, error) {
	for _, f := range privateFolders {
		for _, made := range []string{filepath.Join(dir, f), "/" + f} {
			if err := os.MkdirAll(made, 0o755); err != nil {
				return nil, err
			}
		}
	}
	if err := guest.SeedCache(ctx, io.Discard, filepath.Join(dir, "var/cache/libvirt")); err != nil {
		return nil, err
	}
	etc := filepath.Join(dir, "etc/libvirt")
	id := make([]byte, 16)
	rand.Read(id)
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	for name, text := range map[string]string{"qemu.conf": qemuConf, "libvirtd.conf": fmt.Sprintf(libvirtdConf, uuid)} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	// A name with a dot is one that libvirt does not ask the network for.
	script := fmt.Sprintf("set -e\necho host-%x.test >/proc/sys/kernel/hostname\n", id[:4])
	for _, f := range privateFolders {
		script += fmt.Sprintf("mount --bind %s /%s\n", filepath.Join(dir, f), f)
	}
	script += fmt.Sprintf("exec libvirtd -p %s/run/libvirtd.pid -f %s/libvirtd.conf", dir, etc)
	l := &Libvirtd{dir: dir, script: script}
	if err := l.Start(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// Start starts the daemon again after Kill, on the same folders, and returns when
// it answers. It finds the domains that went on without it.
func (l *Libvirtd) Start(ctx context.Context) error {
	// slave: file systems that the host mounts later are seen by the daemon,
	// what is bound here is not seen by the host.
	p, err := command.Start(ctx, command.Cmd{Path: "unshare", Args: []string{"-m", "-u", "--propagation", "slave", "sh", "-c", l.script}},
		command.StartOptions{Pdeathsig: syscall.SIGTERM})
	if err != nil {
		return err
	}
	l.process = p
	err = Await(ctx, "libvirtd answers", func() (bool, error) {
		select {
		case <-p.Done():
			return false, fmt.Errorf("libvirtd ended: %w", p.Wait())
		default:
			return answers(l.socket()), nil
		}
	})
	if err != nil {
		return errors.Join(err, p.Stop(ctx))
	}
	return nil
}

// Kill ends the daemon with SIGKILL and waits until it is gone. Domains go on.
func (l *Libvirtd) Kill() error {
	if err := syscall.Kill(l.process.Pid(), syscall.SIGKILL); err != nil {
		return err
	}
	<-l.process.Done()
	return nil
}

func (l *Libvirtd) socket() string { return filepath.Join(l.dir, "run/libvirt/libvirt-sock") }

// Pid is the running daemon's.
func (l *Libvirtd) Pid() int { return l.process.Pid() }

// Record is the file in which the daemon writes down what a running domain is.
func (l *Libvirtd) Record(domain string) string {
	return filepath.Join(l.dir, "run/libvirt/qemu", domain+".xml")
}

// URI is what libvirt's clients connect to.
func (l *Libvirtd) URI() string { return "qemu:///system?socket=" + l.socket() }

// Virsh runs one virsh command and returns its output.
func (l *Libvirtd) Virsh(ctx context.Context, args ...string) (string, error) {
	r, err := command.Run(ctx, command.Cmd{Path: "virsh", Args: append([]string{"-q", "-c", l.URI()}, args...)})
	return strings.TrimSpace(string(r.Stdout)), err
}

// Boot defines and starts a domain.
func (l *Libvirtd) Boot(ctx context.Context, xml string) error {
	file := filepath.Join(l.dir, "domain.xml")
	if err := os.WriteFile(file, []byte(xml), 0o644); err != nil {
		return err
	}
	if _, err := l.Virsh(ctx, "define", file); err != nil {
		return err
	}
	name, err := l.Virsh(ctx, "list", "--all", "--name")
	if err != nil {
		return err
	}
	for _, n := range strings.Fields(name) {
		if strings.Contains(xml, "<name>"+n+"</name>") {
			_, err = l.Virsh(ctx, "start", n)
			return err
		}
	}
	return fmt.Errorf("libvirt does not list the domain it was given: %q", name)
}

// Stop destroys every domain and ends the daemon.
func (l *Libvirtd) Stop(ctx context.Context) error {
	names, err := l.Virsh(ctx, "list", "--name")
	for _, n := range strings.Fields(names) {
		_, e := l.Virsh(ctx, "destroy", n)
		err = errors.Join(err, e)
	}
	return errors.Join(err, l.process.Stop(ctx))
}

// MountLoop makes a sparse image of size bytes with a file system of that kind
// and mounts it. It returns the folder and the way back.
func MountLoop(ctx context.Context, dir, kind string, size int64) (mounted string, unmount func(context.Context) error, err error) {
	image, mounted := filepath.Join(dir, kind+".img"), filepath.Join(dir, kind)
	if err := os.MkdirAll(mounted, 0o755); err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return "", nil, err
	}
	if err := os.Truncate(image, size); err != nil {
		return "", nil, err
	}
	for _, c := range []command.Cmd{
		{Path: "mkfs." + kind, Args: []string{"-q", image}},
		{Path: "mount", Args: []string{"-o", "loop", image, mounted}},
	} {
		if _, err := command.Run(ctx, c); err != nil {
			return "", nil, err
		}
	}
	return mounted, func(ctx context.Context) error {
		_, err := command.Run(ctx, command.Cmd{Path: "umount", Args: []string{mounted}})
		return err
	}, nil
}

// Tenond is a running daemon on private folders.
type Tenond struct {
	Dir     string
	Binary  string
	Ctl     string // tenonctl's binary
	process *command.Process
}

// NewTenond prepares folders and configuration for the binaries in bin, with a
// hypervisor at that libvirt URI; "" is none.
func NewTenond(dir, bin, libvirtURI string) (*Tenond, error) {
	for _, f := range []string{"state", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, f), 0o700); err != nil {
			return nil, err
		}
	}
	config := fmt.Sprintf("state_dir: %s/state\nrun_dir: %s/run\nsocket: %s/run/tenond.sock\n", dir, dir, dir)
	if libvirtURI != "" {
		config += fmt.Sprintf("hypervisor:\n  kvm:\n    uri: %q\n", libvirtURI)
	}
	t := &Tenond{Dir: dir, Binary: filepath.Join(bin, "tenond"), Ctl: filepath.Join(bin, "tenonctl")}
	return t, os.WriteFile(t.config(), []byte(config), 0o600)
}

func (t *Tenond) config() string { return filepath.Join(t.Dir, "tenond.yaml") }

// Socket is where the daemon serves.
func (t *Tenond) Socket() string { return filepath.Join(t.Dir, "run/tenond.sock") }

// Pid is the running daemon's.
func (t *Tenond) Pid() int { return t.process.Pid() }

// Done is closed when the daemon that was started last has ended.
func (t *Tenond) Done() <-chan struct{} { return t.process.Done() }

// Start starts the daemon and returns once it serves, with how long that took.
func (t *Tenond) Start(ctx context.Context) (time.Duration, error) {
	log, err := os.OpenFile(filepath.Join(t.Dir, "tenond.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	// sd_notify(3): READY=1 comes on a datagram socket, so nothing is polled.
	notify := filepath.Join(t.Dir, "notify")
	_ = os.Remove(notify)
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return 0, err
	}
	defer heard.Close()
	began := time.Now()
	t.process, err = command.Start(ctx, command.Cmd{
		Path: t.Binary, Args: []string{"--config", t.config()}, Env: []string{"NOTIFY_SOCKET=" + notify},
	}, command.StartOptions{Pdeathsig: syscall.SIGTERM, Stdout: log})
	if err != nil {
		return 0, err
	}
	ready := make(chan error, 1)
	go func() { ready <- awaitReady(heard) }()
	select {
	case err := <-ready:
		return time.Since(began), err
	case <-t.process.Done():
		return 0, fmt.Errorf("tenond ended: %w: %s", t.process.Wait(), t.process.Stderr())
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func awaitReady(heard *net.UnixConn) error {
	buf := make([]byte, 4096)
	for {
		n, err := heard.Read(buf)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}

// Kill ends the daemon with SIGKILL and waits until it is gone.
func (t *Tenond) Kill() error {
	if err := syscall.Kill(t.process.Pid(), syscall.SIGKILL); err != nil {
		return err
	}
	<-t.process.Done()
	return nil
}

// Stop ends the daemon as systemd would.
func (t *Tenond) Stop(ctx context.Context) error { return t.process.Stop(ctx) }

// Log is what the daemon wrote to its stderr lately.
func (t *Tenond) Log() string { return t.process.Stderr() }

// Resident is the daemon's resident memory in bytes.
func (t *Tenond) Resident() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.Pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("/proc shows no VmRSS")
}

// Run runs tenonctl as a person would and returns what it printed.
func (t *Tenond) Run(ctx context.Context, args ...string) (string, error) {
	r, err := command.Run(ctx, command.Cmd{Path: t.Ctl, Args: append([]string{"--socket", t.Socket()}, args...), MaxOutput: 64 << 20})
	return string(r.Stdout), err
}

// RunJSON runs tenonctl with -o json and reads what it printed into answer.
func (t *Tenond) RunJSON(ctx context.Context, answer any, args ...string) error {
	out, err := t.Run(ctx, append([]string{"-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		return fmt.Errorf("tenonctl %s printed no JSON: %w: %q", strings.Join(args, " "), err, out)
	}
	return nil
}
