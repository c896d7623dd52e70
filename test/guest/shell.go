// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// A Shell runs commands in a guest, one at a time. Several goroutines may use it.
type Shell struct {
	conn    net.Conn
	session string        // tells this Shell's replies from those to an earlier one that went away
	turn    chan struct{} // holds one token, which whoever talks to the guest has taken; it guards what follows
	count   int
	replies *bufio.Reader
	partial string // the beginning of a reply that was still coming when somebody gave up waiting
	broken  error  // why no more requests can be sent
}

// Dial connects to a guest's ShellSocket and returns when the guest answers, so a nil error says that it has booted. The
// socket exists as soon as the domain is started.
func Dial(ctx context.Context, socket string) (*Shell, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reach the guest: %w", err)
	}
	s := &Shell{
		conn:    conn,
		session: rand.Text(),
		turn:    make(chan struct{}, 1),
		replies: bufio.NewReader(conn),
	}
	s.turn <- struct{}{}
	if _, err := s.Run(ctx, "true"); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the guest to boot: %w", err), conn.Close())
	}
	return s, nil
}

// Close hangs up. What the guest is running goes on.
func (s *Shell) Close() error { return s.conn.Close() }

// An ExitError is a command in the guest that did not exit with 0.
type ExitError struct {
	Command string
	Code    int
	Stderr  string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("in the guest: %s: exit %d: %s", e.Command, e.Code, strings.TrimSpace(e.Stderr))
}

// Run runs a script of busybox's shell in the guest and returns what it printed, without the newlines at the end. A script that
// exits with something else than 0 gives an *ExitError, and what it printed. When ctx ends, Run returns, but the script goes on
// and the next Run waits for it. A command left in the background needs its output sent elsewhere: "dd … >/tmp/log 2>&1 &".
func (s *Shell) Run(ctx context.Context, script string) (string, error) {
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for the guest's previous command: %w", ctx.Err())
	}
	if s.broken != nil {
		return "", s.broken
	}
	stop := context.AfterFunc(ctx, func() { s.conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		s.conn.SetDeadline(time.Time{})
	}()
	reply, err := s.ask(script)
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("run %q in the guest: %w", script, err)
	}
	if reply.code != 0 {
		return reply.stdout, &ExitError{Command: script, Code: reply.code, Stderr: reply.stderr}
	}
	return reply.stdout, nil
}

type reply struct {
	code           int
	stdout, stderr string
}

// ask sends a request and reads replies until its own one comes.
func (s *Shell) ask(script string) (reply, error) {
	s.count++
	id := fmt.Sprintf("%s.%d", s.session, s.count)
	// The empty line ends what an earlier connection may have left half sent.
	request := fmt.Sprintf("\n%s %s\n", id, base64.StdEncoding.EncodeToString([]byte(script)))
	if _, err := s.conn.Write([]byte(request)); err != nil {
		s.broken = fmt.Errorf("the guest's shell lost its connection in the middle of a request: %w", err)
		return reply{}, err
	}
	for {
		text, err := s.replies.ReadString('\n')
		s.partial += text
		if err != nil {
			return reply{}, err
		}
		line := s.partial
		s.partial = ""
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == id {
			return parseReply(fields)
		}
	}
}

// parseReply reads the fields "ID EXIT =STDOUT =STDERR".
func parseReply(fields []string) (reply, error) {
	if len(fields) != 4 {
		return reply{}, fmt.Errorf("the guest's reply has %d fields, want 4: %q", len(fields), fields)
	}
	code, err := strconv.Atoi(fields[1])
	if err != nil {
		return reply{}, fmt.Errorf("the guest's reply has no exit code: %w", err)
	}
	var streams [2]string
	for i, field := range fields[2:] {
		text, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(field, "="))
		if err != nil {
			return reply{}, fmt.Errorf("the guest's reply: %w", err)
		}
		streams[i] = string(text)
	}
	return reply{code: code, stdout: strings.TrimRight(streams[0], "\n"), stderr: streams[1]}, nil
}
