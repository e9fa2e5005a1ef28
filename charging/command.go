package charging

import (
	"bytes"
	"math"
	"slices"
	"time"

	"rtm/rating"
)

// event carries out a CCR-E: once, all or nothing.
func (d *decision) event() {
	switch {
	case d.w.Once != nil: // also if the identity is another's by now
		d.again()
		return
	case d.r.Action == DirectDebiting || d.r.Action == RefundAccount:
		d.o.Once = Relied // also a refusal rests on its not having been carried out
	}
	switch {
	case !d.known():
		d.o.Answer.Result, d.o.Stranger = UserUnknown, true
		return
	case d.plan == nil:
		d.o.Answer.Result = RatingFailed
		return
	}
	d.o.Answer.Result, d.o.Answer.Currency = Success, d.plan.Currency
	switch d.r.Action {
	case DirectDebiting:
		d.once(OnceEvent)
		d.directDebit()
	case RefundAccount:
		d.once(OnceRefund)
		d.refund()
	case CheckBalance:
		d.checkBalance()
	case PriceEnquiry:
		d.priceEnquiry()
	default:
		d.o.Answer.Result = InvalidValue
	}
}

func (d *decision) once(keep time.Duration) {
	d.o.Once, d.o.OnceFor = Written, keep
}

// again answers a one-time request that was carried out before.
func (d *decision) again() {
	d.o.Once = Relied
	if d.w.Once.Content != d.r.Content {
		d.o.Answer.Result = UnableToComply
		return
	}
	grants := append(d.o.Answer.Grants[:0], d.w.Once.Answer.Grants...)
	d.o.Answer = d.w.Once.Answer
	d.o.Answer.Grants = grants
}

// directDebit reserves everything first; what cannot be had whole is not
// debited at all.
func (d *decision) directDebit() {
	var s Session
	e := d.entry(OneTime, nil)
	e.Particulars, e.Host = d.r.Particulars, d.r.Host
	for i := range d.r.Asks {
		ask := &d.r.Asks[i]
		e.Lines = append(e.Lines, Line{Group: ask.Group, Service: ask.Service, Has: ask.Has})
		g := s.grownGroups()
		g.Group, g.Service, g.Has = ask.Group, ask.Service, ask.Has
		d.o.Answer.Grants = append(d.o.Answer.Grants, ask.result(d.book(e, i, g, ask)))
		if d.o.Abandon {
			return
		}
	}
	for i := range d.o.Answer.Grants {
		if r := d.o.Answer.Grants[i].Result; r != Success {
			d.denied(e, &s, r)
			return
		}
	}
	for i := range s.Groups {
		d.debitEvent(e, i, &s.Groups[i])
	}
	e.Result, d.o.Changed = Success, true
}

// book reserves what one ask of an event needs.
func (d *decision) book(e *Entry, line int, g *Group, ask *Ask) Result {
	if amount := d.plain(g, ask); amount > 0 {
		g.Unit, g.Granted = rating.Money, amount
		d.holdMoney(e, g, amount, false)
		if g.held() < amount {
			return CreditLimitReached
		}
		return Success
	}
	p, result := d.priceOf(g, ask)
	if p == nil {
		return result
	}
	size := d.quantity(ask, p.Unit)
	e.Lines[line].Plan, e.Lines[line].Rule = g.Plan, g.Rule
	g.Unit, g.Granted = p.Unit, size
	if units, _ := d.reserve(e, g, &terms{price: p}, size, false); units < size {
		return CreditLimitReached
	}
	return Success
}

// plain is the money that an event names to be moved as it is, since no service for
// money is sold there; zero: none.
func (d *decision) plain(g *Group, ask *Ask) int64 {
	amount := eventUnits(ask, rating.Money)
	if amount == 0 {
		return 0
	}
	if p, _ := d.price(g); p != nil && p.Unit == rating.Money {
		return 0
	}
	*g = ask.group()
	return amount
}

