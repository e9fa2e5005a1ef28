package rtm_test

import (
	"container/heap"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/rtmtest"
	"rtm/store/storetest"
	"rtm/tenant"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func asks(k charging.Kind) *rtm.Inbound { return &rtm.Inbound{Request: charging.Request{Kind: k}} }

// filled is an admission whose tenant "a" has as many requests in the loop as it
// may.
func filled(t *testing.T) (a *rtm.Admission, in []*rtm.Inbound) {
	t.Helper()
	a = rtm.NewAdmission(nil)
	for {
		r := asks(charging.Initial)
		enter, turned := a.Offer(r, "a", "a", 0, noon)
		if turned != nil {
			t.Fatal("turned away while there is room to wait")
		}
		if !enter {
			a.Left(in[0], noon, nil, nil) // r comes in for it
			return a, append(in[1:], r)
		}
		in = append(in, r)
	}
}

func TestTheLimitIsShared(t *testing.T) {
	a, in := filled(t)
	if len(in) != a.Limit() {
		t.Errorf("%d of one tenant are in the loop, %d may be", len(in), a.Limit())
	}
	// Another tenant comes: it does not wait for the first one.
	for i := range a.Limit() / 2 {
		if enter, _ := a.Offer(asks(charging.Initial), "b", "b", 0, noon); !enter {
			t.Fatalf("the other tenant's request %d does not get in", i)
		}
	}
	if enter, _ := a.Offer(asks(charging.Initial), "b", "b", 0, noon); enter {
		t.Error("the other tenant has more than its half")
	}
	// The first one gets back to its half before anything of it comes in again.
	if enter, _ := a.Offer(asks(charging.Initial), "a", "a", 0, noon); enter {
		t.Error("the first tenant got more than its half")
	}
	left := 0
	for _, r := range in {
		enter, _ := a.Left(r, noon, nil, nil)
		left++
		if len(enter) > 0 {
			break
		}
	}
	if left != a.Limit()/2+1 {
		t.Errorf("the first tenant's next request came in after %d had left", left)
	}
}

func TestSharesAreWeighted(t *testing.T) {
	a := rtm.NewAdmission(func(name string) rtm.Weight { return map[string]rtm.Weight{"a": {Share: 3}}[name] })
	count := map[string]int{}
	for range 2 * a.Limit() {
		for _, name := range []string{"b", "a"} {
			if enter, _ := a.Offer(asks(charging.Initial), name, name, 0, noon); enter {
				count[name]++
			}
		}
	}
	if count["a"] != a.Limit()*3/4 {
		t.Errorf("with weights 3 and 1: %v of %d", count, a.Limit())
	}
}

// What counts more goes first, and takes the place of what counts less when no
// more may wait.
func TestTerminationsGoFirst(t *testing.T) {
	a, in := filled(t)
	kinds := []charging.Kind{charging.Initial, charging.Event, charging.Update, charging.Termination}
	for range rtm.WaitMax / 4 {
		for _, k := range kinds {
			if _, turned := a.Offer(asks(k), "a", "a", 0, noon); turned != nil {
				t.Fatal("turned away while there is room to wait")
			}
		}
	}
	for range 2 {
		if enter, turned := a.Offer(asks(charging.Termination), "a", "a", 0, noon); enter || turned == nil || turned.Request.Kind != charging.Initial {
			t.Fatalf("a termination displaced %+v", turned)
		}
	}
	first := asks(charging.Initial)
	if _, turned := a.Offer(first, "a", "a", 0, noon); turned != first {
		t.Error("an initial request displaced another one")
	}
	if a.Shed[rtm.ShedFull] != 1 || a.Shed[rtm.ShedDisplaced] != 2 {
		t.Errorf("counted %v", a.Shed)
	}
	var order []charging.Kind
	for next := in; len(next) > 0; {
		enter, _ := a.Left(next[0], noon, nil, nil)
		next = next[1:]
		for _, r := range enter {
			if n := len(order); n == 0 || order[n-1] != r.Request.Kind {
				order = append(order, r.Request.Kind)
			}
			next = append(next, r)
		}
	}
	if got := fmt.Sprint(order); got != fmt.Sprint([]charging.Kind{charging.Termination, charging.Update, charging.Event, charging.Initial}) {
		t.Errorf("they came in as %s", got)
	}
}

// Of each kind those of an emergency go first; but no kind goes before one that counts
// more. They do not count for their tenant's rate.
func TestEmergenciesGoFirstAmongTheirKind(t *testing.T) {
	a, in := filled(t)
	offer := func(k charging.Kind, emergency bool) {
		r := asks(k)
		r.Emergency = emergency
		a.Offer(r, "a", "a", 0, noon)
	}
	for _, k := range []charging.Kind{charging.Initial, charging.Update} {
		offer(k, false)
		offer(k, true)
	}
	var order []string
	for next := in; len(next) > 0; next = next[1:] {
		enter, _ := a.Left(next[0], noon, nil, nil)
		for _, r := range enter {
			order = append(order, fmt.Sprint(r.Request.Kind, r.Emergency))
		}
	}
	want := fmt.Sprint([]string{fmt.Sprint(charging.Update, true), fmt.Sprint(charging.Update, false), fmt.Sprint(charging.Initial, true), fmt.Sprint(charging.Initial, false)})
	if got := fmt.Sprint(order); got != want {
		t.Errorf("they came in as %s, not as %s", got, want)
	}
	b := rtm.NewAdmission(func(string) rtm.Weight { return rtm.Weight{Share: 1, Rate: 1} })
	for i, emergency := range []bool{false, false, true} {
		r := asks(charging.Initial)
		r.Emergency = emergency
		if enter, _ := b.Offer(r, "a", "a", 0, noon); enter != (i != 1) {
			t.Errorf("with one session a second, number %d comes in: %v", i, enter)
		}
	}
}

// Nobody works for a request whose sender has given up.
func TestWhoHasWaitedTooLongIsTurnedAway(t *testing.T) {
	a, in := filled(t)
	old, young := asks(charging.Update), asks(charging.Update)
	a.Offer(old, "a", "a", 0, noon)
	a.Offer(young, "a", "a", 0, noon.Add(time.Second))
	enter, turned := a.Left(in[0], noon.Add(rtm.AgeMax+time.Millisecond), nil, nil)
	if len(turned) != 1 || turned[0] != old || len(enter) != 1 || enter[0] != young || a.Shed[rtm.ShedAge] != 1 {
		t.Errorf("entered %d, turned away %d, counted %v", len(enter), len(turned), a.Shed)
	}
}

// A tenant may begin so many sessions a second; those that it has go on.
func TestRate(t *testing.T) {
	a := rtm.NewAdmission(func(string) rtm.Weight { return rtm.Weight{Rate: 10} })
	for second := range 3 {
		begun := 0
		for i := range 100 {
			now := noon.Add(time.Duration(second)*time.Second + time.Duration(i)*time.Millisecond/100)
			if enter, _ := a.Offer(asks(charging.Initial), "a", "a", 0, now); enter {
				begun++
			}
			if enter, turned := a.Offer(asks(charging.Update), "a", "a", 0, now); !enter || turned != nil {
				t.Fatal("an update was turned away")
			}
		}
		if begun != 10 {
			t.Errorf("%d sessions begun in second %d", begun, second)
		}
	}
	if a.Shed[rtm.ShedRate] != 270 {
		t.Errorf("counted %v", a.Shed)
	}
}

// A world is a loop in front of a store that needs so long for each request and
// so long for each trip, whatever it carries.
type world struct {
	t      *testing.T
	a      *rtm.Admission
	now    time.Time
	each   time.Duration
	trip   time.Duration
	inbox  []*rtm.Inbound
	busy   bool
	events agenda
	took   map[string][]time.Duration // from offer to answer
	shed   map[string]int
	born   map[*rtm.Inbound]time.Time
	whose  map[*rtm.Inbound]string
}

type happening struct {
	at time.Time
	do func()
}
type agenda []happening

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(happening)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

func (w *world) after(d time.Duration, do func()) {
	heap.Push(&w.events, happening{w.now.Add(d), do})
}

func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); len(w.events) > 0 && w.events[0].at.Before(end); {
		h := heap.Pop(&w.events).(happening)
		w.now = h.at
		h.do()
	}
}

