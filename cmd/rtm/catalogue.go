package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/tenant"
)

// query is one value to ask with.
func query(key, value string) url.Values { return url.Values{key: {value}} }

// tenantsAnswer is what the server says of tenants.
type tenantsAnswer struct{ Tenants []tenant.Tenant }

func tenantCommand() *cobra.Command {
	return group("tenant", "show tenants", tenantList(), tenantShow())
}

func tenantList() *cobra.Command {
	r := &remote{}
	return watchable(r.bind(&cobra.Command{
		Use: "list", Short: "list tenants", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out tenantsAnswer
			if err := r.call(cmd.Context(), "GET", "/v1/tenants", nil, nil, &out); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), out.Tenants, func(w io.Writer) {
				fmt.Fprintln(w, "TENANT\tCURRENCY\tDESCRIPTION")
				for _, t := range out.Tenants {
					fmt.Fprintf(w, "%s\t%s\t%s\n", t.Name, t.Currency, t.Description)
				}
			})
		},
	}))
}

func tenantShow() *cobra.Command {
	r := &remote{}
	cmd := &cobra.Command{
		Use: "show NAME", Short: "show a tenant, its plans and its peers", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var t api.TenantDetails
			if err := r.call(cmd.Context(), "GET", "/v1/tenants/"+url.PathEscape(args[0]), nil, nil, &t); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), t, func(w io.Writer) {
				fmt.Fprintf(w, "tenant\t%s\ncurrency\t%s\n", t.Tenant.Name, t.Tenant.Currency)
				if t.Tenant.Description != "" {
					fmt.Fprintf(w, "description\t%s\n", t.Tenant.Description)
				}
				fmt.Fprintf(w, "plans\t%s\npeers\t%s\n", strings.Join(t.Plans, " "), strings.Join(t.Peers, " "))
			})
		},
	}
	return watchable(r.bind(offerFirst(cmd, r.completion(tenantNames))))
}

func planCommand() *cobra.Command {
	return group("plan", "show plans and their versions", planList(), planShow())
}

func planList() *cobra.Command {
	r, of := &remote{}, ""
	cmd := &cobra.Command{
		Use: "list", Short: "list plans, their versions, and which is in force", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct{ Plans []api.Plan }
			if err := r.call(cmd.Context(), "GET", "/v1/plans", nil, nil, &out); err != nil {
				return err
			}
			plans := slices.DeleteFunc(out.Plans, func(p api.Plan) bool { return of != "" && p.Tenant != of })
			return r.print(cmd.OutOrStdout(), plans, func(w io.Writer) {
				fmt.Fprintln(w, "PLAN\tVERSION\tFROM\tIN FORCE\tDESCRIPTION")
				for _, p := range plans {
					planRows(w, &p)
				}
			})
		},
	}
	cmd.Flags().StringVar(&of, "tenant", "", "only those of this tenant")
	offer(cmd, "tenant", r.completion(tenantNames))
	return watchable(r.bind(cmd))
}

func planRows(w io.Writer, p *api.Plan) {
	for _, v := range p.Versions {
		force := ""
		if v.InForce {
			force = "yes"
		}
		fmt.Fprintf(w, "%s/%s\t%d\t%s\t%s\t%s\n", p.Tenant, p.Name, v.Version, cmp.Or(v.From, "ever"), force, p.Description)
	}
}

// planDocument is a plan as rtm apply takes it.
type planDocument struct {
	Kind string `json:"kind"`
	*tenant.PlanDoc
}

func planShow() *cobra.Command {
	r, version := &remote{}, uint32(0)
	cmd := &cobra.Command{
		Use: "show TENANT/NAME", Short: "show a plan as the document that rtm apply takes", Args: cobra.ExactArgs(1),
		Long:    "Show a version of a plan: the one in force, or the one that --version names. Its defaults are written out.",
		Example: "  rtm plan show lab/standard > standard.yaml\n  rtm apply -f standard.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := r.plan(cmd.Context(), args[0], version)
			if err != nil {
				return err
			}
			doc := planDocument{"Plan", p.Document}
			if r.format == "json" {
				return r.print(cmd.OutOrStdout(), doc, nil)
			}
			if r.format == "table" {
				fmt.Fprintf(cmd.OutOrStdout(), "# %s\n", titleOf(p))
			}
			return writeYAML(cmd.OutOrStdout(), doc)
		},
	}
	cmd.Flags().Uint32Var(&version, "version", 0, "that version (default: the one in force)")
	return watchable(r.bind(offerFirst(cmd, r.completion(planTitles))))
}

