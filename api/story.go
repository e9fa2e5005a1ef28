package api

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"rtm/cdr"
	"rtm/charging"
	"rtm/rating"
	"rtm/tenant"
)

// A Story explains a session, or the last entries of an account: what was used,
// which rule priced it, the arithmetic, and what that did to the buckets, so
// that a person can add it up. Amounts of money are micro-units.
type Story struct {
	Session   string     `json:"session,omitempty"`
	Tenant    string     `json:"tenant"`
	Account   string     `json:"account"`
	Identity  string     `json:"identity,omitempty"`
	Host      string     `json:"originHost,omitempty"`
	Realm     string     `json:"originRealm,omitempty"`
	Plans     []string   `json:"plans" doc:"plans and versions that priced it"`
	Currency  string     `json:"currency,omitempty"`
	State     string     `json:"state,omitempty" doc:"open, closed, or unknown: there is no final record and the session is not open here"`
	Opened    *time.Time `json:"opened,omitempty"`
	Ended     *time.Time `json:"ended,omitempty"`
	Cause     string     `json:"cause,omitempty"`
	Messages  uint32     `json:"messages"`
	Instances []string   `json:"instances"`
	Steps     []Step     `json:"steps"`
	Totals    []Total    `json:"totals" doc:"the sums over the session's steps, a rating group each"`
	Taken     []Effect   `json:"taken" doc:"the sums over the session's steps, a bucket each; free is what was free after the last one"`
	Missing   []string   `json:"missing" doc:"what is not here, and how to find it"`
	Wrong     []string   `json:"wrong" doc:"what does not come out right"`
}

// A Step is what one record says.
type Step struct {
	ID       string    `json:"id,omitempty"`
	Type     string    `json:"type" doc:"of the record; others: several records of other sessions; missing: a gap"`
	At       time.Time `json:"at"`
	Instance string    `json:"instance,omitempty"`
	Request  string    `json:"request,omitempty"`
	Number   uint32    `json:"number"`
	Session  string    `json:"session,omitempty" doc:"if the story is that of an account"`
	Text     string    `json:"text,omitempty" doc:"what happened, in words"`
	Result   uint32    `json:"result,omitempty"`
	Items    []Item    `json:"items,omitempty"`
	Buckets  []Effect  `json:"buckets,omitempty"`
	Wrong    []string  `json:"wrong,omitempty"`
}

// An Item is one rating group of a Step.
type Item struct {
	RatingGroup *uint32  `json:"ratingGroup,omitempty"`
	ServiceID   *uint32  `json:"serviceIdentifier,omitempty"`
	Unit        string   `json:"unit,omitempty"`
	Used        int64    `json:"used"`
	Plan        string   `json:"plan,omitempty"`
	PlanVersion uint32   `json:"planVersion,omitempty"`
	Rule        uint32   `json:"rule,omitempty"`
	RuleName    string   `json:"ruleName,omitempty"`
	Allowed     int64    `json:"fromAllowances,omitempty"`
	Charged     int64    `json:"charged"`
	Sum         *Sum     `json:"sum,omitempty" doc:"missing: nothing was paid for, or the plan is not known"`
	How         string   `json:"how,omitempty" doc:"the arithmetic"`
	Overrun     int64    `json:"overrun,omitempty"`
	Asked       *int64   `json:"asked,omitempty" doc:"0: the amount was the server's to choose; missing: it asked for nothing"`
	Granted     int64    `json:"granted,omitempty"`
	GrantedUnit string   `json:"grantedUnit,omitempty"`
	Final       string   `json:"final,omitempty"`
	Reason      string   `json:"reportingReason,omitempty"`
	Result      uint32   `json:"result,omitempty"`
	Notes       []string `json:"notes,omitempty"`
}

// A Sum is how a charge comes about: price(total) − price(before).
type Sum struct {
	Before      int64 `json:"before" doc:"units that money had paid for under the rule"`
	Total       int64 `json:"total" doc:"… and with this message"`
	Billed      int64 `json:"billed" doc:"total in whole steps"`
	Step        int64 `json:"step"`
	Per         int64 `json:"per"`
	Price       int64 `json:"price" doc:"of per units"`
	PriceTotal  int64 `json:"priceTotal"`
	PriceBefore int64 `json:"priceBefore"`
	Charge      int64 `json:"charge" doc:"what the rule makes it: must be what was charged"`
}

