package charging

import (
	"bytes"
	"math"
	"math/bits"
	"slices"
	"time"

	"rtm/rating"
)

// valid reports whether b may be drawn on at that moment.
func (b *Bucket) valid(now time.Time) bool {
	return !now.Before(b.From) && (b.Until.IsZero() || now.Before(b.Until))
}

// free is what may be taken from b now.
func (b *Bucket) free(now time.Time) int64 {
	if !b.valid(now) {
		return 0
	}
	return max(b.Available(), 0)
}

// pays reports whether b holds units that price is measured in, and may be
// spent on it.
func (b *Bucket) pays(price *rating.Price) bool {
	return b.Unit == price.Unit && !money(b) && price.Takes(b.Allowance)
}

// move adds a movement of b to e, merged with an earlier one of the same bucket.
func (e *Entry) move(b *Bucket, m Movement) {
	for i := range e.Movements {
		if was := &e.Movements[i]; was.Bucket == b.Number {
			was.Credit += m.Credit
			was.Debit += m.Debit
			was.Overrun += m.Overrun
			was.Reserve += m.Reserve
			was.Held += m.Held
			was.Released += m.Released
			was.Available = b.Available()
			return
		}
	}
	m.Bucket, m.Unit, m.Available = b.Number, b.Unit, b.Available()
	e.Movements = append(e.Movements, m)
}

// take debits at most want from b, from what h holds there first if h is not
// nil, and returns how much it was.
func (d *decision) take(e *Entry, b *Bucket, h *Hold, want int64) int64 {
	n := int64(0)
	if h != nil {
		n = min(want, h.Amount)
		h.Amount -= n
		b.Reserved -= n
		b.Debited += n
		e.move(b, Movement{Debit: n, Reserve: -n})
		return n
	}
	if n = min(want, b.free(d.now)); n > 0 {
		b.Debited += n
		e.move(b, Movement{Debit: n})
	}
	return n
}

// spend debits amount from the buckets that belong says, what g holds there
// first, and returns what they could not pay. An overtaken report was used of
// an earlier grant: it takes from what is free before what g holds now.
func (d *decision) spend(e *Entry, g *Group, amount int64, overtaken bool, belongs func(*Bucket) bool) int64 {
	if overtaken {
		amount = d.spendFree(e, amount, belongs)
	}
	for i := range g.Holds {
		if b := d.a.bucket(g.Holds[i].Bucket); amount > 0 && b != nil && belongs(b) {
			amount -= d.take(e, b, &g.Holds[i], amount)
		}
	}
	return d.spendFree(e, amount, belongs)
}

func (d *decision) spendFree(e *Entry, amount int64, belongs func(*Bucket) bool) int64 {
	for i := range d.a.Buckets {
		if b := &d.a.Buckets[i]; amount > 0 && belongs(b) {
			amount -= d.take(e, b, nil, amount)
		}
	}
	return amount
}

// overrun debits what nobody could pay, and returns how much that was: it is
// owed, not lost. The bucket is the last one that could have paid.
func (d *decision) overrun(e *Entry, amount int64, belongs func(*Bucket) bool) int64 {
	if amount == 0 {
		return 0
	}
	var last *Bucket
	for i := range d.a.Buckets {
		if b := &d.a.Buckets[i]; belongs(b) && (last == nil || b.Until.IsZero() || !last.Until.IsZero()) {
			last = b
		}
	}
	if last == nil {
		return 0
	}
	before := min(last.Available(), 0)
	last.Debited += amount
	beyond := before - min(last.Available(), 0)
	last.Overrun += beyond
	e.move(last, Movement{Debit: amount, Overrun: beyond})
	return amount
}

func money(b *Bucket) bool { return b.Unit == rating.Money }

// pinned are the plans of the name that prices g; nil: they are not here.
func (d *decision) pinned(g *Group) Plans {
	switch {
	case d.own(g):
		return d.w.Plans
	case d.w.Named == nil:
		return nil
	}
	return d.w.Named(g.PlanName)
}

