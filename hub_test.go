package rtm_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

const secondShop = `---
kind: Tenant
name: other
currency: EUR
---
kind: Plan
tenant: other
name: gold
services:
  - {name: data, unit: octets, price: "1.00", per: 1 MiB, quota: {size: 2 MiB, validity: 10 min}}
`

var (
	carol = tenant.AccountKey("shop", "carol")
	zed   = tenant.AccountKey("other", "zed")
)

// hub is an instance whose gateway serves two tenants: alice of the one, imsi:7,
// and zed of the other, imsi:9.
func hub(t *testing.T) *rtm.Instance {
	t.Helper()
	return hubOn(t, storetest.NewMemory())
}

func hubOn(t *testing.T, m store.Store) *rtm.Instance {
	t.Helper()
	docs, err := tenant.Parse("t.yaml", []byte(shop+secondShop))
	if err == nil {
		_, err = tenant.Apply(t.Context(), m, docs, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, m, "a")
	second := subscription("zed", "imsi:9")
	second.Tenant = "other"
	for _, p := range n.ProvisionAll(t.Context(), []rtm.Subscription{subscription("alice", "imsi:7"), second}) {
		if p.Err != nil {
			t.Fatal(p.Err)
		}
	}
	return n
}

// said is a message of a gateway that may leave the subscriber out.
type said struct {
	kind    charging.Kind
	session string
	host    string
	whose   string // empty: it names nobody
	number  uint32
	used    int64 // MiB
	want    charging.Result
	paid    [2]int64 // what alice and zed have paid after it, in units of money
}

func (m said) to(t *testing.T, n *rtm.Instance) {
	t.Helper()
	in := ccr(m.kind, m.session, m.whose, m.number, m.used<<20)
	in.Tenants, in.Request.Indexed, in.Request.Content = []string{"shop", "other"}, true, uint64(m.number)+uint64(len(m.whose))<<32
	if in.Request.Host = []byte(m.host); m.whose == "" {
		in.Identities = nil
	}
	a, err := n.Do(t.Context(), in)
	paid := [2]int64{debited(t, n, alice) / 1_000_000, debited(t, n, zed) / 1_000_000}
	if err != nil || a.Result != m.want || paid != m.paid {
		t.Fatalf("%s %d of %q: %d %v, paid %v; want %d, %v", m.kind, m.number, m.whose, a.Result, err, paid, m.want, m.paid)
	}
}

// lagging is a store whose master was another a moment ago, which still says of one
// record what it said then; that takes no commit any more.
type lagging struct {
	store.Store
	mu     sync.Mutex
	key    store.Key
	said   store.Record
	behind int // so many times it says so
	gone   int // so many commits it does not take
}

func (l *lagging) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	recs, err := l.Store.Load(ctx, keys)
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(keys, l.key); i >= 0 && err == nil && l.behind > 0 {
		l.behind--
		recs[i] = l.said
	}
	return recs, err
}

func (l *lagging) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	l.mu.Lock()
	gone := l.gone > 0
	if gone {
		l.gone--
	}
	l.mu.Unlock()
	if !gone {
		return l.Store.Commit(ctx, cs)
	}
	facts, _ := l.Store.Facts(ctx)
	return slices.Repeat([]store.Result{{Outcome: store.Refused}}, len(cs)), facts.Clock
}

// The session index was read where it was old already, and led a message that names
// nobody to who had a session of that name before. It is not told what became of
// that one, nor is its usage charged there when the store goes on.
func TestAnIndexThatWasOld(t *testing.T) {
	const i, u, e = charging.Initial, charging.Update, charging.Termination
	for name, c := range map[string]struct {
		number uint32
		gone   int
		open   bool
	}{
		"its number had another content there":                  {1, 0, false},
		"it would be late there":                                {7, 0, false},
		"it would be late there, and the store goes on":         {7, 1, false},
		"that session is open":                                  {2, 0, true},
		"that session is open, its number had another content":  {1, 0, true},
		"that session is open, and the store goes on meanwhile": {2, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &lagging{Store: storetest.NewMemory(), key: tenant.SessionKey(string(initial("s").Realm), "s", 0)}
			n := hubOn(t, l)
			said{i, "s", "gw", "imsi:7", 0, 0, 2001, [2]int64{}}.to(t, n)
			said{u, "s", "gw", "imsi:7", 1, 1, 2001, [2]int64{1, 0}}.to(t, n)
			paid := int64(1)
			if !c.open {
				paid++
				said{e, "s", "gw", "imsi:7", 2, 1, 2001, [2]int64{paid, 0}}.to(t, n)
			}
			recs, err := l.Store.Load(t.Context(), []store.Key{l.key})
			if err != nil || recs[0].Version == (store.Version{}) {
				t.Fatalf("no index: %v", err)
			}
			said{i, "s", "gw", "imsi:9", 0, 0, 2001, [2]int64{paid, 0}}.to(t, n)
			l.mu.Lock()
			l.said, l.behind, l.gone = recs[0], 1, c.gone
			l.mu.Unlock()
			said{u, "s", "gw", "", c.number, 1, 2001, [2]int64{paid, 1}}.to(t, n)
			if l.behind+l.gone > 0 {
				t.Error("it was not asked where the index was old")
			}
		})
	}
}

