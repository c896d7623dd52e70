// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// useIDs proposes the uses of all devices.
func (a *app) useIDs(ctx context.Context, _ string) (ids []string, err error) {
	all, err := a.allMaintenances(ctx)
	for _, m := range all.GetMaintenances() {
		for _, u := range m.GetUses() {
			ids = append(ids, u.GetId()+"\t"+u.GetKind()+" "+show.Short(u.GetSubject()))
		}
	}
	return ids, err
}

// said prints that an answer was taken: a line for people, the message for programs.
func (a *app) said(ctx context.Context, m proto.Message, err error, format string, args ...any) error {
	if err != nil {
		return a.unanswered(ctx, err)
	}
	return a.print(m, func() string { return fmt.Sprintf(format+"\n", args...) })
}

func epochFlag(cmd *cobra.Command, epoch *uint64) {
	cmd.Flags().Uint64Var(epoch, "epoch", 0, "the `EPOCH` that is answered; 0: the present one")
}

func (a *app) maintenanceObject() *cobra.Command {
	var code, text string
	var retryIn time.Duration
	var epoch uint64
	cmd := &cobra.Command{
		Use: "object USE --code CODE --text TEXT [--retry-in TIME]", Short: "Refuse in the name of a use",
		Long: "Refuse a maintenance in the name of a use. The device is blocked, and names the use and its reason, until the\n" +
			"objection is withdrawn or overridden, or by itself after --retry-in.",
		Example: "  tenonctl maintenance object disk-d-4f6k2m9p --code backup-running --text 'the nightly backup runs' --retry-in 30m",
		Args:    needs("USE"), ValidArgsFunction: a.complete(a.useIDs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		switch {
		case code == "" || text == "":
			return usagef("--code and --text may not be empty: they tell others why the device is blocked")
		case retryIn < 0:
			return usagef("--retry-in %v: expected a time of 0 or more", retryIn)
		}
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		resp, err := client.ObjectUse(ctx, &tenonv1.ObjectUseRequest{
			RequestId: a.requestID, UseId: args[0], Epoch: epoch, Code: code, Text: text, Retryable: retryIn > 0, Until: duration(retryIn),
		})
		return a.said(ctx, resp, err, "use %s objects: %s: %s", args[0], code, text)
	})
	cmd.Flags().StringVar(&code, "code", "", "a `CODE` for programs, such as backup-running")
	cmd.Flags().StringVar(&text, "text", "", "the `TEXT` of the reason, for people")
	cmd.Flags().DurationVar(&retryIn, "retry-in", 0, "the `TIME` after which it may be asked again; 0: the objection stays")
	must(cmd.MarkFlagRequired("code"))
	must(cmd.MarkFlagRequired("text"))
	epochFlag(cmd, &epoch)
	return cmd
}

func (a *app) maintenanceWithdraw() *cobra.Command {
	var epoch uint64
	cmd := &cobra.Command{
		Use: "withdraw USE", Short: "Take an objection back",
		Example: "  tenonctl maintenance withdraw disk-d-4f6k2m9p",
		Args:    needs("USE"), ValidArgsFunction: a.complete(a.useIDs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		resp, err := client.WithdrawObjection(ctx, &tenonv1.WithdrawObjectionRequest{RequestId: a.requestID, UseId: args[0], Epoch: epoch})
		return a.said(ctx, resp, err, "use %s objects no more", args[0])
	})
	epochFlag(cmd, &epoch)
	return cmd
}

// ways are the words of --how.
var ways = map[string]tenonv1.ReadyHow{
	"moved": tenonv1.ReadyHow_READY_HOW_MOVED, "detached": tenonv1.ReadyHow_READY_HOW_DETACHED, "paused": tenonv1.ReadyHow_READY_HOW_PAUSED,
	"stopped": tenonv1.ReadyHow_READY_HOW_STOPPED, "closed": tenonv1.ReadyHow_READY_HOW_CLOSED, "tolerates": tenonv1.ReadyHow_READY_HOW_TOLERATES,
	"removed": tenonv1.ReadyHow_READY_HOW_REMOVED,
}