// priceOf is what the units of an event cost; nil: nobody can say, for one if it names
// units of other kinds only.
func (d *decision) priceOf(g *Group, ask *Ask) (*rating.Price, Result) {
	p, result := d.price(g)
	if p != nil && eventUnits(ask, p.Unit) == 0 && (p.Unit == rating.Money || ask.Want != (Units{}) || ask.Used != (Units{})) {
		return nil, RatingFailed
	}
	return p, result
}

// group is the rating group that ask names, of no session.
func (ask *Ask) group() Group { return Group{Group: ask.Group, Service: ask.Service, Has: ask.Has} }

// eventUnits is what an event asks for; some clients put it into the
// Used-Service-Unit.
func eventUnits(ask *Ask, unit rating.Unit) int64 {
	if n := ask.Want.Of(unit); n > 0 {
		return n
	}
	return ask.Used.Of(unit)
}

// quantity is like eventUnits. Of what names no units there is one, of a message one
// for each recipient and each short message that it was cut into.
func (d *decision) quantity(ask *Ask, unit rating.Unit) int64 {
	n := eventUnits(ask, unit)
	if n == 0 && unit == rating.Events {
		n = d.r.Particulars.messages()
	}
	return max(n, 1)
}

// messages is how many messages are sent: one to each recipient, each in all its parts.
func (p *Particulars) messages() int64 {
	return min(max(int64(p.Recipients), 1)*max(int64(p.Segments), 1), rating.UnitsMax)
}

func (g *Group) held() (sum int64) {
	for _, h := range g.Holds {
		sum += h.Amount
	}
	return sum
}

// denied undoes what an event that is not carried out has reserved, and the
// entry it had begun.
func (d *decision) denied(e *Entry, s *Session, r Result) {
	for i := range s.Groups {
		d.release(e, &s.Groups[i])
	}
	d.o.Log.reset()
	d.a.Events--
	d.o.Answer = Answer{Result: r, Grants: d.o.Answer.Grants, Currency: d.o.Answer.Currency}
	d.o.Once = min(d.o.Once, Relied)
}

// debitEvent turns what g holds into a debit.
func (d *decision) debitEvent(e *Entry, line int, g *Group) {
	l, answer := &e.Lines[line], &d.o.Answer.Grants[line]
	l.Unit, l.Granted, l.Result = g.Unit, g.Granted, Success
	answer.Unit, answer.Units = g.Unit, g.Granted
	for i := range g.Holds {
		h := &g.Holds[i]
		b := d.a.bucket(h.Bucket)
		n := d.take(e, b, h, h.Amount)
		if money(b) {
			l.Charged += rating.Micros(n)
		} else {
			l.Allowed += n
		}
	}
	switch g.Unit {
	case rating.Octets:
		l.Used.Octets = g.Granted
	case rating.Seconds:
		l.Used.Seconds = g.Granted
	case rating.Events:
		l.Used.Events = g.Granted
	case rating.Money:
		l.Used.Money = rating.Micros(g.Granted)
	}
	if g.Unit != rating.Money {
		l.Paid = g.Granted - l.Allowed
	}
	d.o.Answer.Cost += l.Charged
	d.o.Answer.HasCost = true
}

// refund credits money, or units: to the allowances that pay for them, as far as those
// were used, and what the rest costs today as money.
func (d *decision) refund() {
	money := rating.Micros(0)
	back := make([]int64, len(d.a.Buckets)) // units, to each bucket
	lines := make([]Line, 0, len(d.r.Asks))
	for i := range d.r.Asks {
		l, result := d.giveBack(&d.r.Asks[i], back)
		if result == Success && -l.Charged > rating.UnitsMax-money {
			result = InvalidValue
		}
		if result != Success {
			d.invalid(result)
			return
		}
		money -= l.Charged
		lines = append(lines, l)
		d.o.Answer.Grants = append(d.o.Answer.Grants, d.r.Asks[i].result(Success))
	}
	main := d.main()
	units := slices.ContainsFunc(back, func(n int64) bool { return n > 0 })
	if money == 0 && !units || money > 0 && (main == nil || main.Credited > math.MaxInt64-int64(money)) {
		d.invalid(InvalidValue)
		return
	}
	e := d.entry(OneTime, nil)
	e.Result, e.Text, e.Particulars = Success, "refund", d.r.Particulars
	e.Lines = append(e.Lines, lines...)
	for i, n := range back {
		if n > 0 {
			b := &d.a.Buckets[i]
			b.Debited -= n
			e.move(b, Movement{Debit: -n})
		}
	}
	if money > 0 {
		main.Credited += int64(money)
		e.move(main, Movement{Credit: int64(money)})
	}
	d.o.Answer.Cost, d.o.Answer.HasCost = money, true
	d.o.Changed = true
	d.offer(0)
}

