package tenant_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rtm/rating"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

// noon is the store's time in these tests.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// A wire is a store in memory whose answers can be spoilt on the way.
type wire struct {
	*storetest.Memory
	clock  time.Time
	before func(c *store.Commit)                  // sees each commit that writes, before it is carried out
	spoil  func(c *store.Commit) store.Outcome    // zero: let it pass
	lost   func(c *store.Commit, r *store.Result) // changes the answer of what was carried out
	loaded []string                               // names of the keys loaded
	writes []int                                  // records of each commit that wrote
}

func newWire() *wire { return &wire{Memory: storetest.NewMemory(), clock: noon} }

func (w *wire) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	for _, k := range keys {
		w.loaded = append(w.loaded, k.Name)
	}
	return w.Memory.Load(ctx, keys)
}

func (w *wire) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	if len(cs) != 1 || cs[0].Writes[0].Op == store.Check {
		return w.Memory.Commit(ctx, cs)
	}
	if w.before != nil {
		w.before(&cs[0])
	}
	if w.spoil != nil {
		if o := w.spoil(&cs[0]); o != 0 {
			return []store.Result{{Outcome: o, Err: errors.New("spoilt")}}, w.clock
		}
	}
	rs, now := w.Memory.Commit(ctx, cs)
	if rs[0].Outcome == store.Done {
		w.writes = append(w.writes, len(cs[0].Writes))
	}
	if w.lost != nil {
		w.lost(&cs[0], &rs[0])
	}
	return rs, now
}

func (w *wire) Facts(ctx context.Context) (store.Facts, error) {
	f, err := w.Memory.Facts(ctx)
	f.Clock = w.clock
	return f, err
}

func load(t *testing.T, s store.Store, previous *tenant.Catalogue) *tenant.Catalogue {
	t.Helper()
	c, err := tenant.Load(t.Context(), s, previous)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// apply applies a file that must be right, and gives the changes as text.
func apply(t *testing.T, s store.Store, text string) string {
	t.Helper()
	changes, err := tenant.Apply(t.Context(), s, documents(t, text), false)
	if err != nil {
		t.Fatal(err)
	}
	return words(changes)
}

func words(changes []tenant.Change) string {
	var lines []string
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s %s %s %d", c.Kind, c.Name, c.What, c.Version))
	}
	return strings.Join(lines, ", ")
}

const lab = "kind: Tenant\nname: lab\ncurrency: EUR\n---\n"

// basic is a plan whose only service costs that much, from that time on.
func basic(price, from string) string {
	s := "kind: Plan\ntenant: lab\nname: basic\nservices: [{name: a, unit: events, price: " + price + "}]\n"
	if from != "" {
		s += "from: " + from + "\n"
	}
	return s + "---\n"
}

func peer(host, realm, rest string) string {
	s := "kind: Peer\nhost: \"" + host + "\"\n"
	if realm != "" {
		s += "realm: " + realm + "\n"
	}
	return s + rest + "\n---\n"
}

// price is what a single event costs under a plan; nothing without one.
func price(p *rating.Plan) string {
	if p == nil {
		return ""
	}
	return tenant.FormatMoney(p.Services[0].Micro)
}

