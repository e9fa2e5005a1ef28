package charging

import (
	"bytes"
	"math"
	"slices"
	"time"

	"rtm/rating"
)

// Times and bounds of decisions.
const (
	ClosedMin       = 10 * time.Minute   // a closed session's record is kept at least that long
	OnceEvent       = time.Hour          // the answer of an event is kept that long
	OnceRefund      = 7 * 24 * time.Hour // … of a refund
	OnceCommand     = 24 * time.Hour     // … of an operator's command
	ValidityDefault = time.Hour          // for Tcc, when nothing was granted
	NoticeTries     = 5
	NoticePause     = 2 * time.Second // before the second try; then twice as long each time
	closingsMax     = 32              // sessions closed by one tick; the rest follows with the next
	closedGroupsMax = 256             // … and rating groups in them
	windowSize      = 64              // request numbers remembered
)

// A decision is one call of Step.
type decision struct {
	a        *Account
	r        *Request
	w        *World
	o        *Outcome
	now      time.Time
	plan     *rating.Plan
	on       *Particulars  // what prices may depend on
	in       *Session      // whose message it is; nil: no session's
	prompted bool          // a client is to be sent something
	extra    []Line        // of usage of a group after its tariff change: they come behind those of the asks
	ended    bool          // the message is of a session that has ended
	pace     int64         // units that it reports of the group in hand
	paced    *rating.Price // … which costs that; nil: none are
}

// Step applies r to a, in place, and fills o. It is the whole of charging:
// the same request decided again on the same record gives the same outcome,
// on any instance. After an Outcome with Abandon, a must be decoded again.
func Step(a *Account, r *Request, w *World, o *Outcome) {
	o.reset()
	d := decision{a: a, r: r, w: w, o: o, now: w.Now.Truncate(time.Millisecond), on: &r.Particulars}
	if d.now.Before(a.Decided) {
		d.now = a.Decided
	}
	d.decide()
	switch {
	case o.Abandon:
		o.Changed = false
	case o.Changed:
		d.raise()
		a.book(&o.Log)
	}
}

// decide is Step without the books.
func (d *decision) decide() {
	a, r, w, o := d.a, d.r, d.w, d.o
	if r.Kind == Provision {
		d.provision()
		return
	}
	if !a.Exists {
		o.Answer.Result, o.Stranger = UserUnknown, true
		return
	}
	if r.Kind == Audit {
		d.audit()
		return
	}
	d.plan = w.Plans.Current(d.now)
	if r.Kind <= Event && d.behind() {
		d.needPlan()
		return
	}
	if r.Kind <= Event && d.foreignMoney() {
		o.Answer.Result = InvalidValue
		return
	}
	r.Particulars.bound()
	had := a.money(a.Decided) // with what has expired since
	switch r.Kind {
	case Initial:
		d.initial()
	case Update, Termination:
		d.update()
	case Event:
		d.event()
	case Tick:
		d.tick()
	case TopUp:
		d.topUp()
	case Reauthorise, Abort:
		d.notify()
	case Notified:
		d.notified()
	case Identify:
		d.identify()
	default:
		o.Answer.Result = UnableToComply
	}
	if d.plan != nil && slices.ContainsFunc(o.Answer.Grants, func(g Grant) bool { return g.Unit == rating.Money }) {
		o.Answer.Currency = d.plan.Currency
	}
	if o.Changed {
		d.threshold(had)
		d.expire()
		a.Decided = d.now
		if d.plan != nil {
			a.PlanVersion = max(a.PlanVersion, d.plan.Version)
		}
	}
}

// threshold has the clients of other sessions report, if the money fell below what the
// plan calls low: they are told so then. had is what there was before.
func (d *decision) threshold(had rating.Micros) {
	if d.plan == nil || !d.plan.Tells.Low || had < d.plan.Tells.Below || d.a.money(d.now) >= d.plan.Tells.Below {
		return
	}
	for i := range d.a.Sessions {
		if s := &d.a.Sessions[i]; s != d.in {
			d.prompt(s, Reauthorise, recallPause)
		}
	}
}

// behind reports whether another instance has decided by a newer version of the
// plan than is known here.
func (d *decision) behind() bool {
	return d.a.PlanVersion > 0 && (d.plan == nil || d.plan.Version < d.a.PlanVersion)
}

// foreignMoney reports whether the request is about money of another currency than the
// account's.
func (d *decision) foreignMoney() bool {
	return d.plan != nil && slices.ContainsFunc(d.r.Asks, func(a Ask) bool { return a.Currency != 0 && a.Currency != d.plan.Currency })
}

// particularMax bounds each text that a session keeps of what its messages say.
const particularMax = 255

// bound cuts what is too long to be kept.
func (p *Particulars) bound() {
	for _, text := range [...]*[]byte{
		&p.APN, &p.ChargingID, &p.Address, &p.SGSN, &p.GGSN, &p.PLMN, &p.Location, &p.Equipment, &p.Calling, &p.Called, &p.Zone,
	} {
		*text = (*text)[:min(len(*text), particularMax)]
	}
}

