package rtmtest

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// A Player plays a conversation: every message goes to another instance, all of
// them on one simulated store, with the timers of production. Commands:
//
//	plan FILE               the first plan of a YAML file is the account's; again: its next version
//	replan FILE             … another plan, which the account gets now
//	account 10.00           a subscriber with that money
//	at 10:00, at +1h        time passes; what is due happens
//	CCR-I s1 n=0 rg=10 want rg=20 want=5MiB
//	CCR-U s1 n=1 rg=10 used=9MiB want
//	CCR-T s1 n=2 rg=10 used=1MiB
//	CCR-E e1 n=0 action=debit rg=30 want=1
//	                        none: neither rating group nor service; root: units at message level
//	                        after=2MiB: the part of used after a tariff change; 0: nothing of it
//	                        final, qht, validity …: the Reporting-Reason
//	                        apn=A host=H context=N sub=N; deaf, splits, told, least=1MiB, patience=5m, state=7: what its client bears
//	again                   the last message once more
//	topup 5.00 key=k        credit, once per key
//	topup 5MiB key=k until=+1h
//	                        … of octets, which end then
//	reauth s1, abort s1     the operator prompts a gateway; reauth s1 rg=10: of that alone
//	balance                 the buckets and what is open
//	log                     the events since the last log
type Player struct {
	now    time.Time
	sim    *Sim
	store  *node
	shards []*rtm.Shard
	timers rtm.Timers
	turn   int
	key    store.Key
	plans  map[string]planList
	plan   string // the account's
	last   *rtm.Inbound
	logged uint64

	// Answered is told of each request that has left the loop; nil: nobody is.
	Answered func(r *charging.Request, a *charging.Answer, notices []charging.Due)
}

// planList is the versions of one plan, each from a moment on.
type planList []planVersion

type planVersion struct {
	*rating.Plan
	from time.Time
}

// Current implements charging.Plans.
func (p planList) Current(at time.Time) *rating.Plan {
	for _, v := range slices.Backward(p) {
		if !at.Before(v.from) {
			return v.Plan
		}
	}
	return nil
}

// Next implements charging.Plans.
func (p planList) Next(at time.Time) (next time.Time) {
	for _, v := range p {
		if at.Before(v.from) && (next.IsZero() || v.from.Before(next)) {
			next = v.from
		}
	}
	return next
}

// Version implements charging.Plans.
func (p planList) Version(n uint32) *rating.Plan {
	if n == 0 || n > uint32(len(p)) {
		return nil
	}
	return p[n-1].Plan
}

// NewPlayer returns a player at midnight of a day, with three instances.
func NewPlayer() *Player {
	p := &Player{now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), key: tenant.AccountKey("lab", "alice"), plans: map[string]planList{}}
	p.sim = &Sim{rng: rand.New(rand.NewPCG(1, 1))}
	p.store = makeNode(p.sim, nil, 0)
	for _, name := range []string{"A", "B", "C"} {
		sh := p.sim.shard(name)
		sh.Plans = func(_ string, plan []byte) charging.Plans { return p.plans[string(plan)] }
		p.shards = append(p.shards, sh)
	}
	return p
}

// Play carries out one command and returns its reply, a line each.
func (p *Player) Play(line string, readFile func(name string) ([]byte, error)) ([]string, error) {
	f := strings.Fields(line)
	switch verb := f[0]; {
	case (verb == "plan" || verb == "replan") && len(f) == 2:
		b, err := readFile(f[1])
		if err != nil {
			return nil, err
		}
		if verb == "replan" {
			if err := p.load(f[1], b); err != nil {
				return nil, err
			}
			return p.provision(0), nil
		}
		return nil, p.load(f[1], b)
	case verb == "account" && len(f) == 2:
		return p.account(f[1])
	case verb == "at" && len(f) == 2:
		return p.at(f[1])
	case strings.HasPrefix(verb, "CCR-") && len(f) > 1:
		return p.ccr(f)
	case verb == "again" && p.last != nil:
		return p.answer(p.send(copyOf(p.last))), nil
	case verb == "topup" && (len(f) == 3 || len(f) == 4):
		return p.topUp(f[1], f[2], f[3:])
	case verb == "reauth" && (len(f) == 2 || len(f) == 3), verb == "abort" && len(f) == 2:
		return p.prompt(verb, f[1:])
	case verb == "balance":
		return p.balance()
	case verb == "log":
		return p.log()
	}
	return nil, fmt.Errorf("%q is not a command", line)
}

