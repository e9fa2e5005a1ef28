package rtm_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

// hooked is a store that something happens in front of.
type hooked struct {
	store.Store
	load   func(keys []store.Key) error
	commit func(cs []store.Commit)
}

func (h *hooked) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	if h.load != nil {
		if err := h.load(keys); err != nil {
			return nil, err
		}
	}
	return h.Store.Load(ctx, keys)
}

func (h *hooked) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	if h.commit != nil {
		h.commit(cs)
	}
	return h.Store.Commit(ctx, cs)
}

// owners are the accounts among alice and bob that list an identity, and where
// the directory leads.
func owners(t *testing.T, n *rtm.Instance, id string) (listed []string, leads string) {
	t.Helper()
	for _, key := range []store.Key{alice, bob} {
		a, err := n.Account(t.Context(), key)
		if err == nil && slices.ContainsFunc(a.Identities, func(have []byte) bool { return string(have) == id }) {
			listed = append(listed, key.Name)
		}
	}
	if key, err := n.Find(t.Context(), id); err == nil {
		leads = key.Name
	}
	return listed, leads
}

func owner(t *testing.T, n *rtm.Instance, id, want string) {
	t.Helper()
	if listed, leads := owners(t, n, id); len(listed) != 1 || listed[0] != want || leads != want {
		t.Errorf("%s is listed by %v, the directory leads to %q, want %s", id, listed, leads, want)
	}
}

// both makes alice, who has a number, and bob, who has none.
func both(t *testing.T, n *rtm.Instance) {
	t.Helper()
	for _, p := range n.ProvisionAll(t.Context(), []rtm.Subscription{subscription("alice", "imsi:7", "msisdn:49"), subscription("bob", "imsi:8")}) {
		if p.Err != nil {
			t.Fatal(p.Err)
		}
	}
}

// A directory that cannot be read gives nobody an identity.
func TestNothingIsClaimedUnread(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	h := &hooked{Store: m}
	n := start(t, h, "a")
	both(t, n)
	var failed atomic.Bool
	h.load = func(keys []store.Key) error {
		if slices.Contains(keys, tenant.IdentityKey("imsi:7")) && !failed.Swap(true) {
			return errors.New("timeout")
		}
		return nil
	}
	if p, err := n.Provision(t.Context(), subscription("bob", "imsi:8", "imsi:7")); !errors.Is(err, rtm.ErrBusy) || p.Changed {
		t.Errorf("%+v, %v", p, err)
	}
	owner(t, n, "imsi:7", "shop/alice")
	if _, err := n.Provision(t.Context(), subscription("bob", "imsi:8", "imsi:7")); !errors.Is(err, rtm.ErrTaken) {
		t.Errorf("again: %v", err)
	}
}

// The old owner is provisioned once more while its number is moved.
func TestImportDuringReassign(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	h := &hooked{Store: m}
	n, other := start(t, h, "a"), start(t, m, "b")
	both(t, n)
	var did atomic.Bool
	h.commit = func(cs []store.Commit) {
		if cs[0].Writes[0].Key == tenant.IdentityKey("msisdn:49") && !did.Swap(true) {
			other.Provision(context.Background(), subscription("alice", "imsi:7", "msisdn:49"))
		}
	}
	if _, err := n.Reassign(t.Context(), "msisdn:49", bob); err != nil {
		t.Fatal(err)
	}
	if !did.Load() {
		t.Fatal("nothing came between")
	}
	owner(t, n, "msisdn:49", "shop/bob")
	if _, err := other.Provision(t.Context(), subscription("alice", "imsi:7", "msisdn:49")); !errors.Is(err, rtm.ErrTaken) {
		t.Errorf("alice's import again: %v", err)
	}
	owner(t, n, "msisdn:49", "shop/bob")
}