// own reports whether g is priced by the plan that the account has now.
func (d *decision) own(g *Group) bool {
	return len(g.PlanName) == 0 || bytes.Equal(g.PlanName, d.a.Plan)
}

// version is that version of the plan that g is priced by. nil: it is not
// here, and the request has to wait for it.
func (d *decision) version(g *Group, number uint32) *rating.Plan {
	if plans := d.pinned(g); plans != nil {
		if plan := plans.Version(number); plan != nil {
			return plan
		}
	}
	d.needPlan()
	return nil
}

func (d *decision) needPlan() {
	d.o.NeedPlan = true
	d.abandon(UnableToComply)
}

// price is what usage of g costs: as granted, or as it would be granted now.
func (d *decision) price(g *Group) (*rating.Price, Result) {
	if g.Rule != 0 {
		plan := d.version(g, g.Plan)
		if plan == nil {
			return nil, UnableToComply
		}
		if p := plan.Rule(g.Rule); p != nil {
			return p, Success
		}
	}
	if d.plan == nil {
		return nil, RatingFailed
	}
	f := d.facts(g)
	p, _, ok := d.plan.Price(&f)
	if !ok {
		return nil, RatingFailed
	}
	g.PlanName, g.Plan, g.Rule = nil, d.plan.Version, p.Rule
	return p, Success
}

// debit charges what ask reports to the account: allowances to the unit, the rest in
// money as price(total) − price(before), all of it, whatever is left. What a
// vanished client was charged for is not charged again, and what was used after a
// tariff change is left to afterwards.
func (d *decision) debit(e *Entry, line int, g *Group, ask *Ask, overtaken bool) Result {
	l := &e.Lines[line]
	l.Group, l.Service, l.Has, l.Reason, l.Used = ask.Group, ask.Service, ask.Has, ask.Reason, ask.Used
	g.Used.add(&ask.Used)
	p, result := d.price(g)
	if p == nil {
		l.Result = result
		return result
	}
	l.Unit, l.PlanName, l.Plan, l.Rule, l.Result = p.Unit, d.foreign(g), g.Plan, g.Rule, Success
	if ask.foreign(p.Unit) {
		l.Result = RatingFailed
		return RatingFailed
	}
	used := ask.Used.Of(p.Unit)
	l.Overrun = max(used-g.left, 0)
	g.left = max(g.left-used, 0)
	g.Overrun = sum(g.Overrun, l.Overrun)
	later := int64(0)
	if d.pace, d.paced = d.pace+used, p; !overtaken {
		later = d.later(g, ask, p.Unit)
	}
	known := min(used, g.Assumed)
	used, g.Assumed = used-known, g.Assumed-known
	later = min(later, used)
	if later > 0 {
		after := Line{Group: l.Group, Service: l.Service, Has: l.Has, Reason: l.Reason, Used: ask.After, Result: Success, After: true}
		if !ask.Split || later < ask.After.Of(p.Unit) {
			after.Used = Units{}
			after.Used.set(p.Unit, later)
		}
		l.Used.less(&after.Used)
		d.extra = append(d.extra, after)
	}
	d.charge(e, l, g, p, used-later, overtaken)
	return Success
}

// afterwards charges what a message reports of g from after a tariff change. All of it
// from before that is charged by then: a message may report a group more than once.
func (d *decision) afterwards(e *Entry, g *Group) {
	if len(d.extra) == 0 || d.o.Abandon {
		return
	}
	g.Plan, g.Rule, g.NextPlan, g.NextRule = g.NextPlan, g.NextRule, g.Plan, g.Rule
	g.Paid, g.Charged, g.Passed = 0, 0, true
	p, _ := d.price(g)
	if p == nil { // that version is not here
		return
	}
	for i := range d.extra {
		l := &d.extra[i]
		l.Unit, l.PlanName, l.Plan, l.Rule = p.Unit, d.foreign(g), g.Plan, g.Rule
		d.charge(e, l, g, p, l.Used.Of(p.Unit), false)
	}
	e.Lines = append(e.Lines, d.extra...)
	d.extra = d.extra[:0]
}

