package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rtm/api"
	"rtm/cdr"
	"rtm/ctf"
)

// simTenant is the tenant whose subscribers rtm sim plays.
const simTenant = "sim"

// simPlan costs one micro-unit an octet, a second of a call, a message, so that
// balances show every one of them.
const simPlan = `kind: Tenant
name: sim
currency: EUR
description: subscribers that rtm sim plays
---
kind: Plan
tenant: sim
name: octets
services:
  - {name: voice, contexts: [32260], unit: seconds, price: "1.00", per: 1000000 s, step: 1 s, quota: {size: 10 min, validity: %[1]d s}}
  - {name: message, contexts: [32274], unit: events, price: "1.00", per: 1000000, quota: {validity: %[1]d s}}
  - {name: data, unit: octets, price: "1.00", per: 1 MB, step: "1", quota: {size: 10 MB, threshold: "10%%", validity: %[1]d s}}
limits: {sessions: 1024}
grace: %[2]d s
---
kind: Peer
host: gw.sim.localdomain
sources: [127.0.0.0/8, "::1/128"]
via: [front.ocs.rtm.localdomain]
tenants: [sim]
`

// play is what rtm sim was asked to do.
type play struct {
	conf        ctf.Config
	remote      remote
	subscribers int
	accounts    int
	imsis       []string // subscribers that are there already, instead of sim's own
	records     string
	traceFile   string
	validity    time.Duration
	grace       time.Duration
	timeout     time.Duration
	asJSON      bool
	quiet       bool
	begun       func(*ctf.Sim) // told when the gateways are about to begin; nil: nobody is
}

func simCommand() *cobra.Command {
	p := &play{}
	p.conf = ctf.Config{Host: "gw.sim.localdomain", Realm: "sim.localdomain"}
	targets := ""
	cmd := &cobra.Command{
		Use: "sim --target ADDR[,ADDR…]", Short: "play gateways against servers, and check every cent", Args: cobra.NoArgs,
		Long: `Open sessions over real connections, report usage, resend what is lost, and compare: what the gateways'
own books say was acknowledged, what the balances say was debited, and what the record files say.
Subscribers of a tenant "sim" are made through the management interface; with --imsi others are played, by
a gateway of another name, and what they pay is for rtm explain to say.`,
		Example: `  rtm sim --target 127.0.0.20:3868 --sessions 1000
  rtm sim --target 127.0.0.20:3868,127.0.0.20:3869 --sessions 20000 --hop --dup --records rtm-dev/records
  rtm sim --imsi 001010000000001 --rating-group 10 --sessions 1 --updates 5 --hold 5s`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p.conf.Targets = strings.Split(targets, ",")
			return p.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&targets, "target", "127.0.0.20:3868", "instances to play against, with commas between")
	f.StringVar(&p.conf.Destination, "destination", "", "Destination-Realm, which a relay on the way goes by (default: the gateways' own)")
	f.IntVar(&p.conf.Sessions, "sessions", 1000, "how many sessions")
	f.IntVar(&p.conf.Updates, "updates", 2, "CCR-U per session")
	f.IntVar(&p.conf.Groups, "groups", 1, "rating groups per session")
	f.BoolVar(&p.conf.Mix, "mix", false, "half of the sessions of data, with one to five rating groups; the others calls, messages and refunds")
	f.IntVar(&p.conf.Parallel, "parallel", 64, "sessions at once, when there is no rate")
	f.Float64Var(&p.conf.Rate, "rate", 0, "sessions begun per second (0: as fast as they end)")
	f.DurationVar(&p.conf.Hold, "hold", 0, "pause between the messages of a session")
	f.StringSliceVar(&p.imsis, "imsi", nil, "play these subscribers, which the server has already, under the plans that they have")
	f.Uint32Var(&p.conf.Group, "rating-group", 1, "the first rating group; further ones follow it")
	f.IntVar(&p.subscribers, "subscribers", 500, "how many IMSIs")
	f.IntVar(&p.accounts, "accounts", 0, "how many accounts they share (0: each its own)")
	f.BoolVar(&p.conf.Hop, "hop", false, "send every message to another target")
	f.BoolVar(&p.conf.Dup, "dup", false, "send every message twice, the second one with T to another target")
	f.Float64Var(&p.conf.Drop, "drop", 0, "share of answers that are taken for lost")
	f.IntVar(&p.conf.Abandon, "abandon", 0, "leave every n-th session without a word after its first update")
	f.DurationVar(&p.conf.Length, "length", 0, "end all sessions after that (0: when they have sent their updates)")
	f.DurationVar(&p.conf.Tx, "tx", 5*time.Second, "resend after that")
	f.DurationVar(&p.validity, "validity", time.Hour, "validity of the plan's grants")
	f.DurationVar(&p.grace, "grace", 30*time.Second, "grace of the plan")
	f.DurationVar(&p.timeout, "timeout", 10*time.Minute, "give up after that")
	f.StringVar(&p.records, "records", "", "the servers' directory of record files, to check those too")
	f.StringVar(&p.traceFile, "trace", "", "write a hex dump of every message for text2pcap")
	f.Uint64Var(&p.conf.Seed, "seed", 0, "draw usage from this seed (0: from the clock)")
	f.BoolVar(&p.asJSON, "json", false, "print the result as JSON")
	return p.remote.bind(cmd)
}