// prompt has an operator prompt the gateway of a session, of a rating group alone if one
// is named.
func (p *Player) prompt(verb string, f []string) ([]string, error) {
	r := charging.Request{Kind: charging.Reauthorise, Realm: []byte("r"), Session: []byte(f[0])}
	if verb == "abort" {
		r.Kind = charging.Abort
	}
	if len(f) > 1 {
		group, ok := strings.CutPrefix(f[1], "rg=")
		n, err := strconv.ParseUint(group, 10, 32)
		if !ok || err != nil {
			return nil, fmt.Errorf("%q is no rating group", f[1])
		}
		r.Group, r.HasGroup = uint32(n), true
	}
	return p.answer(p.send(&rtm.Inbound{Account: p.key, Request: r})), nil
}

func (p *Player) load(name string, b []byte) error {
	docs, err := tenant.Parse(name, b)
	if err != nil {
		return err
	}
	if len(docs.Plans) == 0 {
		return fmt.Errorf("%s has no plan", name)
	}
	doc := &docs.Plans[0]
	from, err := doc.Begins()
	if err != nil {
		return err
	}
	plan, err := doc.Compile(uint32(len(p.plans[doc.Name])) + 1)
	if err == nil {
		plan.Currency, p.plan = 978, doc.Name
		p.plans[doc.Name] = append(p.plans[doc.Name], planVersion{plan, from})
	}
	return err
}

func (p *Player) account(money string) ([]string, error) {
	m, err := tenant.ParseMoney(money)
	if err != nil {
		return nil, err
	}
	out := p.provision(m)
	p.disk().commit(&store.Commit{Writes: []store.Write{{
		Op: store.Put, Key: tenant.IdentityKey("imsi:alice"), New: p.sim.version(), Bytes: tenant.EncodeOwner(nil, "lab", "alice"),
	}}})
	return out, nil
}

// provision creates the account or gives it another plan.
func (p *Player) provision(m rating.Micros) []string {
	return p.answer(p.send(&rtm.Inbound{Account: p.key, Request: charging.Request{
		Kind: charging.Provision, Profile: &charging.Profile{Plan: p.plan, Identities: []string{"imsi:alice"}, Money: m},
	}}))
}

// at lets time pass, and everything happen that becomes due.
func (p *Player) at(text string) (out []string, err error) {
	to, err := p.clock(text)
	if err != nil {
		return nil, err
	}
	if to.Before(p.now) {
		return nil, fmt.Errorf("%s is in the past", text)
	}
	for {
		armed := p.store.state.armed(p.key)
		if armed == nil || epoch.Add(armed.at).After(to) {
			p.now = to
			return out, nil
		}
		if wake := epoch.Add(armed.at); wake.After(p.now) {
			p.now = wake
		}
		due, next := p.disk().due(rtm.TicksMax, rtm.TickLease, 0)
		for _, in := range p.timers.Claimed(due, next, p.now, p.now) {
			for _, n := range p.send(in).Notices {
				out = append(out, p.now.Format("15:04:05 ")+notice(&n))
			}
		}
	}
}

func notice(n *charging.Due) string {
	of := ""
	if n.HasGroup {
		of = fmt.Sprintf(" rg=%d", n.Group)
	}
	return fmt.Sprintf("to gateway: %s %s%s try %d", n.Kind, n.Session, of, n.Tries)
}

// clock reads "+90s", "12:01" or "12:01:30".
func (p *Player) clock(text string) (time.Time, error) {
	if d, ok := strings.CutPrefix(text, "+"); ok {
		span, err := time.ParseDuration(d)
		return p.now.Add(span), err
	}
	t, err := time.Parse("15:04:05", text)
	if err != nil {
		t, err = time.Parse("15:04", text)
	}
	return time.Date(p.now.Year(), p.now.Month(), p.now.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC), err
}

// disk is the store, at this moment.
func (p *Player) disk() *node {
	p.sim.now = p.now.Sub(epoch)
	return p.store
}