// charge has units of g paid at that price: by allowances, the rest by money.
func (d *decision) charge(e *Entry, l *Line, g *Group, p *rating.Price, units int64, overtaken bool) {
	rest := d.spend(e, g, units, overtaken, func(b *Bucket) bool { return b.pays(p) })
	if p.NoMoney {
		rest -= d.overrun(e, rest, func(b *Bucket) bool { return b.pays(p) })
	}
	l.Allowed = units - rest
	g.Allowed += l.Allowed
	if rest > 0 && !p.NoMoney {
		d.pay(e, l, g, p, rest, overtaken)
	}
	l.Paid = g.Paid
}

// later is how much of what ask reports was used after the tariff change that g was
// granted over: as the client says (Tariff-Change-Usage), or else in proportion to
// time, rounded down.
func (d *decision) later(g *Group, ask *Ask, unit rating.Unit) int64 {
	at := d.at(g)
	switch {
	case g.Change.IsZero() || g.Passed || !at.After(g.Change):
		return 0
	case ask.Split:
		return ask.After.Of(unit)
	case !g.Since.Before(g.Change):
		return ask.Used.Of(unit)
	}
	hi, lo := bits.Mul64(uint64(ask.Used.Of(unit)), uint64(at.Sub(g.Change)/time.Millisecond))
	n, _ := bits.Div64(hi, lo, uint64(at.Sub(g.Since)/time.Millisecond)) // the part is no longer than the whole
	return int64(n)
}

// TimestampMax is how far back an Event-Timestamp counts; what is further off, or
// in the future, is the client's clock, and the time of arrival counts.
const TimestampMax = 5 * time.Minute

// at is when the client sent its report of g.
func (d *decision) at(g *Group) time.Time {
	at := d.r.At
	if at.After(d.now) || d.now.Sub(at) > TimestampMax || at.Before(g.Since) {
		return d.now
	}
	return at
}

// hurry notes how fast g is used, for quotas that follow it: the mean of what was
// known and what is reported.
func (g *Group) hurry(p *rating.Price, used int64, now time.Time) {
	if p.Quota.Most == 0 || g.Since.IsZero() {
		return
	}
	ms := max(now.Sub(g.Since)/time.Millisecond, 1)
	pace := min(used, rating.UnitsMax) / int64(ms) * 1000
	if used < math.MaxInt64/1000 {
		pace = used * 1000 / int64(ms)
	}
	if pace = min(pace, rating.UnitsMax); g.Pace > 0 {
		pace = (pace + g.Pace - 1) / 2
	}
	g.Pace = pace + 1
}

// set makes n the units of that kind.
func (u *Units) set(unit rating.Unit, n int64) {
	switch unit {
	case rating.Octets:
		u.Octets = n
	case rating.Seconds:
		u.Seconds = n
	case rating.Events:
		u.Events = n
	case rating.Money:
		u.Money = rating.Micros(n)
	}
}

// less takes v off u, of which it is a part, in each unit that both are measured in.
func (u *Units) less(v *Units) {
	u.Octets = max(u.Octets-v.Octets, 0)
	u.Input = max(u.Input-v.Input, 0)
	u.Output = max(u.Output-v.Output, 0)
	u.Seconds = max(u.Seconds-v.Seconds, 0)
	u.Events = max(u.Events-v.Events, 0)
	u.Money = max(u.Money-v.Money, 0)
}

// foreign is the name of the plan that prices g, if it is not the account's.
func (d *decision) foreign(g *Group) []byte {
	if d.own(g) {
		return nil
	}
	return g.PlanName
}

// pay charges units that no allowance paid for.
func (d *decision) pay(e *Entry, l *Line, g *Group, p *rating.Price, units int64, overtaken bool) {
	total, ok := p.Total(g.Paid + units)
	if !ok || g.Paid > math.MaxInt64/2 || total < g.Charged {
		d.abandon(UnableToComply)
		return
	}
	l.Charged = total - g.Charged
	g.Paid, g.Charged = g.Paid+units, total
	g.Debited += l.Charged
	d.overrun(e, d.spend(e, g, int64(l.Charged), overtaken, money), money)
}

