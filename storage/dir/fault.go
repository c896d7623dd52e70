// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/primitives"
)

// classify gives err, met while doing something to u, the code that says what
// the caller can do. An error that has one already keeps it.
func classify(u primitives.URI, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*primitives.Error](err); ok {
		if e.URI.IsZero() {
			return e.On(u)
		}
		return e
	}
	code, try := codeFor(err)
	return &primitives.Error{Code: code, URI: u, Try: try, Err: err}
}

func codeFor(err error) (code primitives.Code, try string) {
	_, notRegular := errors.AsType[*errNotRegular](err)
	switch {
	case errors.Is(err, context.Canceled):
		return primitives.CodeCancelled, ""
	case errors.Is(err, context.DeadlineExceeded):
		return primitives.CodeUnavailable, ""
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return primitives.CodeNoSpace, "make room on the file system, or destroy tombstones"
	case errors.Is(err, unix.EROFS):
		return primitives.CodeDenied, "remount the file system read-write"
	case errors.Is(err, fs.ErrPermission):
		return primitives.CodeDenied, "give the agent's user access to the device's folder"
	case errors.Is(err, unix.ENOLCK):
		return primitives.CodeUnavailable, "make file locks work on that file system (on NFS: rpc.statd, or NFS 4)"
	case notRegular:
		return primitives.CodeFenced, "put the file back that belongs there; tenon wrote a regular file"
	case errors.Is(err, command.ErrNotFound):
		return primitives.CodeUnsupported, "install qemu-utils (qemu-img) and qemu-system-common (qemu-storage-daemon)"
	case errors.Is(err, unix.ESTALE), errors.Is(err, unix.EIO), errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.EHOSTDOWN):
		return primitives.CodeUnavailable, "look at the host's kernel log for the file system's fault"
	}
	return primitives.CodeInternal, ""
}

// notFound says that u does not exist.
func notFound(u primitives.URI) *primitives.Error {
	return &primitives.Error{Code: primitives.CodeNotFound, URI: u}
}

// fail returns an error about u.
func fail(code primitives.Code, u primitives.URI, format string, args ...any) *primitives.Error {
	return &primitives.Error{Code: code, URI: u, Err: fmt.Errorf(format, args...)}
}

// checkGeneration is Op.IfGen.
func checkGeneration(u primitives.URI, op primitives.Op, have uint64) error {
	if op.IfGen != 0 && op.IfGen != have {
		return fail(primitives.CodeConflict, u, "generation is %d, not %d", have, op.IfGen)
	}
	return nil
}
