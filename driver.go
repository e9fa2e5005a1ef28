package rtm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Times and bounds of an instance.
const (
	Shards         = 16
	Asides         = 4           // lanes beside these, for tenants that storm: some for each node of the store, if it has no more
	InboxMax       = 4096        // requests that wait in front of one shard
	storeTimeout   = time.Second // of one store operation
	catalogueEvery = time.Second // plans and peers are looked for that often
	refreshPause   = 50 * time.Millisecond
	drainMax       = 10 * time.Second
	fireMax        = 2 * time.Second      // ticks in the loop are waited for, before more are claimed
	stopPoll       = 5 * time.Millisecond // how often a lane looks whether the others are done, when it stops
	breather       = 2 * time.Millisecond // of a lane aside: what takes longer waits for the store, not for a processor
)

// Config is what an Instance needs.
type Config struct {
	Name   string // shown in records: who decided
	Store  store.Store
	Log    *slog.Logger
	Shards int // zero: Shards
	// Presence is what others are told; PeerHost must be this instance's own.
	Presence Presence
	// Notify sends a RAR or ASR over a connection on that way to its client.
	// False: there is none here. nil: there never is.
	Notify func(p Parcel, way Toward) bool
	// Connected lists who is connected here, each once, in order.
	Connected func() []Neighbour
	// Figures is what was counted at the door; nil: there is none.
	Figures func() Figures
	// Aside prepares the goroutine of a lane for tenants that storm, as that begins;
	// nil: it is one like the others.
	Aside func()
	// Knows is the highest store level that this instance can work on; zero: that
	// of this build.
	Knows uint32
	// Settle is how long all instances must know a higher level before the store's
	// rises by itself; zero: it does not.
	Settle time.Duration
	// Audit is how many accounts a second are audited; zero: none are. A
	// walk over all of them begins no sooner than AuditEvery after the last one
	// began; zero: five minutes.
	Audit      int
	AuditEvery time.Duration
}

// An Instance drives shards and timers against a store. All it knows about
// sessions is what it is working on; another can take over at any moment.
type Instance struct {
	Config
	lanes     []*lane
	abreast   int // so many lanes of those for tenants that storm are used, or one for each node
	hints     hints
	catalogue atomic.Pointer[tenant.Catalogue]
	refresh   chan struct{}
	news      chan struct{} // there is something to tell the others at once
	reading   sync.Mutex    // held while the catalogue is read: an older one never replaces a newer
	plan      sync.Mutex
	unplanned []*Inbound // wait for the catalogue; guarded by plan
	clock     clock
	timers    Timers
	calm      atomic.Pointer[time.Time]   // of timers; nil: nobody knows
	audited   atomic.Pointer[AuditCounts] // what the auditor has found so far
	level     level
	version   func() store.Version
	since     time.Time
	others    atomic.Pointer[[]Presence]
	hosts     sync.Map // peer hosts of instances, in lower case
	met       int      // how many; only used by present
	notices   Notices
	outbox    chan struct{} // a notice waits to be routed
	gate      sync.Mutex    // guards admission
	admission *Admission
	listed    []Neighbour // as the last records of them say; like the next two only used by attend
	listedIn  int         // so many records
	listedAt  time.Time
	demand    demand // only used by present
	leaving   atomic.Bool
	pending   atomic.Int64                  // requests without a reply
	dirty     [store.Partitions]atomic.Bool // events were written since TakeDirty
	stop      chan struct{}
	stopOnce  sync.Once
	done      sync.WaitGroup
	Load      Load
}