func (o *Outcome) reset() {
	grants, closings, notices, log := o.Answer.Grants[:0], o.Closings[:0], o.Notices[:0], o.Log
	log.reset()
	*o = Outcome{Answer: Answer{Grants: grants}, Closings: closings, Notices: notices, Log: log}
}

// Wake is when a must be looked at next: the earliest deadline of its sessions
// and buckets. Zero: never.
func (a *Account) Wake() time.Time {
	var t time.Time
	for i := range a.Sessions {
		t = earlier(t, a.Sessions[i].Wake)
	}
	for i := range a.Buckets {
		if b := &a.Buckets[i]; b.Available() > 0 {
			t = earlier(t, b.Until)
		}
	}
	return t
}

// Check reports whether I1, I2, I3 and I5 hold as far as they can be seen without
// decoding every session: what the sessions at hand hold, and what the others
// held when the record was loaded, is what each bucket has reserved; and what a
// bucket was credited and debited since then is in the entries.
func (a *Account) Check() bool {
	if a.Booked-a.balance() != a.unbooked {
		return false
	}
	for i := range a.Buckets {
		b := &a.Buckets[i]
		held := b.elsewhere
		for j := range a.Sessions {
			held += a.Sessions[j].holds(b.Number)
		}
		if held != b.Reserved || b.Reserved < 0 || b.Credited < 0 || b.Debited < 0 || b.Available() < -b.Overrun {
			return false
		}
	}
	return true
}

// holds is what the groups of s, if it is decoded, hold in that bucket.
func (s *Session) holds(bucket uint32) (sum int64) {
	for i := range s.Groups {
		for _, h := range s.Groups[i].Holds {
			if h.Bucket == bucket {
				sum += h.Amount
			}
		}
	}
	return sum
}

// session finds the session that r names and decodes it; nil: it is not open.
func (d *decision) session() *Session {
	for i := range d.a.Sessions {
		s := &d.a.Sessions[i]
		if s.Sub == d.r.Sub && bytes.Equal(s.ID, d.r.Session) && bytes.Equal(s.Realm, d.r.Realm) {
			if !d.a.decodeSession(s) {
				d.abandon(UnableToComply)
			}
			return s
		}
	}
	return nil
}

// Has reports whether the session that r names is open in a.
func (a *Account) Has(r *Request) bool {
	for i := range a.Sessions {
		s := &a.Sessions[i]
		if s.Sub == r.Sub && bytes.Equal(s.ID, r.Session) && bytes.Equal(s.Realm, r.Realm) {
			return true
		}
	}
	return false
}

// abandon says that the request cannot be carried out and has spoilt the account.
func (d *decision) abandon(r Result) {
	d.o.Abandon, d.o.Changed, d.o.Answer.Result = true, false, r
	d.o.Answer.Grants = d.o.Answer.Grants[:0]
}

// known reports whether the account lists the identity that r names.
func (d *decision) known() bool {
	return len(d.r.Identity) == 0 || d.a.lists(d.r.Identity)
}

// owns reports whether that session can be the one that r means: r names nobody, or
// one of the account's, or whom its first message named.
func (d *decision) owns(s *Session) bool {
	return d.known() || d.r.Formerly || bytes.Equal(s.Identity, d.r.Identity)
}

// Sure reports whether the identity is the account's, and was nobody else's for so
// long that nothing is repeated any more that it was used for there.
func (a *Account) Sure(identity []byte, now time.Time) bool {
	return !now.Before(a.Moved) && a.lists(identity)
}

// lists reports whether the identity is one of the account's.
func (a *Account) lists(identity []byte) bool {
	for _, id := range a.Identities {
		if bytes.Equal(id, identity) {
			return true
		}
	}
	return false
}

func (d *decision) initial() {
	s := d.session()
	switch {
	case d.o.Abandon:
		return
	case s != nil && d.resent(s):
		d.repeat(s)
		d.reindex(s)
		d.o.Open = true
		return
	case s != nil && d.preceded(s): // it was on its way for so long that the name is another session's by now
		d.o.Answer.Result, d.o.Open = UnableToComply, true
		return
	case s == nil && d.w.Closed != nil && d.resent(d.w.Closed):
		d.o.Closed = Relied
		d.repeat(d.w.Closed)
		d.reindex(d.w.Closed) // what comes late must find it, too
		return
	case s == nil && d.w.Closed != nil && d.preceded(d.w.Closed):
		d.o.Answer.Result, d.o.Closed = UnableToComply, Relied
		return
	case !d.known(): // a repeat is answered also if the identity is another's by now
		d.o.Answer.Result, d.o.Stranger, d.o.Closed = UserUnknown, true, Relied
		return
	case d.plan == nil:
		d.o.Answer.Result = RatingFailed
		return
	}
	var before []uint64    // how its namesakes began
	var notices uint32     // that its namesake has had: an answer to one of those is none to this one's
	var namesake time.Time // when that was opened: this one is younger, whatever clocks say
	switch {
	case s != nil:
		notices, namesake, before = s.Notice.Number, s.Opened, append(s.Before, s.First)
		d.close(s, Reinitialised)
		d.o.Changed = true
	case d.w.Closed != nil:
		notices, namesake, before = d.w.Closed.Notice.Number, d.w.Closed.Opened, append(d.w.Closed.Before, d.w.Closed.First)
		fallthrough
	default:
		d.o.Closed = Relied
	}
	if d.replace(); d.o.Abandon {
		return
	}
	if len(d.a.Sessions) >= d.plan.Sessions || d.a.size+sessionSize > RecordMax {
		d.o.Answer.Result = ResourcesExceeded
		return
	}

	s = d.open()
	s.Before = append(s.Before[:0], before[max(len(before)-FormersMax, 0):]...)
	if s.Notice.Number = notices; !s.Opened.After(namesake) {
		s.Opened = namesake.Add(time.Millisecond)
	}
	d.apply(s)
	if d.o.Abandon {
		return
	}
	d.o.Changed, d.o.Open, d.o.Opened = true, true, true
	switch d.refuse(s); {
	case d.o.Answer.Result == Success:
	case d.r.reports():
		d.o.Open = false
		d.close(s, Refused) // what it used is charged and on record
	default:
		d.discard(s)
	}
}

