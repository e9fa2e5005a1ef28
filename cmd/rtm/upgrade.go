package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
)

func upgradeCommand() *cobra.Command {
	c := group("upgrade", "see how far an upgrade has come, and finish it", upgradeStatus(), upgradeFinish())
	c.Long = `Instances of two versions of rtm serve the same sessions, so an upgrade needs no pause: stop one instance
(SIGTERM), start the new version in its place, wait until its peers are back with traffic, go on with the next.

The store has a level. What a new version adds to what is stored belongs to a level above the store's, and
is not written until the level rises; until then you can go back to the old version, one instance at a time.
The level rises when all live instances have known the next one for --settle of rtm serve (an hour), or at
once by rtm upgrade finish. It never falls: after that the old version refuses to start on this store.

An instance of an old version that was cut off meanwhile, and is back, answers 3002 to what is about accounts
that are above what it knows, sends its peers away, and is not ready (/readyz): stop it, and start the new version.`
	return c
}

func upgradeStatus() *cobra.Command {
	r := &remote{}
	return r.bind(&cobra.Command{
		Use: "status", Short: "show the store's level, and what level each instance knows", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l api.Level
			if err := r.call(cmd.Context(), "GET", "/v1/level", nil, nil, &l); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), l, func(w io.Writer) { levelTable(w, &l) })
		},
	})
}

func upgradeFinish() *cobra.Command {
	r := &remote{}
	return r.bind(&cobra.Command{
		Use: "finish", Short: "raise the store's level to what all live instances know: there is no way back", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l api.Level
			if err := r.call(cmd.Context(), "POST", "/v1/level", nil, nil, &l); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), l, func(w io.Writer) { levelTable(w, &l) })
		},
	})
}

// levelTable shows a level, and says what can be done next.
func levelTable(w io.Writer, l *api.Level) {
	fmt.Fprintln(w, "INSTANCE\tKNOWS LEVEL")
	most := l.Level
	for _, i := range l.Instances {
		fmt.Fprintf(w, "%s\t%d\n", i.Name, i.Level)
		most = max(most, i.Level)
	}
	since := ""
	if l.Since != nil {
		since = " since " + l.Since.Format(time.RFC3339)
	}
	fmt.Fprintf(w, "\nthe store is at level %d%s: ", l.Level, since)
	switch {
	case l.Next > l.Level && l.Settle != "":
		fmt.Fprintf(w, "it rises to %d when all have known that for %s, or by rtm upgrade finish\n", l.Next, l.Settle)
	case l.Next > l.Level:
		fmt.Fprintf(w, "rtm upgrade finish makes it %d\n", l.Next)
	case most > l.Level:
		var old []string
		for _, i := range l.Instances {
			if i.Level <= l.Level {
				old = append(old, i.Name)
			}
		}
		fmt.Fprintf(w, "upgrade %s, then it can rise to %d\n", strings.Join(old, " and "), most)
	default:
		fmt.Fprintln(w, "no instance knows a higher one")
	}
}
