// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"

	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

func (a *app) copy() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "copy SOURCE DESTINATION [--format FORMAT]", Short: "Copy a volume or snapshot to any device",
		Long: "Make a volume on any device with the content of a volume or snapshot on any device. A copy goes on\n" +
			"in tenond when tenonctl ends, and after a restart of tenond.",
		Example: "  tenonctl copy fast/vm1@before-upgrade archive/vm1\n" +
			"  tenonctl copy fast/vm1 slow/vm1 --format qcow2 --async",
		Args: needs("SOURCE", "DESTINATION"), ValidArgsFunction: a.complete(a.objectURIs, a.deviceURIs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		conn, err := a.conn()
		if err != nil {
			return err
		}
		return change(ctx, a, tenonv1.NewTransferServiceClient(conn).Copy, &tenonv1.CopyRequest{
			RequestId: a.requestID, SourceUri: args[0], DestinationUri: args[1], Format: format,
		})
	})
	formatFlag(cmd, &format, "the `FORMAT` of the new volume; empty: the device's default")
	return cmd
}
