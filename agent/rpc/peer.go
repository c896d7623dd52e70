// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/tenon-storage/tenon/primitives"
)

// PeerInfo is who sits at the other end of a unix socket, as the kernel says.
type PeerInfo struct {
	credentials.CommonAuthInfo
	UID, GID uint32
	PID      int32
}

// AuthType names the way in which the peer is known.
func (PeerInfo) AuthType() string { return "peercred" }

// String prints the peer as operations and logs name it.
func (p PeerInfo) String() string { return fmt.Sprintf("uid=%d/pid=%d", p.UID, p.PID) }

// LocalPeers are transport credentials for unix sockets: the kernel tells who
// connected, and only root, the daemon's own user and members of one group may
// go on.
type LocalPeers struct {
	// GID is the group whose members may use the socket besides root and the
	// daemon's own user; negative: none.
	GID int
}

// ServerHandshake asks the kernel who the peer is and turns strangers away.
func (l LocalPeers) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info, err := peerOf(conn)
	if err != nil {
		return nil, nil, err
	}
	if !l.Admits(info) {
		return nil, nil, primitives.Errorf(primitives.CodeDenied, "%v may not use the socket", info)
	}
	return conn, info, nil
}

// ClientHandshake lets the client go on as it is: the kernel speaks for it.
func (l LocalPeers) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, PeerInfo{CommonAuthInfo: localSecurity()}, nil
}

// Info describes the protocol.
func (l LocalPeers) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone returns a copy.
func (l LocalPeers) Clone() credentials.TransportCredentials { return l }

// OverrideServerName does nothing: a unix socket has no server name.
func (l LocalPeers) OverrideServerName(string) error { return nil }

// Admits reports whether the peer may use the socket.
func (l LocalPeers) Admits(p PeerInfo) bool {
	if p.UID == 0 || int(p.UID) == os.Geteuid() {
		return true
	}
	return l.GID >= 0 && (int(p.GID) == l.GID || inGroup(p.UID, l.GID))
}

// inGroup reports whether the user database counts uid among the group's
// members; the kernel tells a peer's primary group only.
func inGroup(uid uint32, gid int) bool {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return false
	}
	groups, err := u.GroupIds()
	return err == nil && slices.Contains(groups, strconv.Itoa(gid))
}

func peerOf(conn net.Conn) (PeerInfo, error) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return PeerInfo{}, primitives.Errorf(primitives.CodeDenied, "the connection is %T, not a unix socket", conn)
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return PeerInfo{}, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return PeerInfo{}, fmt.Errorf("peer credentials: %w", err)
	}
	if credErr != nil {
		return PeerInfo{}, fmt.Errorf("peer credentials: %w", credErr)
	}
	return PeerInfo{CommonAuthInfo: localSecurity(), UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, nil
}

// localSecurity says that bytes on a unix socket cannot be read or changed by
// others.
func localSecurity() credentials.CommonAuthInfo {
	return credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
}

// callerOf names who makes the call, for operations and logs. A TCP listener
// with mutual TLS adds a case for credentials.TLSInfo here and nothing else.
func callerOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "unknown"
	}
	if local, ok := p.AuthInfo.(PeerInfo); ok {
		return local.String()
	}
	return "unknown"
}
