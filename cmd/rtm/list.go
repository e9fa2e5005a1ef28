package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// pageMax is how much one answer of the server holds.
const pageMax = 1000

// pages says how much of a list is wanted.
type pages struct {
	limit  int
	all    bool
	cursor string
}

func (p *pages) bind(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().IntVar(&p.limit, "limit", 100, "about how many: whole pages of the server are shown")
	cmd.Flags().BoolVar(&p.all, "all", false, "all there are")
	cmd.Flags().StringVar(&p.cursor, "cursor", "", "go on where the last line of another list says")
	return cmd
}

// A lister shows a list that the server gives in pages.
type lister[T any] struct {
	path     string // of the server
	key      string // of the items in its answer
	header   string
	row      func(w io.Writer, item *T)
	backward bool // pages go back in time, and each has its newest item last
}

// show asks for as many pages as p wants and prints them; the last line says how
// to go on. What it says beside a result goes to told.
func (l *lister[T]) show(ctx context.Context, out, told io.Writer, r *remote, p *pages, q url.Values) error {
	if p.limit < 1 {
		return exitError{fmt.Errorf("--limit must be 1 or more, not %d", p.limit), exitUsage}
	}
	stream := p.all && r.format == "table"
	kept, shown, cursor := []T{}, 0, p.cursor
	for {
		limit := pageMax
		if !p.all {
			limit = min(p.limit-shown, pageMax)
		}
		q.Set("limit", fmt.Sprint(limit))
		q.Set("cursor", cursor)
		items, next, err := l.page(ctx, r, q)
		if err != nil {
			return err
		}
		if l.backward {
			slices.Reverse(items)
		}
		if stream {
			if err := r.print(out, nil, func(w io.Writer) { l.rows(w, items, shown == 0) }); err != nil {
				return err
			}
		} else {
			kept = append(kept, items...)
		}
		cursor, shown = next, shown+len(items)
		if cursor == "" || !p.all && shown >= p.limit {
			break
		}
	}
	if l.backward {
		slices.Reverse(kept)
	}
	if !stream {
		if err := r.print(out, kept, func(w io.Writer) { l.rows(w, kept, true) }); err != nil {
			return err
		}
	}
	if shown == 0 && cursor == "" {
		fmt.Fprintln(told, "there are none")
	}
	if cursor != "" {
		if r.format == "table" {
			told = out
		}
		fmt.Fprintf(told, "… there are more: --cursor %s goes on, --all shows all\n", cursor)
	}
	return nil
}

func (l *lister[T]) rows(w io.Writer, items []T, first bool) {
	if first && l.header != "" {
		fmt.Fprintln(w, l.header)
	}
	for i := range items {
		l.row(w, &items[i])
	}
}

// page asks for one page.
func (l *lister[T]) page(ctx context.Context, r *remote, q url.Values) (items []T, next string, err error) {
	var answer map[string]json.RawMessage
	if err := r.call(ctx, "GET", l.path+"?"+given(q).Encode(), nil, nil, &answer); err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(answer[l.key], &items); err != nil {
		return nil, "", err
	}
	if c, ok := answer["cursor"]; ok {
		err = json.Unmarshal(c, &next)
	}
	return items, next, err
}

// given is q without what is empty.
func given(q url.Values) url.Values {
	out := make(url.Values)
	for k, v := range q {
		if v[0] != "" {
			out[k] = v
		}
	}
	return out
}

// Times of a watch.
const (
	watchEvery = 2 * time.Second
	watchLeast = 100 * time.Millisecond
)

// watchable lets a command be repeated until it is told to end.
func watchable(cmd *cobra.Command) *cobra.Command {
	every, run := time.Duration(0), cmd.RunE
	cmd.Flags().DurationVar(&every, "watch", 0, "again and again, that far apart, until ctrl-c")
	cmd.Flags().Lookup("watch").NoOptDefVal = watchEvery.String()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("watch"):
			return run(cmd, args)
		case every < watchLeast:
			return exitError{fmt.Errorf("--watch must be %s or more, such as --watch=5s", watchLeast), exitUsage}
		}
		return watch(cmd, every, func() error { return run(cmd, args) })
	}
	return cmd
}

// watch shows what look prints, again and again. A server that goes away after
// the first look may come back.
func watch(cmd *cobra.Command, every time.Duration, look func() error) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	between := ""
	switch {
	case isTerminal(out):
		between = "\x1b[H\x1b[2J"
		fmt.Fprint(out, between)
	case cmd.Flag("output").Value.String() == "yaml":
		between = "---\n"
	}
	defer cmd.SetOut(out)
	for first := true; ; first = false {
		var shown bytes.Buffer
		cmd.SetOut(&shown)
		err := look()
		e, _ := errors.AsType[exitError](err)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (first || e.code != exitUnreachable):
			return err
		case err != nil:
			fmt.Fprintln(cmd.ErrOrStderr(), "rtm:", err)
		default:
			if !first {
				fmt.Fprint(out, between)
			}
			if _, err := shown.WriteTo(out); err != nil {
				return err
			}
		}
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}