func (a *app) maintenanceReady() *cobra.Command {
	var how, evidence string
	var epoch uint64
	cmd := &cobra.Command{
		Use: "ready USE --how WAY [--evidence TEXT]", Short: "Say that a use is ready",
		Long: "Say that a use is ready, and in which way. It is believed only as far as the host shows nothing else: a\n" +
			"device that is still open is not let go of, whoever says so.",
		Example: "  tenonctl maintenance ready disk-d-4f6k2m9p --how tolerates --evidence 'reads from cache'",
		Args:    needs("USE"), ValidArgsFunction: a.complete(a.useIDs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		way, err := choice("how", how, ways)
		if err != nil {
			return err
		}
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		resp, err := client.ReportUseReady(ctx, &tenonv1.ReportUseReadyRequest{
			RequestId: a.requestID, UseId: args[0], Epoch: epoch, How: way, Evidence: evidence,
		})
		return a.said(ctx, resp, err, "use %s is ready: %s", args[0], how)
	})
	cmd.Flags().StringVar(&how, "how", "", "in which `WAY`: "+words(ways))
	cmd.Flags().StringVar(&evidence, "evidence", "", "a `TEXT` that says what it rests upon, for the record")
	must(cmd.MarkFlagRequired("how"))
	must(cmd.RegisterFlagCompletionFunc("how", cobra.FixedCompletions(slices.Sorted(maps.Keys(ways)), cobra.ShellCompDirectiveNoFileComp)))
	epochFlag(cmd, &epoch)
	return cmd
}

func (a *app) maintenancePolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy SUBJECT [STEPS]", Short: "Show or set what is done about a use, or the uses of a device",
		Long: "Show or set what is done about a use, or about the uses of a device that have no policy of their own.\n" +
			"STEPS are tried in order, and the first that can be done is: move, move:DEVICE, detach, pause, shutdown,\n" +
			"shutdown:restart, ignore, ask. \"\" forgets what was set.",
		Example: "  tenonctl maintenance policy fast\n" +
			"  tenonctl maintenance policy fast move,detach,ask\n" +
			"  tenonctl maintenance policy disk-d-4f6k2m9p move:slow,shutdown:restart",
		Args: oneOf("SUBJECT", "SUBJECT STEPS"), ValidArgsFunction: a.complete(a.policySubjects),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		if len(args) == 1 {
			resp, err := client.GetMaintenancePolicy(ctx, &tenonv1.GetMaintenancePolicyRequest{Subject: args[0]})
			if err != nil {
				return err
			}
			return a.printList(resp, len(resp.GetPolicy()), "no policy was set for "+args[0]+"; disks move, or somebody has to answer for them",
				func() string { return show.Policy(resp.GetPolicy()) + "\n" })
		}
		request := &tenonv1.SetMaintenancePolicyRequest{RequestId: a.requestID, Subject: args[0]}
		if args[1] != "" {
			if request.Policy, err = show.ParsePolicy(args[1]); err != nil {
				return usagef("STEPS %v", err)
			}
		}
		resp, err := client.SetMaintenancePolicy(ctx, request)
		if len(resp.GetPolicy()) == 0 {
			return a.said(ctx, resp, err, "%s has no policy of its own", args[0])
		}
		return a.said(ctx, resp, err, "%s: %s", args[0], show.Policy(resp.GetPolicy()))
	})
	return cmd
}

// policySubjects proposes devices and uses.
func (a *app) policySubjects(ctx context.Context, typed string) ([]string, error) {
	devices, err := a.deviceNames(ctx, typed)
	if err != nil {
		return nil, err
	}
	uses, err := a.useIDs(ctx, typed)
	return append(devices, uses...), err
}

func (a *app) maintenanceAudit() *cobra.Command {
	return &cobra.Command{
		Use: "audit [ID]", Short: "Print the record of a maintenance, or of all",
		Long:    "Print the record of a maintenance: who did what, when, and what came of it. It is kept after the end, and\nonly ever added to.",
		Example: "  tenonctl maintenance audit mnt-4f6k2m9p -o json\n  tenonctl maintenance audit",
		Args:    atMost("ID"), ValidArgsFunction: a.complete(a.maintenanceIDs),
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := a.maintenances()
			if err != nil {
				return err
			}
			id, nothing := "", "no maintenance was ever wanted"
			if len(args) == 1 {
				id, nothing = args[0], "no record of "+args[0]
			}
			all := new(tenonv1.ListAuditLinesResponse)
			err = pages(func(token string) (*tenonv1.ListAuditLinesResponse, error) {
				return client.ListAuditLines(ctx, &tenonv1.ListAuditLinesRequest{MaintenanceId: id, PageToken: token})
			}, func(p *tenonv1.ListAuditLinesResponse) { all.Lines = append(all.Lines, p.GetLines()...) })
			if err != nil {
				return err
			}
			return a.printList(all, len(all.GetLines()), nothing, func() string { return a.style.AuditLines(all.GetLines()) })
		}),
	}
}

// maintenanceIDs proposes the maintenances that are wanted now.
func (a *app) maintenanceIDs(ctx context.Context, _ string) (ids []string, err error) {
	all, err := a.allMaintenances(ctx)
	for _, m := range all.GetMaintenances() {
		for _, in := range m.GetIntents() {
			ids = append(ids, in.GetId()+"\t"+m.GetDevice())
		}
	}
	return ids, err
}