// giveBack is what a refund gives for one ask; units that go to buckets are added to
// back.
func (d *decision) giveBack(ask *Ask, back []int64) (Line, Result) {
	l := Line{Group: ask.Group, Service: ask.Service, Has: ask.Has, Unit: rating.Money, Result: Success}
	g := ask.group()
	if n := d.plain(&g, ask); n > 0 {
		l.Charged = -rating.Micros(n)
		return l, Success
	}
	p, result := d.priceOf(&g, ask)
	if p == nil {
		return l, result
	}
	l.Unit, l.Plan, l.Rule = p.Unit, g.Plan, g.Rule
	rest := d.quantity(ask, p.Unit)
	for i := range d.a.Buckets {
		b := &d.a.Buckets[i]
		if !b.pays(p) || !b.valid(d.now) {
			continue
		}
		n := max(min(rest, b.Debited-back[i]), 0)
		back[i], l.Allowed, rest = back[i]+n, l.Allowed-n, rest-n
	}
	if p.NoMoney {
		return l, Success
	}
	cost, ok := p.Total(rest)
	if !ok {
		return l, InvalidValue
	}
	l.Charged = -cost
	return l, Success
}

// invalid refuses a request before it has changed anything.
func (d *decision) invalid(r Result) {
	d.o.Answer.Result, d.o.Once = r, Relied
	for i := range d.o.Answer.Grants {
		d.o.Answer.Grants[i].Result = r
	}
}

// main is the bucket for money without an end.
func (d *decision) main() *Bucket {
	for i := range d.a.Buckets {
		if b := &d.a.Buckets[i]; money(b) && b.Allowance == 0 && b.Until.IsZero() {
			return b
		}
	}
	return nil
}

// checkBalance tries what an event would need, and undoes it.
func (d *decision) checkBalance() {
	e := d.entry(OneTime, nil)
	var s Session
	result, enough := Success, true
	for i := range d.r.Asks {
		ask := &d.r.Asks[i]
		e.Lines = append(e.Lines, Line{})
		g := s.grownGroups()
		g.Group, g.Service, g.Has = ask.Group, ask.Service, ask.Has
		switch r := d.book(e, i, g, ask); r {
		case Success:
		case CreditLimitReached:
			enough = false
		default:
			result = r
		}
		if d.o.Abandon {
			return
		}
	}
	d.denied(e, &s, result)
	d.o.Answer.Checked, d.o.Answer.NoCredit = result == Success, !enough
}

// priceEnquiry adds up what the units named would cost, without a look at the
// balance.
func (d *decision) priceEnquiry() {
	for i := range d.r.Asks {
		ask := &d.r.Asks[i]
		g := ask.group()
		p, result := d.priceOf(&g, ask)
		if p == nil {
			d.o.Answer.Result = result
			d.o.Answer.Grants = append(d.o.Answer.Grants[:0], ask.result(result))
			return
		}
		cost, ok := p.Total(d.quantity(ask, p.Unit))
		if !ok || cost > rating.UnitsMax-d.o.Answer.Cost {
			d.o.Answer.Result = InvalidValue
			return
		}
		d.o.Answer.Cost += cost
		d.o.Answer.Grants = append(d.o.Answer.Grants, ask.result(Success))
	}
	d.o.Answer.HasCost = true
}

