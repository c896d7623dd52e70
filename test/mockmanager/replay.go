// SPDX-License-Identifier: Apache-2.0

package mockmanager

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Replay says to every agent that dials what was said in a record: in the same
// order, and with the same pauses divided by speed; 0 makes none. Heartbeats are
// answered as they come. A device that the agent does not have stands for the
// first one that it has, whose name differs from host to host; orders wait until
// the agent reported one. It serves until ctx ends.
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
	heard, ended := make(chan *tenonv1.SessionRequest), make(chan error, 1)
	// It ends with the stream, which ends with this function.
	go func() { ended <- hear(stream, heard) }()
	p := &playing{replayer: r, stream: stream, timer: time.NewTimer(0)}
	defer p.timer.Stop()
	for {
		var err error
		select {
		case <-p.timer.C:
			err = p.say()
		case m := <-heard:
			err = p.take(m)
		case err = <-ended:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		if err != nil {
			return err
		}
	}
}

// hear hands on what an agent says.
func hear(stream grpc.BidiStreamingServer[tenonv1.SessionRequest, tenonv1.SessionResponse], heard chan<- *tenonv1.SessionRequest) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case heard <- m:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// playing is a record on its way to one agent.
type playing struct {
	*replayer
	stream  grpc.BidiStreamingServer[tenonv1.SessionRequest, tenonv1.SessionResponse]
	timer   *time.Timer // until the next message
	next    int
	devices []string // that the agent reported
}

// say sends the next message, unless it must wait for a report.
func (p *playing) say() error {
	if p.next == len(p.said) || p.said[p.next].Message.GetOrders() != nil && len(p.devices) == 0 {
		return nil
	}
	if m := p.said[p.next].Message; m.GetHeartbeat() == nil {
		if err := p.stream.Send(renamed(m, p.devices)); err != nil {
			return err
		}
	}
	p.next++
	p.timer.Reset(p.pause(p.next))
	return nil
}

// take answers a heartbeat and learns the agent's devices.
func (p *playing) take(m *tenonv1.SessionRequest) error {
	reports := m.GetReports().GetReports()
	if len(reports) > 0 && len(p.devices) == 0 {
		p.timer.Reset(0) // orders may have waited for it
	}
	for _, report := range reports {
		if !slices.Contains(p.devices, report.GetDevice()) {
			p.devices = append(p.devices, report.GetDevice())
		}
	}
	if m.GetHeartbeat() == nil {
		return nil
	}
	beat := &tenonv1.ManagerHeartbeat{Number: m.GetHeartbeat().GetNumber()}
	return p.stream.Send(&tenonv1.SessionResponse{Message: &tenonv1.SessionResponse_Heartbeat{Heartbeat: beat}})
}

// pause is how long after the message before it one comes.
func (r *replayer) pause(next int) time.Duration {
	if next >= len(r.said) || r.speed <= 0 {
		return 0
	}
	return time.Duration(float64(r.said[next].At-r.said[next-1].At) / r.speed)
}

// renamed returns m with the agent's own devices in its orders.
func renamed(m *tenonv1.SessionResponse, devices []string) *tenonv1.SessionResponse {
	if m.GetOrders() == nil {
		return m
	}
	m = proto.CloneOf(m)
	for _, o := range m.GetOrders().GetOrders() {
		if !slices.Contains(devices, o.GetDevice()) {
			o.Device = devices[0]
		}
	}
	return m
}
