// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// erases are the words of --erase.
var erases = map[string]tenonv1.Erase{
	"none": tenonv1.Erase_ERASE_NONE, "discard": tenonv1.Erase_ERASE_DISCARD, "zero": tenonv1.Erase_ERASE_ZERO,
}

func parseErase(text string) (tenonv1.Erase, error) {
	way, ok := erases[text]
	if !ok {
		return 0, usagef("--erase %q: expected none, discard or zero", text)
	}
	return way, nil
}

// delink makes the verb of one noun; do asks for it.
func (a *app) delink(cmd *cobra.Command, uris source, do func(ctx context.Context, uri string, keep *durationpb.Duration) error) *cobra.Command {
	var keep time.Duration
	cmd.Use, cmd.Args, cmd.ValidArgsFunction = "delink URI [--keep TIME]", needs("URI"), a.complete(uris)
	cmd.RunE = run(func(ctx context.Context, args []string) error { return do(ctx, args[0], duration(keep)) })
	cmd.Flags().DurationVar(&keep, "keep", 0, "the `TIME` for which the data should be kept; 0: until it is destroyed by hand")
	return cmd
}

// destroy makes the verb of one noun; do asks for it.
func (a *app) destroy(cmd *cobra.Command, do func(ctx context.Context, device, id string, erase tenonv1.Erase) error) *cobra.Command {
	var erase string
	cmd.Use, cmd.Args = "destroy URI | destroy DEVICE TOMBSTONE", oneOf("URI", "DEVICE TOMBSTONE")
	cmd.ValidArgsFunction = a.completeTombstone()
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		way, err := parseErase(erase)
		if err != nil {
			return err
		}
		device, id, err := a.tombstone(ctx, args)
		if err != nil {
			return a.repeated(ctx, "destroy", err)
		}
		return do(ctx, device, id, way)
	})
	cmd.Flags().StringVar(&erase, "erase", "none", "what becomes of the bytes: `WAY` is none, discard or zero")
	must(cmd.RegisterFlagCompletionFunc("erase", cobra.FixedCompletions([]string{"none", "discard", "zero"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// tombstone finds what the arguments name: DEVICE TOMBSTONE, or a URI that
// exactly one tombstone had.
func (a *app) tombstone(ctx context.Context, args []string) (device, id string, err error) {
	if len(args) == 2 {
		return deviceOf(args[0]), args[1], nil
	}
	was := show.Short(args[0])
	device = deviceOf(was)
	if !strings.Contains(was, "/") {
		return "", "", usagef("%q names a device; name the tombstone too, or give the URI that was delinked", args[0])
	}
	all, err := a.allTombstones(ctx, device)
	if err != nil {
		return "", "", err
	}
	found := slices.DeleteFunc(slices.Clone(all.GetTombstones()), func(t *tenonv1.Tombstone) bool { return show.Short(t.GetWas()) != was })
	switch len(found) {
	case 1:
		return device, found[0].GetId(), nil
	case 0:
		return "", "", failf(tenonv1.ErrorCode_ERROR_CODE_NOT_FOUND,
			"see what there is with tenonctl volume list "+device+" --tombstones; what was not delinked yet is delinked with tenonctl "+nounOf(was)+" delink "+was,
			"no tombstone of %s", was)
	}
	ids := make([]string, len(found))
	for i, t := range found {
		ids[i] = t.GetId()
	}
	return "", "", failf(tenonv1.ErrorCode_ERROR_CODE_INVALID,
		"name one of them: "+device+" "+strings.Join(ids, ", or "+device+" "),
		"%d tombstones were %s", len(found), was)
}

// repeated follows the operation that an earlier command began with the given
// request id. A tombstone that was named by its URI is not found any more once
// it has been relinked or destroyed, and the repeat must not fail for that.
func (a *app) repeated(ctx context.Context, verb string, notFound error) error {
	if e, ok := errors.AsType[*failure.Error](notFound); !ok || e.Failure.GetCode() != tenonv1.ErrorCode_ERROR_CODE_NOT_FOUND {
		return notFound
	}
	all, err := a.allOperations(ctx, &tenonv1.ListOperationsRequest{})
	if err != nil {
		return notFound
	}
	for _, op := range all.GetOperations() {
		if op.GetRequestId() == a.requestID && strings.HasSuffix(op.GetKind(), "."+verb) {
			return a.follow(ctx, op)
		}
	}
	return notFound
}

func nounOf(uri string) string {
	if strings.Contains(uri, "@") {
		return "snapshot"
	}
	return "volume"
}
