// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

func (a *app) volume() *cobra.Command {
	return noun("volume", "Volumes of a device",
		a.volumeImport(), a.volumeCreate(), a.volumeList(), a.volumeShow(), a.volumeResize(), a.volumeClone(),
		a.volumeRead(), a.volumeWrite(), a.volumeDelink(), a.volumeRelink(), a.volumeDestroy())
}

func (a *app) volumes() (tenonv1.VolumeServiceClient, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	return tenonv1.NewVolumeServiceClient(conn), nil
}

func (a *app) volumeImport() *cobra.Command {
	var from, format string
	cmd := &cobra.Command{
		Use:   "import URI --from PATH [--format FORMAT]",
		Short: "Adopt an existing image without copying it",
		Long: "Adopt an existing image of this host without copying it. Disks of domains that use the image\n" +
			"already become tenon's. Nothing is probed: the format is what you say. Only for names that end in .img or\n" +
			".raw it may be left out and is raw.",
		Example: "  tenonctl volume import fast/vm1 --from /srv/fast/vm1.img\n" +
			"  tenonctl volume import fast/vm2 --from /srv/fast/vm2.qcow2 --format qcow2",
		Args: needs("URI"), ValidArgsFunction: a.complete(a.deviceURIs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		path, err := filepath.Abs(from)
		if err != nil {
			return err
		}
		if format == "" {
			if filepath.Ext(path) != ".img" && filepath.Ext(path) != ".raw" {
				return usagef("%s may be raw or qcow2, and is not probed; say --format raw or --format qcow2", from)
			}
			format = "raw"
		}
		client, err := a.volumes()
		if err != nil {
			return err
		}
		return change(ctx, a, client.ImportVolume, &tenonv1.ImportVolumeRequest{RequestId: a.requestID, Uri: args[0], Path: path, Format: format})
	})
	cmd.Flags().StringVar(&from, "from", "", "the image's `PATH` on this host")
	must(cmd.MarkFlagRequired("from"))
	must(cmd.MarkFlagFilename("from"))
	formatFlag(cmd, &format, "the image's `FORMAT`: raw or qcow2; empty: by its name, where that ends in .img or .raw")
	return cmd
}

// formatFlag adds --format.
func formatFlag(cmd *cobra.Command, format *string, help string) {
	cmd.Flags().StringVar(format, "format", "", help)
	must(cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"raw", "qcow2"}, cobra.ShellCompDirectiveNoFileComp)))
}

func (a *app) volumeCreate() *cobra.Command {
	var bytes size
	var format string
	var props []string
	cmd := &cobra.Command{
		Use:   "create URI --size SIZE [--format FORMAT] [-p key=value]...",
		Short: "Make an empty volume",
		Example: "  tenonctl volume create fast/vm1 --size 20G\n" +
			"  tenonctl volume create fast/vm2 --size 20G --format qcow2",
		Args: needs("URI"), ValidArgsFunction: a.complete(a.deviceURIs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		properties, err := properties(props)
		if err != nil {
			return err
		}
		client, err := a.volumes()
		if err != nil {
			return err
		}
		return change(ctx, a, client.CreateVolume, &tenonv1.CreateVolumeRequest{
			RequestId: a.requestID, Uri: args[0], SizeBytes: int64(bytes), Format: format, Properties: properties,
		})
	})
	cmd.Flags().Var(&bytes, "size", "the volume's size, such as 20G or 512Mi")
	must(cmd.MarkFlagRequired("size"))
	formatFlag(cmd, &format, "the `FORMAT` of its bytes; empty: the device's default")
	propertyFlags(cmd, &props, nil)
	return cmd
}

func (a *app) allVolumes(ctx context.Context, device, prefix string) (*tenonv1.ListVolumesResponse, error) {
	client, err := a.volumes()
	if err != nil {
		return nil, err
	}
	all := new(tenonv1.ListVolumesResponse)
	return all, pages(func(token string) (*tenonv1.ListVolumesResponse, error) {
		return client.ListVolumes(ctx, &tenonv1.ListVolumesRequest{Device: device, Prefix: prefix, PageToken: token})
	}, func(p *tenonv1.ListVolumesResponse) { all.Volumes = append(all.Volumes, p.GetVolumes()...) })
}

func (a *app) allTombstones(ctx context.Context, device string) (*tenonv1.ListTombstonesResponse, error) {
	client, err := a.volumes()
	if err != nil {
		return nil, err
	}
	all := new(tenonv1.ListTombstonesResponse)
	return all, pages(func(token string) (*tenonv1.ListTombstonesResponse, error) {
		return client.ListTombstones(ctx, &tenonv1.ListTombstonesRequest{Device: device, PageToken: token})
	}, func(p *tenonv1.ListTombstonesResponse) { all.Tombstones = append(all.Tombstones, p.GetTombstones()...) })
}

func (a *app) volumeList() *cobra.Command {
	var tombstones bool
	var prefix string
	cmd := &cobra.Command{
		Use: "list DEVICE [--prefix TEXT | --tombstones]", Short: "List the volumes of a device, or what was delinked on it",
		Example: "  tenonctl volume list fast\n  tenonctl volume list fast --tombstones",
		Args:    needs("DEVICE"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		device := deviceOf(args[0])
		if tombstones {
			all, err := a.allTombstones(ctx, device)
			if err != nil {
				return err
			}
			return a.printList(all, len(all.GetTombstones()), "no tombstones on "+device,
				func() string { return a.style.Tombstones(all.GetTombstones()) })
		}
		all, err := a.allVolumes(ctx, device, prefix)
		if err != nil {
			return err
		}
		return a.printList(all, len(all.GetVolumes()), "no volumes on "+device,
			func() string { return a.style.Volumes(all.GetVolumes()) })
	})
	cmd.Flags().BoolVar(&tombstones, "tombstones", false, "list delinked volumes and snapshots instead")
	cmd.Flags().StringVar(&prefix, "prefix", "", "only names that begin with `TEXT`")
	cmd.MarkFlagsMutuallyExclusive("tombstones", "prefix")
	return cmd
}

