// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"

	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

func (a *app) host() *cobra.Command {
	return noun("host", "This host, its hypervisors and tenond", &cobra.Command{
		Use:     "show",
		Short:   "Show the host, its hypervisors and tenond",
		Example: "  tenonctl host show\n  tenonctl host show -o json",
		Args:    needs(),
		RunE: run(func(ctx context.Context, _ []string) error {
			conn, err := a.conn()
			if err != nil {
				return err
			}
			resp, err := tenonv1.NewHostServiceClient(conn).GetHost(ctx, &tenonv1.GetHostRequest{})
			if err != nil {
				return err
			}
			return a.print(resp.GetHost(), func() string { return a.style.Host(resp.GetHost()) })
		}),
	})
}