// resent reports whether r is the first message of s once more: not if its client has
// restarted since, and uses the name of the session anew.
func (d *decision) resent(s *Session) bool {
	return s.First == d.r.Content && (s.State == 0 || d.r.Client.State <= s.State) && !d.anew(s)
}

// preceded reports whether r is the first message, once more, of a session that had the
// name of s before.
func (d *decision) preceded(s *Session) bool {
	return slices.Contains(s.Before, d.r.Content) && (s.State == 0 || d.r.Client.State <= s.State) && !d.anew(s)
}

// anew reports whether the client says that r is younger than all that s has heard: then
// it is nothing of that once more. By its own clock, if it said so before: ours may have
// been set since.
func (d *decision) anew(s *Session) bool {
	last := s.Sent
	if last.IsZero() {
		last = s.Last
	}
	return d.r.At.After(last.Add(TimestampMax)) && !d.r.At.After(d.now)
}

// replace ends the sessions that the one which is opened shows to be over: those
// that its client has lost (RFC 6733 §8.16), and, if the plan says so, another one
// for the same APN at the same client.
func (d *decision) replace() {
	state, apn := d.r.Client.State, d.r.Particulars.APN
	if state == 0 && (!d.plan.Replaces || len(apn) == 0) {
		return
	}
	for i := 0; i < len(d.a.Sessions) && len(d.o.Closings) < closingsMax; i++ {
		s := &d.a.Sessions[i]
		if !bytes.EqualFold(s.Host, d.r.Host) || !bytes.Equal(s.Realm, d.r.Realm) || bytes.Equal(s.ID, d.r.Session) {
			continue
		}
		if !d.a.decodeSession(s) {
			d.abandon(UnableToComply)
			return
		}
		cause := Cause(0)
		switch {
		case s.State != 0 && s.State < state:
			cause = Restarted
		case d.plan.Replaces && len(apn) > 0 && s.Context == d.r.Context && bytes.EqualFold(s.Particulars.APN, apn):
			cause = Replaced
		default:
			continue
		}
		d.o.Changed = true
		d.close(s, cause)
		i--
	}
}

// reports reports whether r says that anything was used.
func (r *Request) reports() bool {
	for i := range r.Asks {
		if ask := &r.Asks[i]; ask.Reports && ask.Used != (Units{}) {
			return true
		}
	}
	return false
}

// reportsTo reports whether r is what that RAR asked for (RFC 8506 §5.5): a message of the
// session, or of the rating group that it named.
func (r *Request) reportsTo(n *Notice) bool {
	return !n.HasGroup || slices.ContainsFunc(r.Asks, func(a Ask) bool { return a.Has&HasGroup != 0 && a.Group == n.Group })
}

// open adds the session that r begins.
func (d *decision) open() *Session {
	s := d.a.grownSessions()
	s.decoded, d.a.size = true, d.a.size+sessionSize
	s.Realm, s.ID, s.Sub, s.Host = d.r.Realm, d.r.Session, d.r.Sub, d.r.Host
	s.Identity, s.Context, s.First = d.r.Identity, d.r.Context, d.r.Content
	s.Opened, s.Particulars = d.now, d.r.Particulars
	return s
}

// discard takes back a session that was refused as it opened: nothing was
// reserved or used.
func (d *decision) discard(s *Session) {
	for i := range s.Groups {
		d.release(&d.o.Log.Entries[len(d.o.Log.Entries)-1], &s.Groups[i])
	}
	d.a.size -= sessionSize + groupSize*len(s.Groups)
	d.remove(s)
	d.o.Open, d.o.Opened, d.o.Index = false, false, Indexing{}
	d.o.Log.Entries = d.o.Log.Entries[:len(d.o.Log.Entries)-1]
	d.a.Events--
	d.o.Changed = len(d.o.Log.Entries) > 0 || d.prompted
}

// refuse is refused for a message of s that takes effect, as the plan says; a repeat
// says the same, whatever the plan says then.
func (d *decision) refuse(s *Session) {
	short := slices.ContainsFunc(d.o.Answer.Grants, func(g Grant) bool { return g.Result == CreditLimitReached })
	broke := short && d.plan != nil && d.plan.Refuses
	if broke {
		s.tell(d.r.Number).Broke = true
	}
	d.refused(broke)
}

