// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

const maintenanceLong = `Take a device out of service and back: everybody who uses it is told, moves away or objects, then
the device is fenced. Uses and their ids are shown by tenonctl maintenance status DEVICE.`

func (a *app) maintenance() *cobra.Command {
	cmd := noun("maintenance", "Devices that go out of service and come back",
		a.maintenancePlan(), a.maintenancePrepare(), a.maintenanceStatus(), a.maintenanceWatch(), a.maintenanceExtend(),
		a.maintenanceOverride(), a.maintenanceCancel(), a.maintenanceEnd(),
		a.maintenanceObject(), a.maintenanceWithdraw(), a.maintenanceReady(), a.maintenanceSubscribe(),
		a.maintenancePolicy(), a.maintenanceAudit())
	cmd.Long = maintenanceLong
	return cmd
}

func (a *app) maintenances() (tenonv1.MaintenanceServiceClient, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	return tenonv1.NewMaintenanceServiceClient(conn), nil
}

// impacts are the words of --impact.
var impacts = map[string]tenonv1.Impact{
	"io-stall": tenonv1.Impact_IMPACT_IO_STALL, "disconnect": tenonv1.Impact_IMPACT_DISCONNECT, "data-loss": tenonv1.Impact_IMPACT_DATA_LOSS,
}

// onDeadlines are the words of --on-deadline.
var onDeadlines = map[string]tenonv1.OnDeadline{
	"hold": tenonv1.OnDeadline_ON_DEADLINE_HOLD, "escalate": tenonv1.OnDeadline_ON_DEADLINE_ESCALATE, "force": tenonv1.OnDeadline_ON_DEADLINE_FORCE,
}

// choice reads a word of a flag that has a few.
func choice[T any](flag, word string, among map[string]T) (T, error) {
	value, ok := among[word]
	if !ok {
		return value, usagef("--%s %q: expected %s", flag, word, words(among))
	}
	return value, nil
}

// words lists the words of a flag, such as "hold, escalate or force".
func words[T any](among map[string]T) string {
	all := slices.Sorted(maps.Keys(among))
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}

// intentFlags are what plan and prepare are given.
type intentFlags struct {
	id, reason, impact, onDeadline, onRespond, permission, policy string
	revision                                                      uint64
	expected, notBefore, respond, drain                           time.Duration
	comeHome                                                      bool
}

func (f *intentFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.impact, "impact", "disconnect", "what happens to I/O: `IMPACT` is io-stall, disconnect or data-loss")
	flags.DurationVar(&f.expected, "expected", 0, "the `TIME` that the service is expected to take, such as 2h")
	flags.DurationVar(&f.notBefore, "not-before", 0, "keep the device open for that `TIME` from now, only announce")
	flags.DurationVar(&f.respond, "respond", 0, "the `TIME` for a first answer of each use; 0: no limit")
	flags.DurationVar(&f.drain, "drain", 0, "the `TIME` for all uses to be ready; 0: no limit")
	flags.StringVar(&f.onDeadline, "on-deadline", "hold", "what follows when uses are not ready in time: `WORD` is hold, escalate or force")
	flags.StringVar(&f.onRespond, "on-respond", "", "what follows without an answer in time: `WORD` as above; empty: hold, or escalate unless --on-deadline is hold")
	flags.StringVar(&f.permission, "permission", "", "`WHO` allowed that uses are cut off; force needs it")
	flags.StringVar(&f.policy, "policy", "", "`STEPS` instead of the uses' own, such as move:slow,detach,ask")
	flags.BoolVar(&f.comeHome, "return", false, "bring disks that were moved away back afterwards")
	must(cmd.RegisterFlagCompletionFunc("impact", cobra.FixedCompletions(slices.Sorted(maps.Keys(impacts)), cobra.ShellCompDirectiveNoFileComp)))
	for _, name := range []string{"on-deadline", "on-respond"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(slices.Sorted(maps.Keys(onDeadlines)), cobra.ShellCompDirectiveNoFileComp)))
	}
}

