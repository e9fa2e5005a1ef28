package tenant_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rtm/rating"
	"rtm/tenant"
)

// file reads a file of the tree, checks it whole, and gives the catalogue that
// it makes.
func file(t *testing.T, name string) (*tenant.Documents, *tenant.Catalogue) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := tenant.Parse(filepath.Base(name), b)
	if err != nil {
		t.Fatal(err)
	}
	s := newWire()
	if _, err := tenant.Apply(t.Context(), s, d, false); err != nil {
		t.Fatal(err)
	}
	return d, load(t, s, nil)
}

// facts is what a message names.
func facts(context uint32, group, service int) *rating.Facts {
	f := &rating.Facts{Context: context, At: noon, HasGroup: group >= 0, HasService: service >= 0}
	if f.HasGroup {
		f.Group = uint32(group)
	}
	if f.HasService {
		f.Service = uint32(service)
	}
	return f
}

func TestTheLab(t *testing.T) {
	d, c := file(t, "../examples/lab.yaml")
	if len(d.Subscribers) != 11 {
		t.Errorf("%d subscribers, want 11", len(d.Subscribers))
	}
	known := make(map[string]bool)
	for i := range d.Subscribers {
		s := &d.Subscribers[i]
		if m, err := s.Money(); err != nil || m < 10_000_000 {
			t.Errorf("%s starts with %d, %v", s.Account, m, err)
		}
		ids, err := s.AllIdentities()
		if err != nil {
			t.Fatal(err)
		}
		known[strings.Join(ids, " ")] = true
	}
	for i := range 10 {
		if id := fmt.Sprintf("imsi:0010100000000%02d msisdn:4917000000%02d", i+1, i+1); !known[id] {
			t.Errorf("%s is missing", id)
		}
	}
	if !known["imsi:999700000000001 msisdn:491701000001"] {
		t.Error("the subscriber of Open5GS is missing")
	}
	plan := c.Plans("lab", []byte(d.Subscribers[0].Plan)).Current(noon)
	if plan.Currency != 978 {
		t.Errorf("currency %d", plan.Currency)
	}
	for _, x := range []struct {
		context        uint32
		group, service int
		unit           rating.Unit // zero: no tariff
	}{
		{32251, 10, -1, rating.Octets},
		{32251, 20, -1, rating.Octets},
		{32251, 30, -1, rating.Events},
		{32251, -1, -1, rating.Octets}, // Open5GS
		{32251, 99, 7, rating.Octets},
		{32260, -1, -1, rating.Seconds},
		{32260, 10, 1, rating.Seconds},
		{32274, -1, -1, rating.Events},
		{32274, 2, 1, rating.Events},
		{32299, 10, -1, 0},
	} {
		p, _, ok := plan.Price(facts(x.context, x.group, x.service))
		if !ok && x.unit != 0 || ok && p.Unit != x.unit {
			t.Errorf("context %d group %d service %d: %+v, want %s", x.context, x.group, x.service, p, x.unit)
		}
	}
	if _, ok := c.Peer("smf.localdomain", "localdomain", netip.MustParseAddr("127.0.0.4")); !ok {
		t.Error("a gateway on loopback is not served")
	}
}

// An avp of a vector, as its file spells it.
type avp struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
	AVPs  []avp  `json:"avps"`
}

func all(avps []avp, name string) (found []avp) {
	for _, a := range avps {
		if a.Name == name {
			found = append(found, a)
		}
	}
	return found
}

func text(avps []avp, name string) string {
	for _, a := range all(avps, name) {
		return fmt.Sprint(a.Value)
	}
	return ""
}

func number(avps []avp, name string) int {
	if n, err := strconv.ParseFloat(text(avps, name), 64); err == nil {
		return int(n)
	}
	return -1
}

