// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tenon-storage/tenon/primitives"
)

// callTime bounds a unary call whose client set no deadline. Long work is an
// operation, so no call needs more; waiting for one ends with the client.
const callTime = 2 * time.Minute

// ownServices is what callTime and the log are about; health checks and
// reflection are neither bounded nor worth a line.
const ownServices = "/tenon.v1."

// guard is what stands around every call: recovery, a deadline, one translation
// of the error, one line in the log.
type guard struct {
	log      *slog.Logger
	stopping context.Context // its end ends the calls that only wait
}

// waits names the calls that may wait for ever, and that lose nothing when they
// end early.
var waits = []string{"/WaitOperation", "/WatchOperations", "/WatchMaintenance", "/Subscribe"}

func isWaiting(method string) bool {
	return slices.ContainsFunc(waits, func(w string) bool { return strings.HasSuffix(method, w) })
}

// bound returns the context of a call: one that only waits ends with the server,
// any other unary call after callTime unless its client said otherwise.
func (g guard) bound(ctx context.Context, method string, unary bool) (context.Context, context.CancelFunc) {
	if isWaiting(method) {
		ctx, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(g.stopping, cancel)
		return ctx, func() { stop(); cancel() }
	}
	if _, set := ctx.Deadline(); !unary || set {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTime)
}

// outcome is the one translation of a call's error. A call that ended with the
// server says so, so that its client asks again.
func (g guard) outcome(method string, err error) error {
	if err != nil && isWaiting(method) && g.stopping.Err() != nil {
		err = primitives.Errorf(primitives.CodeUnavailable, "tenond is stopping; what was begun goes on when it runs again")
	}
	return statusOf(err)
}

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	ctx, cancel := g.bound(ctx, info.FullMethod, true)
	defer cancel()
	defer func() { g.finished(ctx, info.FullMethod, start, req, err) }()
	defer func() { err = g.outcome(info.FullMethod, err) }()
	defer g.recover(ctx, info.FullMethod, &err)
	return next(ctx, req)
}

func (g guard) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	start := time.Now()
	ctx, cancel := g.bound(s.Context(), info.FullMethod, false)
	defer cancel()
	first := &firstMessage{ServerStream: s, ctx: ctx}
	defer func() { g.finished(s.Context(), info.FullMethod, start, first.seen, err) }()
	defer func() { err = g.outcome(info.FullMethod, err) }()
	defer g.recover(s.Context(), info.FullMethod, &err)
	return next(srv, first)
}

// recover turns a panic into an error that tells the client nothing but that
// there was one; the stack goes to the log.
func (g guard) recover(ctx context.Context, method string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	g.log.ErrorContext(ctx, "call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
	*err = primitives.Errorf(primitives.CodeInternal, "a defect in tenond ended the call").
		Trying("look for \"call panicked\" in tenond's log and report it")
}

func (g guard) finished(ctx context.Context, method string, start time.Time, req any, err error) {
	if !strings.HasPrefix(method, ownServices) {
		return
	}
	level := slog.LevelDebug
	msg, isMessage := req.(proto.Message)
	if err != nil || isMessage && changes(msg) {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("method", strings.TrimPrefix(method, ownServices)),
		slog.String("caller", callerOf(ctx)),
		slog.String("status", status.Code(err).String()),
		slog.Duration("took", time.Since(start)),
	}
	if isMessage {
		attrs = append(attrs, slog.Any("request", loggable{msg}))
	}
	if err != nil {
		attrs = append(attrs, slog.String("err", status.Convert(err).Message()))
	}
	g.log.LogAttrs(ctx, level, "call finished", attrs...)
}

// changes reports whether the request changes something: those have a request id.
func changes(m proto.Message) bool {
	return m.ProtoReflect().Descriptor().Fields().ByName("request_id") != nil
}

// firstMessage remembers the first message that a client sent on a stream, for
// the log. What follows it is bytes of a volume.
type firstMessage struct {
	grpc.ServerStream
	ctx  context.Context // of the call, which a server that stops may end
	seen any
}

// Context returns the call's context.
func (f *firstMessage) Context() context.Context { return f.ctx }

// RecvMsg receives the next message.
func (f *firstMessage) RecvMsg(m any) error {
	err := f.ServerStream.RecvMsg(m)
	if err == nil && f.seen == nil {
		f.seen = withoutData(m)
	}
	return err
}

// withoutData copies a message without the bytes of a volume.
func withoutData(m any) any {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	r := proto.Clone(msg).ProtoReflect()
	if fd := r.Descriptor().Fields().ByName("data"); fd != nil {
		r.Clear(fd)
	}
	return r.Interface()
}