// read makes an intent of the flags.
func (f *intentFlags) read() (*tenonv1.MaintenanceIntent, error) {
	for name, d := range map[string]time.Duration{"expected": f.expected, "not-before": f.notBefore, "respond": f.respond, "drain": f.drain} {
		if d < 0 {
			return nil, usagef("--%s %v: expected a time of 0 or more", name, d)
		}
	}
	in := &tenonv1.MaintenanceIntent{
		Id: f.id, Revision: f.revision, Reason: f.reason, Permission: f.permission, ReturnHome: f.comeHome,
		ExpectedDuration: duration(f.expected), NotBeforeIn: duration(f.notBefore), RespondWithin: duration(f.respond), DrainWithin: duration(f.drain),
	}
	var err error
	if in.Impact, err = choice("impact", f.impact, impacts); err != nil {
		return nil, err
	}
	if in.OnDrain, err = choice("on-deadline", f.onDeadline, onDeadlines); err != nil {
		return nil, err
	}
	if in.OnRespond, err = f.whenSilent(in.GetOnDrain()); err != nil {
		return nil, err
	}
	if in.GetOnDrain() == tenonv1.OnDeadline_ON_DEADLINE_FORCE && f.permission == "" {
		return nil, usagef("--on-deadline force needs --permission WHO: say who allowed that guests lose their disks")
	}
	if f.policy != "" {
		if in.Policy, err = show.ParsePolicy(f.policy); err != nil {
			return nil, usagef("--policy %v", err)
		}
	}
	return in, nil
}

// whenSilent is what follows when a use does not answer: nothing is cut off for
// that alone unless it is asked for.
func (f *intentFlags) whenSilent(onDrain tenonv1.OnDeadline) (tenonv1.OnDeadline, error) {
	switch {
	case f.onRespond != "":
		return choice("on-respond", f.onRespond, onDeadlines)
	case onDrain == tenonv1.OnDeadline_ON_DEADLINE_HOLD:
		return onDrain, nil
	}
	return tenonv1.OnDeadline_ON_DEADLINE_ESCALATE, nil
}

func (a *app) maintenancePlan() *cobra.Command {
	var f intentFlags
	cmd := &cobra.Command{
		Use: "plan DEVICE [--impact IMPACT] [--policy STEPS]", Short: "Say what a maintenance would do to each use, and change nothing",
		Long: "Say what a maintenance would do to each use of a device, and change nothing. The digest stands for the\n" +
			"answer: with it, prepare goes on only as long as the answer is the same.",
		Example: "  tenonctl maintenance plan fast\n  tenonctl maintenance plan fast --policy move:slow,detach",
		Args:    needs("DEVICE"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		intent, err := f.read()
		if err != nil {
			return err
		}
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		resp, err := client.PlanMaintenance(ctx, &tenonv1.PlanMaintenanceRequest{Device: deviceOf(args[0]), Intent: intent})
		if err != nil {
			return err
		}
		return a.print(resp.GetPlan(), func() string { return show.Plan(resp.GetPlan()) })
	})
	f.add(cmd)
	return cmd
}

