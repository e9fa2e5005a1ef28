package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/charging"
	"rtm/diameter"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// Bounds of traces at one instance.
const (
	tracesMax  = 8
	tracedMax  = 256 // messages that wait to be shown
	tracedText = 64  // octets of a value that is shown in hex
)

// A tracer shows messages to who wants to see them. While nobody does, it costs a
// look at one number for each message.
type tracer struct {
	active atomic.Int32
	mu     sync.Mutex // guards views
	views  []*view
}

// A view is one who looks on.
type view struct {
	wish api.TraceWish
	out  chan seen
	lost atomic.Int64
}

// seen is a message that went by, as it was.
type seen struct {
	at      time.Time
	took    time.Duration
	out     bool
	peer    string
	account store.Key
	header  diameter.Header
	body    []byte
	entry   []byte // of an answer: what its decision has written, as charging.Entry encodes it
	grants  []charging.Grant
	note    string // … and what else is to be said of it
	repeat  bool   // … it has written nothing, and would have the first time
	request *seen  // that it answers, to be shown before it; nil: none
}

// join has one more look on, until leave. Errors: api.ErrTraces.
func (t *tracer) join(wish api.TraceWish) (*view, error) {
	v := &view{wish: wish, out: make(chan seen, tracedMax)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.views) == tracesMax {
		return nil, api.ErrTraces
	}
	t.views = append(t.views, v)
	t.active.Add(1)
	return v, nil
}

func (t *tracer) leave(v *view) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.views = slices.DeleteFunc(t.views, func(o *view) bool { return o == v })
	t.active.Add(-1)
}

// follow shows what goes by until ctx ends.
func (v *view) follow(ctx context.Context, show func(*seen, int64) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-v.out:
			if s.request != nil {
				if err := show(s.request, 0); err != nil {
					return err
				}
			}
			if err := show(&s, v.lost.Swap(0)); err != nil {
				return err
			}
		}
	}
}

// pass shows a message to all who wish to see it: by the account, or by the identities in
// it if the account is not known yet, or by its hosts, who sent it or is to get it. copied
// copies it, once.
func (t *tracer) pass(account store.Key, identities []string, hosts [2]string, copied func() seen) {
	if t.active.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var s seen
	done := false
	for _, v := range t.views {
		if !v.wants(account, identities, hosts) {
			continue
		}
		if !done {
			s, done = copied(), true
		}
		select {
		case v.out <- s:
		default:
			v.lost.Add(1)
		}
	}
}

func (v *view) wants(account store.Key, identities []string, hosts [2]string) bool {
	switch {
	case v.wish.Host != "":
		return strings.EqualFold(v.wish.Host, hosts[0]) || strings.EqualFold(v.wish.Host, hosts[1])
	case account == store.Key{}:
		return slices.ContainsFunc(identities, func(id string) bool { return slices.Contains(v.wish.Identities, id) })
	}
	return v.wish.Account == account
}

// traced shows a CCR and the answer that was encoded; with a note, which says why there
// is none, only that.
func (c *call) traced(note string) {
	if c.door.tracer.active.Load() == 0 || c.request.Conn == nil {
		return
	}
	conn, in := c.request.Conn, &c.in
	c.door.tracer.pass(in.Account, in.Identities, [2]string{conn.Host, string(c.env.OriginHost)}, func() seen {
		answer := seen{at: time.Now(), took: time.Since(c.request.At), out: true, peer: conn.Host, account: in.Account, note: cmp.Or(note, c.why)}
		if c.decided {
			answer.entry, answer.grants = slices.Clone(in.Entry), slices.Clone(in.Answer.Grants)
		}
		answer.repeat = c.decided && in.Watched && len(in.Entry) == 0 && (in.Request.Kind != charging.Event || in.Request.Action <= charging.RefundAccount)
		if late := c.request.Late; !late.IsZero() && answer.at.After(late) {
			answer.note = cmp.Or(note, "it is too late, and was kept back: the client would break down over it")
		}
		if m, _, err := diameter.Frame(c.buf, len(c.buf)); note == "" && err == nil {
			answer.header, answer.body = m.Header, slices.Clone(m.Body)
		}
		answer.request = &seen{
			at: c.request.At, peer: conn.Host, account: in.Account,
			header: c.request.Message.Header, body: slices.Clone(c.request.Message.Body),
		}
		return answer
	})
}

