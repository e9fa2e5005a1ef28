package charging

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rtm/rating"
)

// A grant over a tariff change never overdraws the account.
func TestAStepIsReservedTwiceOverAChange(t *testing.T) {
	day, night := service(1, 1_000_000, 1), service(1, 900_000, 1)
	day.Step, night.Step = mib, mib
	first, second := plan("p", 1, day), plan("p", 2, night)
	r := newRig(t, 1_000_000, versions{first}) // one MiB
	r.plans["p"] = versions{first, second}
	r.w.Plans = changing{versions{first, second}, noon.Add(10 * time.Minute)}
	q := ccr(Initial, 0, 0, 1)
	q.Client.Splits = true
	if a := r.do(q); a.Grants[0].Units != mib || !a.Grants[0].Change.IsZero() || a.Grants[0].Validity != 600 {
		t.Errorf("who has one step's money got %+v", a.Grants[0]) // it ends with the change
	}
	r = newRig(t, 2_000_000, versions{first}) // one more
	r.plans["p"] = versions{first, second}
	r.w.Plans = changing{versions{first, second}, noon.Add(10 * time.Minute)}
	q = ccr(Initial, 0, 0, 1)
	q.Client.Splits = true
	a := r.do(q)
	if a.Grants[0].Units != mib || a.Grants[0].Change.IsZero() {
		t.Fatalf("%+v", a.Grants[0])
	}
	r.w.Now = noon.Add(20 * time.Minute)
	q = ccr(Termination, 1, mib, 1) // exactly what was granted
	q.Client.Splits, q.Asks[0].Split, q.Asks[0].After.Octets = true, true, mib/2
	r.do(q)
	if b := r.main(); b.Available() < 0 || b.Overrun != 0 {
		t.Errorf("granted %d, used as much: debited %d of %d, overrun %d", a.Grants[0].Units, b.Debited, b.Credited, b.Overrun)
	}
}

// A begun step that is paid is not paid again because the plan has another version
// in which the price is the same.
func TestAPaidStepIsNotPaidAgain(t *testing.T) {
	cost := func(changed bool) int64 {
		call := service(1, 1_000_000, 1)
		call.Step = mib
		first, second := plan("p", 1, call), plan("p", 2, call)
		r := newRig(t, 100_000_000, versions{first})
		r.do(ccr(Initial, 0, 0, 1))
		if changed { // something else in the plan
			second.Grace = time.Minute
			r.plans["p"] = versions{first, second}
			r.w.Plans = r.plans["p"]
		}
		for n := range uint32(3) {
			r.do(ccr(Update, n+1, mib/4, 1))
		}
		return r.main().Debited
	}
	if a, b := cost(false), cost(true); a != b {
		t.Errorf("three quarters of a step cost %d, and %d if the plan gets another version meanwhile", a, b)
	}
}

// The session that comes behind the one that ends is told that there is credit again.
func TestWhoComesBehindIsOffered(t *testing.T) {
	for _, order := range []string{"ab", "ba"} {
		r := newRig(t, 10_000_000, versions{plan("p", 1, service(1, 1_000_000, 1))}) // 10 MiB, a whole quota
		session := func(name string, kind Kind, n uint32, groups ...uint32) Answer {
			q := ccr(kind, n, 0, groups...)
			q.Session = []byte(name)
			return r.do(q)
		}
		session(order[:1], Initial, 0)
		session(order[1:], Initial, 0)
		session("a", Update, 1, 1) // takes all
		if g := session("b", Update, 1, 1).Grants[0]; g.Result != CreditLimitReached {
			t.Fatalf("%+v", g)
		}
		r.w.Now = r.w.Now.Add(time.Minute)
		session("a", Termination, 2) // it has used nothing and names nothing
		if b := &r.account().Sessions[0]; r.main().free(r.w.Now) != 10_000_000 || b.Notice.Kind != Reauthorise {
			t.Errorf("opened as %s: nobody tells b of what is free again", order)
		}
	}
}

