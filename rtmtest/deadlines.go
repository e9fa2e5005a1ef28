package rtmtest

import (
	"slices"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
)

// A sessionBook is what the checks know of an open session in one write of its
// account.
type sessionBook struct {
	session string
	sub     uint64
	opened  time.Time
	close   time.Time
	notice  charging.Notice
	applied uint32 // messages
	first   uint64 // hash of the request that opened it
}

// is reports whether s is that session, and not another one of its name: clocks may
// stand still meanwhile.
func (b *sessionBook) is(s *charging.Session) bool {
	return b.opened.Equal(s.Opened) && b.first == s.First
}

// What deadlines are reckoned by here.
const (
	unheard     = time.Hour       // a session that was granted nothing is closed twice as long after
	lateMax     = 4 * time.Second // a lease, a poll, and what a claim takes
	retries     = 5               // of a notice
	firstPause  = 2 * time.Second // before the second try; then twice as long each time
	delivery    = 5 * time.Second // a notice needs to the instance of its gateway: it is told who that is, and empties its letterbox
	zombieMax   = 10 * time.Second
	recallMax   = 10 * time.Second // a client is left alone that long after its last message
	promptUntil = 30 * time.Second // after traffic, an operator still asks for reports
)

// sound is when nothing that went wrong before can be felt any more: then each
// deadline is kept.
func (m *Sim) sound() time.Duration {
	if !m.calm {
		return 1 << 62
	}
	since := m.calmSince + recovery + zombieMax
	if m.rates[hazardPanic] > 0 {
		since += time.Minute // a tick that could not be decided was put off
	}
	return since
}

func (b *books) sessionOf(session []byte, sub uint64) *sessionBook {
	for i := range b.sessions {
		if s := &b.sessions[i]; s.sub == sub && s.session == string(session) {
			return s
		}
	}
	return nil
}

// checkDeadlines: each session of a is closed twice the validity and the grace
// after its last grant, neither sooner nor later, and its notice is repeated and
// given up as it should be (I9, I12).
func (m *Sim) checkDeadlines(b *books, a *charging.Account, key store.Key, old *books) {
	until := a.Decided.Add(2*m.validity + m.grace)
	for i := range a.Sessions {
		s := &a.Sessions[i]
		was := old.sessionOf(s.ID, s.Sub)
		if was != nil && !was.is(s) {
			was = nil // another one of that name
		}
		is := sessionBook{sub: s.Sub, opened: s.Opened, close: s.Close, notice: s.Notice, applied: s.Messages, first: s.First}
		latest := until
		if slices.ContainsFunc(s.Groups, func(g charging.Group) bool { return !g.Waiting.IsZero() }) { // its user may top up meanwhile
			latest = a.Decided.Add(2*max(m.validity, creditMax) + m.grace)
		}
		if was != nil {
			is.session = was.session
			if was.close.After(latest) {
				latest = was.close
			}
		} else {
			is.session = string(s.ID)
		}
		if slices.ContainsFunc(b.loose, func(e sessionBook) bool { return e.sub == s.Sub && e.session == is.session }) {
			latest = a.Decided.Add(2*unheard + m.grace)
		}
		if s.Close.After(latest) {
			m.failf("I12: %s: %s is closed at %s, should be at %s", key, s.ID, s.Close.Sub(epoch), latest.Sub(epoch))
		}
		if slices.ContainsFunc(s.Groups, func(g charging.Group) bool {
			return !g.Release.IsZero() && s.Close.Before(g.Release.Add(time.Duration(g.Validity)*time.Second))
		}) {
			m.failf("I9: %s: %s is closed at %s, sooner than it may be", key, s.ID, s.Close.Sub(epoch))
		}
		b.sessions = append(b.sessions, is)
		m.checkNotice(a, key, &is, was)
	}
	b.loose = nil
}