// tracedUnseen shows a CCR that is left without an answer before anybody has looked at it.
func (d *door) tracedUnseen(host string, m *diameter.Message, why string) {
	if d.tracer.active.Load() == 0 {
		return
	}
	origin, _ := diameter.Find(m.Body, diameter.OriginHost)
	d.tracer.pass(store.Key{}, nil, [2]string{host, string(origin.Data)}, func() seen {
		now := time.Now()
		return seen{at: now, out: true, peer: host, note: why, request: &seen{at: now, peer: host, header: m.Header, body: slices.Clone(m.Body)}}
	})
}

// tracedFrame shows a RAR or ASR, or the answer to it.
func (d *door) tracedFrame(host string, n *notice, out bool, m *diameter.Message) {
	d.tracer.pass(n.Account, nil, [2]string{host, string(n.Due.Host)}, func() seen {
		return seen{at: time.Now(), out: out, peer: host, account: n.Account, header: m.Header, body: slices.Clone(m.Body)}
	})
}

// line is a message for people and programs.
func (s *seen) line(instance string, lost int64, cat *tenant.Catalogue) api.TraceLine {
	l := api.TraceLine{At: s.at, Instance: instance, Peer: s.peer, Way: "in", Micros: s.took.Microseconds(), Lost: lost}
	if s.out {
		l.Way = "out"
	}
	if t, a := tenant.AccountOf(s.account); a != "" {
		l.Account = t + "/" + a
	}
	if l.Message = messageName(&s.header, s.body); s.header == (diameter.Header{}) {
		l.Message = "no answer"
	}
	if s.note != "" {
		l.Decision = append(l.Decision, s.note)
	}
	if a, ok := diameter.Find(s.body, diameter.SessionID); ok {
		l.Session = string(a.Data)
	}
	if a, ok := diameter.Find(s.body, diameter.CCRequestNumber); ok {
		if v, err := a.Uint32(); err == nil {
			l.Number = &v
		}
	}
	if a, ok := diameter.Find(s.body, diameter.ResultCode); ok {
		l.Result, _ = a.Uint32()
	}
	l.Decision = append(l.Decision, s.decision(l.Result, cat)...)
	l.Text = avpLines(nil, s.body, "")
	return l
}

// decision tells why the whole of an answer has that result, if that is to be told, and what
// the entry says was decided: for each rating group by which service of which plan, what
// was used and what that cost, and what is granted, or why nothing; and what became of the
// buckets.
func (s *seen) decision(result uint32, cat *tenant.Catalogue) (out []string) {
	switch why := api.Meaning(charging.Result(result)); {
	case !s.out || s.header.Command != diameter.CreditControl || s.header.Flags&diameter.FlagRequest != 0:
	case why != "":
		out = append(out, fmt.Sprintf("%d, %s", result, why))
	case result == uint32(charging.Success) && s.repeat:
		out = append(out, "it is on record already, and is answered again: nothing more is charged")
	}
	var e charging.Entry
	if e.Tenant, _ = tenant.AccountOf(s.account); len(s.entry) == 0 || e.Decode(s.entry) != nil {
		for _, g := range s.grants {
			e.Lines = append(e.Lines, charging.Line{
				Group: g.Group, Service: g.Service, Has: g.Has, Result: g.Result, Unit: g.Unit, Granted: g.Units, Final: g.Final, Wanted: 1,
			})
		}
	}
	for i := range e.Lines {
		l := &e.Lines[i]
		text := "units at message level: "
		if l.Has&charging.HasGroup != 0 {
			text = fmt.Sprintf("rating group %d: ", l.Group)
		}
		out = append(out, text+strings.Join(s.decided(&e, l, cat), "; "))
	}
	for i := range e.Movements {
		m := &e.Movements[i]
		text := fmt.Sprintf("bucket %d:", m.Bucket)
		for _, n := range []struct {
			is   int64
			what string
		}{{m.Credit, "credited"}, {m.Debit, "debited"}, {m.Held, "reserved"}, {m.Released, "given back"}, {m.Overrun, "owed"}} {
			if n.is != 0 {
				text += fmt.Sprintf(" %s %s,", tenant.FormatQuantity(n.is, m.Unit), n.what)
			}
		}
		out = append(out, text+fmt.Sprintf(" %s free", tenant.FormatQuantity(m.Available, m.Unit)))
	}
	return out
}

