// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
	"github.com/tenon-storage/tenon/internal/command"
)

// leaveTime bounds the last word of a subscriber.
const leaveTime = 5 * time.Second

// beatTime is how often a running program is reported as alive.
const beatTime = 5 * time.Second

const subscribeLong = `Be told of the maintenances of a device, and answer, until interrupted. A blocking subscription is a
use of the device: no maintenance goes on without its answer.

With --exec, PROGRAM is run for each notice with the ARGUMENTS after "--", without a shell. The
notice is on its standard input as one line of JSON, and in TENON_EVENT (notice or cancellation),
TENON_DEVICE, TENON_USE, TENON_PHASE, TENON_IMPACT, TENON_MAINTENANCE, TENON_EPOCH, TENON_REASON,
TENON_ALTERNATIVES, TENON_EXPECTED_SECONDS, TENON_RESPOND_SECONDS and TENON_DRAIN_SECONDS of its
environment. How it exits is the answer:

  0      ready
  75     refused for now (EX_TEMPFAIL); it is run again after --retry
  other  refused

The last line on its standard error is the reason. While it runs it counts as working; a line on its
standard output that is a number from 0 to 100 tells how far it is. When the maintenance is cancelled
or over, it is stopped and run once more with TENON_EVENT=cancellation. The subscription outlives
restarts of tenond, and a blocking one is still waited for a while when tenonctl has ended, unless
--leave is given.`

// subscribeFlags are what subscribe is given.
type subscribeFlags struct {
	name, id, program, how string
	blocking, leave        bool
	eta, retry             time.Duration
}

