package main

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"rtm/cdr"
	"rtm/charging"
	"rtm/ctf"
	"rtm/rtmtest"
	"rtm/tenant"
)

// vanished is what happens to sessions whose gateway is never heard of again,
// on two instances. The validity is longer than a claim's lease and a poll: what
// a killed instance held would else be closed before it is released.
type vanished struct {
	sessions        int
	rate            float64 // sessions that are abandoned, and so fall due, per second
	validity, grace time.Duration
	kill            bool          // end one instance with SIGKILL in the middle of the releases
	away            time.Duration // end both when all sessions are open, and start them again after so long
}

// pair is two instances in processes of their own on one Redis.
type pair struct {
	procs   []*process
	targets []string
	apis    []string
	redis   *rtmtest.Redis
	records string
}

// startPair runs them until the test ends. before is done when Redis is there.
func startPair(t testing.TB, before func(p *pair)) *pair {
	t.Helper()
	p := &pair{redis: rtmtest.StartRedis(t), records: t.TempDir()}
	before(p)
	for range 2 {
		p.join(t)
	}
	return p
}

// join starts one more instance, and waits until it serves.
func (p *pair) join(t testing.TB) {
	t.Helper()
	p.joinAt(t, rtmtest.FreeAddr(t))
}

// joinAt is join, where gateways look for it already.
func (p *pair) joinAt(t testing.TB, target string) {
	t.Helper()
	api := rtmtest.FreeAddr(t)
	name := string(rune('a' + len(p.procs)))
	p.targets, p.apis = append(p.targets, target), append(p.apis, "http://"+api)
	p.procs = append(p.procs, run(t, "serve", "--store", "redis://"+p.redis.Addr, "--name", name, "--peer-host", name+".ocs.example",
		"--diameter", target, "--http", api, "--records", p.records))
	rtmtest.Until(t, name+" is ready", ready(p.apis[len(p.apis)-1]))
}

// leave ends an instance by SIGTERM, and checks that it says it went in good
// order.
func (p *process) leave() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("after SIGTERM: %v\n%s", err, p.out.String())
	}
}

// lateness is how late sessions were released and closed, in order.
type lateness struct{ release, close []time.Duration }

