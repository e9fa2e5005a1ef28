package rtm

import (
	"errors"
	"slices"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// resolve takes what was read for in off recs, and sends in on its way: to its account,
// to the session index, to its refusal, or to the node that has what is still to be read.
func (s *Shard) resolve(in *Inbound, recs []store.Record) []store.Record {
	for i := range in.seen {
		if l := &in.seen[i]; l.sought {
			l.record, l.read, l.sought, recs = recs[0], true, false, recs[1:]
		}
	}
	switch {
	case !in.enough():
		for i := range in.seen {
			in.seen[i].record = clone(in.seen[i].record)
		}
		s.reply(in, Onward)
		return recs
	case in.asked:
		s.remembered(in)
	default:
		s.directory(in)
	}
	in.seen = in.seen[:0]
	return recs
}

// enough reports whether all was read that tells where in goes. Of identities the first
// one does that has an owner.
func (in *Inbound) enough() bool {
	for i := range in.seen {
		l := &in.seen[i]
		if !l.read {
			return false
		}
		if t, _, ok := tenant.Owner(l.record.Bytes); !in.asked && ok && in.serves(t) {
			return true
		}
	}
	return true
}

// rests notes that the way of in rests on what was looked at.
func (in *Inbound) rests(l looked) {
	in.proofs = append(in.proofs, looked{key: l.key, record: store.Record{Version: l.record.Version}})
}

// directory sends in on by whose its identities are.
func (s *Shard) directory(in *Inbound) {
	in.asked = true
	if slices.ContainsFunc(in.seen, func(l looked) bool { return len(tenant.Formers(l.record.Bytes, s.now)) > 0 }) {
		in.recalls++
	}
	var left []store.Key // whose an identity was before it went to a tenant that the peer does not serve
	var gone []byte
	for i, l := range in.seen {
		in.rests(l)
		t, account, ok := tenant.Owner(l.record.Bytes)
		if !ok {
			continue
		}
		in.Request.Identity = []byte(in.named()[i])
		if s.recall(in, l.record.Bytes); in.serves(t) {
			in.Account = tenant.AccountKey(string(t), string(account))
			break
		}
		// To a peer that does not serve its tenant an identity is unknown, also
		// beside others; what it did for one that the peer serves is not.
		if len(in.formers)+len(in.before) > 0 && gone == nil {
			gone = in.Request.Identity
		}
		left = slices.Concat(left, in.formers, in.before)
		in.Request.Identity, in.formers, in.before = nil, nil, nil
	}
	if in.formers = append(left, in.formers...); in.Account == (store.Key{}) {
		if gone == nil && in.given > 0 { // it names somebody all the same
			gone = []byte(in.Identities[in.given-1])
		}
		in.Request.Identity = gone
	}
	switch {
	case len(in.formers) > 0:
		in.home, in.Account = in.Account, store.Key{}
		s.seeking = append(s.seeking, in)
	case in.Account != (store.Key{}) && len(in.proofs) > 1 && !in.later(): // others that it names first have no owner
		s.lead(in, in.Account)
	case in.Account != (store.Key{}):
		s.forward(in, in.Account)
	case !s.ask(in):
		in.Answer.Result = charging.UserUnknown
		s.prove(in, denied)
	}
}

// forward sends in to the account that is to decide it.
func (s *Shard) forward(in *Inbound, account store.Key) {
	in.Account, in.state = account, queued
	s.reply(in, Forward)
}

// later reports whether in is about a session that was opened by another message.
func (in *Inbound) later() bool {
	return in.Request.Kind == charging.Update || in.Request.Kind == charging.Termination
}

// recallsMax bounds how often a request asks the owners that its identity had, while
// the store works: one of them may close the session while it is asked.
const recallsMax = 3

// recall notes whose the identity of in was before, if that is not long ago and
// the peer may name those accounts' tenants too. What opens or ends by itself asks
// there first; what is about a session, if its present owner does not know it.
func (s *Shard) recall(in *Inbound, owner []byte) {
	formers := tenant.Formers(owner, s.now)
	in.moved = in.moved || len(formers) > 0 // for everybody: another peer may name those whom this one may not
	if len(formers) == 0 || in.recalls > recallsMax {
		return
	}
	formers = slices.DeleteFunc(formers, func(k store.Key) bool {
		t, _ := tenant.AccountOf(k)
		return !in.serves([]byte(t))
	})
	if in.later() {
		in.before = formers
	} else {
		in.formers = formers
	}
}

// memory is where an account keeps what it answered to in, if it did: the closed
// session, or the answer of a one-time request.
func (in *Inbound) memory(account store.Key) store.Key {
	if in.OnceName != "" {
		return tenant.OnceKey(account, in.OnceDoor, in.OnceName)
	}
	r := &in.Request
	return tenant.ClosedKey(account, string(r.Realm), string(r.Session), r.Sub)
}

// entry is the account that the session index names for in, and until when: of what the
// peer serves the newest, first what a message of the same gateway wrote.
func (in *Inbound) entry(all []tenant.Entry) (account store.Key, kept time.Time) {
	for _, e := range slices.Backward(all) {
		if t, _ := tenant.AccountOf(e.Account); !in.serves([]byte(t)) {
			continue
		}
		if e.Host == string(in.Request.Host) {
			return e.Account, e.Until
		}
		if account == (store.Key{}) {
			account, kept = e.Account, e.Until
		}
	}
	return account, kept
}

// remembered sends in on when the session index was asked, and with it accounts
// that may know in: those whose its identity was, or the present owner, which may
// have closed the session. What was finished or begun at one of them is repeated
// there. Else it is whose the index says, and then the present owner's.
func (s *Shard) remembered(in *Inbound) {
	asked, home := in.formers, in.home
	in.formers = nil
	for _, l := range in.seen {
		in.rests(l)
	}
	entries := tenant.Entries(in.seen[len(asked)].record.Bytes)
	for i, account := range asked { // whoever had the identity last knows what was done last
		l := &in.seen[i]
		there := s.finished(in, &l.record)
		if there {
			in.carried = &extra{key: l.key, seen: l.record.Version, stored: slices.Clone(l.record.Bytes)}
		}
		open := account != home && in.Request.Kind != charging.Event && !slices.Contains(in.disowned, account) &&
			slices.ContainsFunc(entries, func(e tenant.Entry) bool { return e.Account == account })
		if there || open {
			s.known(in, account)
			return
		}
	}
	named, kept := in.entry(entries)
	if !in.later() || !in.indexed { // whose it was before did not know it; the index comes after the present owner
		named = store.Key{}
	}
	switch {
	case named != (store.Key{}) && home == (store.Key{}):
		in.Hinted, in.Request.Indexed, in.Request.Kept = false, true, kept // its entry is renewed, whatever the client's dialect
		s.lead(in, named)
	case named != (store.Key{}) && named != home: // a session of that name, but whose?
		in.Request.Indexed, in.Request.Kept = true, kept
		in.formers = []store.Key{named}
		s.seeking = append(s.seeking, in)
	case home != (store.Key{}):
		in.home, in.Request.Kept = store.Key{}, time.Time{}
		s.lead(in, home)
	case s.ask(in):
	default:
		if in.Answer.Result = charging.UserUnknown; in.later() {
			in.Answer.Result = charging.UnknownSession
		}
		s.prove(in, denied)
	}
}

// finished reports whether that record, found where an account remembers in, says
// that it was done there: not if only usage came there that was nobody's.
func (s *Shard) finished(in *Inbound, r *store.Record) bool {
	if r.Version == (store.Version{}) {
		return false
	}
	return in.OnceName != "" || s.closed.DecodeClosed(r.Bytes) != nil || s.closed.Cause != charging.Unopened
}

// known sends in to an account that knows it. If the directory led there, it is as
// by a hint: if that was wrong, the directory leads to the owner.
func (s *Shard) known(in *Inbound, account store.Key) {
	if !in.indexed && account != in.home {
		in.Hinted, in.Request.Formerly, in.home = true, true, store.Key{}
		in.Request.Indexed = true // its entry is renewed, whatever the client's dialect
	}
	s.lead(in, account)
}

// lead sends in to the account that it was led to, when commits have shown that all that
// led there is so still: if it was read where another master has taken over, what is
// charged there is another session's of that name, or was charged elsewhere.
func (s *Shard) lead(in *Inbound, account store.Key) {
	in.Account = account
	s.prove(in, checking)
}

// bring adds what in carries to what is known beside the account.
func (w *work) bring(in *Inbound) {
	if c := in.carried; c != nil && w.extra(c.key) == nil {
		w.extras = append(w.extras, *c)
		w.extras[len(w.extras)-1].restore()
	}
}

// ask sends an update or termination to the session index, if it was not asked
// yet: its message names nobody, or an identity that belongs to another account
// than when the session was opened. What the present owner has closed is its own,
// whoever uses that name of a session too.
func (s *Shard) ask(in *Inbound) bool {
	if !in.later() || in.indexed {
		return false
	}
	in.home, in.Account, in.asked, in.indexed = in.Account, store.Key{}, true, true
	if in.home != (store.Key{}) {
		in.formers = []store.Key{in.home}
	}
	s.seeking = append(s.seeking, in)
	return true
}

// prove has commits show that all that was looked at on the way of in is so still,
// before in goes on.
func (s *Shard) prove(in *Inbound, as progress) {
	in.state, in.waits, in.broken, in.index = as, 0, false, indexWrite{}
	in.doubted()
	if s.pay(in, nil); in.waits == 0 {
		s.leave(in)
	}
}

// doubted says that all that was looked at on the way of in is to be proved.
func (in *Inbound) doubted() {
	in.proving = true
	for i := range in.proofs {
		in.proofs[i].proven = false
	}
}

// owes is a record that a commit must still check or write before in goes on; false:
// there is none.
func (in *Inbound) owes() (store.Key, bool) {
	for i := range in.proofs {
		if in.proving && !in.proofs[i].proven {
			return in.proofs[i].key, true
		}
	}
	return in.index.key, in.index.due
}

// pay adds the commits that in owes to this node, but for what w's own commit names.
func (s *Shard) pay(in *Inbound, w *work) {
	for i := range in.proofs {
		l := &in.proofs[i]
		if !in.proving || l.proven {
			continue
		}
		if l.proven = w.names(l.key); l.proven || !s.here(l.key) {
			continue
		}
		s.writes = append(s.writes, store.Write{Op: store.Check, Key: l.key, Seen: l.record.Version})
		s.commit(span{in: in, at: i, sort: lookedSpan}, store.Commit{Writes: s.last(1)})
		in.waits++
	}
	if in.index.due && s.here(in.index.key) {
		in.waits++
		s.writeIndex(in)
	}
}

// last is the last n writes, cut so that more can follow.
func (s *Shard) last(n int) []store.Write {
	return s.writes[len(s.writes)-n : len(s.writes) : len(s.writes)]
}

func (s *Shard) commit(sp span, c store.Commit) {
	s.spans = append(s.spans, sp)
	c.Distance = s.distance()
	s.commits = append(s.commits, c)
}

// A draft is the outcome of a batch before it becomes a commit.
type draft struct {
	changed bool
	ticked  bool
	sick    bool // the record cannot be read, or a tick cannot be decided
	events  [][2]int
	size    int
}

// decide applies the batch of w to its account, one request after another, and
// adds the commit. A request that cannot be carried out is told so, and the
// others start again without it.
func (s *Shard) decide(w *work) {
	arena := len(s.arena)
	for {
		w.version = s.Version()
		s.arena = s.arena[:arena]
		if d, ok := s.attempt(w); ok {
			s.finish(w, d)
			return
		}
	}
}

// stepOwns is the mistake of Planted that uses an account further which a request
// has spoilt.
const stepOwns = "step-owns-after-panic"

// attempt decides the batch once; false: one request was found that spoils it.
func (s *Shard) attempt(w *work) (d draft, ok bool) {
	for i := range w.extras {
		w.extras[i].restore()
	}
	for _, in := range w.batch {
		w.bring(in)
	}
	a := &s.account
	err := a.Decode(w.record.Bytes)
	if errors.Is(err, charging.ErrLevel) {
		s.above(w)
		return d, true
	}
	if err != nil {
		d.sick = true
		for _, in := range w.batch {
			in.spoilt = charging.UnableToComply
		}
	}
	for i := 0; i < len(w.batch); i++ {
		in := w.batch[i]
		if i > 0 && (in.Request.Kind == charging.Audit || in.Request.Kind == charging.Tick || d.size+len(w.record.Bytes) > bytesMax || w.named()+2 > extrasMax) {
			s.postpone(w, i) // a tick may end many sessions, an audit is of what is committed: they begin a commit
			break
		}
		d.ticked = d.ticked || in.Request.Kind == charging.Tick || in.Request.Kind == charging.Audit && in.spoilt == 0
		if in.spoilt != 0 && in.doubt && in.Request.Kind != charging.Tick {
			s.drop(w, i) // it may have taken effect: no answer that says it has not
			s.reply(in, Silent)
			i--
			continue
		}
		if in.spoilt != 0 {
			d.sick = d.sick || in.Request.Kind == charging.Tick
			in.Answer.Result, in.Answer.Grants = in.spoilt, in.Answer.Grants[:0]
			in.Notices, in.Opened, in.index, in.passes, in.settled = in.Notices[:0], false, indexWrite{}, 0, false
			continue
		}
		if s.unsure(w, i) || s.ahead(w, i) {
			i--
			continue
		}
		if !s.step(w, in) {
			if s.outcome.NeedPlan {
				s.drop(w, i)
				s.reply(in, NeedPlan)
			}
			if s.Planted == stepOwns && in.spoilt != 0 {
				d.changed = true
				continue
			}
			return d, false
		}
		if s.outcome.Stranger && (s.strange(w, i) || s.homeward(w, i)) {
			i--
			continue
		}
		in.passes = 0
		if s.outcome.Stranger {
			in.passes = in.gaveUp()
		}
		s.keep(w, in, &d)
	}
	return d, true
}

// above sends a batch away whose account only a later version may decide on.
func (s *Shard) above(w *work) {
	s.Counts.Above++
	for _, in := range w.batch {
		o := in.turnedAway()
		if o == Busy {
			o = Above
		}
		s.reply(in, o)
	}
	w.batch = w.batch[:0]
}

// postpone puts the batch from i on back to the front of what waits.
func (s *Shard) postpone(w *work, i int) {
	rest := w.batch[i:]
	mend(rest)
	w.waiting = slices.Insert(w.waiting, 0, rest...)
	w.batch = w.batch[:i]
}

// drop takes request i out of the batch.
func (s *Shard) drop(w *work, i int) { w.batch = slices.Delete(w.batch, i, i+1) }

// ahead reports whether request i, of a session that is not known here, was sent
// elsewhere before anything is decided: to the directory if a hint led it here,
// to the account that had the identity before, to the session index. Directory,
// account, index, in this order, find every session, whoever gets the identity
// meanwhile: the index is written before the directory changes.
func (s *Shard) ahead(w *work, i int) bool {
	in := w.batch[i]
	r := &in.Request
	switch {
	case !in.later() || s.account.Has(r) || w.extra(s.closedKey(w, r)).there():
		return false
	case s.strange(w, i):
		return true
	case len(in.before) > 0:
		in.formers, in.before = slices.Insert(in.before, 0, in.Account), nil // what that has closed is its own
		in.home, in.Account = in.Account, store.Key{}
		s.seeking = append(s.seeking, in)
	case !s.ask(in):
		return false
	}
	s.drop(w, i)
	return true
}

// unsure reports whether request i was sent elsewhere since its identity was another
// account's not long ago, which may have done what it says: to the directory if a hint
// led it here, or, if it opens or ends by itself, to have what the directory said proved,
// which may be older than two moves.
func (s *Shard) unsure(w *work, i int) bool {
	in := w.batch[i]
	r := &in.Request
	switch {
	case r.Formerly || s.account.Sure(r.Identity, s.now):
		return false
	case in.Hinted:
		return s.strange(w, i)
	case len(in.proofs) == 0 || in.later(): // what is about a session goes by what has that
		return false
	case in.led && in.ledAt.Equal(s.account.Moved): // proved since
		return false
	}
	s.drop(w, i)
	in.led, in.ledAt = true, s.account.Moved
	s.lead(in, w.key)
	return true
}

// gaveUp is how many of its identities in passes by, when its account says that it does
// not list the one that led there, of which the directory has not heard; zero: none, or
// there is no further one.
func (in *Inbound) gaveUp() int {
	names := in.named()
	at := slices.Index(names, string(in.Request.Identity))
	if at < 0 || at == len(names)-1 || !in.asked {
		return 0
	}
	return at + 1
}

// pass has in go by its next identity: a commit has shown that the account that an
// earlier one led to does not list that, and has not done what in asks for.
func (s *Shard) pass(in *Inbound) {
	given := in.given + in.passes
	s.afresh(in)
	in.given, in.recalls, in.disowned = given, 0, in.disowned[:0]
}

// strange sends request i back to the directory when a hint led it here. Nothing
// of it may have been carried out.
func (s *Shard) strange(w *work, i int) bool {
	in := w.batch[i]
	if !in.Hinted {
		return false
	}
	if in.Request.Formerly { // it opens none any more: what it has closed meanwhile is found the next time
		in.disowned = append(in.disowned, w.key)
	}
	s.drop(w, i)
	s.afresh(in)
	return true
}

// afresh looks again for the account of in, from the directory on.
func (s *Shard) afresh(in *Inbound) {
	in.state, in.Hinted, in.asked, in.indexed, in.Request.Formerly = resolving, false, false, false, false
	in.Account, in.home, in.carried, in.spoilt = store.Key{}, store.Key{}, nil, 0
	in.proofs, in.seen, in.before, in.formers = in.proofs[:0], in.seen[:0], nil, nil
	in.Request.Kept, in.led, in.proving, in.given, in.passes, in.index = time.Time{}, false, false, 0, 0, indexWrite{}
	s.seeking = append(s.seeking, in)
}

// homeward sends request i to the account of its identities: the session that the
// index led to is another one's.
func (s *Shard) homeward(w *work, i int) bool {
	in := w.batch[i]
	if in.home == (store.Key{}) || in.home == w.key {
		return false
	}
	home := in.home
	in.home, in.carried, in.Request.Kept = store.Key{}, nil, time.Time{}
	s.drop(w, i)
	s.forward(in, home)
	return true
}

// step calls charging.Step and checks what it did. False: the account is
// spoilt, and in is told so.
func (s *Shard) step(w *work, in *Inbound) (ok bool) {
	defer func() {
		if recover() != nil {
			s.Counts.Panics++
			in.spoilt, ok = charging.UnableToComply, false
			s.outcome.NeedPlan = false
		}
	}()
	s.owner = w.tenant
	world := charging.World{
		Now: s.now, Plans: s.plans(w, in), Named: s.named, Tenant: w.tenant, Account: w.name,
		Version: w.version, Instance: s.Instance, Took: s.now.Sub(in.Arrived), Level: 1,
	}
	if s.Level != nil {
		world.Level = s.Level()
	}
	if in.Request.Kind <= charging.Termination && len(w.extras) > 0 {
		if e := w.extra(s.closedKey(w, &in.Request)); e.there() && s.closed.DecodeClosed(e.bytes) == nil {
			world.Closed = &s.closed
		}
	}
	if in.OnceName != "" && len(w.extras) > 0 {
		if e := w.extra(s.onceKey(w, in)); e.there() && s.once.Decode(e.bytes) == nil {
			world.Once = &s.once
		}
	}
	charging.Step(&s.account, &in.Request, &world, &s.outcome)
	switch {
	case s.outcome.NeedPlan:
		return false
	case s.outcome.Abandon:
		in.spoilt = s.outcome.Answer.Result
		return false
	case s.outcome.Changed && in.Request.Kind != charging.Audit && !s.account.Check():
		s.Counts.Unsound++
		in.spoilt = charging.UnableToComply
		return false
	}
	return true
}

func (s *Shard) plans(w *work, in *Inbound) charging.Plans {
	plan := s.account.Plan
	if in.Request.Profile != nil {
		plan = []byte(in.Request.Profile.Plan)
	}
	if p := s.Plans(w.tenant, plan); p != nil {
		return p
	}
	return noPlans{}
}

func (s *Shard) closedKey(w *work, r *charging.Request) store.Key {
	return tenant.ClosedKey(w.key, string(r.Realm), string(r.Session), r.Sub)
}

func (s *Shard) onceKey(w *work, in *Inbound) store.Key {
	return tenant.OnceKey(w.key, in.OnceDoor, in.OnceName)
}

// keep copies what Step said about in, and adds what it wants written.
func (s *Shard) keep(w *work, in *Inbound, d *draft) {
	o := &s.outcome
	grants := append(in.Answer.Grants[:0], o.Answer.Grants...)
	in.Answer = o.Answer
	in.Answer.Grants = grants
	in.Opened, in.settled = o.Opened, o.Settled
	if in.Request.Kind == charging.Tick && !o.Changed {
		s.Counts.Idle++
	}
	in.Notices = in.Notices[:0]
	for _, n := range o.Notices {
		n.Realm, n.Host, n.Via, n.Session = slices.Clone(n.Realm), slices.Clone(n.Host), slices.Clone(n.Via), slices.Clone(n.Session)
		in.Notices = append(in.Notices, n)
	}
	if in.Entry = in.Entry[:0]; in.Watched {
		in.Entry = o.Log.Message(in.Entry)
	}
	d.changed = d.changed || o.Changed
	if in.doubt && in.Answer.Result != charging.Success { // what may be on its way still must find another version
		d.changed = d.changed || s.account.Exists
	}
	for i := range o.Log.Entries {
		start := len(s.arena)
		s.arena = o.Log.Entries[i].Append(s.arena)
		d.events = append(d.events, [2]int{start, len(s.arena)})
		d.size += len(s.arena) - start
	}
	if o.Closed == charging.Relied {
		w.need(s.closedKey(w, &in.Request)).relied = true
	}
	for i := range o.Closings {
		c := &o.Closings[i]
		e := w.need(tenant.ClosedKey(w.key, string(c.Session.Realm), string(c.Session.ID), c.Session.Sub))
		e.put(c.Session.AppendClosed(nil), c.For)
		d.size += len(e.bytes)
	}
	if o.Once != charging.Untouched {
		e := w.need(s.onceKey(w, in))
		e.relied = true
		if o.Once == charging.Written {
			once := charging.Once{Content: in.Request.Content, Answer: o.Answer}
			e.put(once.Append(nil), o.OnceFor)
		}
	}
	in.index = indexWrite{}
	if o.Index.Op == charging.Untouched {
		return
	}
	in.index = indexWrite{
		key: in.session(), seen: o.Index.Seen, new: w.version, keep: o.Index.For, due: true,
		entry: tenant.Entry{Account: w.key, Host: string(in.Request.Host), Opened: o.Index.Opened, Until: s.now.Add(o.Index.For)},
	}
	in.index.value, _ = tenant.EncodeEntry(nil, in.index.entry, s.now, false)
	if o.Index.Op == charging.Relied {
		in.index.new, in.index.repeat, in.index.proof = o.Index.Seen, true, true
		in.index.late = s.now.Sub(o.Index.Opened) > lateAfter
	}
}

// lateAfter is how old a session is whose entry is no newer for being written by a repeat
// of its first message. In a younger one's stead that message itself may still be under
// way; and by their times of opening sessions are told apart only as well as the clocks
// of two masters agree.
const lateAfter = time.Minute

// extra finds what is known of a record beside the account, if there is one; nil:
// nothing.
func (w *work) extra(key store.Key) *extra {
	if w == nil {
		return nil
	}
	for i := range w.extras {
		if w.extras[i].key == key {
			return &w.extras[i]
		}
	}
	return nil
}

// names reports whether the commit of w names that record.
func (w *work) names(key store.Key) bool {
	if w == nil {
		return false
	}
	e := w.extra(key)
	return key == w.key || e != nil && (e.write || e.relied)
}

// named is how many records beside the account the commit names so far.
func (w *work) named() (n int) {
	for i := range w.extras {
		if w.extras[i].write || w.extras[i].relied {
			n++
		}
	}
	return n
}

// need is extra, and takes a record that nobody asked for yet to be missing:
// the commit will tell.
func (w *work) need(key store.Key) *extra {
	if e := w.extra(key); e != nil {
		return e
	}
	w.extras = append(w.extras, extra{key: key})
	return &w.extras[len(w.extras)-1]
}

// there reports whether the record exists, or will after this commit.
func (e *extra) there() bool { return e != nil && len(e.bytes) > 0 }

func (e *extra) put(b []byte, expire time.Duration) {
	e.bytes, e.expire, e.write = b, expire, true
}

// restore forgets what an attempt did.
func (e *extra) restore() { e.bytes, e.write, e.relied = e.stored, false, false }

// finish adds the commit of a decided batch.
func (s *Shard) finish(w *work, d draft) {
	if len(w.batch) == 0 {
		s.done(w)
		return
	}
	c := store.Commit{}
	write := store.Write{Op: store.Check, Key: w.key, Seen: w.record.Version}
	a := &s.account
	wake := a.Wake()
	switch {
	case d.sick && d.ticked:
		c.Index, c.Wake = store.Exact, s.now.Add(putOff)
	case d.ticked:
		c.Index, c.Wake = store.Exact, wake
		d.changed = d.changed || a.Exists && !a.Armed.Equal(wake)
		a.Armed = wake
	case d.changed && !wake.IsZero() && (a.Armed.IsZero() || wake.Before(a.Armed)):
		c.Index, c.Wake = store.Earlier, wake
		a.Armed = wake
	}
	if d.changed {
		start := len(s.arena)
		s.arena = a.Append(s.arena)
		write.Op, write.New, write.Bytes = store.Put, w.version, s.arena[start:len(s.arena):len(s.arena)]
	}
	first := len(s.events)
	for _, e := range d.events {
		s.events = append(s.events, s.arena[e[0]:e[1]:e[1]])
	}
	c.Events = s.events[first:len(s.events):len(s.events)]
	s.writes = append(s.writes, write)
	c.Writes = s.last(1 + s.addExtras(w))
	s.commit(span{work: w, sort: accountSpan}, c)
	for _, in := range w.batch {
		in.waits, in.broken, in.proving = 1, false, false
		switch in.Answer.Result {
		case charging.UnknownSession, charging.UserUnknown, charging.UnableToComply:
			if !in.settled && in.passes == 0 {
				in.doubted()
			}
		}
		s.pay(in, w)
	}
}

// addExtras adds the writes and checks of the records beside the account.
func (s *Shard) addExtras(w *work) (n int) {
	for i := range w.extras {
		e := &w.extras[i]
		switch {
		case e.write:
			s.writes = append(s.writes, store.Write{
				Op: store.Put, Key: e.key, Seen: e.seen, New: w.version, Bytes: e.bytes, Expire: e.expire,
			})
		case e.relied:
			s.writes = append(s.writes, store.Write{Op: store.Check, Key: e.key, Seen: e.seen})
		default:
			continue
		}
		n++
	}
	return n
}

// writeIndex adds the commit that tells the session index where in's session is.
func (s *Shard) writeIndex(in *Inbound) {
	x := &in.index
	w := store.Write{Op: store.Put, Key: x.key, Seen: x.seen, New: x.new, Bytes: x.value, Expire: x.keep}
	if x.proof {
		w = store.Write{Op: store.Check, Key: x.key, Seen: x.seen}
	}
	s.writes = append(s.writes, w)
	s.commit(span{in: in, sort: indexSpan}, store.Commit{Writes: s.last(1)})
}