// refused makes the refusal of units at message level the result of the whole
// answer; refusals of one service stay inside its Multiple-Services-Credit-Control,
// but for want of credit if that ends the session.
func (d *decision) refused(broke bool) {
	for i := range d.o.Answer.Grants {
		g := &d.o.Answer.Grants[i]
		whole := g.Has&AtMessage != 0 || g.Result == CreditLimitReached && broke
		if whole && g.Result != Success {
			d.o.Answer.Result = g.Result
		}
	}
	if d.o.Answer.Result == Success {
		return
	}
	for i := range d.o.Answer.Grants { // nothing of the session is granted
		if g := &d.o.Answer.Grants[i]; g.Result == Success {
			*g = Grant{Group: g.Group, Service: g.Service, Has: g.Has, Result: d.o.Answer.Result}
		}
	}
}

func (d *decision) update() {
	s := d.session()
	switch {
	case d.o.Abandon:
		return
	case s == nil:
		d.unknown()
		return
	case !d.owns(s):
		d.o.Answer.Result, d.o.Stranger = UnknownSession, true
		return
	}
	switch applied, old := s.applied(d.r.Number); {
	case old:
		d.o.Answer.Result, d.o.Open = UnableToComply, true
		return
	case applied && (d.r.Kind == Termination || !d.same(s)): // after its end it would not be open
		d.o.Answer.Result, d.o.Open = UnableToComply, true
		return
	case applied:
		d.repeat(s)
		d.reindex(s)
		d.o.Open = true
		return
	}

	d.o.Changed = true
	d.apply(s)
	if d.o.Abandon {
		return
	}
	d.refuse(s)
	switch {
	case d.r.Kind == Termination:
		d.close(s, Terminated)
	case d.o.Answer.Result != Success:
		d.close(s, Refused)
	default:
		d.o.Open = true
	}
}

// unknown answers an update or termination of a session that is not open here.
func (d *decision) unknown() {
	d.o.Answer.Result, d.o.Closed = UnknownSession, Relied
	c := d.w.Closed
	switch {
	case c == nil:
		d.o.Stranger = !d.known()
		d.unattributed(&Session{Realm: d.r.Realm, ID: d.r.Session, Sub: d.r.Sub, Host: d.r.Host, Ended: d.now, Cause: Unopened, decoded: true})
		return
	case !d.owns(c):
		d.o.Stranger = true
		return
	}
	switch applied, old := c.applied(d.r.Number); {
	case old || applied && !d.same(c):
		d.o.Answer.Result = UnableToComply
	case applied && c.late(d.r.Number):
		d.o.Settled = c.Cause != Unopened
	case applied:
		d.repeat(c)
	case c.Cause == Unopened:
		d.unattributed(c)
	default:
		d.late(c)
	}
}

// unattributed records usage that no session can be charged for, once: c, which
// never was open, remembers the message as a closed session does.
func (d *decision) unattributed(c *Session) {
	if d.o.Stranger {
		return
	}
	var e *Entry
	for i := range d.r.Asks {
		ask := &d.r.Asks[i]
		if !ask.Reports || ask.Used == (Units{}) {
			continue
		}
		if e == nil {
			e = d.entry(Unattributed, nil)
		}
		e.Lines = append(e.Lines, Line{Group: ask.Group, Service: ask.Service, Has: ask.Has, Used: ask.Used, Result: UnknownSession})
	}
	if e != nil {
		d.remember(c, ClosedMin)
	}
}

// remember keeps a session that has ended, which has taken one more message.
func (d *decision) remember(c *Session, keep time.Duration) {
	c.number(d.r.Number, d.r.Content)
	c.Late |= 1 << (c.Top - d.r.Number)
	for i := range c.Groups {
		if g := &c.Groups[i]; len(g.PlanName) == 0 {
			g.PlanName = d.a.Plan // which the account may change
		}
	}
	d.o.Changed, d.o.Closed = true, Untouched
	d.o.Closings = append(d.o.Closings, Closing{Session: *c, For: keep})
}

// late debits usage of a session that has ended, once.
func (d *decision) late(c *Session) {
	d.on, d.ended = &c.Particulars, true
	e := d.entry(Supplementary, c)
	for i := range d.r.Asks {
		if ask := &d.r.Asks[i]; ask.Reports {
			e.Lines = append(e.Lines, Line{Group: ask.Group, Service: ask.Service, Has: ask.Has})
		}
	}
	if d.reports(e, c); d.o.Abandon {
		return
	}
	c.Records++
	e.Record = c.Records
	d.o.Settled = true
	d.index(c, d.now.Add(c.memory()))
	d.remember(c, c.memory())
}

// repeat answers a request that was applied before: what was granted, unless a
// higher number has named that rating group since.
func (d *decision) repeat(s *Session) {
	d.o.Answer.Result = Success
	for i := range d.r.Asks {
		ask := &d.r.Asks[i]
		g := d.find(s, ask)
		switch {
		case g == nil: // the session had as many as it may
			d.o.Answer.Grants = append(d.o.Answer.Grants, ask.result(EndUserServiceDenied))
		case d.tells(s, i, g):
			d.o.Answer.Grants = append(d.o.Answer.Grants, d.said(g, ask))
		default:
			d.o.Answer.Grants = append(d.o.Answer.Grants, ask.result(Success))
		}
	}
	t := s.told(d.r.Number)
	if t != nil {
		d.told(t)
	}
	d.refused(t != nil && t.Broke)
}

