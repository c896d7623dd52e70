// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

func (a *app) disk() *cobra.Command {
	return noun("disk", "Disks of domains", a.diskAttach(), a.diskDetach(), a.diskList(), a.diskMove(), a.diskResize())
}

func (a *app) disks() (tenonv1.DiskServiceClient, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	return tenonv1.NewDiskServiceClient(conn), nil
}

func (a *app) diskAttach() *cobra.Command {
	var readOnly bool
	var bus string
	cmd := &cobra.Command{
		Use: "attach URI DOMAIN [--read-only] [--bus BUS]", Short: "Give a volume or snapshot to a domain as a disk",
		Long: "Give a volume or snapshot to a domain as a disk: to the running domain, and to its definition so that\n" +
			"the disk is there after the next start. A snapshot is always read-only.",
		Example: "  tenonctl disk attach fast/vm1 web01\n  tenonctl disk attach fast/vm1@before-upgrade web01 --read-only",
		Args:    needs("URI", "DOMAIN"), ValidArgsFunction: a.complete(a.objectURIs, a.domainNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.disks()
		if err != nil {
			return err
		}
		return change(ctx, a, client.AttachDisk, &tenonv1.AttachDiskRequest{
			RequestId: a.requestID, Uri: args[0], Domain: args[1], ReadOnly: readOnly, Bus: bus,
		})
	})
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "let the domain only read")
	cmd.Flags().StringVar(&bus, "bus", "", "`BUS` is virtio or scsi; empty: virtio")
	must(cmd.RegisterFlagCompletionFunc("bus", cobra.FixedCompletions([]string{"virtio", "scsi"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (a *app) diskDetach() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "detach DOMAIN DISK [--wait TIME]", Short: "Take a disk from a domain",
		Long: "Take a disk from a domain. The disk is named by its id, its target such as vdb, or its volume's URI.\n" +
			"The guest has to let go of it; when it does not in time the command fails, and the disk may yet go.",
		Example: "  tenonctl disk detach web01 vdb\n  tenonctl disk detach web01 fast/vm1 --wait 2m",
		Args:    needs("DOMAIN", "DISK"), ValidArgsFunction: a.completeDisk(),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.disks()
		if err != nil {
			return err
		}
		return change(ctx, a, client.DetachDisk, &tenonv1.DetachDiskRequest{
			RequestId: a.requestID, Domain: args[0], Disk: args[1], Timeout: duration(wait),
		})
	})
	cmd.Flags().DurationVar(&wait, "wait", 0, "the `TIME` that the guest may take; 0: as tenond is configured")
	return cmd
}

func (a *app) allDisks(ctx context.Context, domain string) (*tenonv1.ListDisksResponse, error) {
	client, err := a.disks()
	if err != nil {
		return nil, err
	}
	all := new(tenonv1.ListDisksResponse)
	return all, pages(func(token string) (*tenonv1.ListDisksResponse, error) {
		return client.ListDisks(ctx, &tenonv1.ListDisksRequest{Domain: domain, PageToken: token})
	}, func(p *tenonv1.ListDisksResponse) { all.Disks = append(all.Disks, p.GetDisks()...) })
}

func (a *app) diskList() *cobra.Command {
	return &cobra.Command{
		Use: "list DOMAIN", Short: "List the disks of a domain, tenon's and others", Example: "  tenonctl disk list web01",
		Args: needs("DOMAIN"), ValidArgsFunction: a.complete(a.domainNames),
		RunE: run(func(ctx context.Context, args []string) error {
			all, err := a.allDisks(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printList(all, len(all.GetDisks()), "no disks of "+args[0], func() string { return show.Disks(all.GetDisks()) })
		}),
	}
}

func (a *app) diskResize() *cobra.Command {
	var bytes size
	cmd := &cobra.Command{
		Use: "resize DOMAIN DISK --size SIZE", Short: "Grow a disk and make the domain see it",
		Long:    "Grow the volume of a disk and make the running domain see it. The disk is named by its id, its target\nsuch as vdb, or its volume's URI.",
		Example: "  tenonctl disk resize web01 vdb --size 40G",
		Args:    needs("DOMAIN", "DISK"), ValidArgsFunction: a.completeDisk(),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		client, err := a.disks()
		if err != nil {
			return err
		}
		return change(ctx, a, client.ResizeDisk, &tenonv1.ResizeDiskRequest{
			RequestId: a.requestID, Domain: args[0], Disk: args[1], SizeBytes: int64(bytes),
		})
	})
	cmd.Flags().Var(&bytes, "size", "the new size, such as 40G")
	must(cmd.MarkFlagRequired("size"))
	return cmd
}

// sourceKept is how long the volume that a disk leaves is kept.
const sourceKept = period(7 * 24 * time.Hour)

// period is a flag that takes days beside what a duration takes.
type period time.Duration

// String prints the value for the help.
func (p *period) String() string {
	const day = 24 * time.Hour
	if d := time.Duration(*p); d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	return time.Duration(*p).String()
}

// Set reads what was typed.
func (p *period) Set(text string) error {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return fmt.Errorf("%q: expected a number of days, such as 7d", text)
		}
		*p = period(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q: expected a time above 0, such as 36h or 7d", text)
	}
	*p = period(d)
	return nil
}

// Type is the placeholder in the help.
func (p *period) Type() string { return "TIME" }

func (a *app) diskMove() *cobra.Command {
	var also []string
	var bandwidth size
	keep := sourceKept
	cmd := &cobra.Command{
		Use:   "move DOMAIN DISK DEVICE[/VOLUME] [--also DISK=DEVICE[/VOLUME]]... [--bandwidth SIZE] [--keep TIME]",
		Short: "Take a disk of a running domain to another device",
		Long: "Take a disk of a running domain, with its bytes, to a new volume on another device while the guest goes\n" +
			"on. Without VOLUME the new one is called as the old one. The guest sees the same disk throughout. With\n" +
			"--also more disks of the domain go along: all are copied before the first is switched.\n\n" +
			"Until then tenonctl operation cancel leaves everything as it was. The volume that the disk leaves is\n" +
			"never destroyed; it becomes a tombstone, which tenonctl volume relink brings back.",
		Example: "  tenonctl disk move web01 vdb slow\n  tenonctl disk move web01 vdb slow/vm1-data --bandwidth 50M\n" +
			"  tenonctl disk move web01 vdb slow --also vdc=slow",
		Args: needs("DOMAIN", "DISK", "DEVICE[/VOLUME]"), ValidArgsFunction: a.completeMove(),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		r := &tenonv1.MoveDiskRequest{
			RequestId: a.requestID, Domain: args[0], Disk: args[1], To: args[2], BandwidthBytes: int64(bandwidth),
			Keep: duration(time.Duration(keep)),
		}
		for _, pair := range also {
			disk, to, ok := strings.Cut(pair, "=")
			if !ok || disk == "" || to == "" {
				return usagef("--also %q: expected DISK=DEVICE or DISK=DEVICE/VOLUME", pair)
			}
			r.Also = append(r.Also, &tenonv1.DiskDestination{Disk: disk, To: to})
		}
		client, err := a.disks()
		if err != nil {
			return err
		}
		return change(ctx, a, client.MoveDisk, r)
	})
	cmd.Flags().StringArrayVar(&also, "also", nil, "one more disk, as `DISK=DEVICE[/VOLUME]`; can be repeated")
	cmd.Flags().Var(&bandwidth, "bandwidth", "copy at most so many bytes per second and disk, such as 50M")
	cmd.Flags().Var(&keep, "keep", "the `TIME` for which what the disk leaves should be kept, such as 36h or 7d")
	return cmd
}