// decided is what one line of an entry says.
func (s *seen) decided(e *charging.Entry, l *charging.Line, cat *tenant.Catalogue) (out []string) {
	plan, unit, by := e.Plan, l.Unit, ""
	if len(l.PlanName) > 0 {
		plan = string(l.PlanName)
	}
	if l.Rule != 0 {
		service := fmt.Sprintf("service %d", l.Rule)
		if plans := cat.Plans(e.Tenant, []byte(plan)); plans != nil {
			if p := plans.Version(l.Plan); p != nil && p.Rule(l.Rule) != nil {
				service, unit = p.Rule(l.Rule).Name, p.Rule(l.Rule).Unit
			}
		}
		by = fmt.Sprintf("%s of plan %s v%d", service, plan, l.Plan)
		out = append(out, by)
	}
	if l.Used != (charging.Units{}) || l.Charged != 0 {
		text := fmt.Sprintf("used %s, charged %s", tenant.FormatQuantity(l.Used.Of(unit), unit), tenant.FormatMoney(l.Charged))
		if l.Allowed != 0 {
			text += fmt.Sprintf(", %s from allowances", tenant.FormatQuantity(l.Allowed, unit))
		}
		if l.Overrun > 0 {
			text += fmt.Sprintf(", %s beyond the grant", tenant.FormatQuantity(l.Overrun, unit))
		}
		out = append(out, text)
	}
	g := &charging.Grant{}
	i := slices.IndexFunc(s.grants, func(g charging.Grant) bool { return g.Group == l.Group && g.Service == l.Service && g.Has == l.Has })
	if i >= 0 {
		g = &s.grants[i]
	}
	of := ""
	if is := serviceOf(g.Price, e.Plan, cat.Plans(e.Tenant, []byte(e.Plan))); is != "" && is != by {
		of = " of " + is
	}
	switch why := api.Meaning(l.Result); {
	case l.After:
	case why != "":
		out = append(out, fmt.Sprintf("%d, %s", l.Result, why))
	case l.Granted > 0:
		text := "granted " + tenant.FormatQuantity(l.Granted, l.Unit) + of
		if l.Final != 0 {
			text += ", the last: " + l.Final.String()
		}
		out = append(out, text)
	case l.Wanted == 0:
		out = append(out, "nothing was asked for")
	case g.Final != 0:
		out = append(out, fmt.Sprintf("nothing is granted%s: too little is left for one unit; the user may top up (%s)", of, g.Final))
	default:
		out = append(out, "nothing is granted"+of)
	}
	return out
}

// serviceOf names a service of a plan, and the version that it is of, which is a late one;
// of another plan, only the service.
func serviceOf(price *rating.Price, plan string, plans *tenant.Plans) string {
	if price == nil {
		return ""
	}
	if plans != nil {
		for p := plans.Latest(); p != nil; p = plans.Version(p.Version - 1) {
			if p.Rule(price.Rule) == price {
				return fmt.Sprintf("%s of plan %s v%d", price.Name, plan, p.Version)
			}
		}
	}
	return price.Name
}

// messageName is how people call a message: CCR-I, CCA-U, RAR.
func messageName(h *diameter.Header, body []byte) string {
	ending := "A"
	if h.Flags&diameter.FlagRequest != 0 {
		ending = "R"
	}
	switch h.Command {
	case diameter.ReAuth:
		return "RA" + ending
	case diameter.AbortSession:
		return "AS" + ending
	case diameter.CreditControl:
	default:
		return h.Command.String()
	}
	name := "CC" + ending
	if a, ok := diameter.Find(body, diameter.CCRequestType); ok {
		if v, err := a.Uint32(); err == nil && v >= 1 && v <= 4 {
			name += "-" + "IUTE"[v-1:v]
		}
	}
	return name
}

// avpLines writes AVPs, one a line, what is in groups further in.
func avpLines(out []string, b []byte, indent string) []string {
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return append(out, indent+"… and "+hex.EncodeToString(b[:min(len(b), tracedText)])+", which is no AVP")
		}
		b = rest
		name := a.Attr.String()
		switch a.Attr.Type() {
		case diameter.Grouped:
			out = append(out, indent+name)
			out = avpLines(out, a.Data, indent+"  ")
		default:
			out = append(out, indent+name+": "+avpValue(&a))
		}
	}
	return out
}