// tick does what time has made due: releases reservations (stage 1), closes
// sessions (stage 2), repeats notices.
func (d *decision) tick() {
	d.o.Answer.Result = Success
	groups := 0 // of the sessions that were closed
	for i := 0; i < len(d.a.Sessions) && len(d.o.Closings) < closingsMax && groups < closedGroupsMax; i++ {
		s := &d.a.Sessions[i]
		if s.Wake.IsZero() || d.now.Before(s.Wake) {
			continue
		}
		if !d.a.decodeSession(s) {
			d.abandon(UnableToComply)
			return
		}
		d.o.Changed = true
		if !d.now.Before(s.Close) {
			groups += len(s.Groups)
			d.vanished(s)
			d.close(s, Expired)
			i--
			continue
		}
		d.stale(s)
		d.remind(s)
		s.wake()
	}
	d.expire()
}

// stale gives back what was granted to s and outlived its validity and grace.
func (d *decision) stale(s *Session) {
	var e *Entry
	for i := range s.Groups {
		g := &s.Groups[i]
		if g.Release.IsZero() || d.now.Before(g.Release) {
			continue
		}
		if d.plan != nil && d.plan.Vanished {
			g.Release = time.Time{} // held until the session is heard of or closed
			continue
		}
		if e == nil {
			e = d.entry(Released, s)
		}
		e.Lines = append(e.Lines, Line{Group: g.Group, Service: g.Service, Has: g.Has, Unit: g.Unit, Granted: g.Granted})
		d.release(e, g)
	}
	if e != nil {
		d.offer(recallPause)
	}
}

// vanished charges what a session that nobody heard of still holds, if the
// plan says so.
func (d *decision) vanished(s *Session) {
	if d.plan == nil || !d.plan.Vanished {
		return
	}
	e := d.entry(Message, s)
	e.Text = "client vanished"
	for i := range s.Groups {
		g := &s.Groups[i]
		if len(g.Holds) == 0 {
			continue
		}
		ask := Ask{Group: g.Group, Service: g.Service, Has: g.Has, Reports: true}
		switch g.Unit {
		case rating.Octets:
			ask.Used.Octets = g.Granted
		case rating.Seconds:
			ask.Used.Seconds = g.Granted
		case rating.Events:
			ask.Used.Events = g.Granted
		case rating.Money:
			ask.Used.Money = rating.Micros(g.Granted)
		}
		e.Lines = append(e.Lines, Line{})
		g.left = g.Granted
		d.debit(e, len(e.Lines)-1, g, &ask, false)
		d.afterwards(e, g)
		d.release(e, g)
		g.Assumed += g.Granted
	}
}

// remind repeats the notice of s, or gives it up.
func (d *decision) remind(s *Session) {
	n := &s.Notice
	if n.Kind == 0 || d.now.Before(n.Next) {
		return
	}
	if n.Tries >= NoticeTries {
		e := d.entry(Undelivered, s)
		e.Kind = n.Kind
		n.Kind, n.Next = 0, time.Time{}
		return
	}
	d.send(s)
}

// send hands the notice of s out and sets the time of the next try.
func (d *decision) send(s *Session) {
	n := &s.Notice
	n.Next = d.now.Add(NoticePause << n.Tries)
	n.Tries++
	d.o.Notices = append(d.o.Notices, Due{Notice: *n, Realm: s.Realm, Host: s.Host, Via: s.Via, Session: s.ID, Sub: s.Sub})
}

// notify puts a RAR or ASR into the session.
func (d *decision) notify() {
	s := d.session()
	if d.o.Abandon {
		return
	}
	if s == nil {
		d.o.Answer.Result = UnknownSession
		return
	}
	if d.r.HasGroup && !slices.ContainsFunc(s.Groups, func(g Group) bool { return g.Has&HasGroup != 0 && g.Group == d.r.Group }) {
		d.o.Answer.Result, d.o.Open = InvalidValue, true
		return
	}
	if s.Notice.Kind == Abort && d.r.Kind == Reauthorise {
		d.o.Answer.Result, d.o.Open = Success, true // it is being ended
		return
	}
	n := Notice{Kind: d.r.Kind, Number: s.Notice.Number + 1, Group: d.r.Group, HasGroup: d.r.HasGroup}
	if was := &s.Notice; was.Kind == Reauthorise && (was.Group != n.Group || was.HasGroup != n.HasGroup) {
		n.Group, n.HasGroup = 0, false // a RAR names one rating group or none: what was asked for before is asked for still
	}
	s.Notice = n
	d.send(s)
	s.wake()
	d.o.Answer.Result, d.o.Changed, d.o.Open = Success, true, true
}

