// Package rtmtest proves the loop: a simulation of instances, network, store
// and gateways on one thread, with faults drawn from a seed, and a player of
// conversations written as text. It drives the same shards and timers that run
// in production. It does not know sockets or real stores.
package rtmtest

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// Faults are probabilities, and the bounds of delays. Each seed draws its own;
// some are zero.
type Faults struct {
	Drop, Duplicate float64       // of a message on its way, either direction
	Delay           time.Duration // of a message, at most
	Lost, Swallowed float64       // a commit that never arrives; one whose reply is lost
	Zombie          float64       // a commit that arrives after its sender gave it up
	Refused         float64       // a commit the store does not take
	Unread          float64       // a load that fails
	Crash           float64       // of an instance, per second
	Store           time.Duration // of a store operation, at most
}

// Bugs are mistakes that can be planted in a simulation, to see it find them.
var Bugs = []string{"doubt-is-done", "remove-on-claim", "version-unchecked", "closed-dropped"}

// A Sim is one simulated world.
type Sim struct {
	seed      uint64
	rng       *rand.Rand
	now       time.Time
	events    eventHeap
	order     uint64
	store     *Store
	faults    Faults
	calm      bool          // faults have stopped
	slow      time.Duration // between polls, when nothing but long timers is left
	instances []*instance
	gateways  []*gateway
	accounts  []store.Key
	versions  uint64
	bug       string
	calls     []*call
	failures  []string
	Steps     int
}

type event struct {
	at    time.Time
	order uint64
	run   func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].order < h[j].order
	}
	return h[i].at.Before(h[j].at)
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

func (m *Sim) after(d time.Duration, run func()) {
	m.order++
	heap.Push(&m.events, event{at: m.now.Add(d), order: m.order, run: run})
}

// chance is true with that probability, while there are faults.
func (m *Sim) chance(p float64) bool { return m.rng.Float64() < p && !m.calm }

func (m *Sim) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(m.rng.Int64N(int64(d)))
}

func (m *Sim) failf(format string, args ...any) {
	if len(m.failures) < 10 {
		m.failures = append(m.failures, m.now.Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// simTenant is the tenant of all simulated accounts.
const simTenant = "lab"

// Run simulates the world of a seed until it is quiet and returns what was
// wrong, and a hash over everything that was committed.
func Run(seed uint64, bug string) (failures []string, hash uint64) {
	m := newSim(seed, bug)
	m.play()
	m.checkEnd()
	return m.failures, m.store.hash
}

func newSim(seed uint64, bug string) *Sim {
	m := &Sim{
		seed: seed, bug: bug, rng: rand.New(rand.NewPCG(seed, 0x52544d)),
		now: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC),
	}
	m.store = NewStore(func() time.Time { return m.now })
	m.store.bug = bug
	m.store.Written = m.checkWrite
	m.faults = m.drawFaults()
	for i := range 1 + m.rng.IntN(4) {
		m.instances = append(m.instances, newInstance(m, i))
	}
	for i := range 1 + m.rng.IntN(4) {
		m.provision(i)
	}
	for i := range 2 + m.rng.IntN(11) {
		m.gateways = append(m.gateways, newGateway(m, i))
	}
	return m
}

// drawFaults draws which faults this world has, and how often.
func (m *Sim) drawFaults() Faults {
	rate := func(most float64) float64 {
		if m.rng.IntN(3) == 0 {
			return 0
		}
		return m.rng.Float64() * most
	}
	return Faults{
		Drop: rate(0.2), Duplicate: rate(0.3), Delay: m.upTo(4 * time.Second),
		Lost: rate(0.1), Swallowed: rate(0.1), Zombie: rate(0.1), Refused: rate(0.1), Unread: rate(0.1),
		Crash: rate(0.05), Store: time.Millisecond + m.upTo(200*time.Millisecond),
	}
}

// provision writes an account and its directory records as the API does.
func (m *Sim) provision(i int) {
	name := fmt.Sprintf("acc-%d", i)
	key := tenant.AccountKey(simTenant, name)
	profile := charging.Profile{Plan: "sim", Money: rating.Micros(m.rng.Int64N(3_000_000))}
	for j := range 1 + m.rng.IntN(3) {
		profile.Identities = append(profile.Identities, fmt.Sprintf("imsi:00101%05d%05d", i, j))
	}
	in := &rtm.Inbound{
		Request: charging.Request{Kind: charging.Provision, Profile: &profile},
		Account: key, Arrived: m.now, Deadline: m.now.Add(time.Hour),
	}
	m.accounts = append(m.accounts, key)
	sh := m.shard("setup")
	keys := sh.Begin([]*rtm.Inbound{in}, m.now)
	var results []store.Result
	for _, c := range sh.Loaded(m.store.Load(keys), m.now) {
		results = append(results, m.store.Commit(c))
	}
	sh.Committed(results, m.now)
	for _, id := range profile.Identities {
		m.store.Commit(store.Commit{Writes: []store.Write{{
			Op: store.Put, Key: tenant.IdentityKey(id), New: m.version(), Bytes: tenant.EncodeOwner(nil, simTenant, name),
		}}})
	}
}

func (m *Sim) version() (v store.Version) {
	m.versions++
	binary.BigEndian.PutUint64(v[:], m.versions)
	return v
}

func (m *Sim) shard(name string) *rtm.Shard {
	sh := rtm.NewShard()
	sh.Version, sh.Instance, sh.Jitter = m.version, []byte(name), m.rng.Int64N
	sh.Plans = func(string, []byte) charging.Plans { return simPlans{} }
	return sh
}

// quiet is when even a session that was granted nothing is closed.
const quiet = 2*time.Hour + 30*time.Minute

// play runs the world: ten minutes of traffic and faults, then calm until
// every session must be gone.
func (m *Sim) play() {
	m.after(10*time.Minute, func() { m.calm = true })
	m.after(9*time.Minute, func() {
		for _, g := range m.gateways {
			g.stopping = true
		}
	})
	for _, in := range m.instances {
		in.start()
	}
	for _, g := range m.gateways {
		g.start()
	}
	end := m.now.Add(quiet)
	m.after(20*time.Minute, func() { m.slow = time.Minute })
	for len(m.events) > 0 && len(m.failures) == 0 {
		e := heap.Pop(&m.events).(event)
		if e.at.After(end) {
			break
		}
		m.now = e.at
		m.Steps++
		e.run()
	}
	m.now = end
}

// simPlans is the one plan of the simulation.
type simPlans struct{}

var simPlan = func() *rating.Plan {
	service := func(rule uint32, name string, group uint32, micro rating.Micros, validity time.Duration) rating.Service {
		return rating.Service{
			Price: rating.Price{
				Rule: rule, Name: name, Unit: rating.Octets, Step: 1, Per: 1000, Micro: micro, Final: rating.Terminate,
				Quota:      rating.Quota{Size: 100_000, Threshold: 20_000, Validity: validity},
				Allowances: []uint32{7},
			},
			Groups: []uint32{group}, Default: group == 1,
		}
	}
	return &rating.Plan{
		Name: "sim", Version: 1, Currency: 978, Sessions: 64, Groups: 16, Grace: 30 * time.Second,
		Services: []rating.Service{
			service(1, "one", 1, 333, time.Minute), service(2, "two", 2, 1000, 2*time.Minute),
		},
		Allowances: []rating.Allowance{{ID: 7, Name: "start", Unit: rating.Octets, Amount: 250_000, Priority: -1}},
	}
}()

func (simPlans) Current(time.Time) *rating.Plan { return simPlan }
func (simPlans) Version(uint32) *rating.Plan    { return simPlan }