// add sums up what a session has used; neither is negative. A sum that no wire
// can carry stays at the largest that can be stored.
func (u *Units) add(v *Units) {
	u.Octets = sum(u.Octets, v.Octets)
	u.Input = sum(u.Input, v.Input)
	u.Output = sum(u.Output, v.Output)
	u.Seconds = sum(u.Seconds, v.Seconds)
	u.Events = sum(u.Events, v.Events)
	u.Money = sum(u.Money, v.Money)
}

func sum[N ~int64](a, b N) N { return a + min(b, math.MaxInt64-a) }

// release gives back what g holds.
func (d *decision) release(e *Entry, g *Group) {
	d.unhold(g, func(b *Bucket, n int64) { e.move(b, Movement{Reserve: -n, Released: n}) })
}

// retract takes back what this very entry has reserved for g.
func (d *decision) retract(e *Entry, g *Group) {
	d.unhold(g, func(b *Bucket, n int64) { e.move(b, Movement{Reserve: -n, Held: -n}) })
}

func (d *decision) unhold(g *Group, note func(b *Bucket, n int64)) {
	for _, h := range g.Holds {
		if b := d.a.bucket(h.Bucket); b != nil && h.Amount != 0 {
			b.Reserved -= h.Amount
			note(b, h.Amount)
		}
	}
	g.Holds, g.Release = g.Holds[:0], time.Time{}
}

// hold reserves n in b for g.
func (d *decision) hold(e *Entry, g *Group, b *Bucket, n int64) {
	b.Reserved += n
	e.move(b, Movement{Reserve: n, Held: n})
	for i := range g.Holds {
		if g.Holds[i].Bucket == b.Number {
			g.Holds[i].Amount += n
			return
		}
	}
	g.Holds = append(g.Holds, Hold{Bucket: b.Number, Amount: n})
}

// grants reserves and grants for every ask that wants quota and was not
// refused. Where too little is left for all, each gets at most its share of
// what is left, in message order.
func (d *decision) grants(e *Entry, s *Session) {
	short, asking := false, int64(0)
	for i := range d.r.Asks {
		if g := d.asking(s, i); g != nil {
			asking++
			if short = d.grant(e, s, i, g, false) || short; d.o.Abandon {
				return
			}
		}
	}
	if short && asking > 1 {
		d.shares(e, s, asking)
	}
	if d.o.Abandon {
		return
	}
	for i := range d.r.Asks {
		l, a := &e.Lines[i], &d.o.Answer.Grants[i]
		if l.Result == Success {
			l.Result = a.Result
		}
		if a.Unit != 0 {
			l.Unit, l.Granted, l.Final = a.Unit, a.Units, a.Final
		}
		if ask := &d.r.Asks[i]; ask.Wants {
			l.Wanted = 1 + ask.Want.Of(l.Unit)
		}
	}
}

// shares grants again, with each bucket divided among those that ask, and then what
// others need less of.
func (d *decision) shares(e *Entry, s *Session, asking int64) {
	for i := range d.r.Asks {
		if g := d.asking(s, i); g != nil {
			d.retract(e, g)
		}
	}
	for i := range d.a.Buckets {
		b := &d.a.Buckets[i]
		b.share = b.free(d.now) / asking
	}
	var short uint64 // bit i: ask i could have more
	for i := range d.r.Asks {
		if g := d.asking(s, i); g != nil && d.grant(e, s, i, g, true) {
			short |= 1 << i
		}
	}
	for i := range d.r.Asks { // what others left of their shares
		if short>>i&1 != 0 && !d.o.Abandon {
			g := d.asking(s, i)
			d.retract(e, g)
			d.grant(e, s, i, g, false)
		}
	}
}

// asking is the rating group that ask i wants quota for; nil: it wants none, is
// refused, or is overtaken by a higher number.
func (d *decision) asking(s *Session, i int) *Group {
	g := d.wanting(s, i)
	if g == nil || d.r.Kind == Termination || g.Number != d.r.Number || g.Result != Success && g.Result != CreditLimitReached {
		return nil
	}
	return g
}

