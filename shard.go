// Package rtm is the one loop between the doors (Diameter, REST, time) and the
// store: load an account, decide with charging.Step, commit, and only then
// answer. A Shard is that loop without goroutines, clocks or channels; driver.go
// and the simulation in rtmtest drive the same one. The package does not know
// Diameter, HTTP, Redis or Pebble, and it decides nothing about money.
package rtm

import (
	"slices"
	"time"

	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// Bounds and pauses of a shard.
const (
	BatchMax      = 256                    // requests of one account decided in one commit
	AccountsMax   = 1024                   // accounts in one cycle
	IdentitiesMax = 4                      // identities of one request that are looked up
	restUnit      = 200 * time.Microsecond // a contended account rests as many after a commit as its mark says
	pauseMin      = 10 * time.Millisecond  // before a refused or failed commit is tried again
	pauseMax      = 50 * time.Millisecond
	restMax       = time.Second         // no rest or pause is longer
	putOff        = time.Minute         // a tick that cannot be decided comes again after that
	extrasMax     = store.WritesMax - 1 // records beside the account in one commit
	bytesMax      = 200_000             // of one commit; the rest waits for the next
)

// An Inbound is a request on its way through the loop. Whoever submits it
// leaves it alone until its Reply.
type Inbound struct {
	Request    charging.Request
	Account    store.Key // the account; the zero Key: to be found by Identities, then by the session
	Identities []string  // "imsi:…", in the order in which they count
	Tenants    []string  // of the peer: the account must be of one of them; nil: any
	Arrived    time.Time // by the clock that Loaded gets
	Deadline   time.Time // no answer after this
	OnceName   string    // of a one-time request: its name among those of OnceDoor
	OnceDoor   string
	Answer     charging.Answer
	Notices    []charging.Due // to be sent now
	Opened     bool
	Reply      func(*Inbound, Outcome) // told on the shard's goroutine; must not wait
	Token      any                     // the submitter's

	Emergency bool // for what its tenant's document calls an emergency: it goes before others of its kind

	Hinted bool   // Account comes from a hint: if it is wrong, the directory is asked
	Peer   string // who sent it, no tenant's name: those whose tenant nobody knows share the loop by it

	Watched bool   // somebody looks on: Entry is wanted
	Entry   []byte // then the entry of its message, as charging.Entry encodes it; empty: it has written none

	state    progress
	home     store.Key       // the account of its identities, while others are asked whether they know in
	asked    bool            // the directory was asked
	moved    bool            // the identity had other owners not long ago
	recalls  int             // how often those were asked
	disowned []store.Key     // those of them that had no such session open
	before   []store.Key     // those, to be asked if the present one does not know the session
	formers  []store.Key     // accounts that are being asked
	carried  *extra          // what the account that knows in has of it: its closed session, or its answer
	indexed  bool            // the session index was asked
	given    int             // so many of its identities were given up by those whom the directory says to have them
	passes   int             // so many will be when the commit is Done that says so; zero: none more
	proofs   []looked        // all that was looked at
	proving  bool            // … which commits must show to be so still
	led      bool            // … and have shown, before its account decides …
	ledAt    time.Time       // … which had last got an identity then (Account.Moved)
	settled  bool            // its account knows why it is answered so: nothing else is to be proved
	doubt    bool            // a commit with this request in it is in doubt
	broken   bool            // a commit of this cycle was not Done
	waits    int             // commits that must be Done before the answer may leave
	spoilt   charging.Result // Step could not carry it out: this is what it is told
	tooLarge bool            // … and no store would take it, whatever the record
	index    indexWrite
	seen     []looked  // what is being looked at
	class    *Class    // it is in the loop, or waits for it, with those of its tenant
	aside    bool      // it came into the loop while its tenant stormed beside others
	offered  time.Time // when, by the clock of the Admission
	rated    bool      // its tenant was not known then, and counts it among what it begins since
}

type progress uint8

const (
	resolving progress = iota
	queued
	checking // commits are to show that what led it to its account is so still
	denied   // … that its answer rests on
	answered // decided and committed; the session index is still to be written, or its answer to be proved
)

// looked is a record of the directory, or beside an account, that an answer depends on.
type looked struct {
	key    store.Key
	record store.Record
	sought bool // it is read in this cycle
	read   bool // it was, and record is what was found
	proven bool // a commit has shown that it is so still
}

// serves reports whether subscribers of that tenant may be named by whoever sent
// in: identity → tenant → peer, the one place where it is checked.
func (in *Inbound) serves(tenant []byte) bool {
	if in.Tenants == nil {
		return true
	}
	for _, t := range in.Tenants {
		if string(tenant) == t {
			return true
		}
	}
	return false
}

// An Outcome is how a request leaves the loop.
type Outcome uint8

// The ways out.
const (
	Answered Outcome = iota + 1 // Inbound.Answer is committed
	Busy                        // nothing took effect: 3004
	Silent                      // it may have taken effect: no answer, the peer resends
	Forward                     // Inbound.Account is found: submit it again, to the lane of that
	Onward                      // what comes next is another node's: submit it again, to the lane of Inbound.Where
	NeedPlan                    // load the catalogue, then submit it again
	Above                       // nothing took effect: the account is of a higher level than is known here, 3002
)

// A Reply tells that a request has left the loop.
type Reply struct {
	In      *Inbound
	Outcome Outcome
}

// Catalogue gives the plans of a tenant; nil: there is no such plan.
type Catalogue func(tenant string, plan []byte) charging.Plans

// A Shard decides requests, in cycles of three calls:
//
//	keys := sh.Begin(inbound)           what must be read
//	commits := sh.Loaded(records, now)  Step, nothing else
//	replies := sh.Committed(results, now)
//
// Slices it returns are valid until its next call. Version and Plans are given
// by whoever drives it.
type Shard struct {
	Version  func() store.Version // never the same twice
	Plans    Catalogue
	Level    func() uint32 // of the store; nil: the lowest
	Instance []byte
	Jitter   func(n int64) int64          // below n: spreads retries
	Here     func(p store.Partition) bool // that partition is this shard's matter, others send theirs here; nil: all are
	Planted  string                       // a mistake that the simulation makes on purpose; empty in production
	far      time.Duration                // how long a commit takes, of late

	queues  map[string]*work // by account
	order   []*work          // in the order in which they came to wait
	cycle   []*work          // of this cycle, in the order of its keys
	seeking []*Inbound       // to be resolved
	sought  []*Inbound       // being resolved in this cycle
	owing   []*Inbound       // for which commits must be made yet that their accounts' did not hold
	paying  []*Inbound       // … in this cycle
	spans   []span           // of this cycle's commits
	keys    []store.Key
	commits []store.Commit
	writes  []store.Write
	events  [][]byte
	replies []Reply
	free    []*work
	overdue bool      // somebody waits whose deadline has come
	rest    time.Time // the directory and the session index are not asked before
	now     time.Time

	named   func(plan []byte) charging.Plans // of owner
	owner   string                           // the tenant of the account in hand
	arena   []byte
	account charging.Account
	outcome charging.Outcome
	closed  charging.Session
	once    charging.Once

	Counts Counts
}

// Counts is what a shard has done since it began.
type Counts struct {
	Commits, Conflicts, InDoubt, Refused  uint64
	Panics, Unsound, Batched, BusyReplies uint64
	Idle                                  uint64 // ticks that found nothing to do
	Above                                 uint64 // accounts of a higher level that were met
	Results                               Tally  // of whole messages
	Grants                                Tally  // … and of each of their rating groups
}

// A Tally counts by Result-Code.
type Tally map[charging.Result]uint64

// work is an account with requests that wait for it.
type work struct {
	key     store.Key
	tenant  string
	name    string
	waiting []*Inbound
	batch   []*Inbound
	record  store.Record
	fresh   bool      // record is what the store has, as far as is known
	extras  []extra   // records beside it, likewise
	rest    time.Time // not before
	most    int       // requests of the next batch, while one was too large for a commit; zero: BatchMax
	version store.Version
}

// extra is a record beside an account: of a closed session or a one-time
// request. seen and stored is what the store has; bytes what it is after this
// commit.
type extra struct {
	key    store.Key
	seen   store.Version
	stored []byte
	bytes  []byte
	relied bool
	write  bool
	expire time.Duration
}

// span says which commit belongs to what.
type span struct {
	work *work
	in   *Inbound
	at   int // in the proofs of in
	sort spanSort
}

type spanSort uint8

const (
	accountSpan spanSort = iota + 1
	lookedSpan
	indexSpan
)

type indexWrite struct {
	key   store.Key
	seen  store.Version
	new   store.Version
	keep  time.Duration
	due   bool
	entry tenant.Entry
	value []byte // the entry, and those of other accounts

	repeat bool // of a message that wrote it before
	late   bool // … some time ago: it is no newer for being written now
	proof  bool // it is there, and must be so still
}

// NewShard returns an empty shard.
func NewShard() *Shard {
	s := &Shard{queues: make(map[string]*work), Counts: Counts{Results: make(Tally), Grants: make(Tally)}}
	s.named = func(plan []byte) charging.Plans { return s.Plans(s.owner, plan) }
	return s
}

// Waiting is how many requests are in the shard.
func (s *Shard) Waiting() int {
	n := len(s.seeking) + len(s.sought) + len(s.owing) + len(s.paying)
	for _, w := range s.order {
		n += len(w.waiting) + len(w.batch)
	}
	return n
}

// Begin takes requests in and returns what must be read for the next cycle;
// nothing: there is nothing to do before Next.
func (s *Shard) Begin(in []*Inbound, now time.Time) []store.Key {
	s.now = now
	for _, i := range in {
		s.take(i)
	}
	s.keys, s.cycle, s.sought, s.overdue = s.keys[:0], s.cycle[:0], s.sought[:0], false
	if !s.rests(s.rest) {
		var late []*Inbound
		for _, i := range s.seeking {
			if s.late(i) {
				late = append(late, i)
				continue
			}
			s.sought = append(s.sought, i)
			s.seek(i)
		}
		s.seeking = append(s.seeking[:0], late...)
		s.paying, s.owing = append(s.paying[:0], s.owing...), s.owing[:0]
	}
	for _, w := range s.order {
		if len(w.waiting) == 0 || s.rests(w.rest) || len(s.cycle) == AccountsMax {
			continue
		}
		if s.fill(w); len(w.batch) == 0 {
			continue
		}
		s.cycle = append(s.cycle, w)
		if !w.fresh {
			s.keys = append(s.keys, w.key)
		}
	}
	return s.keys
}

// fill moves the first requests that wait for w, whose deadline has not come, into
// its batch.
func (s *Shard) fill(w *work) {
	most := BatchMax
	if w.most > 0 {
		most = min(most, w.most)
	}
	w.batch = w.batch[:0]
	kept := w.waiting[:0]
	for _, in := range w.waiting {
		if len(w.batch) < most && !s.late(in) {
			w.batch = append(w.batch, in)
		} else {
			kept = append(kept, in)
		}
	}
	w.waiting = kept
}

// late reports whether the deadline of in has come: it leaves with the end of this
// cycle.
func (s *Shard) late(in *Inbound) bool {
	late := !s.now.Before(in.Deadline)
	s.overdue = s.overdue || late
	return late
}

// rests reports whether that time is still to come. One that is further away
// than any pause was set before the store's clock stepped back.
func (s *Shard) rests(until time.Time) bool {
	d := until.Sub(s.now)
	return d > 0 && d <= restMax
}

// Idle reports whether the cycle that Begin has begun has nothing to decide.
func (s *Shard) Idle() bool {
	return len(s.cycle) == 0 && len(s.sought) == 0 && len(s.paying) == 0 && !s.overdue
}

func (s *Shard) take(in *Inbound) {
	switch {
	case in.state > queued:
		s.owing = append(s.owing, in)
	case in.Account == (store.Key{}):
		in.state = resolving
		s.seeking = append(s.seeking, in)
	default:
		in.state = queued
		w := s.work(in.Account)
		w.waiting = append(w.waiting, in)
	}
}

// here reports whether that record is on this shard's node of the store.
func (s *Shard) here(k store.Key) bool { return s.Here == nil || s.Here(k.Partition) }

// Where is the record that in comes to next: its account's, or one that it must see or
// write before that or after it.
func (in *Inbound) Where() store.Key {
	if in.state > queued {
		k, _ := in.owes()
		return k
	}
	if in.Account != (store.Key{}) {
		return in.Account
	}
	for i := range in.seen {
		if !in.seen[i].read {
			return in.seen[i].key
		}
	}
	if !in.asked && in.given < len(in.Identities) {
		return tenant.IdentityKey(in.Identities[in.given])
	}
	return in.session()
}

// Copy is a copy of in that another loop can decide meanwhile.
func (in *Inbound) Copy() *Inbound {
	c := *in
	c.seen, c.proofs = slices.Clone(in.seen), slices.Clone(in.proofs)
	return &c
}

// session is where the session index has the session of in.
func (in *Inbound) session() store.Key {
	return tenant.SessionKey(string(in.Request.Realm), string(in.Request.Session), in.Request.Sub)
}

// work is the queue of that account.
func (s *Shard) work(key store.Key) *work {
	if w := s.queues[key.Name]; w != nil {
		return w
	}
	w := &work{}
	if n := len(s.free); n > 0 {
		w, s.free = s.free[n-1], s.free[:n-1]
	}
	w.key = key
	w.tenant, w.name = tenant.AccountOf(key)
	s.queues[key.Name] = w
	s.order = append(s.order, w)
	return w
}

// seek adds the directory records that say whose request in is: those of its
// identities, then that of its session, with what accounts that may know it have. Those
// of other nodes are sought by the lanes of these.
func (s *Shard) seek(in *Inbound) {
	switch {
	case len(in.seen) > 0: // begun by another lane, or here, where nothing could be read
	case in.asked:
		for _, account := range in.formers {
			in.seen = append(in.seen, looked{key: in.memory(account)})
		}
		in.seen = append(in.seen, looked{key: in.session()})
	default:
		for _, id := range in.named() {
			in.seen = append(in.seen, looked{key: tenant.IdentityKey(id)})
		}
	}
	for i := range in.seen {
		l := &in.seen[i]
		if l.sought = !l.read && s.here(l.key); l.sought {
			s.keys = append(s.keys, l.key)
		}
	}
}

// named are the identities of in that it may go by.
func (in *Inbound) named() []string {
	return in.Identities[in.given:max(in.given, min(len(in.Identities), IdentitiesMax))]
}

// Loaded takes the records of Begin's keys, in their order, and returns the
// decisions. nil records: they could not be read.
func (s *Shard) Loaded(recs []store.Record, now time.Time) []store.Commit {
	s.now = now
	s.commits, s.spans, s.writes = s.commits[:0], s.spans[:0], s.writes[:0]
	s.events, s.arena, s.replies = s.events[:0], s.arena[:0], s.replies[:0]
	if recs == nil && len(s.keys) > 0 {
		s.failed()
		return nil
	}
	for _, in := range s.sought {
		recs = s.resolve(in, recs)
	}
	s.sought = s.sought[:0]
	for _, w := range s.cycle {
		if !w.fresh {
			w.record, w.extras, recs = recs[0], w.extras[:0], recs[1:]
		}
		s.decide(w)
	}
	for _, in := range s.paying {
		in.waits, in.broken = 0, false
		if s.pay(in, nil); in.waits == 0 {
			s.leave(in)
		}
	}
	s.paying = s.paying[:0]
	return s.commits
}

// failed puts everything back that could not be read.
func (s *Shard) failed() {
	s.seeking = append(s.seeking, s.sought...)
	s.owing = append(s.owing, s.paying...)
	s.sought, s.paying = s.sought[:0], s.paying[:0]
	s.rest = s.now.Add(s.jittered())
	for _, w := range s.cycle {
		s.again(w)
		s.pause(w)
	}
	s.cycle = s.cycle[:0]
}

// again puts the batch of w back in front of what waits.
func (s *Shard) again(w *work) {
	w.waiting = append(w.waiting, w.batch...)
	n := len(w.batch)
	copy(w.waiting[n:], w.waiting[:len(w.waiting)-n])
	copy(w.waiting, w.batch)
	w.batch = w.batch[:0]
}

// pause lets w rest before it is tried again.
func (s *Shard) pause(w *work) {
	w.rest = s.now.Add(s.jittered())
}

// distance is how long this shard needs to come back after a refusal, twice
// over since that varies, in the unit of a contended account's rest.
func (s *Shard) distance() uint8 { return uint8(min(1+2*s.far/restUnit, 255)) }

func (s *Shard) jittered() time.Duration {
	return pauseMin + time.Duration(s.Jitter(int64(pauseMax-pauseMin)))
}

// Next is when the shard must run again without a new request: a rest is over.
// False: nothing waits.
func (s *Shard) Next() (at time.Time, ok bool) {
	for _, w := range s.order {
		if len(w.waiting) > 0 {
			at, ok = sooner(at, ok, w.rest)
		}
	}
	if len(s.seeking)+len(s.owing) > 0 {
		at, ok = sooner(at, ok, s.rest)
	}
	if ok && !s.rests(at) {
		at = s.now
	}
	return at, ok
}

func sooner(at time.Time, ok bool, t time.Time) (time.Time, bool) {
	if !ok || t.Before(at) {
		return t, true
	}
	return at, true
}

// noPlans is the plan of an account whose tenant or plan is not in the
// catalogue.
type noPlans struct{}

func (noPlans) Current(time.Time) *rating.Plan { return nil }
func (noPlans) Version(uint32) *rating.Plan    { return nil }
func (noPlans) Next(time.Time) time.Time       { return time.Time{} }