func (a *app) volumeShow() *cobra.Command {
	return &cobra.Command{
		Use: "show URI", Short: "Show a volume", Example: "  tenonctl volume show fast/vm1",
		Args: needs("URI"), ValidArgsFunction: a.complete(a.volumeURIs),
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := a.volumes()
			if err != nil {
				return err
			}
			resp, err := client.GetVolume(ctx, &tenonv1.GetVolumeRequest{Uri: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp.GetVolume(), func() string { return a.style.Volume(resp.GetVolume()) })
		}),
	}
}

func (a *app) volumeResize() *cobra.Command {
	var bytes size
	cmd := &cobra.Command{
		Use: "resize URI --size SIZE", Short: "Set a volume's size",
		Long:    "Set a volume's size. A volume that a domain has as a disk is resized with tenonctl disk resize.",
		Example: "  tenonctl volume resize fast/vm1 --size 40G",
		Args:    needs("URI"), ValidArgsFunction: a.complete(a.volumeURIs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.volumes()
		if err != nil {
			return err
		}
		return change(ctx, a, client.ResizeVolume, &tenonv1.ResizeVolumeRequest{RequestId: a.requestID, Uri: args[0], SizeBytes: int64(bytes)})
	})
	cmd.Flags().Var(&bytes, "size", "the new size, such as 40G")
	must(cmd.MarkFlagRequired("size"))
	return cmd
}

func (a *app) volumeClone() *cobra.Command {
	var bytes size
	var full bool
	var props []string
	cmd := &cobra.Command{
		Use:   "clone SOURCE DESTINATION [--size SIZE] [--full] [-p key=value]...",
		Short: "Make a writable volume from a volume or snapshot of the same device",
		Example: "  tenonctl volume clone fast/golden fast/vm1\n" +
			"  tenonctl volume clone fast/vm1@before-upgrade fast/vm1-test --full",
		Args: needs("SOURCE", "DESTINATION"), ValidArgsFunction: a.complete(a.objectURIs, a.deviceURIs),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		properties, err := properties(props)
		if err != nil {
			return err
		}
		client, err := a.volumes()
		if err != nil {
			return err
		}
		return change(ctx, a, client.CloneVolume, &tenonv1.CloneVolumeRequest{
			RequestId: a.requestID, SourceUri: args[0], DestinationUri: args[1], SizeBytes: int64(bytes), Full: full, Properties: properties,
		})
	})
	cmd.Flags().Var(&bytes, "size", "the clone's size; at least the source's, which is the default")
	cmd.Flags().BoolVar(&full, "full", false, "make a clone that does not depend on its source")
	propertyFlags(cmd, &props, nil)
	return cmd
}

func (a *app) volumeDelink() *cobra.Command {
	return a.delink(&cobra.Command{
		Short:   "Take a volume away and keep its data as a tombstone",
		Long:    "Take a volume out of sight and keep its data as a tombstone, which relink brings back and destroy\nreleases. Nothing is destroyed by itself, whatever --keep says.",
		Example: "  tenonctl volume delink fast/vm1\n  tenonctl volume delink fast/vm1 --keep 720h",
	}, a.volumeURIs, func(ctx context.Context, uri string, keep *durationpb.Duration) error {
		client, err := a.volumes()
		if err != nil {
			return err
		}
		return change(ctx, a, client.DelinkVolume, &tenonv1.DelinkVolumeRequest{RequestId: a.requestID, Uri: uri, Keep: keep})
	})
}

func (a *app) volumeRelink() *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use: "relink URI | relink DEVICE TOMBSTONE", Short: "Bring a delinked volume or snapshot back",
		Long: "Bring a delinked volume or snapshot back, named by the URI that it had or, where several had it, by\n" +
			"device and tombstone as tenonctl volume list DEVICE --tombstones shows them.",
		Example: "  tenonctl volume relink fast/vm1\n  tenonctl volume relink fast 01j9x2 --as fast/vm1-old",
		Args:    oneOf("URI", "DEVICE TOMBSTONE"), ValidArgsFunction: a.completeTombstone(),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		device, id, err := a.tombstone(ctx, args)
		if err != nil {
			return a.repeated(ctx, "relink", err)
		}
		client, err := a.volumes()
		if err != nil {
			return err
		}
		return change(ctx, a, client.RelinkVolume, &tenonv1.RelinkVolumeRequest{RequestId: a.requestID, Device: device, TombstoneId: id, Uri: as})
	})
	cmd.Flags().StringVar(&as, "as", "", "the `URI` that it gets; empty: the one that it had")
	return cmd
}

func (a *app) volumeDestroy() *cobra.Command {
	return a.destroy(&cobra.Command{
		Short: "Release a delinked volume's data for ever",
		Long: "Release the data of a delinked volume or snapshot for ever. It is named by the URI that it had or,\n" +
			"where several had it, by device and tombstone. A volume that was not delinked cannot be destroyed.",
		Example: "  tenonctl volume delink fast/vm1 && tenonctl volume destroy fast/vm1\n" +
			"  tenonctl volume destroy fast 01j9x2 --erase zero",
	}, func(ctx context.Context, device, id string, erase tenonv1.Erase) error {
		client, err := a.volumes()
		if err != nil {
			return err
		}
		return change(ctx, a, client.DestroyVolume, &tenonv1.DestroyVolumeRequest{RequestId: a.requestID, Device: device, TombstoneId: id, Erase: erase})
	})
}