// tells reports whether the answer to ask i is what g has: the message is the last one
// that named it, and no other ask of it wants its quota.
func (d *decision) tells(s *Session, i int, g *Group) bool {
	return g.Number == d.r.Number && (d.wanting(s, i) != nil || !d.wanted(s, g))
}

// wanted reports whether an ask of the message wants quota of g.
func (d *decision) wanted(s *Session, g *Group) bool {
	for i := range d.r.Asks {
		if d.r.Asks[i].Wants && d.find(s, &d.r.Asks[i]) == g {
			return true
		}
	}
	return false
}

// apply carries out the asks of a new request number on an open session.
func (d *decision) apply(s *Session) {
	d.o.Answer.Result = Success
	s.Particulars.merge(&d.r.Particulars)
	d.on, d.in = &s.Particulars, s
	for i := range d.a.Buckets {
		b := &d.a.Buckets[i]
		b.was = b.free(d.now)
	}
	if s.Notice.Kind == Reauthorise && d.r.reportsTo(&s.Notice) {
		s.Notice.Kind, s.Notice.Next = 0, time.Time{}
	}
	e := d.entry(Message, s)
	for i := range d.r.Asks {
		ask := &d.r.Asks[i]
		e.Lines = append(e.Lines, Line{Group: ask.Group, Service: ask.Service, Has: ask.Has, Reason: ask.Reason})
	}
	if d.reports(e, s); d.o.Abandon {
		return
	}
	for i := range d.r.Asks {
		ask := &d.r.Asks[i]
		answer := ask.result(Success) // a repeat is told the same
		switch g := d.find(s, ask); {
		case g == nil:
			answer.Result = EndUserServiceDenied
		case d.tells(s, i, g):
			if answer.Result = g.Result; !ask.Wants {
				answer.Validity = g.Validity // the time to top up
			}
		}
		d.o.Answer.Grants = append(d.o.Answer.Grants, answer)
	}
	if d.grants(e, s); d.o.Abandon {
		return
	}
	s.number(d.r.Number, d.r.Content)
	s.Host, s.Via, s.Last = d.r.Host, d.r.Via, d.now
	if d.r.At.After(s.Sent) {
		s.Sent = d.r.At
	}
	s.Deaf, s.State = d.r.Client.Deaf, max(s.State, d.r.Client.State)
	s.Messages++
	d.handled(s)
	d.limit(s)
	d.tell(s)
	d.deadlines(s)
	if slices.ContainsFunc(d.a.Buckets, func(b Bucket) bool { return b.free(d.now) > b.was }) {
		d.offer(recallPause)
	}
	e.Result, e.Messages = d.o.Answer.Result, s.Messages
}

// limit has sessions aborted that the plan does not let go on: s, if it has cost too
// much, and all, if more is owed than may be.
func (d *decision) limit(s *Session) {
	ends := d.r.Kind == Termination
	if d.plan == nil {
		return
	}
	if d.plan.SpendMax > 0 && s.spent() >= d.plan.SpendMax && !ends {
		d.prompt(s, Abort, NoticePause)
	}
	if d.plan.DebtMax == 0 || d.a.money(d.now) >= -d.plan.DebtMax {
		return
	}
	for i := range d.a.Sessions {
		if o := &d.a.Sessions[i]; o != s || !ends {
			d.prompt(o, Abort, NoticePause)
		}
	}
}

// spent is what s has cost so far.
func (s *Session) spent() (sum rating.Micros) {
	for i := range s.Groups {
		sum += min(s.Groups[i].Debited, math.MaxInt64-sum)
	}
	return sum
}

// told is what the answer to that number said of money; nil: nothing, or so long ago
// that other answers have been noted instead.
func (s *Session) told(number uint32) *Told {
	for i := range s.Told {
		if s.Told[i].Number == number {
			return &s.Told[i]
		}
	}
	return nil
}

// tell is told, for the message in hand.
func (s *Session) tell(number uint32) *Told {
	if t := s.told(number); t != nil {
		return t
	}
	if len(s.Told) == len(s.Hashes) {
		copy(s.Told, s.Told[1:])
		s.Told = s.Told[:len(s.Told)-1]
	}
	s.Told = append(s.Told, Told{Number: number})
	return &s.Told[len(s.Told)-1]
}

// tell has the client told of money, as the plan says, and notes it for a repeat.
func (d *decision) tell(s *Session) {
	if d.plan == nil || !d.r.Client.Informed || d.plan.Tells == (rating.Tells{}) {
		return
	}
	t := s.tell(d.r.Number)
	if d.plan.Tells.Cost {
		t.Cost, t.HasCost = s.spent(), true
	}
	left := d.a.money(d.now)
	if d.plan.Tells.Balance {
		t.Balance, t.Told = left, true
	}
	if d.plan.Tells.Low {
		if t.Low = NotLow; left < d.plan.Tells.Below {
			t.Low = IsLow
		}
	}
	d.told(t)
}