// wanting is the rating group that ask i wants quota for; nil: none, or an
// earlier ask of the message wants the same one, and gets it.
func (d *decision) wanting(s *Session, i int) *Group {
	g := d.find(s, &d.r.Asks[i])
	if g == nil || !d.r.Asks[i].Wants {
		return nil
	}
	for j := range i {
		if d.r.Asks[j].Wants && d.find(s, &d.r.Asks[j]) == g {
			return nil
		}
	}
	return g
}

// terms are what a grant is made under.
type terms struct {
	price    *rating.Price
	validity time.Duration
	change   time.Time     // when another price comes into force that the client tells apart; zero: none does
	next     *rating.Price // … that price
	version  uint32        // … and the version of the plan that has it
}

// terms finds what g is granted under; false: there is no tariff, or the client asks
// for units of another kind.
func (d *decision) terms(g *Group, ask *Ask) (t terms, ok bool) {
	if d.plan == nil {
		return t, false
	}
	f := d.facts(g)
	p, until, ok := d.plan.Price(&f)
	if !ok || ask.Want != (Units{}) && ask.Want.Of(p.Unit) == 0 {
		return t, false
	}
	t.price, t.validity = p, p.Quota.Validity
	if most := d.r.Client.Validity; most > 0 {
		t.validity = min(t.validity, most)
	}
	for looked, now := 0, d.now; ; looked++ {
		at := earlier(until, d.w.Plans.Next(now))
		if at.IsZero() {
			return t, true
		}
		at = at.Add(time.Second - 1).Truncate(time.Second) // as exact as the wire
		if at.Sub(d.now) >= t.validity {
			return t, true
		}
		f.At = at
		plan := d.w.Plans.Current(at)
		if plan == nil {
			return t, true
		}
		var next *rating.Price
		if next, until, ok = plan.Price(&f); !ok || looked == changesMax {
			t.until(d.now, at)
			return t, true
		}
		switch {
		case next.Costs(p):
		case t.next == nil && next.SamePayers(p) && d.r.Client.Splits:
			t.change, t.next, t.version = at, next, plan.Version
			p = next
		default: // the client has to ask again
			t.until(d.now, at)
			return t, true
		}
		now = at
	}
}

// changesMax is how many times at which prices might change a grant can lie over.
const changesMax = 64

// until has a grant end by that time, in whole seconds behind it.
func (t *terms) until(now, at time.Time) {
	t.validity = min(t.validity, max(at.Sub(now)+time.Second-1, time.Second).Truncate(time.Second))
}

// grant decides what ask i gets, holds it, and writes it into the answer. It
// reports whether less was there than a whole quota.
func (d *decision) grant(e *Entry, s *Session, i int, g *Group, shared bool) (short bool) {
	ask, answer := &d.r.Asks[i], &d.o.Answer.Grants[i]
	t, ok := d.terms(g, ask)
	if !ok || t.price.Free {
		if g.Result = RatingFailed; ok {
			g.Result = NotApplicable
		}
		*answer = d.said(g, ask)
		return false
	}
	p := t.price
	if !d.own(g) || g.Plan != d.plan.Version || g.Rule != p.Rule {
		if g.Paid > 0 && !d.costs(g, p) {
			g.Paid, g.Charged = 0, 0
		}
		if d.o.Abandon {
			return false
		}
		g.PlanName, g.Plan, g.Rule = nil, d.plan.Version, p.Rule
	}
	g.Result, g.Unit, g.Granted, g.Change, g.Passed = CreditLimitReached, 0, 0, time.Time{}, false
	g.Validity, g.Holding, g.Threshold, g.Final = 0, 0, 0, 0

	left := d.affordable(g, &t, shared)
	if left == 0 && t.next != nil { // too little for both prices: the client asks again when it changes
		t.until(d.now, t.change)
		t.next = nil
		left = d.affordable(g, &t, shared)
	}
	whole := d.quotaOf(g, p, ask, left)
	size, held := d.slice(s, p, whole, left)
	units, more := d.reserve(e, g, &t, size, shared)
	switch {
	case units > 0:
		d.granted(g, &t, units, more, held)
	case !held && p.Final > rating.Terminate && d.wait(g, p):
		g.Final = p.Final
	}
	if held && left-units < d.least(p) {
		d.recall(s, p)
	}
	*answer = d.said(g, ask)
	return units < whole
}