func (a *app) maintenancePrepare() *cobra.Command {
	var f intentFlags
	var digest string
	var wait bool
	cmd := &cobra.Command{
		Use:   "prepare DEVICE [--reason TEXT] [--impact IMPACT] [--expected TIME] [--plan-digest DIGEST] [--wait] ...",
		Short: "Ask for a device to go into maintenance",
		Long: "Ask for a device to go into maintenance. Its uses are told; each moves away, gets ready or objects, as its\n" +
			"policy says. The device may be serviced once its phase is \"in maintenance\". With --wait the command\n" +
			"returns then, and fails when the device is blocked.",
		Example: "  tenonctl maintenance prepare fast --reason 'swap disk 3' --expected 2h --wait\n" +
			"  tenonctl maintenance prepare fast --plan-digest 5f2c --drain 1h --on-deadline escalate --return\n" +
			"  tenonctl maintenance prepare fast --impact data-loss --policy move:slow --not-before 24h",
		Args: needs("DEVICE"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		intent, err := f.read()
		if err != nil {
			return err
		}
		intent.PlanDigest = digest
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		request := &tenonv1.PrepareMaintenanceRequest{RequestId: a.requestID, Device: deviceOf(args[0]), Intent: intent}
		return wish(ctx, a, client.PrepareMaintenance, request, wait, closing)
	})
	f.add(cmd)
	cmd.Flags().StringVar(&f.reason, "reason", "", "a `TEXT` that tells people why")
	cmd.Flags().StringVar(&f.id, "id", "", "the maintenance `ID`; empty: one is made")
	cmd.Flags().Uint64Var(&f.revision, "revision", 0, "with --id of a maintenance that is there: a higher `NUMBER` than before changes it")
	cmd.Flags().StringVar(&digest, "plan-digest", "", "go on only while the plan has this `DIGEST`")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the device is in maintenance, or blocked")
	return cmd
}

// wish makes one changing request about a device, prints where it stands, and
// waits for the phases of goal if that is asked for.
func wish[Q any, R interface{ GetMaintenance() *tenonv1.Maintenance }](
	ctx context.Context, a *app, do func(context.Context, Q, ...grpc.CallOption) (R, error), request Q, wait bool, g goal,
) error {
	resp, err := do(ctx, request)
	if err != nil {
		return a.unanswered(ctx, err)
	}
	if wait && !a.async {
		return a.watchMaintenance(ctx, resp.GetMaintenance().GetDevice(), g)
	}
	return a.printMaintenance(resp.GetMaintenance())
}

func (a *app) printMaintenance(m *tenonv1.Maintenance) error {
	return a.print(m, func() string { return a.style.Maintenance(m, a.env.Now()) })
}

func (a *app) allMaintenances(ctx context.Context) (*tenonv1.ListMaintenancesResponse, error) {
	client, err := a.maintenances()
	if err != nil {
		return nil, err
	}
	all := new(tenonv1.ListMaintenancesResponse)
	return all, pages(func(token string) (*tenonv1.ListMaintenancesResponse, error) {
		return client.ListMaintenances(ctx, &tenonv1.ListMaintenancesRequest{PageToken: token})
	}, func(p *tenonv1.ListMaintenancesResponse) {
		all.Maintenances = append(all.Maintenances, p.GetMaintenances()...)
	})
}

func (a *app) maintenanceStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status [DEVICE]", Short: "Show where a device stands, or all of them",
		Long: "Show where a device stands: its phase and gate, what it waits for and why, since when and until when, what\n" +
			"is wanted of it, and every use of it. Without a device, one line for each.",
		Example: "  tenonctl maintenance status\n  tenonctl maintenance status fast -o json",
		Args:    atMost("DEVICE"), ValidArgsFunction: a.complete(a.deviceNames),
		RunE: run(func(ctx context.Context, args []string) error {
			if len(args) == 1 {
				return a.maintenanceOf(ctx, deviceOf(args[0]))
			}
			all, err := a.allMaintenances(ctx)
			if err != nil {
				return err
			}
			return a.printList(all, len(all.GetMaintenances()), "no devices",
				func() string { return a.style.Maintenances(all.GetMaintenances(), a.env.Now()) })
		}),
	}
}

func (a *app) maintenanceOf(ctx context.Context, device string) error {
	client, err := a.maintenances()
	if err != nil {
		return err
	}
	resp, err := client.GetMaintenance(ctx, &tenonv1.GetMaintenanceRequest{Device: device})
	if err != nil {
		return err
	}
	return a.printMaintenance(resp.GetMaintenance())
}