func (r *remote) plan(ctx context.Context, title string, version uint32) (p *api.PlanDetails, err error) {
	of, name, ok := strings.Cut(title, "/")
	if !ok {
		return nil, exitError{fmt.Errorf("%q is no TENANT/NAME, such as lab/standard: rtm plan list shows all", title), exitUsage}
	}
	path := "/v1/plans/" + url.PathEscape(of) + "/" + url.PathEscape(name)
	if version != 0 {
		path += fmt.Sprintf("?version=%d", version)
	}
	return p, r.call(ctx, "GET", path, nil, nil, &p)
}

// titleOf says which version of how many that is.
func titleOf(p *api.PlanDetails) string {
	text := fmt.Sprintf("version %d of %d", p.Version, len(p.Plan.Versions))
	if i := int(p.Version) - 1; i < len(p.Plan.Versions) && p.Plan.Versions[i].InForce {
		text += ", in force"
	}
	return text
}

func peerCommand() *cobra.Command {
	return group("peer", "show who may connect, and who is connected", peerList(), peerShow())
}

func peerList() *cobra.Command {
	r := &remote{}
	return watchable(r.bind(&cobra.Command{
		Use: "list", Short: "list peers that are declared or connected", Args: cobra.NoArgs,
		Long: `List the peers that documents declare, with the instances they are connected to, and those that are
connected without a document of their own: they were learned, or let in by one for any host ("*"). Below them
are those whom this server has not let in of late, and what would.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct {
				Peers   []api.Peer
				Refused []api.Refusal
			}
			if err := r.call(cmd.Context(), "GET", "/v1/peers", nil, nil, &out); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), out.Peers, func(w io.Writer) {
				fmt.Fprintln(w, "PEER\tREALM\tDIALECT\tTENANTS\tSOURCES\tCONNECTED TO")
				for i := range out.Peers {
					p := &out.Peers[i]
					dialect := p.Dialect
					if !p.Declared {
						dialect = "(not declared)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Host, p.Realm, dialect, strings.Join(p.Tenants, " "),
						strings.Join(p.Sources, " "), strings.Join(p.Instances, " "))
				}
				for _, n := range out.Refused {
					fmt.Fprintf(w, "refused: %s of %s at %s\t\t\t\t%s\t%s: %s\n", cmp.Or(n.Host, "who did not say who it is"), cmp.Or(n.Realm, "no realm"), n.Instance, n.Address, n.Why, n.Fix)
				}
			})
		},
	}))
}

func peerShow() *cobra.Command {
	r := &remote{}
	cmd := &cobra.Command{
		Use: "show HOST", Short: "show what is known of a peer", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var out struct{ Peers []api.Peer }
			if err := r.call(cmd.Context(), "GET", "/v1/peers/"+url.PathEscape(args[0]), nil, nil, &out); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), out.Peers, func(w io.Writer) {
				for i := range out.Peers {
					peerTable(w, &out.Peers[i])
				}
			})
		},
	}
	return watchable(r.bind(offerFirst(cmd, r.completion(peerNames))))
}

func peerTable(w io.Writer, p *api.Peer) {
	fmt.Fprintf(w, "peer\t%s\n", p.Host)
	if p.Declared {
		fmt.Fprintf(w, "realm\t%s\ndialect\t%s\nanswers as\t%s\ntenants\t%s\nsources\t%s\ncertificate\t%s\nrelays\t%s\n", cmp.Or(p.Realm, "(any)"), p.Dialect, p.AnswerAs,
			strings.Join(p.Tenants, " "), strings.Join(p.Sources, " "), p.Certificate, strings.Join(p.Relays, " "))
	} else {
		fmt.Fprintf(w, "declared\tno: rtm apply a document of kind: Peer makes it known\n")
	}
	fmt.Fprintf(w, "connected to\t%s\n", cmp.Or(strings.Join(p.Instances, " "), "nobody"))
}

func instanceCommand() *cobra.Command {
	r := &remote{}
	return group("instance", "show the instances that are alive", watchable(r.bind(&cobra.Command{
		Use: "list", Short: "list instances, and the peers connected to each", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct{ Instances []api.Instance }
			if err := r.call(cmd.Context(), "GET", "/v1/instances", nil, nil, &out); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), out.Instances, func(w io.Writer) {
				fmt.Fprintln(w, "INSTANCE\tPEER HOST\tREQUESTS\tBUSY\tPEERS")
				for _, i := range out.Instances {
					peers := strings.Join(i.Peers, " ")
					if i.MorePeers {
						peers += " …"
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%.2f %%\t%s\n", i.Name, i.PeerHost, i.Requests, 100*i.Busy, peers)
				}
			})
		},
	})))
}