// run abandons sessions, waits until time has ended them all, and holds the
// record files against what must be in them.
func (v vanished) run(t testing.TB) lateness {
	t.Helper()
	var imsis []string
	p := startPair(t, func(p *pair) {
		st, err := openStore(t.Context(), &config{Store: "redis://" + p.redis.Addr}, quiet(t))
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		imsis = fill(t, st, v.sessions, v.validity, v.grace)
	})
	sim, err := ctf.New(ctf.Config{
		Targets: p.targets, Host: scaleHost, Realm: scaleRealm, IMSIs: imsis, Sessions: v.sessions, Groups: 1, Rate: v.rate,
		Leave: true, Hop: true, Seed: 1764000000,
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := sim.Run(t.Context()); err != nil || sim.Counts.Left.Load() != int64(v.sessions) {
		t.Fatalf("%d of %d sessions are open: %v %s", sim.Counts.Left.Load(), v.sessions, err, sim.FirstFailure())
	}
	if v.away > 0 {
		for _, i := range p.procs {
			i.kill9()
		}
		<-time.After(v.away)
		back := time.Now()
		for _, i := range p.procs {
			i.start()
		}
		rtmtest.Until(t, "an instance is back", ready(p.apis[0]))
		t.Logf("an instance served %s after it was started again", time.Since(back).Round(time.Millisecond))
	}
	if v.kill {
		<-time.After(v.validity + v.grace - time.Since(began)/2) // half of them have fallen due
		p.procs[1].kill9()
	}
	v.settled(t, p)
	if v.kill {
		p.procs[1].start()
		rtmtest.Until(t, "the one that was killed is back", ready(p.apis[1]))
	}
	for deadline := time.Now().Add(20*time.Second + time.Duration(v.sessions)*time.Millisecond); time.Now().Before(deadline); {
		if f := v.read(t, p); (v.away > 0 || len(f.released) >= v.sessions) && len(f.finals) >= v.sessions {
			break
		}
		<-time.After(250 * time.Millisecond)
	}
	for _, i := range p.procs {
		i.leave()
	}
	return v.check(t, v.read(t, p))
}

// settled waits until no account has a session, and checks that none holds or
// has paid anything.
func (v vanished) settled(t testing.TB, p *pair) {
	t.Helper()
	st, err := openStore(t.Context(), &config{Store: "redis://" + p.redis.Addr}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for deadline := time.Now().Add(2*v.validity + v.grace + 30*time.Second); ; {
		open, moved := 0, int64(0)
		var a charging.Account
		for cursor, first := []byte(nil), true; first || cursor != nil; first = false {
			keys, recs, next, err := st.Scan(t.Context(), cursor, 4096)
			if err != nil {
				t.Fatal(err)
			}
			for i := range keys {
				if keys[i].Kind != tenant.KindAccount {
					continue
				}
				if err := a.Decode(recs[i].Bytes); err != nil {
					t.Fatal(err)
				}
				open += len(a.Sessions)
				for j := range a.Buckets {
					moved += a.Buckets[j].Reserved + a.Buckets[j].Debited
				}
			}
			cursor = next
		}
		if open == 0 && moved != 0 {
			t.Errorf("no session is open, and %d micro-units are reserved or debited", moved)
		}
		if open == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions are still open", open)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// ends is what the record files say of the end of each session.
type ends struct {
	opened           map[string]time.Time
	released, finals map[string][]time.Time
	ids              map[string]int
	by               map[string]int // releases and final records, by who decided them
}

func (v vanished) read(t testing.TB, p *pair) *ends {
	t.Helper()
	f := &ends{
		opened: make(map[string]time.Time), released: make(map[string][]time.Time), finals: make(map[string][]time.Time),
		ids: make(map[string]int), by: make(map[string]int),
	}
	err := cdr.Read(p.records, func(r *cdr.Record) error {
		f.ids[r.ID]++
		switch r.Type {
		case charging.Message.String():
			f.opened[r.Session] = r.At
		case charging.Released.String():
			f.released[r.Session] = append(f.released[r.Session], r.At)
			f.by[r.Instance]++
		case charging.FinalRecord.String():
			f.finals[r.Session] = append(f.finals[r.Session], r.At)
			f.by[r.Instance]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// check holds the files against one release and one final record of each
// session, neither of them too early.
func (v vanished) check(t testing.TB, f *ends) (late lateness) {
	t.Helper()
	for id, n := range f.ids {
		if n != 1 {
			t.Errorf("record %s is there %d times", id, n)
		}
	}
	if len(f.opened) != v.sessions {
		t.Errorf("%d sessions are in the files, %d are wanted", len(f.opened), v.sessions)
	}
	for id, at := range f.opened {
		released, finals := f.released[id], f.finals[id]
		if v.away > 0 && len(released) == 0 && len(finals) == 1 {
			late.close = append(late.close, finals[0].Sub(at.Add(2*v.validity+v.grace)))
			continue // both had fallen due: what it held went back with the close
		}
		if len(released) != 1 || len(finals) != 1 {
			t.Errorf("%s: released %d times, closed %d times", id, len(released), len(finals))
			continue
		}
		late.release = append(late.release, released[0].Sub(at.Add(v.validity+v.grace)))
		late.close = append(late.close, finals[0].Sub(at.Add(2*v.validity+v.grace)))
	}
	if v.away == 0 && len(f.released) != v.sessions || len(f.finals) != v.sessions || f.by["a"] == 0 || f.by["b"] == 0 {
		t.Errorf("%d released, %d closed, %v by instance", len(f.released), len(f.finals), f.by)
	}
	slices.Sort(late.release)
	slices.Sort(late.close)
	if len(late.release) > 0 && late.release[0] < 0 || len(late.close) > 0 && late.close[0] < 0 {
		t.Errorf("a session was released or closed before its time: %s", late)
	}
	return late
}

// String is median, 99th percentile and worst of both.
func (l lateness) String() string {
	at := func(list []time.Duration) string {
		if len(list) == 0 {
			return "never"
		}
		return fmt.Sprintf("p50 %s, p99 %s, at most %s", list[len(list)/2], list[len(list)*99/100], list[len(list)-1])
	}
	return "release late by " + at(l.release) + "; close late by " + at(l.close)
}

// While all instances are away every session falls due; when they are back each is
// released once and closed once, and they serve at once.
func TestTimersAfterAllWereAway(t *testing.T) {
	t.Parallel()
	sessions, away := 2000, 6*time.Second
	if os.Getenv("RTM_FAULTS") == "long" {
		sessions, away = 100_000, 30*time.Second
	}
	v := vanished{sessions: sessions, rate: min(float64(sessions)/2, 8000), validity: away * 2 / 3, grace: time.Second, away: away}
	t.Log(v.run(t))
}

// One of two instances is killed while sessions that nobody hears of fall due:
// each is released once and closed once, by whichever of them.
func TestTimersOutliveAnInstance(t *testing.T) {
	t.Parallel()
	t.Log(vanished{sessions: 2000, rate: 2000, validity: 3 * time.Second, grace: time.Second, kill: true}.run(t))
}

// BenchmarkTimers has 10,000 sessions a second fall due: with two instances,
// and with one of them killed meanwhile.
func BenchmarkTimers(b *testing.B) {
	v := vanished{sessions: 20_000, rate: 10_000, validity: 3 * time.Second, grace: time.Second}
	say("%d sessions abandoned on two instances, both live: %s", v.sessions, v.run(b))
	v.kill = true
	say("%d sessions abandoned on two instances, one killed with -9 meanwhile: %s", v.sessions, v.run(b))
	b.ReportMetric(0, "ns/op")
}
