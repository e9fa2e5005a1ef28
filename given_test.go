package rtm_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

// A slot comes to a lane's node while the lane reads.
func TestASlotMovesWhileALaneReads(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	cat, err := tenant.Load(t.Context(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	sh := rtm.NewShard()
	sh.Version, sh.Jitter = storetest.NewVersion, func(int64) int64 { return 0 }
	sh.Plans = func(name string, plan []byte) charging.Plans { return cat.Plans(name, plan) }
	moved := false
	there := tenant.IdentityKey("imsi:8").Partition
	sh.Here = func(p store.Partition) bool { return p != there || moved }
	in := ccr(charging.Initial, "s", "", 0, 0)
	in.Identities = []string{"imsi:0", "imsi:8"}
	now := n.Now()
	in.Arrived, in.Deadline = now, now.Add(time.Hour)
	recs, err := m.Load(t.Context(), sh.Begin([]*rtm.Inbound{in}, now))
	if err != nil {
		t.Fatal(err)
	}
	moved = true // what n.Node says by now
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("panic: %v", r)
		}
	}()
	sh.Loaded(recs, now)
}

// spending is an event that costs a MiB.
func spending(ids ...string) *rtm.Inbound {
	r := initial("e")
	r.Kind, r.Content, r.Action = charging.Event, 5, charging.DirectDebiting
	r.Asks[0].Want.Octets = 1 << 20
	return &rtm.Inbound{Request: r, Identities: ids, Tenants: []string{"shop"}, OnceDoor: "gy", OnceName: "far;e;0"}
}

