package rtm_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/redis"
	"rtm/store/storetest"
	"rtm/tenant"
)

const shop = `kind: Tenant
name: shop
currency: EUR
---
kind: Plan
tenant: shop
name: gold
services:
  - {name: data, unit: octets, price: "1.00", per: 1 MiB, quota: {size: 2 MiB, validity: 10 min}}
`

// open fills an empty store with a tenant and its plan.
func open(t *testing.T, s store.Store) {
	t.Helper()
	docs, err := tenant.Parse("shop.yaml", []byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(t.Context(), s, docs, false); err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, s store.Store, name string) *rtm.Instance {
	t.Helper()
	n, err := rtm.Start(t.Context(), rtm.Config{Name: name, Store: s, Presence: rtm.Presence{PeerHost: name, Diameter: []string{name}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	return n
}

var alice = tenant.AccountKey("shop", "alice")

func initial(session string) charging.Request {
	return charging.Request{
		Kind: charging.Initial, Realm: []byte("far"), Host: []byte("gw.far"), Session: []byte(session), Context: 32251, Content: 1,
		Asks: []charging.Ask{{Group: 1, Has: charging.HasGroup, Wants: true}},
	}
}

// subscribe makes alice an account with a session.
func subscribe(t *testing.T, n *rtm.Instance) {
	t.Helper()
	if _, err := n.Provision(t.Context(), rtm.Subscription{
		Tenant: "shop", Account: "alice", Profile: charging.Profile{Plan: "gold", Identities: []string{"imsi:7"}, Money: 10_000_000},
	}); err != nil {
		t.Fatal(err)
	}
	if a, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: initial("s")}); err != nil || a.Result != charging.Success {
		t.Fatalf("%+v, %v", a, err)
	}
}

// behind is a store whose clock is behind this machine's, or ahead of it.
type behind struct {
	store.Store
	by time.Duration
}

func (b behind) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	cs = slices.Clone(cs)
	for i := range cs {
		if !cs[i].Wake.IsZero() {
			cs[i].Wake = cs[i].Wake.Add(b.by)
		}
	}
	rs, now := b.Store.Commit(ctx, cs)
	return rs, now.Add(-b.by)
}

func (b behind) Due(ctx context.Context, ps []store.Partition, n int, lease time.Duration) ([]store.Due, time.Time, time.Time, error) {
	due, next, now, err := b.Store.Due(ctx, ps, n, lease)
	for i := range due {
		due[i].Wake = due[i].Wake.Add(-b.by)
	}
	if !next.IsZero() {
		next = next.Add(-b.by)
	}
	return due, next, now.Add(-b.by), err
}

func (b behind) Facts(ctx context.Context) (store.Facts, error) {
	f, err := b.Store.Facts(ctx)
	f.Clock = f.Clock.Add(-b.by)
	return f, err
}

// An instance on a machine whose date is wrong decides by the store's time from
// its first decision on.
func TestTheFirstDecisionIsByTheStoresTime(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		s := behind{storetest.NewMemory(), by}
		open(t, s)
		subscribe(t, start(t, s, "A"))
		n := start(t, s, "B")
		if off := n.Offset() + by; off.Abs() > time.Second {
			t.Errorf("the offset to a store that is %s behind is %s", by, n.Offset())
		}
		if _, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: charging.Request{Kind: charging.Tick}}); err != nil {
			t.Fatal(err)
		}
		a, err := n.Account(t.Context(), alice)
		if err != nil || len(a.Sessions) != 1 || a.Buckets[0].Reserved != 2_000_000 {
			t.Errorf("%s: after a tick: %+v, %v", by, a, err)
		}
	}
}

// held is a store that holds whoever looks alice up.
type held struct {
	store.Store
	asked chan struct{}
	gate  chan struct{}
	once  sync.Once
}

func (h *held) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	if slices.Contains(keys, tenant.IdentityKey("imsi:7")) {
		h.once.Do(func() { close(h.asked) })
		<-h.gate
	}
	return h.Store.Load(ctx, keys)
}

// A request that one lane is still looking up when the instance stops is
// answered by the lane that it belongs to.
func TestStopAnswersWhatIsInHand(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	subscribe(t, start(t, m, "A"))
	s := &held{Store: m, asked: make(chan struct{}), gate: make(chan struct{})}
	n := start(t, s, "B")
	if tenant.Partition("imsi:7")%rtm.Shards == alice.Partition%rtm.Shards {
		t.Fatal("both lookups are in one lane: choose another name")
	}
	replied := make(chan rtm.Outcome, 1)
	n.Submit(&rtm.Inbound{
		Request: initial("other"), Identities: []string{"imsi:7"}, Arrived: n.Now(), Deadline: n.Now().Add(5 * time.Second),
		Reply: func(_ *rtm.Inbound, o rtm.Outcome) { replied <- o },
	})
	<-s.asked
	stopped := make(chan struct{})
	go func() { n.Stop(); close(stopped) }()
	<-time.After(50 * time.Millisecond) // the other lanes would end now
	close(s.gate)
	select {
	case o := <-replied:
		if o != rtm.Answered {
			t.Errorf("outcome %d", o)
		}
	case <-time.After(8 * time.Second):
		t.Error("no reply")
	}
	<-stopped
}

