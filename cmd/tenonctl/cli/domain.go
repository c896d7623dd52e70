// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"

	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

func (a *app) domain() *cobra.Command {
	return noun("domain", "Virtual machines of this host",
		&cobra.Command{
			Use: "list", Short: "List the domains", Example: "  tenonctl domain list",
			Args: needs(), RunE: run(func(ctx context.Context, _ []string) error {
				all, err := a.allDomains(ctx)
				if err != nil {
					return err
				}
				return a.printList(all, len(all.GetDomains()), "no domains", func() string { return show.Domains(all.GetDomains()) })
			}),
		},
		&cobra.Command{
			Use: "show DOMAIN", Short: "Show a domain, what can be done to it, and its disks", Example: "  tenonctl domain show web01",
			Args: needs("DOMAIN"), ValidArgsFunction: a.complete(a.domainNames),
			RunE: run(func(ctx context.Context, args []string) error { return a.domainShow(ctx, args[0]) }),
		},
	)
}

func (a *app) allDomains(ctx context.Context) (*tenonv1.ListDomainsResponse, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	client := tenonv1.NewDomainServiceClient(conn)
	all := new(tenonv1.ListDomainsResponse)
	return all, pages(func(token string) (*tenonv1.ListDomainsResponse, error) {
		return client.ListDomains(ctx, &tenonv1.ListDomainsRequest{PageToken: token})
	}, func(p *tenonv1.ListDomainsResponse) { all.Domains = append(all.Domains, p.GetDomains()...) })
}

func (a *app) domainShow(ctx context.Context, name string) error {
	conn, err := a.conn()
	if err != nil {
		return err
	}
	resp, err := tenonv1.NewDomainServiceClient(conn).GetDomain(ctx, &tenonv1.GetDomainRequest{Domain: name})
	if err != nil {
		return err
	}
	if a.output != "table" {
		return a.print(resp.GetDomain(), nil)
	}
	disks, err := a.allDisks(ctx, resp.GetDomain().GetId())
	if err != nil {
		return err
	}
	return a.print(resp.GetDomain(), func() string { return show.Domain(resp.GetDomain(), disks.GetDisks()) })
}