// Whose a number is was read where another master has taken over: the one that has it
// by now gives it up all the same, and keeps its sessions.
func TestReassignReadsAnOldOwner(t *testing.T) {
	for _, old := range []bool{true, false} { // the old master knows of alice, or of nobody
		s := &after{Store: storetest.NewMemory()}
		open(t, s)
		n, other := start(t, s, "a"), start(t, s.Store, "b")
		both(t, n)
		if _, err := n.Provision(t.Context(), subscription("carol", "imsi:9")); err != nil {
			t.Fatal(err)
		}
		key := tenant.IdentityKey("msisdn:49")
		was, err := s.Store.Load(t.Context(), []store.Key{key})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Reassign(t.Context(), "msisdn:49", bob); err != nil {
			t.Fatal(err)
		}
		do(t, other, ccr(charging.Initial, "s", "msisdn:49", 0, 0), charging.Success)
		s.load = func(keys []store.Key, recs []store.Record) {
			if i := slices.Index(keys, key); i >= 0 && s.did.Add(1) == 1 {
				if recs[i] = (store.Record{}); old {
					recs[i] = was[0]
				}
			}
		}
		if _, err := n.Reassign(t.Context(), "msisdn:49", carol); err != nil {
			t.Fatal(err)
		}
		for key, has := range map[store.Key]bool{alice: false, bob: false, carol: true} {
			a, err := n.Account(t.Context(), key)
			if err != nil || slices.ContainsFunc(a.Identities, func(id []byte) bool { return string(id) == "msisdn:49" }) != has {
				t.Errorf("%s has %q (%v)", key.Name, a.Identities, err)
			}
		}
		do(t, start(t, s, "c"), ccr(charging.Update, "s", "msisdn:49", 1, 1<<20), charging.Success)
		if bobs, carols := debited(t, n, bob), debited(t, n, carol); bobs != 1_000_000 || carols != 0 {
			t.Errorf("bob paid %d, carol %d", bobs, carols)
		}
	}
}