// A check is one line of the result.
type check struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Text string `json:"text,omitempty"`
}

// outcome is the result of a run.
type outcome struct {
	Seconds  float64                     `json:"seconds"`
	Messages int64                       `json:"messages"`
	Rate     float64                     `json:"messagesPerSecond"`
	P50      time.Duration               `json:"p50"`
	P99      time.Duration               `json:"p99"`
	Max      time.Duration               `json:"max"`
	Resent   int64                       `json:"resent"`
	Closed   int64                       `json:"connectionsLost"`
	Gap      time.Duration               `json:"longestGap"`
	Busy     int64                       `json:"sentAgainAfter3004"`
	Yielded  int64                       `json:"takenForNotDoneAfter3004"`
	Units    int64                       `json:"unitsAcknowledged"` // octets; with --mix also seconds and messages
	Lost     int64                       `json:"unitsLost"`
	Doubled  int64                       `json:"unitsDoubled"`
	Results  map[uint32]int64            `json:"results"`
	Matrix   map[string]map[string]int64 `json:"matrix"`
	Checks   []check                     `json:"checks"`
}

func (o *outcome) check(ok bool, what, format string, args ...any) {
	o.Checks = append(o.Checks, check{what, ok, fmt.Sprintf(format, args...)})
}

func (o *outcome) failed() int {
	n := 0
	for _, c := range o.Checks {
		if !c.OK {
			n++
		}
	}
	return n
}

func (p *play) run(ctx context.Context, out io.Writer) error {
	o, err := p.play(ctx)
	if err != nil {
		return err
	}
	if err := o.print(out, p.asJSON); err != nil {
		return err
	}
	if n := o.failed(); n > 0 {
		return exitError{fmt.Errorf("%d of %d checks failed", n, len(o.Checks)), exitFailed}
	}
	return nil
}

