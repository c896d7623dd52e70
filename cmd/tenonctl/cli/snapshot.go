// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

func (a *app) snapshot() *cobra.Command {
	return noun("snapshot", "Snapshots of volumes",
		a.snapshotCreate(), a.snapshotList(), a.snapshotShow(), a.snapshotRevert(), a.snapshotDelink(), a.snapshotDestroy())
}

func (a *app) snapshots() (tenonv1.SnapshotServiceClient, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	return tenonv1.NewSnapshotServiceClient(conn), nil
}

func (a *app) snapshotCreate() *cobra.Command {
	var domain, name string
	var freeze bool
	cmd := &cobra.Command{
		Use:   "create URI... [--name NAME] [--domain DOMAIN [--freeze]]",
		Short: "Make a snapshot of one or more volumes at one point in time",
		Long: "Make a snapshot of the same name of each volume, at one point in time where the devices can. With\n" +
			"--domain and no URI, of all volumes that the domain writes to. With --freeze the guest's file systems\n" +
			"are frozen meanwhile; where that fails the snapshot is crash-consistent, and the answer says so.",
		Example: "  tenonctl snapshot create fast/vm1 --name before-upgrade\n" +
			"  tenonctl snapshot create fast/db fast/log --domain web01 --freeze\n" +
			"  tenonctl snapshot create --domain web01 --freeze --name nightly",
		ValidArgsFunction: a.completeAll(a.volumeURIs),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && domain == "" {
				return usagef("name at least one volume, or a domain with --domain")
			}
			if freeze && domain == "" {
				return usagef("--freeze needs --domain")
			}
			return nil
		},
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.snapshots()
		if err != nil {
			return err
		}
		return change(ctx, a, client.CreateSnapshot, &tenonv1.CreateSnapshotRequest{
			RequestId: a.requestID, VolumeUris: args, Name: name, Domain: domain, Freeze: freeze,
		})
	})
	cmd.Flags().StringVar(&name, "name", "", "the snapshot's `NAME`; empty: made from the time")
	cmd.Flags().StringVar(&domain, "domain", "", "the `DOMAIN` that uses the volumes")
	cmd.Flags().BoolVar(&freeze, "freeze", false, "freeze the domain's file systems meanwhile")
	must(cmd.RegisterFlagCompletionFunc("domain", a.completeAll(a.domainNames)))
	return cmd
}

func (a *app) allSnapshots(ctx context.Context, uri string) (*tenonv1.ListSnapshotsResponse, error) {
	client, err := a.snapshots()
	if err != nil {
		return nil, err
	}
	all := new(tenonv1.ListSnapshotsResponse)
	return all, pages(func(token string) (*tenonv1.ListSnapshotsResponse, error) {
		return client.ListSnapshots(ctx, &tenonv1.ListSnapshotsRequest{Uri: uri, PageToken: token})
	}, func(p *tenonv1.ListSnapshotsResponse) { all.Snapshots = append(all.Snapshots, p.GetSnapshots()...) })
}

func (a *app) snapshotList() *cobra.Command {
	return &cobra.Command{
		Use: "list URI | list DEVICE", Short: "List the snapshots of a volume or of a device",
		Example: "  tenonctl snapshot list fast/vm1\n  tenonctl snapshot list fast",
		Args:    needs("URI or DEVICE"), ValidArgsFunction: a.complete(a.volumeURIs),
		RunE: run(func(ctx context.Context, args []string) error {
			all, err := a.allSnapshots(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printList(all, len(all.GetSnapshots()), "no snapshots of "+args[0],
				func() string { return a.style.Snapshots(all.GetSnapshots()) })
		}),
	}
}

func (a *app) snapshotShow() *cobra.Command {
	return &cobra.Command{
		Use: "show URI", Short: "Show a snapshot", Example: "  tenonctl snapshot show fast/vm1@before-upgrade",
		Args: needs("URI"), ValidArgsFunction: a.complete(a.snapshotURIs),
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := a.snapshots()
			if err != nil {
				return err
			}
			resp, err := client.GetSnapshot(ctx, &tenonv1.GetSnapshotRequest{Uri: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp.GetSnapshot(), func() string { return a.style.Snapshot(resp.GetSnapshot()) })
		}),
	}
}

func (a *app) snapshotRevert() *cobra.Command {
	return &cobra.Command{
		Use: "revert URI", Short: "Give a volume the content and size of its snapshot",
		Long:    "Give a volume the content and size of its snapshot. What was written since is lost; the volume must not\nbe in use.",
		Example: "  tenonctl snapshot revert fast/vm1@before-upgrade",
		Args:    needs("URI"), ValidArgsFunction: a.complete(a.snapshotURIs),
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := a.snapshots()
			if err != nil {
				return err
			}
			return change(ctx, a, client.RevertSnapshot, &tenonv1.RevertSnapshotRequest{RequestId: a.requestID, Uri: args[0]})
		}),
	}
}

func (a *app) snapshotDelink() *cobra.Command {
	return a.delink(&cobra.Command{
		Short:   "Take a snapshot away and keep its data as a tombstone",
		Long:    "Take a snapshot out of sight and keep its data as a tombstone, which tenonctl volume relink brings back.",
		Example: "  tenonctl snapshot delink fast/vm1@before-upgrade",
	}, a.snapshotURIs, func(ctx context.Context, uri string, keep *durationpb.Duration) error {
		client, err := a.snapshots()
		if err != nil {
			return err
		}
		return change(ctx, a, client.DelinkSnapshot, &tenonv1.DelinkSnapshotRequest{RequestId: a.requestID, Uri: uri, Keep: keep})
	})
}

func (a *app) snapshotDestroy() *cobra.Command {
	return a.destroy(&cobra.Command{
		Short:   "Release a delinked snapshot's data for ever",
		Example: "  tenonctl snapshot destroy fast/vm1@before-upgrade",
	}, func(ctx context.Context, device, id string, erase tenonv1.Erase) error {
		client, err := a.snapshots()
		if err != nil {
			return err
		}
		return change(ctx, a, client.DestroySnapshot, &tenonv1.DestroySnapshotRequest{RequestId: a.requestID, Device: device, TombstoneId: id, Erase: erase})
	})
}
