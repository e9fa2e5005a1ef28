package charging

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rtm/rating"
)

var update = flag.Bool("update", false, "write golden files anew")

type onePlan struct{ plan *rating.Plan }

func (p onePlan) Next(time.Time) time.Time       { return time.Time{} }
func (p onePlan) Current(time.Time) *rating.Plan { return p.plan }
func (p onePlan) Version(uint32) *rating.Plan    { return p.plan }

// plan20 is a plan of twenty rules, the last of which are the ones used.
func plan20() *rating.Plan {
	p := &rating.Plan{Name: "p", Version: 1, Currency: 978, Sessions: 64, Groups: 16, Grace: 30 * time.Second,
		Allowances: []rating.Allowance{{ID: 5, Name: "a", Unit: rating.Octets, Amount: 1 << 20}}}
	for i := range uint32(20) {
		p.Services = append(p.Services, rating.Service{
			Price: rating.Price{Rule: i + 1, Name: fmt.Sprint(i), Unit: rating.Octets, Step: 1, Per: 1 << 20, Micro: 10_000, Allowances: []uint32{5},
				Quota: rating.Quota{Size: 10 << 20, Threshold: 1 << 20, Validity: time.Hour}, Final: rating.Terminate},
			Groups: []uint32{100 + i}, Default: i == 19,
		})
	}
	return p
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func account(t testing.TB, money rating.Micros, w *World) []byte {
	t.Helper()
	var a Account
	var o Outcome
	Step(&a, &Request{Kind: Provision, Profile: &Profile{Plan: "p", Identities: []string{"imsi:1"}, Money: money}}, w, &o)
	if o.Answer.Result != Success || !o.Changed {
		t.Fatalf("%+v", o.Answer)
	}
	return a.Append(nil)
}

func world() *World {
	return &World{Now: noon, Plans: onePlan{plan20()}, Tenant: "t", Account: "a", Version: [8]byte{1}, Instance: []byte("A")}
}

func ccr(kind Kind, n uint32, used int64, groups ...uint32) *Request {
	r := &Request{Kind: kind, Realm: []byte("realm.example"), Host: []byte("gw.realm.example"), Session: []byte("gw.realm.example;1;2"),
		Number: n, Content: uint64(n)*7919 + uint64(used) + uint64(kind)<<40, Context: 32251, Identity: []byte("imsi:1")}
	for _, g := range groups {
		a := Ask{Group: g, Has: HasGroup, Wants: kind != Termination, Reports: kind != Initial}
		a.Used.Octets = used
		r.Asks = append(r.Asks, a)
	}
	return r
}

// Whatever comes: the invariants hold after each step, the record says the
// same after a round trip, and the ledger is the balance.
func TestPropertyWhateverComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		var a Account
		var o Outcome
		rec := accountRapid(t, w, rapid.Int64Range(0, 3_000_000).Draw(t, "money"))
		debited, credited := make(map[uint32]int64), make(map[uint32]int64)
		a.Decode(rec)
		for i := range a.Buckets {
			credited[a.Buckets[i].Number] = a.Buckets[i].Credited
		}
		number := uint32(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if err := a.Decode(rec); err != nil {
				t.Fatal(err)
			}
			w.Now = w.Now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "pause")) * time.Second)
			r := drawRequest(t, &number)
			Step(&a, r, w, &o)
			if o.Abandon {
				t.Fatalf("%s abandoned", r.Kind)
			}
			if !a.Check() {
				t.Fatalf("unsound after %s", r.Kind)
			}
			if !o.Changed {
				if b := a.Append(nil); !bytes.Equal(b, rec) {
					t.Fatalf("%s changed the account and says that it did not:\n%x\n%x", r.Kind, rec, b)
				}
				continue
			}
			for i := range o.Log.Entries {
				for _, m := range o.Log.Entries[i].Movements {
					debited[m.Bucket] += m.Debit
					credited[m.Bucket] += m.Credit
				}
			}
			rec = a.Append(nil)
			verify(t, rec, debited, credited)
		}
	})
}

func accountRapid(t *rapid.T, w *World, money int64) []byte {
	var a Account
	var o Outcome
	Step(&a, &Request{Kind: Provision, Profile: &Profile{Plan: "p", Identities: []string{"imsi:1"}, Money: rating.Micros(money)}}, w, &o)
	return a.Append(nil)
}

