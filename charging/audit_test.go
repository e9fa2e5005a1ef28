package charging

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// audited lets Step audit a record at that moment, and returns what it says and
// the record after it.
func audited(t testing.TB, rec []byte, at time.Time, o *Outcome) (Faults, []byte) {
	t.Helper()
	w := world()
	w.Now = at
	var a Account
	if err := a.Decode(rec); err != nil {
		t.Fatal(err)
	}
	Step(&a, &Request{Kind: Audit, Calm: true}, w, o)
	if o.Answer.Result != Success {
		t.Fatalf("an audit is answered %d", o.Answer.Result)
	}
	return o.Answer.Faults, a.Append(nil)
}

// served is the record of an account with an open session that has used some.
func served(t testing.TB) []byte {
	t.Helper()
	w := world()
	var a Account
	var o Outcome
	a.Decode(account(t, 5_000_000, w))
	Step(&a, ccr(Initial, 0, 0, 119, 118), w, &o)
	Step(&a, ccr(Update, 1, 3<<20, 119), w, &o)
	a.Armed = a.Wake()
	return a.Append(nil)
}

// Each thing that can be wrong is found and named, on record once, and left as
// it is.
func TestAuditFindsWhatDoesNotHold(t *testing.T) {
	later := noon.Add(time.Minute)
	for name, c := range map[string]struct {
		spoil func(a *Account)
		at    time.Time
		want  Faults
	}{
		"nothing":                         {func(*Account) {}, later, 0},
		"a debit without its entry":       {func(a *Account) { a.Buckets[0].Debited++ }, later, FaultLedger},
		"a debit that is gone":            {func(a *Account) { a.Buckets[0].Debited-- }, later, FaultLedger},
		"a credit without its entry":      {func(a *Account) { a.Buckets[1].Credited++ }, later, FaultLedger},
		"money moved between two buckets": {func(a *Account) { a.Buckets[0].Credited--; a.Buckets[1].Credited++ }, later, FaultLedger},
		"a reservation without a session": {func(a *Account) { a.Buckets[0].Reserved++ }, later, FaultReservation},
		"a session without a reservation": {func(a *Account) { a.Buckets[0].Reserved-- }, later, FaultReservation},
		"a hold in no bucket": {func(a *Account) {
			s := &a.Sessions[0]
			s.Groups[0].Holds = append(s.Groups[0].Holds, Hold{Bucket: 99, Amount: 1})
		}, later, FaultReservation},
		"less than nothing reserved": {func(a *Account) { a.Buckets[1].Reserved = -1 }, later, FaultBalance | FaultReservation},
		"more gone than was there":   {func(a *Account) { a.Buckets[1].Debited = 1 << 50 }, later, FaultBalance | FaultLedger},
		"a session charged more than the account": {func(a *Account) {
			a.Sessions[0].Groups[0].Debited = 1 << 40
		}, later, FaultLedger},
		"a timer that was never set":     {func(a *Account) { a.Armed = time.Time{} }, later, FaultTimer},
		"a timer that was set too late":  {func(a *Account) { a.Armed = a.Armed.Add(time.Second) }, later, FaultTimer},
		"a timer that has not fired":     {func(*Account) {}, noon.Add(2 * time.Hour), FaultTimer},
		"a timer that is a little late":  {func(*Account) {}, noon.Add(time.Hour + 80*time.Second), 0},
		"a timer of an account at peace": {func(a *Account) { a.Armed = a.Armed.Add(-time.Hour) }, later, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var a Account
			if err := a.Decode(served(t)); err != nil || a.DecodeAll() != nil {
				t.Fatal(err)
			}
			c.spoil(&a)
			rec := a.Append(nil)
			var o Outcome
			got, after := audited(t, rec, c.at, &o)
			if got != c.want {
				t.Fatalf("found %q, want %q", got, c.want)
			}
			if o.Changed != (c.want != 0) || len(o.Log.Entries) != len(o.Closings)+map[bool]int{true: 1}[c.want != 0] {
				t.Fatalf("changed %t, %d entries", o.Changed, len(o.Log.Entries))
			}
			if c.want != 0 {
				if e := &o.Log.Entries[0]; e.Sort != Audited || e.Text != "does not hold: "+c.want.String() || len(e.Movements) != 0 {
					t.Errorf("on record is %+v", e)
				}
			}
			var b Account
			if err := b.Decode(after); err != nil {
				t.Fatal(err)
			}
			b.Events = a.Events
			b.Decided = a.Decided
			if again := b.Append(nil); string(again) != string(rec) {
				t.Errorf("the account was changed:\n%x\n%x", rec, again)
			}
		})
	}
}

// A mistake stays visible, whatever comes after it.
func TestAMistakeStaysVisible(t *testing.T) {
	var a Account
	var o Outcome
	a.Decode(served(t))
	a.Buckets[0].Debited++
	rec := a.Append(nil)
	w := world()
	for _, r := range []*Request{ccr(Update, 2, 1<<20, 119), {Kind: TopUp, Amount: 7, Cause: "x"}, ccr(Termination, 3, 1<<20, 119)} {
		if err := a.Decode(rec); err != nil {
			t.Fatal(err)
		}
		if Step(&a, r, w, &o); !o.Changed || !a.Check() {
			t.Fatalf("%s: %+v", r.Kind, o.Answer)
		}
		rec = a.Append(nil)
	}
	if got, _ := audited(t, rec, noon, &o); got&FaultLedger == 0 {
		t.Errorf("found %q", got)
	}
}

