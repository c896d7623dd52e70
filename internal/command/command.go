// SPDX-License-Identifier: Apache-2.0

// Package command runs other programs. It is the only importer of os/exec, so
// what holds here holds for every program that tenon runs: an argument vector
// and never a shell, the C locale, bounded output, stderr kept for the error,
// a context, and a process group of its own that ends with its leader.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// DefaultMaxOutput bounds a command's stdout where Cmd.MaxOutput is zero.
const DefaultMaxOutput = 4 << 20

// grace is how long a program has between SIGTERM and SIGKILL.
const grace = 5 * time.Second

var (
	// ErrNotFound is in the error of a program that is not installed.
	ErrNotFound = exec.ErrNotFound
	// ErrTooMuchOutput is in the error of a command that wrote more to its
	// stdout than Cmd.MaxOutput; it was stopped.
	ErrTooMuchOutput = errors.New("too much output")
)

// Cmd is one program to run. Arguments are visible to every user of the host
// and are part of errors, so a secret goes by Stdin or Env.
type Cmd struct {
	Path      string // a name looked up in $PATH, or a path
	Args      []string
	Stdin     io.Reader // nil is /dev/null
	Env       []string  // added to this process's environment, KEY=VALUE
	Dir       string    // working folder; empty is this process's
	MaxOutput int       // bytes of stdout; zero is DefaultMaxOutput
}

// Result is what a command that exited with 0 left.
type Result struct {
	Stdout []byte
	Stderr string // its last 8 KiB: warnings, mostly
	Took   time.Duration
}

// Error says that a command could not be started, did not exit with 0, was
// stopped because its context ended, or wrote too much.
type Error struct {
	Path     string
	Args     []string
	ExitCode int    // -1 if it did not start or was ended by a signal
	Stderr   string // its last 8 KiB
	Err      error  // the context's error, ErrNotFound, ErrTooMuchOutput, or how it exited
}

// Error is one line: what was run, how it ended and the last line of stderr,
// which is where programs put the cause.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s: %v", strings.Join(append([]string{e.Path}, e.Args...), " "), e.Err)
	lines := strings.Split(strings.TrimSpace(e.Stderr), "\n")
	if last := lines[len(lines)-1]; last != "" {
		text += ": " + last
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Run runs c to its end. When ctx ends first, the program's group gets SIGTERM
// and, if that does not end it within 5 s, SIGKILL; Run returns after its end,
// with an error that wraps ctx's. Whatever the program leaves behind in its
// group is killed; a program that makes itself a daemon leaves the group and
// lives. A non-zero exit is an *Error.
func Run(ctx context.Context, c Cmd) (Result, error) {
	start := time.Now()
	limit := c.MaxOutput
	if limit == 0 {
		limit = DefaultMaxOutput
	}
	out := &bounded{limit: limit, full: make(chan struct{})}
	p, err := spawn(ctx, c, StartOptions{Stdout: out})
	if err != nil {
		return Result{}, err
	}
	var stopped error
	select {
	case <-p.done:
	case <-out.full:
		_ = p.Stop(ctx) // failure below says what matters
	case <-ctx.Done():
		stopped = context.Cause(ctx)
		_ = p.Stop(context.WithoutCancel(ctx)) // ctx has ended; the grace has not
	}
	if out.overflowed() {
		stopped = fmt.Errorf("%w: stdout exceeds %d bytes", ErrTooMuchOutput, limit)
	}
	if err := p.failure(stopped); err != nil {
		return Result{}, err
	}
	return Result{Stdout: out.bytes(), Stderr: p.Stderr(), Took: time.Since(start)}, nil
}