func drawRequest(t *rapid.T, number *uint32) *Request {
	kind := rapid.SampledFrom([]Kind{Initial, Update, Update, Update, Termination, Tick, TopUp, Event, Reauthorise, Abort}).Draw(t, "kind")
	switch kind {
	case Tick:
		return &Request{Kind: Tick}
	case TopUp:
		return &Request{Kind: TopUp, Amount: rapid.Int64Range(1, 1_000_000).Draw(t, "amount"), Cause: "x"}
	case Event:
		r := ccr(Event, 0, 0, 100)
		r.Action = rapid.SampledFrom([]Action{DirectDebiting, RefundAccount, CheckBalance, PriceEnquiry}).Draw(t, "action")
		r.Asks[0].Want.Octets = rapid.Int64Range(1, 1<<28).Draw(t, "want")
		return r
	case Initial, Update, Termination:
	default:
		return &Request{Kind: kind, Realm: []byte("realm.example"), Session: []byte("gw.realm.example;1;2")}
	}
	if rapid.IntRange(0, 4).Draw(t, "repeat") > 0 {
		*number++
	}
	n := *number - uint32(rapid.IntRange(0, int(min(*number, 3))).Draw(t, "behind"))
	groups := rapid.SliceOfN(rapid.Uint32Range(100, 121), 0, 4).Draw(t, "groups")
	r := ccr(kind, n, rapid.Int64Range(0, 15<<20).Draw(t, "used"), groups...)
	for i := range r.Asks {
		r.Asks[i].Reports = r.Asks[i].Reports || rapid.IntRange(0, 3).Draw(t, "reports") == 0
	}
	if rapid.IntRange(0, 3).Draw(t, "at message") == 0 {
		ask := Ask{Has: AtMessage, Wants: kind != Termination, Reports: true}
		ask.Used.Octets = rapid.Int64Range(0, 15<<20).Draw(t, "used at message")
		r.Asks = append(r.Asks, ask)
	}
	return r
}

// verify decodes a record anew and holds it against the ledger.
func verify(t *rapid.T, rec []byte, debited, credited map[uint32]int64) {
	var a Account
	if err := a.Decode(rec); err != nil {
		t.Fatal(err)
	}
	if err := a.DecodeAll(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Append(nil), rec) {
		t.Fatal("a record decoded and encoded is another one")
	}
	for i := range a.Buckets {
		b := &a.Buckets[i]
		held := int64(0)
		for j := range a.Sessions {
			held += a.Sessions[j].holds(b.Number)
		}
		if held != b.Reserved {
			t.Fatalf("bucket %d: %d reserved, %d held", b.Number, b.Reserved, held)
		}
		if b.Debited != debited[b.Number] || b.Credited != credited[b.Number] {
			t.Fatalf("bucket %d: debited %d credited %d, the ledger says %d and %d", b.Number, b.Debited, b.Credited, debited[b.Number], credited[b.Number])
		}
	}
}

func TestStepAllocatesNothing(t *testing.T) {
	w := world()
	rec := account(t, 1_000_000_000, w)
	for name, groups := range map[string][]uint32{"four groups": {116, 117, 118, 119}, "two groups": {118, 119}, "one group": {119}} {
		var a Account
		var o Outcome
		var buf []byte
		a.Decode(rec)
		Step(&a, ccr(Initial, 0, 0, groups...), w, &o)
		open := a.Append(nil)
		r := ccr(Update, 1, 1<<20, groups...)
		if n := testing.AllocsPerRun(200, func() {
			if a.Decode(open) != nil {
				t.Fatal("decode")
			}
			Step(&a, r, w, &o)
			if o.Answer.Result != Success || o.Answer.Grants[0].Units == 0 {
				t.Fatal(o.Answer)
			}
			buf = a.Append(buf[:0])
		}); n != 0 {
			t.Errorf("%s: %v allocations in decode, Step, encode", name, n)
		}
	}
}

func TestASessionDoesNotGrow(t *testing.T) {
	w := world()
	rec := account(t, 1<<50, w)
	var a Account
	var o Outcome
	a.Decode(rec)
	Step(&a, ccr(Initial, 0, 0, 119, 118), w, &o)
	rec = a.Append(nil)
	at := make(map[uint32]int)
	for n := uint32(1); n <= 10_000; n++ {
		if err := a.Decode(rec); err != nil {
			t.Fatal(err)
		}
		w.Now = w.Now.Add(time.Second)
		Step(&a, ccr(Update, n, 1000, 119, 118), w, &o)
		if o.Answer.Result != Success {
			t.Fatalf("%d: %+v", n, o.Answer)
		}
		rec = a.Append(nil)
		at[n] = len(rec)
	}
	t.Logf("%d octets after 10 updates, %d after 10,000", at[10], at[10_000])
	if float64(at[10_000]) > 1.2*float64(at[10]) {
		t.Errorf("%d octets after 10 updates, %d after 10,000", at[10], at[10_000])
	}
}

