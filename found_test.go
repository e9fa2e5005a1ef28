package rtm_test

import (
	"context"
	"errors"
	"slices"
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

// after is a store whose results somebody changes before they are told.
type after struct {
	store.Store
	did atomic.Int64
	// commit carries out cs by its way, once; nil: nothing is changed
	commit func(cs []store.Commit, way func() []store.Result) []store.Result
	load   func(keys []store.Key, recs []store.Record)
}

func (a *after) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	recs, err := a.Store.Load(ctx, keys)
	if a.load != nil && err == nil {
		a.load(keys, recs)
	}
	return recs, err
}

func (a *after) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	if a.commit == nil {
		return a.Store.Commit(ctx, cs)
	}
	_, now := a.Store.Commit(ctx, nil)
	return a.commit(cs, func() []store.Result {
		rs, _ := a.Store.Commit(ctx, cs)
		return rs
	}), now
}

// writes is where in cs that record is written; −1: nowhere.
func writes(cs []store.Commit, key store.Key) int {
	return slices.IndexFunc(cs, func(c store.Commit) bool {
		return slices.ContainsFunc(c.Writes, func(w store.Write) bool { return w.Key == key && w.Op == store.Put })
	})
}

// nameless is a message of session s that names nobody, as later ones of gateways
// with a session index may.
func nameless(in *rtm.Inbound) *rtm.Inbound {
	in.Identities, in.Request.Indexed = nil, true
	return in
}

// indexed is a message whose gateway needs a session index.
func indexed(in *rtm.Inbound) *rtm.Inbound {
	in.Request.Indexed = true
	return in
}

// A conflict proves nothing: where it was found another master may have taken over.
func TestAConflictIsNoProofOfTheIndex(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	open(t, s)
	n := start(t, s, "a")
	both(t, n)
	key := tenant.SessionKey("far", "s", 0)
	s.commit = func(cs []store.Commit, way func() []store.Result) []store.Result {
		i := writes(cs, key)
		if i < 0 || s.did.Add(1) > 2 {
			return way()
		}
		if w := cs[i].Writes[0]; s.did.Load() == 2 { // it was carried out by a master that is none any more
			return []store.Result{{Outcome: store.Conflict, Fresh: []store.Record{{Version: w.New, Bytes: w.Bytes}}}}
		}
		cs = slices.Delete(slices.Clone(cs), i, i+1)
		rs, _ := s.Store.Commit(t.Context(), cs)
		return slices.Insert(rs, i, store.Result{Outcome: store.InDoubt, Err: errors.New("cut")})
	}
	do(t, n, indexed(ccr(charging.Initial, "s", "imsi:7", 0, 0)), charging.Success)
	if s.did.Load() < 2 {
		t.Fatal("nothing was in doubt")
	}
	do(t, n, nameless(ccr(charging.Update, "s", "", 1, 1<<20)), charging.Success)
}

// A session is no newer for a repeat of its first message.
func TestARepeatTakesNoUsageOfALaterSession(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	n := start(t, s, "a")
	both(t, n)
	do(t, n, indexed(ccr(charging.Initial, "s", "imsi:7", 0, 0)), charging.Success)
	do(t, n, indexed(ccr(charging.Initial, "s", "imsi:8", 0, 0)), charging.Success)
	do(t, n, indexed(ccr(charging.Initial, "s", "imsi:7", 0, 0)), charging.Success)
	do(t, n, nameless(ccr(charging.Update, "s", "", 1, 1<<20)), charging.Success)
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 0 || bobs != 1_000_000 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

// Usage that names nobody is charged once, though somebody opens a session of that
// name while it is, or nobody knows for a while whether it was.
func TestUsageIsNotChargedAtTwo(t *testing.T) {
	for _, c := range []struct {
		name   string
		late   bool
		doubt  bool
		result charging.Result
	}{
		{"late", true, false, charging.UnknownSession},
		{"in doubt", false, true, charging.Success},
		{"late and in doubt", true, true, charging.UnknownSession},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &after{Store: storetest.NewMemory()}
			open(t, s)
			n, other := start(t, s, "a"), start(t, s.Store, "b")
			both(t, n)
			do(t, n, indexed(ccr(charging.Initial, "s", "imsi:7", 0, 0)), charging.Success)
			if c.late {
				do(t, n, indexed(ccr(charging.Termination, "s", "imsi:7", 1, 0)), charging.Success)
			}
			s.commit = func(cs []store.Commit, way func() []store.Result) []store.Result {
				i := writes(cs, alice)
				if i < 0 || s.did.Add(1) > 1 {
					return way()
				}
				b := indexed(ccr(charging.Initial, "s", "imsi:8", 0, 0))
				if a, err := other.Do(t.Context(), b); err != nil || a.Result != charging.Success {
					t.Errorf("bob's session: %d %v", a.Result, err)
				}
				rs := way()
				if c.doubt {
					for i := range rs {
						rs[i] = store.Result{Outcome: store.InDoubt, Err: errors.New("cut")}
					}
				}
				return rs
			}
			do(t, n, nameless(ccr(charging.Update, "s", "", 2, 1<<20)), c.result)
			if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 1_000_000 || bobs != 0 {
				t.Errorf("alice paid %d, bob %d", alices, bobs)
			}
		})
	}
}