// avpValue is the value of an AVP by its type, or in hex if it is not one of that type.
func avpValue(a *diameter.AVP) string {
	switch a.Attr.Type() {
	case diameter.Unsigned32, diameter.Enumerated, diameter.Integer32:
		if v, err := a.Uint32(); err == nil {
			if a.Attr.Type() == diameter.Integer32 {
				return fmt.Sprint(int32(v))
			}
			return fmt.Sprint(v)
		}
	case diameter.Unsigned64, diameter.Integer64:
		if v, err := a.Uint64(); err == nil {
			return fmt.Sprint(int64(v))
		}
	case diameter.Time:
		if v, err := a.Time(); err == nil {
			return v.Format(time.RFC3339)
		}
	case diameter.Address:
		if v, err := a.Address(); err == nil {
			return v.String()
		}
	default:
		if printable(a.Data) {
			return string(a.Data)
		}
	}
	if len(a.Data) > tracedText {
		return hex.EncodeToString(a.Data[:tracedText]) + fmt.Sprintf("… (%d octets)", len(a.Data))
	}
	return hex.EncodeToString(a.Data)
}

func printable(b []byte) bool {
	return len(b) > 0 && len(b) <= 256 && !slices.ContainsFunc(b, func(c byte) bool { return c < ' ' || c > '~' })
}

// traces shows the messages of all instances of this process.
func traces(doors func() []*door) func(context.Context, api.TraceWish, func(), func(api.TraceLine) error) error {
	return func(ctx context.Context, wish api.TraceWish, begun func(), tell func(api.TraceLine) error) error {
		all, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watched := doors()
		views := make([]*view, len(watched))
		for i, d := range watched {
			v, err := d.tracer.join(wish)
			if err != nil {
				return err
			}
			defer d.tracer.leave(v)
			views[i] = v
		}
		begun()
		var mu sync.Mutex // guards tell
		var done sync.WaitGroup
		for i, d := range watched {
			done.Go(func() {
				cancel(views[i].follow(all, func(s *seen, lost int64) error {
					mu.Lock()
					defer mu.Unlock()
					return tell(s.line(d.instance.Name, lost, d.known()))
				}))
			})
		}
		done.Wait()
		return context.Cause(all)
	}
}

func traceCommand() *cobra.Command {
	r, short, limit := &remote{}, false, time.Duration(0)
	cmd := &cobra.Command{
		Use: "trace SUBSCRIBER|PEER", Short: "watch the messages of a subscriber or a peer as they go by", Args: cobra.ExactArgs(1),
		Long: `Show the Diameter messages of one subscriber (imsi:001010000000001, msisdn:491700000001 or tenant/account)
or of one gateway or peer (its Origin-Host, also behind a relay, also one of which nothing has come yet) as
they go by: what came, what was answered, how long it took, each AVP by its name, and what was decided: by
which service of which plan, what was charged, granted and reserved, or why not. A request that gets no answer
is shown with the reason. All instances that are alive are watched, as far as their management interfaces can
be reached from here. Messages that are refused before it is known whose they are show with their peer only.

Watching costs the server nothing while nobody looks, and little otherwise: if more goes by than can be
shown, messages are left out, and it says how many.`,
		Example: "  rtm trace imsi:001010000000001\n  rtm trace smf.localdomain --short\n  rtm trace imsi:001010000000001 -o json --for 1m",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limit)
				defer cancel()
			}
			t := &traceView{remote: r, of: args[0], short: short, out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr()}
			return t.run(ctx)
		},
	}
	cmd.Flags().BoolVar(&short, "short", false, "one line a message, without its AVPs")
	cmd.Flags().DurationVar(&limit, "for", 0, "end after that time; 0: when it is interrupted")
	return r.bind(cmd)
}

// traceView prints what the instances tell.
type traceView struct {
	remote *remote
	of     string
	short  bool
	out    io.Writer
	notes  io.Writer
	mu     sync.Mutex // guards out, notes and shown
	shown  bool       // something was
}

