package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/rating"
	"rtm/tenant"
)

func subscriberCommand() *cobra.Command {
	return group("subscriber", "add, list and show subscribers", subscriberAdd(), subscriberList(), subscriberShow(), subscriberReassign())
}

func subscriberList() *cobra.Command {
	r, p := &remote{}, &pages{}
	of, plan, open := "", "", false
	l := lister[api.Account]{
		path: "/v1/subscribers", key: "subscribers", header: "SUBSCRIBER\tPLAN\tMONEY\tSESSIONS\tIDENTITIES",
		row: func(w io.Writer, a *api.Account) {
			fmt.Fprintf(w, "%s/%s\t%s\t%s\t%d\t%s\n", a.Tenant, a.Account, a.Plan, a.Text, a.Sessions, strings.Join(a.Identities, " "))
		},
	}
	cmd := &cobra.Command{
		Use: "list", Short: "list subscribers", Args: cobra.NoArgs,
		Example: "  rtm subscriber list --tenant lab --open\n  rtm subscriber list --plan standard --all -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"tenant": {of}, "plan": {plan}, "open": {""}}
			if open {
				q.Set("open", "true")
			}
			return l.show(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), r, p, q)
		},
	}
	cmd.Flags().StringVar(&of, "tenant", "", "only those of this tenant")
	cmd.Flags().StringVar(&plan, "plan", "", "only those with this plan")
	cmd.Flags().BoolVar(&open, "open", false, "only those with open sessions")
	offer(cmd, "tenant", r.completion(tenantNames))
	offer(cmd, "plan", r.completion(planNames))
	return watchable(r.bind(p.bind(cmd)))
}

func subscriberAdd() *cobra.Command {
	r := &remote{}
	var s api.NewSubscriber
	cmd := &cobra.Command{
		Use: "add [IDENTITY…]", Short: "add a subscriber, or change its plan and identities",
		Example: "  rtm subscriber add --tenant lab --plan standard --imsi 001010000000042 --msisdn 491700000042 --balance 5.00",
		RunE: func(cmd *cobra.Command, args []string) error {
			s.Identities = args
			b, err := json.Marshal(s)
			if err != nil {
				return err
			}
			var c api.Change
			if err := r.call(cmd.Context(), "POST", "/v1/subscribers", nil, bytes.NewReader(b), &c); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), c, func(w io.Writer) { fmt.Fprintf(w, "%s\t%s\n", c.Name, c.What) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Tenant, "tenant", "", "tenant (required)")
	f.StringVar(&s.Plan, "plan", "", "plan (required)")
	f.StringVar(&s.IMSI, "imsi", "", "IMSI, 14 or 15 digits")
	f.StringVar(&s.MSISDN, "msisdn", "", "MSISDN in international form")
	f.StringVar(&s.Account, "account", "", "account; default from the first identity")
	f.StringVar(&s.Balance, "balance", "", "money a new account starts with")
	offer(cmd, "tenant", r.completion(tenantNames))
	offer(cmd, "plan", r.completion(planNames))
	cmd.MarkFlagRequired("tenant")
	cmd.MarkFlagRequired("plan")
	return r.bind(cmd)
}

func subscriberShow() *cobra.Command {
	r := &remote{}
	return watchable(r.bind(offerFirst(&cobra.Command{
		Use: "show SUBSCRIBER", Short: "show balances and open sessions of an IMSI, MSISDN or tenant/account", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s api.Subscriber
			if err := r.call(cmd.Context(), "GET", "/v1/subscribers/"+url.PathEscape(args[0]), nil, nil, &s); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), s, func(w io.Writer) { subscriberTable(w, &s) })
		},
	}, r.completion(subscriberNames))))
}

func subscriberTable(w io.Writer, s *api.Subscriber) {
	fmt.Fprintf(w, "%s/%s\tplan %s\t%s\n", s.Tenant, s.Account, s.Plan, strings.Join(s.Identities, " "))
	fmt.Fprintf(w, "BUCKET\tUNIT\tAVAILABLE\tRESERVED\tDEBITED\tCREDITED\tUNTIL\n")
	for _, b := range s.Buckets {
		name := fmt.Sprint(b.Number)
		if b.Allowance != "" {
			name += " " + b.Allowance
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, b.Unit, b.Text, amount(b.Reserved, b.Unit), amount(b.Debited, b.Unit), amount(b.Credited, b.Unit), b.Until)
	}
	for i := range s.Sessions {
		fmt.Fprintf(w, "session\t%s\t%d messages\tlast %s\n", s.Sessions[i].Session, s.Sessions[i].Messages, s.Sessions[i].Last.Format(time.RFC3339))
	}
}

