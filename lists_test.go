package rtm_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"rtm"
	"rtm/charging"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/embed"
	"rtm/store/redis"
	"rtm/store/storetest"
	"rtm/tenant"
)

// everywhere runs a test on each backend.
func everywhere(t *testing.T, test func(t *testing.T, s store.Store)) {
	t.Run("embedded", func(t *testing.T) { test(t, embedded(t)) })
	t.Run("redis", func(t *testing.T) {
		s, err := redis.Open(t.Context(), redis.Config{URL: "redis://" + rtmtest.StartRedis(t).Addr})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		test(t, s)
	})
}

func embedded(t testing.TB) store.Store {
	t.Helper()
	s, err := embed.Open(embed.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fill writes n accounts shop/0, shop/1, … that are like a, each with one
// session, and what else there is of them in a store.
func fill(t testing.TB, s store.Store, n int, a *charging.Account) {
	t.Helper()
	const batch = 500
	var cs []store.Commit
	put := func(k store.Key, b []byte) {
		v := store.Version{byte(len(cs)), byte(len(cs) >> 8), 1}
		copy(v[3:], k.Name[len(k.Name)-1:])
		cs = append(cs, store.Commit{Writes: []store.Write{{Op: store.Put, Key: k, New: v, Bytes: b}}})
	}
	for i := range n {
		name := fmt.Sprint(i)
		a.Sessions[0].ID = fmt.Appendf(nil, "gw.far;1;%d", i)
		a.Identities = [][]byte{fmt.Appendf(nil, "imsi:%015d", i)}
		put(tenant.AccountKey("shop", name), a.Append(nil))
		put(tenant.IdentityKey(string(a.Identities[0])), tenant.EncodeOwner(nil, "shop", name))
		if i%batch == batch-1 || i == n-1 {
			rs, _ := s.Commit(t.Context(), cs)
			for _, r := range rs {
				if r.Outcome != store.Done {
					t.Fatalf("%v: %v", r.Outcome, r.Err)
				}
			}
			cs = cs[:0]
		}
	}
}

func plain() *charging.Account {
	return &charging.Account{Exists: true, Plan: []byte("gold"), Sessions: []charging.Session{{Host: []byte("gw.far"), Realm: []byte("far")}}}
}

// Whatever the pages hold, together they are all accounts, each once.
func TestPagesHoldEachAccountOnce(t *testing.T) {
	const accounts = 1500
	everywhere(t, func(t *testing.T, s store.Store) {
		n := start(t, s, "A")
		fill(t, s, accounts, plain())
		for _, limit := range []int{3, 100, 1000} {
			seen := make(map[string]int)
			w, pages := rtm.Walk{Limit: limit}, 0
			for pages = 1; ; pages++ {
				found := 0
				next, err := n.Accounts(t.Context(), w, func(k store.Key, a *charging.Account) int {
					if len(a.Sessions) != 1 {
						t.Fatalf("%s: %d sessions", k, len(a.Sessions))
					}
					seen[k.Name]++
					found++
					return 1
				})
				if err != nil {
					t.Fatal(err)
				}
				if next == nil {
					break
				}
				if found < limit || found > limit+1200 {
					t.Errorf("a page of %d holds %d", limit, found)
				}
				w.Cursor = next
			}
			for k, times := range seen {
				if times != 1 {
					t.Errorf("limit %d: %s was seen %d times", limit, k, times)
				}
			}
			if len(seen) != accounts || pages < min(accounts/limit, 2) {
				t.Errorf("limit %d: %d accounts on %d pages", limit, len(seen), pages)
			}
		}
	})
}

func TestWalkOfOneTenant(t *testing.T) {
	s := storetest.NewMemory()
	n := start(t, s, "A")
	fill(t, s, 20, plain())
	for of, want := range map[string]int{"": 20, "shop": 20, "sho": 0, "shop/": 0} {
		got := make(map[string]bool)
		_, err := n.Accounts(t.Context(), rtm.Walk{Tenant: of, Limit: 100}, func(k store.Key, _ *charging.Account) int {
			got[k.Name] = true
			return 1
		})
		if err != nil || len(got) != want {
			t.Errorf("tenant %q: %v, %v", of, slices.Collect(maps.Keys(got)), err)
		}
	}
}

func TestWalkRefusesAStrangeCursor(t *testing.T) {
	everywhere(t, func(t *testing.T, s store.Store) {
		n := start(t, s, "A")
		_, err := n.Accounts(t.Context(), rtm.Walk{Cursor: []byte("x"), Limit: 1}, nil)
		if !errors.Is(err, store.ErrCursor) {
			t.Error(err)
		}
	})
}

// hasAlice makes alice an account, without a session.
func hasAlice(t testing.TB, n *rtm.Instance) {
	t.Helper()
	if _, err := n.Provision(t.Context(), rtm.Subscription{Tenant: "shop", Account: "alice", Profile: charging.Profile{
		Plan: "gold", Identities: []string{"imsi:001010000000001"}, Money: 10_000_000,
	}}); err != nil {
		t.Fatal(err)
	}
}

// begin opens a session of alice's.
func begin(t testing.TB, n *rtm.Instance, r charging.Request) {
	t.Helper()
	if a, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: r}); err != nil || a.Result != charging.Success {
		t.Fatalf("%+v, %v", a, err)
	}
}

