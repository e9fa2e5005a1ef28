package rtm_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store/storetest"
	"rtm/tenant"
)

// What a gateway says of its sessions does not make an account so large that its
// timers cannot end them any more.
func TestParticularsDoNotLockAnAccount(t *testing.T) {
	s := storetest.NewMemory()
	open(t, s)
	n := start(t, s, "a")
	both(t, n)
	for i := range 4 {
		do(t, n, ccr(charging.Initial, fmt.Sprint("s", i), "imsi:7", 0, 0), charging.Success)
	}
	for i := range 4 {
		in := ccr(charging.Update, fmt.Sprint("s", i), "imsi:7", 1, 1<<20)
		in.Request.Particulars.APN = bytes.Repeat([]byte("x"), 48_000) // a Called-Station-Id, as Decode hands it on
		if a, err := n.Do(t.Context(), in); err != nil || a.Result != charging.Success && a.Result != charging.UnableToComply {
			t.Fatalf("%d %v", a.Result, err)
		}
	}
	// a day later its timers fire, as often as they like
	cat := must(tenant.Load(t.Context(), s, nil))
	sh := rtm.NewShard()
	sh.Version, sh.Jitter = storetest.NewVersion, func(int64) int64 { return 0 }
	sh.Plans = func(name string, plan []byte) charging.Plans { return cat.Plans(name, plan) }
	now := n.Now().Add(24 * time.Hour)
	for range 5 {
		todo := []*rtm.Inbound{{Request: charging.Request{Kind: charging.Tick}, Account: alice, Arrived: now, Deadline: now.Add(rtm.TickDeadline)}}
		for range 10 {
			recs := must(s.Load(t.Context(), slices.Clone(sh.Begin(todo, now))))
			rs, _ := s.Commit(t.Context(), sh.Loaded(recs, now))
			for _, r := range sh.Committed(rs, now) {
				t.Logf("tick: %d, outcome %d", r.In.Answer.Result, r.Outcome)
			}
			todo, now = nil, now.Add(60*time.Millisecond)
		}
		now = now.Add(time.Minute)
	}
	a := must(n.Account(t.Context(), alice))
	held := int64(0)
	for i := range a.Buckets {
		held += a.Buckets[i].Reserved
	}
	if len(a.Sessions) != 0 || held != 0 {
		t.Errorf("%d sessions are still open and hold %d", len(a.Sessions), held)
	}
}