func balanceCommand() *cobra.Command {
	r, key, unit, until, cause := &remote{}, "", "money", "", ""
	topup := &cobra.Command{
		Use: "topup SUBSCRIBER AMOUNT", Short: "credit money, or units", Args: cobra.ExactArgs(2),
		Long: `Credit an account. Money goes to its balance. Octets, seconds and events become a bucket of their own,
which pays for every service of that unit before money does; --until ends it. It is for crediting only.`,
		Example: "  rtm balance topup 001010000000001 9.99\n  rtm balance topup 001010000000001 '1 GiB' --unit octets --until 2027-01-01T00:00:00Z",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkTopUp(args[1], unit, until); err != nil {
				return err
			}
			if key == "" {
				var b [12]byte
				rand.Read(b[:])
				key = hex.EncodeToString(b[:])
			}
			in, err := json.Marshal(map[string]any{"amount": args[1], "unit": unit, "until": until, "cause": cause})
			if err != nil {
				return err
			}
			if until == "" {
				in = bytes.Replace(in, []byte(`,"until":""`), nil, 1)
			}
			var s api.Subscriber // the account, once: a number may get another owner before this is repeated
			if err := r.call(cmd.Context(), "GET", "/v1/subscribers/"+url.PathEscape(args[0]), nil, nil, &s); err != nil {
				return err
			}
			account := s.Tenant + "/" + s.Account
			var t api.TopUp
			h := http.Header{"Idempotency-Key": {key}}
			if err := r.call(cmd.Context(), "POST", "/v1/subscribers/"+url.PathEscape(account)+"/topups", h, bytes.NewReader(in), &t); err != nil {
				if no, ok := errors.AsType[refusal](err); ok && no.status < 500 {
					return err // it was certainly not carried out
				}
				return fmt.Errorf("%w\nrepeating it for %s with --key %s is safe: it is carried out once", err, account, key)
			}
			return r.print(cmd.OutOrStdout(), t, func(w io.Writer) {
				fmt.Fprintf(w, "%s\tbucket %d\t+%s\n", t.Subscriber, t.Bucket, args[1])
			})
		},
	}
	topup.Flags().StringVar(&key, "key", "", "name of this top-up: the same name is carried out once (default: drawn)")
	topup.Flags().StringVar(&unit, "unit", unit, "money, octets, seconds or events")
	topup.Flags().StringVar(&until, "until", "", "end of validity, RFC 3339")
	topup.Flags().StringVar(&cause, "cause", "", "reason, for the ledger")
	offer(topup, "unit", oneOf(unitNames))
	return group("balance", "change balances", r.bind(offerFirst(topup, r.completion(subscriberNames))))
}

var unitNames = []string{"money", "octets", "seconds", "events"}

// checkTopUp finds wrong values before the server is asked.
func checkTopUp(amount, unit, until string) error {
	for _, u := range []rating.Unit{rating.Money, rating.Octets, rating.Seconds, rating.Events} {
		if u.String() != unit {
			continue
		}
		if _, err := tenant.ParseQuantity(amount, u); err != nil {
			if u == rating.Money {
				err = fmt.Errorf("%w; for octets, seconds or events give --unit", err)
			}
			return exitError{fmt.Errorf("AMOUNT: %w", err), exitUsage}
		}
		if _, err := time.Parse(time.RFC3339, until); until != "" && err != nil {
			return exitError{fmt.Errorf("--until: %q is no time with its zone, such as 2027-01-01T00:00:00+01:00", until), exitUsage}
		}
		return nil
	}
	return exitError{fmt.Errorf("--unit is %s or %s, not %q", strings.Join(unitNames[:3], ", "), unitNames[3], unit), exitUsage}
}
