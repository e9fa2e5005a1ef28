package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/cdr"
	"rtm/rating"
	"rtm/tenant"
)

// remote is a server's management interface, as the commands use it.
type remote struct {
	url    string
	format string
}

func (r *remote) bind(cmd *cobra.Command) *cobra.Command {
	base := "http://127.0.0.1:8868"
	if v := os.Getenv("RTM_API"); v != "" {
		base = v
	}
	cmd.Flags().StringVar(&r.url, "api", base, "the server's management interface")
	cmd.Flags().StringVarP(&r.format, "output", "o", "table", "table, json or yaml")
	return cmd
}

// A refusal is an answer of the server that says no.
type refusal struct {
	status int // of HTTP
	text   string
}

func (r refusal) Error() string { return r.text }

// call asks the server and decodes its answer into out, if that is not nil.
func (r *remote) call(ctx context.Context, method, path string, header http.Header, in io.Reader, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(r.url, "/")+path, in)
	if err != nil {
		return exitError{err, exitUsage}
	}
	req.Header = header
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if in != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return exitError{fmt.Errorf("no server at %s: %w; is rtm running, and is --api right?", r.url, err), exitUnreachable}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return exitError{err, exitUnreachable}
	}
	if res.StatusCode >= 300 {
		var p struct {
			Title, Detail string
			Errors        []struct{ Message, Location string }
		}
		if json.Unmarshal(b, &p) != nil || p.Detail == "" {
			return refusal{res.StatusCode, "the server answered " + res.Status}
		}
		text := p.Detail
		for _, e := range p.Errors {
			text += "\n  " + e.Location + ": " + e.Message
		}
		return refusal{res.StatusCode, text}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// print writes v as the user wants it; table writes it for people.
func (r *remote) print(w io.Writer, v any, table func(w io.Writer)) error {
	switch r.format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if b, err = yaml.JSONToYAML(b); err == nil {
			_, err = w.Write(b)
		}
		return err
	case "table":
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		table(t)
		return t.Flush()
	}
	return exitError{fmt.Errorf("output is table, json or yaml, not %q", r.format), exitUsage}
}

func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(subs...)
	return c
}

func applyCommand() *cobra.Command {
	r, file, dry := &remote{}, "", false
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "make tenants, plans, peers and subscribers what a file says", Args: cobra.NoArgs,
		Long: `Read YAML documents and make the server hold what they declare. The file is checked whole before
anything is written. Applying it again changes nothing; a plan that was edited becomes a new version.`,
		Example: "  rtm apply -f examples/lab.yaml\n  rtm apply -f - < plans.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return exitError{errors.New("name the file: rtm apply -f FILE"), exitUsage}
			}
			b, err := readFile(file, cmd.InOrStdin())
			if err != nil {
				return exitError{err, exitUsage}
			}
			if _, err := tenant.Parse(file, b); err != nil {
				return err
			}
			var changes []api.Change
			path := "/v1/apply?file=" + url.QueryEscape(file)
			if dry {
				path += "&dryRun=true"
			}
			h := http.Header{"Content-Type": {"application/yaml"}}
			if err := r.call(cmd.Context(), "POST", path, h, bytes.NewReader(b), &changes); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), changes, func(w io.Writer) {
				for _, c := range changes {
					fmt.Fprintf(w, "%s\t%s\t%s\n", c.Kind, c.Name, c.What)
				}
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file of YAML documents; - reads standard input")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would change in the catalogue")
	return r.bind(cmd)
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, api.BodyMax))
	}
	return os.ReadFile(name)
}

func subscriberCommand() *cobra.Command {
	return group("subscriber", "add and show subscribers", subscriberAdd(), subscriberShow(), subscriberReassign())
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
	cmd.MarkFlagRequired("tenant")
	cmd.MarkFlagRequired("plan")
	return r.bind(cmd)
}

func subscriberShow() *cobra.Command {
	r := &remote{}
	return r.bind(&cobra.Command{
		Use: "show SUBSCRIBER", Short: "show balances and open sessions of an IMSI, MSISDN or tenant/account", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s api.Subscriber
			if err := r.call(cmd.Context(), "GET", "/v1/subscribers/"+url.PathEscape(args[0]), nil, nil, &s); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), s, func(w io.Writer) { subscriberTable(w, &s) })
		},
	})
}

