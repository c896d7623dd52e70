// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// maxMessage is the largest answer that is taken.
const maxMessage = 16 << 20

// reconnect is how often a daemon that went away is tried again.
var reconnect = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second}

// connectTime bounds one attempt to connect. Without it gRPC gives up after the
// first pause of the backoff, which a busy host exceeds.
const connectTime = 10 * time.Second

// link is the connection to tenond, made when it is first needed.
type link struct {
	mu      sync.Mutex // guards what follows
	conn    *grpc.ClientConn
	dialErr error // of the last attempt; nil after one that succeeded
}

// conn returns the connection.
func (a *app) conn() (*grpc.ClientConn, error) {
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	if a.link.conn != nil {
		return a.link.conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///tenond",
		grpc.WithContextDialer(a.dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: connectTime}),
		grpc.WithUnaryInterceptor(patientUnary),
		grpc.WithStreamInterceptor(patientStream),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, err
	}
	a.link.conn = conn
	return conn, nil
}

// dial connects to the socket and remembers why it could not, because gRPC only
// tells in its own words.
func (a *app) dial(ctx context.Context, _ string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", a.socket)
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	a.link.dialErr = err
	return c, err
}

// detached returns a context that ends with ctx but has no deadline. tenond would
// end the call at the deadline too, and its answer would race with ours; this way
// it is always tenonctl that says why it gave up.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	free, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	return free, func() { stop(); cancel() }
}

func patientUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	free, cancel := detached(ctx)
	defer cancel()
	err := invoke(free, method, req, reply, cc, opts...)
	if err != nil && ctx.Err() != nil {
		return failf(tenonv1.ErrorCode_ERROR_CODE_CANCELLED, "", "%s before tenond answered", ended(ctx))
	}
	return err
}

// patientStream leaves the context to the stream: its caller cancels it.
func patientStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	free, cancel := detached(ctx)
	context.AfterFunc(ctx, cancel)
	s, err := stream(free, desc, cc, method, opts...)
	if err != nil {
		cancel()
	}
	return s, err
}

func (a *app) hangUp() {
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	if a.link.conn != nil {
		_ = a.link.conn.Close() // nothing depends on it any more
	}
}

// explain says in people's words what gRPC says in its own: that there is no
// tenond, that it turned us away, or that it is older than tenonctl.
func (a *app) explain(f *tenonv1.Failure) *tenonv1.Failure {
	a.link.mu.Lock()
	dialErr := a.link.dialErr
	a.link.mu.Unlock()
	if f.GetRetry() != tenonv1.Retry_RETRY_UNSPECIFIED || f.GetTry() != "" {
		return f // tenond's own words
	}
	switch f.GetCode() {
	case tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE:
		return a.unreachable(f, dialErr)
	case tenonv1.ErrorCode_ERROR_CODE_UNSUPPORTED:
		f.Try = "this tenond is older than tenonctl; compare the versions with tenonctl host show and tenonctl --version"
	}
	return f
}

func (a *app) unreachable(f *tenonv1.Failure, dialErr error) *tenonv1.Failure {
	told := f.GetMessage()
	f.Message = "tenond cannot be reached at " + a.socket
	f.Try = "see whether it runs with systemctl status tenond; another socket is named with --socket"
	cause := syscall.Errno(0)
	switch {
	case errors.Is(dialErr, os.ErrPermission):
		f.Try = "run tenonctl as root, or as a member of the group that the configuration of tenond names"
		cause = syscall.EACCES
	case errors.As(dialErr, &cause):
	case dialErr == nil && strings.Contains(told, "error reading server preface"):
		f.Try = "run tenonctl as root, or as a member of the group that the configuration of tenond names"
	}
	switch {
	case cause != 0:
		f.Message += ": " + cause.Error()
	case dialErr == nil:
		f.Message += ": " + told
	}
	return f
}

// isAway reports whether err, of a watch, means that tenond went away, is about
// to, or is not there.
func isAway(err error) bool { return status.Code(err) == codes.Unavailable }

// newRequestID makes an id by which a request can be repeated safely.
func newRequestID() string { return "ctl-" + strings.ToLower(rand.Text()) }

// pages fetches every page of a listing.
func pages[R interface{ GetNextPageToken() string }](fetch func(token string) (R, error), add func(R)) error {
	for token := ""; ; {
		page, err := fetch(token)
		if err != nil {
			return err
		}
		add(page)
		if token = page.GetNextPageToken(); token == "" {
			return nil
		}
	}
}
