package charging

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"
)

// layout says which fields of a message are messages.
type layout map[protowire.Number]struct {
	name   string
	layout layout
}

// Every message within the record of an account, and of a closed session.
var (
	groupLayout = layout{groupHold: {"hold", layout{}}, groupUsed: {"used", layout{}}}
	bodyLayout  = layout{
		bodyHash: {"hash", layout{}}, bodyNotice: {"notice", layout{}}, bodyGroup: {"group", groupLayout},
		bodyTrail: {"trail", layout{}}, bodyFacts: {"particulars", layout{}},
	}
	sessionLayout = layout{sessionBody: {"body", bodyLayout}}
	accountLayout = layout{accountBucket: {"bucket", layout{}}, accountSession: {"session", sessionLayout}}
)

// enrich appends to each message of b a field of a later version that says where
// it stands, and notes what it says.
func enrich(t *rapid.T, b []byte, in layout, where string, marks *[]string) (out []byte) {
	for len(b) > 0 {
		var f field
		var ok bool
		if b, ok = next(b, &f); !ok {
			t.Fatalf("%s is no message", where)
		}
		if nested, ok := in[f.number]; ok {
			inner := enrich(t, f.bytes, nested.layout, where+"/"+nested.name, marks)
			out = protowire.AppendBytes(protowire.AppendTag(out, f.number, protowire.BytesType), inner)
			continue
		}
		out = append(out, f.raw...)
	}
	mark := fmt.Sprintf("<%s:%d>", where, len(*marks))
	*marks = append(*marks, mark)
	number := protowire.Number(rapid.IntRange(1000, 5000).Draw(t, "number"))
	if rapid.Bool().Draw(t, "fixed") { // before it another, of a type that no field has
		out = protowire.AppendFixed32(protowire.AppendTag(out, number+1, protowire.Fixed32Type), 7)
	}
	return append(protowire.AppendTag(out, number, protowire.BytesType), protowire.AppendBytes(nil, []byte(mark))...)
}

// What a later version wrote, at any level, comes back as it was: after decisions
// that do not end the thing it was written into.
func TestUnknownFieldsAreKept(t *testing.T) {
	seen := make(map[string]bool)
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		var a Account
		var o Outcome
		a.Decode(accountRapid(t, w, 5_000_000))
		r := ccr(Initial, 0, 0, 119, 118)
		r.Particulars = Particulars{APN: []byte("internet"), RAT: 6}
		Step(&a, r, w, &o)
		Step(&a, ccr(Update, 1, 3<<20, 119), w, &o)
		Step(&a, &Request{Kind: Reauthorise, Realm: r.Realm, Session: r.Session}, w, &o)
		var marks []string
		rec := enrich(t, a.Append(nil), accountLayout, "account", &marks)

		other := ccr(Initial, 0, 0, 117)
		other.Session = []byte("gw.realm.example;3;4")
		gone := func(mark string) bool { return false }
		switch name := rapid.SampledFrom([]string{"nothing", "top-up", "another session", "update", "tick", "identify", "plan", "end"}).Draw(t, "request"); name {
		case "top-up":
			r = &Request{Kind: TopUp, Amount: 1, Cause: "x"}
		case "another session":
			r = other
		case "update": // of the other rating group: what the first one holds stays
			r = ccr(Update, 2, 1<<20, 120)
		case "tick":
			w.Now = w.Now.Add(3 * time.Second) // the notice is repeated
			r = &Request{Kind: Tick}
		case "identify":
			r = &Request{Kind: Identify, Adds: "imsi:2"}
		case "plan":
			r = &Request{Kind: Provision, Profile: &Profile{Plan: "p", Identities: []string{"imsi:3"}}}
		case "end":
			r = ccr(Termination, 2, 1<<20, 119)
			gone = func(mark string) bool {
				return bytes.Contains([]byte(mark), []byte("/hold")) || bytes.Contains([]byte(mark), []byte("/notice"))
			}
		default:
			r = nil
		}
		if err := a.Decode(rec); err != nil {
			t.Fatal(err)
		}
		o.reset()
		if r == nil {
			if a.DecodeAll() != nil {
				t.Fatal("it cannot be decoded")
			}
		} else if Step(&a, r, w, &o); !o.Changed || o.Abandon || !a.Check() {
			t.Fatalf("%s: %+v", r.Kind, o.Answer)
		}
		out := a.Append(nil)
		for i := range o.Closings {
			out = o.Closings[i].Session.AppendClosed(out)
		}
		for _, m := range marks {
			seen[m[:bytes.IndexByte([]byte(m), ':')]] = true
			if !gone(m) && bytes.Count(out, []byte(m)) != 1 {
				t.Errorf("%s is there %d times", m, bytes.Count(out, []byte(m)))
			}
		}
	})
	if len(seen) != 11 {
		t.Errorf("only these were tried: %v", seen)
	}
}