// An Effect is what a step did to one bucket. What is free afterwards is what
// was free before, with what was credited and released, without what was
// reserved and what was taken of the free.
type Effect struct {
	Bucket      uint32 `json:"bucket"`
	Name        string `json:"name"`
	Unit        string `json:"unit"`
	Credited    int64  `json:"credited,omitempty"`
	Taken       int64  `json:"taken,omitempty"`
	TakenOfFree int64  `json:"takenOfFree,omitempty" doc:"part of taken that had not been reserved"`
	Reserved    int64  `json:"reserved,omitempty" doc:"newly"`
	Released    int64  `json:"released,omitempty"`
	Overrun     int64  `json:"overrun,omitempty" doc:"owed: taken beyond what was there"`
	Free        int64  `json:"free" doc:"afterwards"`
}

// A Total is what a session used of one rating group.
type Total struct {
	RatingGroup *uint32 `json:"ratingGroup,omitempty"`
	ServiceID   *uint32 `json:"serviceIdentifier,omitempty"`
	Unit        string  `json:"unit,omitempty" doc:"of the last rule that priced it"`
	Octets      int64   `json:"octets,omitempty"`
	Seconds     int64   `json:"seconds,omitempty"`
	Events      int64   `json:"events,omitempty"`
	Allowed     int64   `json:"fromAllowances,omitempty"`
	Charged     int64   `json:"charged"`
	Overrun     int64   `json:"overrun,omitempty"`
}

// The types of steps that are no single record.
const (
	stepOthers  = "others"
	stepMissing = "missing"
)

// A Telling is what a story is told from, beside records.
type Telling struct {
	Session  string                                                 // empty: the account's last entries
	Plan     func(tenant, plan string, version uint32) *rating.Plan // nil, or its answer is nil: not known
	Bucket   func(number uint32) string                             // its name, if it has one; nil: none is known
	Currency string
	Open     *Session // it is open, and this is how it stands
}

// Tell makes a story of records in the order of their account's entries. Those
// of other sessions are told in one step each time, since they change what is
// free.
func (t Telling) Tell(records []cdr.Record) Story {
	s := Story{
		Session: t.Session, Currency: t.Currency, Plans: []string{}, Instances: []string{}, Steps: []Step{},
		Totals: []Total{}, Taken: []Effect{}, Missing: []string{}, Wrong: []string{},
	}
	w := &teller{Telling: t, story: &s, whole: true, free: make(map[uint32]int64), taken: make(map[uint32]int)}
	if last := lastLife(records, t.Session); last != nil {
		w.life = *last
	}
	for i := range records {
		w.record(&records[i])
	}
	w.end()
	return s
}

// lastLife is the first record of the session as it was opened last, which may
// have been twice within a millisecond.
func lastLife(records []cdr.Record, session string) (first *cdr.Record) {
	for i := range records {
		r := &records[i]
		if session == "" || r.Session != session || r.Opened == "" {
			continue
		}
		begins := r.Type == charging.Message.String() && r.Messages == 1
		if first == nil || r.Opened > first.Opened || r.Opened == first.Opened && begins {
			first = r
		}
	}
	return first
}

// A teller makes a story, a record after the other.
type teller struct {
	Telling
	story  *Story
	life   cdr.Record       // the first of the session that it is about
	runs   []*run           // rating groups, in the order in which they came
	free   map[uint32]int64 // of each bucket, where that is known
	taken  map[uint32]int   // place of a bucket in Story.Taken
	last   uint64           // entry number
	heard  uint32           // messages of the session so far
	whole  bool             // nothing is missing so far
	ended  bool
	others *Step
}

// A run is a rating group of a session: what it used in all, and what money
// has paid for under one rule.
type run struct {
	session string
	total   Total
	plan    string
	version uint32
	rule    uint32
	paid    int64
	assumed int64 // charged when the client had vanished
}

// ours reports whether r belongs to the session, in the life that the story
// tells; all records belong to the story of an account.
func (w *teller) ours(r *cdr.Record) bool {
	switch {
	case w.Session == "":
		return true
	case ofAccount(r):
		return false // a bucket may expire while the session is decided about
	}
	lived := r.Opened == w.life.Opened && r.Sub == w.life.Sub && r.Realm == w.life.Realm
	return r.Session == w.Session && (r.Opened == "" || lived && r.EntryNumber() >= w.life.EntryNumber())
}

