// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package kvm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/internal/command"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/test/guest"
)

// life is one life of a libvirt, which is also one of an agent: the embedded driver
// is part of the process that the test kills.
type life struct {
	URI   string
	Move  hypervisor.MoveRequest
	Until string // begun, ready, pivot or over: after that it waits for its end
	Ready string // the file that it makes then
}

// lifeTime is how long a life may last.
const lifeTime = time.Minute

const lifeVariable = "TENON_TEST_LIFE"

// TestMain lets the test's own program be what the test kills.
func TestMain(m *testing.M) {
	text := os.Getenv(lifeVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var l life
	err := json.Unmarshal([]byte(text), &l)
	if err == nil {
		err = l.live()
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// live takes the move as far as it is to get, whatever the lives before did, and
// then waits to be killed.
func (l life) live() error {
	ctx, cancel := context.WithTimeout(context.Background(), lifeTime)
	defer cancel()
	a, err := kvm.New(kvm.Options{URI: l.URI})
	if err != nil {
		return err
	}
	m := l.Move
	if l.Until == "begun" {
		if _, err := a.Attach(ctx, hypervisor.AttachRequest{Domain: m.Domain, Disk: m.Disk, Mapping: m.From}); err != nil {
			return err
		}
		if err := l.say("attached"); err != nil {
			return err
		}
		if err := await(ctx, l.Ready+".go"); err != nil {
			return err
		}
	}
	s, err := a.MoveStatus(ctx, m)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "found %+v\n", s)
	if err := l.say("found " + s.Phase.String()); err != nil {
		return err
	}
	err = l.move(ctx, a)
	for errors.Is(err, primitives.CodeConflict) { // libvirt forgot the switch, and it was undone
		fmt.Fprintln(os.Stderr, err)
		err = l.move(ctx, a)
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.Ready, nil, 0o600); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// move goes from wherever the move is to where it is to get.
func (l life) move(ctx context.Context, a *kvm.Adapter) error {
	if err := a.StartMove(ctx, l.Move); err != nil {
		return err
	}
	if l.Until != "begun" {
		// The guest outruns a copy that is slow enough to be caught under way.
		if err := a.Converge(ctx, l.Move); err != nil {
			return err
		}
	}
	if err := l.advance(ctx, a); err != nil {
		return err
	}
	switch l.Until {
	case "pivot": // it is killed some moment within the call
		return errors.Join(os.WriteFile(l.Ready, nil, 0o600), a.FinishMove(ctx, l.Move))
	case "over":
		if err := a.FinishMove(ctx, l.Move); err != nil {
			return err
		}
		if s, err := a.MoveStatus(ctx, l.Move); err != nil || s.Phase != hypervisor.MoveDone {
			return fmt.Errorf("after the move it is %v, %w", s.Phase, err)
		}
	}
	return nil
}

// advance waits until the copy has got as far as it is to get.
func (l life) advance(ctx context.Context, a *kvm.Adapter) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := a.MoveStatus(ctx, l.Move)
		switch {
		case err != nil:
			return err
		case s.Phase == hypervisor.MoveNone:
			return fmt.Errorf("the copy is gone: %s", s.Failure)
		case s.Phase > hypervisor.MoveCopying, l.Until == "begun" && s.Done > 0:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the copy stays at %+v", s)
		}
	}
}

func (l life) say(text string) error { return os.WriteFile(l.Ready+".said", []byte(text), 0o600) }

// await waits for a file.
func await(ctx context.Context, path string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run starts a life and returns when it has got where it is to get.
func (l life) run(t *testing.T, during func()) (end func()) {
	t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), moveTime)
	defer cancel()
	p, err := command.Start(t.Context(), command.Cmd{Path: self, Env: []string{lifeVariable + "=" + string(text)}}, command.StartOptions{Pdeathsig: unix.SIGKILL})
	if err != nil {
		t.Fatal(err)
	}
	end = func() {
		if err := unix.Kill(p.Pid(), unix.SIGKILL); err != nil {
			t.Error(err)
		}
		<-p.Done()
	}
	if during != nil {
		during()
	}
	ready := make(chan error, 1)
	go func() { ready <- await(ctx, l.Ready) }()
	select {
	case err = <-ready:
	case <-p.Done():
		err = errors.New("the process ended")
	}
	if err != nil {
		t.Fatalf("a life until %q: %v\n%s", l.Until, err, p.Stderr())
	}
	return end
}

// A guest writes all the while, and libvirt and the agent are killed while its disk
// is copied, when the copy is ready, and within the switch.
//
// Cases: E24, E115
func TestAMoveOutlivesItsLibvirt(t *testing.T) {
	image, err := guest.Build(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	root, err := guest.NewRoot(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	on := guest.Domain{Name: "on", UUID: onID, Image: image, Dir: root.Dir}
	if err := root.Define(on, true); err != nil {
		t.Fatal(err)
	}
	const size = 8 << 20
	move := hypervisor.MoveRequest{
		Domain: onID, Disk: "restarted", From: rawFile(t, "from.img", size), To: rawFile(t, "to.img", size), ToIsZero: true,
		Bandwidth: size / 4,
	}
	dir := t.TempDir()
	h := &host{root: root, on: on}
	found := map[string][]string{"begun": {"not begun"}, "ready": {"copying", "ready"}, "pivot": {"ready"}, "over": {"copying", "ready", "half done", "done"}}
	for i, until := range []string{"begun", "ready", "pivot", "over"} {
		l := life{URI: root.URI(), Move: move, Until: until, Ready: filepath.Join(dir, until)}
		var during func()
		if i == 0 {
			during = func() { h.fill(t, l) }
		}
		end := l.run(t, during)
		said, err := os.ReadFile(l.Ready + ".said")
		if err != nil || !slices.ContainsFunc(found[until], func(p string) bool { return string(said) == "found "+p }) {
			t.Errorf("a life until %q %s, %v; want one of %v", until, said, err, found[until])
		}
		t.Logf("a life until %q %s", until, said)
		if until == "over" {
			break // its end is not part of this
		}
		end()
	}
	if h.opens(t, move.From.File.Path) {
		t.Error("QEMU has the source open after the move")
	}
	if got := h.ask(t, "stop"); got.Sum != sumOf(t, move.To.File.Path) {
		t.Error("the target is not what the guest reads")
	}
}

// fill boots into the first life's guest and has it write to the disk.
func (h *host) fill(t *testing.T, l life) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	if err := await(ctx, l.Ready+".said"); err != nil {
		t.Fatalf("the disk was not attached: %v", err)
	}
	shell, err := guest.Dial(ctx, h.on.ShellSocket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shell.Close() })
	h.shell = shell
	h.writes(t, l.Move.Disk)
	if err := os.WriteFile(l.Ready+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
}