// play prepares, runs and checks.
func (p *play) play(ctx context.Context) (*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if p.conf.Seed == 0 {
		p.conf.Seed = uint64(time.Now().UnixNano()) >> 10
	}
	owners, err := p.prepare(ctx)
	if err != nil {
		return nil, err
	}
	before, err := p.balances(ctx, owners)
	if err != nil {
		return nil, err
	}
	if p.traceFile != "" {
		f, err := os.Create(p.traceFile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		p.conf.Trace = f
	}
	sim, err := ctf.New(p.conf)
	if err != nil {
		return nil, exitError{err, exitUsage}
	}
	if p.begun != nil {
		p.begun(sim)
	}
	stop := p.progress(sim)
	start := time.Now()
	err = sim.Run(ctx)
	stop()
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	o := p.measure(sim, time.Since(start))
	begun := sim.Counts.Started.Load()
	o.check(err == nil, "all sessions ended", "%d of %d", sim.Counts.Ended.Load()+sim.Counts.Abandoned.Load(), begun)
	p.verify(context.WithoutCancel(ctx), o, sim, owners, before)
	return o, nil
}

// membersMax is how many identities an account lists at most.
const membersMax = 16

// prepare makes tenant, plan and subscribers, and returns whose account each
// IMSI has.
func (p *play) prepare(ctx context.Context) (owners map[string]string, err error) {
	if len(p.imsis) > 0 {
		return p.find(ctx)
	}
	if p.accounts <= 0 || p.accounts > p.subscribers {
		p.accounts = p.subscribers
	}
	shared := p.accounts < p.subscribers
	names, members := make([]string, p.accounts), make([][]string, p.accounts)
	owners = make(map[string]string)
	for n := range p.subscribers {
		// Whoever shares accounts in another way has other IMSIs, so that runs of all kinds go on one server.
		k, imsi := n%p.accounts, fmt.Sprintf("001018%09d", n)
		names[k] = fmt.Sprintf("sim-%d", k)
		if shared {
			imsi, names[k] = fmt.Sprintf("001019%04d%05d", p.accounts%10_000, n), fmt.Sprintf("sim-%d-of-%d", k, p.accounts)
		}
		p.conf.IMSIs = append(p.conf.IMSIs, imsi)
		members[k] = append(members[k], imsi)
		owners[imsi] = simTenant + "/" + names[k]
	}
	if most := len(members[0]); most > membersMax {
		return nil, exitError{fmt.Errorf("%d subscribers on %d accounts are up to %d each; an account lists at most %d",
			p.subscribers, p.accounts, most, membersMax), exitUsage}
	}
	if shared && (p.accounts >= 10_000 || p.subscribers > 100_000) {
		return nil, exitError{errors.New("at most 9,999 accounts can be shared, by at most 100,000 subscribers"), exitUsage}
	}
	var doc bytes.Buffer
	fmt.Fprintf(&doc, simPlan, int(p.validity.Seconds()), int(p.grace.Seconds()))
	for i, imsis := range members {
		fmt.Fprintf(&doc, "---\nkind: Subscriber\ntenant: sim\naccount: %s\nplan: octets\nbalance: \"1000000\"\nidentities: [\"imsi:%s\"]\n",
			names[i], strings.Join(imsis, `", "imsi:`))
	}
	return owners, p.remote.call(ctx, "POST", "/v1/apply?file=sim", http.Header{"Content-Type": {"application/yaml"}}, &doc, nil)
}

// ownHost is the gateway that plays subscribers which are not sim's: a peer of
// that name has no document of sim's tenant.
const ownHost = "own.sim.localdomain"

// find looks up whose accounts the subscribers have that are to be played.
func (p *play) find(ctx context.Context) (owners map[string]string, err error) {
	owners = make(map[string]string)
	for _, imsi := range p.imsis {
		var s api.Subscriber
		if err := p.remote.call(ctx, "GET", "/v1/subscribers/"+url.PathEscape(imsi), nil, nil, &s); err != nil {
			return nil, err
		}
		owners[imsi] = s.Tenant + "/" + s.Account
	}
	p.conf.IMSIs, p.conf.Host = p.imsis, ownHost
	return owners, nil
}

// account is what the server says of an account.
type account struct {
	debited, reserved, credited, overrun int64
	sessions                             int
}

func (p *play) balances(ctx context.Context, owners map[string]string) (map[string]account, error) {
	out := make(map[string]account)
	for _, name := range owners {
		if _, ok := out[name]; ok {
			continue
		}
		var s api.Subscriber
		if err := p.remote.call(ctx, "GET", "/v1/subscribers/"+url.PathEscape(name), nil, nil, &s); err != nil {
			return nil, err
		}
		var a account
		for _, b := range s.Buckets {
			a.debited += b.Debited
			a.reserved += b.Reserved
			a.credited += b.Credited
			a.overrun += b.Overrun
		}
		a.sessions = len(s.Sessions)
		out[name] = a
	}
	return out, nil
}

func (p *play) progress(sim *ctf.Sim) (stop func()) {
	if p.quiet || p.asJSON || !term.IsTerminal(int(os.Stderr.Fd())) {
		return func() {}
	}
	bar := progressbar.NewOptions(p.conf.Sessions, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription("sessions"),
		progressbar.OptionShowCount(), progressbar.OptionEnableColorCodes(os.Getenv("NO_COLOR") == ""), progressbar.OptionClearOnFinish())
	done := make(chan struct{})
	go func() {
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				bar.Set64(sim.Counts.Ended.Load() + sim.Counts.Abandoned.Load())
			}
		}
	}()
	return func() { close(done); bar.Finish() }
}