// notified notes the client's answer to a RAR or ASR (RFC 8506 §5.5, RFC 6733
// §8.5). A client that does not know the session will never end it. An answer
// that says that the request did not arrive or was not understood leaves the
// notice to the timer, which tries again.
func (d *decision) notified() {
	s := d.session()
	if d.o.Abandon {
		return
	}
	d.o.Answer.Result = Success
	if s == nil || s.Notice.Kind == 0 || s.Notice.Number != d.r.Notice {
		return
	}
	switch {
	case d.r.Result == UnknownSession:
		d.o.Changed = true
		d.close(s, Gone)
	case d.r.Result == LimitedSuccess && s.Notice.Kind == Reauthorise: // an update follows, and settles it; else it is sent again
	case d.r.Result/1000 == 2:
		d.o.Changed, d.o.Open = true, true
		s.Notice.Kind, s.Notice.Next = 0, time.Time{}
		s.wake()
	}
}

// topUp credits a bucket, once per key.
func (d *decision) topUp() {
	if d.w.Once != nil {
		d.again()
		return
	}
	d.o.Once = Relied
	n := d.r.Bucket
	if n.Unit == 0 {
		n.Unit = rating.Money
	}
	if d.r.Amount <= 0 || d.r.Amount > rating.UnitsMax || n.Unit > rating.Money || !n.Until.IsZero() && !n.Until.After(d.now) {
		d.o.Answer.Result = InvalidValue
		return
	}
	b := d.main()
	if n.Unit != rating.Money || n.Allowance != 0 || !n.Until.IsZero() || !n.From.IsZero() || b == nil {
		if len(d.a.Buckets) >= BucketsMax && !d.forgetBucket() {
			d.o.Answer.Result = ResourcesExceeded
			return
		}
		b = d.a.credit(Bucket{Unit: n.Unit, Allowance: n.Allowance, Priority: n.Priority, From: n.From, Until: n.Until})
	}
	if b.Credited > math.MaxInt64-d.r.Amount {
		d.o.Answer.Result = InvalidValue
		return
	}
	b.Credited += d.r.Amount
	e := d.entry(Ledger, nil)
	e.Text, e.Result = d.r.Cause, Success
	e.move(b, Movement{Credit: d.r.Amount})
	d.once(OnceCommand)
	d.o.Answer.Result, d.o.Answer.Bucket, d.o.Changed = Success, b.Number, true
	d.offer(0)
}

// forgetBucket makes room for another bucket: the oldest one goes whose time is
// over, which holds nothing and owes nothing.
func (d *decision) forgetBucket() bool {
	oldest := -1
	for i := range d.a.Buckets {
		b := &d.a.Buckets[i]
		over := !b.Until.IsZero() && !d.now.Before(b.Until)
		if over && b.Reserved == 0 && b.Available() == 0 && (oldest < 0 || b.Until.Before(d.a.Buckets[oldest].Until)) {
			oldest = i
		}
	}
	if oldest < 0 {
		return false
	}
	d.a.Booked -= d.a.Buckets[oldest].balance()
	last := len(d.a.Buckets) - 1
	copy(d.a.Buckets[oldest:], d.a.Buckets[oldest+1:])
	d.a.Buckets[last] = Bucket{}
	d.a.Buckets = d.a.Buckets[:last]
	return true
}