// The first identity of an event gets an owner; the repeat reads the directory as it
// was before.
func TestTheFirstIdentityIsNobodysAnyMore(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	open(t, s)
	n := start(t, s.Store, "a")
	both(t, n)
	key := tenant.IdentityKey("imsi:9")
	if _, err := n.Provision(t.Context(), subscription("alice", "imsi:7", "msisdn:49", "imsi:9")); err != nil {
		t.Fatal(err)
	}
	do(t, n, spending("imsi:9", "imsi:8"), charging.Success)
	s.load = func(keys []store.Key, recs []store.Record) {
		if i := slices.Index(keys, key); i >= 0 && s.did.Add(1) == 1 {
			recs[i] = store.Record{}
		}
	}
	do(t, start(t, s, "b"), spending("imsi:9", "imsi:8"), charging.Success)
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices+bobs != 1_000_000 || s.did.Load() == 0 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

// Two moves, and an event between them, after the proof and before the account decides.
func TestTwoMovesAfterTheProof(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	for _, to := range []store.Key{bob, alice} { // alice is not sure of it
		if _, err := n.Reassign(t.Context(), "msisdn:49", to); err != nil {
			t.Fatal(err)
		}
	}
	s := &after{Store: m}
	late := start(t, s, "b")
	key := tenant.IdentityKey("msisdn:49")
	s.commit = func(cs []store.Commit, way func() []store.Result) []store.Result {
		rs := way()
		if slices.ContainsFunc(cs, func(c store.Commit) bool { return c.Writes[0].Key == key && c.Writes[0].Op == store.Check }) && s.did.Add(1) == 1 {
			if _, err := n.Reassign(context.Background(), "msisdn:49", bob); err != nil {
				t.Error(err)
			}
			if a, err := n.Do(context.Background(), spending("msisdn:49")); err != nil || a.Result != charging.Success {
				t.Error(a.Result, err)
			}
			if _, err := n.Reassign(context.Background(), "msisdn:49", alice); err != nil {
				t.Error(err)
			}
		}
		return rs
	}
	do(t, late, spending("msisdn:49"), charging.Success)
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices+bobs != 1_000_000 || s.did.Load() == 0 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

// Whose first identity was given up by an account that is busy: it has a message at
// another instance each time that this one looks at the next identity.
func TestGivenUpByABusyAccount(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	if _, err := n.Provision(t.Context(), subscription("alice", "imsi:7")); err != nil {
		t.Fatal(err)
	}
	do(t, n, ccr(charging.Initial, "busy", "imsi:7", 0, 0), charging.Success)
	h := &hooked{Store: m}
	other, tries := start(t, h, "b"), uint32(0)
	h.load = func(keys []store.Key) error {
		if slices.Contains(keys, tenant.IdentityKey("imsi:8")) && !slices.Contains(keys, tenant.IdentityKey("msisdn:49")) {
			tries++
			do(t, n, ccr(charging.Update, "busy", "imsi:7", tries, 1), charging.Success)
		}
		return nil
	}
	in := ccr(charging.Initial, "s", "", 0, 0)
	in.Identities = []string{"msisdn:49", "imsi:8"}
	a, err := other.Do(t.Context(), in)
	if err != nil || a.Result != charging.Success {
		t.Errorf("after %d messages of alice: %d, %v", tries, a.Result, err)
	}
}

// Four identities, each with former owners, of which the first three were given up.
func TestManyGivenUp(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	ids := []string{"msisdn:1", "msisdn:2", "msisdn:3", "msisdn:4"}
	n.Provision(t.Context(), subscription("carol", append([]string{"imsi:6"}, ids[:3]...)...))
	if _, err := n.Provision(t.Context(), subscription("alice", "imsi:7", "msisdn:4")); err != nil {
		t.Fatal(err)
	}
	do(t, n, spending("msisdn:4"), charging.Success) // alice's
	for _, id := range ids {
		if _, err := n.Reassign(t.Context(), id, bob); err != nil {
			t.Fatal(err)
		}
	}
	do(t, n, spending("msisdn:4"), charging.Success) // a repeat
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 1_000_000 || bobs != 0 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
	if _, err := n.Provision(t.Context(), subscription("bob", "imsi:8", "msisdn:4")); err != nil {
		t.Fatal(err)
	}
	do(t, n, spending(ids...), charging.Success) // the same again
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 1_000_000 || bobs != 0 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

// An update that names an identity which alice has given up, and one that nobody has, is
// none of bob's session of that name.
func TestAGivenUpIdentityIsNotNobody(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	first := ccr(charging.Initial, "s", "imsi:8", 0, 0)
	first.Request.Indexed = true
	do(t, n, first, charging.Success)
	if _, err := n.Provision(t.Context(), subscription("alice", "imsi:7")); err != nil {
		t.Fatal(err)
	}
	do(t, n, ccr(charging.Update, "s", "msisdn:49", 1, 1<<20), charging.UnknownSession)
	in := ccr(charging.Update, "s", "msisdn:49", 1, 1<<20)
	in.Identities = append(in.Identities, "imsi:0")
	if a, err := n.Do(t.Context(), in); err != nil || a.Result != charging.UnknownSession || debited(t, n, bob) != 0 {
		t.Errorf("%d, %v; bob paid %d", a.Result, err, debited(t, n, bob))
	}
}

// What was done for an identity that its account has given up since is not done again for
// the next one that the message names.
func TestARepeatIsNotPassedOn(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	both(t, n)
	send := func(kind charging.Kind, number uint32) {
		t.Helper()
		in := ccr(kind, "s", "msisdn:49", number, 1<<20)
		in.Identities = append(in.Identities, "imsi:8")
		do(t, n, in, charging.Success)
	}
	do(t, n, spending("msisdn:49", "imsi:8"), charging.Success)
	send(charging.Initial, 0)
	send(charging.Termination, 1)
	if _, err := n.Provision(t.Context(), subscription("alice", "imsi:7")); err != nil {
		t.Fatal(err)
	}
	do(t, n, spending("msisdn:49", "imsi:8"), charging.Success) // a repeat
	send(charging.Initial, 0)                                   // another
	a, err := n.Account(t.Context(), bob)
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); err != nil || alices != 2_000_000 || bobs != 0 || len(a.Sessions) != 0 {
		t.Errorf("alice paid %d, bob %d, who has %d sessions", alices, bobs, len(a.Sessions))
	}
}
