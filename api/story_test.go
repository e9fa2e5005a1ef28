package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"rtm/cdr"
	"rtm/charging"
	"rtm/rating"
)

// tariff is two versions of a plan, the second of which comes into force after
// an hour.
type tariff struct {
	from     time.Time
	versions [2]*rating.Plan
}

func (t *tariff) Current(at time.Time) *rating.Plan {
	if at.Before(t.from.Add(time.Hour)) {
		return t.versions[0]
	}
	return t.versions[1]
}

func (t *tariff) Next(at time.Time) time.Time {
	if change := t.from.Add(time.Hour); at.Before(change) {
		return change
	}
	return time.Time{}
}

func (t *tariff) Version(n uint32) *rating.Plan {
	if n < 1 || n > 2 {
		return nil
	}
	return t.versions[n-1]
}

func drawTariff(t *rapid.T) *tariff {
	out := &tariff{from: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	vanished := rapid.Bool().Draw(t, "vanished")
	for v := range out.versions {
		p := &rating.Plan{Name: "p", Version: uint32(v) + 1, Currency: 978, Sessions: 3, Groups: 3, Grace: 30 * time.Second, Vanished: vanished,
			Allowances: []rating.Allowance{{ID: 5, Name: "start", Unit: rating.Octets, Amount: 8 << 20, Priority: -1, Validity: 50 * time.Minute}}}
		for g := range uint32(3) {
			p.Services = append(p.Services, rating.Service{
				Price: rating.Price{
					Rule: g + 1, Name: fmt.Sprint("rule ", g+1), Unit: []rating.Unit{rating.Octets, rating.Seconds, rating.Octets}[g],
					Step: rapid.SampledFrom([]int64{1, 60, 1024}).Draw(t, "step"), Per: rapid.SampledFrom([]int64{1, 1000, 1 << 20}).Draw(t, "per"),
					Micro: rating.Micros(rapid.Int64Range(0, 20_000).Draw(t, "price")), NoMoney: g == 2 && v == 1, Final: rating.Terminate,
					Quota: rating.Quota{Size: rapid.Int64Range(1, 10<<20).Draw(t, "quota"), Validity: 10 * time.Minute},
				},
				Groups: []uint32{g + 1}, Default: g == 0,
			})
			if s := &p.Services[g]; s.Unit == rating.Octets {
				s.Allowances = []uint32{5}
			}
		}
		out.versions[v] = p
	}
	return out
}

// An actor makes requests of one account and keeps the records of what they did.
type actor struct {
	world   charging.World
	bytes   []byte // the account
	outcome charging.Outcome
	closed  map[string]charging.Session
	numbers map[string]uint32
	records []cdr.Record
}

func (a *actor) do(t *rapid.T, r *charging.Request) {
	var acc charging.Account
	if len(a.bytes) > 0 {
		if err := acc.Decode(a.bytes); err != nil {
			t.Fatal(err)
		}
	}
	a.world.Closed = nil
	if s, ok := a.closed[string(r.Session)]; ok {
		a.world.Closed = &s
	}
	charging.Step(&acc, r, &a.world, &a.outcome)
	if a.outcome.Abandon || !a.outcome.Changed {
		return // of which nothing is committed
	}
	a.bytes = acc.Append(nil)
	for _, c := range a.outcome.Closings {
		a.closed[string(c.Session.ID)] = c.Session
	}
	for i := range a.outcome.Log.Entries {
		var e charging.Entry // as the store gives it back
		if err := e.Decode(a.outcome.Log.Entries[i].Append(nil)); err != nil {
			t.Fatal(err)
		}
		a.records = append(a.records, cdr.FromEntry(&e, 0, 0))
	}
}

// draw makes the next request.
func (a *actor) draw(t *rapid.T) *charging.Request {
	session := rapid.SampledFrom([]string{"s1", "s2"}).Draw(t, "session")
	r := &charging.Request{Realm: []byte("r"), Host: []byte("gw.r"), Session: []byte(session), Context: 32251, Identity: []byte("imsi:1")}
	r.Kind = rapid.SampledFrom([]charging.Kind{
		charging.Initial, charging.Update, charging.Update, charging.Update, charging.Update, charging.Termination, charging.Tick,
		charging.TopUp, charging.Event,
	}).Draw(t, "kind")
	switch r.Kind {
	case charging.Tick:
		return &charging.Request{Kind: r.Kind}
	case charging.TopUp:
		b := charging.Bucket{Unit: rating.Money}
		if rapid.Bool().Draw(t, "ends") {
			b.Until = a.world.Now.Add(20 * time.Minute)
		}
		return &charging.Request{Kind: r.Kind, Amount: rapid.Int64Range(1, 200_000).Draw(t, "amount"), Bucket: b, Cause: "top-up"}
	}
	if rapid.IntRange(0, 5).Draw(t, "repeat") > 0 {
		a.numbers[session]++
	}
	r.Number = a.numbers[session] - min(a.numbers[session], uint32(rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2}).Draw(t, "behind")))
	r.Content = uint64(len(a.records))<<8 + uint64(r.Kind) + 1
	r.Action = charging.DirectDebiting
	for range rapid.IntRange(0, 3).Draw(t, "asks") {
		ask := charging.Ask{Group: rapid.Uint32Range(0, 5).Draw(t, "group"), Has: charging.HasGroup}
		if ask.Group == 0 {
			ask.Has = 0
		}
		if rapid.IntRange(0, 3).Draw(t, "service") == 0 {
			ask.Service, ask.Has = 7, ask.Has|charging.HasService
		}
		ask.Wants = r.Kind != charging.Termination && rapid.IntRange(0, 3).Draw(t, "wants") > 0
		ask.Reports = r.Kind != charging.Initial && rapid.IntRange(0, 3).Draw(t, "reports") > 0
		if n := rapid.Int64Range(0, 12<<20).Draw(t, "used"); ask.Reports || r.Kind == charging.Event {
			ask.Used = charging.Units{Octets: n, Seconds: n >> 12}
		}
		r.Asks = append(r.Asks, ask)
	}
	return r
}

