package rtmtest

import (
	"slices"
	"strings"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// books is what the checks know of one write of an account: what its ledger adds
// up to, and since when each reservation is held. They go with the record from
// node to node.
type books struct {
	buckets  []bucketBook
	holds    []holdBook
	groups   []*groupBook
	sessions []sessionBook
	loose    []sessionBook // of the commit in hand: sessions that a message was granted nothing for
	wake     time.Time     // when the record wants to be looked at; zero: never
}

type bucketBook struct {
	number                      uint32
	credited, debited, reserved int64
}

// A holdBook is the reservation of a rating group since a request number.
type holdBook struct {
	session        string
	sub            uint64
	group, service uint32
	number         uint32
	since          time.Duration // by the store's clock
	release        time.Time     // when it goes back; zero: when the session ends
	validity       time.Duration // of the grant
}

// checkCommit holds a commit that is about to happen on a master against I1 to
// I5, I9 and I11.
func (m *Sim) checkCommit(d *node, c *store.Commit, was []*entry, changes []change) {
	first := &c.Writes[0]
	for i := range c.Writes {
		m.checkDirectory(d, &c.Writes[i], was[i])
		switch k := &c.Writes[i].Key; k.Kind {
		case tenant.KindAccount, tenant.KindClosed, tenant.KindOnce:
			if k.Name != first.Key.Name && (!strings.HasPrefix(k.Name, first.Key.Name) || k.Name[len(first.Key.Name)] != '/') {
				m.failf("I11: one commit touches %s and %s", first.Key, k)
			}
		}
	}
	if first.Key.Kind != tenant.KindAccount {
		return
	}
	if first.Op != store.Put || len(changes) == 0 {
		if len(c.Events) > 0 {
			m.failf("I3: %s has events without being written", first.Key)
		}
		return
	}
	a := &m.account
	if a.Decode(first.Bytes) != nil || a.DecodeAll() != nil {
		m.failf("%s cannot be decoded", first.Key)
		return
	}
	old := &books{}
	if was[0] != nil && was[0].books != nil {
		old = was[0].books
	}
	m.checkTimer(d, first.Key, old)
	b := &books{buckets: slices.Clone(old.buckets), groups: slices.Clone(old.groups), wake: a.Wake()}
	m.hold(d, b, a, old, first.Key)
	released := m.post(b, a, first.Key, c.Events, old)
	m.balance(b, a, first.Key)
	m.checkGroups(b, a, first.Key)
	m.checkDeadlines(b, a, first.Key, old)
	for i := range old.holds {
		h := &old.holds[i]
		// The grant may have been decided by the clock of the master before this one, and so the release.
		if released&(1<<i) != 0 && !b.has(h) && d.time()+2*m.jump < h.since+h.validity {
			m.failf("I9: %s released group %d of %s %s after it was granted", first.Key, h.group, h.session, d.time()-h.since)
		}
	}
	changes[0].entry.books = b
}

// checkProof: what a commit that is done has checked was not overwritten before it
// was sent, by a write that was told to be durable, on whatever node; nor was it sent
// after another node had become the master (I10).
func (m *Sim) checkProof(d *node, cs []store.Commit, rs []store.Result, sent time.Duration) {
	master := d.cluster.master()
	for i := range cs {
		if rs[i].Outcome != store.Done {
			continue
		}
		if promoted := d.cluster.promoted; d != master && sent > promoted {
			m.failf("I10: %s proved a record of %s, %s after %s was promoted", d.addr, cs[i].Writes[0].Key, sent-promoted, master.addr)
		}
		for j := range cs[i].Writes {
			w := &cs[i].Writes[j]
			if w.Op == store.Put {
				if e := d.record(w.Key); e != nil && e.Version == w.New && e.proven == 0 {
					e.proven = m.now
				}
				continue
			}
			if e := master.record(w.Key); e != nil && e.Version != w.Seen && e.proven != 0 && e.proven < sent {
				m.failf("I10: %s proved a record of %s that was overwritten %s before", d.addr, w.Key, sent-e.proven)
			}
		}
	}
}

// checkTimer: an account that has a deadline has an entry in the time index, which
// is no later than that or than a lease (I12).
func (m *Sim) checkTimer(d *node, key store.Key, b *books) {
	if b.wake.IsZero() {
		return
	}
	if at := b.wake.Sub(epoch); at-m.ahead > m.sound() && d.time() > at+lateMax+m.jump {
		m.failf("I12: %s was due at %s, and nobody has looked", key, at)
	}
	latest := max(b.wake.Sub(epoch), d.time()+rtm.TickLease, 1) + m.jump // the model has no timer at the epoch itself
	if m.rates[hazardPanic] > 0 {
		latest += time.Minute // a tick that cannot be decided is put off
	}
	switch x := d.state.armed(key); {
	case x == nil:
		m.failf("I12: %s has no timer and is due at %s", key, b.wake.Sub(epoch))
	case x.at > latest:
		m.failf("I12: %s has its timer at %s and is due at %s", key, x.at, b.wake.Sub(epoch))
	}
}

// checkTimers is checkTimer of all accounts, now and again.
func (m *Sim) checkTimers() {
	for _, a := range m.accounts {
		for _, d := range m.clusterOf(a.key.Partition).nodes {
			if e := d.record(a.key); d.master() && e != nil && e.books != nil {
				m.checkTimer(d, a.key, e.books)
			}
		}
	}
	m.checkNotices()
	if !m.quiet {
		m.after(5*time.Second, m.checkTimers)
	}
}

// record is a record on a node that has a state; nil: there is none.
func (d *node) record(k store.Key) *entry {
	if d.state == nil {
		return nil
	}
	return d.state.records[k]
}

// hold notes what a holds, since when, and until when: validity and grace after it
// was granted (I9).
func (m *Sim) hold(d *node, b *books, a *charging.Account, old *books, key store.Key) {
	for i := range a.Sessions {
		s := &a.Sessions[i]
		was := old.sessionOf(s.ID, s.Sub)
		anew := was != nil && !was.is(s)
		for j := range s.Groups {
			g := &s.Groups[j]
			if len(g.Holds) == 0 {
				continue
			}
			h := holdBook{sub: s.Sub, group: g.Group, service: g.Service, number: g.Number, since: d.sent + d.skew, release: g.Release}
			h.validity = time.Duration(g.Validity) * time.Second
			want, known := a.Decided.Add(h.validity+m.grace), false
			for k := range old.holds {
				if o := &old.holds[k]; o.is(&h, string(s.ID)) {
					if h.session = o.session; o.number == h.number && !anew {
						h.since, want, h.validity, known = o.since, o.release, o.validity, true
					}
				}
			}
			if !known {
				m.checkValidity(a, key, s, g)
			}
			if ended := g.Release.IsZero() && !a.Decided.Before(want); !g.Release.Equal(want) && !ended {
				m.failf("I9: %s: what %s group %d holds goes back at %s, should at %s", key, s.ID, g.Group, g.Release.Sub(epoch), want.Sub(epoch))
			}
			if h.session == "" {
				h.session = string(s.ID)
			}
			b.holds = append(b.holds, h)
		}
	}
}

// checkValidity: a grant lives as long as the plan says, or until something it rests
// on ends: a price, a bucket, the patience of its client (I9).
func (m *Sim) checkValidity(a *charging.Account, key store.Key, s *charging.Session, g *charging.Group) {
	validity := time.Duration(g.Validity) * time.Second
	if validity == m.validity {
		return
	}
	ends := a.Decided.Add(validity)
	because := func(at time.Time) bool { return !at.IsZero() && ends.Sub(at) >= 0 && ends.Sub(at) <= 2*time.Second }
	tenantName, _ := tenant.AccountOf(key)
	for _, t := range m.tenants {
		for _, p := range t.plans {
			if t.name == tenantName && slices.ContainsFunc(p.from, because) { // the account may have got another plan in this commit
				return
			}
		}
	}
	for _, h := range g.Holds {
		for i := range a.Buckets {
			if b := &a.Buckets[i]; b.Number == h.Bucket && because(b.Until) {
				return
			}
		}
	}
	for _, gw := range m.gateways {
		if gw.host == string(s.Host) && validity == gw.bears.Validity {
			return
		}
	}
	m.failf("I9: %s: what %s group %d holds is valid for %s, the plan says %s", key, s.ID, g.Group, validity, m.validity)
}

func (b *books) has(h *holdBook) bool {
	for i := range b.holds {
		if b.holds[i].is(h, h.session) {
			return true
		}
	}
	return false
}

// is reports whether h and o, of that session, are of the same rating group.
func (h *holdBook) is(o *holdBook, session string) bool {
	return h.group == o.group && h.service == o.service && h.sub == o.sub && h.session == session
}

// post adds the events of a commit to the books. It returns which of the old
// reservations they say that time has released, as bits.
func (m *Sim) post(b *books, a *charging.Account, account store.Key, events [][]byte, old *books) (released uint64) {
	e := &m.entry
	for _, ev := range events {
		if err := e.Decode(ev); err != nil {
			m.failf("an event of %s cannot be decoded", account)
			continue
		}
		if len(account.Name) != len(e.Tenant)+1+len(e.Account) || account.Name[:len(e.Tenant)] != e.Tenant || account.Name[len(e.Tenant)+1:] != e.Account {
			m.failf("I11: %s has an event of %s/%s", account, e.Tenant, e.Account)
		}
		for i := range e.Movements {
			mv := &e.Movements[i]
			k := b.bucket(mv.Bucket)
			k.credited += mv.Credit
			k.debited += mv.Debit
			k.reserved += mv.Reserve
			if mv.Held > 0 && mv.Available < 0 {
				m.failf("I4: %s held %d of bucket %d, which has %d", account, mv.Held, mv.Bucket, mv.Available)
			}
		}
		m.checkMoney(b, a, account, e)
		if e.Sort != charging.Released && (e.Sort != charging.FinalRecord || e.Cause != charging.Expired) {
			continue
		}
		if s := old.sessionOf(e.Session, e.Sub); s != nil && e.Sort == charging.FinalRecord {
			m.checkOverdue(account, e, s.close)
		}
		for i := range old.holds {
			h := &old.holds[i]
			if h.session == string(e.Session) && h.sub == e.Sub && slices.ContainsFunc(e.Lines, func(l charging.Line) bool { return l.Group == h.group && l.Service == h.service }) {
				released |= 1 << (i & 63)
				if e.Sort == charging.Released {
					m.checkOverdue(account, e, h.release)
				}
			}
		}
	}
	return released
}

func (b *books) bucket(number uint32) *bucketBook {
	for i := range b.buckets {
		if b.buckets[i].number == number {
			return &b.buckets[i]
		}
	}
	b.buckets = append(b.buckets, bucketBook{number: number})
	return &b.buckets[len(b.buckets)-1]
}

// balance holds an account against its ledger and its sessions.
func (m *Sim) balance(b *books, a *charging.Account, key store.Key) {
	for i := range a.Buckets {
		k := &a.Buckets[i]
		is := b.bucket(k.Number)
		if k.Credited != is.credited || k.Debited != is.debited || k.Reserved != is.reserved {
			m.failf("I1, I3: %s bucket %d has %d credited, %d debited, %d reserved; its ledger says %d, %d, %d",
				key, k.Number, k.Credited, k.Debited, k.Reserved, is.credited, is.debited, is.reserved)
		}
		held := int64(0)
		for j := range a.Sessions {
			for g := range a.Sessions[j].Groups {
				for _, h := range a.Sessions[j].Groups[g].Holds {
					if h.Amount < 0 {
						m.failf("I2: %s: a session holds %d", key, h.Amount)
					}
					if h.Bucket == k.Number {
						held += h.Amount
					}
				}
			}
		}
		if held != k.Reserved {
			m.failf("I2: %s bucket %d has %d reserved, its sessions hold %d", key, k.Number, k.Reserved, held)
		}
		if k.Available() < -k.Overrun {
			m.failf("I4: %s bucket %d has %d left, and %d overrun", key, k.Number, k.Available(), k.Overrun)
		}
	}
}

// checkLateness: when no fault is left, a wake-up comes at most a lease, a poll
// and a second late (I9).
func (m *Sim) checkLateness(due store.Due, now time.Time) {
	since := m.calmSince + recovery
	if !m.calm || m.now < since+10*time.Second || due.Wake.Sub(epoch) < since+m.ahead {
		return
	}
	if late := now.Sub(due.Wake); late > 4*time.Second && !m.quiet {
		m.failf("I9: %s was woken %s late", due.Key, late)
	}
}

// checkAnswer: a session that is open for sure is not unknown; what a tenant's
// peer may not name is not served (I10, I11); a message that nobody has overtaken
// in its rating group is granted something or told why not.
func (m *Sim) checkAnswer(msg *message) {
	s, a := msg.s, msg.answer
	if s.g.strange(s.who) && a.Result == charging.Success {
		m.failf("I11: %s was served %s of tenant %s", s.g.host, msg.kind, s.account.tenant.name)
	}
	if a.Result == charging.UnknownSession && s.opened && !s.aborted && !s.terminating() && m.now+time.Second < s.surely-m.jump {
		m.failf("I10: %s %s %d was told that the session is unknown", s.name, msg.kind, msg.number)
	}
	if a.Result == charging.UserUnknown && s.g.servesAll(s.who) && !s.who.unrest(msg.first) {
		m.failf("I10: %s %s was told that the user is unknown", s.name, msg.kind)
	}
	if a.Result == charging.UnableToComply && !m.disturbed() && !s.behind(msg) {
		m.failf("§2: %s %s %d was refused, and nothing is wrong with it", s.name, msg.kind, msg.number)
	}
	if a.Result != charging.Success || msg.kind > charging.Update {
		return
	}
	validity := time.Duration(0)
	for i := range a.Grants {
		validity = max(validity, time.Duration(a.Grants[i].Validity)*time.Second)
	}
	s.surely = max(s.surely, msg.first+2*validity)
	for i := range msg.asks {
		g := &a.Grants[i]
		waits := g.Validity > 0 && g.Group == 2 // without credit, for a while
		if waits && g.Units == 0 && time.Duration(g.Validity)*time.Second > creditMax {
			m.failf("§5.6.2: %s may wait %d s for credit", s.name, g.Validity)
		}
		if g.Result == charging.Success && g.Units == 0 && msg.asks[i].Wants && !waits && !s.overtaken(msg, g.Group) {
			m.failf("§2: %s %s %d was granted nothing for group %d, which no higher number has named", s.name, msg.kind, msg.number, g.Group)
		}
	}
}

// checkPrompt: an operator is not told that a session is unknown which is open.
func (m *Sim) checkPrompt(c *command) {
	if s := c.session; s != nil && c.answer.Result == charging.UnknownSession && !s.ending && !s.aborted && m.now+time.Second < s.surely-m.jump {
		m.failf("I10: an operator was told that session %s is unknown", s.name)
	}
}

func (s *session) terminating() bool {
	return slices.ContainsFunc(s.messages, func(o *message) bool { return o.kind == charging.Termination })
}

func (g *gateway) serves(a *simAccount) bool { return slices.Contains(g.tenants, a.tenant.name) }

// overtaken reports whether a later message names that rating group.
func (s *session) overtaken(m *message, group uint32) bool {
	for _, o := range s.messages {
		if o.number > m.number && o.other == nil && slices.ContainsFunc(o.asks, func(a charging.Ask) bool { return a.Group == group }) {
			return true
		}
	}
	return false
}

// disturbed reports whether decisions panic in this world.
func (m *Sim) disturbed() bool { return m.rates[hazardPanic] > 0 }

// behind reports whether a message is so far behind another that nobody knows any
// more whether it took effect.
func (s *session) behind(m *message) bool {
	return slices.ContainsFunc(s.messages, func(o *message) bool { return o.number >= m.number+64 })
}

// checkOther: another content under a number that was used is refused, or, if that is
// long ago, is told what a repeat is; it takes no effect (§2).
func (m *Sim) checkOther(msg *message) {
	s, n := msg.s, 0 // messages that may have been carried out after that one
	for _, o := range s.messages[max(slices.Index(s.messages, msg.other)-2, 0):] {
		if o.other == nil && o != msg.other {
			n++
		}
	}
	switch msg.answer.Result {
	case charging.UnableToComply:
	case charging.UnknownSession:
		if s.opened && !s.aborted && !s.terminating() && m.now+time.Second < s.surely-m.jump {
			m.failf("I10: %s %s %d was told that the session is unknown", s.name, msg.kind, msg.number)
		}
	default:
		if n < 4 {
			m.failf("§2: %s %s %d came with other content, and was told %d", s.name, msg.kind, msg.number, msg.answer.Result)
		}
	}
}

// overtaken reports whether the gateway has forgotten the session that m opened, and used
// its name again: then m, once more, is refused where another one has the name.
func (m *message) overtaken() bool { return m.kind == charging.Initial && m.s.dead }

// compare holds a second answer to the same request against the first (I7).
// before: it may have been decided earlier than the first.
func (m *message) compare(a *charging.Answer, before bool) {
	if m.answer.Result != charging.Success || m.action > charging.RefundAccount {
		return // a refusal is decided anew, and so is what has no effect
	}
	if a.Result == charging.UnableToComply && (m.s.behind(m) || m.overtaken()) ||
		(a.Result == charging.UserUnknown || a.Result == charging.UnknownSession) && !m.s.g.servesAll(m.s.who) {
		return // it is another tenant's subscriber by now
	}
	if a.Result != charging.Success && before || a.Result == charging.UnableToComply && m.s.g.m.rates[hazardPanic] > 0 {
		return // or its decision panicked
	}
	same := a.Result == m.answer.Result && len(a.Grants) == len(m.answer.Grants) && a.Cost == m.answer.Cost
	for i := range a.Grants {
		if same && !m.s.overtaken(m, a.Grants[i].Group) {
			same = a.Grants[i] == m.answer.Grants[i]
		}
	}
	if !same {
		m.s.g.m.failf("I7: %s %s %d was answered %v, then %v", m.s.name, m.kind, m.number, *m.answer, *a)
	}
}
