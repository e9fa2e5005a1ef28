package charging

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rtm/rating"
)

const mib = 1 << 20

// versions are the versions of one plan that an instance knows, the last of
// which is in force.
type versions []*rating.Plan

func (v versions) Next(time.Time) time.Time       { return time.Time{} }
func (v versions) Current(time.Time) *rating.Plan { return v[len(v)-1] }

func (v versions) Version(n uint32) *rating.Plan {
	for _, p := range v {
		if p.Version == n {
			return p
		}
	}
	return nil
}

// service sells octets at micro a MiB, 10 MiB at a time.
func service(rule uint32, micro rating.Micros, groups ...uint32) rating.Service {
	return rating.Service{
		Price: rating.Price{
			Rule: rule, Name: fmt.Sprint(rule), Unit: rating.Octets, Step: 1, Per: mib, Micro: micro,
			Quota: rating.Quota{Size: 10 * mib, Validity: time.Hour}, Final: rating.Terminate,
		},
		Groups: groups,
	}
}

func plan(name string, version uint32, services ...rating.Service) *rating.Plan {
	return &rating.Plan{Name: name, Version: version, Currency: 978, Sessions: 64, Groups: 16, Grace: 30 * time.Second, Services: services}
}

// A rig decides requests on one account, each from its record.
type rig struct {
	t       *testing.T
	w       World
	plans   map[string]versions
	record  []byte
	closed  *Session
	outcome Outcome
}

func newRig(t *testing.T, money rating.Micros, v versions) *rig {
	t.Helper()
	if err := v.Current(noon).Check(); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, plans: map[string]versions{v[0].Name: v}}
	r.w = World{Now: noon, Tenant: "t", Account: "a", Version: [8]byte{1}, Instance: []byte("A")}
	r.w.Named = func(name []byte) Plans {
		if v, ok := r.plans[string(name)]; ok {
			return v
		}
		return nil
	}
	r.provision(v[0].Name, money, "imsi:1", "msisdn:2")
	return r
}

func (r *rig) provision(plan string, money rating.Micros, ids ...string) {
	r.t.Helper()
	r.w.Plans = r.plans[plan]
	r.do(&Request{Kind: Provision, Profile: &Profile{Plan: plan, Identities: ids, Money: money}})
}

func (r *rig) do(q *Request) Answer {
	r.t.Helper()
	var a Account
	if err := a.Decode(r.record); err != nil {
		r.t.Fatal(err)
	}
	r.w.Closed = r.closed
	o := &r.outcome
	Step(&a, q, &r.w, o)
	if o.Changed {
		if !a.Check() {
			r.t.Errorf("unsound after %s", q.Kind)
		}
		r.record = a.Append(nil)
	}
	for i := range o.Closings {
		r.closed = &Session{}
		if err := r.closed.DecodeClosed(o.Closings[i].Session.AppendClosed(nil)); err != nil {
			r.t.Fatal(err)
		}
	}
	answer := o.Answer
	answer.Grants = append([]Grant(nil), answer.Grants...)
	return answer
}

// tick lets time pass.
func (r *rig) tick(after time.Duration) {
	r.t.Helper()
	r.w.Now = r.w.Now.Add(after)
	r.do(&Request{Kind: Tick})
}

func (r *rig) account() *Account {
	r.t.Helper()
	a := &Account{}
	if err := a.Decode(r.record); err != nil || a.DecodeAll() != nil {
		r.t.Fatal("the record is damaged")
	}
	return a
}

func (r *rig) main() *Bucket { return (&decision{a: r.account()}).main() }

// twice sends a request two times, which must be answered alike.
func (r *rig) twice(q *Request) Answer {
	r.t.Helper()
	first := r.do(q)
	if d := cmp.Diff(first, r.do(q)); d != "" {
		r.t.Errorf("the repeat is answered otherwise (-first +repeat):\n%s", d)
	}
	return first
}

