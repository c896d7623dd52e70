// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/test/guest"
)

// serve answers each request on a unix socket with what answer returns for its id and script, and returns the socket.
func serve(t *testing.T, answer func(id, script string) string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			id, coded, ok := strings.Cut(lines.Text(), " ")
			script, err := base64.StdEncoding.DecodeString(coded)
			if ok && err == nil {
				fmt.Fprint(conn, answer(id, string(script)))
			}
		}
	}()
	return socket
}

func coded(text string) string { return "=" + base64.StdEncoding.EncodeToString([]byte(text)) }

func TestRunSkipsAnswersToOthers(t *testing.T) {
	socket := serve(t, func(id, script string) string {
		return fmt.Sprintf("old.7 0 %s =\n\n%s 0 %s =\n", coded("stale"), id, coded("echo of "+script+"\n"))
	})
	shell, err := guest.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	if got, err := shell.Run(t.Context(), "ls\n-l"); err != nil || got != "echo of ls\n-l" {
		t.Errorf("Run = %q, %v, want the echo of the script", got, err)
	}
}

func TestRunReturnsTheExitCodeAndBothStreams(t *testing.T) {
	socket := serve(t, func(id, script string) string {
		if script == "true" {
			return id + " 0 = =\n"
		}
		return fmt.Sprintf("%s 3 %s %s\n", id, coded("out"), coded("went wrong\n"))
	})
	shell, err := guest.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	out, err := shell.Run(t.Context(), "fail")
	exit, ok := errors.AsType[*guest.ExitError](err)
	if out != "out" || !ok || exit.Code != 3 || exit.Stderr != "went wrong\n" {
		t.Errorf("Run = %q, %#v, want out and an ExitError with code 3", out, err)
	}
}

func TestRunEndsWithItsContextAndTheShellGoesOn(t *testing.T) {
	release := make(chan string, 1)
	socket := serve(t, func(id, script string) string {
		if script == "slow" {
			release <- id
			return id + " 0 =" // half a reply
		}
		select {
		case <-release:
			return " =\n" + id + " 0 " + coded("next") + " =\n" // the other half, late
		default:
			return id + " 0 = =\n"
		}
	})
	shell, err := guest.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		id := <-release
		cancel()
		release <- id
	}()
	if _, err := shell.Run(ctx, "slow"); !errors.Is(err, context.Canceled) {
		t.Errorf("Run with a context that ends: error %v, want %v", err, context.Canceled)
	}
	if got, err := shell.Run(t.Context(), "then"); err != nil || got != "next" {
		t.Errorf("the Run after it = %q, %v, want next", got, err)
	}
}