// checkNotice holds a notice of a session against the one in the write before.
func (m *Sim) checkNotice(a *charging.Account, key store.Key, s, was *sessionBook) {
	n, before := &s.notice, charging.Notice{}
	if n.Kind == charging.Abort {
		for _, o := range m.sessions {
			o.doomed = o.doomed || o.name == s.session && o.sub == s.sub
		}
	}
	if was != nil {
		before = was.notice
	}
	same := n.Number == before.Number
	reported := was != nil && s.applied > was.applied && before.Kind == charging.Reauthorise // which is what it asks for
	switch {
	case n.Kind != 0 && !same && n.Tries == 0: // not yet
		if pause := n.Next.Sub(a.Decided); pause <= 0 || pause > recallMax {
			m.failf("I12: %s: the notice of %s waits for %s", key, s.session, pause)
		}
	case n.Kind != 0 && n.Tries > retries:
		m.failf("I12: %s: the notice of %s was tried %d times", key, s.session, n.Tries)
	case n.Kind != 0 && (!same || n.Tries != before.Tries):
		if want := a.Decided.Add(firstPause << (n.Tries - 1)); !n.Next.Equal(want) {
			m.failf("I12: %s: try %d of the notice of %s is followed by another at %s, should be at %s", key, n.Tries, s.session, n.Next.Sub(epoch), want.Sub(epoch))
		}
		m.notices = append(m.notices, &noticeBook{session: s.session, sub: s.sub, number: n.Number, tries: n.Tries, decided: m.now})
	case n.Kind == 0 && same && before.Kind != 0 && !reported && !m.heard(s, n.Number) && (before.Tries < retries || a.Decided.Before(before.Next)):
		m.failf("I12: %s: the notice of %s ends after %d tries, and its gateway has not heard it", key, s.session, before.Tries)
	}
}

// A noticeBook is one try of a notice.
type noticeBook struct {
	session string
	sub     uint64
	number  uint32
	tries   uint8
	decided time.Duration // by the world's clock, as all here
	sent    time.Duration // when it left the loop; zero: not yet
	heard   time.Duration // by its gateway
}

// prompted reports whether a gateway was ever to be asked for a session of that name.
func (m *Sim) prompted(session string) bool {
	return slices.ContainsFunc(m.notices, func(n *noticeBook) bool { return n.session == session })
}

func (m *Sim) heard(s *sessionBook, number uint32) bool {
	return slices.ContainsFunc(m.notices, func(n *noticeBook) bool {
		return n.session == s.session && n.sub == s.sub && n.number == number && n.heard != 0
	})
}

// sends notes that a notice has left the loop.
func (m *Sim) sends(due *charging.Due) {
	for _, n := range m.notices {
		if n.number == due.Number && n.tries == due.Tries && n.sub == due.Sub && n.session == string(due.Session) && n.sent == 0 {
			n.sent = m.now
		}
	}
}

// hears notes that a gateway got it.
func (m *Sim) hears(due *charging.Due) {
	for _, n := range m.notices {
		if n.number == due.Number && n.sub == due.Sub && n.session == string(due.Session) && n.heard == 0 {
			n.heard = m.now
		}
	}
}

// checkNotices: when all is in order, a notice leaves with the commit that decided
// it, and its gateway has it soon after, if it is connected to anybody (I12).
func (m *Sim) checkNotices() {
	for _, n := range m.notices {
		switch since := max(n.decided, n.sent); {
		case n.decided < m.sound() || n.heard != 0 || m.now < since+delivery:
		case n.sent == 0:
			m.failf("I12: try %d of notice %d of %s was decided, and never sent", n.tries, n.number, n.session)
		case m.reaches(n.session):
			m.failf("I12: try %d of notice %d of %s never reached its gateway, which is connected", n.tries, n.number, n.session)
		}
	}
}

// reaches reports whether the gateway of that session is connected to an instance.
func (m *Sim) reaches(session string) bool {
	for _, s := range m.sessions {
		if s.name == session && slices.ContainsFunc(m.instances, s.g.connected) {
			return true
		}
	}
	return false
}

// checkOverdue: what time ends at that moment, it ends then, and soon (I9, I12). e is
// the entry that says so.
func (m *Sim) checkOverdue(account store.Key, e *charging.Entry, at time.Time) {
	if late := e.At.Sub(at); at.Sub(epoch)-m.ahead > m.sound() && late > lateMax+m.jump {
		m.failf("I9: %s: %s of %s comes %s late", account, e.Sort, e.Session, late)
	}
	if e.At.Before(at) {
		m.failf("I9: %s: %s of %s comes %s too early", account, e.Sort, e.Session, at.Sub(e.At))
	}
}

// checkPrompted: whoever is told that a gateway will be asked has sent something.
func (c *command) checkPrompted(in *rtm.Inbound) {
	ending := in.Request.Kind == charging.Reauthorise && slices.ContainsFunc(c.m.sessions, func(s *session) bool { return s.name == c.about.name && (s.aborted || s.doomed) })
	if in.Answer.Result == charging.Success && len(in.Notices) == 0 && !ending {
		c.m.failf("I12: %s of %s was promised, and nothing is sent", in.Request.Kind, c.about.name)
	}
}