// While a lane is held up, only so many requests wait in front of it: the others are
// told at once, and those that waited are worked on after it.
func TestALaneHasABound(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	subscribe(t, start(t, m, "A"))
	s := &held{Store: m, asked: make(chan struct{}), gate: make(chan struct{})}
	n := start(t, s, "B")
	replies := make(chan rtm.Outcome, rtm.InboxMax+20)
	ask := func(in *rtm.Inbound) {
		in.Arrived, in.Deadline, in.Reply = n.Now(), n.Now().Add(time.Minute), func(_ *rtm.Inbound, o rtm.Outcome) { replies <- o }
		n.Submit(in)
	}
	ask(&rtm.Inbound{Request: initial("first"), Identities: []string{"imsi:7"}})
	<-s.asked
	there := store.Key{Partition: tenant.Partition("imsi:7"), Kind: tenant.KindAccount, Name: "lab/nobody"}
	for range rtm.InboxMax + 10 {
		ask(&rtm.Inbound{Request: charging.Request{Kind: charging.Tick}, Account: there})
	}
	for range 10 {
		if o := <-replies; o != rtm.Busy {
			t.Fatalf("one that found no room: %d", o)
		}
	}
	shed := int64(0)
	n.Admission(func(a *rtm.Admission) { shed = a.Shed[rtm.ShedInbox] })
	if len(replies) != 0 || shed != 10 {
		t.Errorf("%d more were answered; %d are counted", len(replies), shed)
	}
	close(s.gate)
	for range rtm.InboxMax + 1 {
		if o := <-replies; o != rtm.Answered {
			t.Fatalf("one that waited: %d", o)
		}
	}
}