// Step may not debit without an entry: the commit is refused.
func TestADecisionWithoutItsEntryIsUnsound(t *testing.T) {
	var a Account
	a.Decode(served(t))
	if !a.Check() {
		t.Fatal("unsound as it is")
	}
	a.Buckets[1].Debited++
	if a.Check() {
		t.Error("a debit without an entry passes")
	}
}

// Whatever comes, an audit finds nothing; nor after buckets were forgotten.
func TestPropertyAuditFindsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		var a Account
		var o Outcome
		rec := accountRapid(t, w, rapid.Int64Range(0, 3_000_000).Draw(t, "money"))
		number := uint32(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			w.Now = w.Now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "pause")) * time.Second)
			a.Decode(rec)
			r := drawRequest(t, &number)
			if rapid.IntRange(0, 3).Draw(t, "bucket") == 0 {
				r = &Request{Kind: TopUp, Amount: 5, Bucket: Bucket{Until: w.Now.Add(time.Second)}}
			}
			if Step(&a, r, w, &o); o.Changed {
				a.Armed = a.Wake()
				rec = a.Append(nil)
			}
			if got := a.Audit(w.Now, false); got != 0 {
				t.Fatalf("after %s: %s", r.Kind, got)
			}
			a.Decode(rec)
			if got := a.Audit(w.Now, false); got != 0 {
				t.Fatalf("of the record after %s: %s", r.Kind, got)
			}
		}
	})
}

func TestForgottenBucketsLeaveTheSum(t *testing.T) {
	w := world()
	var a Account
	var o Outcome
	rec := account(t, 5_000_000, w)
	for range 3 * BucketsMax {
		a.Decode(rec)
		Step(&a, &Request{Kind: TopUp, Amount: 5, Bucket: Bucket{Until: w.Now.Add(time.Second)}}, w, &o)
		if o.Answer.Result != Success || !a.Check() {
			t.Fatalf("%+v", o.Answer)
		}
		rec = a.Append(nil)
		w.Now = w.Now.Add(2 * time.Second)
	}
	a.Decode(rec)
	if got := a.Audit(w.Now, true); len(a.Buckets) != BucketsMax || got&^FaultTimer != 0 {
		t.Errorf("%d buckets, found %q", len(a.Buckets), got)
	}
}

func TestFaultNames(t *testing.T) {
	if got := (FaultBalance | FaultLedger | FaultTimer | FaultRecord).String(); got != "I1, I3, timer, record" {
		t.Error(got)
	}
	if got := strings.Join(FaultNames(), " "); got != "I1 I2 I3 timer record" {
		t.Error(got)
	}
}

// The entries of an account lead to its record: none is missing, none is changed,
// and the record is not an older one.
func TestChains(t *testing.T) {
	w := world()
	var a Account
	var o Outcome
	var recs [][]byte
	var entries []Entry
	step := func(r *Request) {
		if Step(&a, r, w, &o); !o.Changed {
			t.Fatalf("%s: %+v", r.Kind, o.Answer)
		}
		recs = append(recs, a.Append(nil))
		for i := range o.Log.Entries {
			var e Entry
			if e.Decode(o.Log.Entries[i].Append(nil)) != nil {
				t.Fatal("an entry cannot be decoded")
			}
			entries = append(entries, e)
		}
		a.Decode(recs[len(recs)-1])
	}
	step(&Request{Kind: Provision, Profile: &Profile{Plan: "p", Identities: []string{"imsi:1"}, Money: 5_000_000}})
	step(ccr(Initial, 0, 0, 119, 118))
	step(ccr(Update, 1, 3<<20, 119))
	step(&Request{Kind: TopUp, Amount: 7, Cause: "x"})
	step(ccr(Termination, 2, 1<<20, 119))
	if len(entries) != 6 {
		t.Fatalf("%d entries", len(entries))
	}
	leads := func(entries []Entry, rec []byte) bool {
		var c Chain
		for i := range entries {
			c.Follow(&entries[i])
		}
		var a Account
		return a.Decode(rec) == nil && c.Leads(&a)
	}
	last := recs[len(recs)-1]
	changed := func(i int, edit func(e *Entry)) []Entry {
		es := slices.Clone(entries)
		es[i].Movements = slices.Clone(es[i].Movements)
		edit(&es[i])
		return es
	}
	for name, c := range map[string]struct {
		entries []Entry
		rec     []byte
		want    bool
	}{
		"all":                     {entries, last, true},
		"what a follower left":    {entries[3:], last, true},
		"the last one":            {entries[5:], last, true},
		"later ones are there":    {entries[:4], last, true},
		"one is missing":          {slices.Delete(slices.Clone(entries), 2, 3), last, false},
		"one came twice":          {slices.Insert(slices.Clone(entries), 2, entries[2]), last, false},
		"a movement is another":   {changed(2, func(e *Entry) { e.Movements[0].Debit++ }), last, false},
		"a balance is another":    {changed(5, func(e *Entry) { e.Movements[0].Available++ }), last, false},
		"the record is older":     {entries, recs[2], false},
		"the record is the first": {entries[5:], recs[0], false},
	} {
		if got := leads(c.entries, c.rec); got != c.want {
			t.Errorf("%s: they lead to it: %t", name, got)
		}
	}
	var b Account
	b.Decode(last)
	b.Buckets[0].Credited--
	if leads(entries, b.Append(nil)) {
		t.Error("they lead to a record of another balance")
	}
}

// What an audit costs: decoding an account with a session, and looking at it.
func BenchmarkAudit(b *testing.B) {
	rec := served(b)
	var a Account
	b.ReportAllocs()
	for b.Loop() {
		if a.Decode(rec) != nil || a.Audit(noon, true) != 0 {
			b.Fatal("it does not hold")
		}
	}
}
