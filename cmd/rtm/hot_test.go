package main

import (
	"testing"
	"time"

	"rtm/rtmtest"
)

// hotLab runs instances, each with a client of its own on one Redis; with
// several, the last one is 2 ms further away from it, there and back.
func hotLab(t testing.TB, redis *rtmtest.Redis, instances int) *lab {
	t.Helper()
	far := rtmtest.StartRelay(t, redis.Addr, time.Millisecond)
	var l *lab
	for n := range instances {
		addr := redis.Addr
		if n > 0 && n == instances-1 {
			addr = far.Addr
		}
		st, err := openStore(t.Context(), &config{Store: "redis://" + addr}, quiet(t))
		if err != nil {
			t.Fatal(err)
		}
		if l == nil {
			l = startLab(t, st, 1)
			continue
		}
		l.store = st
		i, err := l.add(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.targets = append(l.targets, i.addrs[0])
	}
	return l
}

// hammer has 64 sessions report without a pause for some seconds over that many
// accounts, each to one instance, or every message to another.
func hammer(t testing.TB, l *lab, accounts int, hop bool) *outcome {
	t.Helper()
	o := simulate(t, l, func(p *play) {
		p.subscribers, p.accounts, p.records = max(accounts, 16), accounts, ""
		p.conf.Sessions, p.conf.Parallel, p.conf.Updates, p.conf.Length, p.conf.Hop = 64, 64, 1<<30, 2*time.Second, hop
	})
	all(t, o)
	return o
}

// share is the part of all messages that one target answered.
func share(o *outcome, target string) float64 {
	mine, sum := int64(0), int64(0)
	for name, row := range o.Matrix {
		for _, n := range row {
			if sum += n; name == target {
				mine += n
			}
		}
	}
	return float64(mine) / float64(sum)
}

// 64 sessions on one account, over 1, 2 and 4 instances, one of them further
// away from the store: exact, nothing waits for a second, and the far instance
// gets at least half of what it gets where there is nobody to compete with.
func TestHotAccount(t *testing.T) {
	for _, instances := range []int{1, 2, 4} {
		l := hotLab(t, rtmtest.StartRedis(t), instances)
		far := func(o *outcome) float64 { return share(o, l.targets[instances-1]) * float64(instances) }
		for _, hop := range []bool{false, true} {
			hot, spread := hammer(t, l, 1, hop), hammer(t, l, 64, hop)
			t.Logf("%d instances, hop %v: one account %.0f/s, p99 %s, slowest %s; 64 accounts %.0f/s, p99 %s; ratio %.2f; the far one has %.2f of an equal share, spread %.2f",
				instances, hop, hot.Rate, hot.P99, hot.Max, spread.Rate, spread.P99, hot.Rate/spread.Rate, far(hot), far(spread))
			if far(hot) < far(spread)/2 {
				t.Errorf("%d instances: the far one has %.2f of an equal share, with accounts of its own it has %.2f", instances, far(hot), far(spread))
			}
			if hot.Max > time.Second {
				t.Errorf("%d instances: a message waited %s", instances, hot.Max)
			}
		}
	}
}