// Two sessions that nothing can be granted to do not have each other asked for
// ever, for the sake of units that pay for something else.
func TestHungrySessionsDoNotAskInTurns(t *testing.T) {
	r := newRig(t, 10_000_000-1, versions{plan("p", 1, service(1, 1_000_000, 1))})
	number := map[string]uint32{}
	send := func(name string, kind Kind, used int64) {
		q := ccr(kind, number[name], used, 1)
		q.Session = []byte(name)
		number[name]++
		r.do(q)
	}
	send("a", Initial, 0)
	send("b", Initial, 0)
	send("a", Update, 10*mib)
	r.do(&Request{Kind: TopUp, Amount: 100, Bucket: Bucket{Unit: rating.Events}, Cause: "100 SMS"}) // pays for no data
	send("b", Update, 0)
	sent := 0
	for range 600 { // ten minutes
		r.w.Now = r.w.Now.Add(time.Second)
		if len(r.outcome.Notices) == 0 {
			r.do(&Request{Kind: Tick})
		}
		for _, n := range append([]Due(nil), r.outcome.Notices...) {
			sent++
			r.do(&Request{Kind: Notified, Realm: n.Realm, Session: n.Session, Result: LimitedSuccess, Notice: n.Number})
			send(string(n.Session), Update, 0)
		}
	}
	if sent > 10 {
		t.Errorf("%d RARs and as many updates in ten minutes, and nothing was ever granted", sent)
	}
}

// Who is refused leaves no room taken for those who are decided with it.
func TestTheRefusedTakeNoRoom(t *testing.T) {
	p := plan("p", 1, service(1, 1_000_000, 1))
	p.Refuses = true
	r := newRig(t, 0, versions{p})
	var a Account
	if err := a.Decode(r.record); err != nil {
		t.Fatal(err)
	}
	var o Outcome
	for i := range 250 { // of one batch
		q := ccr(Initial, 0, 0, 1)
		q.Session = []byte{'s', byte(i)}
		if Step(&a, q, &r.w, &o); o.Changed || o.Answer.Result != CreditLimitReached {
			t.Fatalf("session %d of an account that has no session and no credit is refused with %d", i, o.Answer.Result)
		}
	}
}

// What time makes due fits into one commit, whatever gateways have said of their
// sessions; else none of them is ever closed.
func TestATickFitsWhateverAGatewaySays(t *testing.T) {
	r := newRig(t, 1_000_000_000, versions{plan("p", 1, service(1, 1_000_000, 1))})
	send := func(i int, kind Kind, n uint32, octets int) {
		q := ccr(kind, n, 0, 1)
		q.Session = []byte{'s', byte('0' + i)}
		q.Particulars.APN = make([]byte, octets)
		if r.do(q); kind == Update {
			r.fits() // it is committed
		}
	}
	for i := range 4 {
		send(i, Initial, 0, 0)
	}
	for i := range 4 {
		send(i, Update, 1, 48_000)
	}
	r.w.Now = r.w.Now.Add(24 * time.Hour)
	r.do(&Request{Kind: Tick})
	r.fits()
}

// A gateway that has restarted (its Origin-State-Id has risen, or it names another
// subscriber) and uses a Session-Id again begins another session: what it reports in
// that, and is acknowledged, is charged.
func TestARestartedGatewayIsCharged(t *testing.T) {
	for name, again := range map[string]func(*Request){
		"its Origin-State-Id has risen":    func(q *Request) { q.Client.State = 2 },
		"its CCR-I was made an hour later": func(q *Request) { q.Client.State, q.At = 1, noon.Add(59*time.Minute) },
	} {
		for _, closed := range []bool{false, true} {
			r := newRig(t, 1_000_000_000, versions{plan("p", 1, service(1, 1_000_000, 1))})
			send := func(kind Kind, n uint32, used int64, by func(*Request)) Answer {
				q := ccr(kind, n, used, 1)
				q.Client.State = 1
				if by != nil {
					by(q)
				}
				return r.do(q)
			}
			send(Initial, 0, 0, nil)
			for n := range uint32(8) {
				send(Update, n+1, mib, nil)
			}
			if closed {
				send(Termination, 9, mib, nil)
			}
			paid := r.main().Debited
			if r.w.Now = noon.Add(59 * time.Minute); !closed {
				r.w.Now = noon.Add(time.Hour)
			}
			if a := send(Initial, 0, 0, again); a.Result != Success {
				t.Fatalf("%s: %d", name, a.Result)
			}
			for n := range uint32(4) {
				if a := send(Update, n+1, 2*mib, again); a.Result == Success && r.main().Debited == paid {
					t.Errorf("%s, closed before: %t: update %d is acknowledged, its 2 MiB are not charged", name, closed, n+1)
				}
				paid = r.main().Debited
			}
		}
	}
}