// A tick that ends many sessions and many other requests do not fit into one
// commit together; all of them are carried out all the same, one after another.
func TestABatchFitsIntoACommit(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	cat, err := tenant.Load(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	sh := rtm.NewShard()
	sh.Version, sh.Jitter = storetest.NewVersion, func(int64) int64 { return 0 }
	sh.Plans = func(name string, plan []byte) charging.Plans { return cat.Plans(name, plan) }
	now := time.Now()
	cycle := func(ins ...*rtm.Inbound) (answered int) {
		keys := slices.Clone(sh.Begin(ins, now))
		recs, err := s.Load(t.Context(), keys)
		if err != nil {
			t.Fatal(err)
		}
		cs := sh.Loaded(recs, now)
		rs, _ := s.Commit(t.Context(), cs)
		for i := range rs {
			if rs[i].Outcome == store.Refused {
				t.Errorf("a commit of %d records is refused: %v", len(cs[i].Writes), rs[i].Err)
			}
		}
		for _, r := range sh.Committed(rs, now) {
			if r.Outcome == rtm.Answered && r.In.Answer.Result == charging.Success {
				answered++
			}
		}
		now = now.Add(20 * time.Millisecond)
		return answered
	}
	request := func(r charging.Request) *rtm.Inbound {
		return &rtm.Inbound{Account: alice, Request: r, Arrived: now, Deadline: now.Add(10 * time.Second)}
	}
	cycle(request(charging.Request{Kind: charging.Provision, Profile: &charging.Profile{Plan: "gold", Identities: []string{"imsi:7"}, Money: 1e9}}))
	for i := range 50 {
		cycle(request(initial(fmt.Sprint("s", i))))
	}
	now = now.Add(2 * time.Hour) // all of them are to be ended
	var ins []*rtm.Inbound
	for i := range 150 {
		in := request(charging.Request{Kind: charging.TopUp, Amount: 1, Content: uint64(i + 1)})
		in.OnceDoor, in.OnceName = "api", fmt.Sprint(i)
		ins = append(ins, in)
	}
	ins = slices.Insert(ins, 75, request(charging.Request{Kind: charging.Tick}))
	ins = append(ins, request(charging.Request{Kind: charging.Tick}))
	want, answered := len(ins), cycle(ins...)
	for range 20 {
		answered += cycle()
	}
	if answered != want || sh.Waiting() != 0 {
		t.Errorf("%d of %d are answered, %d wait", answered, want, sh.Waiting())
	}
}

// Thousands of gateways at each instance, and a namesake that is alive.
func TestPresence(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	var got []charging.Due
	var mu sync.Mutex
	instance := func(name, machine string, first int) (*rtm.Instance, error) {
		return rtm.Start(t.Context(), rtm.Config{
			Name: name, Store: s,
			Presence: rtm.Presence{PeerHost: name, Machine: machine, Diameter: []string{"[::]:3868"}},
			Connected: func() (all []rtm.Neighbour) {
				for i := range 5000 {
					all = append(all, rtm.Neighbour{Host: fmt.Sprintf("pgw-%05d.epc.mnc001.mcc001.3gppnetwork.org", first+i), Realm: "far"})
				}
				return all
			},
			Figures: func() rtm.Figures { return rtm.Figures{Answered: [4]int64{1, 2, 3, 4}, Connections: 5000} },
			Notify: func(p rtm.Parcel, way rtm.Toward) bool {
				if name != "B" || way != rtm.Direct {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				got = append(got, p.Due)
				return true
			},
		})
	}
	a, err := instance("A", "one", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stop()
	b, err := instance("B", "two", 5000)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	if _, err := instance("A", "three", 0); err == nil {
		t.Error("two instances on two machines are called A")
	}
	rtmtest.Until(t, "A knows B", func() bool { return len(a.Instances()) == 2 })
	if all, err := rtm.Live(t.Context(), s); err != nil || len(all) != 2 || all[1].Name != "B" || all[1].Answered[3] != 4 || all[1].Connections != 5000 {
		t.Errorf("who is none of them reads %+v, %v", all, err)
	}
	subscribe(t, a)
	r := initial("far away")
	r.Host = []byte("PGW-09999.epc.mnc001.mcc001.3gppnetwork.org")
	if _, err := a.Do(t.Context(), &rtm.Inbound{Account: alice, Request: r}); err != nil {
		t.Fatal(err)
	}
	prompt := charging.Request{Kind: charging.Reauthorise, Realm: r.Realm, Session: r.Session}
	if _, err := a.Do(t.Context(), &rtm.Inbound{Account: alice, Request: prompt}); err != nil {
		t.Fatal(err)
	}
	rtmtest.Until(t, "the notice is at B, whose last gateway it is for", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) > 0 && string(got[0].Session) == "far away"
	})
}

// A thousand accounts are due at once, in as many partitions, and Redis is some
// milliseconds away.
func TestManyAreDueFarAway(t *testing.T) {
	server := rtmtest.StartRedis(t)
	near, err := redis.Open(t.Context(), redis.Config{URL: "redis://" + server.Addr})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	const accounts = 1000
	var cs []store.Commit
	for i := range accounts {
		key := tenant.AccountKey("shop", fmt.Sprint(i))
		cs = append(cs, store.Commit{
			Writes: []store.Write{{Op: store.Put, Key: key, New: storetest.NewVersion(), Bytes: []byte{}}}, Index: store.Exact, Wake: time.Now(),
		})
	}
	for _, r := range first(near.Commit(t.Context(), cs)) {
		if r.Outcome != store.Done {
			t.Fatal(r.Err)
		}
	}
	relay := rtmtest.StartRelay(t, server.Addr, 5*time.Millisecond)
	far, err := redis.Open(t.Context(), redis.Config{URL: "redis://" + relay.Addr})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	n := start(t, far, "A")
	rtmtest.Until(t, "all ticks were fired", func() bool { return n.Load.Ticks() >= accounts })
	n.Stop()
}

func first[A, B any](a A, _ B) A { return a }

// A store that is nearly full takes no new sessions, and goes on with those it has.
func TestANearlyFullStoreTakesNoNewSessions(t *testing.T) {
	server := rtmtest.StartRedis(t, "--maxmemory-policy", "noeviction")
	s, err := redis.Open(t.Context(), redis.Config{URL: "redis://" + server.Addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	open(t, s)
	n := start(t, s, "A")
	subscribe(t, n)
	bound := func(percent int64) {
		server.Must("CONFIG", "SET", "maxmemory", fmt.Sprint(server.UsedMemory()*100/percent))
	}
	bound(90)
	rtmtest.Until(t, "the store is nearly full", func() bool { return s.Full() >= rtm.FullMax })
	if _, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: initial("another")}); !errors.Is(err, rtm.ErrBusy) {
		t.Errorf("a new session: %v", err)
	}
	end := initial("s")
	end.Kind, end.Number, end.Content, end.Asks = charging.Termination, 1, 2, nil
	if a, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: end}); err != nil || a.Result != charging.Success {
		t.Errorf("a termination: %+v, %v", a, err)
	}
	n.Admission(func(a *rtm.Admission) {
		if a.Shed[rtm.ShedMemory] != 1 {
			t.Errorf("%d requests were turned away for it", a.Shed[rtm.ShedMemory])
		}
	})
	bound(10)
	rtmtest.Until(t, "there is room again", func() bool { return s.Full() < rtm.FullMax })
	if a, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: initial("another")}); err != nil || a.Result != charging.Success {
		t.Errorf("a new session when there is room: %+v, %v", a, err)
	}
}
