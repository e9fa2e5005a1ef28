package rtmtest

import (
	"fmt"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// A World names a simulated world: a seed, and what is left out of it.
type World struct {
	Seed     uint64
	Bug      string            // one of Bugs that is planted
	Without  []string          // faults that do not happen, by their names
	Sessions int               // at most as many are opened; zero: all
	Gateways int               // likewise
	Trace    func(line string) // told what happens; nil: nobody
	Until    time.Duration     // traffic ends by then; zero: when it ends by itself
}

// A simTenant has plans, and accounts.
type simTenant struct {
	name  string
	plans []*simPlan
}

// A simPlan is all versions of a plan that were published.
type simPlan struct {
	name     string
	place    int // among all plans
	versions []*rating.Plan
	from     []time.Time
}

// A simAccount is an account and whose it is.
type simAccount struct {
	tenant     *simTenant
	name       string
	key        store.Key
	identities []string // to begin with
}

// allowance is what every plan gives to begin with.
const allowance = 7

// found draws who and what there is.
func (m *Sim) found() {
	m.net.m = m
	kind := [...]mode{embedded, embedded, single, safe, safe, safe}[m.rng.IntN(6)]
	if kind == safe && m.strikes(hazardShards) {
		kind = sharded
		m.restless = m.oneIn(2)
	}
	m.check, m.mode = m.checkCommit, kind
	m.build()
	for i := range 1 + m.rng.IntN(4) {
		m.tenants = append(m.tenants, &simTenant{name: fmt.Sprintf("t%d", i)})
	}
	m.validity, m.grace = m.between(6*time.Second, 20*time.Second).Truncate(time.Second), m.between(3*time.Second, 6*time.Second).Truncate(time.Second)
	if m.oneIn(5) { // notices are given up before a session is
		m.validity += 30 * time.Second
	}
	places := 0
	for _, t := range m.tenants {
		for _, name := range [...]string{"basic", "other"} {
			p := &simPlan{name: name, place: places}
			places++
			t.plans = append(t.plans, p)
			p.publish(m, epoch.Add(-time.Minute)) // by any node's clock
		}
	}
	accounts := 1 + m.rng.IntN(4)
	if m.restless {
		accounts = max(accounts, 2)
	}
	for i := range accounts {
		t := m.tenants[m.rng.IntN(len(m.tenants))]
		a := &simAccount{tenant: t, name: fmt.Sprintf("a%d", i)}
		a.key = tenant.AccountKey(t.name, a.name)
		for j := range 1 + m.rng.IntN(2) {
			who := &simIdentity{name: fmt.Sprintf("imsi:00101%05d%05d", i, j), owners: []*simAccount{a}}
			a.identities, m.identities = append(a.identities, who.name), append(m.identities, who)
		}
		m.accounts = append(m.accounts, a)
	}
	if kind == sharded {
		m.dealOut()
	}
	m.records, m.audited = m.oneIn(2), m.oneIn(4)
	instances := 1
	if kind != embedded {
		instances += m.rng.IntN(instancesMax)
	}
	for i := range instances {
		m.instances = append(m.instances, newInstance(m, i))
	}
	gateways := 1 + m.rng.IntN(4)
	if m.Gateways > 0 {
		gateways = min(gateways, m.Gateways)
	}
	for i := range gateways {
		m.gateways = append(m.gateways, newGateway(m, i))
	}
}

// creditMax is how long a user may stay where credit can be topped up.
const creditMax = 7 * time.Second

// publish adds a version of the plan with prices of its own. It is in force a
// little later.
func (p *simPlan) publish(m *Sim, from time.Time) {
	n, here := rating.Micros(len(p.versions)+1), rating.Micros(p.place)
	service := func(rule uint32, name string, unit rating.Unit, micro rating.Micros, per, size int64) rating.Service {
		step := int64(1)
		if unit == rating.Octets && p.place%2 == 1 {
			step = 256
		}
		s := rating.Service{
			Price: rating.Price{
				Rule: rule, Name: name, Unit: unit, Step: step, Per: per, Micro: micro, Final: rating.Terminate,
				Quota:      rating.Quota{Size: size, Threshold: size / 5, Validity: m.validity},
				Allowances: []uint32{allowance},
			},
			Groups: []uint32{rule}, Default: rule == 1,
		}
		if q := &s.Quota; p.place%2 == 0 && unit == rating.Octets { // grants follow the speed of use
			q.Most, q.Least, q.Lasts = 4*size, size/5+1, 10*time.Second
		}
		if rule == 2 && p.place%4 == 1 {
			s.Final, s.Redirect, s.Address, s.Wait = rating.Redirect, "http://top.up", rating.URLAddress, creditMax
		}
		return s
	}
	sessions := 64 // an account, at most
	if p.place%3 == 2 {
		sessions = 3
	}
	p.versions = append(p.versions, &rating.Plan{
		Name: p.name, Version: uint32(n), Currency: 978, Sessions: sessions, Groups: 16, Grace: m.grace, Vanished: p.place%4 == 2,
		Replaces: p.place%5 == 3,
		Services: []rating.Service{
			service(1, "one", rating.Octets, 333+17*n+7*here, 1000, 100_000),
			service(2, "two", rating.Octets, 1000-100*min(n, 9)+3*here, 1000, 50_000),
			service(3, "three", rating.Events, 20_000+n+100*here, 1, 5),
			service(4, "four", rating.Octets, 100, 1000, 30_000),
		},
		Allowances: []rating.Allowance{{ID: allowance, Name: "start", Unit: rating.Octets, Amount: 250_000, Priority: -1}},
	})
	p.versions[n-1].Services[3].NoMoney = true
	if p.place%4 == 2 { // others are asked to report when there is little left
		p.versions[n-1].Tells = rating.Tells{Low: true, Below: 150_000}
	}
	if p.place == 4 { // sessions of debtors are aborted
		p.versions[n-1].DebtMax = 40_000
	}
	p.from = append(p.from, from)
}

// Current implements charging.Plans. It panics now and then.
func (k *knownPlan) Current(at time.Time) *rating.Plan {
	if k.panics() {
		panic("a decision panics")
	}
	for i := k.versions - 1; i >= 0; i-- {
		if !at.Before(k.plan.from[i]) {
			return k.plan.versions[i]
		}
	}
	return nil
}

// Next implements charging.Plans.
func (k *knownPlan) Next(at time.Time) (next time.Time) {
	for _, from := range k.plan.from[:k.versions] {
		if at.Before(from) && (next.IsZero() || from.Before(next)) {
			next = from
		}
	}
	return next
}

// Version implements charging.Plans. It panics now and then.
func (k *knownPlan) Version(n uint32) *rating.Plan {
	if k.panics() {
		panic("a decision panics")
	}
	if n == 0 || int(n) > k.versions {
		return nil
	}
	if k.n.m.Bug == "price-of-today" {
		n = uint32(k.versions)
	}
	return k.plan.versions[n-1]
}

// settle writes what the world begins with: accounts and the directory.
func (m *Sim) settle() {
	m.sober = true
	defer func() { m.sober = false }()
	for i, a := range m.accounts {
		profile := charging.Profile{Plan: "basic", Identities: a.identities, Money: rating.Micros(m.rng.Int64N(600_000))}
		if m.oneIn(2) {
			profile.Buckets = []charging.Bucket{
				{Unit: rating.Octets, Allowance: allowance, Credited: m.rng.Int64N(200_000), Until: epoch.Add(m.between(20*time.Second, 2*time.Minute)), Priority: 1},
				{Unit: rating.Octets, Credited: m.rng.Int64N(100_000), Priority: int32(i)},
				{Unit: rating.Money, Credited: m.rng.Int64N(200_000), Until: epoch.Add(m.between(10*time.Second, time.Minute))},
			}
		}
		if i == 0 && m.oneIn(10) { // it has nearly as many as it may; the oldest will be forgotten
			for len(profile.Buckets) < charging.BucketsMax-2 {
				profile.Buckets = append(profile.Buckets, charging.Bucket{
					Unit: rating.Octets, Credited: 1 + m.rng.Int64N(1000), Until: epoch.Add(m.between(10*time.Second, 20*time.Second)),
				})
			}
		}
		d := m.clusterOf(a.key.Partition).nodes[0]
		now := epoch.Add(d.time())
		sh := m.shard("setup")
		sh.Plans = (&instance{m: m, plans: make([]int, 2*len(m.tenants))}).all
		sh.Begin([]*rtm.Inbound{{
			Request: charging.Request{Kind: charging.Provision, Profile: &profile}, Account: a.key, Arrived: now, Deadline: now.Add(time.Hour),
		}}, now)
		for _, c := range sh.Loaded(d.load([]store.Key{a.key}), now) {
			own := copied(&c)
			d.commit(&own)
		}
		for _, id := range a.identities {
			key := tenant.IdentityKey(id)
			m.clusterOf(key.Partition).nodes[0].commit(&store.Commit{Writes: []store.Write{{
				Op: store.Put, Key: key, New: m.version(), Bytes: tenant.EncodeOwner(nil, a.tenant.name, a.name),
			}}})
		}
	}
}

// all is a catalogue that knows everything.
func (n *instance) all(name string, plan []byte) charging.Plans {
	n.read()
	return n.catalogue(name, plan)
}
