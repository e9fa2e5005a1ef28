package rtm_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

const twoSpeeds = `kind: Tenant
name: shop
currency: EUR
---
kind: Plan
tenant: shop
name: gold
services:
  - {name: short, unit: octets, ratingGroups: [1], price: "1.00", per: 1 MiB, quota: {size: 2 MiB, validity: 1 min}}
  - {name: long, unit: octets, ratingGroups: [2], price: "1.00", per: 1 MiB, quota: {size: 2 MiB, validity: 1 h}}
`

// away has the node of that record refuse to write it.
func (a *after) away(t *testing.T, key store.Key) {
	a.commit = func(cs []store.Commit, way func() []store.Result) []store.Result {
		i := writes(cs, key)
		if i < 0 {
			return way()
		}
		a.did.Add(1)
		cs = slices.Delete(slices.Clone(cs), i, i+1)
		rs := []store.Result{}
		if len(cs) > 0 {
			rs, _ = a.Store.Commit(t.Context(), cs)
		}
		return slices.Insert(rs, i, store.Result{Outcome: store.Refused, Err: errors.New("CLUSTERDOWN")})
	}
}

// soon has a request wait no longer than that.
func soon(n *rtm.Instance, in *rtm.Inbound) *rtm.Inbound {
	in.Arrived = n.Now()
	in.Deadline = in.Arrived.Add(400 * time.Millisecond)
	return in
}

// The index entry of an open session is renewed also if the node that has it was
// away when the message came, and the gateway has sent it once more.
func TestARepeatRenewsTheIndex(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	must(tenant.Apply(t.Context(), s, must(tenant.Parse("shop.yaml", []byte(twoSpeeds))), false))
	n, other := start(t, s, "a"), start(t, s.Store, "b")
	both(t, n)
	key := tenant.SessionKey("far", "s", 0)
	do(t, n, indexed(ccr(charging.Initial, "s", "imsi:7", 0, 0)), charging.Success)
	update := func() *rtm.Inbound {
		in := nameless(ccr(charging.Update, "s", "", 1, 1<<20))
		in.Request.Asks = append(in.Request.Asks, charging.Ask{Group: 2, Has: charging.HasGroup, Wants: true})
		return in
	}
	s.away(t, key)
	if _, err := n.Do(t.Context(), soon(n, update())); !errors.Is(err, rtm.ErrDoubt) || s.did.Load() == 0 {
		t.Fatalf("the first: %v, %d", err, s.did.Load())
	}
	s.commit = nil // it is back
	do(t, other, update(), charging.Success)
	do(t, other, nameless(ccr(charging.Update, "s", "", 2, 1<<20)), charging.Success) // nor does the next message mend it
	a := must(n.Account(t.Context(), alice))
	e := tenant.Entries(must(s.Store.Load(t.Context(), []store.Key{key}))[0].Bytes)
	if x := &a.Sessions[0]; len(e) != 1 || e[0].Until.Before(x.Close) {
		t.Errorf("the index knows the session until %s, it is open until %s; its record believes that the index has it until %s", e[0].Until, x.Close, x.Indexed)
	}
}

// Usage that came late, was charged, and is decided again after a doubt, is not
// charged at another account too.
func TestLateInDoubtIsChargedOnce(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	open(t, s)
	n, other := start(t, s, "a"), start(t, s.Store, "b")
	both(t, n)
	do(t, n, indexed(ccr(charging.Initial, "s", "imsi:7", 0, 0)), charging.Success)
	do(t, n, indexed(ccr(charging.Termination, "s", "imsi:7", 1, 0)), charging.Success)
	s.commit = func(cs []store.Commit, way func() []store.Result) []store.Result {
		if writes(cs, alice) < 0 || s.did.Load() > 0 {
			return way()
		}
		rs := way()
		if debited(t, other, alice) == 0 { // the closed record was not known yet
			return rs
		}
		s.did.Add(1)
		do(t, other, indexed(ccr(charging.Initial, "s", "imsi:8", 0, 0)), charging.Success)
		for i := range rs { // it was carried out, and nobody heard of it
			rs[i] = store.Result{Outcome: store.InDoubt, Err: errors.New("cut")}
		}
		return rs
	}
	a, err := n.Do(t.Context(), nameless(ccr(charging.Update, "s", "", 2, 1<<20)))
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 1_000_000 || bobs != 0 || s.did.Load() == 0 {
		t.Errorf("answered %d %v: alice paid %d, bob %d", a.Result, err, alices, bobs)
	}
}

