// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

func (a *app) driver() *cobra.Command {
	return noun("driver", "The kinds of storage that tenond can use",
		&cobra.Command{
			Use: "list", Short: "List the drivers", Example: "  tenonctl driver list",
			Args: needs(), RunE: run(func(ctx context.Context, _ []string) error { return a.driverList(ctx) }),
		},
		&cobra.Command{
			Use: "show DRIVER", Short: "Show a driver and its properties", Example: "  tenonctl driver show dir",
			Args: needs("DRIVER"), ValidArgsFunction: a.complete(a.driverNames),
			RunE: run(func(ctx context.Context, args []string) error { return a.driverShow(ctx, args[0]) }),
		},
		&cobra.Command{
			Use: "schema DRIVER", Short: "Print a driver's properties as JSON Schema (2020-12)",
			Example: "  tenonctl driver schema dir > dir.schema.json",
			Args:    needs("DRIVER"), ValidArgsFunction: a.complete(a.driverNames),
			RunE: run(func(ctx context.Context, args []string) error { return a.driverSchema(ctx, args[0]) }),
		},
	)
}

func (a *app) drivers() (tenonv1.DriverServiceClient, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	return tenonv1.NewDriverServiceClient(conn), nil
}

func (a *app) allDrivers(ctx context.Context) (*tenonv1.ListDriversResponse, error) {
	client, err := a.drivers()
	if err != nil {
		return nil, err
	}
	all := new(tenonv1.ListDriversResponse)
	return all, pages(func(token string) (*tenonv1.ListDriversResponse, error) {
		return client.ListDrivers(ctx, &tenonv1.ListDriversRequest{PageToken: token})
	}, func(p *tenonv1.ListDriversResponse) { all.Drivers = append(all.Drivers, p.GetDrivers()...) })
}

func (a *app) driverList(ctx context.Context) error {
	all, err := a.allDrivers(ctx)
	if err != nil {
		return err
	}
	return a.printList(all, len(all.GetDrivers()), "no drivers", func() string { return show.Drivers(all.GetDrivers()) })
}

func (a *app) driverShow(ctx context.Context, name string) error {
	client, err := a.drivers()
	if err != nil {
		return err
	}
	resp, err := client.GetDriver(ctx, &tenonv1.GetDriverRequest{Name: name})
	if err != nil {
		return err
	}
	return a.print(resp.GetDriver(), func() string { return show.Driver(resp.GetDriver()) })
}

// driverSchema prints the schema itself, which is JSON already.
func (a *app) driverSchema(ctx context.Context, name string) error {
	client, err := a.drivers()
	if err != nil {
		return err
	}
	resp, err := client.GetDriverSchema(ctx, &tenonv1.GetDriverSchemaRequest{Name: name})
	if err != nil {
		return err
	}
	text := resp.GetJsonSchema()
	if !json.Valid([]byte(text)) {
		return failf(tenonv1.ErrorCode_ERROR_CODE_INTERNAL, "", "tenond sent a schema of driver %s that is not JSON", name)
	}
	if a.output == "yaml" {
		asYAML, err := yaml.JSONToYAML([]byte(text))
		if err != nil {
			return fmt.Errorf("schema as YAML: %w", err)
		}
		text = string(asYAML)
	}
	_, err = io.WriteString(a.env.Out, strings.TrimRight(text, "\n")+"\n")
	return err
}