func subscriberTable(w io.Writer, s *api.Subscriber) {
	fmt.Fprintf(w, "%s/%s\tplan %s\t%s\n", s.Tenant, s.Account, s.Plan, strings.Join(s.Identities, " "))
	fmt.Fprintf(w, "BUCKET\tUNIT\tAVAILABLE\tRESERVED\tDEBITED\tCREDITED\tUNTIL\n")
	for _, b := range s.Buckets {
		name := fmt.Sprint(b.Number)
		if b.Allowance != "" {
			name += " " + b.Allowance
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", name, b.Unit, b.Text, b.Reserved, b.Debited, b.Credited, b.Until)
	}
	for i := range s.Sessions {
		fmt.Fprintf(w, "session\t%s\t%d messages\tlast %s\n", s.Sessions[i].Session, s.Sessions[i].Messages, s.Sessions[i].Last.Format(time.RFC3339))
	}
}

func balanceCommand() *cobra.Command {
	r, key, unit, until, cause := &remote{}, "", "money", "", ""
	topup := &cobra.Command{
		Use: "topup SUBSCRIBER AMOUNT", Short: "credit money, or units of an allowance", Args: cobra.ExactArgs(2),
		Example: "  rtm balance topup 001010000000001 9.99\n  rtm balance topup 001010000000001 '1 GiB' --unit octets --until 2027-01-01T00:00:00Z",
		RunE: func(cmd *cobra.Command, args []string) error {
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
			var t api.TopUp
			h := http.Header{"Idempotency-Key": {key}}
			if err := r.call(cmd.Context(), "POST", "/v1/subscribers/"+url.PathEscape(args[0])+"/topups", h, bytes.NewReader(in), &t); err != nil {
				if no, ok := errors.AsType[refusal](err); ok && no.status < 500 {
					return err // it was certainly not carried out
				}
				return fmt.Errorf("%w\nrepeating it with --key %s is safe: it is carried out once", err, key)
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
	return group("balance", "change balances", r.bind(topup))
}

func sessionCommand() *cobra.Command {
	return group("session", "show and prompt open sessions", sessionList(), sessionShow(),
		sessionPrompt("reauth", "ask the gateway of a session for a report now (RAR)"),
		sessionPrompt("abort", "ask the gateway of a session to end it (ASR)"))
}

func sessionList() *cobra.Command {
	r, limit := &remote{}, 100
	cmd := &cobra.Command{
		Use: "list", Short: "list open sessions", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct {
				Sessions []api.Session
				More     bool
			}
			if err := r.call(cmd.Context(), "GET", fmt.Sprintf("/v1/sessions?limit=%d", limit), nil, nil, &out); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), out.Sessions, func(w io.Writer) {
				fmt.Fprintf(w, "SESSION\tSUBSCRIBER\tOPENED\tMESSAGES\tLAST INSTANCE\n")
				for _, s := range out.Sessions {
					last := ""
					if n := len(s.Trail); n > 0 {
						last = s.Trail[n-1].Instance
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", s.Session, s.Identity, s.Opened.Format(time.RFC3339), s.Messages, last)
				}
				if out.More {
					fmt.Fprintf(w, "… more than %d: use --limit\n", limit)
				}
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "how many at most, up to 1000")
	return r.bind(cmd)
}

func sessionShow() *cobra.Command {
	r := &remote{}
	return r.bind(&cobra.Command{
		Use: "show SESSION", Short: "show a session: its groups, and which instance handled each message", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s api.Session
			if err := r.call(cmd.Context(), "GET", "/v1/sessions/"+url.PathEscape(args[0]), nil, nil, &s); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), s, func(w io.Writer) { sessionTable(w, &s) })
		},
	})
}

func sessionTable(w io.Writer, s *api.Session) {
	open := time.Since(s.Opened).Round(time.Second)
	busy := time.Duration(s.Busy) * time.Microsecond
	fmt.Fprintf(w, "%s\t%s\t%s/%s\tfrom %s\n", s.Session, s.Identity, s.Tenant, s.Account, s.Host)
	fmt.Fprintf(w, "open %s\t%d messages\tinstances worked on it %s\tcloses %s\n", open, s.Messages, busy, s.Closes.Format(time.RFC3339))
	fmt.Fprintf(w, "GROUP\tRESULT\tGRANTED\tUSED OCTETS\tSECONDS\tEVENTS\tCHARGED\n")
	for _, g := range s.Groups {
		name := "–"
		if g.RatingGroup != nil {
			name = fmt.Sprint(*g.RatingGroup)
		}
		fmt.Fprintf(w, "%s\t%d\t%d %s %s\t%d\t%d\t%d\t%d\n", name, g.Result, g.Granted, g.Unit, g.Final, g.Octets, g.Seconds, g.Events, g.Charged)
	}
	fmt.Fprintf(w, "MESSAGE\tREQUEST\tINSTANCE\tTIME\n")
	for _, h := range s.Trail {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", h.Number, h.Request, h.Instance, time.Duration(h.Micros)*time.Microsecond)
	}
	if s.Notice != "" {
		fmt.Fprintf(w, "asked its gateway to %s\n", s.Notice)
	}
}

func sessionPrompt(verb, short string) *cobra.Command {
	r := &remote{}
	return r.bind(&cobra.Command{
		Use: verb + " SESSION", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.call(cmd.Context(), "POST", "/v1/sessions/"+url.PathEscape(args[0])+"/"+verb, nil, strings.NewReader("{}"), nil)
		},
	})
}

func peerCommand() *cobra.Command {
	r := &remote{}
	return group("peer", "show who is connected", r.bind(&cobra.Command{
		Use: "list", Short: "list instances, and the peers connected to each", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct{ Instances []api.Instance }
			if err := r.call(cmd.Context(), "GET", "/v1/instances", nil, nil, &out); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), out.Instances, func(w io.Writer) {
				fmt.Fprintf(w, "INSTANCE\tPEER HOST\tREQUESTS\tBUSY\tPEERS\n")
				for _, i := range out.Instances {
					fmt.Fprintf(w, "%s\t%s\t%d\t%.2f %%\t%s\n", i.Name, i.PeerHost, i.Requests, 100*i.Busy, strings.Join(i.Peers, " "))
				}
			})
		},
	}))
}

