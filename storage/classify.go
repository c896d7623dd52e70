// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/tenon-storage/tenon/primitives"
)

// Causes of a call's context that ended on this package's account.
var (
	errTimeout = errors.New("the device did not answer in time")
	errClosed  = errors.New("the device is closed")
)

// errnoCodes says what a caller can do about an error of the operating system
// that a driver let through.
var errnoCodes = map[syscall.Errno]primitives.Code{
	syscall.ENOSPC: primitives.CodeNoSpace, syscall.EDQUOT: primitives.CodeNoSpace, syscall.EFBIG: primitives.CodeNoSpace,
	syscall.EROFS: primitives.CodeDenied, syscall.EACCES: primitives.CodeDenied, syscall.EPERM: primitives.CodeDenied,
	syscall.ENOENT: primitives.CodeNotFound, syscall.EEXIST: primitives.CodeExists,
	syscall.EBUSY: primitives.CodeInUse, syscall.ETXTBSY: primitives.CodeInUse,
	syscall.ENAMETOOLONG: primitives.CodeInvalid,
	syscall.ENOSYS:       primitives.CodeUnsupported, syscall.EOPNOTSUPP: primitives.CodeUnsupported,
	syscall.EIO: primitives.CodeUnavailable, syscall.ESTALE: primitives.CodeUnavailable, syscall.ENXIO: primitives.CodeUnavailable,
	syscall.ENODEV: primitives.CodeUnavailable, syscall.ENOTCONN: primitives.CodeUnavailable, syscall.ESHUTDOWN: primitives.CodeUnavailable,
	syscall.ETIMEDOUT: primitives.CodeUnavailable, syscall.EHOSTDOWN: primitives.CodeUnavailable, syscall.EHOSTUNREACH: primitives.CodeUnavailable,
	syscall.ENETUNREACH: primitives.CodeUnavailable, syscall.ECONNREFUSED: primitives.CodeUnavailable, syscall.ECONNRESET: primitives.CodeUnavailable,
	syscall.EPIPE: primitives.CodeUnavailable, syscall.ENOMEM: primitives.CodeUnavailable, syscall.EMFILE: primitives.CodeUnavailable,
	syscall.ENFILE: primitives.CodeUnavailable, syscall.EAGAIN: primitives.CodeUnavailable,
}

// classify returns err as an *Error that says what was being done to what. What
// a driver said stays as it is.
func classify(op string, u primitives.URI, err error) error {
	if err == nil {
		return nil
	}
	e := asError(err)
	if e.Op == "" {
		e.Op = op
	}
	if e.URI.IsZero() {
		e.URI = u
	}
	return e
}

// asError returns a copy that may be changed.
func asError(err error) *primitives.Error {
	inner, typed := errors.AsType[*primitives.Error](err)
	if !typed {
		return &primitives.Error{Code: codeOf(err), Err: withoutCode(err)}
	}
	e := *inner
	if err.Error() != inner.Error() {
		e.Err = err // keep what was wrapped around it
	}
	if e.Code == 0 {
		e.Code = primitives.CodeInternal
	}
	return &e
}

// withoutCode drops a cause that says no more than the code does.
func withoutCode(err error) error {
	if err.Error() == codeOf(err).String() {
		return nil
	}
	return err
}

// codeOf classifies an error that no driver classified.
func codeOf(err error) primitives.Code {
	if code := primitives.CodeOf(err); code != primitives.CodeInternal {
		return code
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		if code, known := errnoCodes[errno]; known {
			return code
		}
		return primitives.CodeInternal
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return primitives.CodeUnavailable
	}
	switch {
	case errors.Is(err, errTimeout), errors.Is(err, errClosed), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, fs.ErrClosed):
		return primitives.CodeUnavailable
	case errors.Is(err, fs.ErrNotExist):
		return primitives.CodeNotFound
	case errors.Is(err, fs.ErrExist):
		return primitives.CodeExists
	case errors.Is(err, fs.ErrPermission):
		return primitives.CodeDenied
	case errors.Is(err, errors.ErrUnsupported):
		return primitives.CodeUnsupported
	}
	return primitives.CodeInternal
}

// ended returns the classified error of a context that ended, else nil.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	cause := context.Cause(ctx)
	code := codeOf(cause)
	if code == primitives.CodeInternal {
		code = primitives.CodeOf(ctx.Err()) // the caller gave a cause of its own
	}
	return &primitives.Error{Code: code, Err: cause}
}

// protected turns a panic of a driver into an error, so that one driver's defect
// ends one call and not the agent. Every deferred unlock of the driver has run
// by then; what it left half done it must recover at its next Open.
func protected[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{value: r, stack: stack()}
		}
	}()
	return f()
}

// panicError is a driver's panic. Its stack is for the log.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("the driver panicked: %v", p.value) }
