// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/internal/command"
)

func TestStartReturnsOnceTheProgramIsReady(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	p, err := command.Start(t.Context(), self("announce", ready), command.StartOptions{ReadyFile: ready})
	if err != nil {
		t.Fatalf("Start = %v, want nil", err)
	}
	if _, err := os.Stat(ready); err != nil {
		t.Errorf("Stat of the ready file = %v, want nil", err)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
}

func TestStartFailsIfTheProgramEndsBeforeItIsReady(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	_, err := command.Start(t.Context(), self("fail"), command.StartOptions{ReadyFile: ready})
	if e := failure(t, err, nil); e.ExitCode != 3 || e.Stderr == "" {
		t.Errorf("error = %+v, want exit code 3 and stderr", e)
	}
	// Ending well without having been ready is a failure too.
	_, err = command.Start(t.Context(), self("echo"), command.StartOptions{ReadyFile: ready})
	failure(t, err, nil)
}

func TestStartEndsAProgramThatIsNotReadyInTime(t *testing.T) {
	read, write := life(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := command.Start(ctx, self("forever"), command.StartOptions{
		ReadyFile: filepath.Join(t.TempDir(), "ready"), Files: []*os.File{write},
	})
	failure(t, err, context.DeadlineExceeded)
	write.Close()
	if n, err := read.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("Read = %d, %v, want EOF: the program is gone", n, err)
	}
}

func TestOldReadyFileIsRefused(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := command.Start(t.Context(), self("forever"), command.StartOptions{ReadyFile: ready})
	failure(t, err, fs.ErrExist)
	_, err = command.Start(t.Context(), self("forever"), command.StartOptions{ReadyFile: filepath.Join(ready, "below", "x")})
	failure(t, err, nil)
}