// What is reported of one rating group in two parts, each on both sides of a tariff
// change, costs what it costs in one, whichever part comes first.
func TestTwoPartsOfAReportOverAChange(t *testing.T) {
	day, night := service(1, 1_000_000, 1), service(1, 300_000, 1)
	first, second := plan("p", 1, day), plan("p", 2, night)
	part := func(before, after int64) Ask {
		return Ask{Group: 1, Has: HasGroup, Reports: true, Split: true, Used: Units{Octets: before + after}, After: Units{Octets: after}}
	}
	for _, ended := range []bool{false, true} {
		for i, parts := range [][]Ask{
			{part(3*mib, 2*mib)},
			{part(1*mib, 1*mib), part(2*mib, 1*mib)},
			{part(3*mib, 0), part(0, 2*mib)},
			{part(0, 2*mib), part(3*mib, 0)},
		} {
			r := newRig(t, 100_000_000, versions{first})
			r.plans["p"] = versions{first, second}
			r.w.Plans = changing{versions{first, second}, noon.Add(10 * time.Minute)}
			splits := func(q *Request) *Request { q.Client.Splits = true; return q }
			if a := r.do(splits(ccr(Initial, 0, 0, 1))); a.Grants[0].Change.IsZero() {
				t.Fatalf("%+v", a.Grants[0])
			}
			r.w.Now = noon.Add(20 * time.Minute)
			if ended {
				r.do(splits(ccr(Termination, 2, 0)))
			}
			q := splits(ccr(Update, 1, 0))
			q.Asks = parts
			r.do(q)
			if got := r.main().Debited; got != 3*1_000_000+2*300_000 {
				t.Errorf("parts %d, after the end: %t: costs %d", i, ended, got)
			}
		}
	}
}

// A repeat is told what its first answer said of money, also when others have been
// answered meanwhile.
func TestARepeatIsToldOfMoneyAlike(t *testing.T) {
	p := plan("p", 1, service(1, 1_000_000, 1, 2))
	p.Tells = rating.Tells{Cost: true, Balance: true}
	r := newRig(t, 100_000_000, versions{p})
	send := func(kind Kind, n uint32, used int64, group uint32) Answer {
		q := ccr(kind, n, used, group)
		q.Client.Informed = true
		return r.do(q)
	}
	send(Initial, 0, 0, 1)
	first := send(Update, 1, mib, 1)
	for n := range uint32(3) {
		send(Update, n+2, mib, 2)
		if d := cmp.Diff(first, send(Update, 1, mib, 1)); !first.HasCost || d != "" {
			t.Errorf("after %d others (-first +repeat):\n%s", n+1, d)
		}
	}
}

// The client's answer to a RAR that was sent for a session before it was opened anew,
// which it did not know any more, does not end the new one.
func TestALateAnswerIsNotTheNewSessions(t *testing.T) {
	for _, ended := range []bool{false, true} {
		r := newRig(t, 100_000_000, versions{plan("p", 1, service(1, 1_000_000, 1))})
		prompt := func() uint32 {
			q := ccr(Initial, 0, 0)
			r.do(&Request{Kind: Reauthorise, Realm: q.Realm, Session: q.Session})
			return r.outcome.Notices[0].Number
		}
		q := ccr(Initial, 0, 0, 1)
		r.do(q)
		old := prompt()
		if ended {
			r.do(ccr(Termination, 1, mib, 1))
		}
		q.Content++
		r.do(q)
		prompt()
		if r.do(&Request{Kind: Notified, Realm: q.Realm, Session: q.Session, Result: UnknownSession, Notice: old}); len(r.account().Sessions) != 1 {
			t.Errorf("ended before: %t: the new session is closed", ended)
		}
	}
}