// Load is what an instance has done, for metrics.
type Load struct {
	Busy     atomic.Int64 // nanoseconds spent deciding, all shards together
	Requests atomic.Int64
	Late     atomic.Int64 // nanoseconds, of all ticks
	Lates    [len(TickLateness) + 1]atomic.Int64
	Lost     atomic.Int64 // notices that found no room: their sessions' timers send them again
	Cycles   atomic.Int64
	Commits  atomic.Int64
	Conflict atomic.Int64
	InDoubt  atomic.Int64
	Refused  atomic.Int64
	Panics   atomic.Int64
	Unsound  atomic.Int64
	Shed     atomic.Int64 // requests turned away: in front of the loop, or at their deadline
	Idle     atomic.Int64 // ticks that found nothing to do
	Above    atomic.Int64 // accounts that are above the level known here
	Trips    atomic.Int64 // to the store and back, of commits
	Waited   atomic.Int64 // nanoseconds of these trips

	tallies         sync.Mutex // guards those below
	results, grants Tally
}

// Ticks is how many wake-ups were claimed.
func (l *Load) Ticks() (n int64) {
	for i := range l.Lates {
		n += l.Lates[i].Load()
	}
	return n
}

// A lane is a shard, its goroutine, and what waits for its next cycle.
type lane struct {
	shard *Shard
	mu    sync.Mutex // guards inbox
	inbox []*Inbound
	wake  chan struct{}
}

// ErrBusy says that a request was not carried out: the store did not answer in
// time, or too much waits.
var ErrBusy = errors.New("too busy: nothing was changed, try again")

// ErrDoubt says that nobody knows whether a request was carried out. Repeating
// it under the same name is safe.
var ErrDoubt = errors.New("the store did not say whether it was done: repeat the same request")

// Start reads the catalogue and runs an instance until Stop. Errors: ErrLevel, if
// the store is above the level that the instance knows.
func Start(ctx context.Context, c Config) (*Instance, error) {
	n := &Instance{Config: c, refresh: make(chan struct{}, 1), news: make(chan struct{}, 1), stop: make(chan struct{}), clock: clock{base: time.Now()}}
	if n.Shards == 0 {
		n.Shards = Shards
	}
	if n.Log == nil {
		n.Log = slog.New(slog.DiscardHandler)
	}
	n.level.above = make(chan struct{})
	if n.Knows == 0 {
		n.Knows = charging.Level
	}
	if err := n.readLevel(ctx); err != nil {
		return nil, err
	}
	cat, err := tenant.Load(ctx, n.Store, nil)
	if err != nil {
		return nil, err
	}
	n.catalogue.Store(cat)
	n.hints.init()
	n.admission = NewAdmission(n.weight)
	n.version, n.since = oneVersion, time.Now()
	n.outbox = make(chan struct{}, 1)
	n.notices = Notices{Name: n.Name, Store: n.Store, Version: n.version, Notify: n.Notify, Catalogue: n.Catalogue, Lost: func(many int) { n.Load.Lost.Add(int64(many)) }}
	if err := n.askTime(ctx); err != nil {
		return nil, err
	}
	if err := n.claim(ctx); err != nil {
		return nil, err
	}
	if err := n.present(ctx); err != nil {
		return nil, err
	}
	if err := n.readLevel(ctx); err != nil { // it rises only while all who are present know the next
		n.retire()
		return nil, err
	}
	n.abreast = min(Asides, max(1, min(runtime.NumCPU(), runtime.GOMAXPROCS(0))/2))
	for i := range n.Shards + Asides {
		l := &lane{shard: NewShard(), wake: make(chan struct{}, 1)}
		l.shard.Here = func(p store.Partition) bool { return n.has(i, p) }
		l.shard.Version, l.shard.Jitter = randomVersion(), mathrand.Int64N
		l.shard.Instance, l.shard.Plans, l.shard.Level = []byte(n.Name), n.plans, n.Level
		n.lanes = append(n.lanes, l)
		n.done.Add(1)
		go n.run(l, i >= n.Shards)
	}
	n.done.Add(4)
	go n.tick()
	go n.follow()
	go n.attend()
	go n.audit()
	return n, nil
}

// askTime learns the store's time: nothing is decided before that.
func (n *Instance) askTime(ctx context.Context) error {
	before := time.Now()
	facts, err := n.Store.Facts(ctx)
	if err != nil {
		return err
	}
	n.clock.learn(before, time.Now(), facts.Clock)
	return nil
}