// send offers requests of a tenant for ever, so many a second.
func (w *world) send(name string, rate int) {
	w.after(time.Second/time.Duration(rate), func() { w.send(name, rate) })
	in := asks(charging.Initial)
	w.born[in], w.whose[in] = w.now, name
	enter, turned := w.a.Offer(in, name, name, 0, w.now)
	if enter {
		w.inbox = append(w.inbox, in)
		w.cycle()
	}
	w.turned(turned)
}

func (w *world) turned(in *rtm.Inbound) {
	if in != nil {
		w.shed[w.whose[in]]++
		delete(w.whose, in)
		delete(w.born, in)
	}
}

func (w *world) cycle() {
	if w.busy || len(w.inbox) == 0 {
		return
	}
	w.busy = true
	batch := w.inbox
	w.inbox = nil
	took := w.trip + time.Duration(len(batch))*w.each
	w.after(took, func() {
		w.busy = false
		for _, in := range batch {
			name := w.whose[in]
			w.took[name] = append(w.took[name], w.now.Sub(w.born[in]))
			delete(w.whose, in)
			delete(w.born, in)
			enter, turned := w.a.Left(in, w.now, nil, nil)
			w.inbox = append(w.inbox, enter...)
			for _, r := range turned {
				w.turned(r)
			}
		}
		w.a.Cycle(took, len(batch), w.now)
		w.cycle()
	})
}