func TestTheLastOfAnAllowanceIsNotTheLastOfTheMoney(t *testing.T) {
	for _, amount := range []int64{20 * mib, 20*mib + 1} {
		s := service(1, 10_000, 100)
		s.Allowances = []uint32{5}
		p := plan("p", 1, s)
		p.Allowances = []rating.Allowance{{ID: 5, Name: "a", Unit: rating.Octets, Amount: amount}}
		r := newRig(t, 10_000_000, versions{p})
		r.do(ccr(Initial, 0, 0, 100))
		if g := r.do(ccr(Update, 1, 10*mib, 100)).Grants[0]; g.Final != 0 {
			t.Errorf("allowance of %d: %s, and 10.00 are free", amount, g.Final)
		}
	}
}

// What was granted under a plan is charged by it, also when the account has
// another one by then: cheaper or dearer, with or without such a version, while
// the session is open, when it expires, and after it.
func TestThePlanOfTheGrantPrices(t *testing.T) {
	gold := versions{plan("gold", 1, service(1, 100_000, 100)), plan("gold", 2, service(1, 100_000, 100))}
	silver := versions{plan("silver", 1, service(1, 10_000, 100))}
	for _, c := range []struct {
		from, to        versions
		before, granted int64 // debited for a MiB under the first plan, under the second
	}{{gold, silver, 100_000, 10_000}, {silver, gold, 10_000, 100_000}} {
		r := newRig(t, 10_000_000, c.from)
		r.plans[c.to[0].Name] = c.to
		r.do(ccr(Initial, 0, 0, 100))
		r.do(ccr(Update, 1, 2*mib, 100))
		r.provision(c.to[0].Name, 0, "imsi:1")
		r.do(ccr(Update, 2, 3*mib, 100)) // used of the first plan's grant
		if got := r.main().Debited; got != 5*c.before {
			t.Errorf("%s to %s: 5 MiB of the first cost %d", c.from[0].Name, c.to[0].Name, got)
		}
		r.do(ccr(Update, 3, 4*mib, 100)) // of the second plan's
		r.provision(c.from[0].Name, 0, "imsi:1")
		r.do(ccr(Termination, 5, mib, 100)) // of it, too
		if got := r.main().Debited; got != 5*c.before+5*c.granted {
			t.Errorf("%s to %s: with 5 MiB of the second it is %d", c.from[0].Name, c.to[0].Name, got)
		}
		r.provision(c.from[0].Name, 0, "imsi:1", "msisdn:3")
		r.do(ccr(Update, 4, mib, 100)) // late
		if got := r.main().Debited; got != 5*c.before+6*c.granted {
			t.Errorf("%s to %s: late usage makes it %d", c.from[0].Name, c.to[0].Name, got)
		}
		if b := r.main(); b.Reserved != 0 || len(r.account().Sessions) != 0 {
			t.Errorf("%d are reserved", b.Reserved)
		}
	}
	charge := plan("charge", 1, service(1, 10_000, 100))
	charge.Vanished = true
	r := newRig(t, 10_000_000, gold)
	r.plans["charge"] = versions{charge}
	r.do(ccr(Initial, 0, 0, 100))
	r.provision("charge", 0, "imsi:1")
	r.tick(time.Hour + time.Minute)
	r.tick(2 * time.Hour)
	if b := r.main(); b.Debited != 1_000_000 || b.Reserved != 0 {
		t.Errorf("10 MiB that vanished cost %d, %d are reserved", b.Debited, b.Reserved)
	}
}