func TestAnEmptyStoreHasAnEmptyCatalogue(t *testing.T) {
	c := load(t, newWire(), nil)
	if c.Tenant("lab") != nil || c.Plans("lab", []byte("basic")) != nil || len(c.Tenants())+len(c.Peers())+len(c.PlanNames()) != 0 {
		t.Errorf("not empty: %+v", c)
	}
	if p, ok := c.Peer("a", "b", netip.MustParseAddr("127.0.0.1")); ok {
		t.Errorf("peer %v", p)
	}
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	s := newWire()
	file := lab + basic("0.09", "") + peer("smf.example", "example", "sources: [127.0.0.1]\ntenants: [lab]")
	if got, want := apply(t, s, file), "Tenant lab created 1, Plan lab/basic created 1, Peer smf.example created 1"; got != want {
		t.Errorf("first: %s, want %s", got, want)
	}
	if got, want := apply(t, s, file), "Tenant lab unchanged 1, Plan lab/basic unchanged 1, Peer smf.example unchanged 1"; got != want {
		t.Errorf("second: %s, want %s", got, want)
	}
	if len(s.writes) != 1 {
		t.Errorf("commits %v, want one", s.writes)
	}
	other := "kind: Tenant\nname: lab\ncurrency: EUR\ndescription: The lab\n---\n" + basic("0.1", "") +
		peer("SMF.example", "Example", "sources: [127.0.0.1, 10.0.0.0/8]\ntenants: [lab]")
	if got, want := apply(t, s, other), "Tenant lab changed 2, Plan lab/basic changed 2, Peer smf.example changed 2"; got != want {
		t.Errorf("third: %s, want %s", got, want)
	}
	c := load(t, s, nil)
	p := c.Plans("lab", []byte("basic"))
	if got := price(p.Version(1)) + " " + price(p.Version(2)) + " " + price(p.Current(noon)); got != "0.09 0.10 0.10" {
		t.Errorf("prices of version 1, 2 and in force: %s", got)
	}
	if p.Version(0) != nil || p.Version(3) != nil || p.Latest() != p.Version(2) || p.Version(2).Version != 2 || p.Version(1).Currency != 978 {
		t.Errorf("versions: %+v", p)
	}
	if d, ok := p.Document(1); !ok || d.Services[0].Price != "0.09" || d.Grace != "30s" {
		t.Errorf("document 1: %+v", d)
	}
	if _, ok := p.Document(3); ok {
		t.Error("there is a document 3")
	}
	if c.Tenant("lab").Description != "The lab" || len(c.Peers()) != 1 || len(c.Peers()[0].Sources) != 2 || c.PlanNames()["lab/basic"] != 2 {
		t.Errorf("tenants %v, peers %v, plans %v", c.Tenants(), c.Peers(), c.PlanNames())
	}
}

// A default that is written out is no change.
func TestDefaultsMayBeWritten(t *testing.T) {
	s := newWire()
	apply(t, s, lab+basic("0.09", ""))
	full := strings.Replace(basic("0.09", ""), "}]", ", per: 1, final: terminate, quota: {size: 1, validity: 1h}}]\nlimits: {sessions: 64}\ngrace: 30s", 1)
	if got, want := apply(t, s, full), "Plan lab/basic unchanged 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	s := newWire()
	changes, err := tenant.Apply(t.Context(), s, documents(t, lab+basic("1", "")), true)
	if err != nil || words(changes) != "Tenant lab created 1, Plan lab/basic created 1" || len(s.writes) != 0 {
		t.Errorf("%s, %v, commits %v", words(changes), err, s.writes)
	}
}

func TestLoadReadsOnlyWhatIsNew(t *testing.T) {
	s := newWire()
	apply(t, s, lab+basic("1", "")+basic("2", "2027-01-01T00:00:00Z"))
	first := load(t, s, nil)
	s.loaded = nil
	if again := load(t, s, first); again != first || !slices.Equal(s.loaded, []string{"head"}) {
		t.Errorf("unchanged: read %v, the same %t", s.loaded, again == first)
	}
	apply(t, s, peer("a", "", "sources: [\"::/0\"]\ntenants: [lab]")+basic("3", "2028-01-01T00:00:00Z"))
	s.loaded = nil
	second := load(t, s, first)
	slices.Sort(s.loaded)
	if want := []string{"head", "peer/a;/1", "plan/lab/basic/3"}; !slices.Equal(s.loaded, want) {
		t.Errorf("read %v, want %v", s.loaded, want)
	}
	old, now := first.Plans("lab", []byte("basic")), second.Plans("lab", []byte("basic"))
	if old.Version(3) != nil || len(first.Peers()) != 0 {
		t.Error("the previous catalogue has changed")
	}
	if now.Version(1) != old.Version(1) || price(now.Version(3)) != "3.00" || now.Version(3).Currency != 978 || second.Tenant("lab") != first.Tenant("lab") {
		t.Error("what was known was read again, or what is new is missing")
	}
}