// run watches all instances until ctx ends, or none can be watched any more.
func (t *traceView) run(ctx context.Context) error {
	all, err := t.remote.instances(ctx)
	if err != nil {
		return err
	}
	urls := t.remote.servers(all)
	errs := make([]error, len(urls))
	var done sync.WaitGroup
	for n, at := range urls {
		done.Go(func() {
			begun := func(as string) {
				t.note("watching %s at %s", t.of, at)
				if as == api.OfHost && n == 0 {
					t.note("no peer of that name is connected or has a document: it is shown when a message with that Origin-Host comes, as from\n"+
						"behind a relay or front. rtm session list --host %s shows if it has sessions, rtm peer list who is connected", t.of)
				}
			}
			if errs[n] = followTrace(ctx, at, t.of, begun, t.print); errs[n] != nil && n > 0 && ctx.Err() == nil {
				t.note("not watched: %v", errs[n])
			}
		})
	}
	done.Wait()
	if ctx.Err() != nil && !t.shown {
		t.note("nothing of %s came by", t.of)
	}
	if ctx.Err() != nil && (errs[0] == nil || errors.Is(errs[0], ctx.Err())) {
		return nil // it was interrupted, or its time is over
	}
	return errs[0]
}

// instances lists those that are alive.
func (r *remote) instances(ctx context.Context) ([]api.Instance, error) {
	var all struct{ Instances []api.Instance }
	err := r.call(ctx, http.MethodGet, "/v1/instances", nil, nil, &all)
	return all.Instances, err
}

// servers are the management interfaces of all, first the one that is asked.
func (r *remote) servers(all []api.Instance) []string {
	urls := []string{r.url}
	for _, i := range all {
		if at := "http://" + i.HTTP; i.HTTP != "" && !slices.Contains(urls, at) && !sameHost(at, r.url) {
			urls = append(urls, at)
		}
	}
	return urls
}

func sameHost(a, b string) bool {
	u, err := url.Parse(a)
	v, fail := url.Parse(b)
	return err == nil && fail == nil && u.Host == v.Host
}

func (t *traceView) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.notes, format+"\n", args...)
}

// followTrace hands on what one server tells of a subscriber or peer, until ctx ends or
// the server does. begun is told when it has begun, and as what it is traced (api.TraceOf).
func followTrace(ctx context.Context, at, of string, begun func(string), tell func(*api.TraceLine)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(at, "/")+"/v1/trace?of="+url.QueryEscape(of), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return exitError{fmt.Errorf("no server at %s: %w", at, err), exitUnreachable}
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		b, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
		if err != nil {
			return err
		}
		return refused(http.MethodGet, res, b)
	}
	begun(res.Header.Get(api.TraceOf))
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l api.TraceLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		tell(&l)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return cmp.Or(lines.Err(), fmt.Errorf("%s has ended the trace", at))
}

// print writes one message.
func (t *traceView) print(l *api.TraceLine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shown = true
	if t.remote.format != "table" {
		one := *t.remote
		_ = one.print(t.out, l, nil)
		return
	}
	if l.Lost > 0 {
		fmt.Fprintf(t.out, "… %d messages were not shown, too many went by\n", l.Lost)
	}
	arrow := "→"
	if l.Way == "out" {
		arrow = "←"
	}
	fmt.Fprintf(t.out, "%s %s %s %s %s", l.At.Local().Format("15:04:05.000"), l.Instance, l.Peer, arrow, l.Message)
	if l.Session != "" {
		fmt.Fprintf(t.out, " %s", l.Session)
	}
	if l.Number != nil {
		fmt.Fprintf(t.out, " #%d", *l.Number)
	}
	if l.Result != 0 {
		fmt.Fprintf(t.out, " %d", l.Result)
	}
	if l.Micros != 0 {
		fmt.Fprintf(t.out, " after %.1f ms", float64(l.Micros)/1000)
	}
	if l.Account != "" && l.Way == "out" {
		fmt.Fprintf(t.out, " (%s)", l.Account)
	}
	fmt.Fprintln(t.out)
	for _, text := range l.Decision {
		fmt.Fprintf(t.out, "  • %s\n", text)
	}
	if t.short {
		return
	}
	for _, text := range l.Text {
		fmt.Fprintf(t.out, "    %s\n", text)
	}
}
