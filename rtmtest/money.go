package rtmtest

import (
	"slices"
	"time"

	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// A groupBook is what one rating group of a session has cost so far, by a
// reckoning of its own: usage as the gateway reported it, prices as they were
// published, one multiplication and one division. It is not changed once it is in
// the books of a write.
type groupBook struct {
	session        string
	sub            uint64
	group, service uint32
	has            charging.Has
	number         uint32    // the highest that named it
	plan           string    // that prices it, and its version
	version, rule  uint32    // rule zero: nothing was granted or used yet
	anew           bool      // another version may price it from now on: it was asked for
	paid, charged  int64     // units that money paid for at this price, and for how much
	granted        int64     // last
	assumed        int64     // charged since the client vanished, and not reported yet
	change         time.Time // of the price, within the last grant; zero: none
	next           uint32    // … the version it comes with
	since          time.Time // … when that was granted
	over           bool      // its session has ended
	fresh          bool      // granted by the commit in hand, and held since

	used, allowed, debited, overrun int64 // in all
}

// cost is the price of that many units from the first on, as published.
func (p *simPlan) cost(version, rule uint32, units int64) int64 {
	s := &p.versions[version-1].Services[rule-1]
	steps := (units + s.Step - 1) / s.Step
	return steps * s.Step * int64(s.Micro) / s.Per
}

// priced is the plan of that name, if that version of it had been published and
// in force by then; nil: it was not.
func (m *Sim) priced(tenantName, plan string, version uint32, at time.Time) *simPlan {
	for _, t := range m.tenants {
		for _, p := range t.plans {
			if t.name == tenantName && p.name == plan && version > 0 && int(version) <= len(p.versions) && !at.Before(p.from[version-1]) {
				return p
			}
		}
	}
	return nil
}

// find is the book of a session's rating group. A Rating-Group alone also means the
// only one of that number that has a Service-Identifier, unless the message names
// both.
func (b *books) find(e *charging.Entry, l *charging.Line) (i int) {
	i, like := -1, 0
	for j, g := range b.groups {
		if g.group != l.Group || g.sub != e.Sub || g.session != string(e.Session) {
			continue
		}
		if g.has == l.Has && g.service == l.Service {
			return j
		}
		if l.Has == charging.HasGroup {
			i, like = j, like+1
		}
	}
	if like != 1 {
		return -1
	}
	g := b.groups[i]
	for j := range e.Lines {
		if o := &e.Lines[j]; o.Group == g.group && o.Service == g.service && o.Has == g.has {
			return -1
		}
	}
	return i
}

// change is a copy of the book of l's rating group, which takes its place.
func (b *books) change(e *charging.Entry, l *charging.Line) *groupBook {
	i := b.find(e, l)
	if i < 0 {
		b.groups = append(b.groups, &groupBook{session: string(e.Session), sub: e.Sub, group: l.Group, service: l.Service, has: l.Has, number: e.Request})
		return b.groups[len(b.groups)-1]
	}
	own := *b.groups[i]
	b.groups[i] = &own
	return &own
}

// checkMoney holds an entry against what the gateways sent and what was published:
// each unit used is charged once, by the price it was granted under, all of it
// leaves the account, and money only when nothing else is left. The movements of e
// are in b already.
func (m *Sim) checkMoney(b *books, a *charging.Account, key store.Key, e *charging.Entry) {
	switch e.Sort {
	case charging.Message, charging.Supplementary:
		m.checkUsage(b, a, key, e)
	case charging.OneTime:
		m.checkEvent(key, e)
	case charging.FinalRecord:
		m.checkTotals(b, key, e)
		m.checkReplaced(key, e)
	case charging.Released:
		for i := range e.Lines {
			b.change(e, &e.Lines[i]).fresh = false
		}
	case charging.Ledger:
		m.checkLedger(a, key, e)
	default:
	}
}

// debits are what an entry takes from the buckets: units, and money.
func debits(e *charging.Entry) (units, money, released int64) {
	for i := range e.Movements {
		switch mv := &e.Movements[i]; mv.Unit {
		case rating.Money:
			money += mv.Debit
		default:
			units += mv.Debit
			released += mv.Released
		}
	}
	return units, money, released
}

func (m *Sim) checkUsage(b *books, a *charging.Account, key store.Key, e *charging.Entry) {
	vanished := e.Kind == charging.Tick
	msg := m.reported(e, vanished)
	if msg == nil && !vanished {
		m.failf("money: %s has an entry of %s %s %d that nobody sent so", key, e.Session, e.Kind, e.Request)
		return
	}
	if e.Kind == charging.Initial {
		b.forget(e)
		msg.s.at = key
	}
	if !slices.ContainsFunc(e.Lines, func(l charging.Line) bool { return l.Granted > 0 }) {
		b.loose = append(b.loose, sessionBook{session: string(e.Session), sub: e.Sub})
	}
	allowed, charged, paying := int64(0), int64(0), -1
	for i := range e.Lines {
		l := &e.Lines[i]
		g := b.change(e, l)
		used := l.Used.Octets
		if vanished && used+laterUsed(e, l) != g.granted && !l.After {
			m.failf("money: %s: of the %d that a vanished client of %s had, %d are charged", key, g.granted, e.Session, used)
		}
		if !l.After {
			m.checkSplit(g, key, e, l, msg)
		} else if g.unseen() {
			g.anew = true
		}
		pays := m.checkLine(g, key, e, l)
		if pays {
			paying = i
		}
		allowed, charged = allowed+l.Allowed, charged+int64(l.Charged)
		if vanished {
			g.assumed += used
		}
		if l.After {
			g.change, g.anew = time.Time{}, slices.ContainsFunc(e.Lines, func(o charging.Line) bool { return after(e, &o) == l && o.Wanted > 0 })
			continue
		}
		if e.Sort == charging.Message && e.Request >= g.number && !vanished {
			g.number, g.granted, g.fresh = e.Request, l.Granted, l.Granted > 0
			g.anew, g.change = l.Wanted > 0 || after(e, l) != nil, time.Time{}
			m.tell(msg, l)
		} else if used > 0 || vanished {
			g.fresh = false // what it holds pays for this too
		}
	}
	units, money, released := debits(e)
	if units != allowed || money != charged {
		m.failf("money: %s: %s %s %d costs %d units and %d micro-units, and %d and %d left the account", key, e.Session, e.Kind, e.Request, allowed, charged, units, money)
	}
	if paying < 0 {
		return
	}
	if paying == len(e.Lines)-1 && !e.Lines[paying].After { // those stand behind the others, but come with their group
		released = 0
	}
	if left := b.free(a, e); left > released {
		m.failf("money: %s: %s %s %d is paid with money while %d octets are left", key, e.Session, e.Kind, e.Request, left)
	}
}

// after is the line of what was used after a tariff change, of the same group as l;
// nil: there is none.
func after(e *charging.Entry, l *charging.Line) *charging.Line {
	for i := range e.Lines {
		if o := &e.Lines[i]; o.After && o.Group == l.Group && o.Service == l.Service && o.Has == l.Has {
			return o
		}
	}
	return nil
}

func laterUsed(e *charging.Entry, l *charging.Line) int64 {
	if o := after(e, l); o != nil {
		return o.Used.Octets
	}
	return 0
}

// unseen reports whether no record shows what g was granted over a tariff change: its
// session ended in the commit that opened it.
func (g *groupBook) unseen() bool { return g.over && g.since.IsZero() }

// checkSplit: what was used after a tariff change is told apart as the client does,
// or else in proportion to time.
func (m *Sim) checkSplit(g *groupBook, key store.Key, e *charging.Entry, l *charging.Line, msg *message) {
	if g.unseen() {
		return
	}
	used := l.Used.Octets + laterUsed(e, l)
	want, ask := int64(0), (*charging.Ask)(nil)
	if msg != nil {
		for i := range msg.asks {
			if o := &msg.asks[i]; o.Group == l.Group && o.Service == l.Service && o.Has == l.Has {
				ask = o
			}
		}
	}
	switch {
	case g.change.IsZero() || !e.At.After(g.change) || e.Sort == charging.Message && e.Kind != charging.Tick && e.Request < g.number:
	case ask != nil && ask.Split:
		want = ask.After.Octets
	default:
		want = used * int64(e.At.Sub(g.change)/time.Millisecond) / int64(e.At.Sub(g.since)/time.Millisecond)
	}
	want = min(want, max(used-g.assumed, 0))
	if is := laterUsed(e, l); is != want {
		m.failf("money: %s: %s %s %d group %d used %d after the change at %s of what was granted at %s, of %d; it should be %d",
			key, e.Session, e.Kind, e.Request, l.Group, is, g.change.Sub(epoch), g.since.Sub(epoch), used, want)
	}
	if o := after(e, l); o != nil && o.Plan == g.next { // which prices it from then on
		g.anew = true
	}
}

// checkLine reckons what a line must cost. pays: money paid for some of it.
func (m *Sim) checkLine(g *groupBook, key store.Key, e *charging.Entry, l *charging.Line) (pays bool) {
	used := l.Used.Octets
	g.used += used
	if l.Rule == 0 {
		if used != 0 || l.Charged != 0 || l.Allowed != 0 {
			m.failf("money: %s: %d octets of %s group %d have no price", key, used, e.Session, l.Group)
		}
		return false
	}
	plan := string(l.PlanName)
	if plan == "" {
		plan = e.Plan
	}
	if !g.by(plan, l.Plan, l.Rule) {
		m.pin(g, key, e.At, plan, l.Plan, l.Rule)
	}
	p := m.priced(e.Tenant, plan, l.Plan, e.At)
	if p == nil {
		return false
	}
	if over := max(used+laterUsed(e, l)-g.granted, 0); l.Overrun != over && !l.After {
		m.failf("money: %s: %s %d group %d used %d of %d, an overrun of %d is recorded", key, e.Session, e.Request, l.Group, used, g.granted, l.Overrun)
	}
	known := min(used, g.assumed)
	if l.After {
		known = 0
	}
	g.assumed -= known
	paid := used - known - l.Allowed
	if p.versions[l.Plan-1].Services[l.Rule-1].NoMoney {
		paid = 0
	}
	total := p.cost(l.Plan, l.Rule, g.paid+paid)
	if paid < 0 || int64(l.Charged) != total-g.charged || l.Paid != g.paid+paid {
		m.failf("money: %s: %s %s %d group %d used %d, allowances paid %d, money paid for %d before: it is charged %d (%d units in all) instead of %d",
			key, e.Session, e.Kind, e.Request, l.Group, used, l.Allowed, g.paid, l.Charged, l.Paid, total-g.charged)
	}
	g.paid, g.charged = g.paid+paid, total
	g.allowed, g.debited, g.overrun = g.allowed+l.Allowed, g.debited+int64(l.Charged), g.overrun+l.Overrun
	return paid > 0
}

// by reports whether that rule prices g.
func (g *groupBook) by(plan string, version, rule uint32) bool {
	return g.rule == rule && g.version == version && g.plan == plan
}

// pin lets another rule price g, if that may be.
func (m *Sim) pin(g *groupBook, key store.Key, at time.Time, plan string, version, rule uint32) {
	tenantName, _ := tenant.AccountOf(key)
	switch {
	case g.rule != 0 && !g.anew:
		m.failf("money: %s: %s group %d was granted by %s %d, rule %d, and is priced by %s %d, rule %d", key, g.session, g.group, g.plan, g.version, g.rule, plan, version, rule)
	case m.priced(tenantName, plan, version, at) == nil, rule != ruleOf(g.group):
		m.failf("money: %s: %s group %d is priced by %s %d, rule %d, which is not in force", key, g.session, g.group, plan, version, rule)
	case g.plan == plan && version < g.version:
		m.failf("money: %s: %s group %d goes back from %s %d to %d", key, g.session, g.group, plan, g.version, version)
	}
	g.plan, g.version, g.rule, g.paid, g.charged, g.anew = plan, version, rule, 0, 0, false
}

// ruleOf is the rule of each plan that prices a rating group; zero: units at message
// level.
func ruleOf(group uint32) uint32 { return max(group, 1) }

// forget drops what is known of an earlier session of that name.
func (b *books) forget(e *charging.Entry) {
	b.groups = slices.DeleteFunc(b.groups, func(g *groupBook) bool { return g.sub == e.Sub && g.session == string(e.Session) })
}

// free is what octets are left that could be taken before e granted anything.
func (b *books) free(a *charging.Account, e *charging.Entry) (n int64) {
	for i := range a.Buckets {
		k := &a.Buckets[i]
		if k.Unit != rating.Octets || !k.Until.IsZero() && !e.At.Before(k.Until) {
			continue
		}
		is := b.bucket(k.Number)
		left := is.credited - is.debited - is.reserved
		for j := range e.Movements {
			if mv := &e.Movements[j]; mv.Bucket == k.Number {
				left += mv.Held
			}
		}
		n += max(left, 0)
	}
	return n
}

// reported is the message of a gateway that e is the effect of: what it says was
// used is what the gateway said. nil: there is none.
func (m *Sim) reported(e *charging.Entry, vanished bool) *message {
	if vanished {
		return nil
	}
	for _, msg := range slices.Backward(m.sent[request{string(e.Session), e.Sub, e.Request}]) { // of those named alike the last
		same := msg.kind == e.Kind
		n := 0
		for i := range msg.asks {
			ask := &msg.asks[i]
			if e.Sort == charging.Supplementary && !ask.Reports {
				continue
			}
			if n++; n > len(e.Lines) {
				same = false
				break
			}
			l := &e.Lines[n-1]
			same = same && l.Group == ask.Group && l.Service == ask.Service && l.Has == ask.Has && l.Used.Octets+laterUsed(e, l) == ask.Used.Octets
		}
		if same && (n == len(e.Lines) || e.Lines[n].After) {
			return msg
		}
	}
	return nil
}

// tell remembers what a commit says that a message was granted.
func (m *Sim) tell(msg *message, l *charging.Line) {
	if l.Granted > 0 {
		msg.granting = append(msg.granting, grantBook{l.Group, l.Service, l.Granted})
	}
}

// A grantBook is what one commit says that a message was granted for a group.
type grantBook struct {
	group, service uint32
	units          int64
}

// checkEvent: a one-time debit takes what it costs, a refund gives what it says.
func (m *Sim) checkEvent(key store.Key, e *charging.Entry) {
	sent := m.sent[request{string(e.Session), e.Sub, e.Request}]
	i := slices.IndexFunc(sent, func(msg *message) bool { return msg.kind == charging.Event })
	if i < 0 {
		m.failf("money: %s has an event of %s that nobody sent", key, e.Session)
		return
	}
	msg := sent[i]
	ask, credit := &msg.asks[0], int64(0)
	units, money, _ := debits(e)
	for i := range e.Movements {
		credit += e.Movements[i].Credit
	}
	refund := msg.action == charging.RefundAccount
	want, ok := int64(ask.Want.Money), ask.Want.Money > 0
	if !ok {
		want, ok = m.eventCost(e.Tenant, credit+money, ask.Want.Events)
	}
	is := money
	if refund {
		is = credit
	}
	if !ok || is != want || units != 0 || refund && money != 0 || !refund && credit != 0 {
		m.failf("money: %s: event %s (%d) should move %d, and debits %d, credits %d", key, e.Session, msg.action, want, money, credit)
	}
	msg.costs = append(msg.costs, rating.Micros(want))
}

// eventCost is what so many events cost by any version of any plan of the tenant:
// is, if one says so.
func (m *Sim) eventCost(tenantName string, is, events int64) (cost int64, ok bool) {
	for _, t := range m.tenants {
		if t.name != tenantName {
			continue
		}
		for _, p := range t.plans {
			for v := range p.versions {
				if cost = p.cost(uint32(v)+1, 3, events); cost == is {
					return cost, true
				}
			}
		}
	}
	return cost, false
}

// checkTotals: a final record has all that its session used and cost.
func (m *Sim) checkTotals(b *books, key store.Key, e *charging.Entry) {
	n := 0
	for i := range b.groups {
		if b.groups[i].sub == e.Sub && b.groups[i].session == string(e.Session) && !b.groups[i].over {
			n++
		}
	}
	if n != len(e.Lines) {
		m.failf("money: %s: the final record of %s has %d rating groups, it used %d", key, e.Session, len(e.Lines), n)
	}
	for i := range e.Lines {
		l := &e.Lines[i]
		g := b.change(e, l)
		g.over, g.fresh = true, false
		if l.Used.Octets != g.used || l.Allowed != g.allowed || int64(l.Charged) != g.debited || l.Overrun != g.overrun {
			m.failf("money: %s: the final record of %s group %d says used %d, allowed %d, charged %d, overrun %d; it was %d, %d, %d, %d",
				key, e.Session, l.Group, l.Used.Octets, l.Allowed, l.Charged, l.Overrun, g.used, g.allowed, g.debited, g.overrun)
		}
	}
}

// checkReplaced: a session ends for another one only if that is open, of the same
// gateway and APN, and the plan says so.
func (m *Sim) checkReplaced(key store.Key, e *charging.Entry) {
	if e.Cause != charging.Replaced {
		return
	}
	for _, s := range m.sessions {
		if s.name == string(e.Session) && s.sub == e.Sub {
			s.aborted = true // its gateway has opened the other one
			if !s.g.apns {
				m.failf("§9: %s: %s was replaced, and has no APN", key, e.Session)
			}
		}
	}
	tenantName, _ := tenant.AccountOf(key)
	for _, t := range m.tenants {
		for _, p := range t.plans {
			if t.name == tenantName && p.name == e.Plan && p.place%5 != 3 {
				m.failf("§9: %s: %s was replaced, which its plan does not want", key, e.Session)
			}
		}
	}
}

// checkLedger: what expires is all that a bucket has, and its time is over.
func (m *Sim) checkLedger(a *charging.Account, key store.Key, e *charging.Entry) {
	if e.Text != "expired" {
		return
	}
	for i := range e.Movements {
		mv := &e.Movements[i]
		j := slices.IndexFunc(a.Buckets, func(b charging.Bucket) bool { return b.Number == mv.Bucket })
		if j < 0 && mv.Available == 0 {
			continue // it was forgotten in the same commit
		}
		if j < 0 || a.Buckets[j].Until.IsZero() || e.At.Before(a.Buckets[j].Until) || mv.Available != 0 {
			m.failf("money: %s: bucket %d expires before its time, or not whole: %d are left", key, mv.Bucket, mv.Available)
		}
	}
}

// checkGroups holds the rating groups of the open sessions of a against the
// reckoning: their price, what was charged, and that what the commit has granted
// is held whole.
func (m *Sim) checkGroups(b *books, a *charging.Account, key store.Key) {
	for i := range a.Sessions {
		s := &a.Sessions[i]
		for j := range s.Groups {
			g := &s.Groups[j]
			at := slices.IndexFunc(b.groups, func(o *groupBook) bool {
				return o.group == g.Group && o.service == g.Service && o.has == g.Has && o.sub == s.Sub && o.session == string(s.ID)
			})
			if at < 0 {
				m.failf("money: %s: no entry says how %s came to have group %d", key, s.ID, g.Group)
				continue
			}
			m.checkGroup(b, at, a, key, g)
		}
	}
	for i, g := range b.groups {
		if g.fresh {
			own := *g
			own.fresh = false
			b.groups[i] = &own
		}
	}
}

func (m *Sim) checkGroup(b *books, at int, a *charging.Account, key store.Key, g *charging.Group) {
	own := *b.groups[at]
	b.groups[at] = &own
	plan := string(g.PlanName)
	if plan == "" {
		plan = string(a.Plan)
	}
	if g.Rule != 0 && !own.by(plan, g.Plan, g.Rule) {
		m.pin(&own, key, a.Decided, plan, g.Plan, g.Rule)
	}
	own.anew = false
	own.change, own.next, own.since = g.Change, g.NextPlan, g.Since
	if g.Paid != own.paid || int64(g.Charged) != own.charged || g.Used.Octets != own.used || g.Allowed != own.allowed || int64(g.Debited) != own.debited || g.Granted != own.granted {
		m.failf("money: %s: %s group %d has %d paid for, %d charged, %d used, %d by allowances, %d debited, %d granted; its entries say %d, %d, %d, %d, %d, %d",
			key, own.session, g.Group, g.Paid, g.Charged, g.Used.Octets, g.Allowed, g.Debited, g.Granted, own.paid, own.charged, own.used, own.allowed, own.debited, own.granted)
	}
	if !own.fresh {
		return
	}
	units, money := int64(0), int64(0)
	for _, h := range g.Holds {
		i := slices.IndexFunc(a.Buckets, func(k charging.Bucket) bool { return k.Number == h.Bucket })
		switch {
		case i < 0:
		case a.Buckets[i].Unit == rating.Money:
			money += h.Amount
		default:
			units += h.Amount
		}
	}
	tenantName, _ := tenant.AccountOf(key)
	p := m.priced(tenantName, plan, g.Plan, a.Decided)
	if p == nil {
		return
	}
	want := int64(0)
	if rest := own.granted - units; rest > 0 {
		want = p.cost(g.Plan, g.Rule, own.paid+rest) - own.charged
		if !g.Change.IsZero() {
			begun := max(p.cost(g.Plan, g.Rule, 1), p.cost(g.NextPlan, g.NextRule, 1)) // a step on either side of the change
			want = max(want, p.cost(g.NextPlan, g.NextRule, rest)) + begun
		}
	}
	if units > own.granted || money != want {
		m.failf("money: %s: %s group %d is granted %d, and holds %d octets and %d micro-units instead of %d", key, own.session, g.Group, own.granted, units, money, want)
	}
}

// checkGrants: an answer grants what a commit has granted.
func (m *Sim) checkGrants(msg *message, a *charging.Answer) {
	if a.Result != charging.Success {
		return
	}
	if msg.other != nil { // taken for a repeat of that
		msg = msg.other
	}
	for i := range a.Grants {
		g := &a.Grants[i]
		if g.Units != 0 && msg.kind != charging.Event && !slices.Contains(msg.granting, grantBook{g.Group, g.Service, g.Units}) {
			m.failf("money: %s %s %d is told that it may use %d of group %d, its commit says %v", msg.s.name, msg.kind, msg.number, g.Units, g.Group, msg.granting)
		}
	}
	if msg.kind != charging.Event {
		return
	}
	ask := &msg.asks[0]
	switch msg.action {
	case charging.PriceEnquiry:
		want := int64(ask.Want.Money)
		if want == 0 {
			for _, o := range msg.s.who.owners {
				if cost, ok := m.eventCost(o.tenant.name, int64(a.Cost), ask.Want.Events); ok {
					want = cost
				}
			}
		} else {
			want = int64(a.Cost) // of money there is no price
		}
		if int64(a.Cost) != want {
			m.failf("money: %s is told that %d events cost %d", msg.s.name, ask.Want.Events, a.Cost)
		}
	case charging.DirectDebiting, charging.RefundAccount:
		if !slices.Contains(msg.costs, a.Cost) {
			m.failf("money: event %s is told that it cost %d, its commit says %v", msg.s.name, a.Cost, msg.costs)
		}
	default:
	}
}