// The record as this version writes it. A change here breaks stores that exist.
func TestGoldenRecord(t *testing.T) {
	w := world()
	var a Account
	var o Outcome
	a.Decode(account(t, 5_000_000, w))
	r := ccr(Initial, 0, 0, 119, 118)
	r.Indexed = true
	r.Particulars = Particulars{APN: []byte("internet"), ChargingID: []byte{0, 0, 0, 47}, Address: []byte{10, 45, 0, 2}, RAT: 6}
	Step(&a, r, w, &o)
	w.Now, w.Took = w.Now.Add(time.Minute), 1500*time.Microsecond
	Step(&a, ccr(Update, 1, 3<<20, 119), w, &o)
	Step(&a, &Request{Kind: Reauthorise, Realm: r.Realm, Session: r.Session}, w, &o)
	got := hex.EncodeToString(a.Append(nil)) + "\n"
	const file = "testdata/record-3.hex"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got  %swant %s", got, want)
	}
	for _, name := range []string{
		"testdata/record-1.hex", // the name of an instance with each message
		"testdata/record-2.hex", // no balance sum
	} {
		earlier, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		old, err := hex.DecodeString(strings.TrimSpace(string(earlier)))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Decode(old); err != nil {
			t.Fatal(err)
		}
		if err := a.DecodeAll(); err != nil || hex.EncodeToString(a.Append(nil))+"\n" != got {
			t.Errorf("%s says something else than when it was written: %v", name, err)
		}
	}
}

// Entries as this version writes them, one of each sort that there is. A change here
// makes the streams and record files that exist say something else.
func TestGoldenEntries(t *testing.T) {
	w := world()
	w.Took = 1500 * time.Microsecond
	var a Account
	var o Outcome
	var got strings.Builder
	sorts := make(map[Sort]bool)
	step := func(after time.Duration, r *Request) {
		w.Now = w.Now.Add(after)
		Step(&a, r, w, &o)
		if w.Closed = nil; len(o.Closings) > 0 {
			c := o.Closings[0].Session
			w.Closed = &c
		}
		for i := range o.Log.Entries {
			b := o.Log.Entries[i].Append(nil)
			var e Entry
			if err := e.Decode(b); err != nil || e.Strange || !bytes.Equal(e.Append(nil), b) {
				t.Errorf("%s does not go both ways: %v", o.Log.Entries[i].Sort, err)
			}
			sorts[e.Sort] = true
			fmt.Fprintf(&got, "%s %x\n", e.Sort, b)
		}
		a.Decode(a.Append(nil))
	}
	open := ccr(Initial, 0, 0, 119, 118)
	open.Particulars = Particulars{APN: []byte("internet"), ChargingID: []byte{0, 0, 0, 47}, Address: []byte{10, 45, 0, 2}, RAT: 6}
	event := ccr(Event, 0, 0, 100)
	event.Action, event.Asks[0].Want.Octets = DirectDebiting, 1<<20
	prompt := &Request{Kind: Reauthorise, Realm: open.Realm, Session: open.Session}
	step(0, &Request{Kind: Provision, Profile: &Profile{Plan: "p", Identities: []string{"imsi:1"}, Money: 5_000_000}})
	step(0, ccr(Update, 7, 1<<20, 119)) // of no session
	step(0, open)
	step(time.Minute, ccr(Update, 1, 3<<20, 119))
	step(time.Second, event)
	step(time.Second, &Request{Kind: TopUp, Amount: 7, Cause: "x"})
	step(time.Second, prompt)
	for range NoticeTries {
		step(time.Minute, &Request{Kind: Tick}) // nobody answers
	}
	step(time.Hour, &Request{Kind: Tick})
	step(time.Second, ccr(Termination, 2, 1<<20, 119))
	step(time.Second, ccr(Update, 3, 1<<20, 119)) // late
	a.Buckets[0].Debited++
	a.Decode(a.Append(nil))
	step(time.Second, &Request{Kind: Audit})
	for s := Message; s <= Audited; s++ {
		if !sorts[s] {
			t.Errorf("there is no %s", s)
		}
	}
	const file = "testdata/entries-1.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

// Any bytes are a record or an error, and a record says the same again.
func FuzzRecord(f *testing.F) {
	w := world()
	rec := account(f, 5_000_000, w)
	f.Add(rec)
	var a Account
	var o Outcome
	a.Decode(rec)
	Step(&a, ccr(Initial, 0, 0, 119, 118), w, &o)
	f.Add(a.Append(nil))
	Step(&a, ccr(Update, 1, 5<<20, 119), w, &o)
	f.Add(a.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a, again Account
		if a.Decode(b) != nil || a.DecodeAll() != nil {
			return
		}
		first := a.Append(nil)
		if err := again.Decode(first); len(first) > 0 && err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if again.DecodeAll() != nil {
			t.Fatal("what was written cannot be decoded")
		}
		if second := again.Append(nil); !bytes.Equal(first, second) {
			t.Fatalf("it is not stable:\n%x\n%x", first, second)
		}
		var e Entry
		var o Once
		e.Decode(b)
		o.Decode(b)
		a.Check()
		a.Wake()
		a.Audit(noon, true)
	})
}

