// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
)

// TestMain lets this test binary be the program that the tests run, so that
// they need no tool of the host. TENON_ACT names what it does.
func TestMain(m *testing.M) {
	if act := os.Getenv("TENON_ACT"); act != "" {
		os.Exit(perform(act, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func perform(act string, args []string) int {
	switch act {
	case "echo":
		fmt.Println(strings.Join(args, "|"))
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "pwd":
		dir, _ := os.Getwd()
		fmt.Println(dir)
	case "fail":
		fmt.Fprintf(os.Stderr, "%s\nthe disk is on fire\n", strings.Repeat("x", 20<<10))
		return 3
	case "flood":
		for {
			fmt.Println(strings.Repeat("flood", 1000))
		}
	case "polite": // ends with 0 on SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		os.Stdin.WriteString("ready\n") // where the test made it writable
		<-c
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		forever()
	case "forever":
		forever()
	case "announce":
		if err := os.WriteFile(args[0], nil, 0o600); err != nil {
			return 1
		}
		forever()
	case "leave": // ends and leaves a child in its group
		leave(false)
	case "daemon": // ends and leaves a child in a session of its own
		fmt.Println(leave(true))
	case "orphan": // is killed while its child runs
		_, err := command.Start(context.Background(), self("forever"), command.StartOptions{
			Pdeathsig: syscall.SIGKILL, Files: []*os.File{os.NewFile(3, "life")},
		})
		fmt.Println(err)
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return 0
}

func forever() {
	for {
		syscall.Pause()
	}
}

// leave starts this program's "forever" with its descriptors, and forgets it.
func leave(session bool) (pid int) {
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	if life := os.NewFile(3, "life"); !session {
		files = append(files, life)
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"forever"}, &os.ProcAttr{
		Env: []string{"TENON_ACT=forever"}, Files: files, Sys: &syscall.SysProcAttr{Setsid: session},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return p.Pid
}

// self is a command that performs act.
func self(act string, args ...string) command.Cmd {
	return command.Cmd{Path: "/proc/self/exe", Args: args, Env: []string{"TENON_ACT=" + act}}
}

func mustRun(t *testing.T, c command.Cmd) string {
	t.Helper()
	r, err := command.Run(t.Context(), c)
	if err != nil {
		t.Fatalf("Run = %v, want nil", err)
	}
	return strings.TrimSuffix(string(r.Stdout), "\n")
}

// failure checks that err is an *Error that wraps want.
func failure(t *testing.T, err, want error) *command.Error {
	t.Helper()
	e, ok := errors.AsType[*command.Error](err)
	if !ok || (want != nil && !errors.Is(err, want)) {
		t.Fatalf("error = %v, want a *command.Error of %v", err, want)
	}
	return e
}

// life returns a pipe: while any process holds write, read does not end.
func life(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	return read, write
}

// started starts act and returns once it has said "ready".
func started(t *testing.T, act string, o command.StartOptions) *command.Process {
	t.Helper()
	r, w := io.Pipe()
	o.Stdout = w
	p, err := command.Start(t.Context(), self(act), o)
	if err != nil {
		t.Fatalf("Start = %v, want nil", err)
	}
	t.Cleanup(func() { p.Stop(context.Background()) })
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
		t.Fatalf("first line of %s = %q, %v, want ready", act, line, err)
	}
	go io.Copy(io.Discard, r)
	return p
}

func TestArgumentsAreNeverSeenByAShell(t *testing.T) {
	if got, want := mustRun(t, self("echo", "a b", "$HOME; `id`", "*")), "a b|$HOME; `id`|*"; got != want {
		t.Errorf("arguments = %q, want %q", got, want)
	}
}

func TestStdinAndFolderReachTheProgram(t *testing.T) {
	c := self("cat")
	c.Stdin = strings.NewReader("in")
	if got := mustRun(t, c); got != "in" {
		t.Errorf("cat = %q, want in", got)
	}
	c = self("pwd")
	c.Dir = t.TempDir()
	if got := mustRun(t, c); got != c.Dir {
		t.Errorf("pwd = %q, want %q", got, c.Dir)
	}
}

func TestLocaleIsCAndTheRestIsInherited(t *testing.T) {
	t.Setenv("LANG", "de_DE.UTF-8")
	t.Setenv("LC_MESSAGES", "de_DE.UTF-8")
	t.Setenv("TENON_INHERITED", "yes")
	c := self("env")
	c.Env = append(c.Env, "LC_ALL=fr_FR", "TENON_ADDED=yes")
	got := "\n" + mustRun(t, c) + "\n"
	for _, want := range []string{"LC_ALL=C", "TENON_INHERITED=yes", "TENON_ADDED=yes"} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("environment lacks %s", want)
		}
	}
	for _, never := range []string{"LANG=", "LC_MESSAGES=", "LC_ALL=fr_FR"} {
		if strings.Contains(got, "\n"+never) {
			t.Errorf("environment has %s", never)
		}
	}
}

func TestFailureCarriesExitCodeAndTheEndOfStderr(t *testing.T) {
	_, err := command.Run(t.Context(), self("fail"))
	e := failure(t, err, nil)
	if e.ExitCode != 3 || !strings.HasSuffix(e.Stderr, "x\nthe disk is on fire\n") || len(e.Stderr) > 8<<10 {
		t.Errorf("error = code %d, %d bytes of stderr, want 3 and the last 8 KiB", e.ExitCode, len(e.Stderr))
	}
	if text := err.Error(); !strings.HasSuffix(text, ": the disk is on fire") || strings.Contains(text, "\n") {
		t.Errorf("Error() = %q, want one line that ends in the cause", text)
	}
}

func TestMissingProgramIsErrNotFound(t *testing.T) {
	_, err := command.Run(t.Context(), command.Cmd{Path: "tenon-no-such-program"})
	if e := failure(t, err, command.ErrNotFound); e.ExitCode != -1 {
		t.Errorf("ExitCode = %d, want -1", e.ExitCode)
	}
}

func TestTooMuchOutputStopsTheProgram(t *testing.T) {
	_, err := command.Run(t.Context(), self("flood"))
	failure(t, err, command.ErrTooMuchOutput)

	c := self("echo", "12345")
	c.MaxOutput = 5
	_, err = command.Run(t.Context(), c)
	failure(t, err, command.ErrTooMuchOutput)
	c.MaxOutput = 6
	if got := mustRun(t, c); got != "12345" {
		t.Errorf("output of exactly the limit = %q, want 12345", got)
	}
}

func TestEndOfContextEndsTheProgramEvenIfItThenExitsWithZero(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := life(t)
	c := self("polite")
	c.Stdin = w // a file is inherited, and polite says "ready" on it
	result := make(chan error, 1)
	go func() {
		_, err := command.Run(ctx, c)
		result <- err
	}()
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "ready\n" {
		t.Fatalf("first line = %q, %v, want ready", line, err)
	}
	cancel()
	failure(t, <-result, context.Canceled)
}

func TestEndedContextStartsNothing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	_, err := command.Run(ctx, command.Cmd{Path: "/no/such/program"})
	failure(t, err, context.DeadlineExceeded)
}

func TestStopIsPoliteFirst(t *testing.T) {
	p := started(t, "polite", command.StartOptions{Grace: time.Hour})
	for range 2 {
		if err := p.Stop(t.Context()); err != nil {
			t.Errorf("Stop = %v, want nil", err)
		}
	}
	if err := p.Wait(); err != nil {
		t.Errorf("Wait = %v, want nil: it exited with 0", err)
	}
}

func TestStopKillsAProgramThatIgnoresSIGTERM(t *testing.T) {
	p := started(t, "deaf", command.StartOptions{Grace: time.Millisecond})
	failure(t, p.Stop(t.Context()), nil)
	<-p.Done()
	if e := failure(t, p.Wait(), nil); e.ExitCode != -1 {
		t.Errorf("ExitCode = %d, want -1 for a signal", e.ExitCode)
	}
}

func TestStopKillsWhenItsContextEnds(t *testing.T) {
	p := started(t, "deaf", command.StartOptions{Grace: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	p.Stop(ctx)
	failure(t, p.Wait(), nil)
}

func TestStartedProgramOutlivesTheContextOfItsStart(t *testing.T) {
	r, w := life(t)
	ctx, cancel := context.WithCancel(t.Context())
	p, err := command.Start(ctx, self("forever"), command.StartOptions{Files: []*os.File{w}})
	if err != nil {
		t.Fatalf("Start = %v, want nil", err)
	}
	cancel()
	select {
	case <-p.Done():
		t.Errorf("the program ended with its starter's context: %v", p.Wait())
	default:
	}
	w.Close()
	p.Stop(t.Context())
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read = %d, %v, want EOF from a program that is gone", n, err)
	}
}

func TestGroupEndsWithItsLeader(t *testing.T) {
	r, w := life(t)
	p, err := command.Start(t.Context(), self("leave"), command.StartOptions{Files: []*os.File{w}})
	if err != nil {
		t.Fatalf("Start = %v, want nil", err)
	}
	w.Close()
	if err := p.Wait(); err != nil {
		t.Errorf("Wait = %v, want nil", err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF { // blocks while the child lives
		t.Errorf("Read = %d, %v, want EOF", n, err)
	}
}

func TestDaemonLeftBehindDoesNotHoldRunUp(t *testing.T) {
	var pid int
	if _, err := fmt.Sscan(mustRun(t, self("daemon")), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("kill of the daemon = %v, want nil: it left the group and lives", err)
	}
}

func TestPdeathsigEndsTheProgramWithItsParent(t *testing.T) {
	r, w := life(t)
	p, err := command.Start(t.Context(), self("orphan"), command.StartOptions{Files: []*os.File{w}})
	if err != nil {
		t.Fatalf("Start = %v, want nil", err)
	}
	w.Close()
	failure(t, p.Wait(), nil)
	// The orphan leads a group of its own, so only the signal can have ended it.
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read = %d, %v, want EOF", n, err)
	}
}