func TestWhichVersionIsInForce(t *testing.T) {
	s := newWire()
	at := func(text string) string {
		t.Helper()
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return price(load(t, s, nil).Plans("lab", []byte("basic")).Current(when))
	}
	apply(t, s, lab+basic("1", "2026-01-01T00:00:00Z")+basic("2", "2027-06-01T00:00:00Z"))
	for when, want := range map[string]string{
		"2025-12-31T23:59:59Z": "", "2026-01-01T00:00:00Z": "1.00", "2027-05-31T23:59:59Z": "1.00", "2027-06-01T00:00:00Z": "2.00", "2027-06-01T01:59:59+02:00": "1.00",
	} {
		if got := at(when); got != want {
			t.Errorf("at %s: %q, want %q", when, got, want)
		}
	}

	// A correction of today's price keeps what was announced for June, behind it.
	if got, want := apply(t, s, basic("3", "2026-11-01T00:00:00Z")), "Plan lab/basic changed 4"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := at("2026-10-31T00:00:00Z") + at("2026-11-24T00:00:00Z") + at("2027-06-01T00:00:00Z"); got != "1.003.002.00" {
		t.Errorf("prices before, now and in June: %s", got)
	}
	both := basic("1", "2026-01-01T00:00:00Z") + basic("2", "2027-06-01T00:00:00Z") + basic("3", "2026-11-01T00:00:00Z")
	if got, want := apply(t, s, both), "Plan lab/basic unchanged 4, Plan lab/basic unchanged 4, Plan lab/basic unchanged 4"; got != want {
		t.Errorf("%s, want %s", got, want)
	}

	// What is announced can be changed before its time.
	apply(t, s, basic("5", "2027-06-01T00:00:00Z"))
	if got := at("2027-06-01T00:00:00Z"); got != "5.00" {
		t.Errorf("in June: %s", got)
	}
	// Versions only rise with time, whatever was announced in between.
	c := load(t, s, nil).Plans("lab", []byte("basic"))
	last := uint32(0)
	for when := noon.AddDate(-2, 0, 0); when.Before(noon.AddDate(2, 0, 0)); when = when.AddDate(0, 0, 1) {
		if p := c.Current(when); p != nil {
			if p.Version < last {
				t.Fatalf("at %s version %d is in force after %d", when, p.Version, last)
			}
			last = p.Version
		}
	}
	// What could never be in force is refused.
	_, err := tenant.Apply(t.Context(), s, documents(t, basic("9", "")), false)
	if err == nil || !strings.Contains(err.Error(), "version 3 is in force since 2026-11-01T00:00:00Z") || !strings.Contains(err.Error(), "file.yaml: [") {
		t.Errorf("a version that is never in force: %v", err)
	}
}

func TestACurrencyCannotChange(t *testing.T) {
	s := newWire()
	apply(t, s, lab)
	_, err := tenant.Apply(t.Context(), s, documents(t, strings.Replace(lab, "EUR", "USD", 1)), false)
	if err == nil || !strings.Contains(err.Error(), `[3:11] currency: "lab" is EUR, and a tenant's currency cannot change`) {
		t.Error(err)
	}
}

func TestNothingIsWrittenOfAFileThatIsWrong(t *testing.T) {
	s := newWire()
	for name, d := range map[string]*tenant.Documents{
		"an unknown tenant":           documents(t, lab+strings.Replace(basic("1", ""), "tenant: lab", "tenant: bal", 1)),
		"a subscriber without a plan": documents(t, lab+"kind: Subscriber\ntenant: lab\nplan: gold\nimsi: 001010000000001"),
		"a tenant that no file named": {Tenants: []tenant.Tenant{{Name: "x"}}},
		"a plan without services":     {Plans: []tenant.PlanDoc{{Name: "x", Tenant: "lab"}}},
		"a peer without sources":      {Peers: []tenant.Peer{{Host: "x", Tenants: []string{"lab"}}}},
	} {
		if _, err := tenant.Apply(t.Context(), s, d, false); err == nil {
			t.Errorf("%s was applied", name)
		}
	}
	if len(s.writes) != 0 {
		t.Errorf("commits %v", s.writes)
	}
}

// many is a file of n tenants with a plan each.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "kind: Tenant\nname: t%d\ncurrency: CHF\n---\n%s", i, strings.Replace(basic("1", ""), "lab", fmt.Sprint("t", i), 1))
	}
	return b.String()
}