// randomVersion draws versions from the system's randomness, many at a time.
func randomVersion() func() store.Version {
	var pool [4096]byte
	next := len(pool)
	return func() (v store.Version) {
		for v == (store.Version{}) {
			if next == len(pool) {
				rand.Read(pool[:])
				next = 0
			}
			next += copy(v[:], pool[next:next+len(v)])
		}
		return v
	}
}

// oneVersion draws one version.
func oneVersion() (v store.Version) {
	for v == (store.Version{}) {
		rand.Read(v[:])
	}
	return v
}

// Now is the store's time, as far as it is known here. Deadlines of requests
// are given in it.
func (n *Instance) Now() time.Time { return n.clock.now() }

// Catalogue is the tenants, plans and peers of this moment.
func (n *Instance) Catalogue() *tenant.Catalogue { return n.catalogue.Load() }

func (n *Instance) plans(t string, plan []byte) charging.Plans {
	if p := n.catalogue.Load().Plans(t, plan); p != nil {
		return p
	}
	return nil
}

// Submit sends requests on their way. Each one's Reply is called exactly once.
func (n *Instance) Submit(ins ...*Inbound) {
	n.pending.Add(int64(len(ins)))
	for _, in := range ins {
		if k := in.Request.Kind; k >= charging.Initial && k <= charging.Event {
			n.admit(in)
		} else {
			n.submit(in)
		}
	}
}

// weight is what the catalogue says of a tenant. Its rate is that of all
// instances together, of which this one has a part.
func (n *Instance) weight(name string) Weight {
	t := n.catalogue.Load().Tenant(name)
	if t == nil {
		return Weight{}
	}
	w := Weight{Share: t.Limits.Share, Rate: float64(t.Limits.Rate)}
	if w.Rate > 0 {
		w.Rate = part(w.Rate, name, n.Name, n.Instances())
	}
	return w
}

// FullMax is how full a store may be, in percent, for sessions to begin in it. What
// is left is for those that are open: a termination is what frees memory.
const FullMax = 85

// full reports whether the store says that it is nearly full. One that knows no
// bound says nothing.
func (n *Instance) full() bool {
	s, ok := store.Inner(n.Store).(interface{ Full() int })
	return ok && s.Full() >= FullMax
}

// admit sends a gateway's request into the loop, has it wait for others of its
// tenant to leave, or turns it away.
func (n *Instance) admit(in *Inbound) {
	if in.Account == (store.Key{}) {
		n.hint(in)
	}
	name := n.tenantOf(in)
	in.Emergency = n.emergency(in, name)
	if in.Request.Kind == charging.Initial && !in.Emergency && n.full() {
		n.Admission(func(a *Admission) { a.ShedOf(ShedMemory) })
		n.turnAway(in)
		return
	}
	class := name
	if name == "" {
		class = in.Peer
	}
	node, _ := n.node(in.Where().Partition)
	n.gate.Lock()
	enter, turned := n.admission.Offer(in, class, name, node, time.Now())
	n.gate.Unlock()
	if enter {
		n.submit(in)
	}
	if turned != nil {
		n.turnAway(turned)
	}
}

// tenantOf is whose a request is, as far as can be told without asking the store:
// by its account, by the only tenant of its peer, by the range of its identity.
// Empty: nobody knows.
func (n *Instance) tenantOf(in *Inbound) string {
	if in.Account != (store.Key{}) {
		name, _ := tenant.AccountOf(in.Account)
		return name
	}
	if len(in.Tenants) == 1 {
		return in.Tenants[0]
	}
	if len(in.Identities) == 0 {
		return ""
	}
	return n.catalogue.Load().TenantAmong(in.Tenants, in.Identities[0])
}

// emergency reports whether a request is for an emergency service of its tenant, or,
// where nobody knows that yet, of any that its peer serves.
func (n *Instance) emergency(in *Inbound, name string) bool {
	all, one := in.Tenants, [1]string{name}
	if name != "" {
		all = one[:]
	}
	cat, r := n.catalogue.Load(), &in.Request
	for _, name := range all {
		t := cat.Tenant(name)
		if t == nil {
			continue
		}
		if t.Emergency.Reaches(r.Particulars.APN, r.Particulars.Called) {
			return true
		}
		for i := range r.Asks {
			ask := &r.Asks[i]
			if t.Emergency.Service(ask.Group, ask.Has&charging.HasGroup != 0, ask.Service, ask.Has&charging.HasService != 0) {
				return true
			}
		}
	}
	return false
}

