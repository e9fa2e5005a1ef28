package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
)

// Bounds of what the shell is offered.
const (
	offersMax = "1000" // … and so many it is asked for
)

// completeMax is how long the server may take; tests on a busy machine give it more.
var completeMax = 250 * time.Millisecond

// recordTypes are those of the record files.
var recordTypes = []string{"message", "final", "supplementary", "event", "ledger", "released", "unattributed", "undelivered", "provisioned", "audited", "unreadable"}

// names asks a server what a word can be. Only those that begin with prefix
// matter.
type names func(ctx context.Context, r *remote, cmd *cobra.Command, prefix string) ([]string, error)

// completion is what the shell is offered: what the server says in time, or
// nothing.
func (r *remote) completion(of names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) (words []string, _ cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completeMax)
		defer cancel()
		all, err := of(ctx, r, cmd, prefix)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return oneOf(all)(cmd, nil, prefix)
	}
}

// oneOf offers those of a few words that begin as what is written.
func oneOf(all []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, prefix string) (words []string, _ cobra.ShellCompDirective) {
		for _, word := range all {
			if strings.HasPrefix(word, prefix) {
				words = append(words, word)
			}
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// offer completes the values of a flag.
func offer(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag is not there
	}
}

// offerFirst completes the first argument.
func offerFirst(cmd *cobra.Command, f cobra.CompletionFunc) *cobra.Command {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, prefix)
	}
	return cmd
}

func sessionNames(ctx context.Context, r *remote, cmd *cobra.Command, _ string) (words []string, err error) {
	path := "/v1/sessions?limit=" + offersMax
	if f := cmd.Flag("subscriber"); f != nil && f.Value.String() != "" {
		path += "&" + query("subscriber", f.Value.String()).Encode()
	}
	var out api.SessionList
	err = r.call(ctx, "GET", path, nil, nil, &out)
	for i := range out.Sessions {
		words = append(words, out.Sessions[i].Session)
	}
	return words, err
}

// subscriberNames are the ways to name each subscriber; before the first letter,
// one of them.
func subscriberNames(ctx context.Context, r *remote, _ *cobra.Command, prefix string) (words []string, err error) {
	var out api.AccountList
	err = r.call(ctx, "GET", "/v1/subscribers?limit="+offersMax, nil, nil, &out)
	for _, s := range out.Subscribers {
		if prefix == "" {
			words = append(words, s.Tenant+"/"+s.Account)
			continue
		}
		for _, id := range s.Identities {
			if scheme, value, _ := strings.Cut(id, ":"); scheme == "imsi" || scheme == "msisdn" {
				words = append(words, value)
			}
			words = append(words, id)
		}
		words = append(words, s.Tenant+"/"+s.Account)
	}
	return words, err
}

func subscriberTitles(ctx context.Context, r *remote, cmd *cobra.Command, _ string) ([]string, error) {
	return subscriberNames(ctx, r, cmd, "")
}

func tenantNames(ctx context.Context, r *remote, _ *cobra.Command, _ string) (words []string, err error) {
	var out tenantsAnswer
	err = r.call(ctx, "GET", "/v1/tenants", nil, nil, &out)
	for _, t := range out.Tenants {
		words = append(words, t.Name)
	}
	return words, err
}

// planTitles are tenant/name.
func planTitles(ctx context.Context, r *remote, _ *cobra.Command, _ string) (words []string, err error) {
	var out struct{ Plans []api.Plan }
	err = r.call(ctx, "GET", "/v1/plans", nil, nil, &out)
	for _, p := range out.Plans {
		words = append(words, p.Tenant+"/"+p.Name)
	}
	return words, err
}

// planNames are those of the tenant that --tenant names, or of all.
func planNames(ctx context.Context, r *remote, cmd *cobra.Command, _ string) (words []string, err error) {
	titles, err := planTitles(ctx, r, cmd, "")
	for _, title := range titles {
		of, name, _ := strings.Cut(title, "/")
		if f := cmd.Flag("tenant"); f == nil || f.Value.String() == "" || f.Value.String() == of {
			words = append(words, name)
		}
	}
	return words, err
}

func peerNames(ctx context.Context, r *remote, _ *cobra.Command, _ string) (words []string, err error) {
	var out struct{ Peers []api.Peer }
	err = r.call(ctx, "GET", "/v1/peers", nil, nil, &out)
	for i := range out.Peers {
		words = append(words, out.Peers[i].Host)
	}
	return words, err
}