// An account that is full with the number is no reason not to repeat.
func TestReassignToAFullAccount(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	ids := make([]string, charging.IdentitiesMax-1)
	for i := range ids {
		ids[i] = fmt.Sprint("imsi:", 100+i)
	}
	n.ProvisionAll(t.Context(), []rtm.Subscription{subscription("alice", "imsi:7", "msisdn:49", "msisdn:50"), subscription("bob", ids...)})
	for range 2 {
		if _, err := n.Reassign(t.Context(), "msisdn:49", bob); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.Reassign(t.Context(), "msisdn:50", bob); err == nil {
		t.Error("an account got more identities than it may have")
	}
	owner(t, n, "msisdn:50", "shop/alice")
}

// A number that changes hands by two documents loses no session either.
func TestApplyMovesANumber(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	do(t, n, ccr(charging.Initial, "s", "msisdn:49", 0, 0), charging.Success)
	n.Provision(t.Context(), subscription("alice", "imsi:7"))
	if key, err := n.Find(t.Context(), "msisdn:49"); !errors.Is(err, rtm.ErrNotFound) {
		t.Errorf("a number that nobody has leads to %s (%v)", key.Name, err)
	}
	if _, err := n.Provision(t.Context(), subscription("bob", "imsi:8", "msisdn:49")); err != nil {
		t.Fatal(err)
	}
	owner(t, n, "msisdn:49", "shop/bob")
	do(t, n, ccr(charging.Update, "s", "msisdn:49", 1, 1<<20), charging.Success)
	do(t, start(t, m, "b"), ccr(charging.Termination, "s", "msisdn:49", 2, 1<<20), charging.Success)
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 2_000_000 || bobs != 0 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

// Sub-sessions under one Session-Id at two accounts.
func TestSubSessionsOfAMovedNumber(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	sub := func(kind charging.Kind, number uint32, sub uint64) *rtm.Inbound {
		in := ccr(kind, "s", "msisdn:49", number, 1<<20)
		in.Request.Sub, in.Request.Indexed = sub, true
		return in
	}
	do(t, n, sub(charging.Initial, 0, 1), charging.Success)
	do(t, n, sub(charging.Initial, 0, 2), charging.Success)
	if _, err := n.Reassign(t.Context(), "msisdn:49", bob); err != nil {
		t.Fatal(err)
	}
	do(t, n, sub(charging.Initial, 0, 3), charging.Success)
	for s := range uint64(3) {
		do(t, n, sub(charging.Update, 1, s+1), charging.Success)
		do(t, n, sub(charging.Termination, 2, s+1), charging.Success)
	}
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 4_000_000 || bobs != 2_000_000 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

// The first identity that has an owner counts, on every instance, whatever was
// seen before. One of a tenant that is not the peer's is unknown to it, alone and
// beside others.
func TestTheIMSIWins(t *testing.T) {
	m := storetest.NewMemory()
	docs, err := tenant.Parse("t.yaml", []byte(shop+"---\nkind: Tenant\nname: other\ncurrency: EUR\n---\n"+
		"{kind: Plan, tenant: other, name: gold, services: [{name: data, unit: octets, price: \"1.00\", per: 1 MiB}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(t.Context(), m, docs, false); err != nil {
		t.Fatal(err)
	}
	a, b := start(t, m, "a"), start(t, m, "b")
	zed := subscription("zed", "imsi:9")
	zed.Tenant = "other"
	a.ProvisionAll(t.Context(), []rtm.Subscription{subscription("alice", "imsi:7"), subscription("bob", "imsi:8", "msisdn:49"), zed})
	do(t, a, ccr(charging.Initial, "sms", "msisdn:49", 0, 0), charging.Success)
	for i, n := range []*rtm.Instance{a, b, a, b} {
		in := ccr(charging.Initial, fmt.Sprint("d", i), "imsi:7", 0, 0)
		in.Identities = []string{"imsi:7", "msisdn:49"}
		if do(t, n, in, charging.Success); in.Account != alice {
			t.Errorf("message %d was decided at %s", i, in.Account.Name)
		}
		in = ccr(charging.Initial, fmt.Sprint("o", i), "imsi:9", 0, 0)
		do(t, n, in, charging.UserUnknown)
		in = ccr(charging.Initial, fmt.Sprint("p", i), "imsi:9", 0, 0)
		in.Identities = []string{"imsi:9", "msisdn:49"}
		if do(t, n, in, charging.Success); in.Account != bob {
			t.Errorf("message %d was decided at %s", i, in.Account.Name)
		}
	}
}

// A peer that does not serve the old owner's tenant does not reach it by a number
// that has moved to a tenant of the peer's.
func TestTheOldOwnerIsAnotherTenants(t *testing.T) {
	m := storetest.NewMemory()
	docs, err := tenant.Parse("t.yaml", []byte(shop+"---\nkind: Tenant\nname: other\ncurrency: EUR\n---\n"+
		"{kind: Plan, tenant: other, name: gold, services: [{name: data, unit: octets, price: \"1.00\", per: 1 MiB}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(t.Context(), m, docs, false); err != nil {
		t.Fatal(err)
	}
	n := start(t, m, "a")
	zed := subscription("zed", "imsi:9")
	zed.Tenant = "other"
	n.ProvisionAll(t.Context(), []rtm.Subscription{subscription("alice", "imsi:7", "msisdn:49"), zed})
	do(t, n, ccr(charging.Initial, "s", "msisdn:49", 0, 0), charging.Success)
	do(t, n, ccr(charging.Initial, "over", "msisdn:49", 0, 0), charging.Success)
	do(t, n, ccr(charging.Termination, "over", "msisdn:49", 1, 1<<20), charging.Success)
	if _, err := n.Reassign(t.Context(), "msisdn:49", tenant.AccountKey("other", "zed")); err != nil {
		t.Fatal(err)
	}
	others := func(in *rtm.Inbound) *rtm.Inbound { in.Tenants = []string{"other"}; return in }
	do(t, n, others(ccr(charging.Update, "s", "msisdn:49", 1, 1<<20)), charging.UnknownSession)
	do(t, n, others(ccr(charging.Termination, "s", "msisdn:49", 1, 1<<20)), charging.UnknownSession)
	do(t, n, others(ccr(charging.Termination, "over", "msisdn:49", 1, 1<<20)), charging.UnknownSession)
	if got := debited(t, n, alice); got != 1_000_000 {
		t.Errorf("alice paid %d by another tenant's peer", got)
	}
	both := ccr(charging.Termination, "s", "msisdn:49", 1, 1<<20)
	both.Tenants = []string{"other", "shop"}
	do(t, n, both, charging.Success)
}

// What is sent once more after a number has moved has one effect and one answer,
// on any instance: the old account remembers.
func TestRepeatsAfterReassign(t *testing.T) {
	for hinted := range 2 {
		m := storetest.NewMemory()
		open(t, m)
		n := start(t, m, "a")
		both(t, n)
		do(t, n, spending("msisdn:49"), charging.Success)
		do(t, n, ccr(charging.Initial, "over", "msisdn:49", 0, 0), charging.Success)
		do(t, n, ccr(charging.Termination, "over", "msisdn:49", 1, 1<<20), charging.Success)
		do(t, n, ccr(charging.Initial, "on", "msisdn:49", 0, 0), charging.Success)
		do(t, n, ccr(charging.Update, "on", "msisdn:49", 1, 1<<20), charging.Success)
		if _, err := n.Reassign(t.Context(), "msisdn:49", bob); err != nil {
			t.Fatal(err)
		}
		if hinted == 0 {
			n = start(t, m, "b") // which has seen nothing
		}
		for range 2 {
			do(t, n, spending("msisdn:49"), charging.Success)
			do(t, n, ccr(charging.Initial, "over", "msisdn:49", 0, 0), charging.Success)
			do(t, n, ccr(charging.Termination, "over", "msisdn:49", 1, 1<<20), charging.Success)
			do(t, n, ccr(charging.Initial, "on", "msisdn:49", 0, 0), charging.Success)
			do(t, n, ccr(charging.Update, "on", "msisdn:49", 1, 1<<20), charging.Success)
			do(t, n, ccr(charging.Update, "over", "msisdn:49", 2, 1<<20), charging.UnknownSession) // late, and charged once
		}
		if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 4_000_000 || bobs != 0 {
			t.Errorf("alice paid %d, bob %d; want 4000000 and nothing", alices, bobs)
		}
		// What is new is bob's, also under a Session-Id that alice had.
		do(t, n, ccr(charging.Termination, "on", "msisdn:49", 2, 1<<20), charging.Success)
		again := ccr(charging.Initial, "over", "msisdn:49", 0, 0)
		again.Request.Content = 99
		do(t, n, again, charging.Success)
		do(t, n, ccr(charging.Termination, "over", "msisdn:49", 1, 2<<20), charging.Success)
		other := spending("msisdn:49")
		other.OnceName, other.Request.Session = "far;f;0", []byte("f")
		do(t, n, other, charging.Success)
		if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 5_000_000 || bobs != 3_000_000 {
			t.Errorf("then alice paid %d, bob %d; want 5000000 and 3000000", alices, bobs)
		}
	}
}

// Two late reports of one closed session in one batch, of which a hint led one
// here: each is charged once, with its event.
func TestLateReportsTogether(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	do(t, n, ccr(charging.Initial, "s", "imsi:7", 0, 0), charging.Success)
	do(t, n, ccr(charging.Termination, "s", "imsi:7", 1, 1<<20), charging.Success)
	cat, err := tenant.Load(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	for join := range 8 { // in which cycle the second report comes along
		sh := rtm.NewShard()
		sh.Version, sh.Jitter = storetest.NewVersion, func(int64) int64 { return 0 }
		sh.Plans = func(name string, plan []byte) charging.Plans { return cat.Plans(name, plan) }
		number := uint32(2 + 2*join)
		first, second := ccr(charging.Update, "s", "imsi:7", number, 1<<20), ccr(charging.Update, "s", "imsi:7", number+1, 1<<20)
		second.Account, second.Hinted, second.Request.Identity = alice, true, []byte("imsi:7")
		now, todo, answers := n.Now(), []*rtm.Inbound{first}, 0
		for cycle := range 30 {
			if now = now.Add(60 * time.Millisecond); cycle == join {
				todo = append(todo, second)
			}
			for _, in := range todo {
				in.Arrived, in.Deadline = now, now.Add(time.Hour)
			}
			keys := slices.Clone(sh.Begin(todo, now))
			todo = nil
			recs, err := m.Load(t.Context(), keys)
			if err != nil {
				t.Fatal(err)
			}
			results, _ := m.Commit(t.Context(), sh.Loaded(recs, now))
			for _, r := range sh.Committed(results, now) {
				if r.Outcome == rtm.Forward {
					todo = append(todo, r.In)
				} else if answers++; r.In.Answer.Result != charging.UnknownSession {
					t.Errorf("a late report was answered %d", r.In.Answer.Result)
				}
			}
		}
		want := int64(1_000_000) * int64(1+2*(join+1))
		if got := debited(t, n, alice); got != want || answers != 2 {
			t.Fatalf("joined in cycle %d: %d debited, want %d; %d answers", join, got, want, answers)
		}
	}
	ledger := int64(0)
	events, err := m.Events(t.Context(), alice.Partition, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range events {
		var e charging.Entry
		if err := e.Decode(ev.Bytes); err != nil {
			t.Fatal(err)
		}
		for _, mv := range e.Movements {
			ledger += mv.Debit
		}
	}
	if got := debited(t, n, alice); got != ledger {
		t.Errorf("%d debited, the ledger says %d", got, ledger)
	}
}

// What a new account cannot have beside its money.
func TestBucketsOfANewAccount(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	for _, b := range []charging.Bucket{{Unit: 1, Credited: 1, Allowance: 7}, {Unit: 1, Credited: 1, Until: time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)}} {
		s := subscription("alice", "imsi:7")
		s.Profile.Buckets = []charging.Bucket{b}
		if _, err := n.Provision(t.Context(), s); err == nil {
			t.Errorf("%+v was taken", b)
		}
	}
}

// An identity that its account has given up hides no other one that a message names,
// also where it was seen before.
func TestAnIdentityGivenUpHidesNoOther(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	do(t, n, ccr(charging.Initial, "old", "msisdn:49", 0, 0), charging.Success)
	if p, err := n.Provision(t.Context(), subscription("alice", "imsi:7")); err != nil || !p.Changed {
		t.Fatal(p, err)
	}
	for i, n := range []*rtm.Instance{n, start(t, m, "b")} {
		send := func(kind charging.Kind, session string, number uint32, want charging.Result, ids ...string) {
			t.Helper()
			in := ccr(kind, session, "", number, 1<<20)
			in.Identities = append([]string{"msisdn:49"}, ids...)
			do(t, n, in, want)
		}
		name := fmt.Sprint("s", i)
		send(charging.Initial, name, 0, charging.Success, "imsi:8")
		send(charging.Update, name, 1, charging.Success, "msisdn:50", "imsi:8")
		send(charging.Termination, name, 2, charging.Success, "imsi:8")
		send(charging.Initial, name+"x", 0, charging.UserUnknown, "msisdn:50")
		send(charging.Initial, name+"x", 0, charging.UserUnknown)
		send(charging.Update, "old", uint32(i+1), charging.Success, "imsi:8") // whose it was
	}
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 2_000_000 || bobs != 4_000_000 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

// An event was charged to who had the number between two moves; its repeat comes to an
// instance that reads the directory as it was before both.
func TestAnEventBetweenTwoMoves(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	open(t, s)
	n := start(t, s.Store, "a")
	both(t, n)
	key := tenant.IdentityKey("msisdn:49")
	was, err := s.Store.Load(t.Context(), []store.Key{key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Reassign(t.Context(), "msisdn:49", bob); err != nil {
		t.Fatal(err)
	}
	do(t, n, spending("msisdn:49"), charging.Success)
	if _, err := n.Reassign(t.Context(), "msisdn:49", alice); err != nil {
		t.Fatal(err)
	}
	s.load = func(keys []store.Key, recs []store.Record) {
		if i := slices.Index(keys, key); i >= 0 && s.did.Add(1) == 1 {
			recs[i] = was[0]
		}
	}
	do(t, start(t, s, "b"), spending("msisdn:49"), charging.Success)
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 0 || bobs != 1_000_000 || s.did.Load() == 0 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}
