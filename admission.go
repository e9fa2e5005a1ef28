package rtm

import (
	"math"
	"slices"
	"time"

	"rtm/charging"
)

// Bounds of what waits in front of the loop.
const (
	LimitMin    = 128    // requests in the loop, of all tenants: so many always
	LimitStorm  = 32     // … of which a tenant that storms beside others has its share
	LimitMax    = 16_384 // … never more
	limitFirst  = 1024
	limitStep   = 32 // more, after a window in which somebody waited and the loop was quick
	limitProbe  = 16 // … while it is measured how long a cycle takes by itself
	limitWindow = 100 * time.Millisecond
	samplesMin  = 20 // requests in a window, or it goes on

	WaitMax   = 4096                   // requests that wait for the loop, of all tenants that are active
	WaitFree  = 2048                   // … of one tenant, however long that takes: a store that is away for a moment turns nobody away
	WaitLong  = 200 * time.Millisecond // beyond these, who would wait longer is turned away at once
	AgeMax    = 2 * time.Second        // who has waited longer is not worked on any more
	CycleAim  = 20 * time.Millisecond  // p99 of a cycle of the loop, when one tenant has it for itself
	CycleFair = 5 * time.Millisecond   // … when several share it: who sends little must not wait for who sends much
	CycleCalm = 2 * time.Millisecond   // … and while one of them storms: it is refused so much that a little more does not count

	classesMax  = 10_000           // tenants that are told apart
	activeFor   = time.Second      // a tenant keeps its share after its last request
	forgetAfter = 10 * time.Second // how fast a tenant's requests left, when it had as many as it may
	probeMax    = 4                // windows, or fewer if it has not grown by half
	floorFor    = 10 * time.Second // how long a cycle takes by itself is measured again after that
)

// A Shed is why a request was turned away.
type Shed uint8

// The reasons.
const (
	ShedNot       Shed = iota
	ShedWait           // it would have waited longer than WaitLong
	ShedFull           // as many wait as may
	ShedDisplaced      // it waited, and one that counts more came
	ShedAge            // it has waited longer than AgeMax
	ShedRate           // the tenant's own limit
	ShedInbox          // InboxMax, of one shard
	ShedDeadline       // its deadline came while it was worked on
	ShedMemory         // it would begin a session in a store that is nearly full
	Sheds
)

var shedNames = [Sheds]string{"", "wait", "full", "displaced", "age", "rate", "inbox", "deadline", "memory"}

// String is the reason's name in metrics.
func (s Shed) String() string { return shedNames[s] }

// classes of requests by what they are worth: a termination frees what is held,
// an update keeps a session, an event stands alone, an initial one can wait. Of each
// kind those of an emergency go first.
const priorities = 8

func priority(in *Inbound) (p int) {
	switch in.Request.Kind {
	case charging.Termination:
	case charging.Update:
		p = 2
	case charging.Event:
		p = 4
	default:
		p = 6
	}
	if in.Emergency {
		return p
	}
	return p + 1
}

// Weight is what a tenant's document says: its part of the loop beside others,
// and how many sessions and events a second may begin here, on average; zero: any
// number.
type Weight struct {
	Share int
	Rate  float64
}

// An Admission decides who comes into the loop. It keeps the requests that are in
// it so few that a cycle takes about CycleAim, or CycleFair when several tenants
// are there, or CycleCalm while one of these storms (additive increase,
// multiplicative decrease); each tenant that is
// active has its share of them, and what is beyond waits, within bounds, for
// requests of the same tenant to leave. So the queue of one does not delay
// another; nor, since a tenant has a share for each node of the store, does what waits
// for a node that is away delay the rest. Like a Shard it has no clock and no lock.
type Admission struct {
	Weights func(tenant string) Weight // asked when a tenant comes, and now and then

	limit   float64
	classes map[string]*Class
	active  []*Class
	total   int // weights of those that are active
	ends    time.Time
	cycles  [64]uint32 // requests of this window by the length of their cycle
	seen    uint32
	tenants int           // that are active
	storm   bool          // some of them storm, and not all
	floor   time.Duration // how long a cycle takes by itself: the least median of late
	learnt  time.Time     // when that was measured
	probing int           // windows that are left of measuring it with few in the loop
	best    time.Duration // … the least median of these
	Shed    [Sheds]int64
}