// known reports whether a request whose account was found may go on: the rate of its
// tenant, which may not have been known when it came, allows it.
func (n *Instance) known(in *Inbound) bool {
	if in.class == nil {
		return true
	}
	name, _ := tenant.AccountOf(in.Account)
	n.gate.Lock()
	defer n.gate.Unlock()
	return n.admission.Known(in, name, time.Now())
}

// turnAway answers a request that did not come into the loop.
func (n *Instance) turnAway(in *Inbound) {
	n.Load.Shed.Add(1)
	n.answer(in, Busy)
}

// Admission calls see with what decides who comes into the loop, which stands
// still meanwhile.
func (n *Instance) Admission(see func(a *Admission)) {
	n.gate.Lock()
	defer n.gate.Unlock()
	see(n.admission)
}

// left makes room for those who wait for a request to leave the loop.
func (n *Instance) left(in *Inbound) { n.makeRoom(in, -1) }

// moved makes room for those who wait for a request to go on at another node.
func (n *Instance) moved(in *Inbound) {
	if in.class != nil {
		node, _ := n.node(in.Where().Partition)
		n.makeRoom(in, node)
	}
}

// makeRoom sends those into the loop, or away, for whom a request makes room that goes
// on at that node, or, below zero, leaves.
func (n *Instance) makeRoom(in *Inbound, node int) {
	var room [8]*Inbound // enough for nearly always
	enter, turned := room[:0:4], room[4:4]
	n.gate.Lock()
	if now := time.Now(); node < 0 {
		enter, turned = n.admission.Left(in, now, enter, turned)
	} else {
		enter, turned = n.admission.Moved(in, node, now, enter, turned)
	}
	n.gate.Unlock()
	for _, next := range enter {
		n.submit(next)
	}
	for _, late := range turned {
		n.turnAway(late)
	}
}

// submit sends a request into the loop, by hint where its account is not known.
func (n *Instance) submit(in *Inbound) {
	if in.Account == (store.Key{}) {
		n.hint(in)
	}
	n.send(in)
}

