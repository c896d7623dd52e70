// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipeDelay is how long the output of a program that has ended may stay open
// in a daemon it left behind before it is cut off.
const pipeDelay = time.Second

// StartOptions are the optional parts of Start. The zero value is right for a
// program whose output nobody reads.
type StartOptions struct {
	// Pdeathsig is sent to the program when this process dies, however it dies;
	// zero sends nothing. It does not reach the program's own children, and the
	// kernel forgets it if the program changes its user.
	Pdeathsig syscall.Signal
	// Stdout gets what the program writes there; nil discards it. It is written
	// to from one goroutine. Cmd.MaxOutput does not apply.
	Stdout io.Writer
	// Grace is the time between SIGTERM and SIGKILL in Stop; zero means 5 s.
	Grace time.Duration
	// Files are inherited by the program as descriptors 3, 4, ….
	Files []*os.File
	// ReadyFile is a path that the program makes when it is ready to serve: a
	// pid file, for qemu-nbd, qemu-storage-daemon and nbdkit, which write it
	// once their sockets listen. Start then waits for it, as long as ctx lives
	// and the program does. It must not exist before; its folder must.
	ReadyFile string
}

// Process is a program that was started and not yet waited for.
type Process struct {
	cmd    Cmd
	pid    int
	grace  time.Duration
	stderr tail
	done   chan struct{} // closed after err is set
	err    error         // how it exited; nil is exit status 0

	mu   sync.Mutex // guards gone
	gone bool       // the leader has ended: its pid may soon be another's
}

// Start starts a program that lives longer than one call, such as a server. ctx
// bounds the starting only, and the wait for o.ReadyFile: the program lives until it ends, until Stop, or
// until this process dies if o.Pdeathsig says so. Like Run's, the program leads
// a process group of its own, which is killed when the leader has ended.
func Start(ctx context.Context, c Cmd, o StartOptions) (*Process, error) {
	if o.ReadyFile == "" {
		return spawn(ctx, c, o)
	}
	watch, err := watchFor(o.ReadyFile)
	if err != nil {
		return nil, &Error{Path: c.Path, Args: c.Args, ExitCode: -1, Err: err}
	}
	defer watch.close()
	p, err := spawn(ctx, c, o)
	if err != nil {
		return nil, err
	}
	if err := watch.wait(ctx, p.done); err != nil {
		_ = p.Stop(ctx) // err says why
		return nil, p.failure(err)
	}
	return p, nil
}

func spawn(ctx context.Context, c Cmd, o StartOptions) (*Process, error) {
	p := &Process{cmd: c, grace: o.Grace, done: make(chan struct{})}
	if p.grace == 0 {
		p.grace = grace
	}
	if ctx.Err() != nil {
		return nil, p.fault(context.Cause(ctx), -1)
	}
	x := exec.Command(c.Path, c.Args...)
	x.Dir, x.Stdin, x.Stdout, x.Stderr, x.ExtraFiles = c.Dir, c.Stdin, o.Stdout, &p.stderr, o.Files
	x.Env = environment(os.Environ(), c.Env)
	x.WaitDelay = pipeDelay
	x.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: o.Pdeathsig}
	started := make(chan error)
	go p.own(x, started)
	if err := <-started; err != nil {
		return nil, p.fault(err, -1)
	}
	return p, nil
}

// own starts x and waits for it, on one thread that does nothing else: the
// kernel sends Pdeathsig when the *thread* that forked ends (prctl(2)), and Go
// may end any thread that is not busy.
func (p *Process) own(x *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := x.Start(); err != nil {
		started <- err
		return
	}
	p.pid = x.Process.Pid
	started <- nil
	p.awaitEnd()
	err := x.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it exited with 0; a daemon that it left holds its output open
	}
	p.err = err
	close(p.done)
}

// awaitEnd returns when the leader has ended. It is then still a zombie, so its
// pid and group cannot be another's while the rest of the group is killed.
func (p *Process) awaitEnd() {
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	// ESRCH, the usual answer, means that nothing was left behind.
	_ = unix.Kill(-p.pid, unix.SIGKILL)
}

// Pid is the process id of the program, which is also its group's.
func (p *Process) Pid() int { return p.pid }

// Done is closed when the program has ended and Wait will not block.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stderr is the last 8 KiB that the program has written to its stderr so far.
func (p *Process) Stderr() string { return p.stderr.String() }

// Wait blocks until the program has ended. It returns nil for exit status 0 and
// an *Error otherwise; calling it again returns the same.
func (p *Process) Wait() error {
	<-p.done
	return p.failure(nil)
}

// Stop ends the program and its group: SIGTERM, then SIGKILL once ctx has ended
// or StartOptions.Grace has passed. It returns when the program has ended, which
// SIGKILL brings about unless the kernel holds the program in I/O, and fails only
// to say that SIGKILL was needed, so that the program could not tidy up. Stopping
// a program that has ended does nothing. How it ended is Wait's to say.
func (p *Process) Stop(ctx context.Context) error {
	p.Signal(unix.SIGTERM)
	grace := time.NewTimer(p.grace)
	defer grace.Stop()
	select {
	case <-p.done:
		return nil
	case <-grace.C:
	case <-ctx.Done():
	}
	p.Signal(unix.SIGKILL)
	<-p.done
	return p.fault(errors.New("killed: SIGTERM did not end it in time"), -1)
}

// Signal sends sig to the program's group. A program that has ended gets nothing.
func (p *Process) Signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		_ = unix.Kill(-p.pid, sig) // only ESRCH is possible, and means that it ended
	}
}

// failure is the error of a program that has ended, or nil. A program that was
// stopped has failed however it exited: qemu-nbd exits with 0 on SIGTERM.
func (p *Process) failure(stopped error) error {
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
		code = exit.ExitCode()
	}
	switch {
	case stopped != nil && p.err != nil:
		return p.fault(fmt.Errorf("%w (%w)", stopped, p.err), code)
	case stopped != nil:
		return p.fault(stopped, code)
	case p.err != nil:
		return p.fault(p.err, code)
	}
	return nil
}

func (p *Process) fault(err error, code int) *Error {
	return &Error{Path: p.cmd.Path, Args: p.cmd.Args, ExitCode: code, Stderr: p.stderr.String(), Err: err}
}

// environment is base without its locale, with added, in the C locale: messages
// and numbers then read the same on every host.
func environment(base, added []string) []string {
	var env []string
	for _, kv := range append(base[:len(base):len(base)], added...) {
		name, _, _ := strings.Cut(kv, "=")
		if name != "LANG" && name != "LANGUAGE" && !strings.HasPrefix(name, "LC_") {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C")
}