// A closed session's record keeps what it does not know, also when usage comes
// late.
func TestUnknownFieldsOfAClosedSessionAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world()
		var a Account
		var o Outcome
		a.Decode(accountRapid(t, w, 5_000_000))
		Step(&a, ccr(Initial, 0, 0, 119), w, &o)
		Step(&a, ccr(Termination, 1, 1<<20, 119), w, &o)
		var marks []string
		rec := enrich(t, o.Closings[0].Session.AppendClosed(nil), sessionLayout, "session", &marks)
		var c Session
		if err := c.DecodeClosed(rec); err != nil {
			t.Fatal(err)
		}
		w.Closed = &c
		if Step(&a, ccr(Update, 2, 1<<20, 119), w, &o); o.Answer.Result != UnknownSession || len(o.Closings) != 1 {
			t.Fatalf("%+v", o.Answer)
		}
		out := o.Closings[0].Session.AppendClosed(nil)
		for _, m := range marks {
			if bytes.Count(out, []byte(m)) != 1 {
				t.Errorf("%s is there %d times", m, bytes.Count(out, []byte(m)))
			}
		}
	})
}

// A record above what is known here is told from a damaged one, whatever stands
// in it.
func TestARecordAboveTheLevel(t *testing.T) {
	w := world()
	var a Account
	a.Decode(account(t, 5_000_000, w))
	a.Level = Level
	if err := a.Decode(a.Append(nil)); err != nil || a.Level != max(Level, 1) && a.Level != 0 {
		t.Errorf("of this level: %d, %v", a.Level, err)
	}
	a.Level = Level + 1
	rec := append(a.Append(nil), 0xff, 0xff)
	if err := a.Decode(rec); !errors.Is(err, ErrLevel) {
		t.Errorf("%v", err)
	}
}

// An entry of a sort, or with a field, that is not known here says so.
func TestStrangeEntries(t *testing.T) {
	w := world()
	var a Account
	var o Outcome
	a.Decode(account(t, 5_000_000, w))
	Step(&a, ccr(Initial, 0, 0, 119, 118), w, &o)
	Step(&a, ccr(Termination, 1, 1<<20, 119, 118), w, &o)
	entryLayout := layout{25: {"line", layout{8: {"used", layout{}}}}, 26: {"movement", layout{}}, 27: {"particulars", layout{}}}
	for i := range o.Log.Entries {
		var e Entry
		plain := o.Log.Entries[i].Append(nil)
		if e.Decode(plain) != nil || e.Strange {
			t.Errorf("%s is strange", e.Sort)
		}
		if later := appendUint(plain[:len(plain):len(plain)], 1, 250); e.Decode(later) != nil || !e.Strange || e.Sort.String() != "unknown-250" {
			t.Errorf("a sort of a later version is %s", e.Sort)
		}
		var walk func(b []byte, in layout, place string) (out [][]byte)
		walk = func(b []byte, in layout, place string) (out [][]byte) { // b with a field more, in each of its messages in turn
			out = append(out, appendUint(b[:len(b):len(b)], 77, 1))
			for at := b; len(at) > 0; {
				var f field
				before := len(b) - len(at)
				at, _ = next(at, &f)
				if nested, ok := in[f.number]; ok {
					for _, inner := range walk(f.bytes, nested.layout, place+"/"+nested.name) {
						whole := appendBytes(bytes.Clone(b[:before]), f.number, inner)
						out = append(out, append(whole, at...))
					}
				}
			}
			return out
		}
		for _, b := range walk(plain, entryLayout, "entry") {
			if e.Decode(b) != nil || !e.Strange {
				t.Errorf("%s with a field of a later version is not strange: %x", e.Sort, b)
			}
		}
	}
}