// send carries a request through the next instance, to its answer.
func (p *Player) send(in *rtm.Inbound) *rtm.Inbound {
	p.turn++
	sh := p.shards[p.turn%len(p.shards)]
	in.Arrived, in.Deadline = p.now, p.now.Add(time.Second)
	batch := []*rtm.Inbound{in}
	for range 20 {
		keys := append([]store.Key(nil), sh.Begin(batch, p.now)...)
		batch = nil
		if at, ok := sh.Next(); sh.Idle() && ok && at.After(p.now) {
			p.now = at // a contended account rests
			continue
		}
		var results []store.Result
		for _, c := range sh.Loaded(p.disk().load(keys), p.now) {
			own := copied(&c)
			results = append(results, p.disk().commit(&own))
		}
		for _, r := range sh.Committed(results, p.now) {
			if r.Outcome != rtm.Forward {
				if p.Answered != nil {
					p.Answered(&in.Request, &in.Answer, in.Notices)
				}
				return in
			}
			batch = append(batch, r.In)
		}
	}
	panic("the loop does not end")
}

func copyOf(in *rtm.Inbound) *rtm.Inbound {
	return &rtm.Inbound{
		Request: in.Request, Identities: in.Identities, OnceDoor: in.OnceDoor, OnceName: in.OnceName, Account: in.Account,
	}
}

var kinds = map[string]charging.Kind{"CCR-I": charging.Initial, "CCR-U": charging.Update, "CCR-T": charging.Termination, "CCR-E": charging.Event}

var actions = map[string]charging.Action{
	"debit": charging.DirectDebiting, "refund": charging.RefundAccount, "check": charging.CheckBalance, "price": charging.PriceEnquiry,
}

// ccr reads a message and sends it.
func (p *Player) ccr(f []string) ([]string, error) {
	r := charging.Request{Kind: kinds[f[0]], Realm: []byte("r"), Host: []byte("gw.r"), Session: []byte(f[1]), Context: 32251, Indexed: true}
	if r.Kind == 0 {
		return nil, fmt.Errorf("%s is not a message", f[0])
	}
	who := "imsi:alice"
	for _, word := range f[2:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "n", "context", "state", "recipients", "segments":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return nil, err
			}
			*map[string]*uint32{
				"n": &r.Number, "context": &r.Context, "state": &r.Client.State,
				"recipients": &r.Particulars.Recipients, "segments": &r.Particulars.Segments,
			}[name] = uint32(n)
		case "sub":
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return nil, err
			}
			r.Sub = n
		case "apn", "network", "called":
			*map[string]*[]byte{"apn": &r.Particulars.APN, "network": &r.Particulars.PLMN, "called": &r.Particulars.Called}[name] = []byte(value)
		case "media":
			r.Particulars.Media = map[string]uint8{"audio": rating.Audio, "video": rating.Audio | rating.Video}[value]
		case "host":
			r.Host = []byte(value)
		case "at":
			at, err := p.clock(value)
			if err != nil {
				return nil, err
			}
			r.At = at
		case "deaf", "splits", "told":
			*map[string]*bool{"deaf": &r.Client.Deaf, "splits": &r.Client.Splits, "told": &r.Client.Informed}[name] = true
		case "least":
			n, err := tenant.ParseQuantity(value, rating.Octets)
			if err != nil {
				return nil, err
			}
			r.Client.Least = n
		case "patience":
			d, err := time.ParseDuration(value)
			if err != nil {
				return nil, err
			}
			r.Client.Validity = d
		case "action":
			r.Action = actions[value]
		case "who":
			who = value
		case "realm":
			r.Realm = []byte(value)
		default:
			if err := ask(&r, name, value); err != nil {
				return nil, err
			}
		}
	}
	h := fnv.New64a()
	fmt.Fprint(h, f)
	r.Content = h.Sum64()
	p.last = &rtm.Inbound{Request: r}
	if who != "" {
		p.last.Identities = []string{who}
	}
	if r.Kind == charging.Event && r.Action <= charging.RefundAccount {
		p.last.OnceDoor, p.last.OnceName = "gy", fmt.Sprintf("%s;%d;%d", r.Session, r.Sub, r.Number)
	}
	return p.answer(p.send(copyOf(p.last))), nil
}