func (p *play) measure(sim *ctf.Sim, took time.Duration) *outcome {
	o := &outcome{
		Seconds: took.Seconds(), Messages: sim.Counts.Answered.Load(), Resent: sim.Counts.Resent.Load(), Closed: sim.Counts.Closed.Load(),
		Gap: sim.Gap(), Busy: sim.Counts.Busy.Load(), Yielded: sim.Counts.Yielded.Load(), Results: sim.Results(), Matrix: make(map[string]map[string]int64),
	}
	o.Rate = float64(o.Messages) / took.Seconds()
	if l := sim.Latencies(); len(l) > 0 {
		slices.Sort(l)
		o.P50, o.P99, o.Max = l[len(l)/2], l[len(l)*99/100], sim.Slowest()
	}
	for _, b := range sim.Books() {
		o.Units += b.Units
	}
	empty := 0
	for i, target := range p.conf.Targets {
		row := make(map[string]int64)
		for k := 1; k < len(ctf.KindNames); k++ {
			n, event := sim.Matrix[i][k].Load(), k == len(ctf.KindNames)-1
			if event && !p.conf.Mix {
				continue
			}
			if row[ctf.KindNames[k]] = n; n == 0 && (k != 2 || p.conf.Updates > 0) {
				empty++
			}
		}
		o.Matrix[target] = row
	}
	if p.conf.Hop {
		o.check(empty == 0, "every instance handled every kind of message", "%d cells of the matrix are empty", empty)
	}
	return o
}

// verify compares the gateways' books with balances, sessions and records.
func (p *play) verify(ctx context.Context, o *outcome, sim *ctf.Sim, owners map[string]string, before map[string]account) {
	bad := sim.Counts.Failed.Load()
	o.check(bad == 0 && sim.Counts.GivenUp.Load() == 0, "every answer is 2001", "%d others, %d never came %s", bad, sim.Counts.GivenUp.Load(), sim.FirstFailure())
	if p.conf.Dup {
		o.check(sim.Counts.Different.Load() == 0, "repeats are answered alike", "%d compared, %d differ", sim.Counts.Duplicates.Load(), sim.Counts.Different.Load())
	}
	reported, uncertain := make(map[string]int64), make(map[string]int64)
	refunded, doubtful := make(map[string]int64), make(map[string]int64)
	for imsi, b := range sim.Books() {
		reported[owners[imsi]] += b.Units
		uncertain[owners[imsi]] += b.Uncertain
		refunded[owners[imsi]] += b.Refunded
		doubtful[owners[imsi]] += b.Doubtful
	}
	after, err := p.settled(ctx, owners)
	if err != nil {
		o.check(false, "balances can be read", "%v", err)
		return
	}
	debited, wrong := int64(0), []string{}
	held, back, open := int64(0), int64(0), 0
	var holding []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		a := after[name]
		d := a.debited - before[name].debited
		debited += d
		held += a.reserved
		if a.reserved != 0 {
			holding = append(holding, fmt.Sprintf("%s %d", name, a.reserved))
		}
		open += a.sessions
		o.Lost += max(reported[name]-d, 0)
		o.Doubled += max(d-reported[name]-uncertain[name], 0)
		c := a.credited - before[name].credited
		back += c
		if d < reported[name] || d > reported[name]+uncertain[name] || c < refunded[name] || c > refunded[name]+doubtful[name] {
			wrong = append(wrong, fmt.Sprintf("%s reported %d, debited %d, refunded %d, credited %d", name, reported[name], d, refunded[name], c))
		}
	}
	text := fmt.Sprintf("%d units reported, %d micro-units debited, difference %d", o.Units, debited, debited-o.Units)
	if p.conf.Mix {
		text += fmt.Sprintf("; %d micro-units refunded", back)
	}
	if len(p.imsis) == 0 { // under another plan than sim's an octet has another price
		o.check(len(wrong) == 0, "each balance is what it was less what was reported", "%s%s", text, more(wrong))
	}
	o.check(open == 0, "no session is left", "%d are", open)
	o.check(held == 0, "nothing is reserved", "%d micro-units are%s", held, more(holding))
	if p.records != "" {
		spent := make(map[string]int64)
		for name, a := range after {
			spent[name] = a.debited - before[name].debited
		}
		p.verifyRecords(o, sim, spent)
	}
}

