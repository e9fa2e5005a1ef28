package rtm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

var bob = tenant.AccountKey("shop", "bob")

func subscription(account string, ids ...string) rtm.Subscription {
	return rtm.Subscription{Tenant: "shop", Account: account, Profile: charging.Profile{Plan: "gold", Identities: ids, Money: 100_000_000}}
}

// ccr is a message of a gateway that keeps no session index, as Open5GS and
// Magma do not need one.
func ccr(kind charging.Kind, session, identity string, number uint32, used int64) *rtm.Inbound {
	r := initial(session)
	r.Kind, r.Number, r.Content = kind, number, uint64(number)+1
	r.Asks[0].Wants = kind != charging.Termination
	if kind != charging.Initial {
		r.Asks[0].Reports, r.Asks[0].Used.Octets = true, used
	}
	return &rtm.Inbound{Request: r, Identities: []string{identity}, Tenants: []string{"shop"}}
}

// debited is the money that an account has spent.
func debited(t *testing.T, n *rtm.Instance, key store.Key) (sum int64) {
	t.Helper()
	a, err := n.Account(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Buckets {
		if a.Buckets[i].Unit == rating.Money {
			sum += a.Buckets[i].Debited
		}
	}
	return sum
}

func do(t *testing.T, n *rtm.Instance, in *rtm.Inbound, want charging.Result) {
	t.Helper()
	a, err := n.Do(t.Context(), in)
	if err != nil || a.Result != want {
		t.Fatalf("%s of %s: %d, %v; want %d", in.Request.Kind, in.Request.Session, a.Result, err, want)
	}
}

// A number gets another owner while a session is open under it: the session is
// charged to whom it was opened for, from whichever instance; the next one is
// the new owner's.
func TestReassignWithSessionsOpen(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	a, b := start(t, s, "a"), start(t, s, "b")
	for _, p := range a.ProvisionAll(t.Context(), []rtm.Subscription{subscription("alice", "imsi:7", "msisdn:49"), subscription("bob", "imsi:8")}) {
		if p.Err != nil || !p.Created {
			t.Fatalf("%+v", p)
		}
	}
	do(t, a, ccr(charging.Initial, "s", "msisdn:49", 0, 0), charging.Success)
	if changed, err := b.Reassign(t.Context(), "msisdn:49", bob); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if changed, err := b.Reassign(t.Context(), "msisdn:49", bob); changed || err != nil {
		t.Fatal("again:", changed, err)
	}
	do(t, a, ccr(charging.Update, "s", "msisdn:49", 1, 1<<20), charging.Success) // a remembers the old owner
	do(t, b, ccr(charging.Update, "s", "msisdn:49", 2, 1<<20), charging.Success) // b asks the directory
	do(t, a, ccr(charging.Initial, "n", "msisdn:49", 0, 0), charging.Success)
	do(t, a, ccr(charging.Termination, "n", "msisdn:49", 1, 3<<20), charging.Success)
	do(t, b, ccr(charging.Termination, "s", "msisdn:49", 3, 1<<20), charging.Success)
	do(t, b, ccr(charging.Termination, "s", "msisdn:49", 3, 1<<20), charging.Success) // the repeat finds the closed one
	do(t, b, ccr(charging.Update, "x", "msisdn:49", 1, 1<<20), charging.UnknownSession)
	if alices, bobs := debited(t, a, alice), debited(t, a, bob); alices != 3_000_000 || bobs != 3_000_000 {
		t.Errorf("alice paid %d, bob %d; want 3000000 each", alices, bobs)
	}
	acc, err := a.Account(t.Context(), alice)
	if err != nil || len(acc.Identities) != 1 || string(acc.Identities[0]) != "imsi:7" {
		t.Errorf("alice has %s, %v", acc.Identities, err)
	}
}

// refusing is a store that refuses one commit.
type refusing struct {
	store.Store
	left *atomic.Int64
}

func (r refusing) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	if len(cs) == 1 && cs[0].Writes[0].Op != store.Check && cs[0].Writes[0].Key.Kind != tenant.KindPresence && r.left.Add(-1) == 0 {
		return []store.Result{{Outcome: store.Refused, Err: errors.New("broken")}}, time.Time{}
	}
	return r.Store.Commit(ctx, cs)
}