// told puts t into the answer.
func (d *decision) told(t *Told) {
	if !t.HasCost && !t.Told && t.Low == 0 {
		return
	}
	a := &d.o.Answer
	a.Cost, a.HasCost, a.Balance, a.Told, a.Low = t.Cost, t.HasCost, t.Balance, t.Told, t.Low
	if d.plan != nil {
		a.Currency = d.plan.Currency
	}
}

// handled notes who decided this message.
func (d *decision) handled(s *Session) {
	took := max(d.w.Took, 0)
	s.Busy += took
	if len(s.Trail) == TrailMax {
		copy(s.Trail, s.Trail[1:])
		s.Trail = s.Trail[:TrailMax-1]
	}
	s.Trail = append(s.Trail, Handled{Number: d.r.Number, Kind: d.r.Kind, Instance: d.w.Instance, Took: took})
}

// reports debits what the message reports of s, one rating group after the other, each
// with all that is said of it, and gives its reservation back. Each ask's line has the
// result: Success, or why its group cannot be served.
func (d *decision) reports(e *Entry, s *Session) {
	for i := range d.r.Asks {
		ask := &d.r.Asks[i]
		if d.ended && !ask.Reports {
			continue
		}
		l := &e.Lines[d.line(i)]
		if l.Result != 0 { // it came with an earlier ask of its group
			continue
		}
		if g := d.group(s, ask); g != nil {
			d.report(e, s, g, i)
		} else {
			l.Used, l.Result = ask.Used, EndUserServiceDenied
		}
		if d.o.Abandon {
			return
		}
	}
}

// line is where in the entry ask i has its line: of a session that has ended only
// reports have one.
func (d *decision) line(i int) (n int) {
	if !d.ended {
		return i
	}
	for j := range i {
		if d.r.Asks[j].Reports {
			n++
		}
	}
	return n
}

// report debits what the message, from ask i on, reports of g, and gives the
// reservation back, unless a higher number has already named the group.
func (d *decision) report(e *Entry, s *Session, g *Group, i int) {
	g.left, d.pace, d.paced = g.Granted, 0, nil
	overtaken, reported, result := !d.ended && g.Number > d.r.Number, false, Success
	for j := i; j < len(d.r.Asks); j++ {
		ask := &d.r.Asks[j]
		switch {
		case j > i && d.find(s, ask) != g:
		case ask.Reports:
			reported = true
			if r := d.debit(e, d.line(j), g, ask, overtaken); result == Success {
				result = r
			}
		case !d.ended:
			e.Lines[j].Result = Success
		}
	}
	if d.afterwards(e, g); d.o.Abandon || overtaken {
		return
	}
	if d.paced != nil {
		g.hurry(d.paced, d.pace, d.now)
	}
	d.release(e, g)
	if d.ended {
		return
	}
	waits := g.Final > rating.Terminate && reported && result == Success && !d.wanted(s, g)
	g.Number, g.Result, g.Unit, g.Granted, g.Change, g.Passed = d.r.Number, result, 0, 0, time.Time{}, false
	g.Validity, g.Holding, g.Threshold, g.Final = 0, 0, 0, 0
	if waits {
		d.await(g)
	}
}

// await has the user of g, whose last units are used up, stay where credit can be
// topped up (RFC 8506 §5.6.2, §5.6.3): the answer grants nothing but that time.
func (d *decision) await(g *Group) {
	if plan := d.version(g, g.Plan); plan != nil {
		if p := plan.Rule(g.Rule); p != nil {
			d.wait(g, p)
		}
	}
}

// wait grants the rest of the time that p leaves for topping up; false: it is over.
func (d *decision) wait(g *Group, p *rating.Price) bool {
	if g.Waiting.IsZero() {
		g.Waiting = d.now
	}
	left := g.Waiting.Add(p.Wait).Sub(d.now)
	if left < time.Second {
		return false
	}
	g.Result, g.Validity = Success, uint32(left/time.Second)
	return true
}

// result is the answer to ask that grants nothing.
func (ask *Ask) result(r Result) Grant {
	return Grant{Group: ask.Group, Service: ask.Service, Has: ask.Has, Result: r}
}

// group is the state of the rating group that ask names; nil: none yet. A
// Rating-Group alone also names the first quota of that group that was asked for
// with a Service-Identifier: some gateways leave it out of their reports.
func (s *Session) group(ask *Ask) *Group {
	for i := range s.Groups {
		if g := &s.Groups[i]; g.Group == ask.Group && g.Service == ask.Service && g.Has == ask.Has {
			return g
		}
	}
	if ask.Has != HasGroup {
		return nil
	}
	for i := range s.Groups {
		if g := &s.Groups[i]; g.Group == ask.Group && g.Has == HasGroup|HasService {
			return g
		}
	}
	return nil
}

// find is like Session.group. A Rating-Group alone means another quota than
// that with a Service-Identifier if the message names both.
func (d *decision) find(s *Session, ask *Ask) *Group {
	g := s.group(ask)
	if g == nil || g.Has == ask.Has {
		return g
	}
	for i := range d.r.Asks {
		if o := &d.r.Asks[i]; o.Group == g.Group && o.Service == g.Service && o.Has == g.Has {
			return nil
		}
	}
	return g
}