// costs reports whether what g was granted under costs the same as p: then a step that
// was begun is not paid again.
func (d *decision) costs(g *Group, p *rating.Price) bool {
	plan := d.version(g, g.Plan)
	if plan == nil {
		return false
	}
	old := plan.Rule(g.Rule)
	return old != nil && d.own(g) && g.Rule == p.Rule && old.Costs(p)
}

// granted notes in g what it has got. Its last units are final unless others can give
// something back.
func (d *decision) granted(g *Group, t *terms, units int64, more, held bool) {
	p := t.price
	for _, h := range g.Holds {
		if b := d.a.bucket(h.Bucket); b != nil && !b.Until.IsZero() {
			t.until(d.now, b.Until)
		}
	}
	g.Result, g.Unit, g.Granted, g.Waiting = Success, p.Unit, units, time.Time{}
	g.Validity, g.Holding = uint32(t.validity/time.Second), uint32(p.Quota.Holding/time.Second)
	if remind := p.Quota.Reminder(units); remind < units && more {
		g.Threshold = remind
	}
	if !more && !held {
		g.Final = p.Final
	}
	if t.next != nil {
		g.Change, g.NextPlan, g.NextRule = t.change, t.version, t.next.Rule
	}
	if g.Since = (time.Time{}); t.next != nil || p.Quota.Most > 0 {
		g.Since = d.now
	}
	g.Release = d.now.Add(t.validity + d.grace())
}

// quotaOf is how much to grant while there is plenty: what the plan says, for events and
// money what is asked for, for messages enough for all, for seconds no more than is
// asked for.
func (d *decision) quotaOf(g *Group, p *rating.Price, ask *Ask, left int64) int64 {
	want := ask.Want.Of(p.Unit)
	if (p.Unit == rating.Events || p.Unit == rating.Money) && want > 0 {
		return min(want, rating.UnitsMax)
	}
	size := max(p.Quota.After(g.Pace-1, left), d.r.Client.least(p))
	if p.Unit == rating.Events {
		size = max(size, d.on.messages())
	}
	if p.Unit == rating.Seconds && want > 0 {
		return min(want, size)
	}
	return size
}

// least is what the client must be granted of that, if anything.
func (c *Client) least(p *rating.Price) int64 {
	if p.Unit == rating.Octets {
		return c.Least
	}
	return 0
}

// least is the smallest grant that is made while others want something too.
func (d *decision) least(p *rating.Price) int64 {
	return max(d.r.Client.least(p), p.Quota.Least, p.Quota.Size/16, 1)
}

// slice is how much of what is left to take for a quota of that size. While others
// draw on the same buckets, each takes its share, so that nobody gets the last of it
// as long as others hold some; held reports whether they do.
func (d *decision) slice(s *Session, p *rating.Price, whole, left int64) (size int64, held bool) {
	size = min(whole, left)
	if left/int64(len(d.a.Sessions)+len(s.Groups)+1) < whole {
		var rivals int64
		if rivals, held = d.rivals(s, p); rivals > 0 {
			size = min(size, max(left/(rivals+1), d.least(p)))
		}
	}
	least := d.r.Client.least(p)
	if left-size < least { // the client could not be granted the rest
		size = left
	}
	if size < least {
		size = 0
	}
	return size, held
}

