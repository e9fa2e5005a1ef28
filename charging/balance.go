package charging

import (
	"bytes"
	"math"
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
	return b.Unit == price.Unit && price.Takes(b.Allowance)
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

// version is the version of a plan that g was granted under. nil: it is not
// here, and the request has to wait for it.
func (d *decision) version(g *Group) *rating.Plan {
	if plans := d.pinned(g); plans != nil {
		if plan := plans.Version(g.Plan); plan != nil {
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
		plan := d.version(g)
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

// debit charges what ask reports to the account: allowances to the unit, the
// rest in money as price(total) − price(before), all of it, whatever is left.
// What a vanished client was charged for is not charged again.
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
	used := ask.Used.Of(p.Unit)
	l.Overrun = max(used-g.left, 0)
	g.left = max(g.left-used, 0)
	g.Overrun = sum(g.Overrun, l.Overrun)
	known := min(used, g.Assumed)
	used, g.Assumed = used-known, g.Assumed-known

	rest := d.spend(e, g, used, overtaken, func(b *Bucket) bool { return b.pays(p) })
	if p.NoMoney {
		rest -= d.overrun(e, rest, func(b *Bucket) bool { return b.pays(p) })
	}
	l.Allowed = used - rest
	g.Allowed += l.Allowed
	if rest > 0 && !p.NoMoney {
		d.pay(e, l, g, p, rest, overtaken)
	}
	l.Paid = g.Paid
	return Success
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
		l.Result = a.Result
		if a.Unit != 0 {
			l.Unit, l.Granted, l.Final = a.Unit, a.Units, a.Final
		}
		if ask := &d.r.Asks[i]; ask.Wants {
			l.Wanted = 1 + ask.Want.Of(l.Unit)
		}
	}
}

// shares grants again, with each bucket divided among those that ask.
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
	some := false
	for i := range d.r.Asks {
		if g := d.asking(s, i); g != nil {
			d.grant(e, s, i, g, true)
			some = some || g.Granted > 0
		}
	}
	if some {
		return
	}
	for i := range d.r.Asks {
		if g := d.asking(s, i); g != nil {
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

// grant decides what ask i gets, holds it, and writes it into the answer. It
// reports whether less was there than a whole quota.
func (d *decision) grant(e *Entry, s *Session, i int, g *Group, shared bool) (short bool) {
	ask, answer := &d.r.Asks[i], &d.o.Answer.Grants[i]
	f := d.facts(g)
	var p *rating.Price
	if d.plan != nil {
		p, _, _ = d.plan.Price(&f)
	}
	if p == nil {
		g.Result = RatingFailed
		*answer = d.told(g, ask)
		return false
	}
	if !d.own(g) || g.Plan != d.plan.Version || g.Rule != p.Rule {
		g.PlanName, g.Plan, g.Rule, g.Paid, g.Charged = nil, d.plan.Version, p.Rule, 0, 0
	}
	size := quotaOf(p, ask)
	units, more := d.reserve(e, g, p, size, shared)
	g.Result, g.Unit, g.Granted = CreditLimitReached, 0, 0
	g.Validity, g.Holding, g.Threshold, g.Final = 0, 0, 0, 0
	if units > 0 {
		g.Result, g.Unit, g.Granted = Success, p.Unit, units
		g.Validity, g.Holding = uint32(p.Quota.Validity/time.Second), uint32(p.Quota.Holding/time.Second)
		if p.Quota.Threshold < units && more {
			g.Threshold = p.Quota.Threshold
		}
		if !more {
			g.Final = p.Final
		}
		g.Release = d.now.Add(p.Quota.Validity + d.grace())
	}
	*answer = d.told(g, ask)
	return units < size
}

// quotaOf is how much to grant: what the plan says, for events what is asked
// for, for seconds no more than is asked for.
func quotaOf(p *rating.Price, ask *Ask) int64 {
	want := ask.Want.Of(p.Unit)
	switch {
	case want <= 0 || p.Unit == rating.Octets:
		return p.Quota.Size
	case p.Unit == rating.Events:
		return min(want, rating.UnitsMax)
	}
	return min(want, p.Quota.Size)
}

// reserve holds up to size units for g: allowances in their order, then money.
// more says whether another unit could be had after that.
func (d *decision) reserve(e *Entry, g *Group, p *rating.Price, size int64, shared bool) (units int64, more bool) {
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
	have := rating.Micros(0)
	for i := range d.a.Buckets {
		if b := &d.a.Buckets[i]; money(b) {
			have += rating.Micros(min(b.offers(d.now, shared), math.MaxInt64-int64(have)))
		}
	}
	can := int64(0)
	if have > 0 || p.Micro == 0 { // what rounding leaves free is not granted by itself
		can = p.Affordable(g.Paid, have)
	}
	n := min(size-units, can)
	cost := rating.Micros(0)
	if n > 0 {
		total, ok := p.Total(g.Paid + n)
		if !ok {
			return units, false
		}
		cost = total - g.Charged
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