// An instance that does not know the plan's version yet waits for it.
func TestNoDecisionByAnOlderPlan(t *testing.T) {
	second := service(1, 20_000, 100)
	second.Final, second.Redirect, second.Address, second.Wait = rating.Redirect, "http://top.up", rating.URLAddress, time.Minute
	v1, v2 := plan("p", 1, service(1, 10_000, 100)), plan("p", 2, second)
	r := newRig(t, 100_000, versions{v1, v2})
	first := ccr(Initial, 0, 0, 100)
	if g := r.do(first).Grants[0]; g.Price == nil || g.Price.Redirect == "" {
		t.Fatalf("%+v", g)
	}
	r.w.Plans = versions{v1}
	idle := ccr(Update, 1, 0, 100)
	idle.Asks[0].Reports = false
	other := ccr(Initial, 0, 0, 100)
	other.Session = []byte("gw.realm.example;other")
	event := ccr(Event, 0, 0, 100)
	event.Action = DirectDebiting
	for what, q := range map[string]*Request{"another session": other, "an event": event, "an update": idle, "a repeat with a redirection": first, "a report": ccr(Update, 1, mib, 100)} {
		if r.do(q); !r.outcome.NeedPlan || r.outcome.Changed {
			t.Errorf("%s was decided by version 1: %+v", what, r.outcome.Answer)
		}
	}
	r.plans["q"] = versions{plan("q", 1, service(1, 10_000, 100))}
	r.provision("q", 0, "imsi:1")
	if a := r.do(other); a.Result != Success || r.outcome.NeedPlan {
		t.Errorf("under version 1 of another plan: %+v", a)
	}
}

// Prices depend on what the session said, and not on what a message left out.
func TestTheSessionsParticularsCount(t *testing.T) {
	free := service(1, 0, 100)
	free.APNs = []string{"ims"}
	r := newRig(t, 10_000_000, versions{plan("p", 1, free, service(2, 100_000, 100))})
	q := ccr(Initial, 0, 0, 100)
	q.Particulars.APN = []byte("ims")
	r.do(q)
	r.do(ccr(Update, 1, 5*mib, 100))
	r.do(ccr(Termination, 2, 5*mib, 100))
	if got := r.main().Debited; got != 0 {
		t.Errorf("a free access point was charged %d after messages that did not name it", got)
	}
	named := service(1, 10_000, 100)
	named.Services = []uint32{5}
	r = newRig(t, 10_000_000, versions{plan("p", 1, named)})
	q = ccr(Initial, 0, 0, 100)
	q.Asks[0].Has, q.Asks[0].Service = HasGroup|HasService, 5
	r.do(q)
	if g := r.do(ccr(Update, 1, 5*mib, 100)).Grants[0]; g.Result != Success || g.Units == 0 {
		t.Errorf("a report without its Service-Identifier got %+v", g)
	}
}

func TestRepeatsAreAnsweredAlike(t *testing.T) {
	p := plan("p", 1, service(1, 10_000, 100, 101, 102))
	p.Groups = 2
	r := newRig(t, 10_000_000, versions{p})
	if a := r.twice(ccr(Initial, 0, 0, 100, 100)); a.Grants[1].Units != 0 {
		t.Errorf("one quota was granted twice: %+v", a)
	}
	r.twice(ccr(Update, 1, mib, 100, 101))
	reports := ccr(Update, 2, mib, 100, 102) // one group too many
	reports.Asks[1].Wants = false
	r.twice(reports)
	r.twice(ccr(Update, 3, 0, 100, 999))
	r.twice(ccr(Update, 4, 0, 999))
	root := ccr(Update, 5, 0)
	root.Asks = []Ask{{Has: AtMessage, Reports: true, Used: Units{Octets: 5}}}
	if a := r.twice(root); a.Result != EndUserServiceDenied {
		t.Errorf("%+v", a)
	}
}

// A Rating-Group with and without Service-Identifier in one message are two
// quotas; alone, the one means the other.
func TestAGroupNamedWithAndWithoutService(t *testing.T) {
	r := newRig(t, 10_000_000, versions{plan("p", 1, service(1, 10_000, 100))})
	both := func(kind Kind, n uint32, used int64) *Request {
		q := ccr(kind, n, used, 100, 100)
		q.Asks[0].Has, q.Asks[0].Service = HasGroup|HasService, 5
		return q
	}
	for _, g := range r.twice(both(Initial, 0, 0)).Grants {
		if g.Units != 10*mib {
			t.Errorf("%+v", g)
		}
	}
	r.twice(both(Update, 1, 10*mib))
	if got := r.main(); got.Debited != 200_000 || got.Reserved != 200_000 {
		t.Errorf("%+v", got)
	}
	for _, l := range r.outcome.Log.Entries {
		t.Errorf("a repeat wrote %+v", l)
	}
}