// Wherever a reassignment is cut off, doing it again completes it.
func TestReassignIsRepeatable(t *testing.T) {
	cut := 0
	for step := int64(1); step <= 6; step++ {
		s := refusing{storetest.NewMemory(), &atomic.Int64{}}
		open(t, s)
		n := start(t, s, "a")
		n.ProvisionAll(t.Context(), []rtm.Subscription{subscription("alice", "imsi:7", "msisdn:49"), subscription("bob", "imsi:8")})
		do(t, n, ccr(charging.Initial, "s", "msisdn:49", 0, 0), charging.Success)
		s.left.Store(step)
		_, err := n.Reassign(t.Context(), "msisdn:49", bob)
		s.left.Store(0)
		if err != nil {
			cut++
			if _, err := n.Reassign(t.Context(), "msisdn:49", bob); err != nil {
				t.Errorf("cut at commit %d, and again: %v", step, err)
			}
		}
		if key, err := n.Find(t.Context(), "msisdn:49"); err != nil || key != bob {
			t.Errorf("cut at commit %d: the directory says %v, %v", step, key, err)
		}
		for key, want := range map[store.Key]string{alice: "[imsi:7]", bob: "[imsi:8 msisdn:49]"} {
			if acc, err := n.Account(t.Context(), key); err != nil || fmt.Sprintf("%s", acc.Identities) != want {
				t.Errorf("cut at commit %d: %s has %s, want %s (%v)", step, key.Name, acc.Identities, want, err)
			}
		}
		do(t, n, ccr(charging.Termination, "s", "msisdn:49", 1, 1<<20), charging.Success)
		if got := debited(t, n, alice); got != 1_000_000 {
			t.Errorf("cut at commit %d: alice paid %d", step, got)
		}
	}
	if cut < 2 {
		t.Errorf("only %d of the steps were cut", cut)
	}
}

// While a number goes back and forth, every report that is acknowledged is
// charged once, to one of the two.
func TestReassignUnderTraffic(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	nodes := []*rtm.Instance{start(t, s, "a"), start(t, s, "b")}
	nodes[0].ProvisionAll(t.Context(), []rtm.Subscription{subscription("alice", "imsi:7", "msisdn:49"), subscription("bob", "imsi:8")})
	var acknowledged atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				session := fmt.Sprintf("s%d-%d", g, i)
				if a, err := nodes[i%2].Do(t.Context(), ccr(charging.Initial, session, "msisdn:49", 0, 0)); err != nil || a.Result != charging.Success {
					continue // at a moment when neither had the number
				}
				for n, kind := range []charging.Kind{charging.Update, charging.Termination} {
					a, err := nodes[(i+n)%2].Do(t.Context(), ccr(kind, session, "msisdn:49", uint32(n)+1, 1000))
					if err != nil || a.Result != charging.Success {
						t.Errorf("%s of %s: %d, %v", kind, session, a.Result, err)
						return
					}
					acknowledged.Add(1000)
				}
			}
		})
	}
	for i := range 60 {
		for before := acknowledged.Load(); acknowledged.Load() == before && !t.Failed(); {
			<-time.After(100 * time.Microsecond) // some traffic between two changes
		}
		if _, err := nodes[i%2].Reassign(t.Context(), "msisdn:49", []store.Key{bob, alice}[i%2]); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
	used := int64(0)
	for _, key := range []store.Key{alice, bob} {
		a, err := nodes[0].Account(t.Context(), key)
		if err != nil || len(a.Sessions) != 0 {
			t.Errorf("%s: %d sessions left, %v", key.Name, len(a.Sessions), err)
		}
		used += debited(t, nodes[0], key)
	}
	// 1.00 per MiB: each report of 1000 octets costs 953 or 954 micro-units, exact over a session.
	sessions := acknowledged.Load() / 2000
	if want := sessions * 1907; used != want {
		t.Errorf("%d octets were acknowledged in %d sessions, %d micro-units debited, want %d", acknowledged.Load(), sessions, used, want)
	}
	if sessions == 0 {
		t.Error("nothing was acknowledged")
	}
}