func newWorld(t *testing.T, each, trip time.Duration) *world {
	return &world{
		t: t, a: rtm.NewAdmission(nil), now: noon, each: each, trip: trip, took: map[string][]time.Duration{}, shed: map[string]int{},
		born: map[*rtm.Inbound]time.Time{}, whose: map[*rtm.Inbound]string{},
	}
}

// forget begins to count anew.
func (w *world) forget() { clear(w.took); clear(w.shed) }

func worst(list []time.Duration) (most time.Duration) {
	for _, d := range list {
		most = max(most, d)
	}
	return most
}

// A storm of one tenant at five times what can be done: the other one is never
// turned away, and no request of it waits longer than two cycles, which are short
// ones; about half of what can be done is done; who waits, waits no longer than
// WaitLong.
func TestAStormLeavesTheOthersAlone(t *testing.T) {
	w := newWorld(t, 50*time.Microsecond, time.Millisecond) // 20,000 a second
	w.send("good", 200)
	w.run(2 * time.Second)
	quiet := worst(w.took["good"])
	w.send("storm", 100_000)
	w.run(2 * time.Second)
	w.forget()
	w.run(2 * time.Second)
	done := float64(len(w.took["storm"])+len(w.took["good"])) / 2
	t.Logf("good: at most %s quiet, %s in the storm; storm: %d done, %d turned away, at most %s; limit %d", quiet, worst(w.took["good"]),
		len(w.took["storm"]), w.shed["storm"], worst(w.took["storm"]), w.a.Limit())
	if w.shed["good"] != 0 || len(w.took["good"]) < 390 {
		t.Errorf("%d of the other tenant were turned away, %d done", w.shed["good"], len(w.took["good"]))
	}
	if got := worst(w.took["good"]); got > 2*rtm.CycleCalm*11/8 {
		t.Errorf("the other tenant waits for up to %s", got)
	}
	if done < 0.45*20_000 {
		t.Errorf("%.0f of 20000 a second are done", done)
	}
	if got := worst(w.took["storm"]); got > rtm.WaitLong*3/2 {
		t.Errorf("who is not turned away waits up to %s", got)
	}
}

