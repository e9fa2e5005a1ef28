package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/ctf"
)

// demoCommand tells the case on one screen.
func demoCommand() *cobra.Command {
	sessions, seconds := 5000, 45
	cmd := &cobra.Command{
		Use: "demo", Short: "see instances come and go under 5,000 sessions, and the books come out", Args: cobra.NoArgs,
		Long: `Run three instances on an embedded store in a directory of their own, play gateways against them, tear
one instance down, let a new one join, and compare at the end what the gateways reported with what was
debited and what is in the records.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &demo{out: cmd.OutOrStdout(), sessions: sessions, length: time.Duration(seconds) * time.Second}
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&sessions, "sessions", sessions, "how many sessions")
	cmd.Flags().IntVar(&seconds, "seconds", seconds, "over how many seconds they are spread")
	return cmd
}

// demo is one telling.
type demo struct {
	out      io.Writer
	sessions int
	length   time.Duration
	start    time.Time
	lab      *cluster
	sim      *ctf.Sim
	remote   remote
	traced   string
	trail    []string
	last     api.Session
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) run(ctx context.Context) error {
	d.start = time.Now()
	dir, err := os.MkdirTemp("", "rtm-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := defaults()
	c.HTTP, c.Records = "127.0.0.1:0", dir+"/records"
	log := slog.New(slog.DiscardHandler)
	st, err := openStore(ctx, "embedded:"+dir+"/data", log)
	if err != nil {
		return err
	}
	defer st.Close()
	d.lab = &cluster{config: c, store: st, learn: true, log: log}
	defer d.lab.leave()
	var targets []string
	for range 4 { // the fourth joins later: its address is kept free until then
		targets = append(targets, "")
	}
	for n := range 3 {
		i, err := d.lab.add(ctx, "127.0.0.1:0")
		if err != nil {
			return err
		}
		targets[n] = i.addrs[0]
	}
	free, err := listen([]string{"127.0.0.1:0"})
	if err != nil {
		return err
	}
	targets[3] = free[0].Addr().String()
	free[0].Close()
	stop, err := serveHTTP(&c, d.lab.live, d.lab.doors)
	if err != nil {
		return err
	}
	defer stop()
	d.remote = remote{url: "http://" + c.HTTP}
	d.say("three instances A, B, C on one embedded store; they keep no session in memory")
	return d.tell(ctx, targets, c.Records)
}

// tell plays, and lets things happen meanwhile.
func (d *demo) tell(ctx context.Context, targets []string, records string) error {
	p := &play{remote: d.remote, subscribers: 500, validity: 4 * time.Second, grace: time.Second, records: records, quiet: true}
	p.conf = ctf.Config{
		Targets: targets, Host: "gw.sim.localdomain", Realm: "sim.localdomain", Sessions: d.sessions, Updates: 4, Groups: 1,
		Rate: float64(d.sessions) / (d.length.Seconds() * 0.6), Hold: d.length / 12, Hop: true, Tx: 2 * time.Second, Abandon: d.sessions / 3,
		Seed: uint64(time.Now().Unix()),
	}
	owners, err := p.prepare(ctx)
	if err != nil {
		return err
	}
	before, err := p.balances(ctx, owners)
	if err != nil {
		return err
	}
	sim, err := ctf.New(p.conf)
	if err != nil {
		return err
	}
	sim.Patient = true // one target is not there yet
	d.sim = sim
	done := make(chan error, 1)
	go func() { done <- sim.Run(ctx) }()
	began := time.Now()
	err = d.watch(ctx, done, targets[3])
	if err != nil {
		return err
	}
	o := p.measure(sim, time.Since(began))
	o.Checks = nil
	d.say("%d messages, %d resent by gateways, p99 %s; %d sessions were left by a silent gateway: waiting for their timers",
		o.Messages, o.Resent, o.P99.Round(100*time.Microsecond), sim.Counts.Abandoned.Load())
	p.verify(ctx, o, sim, owners, before)
	return d.close(o)
}

// watch reports every few seconds, and lets instances go and come.
func (d *demo) watch(ctx context.Context, done chan error, fourth string) error {
	tick := time.NewTicker(d.length / 9)
	defer tick.Stop()
	messages := int64(0)
	at := time.Now()
	for n := 1; ; n++ {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		switch n {
		case 4:
			d.lab.instances[0].kill()
			d.say("A is torn down in the middle of it: connections cut, nothing handed over")
		case 6:
			if _, err := d.lab.add(ctx, fourth); err != nil {
				return err
			}
			d.say("D joins, and takes its share")
		}
		now := d.sim.Counts.Answered.Load()
		rate := float64(now-messages) / time.Since(at).Seconds()
		messages, at = now, time.Now()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		d.say("%4d sessions open  %5.0f messages/s  %d resent  memory, gateways and store included, %d MiB  %s", d.sim.OpenCount(), rate,
			d.sim.Counts.Resent.Load(), m.HeapAlloc>>20, d.trace(ctx))
	}
}

// trace shows one session, with the instance of each message.
func (d *demo) trace(ctx context.Context) string {
	if d.traced == "" {
		ids := d.sim.Open(1)
		if len(ids) == 0 {
			return ""
		}
		d.traced = ids[0]
	}
	var s api.Session
	if err := d.remote.call(ctx, "GET", "/v1/sessions/"+d.traced, nil, nil, &s); err != nil || len(s.Trail) == 0 {
		return "one session: " + strings.Join(d.trail, " ")
	}
	d.last, d.trail = s, nil
	for _, h := range s.Trail {
		d.trail = append(d.trail, h.Request[:1]+"→"+h.Instance)
	}
	return "one session: " + strings.Join(d.trail, " ")
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
	if len(d.last.Trail) > 0 {
		names := make([]string, 0, 4)
		for _, h := range d.last.Trail {
			if !slices.Contains(names, h.Instance) {
				names = append(names, h.Instance)
			}
		}
		fmt.Fprintf(d.out, "\nthat session: open %.0f s, %d messages, %d instances, instance time %.1f ms\n",
			d.last.Last.Sub(d.last.Opened).Seconds(), d.last.Messages, len(names), float64(d.last.Busy)/1000)
	}
	fmt.Fprintln(d.out, "\nnext: rtm dev, and in another terminal: rtm sim --sessions 1000")
	if o.failed() > 0 {
		return exitError{errors.New("the books do not agree"), exitFailed}
	}
	return nil
}
