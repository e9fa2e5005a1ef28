package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/store/redis"
)

func doctorRedisCommand() *cobra.Command {
	c, file := defaults(), ""
	r := &remote{}
	cmd := &cobra.Command{
		Use: "redis [URL]", Short: "explain a Redis set-up, and what it can promise", Args: cobra.MaximumNArgs(1),
		Long: `Look at every server and Sentinel of a set-up: roles, settings, memory, clocks; then say for each mode of
durability whether this set-up can keep it, what it may lose all the same, and what to set where it cannot.
Nothing is written. The URL may also come from --store or the settings; it is one of
` + redis.Forms + `.

Exit code 1: the mode that is wanted (--durability, or the default) cannot be kept.`,
		Example: `  rtm doctor redis redis://127.0.0.1:6379
  rtm doctor redis redis+sentinel://127.0.0.1:26379,127.0.0.1:26380,127.0.0.1:26381/rtm
  rtm doctor redis redis+cluster://127.0.0.1:7001 --durability safe-1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if err := cmd.Flags().Set("store", args[0]); err != nil {
					return err
				}
			}
			if err := c.load(cmd, file); err != nil {
				return exitError{err, exitUsage}
			}
			d := &doctor{config: c}
			d.promises(cmd.Context())
			return d.print(cmd.OutOrStdout(), r)
		},
	}
	c.bind(cmd, &file)
	cmd.Flags().StringVarP(&r.format, "output", "o", "table", "table, json or yaml")
	return cmd
}

// promises looks at a Redis set-up, and says what it can promise.
func (d *doctor) promises(ctx context.Context) {
	wanted, err := redis.Check(d.config.Store, redis.Mode(d.config.Durability))
	if err != nil {
		d.fail("url", "write one of "+redis.Forms, "%v", err)
		return
	}
	r, err := redis.Examine(ctx, redis.Config{URL: d.config.Store, Mode: wanted})
	if r != nil {
		for i := range r.Nodes {
			d.server(&r.Nodes[i])
		}
		for _, w := range r.Sentinels {
			d.ok("sentinel", "%s knows %d others, calls a node down after %s, and needs %d to agree", w.Addr, w.Others, w.DownAfter, w.Quorum)
		}
	}
	if err != nil {
		d.fail("redis", "start it, or name another; rtm reaches "+redis.Shown(d.config.Store), "%v", err)
		return
	}
	for _, doubt := range r.Doubts() {
		d.warn("redis", doubt.Mend, "%s %s", doubt.Who, doubt.Text)
	}
	for _, m := range redis.Modes {
		if _, err := redis.Check(d.config.Store, m); err != nil {
			continue // it is not for this kind of set-up
		}
		why := r.Refuses(m)
		switch {
		case why == nil && m == wanted:
			d.ok(string(m), "is what rtm would run in: %s", m.Loses())
		case why == nil:
			d.ok(string(m), "would be possible: %s", m.Loses())
		case m == wanted:
			d.fail(string(m), "set that, or choose another mode with --durability", "cannot be promised: %v", why)
		default:
			d.warn(string(m), "set that, if it is wanted", "cannot be promised: %v", why)
		}
	}
}

// server notes what one redis-server is.
func (d *doctor) server(n *redis.Server) {
	var is []string
	switch {
	case !n.AOF:
		is = append(is, "keeps no append-only file")
	default:
		is = append(is, "writes to disk "+n.Fsync)
	}
	is = append(is, "memory policy "+n.Policy)
	if n.Role == "replica" {
		is = append(is, "replica of "+n.Master)
	}
	d.ok("redis", "%s is a %s, version %s: %s", n.Addr, n.Role, n.Version, strings.Join(is, ", "))
	if n.Skew.Abs() > clockWarn {
		d.note(clockLevel(n.Skew.Abs()), "clock", "set the one that is wrong, by NTP", "that of %s and this machine's differ by %s", n.Addr, n.Skew.Abs().Round(100*time.Millisecond))
	}
}