// settled reads the balances, once timers and abandoned sessions have come to
// rest.
func (p *play) settled(ctx context.Context, owners map[string]string) (map[string]account, error) {
	limit := 10 * time.Second
	if p.conf.Abandon > 0 {
		limit += 2*p.validity + p.grace
	}
	for deadline := time.Now().Add(limit); ; {
		after, err := p.balances(ctx, owners)
		if err != nil {
			return nil, err
		}
		open := 0
		for _, a := range after {
			open += a.sessions
		}
		if open == 0 || time.Now().After(deadline) {
			return after, nil
		}
		select {
		case <-ctx.Done():
			return after, nil
		case <-time.After(time.Second):
		}
	}
}

func more(list []string) string {
	if len(list) == 0 {
		return ""
	}
	if len(list) > 5 {
		list = append(list[:5:5], fmt.Sprintf("and %d more", len(list)-5))
	}
	return ": " + strings.Join(list, "; ")
}

// filed is what the record files say.
type filed struct {
	sessions map[string]*filedSession
	spent    map[string]int64 // micro-units, by account: of all that is debited
	finals   int
	charged  int64
	twice    int
}

// filedSession is what they say of one session, in units.
type filedSession struct {
	finals  int
	total   int64            // of its final record, and of those that came behind it
	reports map[uint32]int64 // by CC-Request-Number
	again   int              // numbers that are on record more than once
}

func (f *filed) session(id string) *filedSession {
	s := f.sessions[id]
	if s == nil {
		s = &filedSession{reports: make(map[uint32]int64)}
		f.sessions[id] = s
	}
	return s
}

func (p *play) read() (*filed, error) {
	f := &filed{sessions: make(map[string]*filedSession), spent: make(map[string]int64)}
	seen := make(map[string]bool)
	prefix := fmt.Sprintf("%s;%d;", p.conf.Host, p.conf.Seed)
	err := cdr.Read(p.records, func(r *cdr.Record) error {
		if seen[r.ID] {
			f.twice++
		}
		seen[r.ID] = true
		if !strings.HasPrefix(r.Session, prefix) {
			return nil
		}
		for _, m := range r.Movements {
			f.spent[r.Tenant+"/"+r.Account] += m.Debit
		}
		s, units := f.session(r.Session), int64(0)
		for _, l := range r.Lines {
			if units += l.Octets + l.Seconds + l.Events; r.Text == "refund" {
				units -= l.Charged
			}
		}
		switch r.Type {
		case "final":
			if s.finals++; s.finals == 1 {
				f.finals++
			}
			fallthrough
		case "supplementary":
			s.total += units
			for _, l := range r.Lines {
				f.charged += l.Charged
			}
		}
		if r.Type == "message" || r.Type == "supplementary" || r.Type == "event" {
			if _, ok := s.reports[r.Number]; ok {
				s.again++
			}
			s.reports[r.Number] += units
		}
		return nil
	})
	return f, err
}