func TestManyDocumentsTakeSeveralCommitsAndEachIsConsistent(t *testing.T) {
	s := newWire()
	s.lost = func(c *store.Commit, r *store.Result) {
		if err := c.Check(); err != nil {
			t.Error(err)
		}
		if r.Outcome == store.Done {
			load(t, s.Memory, nil) // every head names only what is there
		}
	}
	apply(t, s, many(100))
	if c := load(t, s, nil); len(c.Tenants()) != 100 || len(c.PlanNames()) != 100 || c.Plans("t99", []byte("basic")).Version(1).Currency != 756 {
		t.Errorf("%d tenants, %d plans", len(c.Tenants()), len(c.PlanNames()))
	}
	if want := []int{64, 64, 64, 12}; !slices.Equal(s.writes, want) {
		t.Errorf("commits of %v records, want %v", s.writes, want)
	}
}

func TestAnInterruptedApplyIsCompletedByRepeatingIt(t *testing.T) {
	s := newWire()
	s.spoil = func(*store.Commit) store.Outcome {
		if len(s.writes) == 2 {
			return store.Refused
		}
		return 0
	}
	d := documents(t, many(100))
	if _, err := tenant.Apply(t.Context(), s, d, false); err == nil || !strings.Contains(err.Error(), "spoilt") {
		t.Errorf("a refused commit: %v", err)
	}
	s.spoil = nil
	changes, err := tenant.Apply(t.Context(), s, d, false)
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]int{}
	for _, c := range changes {
		made[c.What]++
	}
	if diff := cmp.Diff(map[string]int{tenant.Unchanged: 126, tenant.Created: 74}, made); diff != "" {
		t.Error(diff)
	}
}

// What a commit in doubt had done is reported as done, and done once.
func TestACommitInDoubt(t *testing.T) {
	for _, took := range []bool{true, false} {
		s := newWire()
		first := true
		s.spoil = func(*store.Commit) store.Outcome {
			if first && !took {
				first = false
				return store.InDoubt
			}
			return 0
		}
		s.lost = func(_ *store.Commit, r *store.Result) {
			if first && took {
				first, r.Outcome = false, store.InDoubt
			}
		}
		if got, want := apply(t, s, lab+basic("1", "")), "Tenant lab created 1, Plan lab/basic created 1"; got != want || len(s.writes) != 1 || first {
			t.Errorf("took place %t: %s in %d commits, want %s", took, got, len(s.writes), want)
		}
	}
}

func TestACommitThatNeverPassesEndsInAnError(t *testing.T) {
	s := newWire()
	s.spoil = func(*store.Commit) store.Outcome { return store.Conflict }
	if _, err := tenant.Apply(t.Context(), s, documents(t, lab), false); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Error(err)
	}
}

func TestTwoWhoApplyAtTheSameTime(t *testing.T) {
	s := newWire()
	apply(t, s, lab)
	other := false
	s.before = func(*store.Commit) {
		if !other {
			other = true
			apply(t, s, basic("1", ""))
		}
	}
	if got, want := apply(t, s, basic("2", "")), "Plan lab/basic changed 2"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if p := load(t, s, nil).Plans("lab", []byte("basic")); price(p.Version(1)) != "1.00" || price(p.Version(2)) != "2.00" {
		t.Errorf("versions %v", p)
	}
}

func TestManyWhoApplyAtTheSameTime(t *testing.T) {
	s := storetest.NewMemory()
	var wg sync.WaitGroup
	for i := range 6 {
		d := documents(t, fmt.Sprintf("kind: Tenant\nname: t%d\ncurrency: EUR\n", i))
		wg.Go(func() {
			for range 100 {
				if _, err := tenant.Apply(context.Background(), s, d, false); err == nil {
					return
				}
			}
			t.Errorf("tenant %d was never applied", i)
		})
	}
	wg.Wait()
	if n := len(load(t, s, nil).Tenants()); n != 6 {
		t.Errorf("%d tenants, want 6", n)
	}
}