// ofAccount reports whether r is about the account, and so is told whatever is
// told of it.
func ofAccount(r *cdr.Record) bool {
	return r.Type == charging.Ledger.String() || r.Type == charging.Provisioned.String() || r.Type == charging.Audited.String()
}

func (w *teller) record(r *cdr.Record) {
	ours := w.ours(r)
	w.gap(r, ours)
	w.last = r.EntryNumber()
	switch {
	case ours:
		w.head(r)
	case !ofAccount(r):
		w.other(r)
		return
	}
	w.flush()
	step := Step{ID: r.ID, Type: r.Type, At: r.At, Instance: r.Instance, Request: r.Request, Number: r.Number, Result: r.Result, Text: said(r)}
	if w.Session == "" {
		step.Session = r.Session
	}
	step.Buckets = w.changes(r, &step)
	if ours {
		w.items(r, &step)
		w.sum(&step)
	}
	w.add(step)
}

// head notes what r says of the whole session.
func (w *teller) head(r *cdr.Record) {
	s := w.story
	s.Tenant, s.Account = r.Tenant, r.Account
	if r.Identity != "" && (w.Session != "" || s.Identity == "") {
		s.Identity = r.Identity
	}
	asked := r.Type == charging.Message.String() || r.Type == charging.Supplementary.String() || r.Type == charging.OneTime.String()
	if asked && r.Request != charging.Tick.String() && r.Instance != "" && !slices.Contains(s.Instances, r.Instance) {
		s.Instances = append(s.Instances, r.Instance)
	}
	if w.Session == "" {
		return
	}
	s.Host, s.Realm = r.Host, r.Realm
	if t, err := time.Parse(time.RFC3339, r.Opened); err == nil && s.Opened == nil {
		s.Opened = &t
	}
	if r.Type == charging.FinalRecord.String() {
		w.ended, s.State, s.Cause = true, "closed", r.Cause
		if t, err := time.Parse(time.RFC3339, r.Ended); err == nil {
			s.Ended = &t
		}
	}
}

// gap says which entries or messages are missing before r.
func (w *teller) gap(r *cdr.Record, ours bool) {
	var missing []string
	if ours && w.Session != "" && r.Messages > 0 {
		from, to := w.heard+1, r.Messages-1
		if r.Type == charging.FinalRecord.String() {
			to = r.Messages
		}
		if to >= from {
			missing = append(missing, span("message", uint64(from), uint64(to)))
		}
		w.heard = r.Messages
	}
	if n := r.EntryNumber(); w.last > 0 && n > w.last+1 {
		missing = append(missing, span("entry", w.last+1, n-1)+" of the account")
	}
	if len(missing) > 0 {
		w.lack(strings.Join(missing, ", "), r.At)
	}
}

// span is "messages 3 to 5", or "message 3".
func span(what string, from, to uint64) string {
	if from == to {
		return fmt.Sprintf("%s %d", what, from)
	}
	if what == "entry" {
		what = "entrie"
	}
	return fmt.Sprintf("%ss %d to %d", what, from, to)
}

// lack says that records are missing: what was free before them says nothing
// of what is free after them.
func (w *teller) lack(what string, at time.Time) {
	verb := "is"
	if strings.Contains(what, " to ") || strings.Contains(what, ",") {
		verb = "are"
	}
	text := fmt.Sprintf("%s %s in record files that are not seen here: give their directory with --records", what, verb)
	w.flush()
	w.whole = false
	clear(w.free)
	w.story.Missing = append(w.story.Missing, text)
	w.add(Step{Type: stepMissing, At: at, Text: text})
}

func (w *teller) add(s Step) {
	w.story.Wrong = append(w.story.Wrong, s.Wrong...)
	w.story.Steps = append(w.story.Steps, s)
}

