package tenant_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rtm/rating"
	"rtm/tenant"
)

var update = flag.Bool("update", false, "rewrite the messages in testdata/wrong.txt")

// documents reads a file that must be right, Cross included.
func documents(t testing.TB, text string) *tenant.Documents {
	t.Helper()
	d, err := tenant.Parse("file.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var ignoreOrigin = cmpopts.IgnoreUnexported(tenant.Tenant{}, tenant.PlanDoc{}, tenant.Peer{}, tenant.Subscriber{})

// TestWrongDocuments holds the message that each wrong file gets: what is
// wrong, where, and what to write instead. testdata/wrong.txt lists them as
//
//	# title
//	the file
//	→
//	its message
func TestWrongDocuments(t *testing.T) {
	const golden = "testdata/wrong.txt"
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cases := strings.Split("\n"+string(b), "\n# ")[1:]
	for _, c := range cases {
		title, rest, _ := strings.Cut(c, "\n")
		text, want, _ := strings.Cut(rest, "→\n")
		got := "right\n"
		d, err := tenant.Parse("file.yaml", []byte(text))
		if err == nil {
			err = d.Cross(&tenant.Catalogue{})
		}
		if err != nil {
			got = trimmed(err.Error())
		}
		fmt.Fprintf(&out, "# %s\n%s→\n%s\n", title, text, got)
		if !*update && got != strings.TrimRight(want, "\n")+"\n" {
			t.Errorf("%s\n%s", title, cmp.Diff(strings.Split(strings.TrimRight(want, "\n"), "\n"), strings.Split(strings.TrimRight(got, "\n"), "\n")))
		}
		if err == nil || !strings.Contains(got, "file.yaml: [") || !strings.Contains(got, "^") {
			t.Errorf("%s: the message names no line: %s", title, got)
		}
	}
	if len(cases) < 60 {
		t.Errorf("%d wrong files in %s, want at least 60", len(cases), golden)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// trimmed is text without blanks at the ends of its lines.
func trimmed(text string) string {
	lines := strings.Split(strings.TrimRight(text, " \n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

func TestTheSmallestFileHasDefaults(t *testing.T) {
	d := documents(t, `
kind: Tenant
name: lab
currency: EUR
---
kind: Plan
tenant: lab
name: basic
services:
  - {name: internet, unit: octets, price: 0.01}
  - {name: calls, unit: seconds, price: 0.06}
  - {name: messages, unit: events, price: 0.09}
---
kind: Peer
host: SMF.example
sources: [192.0.2.10]
tenants: [lab]
---
kind: Subscriber
tenant: lab
plan: basic
imsi: 001010000000001 # unquoted, and yet no octal number
msisdn: +491700000001
`)
	want := &tenant.Documents{
		Tenants: []tenant.Tenant{{Name: "lab", Currency: "EUR"}},
		Plans: []tenant.PlanDoc{{
			Tenant: "lab", Name: "basic", Limits: tenant.LimitsDoc{Sessions: 64, RatingGroups: 16}, Grace: "30s", Vanished: "release",
			Services: []tenant.ServiceDoc{
				{
					Name: "internet", Unit: "octets", Price: "0.01", Per: "1 MiB", Step: "1 B", Final: "terminate",
					Quota: tenant.QuotaDoc{Size: "10 MiB", Threshold: "20%", Validity: "1h"},
				},
				{
					Name: "calls", Unit: "seconds", Price: "0.06", Per: "1 min", Step: "1 s", Final: "terminate",
					Quota: tenant.QuotaDoc{Size: "5 min", Threshold: "10%", Validity: "1h"},
				},
				{Name: "messages", Unit: "events", Price: "0.09", Per: "1", Step: "1", Final: "terminate", Quota: tenant.QuotaDoc{Size: "1", Validity: "1h"}},
			},
		}},
		Peers: []tenant.Peer{{
			Host: "smf.example", Sources: []string{"192.0.2.10/32"}, Tenants: []string{"lab"}, Dialect: "generic", AnswerAs: "cluster",
		}},
		Subscribers: []tenant.Subscriber{{
			Tenant: "lab", Plan: "basic", Account: "imsi-001010000000001", IMSI: "001010000000001", MSISDN: "+491700000001",
		}},
	}
	if diff := cmp.Diff(want, d, ignoreOrigin); diff != "" {
		t.Error(diff)
	}
	if err := d.Cross(&tenant.Catalogue{}); err != nil {
		t.Error(err)
	}
	ids, err := d.Subscribers[0].AllIdentities()
	if diff := cmp.Diff([]string{"imsi:001010000000001", "msisdn:491700000001"}, ids); diff != "" || err != nil {
		t.Errorf("identities: %v %s", err, diff)
	}
}

func TestAPlanWithEverything(t *testing.T) {
	d := documents(t, `
kind: Plan
tenant: lab
name: all
description: Everything that can be written
from: 2027-01-01T00:00:00+01:00
services:
  - name: zero rated
    contexts: [32251]
    ratingGroups: [10, 20]
    serviceIds: [7001]
    apns: [Internet, web.example]
    default: true
    unit: octets
    price: "0.000001"
    per: 1.5 kB
    step: 1 KiB
    allowances: [start, gift]
    quota: {size: 1 GiB, most: 4 GiB, least: 1 MiB, lasts: 2 min, threshold: 100 MiB, validity: 90 s, holding: 2 min, triggers: [rat, location, 62]}
    final: redirect
    redirect: https://top-up.example/
  - name: only gifts
    unit: octets
    money: false
    allowances: [gift]
    quota: {threshold: 1%}
    final: restrict-access
    filter: walled-garden
    filters: [permit out ip from 192.0.2.1 to any, "deny in 17 from any 53,5353 to 192.0.2.0/24 established"]
    wait: 5 min
  - name: video calls
    contexts: [32260]
    media: video
    unit: seconds
    price: "0.10"
    quota: {consumption: 20 s, triggers: [none]}
    final: redirect
    redirect: sip:top-up@example.net
  - {name: in the evening, times: [evening], unit: events, price: "1"}
  - {name: by address, apns: [v6], zones: [calls, near], times: [night, holidays], unit: octets, price: "1", final: redirect, redirect: "2001:db8::80", wait: 1 h}
allowances:
  - {name: start, unit: octets, amount: 100 MB, priority: -1, validity: 30d}
  - {name: gift, unit: octets, amount: 1 B}
  - {name: welcome, unit: money, amount: "5.00", priority: 7}
limits: {sessions: 4, ratingGroups: 3, sessionSpend: "50.00"}
zones:
  - {name: near, networks: ["262", "20801", "310-316"]}
  - {name: calls, called: ["49", "4915"]}
times:
  - {name: night, from: "22:00", to: "06:00"}
  - {name: evening, days: [fri-sun], from: "18:00", to: "00:00"}
  - {name: holidays, days: [holiday, mon]}
timeZone: Europe/Berlin
holidays: ["2026-12-25", "2026-06-27"]
grace: 10s
vanished: charge
replace: true
refuse: session
tell: [cost, balance]
lowBalance: 1.50
`)
	got, err := d.Plans[0].Compile(3)
	if err != nil {
		t.Fatal(err)
	}
	start, gift := rating.AllowanceID("start"), rating.AllowanceID("gift")
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	want := &rating.Plan{
		Name: "all", Version: 3, Sessions: 4, Groups: 3, Grace: 10e9, Vanished: true, Replaces: true, Refuses: true,
		SpendMax: 50_000_000, Tells: rating.Tells{Cost: true, Balance: true, Low: true, Below: 1_500_000},
		Services: []rating.Service{
			{
				Price: rating.Price{
					Rule: 1, Name: "zero rated", Unit: rating.Octets, Step: 1024, Per: 1500, Micro: 1, Allowances: []uint32{start, gift},
					Quota: rating.Quota{
						Size: 1 << 30, Most: 4 << 30, Least: 1 << 20, Lasts: 120e9, Threshold: 100 << 20, Validity: 90e9, Holding: 120e9,
						Triggers: []uint32{4, 3, 62},
					},
					Final: rating.Redirect, Redirect: "https://top-up.example/", Address: rating.URLAddress, Wait: 600e9,
				},
				Contexts: []uint32{32251}, Groups: []uint32{10, 20}, Services: []uint32{7001}, APNs: []string{"internet", "web.example"}, Default: true,
			},
			{Price: rating.Price{
				Rule: 2, Name: "only gifts", Unit: rating.Octets, Step: 1, Per: 1 << 20, NoMoney: true, Allowances: []uint32{gift},
				Quota: rating.Quota{Size: 10 << 20, Threshold: 104857, Validity: 3600e9}, Final: rating.RestrictAccess, Filter: "walled-garden",
				Filters: []string{"permit out ip from 192.0.2.1 to any", "deny in 17 from any 53,5353 to 192.0.2.0/24 established"}, Wait: 300e9,
			}},
			{
				Price: rating.Price{
					Rule: 3, Name: "video calls", Unit: rating.Seconds, Step: 1, Per: 60, Micro: 100_000,
					Quota: rating.Quota{Size: 300, Threshold: 30, Validity: 3600e9, Consumption: 20e9, Triggers: []uint32{}},
					Final: rating.Redirect, Redirect: "sip:top-up@example.net", Address: rating.SIPAddress, Wait: 600e9,
				},
				Contexts: []uint32{32260}, Media: rating.Video,
			},
			{
				Price: rating.Price{
					Rule: 4, Name: "in the evening", Unit: rating.Events, Step: 1, Per: 1, Micro: 1_000_000,
					Quota: rating.Quota{Size: 1, Validity: 3600e9}, Final: rating.Terminate,
				},
				Bands: 0b10,
			},
			{
				Price: rating.Price{
					Rule: 5, Name: "by address", Unit: rating.Octets, Step: 1, Per: 1 << 20, Micro: 1_000_000,
					Quota: rating.Quota{Size: 10 << 20, Threshold: 2 << 20, Validity: 3600e9},
					Final: rating.Redirect, Redirect: "2001:db8::80", Address: rating.IPv6Address, Wait: 3600e9,
				},
				APNs: []string{"v6"}, Zones: []uint16{1, 0}, Bands: 0b101,
			},
		},
		Zones: []rating.Zone{
			{Name: "near", Networks: []rating.Network{{From: 262, To: 262}, {From: 208, To: 208, Code: "01"}, {From: 310, To: 316}}},
			{Name: "calls", Calls: true},
		},
		Bands: []rating.Band{
			{Name: "night", Days: 0xFF, From: 22 * 60, To: 6 * 60}, {Name: "evening", Days: 0b1100001, From: 18 * 60, To: 24 * 60},
			{Name: "holidays", Days: 0b10000010, To: 24 * 60},
		},
		Zone: berlin, Holidays: []int64{20631, 20812},
		Allowances: []rating.Allowance{
			{ID: start, Name: "start", Unit: rating.Octets, Amount: 100e6, Priority: -1, Validity: 30 * 86400e9},
			{ID: gift, Name: "gift", Unit: rating.Octets, Amount: 1},
			{ID: rating.AllowanceID("welcome"), Name: "welcome", Unit: rating.Money, Amount: 5_000_000, Priority: 7},
		},
	}
	for digits, zone := range map[string]uint16{"49": 1, "4915": 1} {
		prefix, _ := rating.PrefixOf(digits)
		want.Prefixes.Put(prefix, zone)
	}
	same := cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(rating.Prefixes{}), cmpopts.IgnoreUnexported(rating.Plan{}), same); diff != "" {
		t.Error(diff)
	}
	if from, err := d.Plans[0].Begins(); err != nil || from.Unix() != 1798758000 {
		t.Errorf("begins %v, %v", from, err)
	}
}

func TestDocumentsThatStandInOddPlaces(t *testing.T) {
	for _, text := range []string{
		"---\nkind: Tenant\nname: a\ncurrency: EUR\n---\n",
		"# only words\n---\n# more\n---\nkind: Tenant\nname: a\ncurrency: EUR",
		"kind: Tenant\r\nname: a\r\ncurrency: EUR\r\n---\r\n",
		"{kind: Tenant, name: a, currency: EUR}\n",
		`{"kind":"Tenant","name":"a","currency":"\u0045UR","description":"JSON is \"YAML\""}`,
		"{\n  \"kind\": \"Tenant\",\n  \"name\": \"a\",\n  \"currency\": \"EUR\"\n}\n",
		"\"kind\": 'Tenant'\nname: \"a\"\ncurrency: 'EUR'\n...\n",
		"--- # first\nkind: Tenant\nname: a\ncurrency: EUR\ndescription: --- is no divider here\n",
	} {
		d := documents(t, text)
		if len(d.Tenants) != 1 || d.Tenants[0].Name != "a" || d.Tenants[0].Currency != "EUR" {
			t.Errorf("%q: %+v", text, d.Tenants)
		}
	}
}

func TestLinesAreCountedOverTheWholeFile(t *testing.T) {
	text := "# a\n---\nkind: Tenant\nname: a\ncurrency: EUR\n---\n\nkind: Tenant\nname: b\ncurrency: EUX\n---\nkind: Tenant\nnmae: c\n"
	_, err := tenant.Parse("f.yaml", []byte(text))
	for _, want := range []string{"f.yaml: [10:11] currency: ", "> 10 | currency: EUX", "f.yaml: [13:1] unknown key \"nmae\": did you mean name?"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestWhatIsTooLargeIsRefusedBeforeItIsRead(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{strings.Repeat(" ", tenant.FileMax+1), "larger than 16 MiB"},
		{strings.Repeat("#\n", tenant.DocumentMax), "begins at line 1 is larger than 512 KiB"},
		{"a: b\n---\nc: " + strings.Repeat("x", 9000), "line 3 is longer than 8192 octets"},
		{strings.Repeat("- ", 4000), "in the first 256 columns"},
		{strings.Repeat("[\n", tenant.DocumentMax/2), "nested deeper than 16"},
		{strings.Repeat("a: {", 17), "nested deeper than 16"},
		{"kind: Tenant\nname: |\n" + strings.Repeat("  long\n", 10_000), "…"},
		{strings.Repeat("kind: Tenant\nname: x\n---\n", 20), "file.yaml: [28:1] currency: is missing"},
	} {
		_, err := tenant.Parse("file.yaml", []byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.20q…: %.300v, want %q", c.text, err, c.want)
		}
		if n := strings.Count(fmt.Sprint(err), "file.yaml: "); n > 10 {
			t.Errorf("%d errors at once", n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"../examples/lab.yaml", "../testdata/vectors.yaml", "testdata/wrong.txt"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range strings.Split(strings.ReplaceAll(string(b), "\n→\n", "\n# "), "\n# ") {
			f.Add([]byte(part))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := tenant.Parse("f", b)
		if err != nil {
			return
		}
		_ = d.Cross(&tenant.Catalogue{}) // must not panic either
		for i := range d.Plans {
			if _, err := d.Plans[i].Compile(1); err != nil {
				t.Fatal(err)
			}
		}
		for i := range d.Subscribers {
			if _, err := d.Subscribers[i].AllIdentities(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
