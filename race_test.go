package rtm_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

const brief = `kind: Tenant
name: shop
currency: EUR
---
kind: Plan
tenant: shop
name: gold
grace: 1 s
services:
  - {name: data, unit: octets, price: "1.00", per: 1 MiB, quota: {size: 2 MiB, validity: 2 s}}
`

// Sessions end by a termination that comes about when their reservation goes back,
// or when they are closed, some of them twice and at two instances, while those who claim timers die with
// what they have claimed: each session is closed once and charged once, and nothing
// stays reserved.
func TestTerminationsRaceTimers(t *testing.T) {
	sessions := 1000
	if os.Getenv("RTM_FAULTS") == "long" {
		sessions = 20_000
	}
	everywhere(t, func(t *testing.T, s store.Store) {
		docs, err := tenant.Parse("shop.yaml", []byte(brief))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tenant.Apply(t.Context(), s, docs, false); err != nil {
			t.Fatal(err)
		}
		race{t, s, []*rtm.Instance{start(t, s, "A"), start(t, s, "B")}, sessions}.run()
	})
}

type race struct {
	t         *testing.T
	store     store.Store
	instances []*rtm.Instance
	sessions  int
}

const (
	raceDue    = 3 * time.Second // validity and grace: the reservation goes back
	raceClose  = 5 * time.Second // twice the validity, and grace: the session is closed
	raceSpread = 30 * time.Millisecond
	raceRate   = 2000 // sessions a second
	raceUsed   = 1000 // octets, reported by the termination
)

func (r race) run() {
	r.t.Helper()
	var subs []rtm.Subscription
	for i := range r.sessions {
		subs = append(subs, rtm.Subscription{Tenant: "shop", Account: fmt.Sprint(i), Profile: charging.Profile{
			Plan: "gold", Identities: []string{fmt.Sprintf("imsi:%015d", i)}, Money: 10_000_000,
		}})
	}
	for _, p := range r.instances[0].ProvisionAll(r.t.Context(), subs) {
		if p.Err != nil {
			r.t.Fatal(p.Err)
		}
	}
	ctx, stop := context.WithCancel(r.t.Context())
	var dying sync.WaitGroup
	dying.Go(func() { r.die(ctx) })
	var all sync.WaitGroup
	var twice, late atomic.Int64
	pace := time.NewTicker(time.Second / raceRate * 20)
	for i := range r.sessions {
		if i%20 == 0 {
			<-pace.C
		}
		all.Go(func() { r.session(i, &twice, &late) })
	}
	all.Wait()
	stop()
	dying.Wait()
	r.settled()
	r.check()
	r.t.Logf("%d sessions, %d terminated twice at once, %d terminations came after the close", r.sessions, twice.Load(), late.Load())
}

// die claims what is due now and then, and does nothing with it.
func (r race) die(ctx context.Context) {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if rand.IntN(5) == 0 {
			r.store.Due(ctx, nil, 64, rtm.TickLease)
		}
	}
}

// do sends a request until it is answered.
func (r race) do(i int, q charging.Request) charging.Result {
	for {
		a, err := r.instances[i%len(r.instances)].Do(r.t.Context(), &rtm.Inbound{Account: tenant.AccountKey("shop", string(q.Session)), Request: q})
		if err == nil {
			return a.Result
		}
		if r.t.Context().Err() != nil {
			return 0
		}
		i++
	}
}

func (r race) session(i int, twice, late *atomic.Int64) {
	opened := r.instances[0].Now()
	if res := r.do(i, initial(fmt.Sprint(i))); res != charging.Success {
		r.t.Errorf("session %d: opened with %v", i, res)
		return
	}
	end := initial(fmt.Sprint(i))
	end.Kind, end.Number, end.Content = charging.Termination, 1, 2
	end.Asks = []charging.Ask{{Group: 1, Has: charging.HasGroup, Reports: true}}
	end.Asks[0].Used.Octets = raceUsed
	due := raceDue
	if i%2 == 0 {
		due = raceClose
	}
	<-time.After(due - r.instances[0].Now().Sub(opened) - raceSpread + rand.N(2*raceSpread))
	n := 1
	if i%10 < 3 {
		n = 2
		twice.Add(1)
	}
	var ends sync.WaitGroup
	var answers [2]charging.Result
	for k := range n {
		ends.Go(func() {
			q := end
			q.Asks = slices.Clone(end.Asks)
			answers[k] = r.do(i+k, q)
		})
	}
	ends.Wait()
	switch {
	case n == 2 && answers[0] != answers[1]:
		r.t.Errorf("session %d: one termination, answered %v and %v", i, answers[0], answers[1])
	case answers[0] == charging.UnknownSession:
		late.Add(1)
	case answers[0] != charging.Success:
		r.t.Errorf("session %d: terminated with %v", i, answers[0])
	}
}

// settled waits until no account has a session or a reservation.
func (r race) settled() {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(100 * time.Millisecond) {
		open := 0
		r.accounts(func(a *charging.Account, _ string) {
			if len(a.Sessions) > 0 || a.Buckets[0].Reserved != 0 {
				open++
			}
		})
		if open == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d accounts still have a session or a reservation", open)
		}
	}
}

func (r race) accounts(each func(a *charging.Account, name string)) {
	r.t.Helper()
	var a charging.Account
	for cursor, first := []byte(nil), true; first || cursor != nil; first = false {
		keys, recs, next, err := r.store.Scan(r.t.Context(), cursor, 4096)
		if err != nil {
			r.t.Fatal(err)
		}
		for i, k := range keys {
			if k.Kind != tenant.KindAccount {
				continue
			}
			if err := a.Decode(recs[i].Bytes); err != nil || a.DecodeAll() != nil {
				r.t.Fatal(k, err)
			}
			_, name := tenant.AccountOf(k)
			each(&a, name)
		}
		cursor = next
	}
}

// check holds the accounts and their entries against one close and one charge.
func (r race) check() {
	r.t.Helper()
	finals, debits := make(map[string]int), make(map[string]int64)
	var e charging.Entry
	for p := range store.Partition(store.Partitions) {
		for after := uint64(0); ; {
			events, err := r.store.Events(r.t.Context(), p, after, 1000)
			if err != nil {
				r.t.Fatal(err)
			}
			for _, ev := range events {
				if err := e.Decode(ev.Bytes); err != nil {
					r.t.Fatal(err)
				}
				if after = ev.Seq; e.Sort == charging.FinalRecord {
					finals[e.Account]++
				}
				for _, m := range e.Movements {
					debits[e.Account] += m.Debit
				}
			}
			if len(events) < 1000 {
				break
			}
		}
	}
	seen := 0
	const price = (raceUsed*1_000_000 + 1<<20 - 1) >> 20 // micro-units, rounded up
	r.accounts(func(a *charging.Account, name string) {
		seen++
		if finals[name] != 1 || a.Buckets[0].Debited != debits[name] || debits[name] < price-1 || debits[name] > price {
			r.t.Errorf("account %s: closed %d times, debited %d, by its entries %d, want %d", name, finals[name], a.Buckets[0].Debited, debits[name], price)
		}
	})
	if seen != r.sessions {
		r.t.Errorf("%d of %d accounts are there", seen, r.sessions)
	}
}
