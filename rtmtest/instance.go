package rtmtest

import (
	"bytes"
	"slices"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Times and bounds of an instance, as production has them.
const (
	simShards   = 2                            // or one for each cluster, if there are more
	patience    = 2500 * time.Millisecond      // an instance's deadline for a request (a peer's dialect)
	overtime    = 4*operationMax + time.Second // a request is told so after its deadline, at the latest: the cycle of a lane that it is sent to then, one there, and a rest
	refreshEach = time.Second                  // the catalogue is read that often
)

// An instance runs shards, timers, notices and a follower on the simulated
// clock. What it knows goes with a crash.
type instance struct {
	m        *Sim
	name     string
	place    place
	life     int           // rises with each crash; what was begun in an earlier one is dead
	skew     time.Duration // of its date
	far      time.Duration // to the store, at most
	clock    store.Clock
	ready    bool // it knows the store's time
	frozen   bool
	pile     []pending
	store    *router
	shards   []*lane
	timers   *rtm.Timers
	hints    map[string]store.Key
	plans    []int // versions of each tenant's plans that are known here, by plan
	needy    []*rtm.Inbound
	disk     *disk
	routines []*routine
	notices  *rtm.Notices
	others   []rtm.Presence // as last heard
	freezes  int            // so far
	inside   map[*rtm.Inbound]stay
}

type pending struct {
	life int
	run  func()
}

// A lane is a shard and the requests that wait for its next cycle.
type lane struct {
	shard *rtm.Shard
	inbox []*rtm.Inbound
	busy  bool
	moved bool // some of the inbox come from another lane
	alarm time.Time
	upset map[store.Key]bool // accounts of which a decision may have panicked on the record that is in hand
}

func newInstance(m *Sim, i int) *instance {
	n := &instance{m: m, name: string(rune('A' + i)), place: firstInstance + place(i), far: m.between(200*time.Microsecond, 3*time.Millisecond)}
	if m.mode == embedded {
		n.place = m.clusters[0].nodes[0].place
		n.far = 20 * time.Microsecond
	}
	if m.strikes(hazardSkew) {
		n.skew = m.between(-time.Hour, time.Hour)
	}
	if m.strikes(hazardDistance) {
		n.far *= time.Duration(1 + m.rng.IntN(60/len(m.clusters))) // a request may need a trip to each, one after the other
	}
	n.disk = newDisk(n)
	n.boot()
	return n
}

func (n *instance) distance() time.Duration { return n.far/2 + n.m.upTo(n.far/2) }

func (n *instance) boot() {
	n.timers, n.hints, n.ready, n.clock = &rtm.Timers{}, make(map[string]store.Key), false, store.Clock{}
	n.store, n.needy, n.inside = newRouter(n), nil, make(map[*rtm.Inbound]stay)
	n.shards = make([]*lane, max(simShards, len(n.m.clusters)))
	for i := range n.shards {
		sh := n.shard(i)
		if n.m.Bug == "step-owns-after-panic" {
			sh.Planted = n.m.Bug
		}
		n.shards[i] = &lane{shard: sh, upset: make(map[store.Key]bool)}
	}
	n.read()
}

// now is the store's time, as far as it is known here.
func (n *instance) now() time.Time {
	if n.m.Bug == "instance-clock" {
		return epoch.Add(n.m.now + n.skew)
	}
	return epoch.Add(n.clock.Now(n.elapsed()))
}

// elapsed is what the instance's own clock shows: any time.
func (n *instance) elapsed() time.Duration { return n.m.now + n.skew }

// learn takes the store's time from an operation that was begun before.
func (n *instance) learn(before, store time.Duration) {
	n.clock.Learn(before+n.skew, n.elapsed(), store)
}

// do runs what was begun in that life: now, or when the instance goes on.
func (n *instance) do(life int, run func()) {
	switch {
	case life != n.life:
	case n.frozen:
		n.pile = append(n.pile, pending{life, run})
	default:
		run()
	}
}

// later runs f after d, if the instance still lives.
func (n *instance) later(d time.Duration, f func()) {
	life := n.life
	n.m.after(d, func() { n.do(life, f) })
}

func (n *instance) start() {
	n.begin()
	n.mortal()
}

// begin asks for the store's time, and works from then on.
func (n *instance) begin() {
	n.store.askTime(func(ok bool) {
		if !ok {
			n.later(100*time.Millisecond, n.begin)
			return
		}
		n.ready = true
		n.poll()
		n.store.keepLooking()
		n.refresh()
		n.attend()
		n.follow()
		n.audit()
	})
}

// mortal lets the instance crash or stand still now and then.
func (n *instance) mortal() {
	if n.m.calm {
		return
	}
	n.m.after(time.Second, func() {
		switch {
		case n.m.strikes(hazardCrash):
			n.crash(false)
		case n.m.mode == embedded && n.m.strikes(hazardPower):
			n.crash(true)
		case n.m.strikes(hazardFreeze):
			n.freeze()
		}
		n.mortal()
	})
}

// crash ends the process, and with power that of its machine. It is back soon.
func (n *instance) crash(power bool) {
	n.life++
	n.m.tracef("%s dies, power: %t", n.name, power)
	n.frozen, n.pile, n.ready = false, nil, false
	if n.m.mode == embedded {
		n.m.clusters[0].nodes[0].die()
	}
	n.end()
	n.disk.crash(power || n.m.oneIn(3))
	n.boot()
	n.later(n.m.upTo(2*time.Second), n.begin)
}

func (n *instance) freeze() {
	if n.frozen {
		return
	}
	n.frozen = true
	n.freezes++
	n.m.tracef("%s stands still", n.name)
	life := n.life
	n.m.after(n.m.between(100*time.Millisecond, 9*time.Second), func() {
		if life == n.life {
			n.thaw()
		}
	})
}

// thaw lets the instance go on: all that has piled up is done at once.
func (n *instance) thaw() {
	if !n.frozen {
		return
	}
	n.frozen = false
	n.m.tracef("%s goes on", n.name)
	pile := n.pile
	n.pile = nil
	for _, p := range pile {
		n.do(p.life, p.run)
	}
}

// poll asks for due wake-ups, for as long as this life lasts.
func (n *instance) poll() {
	n.store.due(rtm.TicksMax, rtm.TickLease, func(due []store.Due, next, now time.Time, ok bool) {
		if !ok {
			n.timers.Failed()
		}
		if !ok && len(due) == 0 {
			n.later(rtm.TickPoll, n.poll)
			return
		}
		elapsed := n.now()
		for _, d := range due {
			n.m.tracef("%s claims %s of %s", n.name, d.Key, d.Wake.Sub(epoch))
			n.m.checkLateness(d, now)
		}
		for _, in := range n.timers.Claimed(due, next, now, elapsed) {
			n.enter(in)
		}
		wait := max(n.timers.Poll().Sub(elapsed), time.Millisecond)
		if n.m.quiet && len(due) == 0 { // nothing happens any more but what is due
			wait = time.Hour
			if !next.IsZero() {
				wait = max(next.Sub(now), wait/3600)
			}
		}
		n.later(wait, n.poll)
	})
}

// arrive takes a request that a gateway or an operator sent.
func (n *instance) arrive(make func() *rtm.Inbound) {
	n.do(n.life, func() {
		if n.ready {
			in := make()
			in.Arrived = n.now()
			in.Deadline = in.Arrived.Add(patience)
			n.enter(in)
		}
	})
}

// A stay is a request's in the loop.
type stay struct {
	until   time.Duration // its deadline, by the world's clock
	freezes int           // of the instance before it
}

// enter sends a new request into the loop.
func (n *instance) enter(in *rtm.Inbound) {
	n.inside[in] = stay{n.m.now + in.Deadline.Sub(in.Arrived), n.freezes}
	if to, ok := in.Token.(*taken); ok {
		to.from, to.in = n.m.versions, n
	}
	n.submit(in)
}

// leave notes that a request has left the loop: once (I6), and no later after its
// deadline than the cycles take that it was in (I12).
func (n *instance) leave(in *rtm.Inbound, o rtm.Outcome) {
	s, ok := n.inside[in]
	delete(n.inside, in)
	switch late := n.m.now - s.until - n.m.jump; {
	case !ok:
		n.m.failf("I6: %s of %s leaves %s twice", in.Request.Kind, in.Request.Session, n.name)
	case s.freezes == n.freezes && late > overtime:
		n.m.failf("I12: %s of %s leaves %s %s after its deadline", in.Request.Kind, in.Request.Session, n.name, late)
	}
	if to, ok := in.Token.(*taken); ok {
		to.to, to.out = n.m.versions, o
	}
}

// submit sends a request to its shard, by hint where its account is not known.
func (n *instance) submit(in *rtm.Inbound) {
	if len(in.Identities) > 0 && in.Account == (store.Key{}) {
		k, ok := n.hints[in.Identities[0]]
		if t, _ := tenant.AccountOf(k); ok && (in.Tenants == nil || slices.Contains(in.Tenants, t)) {
			in.Account, in.Hinted, in.Request.Identity = k, true, []byte(in.Identities[0])
		}
	}
	n.plant(in)
	l := n.lane(in)
	l.inbox = append(l.inbox, in)
	n.run(l)
}

// shard is an empty one for that lane. Like production's it has what lies on one
// cluster.
func (n *instance) shard(lane int) *rtm.Shard {
	sh := n.m.shard(n.name)
	sh.Plans = n.catalogue
	sh.Here = func(p store.Partition) bool { return lane%len(n.m.clusters) == n.m.clusterOf(p).index }
	return sh
}

// lane is where the request goes on.
func (n *instance) lane(in *rtm.Inbound) *lane {
	p := in.Where().Partition
	i, of := n.m.clusterOf(p).index, len(n.m.clusters)
	return n.shards[i+of*(int(p)%(len(n.shards)/of))]
}

// run begins a cycle of the shard, unless one is running.
func (n *instance) run(l *lane) {
	if l.busy {
		return
	}
	now := n.now()
	keys := l.shard.Begin(l.inbox, now)
	fresh, moved := l.inbox, l.moved
	l.inbox, l.moved = l.inbox[:0], false
	if l.shard.Idle() {
		if at, ok := l.shard.Next(); ok && !at.Equal(l.alarm) {
			l.alarm = at
			n.later(max(at.Sub(now), 0), func() { l.alarm = time.Time{}; n.run(l) })
		}
		return
	}
	l.busy = true
	panics := l.shard.Counts.Panics
	if len(keys) == 0 {
		n.commit(l, l.shard.Loaded([]store.Record{}, n.now()), panics)
		return
	}
	var twin *twin
	if !moved { // those who come from another lane may have to rest, as this shard knows
		twin = n.twin(l, fresh, now, keys)
	}
	n.store.load(keys, func(recs []store.Record) {
		versions, now := n.m.versions, n.now()
		cs := l.shard.Loaded(recs, now)
		if twin != nil && recs != nil && l.shard.Counts.Panics == panics {
			twin.compare(recs, now, versions, cs)
		}
		n.commit(l, cs, panics)
	})
}

// commit sends the commits to the store. panics is how many there were before they
// were decided.
func (n *instance) commit(l *lane, cs []store.Commit, panics uint64) {
	for i := range cs {
		if l.shard.Counts.Panics != panics {
			l.upset[cs[i].Writes[0].Key] = true
		}
	}
	keys := make([]store.Key, len(cs))
	for i := range cs {
		keys[i] = cs[i].Writes[0].Key
	}
	done := func(rs []store.Result) {
		for i := range rs {
			if rs[i].Outcome == store.Conflict {
				delete(l.upset, keys[i])
			}
		}
		for _, r := range n.spoil(l.shard.Committed(rs, n.now())) {
			n.checkRefused(l, r)
			n.reply(r)
		}
		for i := range rs {
			if rs[i].Outcome == store.Done {
				delete(l.upset, keys[i])
			}
		}
		l.busy = false
		n.run(l)
	}
	if len(cs) == 0 {
		done(nil)
		return
	}
	n.store.commit(n.planted(cs), done)
}

// checkRefused: a request is refused for a panic only by the record on which it
// panicked (§2).
func (n *instance) checkRefused(l *lane, r rtm.Reply) {
	to, ok := r.In.Token.(*taken)
	if !ok {
		return
	}
	to.upset = to.upset || l.upset[r.In.Account]
	if r.Outcome == rtm.Answered && r.In.Answer.Result == charging.UnableToComply && to.other == nil && !to.s.behind(to.message) && !to.upset && !to.overtaken() {
		n.m.failf("§2: %s %s %d was refused by %s for what it did on an older record", to.s.name, to.kind, to.number, n.name)
	}
}

// pass hands a request to the lane where it goes on.
func (n *instance) pass(in *rtm.Inbound) {
	l := n.lane(in)
	l.inbox, l.moved = append(l.inbox, in), true
	n.later(0, func() { n.run(l) })
}

// A sender is told how its request left the loop.
type sender interface {
	left(n *instance, in *rtm.Inbound, o rtm.Outcome)
}

// reply hands on what leaves a shard.
func (n *instance) reply(r rtm.Reply) {
	in := r.In
	if r.Outcome != rtm.Forward && r.Outcome != rtm.Onward && r.Outcome != rtm.NeedPlan {
		n.leave(in, r.Outcome)
	}
	switch r.Outcome {
	case rtm.Forward:
		if id, account, ok := in.Hint(); ok {
			n.hints[id] = account
		} else {
			delete(n.hints, id)
		}
		n.pass(in)
	case rtm.Onward:
		n.pass(in)
	case rtm.NeedPlan:
		n.needy = append(n.needy, in)
		n.later(50*time.Millisecond, n.reload)
	case rtm.Answered:
		for _, due := range in.Notices {
			n.dispatch(in.Account, due)
		}
		fallthrough
	case rtm.Busy, rtm.Silent, rtm.Above:
		if to, ok := in.Token.(sender); ok {
			to.left(n, in, r.Outcome)
		}
		if in.Reply != nil {
			in.Reply(in, r.Outcome)
		}
	}
}

// catalogue gives the plans that are known here. Now and then it panics, where
// a decision asks for a version.
func (n *instance) catalogue(name string, plan []byte) charging.Plans {
	for _, t := range n.m.tenants {
		if t.name != name {
			continue
		}
		for i := range t.plans {
			if p := t.plans[i]; p.name == string(plan) {
				return &knownPlan{n, p, n.plans[p.place]}
			}
		}
	}
	return nil
}

// read takes all that is published into the catalogue.
func (n *instance) read() {
	n.plans = n.plans[:0]
	for _, t := range n.m.tenants {
		for _, p := range t.plans {
			n.plans = append(n.plans, len(p.versions))
		}
	}
}

func (n *instance) refresh() {
	if n.m.quiet {
		return
	}
	n.later(refreshEach, func() { n.reload(); n.refresh() })
}

// reload reads the catalogue and sends those on that waited for it.
func (n *instance) reload() {
	n.read()
	needy := n.needy
	n.needy = nil
	for _, in := range needy {
		if n.now().Before(in.Deadline) {
			n.submit(in)
			continue
		}
		n.leave(in, rtm.Silent)
		if to, ok := in.Token.(sender); ok {
			to.left(n, in, rtm.Silent)
		}
		if in.Reply != nil {
			in.Reply(in, rtm.Silent)
		}
	}
}

// A knownPlan is a plan as far as an instance knows it.
type knownPlan struct {
	n        *instance
	plan     *simPlan
	versions int
}

// twins may not panic where the first one did not.
func (k *knownPlan) panics() bool {
	return !k.n.m.sober && k.n.m.strikes(hazardPanic)
}

// A twin is another instance that gets the same requests on the same state of
// the store: it decides the same (I10).
type twin struct {
	n     *instance
	shard *rtm.Shard
	keys  []store.Key
}

// twin makes a twin of a cycle now and then.
func (n *instance) twin(l *lane, fresh []*rtm.Inbound, now time.Time, keys []store.Key) *twin {
	if len(fresh) == 0 || l.shard.Waiting() != len(fresh) || !n.m.oneIn(16) {
		return nil
	}
	var copies []*rtm.Inbound
	for _, in := range fresh {
		c := in.Copy()
		c.Answer.Grants, c.Notices, c.Token = nil, nil, nil
		copies = append(copies, c)
	}
	t := &twin{n: n, shard: n.shard(slices.Index(n.shards, l))}
	t.keys = t.shard.Begin(copies, now)
	if !slices.Equal(t.keys, keys) {
		return nil
	}
	return t
}

// compare lets the twin decide, and holds its commits against the first one's.
func (t *twin) compare(recs []store.Record, now time.Time, versions uint64, first []store.Commit) {
	m := t.n.m
	after := m.versions
	m.versions, m.sober = versions, true
	second := t.shard.Loaded(recs, now)
	m.versions, m.sober = after, false
	if len(first) != len(second) {
		m.failf("I10: %s decided %d commits, another instance %d", t.n.name, len(first), len(second))
		return
	}
	for i := range first {
		if !alike(&first[i], &second[i]) {
			m.failf("I10: %s decided otherwise of %s than another instance on the same record", t.n.name, first[i].Writes[0].Key)
		}
	}
}

func alike(a, b *store.Commit) bool {
	same := a.Index == b.Index && a.Wake.Equal(b.Wake) && len(a.Events) == len(b.Events) && len(a.Writes) == len(b.Writes)
	for i := range a.Events {
		same = same && bytes.Equal(a.Events[i], b.Events[i])
	}
	for i := range a.Writes {
		x, y := &a.Writes[i], &b.Writes[i]
		same = same && x.Op == y.Op && x.Key == y.Key && x.Seen == y.Seen && x.New == y.New && bytes.Equal(x.Bytes, y.Bytes) && x.Expire == y.Expire
	}
	return same
}