// A gateway that serves two tenants starts again and uses a Session-Id anew, for a
// subscriber of the other tenant: each pays what it used, also for messages that
// name nobody, and for repeats.
func TestASessionIdOfTwoTenants(t *testing.T) {
	const i, u, e = charging.Initial, charging.Update, charging.Termination
	for name, messages := range map[string][]said{
		"the first has ended": {
			{i, "s", "gw", "imsi:7", 0, 0, 2001, [2]int64{}},
			{e, "s", "gw", "imsi:7", 1, 1, 2001, [2]int64{1, 0}},
			{i, "s", "gw", "imsi:9", 0, 0, 2001, [2]int64{1, 0}},
			{u, "s", "gw", "", 1, 1, 2001, [2]int64{1, 1}},
			{u, "s", "gw", "", 2, 1, 2001, [2]int64{1, 2}},
			{e, "s", "gw", "imsi:9", 3, 1, 2001, [2]int64{1, 3}},
			{e, "s", "gw", "imsi:9", 3, 1, 2001, [2]int64{1, 3}},
			{e, "s", "gw", "imsi:7", 1, 1, 2001, [2]int64{1, 3}},
			{u, "s", "gw", "imsi:9", 4, 1, 5002, [2]int64{1, 4}}, // late, and of zed
		},
		"the first is open": {
			{i, "s", "gw", "imsi:7", 0, 0, 2001, [2]int64{}},
			{i, "s", "gw", "imsi:9", 0, 0, 2001, [2]int64{}},
			{u, "s", "gw", "", 1, 1, 2001, [2]int64{0, 1}},
			{e, "s", "gw", "", 2, 1, 2001, [2]int64{0, 2}},
			{u, "s", "gw", "imsi:7", 1, 1, 2001, [2]int64{1, 2}},
			{e, "s", "gw", "imsi:9", 2, 1, 5012, [2]int64{1, 2}}, // number 2 had another content
			{e, "s", "gw", "imsi:7", 2, 1, 2001, [2]int64{2, 2}},
		},
		"another gateway names its session so": {
			{i, "s", "gw", "imsi:7", 0, 0, 2001, [2]int64{}},
			{i, "s", "rogue", "imsi:9", 0, 0, 2001, [2]int64{}},
			{u, "s", "gw", "", 1, 1, 2001, [2]int64{1, 0}},
			{u, "s", "rogue", "", 1, 1, 2001, [2]int64{1, 1}},
			{e, "s", "gw", "", 2, 1, 2001, [2]int64{2, 1}},
		},
		"nobody's usage is nobody's, and stays it": {
			{i, "s", "gw", "imsi:7", 0, 0, 2001, [2]int64{}},
			{u, "s", "gw", "imsi:9", 1, 1, 5002, [2]int64{}},
			{u, "s", "gw", "imsi:9", 1, 1, 5002, [2]int64{}},
			{e, "s", "gw", "imsi:9", 2, 1, 5002, [2]int64{}},
			{i, "s", "gw", "imsi:9", 0, 0, 2001, [2]int64{}},
			{u, "s", "gw", "imsi:9", 1, 1, 2001, [2]int64{0, 1}},
			{e, "s", "gw", "imsi:9", 2, 0, 2001, [2]int64{0, 1}},
			{e, "s", "gw", "imsi:9", 2, 0, 2001, [2]int64{0, 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := hub(t)
			for _, m := range messages {
				m.to(t, n)
			}
		})
	}
}

// What belongs to nobody is on record once, however often it is sent.
func TestUnattributedOnce(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	for range 3 {
		do(t, n, ccr(charging.Update, "nobodys", "imsi:7", 3, 1<<20), charging.UnknownSession)
	}
	do(t, n, ccr(charging.Termination, "nobodys", "imsi:7", 4, 1<<20), charging.UnknownSession)
	events, err := m.Events(t.Context(), alice.Partition, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, ev := range events {
		var e charging.Entry
		if e.Decode(ev.Bytes) == nil && e.Sort == charging.Unattributed {
			count++
		}
	}
	if count != 2 {
		t.Errorf("two messages are on record %d times", count)
	}
}

// An event is repeated by a number that has had two owners since: it is done once.
func TestARepeatAfterTwoMoves(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	if ps := n.ProvisionAll(t.Context(), []rtm.Subscription{subscription("carol", "imsi:10")}); ps[0].Err != nil {
		t.Fatal(ps[0].Err)
	}
	event := func() *rtm.Inbound {
		r := initial("e")
		r.Kind, r.Content, r.Action = charging.Event, 5, charging.DirectDebiting
		r.Asks[0].Want.Octets = 1 << 20
		return &rtm.Inbound{Request: r, Identities: []string{"msisdn:49"}, Tenants: []string{"shop"}, OnceDoor: "gy", OnceName: "far;e;0"}
	}
	do(t, n, event(), charging.Success)
	do(t, n, ccr(charging.Initial, "s", "msisdn:49", 0, 0), charging.Success)
	for _, to := range []store.Key{bob, carol} {
		if _, err := n.Reassign(t.Context(), "msisdn:49", to); err != nil {
			t.Fatal(err)
		}
	}
	do(t, n, event(), charging.Success)
	do(t, n, ccr(charging.Termination, "s", "msisdn:49", 1, 1<<20), charging.Success)
	do(t, n, ccr(charging.Termination, "s", "msisdn:49", 1, 1<<20), charging.Success)
	if a, b, c := debited(t, n, alice), debited(t, n, bob), debited(t, n, carol); a != 2_000_000 || b != 0 || c != 0 {
		t.Errorf("alice paid %d, bob %d, carol %d", a, b, c)
	}
}

// A request whose commit is in doubt, and that cannot be decided again, is not told
// that it was refused: it may have taken effect.
func TestAPanicAfterDoubt(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	cat, err := tenant.Load(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, doubt := range []bool{false, true} {
		sh := rtm.NewShard()
		sh.Version, sh.Jitter = storetest.NewVersion, func(int64) int64 { return 0 }
		decided := 0
		sh.Plans = func(name string, plan []byte) charging.Plans {
			if decided++; !doubt || decided > 1 {
				panic("spoilt")
			}
			return cat.Plans(name, plan)
		}
		now := n.Now()
		in := ccr(charging.Initial, "s", "imsi:7", 0, 0)
		in.Account, in.Arrived, in.Deadline = alice, now, now.Add(5*time.Second)
		todo, got := []*rtm.Inbound{in}, rtm.Outcome(0)
		for range 10 {
			recs, err := m.Load(t.Context(), slices.Clone(sh.Begin(todo, now)))
			if err != nil {
				t.Fatal(err)
			}
			results, _ := m.Commit(t.Context(), sh.Loaded(recs, now))
			if doubt && decided == 1 {
				results[0] = store.Result{Outcome: store.InDoubt}
			}
			for _, r := range sh.Committed(results, now) {
				got = r.Outcome
			}
			todo, now = nil, now.Add(100*time.Millisecond)
		}
		if want := map[bool]rtm.Outcome{false: rtm.Answered, true: rtm.Silent}[doubt]; got != want || got == rtm.Answered && in.Answer.Result != charging.UnableToComply {
			t.Errorf("doubt %t: outcome %d, %d; want %d", doubt, got, in.Answer.Result, want)
		}
	}
}

// A number goes to bob and comes back. What it was used for meanwhile is done once,
// also at an instance that knew it as alice's before.
func TestAHintFromBeforeTwoMoves(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n, other := start(t, m, "a"), start(t, m, "b")
	both(t, n)
	event := func(name string) *rtm.Inbound {
		r := initial(name)
		r.Kind, r.Content, r.Action = charging.Event, 5, charging.DirectDebiting
		r.Asks[0].Want.Octets = 1 << 20
		return &rtm.Inbound{Request: r, Identities: []string{"msisdn:49"}, Tenants: []string{"shop"}, OnceDoor: "gy", OnceName: name}
	}
	do(t, n, event("before"), charging.Success)
	for _, to := range []store.Key{bob, alice} {
		if _, err := other.Reassign(t.Context(), "msisdn:49", to); err != nil {
			t.Fatal(err)
		}
		do(t, other, event("meanwhile"), charging.Success)
	}
	do(t, n, event("meanwhile"), charging.Success)
	if a, b := debited(t, n, alice), debited(t, n, bob); a != 1_000_000 || b != 1_000_000 {
		t.Errorf("alice paid %d, bob %d", a, b)
	}
}
