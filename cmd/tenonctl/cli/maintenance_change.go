// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// idFlag adds --id, which names one of several maintenances of a device.
func idFlag(cmd *cobra.Command, id *string) {
	cmd.Flags().StringVar(id, "id", "", "the maintenance `ID`; empty: the only one of the device")
}

func (a *app) maintenanceExtend() *cobra.Command {
	var id string
	var respond, drain, expected time.Duration
	cmd := &cobra.Command{
		Use: "extend DEVICE [--respond TIME] [--drain TIME] [--expected TIME] [--id ID]", Short: "Give a maintenance other deadlines",
		Long:    "Give a maintenance other deadlines. Each counts from now; what is not given stays as it is.",
		Example: "  tenonctl maintenance extend fast --drain 1h",
		Args:    needs("DEVICE"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		if min(respond, drain, expected) < 0 || max(respond, drain, expected) == 0 {
			return usagef("nothing to change: give --respond, --drain or --expected, each a time above zero")
		}
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		request := &tenonv1.ExtendMaintenanceRequest{
			RequestId: a.requestID, Device: deviceOf(args[0]), MaintenanceId: id,
			RespondWithin: duration(respond), DrainWithin: duration(drain), ExpectedDuration: duration(expected),
		}
		return wish(ctx, a, client.ExtendMaintenance, request, false, goal{})
	})
	cmd.Flags().DurationVar(&respond, "respond", 0, "the `TIME` for a first answer of each use")
	cmd.Flags().DurationVar(&drain, "drain", 0, "the `TIME` for all uses to be ready")
	cmd.Flags().DurationVar(&expected, "expected", 0, "the `TIME` that the service is expected to take")
	idFlag(cmd, &id)
	return cmd
}

func (a *app) maintenanceOverride() *cobra.Command {
	var id, permission, reason string
	cmd := &cobra.Command{
		Use: "override DEVICE SUBJECT --permission WHO --reason TEXT [--id ID]", Short: "Go on though a use objects or a host is silent",
		Long: "Go on though a use objects or does not answer, or a host is silent. The device is fenced without it, so\n" +
			"that a guest may lose its disk. Who allowed it and why is recorded for ever.",
		Example: "  tenonctl maintenance override fast disk-d-4f6k2m9p --permission 'Jo, ticket 4711' --reason 'guest is gone for good'",
		Args:    needs("DEVICE", "SUBJECT"), ValidArgsFunction: a.complete(a.deviceNames, a.useIDs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		if permission == "" || reason == "" {
			return usagef("--permission and --reason may not be empty: they are the record of who went on, and why")
		}
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		request := &tenonv1.OverrideMaintenanceRequest{
			RequestId: a.requestID, Device: deviceOf(args[0]), MaintenanceId: id, Subject: args[1], Permission: permission, Reason: reason,
		}
		return wish(ctx, a, client.OverrideMaintenance, request, false, goal{})
	})
	cmd.Flags().StringVar(&permission, "permission", "", "`WHO` allowed it, for the record")
	cmd.Flags().StringVar(&reason, "reason", "", "a `TEXT` that tells why, for the record")
	must(cmd.MarkFlagRequired("permission"))
	must(cmd.MarkFlagRequired("reason"))
	idFlag(cmd, &id)
	return cmd
}

func (a *app) maintenanceCancel() *cobra.Command {
	var id string
	var wait bool
	cmd := &cobra.Command{
		Use: "cancel DEVICE [--id ID] [--wait]", Short: "Take a maintenance back before it has begun",
		Long: "Take a maintenance back before the device is in maintenance; from then on it is ended. What was begun is\n" +
			"undone, as far as it can be; disks that have moved stay where they are unless --return was given.",
		Example: "  tenonctl maintenance cancel fast --wait",
		Args:    needs("DEVICE"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		request := &tenonv1.CancelMaintenanceRequest{RequestId: a.requestID, Device: deviceOf(args[0]), MaintenanceId: id}
		return wish(ctx, a, client.CancelMaintenance, request, wait, opening)
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the device is in service")
	idFlag(cmd, &id)
	return cmd
}

func (a *app) maintenanceEnd() *cobra.Command {
	var id string
	var wait bool
	cmd := &cobra.Command{
		Use: "end DEVICE [--id ID] [--wait]", Short: "Say that the service is done, so that the device comes back",
		Long: "Say that the service is done. The device is looked at: it has to be the one that it was, of its size, mounted\n" +
			"and writable. Then it is opened. With --wait the command returns then, and fails when it is another device.",
		Example: "  tenonctl maintenance end fast --wait",
		Args:    needs("DEVICE"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.maintenances()
		if err != nil {
			return err
		}
		request := &tenonv1.EndMaintenanceRequest{RequestId: a.requestID, Device: deviceOf(args[0]), MaintenanceId: id}
		return wish(ctx, a, client.EndMaintenance, request, wait, opening)
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the device is in service")
	idFlag(cmd, &id)
	return cmd
}
