// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

func (a *app) operation() *cobra.Command {
	return noun("operation", "What tenond does, or did",
		a.operationList(), a.operationShow(), a.operationWait(), a.operationCancel(), a.operationWatch())
}

func (a *app) operations() (tenonv1.OperationServiceClient, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	return tenonv1.NewOperationServiceClient(conn), nil
}

// operationStates are the words of --state.
var operationStates = map[string]tenonv1.OperationState{
	"running":   tenonv1.OperationState_OPERATION_STATE_RUNNING,
	"succeeded": tenonv1.OperationState_OPERATION_STATE_SUCCEEDED,
	"failed":    tenonv1.OperationState_OPERATION_STATE_FAILED,
	"cancelled": tenonv1.OperationState_OPERATION_STATE_CANCELLED,
}

func (a *app) allOperations(ctx context.Context, filter *tenonv1.ListOperationsRequest) (*tenonv1.ListOperationsResponse, error) {
	client, err := a.operations()
	if err != nil {
		return nil, err
	}
	all := new(tenonv1.ListOperationsResponse)
	return all, pages(func(token string) (*tenonv1.ListOperationsResponse, error) {
		filter.PageToken = token
		return client.ListOperations(ctx, filter)
	}, func(p *tenonv1.ListOperationsResponse) { all.Operations = append(all.Operations, p.GetOperations()...) })
}

func (a *app) operationList() *cobra.Command {
	var states []string
	var kind, subject string
	cmd := &cobra.Command{
		Use: "list [--state STATE]... [--kind KIND] [--subject URI]", Short: "List operations, the newest first",
		Example: "  tenonctl operation list --state running\n  tenonctl operation list --kind volume --subject fast/vm1",
		Args:    needs(),
	}
	cmd.RunE = run(func(ctx context.Context, _ []string) error {
		filter := &tenonv1.ListOperationsRequest{Kind: kind, Subject: subject}
		for _, s := range states {
			state, ok := operationStates[s]
			if !ok {
				return usagef("--state %q: expected running, succeeded, failed or cancelled", s)
			}
			filter.States = append(filter.States, state)
		}
		all, err := a.allOperations(ctx, filter)
		if err != nil {
			return err
		}
		return a.printList(all, len(all.GetOperations()), "no operations",
			func() string { return a.style.Operations(all.GetOperations(), a.env.Now()) })
	})
	cmd.Flags().StringSliceVar(&states, "state", nil, "only operations in this `STATE`: running, succeeded, failed, cancelled")
	cmd.Flags().StringVar(&kind, "kind", "", "only operations of this `KIND`, such as volume.create or volume")
	cmd.Flags().StringVar(&subject, "subject", "", "only operations on this `URI`")
	must(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"running", "succeeded", "failed", "cancelled"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (a *app) operationShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show an operation", Example: "  tenonctl operation show 0193a1b2c3d4-k5l6m7n8",
		Args: needs("ID"), ValidArgsFunction: a.complete(a.operationIDs),
		RunE: run(func(ctx context.Context, args []string) error {
			op, err := a.getOperation(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(op, func() string { return a.style.Operation(op, a.env.Now()) })
		}),
	}
}

func (a *app) getOperation(ctx context.Context, id string) (*tenonv1.Operation, error) {
	client, err := a.operations()
	if err != nil {
		return nil, err
	}
	resp, err := client.GetOperation(ctx, &tenonv1.GetOperationRequest{Id: id})
	return resp.GetOperation(), err
}

func (a *app) operationWait() *cobra.Command {
	return &cobra.Command{
		Use: "wait ID", Short: "Wait for the end of an operation",
		Long:    "Wait for the end of an operation and print what came of it. The exit code is 1 if it did not succeed.",
		Example: "  tenonctl operation wait 0193a1b2c3d4-k5l6m7n8 --timeout 10m",
		Args:    needs("ID"), ValidArgsFunction: a.complete(a.runningIDs),
		RunE: run(func(ctx context.Context, args []string) error {
			op, err := a.getOperation(ctx, args[0])
			if err != nil {
				return err
			}
			return a.follow(ctx, op)
		}),
	}
}

func (a *app) operationCancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel ID", Short: "End an operation and take back what it did",
		Long:    "End an operation, take back what it did, and wait until that is done. An operation that came to its end\nbefore stays as it is.",
		Example: "  tenonctl operation cancel 0193a1b2c3d4-k5l6m7n8",
		Args:    needs("ID"), ValidArgsFunction: a.complete(a.runningIDs),
		RunE: run(func(ctx context.Context, args []string) error { return a.cancelOperation(ctx, args[0]) }),
	}
}

func (a *app) cancelOperation(ctx context.Context, id string) error {
	client, err := a.operations()
	if err != nil {
		return err
	}
	resp, err := client.CancelOperation(ctx, &tenonv1.CancelOperationRequest{RequestId: a.requestID, Id: id})
	if err != nil {
		return err
	}
	op := resp.GetOperation()
	if !a.async {
		if op, err = a.wait(ctx, op); err != nil {
			return err
		}
	}
	return a.print(op, func() string { return a.style.OperationLine(op) })
}

func (a *app) operationWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch [ID]", Short: "Print each change of an operation, or of all of them",
		Long: "Print a line for each change of an operation until its end, or of all operations until interrupted.\n" +
			"With -o json each line is an object.",
		Example: "  tenonctl operation watch\n  tenonctl operation watch -o json | jq -r .state",
		Args:    atMost("ID"), ValidArgsFunction: a.complete(a.runningIDs),
		RunE: run(func(ctx context.Context, args []string) error {
			id := ""
			if len(args) == 1 {
				id = args[0]
			}
			return a.watchOperations(ctx, id)
		}),
	}
}

func (a *app) watchOperations(ctx context.Context, id string) error {
	var printErr error
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	told := &news{now: a.env.Now, told: make(map[string]telling)}
	_, err := a.watch(watching, id, func(op *tenonv1.Operation) {
		if a.output == "table" && !told.worth(op) {
			return
		}
		if printErr = a.printChange(op); printErr != nil {
			cancel()
		}
	})
	switch {
	case printErr != nil:
		return printErr
	case ctx.Err() != nil && id == "":
		return nil // a watch of everything has no other end
	case ctx.Err() != nil:
		return failf(tenonv1.ErrorCode_ERROR_CODE_CANCELLED, "", "%s; operation %s goes on in tenond", ended(ctx), id)
	}
	return err
}

// watchPause is how soon people are told again of an operation that only came
// further in the same step. Programs are told everything.
const watchPause = time.Second

// news decides which changes people are told of.
type news struct {
	now  func() time.Time
	told map[string]telling
}

type telling struct {
	state, step string
	at          time.Time
}

// worth reports whether op is worth a line, and remembers that it got one.
func (n *news) worth(op *tenonv1.Operation) bool {
	is := telling{state: op.GetState().String(), step: op.GetStep(), at: n.now()}
	was, known := n.told[op.GetId()]
	if known && was.state == is.state && was.step == is.step && is.at.Sub(was.at) < watchPause {
		return false
	}
	n.told[op.GetId()] = is
	return true
}

// printChange writes one change, in a form in which many can follow each other.
func (a *app) printChange(op *tenonv1.Operation) error {
	var text string
	var err error
	switch a.output {
	case "json":
		text, err = show.JSONLine(op)
	case "yaml":
		text, err = show.YAML(op)
		text = "---\n" + text
	default:
		text = a.style.OperationLine(op)
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(a.env.Out, text)
	return err
}