func TestTwoReportsOfOneGroupAreNoOverrun(t *testing.T) {
	r := newRig(t, 10_000_000, versions{plan("p", 1, service(1, 10_000, 100))})
	r.do(ccr(Initial, 0, 0, 100))
	r.do(ccr(Update, 1, 6*mib, 100, 100))
	lines := r.outcome.Log.Entries[0].Lines
	if lines[0].Overrun != 0 || lines[1].Overrun != 2*mib {
		t.Errorf("12 MiB of 10: overrun %d and %d", lines[0].Overrun, lines[1].Overrun)
	}
}

// What a newer message was granted stays reserved when an older one is charged.
func TestAnOvertakenReportPaysFromWhatIsFree(t *testing.T) {
	r := newRig(t, 200_000, versions{plan("p", 1, service(1, 10_000, 100))})
	r.do(ccr(Initial, 0, 0, 100))
	r.do(ccr(Update, 2, 2*mib, 100))
	r.do(ccr(Update, 1, 3*mib, 100))
	if got := r.main().Reserved; got != 100_000 {
		t.Errorf("10 MiB are granted, %d reserved", got)
	}
	other := ccr(Initial, 0, 0, 100)
	other.Session = []byte("gw.realm.example;other")
	r.do(other)
	r.do(ccr(Termination, 3, 10*mib, 100))
	if b := r.main(); b.Overrun != 0 {
		t.Errorf("overrun %d, and nobody used more than was granted", b.Overrun)
	}
}

func TestVanishedUsageIsChargedOnce(t *testing.T) {
	p := plan("p", 1, service(1, 10_000, 100))
	p.Vanished = true
	r := newRig(t, 10_000_000, versions{p})
	r.do(ccr(Initial, 0, 0, 100))
	r.tick(time.Hour + time.Minute)
	r.tick(time.Hour)
	for _, c := range []struct {
		number  uint32
		used    int64
		debited int64
	}{{1, 4 * mib, 100_000}, {2, 6 * mib, 100_000}, {3, mib, 110_000}} {
		if r.do(ccr(Update, c.number, c.used, 100)); r.main().Debited != c.debited {
			t.Errorf("after report %d: debited %d, want %d", c.number, r.main().Debited, c.debited)
		}
	}
}

// Sessions live on after a message that got nothing.
func TestEveryMessageRenewsTheSession(t *testing.T) {
	r := newRig(t, 100_000, versions{plan("p", 1, service(1, 10_000, 100))})
	r.do(ccr(Initial, 0, 0, 100))
	r.w.Now = noon.Add(2 * time.Hour)
	if g := r.do(ccr(Update, 1, 10*mib, 100)).Grants[0]; g.Result != CreditLimitReached {
		t.Fatalf("%+v", g)
	}
	if r.tick(time.Minute); len(r.account().Sessions) != 1 {
		t.Error("it was closed a minute after it was heard")
	}
	if r.tick(3 * time.Hour); len(r.account().Sessions) != 0 {
		t.Error("it was never closed")
	}
}

func TestAnAbortIsNotReplaced(t *testing.T) {
	r := newRig(t, 100_000, versions{plan("p", 1, service(1, 10_000, 100))})
	r.do(ccr(Initial, 0, 0, 100))
	for _, kind := range []Kind{Reauthorise, Abort, Reauthorise} {
		r.do(&Request{Kind: kind, Realm: []byte("realm.example"), Session: []byte("gw.realm.example;1;2")})
	}
	if n := r.account().Sessions[0].Notice; n.Kind != Abort || n.Number != 2 {
		t.Errorf("%+v", n)
	}
}

