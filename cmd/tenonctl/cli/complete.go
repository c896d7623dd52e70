// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// completionTime bounds a question to tenond: nobody waits longer for a TAB.
const completionTime = 2 * time.Second

// source proposes words for one argument, from what has been typed of it.
type source func(ctx context.Context, typed string) ([]string, error)

// completer is what cobra calls.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete proposes words for each argument in turn.
func (a *app) complete(sources ...source) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(sources) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return propose(cmd, sources[len(args)], typed)
	}
}

// completeAll proposes words for every argument, or for a flag.
func (a *app) completeAll(s source) completer {
	return func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return propose(cmd, s, typed)
	}
}

// propose asks a source. A name that ends in '/' has more to come, so the shell
// adds no space. Errors are silent: the command itself will tell them.
func propose(cmd *cobra.Command, s source, typed string) ([]string, cobra.ShellCompDirective) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	words, err := s(ctx, typed)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	directive := cobra.ShellCompDirectiveNoFileComp
	var fitting []string
	for _, w := range words {
		if !strings.HasPrefix(w, typed) {
			continue
		}
		fitting = append(fitting, w)
		if strings.HasSuffix(w, "/") {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
	}
	return fitting, directive
}

func (a *app) driverNames(ctx context.Context, _ string) (names []string, err error) {
	all, err := a.allDrivers(ctx)
	for _, d := range all.GetDrivers() {
		names = append(names, d.GetName())
	}
	return names, err
}

func (a *app) deviceNames(ctx context.Context, _ string) (names []string, err error) {
	all, err := a.allDevices(ctx)
	for _, d := range all.GetDevices() {
		names = append(names, d.GetName())
	}
	return names, err
}

// deviceURIs proposes devices for a URI whose rest is new.
func (a *app) deviceURIs(ctx context.Context, _ string) (uris []string, err error) {
	names, err := a.deviceNames(ctx, "")
	for _, n := range names {
		uris = append(uris, n+"/")
	}
	return uris, err
}

// volumeURIs proposes devices until there is a slash, then volumes.
func (a *app) volumeURIs(ctx context.Context, typed string) (uris []string, err error) {
	device, prefix, hasVolume := strings.Cut(typed, "/")
	if !hasVolume {
		return a.deviceURIs(ctx, typed)
	}
	all, err := a.allVolumes(ctx, device, prefix)
	for _, v := range all.GetVolumes() {
		uris = append(uris, show.Short(v.GetUri()))
	}
	return uris, err
}

// snapshotURIs proposes devices, then the snapshots of the device.
func (a *app) snapshotURIs(ctx context.Context, typed string) (uris []string, err error) {
	device, _, hasVolume := strings.Cut(typed, "/")
	if !hasVolume {
		return a.deviceURIs(ctx, typed)
	}
	all, err := a.allSnapshots(ctx, device)
	for _, s := range all.GetSnapshots() {
		uris = append(uris, show.Short(s.GetUri()))
	}
	return uris, err
}

// objectURIs proposes volumes and, once there is an '@', snapshots.
func (a *app) objectURIs(ctx context.Context, typed string) ([]string, error) {
	if strings.Contains(typed, "@") {
		return a.snapshotURIs(ctx, typed)
	}
	return a.volumeURIs(ctx, typed)
}

func (a *app) domainNames(ctx context.Context, _ string) (names []string, err error) {
	all, err := a.allDomains(ctx)
	for _, d := range all.GetDomains() {
		names = append(names, d.GetName())
	}
	return names, err
}

// completeDisk proposes a domain, then its disks by target.
func (a *app) completeDisk() completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return propose(cmd, a.domainNames, typed)
		}
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return propose(cmd, func(ctx context.Context, _ string) (targets []string, err error) {
			all, err := a.allDisks(ctx, args[0])
			for _, d := range all.GetDisks() {
				if d.GetId() != "" {
					targets = append(targets, d.GetTarget())
				}
			}
			return targets, err
		}, typed)
	}
}

// completeMove proposes a domain, its disks, and devices to take them to.
func (a *app) completeMove() completer {
	disk := a.completeDisk()
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 2 {
			return propose(cmd, a.deviceNames, typed)
		}
		return disk(cmd, args, typed)
	}
}

// completeTombstone proposes the URIs that tombstones had or, after a device,
// their ids.
func (a *app) completeTombstone() completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return propose(cmd, func(ctx context.Context, typed string) (words []string, err error) {
			device, _, hasVolume := strings.Cut(typed, "/")
			if len(args) == 1 {
				device = deviceOf(args[0])
			} else if !hasVolume {
				return a.deviceURIs(ctx, typed)
			}
			all, err := a.allTombstones(ctx, device)
			for _, t := range all.GetTombstones() {
				if len(args) == 1 {
					words = append(words, t.GetId())
				} else {
					words = append(words, show.Short(t.GetWas()))
				}
			}
			return words, err
		}, typed)
	}
}

func (a *app) operationIDs(ctx context.Context, _ string) ([]string, error) {
	return a.idsOf(ctx, new(tenonv1.ListOperationsRequest))
}

func (a *app) runningIDs(ctx context.Context, _ string) ([]string, error) {
	return a.idsOf(ctx, &tenonv1.ListOperationsRequest{States: []tenonv1.OperationState{tenonv1.OperationState_OPERATION_STATE_RUNNING}})
}

func (a *app) idsOf(ctx context.Context, filter *tenonv1.ListOperationsRequest) (ids []string, err error) {
	all, err := a.allOperations(ctx, filter)
	for _, op := range all.GetOperations() {
		ids = append(ids, op.GetId()+"\t"+op.GetKind()+" "+show.Short(op.GetSubject()))
	}
	return ids, err
}
