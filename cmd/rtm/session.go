package main

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
)

func sessionCommand() *cobra.Command {
	return group("session", "show and prompt open sessions", sessionList(), sessionShow(),
		sessionPrompt("reauth", "ask the gateway of a session for a report now (RAR)"),
		sessionPrompt("abort", "ask the gateway of a session to end it (ASR)"))
}

func sessionList() *cobra.Command {
	r, p := &remote{}, &pages{}
	var of, subscriber, host, apn string
	idle := time.Duration(0)
	l := lister[api.Session]{path: "/v1/sessions", key: "sessions", header: "SESSION\tSUBSCRIBER\tOPENED\tLAST\tMESSAGES\tLAST INSTANCE", row: sessionRow}
	cmd := &cobra.Command{
		Use: "list", Short: "list open sessions", Args: cobra.NoArgs,
		Example: "  rtm session list --subscriber 001010000000001\n  rtm session list --host smf.example.net --idle 30m --all",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"tenant": {of}, "subscriber": {subscriber}, "host": {host}, "apn": {apn}, "idle": {""}}
			if cmd.Flags().Changed("idle") {
				q.Set("idle", idle.String())
			}
			return l.show(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), r, p, q)
		},
	}
	f := cmd.Flags()
	f.StringVar(&of, "tenant", "", "only those of this tenant's subscribers")
	f.StringVar(&subscriber, "subscriber", "", "only those of this IMSI, MSISDN, identity or tenant/account")
	f.StringVar(&host, "host", "", "only those whose last message came from this Origin-Host")
	f.StringVar(&apn, "apn", "", "only those of this access point")
	f.DurationVar(&idle, "idle", 0, "only those of which nothing was heard for so long, such as 10m")
	offer(cmd, "tenant", r.completion(tenantNames))
	offer(cmd, "subscriber", r.completion(subscriberNames))
	offer(cmd, "host", r.completion(peerNames))
	return watchable(r.bind(p.bind(cmd)))
}

func sessionRow(w io.Writer, s *api.Session) {
	last := ""
	if n := len(s.Trail); n > 0 {
		last = s.Trail[n-1].Instance
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", s.Session, s.Identity, s.Opened.Format(time.RFC3339), s.Last.Format(time.RFC3339), s.Messages, last)
}

// session is how a command names one session to the server.
type session struct{ subscriber string }

func (s *session) bind(r *remote, cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&s.subscriber, "subscriber", "", "whose it is, as IMSI, MSISDN, identity or tenant/account: much faster on a large store")
	offer(cmd, "subscriber", r.completion(subscriberNames))
	return r.bind(offerFirst(cmd, r.completion(sessionNames)))
}

// path is that of a session, or of what is done with it, with what else is asked.
func (s *session) path(id, verb string, of url.Values) string {
	path := "/v1/sessions/" + url.PathEscape(id) + verb
	if s.subscriber != "" {
		of.Set("subscriber", s.subscriber)
	}
	if len(of) > 0 {
		path += "?" + of.Encode()
	}
	return path
}

// slow tells how the next question could be answered faster.
func (r *remote) slow(told io.Writer) {
	if r.walked {
		fmt.Fprintln(told, "found by looking at all accounts: --subscriber SUBSCRIBER is faster")
	}
}

func sessionShow() *cobra.Command {
	r, whose := &remote{}, &session{}
	return watchable(whose.bind(r, &cobra.Command{
		Use: "show SESSION", Short: "show a session: its groups, and which instance handled each message", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s api.Session
			if err := r.call(cmd.Context(), "GET", whose.path(args[0], "", url.Values{}), nil, nil, &s); err != nil {
				return err
			}
			r.slow(cmd.ErrOrStderr())
			return r.print(cmd.OutOrStdout(), s, func(w io.Writer) { sessionTable(w, &s) })
		},
	}))
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
		fmt.Fprintf(w, "asked its gateway to %s%s\n", s.Notice, ofGroup(s))
	}
}

// ofGroup says which rating group the gateway was asked for.
func ofGroup(s *api.Session) string {
	if s.NoticeGroup == nil {
		return ""
	}
	return fmt.Sprintf(" for rating group %d", *s.NoticeGroup)
}

func sessionPrompt(verb, short string) *cobra.Command {
	r, whose, group := &remote{}, &session{}, uint32(0)
	cmd := &cobra.Command{
		Use: verb + " SESSION", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			of := url.Values{}
			if cmd.Flags().Changed("rating-group") {
				of.Set("ratingGroup", fmt.Sprint(group))
			}
			if err := r.call(cmd.Context(), "POST", whose.path(args[0], "/"+verb, of), nil, strings.NewReader("{}"), nil); err != nil {
				return err
			}
			r.slow(cmd.ErrOrStderr())
			var s api.Session
			if err := r.call(cmd.Context(), "GET", whose.path(args[0], "", url.Values{}), nil, nil, &s); err != nil {
				fmt.Fprintln(cmd.OutOrStdout(), "the session has ended")
				return nil
			}
			said := "has answered"
			if s.Notice != "" {
				said = "is asked" + ofGroup(&s) + ", and has not answered yet: it is asked up to five times, as rtm session show tells"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\nwithout another word of it the session ends at %s\n", s.Host, said, s.Closes.Format(time.RFC3339))
			return nil
		},
	}
	if verb == "reauth" {
		cmd.Flags().Uint32Var(&group, "rating-group", 0, "for this Rating-Group alone (default all of the session)")
		cmd.Example = "  rtm session reauth 'smf.example;1;2' --rating-group 10"
	}
	return whose.bind(r, cmd)
}
