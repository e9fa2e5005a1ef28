package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/backup"
	"rtm/store"
	"rtm/store/embed"
	"rtm/store/redis"
)

// mover is one run of rtm migrate.
type mover struct {
	remote
	to     string
	finish string
	told   io.Writer
}

func migrateCommand() *cobra.Command {
	m := &mover{}
	cmd := &cobra.Command{
		Use: "migrate --to STORE", Short: "move a running server from the embedded store to Redis", Args: cobra.NoArgs,
		Long: `Have the server at --api move from its embedded store to an empty store, usually Redis, while it serves: it
copies everything, reads the copy again and compares it, copies what has changed meanwhile, and then lets
requests wait for the moment in which it copies the rest and switches: 1.5 s at most, else it is given up.
Sessions, timers and record files go on.

Until the switch the old store is the truth: whatever fails, and also if this command is interrupted or the
server dies, the server goes on with it, the copy is refused by every server, and the move can be tried
again. After it the old directory is refused: start the server with the new --store from then on.

If the server dies in the very moment of the switch, the old directory says that its data has moved, and
the new store that it was not taken into service: --finish does that.`,
		Example: "  rtm migrate --to redis://127.0.0.1:6379\n  rtm migrate --to redis://127.0.0.1:6379 --finish rtm-data",
		RunE: func(cmd *cobra.Command, _ []string) error {
			m.told = cmd.ErrOrStderr()
			if err := checkStore(m.to, ""); err != nil {
				return exitError{fmt.Errorf("--to: %w", err), exitUsage}
			}
			if m.finish != "" {
				return m.complete(cmd.Context(), cmd.OutOrStdout())
			}
			return m.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&m.to, "to", "", "the empty store: the URL of a Redis as rtm serve --store takes it, or embedded:DIR (required)")
	cmd.Flags().StringVar(&m.finish, "finish", "", "the old directory, whose data has moved to --to: take that into service")
	cmd.MarkFlagRequired("to")
	return m.bind(cmd)
}

func (m *mover) run(ctx context.Context, stdout io.Writer) error {
	body, err := json.Marshal(map[string]string{"to": m.to})
	if err != nil {
		return err
	}
	res, err := m.stream(ctx, "POST", "/v1/migrate", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b := newBar(m.told)
	defer b.end()
	switching := false
	for d := json.NewDecoder(res.Body); ; {
		var l api.MigrateLine
		err := d.Decode(&l)
		switch {
		case err != nil && switching:
			return exitError{fmt.Errorf("the server broke off in the moment of the switch (%w): its log, or rtm doctor, says on which store it is", err), exitUnreachable}
		case err != nil && ctx.Err() != nil:
			return errors.New("given up: the server stays on its old store, and the copy is refused until it is tried again")
		case err != nil:
			return exitError{fmt.Errorf("the server broke off before the switch (%w): it stays on its old store; try again", err), exitUnreachable}
		case l.Error != "":
			return fmt.Errorf("%s\nthe server stays on its old store", l.Error)
		case l.Result != nil:
			b.end()
			if err := m.print(stdout, l.Result, func(w io.Writer) { m.table(w, l.Result) }); err != nil {
				return err
			}
			if l.Result.Unfinished != "" {
				return fmt.Errorf("the server is on the new store, which could not be marked as being in service: %s\nrun rtm migrate --to %s --finish with the old directory, when that store answers", l.Result.Unfinished, l.Result.To)
			}
			return nil
		case l.Progress != nil:
			switching = l.Stage == backup.Switching
			b.show(*l.Progress)
		}
	}
}

func (m *mover) table(w io.Writer, r *backup.Result) {
	fmt.Fprintf(w, "moved to %s: %d records, %d events, compared; %d records that changed meanwhile\n", r.To, r.Records, r.Events, r.Again)
	fmt.Fprintf(w, "requests waited %s\n", r.Pause.Round(time.Millisecond))
	fmt.Fprintf(w, "from now on: rtm serve --store %s\n", r.To)
}

// complete takes the new store into service if the old one says that its data is
// there.
func (m *mover) complete(ctx context.Context, stdout io.Writer) error {
	dir := strings.TrimPrefix(m.finish, "embedded:")
	from, err := embed.Marked(embed.Config{Dir: dir, Log: logger(m.told)})
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := marked(ctx, m.to, m.told)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := backup.Finish(ctx, from, to); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s is in service\n", redis.Shown(m.to))
	return nil
}

// marked opens a store whatever its mark says.
func marked(ctx context.Context, where string, log io.Writer) (store.Portable, error) {
	if dir, ok := strings.CutPrefix(where, "embedded:"); ok {
		return embed.Marked(embed.Config{Dir: dir, Log: logger(log)})
	}
	return redis.Marked(ctx, redis.Config{URL: where, Log: logger(log)})
}