// play draws an account and what happens on it.
func play(t *rapid.T) (*actor, *tariff) {
	plans := drawTariff(t)
	a := &actor{closed: make(map[string]charging.Session), numbers: make(map[string]uint32)}
	a.world = charging.World{Now: plans.from, Plans: plans, Tenant: "t", Account: "a", Instance: []byte("A")}
	a.do(t, &charging.Request{Kind: charging.Provision, Profile: &charging.Profile{
		Plan: "p", Identities: []string{"imsi:1"}, Money: rating.Micros(rapid.Int64Range(0, 500_000).Draw(t, "money")),
	}})
	for n := range rapid.IntRange(1, 40).Draw(t, "steps") {
		a.world.Now = a.world.Now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "pause")) * time.Second)
		a.world.Version = [8]byte{byte(n), 1}
		a.do(t, a.draw(t))
	}
	return a, plans
}

// Whatever comes: each charge is what its rule makes it, what is free adds up,
// and final records are the sums of their messages.
func TestPropertyEveryStoryComesOutRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, plans := play(t)
		for _, session := range []string{"s1", "s2", ""} {
			records := a.records
			if last := lastLife(records, session); last != nil {
				records = slices.DeleteFunc(slices.Clone(records), func(r cdr.Record) bool { return r.EntryNumber() < last.EntryNumber() })
			} else if session != "" {
				continue
			}
			s := Telling{Session: session, Plan: func(_, _ string, v uint32) *rating.Plan { return plans.Version(v) }}.Tell(records)
			if len(s.Wrong) > 0 {
				t.Fatalf("session %q: %s", session, strings.Join(s.Wrong, "\n"))
			}
			for _, m := range s.Missing {
				if !strings.HasPrefix(m, "there is no final record") {
					t.Fatalf("session %q: missing: %s", session, m)
				}
			}
			free := make(map[uint32]int64)
			for i := range s.Steps {
				adds(t, &s.Steps[i], free)
			}
		}
	})
}

// adds holds a step against the two rules by which a reader adds up.
func adds(t *rapid.T, s *Step, free map[uint32]int64) {
	for _, b := range s.Buckets {
		if was, ok := free[b.Bucket]; ok && was+b.Credited+b.Released-b.Reserved-b.TakenOfFree != b.Free {
			t.Fatalf("free was %d: %+v", was, b)
		}
		free[b.Bucket] = b.Free
		if b.Reserved < 0 || b.Released < 0 || b.TakenOfFree < 0 || b.TakenOfFree > b.Taken {
			t.Fatalf("%+v", b)
		}
	}
	for _, it := range s.Items {
		if it.Sum != nil && (it.Sum.PriceTotal-it.Sum.PriceBefore != it.Charged || it.How == "") {
			t.Fatalf("%+v", it)
		}
	}
}