// rivals counts who else draws on the buckets that pay for p, or would if it could:
// other sessions, and rating groups of this one that its message does not name.
func (d *decision) rivals(s *Session, p *rating.Price) (rivals int64, held bool) {
	for i := range d.a.Sessions {
		o := &d.a.Sessions[i]
		if o == s || !d.a.decodeSession(o) {
			continue
		}
		draws := slices.ContainsFunc(o.Groups, func(g Group) bool { return d.draws(&g, p) })
		if held = held || draws; draws || o.Hungry {
			rivals++
		}
	}
	for i := range s.Groups {
		if g := &s.Groups[i]; g.Number != d.r.Number && d.draws(g, p) {
			rivals++
			held = true
		}
	}
	return rivals, held
}

// draws reports whether g holds something of what pays for p.
func (d *decision) draws(g *Group, p *rating.Price) bool {
	return slices.ContainsFunc(g.Holds, func(h Hold) bool {
		b := d.a.bucket(h.Bucket)
		return h.Amount > 0 && b != nil && (b.pays(p) || money(b) && !p.NoMoney)
	})
}

// affordable is how much g could be granted at most: what allowances have, and what
// can be had for money, whatever price comes into force meanwhile.
func (d *decision) affordable(g *Group, t *terms, shared bool) (units int64) {
	p := t.price
	for i := range d.a.Buckets {
		if b := &d.a.Buckets[i]; b.pays(p) {
			units += min(b.offers(d.now, shared), math.MaxInt64-units)
		}
	}
	if p.NoMoney {
		return units
	}
	return units + min(d.forMoney(g, t, d.have(shared)), math.MaxInt64-units)
}

// forMoney is how many units more can be had for have.
func (d *decision) forMoney(g *Group, t *terms, have rating.Micros) int64 {
	if have <= 0 && t.price.Micro != 0 { // what rounding leaves free is not granted by itself
		return 0
	}
	if t.next == nil {
		return t.price.Affordable(g.Paid, have)
	}
	if have -= t.begun(); have <= 0 && (t.price.Micro != 0 || t.next.Micro != 0) {
		return 0
	}
	return min(t.price.Affordable(g.Paid, have), t.next.Affordable(0, have))
}

// begun is what a step costs that usage on both sides of a tariff change has begun
// twice.
func (t *terms) begun() rating.Micros {
	before, _ := t.price.Total(1)
	after, _ := t.next.Total(1)
	return max(before, after)
}

// have is the money that may be reserved: what is there, and the session may still
// cost.
func (d *decision) have(shared bool) (have rating.Micros) {
	for i := range d.a.Buckets {
		if b := &d.a.Buckets[i]; money(b) {
			have += rating.Micros(min(b.offers(d.now, shared), math.MaxInt64-int64(have)))
		}
	}
	if d.in != nil && d.plan.SpendMax > 0 {
		may := d.plan.SpendMax - d.in.spent()
		for i := range d.a.Buckets {
			if b := &d.a.Buckets[i]; money(b) {
				may -= rating.Micros(d.in.holds(b.Number))
			}
		}
		have = max(min(have, may), 0)
	}
	return have
}

// reserve holds up to size units for g: allowances in their order, then money.
// more says whether another unit could be had after that.
func (d *decision) reserve(e *Entry, g *Group, t *terms, size int64, shared bool) (units int64, more bool) {
	p := t.price
	for i := range d.a.Buckets {
		b := &d.a.Buckets[i]
		if !b.pays(p) {
			continue
		}
		n := min(size-units, b.offers(d.now, shared))
		if n > 0 {
			d.hold(e, g, b, n)
			units += n
		}
		more = more || b.free(d.now) > 0
	}
	if p.NoMoney {
		return units, more && units == size
	}
	have := d.have(shared)
	can := d.forMoney(g, t, have)
	n := min(size-units, can)
	cost := rating.Micros(0)
	if n > 0 {
		total, ok := p.Total(g.Paid + n)
		if !ok {
			return units, false
		}
		cost = total - g.Charged
		if t.next != nil {
			after, _ := t.next.Total(n)
			cost = max(cost, after) + t.begun() // which is affordable, too
		}
		d.holdMoney(e, g, int64(cost), shared)
		units += n
	}
	more = more || can > n && (p.Micro == 0 || have > cost)
	return units, units == size && more
}