// ask adds what a word says of a rating group.
func ask(r *charging.Request, name, value string) error {
	add := func(a charging.Ask) { r.Asks = append(r.Asks, a) }
	switch name {
	case "rg":
		n, err := strconv.ParseUint(value, 10, 32)
		add(charging.Ask{Group: uint32(n), Has: charging.HasGroup})
		return err
	case "none":
		add(charging.Ask{})
		return nil
	case "root":
		add(charging.Ask{Has: charging.AtMessage})
		return nil
	}
	if len(r.Asks) == 0 {
		return fmt.Errorf("%s comes before any rating group", name)
	}
	a := &r.Asks[len(r.Asks)-1]
	var u charging.Units
	if value != "" {
		if err := quantity(&u, value); err != nil {
			return err
		}
	}
	switch name {
	case "want":
		a.Wants, a.Want = true, u
	case "used":
		a.Reports, a.Used = true, u
		for unit := rating.Octets; unit <= rating.Money; unit++ {
			if u.Of(unit) > 0 {
				a.Measured |= charging.In(unit)
			}
		}
	case "after":
		a.Split, a.After = true, u
	default:
		reason := slices.Index(reasons, name)
		if reason < 0 {
			return fmt.Errorf("%q is not known", name)
		}
		a.Reason = uint8(reason) + 1
	}
	return nil
}

// reasons are the Reporting-Reasons, by their number.
var reasons = []string{
	"threshold", "qht", "final", "exhausted", "validity", "other", "condition", "forced", "pool", "unused",
}

// quantity reads 5MiB as octets, 30s as seconds, 1.25EUR as money, and a bare
// number as events and octets alike.
func quantity(u *charging.Units, text string) error {
	if m, ok := strings.CutSuffix(text, "EUR"); ok {
		v, err := tenant.ParseMoney(m)
		u.Money = v
		return err
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		u.Octets, u.Events = n, n
		return nil
	}
	if n, err := tenant.ParseQuantity(text, rating.Seconds); err == nil {
		u.Seconds = n
		return nil
	}
	n, err := tenant.ParseQuantity(text, rating.Octets)
	u.Octets = n
	return err
}

// answer is the reply as a scenario shows it.
func (p *Player) answer(in *rtm.Inbound) []string {
	a := &in.Answer
	head := fmt.Sprintf("%d", a.Result)
	if a.HasCost {
		head += " cost=" + tenant.FormatMoney(a.Cost)
	}
	if a.Told {
		head += " balance=" + tenant.FormatMoney(a.Balance)
	}
	if a.Low != 0 {
		head += fmt.Sprintf(" low=%t", a.Low == charging.IsLow)
	}
	if a.Checked {
		head += fmt.Sprintf(" enough=%t", !a.NoCredit)
	}
	out := []string{head}
	for _, g := range a.Grants {
		line := groupName(g.Group, g.Has) + fmt.Sprintf(" %d", g.Result)
		if g.Unit != 0 {
			line += " granted=" + strings.ReplaceAll(tenant.FormatQuantity(g.Units, g.Unit), " ", "")
			if eur, _ := tenant.CurrencyOf("EUR"); g.Unit == rating.Money && a.Currency == eur.Number {
				line += "EUR"
			}
		}
		if g.Validity != 0 {
			line += " validity=" + (time.Duration(g.Validity) * time.Second).String()
		}
		if g.Threshold != 0 {
			line += " threshold=" + strings.ReplaceAll(tenant.FormatQuantity(g.Threshold, g.Unit), " ", "")
		}
		if !g.Change.IsZero() {
			line += " change=" + g.Change.Format("15:04:05")
		}
		if g.Holding != 0 {
			line += " holding=" + (time.Duration(g.Holding) * time.Second).String()
		}
		if g.Final != 0 {
			line += " final=" + g.Final.String()
		}
		if g.Price != nil {
			line += rest(&g)
		}
		out = append(out, line)
	}
	for _, n := range in.Notices {
		out = append(out, notice(&n))
	}
	return out
}

// rest is what the price of a grant says beside its amount.
func rest(g *charging.Grant) (text string) {
	p := g.Price
	if g.Unit != 0 && p.Quota.Consumption != 0 {
		text += " consumption=" + p.Quota.Consumption.String()
	}
	if g.Unit != 0 && p.Quota.Triggers != nil {
		text += " triggers=" + strings.ReplaceAll(strings.Trim(fmt.Sprint(p.Quota.Triggers), "[]"), " ", ",")
	}
	if g.Final == 0 || g.Final != p.Final {
		return text
	}
	if p.Redirect != "" {
		text += fmt.Sprintf(" to %s %s", p.Address, p.Redirect)
	}
	if p.Filter != "" {
		text += " filter=" + p.Filter
	}
	for _, rule := range p.Filters {
		text += fmt.Sprintf(" %q", rule)
	}
	return text
}