func debiting(session, identity string) *rtm.Inbound {
	r := initial(session)
	r.Kind, r.Content, r.Action = charging.Event, 5, charging.DirectDebiting
	r.Asks[0].Want.Octets = 1 << 20
	return &rtm.Inbound{Request: r, Identities: []string{identity}, Tenants: []string{"shop"}, OnceDoor: "gy", OnceName: "far;" + session + ";0"}
}

// What an account did before its number was moved is not read from where another
// master has taken over: it is not done again.
func TestAnOldMemoryIsNotBelieved(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	open(t, s)
	n := start(t, s, "a")
	both(t, n)
	do(t, n, debiting("e", "msisdn:49"), charging.Success)
	if _, err := n.Reassign(t.Context(), "msisdn:49", bob); err != nil {
		t.Fatal(err)
	}
	once := tenant.OnceKey(alice, "gy", "far;e;0")
	s.load = func(keys []store.Key, recs []store.Record) {
		if i := slices.Index(keys, once); i >= 0 && s.did.Add(1) == 1 {
			recs[i] = store.Record{}
		}
	}
	do(t, start(t, s, "b"), debiting("e", "msisdn:49"), charging.Success)
	if alices, bobs := debited(t, n, alice), debited(t, n, bob); alices != 1_000_000 || bobs != 0 || s.did.Load() == 0 {
		t.Errorf("alice paid %d, bob %d", alices, bobs)
	}
}

// What is refused does not take effect later, when a commit arrives that was in doubt.
func TestARefusalEndsTheDoubt(t *testing.T) {
	m := storetest.NewMemory()
	open(t, m)
	n := start(t, m, "a")
	sub := subscription("alice", "imsi:7")
	sub.Profile.Money, sub.Profile.Buckets = 0, []charging.Bucket{{Unit: rating.Money, Credited: 10_000_000, Until: n.Now().Add(time.Hour)}}
	must(n.Provision(t.Context(), sub))
	cat := must(tenant.Load(t.Context(), m, nil))
	sh := rtm.NewShard()
	sh.Version, sh.Jitter = storetest.NewVersion, func(int64) int64 { return 0 }
	sh.Plans = func(name string, plan []byte) charging.Plans { return cat.Plans(name, plan) }
	now := n.Now()
	in := debiting("e", "imsi:7")
	in.Account, in.Arrived, in.Deadline, in.Request.Identity = alice, now, now.Add(3*time.Hour), []byte("imsi:7")
	cycle := func(todo []*rtm.Inbound, commit func([]store.Commit) []store.Result) []rtm.Reply {
		now = now.Add(60 * time.Millisecond)
		recs := must(m.Load(t.Context(), slices.Clone(sh.Begin(todo, now))))
		return sh.Committed(commit(sh.Loaded(recs, now)), now)
	}
	var late store.Commit
	cycle([]*rtm.Inbound{in}, func(cs []store.Commit) []store.Result {
		late.Writes = slices.Clone(cs[0].Writes)
		for i := range late.Writes {
			late.Writes[i].Bytes = slices.Clone(late.Writes[i].Bytes)
		}
		return []store.Result{{Outcome: store.InDoubt, Err: errors.New("cut")}}
	})
	now = now.Add(2 * time.Hour) // what she had is gone
	left := cycle(nil, func(cs []store.Commit) []store.Result {
		rs, _ := m.Commit(t.Context(), cs)
		return rs
	})
	if len(left) != 1 || left[0].Outcome != rtm.Answered || in.Answer.Result != charging.CreditLimitReached {
		t.Fatalf("%+v: %d", left, in.Answer.Result)
	}
	rs, _ := m.Commit(t.Context(), []store.Commit{late})
	if paid := debited(t, n, alice); paid != 0 || rs[0].Outcome != store.Conflict {
		t.Errorf("after the refusal %d was paid: the commit was %s", paid, rs[0].Outcome)
	}
}

// A session whose number was moved is found as long as it lives, also if its gateway
// needs no session index.
func TestMovedSessionsStayFindable(t *testing.T) {
	s := &after{Store: storetest.NewMemory()}
	open(t, s)
	n := start(t, s, "a")
	both(t, n)
	key := tenant.SessionKey("far", "s", 0)
	var kept atomic.Int64
	s.commit = func(cs []store.Commit, way func() []store.Result) []store.Result {
		if i := writes(cs, key); i >= 0 {
			kept.Store(int64(cs[i].Writes[0].Expire))
		}
		return way()
	}
	do(t, n, ccr(charging.Initial, "s", "msisdn:49", 0, 0), charging.Success)
	for i, to := range []store.Key{bob, alice, bob} {
		kept.Store(0)
		if _, err := n.Reassign(t.Context(), "msisdn:49", to); err != nil {
			t.Fatal(err)
		}
		if kept := time.Duration(kept.Load()); i != 1 && kept < 24*time.Hour { // the second time it was not alice's
			t.Errorf("move %d: the index knows the session for %s", i, kept)
		}
	}
	kept.Store(0)
	do(t, n, ccr(charging.Update, "s", "msisdn:49", 1, 1<<20), charging.Success)
	a, err := n.Account(t.Context(), alice)
	if err != nil || len(a.Sessions) != 1 {
		t.Fatal(len(a.Sessions), err)
	}
	if until := a.Sessions[0].Indexed; until.Before(a.Sessions[0].Remembered()) || kept.Load() == 0 {
		t.Errorf("its message has renewed the index until %s, it is remembered until %s", until, a.Sessions[0].Remembered())
	}
}