// The unit in which a message counts, as far as it says.
func unitOf(avps []avp) rating.Unit {
	for _, name := range []string{"Requested-Service-Unit", "Used-Service-Unit"} {
		for _, u := range all(avps, name) {
			for _, v := range u.AVPs {
				switch v.Name {
				case "CC-Total-Octets", "CC-Input-Octets", "CC-Output-Octets":
					return rating.Octets
				case "CC-Service-Specific-Units":
					return rating.Events
				case "CC-Money":
					return rating.Money
				}
			}
			if number(u.AVPs, "CC-Time") >= 0 {
				return rating.Seconds
			}
		}
	}
	return 0
}

// Every CCR of testdata/vectors comes from a peer, names a subscriber, and asks
// for services that testdata/vectors.yaml knows, in their units.
func TestTheVectorsCanBeCharged(t *testing.T) {
	d, c := file(t, "../testdata/vectors.yaml")
	plan := c.Plans("mvno", []byte("vectors")).Current(noon)
	owners := make(map[string]string)
	for i := range d.Subscribers {
		ids, err := d.Subscribers[i].AllIdentities()
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			owners[id] = d.Subscribers[i].Account
		}
	}
	names, err := filepath.Glob("../testdata/vectors/*.json")
	if err != nil {
		t.Fatal(err)
	}
	messages, priced := 0, 0
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			ID       string `json:"id"`
			Expected struct {
				Code int `json:"result_code"`
			} `json:"expected"`
			AVPs []avp `json:"avps"`
		}
		if err := json.Unmarshal(b, &v); err != nil {
			continue // expected is a sentence: nothing to charge
		}
		if v.Expected.Code != 2001 {
			continue
		}
		messages++
		host, realm := text(v.AVPs, "Origin-Host"), text(v.AVPs, "Origin-Realm")
		peer, ok := c.Peer(host, realm, netip.MustParseAddr("127.0.0.1"))
		if !ok || !peer.Serves("mvno") {
			t.Errorf("%s: no peer %s of %s", v.ID, host, realm)
		}
		if len(all(v.AVPs, "Route-Record")) > 0 {
			if relay, ok := c.Peer("dra1.hub.example", "hub.example", netip.MustParseAddr("127.0.0.1")); !ok || !relay.Sends("dra1.hub.example", "hub.example", host, realm) {
				t.Errorf("%s: the relay does not send for %s", v.ID, realm)
			}
		}
		for _, s := range all(v.AVPs, "Subscription-Id") {
			id := []string{"msisdn:", "imsi:"}[number(s.AVPs, "Subscription-Id-Type")] + text(s.AVPs, "Subscription-Id-Data")
			if owners[id] == "" {
				t.Errorf("%s: nobody is %s", v.ID, id)
			}
		}
		asks := all(v.AVPs, "Multiple-Services-Credit-Control")
		if len(asks) == 0 && unitOf(v.AVPs) != 0 {
			asks = []avp{{AVPs: v.AVPs}}
		}
		for _, ask := range asks {
			context, _, _ := strings.Cut(text(v.AVPs, "Service-Context-Id"), "@")
			context = context[strings.LastIndexByte(context, '.')+1:]
			spec, _ := strconv.Atoi(context)
			f := facts(uint32(spec), number(ask.AVPs, "Rating-Group"), number(ask.AVPs, "Service-Identifier"))
			f.APN = []byte("internet")
			p, _, ok := plan.Price(f)
			want := unitOf(ask.AVPs)
			if !ok || want != 0 && want != rating.Money && p.Unit != want {
				t.Errorf("%s: %+v costs %+v, counted in %s", v.ID, f, p, want)
			}
			priced++
		}
	}
	if messages < 20 || priced < 25 {
		t.Errorf("%d messages and %d services of vectors were looked at; the files have more", messages, priced)
	}
	p, _, _ := plan.Price(facts(32275, -1, 900))
	if cost, ok := p.Total(3); !ok || cost != 270_000 {
		t.Errorf("three units of service 900 cost %d, want 0.27", cost)
	}
}