// other adds what a record of another session did to the buckets.
func (w *teller) other(r *cdr.Record) {
	if len(r.Movements) == 0 {
		return
	}
	if w.others == nil {
		w.others = &Step{Type: stepOthers, At: r.At, Text: "other sessions of the account"}
	}
	for _, c := range w.changes(r, w.others) {
		i := slices.IndexFunc(w.others.Buckets, func(b Effect) bool { return b.Bucket == c.Bucket })
		if i < 0 {
			w.others.Buckets = append(w.others.Buckets, c)
			continue
		}
		w.others.Buckets[i].add(&c)
	}
}

func (c *Effect) add(d *Effect) {
	c.Credited, c.Taken, c.TakenOfFree = c.Credited+d.Credited, c.Taken+d.Taken, c.TakenOfFree+d.TakenOfFree
	c.Reserved, c.Released, c.Overrun, c.Free = c.Reserved+d.Reserved, c.Released+d.Released, c.Overrun+d.Overrun, d.Free
}

func (w *teller) flush() {
	if w.others != nil {
		w.add(*w.others)
		w.others = nil
	}
}

// changes is what r did to the buckets; what is free must follow from what was.
func (w *teller) changes(r *cdr.Record, step *Step) (out []Effect) {
	for _, m := range r.Movements {
		held, released := m.Held, m.Released
		if held == 0 && released == 0 && m.Debit >= 0 && (m.Reserve > 0 || m.Reserve < -m.Debit) { // written before records told them apart
			held, released = max(m.Reserve+m.Debit, 0), max(-m.Reserve-m.Debit, 0)
		}
		c := Effect{
			Bucket: m.Bucket, Name: w.bucket(&m), Unit: m.Unit, Credited: m.Credit, Taken: m.Debit,
			TakenOfFree: m.Debit - (held - released - m.Reserve), Reserved: held, Released: released, Overrun: m.Overrun, Free: m.Available,
		}
		if was, ok := w.free[m.Bucket]; ok {
			if want := was + m.Credit - m.Debit - m.Reserve; want != m.Available {
				step.wrong("%s: %s should be free, the record says %s", c.Name, quantity(want, m.Unit), quantity(m.Available, m.Unit))
			}
		}
		w.free[m.Bucket] = m.Available
		out = append(out, c)
	}
	return out
}

func (w *teller) bucket(m *cdr.Move) string {
	if w.Bucket != nil {
		if name := w.Bucket(m.Bucket); name != "" {
			return name
		}
	}
	if m.Unit == rating.Money.String() && m.Bucket == 1 {
		return m.Unit
	}
	return fmt.Sprintf("bucket %d", m.Bucket)
}

func (s *Step) wrong(format string, args ...any) {
	s.Wrong = append(s.Wrong, fmt.Sprintf(format, args...))
}

// items tells the rating groups of r.
func (w *teller) items(r *cdr.Record, step *Step) {
	final := r.Type == charging.FinalRecord.String()
	if final {
		w.compare(r, step)
	}
	for i := range r.Lines {
		l := &r.Lines[i]
		p := w.price(r, l)
		it := Item{
			RatingGroup: l.RatingGroup, ServiceID: l.ServiceID, Unit: unitUsed(l, p), Plan: planOf(r, l), PlanVersion: l.PlanVersion, Rule: l.Rule,
			Allowed: l.Allowed, Charged: l.Charged, Overrun: l.Overrun, Asked: l.Wanted, Granted: l.Granted, GrantedUnit: l.Unit,
			Final: l.Final, Reason: reason(l.Reason), Result: l.Result,
		}
		if it.Used = usedOf(l, it.Unit); l.Rule == 0 {
			it.Plan = ""
		}
		if p != nil {
			it.RuleName = p.Name
		}
		switch {
		case r.Type == charging.OneTime.String() && r.Text == "refund":
			it.refund(l)
		case !final && r.Type != charging.Released.String():
			w.charge(r, l, p, &it, step)
		}
		if final {
			it.How = fmt.Sprintf("in all: %s", sumText(l, it.Unit))
		}
		w.remark(r, l, &it, final)
		step.Items = append(step.Items, it)
	}
	if r.Type == charging.Released.String() {
		step.Items = nil // they hold nothing more, which the buckets say
	}
}

// refund tells what a line gave back.
func (it *Item) refund(l *cdr.Line) {
	var back []string
	if l.Allowed < 0 {
		back = append(back, quantity(-l.Allowed, it.Unit)+" to allowances")
	}
	if l.Charged < 0 {
		back = append(back, money(-l.Charged))
	}
	it.How = "given back: " + strings.Join(back, "; ")
}

