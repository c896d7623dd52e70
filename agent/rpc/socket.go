// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

const (
	socketMode = 0o660
	// knockTime bounds the question whether somebody still answers on a socket.
	knockTime = time.Second
)

// Socket is where the API is served on this host.
type Socket struct {
	Path  string
	Group string // whose members may use it besides root and the daemon's own user; empty: nobody
}

// Listener is a unix socket that knows who may use it.
type Listener struct {
	net.Listener
	peers LocalPeers
	path  string
	made  os.FileInfo
}

// Listen makes the unix socket, readable and writable by its owner and by the
// group. A socket that is left over from a
// daemon that died is replaced; one on which somebody answers is CodeConflict,
// and anything else at path is CodeExists and stays.
func Listen(ctx context.Context, s Socket) (*Listener, error) {
	path := s.Path
	gid, err := groupID(s.Group)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, primitives.Errorf(codeOfFile(err), "folder of the socket: %w", err)
	}
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	// The socket is made under another name and moved into place, so that
	// nobody can connect before its mode and owner are right. The folder may be
	// one where a umask cannot be relied on.
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, primitives.Errorf(codeOfFile(err), "socket %s: %w", fresh, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", fresh)
	if err != nil {
		return nil, primitives.Errorf(codeOfFile(err), "socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := settle(fresh, path, gid); err != nil {
		return nil, errors.Join(primitives.Errorf(codeOfFile(err), "socket %s: %w", path, err), l.Close())
	}
	made, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(primitives.Errorf(codeOfFile(err), "socket %s: %w", path, err), l.Close())
	}
	return &Listener{Listener: l, peers: LocalPeers{GID: gid}, path: path, made: made}, nil
}

// groupID returns a group's number; negative for no group.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, primitives.Invalid("group", "the group %q of the socket: %v", name, err)
	}
	return strconv.Atoi(g.Gid)
}

// settle gives the fresh socket its mode and group and moves it into place.
func settle(fresh, path string, gid int) error {
	if err := os.Chmod(fresh, socketMode); err != nil {
		return err
	}
	if gid >= 0 {
		if err := os.Chown(fresh, -1, gid); err != nil {
			return err
		}
	}
	return os.Rename(fresh, path)
}

// clearStale removes a socket that nobody answers on.
func clearStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return primitives.Errorf(codeOfFile(err), "socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return primitives.Errorf(primitives.CodeExists, "%s is there and is not a socket", path).
			Trying("move it away, or name another socket in the configuration")
	}
	ctx, cancel := context.WithTimeout(ctx, knockTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(primitives.Errorf(primitives.CodeConflict, "another daemon answers on %s", path).
			Trying("stop the other tenond first, or name another socket in the configuration"), conn.Close())
	case errors.Is(err, unix.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return primitives.Errorf(codeOfFile(err), "stale socket %s: %w", path, err)
		}
		return nil
	}
	return primitives.Errorf(primitives.CodeConflict, "somebody may still use %s: %w", path, err).
		Trying("stop the other tenond first, or name another socket in the configuration")
}

func codeOfFile(err error) primitives.Code {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return primitives.CodeDenied
	case errors.Is(err, unix.ENOSPC):
		return primitives.CodeNoSpace
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENAMETOOLONG):
		return primitives.CodeInvalid
	}
	return primitives.CodeUnavailable
}

// Addr returns the socket's final name.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close ends listening and removes the socket, unless another daemon has put its
// own there meanwhile.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	now, statErr := os.Lstat(l.path)
	if statErr != nil || l.made == nil || !os.SameFile(l.made, now) {
		return err
	}
	return errors.Join(err, os.Remove(l.path))
}
