// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tenon-storage/tenon/agent"
	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/agent/rpc"
	"github.com/tenon-storage/tenon/cmd/tenonctl/cli"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

var update = flag.Bool("update", false, "write the expected output anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"tenonctl": func() { os.Exit(cli.Main()) },
	})
}

// Each script is a session with a tenond of its own: storage in memory, and a
// hypervisor without guests that has the domains web01 (running) and db (off).
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup:               setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"hold":     hold,
			"mute":     mute,
			"answered": answered,
			"release":  release,
			// Not "stop": testscript has a command of that name, which ends the script.
			"halt": func(ts *testscript.TestScript, _ bool, _ []string) { daemonOf(ts).stop() },
			"boot": func(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(daemonOf(ts).start()) },
		},
	})
}

// daemon is the tenond of one script.
type daemon struct {
	driver *mem.Driver
	host   *fake.Host
	config config.Config
	stop   func()
	held   map[string]func()
	calls  *tally
}

type daemonKey struct{}

func daemonOf(ts *testscript.TestScript) *daemon { return ts.Value(daemonKey{}).(*daemon) }

func setUp(env *testscript.Env) error {
	d := &daemon{driver: mem.New(), host: fake.NewHost(), config: config.Default(), held: make(map[string]func()), calls: newTally()}
	d.host.Add("web01", fake.Options{})
	d.host.Add("db", fake.Options{Off: true})
	// The script's folder may be too long for a socket's name.
	run, err := os.MkdirTemp("", "tenonctl")
	if err != nil {
		return err
	}
	env.Defer(func() { _ = os.RemoveAll(run) })
	d.config.StateDir, d.config.RunDir = filepath.Join(env.WorkDir, ".state"), filepath.Join(run, "run")
	d.config.Socket = filepath.Join(run, "s")
	env.Setenv("TENON_SOCKET", d.config.Socket)
	env.Setenv("TZ", "UTC")
	env.Values[daemonKey{}] = d
	if err := d.start(); err != nil {
		return err
	}
	env.Defer(func() {
		for _, let := range d.held {
			let()
		}
		d.stop()
	})
	return nil
}

// start runs the agent and returns when it is ready.
func (d *daemon) start() error {
	drivers, err := storage.NewTable(d.driver)
	if err != nil {
		return err
	}
	a, err := agent.New(d.config, agent.Parts{
		Drivers: drivers, Adapter: d.host.Open(), BootID: "boot-1", Version: "0.0-test", Log: slog.New(d.calls),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, served := make(chan struct{}), make(chan error, 1)
	go func() { served <- a.Serve(ctx, rpc.Socket{Path: d.config.Socket}, func() { close(ready) }) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		<-served
		_ = a.Close()
	})
	select {
	case <-ready:
		return nil
	case err := <-served:
		return err
	}
}

// hold STORE CALL makes every such call of a store wait until release STORE CALL.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	d := daemonOf(ts)
	d.held[args[0]+" "+args[1]] = d.driver.Fault(args[0], mem.Fault{Op: args[1], Dead: true})
}

func release(ts *testscript.TestScript, _ bool, args []string) {
	daemonOf(ts).held[args[0]+" "+args[1]]()
}

// mute stops tenond and puts something in its place that takes connections and
// never says a word.
func mute(ts *testscript.TestScript, _ bool, _ []string) {
	d := daemonOf(ts)
	d.stop()
	listener, err := net.Listen("unix", d.config.Socket)
	ts.Check(err)
	ts.Defer(func() { _ = listener.Close() })
}

// answered METHOD N waits until tenond has answered N calls of a method.
func answered(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ts.Check(daemonOf(ts).calls.wait(ctx, args[0], n))
}

// tally is a log of which only the calls are counted, by method.
type tally struct {
	slog.Handler
	mu    sync.Mutex // guards what follows
	count map[string]int
	more  chan struct{} // closed at the next call
}

func newTally() *tally {
	return &tally{Handler: slog.DiscardHandler, count: make(map[string]int), more: make(chan struct{})}
}

// Enabled wants to know of every call.
func (t *tally) Enabled(context.Context, slog.Level) bool { return true }

// Handle counts.
func (t *tally) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "call finished" {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "method" {
			t.count[path.Base(a.Value.String())]++
		}
		return true
	})
	close(t.more)
	t.more = make(chan struct{})
	return nil
}

// WithAttrs and WithGroup keep the count in one place.
func (t *tally) WithAttrs([]slog.Attr) slog.Handler { return t }
func (t *tally) WithGroup(string) slog.Handler      { return t }

func (t *tally) wait(ctx context.Context, method string, n int) error {
	for {
		t.mu.Lock()
		have, more := t.count[method], t.more
		t.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("%d calls of %s, want %d: %w", have, method, n, ctx.Err())
		}
	}
}