// declare adds documents to the catalogue, and waits until n knows them.
func declare(t testing.TB, n *rtm.Instance, text string) {
	t.Helper()
	docs, err := tenant.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(t.Context(), n.Store, docs, false); err != nil {
		t.Fatal(err)
	}
	n.Await(t.Context())
}

// counted is a store that counts scans.
type counted struct {
	store.Store
	scans int
}

func (c *counted) Scan(ctx context.Context, cursor []byte, n int) ([]store.Key, []store.Record, []byte, error) {
	c.scans++
	return c.Store.Scan(ctx, cursor, n)
}

// A Session-Id leads to its session on each of the ways, and only on the last
// one are accounts looked at.
func TestWaysToASession(t *testing.T) {
	everywhere(t, func(t *testing.T, s store.Store) {
		c := &counted{Store: s}
		open(t, c)
		n := start(t, c, "A")
		hasAlice(t, n)
		declare(t, n, `{kind: Peer, host: gw.far.example, realm: elsewhere.example, relays: [relayed.example], sources: [192.0.2.1], tenants: [shop]}`)
		indexed := func(realm, id string) {
			r := initial(id)
			r.Realm, r.Indexed = []byte(realm), true
			begin(t, n, r)
		}
		indexed("far.example", "gw.far.example;1;1")
		indexed("elsewhere.example", "gw.far.example;1;2") // of a realm that only its peer's document names
		indexed("relayed.example", "gw.far.example;1;3")
		indexed("Far.Example", "GW.Far.Example;1;4")
		begin(t, n, initial("magma;1;IMSI001010000000001"))
		begin(t, n, initial("gw.far.example;1;5"))
		for _, w := range []struct {
			id, subscriber string
			way            rtm.Way
		}{
			{"gw.far.example;1;1", "", rtm.ByIndex},
			{"gw.far.example;1;2", "", rtm.ByIndex},
			{"gw.far.example;1;3", "", rtm.ByIndex},
			{"GW.Far.Example;1;4", "", rtm.ByIndex},
			{"magma;1;IMSI001010000000001", "", rtm.ByIMSI},
			{"gw.far.example;1;5", "", rtm.ByWalk},
			{"gw.far.example;1;5", "001010000000001", rtm.BySubscriber},
			{"gw.far.example;1;5", "shop/alice", rtm.BySubscriber},
		} {
			c.scans = 0
			o, err := n.Session(t.Context(), w.id, w.subscriber)
			if err != nil || string(o.Session.ID) != w.id || o.Account != alice || o.Way != w.way || o.Session.Messages != 1 {
				t.Errorf("%s of %q: by %s, %+v, %v; want by %s", w.id, w.subscriber, o.Way, o.Session, err, w.way)
			}
			if (c.scans > 0) != (w.way == rtm.ByWalk) {
				t.Errorf("%s of %q: %d scans", w.id, w.subscriber, c.scans)
			}
		}
		for _, w := range [][2]string{{"gw.far.example;9", ""}, {"x;IMSI001010000000001", ""}, {"x;IMSI001010000000009", ""},
			{"gw.far.example;9", "shop/alice"}, {"gw.far.example;1;1", "shop/bob"}, {"gw.far.example;1;1", "999"}, {"", ""}} {
			if o, err := n.Session(t.Context(), w[0], w[1]); !errors.Is(err, rtm.ErrNotFound) {
				t.Errorf("%q: %+v, %v", w, o, err)
			}
		}
	})
}

// A hint of the session index that is wrong does no harm.
func TestSessionIndexIsChecked(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	n := start(t, s, "A")
	hasAlice(t, n)
	begin(t, n, initial("gw.far;1;1"))
	wrong := store.Write{Op: store.Put, Key: tenant.SessionKey("far", "gw.far;1;1", 0), New: store.Version{1}, Bytes: tenant.EncodeOwner(nil, "shop", "bob")}
	if rs, _ := s.Commit(t.Context(), []store.Commit{{Writes: []store.Write{wrong}}}); rs[0].Outcome != store.Done {
		t.Fatal(rs[0].Err)
	}
	if o, err := n.Session(t.Context(), "gw.far;1;1", ""); err != nil || o.Account != alice || o.Way != rtm.ByWalk {
		t.Errorf("%+v, %v", o, err)
	}
}

// The last way, at 100,000 accounts with a session each.
func BenchmarkWalkToASession(b *testing.B) {
	s := embedded(b)
	n, err := rtm.Start(b.Context(), rtm.Config{Name: "A", Store: s, Presence: rtm.Presence{PeerHost: "A"}})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Stop()
	declare(b, n, shop)
	hasAlice(b, n)
	begin(b, n, initial("gw.far;1;0"))
	like, err := n.Account(b.Context(), alice)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("records of %d octets", len(like.Append(nil)))
	fill(b, s, 100_000, like)
	for b.Loop() {
		if _, err := n.Session(b.Context(), "gw.far;1;none", ""); !errors.Is(err, rtm.ErrNotFound) {
			b.Fatal(err)
		}
	}
}