func planOf(r *cdr.Record, l *cdr.Line) string {
	if l.Plan != "" {
		return l.Plan
	}
	return r.Plan
}

// price is the rule that a line names; nil: none, or its plan is not known.
func (w *teller) price(r *cdr.Record, l *cdr.Line) *rating.Price {
	name := planOf(r, l)
	if l.Rule == 0 || l.PlanVersion == 0 || name == "" {
		return nil
	}
	if full := fmt.Sprintf("%s v%d", name, l.PlanVersion); !slices.Contains(w.story.Plans, full) {
		w.story.Plans = append(w.story.Plans, full)
	}
	if w.Plan == nil {
		return nil
	}
	plan := w.Plan(r.Tenant, name, l.PlanVersion)
	if plan == nil {
		return nil
	}
	return plan.Rule(l.Rule)
}

// unitUsed is the unit that a line's usage is counted in. A record's unit may be
// that of what was granted afterwards.
func unitUsed(l *cdr.Line, p *rating.Price) string {
	if p != nil {
		return p.Unit.String()
	}
	if usedOf(l, l.Unit) != 0 {
		return l.Unit
	}
	for _, u := range []rating.Unit{rating.Octets, rating.Seconds, rating.Events, rating.Money} {
		if usedOf(l, u.String()) != 0 {
			return u.String()
		}
	}
	return l.Unit
}

func usedOf(l *cdr.Line, unit string) int64 {
	switch units[unit] {
	case rating.Octets:
		return l.Octets
	case rating.Seconds:
		return l.Seconds
	case rating.Events:
		return l.Events
	case rating.Money:
		return l.Money
	}
	return 0
}

// charge adds what a line used to its run, and works out what it costs.
func (w *teller) charge(r *cdr.Record, l *cdr.Line, p *rating.Price, it *Item, step *Step) {
	if l.Rule == 0 && l.Result == uint32(charging.EndUserServiceDenied) || r.Type == charging.Unattributed.String() {
		return // nobody's: the session has no such group
	}
	u := w.run(r, l)
	u.total.add(l)
	if l.After {
		it.note("used after its price has changed")
	}
	if l.Rule == 0 {
		return
	}
	u.total.Unit = it.Unit
	w.changed(r, l, p, u, it)
	known := min(it.Used, u.assumed)
	u.assumed -= known
	if known > 0 {
		it.note("%s of it was charged when the client had vanished", quantity(known, it.Unit))
	}
	paid := it.Used - known - l.Allowed
	before := l.Paid - paid
	if p != nil && p.NoMoney {
		paid, before = 0, l.Paid
	}
	w.continues(u, before, it, step)
	u.plan, u.version, u.rule, u.paid = planOf(r, l), l.PlanVersion, l.Rule, l.Paid
	if r.Text == "client vanished" {
		u.assumed += it.Used
	}
	if p == nil {
		it.How = join(allowed(r, l, it, w), fmt.Sprintf("plan %s v%d is not known here: %s charged", planOf(r, l), l.PlanVersion, money(l.Charged)))
		return
	}
	it.work(r, l, p, before, allowed(r, l, it, w), step)
}

// run is the rating group that l means: one that is named without a service may
// mean the only one of that group that has a service.
func (w *teller) run(r *cdr.Record, l *cdr.Line) *run {
	id := r.Session + ";" + r.Opened
	if r.Type == charging.OneTime.String() {
		id = r.ID
	}
	var loose []*run
	for _, u := range w.runs {
		switch {
		case u.session != id:
		case same(u.total.RatingGroup, l.RatingGroup) && same(u.total.ServiceID, l.ServiceID):
			return u
		case l.RatingGroup != nil && l.ServiceID == nil && same(u.total.RatingGroup, l.RatingGroup) && !names(r, u):
			loose = append(loose, u)
		}
	}
	if len(loose) == 1 {
		return loose[0]
	}
	u := &run{session: id, total: Total{RatingGroup: l.RatingGroup, ServiceID: l.ServiceID}}
	w.runs = append(w.runs, u)
	return u
}