func TestProvisionAll(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	n := start(t, s, "a")
	var subs []rtm.Subscription
	for i := range 3000 {
		subs = append(subs, subscription(fmt.Sprintf("acc-%d", i), fmt.Sprintf("imsi:%d", i), fmt.Sprintf("msisdn:%d", i)))
	}
	for i, p := range n.ProvisionAll(t.Context(), subs) {
		if p.Err != nil || !p.Created {
			t.Fatalf("%d: %+v", i, p)
		}
	}
	subs[7].Profile.Identities = subs[7].Profile.Identities[:1]
	for i, p := range n.ProvisionAll(t.Context(), subs) {
		if p.Err != nil || p.Created || p.Changed != (i == 7) {
			t.Fatalf("again, %d: %+v", i, p)
		}
	}
	wrong := []rtm.Subscription{
		subscription("new", "imsi:2999"), subscription("one", "imsi:x"), subscription("two", "imsi:x"), subscription("acc-8", "imsi:8"), subscription("plan", "imsi:y"),
		subscription("tenant", "imsi:z"),
	}
	wrong[4].Profile.Plan, wrong[5].Tenant = "none", "none"
	for i, want := range []string{"imsi:2999: identity belongs to another account (shop/acc-2999)", "", "imsi:x: identity belongs to another account (shop/one)", "", `has no plan "none"`, `there is no tenant "none"`} {
		p := n.ProvisionAll(t.Context(), wrong)[i]
		if (p.Err == nil) != (want == "") || p.Err != nil && !strings.Contains(p.Err.Error(), want) {
			t.Errorf("%d: %v, want %q", i, p.Err, want)
		}
	}
	if _, err := n.Account(t.Context(), tenant.AccountKey("shop", "two")); !errors.Is(err, rtm.ErrNotFound) {
		t.Errorf("an account was made although its identity is another's: %v", err)
	}
}

// Two who claim one identity at the same time: never both get it, and who does
// not is told so.
func TestIdentityHasOneOwner(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	nodes, had := []*rtm.Instance{start(t, s, "a"), start(t, s, "b")}, 0
	for i := range 100 {
		id := fmt.Sprintf("imsi:%d", i)
		var out [2]rtm.Provisioned
		var wg sync.WaitGroup
		for k, n := range nodes {
			wg.Go(func() { out[k], _ = n.Provision(t.Context(), subscription(fmt.Sprintf("%d-%d", i, k), id)) })
		}
		wg.Wait()
		owners := 0
		for k := range nodes {
			a, err := nodes[0].Account(t.Context(), tenant.AccountKey("shop", fmt.Sprintf("%d-%d", i, k)))
			if err == nil && len(a.Identities) == 1 {
				owners++
				if key, err := nodes[0].Find(t.Context(), id); err != nil || key.Name != fmt.Sprintf("shop/%d-%d", i, k) || out[k].Err != nil {
					t.Errorf("%s is listed by %d-%d, the directory says %s, it was told %v (%v)", id, i, k, key.Name, out[k].Err, err)
				}
			}
		}
		if owners > 1 || owners == 0 && (out[0].Err == nil || out[1].Err == nil) {
			t.Errorf("%s has %d owners: %v, %v", id, owners, out[0].Err, out[1].Err)
		}
		had += owners
	}
	if had == 0 {
		t.Errorf("none of 100 identities found an owner")
	}
}

// Ranges say which identities a tenant may have.
func TestRanges(t *testing.T) {
	s := storetest.NewMemory()
	docs, err := tenant.Parse("t.yaml", []byte(shop+"---\nkind: Tenant\nname: other\ncurrency: EUR\nranges: [\"imsi:26202*\", \"msisdn:491700000000-491700009999\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(t.Context(), s, docs, false); err != nil {
		t.Fatal(err)
	}
	n := start(t, s, "a")
	for id, want := range map[string]string{
		"imsi:262021234567890": "imsi:262021234567890 is in a range of tenant other, not of shop", "msisdn:491700000001": "in a range of tenant other", "msisdn:49170000001": "", "imsi:001010000000001": "",
	} {
		p, _ := n.Provision(t.Context(), subscription("acc-"+strings.ReplaceAll(id, ":", "-"), id))
		if (p.Err == nil) != (want == "") || p.Err != nil && !strings.Contains(p.Err.Error(), want) {
			t.Errorf("%s: %v, want %q", id, p.Err, want)
		}
	}
	if _, err := n.Reassign(t.Context(), "imsi:262021234567890", tenant.AccountKey("shop", "acc-msisdn-49170000001")); err == nil {
		t.Error("an identity of another tenant's range was reassigned")
	}
}
