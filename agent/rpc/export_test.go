// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/tenon-storage/tenon/agent/operation"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// StatusOf is what becomes of an error on its way out.
var StatusOf = statusOf

// FailureOf is a journalled failure on its way out.
func FailureOf(f *operation.Failure) *tenonv1.Failure { return failureOf(f) }

// Guarded returns a server with the interceptors and nothing to serve.
func Guarded(log *slog.Logger, o ...grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(guarded(context.Background(), log), o...)...)
}

// Loggable is a message as the log shows it.
func Loggable(m proto.Message) string { return loggable{m}.LogValue().String() }

// The protocol's words on the wire.
var (
	PhaseOf        = phaseOf
	HostPhaseOf    = hostPhaseOf
	GateOf         = gateOf
	ImpactOf       = impactOf
	UseStateOf     = useStateOf
	OnDeadlineOf   = onDeadlineOf
	OnDeadlineFrom = onDeadlineFrom
)