func TestRecordsOfANewerProgramAreRefused(t *testing.T) {
	s := newWire()
	apply(t, s, lab)
	put := func(name, text string) {
		k := store.Key{Partition: tenant.Partition("catalogue"), Kind: tenant.KindCatalogue, Name: name}
		was, _ := s.Memory.Load(t.Context(), []store.Key{k})
		s.Memory.Commit(t.Context(), []store.Commit{{Writes: []store.Write{{Op: store.Put, Key: k, Seen: was[0].Version, New: store.Version{9}, Bytes: []byte(text)}}}})
	}
	for _, c := range []struct{ name, text, want string }{
		{"tenant/lab/1", `{"format":2,"tenant":{"name":"lab"}}`, "tenant/lab/1: format 2 is not known"},
		{"tenant/lab/1", `{"format":1}`, "neither a tenant"},
		{"tenant/lab/1", `{`, "tenant/lab/1"},
		{"head", `{"format":1,"documents":{"tenant/lab":2}}`, "tenant/lab/2"},
		{"head", `{"format":2,"documents":{}}`, "format 2 is not known"},
		{"head", `[`, "head"},
	} {
		put(c.name, c.text)
		if _, err := tenant.Load(t.Context(), s, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.name, c.text, err, c.want)
		}
	}
}

// The records stay readable for ever: these are those of format 1.
func TestTheFormatOfRecords(t *testing.T) {
	s := newWire()
	apply(t, s, lab+basic("0.09", "2027-01-01T00:00:00Z")+peer("smf.example", "example", "sources: [10.0.0.1]\ntenants: [lab]\nrelays: [\"*\"]\ndialect: open5gs\nanswerAs: instance"))
	for name, want := range map[string]string{
		"head":                       `{"format":1,"documents":{"peer/smf.example;example":1,"plan/lab/basic":1,"tenant/lab":1}}`,
		"tenant/lab/1":               `{"format":1,"tenant":{"name":"lab","currency":"EUR"}}`,
		"peer/smf.example;example/1": `{"format":1,"peer":{"host":"smf.example","realm":"example","sources":["10.0.0.1/32"],"relays":["*"],"tenants":["lab"],"dialect":"open5gs","answerAs":"instance"}}`,
		"plan/lab/basic/1": `{"format":1,"plan":{"tenant":"lab","name":"basic","from":"2027-01-01T00:00:00Z","services":[{"name":"a","unit":"events",` +
			`"price":"0.09","per":"1","step":"1","quota":{"size":"1","validity":"1h"},"final":"terminate"}],"limits":{"sessions":64,"ratingGroups":16},"grace":"30s","vanished":"release"}}`,
	} {
		k := store.Key{Partition: tenant.Partition("catalogue"), Kind: tenant.KindCatalogue, Name: name}
		r, _ := s.Memory.Load(t.Context(), []store.Key{k})
		if string(r[0].Bytes) != want {
			t.Errorf("%s\n got %s\nwant %s", name, r[0].Bytes, want)
		}
	}
}

func TestADocumentThatCannotBeKept(t *testing.T) {
	s := newWire()
	var b strings.Builder
	b.WriteString(lab + "kind: Plan\ntenant: lab\nname: huge\nservices:\n")
	for i := range 900 {
		fmt.Fprintf(&b, "- {name: service number %d, contexts: [32251], ratingGroups: [%d], unit: octets, price: \"0.01\", apns: [internet.example, ims.example]}\n", i, i)
	}
	_, err := tenant.Apply(t.Context(), s, documents(t, b.String()), false)
	if err == nil || !strings.Contains(err.Error(), "Plan lab/huge is larger than 160000 octets") || len(s.writes) != 0 {
		t.Errorf("%v, commits %v", err, s.writes)
	}
}