// provision creates the account or changes its plan and identities. What is
// as it should be is not written.
func (d *decision) provision() {
	a, p := d.a, d.r.Profile
	if len(p.Identities) > IdentitiesMax {
		d.o.Answer.Result = ResourcesExceeded
		return
	}
	if len(p.Buckets) >= BucketsMax {
		d.o.Answer.Result = ResourcesExceeded
		return
	}
	d.o.Answer.Result = Success
	if a.Exists && string(a.Plan) == p.Plan && sameIdentities(a.Identities, p.Identities) {
		return
	}
	fresh, moves := !a.Exists, string(a.Plan) != p.Plan
	d.o.Answer.Created, d.o.Answer.Changed = fresh, true
	if a.DecodeAll() != nil { // their identities are places in the account's list
		d.abandon(UnableToComply)
		return
	}
	d.pin(p.Plan)
	if string(a.Plan) != p.Plan {
		a.PlanVersion = 0
	}
	if !fresh && slices.ContainsFunc(p.Identities, func(id string) bool { return !a.lists([]byte(id)) }) {
		a.Moved = d.now.Add(OnceRefund)
	}
	a.Exists, a.Plan, a.Identities = true, []byte(p.Plan), a.Identities[:0]
	for _, id := range p.Identities {
		a.Identities = append(a.Identities, []byte(id))
	}
	if d.plan = d.w.Plans.Current(d.now); d.plan != nil {
		a.PlanVersion = max(a.PlanVersion, d.plan.Version)
	}
	e := d.entry(Provisioned, nil)
	e.Plan, e.Result, d.o.Changed = p.Plan, Success, true
	if fresh {
		d.endow(e, p)
	}
	for i := range a.Sessions {
		if moves { // what is granted from now on costs something else
			d.prompt(&a.Sessions[i], Reauthorise, 0)
		}
	}
	a.Decided = d.now
}

// identify puts an identity into the account's list or takes one out. Sessions
// that were opened under one that goes stay open, and stay this account's.
func (d *decision) identify() {
	a, adds, drops := d.a, d.r.Adds, d.r.Drops
	has := func(id string) bool { return id != "" && a.lists([]byte(id)) }
	d.o.Answer.Result = Success
	if !has(drops) && (adds == "" || has(adds)) {
		return
	}
	if adds != "" && len(a.Identities) >= IdentitiesMax {
		d.o.Answer.Result = ResourcesExceeded
		return
	}
	if a.DecodeAll() != nil { // sessions name places in the list
		d.abandon(UnableToComply)
		return
	}
	kept := make([][]byte, 0, len(a.Identities)+1)
	for _, id := range a.Identities {
		if string(id) != drops {
			kept = append(kept, id)
		}
	}
	e := d.entry(Provisioned, nil)
	e.Result, d.o.Changed, d.o.Answer.Changed = Success, true, true
	if has(drops) {
		e.Text = "gives up " + drops
	}
	if adds != "" && !has(adds) {
		kept, a.Moved = append(kept, []byte(adds)), d.now.Add(OnceRefund)
		e.Text = "takes " + adds
	}
	a.Identities = kept
}

// pin notes in what is open the name of the plan it was granted under, when the
// account gets another one.
func (d *decision) pin(plan string) {
	if string(d.a.Plan) == plan {
		return
	}
	for i := range d.a.Sessions {
		for j := range d.a.Sessions[i].Groups {
			if g := &d.a.Sessions[i].Groups[j]; g.Rule != 0 && len(g.PlanName) == 0 {
				g.PlanName = d.a.Plan
			}
		}
	}
}

// endow gives a new account its first money, and what else its profile says or
// else its plan's allowances.
func (d *decision) endow(e *Entry, p *Profile) {
	b := d.a.credit(Bucket{Unit: rating.Money, Credited: int64(p.Money)})
	e.move(b, Movement{Credit: int64(p.Money)})
	for _, n := range p.Buckets {
		if n.From.IsZero() {
			n.From = d.now
		}
		e.move(d.a.credit(n), Movement{Credit: n.Credited})
	}
	if d.plan == nil || p.Buckets != nil {
		return
	}
	for i := range d.plan.Allowances {
		w := &d.plan.Allowances[i]
		n := Bucket{Unit: w.Unit, Allowance: w.ID, Priority: w.Priority, From: d.now, Credited: w.Amount}
		if w.Validity > 0 {
			n.Until = d.now.Add(w.Validity)
		}
		e.move(d.a.credit(n), Movement{Credit: w.Amount})
	}
}

func sameIdentities(a [][]byte, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], []byte(b[i])) {
			return false
		}
	}
	return true
}
