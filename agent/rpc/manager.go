// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Times of the way to a manager.
const (
	defaultHeartbeat = 5 * time.Second
	// silentBeats is how many heartbeats may stay unanswered before a session is
	// taken for dead, whatever the kernel says of its connection.
	silentBeats  = 3
	firstPause   = 200 * time.Millisecond
	defaultPause = 30 * time.Second
)

// Managed is what an outside manager needs of the agent.
type Managed interface {
	// Enrol follows a manager from now on. A lower term than the present one is refused.
	Enrol(ctx context.Context, manager string, term uint64) error
	// Enrolled returns who is followed; "" is nobody.
	Enrolled() (manager string, term uint64)
	// Orders takes what is wanted of devices, in one transaction.
	Orders(ctx context.Context, orders []protocol.Order) error
	// Reports yields the state of every device, then of those that change.
	Reports(ctx context.Context) iter.Seq[[]protocol.Report]
}

// ManagerOptions say which manager an agent dials, and as whom.
type ManagerOptions struct {
	// Address is unix:/PATH or a loopback HOST:PORT.
	Address    string
	Host       Host
	AgentStart string        // the id of this start of the agent
	Heartbeat  time.Duration // 0: 5 s
	MaxPause   time.Duration // between two attempts; 0: 30 s
	Log        *slog.Logger
}

// ManagerLink keeps the one session between an agent and its outside manager.
// While there is none the agent stays as it was ordered last.
type ManagerLink struct {
	managed Managed
	target  string
	o       ManagerOptions
}

// NewManagerLink returns a link that does nothing yet. An address that is neither
// a unix socket nor loopback is CodeInvalid: others wait for certificates.
func NewManagerLink(m Managed, o ManagerOptions) (*ManagerLink, error) {
	target, err := managerTarget(o.Address)
	if err != nil {
		return nil, err
	}
	o.Heartbeat, o.MaxPause = cmp.Or(o.Heartbeat, defaultHeartbeat), cmp.Or(o.MaxPause, defaultPause)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("address", o.Address)
	return &ManagerLink{managed: m, target: target, o: o}, nil
}

// CheckManagerAddress says what is wrong with a manager's address.
func CheckManagerAddress(address string) error {
	_, err := managerTarget(address)
	return err
}

// managerTarget returns what gRPC dials for an address.
func managerTarget(address string) (string, error) {
	const field = "maintenance.manager"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path = "/" + strings.TrimLeft(path, "/"); !strings.HasPrefix(address, "unix:/") || !filepath.IsAbs(path) || path == "/" {
			return "", primitives.Invalid(field, "%q: expected unix:/PATH with an absolute path", address)
		}
		return "unix://" + path, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return "", primitives.Invalid(field, "%q: expected unix:/PATH or a loopback HOST:PORT", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", primitives.Invalid(field, "%q is another host, and tenond has no certificates yet to know it by: expected unix:/PATH or a loopback HOST:PORT, such as the end of a tunnel", address)
	}
	return "passthrough:///" + address, nil
}

// Run keeps a session until ctx ends. It dials again after every end of one,
// later and later while nobody welcomes it.
func (l *ManagerLink) Run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		start := time.Now()
		welcomed, err := l.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if welcomed {
			pause = firstPause
		}
		wait := pause/2 + rand.N(pause/2) // so that the agents of a manager that comes back do not come at once
		if refused, ok := errors.AsType[*refusedError](err); ok {
			wait = max(wait, refused.retryIn)
		}
		l.o.Log.WarnContext(ctx, "manager session ended", "took", time.Since(start), "welcomed", welcomed, "err", err, "retry_in", wait)
		pause = min(2*pause, l.o.MaxPause)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// session dials once and returns when that session is over; welcomed tells
// whether the manager took this agent.
func (l *ManagerLink) session(ctx context.Context) (welcomed bool, err error) {
	conn, err := grpc.NewClient(l.target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRequest)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := newSession(l, cancel)
	defer s.wait() // after cancel, which ends all that it waits for
	defer cancel(nil)
	return s.run(ctx, tenonv1.NewManagementServiceClient(conn))
}