// A tenant that sends much, but has its fair share still, is not refused beside a
// storm, nor taken for one; what the storm costs, the storm pays.
func TestAHeavyTenantBesideAStorm(t *testing.T) {
	for _, rate := range []int{5000, 8000} {
		w := newWorld(t, 50*time.Microsecond, time.Millisecond) // 20,000 a second
		w.send("heavy", rate)
		w.run(2 * time.Second)
		w.send("storm", 100_000)
		w.run(2 * time.Second)
		w.forget()
		w.run(4 * time.Second)
		got := worst(w.took["heavy"])
		t.Logf("%d a second: %d of the storm are done, heavy at most %s, limit %d", rate, len(w.took["storm"])/4, got, w.a.Limit())
		if w.shed["heavy"] != 0 || got > 4*rtm.CycleFair {
			t.Errorf("of %d a second %d are turned away, and answers take up to %s", rate, w.shed["heavy"]/4, got)
		}
		if len(w.took["storm"])/4 < 2000 {
			t.Errorf("beside %d a second, %d of the storm are done", rate, len(w.took["storm"])/4)
		}
	}
}

// A tenant that sends somewhat more than can be done, beside another one, is no
// storm: nearly all that can be done is done.
func TestWhoIsRefusedLittleIsNoStorm(t *testing.T) {
	w := newWorld(t, 50*time.Microsecond, time.Millisecond) // 20,000 a second
	w.send("good", 200)
	w.send("much", 24_000)
	w.run(4 * time.Second)
	w.forget()
	w.run(2 * time.Second)
	done := float64(len(w.took["much"])+len(w.took["good"])) / 2
	t.Logf("%.0f a second are done, %d are turned away; limit %d", done, w.shed["much"], w.a.Limit())
	if done < 0.75*20_000 || w.shed["much"] == 0 || w.shed["good"] != 0 {
		t.Errorf("%.0f of 20000 a second are done, %d and %d turned away", done, w.shed["much"], w.shed["good"])
	}
	if got := worst(w.took["good"]); got > 2*rtm.CycleFair*5/4 {
		t.Errorf("the other tenant waits for up to %s", got)
	}
}

// Alone, a tenant that sends more than can be done gets more into each cycle, and
// the cycles stay within their aim.
func TestTheLimitFollowsTheStore(t *testing.T) {
	w := newWorld(t, 50*time.Microsecond, time.Millisecond)
	w.send("a", 30_000)
	w.run(4 * time.Second)
	if got := w.a.Limit(); got < 200 || got > 600 {
		t.Errorf("the limit is %d; 380 take 20 ms", got)
	}
	quick := w.a.Limit()
	w.each = 500 * time.Microsecond // the store is ten times as slow
	w.run(3 * time.Second)
	if got := w.a.Limit(); got >= quick/2 {
		t.Errorf("the limit is %d still, and was %d", got, quick)
	}
	w.each = 50 * time.Microsecond
	w.run(4 * time.Second)
	if got := w.a.Limit(); got < quick/2 {
		t.Errorf("the limit is %d only, and was %d", got, quick)
	}
}

// While the storm lasts, the store becomes slow for each trip, however little that
// carries: fewer in the loop would not make it quicker, so more get in, until each
// cycle takes about twice as long as one by itself. When it is quick again, fewer
// do.
func TestTheLimitRisesInAStorm(t *testing.T) {
	w := newWorld(t, 50*time.Microsecond, time.Millisecond)
	w.send("good", 200)
	w.send("storm", 40_000)
	w.run(5 * time.Second)
	first := w.a.Limit()
	w.trip = 20 * time.Millisecond
	w.run(20 * time.Second)
	slow := w.a.Limit()
	w.forget()
	w.run(12 * time.Second)
	done := float64(len(w.took["storm"])+len(w.took["good"])) / 12
	t.Logf("limit %d, with the slow store %d: %.0f a second, the other waits for up to %s", first, slow, done, worst(w.took["good"]))
	if slow < 600 || slow > 1000 {
		t.Errorf("the limit is %d; half of 840 take 41 ms", slow)
	}
	if done < 8000 { // 128 of them in 26 ms are 5,000
		t.Errorf("%.0f a second are done", done)
	}
	if w.shed["good"] != 0 {
		t.Errorf("%d of the other tenant were turned away", w.shed["good"])
	}
	w.trip = time.Millisecond
	w.run(20 * time.Second)
	w.forget()
	w.run(2 * time.Second)
	if got := worst(w.took["good"]); w.a.Limit() > first*3/2 || got > 2*rtm.CycleFair*2 {
		t.Errorf("quick again, the limit is %d, and was %d; the other waits for up to %s", w.a.Limit(), first, got)
	}
}

