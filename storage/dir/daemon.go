// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/internal/nbd"
	"github.com/tenon-storage/tenon/primitives"
)

// storageDaemon moves the bytes of qcow2 images.
const storageDaemon = "qemu-storage-daemon"

// allocationDepth tells by which image of the chain a range is held; 0 is none.
const allocationDepth = "qemu:allocation-depth"

// qcow2Image is a chain of images, open in a storage daemon of its own.
type qcow2Image struct {
	client *nbd.Client
	daemon *command.Process
	gone   func() // tells the device that the daemon has ended
}

// openQcow2 opens a chain of a volume of that size.
func (s *session) openQcow2(ctx context.Context, chain []layerRef, size int64, writable bool) (image, error) {
	img, err := s.serve(ctx, chain, writable)
	if err != nil {
		return nil, err
	}
	if have := img.client.Size(); have != size {
		img.kill()
		return nil, primitives.Errorf(primitives.CodeConflict, "the image %s has %d bytes and its volume %d: it was resized behind tenon's back", s.host(chain[0].file()), have, size).
			Trying("resize the volume to %d bytes", have)
	}
	return img, nil
}

// serve starts a daemon on a chain. It inherits its listening socket, so it can
// be connected to before it has even begun, and the socket needs a name only
// until then.
func (s *session) serve(ctx context.Context, chain []layerRef, writable bool) (*qcow2Image, error) {
	for _, l := range chain { // a link or device among them must not reach QEMU
		if _, err := s.lstat(l.file()); err != nil {
			return nil, err
		}
	}
	conn, listening, err := s.socket(ctx)
	if err != nil {
		return nil, err
	}
	defer listening.Close()
	args, err := s.daemonArgs(chain, writable)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	daemon, err := command.Start(ctx, command.Cmd{Path: storageDaemon, Args: args}, command.StartOptions{
		Pdeathsig: syscall.SIGKILL, Files: []*os.File{listening},
	})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	gone := s.employ(daemon.Pid())
	_ = listening.Close() // the daemon's death must show as an end of the connection
	client, err := nbd.NewClient(ctx, conn, nbd.Options{Export: exportName, MetaContexts: []string{nbd.BaseAllocation, allocationDepth}})
	if err != nil {
		_ = daemon.Stop(ctx) // how it ended is in what follows
		gone()
		return nil, s.explain(errors.Join(err, daemon.Wait()))
	}
	return &qcow2Image{client, daemon, gone}, nil
}

// employ notes a storage daemon for as long as it lives.
func (b *backend) employ(pid int) (gone func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.daemons[pid] = true
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.daemons, pid)
	}
}

const exportName = "volume"

// socket returns both ends of a connection that nobody has accepted yet: ours,
// and the socket that it waits at.
func (s *session) socket(ctx context.Context) (net.Conn, *os.File, error) {
	folder, err := os.Open(s.machine.RunDir)
	if err != nil {
		return nil, nil, err
	}
	defer folder.Close()
	name := socketPrefix + rand.Text()
	// Through the descriptor, because a socket's path has 107 bytes at most.
	address := fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close() // and removes the name
	conn, err := new(net.Dialer).DialContext(ctx, "unix", address)
	if err != nil {
		return nil, nil, err
	}
	f, err := l.File()
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, f, nil
}

// socketPrefix marks the names of sockets, which live for moments.
const socketPrefix = "nbd-"

// socketLife is long beyond what a socket's name lives. Between bind and listen
// one refuses as if its process were dead, and another device that is opened at
// that moment must not take its name away.
const socketLife = time.Minute

// clearSockets removes names that a crash left.
func (b *backend) clearSockets() {
	names, err := os.ReadDir(b.machine.RunDir)
	if err != nil {
		return
	}
	for _, n := range names {
		path := filepath.Join(b.machine.RunDir, n.Name())
		if !strings.HasPrefix(n.Name(), socketPrefix) || n.Type() != os.ModeSocket {
			continue
		}
		if info, err := n.Info(); err != nil || time.Since(info.ModTime()) < socketLife {
			continue
		}
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
}

// daemonArgs names every node of the chain, nearest first in the export's order.
func (s *session) daemonArgs(chain []layerRef, writable bool) ([]string, error) {
	var args []string
	var below any // nil: nothing
	for i := len(chain) - 1; i >= 0; i-- {
		readOnly := !writable || i > 0
		node := s.layerNode(chain[i], below)
		node["node-name"] = fmt.Sprintf("layer%d", i)
		node["read-only"], node["discard"] = readOnly, "unmap"
		file := node["file"].(map[string]any)
		file["read-only"], file["discard"] = readOnly, "unmap"
		data, err := json.Marshal(node)
		if err != nil {
			return nil, err
		}
		args = append(args, "--blockdev", string(data))
		below = node["node-name"]
	}
	onOff := map[bool]string{true: "on", false: "off"}
	return append(args,
		"--nbd-server", "addr.type=fd,addr.str=3,max-connections=1",
		"--export", fmt.Sprintf("type=nbd,id=volume,node-name=layer0,name=%s,writable=%s,allocation-depth=on", exportName, onOff[writable]),
	), nil
}

func (q *qcow2Image) readAt(p []byte, off int64) error {
	return q.client.ReadAt(context.Background(), p, off)
}

func (q *qcow2Image) writeAt(p []byte, off int64) error {
	return q.client.WriteAt(context.Background(), p, off, 0)
}

func (q *qcow2Image) zeroAt(off, n int64) error {
	return q.client.WriteZeroes(context.Background(), off, n, 0)
}

func (q *qcow2Image) sync(ctx context.Context) error { return q.client.Flush(ctx) }

// close ends the daemon. What was synced is whole without any more care, as it
// is for a guest whose QEMU is killed; but a writer's daemon is asked first.
func (q *qcow2Image) close() error {
	if q.client.Info().ReadOnly {
		q.kill()
		return nil
	}
	err := q.client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	_ = q.daemon.Stop(ctx) // that it had to be killed does no harm either
	q.gone()
	return err
}

func (q *qcow2Image) kill() {
	q.daemon.Signal(syscall.SIGKILL)
	_ = q.client.Close()
	<-q.daemon.Done()
	q.gone()
}