// A termination under the number of an old update is no repeat of that.
func TestATerminationIsNoRepeatOfAnUpdate(t *testing.T) {
	r := newRig(t, 1_000_000, versions{plan("p", 1, service(1, 10_000, 100))})
	for n := range uint32(8) {
		kind := Update
		if n == 0 {
			kind = Initial
		}
		r.do(ccr(kind, n, 0, 100))
	}
	if a := r.do(ccr(Termination, 1, mib, 100)); a.Result != UnableToComply {
		t.Errorf("answered %d, and nothing was debited", a.Result)
	}
}

func TestAnOvertakenRefusalChangesNoAnswer(t *testing.T) {
	s := service(1, 10_000, 100)
	s.APNs = []string{"a"}
	r := newRig(t, 1_000_000, versions{plan("p", 1, s)})
	r.do(ccr(Initial, 0, 0))
	named := ccr(Update, 2, 0, 100)
	named.Asks[0].Reports, named.Asks[0].Wants = false, false
	first := r.do(named)
	r.do(ccr(Update, 1, mib, 100)) // has no tariff
	if d := cmp.Diff(first, r.do(named)); d != "" {
		t.Error(d)
	}
}

// Passes that are over make room for new ones, and one that would be over at
// once is refused.
func TestPassesComeAndGo(t *testing.T) {
	r := newRig(t, 0, versions{plan("p", 1, service(1, 10_000, 100))})
	pass := func(until time.Time) Result {
		return r.do(&Request{Kind: TopUp, Amount: mib, Cause: "pass", Bucket: Bucket{Unit: rating.Octets, Until: until}}).Result
	}
	for day := range 100 {
		r.w.Now = noon.Add(time.Duration(day) * 24 * time.Hour)
		if got := pass(r.w.Now.Add(23 * time.Hour)); got != Success {
			t.Fatalf("day %d: %d", day, got)
		}
	}
	if got := pass(r.w.Now); got != InvalidValue {
		t.Errorf("a pass until now: %d", got)
	}
	for n := len(r.account().Buckets); ; n++ {
		got := pass(r.w.Now.Add(time.Hour))
		if got == Success && n < BucketsMax+64 {
			continue // one more that is over has gone
		}
		if got != ResourcesExceeded || n < BucketsMax {
			t.Errorf("%d, with %d buckets", got, n)
		}
		break
	}
}

// Records name who opened the session, whatever became of the account's identities.
func TestTheSessionKeepsItsIdentity(t *testing.T) {
	for _, ids := range [][]string{{"msisdn:999", "imsi:1"}, {"msisdn:999"}, {"imsi:1"}} {
		r := newRig(t, 1_000_000, versions{plan("p", 1, service(1, 10_000, 100))})
		r.do(ccr(Initial, 0, 0, 100))
		r.provision("p", 0, ids...)
		r.do(ccr(Termination, 1, mib, 100))
		for _, e := range r.outcome.Log.Entries {
			if string(e.Identity) != "imsi:1" {
				t.Errorf("%v: a %s record names %q", ids, e.Sort, e.Identity)
			}
		}
	}
}

// What an allowance owes is in the record as in the ledger (I8).
func TestWhatAnAllowanceOwes(t *testing.T) {
	s := service(1, 0, 100)
	s.NoMoney, s.Allowances = true, []uint32{5}
	p := plan("p", 1, s)
	p.Allowances = []rating.Allowance{{ID: 5, Name: "a", Unit: rating.Octets, Amount: 20 * mib}}
	r := newRig(t, 0, versions{p})
	r.do(ccr(Initial, 0, 0, 100))
	r.do(ccr(Termination, 1, 25*mib, 100))
	e := &r.outcome.Log.Entries[0]
	if e.Lines[0].Allowed != 25*mib || e.Movements[0].Debit != 25*mib || e.Movements[0].Overrun != 5*mib {
		t.Errorf("lines %+v, movements %+v", e.Lines, e.Movements)
	}
}

