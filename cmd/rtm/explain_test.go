package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rtm/api"
	"rtm/cdr"
	"rtm/diameter"
	"rtm/rating"
	"rtm/rtmtest"
	"rtm/store/storetest"
)

// TestExplain plays conversations and compares what `rtm explain` says of them,
// the indented lines: "explain SESSION without=4,5" leaves entries out,
// "explain" alone tells the account.
func TestExplain(t *testing.T) {
	rtmtest.Golden(t, "testdata/explain/*.txt", 12, *update, explainAll)
}

// explainAll plays a conversation and returns it with the explanations as they
// came.
func explainAll(t *testing.T, text string) string {
	t.Helper()
	p := rtmtest.NewPlayer()
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "  ") {
			continue // of an explanation
		}
		out.WriteString(line + "\n")
		if line[0] == '#' {
			continue
		}
		if words := strings.Fields(line); words[0] == "explain" {
			for reply := range strings.Lines(explained(t, p, words[1:])) {
				out.WriteString(strings.TrimRight("  "+reply, " \n") + "\n")
			}
			continue
		}
		if _, err := p.Play(line, planFile); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return out.String()
}

func planFile(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join("testdata", "explain", name))
	if err != nil {
		b, err = os.ReadFile(filepath.Join("..", "..", "testdata", "scenarios", name))
	}
	return b, err
}

// explained is the table of a session, or of the account.
func explained(t *testing.T, p *rtmtest.Player, words []string) string {
	t.Helper()
	entries, err := p.Entries()
	if err != nil {
		t.Fatal(err)
	}
	var without []string
	session := ""
	for _, w := range words {
		if list, ok := strings.CutPrefix(w, "without="); ok {
			without = strings.Split(list, ",")
		} else {
			session = w
		}
	}
	var records []cdr.Record
	for i := range entries {
		r := cdr.FromEntry(&entries[i], 0, uint64(i+1))
		if !slices.Contains(without, strconv.FormatUint(r.EntryNumber(), 10)) && (session == "" || r.Type != "provisioned") {
			records = append(records, r)
		}
	}
	if !slices.ContainsFunc(records, func(r cdr.Record) bool { return session == "" || r.Session == session }) {
		return api.NoRecords(session) + "\n"
	}
	story := api.Telling{
		Session: session, Currency: "EUR",
		Plan: func(_, _ string, version uint32) *rating.Plan { return p.Plan(version) },
		Bucket: func(n uint32) string {
			if all := p.Plan(1).Allowances; n > 1 && int(n) < len(all)+2 {
				return all[n-2].Name
			}
			return ""
		},
	}.Tell(records)
	var out strings.Builder
	storyTable(&out, &story, time.UTC)
	return out.String()
}

// A real session is told while it is open and after its end, by the server and
// from record files without one.
func TestExplainLive(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	l.apply(t, "../../examples/lab.yaml")
	const imsi, id = "001010000000001", "gw.lab.example;1;7"
	first, second := dialPeer(t, l.targets[0], "gw.lab.example", "lab.example"), dialPeer(t, l.targets[1], "gw.lab.example", "lab.example")
	send := func(w *wire, kind, n uint32, used uint64) {
		t.Helper()
		if m := w.exchange(request("gw.lab.example", "lab.example", "lab.example", id, imsi, kind, n, used)); number(m.Body, diameter.ResultCode) != 2001 {
			t.Fatalf("message %d: %d", n, number(m.Body, diameter.ResultCode))
		}
	}
	send(first, 1, 0, 0)
	send(second, 2, 1, 99<<20)
	open := story(t, l, id)
	if open.State != "open" || open.Messages != 2 || len(open.Instances) != 2 || len(open.Wrong)+len(open.Missing) > 0 || open.Totals[0].Octets != 99<<20 {
		t.Errorf("while it is open: %+v", open)
	}
	send(first, 3, 2, 9<<20)
	rtmtest.Until(t, "its records are in files", func() bool { return len(items[cdr.Record](t, l, "cdr", "list", "--session", id)) == 4 })
	for _, more := range [][]string{nil, {"--subscriber", imsi}, {"--records", l.records}} {
		s := story(t, l, id, more...)
		if s.State != "closed" || s.Messages != 3 || len(s.Wrong)+len(s.Missing) > 0 || s.Totals[0].Allowed != 100<<20 || s.Totals[0].Charged != 80_000 {
			t.Errorf("closed, %v: %+v", more, s)
		}
	}
	if text := good(t, l, "explain", id); !strings.Contains(text, "1 MiB of start; 8 MiB × 0.01 per MiB = 0.08") {
		t.Errorf("as a table:\n%s", text)
	}
	if text := good(t, l, "explain", "--subscriber", imsi); !strings.Contains(text, "in all: 0.08, 100 MiB of allowances") || !strings.Contains(text, "9.92") {
		t.Errorf("the account:\n%s", text)
	}
	if out, told, code := both(t, t.Context(), "explain", "nobody;1", "--api", l.api); code != exitFailed || !strings.Contains(told, "no record") {
		t.Errorf("a session that never was: %d %s%s", code, out, told)
	}
	nobody := "http://127.0.0.1:1"
	if out, told, code := both(t, t.Context(), "explain", id, "--records", l.records, "--api", nobody); code != 0 || !strings.Contains(out, "prices are not known") || !strings.Contains(out, "0.08 charged") {
		t.Errorf("without a server: %d %s%s", code, out, told)
	}
}

