// SPDX-License-Identifier: Apache-2.0

package mockmanager

import (
	"context"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Replay says to every agent that dials what was said in a record: in the same
// order, and with the same pauses divided by speed; 0 makes none. Heartbeats are
// answered as they come. It serves until ctx ends.
func Replay(ctx context.Context, listen string, said []Said, speed float64) error {
	network, address := "tcp", listen
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		network, address = "unix", path
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	tenonv1.RegisterManagementServiceServer(server, &replayer{said: said, speed: speed})
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(stopped); server.Stop() })
	err = server.Serve(l)
	if !stop() {
		<-stopped
		return nil
	}
	return err
}

// replayer plays one record to each agent.
type replayer struct {
	tenonv1.UnimplementedManagementServiceServer
	said  []Said
	speed float64
}

// Session plays the record from its start.
func (r *replayer) Session(stream grpc.BidiStreamingServer[tenonv1.SessionRequest, tenonv1.SessionResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	beats, ended := make(chan uint64), make(chan error, 1)
	// It ends with the stream, which ends with this function.
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			if b := m.GetHeartbeat(); b != nil {
				select {
				case beats <- b.GetNumber():
				case <-stream.Context().Done():
				}
			}
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := 0
	for {
		select {
		case <-timer.C:
			if next == len(r.said) {
				continue
			}
			if m := r.said[next].Message; m.GetHeartbeat() == nil {
				if err := stream.Send(m); err != nil {
					return err
				}
			}
			next++
			timer.Reset(r.pause(next))
		case n := <-beats:
			if err := stream.Send(&tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Heartbeat{Heartbeat: &tenonv1.ManagerHeartbeat{Number: n}}}); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// pause is how long after the message before it one comes.
func (r *replayer) pause(next int) time.Duration {
	if next >= len(r.said) || r.speed <= 0 {
		return 0
	}
	return time.Duration(float64(r.said[next].At-r.said[next-1].At) / r.speed)
}