func (d *decision) holdMoney(e *Entry, g *Group, cost int64, shared bool) {
	for i := range d.a.Buckets {
		b := &d.a.Buckets[i]
		if n := min(cost, b.offers(d.now, shared)); money(b) && n > 0 {
			d.hold(e, g, b, n)
			cost -= n
		}
	}
}

// offers is what b has for one rating group.
func (b *Bucket) offers(now time.Time, shared bool) int64 {
	if shared {
		return min(b.free(now), b.share)
	}
	return b.free(now)
}

// recallPause is how long a client is left alone after its last message before it is
// asked to give something back, or told that there is something again.
const recallPause = 10 * time.Second

// recall has those report who hold something of what pays for p: what they do not use
// is wanted elsewhere.
func (d *decision) recall(s *Session, p *rating.Price) {
	for i := range d.a.Sessions {
		o := &d.a.Sessions[i]
		if !d.a.decodeSession(o) {
			d.abandon(UnableToComply)
			return
		}
		if slices.ContainsFunc(o.Groups, func(g Group) bool { return (o != s || g.Number != d.r.Number) && d.draws(&g, p) }) {
			d.prompt(o, Reauthorise, recallPause)
		}
	}
}

// offer has those report who could have more now than they were granted.
func (d *decision) offer(pause time.Duration) {
	if !slices.ContainsFunc(d.a.Buckets, func(b Bucket) bool { return b.free(d.now) > 0 }) {
		return
	}
	for i := range d.a.Sessions {
		if s := &d.a.Sessions[i]; s != d.in && s.Hungry {
			d.prompt(s, Reauthorise, pause)
		}
	}
}

// prompt sends the client of s a RAR or ASR, when that long has passed since it was
// heard of. A RAR is not for who would not care, or is asked already.
func (d *decision) prompt(s *Session, kind Kind, pause time.Duration) {
	if !d.a.decodeSession(s) {
		d.abandon(UnableToComply)
		return
	}
	asked := s.Notice.Kind == Reauthorise && !s.Notice.HasGroup
	if s.Notice.Kind == Abort || kind == Reauthorise && (asked || s.Deaf) {
		return
	}
	d.o.Changed, d.prompted = true, true
	s.Notice = Notice{Kind: kind, Number: s.Notice.Number + 1}
	last := s.Last
	if s == d.in {
		last = d.now
	}
	if s.Notice.Next = last.Add(pause); !s.Notice.Next.After(d.now) || pause == 0 {
		d.send(s)
	}
	s.wake()
}

// money is what is left of an account's money, what is reserved included.
func (a *Account) money(now time.Time) (sum rating.Micros) {
	for i := range a.Buckets {
		if b := &a.Buckets[i]; money(b) && b.valid(now) {
			sum += rating.Micros(b.Credited - b.Debited)
		}
	}
	return sum
}

// expire takes what is left in buckets whose time is over.
func (d *decision) expire() {
	for i := range d.a.Buckets {
		b := &d.a.Buckets[i]
		if b.Until.IsZero() || d.now.Before(b.Until) || b.Available() <= 0 {
			continue
		}
		e := d.entry(Ledger, nil)
		n := b.Available()
		b.Debited += n
		e.Text, e.Result = "expired", Success
		e.move(b, Movement{Debit: n})
		d.o.Changed = true
	}
}

// credit adds a bucket, in the order in which buckets pay: by priority, then
// the one that ends first, then the older one.
func (a *Account) credit(n Bucket) *Bucket {
	a.LastBucket++
	n.Number = a.LastBucket
	a.grownBuckets()
	at := len(a.Buckets) - 1
	for at > 0 && n.before(&a.Buckets[at-1]) {
		a.Buckets[at] = a.Buckets[at-1]
		at--
	}
	a.Buckets[at] = n
	return &a.Buckets[at]
}

func (b *Bucket) before(c *Bucket) bool {
	switch {
	case b.Priority != c.Priority:
		return b.Priority < c.Priority
	case b.Until.Equal(c.Until):
		return false
	}
	return !b.Until.IsZero() && (c.Until.IsZero() || b.Until.Before(c.Until))
}
