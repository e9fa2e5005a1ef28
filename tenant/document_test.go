package tenant

import (
	"os"
	"strings"
	"testing"

	"rtm/rating"
)

func TestTheLabIsReadWhole(t *testing.T) {
	b, err := os.ReadFile("../examples/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse("lab.yaml", b)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Cross(&Catalogue{}); err != nil {
		t.Fatal(err)
	}
	if len(d.Tenants) != 1 || len(d.Plans) != 1 || len(d.Peers) != 1 || len(d.Subscribers) != 11 {
		t.Fatalf("%d tenants, %d plans, %d peers, %d subscribers", len(d.Tenants), len(d.Plans), len(d.Peers), len(d.Subscribers))
	}
	p, err := d.Plans[0].Compile(3)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		facts rating.Facts
		want  string
	}{
		{rating.Facts{Context: 32251}, "internet"},
		{rating.Facts{Context: 32251, Group: 20, HasGroup: true}, "video"},
		{rating.Facts{Context: 32251, Group: 77, HasGroup: true}, "other data"},
		{rating.Facts{Context: 32260, HasService: true, Service: 1}, ""},
		{rating.Facts{Context: 32260}, "voice"},
		{rating.Facts{Context: 32274}, "messages"},
		{rating.Facts{Context: 99999}, ""},
	} {
		got := ""
		if s, _, ok := p.Price(&c.facts); ok {
			got = s.Name
		}
		if c.want != "" && got != c.want {
			t.Errorf("%+v: got %q, want %q", c.facts, got, c.want)
		}
	}
	s := p.Services[0]
	if s.Micro != 10_000 || s.Per != 1<<20 || s.Step != 1<<10 || s.Quota.Size != 10<<20 || s.Quota.Threshold != 10<<20/5 {
		t.Errorf("internet: %+v", s.Price)
	}
	if ids, _ := d.Subscribers[0].AllIdentities(); ids[0] != "imsi:001010000000001" || ids[1] != "msisdn:491700000001" {
		t.Errorf("identities %v", ids)
	}
}

func TestWrongDocumentsSayWhatToWrite(t *testing.T) {
	plan := "kind: Plan\ntenant: lab\nname: p\nservices:\n- {name: s, unit: octets"
	for _, c := range []struct{ text, want string }{
		{"name: x", "needs a kind"},
		{"kind: Tarif", "it is Tenant, Plan, Peer or Subscriber"},
		{"kind: Tenant\nname: Lab\ncurrency: EUR", "lower-case letters"},
		{"kind: Tenant\nname: lab\ncurrency: EURO", "ISO 4217"},
		{"kind: Tenant\nname: lab\ncurrency: EUR\ncolour: red", "colour"},
		{"kind: Tenant\nname: [lab", "[2:7]"},
		{plan + "}\nspeed: 3", "speed"},
		{"kind: Plan\ntenant: lab\nname: p", "0 services"},
		{"kind: Plan\ntenant: lab\nname: p\nservices:\n- {name: s, unit: bytes}", "octets, seconds or events"},
		{"kind: Plan\ntenant: lab\nname: p\nservices:\n- {unit: octets}", "needs a name"},
		{plan + ", price: cheap}", "amount of money"},
		{plan + ", price: '-1'}", "amount of money"},
		{plan + ", price: '0.0000001'}", "six decimals"},
		{plan + ", per: 0}", "above zero"},
		{plan + ", per: 1 lightyear}", "such as 10 MiB"},
		{plan + ", quota: {validity: soon}}", "duration"},
		{plan + ", quota: {validity: 0s}}", "validity"},
		{plan + ", quota: {threshold: 200%}}", "share"},
		{plan + ", quota: {size: 1 MiB, threshold: 2 MiB}}", "below the size"},
		{plan + ", final: stop}", "terminate"},
		{plan + ", allowances: [gift]}", "not one of the plan's"},
		{plan + "}\ngrace: 2h", "grace"},
		{plan + "}\nvanished: keep", "release or charge"},
		{plan + "}\nfrom: tomorrow", "2027-01-01"},
		{"kind: Peer\nhost: a", "tenants is empty"},
		{"kind: Peer\ntenants: [lab]", "needs its host"},
		{"kind: Peer\nhost: a\ntenants: [lab]\nsources: [here]", "10.0.0.0/8"},
		{"kind: Subscriber\ntenant: lab\nplan: p", "imsi or an msisdn"},
		{"kind: Subscriber\ntenant: lab\nplan: p\nimsi: '12'", "14 or 15 digits"},
		{"kind: Subscriber\ntenant: lab\nplan: p\nmsisdn: '0'", "5 to 15 digits"},
		{"kind: Subscriber\ntenant: lab\nimsi: '001010000000001'", "needs a plan"},
		{"kind: Subscriber\ntenant: lab\nplan: p\nimsi: '001010000000001'\nbalance: much", "amount of money"},
		{"kind: Subscriber\ntenant: lab\nplan: p\nimsi: '001010000000001'\naccount: a/b", "slashes"},
	} {
		_, err := Parse("f.yaml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "f.yaml") {
			t.Errorf("%q:\n got %v\nwant %q", c.text, err, c.want)
		}
	}
}

func TestQuantitiesAreExact(t *testing.T) {
	for text, want := range map[string]int64{"10 MiB": 10 << 20, "1.5 KiB": 1536, "3": 3, "2GB": 2e9, "1 kB": 1000} {
		if got, err := ParseQuantity(text, rating.Octets); err != nil || got != want {
			t.Errorf("%q: got %d %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "1.0001 KiB", "-1", "NaN", "1e400", "9999999 TiB", "1,5 MiB"} {
		if n, err := ParseQuantity(text, rating.Octets); err == nil {
			t.Errorf("%q was taken for %d", text, n)
		}
	}
	for m, want := range map[rating.Micros]string{0: "0.00", 10_000: "0.01", 9_990_000: "9.99", 1: "0.000001", -1_500_000: "-1.50", 12_345_678: "12.345678"} {
		if got := FormatMoney(m); got != want {
			t.Errorf("%d: got %s, want %s", m, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	b, _ := os.ReadFile("../examples/lab.yaml")
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := Parse("f", b); err == nil {
			for i := range d.Plans {
				if _, err := d.Plans[i].Compile(1); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