func TestWhichPeerAConnectionBelongsTo(t *testing.T) {
	s := newWire()
	from := func(sources string) string { return "sources: [" + sources + "]\ntenants: [lab]" }
	apply(t, s, lab+
		peer("*", "", from("10.9.0.0/16"))+
		peer("*", "example", from("10.8.0.0/16, \"2001:db8::/32\""))+
		peer("smf.example", "", from("10.7.0.0/16"))+
		peer("smf.example", "example", from("192.0.2.1"))+
		"kind: Tenant\nname: other\ncurrency: USD\n---\n"+
		peer("dra.example", "hub.example", "sources: [192.0.2.2]\ntenants: [lab, other]\nrelays: [example, Epc.Example]"))
	c := load(t, s, nil)
	for _, x := range []struct{ host, realm, source, want string }{
		{"smf.example", "example", "192.0.2.1", "smf.example;example"},
		{"SMF.Example", "EXAMPLE", "::ffff:192.0.2.1", "smf.example;example"},
		{"smf.example", "example", "192.0.2.3", ""}, // the right name from the wrong place
		{"smf.example", "example", "10.7.1.1", "smf.example;"},
		{"smf.example", "elsewhere", "10.7.1.1", "smf.example;"},
		{"smf.example", "elsewhere", "192.0.2.1", ""},
		{"Dra.example", "example", "10.8.0.1", ""}, // "*" of that realm is not for whom another realm's document names
		{"pgw.example", "example", "10.8.0.1", "*;example"},
		{"pgw.example", "example", "2001:db8::7", "*;example"},
		{"pgw.example", "elsewhere", "10.8.0.1", ""},
		{"pgw.example", "elsewhere", "10.9.0.1", "*;"},
		{"", "", "10.9.0.1", "*;"},
		{"dra.example", "hub.example", "192.0.2.2", "dra.example;hub.example"},
		{"dra.example", "hub.example", "", ""},
	} {
		source, _ := netip.ParseAddr(x.source)
		p, ok := c.Peer(x.host, x.realm, source)
		got := ""
		if ok {
			got = p.Host + ";" + p.Realm
		}
		if got != x.want {
			t.Errorf("%s of %s from %s: %q, want %q", x.host, x.realm, x.source, got, x.want)
		}
	}

	dra, _ := c.Peer("dra.example", "hub.example", netip.MustParseAddr("192.0.2.2"))
	smf, _ := c.Peer("smf.example", "example", netip.MustParseAddr("192.0.2.1"))
	for _, x := range []struct {
		peer          *tenant.Peer
		tenant        string
		host, realm   string
		serves, sends bool
	}{
		{dra, "lab", "dra.example", "hub.example", true, true},
		{dra, "other", "pgw.epc.example", "epc.example", true, true},
		{dra, "third", "pgw.elsewhere", "elsewhere", false, false},
		{smf, "lab", "SMF.example", "Example", true, false}, // that is smf's name, but not this connection's
		{smf, "other", "pgw.example", "example", false, false},
		{smf, "", "", "", false, false},
	} {
		if x.peer.Serves(x.tenant) != x.serves || x.peer.Sends("dra.example", "hub.example", x.host, x.realm) != x.sends {
			t.Errorf("%s for tenant %q: %t; message of %s: %t", x.peer.Host, x.tenant, !x.serves, x.host, !x.sends)
		}
	}
}

func TestLookUpsAllocateNothing(t *testing.T) {
	s := newWire()
	apply(t, s, lab+basic("1", "")+basic("2", "2027-01-01T00:00:00Z"))
	c, name := load(t, s, nil), []byte("basic")
	if n := testing.AllocsPerRun(100, func() {
		p := c.Plans("lab", name)
		if p.Current(noon) == nil || p.Version(2) == nil || c.Tenant("lab") == nil {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for _, x := range [][2]string{{"lab", "gold"}, {"bal", "basic"}, {"", ""}, {"lab", strings.Repeat("x", 100)}, {"la", "b/basic"}} {
		if p := c.Plans(x[0], []byte(x[1])); p != nil {
			t.Errorf("tenant %q has a plan %q", x[0], x[1])
		}
	}
}

func BenchmarkPlanOfAnAccount(b *testing.B) {
	s := newWire()
	d := documents(b, lab+basic("1", "")+basic("2", "2027-01-01T00:00:00Z"))
	if _, err := tenant.Apply(b.Context(), s, d, false); err != nil {
		b.Fatal(err)
	}
	c, err := tenant.Load(b.Context(), s, nil)
	if err != nil {
		b.Fatal(err)
	}
	name := []byte("basic")
	b.ReportAllocs()
	for b.Loop() {
		c.Plans("lab", name).Current(noon)
	}
}

// A plan survives the way into the store and back, whatever is in it.
func TestDocumentsSurviveJSON(t *testing.T) {
	d := documents(t, lab+basic("1", ""))
	b, err := json.Marshal(d.Plans[0])
	if err != nil {
		t.Fatal(err)
	}
	var back tenant.PlanDoc
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d.Plans[0], back, ignoreOrigin); diff != "" {
		t.Error(diff)
	}
}
