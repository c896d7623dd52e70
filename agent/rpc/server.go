// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Limits of a server.
const (
	maxRequest    = 4 << 20 // bytes of one message from a client
	maxStreams    = 128     // calls at once on one connection
	maxHeaderList = 16 << 10
	handshakeTime = 10 * time.Second
)

// guarded are the options that every server of the API has.
func guarded(log *slog.Logger) []grpc.ServerOption {
	g := guard{log: log}
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}
