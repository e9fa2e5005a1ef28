package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/cdr"
	"rtm/rating"
	"rtm/tenant"
)

func cdrCommand() *cobra.Command {
	return group("cdr", "show charging records", cdrList(), cdrTail())
}

func (r *remote) records(ctx context.Context, q url.Values) ([]cdr.Record, error) {
	var out struct{ Records []cdr.Record }
	err := r.call(ctx, "GET", "/v1/records?"+q.Encode(), nil, nil, &out)
	return out.Records, err
}

// subscriberLike is an account named by one of its identities.
var subscriberLike = regexp.MustCompile(`^\+?[0-9]+$|^[a-z]+:`)

const recordHeader = "TIME\tTYPE\tACCOUNT\tSESSION\tUSED, CREDITED\tCHARGED\tWHY"

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
	r, p := &remote{}, &pages{}
	var kind, of, account, session, since, until string
	l := lister[cdr.Record]{path: "/v1/records", key: "records", header: recordHeader, row: recordRow, backward: true}
	cmd := &cobra.Command{
		Use: "list", Short: "list the newest records", Args: cobra.NoArgs,
		Long: `List the newest records, the newest last; a table of --all has the newest first. Each page is read from
the newest record files back. With --until, files written more than an hour later are not looked at.
What happens is in a record file some seconds later; rtm explain also tells what is not in one yet.`,
		Example: "  rtm cdr list --type final --since 24h --all -o json\n  rtm cdr list --account lab/imsi-001010000000001 --limit 20",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kind != "" && !slices.Contains(recordTypes, kind) {
				return exitError{fmt.Errorf("--type: there is no %q: it is one of %s", kind, strings.Join(recordTypes, ", ")), exitUsage}
			}
			if account != "" && subscriberLike.MatchString(account) {
				var s api.Subscriber
				if err := r.call(cmd.Context(), "GET", "/v1/subscribers/"+url.PathEscape(account), nil, nil, &s); err != nil {
					return err
				}
				account = s.Tenant + "/" + s.Account
			}
			q := url.Values{"type": {kind}, "tenant": {of}, "account": {account}, "session": {session}}
			for flag, text := range map[string]string{"since": since, "until": until} {
				at, err := moment(text, time.Now())
				if err != nil {
					return exitError{fmt.Errorf("--%s: %w", flag, err), exitUsage}
				}
				q.Set(flag, at)
			}
			return l.show(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), r, p, q)
		},
	}
	f := cmd.Flags()
	f.StringVar(&kind, "type", "", strings.Join(recordTypes[:len(recordTypes)-1], ", ")+" or "+recordTypes[len(recordTypes)-1])
	f.StringVar(&of, "tenant", "", "only those of this tenant")
	f.StringVar(&account, "account", "", "only those of this account, tenant/account, IMSI, MSISDN or identity")
	f.StringVar(&session, "session", "", "only those of this Session-Id")
	f.StringVar(&since, "since", "", "only those of this time on: RFC 3339, or so long ago, such as 90m")
	f.StringVar(&until, "until", "", "only those before this time, likewise")
	offer(cmd, "type", oneOf(recordTypes))
	offer(cmd, "tenant", r.completion(tenantNames))
	offer(cmd, "account", r.completion(subscriberTitles))
	offer(cmd, "session", r.completion(sessionNames))
	return watchable(r.bind(p.bind(cmd)))
}

// moment is a time as the server takes it; empty: none.
func moment(text string, now time.Time) (string, error) {
	if text == "" {
		return "", nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago).UTC().Format(time.RFC3339Nano), nil
	}
	if _, err := time.Parse(time.RFC3339, text); err != nil {
		return "", fmt.Errorf("%q is neither a time such as 2027-01-01T00:00:00Z nor how long ago, such as 90m", text)
	}
	return text, nil
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