func cdrCommand() *cobra.Command {
	return group("cdr", "show charging records", cdrList(), cdrTail())
}

func (r *remote) records(ctx context.Context, q url.Values) ([]cdr.Record, error) {
	var out struct{ Records []cdr.Record }
	err := r.call(ctx, "GET", "/v1/records?"+q.Encode(), nil, nil, &out)
	return out.Records, err
}

func recordRow(w io.Writer, rec *cdr.Record) {
	charged := int64(0)
	for _, l := range rec.Lines {
		charged += l.Charged
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", rec.At.Format(time.RFC3339), rec.Type, rec.Account, rec.Session,
		quantities(rec), tenant.FormatQuantity(charged, rating.Money), rec.Cause+rec.Text)
}

// quantities is what a record says was used or credited, such as "1048576 octets, 3 events".
func quantities(rec *cdr.Record) string {
	var octets, seconds, events int64
	for _, l := range rec.Lines {
		octets, seconds, events = octets+l.Octets, seconds+l.Seconds, events+l.Events
	}
	var out []string
	add := func(n int64, unit string) {
		if n != 0 {
			out = append(out, fmt.Sprintf("%d %s", n, unit))
		}
	}
	add(octets, rating.Octets.String())
	add(seconds, rating.Seconds.String())
	add(events, rating.Events.String())
	for _, m := range rec.Movements {
		switch {
		case m.Credit == 0:
		case m.Unit == rating.Money.String():
			out = append(out, "+"+tenant.FormatMoney(rating.Micros(m.Credit)))
		default:
			out = append(out, fmt.Sprintf("+%d %s", m.Credit, m.Unit))
		}
	}
	return strings.Join(out, ", ")
}

func cdrList() *cobra.Command {
	r, limit, kind, session := &remote{}, 100, "", ""
	cmd := &cobra.Command{
		Use: "list", Short: "list the newest records", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			recs, err := r.records(cmd.Context(), url.Values{"limit": {fmt.Sprint(limit)}, "type": {kind}, "session": {session}})
			if err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), recs, func(w io.Writer) {
				for i := range recs {
					recordRow(w, &recs[i])
				}
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "how many at most, up to 1000")
	cmd.Flags().StringVar(&kind, "type", "", "message, final, supplementary, event, ledger, released, unattributed, undelivered or provisioned")
	cmd.Flags().StringVar(&session, "session", "", "of this Session-Id")
	return r.bind(cmd)
}

func cdrTail() *cobra.Command {
	r := &remote{}
	return r.bind(&cobra.Command{
		Use: "tail", Short: "show records as they are written", Args: cobra.NoArgs,
		Long: "Show records as they are written, at most the newest 1,000 of each second: the record files hold them all.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			seen := make(map[string]bool)
			for first := true; ; first = false {
				recs, err := r.records(cmd.Context(), url.Values{"limit": {"1000"}})
				if err != nil {
					return err
				}
				now := make(map[string]bool, len(recs))
				for i := range recs {
					if now[recs[i].ID] = true; !seen[recs[i].ID] && !first {
						if err := r.print(cmd.OutOrStdout(), recs[i], func(w io.Writer) { recordRow(w, &recs[i]) }); err != nil {
							return err
						}
					}
				}
				seen = now
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		},
	})
}