// send puts a request into the lane of what it comes to next.
func (n *Instance) send(in *Inbound) {
	l := n.lanes[n.lane(in.Where().Partition, in.aside)]
	l.mu.Lock()
	full := len(l.inbox) >= InboxMax
	if !full {
		l.inbox = append(l.inbox, in)
	}
	l.mu.Unlock()
	if full {
		n.Load.Shed.Add(1)
		n.Admission(func(a *Admission) { a.ShedOf(ShedInbox) })
		n.answer(in, in.turnedAway())
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// lane is where requests of that partition are worked on: with none of another
// node's, so that a node that does not answer holds up only its own. Those of a
// tenant that storms are worked on aside, so that others need not wait for the end of
// their cycles; in so few lanes that these leave half of the processors free.
func (n *Instance) lane(p store.Partition, aside bool) int {
	i, of := n.node(p)
	switch {
	case aside && of <= Asides:
		per := n.asides(of)
		return n.Shards + i*per + int(p)/of%per
	case of > n.Shards:
		return int(p) % n.Shards
	}
	return i + of*(int(p)%(n.Shards/of))
}

// asides is how many of the lanes aside each of so many nodes has.
func (n *Instance) asides(of int) int { return max(1, n.abreast/of) }

// has reports whether that partition is a matter of that lane: it lies on its node.
func (n *Instance) has(lane int, p store.Partition) bool {
	i, of := n.node(p)
	switch {
	case lane >= n.Shards:
		return of <= Asides && (lane-n.Shards)/n.asides(of) == i
	case of > n.Shards:
		return int(p)%n.Shards == lane
	}
	return lane%of == i
}

// node is which of how many nodes of the store has that partition.
func (n *Instance) node(p store.Partition) (i, of int) {
	if placed, ok := n.Store.(store.Placed); ok {
		return placed.Node(p)
	}
	return 0, 1
}

// load reads records; nil: they could not be read.
func (n *Instance) load(keys []store.Key) []store.Record {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	recs, err := n.Store.Load(ctx, keys)
	if err != nil {
		return nil
	}
	return recs
}

// answer ends a request that Submit took.
func (n *Instance) answer(in *Inbound, o Outcome) {
	n.pending.Add(-1)
	if in.class != nil {
		n.left(in)
	}
	if in.Reply != nil {
		in.Reply(in, o)
	}
}

// hint takes the account of in from what was seen before of its first identity.
// A later one counts only if nobody has that, which the directory knows.
func (n *Instance) hint(in *Inbound) {
	if len(in.Identities) == 0 {
		return
	}
	k, ok := n.hints.get(in.Identities[0])
	if t, _ := tenant.AccountOf(k); ok && in.serves([]byte(t)) {
		in.Account, in.Hinted, in.Request.Identity = k, true, []byte(in.Identities[0])
	}
}

// Do carries out one request and waits for it.
func (n *Instance) Do(ctx context.Context, in *Inbound) (charging.Answer, error) {
	done := make(chan Outcome, 1)
	in.Reply = func(_ *Inbound, o Outcome) { done <- o }
	if in.Arrived.IsZero() {
		in.Arrived = n.Now()
	}
	if in.Deadline.IsZero() {
		in.Deadline = in.Arrived.Add(5 * time.Second)
	}
	n.Submit(in)
	select {
	case o := <-done:
		switch o {
		case Answered:
			return in.Answer, nil
		case Silent:
			return charging.Answer{}, ErrDoubt
		case Above:
			return charging.Answer{}, charging.ErrLevel
		case Busy, Forward, Onward, NeedPlan:
		}
		return charging.Answer{}, ErrBusy
	case <-ctx.Done():
		return charging.Answer{}, ctx.Err()
	}
}

// run is the driver of one shard: it waits for the store between the calls. One aside
// rests after each cycle, half as long as that took.
func (n *Instance) run(l *lane, aside bool) {
	defer n.done.Done()
	if aside && n.Aside != nil {
		n.Aside()
	}
	var in []*Inbound
	alarm := time.NewTimer(time.Hour)
	for {
		l.mu.Lock()
		in, l.inbox = l.inbox, in[:0]
		l.mu.Unlock()
		begun := time.Now()
		worked := n.cycle(l, in)
		clear(in)
		if worked && aside {
			time.Sleep(min(time.Since(begun)/2, breather))
		}
		if !worked && !n.wait(l, alarm) {
			return
		}
	}
}

// cycle carries out one cycle; false: there was nothing to do.
func (n *Instance) cycle(l *lane, in []*Inbound) bool {
	start := time.Now()
	begun := start
	keys := l.shard.Begin(in, n.Now())
	if l.shard.Idle() {
		return false
	}
	busy := time.Since(start)
	recs := []store.Record{}
	if len(keys) > 0 {
		recs = n.load(keys)
	}
	start = time.Now()
	commits := l.shard.Loaded(recs, n.Now())
	busy += time.Since(start)
	var results []store.Result
	if len(commits) > 0 {
		results = n.commit(commits)
	}
	start = time.Now()
	replies := l.shard.Committed(results, n.Now())
	for i := range replies {
		n.deliver(&replies[i])
	}
	end := time.Now()
	n.account(l, busy+end.Sub(start), end.Sub(begun), end)
	return true
}

func (n *Instance) commit(commits []store.Commit) []store.Result {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	before := time.Now()
	results, now := n.Store.Commit(ctx, commits)
	after := time.Now()
	n.clock.learn(before, after, now)
	n.Load.Trips.Add(1)
	n.Load.Waited.Add(int64(after.Sub(before)))
	for i := range commits {
		if p := commits[i].Writes[0].Key.Partition; len(commits[i].Events) > 0 && !n.dirty[p].Load() {
			n.dirty[p].Store(true)
		}
	}
	return results
}

// TakeDirty reports, and forgets, whether this instance wrote events of that
// partition.
func (n *Instance) TakeDirty(p store.Partition) bool {
	return n.dirty[p].Load() && n.dirty[p].Swap(false)
}

// account moves the shard's counts into the instance's.
func (n *Instance) account(l *lane, busy, took time.Duration, now time.Time) {
	c := &l.shard.Counts
	n.gate.Lock()
	n.admission.Cycle(took, int(c.Batched), now)
	n.admission.Shed[ShedDeadline] += int64(c.BusyReplies)
	n.gate.Unlock()
	n.Load.Busy.Add(int64(busy))
	n.Load.Cycles.Add(1)
	n.Load.Requests.Add(int64(c.Batched))
	n.Load.Commits.Add(int64(c.Commits))
	n.Load.Conflict.Add(int64(c.Conflicts))
	n.Load.InDoubt.Add(int64(c.InDoubt))
	n.Load.Refused.Add(int64(c.Refused))
	n.Load.Panics.Add(int64(c.Panics))
	n.Load.Unsound.Add(int64(c.Unsound))
	n.Load.Shed.Add(int64(c.BusyReplies))
	n.Load.Idle.Add(int64(c.Idle))
	n.Load.Above.Add(int64(c.Above))
	n.Load.tallies.Lock()
	n.Load.results.take(c.Results)
	n.Load.grants.take(c.Grants)
	n.Load.tallies.Unlock()
	*c = Counts{Results: c.Results, Grants: c.Grants}
}

// take adds what another has counted, and empties it.
func (t *Tally) take(c Tally) {
	if *t == nil {
		*t = make(Tally)
	}
	for r, n := range c {
		(*t)[r] += n
	}
	clear(c)
}

// Tallies are how requests were answered, and each of their rating groups.
func (l *Load) Tallies() (results, grants Tally) {
	l.tallies.Lock()
	defer l.tallies.Unlock()
	return maps.Clone(l.results), maps.Clone(l.grants)
}

// deliver hands on what leaves a shard.
func (n *Instance) deliver(r *Reply) {
	in := r.In
	switch r.Outcome {
	case Forward:
		if id, account, ok := in.Hint(); ok {
			n.hints.put(id, account)
		} else if id != "" {
			n.hints.drop(id)
		}
		if !n.known(in) {
			n.Load.Shed.Add(1)
			n.answer(in, in.turnedAway())
			return
		}
		fallthrough
	case Onward:
		n.moved(in)
		n.send(in)
	case NeedPlan:
		n.plan.Lock()
		n.unplanned = append(n.unplanned, in)
		n.plan.Unlock()
		n.Refresh()
		if n.stopping() {
			n.giveUp()
		}
	case Answered, Busy, Silent, Above:
		if r.Outcome == Above {
			n.outgrown(fmt.Errorf("account %s is above level %d, the highest that this version of rtm knows: %w", in.Account.Name, n.Knows, ErrLevel))
		}
		if r.Outcome == Answered {
			for _, due := range in.Notices {
				n.dispatch(in.Account, due)
			}
		}
		n.answer(in, r.Outcome)
	}
}

// wait waits for requests or for what the shard has put off; false: the
// instance stops, and no lane has a request any more that it could send here.
func (n *Instance) wait(l *lane, alarm *time.Timer) bool {
	d := time.Hour
	if at, ok := l.shard.Next(); ok {
		d = max(at.Sub(n.Now()), 0)
	}
	if n.stopping() {
		d = min(d, stopPoll)
	}
	alarm.Reset(d)
	stop := n.stop
	if n.stopping() {
		stop = nil
	}
	select {
	case <-l.wake:
	case <-alarm.C:
	case <-stop:
	}
	return !n.stopping() || n.pending.Load() > 0
}

func (n *Instance) stopping() bool {
	select {
	case <-n.stop:
		return true
	default:
		return false
	}
}

// tick asks the store for wake-ups that are due.
func (n *Instance) tick() {
	defer n.done.Done()
	t := time.NewTimer(0)
	for {
		select {
		case <-n.stop:
			return
		case <-n.level.above: // those who know the level fire them
			return
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		before := time.Now()
		due, next, now, err := n.Store.Due(ctx, nil, TicksMax, TickLease)
		cancel()
		if err != nil {
			n.timers.Failed()
			n.calm.Store(nil)
		}
		switch {
		case err == nil:
			n.clock.learn(before, time.Now(), now)
		case len(due) == 0:
			t.Reset(TickPoll)
			continue
		case now.IsZero(): // what was claimed is ours to do, whatever else failed
			now = n.Now()
		}
		elapsed := n.Now()
		ticks := n.timers.Claimed(due, next, now, elapsed)
		calm := n.timers.Calm()
		n.calm.Store(&calm)
		n.Load.Late.Store(int64(n.timers.Late))
		for i := range n.timers.Lates {
			n.Load.Lates[i].Store(int64(n.timers.Lates[i]))
		}
		if n.fire(ticks, Full(due)) {
			n.timers.Done(n.Now().Sub(elapsed), n.pending.Load() > 0, n.Now())
		}
		t.Reset(max(n.timers.Poll().Sub(n.Now()), time.Millisecond))
	}
}

// fire sends ticks into the loop. With wait it returns when they have left it, so
// that a backlog never lies in the loop, in front of what gateways want, or after a
// while: one of them may wait for a plan. false: the instance stops.
func (n *Instance) fire(ticks []*Inbound, wait bool) bool {
	if !wait || len(ticks) == 0 {
		n.Submit(ticks...)
		return false
	}
	left, done := atomic.Int64{}, make(chan struct{})
	left.Store(int64(len(ticks)))
	for _, in := range ticks {
		in.Reply = func(*Inbound, Outcome) {
			if left.Add(-1) == 0 {
				close(done)
			}
		}
	}
	n.Submit(ticks...)
	select {
	case <-done:
		return true
	case <-time.After(fireMax):
		return true
	case <-n.stop:
		return false
	}
}

// audit walks over all accounts, as long as this is the eldest of the live
// instances: together they walk once.
func (n *Instance) audit() {
	defer n.done.Done()
	a := Auditor{Rate: n.Audit, Every: n.AuditEvery}
	if a.Rate == 0 {
		return
	}
	t := time.NewTimer(0)
	for {
		select {
		case <-n.stop:
			return
		case <-n.level.above: // what it would find wrong may be right
			return
		case <-t.C:
		}
		if !n.eldest() {
			a.Rest(n.Now())
		} else {
			n.walk(&a)
		}
		counts := a.Counts
		counts.Mismatches = maps.Clone(counts.Mismatches)
		n.audited.Store(&counts)
		t.Reset(max(a.Next().Sub(n.Now()), time.Millisecond))
	}
}

// Audited is what this instance's audits have found since it began.
func (n *Instance) Audited() (c AuditCounts) {
	if p := n.audited.Load(); p != nil {
		c = *p
	}
	return c
}

// walk does one part of an audit. What cannot be read is read again later.
func (n *Instance) walk(a *Auditor) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	calm := func() (t time.Time) {
		if p := n.calm.Load(); p != nil {
			t = *p
		}
		return t
	}
	if cursor, most, ok := a.Part(n.Now()); ok {
		keys, recs, next, err := n.Store.Scan(ctx, cursor, most)
		if errors.Is(err, store.ErrCursor) { // the store is not as it was: begin anew
			a.Rest(n.Now())
		}
		if err != nil {
			return
		}
		ins, found := a.Scanned(keys, recs, next, n.Now(), calm())
		n.judge(a, ins, found)
	}
	if p, most, ok := a.Stream(n.Now()); ok {
		events, err := n.Store.Events(ctx, p, 0, most)
		if err != nil {
			return
		}
		if keys := a.Read(events); len(keys) > 0 {
			recs, err := n.Store.Load(ctx, keys)
			if err != nil {
				return // the next walk reads them again
			}
			n.judge(a, a.Linked(recs, n.Now()), nil)
		}
	}
	if keys := a.Again(n.Now()); len(keys) > 0 {
		recs, err := n.Store.Load(ctx, keys)
		if err != nil {
			return
		}
		ins, found := a.Loaded(recs, n.Now(), calm())
		n.judge(a, ins, found)
	}
	a.Ended(n.Now())
}

// judge lets the loop look at accounts, and tells of what was found.
func (n *Instance) judge(a *Auditor, ins []*Inbound, found []Finding) {
	type left struct {
		in  int
		out Outcome
	}
	done, outcomes := make(chan left, len(ins)), make([]Outcome, len(ins))
	for i, in := range ins {
		in.Reply = func(_ *Inbound, o Outcome) { done <- left{i, o} }
	}
	n.Submit(ins...)
	for range ins {
		select {
		case l := <-done:
			outcomes[l.in] = l.out
		case <-n.stop: // nobody may be there to answer
			return
		}
	}
	for _, f := range append(found, a.Judged(ins, outcomes)...) {
		if f.Faults == charging.FaultTimer {
			n.Log.Error("an account's timer was lost, and is set again", "account", Veil(f.Account.Name))
			continue
		}
		n.Log.Error("an account's record does not hold: nothing is repaired, please report it",
			"account", Veil(f.Account.Name), "invariant", f.Faults.String(), "whole", "rtm cdr list --type audited")
	}
}

// numberShape is what may be an IMSI or an MSISDN: accounts are called by them, and some
// gateways put them into Session-Ids.
var numberShape = regexp.MustCompile(`[0-9]{8,}([0-9]{4})`)

// Veil is a name as the log may show it: of long numbers the last four digits.
func Veil(name string) string { return numberShape.ReplaceAllString(name, "…$1") }

// Refresh has the catalogue read soon.
func (n *Instance) Refresh() {
	select {
	case n.refresh <- struct{}{}:
	default:
	}
}

// follow keeps the catalogue fresh, and sends those on that waited for it.
func (n *Instance) follow() {
	defer n.done.Done()
	t := time.NewTicker(catalogueEvery)
	defer t.Stop()
	for {
		select {
		case <-n.stop:
			n.giveUp()
			return
		case <-t.C:
			n.reload()
		case <-n.refresh:
			n.reload()
			select { // those who wait for a plan that does not come must not keep the store busy
			case <-n.stop:
			case <-time.After(refreshPause):
			}
		}
	}
}

func (n *Instance) reload() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	n.reading.Lock()
	was := n.catalogue.Load()
	cat, err := tenant.Load(ctx, n.Store, was)
	if err == nil && cat != was {
		n.catalogue.Store(cat)
		select {
		case n.news <- struct{}{}:
		default:
		}
	}
	if err := n.readLevel(ctx); errors.Is(err, ErrLevel) {
		n.outgrown(err)
	}
	n.reading.Unlock()
	for _, in := range n.takeUnplanned() {
		if n.Now().Before(in.Deadline) {
			n.submit(in)
			continue
		}
		n.answer(in, in.turnedAway())
	}
}

func (n *Instance) takeUnplanned() []*Inbound {
	n.plan.Lock()
	defer n.plan.Unlock()
	waiting := n.unplanned
	n.unplanned = nil
	return waiting
}

// giveUp turns away those who wait for a plan.
func (n *Instance) giveUp() {
	for _, in := range n.takeUnplanned() {
		n.answer(in, in.turnedAway())
	}
}

// Stop ends the instance: what is being worked on is finished first, within
// ten seconds. No request may be submitted after it.
func (n *Instance) Stop() {
	n.stopOnce.Do(func() { close(n.stop) })
	done := make(chan struct{})
	go func() { n.done.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(drainMax):
	}
	n.retire()
}

// Leaving tells the others that this instance is going.
func (n *Instance) Leaving() { n.leaving.Store(true) }
