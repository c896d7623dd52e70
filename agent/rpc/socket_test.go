// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/agent/rpc"
	"github.com/tenon-storage/tenon/primitives"
)

func TestListenMakesASocketForOwnerAndGroupOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "tenond.sock")
	l, err := rpc.Listen(t.Context(), rpc.Socket{Path: path, Group: ownGroup(t)})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got.Perm() != 0o660 || got.Type() != os.ModeSocket {
		t.Errorf("mode of the socket = %v, want Srw-rw----", got)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("ReadDir = %v, %v, want the socket alone", entries, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Lstat after Close = %v, want no socket", err)
	}
}

// ownGroup returns the name of the group that this process has.
func ownGroup(t *testing.T) string {
	t.Helper()
	g, err := user.LookupGroupId(strconv.Itoa(os.Getegid()))
	if err != nil {
		t.Fatal(err)
	}
	return g.Name
}

func TestListenRefusesAGroupThatIsNotThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if _, err := rpc.Listen(t.Context(), rpc.Socket{Path: path, Group: "no-such-group"}); !errors.Is(err, primitives.CodeInvalid) {
		t.Errorf("Listen for an unknown group = %v, want invalid", err)
	}
}

func TestListenReplacesASocketNobodyAnswersOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := rpc.Listen(t.Context(), rpc.Socket{Path: path})
	if err != nil {
		t.Fatalf("Listen on a stale socket = %v, want success", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestListenLeavesALivingDaemonItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := rpc.Listen(t.Context(), rpc.Socket{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if l, err := rpc.Listen(t.Context(), rpc.Socket{Path: path}); !errors.Is(err, primitives.CodeConflict) {
		t.Errorf("second Listen = %v, %v, want conflict", l, err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("dial after the second Listen = %v, want the first daemon", err)
	}
	_ = conn.Close()
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.Listen(t.Context(), rpc.Socket{Path: path}); !errors.Is(err, primitives.CodeExists) {
		t.Errorf("Listen over a file = %v, want exists", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "precious" {
		t.Errorf("the file holds %q, %v, want it untouched", got, err)
	}
}

func TestListenRefusesAPathThatIsTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	if _, err := rpc.Listen(t.Context(), rpc.Socket{Path: path}); !errors.Is(err, primitives.CodeInvalid) {
		t.Errorf("Listen on a path of over 108 bytes = %v, want invalid", err)
	}
}

func TestKernelNamesThePeer(t *testing.T) {
	l, err := rpc.Listen(t.Context(), rpc.Socket{Path: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Close() }()
	_, auth, err := rpc.LocalPeers{GID: -1}.ServerHandshake(accepted)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := auth.(rpc.PeerInfo)
	if !ok || int(got.UID) != os.Getuid() || int(got.PID) != os.Getpid() || int(got.GID) != os.Getgid() {
		t.Errorf("peer = %+v, want this process", auth)
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	const stranger, group = 54321, 54322
	for sentence, c := range map[string]struct {
		peer  rpc.PeerInfo
		gid   int
		admit bool
	}{
		"root":                            {rpc.PeerInfo{UID: 0}, -1, true},
		"the daemon's own user":           {rpc.PeerInfo{UID: uint32(os.Geteuid())}, -1, true},
		"a member of the group":           {rpc.PeerInfo{UID: stranger, GID: group}, group, true},
		"another group":                   {rpc.PeerInfo{UID: stranger, GID: group + 1}, group, false},
		"anybody where there is no group": {rpc.PeerInfo{UID: stranger, GID: group}, -1, false},
	} {
		if got := (rpc.LocalPeers{GID: c.gid}).Admits(c.peer); got != c.admit {
			t.Errorf("%s: Admits(%v) = %v, want %v", sentence, c.peer, got, c.admit)
		}
	}
}

func TestOnlyUnixSocketsAreLocal(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if _, _, err := (rpc.LocalPeers{GID: -1}).ServerHandshake(a); !errors.Is(err, primitives.CodeDenied) {
		t.Errorf("ServerHandshake on a pipe = %v, want denied", err)
	}
}