// A store that is slow for a moment, again and again, does not become one that is
// slow by itself.
func TestTheLimitIsNoMoments(t *testing.T) {
	w := newWorld(t, 50*time.Microsecond, time.Millisecond)
	w.send("good", 200)
	w.send("storm", 40_000)
	w.run(3 * time.Second)
	most := 0
	for range 100 {
		w.run(250 * time.Millisecond)
		w.trip = 30 * time.Millisecond
		w.run(150 * time.Millisecond)
		w.trip = time.Millisecond
		most = max(most, w.a.Limit())
	}
	if most > 200 {
		t.Errorf("the limit was %d", most)
	}
}

// A store that hangs: what waits is bounded by time, and the rest is told at
// once; when it is back, all is as before.
func TestAHangingStore(t *testing.T) {
	w := newWorld(t, 50*time.Microsecond, time.Millisecond)
	w.send("a", 5000)
	w.run(2 * time.Second)
	w.forget()
	w.trip = 3 * time.Second // the next trip
	w.run(10 * time.Millisecond)
	w.trip = time.Millisecond
	w.run(2900 * time.Millisecond)
	_, waiting := 0, 0
	w.a.Classes(func(c *rtm.Class) { _, waiting = c.Load() })
	if w.shed["a"] < 5000 || waiting > rtm.WaitMax {
		t.Errorf("%d were turned away, %d wait", w.shed["a"], waiting)
	}
	w.run(2 * time.Second)
	w.forget()
	w.run(2 * time.Second)
	if w.shed["a"] != 0 || worst(w.took["a"]) > 20*time.Millisecond {
		t.Errorf("when the store is back, %d are turned away, and answers take up to %s", w.shed["a"], worst(w.took["a"]))
	}
}

// Tenants that are gone give their share back, and what is known of tenants is
// bounded.
func TestTenantsComeAndGo(t *testing.T) {
	a := rtm.NewAdmission(nil)
	now := noon
	for i := range 20_000 {
		in := asks(charging.Initial)
		name := fmt.Sprint("t", i)
		if enter, _ := a.Offer(in, name, name, 0, now); !enter {
			t.Fatal("a tenant's only request waits")
		}
		a.Left(in, now, nil, nil)
	}
	known := 0
	a.Classes(func(*rtm.Class) { known++ })
	if known > 10_001 {
		t.Errorf("%d tenants are remembered", known)
	}
	now = now.Add(10 * time.Second)
	a.Cycle(time.Millisecond, 1, now)
	in := 0
	for enter := true; enter; in++ {
		enter, _ = a.Offer(asks(charging.Initial), "a", "a", 0, now)
	}
	if in-1 != a.Limit() {
		t.Errorf("%d of the only tenant are in the loop, %d may be", in-1, a.Limit())
	}
}

func BenchmarkAdmission(b *testing.B) {
	a := rtm.NewAdmission(nil)
	in := asks(charging.Update)
	now := noon
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Microsecond)
		a.Offer(in, "a", "a", 0, now)
		a.Left(in, now, nil, nil)
	}
}