// verifyRecords compares the books with the files, once those are written: each report
// of each session, and what each account has spent.
func (p *play) verifyRecords(o *outcome, sim *ctf.Sim, spent map[string]int64) {
	sessions := sim.Counts.Ended.Load() + sim.Counts.Abandoned.Load() - sim.Counts.Events.Load()
	var f *filed
	var err error
	for deadline := time.Now().Add(30 * time.Second); ; {
		if f, err = p.read(); err != nil || int64(f.finals) >= sessions || time.Now().After(deadline) {
			break
		}
		<-time.After(500 * time.Millisecond)
	}
	if err != nil {
		o.check(false, "record files can be read", "%v", err)
		return
	}
	several := 0
	for _, s := range f.sessions {
		if s.finals > 1 {
			several++
		}
	}
	o.check(int64(f.finals) == sessions && several == 0, "one final record per session", "%d of %d, %d more than one", f.finals, sessions, several)
	o.check(f.twice == 0, "no record twice", "%d ids came again", f.twice)
	units, count, wrong := int64(0), 0, []string{}
	reports := sim.Reports()
	for _, id := range slices.Sorted(maps.Keys(reports)) {
		known := f.sessions[id]
		if known == nil {
			known = &filedSession{}
		}
		count += len(reports[id])
		units += known.total
		wrong = append(wrong, known.differences(id, reports[id], p.conf.Sent)...)
	}
	o.check(len(wrong) == 0, "every report is on record, once and as it was sent", "%d reports of %d sessions, %d units, %d micro-units%s", count, len(reports), units, f.charged, more(wrong))
	var differ []string
	for _, name := range slices.Sorted(maps.Keys(spent)) {
		if len(p.imsis)+p.conf.Sent == 0 && spent[name] != f.spent[name] { // others may have spent elsewhere, too
			differ = append(differ, fmt.Sprintf("%s spent %d, on record are %d", name, spent[name], f.spent[name]))
		}
	}
	o.check(len(differ) == 0, "what each account has spent is on record", "%d accounts%s", len(spent), more(differ))
}

// differences says where the records of a session and what its gateway has reported
// differ. Numbers below sent are of other runs.
func (s *filedSession) differences(id string, reports []ctf.Report, sent int) (list []string) {
	differ := func(format string, args ...any) {
		list = append(list, id+" "+fmt.Sprintf(format, args...))
	}
	if s.again > 0 {
		differ("has %d numbers on record more than once", s.again)
	}
	told, total := make(map[uint32]bool), int64(0)
	for _, r := range reports {
		told[r.Number] = true
		got, ok := s.reports[r.Number]
		if got != r.Units && (r.Acknowledged || ok) {
			differ("reported %d in number %d, on record are %d", r.Units, r.Number, got)
		}
	}
	for number, units := range s.reports {
		total += units
		if !told[number] && int(number) >= sent && units > 0 {
			differ("has %d of number %d on record, which its gateway takes for not done", units, number)
		}
	}
	if s.finals > 0 && s.total != total {
		differ("has records of %d in its messages and of %d in the end", total, s.total)
	}
	return list
}

// print writes the result: a line per check.
func (o *outcome) print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(o)
	}
	fmt.Fprintf(w, "%d messages in %.1f s, %.0f a second, p50 %s, p99 %s, %d resent, %d connections lost\n",
		o.Messages, o.Seconds, o.Rate, o.P50.Round(time.Microsecond), o.P99.Round(time.Microsecond), o.Resent, o.Closed)
	for _, target := range slices.Sorted(maps.Keys(o.Matrix)) {
		fmt.Fprintf(w, "  %-24s", target)
		for _, k := range ctf.KindNames[1:] {
			if _, played := o.Matrix[target][k]; !played {
				continue
			}
			fmt.Fprintf(w, " %s %d", strings.TrimSuffix(k, "_REQUEST"), o.Matrix[target][k])
		}
		fmt.Fprintln(w)
	}
	for _, c := range o.Checks {
		word := "ok  "
		if !c.OK {
			word = "FAIL"
		}
		fmt.Fprintf(w, "%s %s: %s\n", word, c.What, c.Text)
	}
	return nil
}
