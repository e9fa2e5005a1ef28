package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/ctf"
)

// demoCommand tells the case on one screen.
func demoCommand() *cobra.Command {
	d := &demo{sessions: 5000, length: 45 * time.Second}
	onRedis := false
	cmd := &cobra.Command{
		Use: "demo", Short: "see instances come and go under 5,000 sessions, and the books come out", Args: cobra.NoArgs,
		Long: `Run three instances on one store in a directory of their own, play gateways against them, take one
instance away without a farewell, let a new one join, and compare at the end what the gateways
reported with what was debited and what is in the records.

The store is embedded, and the instances share this process; with --redis it is a redis-server of the
demo's own, each instance is a process, and the one that goes is killed with -9.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.out = cmd.OutOrStdout()
			return d.run(cmd.Context(), onRedis)
		},
	}
	cmd.Flags().IntVar(&d.sessions, "sessions", d.sessions, "how many sessions")
	cmd.Flags().DurationVar(&d.length, "length", d.length, "how long they go on")
	cmd.Flags().BoolVar(&onRedis, "redis", false, "on a redis-server, each instance a process")
	return cmd
}

// demo is one telling.
type demo struct {
	out      io.Writer
	sessions int
	length   time.Duration
	start    time.Time
	stage    stage
	targets  []string
	sim      *ctf.Sim
	remote   remote
	trail    []api.Handled // of the session that is watched
	last     api.Session
}

// abandonEvery is which session a silent gateway leaves.
const abandonEvery = 50

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) run(ctx context.Context, onRedis bool) error {
	d.start = time.Now()
	dir, err := os.MkdirTemp("", "rtm-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if onRedis {
		d.stage, err = newProcesses(ctx, dir)
	} else {
		d.stage, err = newInProcess(dir)
	}
	if err != nil {
		return err
	}
	defer d.stage.close()
	if d.targets, err = freeAddrs(4); err != nil { // the fourth joins later
		return err
	}
	for _, addr := range d.targets[:3] {
		if err := d.stage.add(ctx, addr); err != nil {
			return err
		}
	}
	d.remote = remote{url: d.stage.api()}
	if onRedis {
		d.say("three processes A, B, C on one redis-server; they keep no session in memory")
	} else {
		d.say("three instances A, B, C on one embedded store; they keep no session in memory")
	}
	return d.tell(ctx)
}

// tell plays, and lets things happen meanwhile.
func (d *demo) tell(ctx context.Context) error {
	hold := d.length / 12
	p := &play{remote: d.remote, subscribers: 500, validity: d.length / 4, grace: time.Second, records: d.stage.records(), quiet: true}
	p.conf = ctf.Config{
		Targets: d.targets, Host: "gw.sim.localdomain", Realm: "sim.localdomain", Sessions: d.sessions, Updates: 4, Watched: 13, Groups: 1,
		Rate: float64(d.sessions) / (d.length.Seconds() * 0.6), Hold: hold, Hop: true, Tx: 2 * time.Second, Abandon: abandonEvery,
		Patient: true, Seed: uint64(time.Now().Unix()),
	}
	owners, err := p.prepare(ctx)
	if err != nil {
		return err
	}
	before, err := p.balances(ctx, owners)
	if err != nil {
		return err
	}
	if d.sim, err = ctf.New(p.conf); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- d.sim.Run(ctx) }()
	began := time.Now()
	if err := d.watch(ctx, done); err != nil {
		return err
	}
	o := p.measure(d.sim, time.Since(began))
	d.say("%d messages, %d resent by gateways, p99 %s", o.Messages, o.Resent, o.P99.Round(100*time.Microsecond))
	if err := d.silent(ctx, p, owners); err != nil {
		return err
	}
	o.Checks = nil // what the demo shows of the matrix is the session above: D came late
	p.verify(ctx, o, d.sim, owners, before)
	d.say("the timers are through")
	return d.close(o)
}

// watch reports every few seconds, and lets instances go and come.
func (d *demo) watch(ctx context.Context, done chan error) error {
	tick := time.NewTicker(d.length / 9)
	defer tick.Stop()
	follow := time.NewTicker(d.length / 45)
	defer follow.Stop()
	messages, at := int64(0), time.Now()
	for n := 0; ; {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-follow.C:
			d.trace(ctx)
			continue
		case <-tick.C:
			n++
		}
		switch n {
		case 3:
			d.say("A is %s", d.stage.kill(0))
		case 5:
			if err := d.stage.add(ctx, d.targets[3]); err != nil {
				return err
			}
			d.say("D joins, and takes its share")
		}
		now := d.sim.Counts.Answered.Load()
		rate := float64(now-messages) / time.Since(at).Seconds()
		messages, at = now, time.Now()
		d.say("%4d sessions open, %4.0f messages/s, %d resent; %s; one session: %s", d.sim.OpenCount(), rate,
			d.sim.Counts.Resent.Load(), d.stage.memory(), d.story())
	}
}

// trace follows the session that goes on to the end, with the instance of each
// of its messages: a record remembers the last few.
func (d *demo) trace(ctx context.Context) {
	var s api.Session
	if err := d.remote.call(ctx, "GET", "/v1/sessions/"+d.sim.Watched(), nil, nil, &s); err != nil {
		return
	}
	d.last = s
	for _, h := range s.Trail {
		if len(d.trail) == 0 || h.Number > d.trail[len(d.trail)-1].Number {
			d.trail = append(d.trail, h)
		}
	}
}

func (d *demo) story() string {
	var b strings.Builder
	for _, h := range d.trail {
		fmt.Fprintf(&b, "%c→%s ", h.Request[0], h.Instance)
	}
	return b.String()
}

// silent tells of the sessions whose gateway said nothing more: what is held
// for them, until their timers give it back.
func (d *demo) silent(ctx context.Context, p *play, owners map[string]string) error {
	now, err := p.balances(ctx, owners)
	if err != nil {
		return err
	}
	open, held := 0, int64(0)
	for _, a := range now {
		open += a.sessions
		held += a.reserved
	}
	d.say("a silent gateway left %d sessions; %d of them are still open, %d octets still held: waiting for their timers",
		d.sim.Counts.Abandoned.Load(), open, held)
	return nil
}

// close shows the books.
func (d *demo) close(o *outcome) error {
	fmt.Fprintln(d.out)
	for _, c := range o.Checks {
		word := "ok  "
		if !c.OK {
			word = "FAIL"
		}
		fmt.Fprintf(d.out, "%s %s: %s\n", word, c.What, c.Text)
	}
	names := make(map[string]bool)
	for _, h := range d.trail {
		names[h.Instance] = true
	}
	fmt.Fprintf(d.out, "\nsession open %.0f s, %d messages, %d instances, instance time %.1f ms: %s\n",
		d.last.Last.Sub(d.last.Opened).Seconds(), d.last.Messages, len(names), float64(d.last.Busy)/1000, d.story())
	fmt.Fprintln(d.out, "next: bin/rtm dev, and in another terminal: bin/rtm sim --sessions 1000")
	if o.failed() > 0 {
		return exitError{errors.New("the books do not agree"), exitFailed}
	}
	return nil
}