// A Class is the requests of one tenant. Where that is not known, those of one
// peer are a class. It has a part for each node of the store that they are for, which
// is a class of its own; its rate and what is counted are those of the whole.
type Class struct {
	Tenant   string // empty: a peer's whose subscribers are unknown
	whole    *Class
	parts    []*Class // by node; nil: nothing came for that
	weighed  bool     // in this window
	weight   Weight
	active   bool
	in       int
	waiting  [priorities]queue
	queued   int
	storms   bool      // in the last window more of its requests were refused than came into the loop
	peak     int       // of in, in this window
	full     bool      // … it had as many as it may, and more waited
	left     int       // requests that left in this window
	entered  int       // … that came into the loop
	refused  int       // … that could not even wait for it
	pace     float64   // a second, while it had as many as it may; zero: not known
	paced    time.Time // when that was
	last     time.Time
	tokens   float64
	filled   time.Time
	Asked    int64 // sessions and events that were to begin
	Admitted int64
	Shed     int64
}

// queue is a first-in-first-out list.
type queue struct {
	list []*Inbound
	head int
}

func (q *queue) len() int { return len(q.list) - q.head }

func (q *queue) push(in *Inbound) {
	if q.head > 0 && len(q.list) == cap(q.list) {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	q.list = append(q.list, in)
}

func (q *queue) pop() (in *Inbound) {
	in, q.list[q.head] = q.list[q.head], nil
	if q.head++; q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
	return in
}

func (q *queue) popLast() (in *Inbound) {
	n := len(q.list) - 1
	in, q.list[n] = q.list[n], nil
	if q.list = q.list[:n]; q.head == n {
		q.list, q.head = q.list[:0], 0
	}
	return in
}

// NewAdmission returns one that has seen nobody.
func NewAdmission(weights func(tenant string) Weight) *Admission {
	return &Admission{Weights: weights, limit: limitFirst, classes: make(map[string]*Class)}
}

// Limit is how many requests may be in the loop.
func (a *Admission) Limit() int { return int(a.limit) }

// Classes calls each for all classes that it knows.
func (a *Admission) Classes(each func(c *Class)) {
	for _, c := range a.classes {
		each(c)
	}
}

// Load is how many of the class are in the loop, and how many wait.
func (c *Class) Load() (in, waiting int) {
	for _, p := range c.parts {
		if p != nil {
			in, waiting = in+p.in, waiting+p.queued
		}
	}
	return in, waiting
}

// Offer takes a request of a class, for that node. enter: it goes into the loop now. Else it
// waits, if nothing was turned away; turned is in itself, or one that waited and
// counts less, in whose place in waits now.
func (a *Admission) Offer(in *Inbound, name, tenant string, node int, now time.Time) (enter bool, turned *Inbound) {
	a.adapt(now)
	c := a.part(a.find(name, tenant, now), node, now)
	in.class, in.offered = c, now
	p := priority(in)
	if begins(in) && !c.whole.spend(now) {
		return false, a.shed(in, ShedRate)
	}
	if c.in < a.share(c) && c.queued == 0 {
		a.enter(in)
		return true, nil
	}
	c.full = true
	if ahead := c.ahead(p); c.pace > 0 && ahead >= WaitFree && float64(ahead) > c.pace*WaitLong.Seconds() {
		return false, a.shed(in, ShedWait)
	}
	if c.queued >= max(1, WaitMax*c.weight.Share/a.total) {
		if turned = c.least(p); turned == nil {
			return false, a.shed(in, ShedFull)
		}
		a.shed(turned, ShedDisplaced)
	}
	c.waiting[p].push(in)
	c.queued++
	return false, turned
}

// Known tells the tenant of a request in the loop, which may be among those of its
// peer: its rate counts for it then. False: there is nothing left of that, and the
// request is to be turned away.
func (a *Admission) Known(in *Inbound, tenant string, now time.Time) bool {
	if in.class == nil || in.class.Tenant != "" || in.rated || !begins(in) {
		return true
	}
	in.rated = true
	c := a.find(tenant, tenant, now)
	if !c.active {
		c.weight = a.weigh(c)
	}
	if c.spend(now) {
		return true
	}
	a.Shed[ShedRate]++
	c.Shed++
	return false
}

// begins reports whether a tenant's rate counts for a request: it is a session's
// first, or an event, and of no emergency.
func begins(in *Inbound) bool {
	k := in.Request.Kind
	return (k == charging.Initial || k == charging.Event) && !in.Emergency
}

// Left notes that a request is out of the loop, and moves those that waited for
// it: enter may go in, turned have waited too long.
func (a *Admission) Left(in *Inbound, now time.Time, enter, turned []*Inbound) (_, _ []*Inbound) {
	c := in.class
	in.class = nil
	c.in--
	c.left++
	return a.fill(c, now, enter, turned)
}

// Moved notes that a request in the loop goes on at another node, and moves those that
// waited for it as Left does.
func (a *Admission) Moved(in *Inbound, node int, now time.Time, enter, turned []*Inbound) (_, _ []*Inbound) {
	from := in.class
	to := a.part(from.whole, node, now)
	if to == from {
		return enter, turned
	}
	in.class = to
	from.in--
	to.in++
	return a.fill(from, now, enter, turned)
}

// fill has those come into the loop that wait for one of c to leave it.
func (a *Admission) fill(c *Class, now time.Time, enter, turned []*Inbound) (_, _ []*Inbound) {
	a.adapt(now)
	for c.queued > 0 && c.in < a.share(c) {
		next := c.next()
		if now.Sub(next.offered) > AgeMax {
			turned = append(turned, a.shed(next, ShedAge))
			continue
		}
		a.enter(next)
		enter = append(enter, next)
	}
	return enter, turned
}

// Cycle notes that a cycle of the loop with n requests took that long: what a
// request waits for that comes now.
func (a *Admission) Cycle(took time.Duration, n int, now time.Time) {
	a.cycles[bucketOf(took)] += uint32(n)
	a.seen += uint32(n)
	a.adapt(now)
}

// ShedOf counts a request that was turned away elsewhere.
func (a *Admission) ShedOf(s Shed) { a.Shed[s]++ }

func (a *Admission) enter(in *Inbound) {
	c := in.class
	in.aside = a.storm && c.storms
	c.in++
	c.entered++
	c.whole.Admitted++
	c.peak = max(c.peak, c.in)
}

func (a *Admission) shed(in *Inbound, why Shed) *Inbound {
	a.Shed[why]++
	in.class.whole.Shed++
	if why != ShedRate {
		in.class.refused++
	}
	in.class = nil
	return in
}

// share is how many requests of c may be in the loop. What a storm costs, only those
// who storm pay.
func (a *Admission) share(c *Class) int {
	most := int(a.limit)
	if a.storm && !c.storms {
		most = max(most, LimitMin)
	}
	if a.probing > 0 {
		most = limitProbe
	}
	return max(1, most*c.weight.Share/a.total)
}

// find finds or makes a class.
func (a *Admission) find(name, tenant string, now time.Time) *Class {
	c := a.classes[name]
	if c == nil && len(a.classes) >= classesMax {
		name, tenant = "", ""
		c = a.classes[name]
	}
	if c == nil {
		c = &Class{Tenant: tenant, filled: now}
		c.weight = a.weigh(c)
		c.tokens = max(1, c.weight.Rate)
		a.classes[name] = c
	}
	return c
}

// part finds or makes the part of a class for a node, and has it active.
func (a *Admission) part(whole *Class, node int, now time.Time) *Class {
	for len(whole.parts) <= node {
		whole.parts = append(whole.parts, nil)
	}
	c := whole.parts[node]
	if c == nil {
		c = &Class{Tenant: whole.Tenant, whole: whole}
		whole.parts[node] = c
	}
	if c.last = now; !c.active {
		c.active, whole.active = true, true
		c.weight = a.weigh(c)
		whole.weight = c.weight
		a.active = append(a.active, c)
		a.total += c.weight.Share
	}
	return c
}

func (a *Admission) weigh(c *Class) Weight {
	w := Weight{Share: 1}
	if a.Weights != nil && c.Tenant != "" {
		w = a.Weights(c.Tenant)
	}
	w.Share = max(w.Share, 1)
	return w
}

// spend takes one of the sessions and events that may begin now: what is left of a
// second's may be used later, and one may always be saved for.
func (c *Class) spend(now time.Time) bool {
	c.Asked++
	rate := c.weight.Rate
	if rate == 0 {
		return true
	}
	c.tokens = min(max(1, rate), c.tokens+max(0, now.Sub(c.filled).Seconds())*rate)
	c.filled = now
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	return true
}

// ahead is how many wait that go before a new one of that priority.
func (c *Class) ahead(p int) (n int) {
	for i := 0; i <= p; i++ {
		n += c.waiting[i].len()
	}
	return n
}

// next is the one that waits and counts most.
func (c *Class) next() *Inbound {
	for i := range c.waiting {
		if c.waiting[i].len() > 0 {
			c.queued--
			return c.waiting[i].pop()
		}
	}
	return nil
}

// least is the newest of those that wait and count least, and less than p; nil:
// there is none.
func (c *Class) least(p int) *Inbound {
	for i := priorities - 1; i > p; i-- {
		if c.waiting[i].len() > 0 {
			c.queued--
			return c.waiting[i].popLast()
		}
	}
	return nil
}

// adapt ends a window: the limit follows how long cycles took, and tenants that
// were not there for a while give their share back.
func (a *Admission) adapt(now time.Time) {
	if now.Before(a.ends) && a.ends.Sub(now) <= limitWindow {
		return
	}
	span := limitWindow + now.Sub(a.ends)
	full, reach := false, 0.0
	for _, c := range a.active {
		full = full || c.full
		reach = max(reach, float64(c.peak)*float64(a.total)/float64(c.weight.Share))
	}
	a.storms()
	a.limit = max(a.limit, a.least())
	probed := a.probing > 0
	if a.seen >= samplesMin {
		a.follow(full, reach, now)
	}
	a.ends = now.Add(limitWindow)
	kept := a.active[:0]
	a.total = 0
	for _, c := range a.active {
		c.full = c.full && !probed
		c.measure(span, now)
		if c.in+c.queued == 0 && now.Sub(c.last) > activeFor {
			c.active, c.storms = false, false
			c.whole.active = slices.ContainsFunc(c.whole.parts, func(p *Class) bool { return p != nil && p.active })
			continue
		}
		c.weight = a.weigh(c)
		c.whole.weight = c.weight
		a.total += c.weight.Share
		kept = append(kept, c)
	}
	clear(a.active[len(kept):])
	a.active = kept
}

// storms says who storms: whoever had more refused, at all nodes together, than came into
// the loop.
func (a *Admission) storms() {
	for _, c := range a.active {
		c.whole.entered, c.whole.refused, c.whole.weighed = 0, 0, false
	}
	for _, c := range a.active {
		c.whole.entered, c.whole.refused = c.whole.entered+c.entered, c.whole.refused+c.refused
	}
	storms := 0
	a.tenants = 0
	for _, c := range a.active {
		w := c.whole
		if c.storms = w.refused > max(w.entered, samplesMin); w.weighed {
			continue
		}
		w.weighed = true
		if a.tenants++; c.storms {
			storms++
		}
	}
	a.storm = storms > 0 && storms < a.tenants
}

// measure notes how fast the requests of c left, if the loop and not their number
// decided that.
func (c *Class) measure(span time.Duration, now time.Time) {
	switch pace := float64(c.left) / span.Seconds(); {
	case c.full && span < 2*limitWindow:
		if c.pace > 0 {
			pace = (c.pace + pace) / 2
		}
		c.pace, c.paced = max(pace, 1), now
	case pace > c.pace && c.pace > 0:
		c.pace = pace
	case now.Sub(c.paced) > forgetAfter:
		c.pace = 0
	}
	c.left, c.entered, c.refused, c.peak, c.full = 0, 0, 0, c.in, false
}

// least is how many may be in the loop always.
func (a *Admission) least() float64 {
	if a.storm {
		return LimitStorm
	}
	return LimitMin
}

// follow moves the limit. full: somebody waited for it. reach is the limit at
// which the busiest tenant would have had as many requests as it may.
func (a *Admission) follow(full bool, reach float64, now time.Time) {
	median, slow := a.percentile(0.5), a.percentile(0.99)
	a.cycles, a.seen = [64]uint32{}, 0
	old := now.Sub(a.learnt) > floorFor || now.Before(a.learnt)
	switch {
	case a.probing > probeMax: // what had begun with more in the loop is out
		a.probing--
		return
	case a.probing > 0: // one window alone may be a moment's
		if a.probing--; a.best == 0 || median < a.best {
			a.best = median
		}
		if a.probing == 0 || a.best <= a.floor*3/2 {
			a.floor, a.learnt, a.probing = a.best, now, 0
		}
		return
	case full && old: // a cycle with many in it does not tell
		a.probing, a.best = probeMax+1, 0
		return
	case !full && (old || median <= a.floor):
		a.floor, a.learnt = median, now
	}
	aim := CycleAim
	switch {
	case a.storm:
		aim = CycleCalm
	case a.tenants > 1:
		aim = CycleFair
	}
	switch aim = max(aim, 2*a.floor); { // a store that is far away is slow also for one request
	case slow > aim && median > aim/3 && reach >= a.least(): // a tail alone is the machine's, no queue's
		a.limit = max(a.least(), 0.8*min(a.limit, reach))
	case slow <= aim && full:
		a.limit = min(LimitMax, a.limit+limitStep)
	}
}

// bucketOf orders durations in quarters of a doubling, from 100 µs on.
func bucketOf(d time.Duration) int {
	if d <= 100*time.Microsecond {
		return 0
	}
	return min(63, int(4*math.Log2(float64(d)/1e5))+1)
}

// percentile is the length of cycle that this share of requests was not above.
func (a *Admission) percentile(share float64) time.Duration {
	most, n := uint32(math.Ceil(share*float64(a.seen))), uint32(0)
	for i, k := range a.cycles {
		if n += k; n >= most {
			return time.Duration(1e5 * math.Exp2(float64(i)/4))
		}
	}
	return time.Hour
}