// names reports whether a line of r names exactly the group and service of u.
func names(r *cdr.Record, u *run) bool {
	return slices.ContainsFunc(r.Lines, func(l cdr.Line) bool {
		return same(u.total.RatingGroup, l.RatingGroup) && same(u.total.ServiceID, l.ServiceID)
	})
}

func same(a, b *uint32) bool { return a == b || a != nil && b != nil && *a == *b }

func (t *Total) add(l *cdr.Line) {
	t.Octets, t.Seconds, t.Events = t.Octets+l.Octets, t.Seconds+l.Seconds, t.Events+l.Events
	t.Allowed, t.Charged, t.Overrun = t.Allowed+l.Allowed, t.Charged+l.Charged, t.Overrun+l.Overrun
}

// changed says that another rule prices the group from here on.
func (w *teller) changed(r *cdr.Record, l *cdr.Line, p *rating.Price, u *run, it *Item) {
	if u.rule == 0 || u.rule == l.Rule && u.version == l.PlanVersion && u.plan == planOf(r, l) {
		return
	}
	name := fmt.Sprintf("rule %d", l.Rule)
	if p != nil {
		name = "“" + p.Name + "”"
	}
	it.note("priced by %s of plan %s v%d from here on: what was paid is counted anew", name, planOf(r, l), l.PlanVersion)
	u.paid = 0
}

// continues holds what a message says was paid before against what is known.
func (w *teller) continues(u *run, before int64, it *Item, step *Step) {
	switch {
	case before < 0:
		step.wrong("group %s: money paid for %s less than was used", groupText(it), quantity(-before, it.Unit))
	case before == u.paid || !w.whole || w.Session == "":
	case before == 0:
		it.note("granted anew under this rule: what was paid is counted anew")
	default:
		step.wrong("group %s: %s should have been paid for before, the record says %s", groupText(it), quantity(u.paid, it.Unit), quantity(before, it.Unit))
	}
}

func (it *Item) note(format string, args ...any) {
	it.Notes = append(it.Notes, fmt.Sprintf(format, args...))
}

// allowed tells which buckets gave the units that allowances paid for.
func allowed(r *cdr.Record, l *cdr.Line, it *Item, w *teller) string {
	if l.Allowed == 0 {
		return ""
	}
	for i := range r.Lines {
		if o := &r.Lines[i]; o != l && o.Allowed > 0 {
			return quantity(l.Allowed, it.Unit) + " of allowances"
		}
	}
	var from []string
	for i := range r.Movements {
		if m := &r.Movements[i]; m.Debit > 0 && m.Unit == it.Unit {
			from = append(from, quantity(m.Debit, m.Unit)+" of "+w.bucket(m))
		}
	}
	return strings.Join(from, " + ")
}