// later is a store whose clock is ahead.
type later struct {
	store.Store
	by time.Duration
}

func (l later) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	rs, now := l.Store.Commit(ctx, cs)
	return rs, now.Add(l.by)
}

func (l later) Facts(ctx context.Context) (store.Facts, error) {
	f, err := l.Store.Facts(ctx)
	f.Clock = f.Clock.Add(l.by)
	return f, err
}

// A session is no newer for a late repeat of its first message, also if its entry was
// not written the first time.
func TestALateEntryIsNotTheNewest(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	open(t, s)
	n, other := start(t, s, "a"), start(t, later{s.Store, 2 * time.Minute}, "b")
	both(t, n)
	s.away(t, tenant.SessionKey("far", "s", 0))
	if _, err := n.Do(t.Context(), soon(n, indexed(ccr(charging.Initial, "s", "imsi:7", 0, 0)))); !errors.Is(err, rtm.ErrDoubt) {
		t.Fatal(err)
	}
	s.commit = nil
	do(t, other, indexed(ccr(charging.Initial, "s", "imsi:8", 0, 0)), charging.Success)
	do(t, other, indexed(ccr(charging.Initial, "s", "imsi:7", 0, 0)), charging.Success)
	do(t, other, nameless(ccr(charging.Update, "s", "", 1, 1<<20)), charging.Success)
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 0 || bobs != 1_000_000 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

const club = `kind: Tenant
name: club
currency: EUR
---
kind: Plan
tenant: club
name: gold
services:
  - {name: data, unit: octets, price: "1.00", per: 1 MiB, quota: {size: 2 MiB, validity: 10 min}}
`

// To a peer that does not serve its tenant an identity is unknown, also beside
// others, also if it was one of a tenant that the peer serves before.
func TestAnIdentityThatLeftTheTenantIsSkipped(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	must(tenant.Apply(t.Context(), s, must(tenant.Parse("club.yaml", []byte(club))), false))
	n := start(t, s, "a")
	both(t, n)
	must(n.Provision(t.Context(), rtm.Subscription{Tenant: "club", Account: "carol", Profile: charging.Profile{Plan: "gold", Identities: []string{"imsi:9"}, Money: 100_000_000}}))
	must(n.Reassign(t.Context(), "imsi:7", tenant.AccountKey("club", "carol")))
	in := ccr(charging.Initial, "s", "imsi:7", 0, 0)
	in.Identities = []string{"imsi:7", "msisdn:49"} // alice still has her number
	do(t, n, in, charging.Success)
}

// Two who claim an identity at once do not both keep it, also if nobody heard at
// first that the one's account was written.
func TestAClaimInDoubtIsProved(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	open(t, s)
	n, other := start(t, s, "a"), start(t, s.Store, "b")
	s.commit = func(cs []store.Commit, way func() []store.Result) []store.Result {
		if writes(cs, alice) < 0 || s.did.Add(1) > 1 {
			return way()
		}
		must(other.Provision(t.Context(), subscription("bob", "imsi:8", "msisdn:49")))
		rs := way()
		for i := range rs {
			rs[i] = store.Result{Outcome: store.InDoubt, Err: errors.New("cut")}
		}
		return rs
	}
	p, err := n.Provision(t.Context(), subscription("alice", "imsi:7", "msisdn:49"))
	t.Logf("alice: %+v %v", p, err)
	owner(t, n, "msisdn:49", "shop/bob")
}