func (a *app) maintenanceSubscribe() *cobra.Command {
	var f subscribeFlags
	cmd := &cobra.Command{
		Use:   "subscribe DEVICE --name NAME [--blocking] [--exec PROGRAM [-- ARGUMENT...]]",
		Short: "Be told of maintenances, and answer with a program",
		Long:  subscribeLong,
		Example: "  tenonctl maintenance subscribe fast --name logger -o json\n" +
			"  tenonctl maintenance subscribe fast --name backup --blocking --exec /usr/local/bin/pause-backup\n" +
			"  tenonctl maintenance subscribe fast --name db --blocking --how tolerates --exec sh -- -c 'db-cache \"$TENON_EVENT\"'",
		ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if at := cmd.ArgsLenAtDash(); at >= 0 {
			if f.program == "" && len(args) > at {
				return usagef("arguments after -- are those of a program; name it with --exec")
			}
			args = args[:at]
		}
		return needs("DEVICE")(cmd, args)
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		how, err := choice("how", f.how, ways)
		if err != nil {
			return err
		}
		switch {
		case f.name == "":
			return usagef("--name may not be empty: others look for who is in their way")
		case f.eta < 0 || f.retry <= 0:
			return usagef("--eta and --retry: expected a time above zero")
		}
		if f.id == "" {
			f.id = f.name + "@" + deviceOf(args[0])
		}
		s := &subscriber{
			app: a, args: args[1:], leave: f.leave, ended: make(chan ending, 1),
			register: &tenonv1.SubscribeRequest_Register{Id: f.id, Name: f.name, Device: deviceOf(args[0]), Blocking: f.blocking},
			decide:   responder{program: f.program, how: how, eta: f.eta, retry: f.retry},
		}
		return s.run(ctx)
	})
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "the subscriber's `NAME`, for people")
	flags.StringVar(&f.id, "id", "", "the subscription's own `ID`; empty: NAME@DEVICE")
	flags.BoolVar(&f.blocking, "blocking", false, "let maintenance wait for an answer")
	flags.BoolVar(&f.leave, "leave", false, "when interrupted, end the subscription for good")
	flags.StringVar(&f.program, "exec", "", "the `PROGRAM` that answers")
	flags.StringVar(&f.how, "how", "closed", "in which `WAY` an exit with 0 is ready: "+words(ways))
	flags.DurationVar(&f.eta, "eta", 0, "the `TIME` that the program usually takes")
	flags.DurationVar(&f.retry, "retry", time.Minute, "run a program that refused for now again after that `TIME`")
	must(cmd.MarkFlagRequired("name"))
	must(cmd.RegisterFlagCompletionFunc("how", cobra.FixedCompletions(slices.Sorted(maps.Keys(ways)), cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// subscriber carries out what a responder decides, over streams that come and go.
type subscriber struct {
	app      *app
	args     []string // of the program
	leave    bool     // for good, at the end
	register *tenonv1.SubscribeRequest_Register
	decide   responder

	stop    func()        // ends the running program; nil: none runs
	ended   chan ending   // its end
	percent atomic.Uint32 // that it said last
	retry   <-chan time.Time
}

// run subscribes until ctx ends or tenond refuses.
func (s *subscriber) run(ctx context.Context) error {
	defer func() {
		if s.stop != nil {
			s.stop()
			<-s.ended
		}
	}()
	told := false
	for {
		err := s.session(ctx, func() { told = false })
		switch {
		case ctx.Err() != nil:
			return s.bye(ctx) // there is no other end
		case err == nil || !isAway(err):
			return err
		case !told:
			fmt.Fprintln(s.app.env.Err, awayText)
			told = true
		}
		pause(ctx, retryPause)
	}
}

// bye ends a subscription that was interrupted: for good, or so that the client may
// come back.
func (s *subscriber) bye(ctx context.Context) error {
	if !s.leave {
		if s.register.GetBlocking() {
			fmt.Fprintf(s.app.env.Err, "%s; %s is waited for a while yet, --leave ends a subscription for good\n", ended(ctx), s.register.GetId())
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	client, err := s.app.maintenances()
	if err != nil {
		return err
	}
	tenond, err := client.Subscribe(ctx)
	if err != nil {
		return err
	}
	for _, m := range []*tenonv1.SubscribeRequest{
		{Message: &tenonv1.SubscribeRequest_Register_{Register: s.register}},
		{Message: &tenonv1.SubscribeRequest_Leave_{Leave: &tenonv1.SubscribeRequest_Leave{}}},
	} {
		if err := tenond.Send(m); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv says why
			return err
		}
	}
	for {
		if _, err := tenond.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

type stream = grpc.BidiStreamingClient[tenonv1.SubscribeRequest, tenonv1.SubscribeResponse]

// heard is a message of tenond, or why there are no more.
type heard struct {
	message *tenonv1.SubscribeResponse
	err     error
}

// session subscribes once, until the stream ends.
func (s *subscriber) session(ctx context.Context, connected func()) error {
	client, err := s.app.maintenances()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tenond, err := client.Subscribe(ctx)
	if err != nil {
		return err
	}
	register := &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Register_{Register: s.register}}
	if err := tenond.Send(register); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv says why
		return err
	}
	messages := make(chan heard)
	go hearAll(ctx, tenond, messages)
	beat := time.NewTicker(beatTime)
	defer beat.Stop()
	for {
		var d deed
		select {
		case m := <-messages:
			if m.err != nil {
				return m.err
			}
			connected()
			if err := s.print(m.message); err != nil {
				return err
			}
			d = s.decide.hear(m.message)
		case e := <-s.ended:
			s.stop = nil
			d = s.decide.ended(e)
		case <-beat.C:
			s.decide.percent = float64(s.percent.Load())
			d = s.decide.beat()
		case <-s.retry:
			d = s.decide.again()
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.do(ctx, tenond, d); err != nil {
			return err
		}
	}
}

// hearAll receives until the stream ends, which is when ctx does at the latest.
func hearAll(ctx context.Context, from stream, to chan<- heard) {
	for {
		m, err := from.Recv()
		if errors.Is(err, io.EOF) {
			err = failf(tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE, "", "tenond ended the subscription")
		}
		select {
		case to <- heard{m, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// do carries out a deed. An answer that cannot be sent is not lost: it is given
// again when the stream is there again.
func (s *subscriber) do(ctx context.Context, to stream, d deed) error {
	if d.stop && s.stop != nil {
		s.stop()
	}
	if !d.start.isZero() {
		s.start(ctx, d.start)
	}
	if d.retry {
		s.retry = time.After(s.decide.retry)
	}
	for _, m := range d.send {
		if err := to.Send(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}

// start runs the program for a job. Its end comes over s.ended, also when it could
// not be started.
func (s *subscriber) start(ctx context.Context, j job) {
	line, err := show.JSONLine(j.message())
	if err != nil {
		s.ended <- ending{code: -1, text: err.Error()}
		return
	}
	s.percent.Store(0)
	p, err := command.Start(ctx, command.Cmd{
		Path: s.decide.program, Args: s.args, Stdin: strings.NewReader(line), Env: j.environment(),
	}, command.StartOptions{Pdeathsig: syscall.SIGTERM, Stdout: &progressWriter{to: s.app.env.Err, percent: &s.percent}})
	if err != nil {
		fmt.Fprintf(s.app.env.Err, "%v\n", err)
		s.ended <- ending{code: -1, text: err.Error()}
		return
	}
	// The session may end while the program runs; only its own end, or a stop, ends it.
	stopping, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	go func() {
		defer stop()
		select {
		case <-p.Done():
		case <-stopping.Done():
			_ = p.Stop(context.WithoutCancel(ctx)) // it was told; what it says of that is of no interest
		}
		s.ended <- s.end(p)
	}()
}

// end says how a program ended, and passes on what it said of it.
func (s *subscriber) end(p *command.Process) ending {
	said := strings.TrimSpace(p.Stderr())
	if said != "" {
		fmt.Fprintln(s.app.env.Err, said)
	}
	err := p.Wait()
	if err == nil {
		return ending{}
	}
	e := ending{code: -1, text: said[strings.LastIndexByte(said, '\n')+1:]}
	if failed, ok := errors.AsType[*command.Error](err); ok {
		e.code = failed.ExitCode
		if e.text == "" && e.code < 0 {
			e.text = err.Error()
		}
	}
	return e
}

// print tells of a message.
func (s *subscriber) print(m *tenonv1.SubscribeResponse) error {
	text, err := s.text(m)
	if err != nil {
		return err
	}
	_, err = io.WriteString(s.app.env.Out, text)
	return err
}

func (s *subscriber) text(m *tenonv1.SubscribeResponse) (string, error) {
	switch s.app.output {
	case "json":
		return show.JSONLine(m)
	case "yaml":
		text, err := show.YAML(m)
		return "---\n" + text, err
	}
	switch m := m.GetMessage().(type) {
	case *tenonv1.SubscribeResponse_Notice:
		return show.Notice(m.Notice), nil
	case *tenonv1.SubscribeResponse_Cancellation:
		return show.Cancellation(m.Cancellation), nil
	case *tenonv1.SubscribeResponse_Registered_:
		return "subscribed as " + m.Registered.GetId() + "\n", nil
	case *tenonv1.SubscribeResponse_Refused_:
		return "answer not counted: " + strings.TrimPrefix(show.Failure(m.Refused.GetFailure()), "error: "), nil
	}
	return "", nil
}

// maxLine bounds what is kept of a line of a program's output.
const maxLine = 4 << 10

// progressWriter passes a program's output on, and reads the numbers in it.
type progressWriter struct {
	to      io.Writer
	percent *atomic.Uint32
	line    []byte
}

// Write takes output.
func (w *progressWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			w.line = append(w.line, rest[:min(len(rest), max(0, maxLine-len(w.line)))]...)
			break
		}
		w.take(string(append(w.line, rest[:end]...)))
		w.line, rest = w.line[:0], rest[end+1:]
	}
	return len(p), nil
}

func (w *progressWriter) take(line string) {
	n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(line), "%"), 64)
	if err != nil || !(n >= 0 && n <= 100) { // NaN is neither
		fmt.Fprintln(w.to, line)
		return
	}
	w.percent.Store(uint32(n))
}