func BenchmarkStep(b *testing.B) {
	w := world()
	var a Account
	var o Outcome
	a.Decode(account(b, 1_000_000_000, w))
	Step(&a, ccr(Initial, 0, 0, 119), w, &o)
	open := a.Append(nil)
	r := ccr(Update, 1, 1<<20, 119)
	var buf []byte
	b.Run("decode, step, encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.Decode(open)
			Step(&a, r, w, &o)
			buf = a.Append(buf[:0])
		}
	})
	b.Run("codec", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.Decode(open)
			a.DecodeAll()
			buf = a.Append(buf[:0])
		}
	})
}

// planOf is a plan whose last service is that of rating group 119, behind so many others that are for
// other places and times.
func planOf(others, prefixes, bands int, step int64) *rating.Plan {
	p := plan20()
	last := p.Services[19]
	last.Step, p.Services = step, p.Services[:0]
	for i := range others {
		s := last
		s.Rule, s.Zones, s.Bands = uint32(i)+1, []uint16{uint16(i)}, 1<<(i%bands)
		p.Services = append(p.Services, s)
		p.Zones = append(p.Zones, rating.Zone{Name: fmt.Sprint(i), Calls: true})
	}
	for n := range prefixes {
		prefix, _ := rating.PrefixOf(fmt.Sprint(100_000 + n))
		p.Prefixes.Put(prefix, uint16(n%others))
	}
	for i := range bands {
		p.Bands = append(p.Bands, rating.Band{Name: fmt.Sprint(i), Days: 0xFF, From: i * 60, To: i*60 + 30})
	}
	last.Rule = uint32(others) + 1
	p.Services = append(p.Services, last)
	if err := p.Check(); err != nil {
		panic(err)
	}
	return p
}

// BenchmarkStepByPlan decides an update of an account with one bucket by a plan with one
// service, by the same in steps of 1 MiB, and of an account with 20 buckets by a plan with 200
// services, 100,000 prefixes and 20 times; it reports what these cost, as a ratio to the first.
func BenchmarkStepByPlan(b *testing.B) {
	stepped := func(p *rating.Plan, buckets int) func(b *testing.B) {
		w := world()
		w.Plans = onePlan{p}
		var a Account
		var o Outcome
		p.Allowances = nil
		for i := range p.Services {
			p.Services[i].Allowances = nil
		}
		a.Decode(account(b, 1_000_000_000, w))
		for i := range buckets - 1 {
			Step(&a, &Request{Kind: TopUp, Amount: 1 << 30, Cause: "x", Bucket: Bucket{Unit: rating.Seconds, Until: noon.Add(time.Duration(i+1) * time.Hour * 24)}}, w, &o)
			if o.Answer.Result != Success {
				b.Fatalf("%+v", o.Answer)
			}
		}
		first := ccr(Initial, 0, 0, 119)
		first.Particulars.Called = []byte("tel:+1999991234")
		Step(&a, first, w, &o)
		if len(o.Answer.Grants) != 1 || o.Answer.Grants[0].Units == 0 || len(a.Buckets) != buckets {
			b.Fatalf("%+v with %d buckets", o.Answer, len(a.Buckets))
		}
		open, r := a.Append(nil), ccr(Update, 1, 1<<20, 119)
		r.Particulars.Called = first.Particulars.Called
		var buf []byte
		return func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.Decode(open)
				Step(&a, r, w, &o)
				buf = a.Append(buf[:0])
			}
		}
	}
	simplest := 0.0
	for _, c := range []struct {
		name string
		run  func(b *testing.B)
	}{
		{"simplest", stepped(planOf(0, 0, 0, 1), 1)},
		{"steps of 1 MiB", stepped(planOf(0, 0, 0, 1<<20), 1)},
		{"20 buckets", stepped(planOf(0, 0, 0, 1), 20)},
		{"200 services", stepped(planOf(199, 100_000, 20, 1), 1)},
		{"200 services, 20 buckets", stepped(planOf(199, 100_000, 20, 1), 20)},
	} {
		b.Run(c.name, func(b *testing.B) {
			c.run(b)
			ns := float64(b.Elapsed()) / float64(b.N)
			if simplest == 0 {
				simplest = ns
			}
			b.ReportMetric(ns/simplest, "÷simplest")
		})
	}
}
