package rtm_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rating"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/embed"
	"rtm/store/redis"
	"rtm/store/storetest"
	"rtm/tenant"
)

// lines is a log that tests read.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(words ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// customers makes accounts, each with an open session, and returns their keys.
func customers(t *testing.T, n *rtm.Instance, accounts int) (keys []store.Key) {
	t.Helper()
	var subs []rtm.Subscription
	for i := range accounts {
		name := fmt.Sprintf("c%03d", i)
		keys = append(keys, tenant.AccountKey("shop", name))
		subs = append(subs, rtm.Subscription{Tenant: "shop", Account: name, Profile: charging.Profile{
			Plan: "gold", Identities: []string{"imsi:" + name}, Money: 10_000_000,
		}})
	}
	for _, p := range n.ProvisionAll(t.Context(), subs) {
		if p.Err != nil {
			t.Fatal(p.Err)
		}
	}
	for i, k := range keys {
		if a, err := n.Do(t.Context(), &rtm.Inbound{Account: k, Request: initial(fmt.Sprint("s", i))}); err != nil || a.Result != charging.Success {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	return keys
}

// spoil changes an account behind the program's back: a balance or a timer.
func spoil(t *testing.T, s store.Store, k store.Key, edit func(a *charging.Account, c *store.Commit)) {
	t.Helper()
	recs, err := s.Load(t.Context(), []store.Key{k})
	if err != nil {
		t.Fatal(err)
	}
	var a charging.Account
	if err := a.Decode(recs[0].Bytes); err != nil || a.DecodeAll() != nil {
		t.Fatal("the account cannot be decoded")
	}
	c := store.Commit{Writes: []store.Write{{Op: store.Put, Key: k, Seen: recs[0].Version, New: storetest.NewVersion()}}}
	edit(&a, &c)
	if c.Writes[0].Bytes == nil {
		c.Writes[0].Bytes = a.Append(nil)
	}
	if rs, _ := s.Commit(t.Context(), []store.Commit{c}); rs[0].Outcome != store.Done {
		t.Fatal(rs[0])
	}
}

// eventless credits an account, and drops the entry of it.
func eventless(t *testing.T, s store.Store, k store.Key) {
	t.Helper()
	spoil(t, s, k, func(a *charging.Account, c *store.Commit) {
		var o charging.Outcome
		w := &charging.World{Now: time.Now(), Plans: noPlan{}, Tenant: "shop", Version: c.Writes[0].New}
		if charging.Step(a, &charging.Request{Kind: charging.TopUp, Amount: 7, Cause: "x"}, w, &o); !o.Changed {
			t.Fatalf("%+v", o.Answer)
		}
	})
}

type noPlan struct{}

func (noPlan) Current(time.Time) *rating.Plan { return nil }
func (noPlan) Next(time.Time) time.Time       { return time.Time{} }
func (noPlan) Version(uint32) *rating.Plan    { return nil }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// onRecord are the entries of a sort that all streams hold, by account.
func onRecord(t *testing.T, s store.Store, sort charging.Sort) map[string][]charging.Entry {
	t.Helper()
	found := make(map[string][]charging.Entry)
	for p := range store.Partitions {
		events, err := s.Events(t.Context(), store.Partition(p), 0, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			var e charging.Entry
			if err := e.Decode(ev.Bytes); err != nil {
				t.Fatal(err)
			}
			if e.Sort == sort {
				found[e.Account] = append(found[e.Account], e)
			}
		}
	}
	return found
}

// auditing starts an instance that audits all the time, and writes to a log.
func auditing(t *testing.T, s store.Store, name string, log *lines) *rtm.Instance {
	t.Helper()
	n, err := rtm.Start(t.Context(), rtm.Config{
		Name: name, Store: s, Log: slog.New(slog.NewTextHandler(log, nil)), Audit: 5000, AuditEvery: 100 * time.Millisecond,
		Presence: rtm.Presence{PeerHost: name, Diameter: []string{name}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	return n
}

func stores(t *testing.T, each func(t *testing.T, s store.Store)) {
	for name, open := range map[string]func(t *testing.T) (store.Store, error){
		"embedded": func(t *testing.T) (store.Store, error) { return embed.Open(embed.Config{Dir: t.TempDir()}) },
		"redis": func(t *testing.T) (store.Store, error) {
			return redis.Open(t.Context(), redis.Config{URL: "redis://" + rtmtest.StartRedis(t).Addr})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait most of the time
			s, err := open(t)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			each(t, s)
		})
	}
}

// What is planted in a store that is in use is found, in each walk once, and put
// on record; money stays as it is; a timer that is gone is set again, and fires.
func TestAuditOfAStore(t *testing.T) {
	stores(t, func(t *testing.T, s store.Store) {
		open(t, s)
		setup := start(t, s, "setup")
		keys := customers(t, setup, 40)
		setup.Stop()
		var want charging.Account
		spoil(t, s, keys[3], func(a *charging.Account, _ *store.Commit) { a.Buckets[0].Debited++; want = *a })
		spoil(t, s, keys[7], func(a *charging.Account, _ *store.Commit) { a.Buckets[0].Reserved++ })
		spoil(t, s, keys[9], func(_ *charging.Account, c *store.Commit) { c.Writes[0].Bytes = []byte{0xff} })
		spoil(t, s, keys[11], func(a *charging.Account, c *store.Commit) { // its timer is lost, and was due long ago
			for i := range a.Sessions {
				a.Sessions[i].Wake, a.Sessions[i].Close = time.Now().Add(-time.Hour), time.Now().Add(-time.Hour)
				for j := range a.Sessions[i].Groups {
					a.Sessions[i].Groups[j].Release = time.Now().Add(-time.Hour)
				}
			}
			a.Armed = a.Sessions[0].Wake
			c.Index = store.Exact
		})
		spoil(t, s, keys[13], func(a *charging.Account, c *store.Commit) { a.Armed, c.Index = time.Time{}, store.Exact }) // … and will be due
		again := start(t, s, "again")
		topUp := func(k store.Key, name string) {
			t.Helper()
			if a, err := again.TopUp(t.Context(), k, name, 7, charging.Bucket{}, "x"); err != nil || a.Result != charging.Success {
				t.Fatalf("%+v, %v", a, err)
			}
		}
		eventless(t, s, keys[17]) // the entry of a commit is lost, and another one follows
		topUp(keys[17], "after")
		older := must(s.Load(t.Context(), keys[19:20]))[0].Bytes // a record falls back behind its entries
		topUp(keys[19], "lost")
		spoil(t, s, keys[19], func(_ *charging.Account, c *store.Commit) { c.Writes[0].Bytes = older })
		again.Stop()
		log := &lines{}
		n := auditing(t, s, "A", log)
		others := auditing(t, s, "B", log)
		first := rtm.AuditCounts{}
		until(t, time.Minute, "a walk is whole", func() bool {
			first = n.Audited()
			return first.Walks > 0
		})
		if first.Whole != 40 || first.Walked.IsZero() {
			t.Errorf("a walk saw %d accounts: %+v", first.Whole, first)
		}
		until(t, time.Minute, "the lost timer has fired", func() bool {
			a, err := n.Account(t.Context(), keys[11])
			return err == nil && len(a.Sessions) == 0
		})
		walks := n.Audited().Walks
		until(t, time.Minute, "two more walks", func() bool { return n.Audited().Walks > walks+1 })
		idle := others.Audited() // before A leaves, and B takes over
		n.Stop()
		got := n.Audited()
		for name, least := range map[string]int64{"I1": 0, "I2": got.Walks, "I3": 3 * got.Walks, "record": got.Walks, "timer": 2} {
			most := least + 3 // of the walk that had not ended
			if name == "timer" || name == "I1" {
				most = least
			}
			if c := got.Mismatches[name]; c < least || c > most {
				t.Errorf("%s: found %d times in %d walks", name, c, got.Walks)
			}
		}
		if idle.Accounts != 0 {
			t.Errorf("the other instance audited %d accounts as well", idle.Accounts)
		}
		audited := onRecord(t, s, charging.Audited)
		for account, text := range map[string]string{"c003": "I3", "c007": "I2", "c011": "timer", "c013": "timer", "c017": "I3", "c019": "I3"} {
			if es := audited[account]; len(es) == 0 || es[0].Text != "does not hold: "+text || es[0].Number == 0 {
				t.Errorf("on record for %s: %+v", account, es)
			}
		}
		if len(audited) != 6 {
			t.Errorf("on record are %v", slices.Sorted(maps.Keys(audited)))
		}
		for words, least := range map[string]int{"shop/c003 invariant=I3": 1, "shop/c007 invariant=I2": 1, "shop/c009 invariant=record": 1, "timer was lost account=shop/c011": 1} {
			if log.count(strings.Fields(words)...) < least {
				t.Errorf("no line says %s", words)
			}
		}
		if log.count("timer", "shop/c011") != 1 || log.count("timer", "shop/c013") != 1 || len(audited["c011"])+len(audited["c013"]) != 2 {
			t.Error("a timer that was set again is reported again")
		}
		a, err := others.Account(t.Context(), keys[3])
		if err != nil || a.Buckets[0].Debited != want.Buckets[0].Debited || a.Buckets[0].Credited != want.Buckets[0].Credited {
			t.Errorf("a balance was changed: %+v, %v", a.Buckets, err)
		}
		if a, err = others.Account(t.Context(), keys[7]); err != nil || a.Buckets[0].Reserved != 2_000_001 {
			t.Errorf("a reservation was changed: %+v, %v", a.Buckets, err)
		}
		if at := wakeOf(t, s, keys[13]); at.IsZero() || at.Before(time.Now()) {
			t.Errorf("the timer that was gone is set to %s", at)
		}
	})
}

// until is rtmtest.Until for what takes longer.
func until(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", most, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// wakeOf is when the record's partition is due next.
func wakeOf(t *testing.T, s store.Store, k store.Key) time.Time {
	t.Helper()
	_, next, _, err := s.Due(t.Context(), []store.Partition{k.Partition}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// Under load an audit finds nothing: whatever it reads is a record as a commit
// left it.
func TestAuditUnderLoad(t *testing.T) {
	stores(t, func(t *testing.T, s store.Store) {
		open(t, s)
		log := &lines{}
		n := auditing(t, s, "A", log)
		keys := customers(t, n, 20)
		var busy sync.WaitGroup
		for i, k := range keys {
			busy.Go(func() {
				for number := uint32(1); number <= 60; number++ {
					r := initial(fmt.Sprint("s", i))
					r.Kind, r.Number, r.Content = charging.Update, number, uint64(number)
					r.Asks[0].Reports, r.Asks[0].Used.Octets = true, 1000
					if a, err := n.Do(t.Context(), &rtm.Inbound{Account: k, Request: r}); err != nil || a.Result != charging.Success {
						t.Errorf("%+v, %v", a, err)
						return
					}
				}
			})
		}
		busy.Wait()
		until(t, time.Minute, "some walks", func() bool { return n.Audited().Walks > 2 })
		if c := n.Audited(); len(c.Mismatches) > 0 || c.Accounts < 40 {
			t.Errorf("%+v", c)
		}
	})
}

// A deadline that has passed is no lost timer while timers are late: not before
// all of them have caught up, and this one has not for some seconds more.
func TestAuditWaitsForLateTimers(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	n := start(t, s, "A")
	subscribe(t, n)
	n.Stop()
	recs, err := s.Load(t.Context(), []store.Key{alice})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(2 * time.Hour)
	a := rtm.Auditor{Rate: 100}
	a.Part(now)
	twice := []store.Key{alice, alice} // a scan may see it twice
	ins, found := a.Scanned(twice, slices.Repeat(recs, 2), nil, now, time.Time{})
	if len(ins)+len(found) != 0 || a.Ended(now) {
		t.Fatalf("reported at once: %v %v", ins, found)
	}
	again := func(calm time.Time) int {
		if keys := a.Again(now); len(keys) == 0 {
			return 0
		}
		ins, found = a.Loaded(recs, now, calm)
		return len(ins) + len(found)
	}
	now = now.Add(6 * time.Second)
	if again(time.Time{}) != 0 || again(now.Add(-time.Second)) != 0 {
		t.Error("reported while timers are late")
	}
	if again(now.Add(-time.Minute)) != 1 || !ins[0].Request.Calm || ins[0].Request.Kind != charging.Audit {
		t.Fatalf("not reported: %v", ins)
	}
	ins[0].Answer = charging.Answer{Result: charging.Success, Faults: charging.FaultTimer}
	if found = a.Judged(ins, []rtm.Outcome{rtm.Answered}); len(found) != 1 || found[0].Account != alice || a.Counts.Mismatches["timer"] != 1 {
		t.Errorf("%v", found)
	}
	again(now.Add(-time.Minute))
	read := func() {
		for _, _, ok := a.Stream(now); ok; _, _, ok = a.Stream(now) {
			a.Read(nil)
			a.Linked(nil, now)
		}
	}
	if a.Ended(now) {
		t.Error("a walk ends before the events were read")
	}
	read()
	if !a.Ended(now) || a.Counts.Walks != 1 || a.Counts.Whole != 2 || a.Next().Sub(now) < 4*time.Minute {
		t.Errorf("%+v, next in %s", a.Counts, a.Next().Sub(now))
	}

	now = now.Add(time.Hour)
	a.Part(now)
	a.Scanned(twice[:1], recs, nil, now, time.Time{})
	if read(); a.Ended(now.Add(time.Minute)) {
		t.Error("a walk ends before its suspects are looked at again")
	}
	now = now.Add(3 * time.Minute)
	if again(time.Time{}) != 0 || !a.Ended(now) {
		t.Error("a walk never ends while timers are late")
	}
	a.Part(now)
	a.Scanned(twice[:1], recs, []byte("x"), now, time.Time{})
	a.Rest(now)
	if cursor, _, ok := a.Part(now); cursor != nil || !ok || len(a.Again(now.Add(time.Hour))) != 0 {
		t.Error("a walk that another instance goes on with is not forgotten")
	}
}

// The log shows whose account it is by the last digits only.
func TestVeil(t *testing.T) {
	for name, want := range map[string]string{
		"lab/imsi-001010000000001": "lab/imsi-…0001", "shop/alice": "shop/alice", "host;1;2;IMSI001010000000001": "host;1;2;IMSI…0001",
	} {
		if got := rtm.Veil(name); got != want {
			t.Errorf("%s is shown as %s", name, got)
		}
	}
}