// Sessions of gateways that share accounts and send messages twice come out right.
func TestExplainWhatGatewaysPlay(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	all(t, simulate(t, l, func(p *play) {
		p.accounts, p.conf.Sessions, p.conf.Groups, p.conf.Hop, p.conf.Dup = 10, 300, 2, true, true
	}))
	finals := items[cdr.Record](t, l, "cdr", "list", "--type", "final", "--all")
	if len(finals) != 300 {
		t.Fatalf("%d sessions ended", len(finals))
	}
	for _, f := range finals[:60] {
		if s := story(t, l, f.Session); s.State != "closed" || s.Messages != f.Messages || len(s.Wrong)+len(s.Missing) > 0 {
			t.Errorf("%s: %+v", f.Session, s)
		}
	}
}

func story(t *testing.T, l *lab, id string, more ...string) (s api.Story) {
	t.Helper()
	if err := json.Unmarshal([]byte(good(t, l, append([]string{"explain", id, "-o", "json"}, more...)...)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// A refund of units and a service that is measured in money are explained too, and both
// come out right.
func TestExplainRefundsAndMoney(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.documents(t, `{kind: Tenant, name: lab, currency: EUR}
---
{kind: Plan, tenant: lab, name: texts, services: [{name: sms, contexts: [32274], unit: events, price: "0.09", allowances: [free]},
  {name: content, ratingGroups: [50], unit: money, price: "1.19"}], allowances: [{name: free, unit: events, amount: "5"}]}
---
{kind: Subscriber, tenant: lab, plan: texts, imsi: "001010000000001", balance: "10"}
`)
	w := dialPeer(t, l.targets[0], "pgw.odd.example", "odd.example")
	send := func(o odd) {
		t.Helper()
		if r := number(w.exchange(o.bytes()).Body, diameter.ResultCode); r != 2001 {
			t.Fatalf("%s is answered %d", o.session, r)
		}
	}
	event := func(action uint32, units uint64) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) {
			e.Uint32(diameter.RequestedAction, action)
			e.Open(diameter.RequestedServiceUnit)
			e.Uint64(diameter.CCServiceSpecificUnits, units)
			e.Close()
		}
	}
	content := func(unit diameter.Attr) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) {
			e.Open(diameter.MultipleServicesCreditControl)
			e.Uint32(diameter.RatingGroup, 50)
			e.Open(unit)
			e.Open(diameter.CCMoney)
			e.Open(diameter.UnitValue)
			e.Uint64(diameter.ValueDigits, 2)
			e.Close()
			e.Close()
			e.Close()
			e.Close()
		}
	}
	send(odd{session: "d;1", kind: 4, context: "32274@3gpp.org", say: event(0, 7)})
	send(odd{session: "r;1", kind: 4, context: "32274@3gpp.org", say: event(1, 6)})
	send(odd{session: "c;1", kind: 1, say: content(diameter.RequestedServiceUnit)})
	send(odd{session: "c;1", kind: 3, number: 1, say: content(diameter.UsedServiceUnit)})
	text := mustTell(t, "explain", "--subscriber", "001010000000001", "--api", l.api)
	for _, want := range []string{"5 of free; 2 × 0.09 = 0.18", "given back: 5 to allowances; 0.09", "= 2.38", "all sums come out right"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
