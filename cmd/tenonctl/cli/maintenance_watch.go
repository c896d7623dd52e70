// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// phases are the words of --until.
var phases = map[string]tenonv1.MaintenancePhase{
	"in-service": inService, "announced": tenonv1.MaintenancePhase_MAINTENANCE_PHASE_ANNOUNCED,
	"preparing": tenonv1.MaintenancePhase_MAINTENANCE_PHASE_PREPARING, "blocked": blocked,
	"fencing": tenonv1.MaintenancePhase_MAINTENANCE_PHASE_FENCING, "in-maintenance": inMaintenance,
	"returning": tenonv1.MaintenancePhase_MAINTENANCE_PHASE_RETURNING, "return-failed": returnFailed,
}

const (
	inService     = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_IN_SERVICE
	blocked       = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_BLOCKED
	inMaintenance = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_IN_MAINTENANCE
	returnFailed  = tenonv1.MaintenancePhase_MAINTENANCE_PHASE_RETURN_FAILED
)

// goal is what a watch waits for: one of the phases it ends with, or one in which
// it has failed. The zero goal waits for ever.
type goal struct {
	ends, fails []tenonv1.MaintenancePhase
}

// What prepare waits for, and what cancel and end do.
var (
	closing = goal{ends: []tenonv1.MaintenancePhase{inMaintenance}, fails: []tenonv1.MaintenancePhase{blocked, inService}}
	opening = goal{ends: []tenonv1.MaintenancePhase{inService}, fails: []tenonv1.MaintenancePhase{returnFailed}}
)

func (g goal) reached(m *tenonv1.Maintenance) bool { return slices.Contains(g.ends, m.GetPhase()) }
func (g goal) failed(m *tenonv1.Maintenance) bool  { return slices.Contains(g.fails, m.GetPhase()) }