// Whose a request is decides with whom it shares: by its account, by the only
// tenant of its peer, by the range of its identity, else by its peer.
func TestWhoSharesWithWhom(t *testing.T) {
	m := storetest.NewMemory()
	docs, err := tenant.Parse("t.yaml", []byte(shop+`---
{kind: Tenant, name: alpha, currency: EUR, ranges: ["imsi:001*"]}
---
{kind: Tenant, name: beta, currency: EUR, ranges: ["imsi:002*"]}
`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(t.Context(), m, docs, false); err != nil {
		t.Fatal(err)
	}
	n := start(t, m, "a")
	subscribe(t, n)
	two := []string{"alpha", "beta"}
	for _, c := range []struct {
		in   rtm.Inbound
		want string
	}{
		{rtm.Inbound{Identities: []string{"imsi:001"}, Tenants: two}, "alpha"},
		{rtm.Inbound{Identities: []string{"imsi:0029"}, Tenants: two}, "beta"},
		{rtm.Inbound{Identities: []string{"imsi:003"}, Tenants: two}, ""},
		{rtm.Inbound{Tenants: two[1:]}, "beta"},
		{rtm.Inbound{Account: alice}, "shop"},
		{rtm.Inbound{Identities: []string{"imsi:001"}}, ""},
	} {
		counts := func() map[string]int64 {
			all := make(map[string]int64)
			n.Admission(func(a *rtm.Admission) {
				a.Classes(func(c *rtm.Class) { all[c.Tenant] += c.Admitted })
			})
			return all
		}
		before := counts()
		in := c.in
		in.Request, in.Peer = initial("x"), "peer gw"
		in.Request.Kind = charging.Update
		if _, err := n.Do(t.Context(), &in); err != nil {
			t.Fatal(err)
		}
		after := counts()
		if after[c.want] != before[c.want]+1 {
			t.Errorf("%v of %v: counted for %v, before %v; want it for %q", c.in.Identities, c.in.Tenants, after, before, c.want)
		}
	}
}

// A tenant's rate holds also for subscribers of whom nobody knows whose they are
// when their requests come.
func TestTheRateOfTheUnknown(t *testing.T) {
	m := storetest.NewMemory()
	docs, err := tenant.Parse("t.yaml", []byte(strings.Replace(shop, "currency: EUR", "currency: EUR\nlimits: {rate: 1}\nemergency: {ratingGroups: [911], called: [\"112\"]}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(t.Context(), m, docs, false); err != nil {
		t.Fatal(err)
	}
	const accounts = 40
	var all []rtm.Subscription
	for i := range accounts {
		all = append(all, subscription(fmt.Sprint("a", i), fmt.Sprint("imsi:0010", i)))
	}
	for _, p := range start(t, m, "a").ProvisionAll(t.Context(), all) {
		if p.Err != nil {
			t.Fatal(p.Err)
		}
	}
	n := start(t, m, "b") // it has seen nobody
	begun, granted := time.Now(), 0
	for i := range accounts {
		in := &rtm.Inbound{Request: initial(fmt.Sprint("s", i)), Identities: []string{fmt.Sprint("imsi:0010", i)}, Tenants: []string{"shop", "other"}, Peer: "peer gw"}
		a, err := n.Do(t.Context(), in)
		switch {
		case err == nil && a.Result == charging.Success:
			granted++
			update := initial(fmt.Sprint("s", i))
			update.Kind, update.Number, update.Content = charging.Update, 1, 2
			if a, err := n.Do(t.Context(), &rtm.Inbound{Request: update, Identities: in.Identities, Tenants: in.Tenants, Peer: in.Peer}); err != nil || a.Result != charging.Success {
				t.Errorf("an update: %+v, %v", a, err)
			}
		case !errors.Is(err, rtm.ErrBusy):
			t.Errorf("%+v, %v", a, err)
		}
	}
	if most := 1 + int(time.Since(begun).Seconds()); granted < 1 || granted > most {
		t.Errorf("%d sessions have begun, %d may have", granted, most)
	}
	for i := range 4 { // an emergency begins all the same, whether its tenant is known or not
		r := initial(fmt.Sprint("help", i))
		if i%2 == 0 {
			r.Particulars.Called = []byte("tel:112")
		} else {
			r.Asks[0].Group, r.Asks[0].Has = 911, charging.HasGroup
		}
		in := &rtm.Inbound{Request: r, Identities: []string{fmt.Sprint("imsi:0010", i)}, Tenants: []string{"other", "shop"}, Peer: "peer gw"}
		if i >= 2 {
			in.Tenants = []string{"shop"}
		}
		if a, err := n.Do(t.Context(), in); err != nil || a.Result != charging.Success {
			t.Errorf("emergency %d: %+v, %v", i, a, err)
		}
	}
	n.Admission(func(a *rtm.Admission) {
		if int(a.Shed[rtm.ShedRate]) != accounts-granted {
			t.Errorf("counted %v", a.Shed)
		}
		a.Classes(func(c *rtm.Class) {
			if in, waiting := c.Load(); in+waiting != 0 {
				t.Errorf("%d of %q are in the loop still, %d wait", in, c.Tenant, waiting)
			}
		})
	})
}

// With three instances and all traffic at one of them, a tenant begins about as
// much as its rate there, not a third of it.
func TestTheRateFollowsTheTraffic(t *testing.T) {
	const rate = 60
	m := storetest.NewMemory()
	docs, err := tenant.Parse("t.yaml", []byte(strings.Replace(shop, "currency: EUR", fmt.Sprintf("currency: EUR\nlimits: {rate: %d}", rate), 1)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(t.Context(), m, docs, false); err != nil {
		t.Fatal(err)
	}
	n := start(t, m, "a")
	subscribe(t, n)
	start(t, m, "b")
	start(t, m, "c")
	rtmtest.Until(t, "a knows the others", func() bool { return len(n.Instances()) == 3 })
	second, begun, most := time.Now(), 0, 0
	for i, end := 0, time.Now().Add(15*time.Second); time.Now().Before(end) && begun < rate*3/4; i++ {
		if time.Since(second) >= time.Second {
			second, begun = time.Now(), 0
		}
		r := initial(fmt.Sprint("e", i))
		r.Kind, r.Action, r.Content, r.Asks[0].Want.Octets = charging.Event, charging.DirectDebiting, 5, 1
		a, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: r, OnceDoor: "gy", OnceName: fmt.Sprint(i)})
		if err == nil && a.Result == charging.Success {
			begun++
		}
		most = max(most, begun)
		<-time.After(2 * time.Millisecond)
	}
	if most < rate*3/4 {
		t.Errorf("%d in a second at most, of %d that may begin", most, rate)
	}
}

// What waits for one node of the store has no room of what is for another one.
func TestEachNodeHasItsShare(t *testing.T) {
	a, in := filled(t) // of node 0
	other := asks(charging.Update)
	if enter, _ := a.Offer(other, "a", "a", 1, noon); !enter {
		t.Fatal("it waits for what is at another node")
	}
	if n, waiting := loadOf(a, "a"); n != len(in)+1 || waiting != 0 {
		t.Errorf("%d in the loop, %d wait", n, waiting)
	}
	waits := asks(charging.Update)
	if enter, _ := a.Offer(waits, "a", "a", 0, noon); enter {
		t.Fatal("node 0 has more than its half")
	}
	for n, r := range in { // they go on at the other node, and others come in their places
		enter, _ := a.Moved(r, 1, noon, nil, nil)
		if len(enter) > 0 {
			if enter[0] != waits || n < len(in)/2 {
				t.Errorf("when %d of %d had gone on, %d came in", n+1, len(in), len(enter))
			}
			return
		}
	}
	t.Error("what waits never comes in")
}

// loadOf is how many of a tenant are in the loop, and how many wait.
func loadOf(a *rtm.Admission, tenant string) (in, waiting int) {
	a.Classes(func(c *rtm.Class) {
		if c.Tenant == tenant {
			in, waiting = c.Load()
		}
	})
	return in, waiting
}

// A tenant's rate is one, however many nodes its sessions are for.
func TestTheRateIsOfAllNodes(t *testing.T) {
	a := rtm.NewAdmission(func(string) rtm.Weight { return rtm.Weight{Share: 1, Rate: 10} })
	entered := 0
	for n := range 60 {
		if enter, _ := a.Offer(asks(charging.Initial), "a", "a", n%3, noon); enter {
			entered++
		}
	}
	if entered != 10 {
		t.Errorf("%d of a rate of 10 came in", entered)
	}
}