func join(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// work does the sum: price(total) − price(before) must be what was charged.
func (it *Item) work(r *cdr.Record, l *cdr.Line, p *rating.Price, before int64, allowed string, step *Step) {
	it.How = allowed
	if before < 0 || before == l.Paid {
		if l.Charged != 0 {
			step.wrong("group %s: %s was charged, though money paid for nothing", groupText(it), money(l.Charged))
		}
		return
	}
	total, ok := p.Total(l.Paid)
	was, _ := p.Total(before)
	if !ok {
		step.wrong("group %s: %s cost more than can be counted", groupText(it), quantity(l.Paid, it.Unit))
		return
	}
	s := &Sum{
		Before: before, Total: l.Paid, Billed: (l.Paid-1)/p.Step*p.Step + p.Step, Step: p.Step, Per: p.Per, Price: int64(p.Micro),
		PriceTotal: int64(total), PriceBefore: int64(was), Charge: int64(total - was),
	}
	it.Sum, it.How = s, join(allowed, s.text(p))
	if s.Charge != l.Charged {
		step.wrong("group %s: %s was charged, by the rule it is %s", groupText(it), money(l.Charged), money(s.Charge))
	}
}

// text is the sum as a person would write it.
func (s *Sum) text(p *rating.Price) string {
	out := tenant.FormatQuantity(s.Total, p.Unit)
	if s.Billed != s.Total {
		out = fmt.Sprintf("%d begun steps of %s", s.Billed/s.Step, tenant.FormatQuantity(s.Step, p.Unit))
	}
	out += " × " + price(p)
	exact := s.exact()
	if !exact && s.Before > 0 {
		out += " ≈ " + money(s.PriceTotal)
	}
	if s.Before > 0 {
		out += " − " + money(s.PriceBefore)
	}
	if out += " = "; !exact && s.Before == 0 {
		out = strings.TrimSuffix(out, "= ") + "≈ "
	}
	return out + money(s.Charge)
}

// exact reports whether nothing was rounded down.
func (s *Sum) exact() bool {
	hi, lo := bits.Mul64(uint64(s.Billed), uint64(s.Price))
	if hi >= uint64(s.Per) {
		return false
	}
	_, rest := bits.Div64(hi, lo, uint64(s.Per))
	return rest == 0
}

// price is a price as it is written: "0.01 per MiB".
func price(p *rating.Price) string {
	per := tenant.FormatQuantity(p.Per, p.Unit)
	if p.Unit == rating.Events && p.Per == 1 {
		return tenant.FormatMoney(p.Micro)
	}
	if one, ok := strings.CutPrefix(per, "1 "); ok {
		per = one
	}
	if p.Unit == rating.Seconds && p.Per == 60 {
		per = "min"
	}
	return tenant.FormatMoney(p.Micro) + " per " + per
}

// remark says in words what else is odd about a line.
func (w *teller) remark(r *cdr.Record, l *cdr.Line, it *Item, final bool) {
	if l.Overrun > 0 {
		it.note("%s more than was granted", quantity(l.Overrun, it.Unit))
	}
	if text := refusals[charging.Result(l.Result)]; text != "" && !final {
		it.note("%d, %s", l.Result, text)
	}
	if l.Final != "" {
		it.note("these are the last units: %s", l.Final)
	}
	if l.Reason != nil && *l.Reason == 7 {
		it.note("the gateway was asked to report (re-authorisation)")
	}
}

// refusals are Result-Codes in words.
var refusals = map[charging.Result]string{
	charging.EndUserServiceDenied: "service denied: the session has as many rating groups as it may, and this one is not charged",
	charging.CreditLimitReached:   "credit limit reached: too little is left for one unit, nothing is granted",
	charging.UnknownSession:       "the session was not open",
	charging.InvalidValue:         "the message asked for what cannot be",
	charging.ResourcesExceeded:    "the account has as many sessions as it may",
	charging.UnableToComply:       "it could not be decided",
	charging.UserUnknown:          "nobody here has that identity",
	charging.RatingFailed:         "no service of the plan applies, or it is not sold in these units: nothing is granted, nothing is charged",
	charging.NotApplicable:        "it passes without credit control",
}

// Meaning says a Result in words; empty: it needs none.
func Meaning(r charging.Result) string { return refusals[r] }

// reason is a Reporting-Reason (TS 32.299 §7.2.175).
func reason(r *uint8) string {
	words := []string{
		"THRESHOLD", "QHT", "FINAL", "QUOTA_EXHAUSTED", "VALIDITY_TIME", "OTHER_QUOTA_TYPE", "RATING_CONDITION_CHANGE",
		"FORCED_REAUTHORISATION", "POOL_EXHAUSTED", "UNUSED_QUOTA_TIMER",
	}
	switch {
	case r == nil:
		return ""
	case int(*r) < len(words):
		return words[*r]
	}
	return fmt.Sprint(*r)
}

// said is what r is, if it is not just a message that took effect.
func said(r *cdr.Record) string {
	switch r.Type {
	case charging.Message.String():
		if r.Text == "client vanished" {
			return "the client vanished: what it was granted is charged, as the plan says"
		}
		return refusals[charging.Result(r.Result)]
	case charging.FinalRecord.String():
		return fmt.Sprintf("record %d (final): %s", r.Sequence, r.Cause)
	case charging.Supplementary.String():
		return fmt.Sprintf("record %d (supplementary): reported after the end of the session", r.Sequence)
	case charging.Released.String():
		var parts []string
		for i := range r.Lines {
			parts = append(parts, quantity(r.Lines[i].Granted, r.Lines[i].Unit))
		}
		return "nothing was heard in time: the reservation for " + strings.Join(parts, " and ") + " goes back"
	case charging.Unattributed.String():
		return "reported while the session was not open: charged to nobody"
	case charging.Undelivered.String():
		return fmt.Sprintf("the gateway never answered %s: given up", r.Request)
	case charging.Provisioned.String():
		if r.Text != "" {
			return "the account " + r.Text
		}
		return "the account was created or changed: plan " + r.Plan
	case charging.OneTime.String():
		if r.Text != "" {
			return r.Text
		}
		return "one-time debit"
	case charging.Audited.String():
		return "an audit found what " + r.Text + "; nothing was repaired"
	}
	if len(r.Event) > 0 {
		return "of a later version of rtm (" + r.Type + "): use that to read it"
	}
	return r.Text
}

// sum holds what was charged in a step against what its buckets gave, and adds
// it up.
func (w *teller) sum(step *Step) {
	charged, given := int64(0), make(map[bool]int64)
	allowed := int64(0)
	for i := range step.Items {
		charged, allowed = charged+step.Items[i].Charged, allowed+step.Items[i].Allowed
	}
	for i := range step.Buckets {
		c := &step.Buckets[i]
		given[c.Unit == rating.Money.String()] += c.Taken - c.Credited
		at, ok := w.taken[c.Bucket]
		if !ok {
			at = len(w.story.Taken)
			w.taken[c.Bucket] = at
			w.story.Taken = append(w.story.Taken, Effect{Bucket: c.Bucket, Name: c.Name, Unit: c.Unit})
		}
		w.story.Taken[at].add(c)
	}
	switch step.Type {
	case charging.Message.String(), charging.Supplementary.String(), charging.OneTime.String():
		if charged != given[true] {
			step.wrong("%s was charged, but the buckets gave %s", money(charged), money(given[true]))
		}
		if allowed != given[false] {
			step.wrong("allowances paid for %d units, but the buckets gave %d", allowed, given[false])
		}
	}
}

// compare holds a final record against the sums so far.
func (w *teller) compare(r *cdr.Record, step *Step) {
	if w.Session == "" || !w.whole {
		return
	}
	final := make(map[*run]Total)
	for i := range r.Lines {
		u := w.run(r, &r.Lines[i])
		t := final[u]
		t.add(&r.Lines[i])
		final[u] = t
	}
	for _, u := range w.runs {
		if u.session != r.Session+";"+r.Opened { // a one-time event, whose client gave it the session's name
			continue
		}
		want, got := u.total, final[u]
		got.RatingGroup, got.ServiceID, got.Unit = want.RatingGroup, want.ServiceID, want.Unit
		if got != want {
			step.wrong("group %s: the final record says %s, the messages add up to %s", groupText(&Item{RatingGroup: want.RatingGroup}), got.text(), want.text())
		}
	}
}

func (t *Total) text() string {
	return fmt.Sprintf("%d octets, %d seconds, %d events, %d of allowances, %d beyond what was granted, %s charged",
		t.Octets, t.Seconds, t.Events, t.Allowed, t.Overrun, money(t.Charged))
}

func sumText(l *cdr.Line, unit string) string {
	out := money(l.Charged)
	if l.Allowed > 0 {
		out += ", " + quantity(l.Allowed, unit) + " of allowances"
	}
	return out
}

// end says how the session stands.
func (w *teller) end() {
	w.flush()
	s := w.story
	s.Messages = w.heard
	if w.Session == "" {
		return
	}
	for _, u := range w.runs {
		s.Totals = append(s.Totals, u.total)
	}
	switch o := w.Open; {
	case w.ended:
	case o == nil:
		s.State = "unknown"
		s.Missing = append(s.Missing, "there is no final record: the session is open, or its end is in record files that are not seen here")
	default:
		s.State = "open"
		if o.Messages > w.heard {
			w.lack(span("message", uint64(w.heard)+1, uint64(o.Messages)), o.Last)
		}
	}
}

func groupText(it *Item) string {
	switch {
	case it.RatingGroup == nil:
		return "–"
	case it.ServiceID != nil:
		return fmt.Sprintf("%d/%d", *it.RatingGroup, *it.ServiceID)
	}
	return fmt.Sprint(*it.RatingGroup)
}

func money(n int64) string { return tenant.FormatMoney(rating.Micros(n)) }

func quantity(n int64, unit string) string {
	if unit == "" {
		return fmt.Sprint(n)
	}
	return tenant.FormatQuantity(n, units[unit])
}