// said is what g was granted, as an answer to ask.
func (d *decision) said(g *Group, ask *Ask) Grant {
	a := g.grant()
	a.Group, a.Service, a.Has = ask.Group, ask.Service, ask.Has
	if g.Unit != 0 || g.Final != 0 {
		version, rule := g.Plan, g.Rule
		if g.Passed {
			version, rule = g.NextPlan, g.NextRule
		}
		if plan := d.version(g, version); plan != nil {
			a.Price = plan.Rule(rule)
		}
	}
	return a
}

// group is like Session.group and adds the state; nil: the session has as many
// rating groups as it may.
func (d *decision) group(s *Session, ask *Ask) *Group {
	if g := d.find(s, ask); g != nil {
		return g
	}
	if d.plan != nil && len(s.Groups) >= d.plan.Groups || d.a.size > RecordMax {
		return nil
	}
	d.a.size += groupSize
	g := s.grownGroups()
	g.Group, g.Service, g.Has, g.Result = ask.Group, ask.Service, ask.Has, Success
	g.Number = d.r.Number
	return g
}

func (d *decision) facts(g *Group) rating.Facts {
	return rating.Facts{
		Context: d.r.Context, Group: g.Group, Service: g.Service,
		HasGroup: g.Has&HasGroup != 0, HasService: g.Has&HasService != 0,
		APN: d.on.APN, PLMN: d.on.PLMN, Called: d.on.Called, RAT: d.on.RAT, Media: d.on.Media, At: d.now,
	}
}

// applied reports whether that request number took effect, or is too old to tell.
func (s *Session) applied(n uint32) (applied, old bool) {
	switch {
	case s.Window == 0 || n > s.Top:
		return false, false
	case s.Top-n >= windowSize:
		return false, true
	}
	return s.Window>>(s.Top-n)&1 != 0, false
}

// same reports whether the request of that number had that content. Only the last four
// are remembered; what is older is taken for the same, unless the client says that it is
// young.
func (d *decision) same(s *Session) bool {
	for i := range s.Hashes {
		if h := &s.Hashes[i]; h.Number == d.r.Number && h.Hash != 0 {
			return h.Hash == d.r.Content
		}
	}
	return !d.anew(s)
}

// late reports whether that number came after the end of the session.
func (s *Session) late(n uint32) bool { return s.Late>>(s.Top-n)&1 != 0 }

// number notes that n took effect.
func (s *Session) number(n uint32, content uint64) {
	switch {
	case s.Window == 0:
		s.Top, s.Window = n, 1
	case n > s.Top:
		s.Gaps += min(n-s.Top-1, math.MaxUint32-s.Gaps)
		s.Window, s.Late = s.Window<<(n-s.Top)|1, s.Late<<(n-s.Top)
		s.Top = n
	default:
		s.Window |= 1 << (s.Top - n)
		s.Gaps -= min(s.Gaps, 1)
	}
	copy(s.Hashes[1:], s.Hashes[:])
	s.Hashes[0] = Numbered{Number: n, Hash: content}
}

// merge takes over what a later message says anew.
func (p *Particulars) merge(q *Particulars) {
	for _, f := range [...]struct{ to, from *[]byte }{
		{&p.APN, &q.APN}, {&p.ChargingID, &q.ChargingID}, {&p.Address, &q.Address}, {&p.SGSN, &q.SGSN},
		{&p.GGSN, &q.GGSN}, {&p.PLMN, &q.PLMN}, {&p.Location, &q.Location}, {&p.Equipment, &q.Equipment},
		{&p.Calling, &q.Calling}, {&p.Called, &q.Called}, {&p.Zone, &q.Zone},
	} {
		if len(*f.from) > 0 {
			*f.to = *f.from
		}
	}
	replace(&p.RAT, q.RAT)
	replace(&p.Role, q.Role)
	replace(&p.Media, q.Media)
	replace(&p.Recipients, q.Recipients)
	replace(&p.Segments, q.Segments)
	replace(&p.Size, q.Size)
}

// replace takes over a number that is known.
func replace[N uint8 | uint32](old *N, known N) {
	if known != 0 {
		*old = known
	}
}

// memory is how long the record of s is kept when it has ended, or took usage after that.
func (s *Session) memory() time.Duration { return max(ClosedMin, s.Close.Sub(s.Last)) }

// Remembered is until when what is sent for s must find it, or its record, if nothing
// more is heard.
func (s *Session) Remembered() time.Time { return s.Close.Add(s.memory()) }

// Moved is until when the session index is to know s when its identity becomes another
// account's: a day longer than is needed, and as long as it may do so already.
func (s *Session) Moved() time.Time {
	until := s.Remembered().Add(24 * time.Hour)
	if s.Indexed.After(until) {
		return s.Indexed
	}
	return until
}