// However many sessions and rating groups an account has: each message and
// each tick fits into one commit (256,000 octets, 64 records), and in the end
// nothing is left.
func TestEveryDecisionFitsIntoACommit(t *testing.T) {
	for _, groups := range []int{1, 16, 64} {
		p := plan("p", 1, service(1, 10))
		p.Services[0].Default, p.Sessions, p.Groups = true, 1024, groups
		r := newRig(t, 1<<50, versions{p})
		var named []uint32
		for g := range groups {
			named = append(named, uint32(1000+g))
		}
		message := func(kind Kind, n uint32, session int) Answer {
			q := ccr(kind, n, 3*mib, named...)
			q.Host, q.Realm = []byte("smf.epc.mnc001.mcc001.3gppnetwork.org"), []byte("epc.mnc001.mcc001.3gppnetwork.org")
			q.Session = fmt.Appendf(nil, "smf.epc.mnc001.mcc001.3gppnetwork.org;1700000000;%d;gy", session)
			q.Particulars = Particulars{
				APN: []byte("internet.mnc001.mcc001.gprs"), ChargingID: make([]byte, 4), Address: make([]byte, 16),
				SGSN: make([]byte, 16), GGSN: make([]byte, 16), PLMN: []byte("00101"), Location: make([]byte, 13), Equipment: make([]byte, 16),
			}
			a := r.do(q)
			r.fits()
			return a
		}
		open := 0
		for message(Initial, 0, open).Result == Success {
			open++
		}
		for n := range uint32(9) {
			for i := range open {
				message(Update, n+1, i)
			}
		}
		message(Termination, 10, 0)
		ticks := 0
		for r.w.Now = noon.Add(24 * time.Hour); len(r.account().Sessions) > 0 && ticks < 1000; ticks++ {
			r.do(&Request{Kind: Tick})
			r.fits()
		}
		if b := r.main(); b.Reserved != 0 || open < 8 || ticks == 0 {
			t.Errorf("%d groups: %d sessions, %d ticks, %d reserved", groups, open, ticks, b.Reserved)
		}
	}
}

// fits fails the test if the last decision is more than one commit.
func (r *rig) fits() {
	r.t.Helper()
	size := len(r.record)
	for i := range r.outcome.Closings {
		size += len(r.outcome.Closings[i].Session.AppendClosed(nil))
	}
	for i := range r.outcome.Log.Entries {
		size += len(r.outcome.Log.Entries[i].Append(nil))
	}
	if size > 256_000 || len(r.outcome.Closings) > 60 {
		r.t.Fatalf("a decision is %d octets in %d records", size, len(r.outcome.Closings)+1)
	}
}

// The session index knows a session as long as something may come for it: while it is
// open, and then as long as its record is kept.
func TestTheIndexOutlivesTheSession(t *testing.T) {
	validities := []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 9 * 24 * time.Hour}
	var services []rating.Service
	for i, v := range validities {
		s := service(uint32(i+1), 1, uint32(i))
		s.Quota.Validity = v
		services = append(services, s)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		r := newRig(t, 1_000_000_000, versions{plan("p", 1, services...)})
		kept, written := time.Time{}, 0
		send := func(q *Request) Answer {
			q.Indexed = true
			a := r.do(q)
			if x := &r.outcome.Index; x.Op == Written {
				kept, written = r.w.Now.Add(x.For), written+1
			}
			return a
		}
		some := func(kind Kind, n uint32) *Request {
			var groups []uint32
			for g := range validities {
				if rnd.IntN(3) == 0 {
					groups = append(groups, uint32(g))
				}
			}
			return ccr(kind, n, 10, groups...)
		}
		send(some(Initial, 0))
		number := uint32(1)
		for ; number < 30; number++ {
			s := &r.account().Sessions[0]
			if kept.Before(s.Remembered()) {
				t.Fatalf("message %d: the index knows the session until %s, it is remembered until %s", number-1, kept, s.Remembered())
			}
			if r.w.Now = r.w.Now.Add(time.Duration(rnd.Int64N(int64(s.Close.Sub(r.w.Now))))); send(some(Update, number)).Result != Success {
				t.Fatal("the session is over")
			}
		}
		r.w.Now = r.account().Sessions[0].Close
		r.do(&Request{Kind: Tick})
		for ; number < 36; number++ { // each at the last moment
			record := r.closed.memory()
			if until := r.w.Now.Add(record); kept.Before(until) {
				t.Fatalf("the index knows the ended session until %s, its record is kept until %s", kept, until)
			}
			r.w.Now = r.w.Now.Add(record - time.Second)
			if q := ccr(Update, number, 10, 1); send(q).Result != UnknownSession || len(r.outcome.Closings) == 0 {
				t.Fatal("late usage left no trace")
			}
		}
		if written > 36*2/3 {
			t.Errorf("the index was written %d times for 36 messages", written)
		}
	}
}