// A record that was tampered with is told.
func TestAWrongRecordIsTold(t *testing.T) {
	for what, spoil := range map[string]func(r *cdr.Record){
		"by the rule it is":      func(r *cdr.Record) { r.Lines[0].Charged += 5 },
		"but the buckets gave":   func(r *cdr.Record) { r.Movements[0].Debit -= 5 },
		"should be free":         func(r *cdr.Record) { r.Movements[0].Available += 5 },
		"should have been paid":  func(r *cdr.Record) { r.Lines[0].Paid += 5 },
		"money paid for":         func(r *cdr.Record) { r.Lines[0].Octets += 50 << 20 },
		"the final record says":  func(r *cdr.Record) { r.Lines[0].Overrun += 5 },
		"allowances paid for 5 ": func(r *cdr.Record) { r.Lines[0].Allowed += 5 },
	} {
		records, plan := example(t)
		spoil(&records[1])
		s := Telling{Session: "s", Plan: func(string, string, uint32) *rating.Plan { return plan }}.Tell(records)
		if text := strings.Join(s.Wrong, "\n"); !strings.Contains(text, what) {
			t.Errorf("want %q, got: %s", what, text)
		}
	}
}

// example is the session of 10 MiB at 0.01 per MiB.
func example(t *testing.T) ([]cdr.Record, *rating.Plan) {
	t.Helper()
	group := uint32(10)
	plan := &rating.Plan{Name: "p", Version: 1, Services: []rating.Service{{Price: rating.Price{
		Rule: 1, Name: "data", Unit: rating.Octets, Step: 1, Per: 1 << 20, Micro: 10_000,
	}}}}
	opened := "2026-03-01T10:00:00.000Z"
	record := func(n int, kind, request string, messages uint32, l cdr.Line, m cdr.Move) cdr.Record {
		l.RatingGroup, m.Bucket, m.Unit = &group, 1, "money"
		at, err := time.Parse(time.RFC3339, opened)
		if err != nil {
			t.Fatal(err)
		}
		return cdr.Record{ID: fmt.Sprintf("t/a/%d/00", n), Type: kind, Tenant: "t", Account: "a", At: at.Add(time.Duration(n) * time.Minute), Request: request,
			Session: "s", Plan: "p", Opened: opened, Messages: messages, Lines: []cdr.Line{l}, Movements: []cdr.Move{m}}
	}
	const mib = 1 << 20
	return []cdr.Record{
		record(1, "message", "INITIAL_REQUEST", 1, cdr.Line{Unit: "octets", Granted: 10 * mib}, cdr.Move{Reserve: 100_000, Held: 100_000, Available: 9_900_000}),
		record(2, "message", "UPDATE_REQUEST", 2, cdr.Line{Unit: "octets", PlanVersion: 1, Rule: 1, Octets: 9 * mib, Paid: 9 * mib, Charged: 90_000, Granted: 10 * mib},
			cdr.Move{Debit: 90_000, Held: 100_000, Released: 10_000, Available: 9_810_000}),
		record(3, "message", "TERMINATION_REQUEST", 3, cdr.Line{Unit: "octets", PlanVersion: 1, Rule: 1, Octets: mib, Paid: 10 * mib, Charged: 10_000},
			cdr.Move{Debit: 10_000, Reserve: -100_000, Released: 90_000, Available: 9_900_000}),
		record(4, "final", "TERMINATION_REQUEST", 3, cdr.Line{PlanVersion: 1, Rule: 1, Octets: 10 * mib, Paid: 10 * mib, Charged: 100_000}, cdr.Move{Available: 9_900_000}),
	}, plan
}

// What an audit found is told of the account, and of each of its sessions; what a
// later version wrote is told as that.
func TestAStoryTellsOfAudits(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var e charging.Entry
	var records []cdr.Record
	for i, event := range [][]byte{
		(&charging.Entry{Sort: charging.Message, Tenant: "t", Account: "a", Number: 1, At: at, Kind: charging.Initial, Session: []byte("s"), Messages: 1, Opened: at}).Append(nil),
		(&charging.Entry{Sort: charging.Audited, Tenant: "t", Account: "a", Number: 2, At: at, Kind: charging.Audit, Text: "does not hold: I3"}).Append(nil),
		(&charging.Entry{Sort: 250, Tenant: "t", Account: "a", Number: 3, At: at}).Append(nil),
	} {
		records = append(records, cdr.Of(&e, event, 0, uint64(i)))
	}
	for _, session := range []string{"", "s"} {
		story := Telling{Session: session, Currency: "EUR"}.Tell(records)
		var texts []string
		for _, s := range story.Steps {
			texts = append(texts, s.Text)
		}
		if !slices.Contains(texts, "an audit found what does not hold: I3; nothing was repaired") || slices.ContainsFunc(story.Missing, func(m string) bool { return strings.Contains(m, "entry") }) {
			t.Errorf("of %q: %q, missing %v", session, texts, story.Missing)
		}
		if later := slices.Contains(texts, "of a later version of rtm (unknown-250): use that to read it"); later != (session == "") {
			t.Errorf("of %q: %q", session, texts)
		}
	}
}
