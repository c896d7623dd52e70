// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/maintenance"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/agent/volume"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Limits of a server.
const (
	maxRequest    = 4 << 20 // bytes of one message from a client
	maxStreams    = 128     // calls at once on one connection
	maxHeaderList = 16 << 10
	handshakeTime = 10 * time.Second
	// farewellTime is how long calls under way may take to end when the server stops.
	farewellTime = 5 * time.Second
)

// Rooms are the parts of the agent that the API opens up.
type Rooms struct {
	Operations  *operation.Engine
	Devices     *device.Registry
	Volumes     *volume.Service
	Disks       *attach.Service
	Maintenance *maintenance.Service
	Host        Host
}

// Server serves tenon.v1.
type Server struct {
	rooms Rooms
	log   *slog.Logger
	start time.Time
}

// New returns a server over the rooms.
func New(r Rooms, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{rooms: r, log: log, start: time.Now()}
}

// Serve answers calls on l until ctx ends, lets those under way end within a few
// seconds, and closes l. A TCP listener with mutual TLS is to be a second kind of
// listener with credentials of its own; nothing else here depends on the kind.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	server := grpc.NewServer(append(guarded(stopping, s.log), grpc.Creds(l.peers))...)
	checks := s.register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	checks.Shutdown()
	stop() // those who only watch need not be waited for
	cut := time.AfterFunc(farewellTime, server.Stop)
	defer cut.Stop()
	server.GracefulStop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// register adds every service to server.
func (s *Server) register(server *grpc.Server) *health.Server {
	r := s.rooms
	start := starter{r.Operations}
	tenonv1.RegisterHostServiceServer(server, &hosts{rooms: r, start: s.start})
	tenonv1.RegisterDriverServiceServer(server, &drivers{registry: r.Devices})
	tenonv1.RegisterDeviceServiceServer(server, &devices{registry: r.Devices, starter: start})
	tenonv1.RegisterVolumeServiceServer(server, &volumes{service: r.Volumes, registry: r.Devices, starter: start})
	tenonv1.RegisterSnapshotServiceServer(server, &snapshots{service: r.Volumes, registry: r.Devices, starter: start})
	tenonv1.RegisterTransferServiceServer(server, &transfers{starter: start})
	tenonv1.RegisterDomainServiceServer(server, &domains{service: r.Disks})
	tenonv1.RegisterDiskServiceServer(server, &disks{service: r.Disks, starter: start})
	tenonv1.RegisterMaintenanceServiceServer(server, &maintenances{service: r.Maintenance, domains: &domainNames{disks: r.Disks}})
	tenonv1.RegisterOperationServiceServer(server, &operations{engine: r.Operations})
	checks := health.NewServer()
	for name := range server.GetServiceInfo() {
		checks.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	healthpb.RegisterHealthServer(server, checks)
	reflection.Register(server)
	return checks
}

// guarded are the options that every server of the API has. Calls that only wait
// end when stopping does.
func guarded(stopping context.Context, log *slog.Logger) []grpc.ServerOption {
	g := guard{log: log, stopping: stopping}
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

// starter starts operations in the caller's name.
type starter struct{ engine *operation.Engine }

// start begins an operation and returns it as the API tells it.
func (s starter) start(ctx context.Context, kind, requestID string, args any) (*tenonv1.Operation, error) {
	op, err := s.engine.Start(ctx, operation.Request{RequestID: requestID, Kind: kind, Args: args, Caller: callerOf(ctx)})
	if err != nil {
		return nil, err
	}
	return operationOf(op)
}
