package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"rtm/rating"
	"rtm/tenant"
)

// question is what rtm rate is asked.
type question struct {
	file, at, quantity, media, network, called, apn string
	version, context, group, service                uint32
}

// A rated is its answer.
type rated struct {
	Plan     string     `json:"plan"`
	At       string     `json:"at"`
	Service  string     `json:"service,omitempty"`
	Until    string     `json:"until,omitempty"`
	Quantity string     `json:"quantity,omitempty"`
	Price    string     `json:"price,omitempty"`
	Steps    int64      `json:"steps,omitempty"`
	Cost     string     `json:"cost,omitempty"`
	Not      []passedBy `json:"not,omitempty"` // services before it, which do not apply
}

type passedBy struct {
	Service string `json:"service"`
	Why     string `json:"why"`
}

func rateCommand() *cobra.Command {
	r, q := &remote{}, question{}
	cmd := &cobra.Command{
		Use: "rate [TENANT/PLAN]", Short: "say what something costs by a plan, and why", Args: cobra.MaximumNArgs(1),
		Long: `Say which service of a plan applies to a message with these contents at that time, why those before it do
not, until when, and what a quantity costs by it. Nothing is charged. The plan is one that is in force, or the
only one of a file, before it is applied.`,
		Example: `  rtm rate lab/standard --rating-group 10 --quantity "5 MiB"
  rtm rate -f plan.yaml --context 32260 --called tel:+4915112345 --quantity "90 s" --at 2026-12-24T22:30:00+01:00`,
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, title, err := r.rated(cmd, args, &q)
			if err != nil {
				return err
			}
			f, err := q.facts(cmd)
			if err != nil {
				return exitError{err, exitUsage}
			}
			plan, err := doc.Compile(1)
			if err != nil {
				return err
			}
			out, err := rate(plan, f, q.quantity)
			if err != nil {
				return exitError{err, exitUsage}
			}
			out.Plan = title
			return r.print(cmd.OutOrStdout(), out, func(w io.Writer) { out.table(w) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&q.file, "file", "f", "", "a file with one plan, in place of one that is in force")
	f.Uint32Var(&q.version, "version", 0, "that version (default: the one in force)")
	f.Uint32Var(&q.context, "context", 32251, "number of the Service-Context-Id: 32251 data, 32260 calls, 32274 messages")
	f.Uint32Var(&q.group, "rating-group", 0, "Rating-Group (default: none)")
	f.Uint32Var(&q.service, "service-id", 0, "Service-Identifier (default: none)")
	f.StringVar(&q.apn, "apn", "", "Called-Station-Id")
	f.StringVar(&q.network, "network", "", "MCC and MNC of the serving network, such as 26201")
	f.StringVar(&q.called, "called", "", "who is called: a number, or its tel: or sip: URI")
	f.StringVar(&q.media, "media", "", "of a call: audio or video")
	f.StringVar(&q.at, "at", "", "when, such as 2026-12-24T22:30:00+01:00 (default: now)")
	f.StringVar(&q.quantity, "quantity", "", `how much, such as "5 MiB", "90 s" or "3"`)
	return r.bind(offerFirst(cmd, r.completion(planTitles)))
}

// rated is the plan that is asked about, and its title.
func (r *remote) rated(cmd *cobra.Command, args []string, q *question) (*tenant.PlanDoc, string, error) {
	switch {
	case (q.file == "") == (len(args) == 0):
		return nil, "", exitError{errors.New("name a plan that is in force, such as lab/standard, or a file with --file"), exitUsage}
	case q.file == "":
		p, err := r.plan(cmd.Context(), args[0], q.version)
		if err != nil {
			return nil, "", err
		}
		return p.Document, fmt.Sprintf("%s version %d", args[0], p.Version), nil
	}
	text, err := os.ReadFile(q.file)
	if err != nil {
		return nil, "", exitError{err, exitUsage}
	}
	docs, err := tenant.Parse(q.file, text)
	if err != nil {
		return nil, "", err
	}
	if len(docs.Plans) != 1 {
		return nil, "", exitError{fmt.Errorf("%s has %d plans: one is needed", q.file, len(docs.Plans)), exitUsage}
	}
	p := &docs.Plans[0]
	return p, fmt.Sprintf("%s/%s of %s", p.Tenant, p.Name, q.file), nil
}

func (q *question) facts(cmd *cobra.Command) (*rating.Facts, error) {
	f := &rating.Facts{
		Context: q.context, Group: q.group, Service: q.service, HasGroup: cmd.Flags().Changed("rating-group"), HasService: cmd.Flags().Changed("service-id"),
		APN: []byte(q.apn), PLMN: []byte(q.network), Called: []byte(q.called), At: time.Now(),
	}
	switch q.media {
	case "":
	case "audio":
		f.Media = rating.Audio
	case "video":
		f.Media = rating.Audio | rating.Video
	default:
		return nil, fmt.Errorf("--media %q must be audio or video", q.media)
	}
	if q.at != "" {
		at, err := time.Parse(time.RFC3339, q.at)
		if err != nil {
			return nil, fmt.Errorf("--at %q must be a time with its zone, such as 2026-12-24T22:30:00+01:00", q.at)
		}
		f.At = at
	}
	return f, nil
}

// rate answers; quantity may be empty.
func rate(plan *rating.Plan, f *rating.Facts, quantity string) (*rated, error) {
	zone := time.UTC
	if plan.Zone != nil {
		zone = plan.Zone
	}
	shown := func(t time.Time) string { return t.In(zone).Format("Mon 2006-01-02 15:04:05 MST") }
	out := &rated{At: shown(f.At)}
	price, until, ok := plan.Price(f)
	if !until.IsZero() {
		out.Until = shown(until)
	}
	for i := range plan.Services {
		why := plan.Why(i, f)
		if why == "" {
			break
		}
		out.Not = append(out.Not, passedBy{plan.Services[i].Name, why})
	}
	if !ok {
		return out, nil
	}
	out.Service = price.Name
	out.Price = fmt.Sprintf("%s per %s, in steps of %s", tenant.FormatMoney(price.Micro), tenant.FormatQuantity(price.Per, price.Unit), tenant.FormatQuantity(price.Step, price.Unit))
	if price.NoMoney {
		out.Price = "allowances alone pay for it"
	}
	if quantity == "" {
		return out, nil
	}
	n, err := tenant.ParseQuantity(quantity, price.Unit)
	if err != nil {
		return nil, fmt.Errorf("--quantity: %w", err)
	}
	out.Quantity = tenant.FormatQuantity(n, price.Unit)
	cost, ok := price.Total(n)
	if !ok {
		return nil, fmt.Errorf("--quantity: %s cost more than can be counted", out.Quantity)
	}
	if !price.NoMoney {
		out.Steps, out.Cost = (n+price.Step-1)/price.Step, tenant.FormatMoney(cost)
	}
	return out, nil
}

func (o *rated) table(w io.Writer) {
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, text)
		}
	}
	line("plan", o.Plan)
	line("at", o.At)
	for _, n := range o.Not {
		line("not", fmt.Sprintf("%s: %s", n.Service, n.Why))
	}
	if o.Service == "" {
		line("service", "none: it is answered 5031")
	}
	line("service", o.Service)
	line("until", o.Until)
	line("price", o.Price)
	line("quantity", o.Quantity)
	if o.Cost != "" {
		line("cost", fmt.Sprintf("%s, for %d begun steps", o.Cost, o.Steps))
	}
}
