// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
)

var (
	// ErrClosed is in the error of a request to a client that Close closed.
	ErrClosed = net.ErrClosed
	// ErrDisconnected is in the error of every request that was under way when
	// the connection was lost, and of every later one. Whether a write took
	// effect is then unknown.
	ErrDisconnected = errors.New("nbd connection lost")
	// ErrProtocol is in an error caused by a peer that broke the protocol.
	ErrProtocol = errors.New("nbd protocol violated")
	// ErrUnaligned is in the error of a request that is not a multiple of the
	// export's minimum block size. Nothing was sent: reading, changing and
	// writing back a block is the caller's to do or not.
	ErrUnaligned = errors.New("not aligned to the minimum block size")
)

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Error is a request that the server refused or failed.
type Error struct {
	Command        string // "read", "write zeroes", …
	Offset, Length int64
	Err            error  // a syscall.Errno, or ErrUnaligned, or errors.ErrUnsupported
	Message        string // the server's words, if it sent any
}

// Error names the request and the cause.
func (e *Error) Error() string {
	text := fmt.Sprintf("nbd: %s of %d bytes at %d: %v", e.Command, e.Length, e.Offset, e.Err)
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// OptionError is an option of the handshake that the server refused.
type OptionError struct {
	Option  string // "go", "list", …
	Code    uint32 // one of "Option reply types"
	Message string // the server's words, if it sent any
}

// Error names the option and the refusal.
func (e *OptionError) Error() string {
	text := fmt.Sprintf("nbd: server refused %s: %v", e.Option, e.Unwrap())
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Unwrap makes a refusal a cause that errors.Is knows: fs.ErrNotExist for an
// unknown export, errors.ErrUnsupported, fs.ErrPermission, or an errno.
func (e *OptionError) Unwrap() error {
	switch e.Code {
	case repErrUnsup, repErrPlatform:
		return errors.ErrUnsupported
	case repErrPolicy:
		return fs.ErrPermission
	case repErrTLSReqd:
		return fmt.Errorf("TLS is required: %w", errors.ErrUnsupported)
	case repErrUnknown:
		return fs.ErrNotExist
	case repErrShutdown:
		return syscall.ESHUTDOWN
	case repErrTooBig:
		return syscall.EOVERFLOW
	}
	return syscall.EINVAL
}

// errnos are "Error values": the numbers are the protocol's, which happen to be
// Linux's on most architectures but not on all.
var errnos = map[uint32]syscall.Errno{
	1:   syscall.EPERM,
	5:   syscall.EIO,
	12:  syscall.ENOMEM,
	22:  syscall.EINVAL,
	28:  syscall.ENOSPC,
	75:  syscall.EOVERFLOW,
	95:  syscall.ENOTSUP,
	108: syscall.ESHUTDOWN,
}

// errnoOf is the errno of a value received. "The client SHOULD treat an
// unexpected error value as if it had been NBD_EINVAL."
func errnoOf(code uint32) syscall.Errno {
	if errno, ok := errnos[code]; ok {
		return errno
	}
	return syscall.EINVAL
}

// codeOf is the value to send for a backend's error. "It also SHOULD map the
// EDQUOT and EFBIG errors to NBD_ENOSPC."
func codeOf(err error) uint32 {
	for _, space := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, space) {
			return 28
		}
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return 1
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return 95
	}
	for code, errno := range errnos {
		if errors.Is(err, errno) {
			return code
		}
	}
	return 5
}