func groupName(group uint32, has charging.Has) string {
	switch {
	case has&charging.AtMessage != 0:
		return "root"
	case has&charging.HasGroup == 0:
		return "none"
	}
	return fmt.Sprintf("rg=%d", group)
}

func (p *Player) topUp(amount, key string, more []string) ([]string, error) {
	r := charging.Request{Kind: charging.TopUp, Cause: "top-up"}
	if n, err := tenant.ParseQuantity(amount, rating.Octets); err == nil && strings.HasSuffix(amount, "B") {
		r.Amount, r.Bucket.Unit = n, rating.Octets
	} else if m, err := tenant.ParseMoney(amount); err == nil {
		r.Amount = int64(m)
	} else {
		return nil, err
	}
	for _, word := range more {
		text, ok := strings.CutPrefix(word, "until=")
		if !ok {
			return nil, fmt.Errorf("%q is not known", word)
		}
		until, err := p.clock(text)
		if err != nil {
			return nil, err
		}
		r.Bucket.Until = until
	}
	r.Content = uint64(r.Amount) | 1
	return p.answer(p.send(&rtm.Inbound{Account: p.key, OnceDoor: "api", OnceName: key, Request: r})), nil
}

func (p *Player) balance() ([]string, error) {
	var a charging.Account
	if err := a.Decode(p.disk().load([]store.Key{p.key})[0].Bytes); err != nil {
		return nil, err
	}
	if err := a.DecodeAll(); err != nil {
		return nil, err
	}
	var out []string
	for i := range a.Buckets {
		b := &a.Buckets[i]
		line := fmt.Sprintf("%-7s free %s", b.Unit, tenant.FormatQuantity(b.Available(), b.Unit))
		if b.Reserved != 0 {
			line += "  reserved " + tenant.FormatQuantity(b.Reserved, b.Unit)
		}
		if b.Overrun != 0 {
			line += "  overrun " + tenant.FormatQuantity(b.Overrun, b.Unit)
		}
		out = append(out, line)
	}
	for i := range a.Sessions {
		s := &a.Sessions[i]
		out = append(out, fmt.Sprintf("session %s  messages %d  closes %s", sessionName(s.ID, s.Sub), s.Messages, s.Close.Format("15:04:05")))
	}
	return out, nil
}

func sessionName(id []byte, sub uint64) string {
	if sub == 0 {
		return string(id)
	}
	return fmt.Sprintf("%s sub=%d", id, sub)
}

// Plan is a version of the account's plan; nil: there is none.
func (p *Player) Plan(version uint32) *rating.Plan { return p.plans[p.plan].Version(version) }

// Entries are all entries of the account so far.
func (p *Player) Entries() ([]charging.Entry, error) {
	events := p.disk().events(p.key.Partition, 0, math.MaxInt)
	out := make([]charging.Entry, len(events))
	for i := range events {
		if err := out[i].Decode(events[i].Bytes); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *Player) log() ([]string, error) {
	var out []string
	var e charging.Entry
	for _, ev := range p.disk().events(p.key.Partition, p.logged, math.MaxInt) {
		p.logged = ev.Seq
		if err := e.Decode(ev.Bytes); err != nil {
			return nil, err
		}
		line := fmt.Sprintf("%s %s", e.At.Format("15:04:05"), e.Sort)
		if len(e.Session) > 0 {
			line += " " + sessionName(e.Session, e.Sub)
		}
		if e.Cause != 0 {
			line += " " + e.Cause.String()
		}
		if e.Text != "" {
			line += " " + e.Text
		}
		for _, l := range e.Lines {
			line += "  " + groupName(l.Group, l.Has)
			if l.After {
				line += " after"
			}
			if l.Used.Octets+l.Used.Seconds+l.Used.Events != 0 {
				line += fmt.Sprintf(" used=%d", max(l.Used.Octets, l.Used.Seconds, l.Used.Events))
			}
			if l.Charged != 0 {
				line += " charged=" + tenant.FormatMoney(l.Charged)
			}
			if l.Overrun != 0 {
				line += fmt.Sprintf(" overrun=%d", l.Overrun)
			}
		}
		out = append(out, line)
	}
	return out, nil
}