func (a *app) maintenanceWatch() *cobra.Command {
	var until []string
	cmd := &cobra.Command{
		Use: "watch DEVICE [--until PHASE]...", Short: "Follow a device into maintenance and back",
		Long: "Follow a device into maintenance and back: on a terminal a table of its uses that moves, elsewhere a line for\n" +
			"each change, with -o json an object on each line. It ends with the phase that --until names, or when\n" +
			"interrupted; the maintenance goes on in either case.",
		Example: "  tenonctl maintenance watch fast\n" +
			"  tenonctl maintenance watch fast --until in-maintenance,blocked",
		Args: needs("DEVICE"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		var g goal
		for _, word := range until {
			phase, err := choice("until", word, phases)
			if err != nil {
				return err
			}
			g.ends = append(g.ends, phase)
		}
		return a.watchMaintenance(ctx, deviceOf(args[0]), g)
	})
	cmd.Flags().StringSliceVar(&until, "until", nil, "end with this `PHASE`: in-maintenance, in-service, blocked, ...")
	must(cmd.RegisterFlagCompletionFunc("until", cobra.FixedCompletions(
		[]string{"in-maintenance", "in-service", "blocked", "return-failed"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// watchMaintenance follows a device until the goal is reached, through a restart
// of tenond if need be.
func (a *app) watchMaintenance(ctx context.Context, device string, g goal) error {
	view := a.maintenanceView()
	defer view.close()
	last, lastSeen := (*tenonv1.Maintenance)(nil), a.env.Now()
	for {
		err := a.followMaintenance(ctx, device, func(m *tenonv1.Maintenance) (bool, error) {
			last, lastSeen = m, a.env.Now()
			return g.reached(m) || g.failed(m), view.show(m)
		})
		switch {
		case err == nil:
			view.close()
			return a.arrived(last, g)
		case ctx.Err() != nil:
			view.close()
			return a.leftAlone(ctx, device, last, g)
		case !isAway(err) || a.env.Now().Sub(lastSeen) > patience:
			view.close()
			return err
		}
		view.away()
		pause(ctx, retryPause)
	}
}

// followMaintenance calls each for every change of a device until it says that
// this was enough.
func (a *app) followMaintenance(ctx context.Context, device string, each func(*tenonv1.Maintenance) (enough bool, err error)) error {
	client, err := a.maintenances()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.WatchMaintenance(ctx, &tenonv1.WatchMaintenanceRequest{Device: device})
	if err != nil {
		return err
	}
	for {
		change, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return failf(tenonv1.ErrorCode_ERROR_CODE_UNAVAILABLE, "", "tenond ended the watch of %s", device)
		}
		if err != nil {
			return err
		}
		if enough, err := each(change.GetMaintenance()); enough || err != nil {
			return err
		}
	}
}

// arrived says how a watch that came to its end did. The view has shown where the
// device stands.
func (a *app) arrived(m *tenonv1.Maintenance, g goal) error {
	if g.reached(m) {
		return nil
	}
	f := &tenonv1.Failure{
		Code: tenonv1.ErrorCode_ERROR_CODE_IN_USE, Message: "device " + m.GetDevice() + " is " + show.Phase(m.GetPhase()),
		Blockers: m.GetBlockers(),
		Try:      "look at the reasons with tenonctl maintenance status " + m.GetDevice() + "; then wait, override, extend or cancel it",
	}
	switch m.GetPhase() {
	case returnFailed:
		f.Code, f.Try = tenonv1.ErrorCode_ERROR_CODE_FENCED, "repair what is wrong with the device and repeat tenonctl maintenance end "+m.GetDevice()
	case inService:
		f.Code, f.Try = tenonv1.ErrorCode_ERROR_CODE_CANCELLED, "ask again with tenonctl maintenance prepare "+m.GetDevice()
		f.Message += ": its maintenance was cancelled"
	}
	if m.GetFailure() != "" {
		f.Message += ": " + m.GetFailure()
	}
	return &failure.Error{Failure: f}
}

// leftAlone says that the watching ended and the maintenance did not. A watch
// without a goal has no other end.
func (a *app) leftAlone(ctx context.Context, device string, last *tenonv1.Maintenance, g goal) error {
	state := "its maintenance"
	if last != nil {
		state = "it is " + show.Phase(last.GetPhase()) + ", and that"
	}
	if len(g.ends) == 0 {
		fmt.Fprintf(a.env.Err, "%s; device %s: %s goes on in tenond\n", ended(ctx), device, state)
		return nil
	}
	return failf(tenonv1.ErrorCode_ERROR_CODE_CANCELLED,
		"tenonctl maintenance watch "+device+" to follow it again, or tenonctl maintenance cancel "+device+" to take it back",
		"%s; device %s: %s goes on in tenond", ended(ctx), device, state)
}

// maintenanceView shows how a device changes.
type maintenanceView interface {
	show(m *tenonv1.Maintenance) error
	away()
	close() // may be repeated
}

func (a *app) maintenanceView() maintenanceView {
	if a.output == "table" && a.env.OutIsTerminal && !a.quiet {
		return newFrames(a)
	}
	return &changes{app: a}
}

// changes prints a line for each change, or the whole message for programs.
type changes struct {
	app  *app
	last string
	gone bool
}

func (c *changes) show(m *tenonv1.Maintenance) error {
	c.gone = false
	text, err := c.text(m)
	if err != nil || text == c.last {
		return err
	}
	c.last = text
	if c.app.output == "table" {
		text = c.app.env.Now().In(c.app.env.Zone).Format(time.TimeOnly) + "  " + text
	}
	_, err = io.WriteString(c.app.env.Out, text)
	return err
}

func (c *changes) text(m *tenonv1.Maintenance) (string, error) {
	switch c.app.output {
	case "json":
		return show.JSONLine(m)
	case "yaml":
		text, err := show.YAML(m)
		return "---\n" + text, err
	}
	return show.MaintenanceLine(m), nil
}

func (c *changes) away() {
	if !c.gone {
		fmt.Fprintln(c.app.env.Err, awayText)
	}
	c.gone = true
}

func (c *changes) close() {}

const awayText = "tenond went away; waiting for it to come back"

// frameTime is how often a frame is drawn anew, so that times in it move.
const frameTime = time.Second

// frames draws a device on a terminal, each time over what was there.
type frames struct {
	app    *app
	latest chan frame
	done   chan struct{}
	closed bool
}

// frame is what is to be drawn.
type frame struct {
	m    *tenonv1.Maintenance
	away bool
}

func newFrames(a *app) *frames {
	f := &frames{app: a, latest: make(chan frame), done: make(chan struct{})}
	go f.draw()
	return f
}

func (f *frames) show(m *tenonv1.Maintenance) error {
	f.latest <- frame{m: m}
	return nil
}

func (f *frames) away() { f.latest <- frame{away: true} }

func (f *frames) close() {
	if f.closed {
		return
	}
	f.closed = true
	close(f.latest)
	<-f.done
}

// draw draws until close, and leaves the last frame standing.
func (f *frames) draw() {
	defer close(f.done)
	tick := time.NewTicker(frameTime)
	defer tick.Stop()
	var now frame
	height := 0
	for {
		select {
		case next, ok := <-f.latest:
			if !ok {
				return
			}
			if next.m == nil {
				next.m = now.m
			}
			now = next
		case <-tick.C:
		}
		text := f.text(now)
		fmt.Fprint(f.app.env.Out, over(height), text)
		height = strings.Count(text, "\n")
	}
}

// over goes back to where a frame of that height began, and clears what is below.
func over(height int) string {
	if height == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", height)
}

func (f *frames) text(now frame) string {
	text := ""
	if now.m != nil {
		width, height := f.app.terminalSize()
		text = f.app.style.MaintenanceFrame(now.m, f.app.env.Now(), width, height-1)
	}
	if now.away {
		text += awayText + "\n"
	}
	return text
}

// terminalSize is that of the terminal that is written to, or a usual one.
func (a *app) terminalSize() (width, height int) {
	if file, ok := a.env.Out.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 && size.Row > 0 {
			return int(size.Col), int(size.Row)
		}
	}
	return 80, 24
}