// deadlines sets when s is closed if nothing more is heard (Tcc, RFC 8506 §5:
// twice the validity and the grace, of the group that lives longest).
func (d *decision) deadlines(s *Session) {
	validity := time.Duration(0)
	for i := range s.Groups {
		if g := &s.Groups[i]; g.Validity != 0 && g.Number == d.r.Number {
			validity = max(validity, time.Duration(g.Validity)*time.Second)
		}
	}
	for i := range s.Groups {
		if g := &s.Groups[i]; validity == 0 && len(g.Holds) > 0 {
			validity = time.Duration(g.Validity) * time.Second
		}
	}
	if validity == 0 {
		validity = ValidityDefault
	}
	if until := d.now.Add(2*validity + d.grace()); until.After(s.Close) {
		s.Close = until
	}
	s.wake()
	d.index(s, s.Remembered())
}

// index has the session index know s until then at least. It is written for half as
// long again, so that few messages write it.
func (d *decision) index(s *Session, until time.Time) {
	kept := s.Indexed
	if !d.r.Kept.IsZero() && d.r.Kept.Before(kept) { // its last renewal never came there
		kept = d.r.Kept
	}
	if !d.r.Indexed || !kept.Before(until) {
		return
	}
	left := until.Sub(d.now)
	d.o.Index = Indexing{Op: Written, Seen: s.Index, For: left + left/2, Opened: s.Opened}
	s.Indexed, s.Index = d.now.Add(d.o.Index.For), d.w.Version
}

// reindex has the session index looked at before a repeat is answered: whoever
// carried the request out may have died between the account and the index.
func (d *decision) reindex(s *Session) {
	if d.r.Indexed && !s.Indexed.IsZero() {
		d.o.Index = Indexing{Op: Relied, Seen: s.Index, For: max(s.Indexed.Sub(d.now), ClosedMin), Opened: s.Opened}
	}
}

func (d *decision) grace() time.Duration {
	if d.plan == nil {
		return 30 * time.Second
	}
	return d.plan.Grace
}

// wake sets what an account shows of s without decoding it.
func (s *Session) wake() {
	s.Wake, s.Hungry = earlier(s.Close, s.Notice.Next), false
	for i := range s.Groups {
		g := &s.Groups[i]
		s.Wake = earlier(s.Wake, g.Release)
		s.Hungry = s.Hungry || g.Result == CreditLimitReached || g.Final != 0 || !g.Waiting.IsZero()
	}
}

// close ends an open session: all reservations go back, its final record is
// written, and it becomes a closed record.
func (d *decision) close(s *Session, cause Cause) {
	e := d.entry(FinalRecord, s)
	for i := range s.Groups {
		g := &s.Groups[i]
		if d.release(e, g); len(g.PlanName) == 0 {
			g.PlanName = d.a.Plan // which the account may change
		}
	}
	s.Ended, s.Cause, s.Notice = d.now, cause, Notice{Number: s.Notice.Number}
	s.Records++
	e.Ended, e.Cause, e.Record, e.Messages = s.Ended, cause, s.Records, s.Messages
	for i := range s.Groups {
		l := s.Groups[i].total()
		l.PlanName = d.foreign(&s.Groups[i])
		e.Lines = append(e.Lines, l)
	}
	if cause != Reinitialised {
		d.o.Closings = append(d.o.Closings, Closing{Session: *s, For: s.memory()})
	}
	d.remove(s)
	d.offer(recallPause)
}

// total is the line of a final record.
func (g *Group) total() Line {
	return Line{
		Group: g.Group, Service: g.Service, Has: g.Has, Result: g.Result, Plan: g.Plan, Rule: g.Rule,
		Used: g.Used, Allowed: g.Allowed, Paid: g.Paid, Charged: g.Debited, Overrun: g.Overrun,
	}
}

// remove takes s out of the account. The memory of its groups stays with
// whoever keeps a copy of it.
func (d *decision) remove(s *Session) {
	for i := range d.a.Sessions {
		if &d.a.Sessions[i] == s {
			last := len(d.a.Sessions) - 1
			for j := i; j <= last; j++ { // whoever comes behind it moves up
				if d.in == &d.a.Sessions[j] {
					if d.in = nil; j > i {
						d.in = &d.a.Sessions[j-1]
					}
					break
				}
			}
			copy(d.a.Sessions[i:], d.a.Sessions[i+1:])
			d.a.Sessions[last] = Session{}
			d.a.Sessions = d.a.Sessions[:last]
			return
		}
	}
}

// entry begins an entry of the log.
func (d *decision) entry(sort Sort, s *Session) *Entry {
	d.a.Events++
	e := d.o.Log.add()
	e.Sort, e.Number, e.Version = sort, d.a.Events, d.w.Version
	e.Tenant, e.Account, e.At, e.Instance, e.Took = d.w.Tenant, d.w.Account, d.now, d.w.Instance, d.w.Took
	e.Kind, e.Request, e.Context = d.r.Kind, d.r.Number, d.r.Context
	e.Realm, e.Session, e.Sub, e.Host, e.Identity = d.r.Realm, d.r.Session, d.r.Sub, d.r.Host, d.r.Identity
	if d.plan != nil {
		e.Plan = d.plan.Name
	}
	if s != nil {
		e.Realm, e.Session, e.Sub, e.Host, e.Identity = s.Realm, s.ID, s.Sub, s.Host, s.Identity
		e.Context, e.Opened, e.Particulars = s.Context, s.Opened, s.Particulars
	}
	return e
}