// What is sent once more after usage over a tariff change came late, or the plan began
// to spare the session, is answered as it was.
func TestRepeatsOfASessionThatHasEnded(t *testing.T) {
	day, night := service(1, 1_000_000, 1), service(2, 100_000, 1)
	first, second := plan("p", 1, day), plan("p", 2, night)
	r := newRig(t, 100_000_000, versions{first})
	r.plans["p"] = versions{first}
	r.w.Plans = changing{versions{first, second}, noon.Add(10 * time.Minute)}
	splits := func(q *Request) *Request { q.Client.Splits = true; return q }
	r.do(splits(ccr(Initial, 0, 0, 1)))
	q := splits(ccr(Update, 1, mib, 1))
	was := r.do(q)
	if was.Grants[0].Change.IsZero() {
		t.Fatal("nothing was granted over the change")
	}
	r.w.Now = noon.Add(3 * time.Hour)
	r.do(&Request{Kind: Tick})
	if r.do(ccr(Update, 2, 3*mib, 1)).Result != UnknownSession {
		t.Fatal("the session is open")
	}
	if paid := r.main().Debited; paid <= 1_000_000+300_000 || paid >= 4_000_000 {
		t.Fatalf("%d was paid: nothing was used after the change", paid)
	}
	again := r.do(q)
	was.Grants[0].Price, again.Grants[0].Price = nil, nil
	if d := cmp.Diff(was, again); d != "" {
		t.Errorf("answered otherwise (-first +repeat):\n%s", d)
	}

	strict, kind := plan("p", 1, service(1, 1_000_000, 1), service(2, 0, 9)), plan("p", 2, service(1, 1_000_000, 1), service(2, 0, 9))
	strict.Refuses = true
	r = newRig(t, 1_000_000, versions{strict})
	r.do(ccr(Initial, 0, 0, 1))
	q = ccr(Update, 1, mib, 1, 9)
	if was = r.do(q); was.Result != CreditLimitReached {
		t.Fatalf("answered %d", was.Result)
	}
	r.plans["p"], r.w.Plans = versions{strict, kind}, versions{strict, kind}
	if d := cmp.Diff(was, r.do(q)); d != "" {
		t.Errorf("answered otherwise (-first +repeat):\n%s", d)
	}
	r = newRig(t, 1_000_000, versions{kind})
	r.do(ccr(Initial, 0, 0, 1))
	q = ccr(Update, 1, mib, 1, 9)
	if was = r.do(q); was.Result != Success || was.Grants[0].Result != CreditLimitReached {
		t.Fatalf("answered %+v", was)
	}
	r.do(ccr(Termination, 2, 0))
	strict.Version = 3
	r.plans["p"], r.w.Plans = versions{kind, strict}, versions{kind, strict}
	if d := cmp.Diff(was, r.do(q)); d != "" {
		t.Errorf("answered otherwise (-first +repeat):\n%s", d)
	}
}

// changing are versions of which the last comes into force at that time.
type changing struct {
	versions
	at time.Time
}

func (c changing) Next(now time.Time) time.Time {
	if now.Before(c.at) {
		return c.at
	}
	return time.Time{}
}

func (c changing) Current(now time.Time) *rating.Plan {
	if now.Before(c.at) {
		return c.versions[0]
	}
	return c.versions[1]
}