// A session that is opened anew is younger than its namesake, also where the clock has
// stepped back: the session index knows them apart by that.
func TestANamesakeIsOlder(t *testing.T) {
	for _, ended := range []bool{false, true} {
		r := newRig(t, 100_000_000, versions{plan("p", 1, service(1, 1_000_000, 1))})
		q := ccr(Initial, 0, 0, 1)
		q.Indexed = true
		r.do(q)
		first := r.account().Sessions[0].Opened
		if ended {
			r.do(ccr(Termination, 1, mib, 1))
		}
		q.Content++
		r.w.Now = r.w.Now.Add(-time.Minute)
		r.do(q)
		if s := r.account().Sessions[0]; !s.Opened.After(first) || !r.outcome.Index.Opened.Equal(s.Opened) {
			t.Errorf("ended before: %t: opened %s, its namesake %s, the index says %s", ended, s.Opened, first, r.outcome.Index.Opened)
		}
	}
}

// Usage and request of one group in two MSCCs, of a group that has no tariff.
func TestARepeatOfASplitGroup(t *testing.T) {
	r := newRig(t, 10_000_000, versions{plan("p", 1, service(1, 10_000, 100))})
	r.do(ccr(Initial, 0, 0, 100))
	q := ccr(Update, 1, mib, 100, 999, 999)
	q.Asks[1].Wants = false
	q.Asks[2].Reports = false
	r.twice(q)
}

// One that reports nothing before one that does, of a group that has no tariff.
func TestARepeatOfAnEmptyReport(t *testing.T) {
	r := newRig(t, 10_000_000, versions{plan("p", 1, service(1, 10_000, 100))})
	r.do(ccr(Initial, 0, 0, 100))
	q := ccr(Update, 1, mib, 100, 999, 999)
	q.Asks[1].Wants, q.Asks[1].Reports = false, false
	q.Asks[2].Wants = false
	r.twice(q)
}

// A group alone, that meant the one with a service, beside another service of the group.
func TestAGroupAloneBesideANewService(t *testing.T) {
	r := newRig(t, 10_000_000, versions{plan("p", 1, service(1, 10_000, 100))})
	q := ccr(Initial, 0, 0, 100)
	q.Asks[0].Has, q.Asks[0].Service = HasGroup|HasService, 5
	r.do(q)
	q = ccr(Update, 1, mib, 100, 100)
	q.Asks[1].Has, q.Asks[1].Service, q.Asks[1].Reports = HasGroup|HasService, 6, false
	if a := r.twice(q); a.Grants[0].Units == 0 {
		t.Errorf("the first is granted %+v", a.Grants[0])
	}
}

// A quota that follows the pace is the same for usage reported in one part or in two.
func TestThePaceOfAReportInTwoParts(t *testing.T) {
	var sizes []int64
	for parts := range 2 {
		s := service(1, 1, 1)
		s.Quota.Most, s.Quota.Least, s.Quota.Validity = 1000*mib, mib, 1000*time.Second
		s.Quota.Lasts = 100 * time.Second
		r := newRig(t, 100_000_000, versions{plan("p", 1, s)})
		r.do(ccr(Initial, 0, 0, 1))
		r.w.Now = r.w.Now.Add(10 * time.Second)
		q := ccr(Update, 1, 10*mib, 1)
		if parts == 1 {
			q = ccr(Update, 1, 5*mib, 1, 1)
			q.Asks[0].Wants = false
		}
		g := r.do(q).Grants
		sizes = append(sizes, g[len(g)-1].Units)
	}
	if sizes[0] != sizes[1] {
		t.Errorf("in one part %d, in two %d", sizes[0], sizes[1])
	}
}
