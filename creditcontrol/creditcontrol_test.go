package creditcontrol

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rtm/charging"
	"rtm/diameter"
	"rtm/rating"
)

var self = &Self{OriginHost: "ocs1.mvne.example", OriginRealm: "mvne.example"}

// message is the bytes of a vector.
func message(t testing.TB, id string) []byte {
	t.Helper()
	b, err := os.ReadFile("../testdata/vectors/" + id + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Hex string }
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	msg, err := hex.DecodeString(strings.Join(strings.Fields(v.Hex), ""))
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func decode(t testing.TB, b []byte) (*Envelope, *charging.Request, *diameter.AVPError) {
	t.Helper()
	m, _, err := diameter.Frame(b, diameter.MessageMax)
	if err != nil {
		t.Fatal(err)
	}
	e, r := &Envelope{}, &charging.Request{}
	return e, r, Decode(&m, Generic, e, r)
}

func TestWhatClientsAskFor(t *testing.T) {
	const s, m = charging.HasService, charging.AtMessage
	octets := func(n, in, out int64) charging.Units { return charging.Units{Octets: n, Input: in, Output: out} }
	for id, want := range map[string]struct {
		kind    charging.Kind
		context uint32
		first   string // the identity that counts
		asks    []charging.Ask
	}{
		"ccr-i-open5gs": {charging.Initial, 32251, "imsi:999700000000001", []charging.Ask{
			{Wants: true, Want: octets(1000000, 0, 0)},
		}},
		"ccr-u-open5gs": {charging.Update, 32251, "imsi:999700000000001", []charging.Ask{
			{Wants: true, Want: octets(1000000, 0, 0), Reports: true, Used: charging.Units{Octets: 981504, Input: 262144, Output: 719360, Seconds: 37}, Measured: charging.In(rating.Octets) | charging.In(rating.Seconds), Reason: 4},
		}},
		"ccr-i-voice-root-units": {charging.Initial, 0, "", []charging.Ask{
			{Has: s | m, Wants: true, Want: charging.Units{Seconds: 300}, Reports: true, Measured: charging.In(rating.Seconds)},
		}},
		"ccr-e-refund": {charging.Event, 0, "", []charging.Ask{
			{Has: m | s, Service: 900, Wants: true, Want: charging.Units{Money: 1_250_000}, Currency: 978},
		}},
	} {
		t.Run(id, func(t *testing.T) {
			e, r, err := decode(t, message(t, id))
			if err != nil {
				t.Fatal(err)
			}
			if r.Kind != want.kind || want.context != 0 && r.Context != want.context {
				t.Errorf("kind %s context %d, want %s %d", r.Kind, r.Context, want.kind, want.context)
			}
			if got := string(e.Identities[0].Append(nil)); want.first != "" && got != want.first {
				t.Errorf("identity %s, want %s", got, want.first)
			}
			for i := range r.Asks { // the vectors' exact figures of time are not at issue
				if want.asks[i].Used.Seconds != 0 {
					want.asks[i].Used = r.Asks[i].Used
					if r.Asks[i].Used.Octets != 981504 {
						t.Errorf("used %d octets, want 981504", r.Asks[i].Used.Octets)
					}
				}
			}
			if d := cmp.Diff(want.asks, r.Asks); d != "" {
				t.Errorf("asks (-want +got):\n%s", d)
			}
		})
	}
}

func TestTariffChangeIsSummedAndSplit(t *testing.T) {
	_, r, err := decode(t, message(t, "ccr-u-pgw-tariff-change"))
	if err != nil {
		t.Fatal(err)
	}
	if a := r.Asks[0]; a.Group != 100 || a.Used.Octets != 7340032+2097152 || a.After.Octets != 2097152 || !a.Wants {
		t.Errorf("rating group 100: %+v", a)
	}
	if a := r.Asks[1]; a.Group != 200 || a.Used.Octets != 4096 || a.Wants || a.Reason != 2 {
		t.Errorf("rating group 200: %+v", a)
	}
	if r.Context != 32251 {
		t.Errorf("context %d", r.Context)
	}
}

// A resend has the same content, whatever a relay or the client changes around it.
func TestContentHash(t *testing.T) {
	_, first, _ := decode(t, message(t, "ccr-u-open5gs"))
	_, again, _ := decode(t, message(t, "ccr-u-open5gs-retransmit"))
	if first.Content != again.Content {
		t.Errorf("a retransmission has another hash")
	}
	_, other, _ := decode(t, message(t, "ccr-i-open5gs"))
	if first.Content == other.Content || first.Content == 0 {
		t.Errorf("another message has the same hash")
	}
	b := message(t, "ccr-u-open5gs")
	i := bytes.LastIndex(b, []byte{0, 0, 0x01, 0xa4}) // CC-Time, in the report
	b[i+11]++
	if _, changed, err := decode(t, b); err != nil || changed.Content == first.Content {
		t.Errorf("other usage has the same hash (%v)", err)
	}
	b = message(t, "ccr-u-open5gs")
	id, _ := diameter.Find(b[diameter.HeaderLength:], diameter.SubscriptionID)
	id.Data[len(id.Data)-4]++ // a digit of the number, in front of the padding or not
	if _, other, err := decode(t, b); err != nil || other.Content == first.Content {
		t.Errorf("another subscriber has the same hash (%v)", err)
	}
}

func TestRefusals(t *testing.T) {
	for id, want := range map[string]diameter.Result{
		"bad-duplicate-cc-request-number": 5009, "bad-enum-cc-request-type-9": 5004, "bad-missing-cc-request-type": 5005,
		"bad-missing-service-context-id": 5005, "bad-missing-session-id": 5005, "bad-empty-session-id": 5004,
		"bad-unknown-avp-m-bit": 5001, "bad-avp-length-zero": 5014, "bad-nesting-64": 5009, "bad-wrong-size-unsigned32": 5014,
	} {
		e, _, err := decode(t, message(t, id))
		if err == nil || err.Result != want {
			t.Errorf("%s: got %v, want %d", id, err, want)
			continue
		}
		var enc diameter.Encoder
		EncodeError(&enc, self, e, err)
		m, _, ferr := diameter.Frame(enc.Bytes(), diameter.MessageMax)
		if ferr != nil {
			t.Fatalf("%s: %v", id, ferr)
		}
		if r := DecodeReply(&m).Result; r != want {
			t.Errorf("%s: the answer says %v", id, r)
		}
		if f, ok := diameter.Find(m.Body, diameter.FailedAVP); !ok || len(f.Data) < 8 {
			t.Errorf("%s: the answer has no Failed-AVP", id)
		}
	}
}

// Golden: the answer to bad-missing-cc-request-type is the model of the vectors,
// but for the text of the Error-Message.
func TestModelError(t *testing.T) {
	e, _, err := decode(t, message(t, "bad-missing-cc-request-type"))
	var enc diameter.Encoder
	EncodeError(&enc, self, e, err)
	got, want := names(t, enc.Bytes()), names(t, message(t, "cca-error-5005-model"))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// names are the AVPs of a message, groups in brackets.
func names(t *testing.T, b []byte) string {
	t.Helper()
	m, _, err := diameter.Frame(b, diameter.MessageMax)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Check(diameter.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	return listed(m.Body)
}

func listed(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		a, rest, _ := diameter.Next(b)
		b = rest
		s.WriteString(a.Attr.String() + "\n")
		if a.Attr.Type() == diameter.Grouped {
			s.WriteString("[\n" + listed(a.Data) + "]\n")
		}
	}
	return s.String()
}

func TestModelGrant(t *testing.T) {
	e := &Envelope{
		SessionID: []byte("s"), Type: 1, HasType: true, HasNumber: true, Failure: Failure{Session: 3, Event: 1},
		Header: diameter.Header{Flags: 0xc0, Command: 272, Application: 4},
	}
	a := charging.Answer{Result: 2001, Grants: []charging.Grant{
		{
			Group: 100, Has: charging.HasGroup, Result: 2001, Unit: rating.Octets, Units: 52428800, Validity: 3600, Threshold: 5242880, Holding: 600,
			Change: time.Unix(1_800_000_000, 0),
		},
		{
			Group: 200, Has: charging.HasGroup, Result: 2001, Unit: rating.Octets, Units: 10485760, Validity: 3600, Final: rating.Redirect,
			Price: &rating.Price{Final: rating.Redirect, Redirect: "https://top-up.example/", Address: rating.URLAddress},
		},
		{Group: 300, Service: 7001, Has: charging.HasGroup | charging.HasService, Result: 4012},
	}}
	var enc diameter.Encoder
	Encode(&enc, self, e, &a)
	got := names(t, enc.Bytes())
	want := names(t, message(t, "cca-i-model-grant"))
	// What the model has and rtm does not send: how events fail is told with events,
	// and holding time zero is left out.
	want = strings.Replace(want, "Direct-Debiting-Failure-Handling\n", "", 1)
	if i := strings.LastIndex(want, "Quota-Holding-Time\n"); i >= 0 {
		want = want[:i] + want[i+len("Quota-Holding-Time\n"):]
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// What a plan says beyond amounts comes as the AVPs of TS 32.299 and RFC 8506, with
// their values.
func TestWhatPlansTell(t *testing.T) {
	envelope := func(kind uint32) *Envelope {
		return &Envelope{
			SessionID: []byte("s"), Type: kind, HasType: true, HasNumber: true, Failure: Failure{Session: 2, Event: 2},
			Header: diameter.Header{Flags: 0xc0, Command: 272, Application: 4},
		}
	}
	grant := func(g charging.Grant) charging.Answer {
		g.Group, g.Has, g.Result = 1, charging.HasGroup, 2001
		return charging.Answer{Result: 2001, Grants: []charging.Grant{g}}
	}
	redirect := func(to string, kind rating.AddressType) *rating.Price {
		return &rating.Price{Final: rating.Redirect, Redirect: to, Address: kind}
	}
	for name, c := range map[string]struct {
		kind   uint32
		answer charging.Answer
		want   string // of the AVPs behind the seven required ones
	}{
		"a session's failure handling": {1, charging.Answer{Result: 2001}, "CC-Session-Failover=1 Credit-Control-Failure-Handling=1"},
		"an event's failure handling":  {4, charging.Answer{Result: 2001}, "Direct-Debiting-Failure-Handling=1"},
		"money": {2, charging.Answer{Result: 2001, Cost: 1_250_000, HasCost: true, Balance: 3_000_000, Told: true, Low: charging.IsLow, Currency: 978},
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Cost-Information{Unit-Value{Value-Digits=125 Exponent=-2} Currency-Code=978} " +
				"Low-Balance-Indication=1 Remaining-Balance{Unit-Value{Value-Digits=3 Exponent=0} Currency-Code=978}"},
		"no money yet, and not low": {2, charging.Answer{Result: 2001, HasCost: true, Low: charging.NotLow, Currency: 978},
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Cost-Information{Unit-Value{Value-Digits=0 Exponent=0} Currency-Code=978} Low-Balance-Indication=0"},
		"an IPv4 address": {2, grant(charging.Grant{Final: rating.Redirect, Validity: 600, Price: redirect("192.0.2.80", rating.IPv4Address)}),
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Multiple-Services-Credit-Control{Rating-Group=1 Validity-Time=600 Result-Code=2001 " +
				"Final-Unit-Indication{Final-Unit-Action=1 Redirect-Server{Redirect-Address-Type=0 Redirect-Server-Address=192.0.2.80}}}"},
		"an IPv6 address": {2, grant(charging.Grant{Final: rating.Redirect, Price: redirect("2001:db8::80", rating.IPv6Address)}),
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Multiple-Services-Credit-Control{Rating-Group=1 Result-Code=2001 " +
				"Final-Unit-Indication{Final-Unit-Action=1 Redirect-Server{Redirect-Address-Type=1 Redirect-Server-Address=2001:db8::80}}}"},
		"a SIP address": {2, grant(charging.Grant{Final: rating.Redirect, Price: redirect("sip:top-up@example", rating.SIPAddress)}),
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Multiple-Services-Credit-Control{Rating-Group=1 Result-Code=2001 " +
				"Final-Unit-Indication{Final-Unit-Action=1 Redirect-Server{Redirect-Address-Type=3 Redirect-Server-Address=sip:top-up@example}}}"},
		"filters": {2, grant(charging.Grant{
			Final: rating.RestrictAccess, Price: &rating.Price{Final: rating.RestrictAccess, Filter: "walled-garden", Filters: []string{"permit out ip from 192.0.2.1 to any"}},
		}),
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Multiple-Services-Credit-Control{Rating-Group=1 Result-Code=2001 " +
				"Final-Unit-Indication{Final-Unit-Action=2 Restriction-Filter-Rule=permit out ip from 192.0.2.1 to any Filter-Id=walled-garden}}"},
		"triggers and a pause": {2, grant(charging.Grant{
			Unit: rating.Seconds, Units: 60, Price: &rating.Price{Quota: rating.Quota{Consumption: 20 * time.Second, Triggers: []uint32{4, 3}}},
		}),
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Multiple-Services-Credit-Control{Granted-Service-Unit{CC-Time=60} Rating-Group=1 Result-Code=2001 " +
				"Quota-Consumption-Time=20 Trigger{Trigger-Type=4 Trigger-Type=3}}"},
		"no triggers": {2, grant(charging.Grant{Unit: rating.Seconds, Units: 60, Price: &rating.Price{Quota: rating.Quota{Triggers: []uint32{}}}}),
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Multiple-Services-Credit-Control{Granted-Service-Unit{CC-Time=60} Rating-Group=1 Result-Code=2001 Trigger{}}"},
		"a tariff change": {2, grant(charging.Grant{Unit: rating.Octets, Units: 5, Change: time.Unix(0, 0)}),
			"CC-Session-Failover=1 Credit-Control-Failure-Handling=1 Multiple-Services-Credit-Control{Granted-Service-Unit{Tariff-Time-Change=2208988800 CC-Total-Octets=5} " +
				"Rating-Group=1 Result-Code=2001}"},
	} {
		var enc diameter.Encoder
		Encode(&enc, self, envelope(c.kind), &c.answer)
		_, got, _ := strings.Cut(values(t, enc.Bytes()[20:]), "CC-Request-Number=0 ")
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
		m, _, err := diameter.Frame(enc.Bytes(), diameter.MessageMax)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Check(diameter.DefaultLimits); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// values writes AVPs with their values.
func values(t *testing.T, b []byte) string {
	t.Helper()
	var out []string
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			t.Fatal(err)
		}
		b = rest
		name := a.Attr.String()
		switch a.Attr.Type() {
		case diameter.Grouped:
			out = append(out, name+"{"+values(t, a.Data)+"}")
		case diameter.Integer32:
			out = append(out, fmt.Sprintf("%s=%d", name, int32(binary.BigEndian.Uint32(a.Data))))
		case diameter.Unsigned32, diameter.Enumerated, diameter.Time:
			out = append(out, fmt.Sprintf("%s=%d", name, binary.BigEndian.Uint32(a.Data)))
		case diameter.Unsigned64, diameter.Integer64:
			out = append(out, fmt.Sprintf("%s=%d", name, binary.BigEndian.Uint64(a.Data)))
		default:
			out = append(out, name+"="+string(a.Data))
		}
	}
	return strings.Join(out, " ")
}

func TestServiceContextIDs(t *testing.T) {
	for id, want := range map[string]uint32{
		"32251@3gpp.org": 32251, "8.32251@3gpp.org": 32251, "26203.15.32260@3gpp.org": 32260,
		"32274.3gpp.org": 32274, "voice@DiamItCCRInit": 0, "": 0, "@": 0, "99999999999999@x": 0,
	} {
		if got := contextNumber([]byte(id)); got != want {
			t.Errorf("%q: got %d, want %d", id, got, want)
		}
	}
}

func TestMoney(t *testing.T) {
	for _, c := range []struct {
		v            int64
		x            int32
		asked, used  rating.Micros
		asks, report bool
	}{
		{125, -2, 1_250_000, 1_250_000, true, true}, {10, 0, 10_000_000, 10_000_000, true, true}, {1, -6, 1, 1, true, true},
		{1, -7, 0, 1, false, true}, {12_345_678, -8, 0, 123_457, false, true}, {10, -7, 1, 1, true, true},
		{-1, 0, 0, 0, false, false}, {1, 60, 0, 0, false, false}, {0, 60, 0, 0, true, true},
	} {
		if got, ok := micros(c.v, c.x, false); ok != c.asks || ok && got != c.asked {
			t.Errorf("%d×10^%d asked for: got %d %t", c.v, c.x, got, ok)
		}
		if got, ok := micros(c.v, c.x, true); ok != c.report || ok && got != c.used {
			t.Errorf("%d×10^%d used: got %d %t", c.v, c.x, got, ok)
		}
	}
}

// update is a CCR-U with what more adds.
func update(more func(e *diameter.Encoder)) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, 1, 1)
	e.String(diameter.SessionID, "gw;1;1")
	e.String(diameter.OriginHost, "gw.far")
	e.String(diameter.OriginRealm, "far")
	e.String(diameter.DestinationRealm, "mvne.example")
	e.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
	e.String(diameter.ServiceContextID, "32251@3gpp.org")
	e.Uint32(diameter.CCRequestType, typeUpdate)
	e.Uint32(diameter.CCRequestNumber, 1)
	more(&e)
	return e.Bytes()
}

// amount is one AVP of a unit.
type amount struct {
	attr diameter.Attr
	n    uint64
}

func used(e *diameter.Encoder, amounts ...amount) {
	e.Open(diameter.UsedServiceUnit)
	for _, a := range amounts {
		if a.attr == diameter.TariffChangeUsage {
			e.Uint32(a.attr, uint32(a.n))
			continue
		}
		e.Uint64(a.attr, a.n)
	}
	e.Close()
}

// Octets in one report or several, as total, as parts, or as both.
func TestOctetsOfSeveralReports(t *testing.T) {
	const total, in, out, side = diameter.CCTotalOctets, diameter.CCInputOctets, diameter.CCOutputOctets, diameter.TariffChangeUsage
	for _, c := range []struct {
		reports      [][]amount
		octets, late int64
	}{
		{[][]amount{{{total, 100}}, {{in, 40}}, {{out, 60}}}, 100, 0},                                // one per unit
		{[][]amount{{{in, 40}, {out, 60}}, {{in, 1}}}, 101, 0},                                       // parts only
		{[][]amount{{{total, 100}, {in, 40}, {out, 70}}}, 100, 0},                                    // the total wins
		{[][]amount{{{total, 100}, {in, 40}, {out, 60}}, {{in, 10}, {out, 20}}}, 130, 0},             // two periods
		{[][]amount{{{total, 0}}, {{in, 40}, {out, 60}}}, 100, 0},                                    // nothing used is lost
		{[][]amount{{{total, 7}, {side, 0}}, {{total, 5}, {side, 1}}}, 12, 5},                        // a tariff change
		{[][]amount{{{total, 7}}, {{in, 3}, {out, 4}}, {{in, 2}, {out, 3}, {side, 1}}}, 12, 5},       // and parts
		{[][]amount{{{total, 1 << 49}, {side, 0}}, {{total, 1 << 49}, {side, 1}}}, 1 << 50, 1 << 49}, // as much as may be
	} {
		_, r, err := decode(t, update(func(e *diameter.Encoder) {
			e.Open(diameter.MultipleServicesCreditControl)
			for _, u := range c.reports {
				used(e, u...)
			}
			e.Close()
		}))
		if err != nil || r.Asks[0].Used.Octets != c.octets || r.Asks[0].After.Octets != c.late {
			t.Errorf("%v: got %+v (%v), want %d, %d of them late", c.reports, r.Asks, err, c.octets, c.late)
		}
	}
}

// What may be there once is refused the second time, at every level.
func TestRepeatedAVPs(t *testing.T) {
	service := func(more func(e *diameter.Encoder)) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) {
			e.Open(diameter.MultipleServicesCreditControl)
			more(e)
			e.Close()
		}
	}
	twice := func(attr diameter.Attr) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) { e.Uint32(attr, 1); e.Uint32(attr, 2) }
	}
	for name, more := range map[string]func(e *diameter.Encoder){
		"CC-Total-Octets": service(func(e *diameter.Encoder) {
			used(e, amount{diameter.CCTotalOctets, 1 << 30}, amount{diameter.CCTotalOctets, 0})
		}),
		"Tariff-Change-Usage": service(func(e *diameter.Encoder) {
			used(e, amount{diameter.TariffChangeUsage, 1}, amount{diameter.TariffChangeUsage, 0})
		}),
		"Requested-Service-Unit": service(func(e *diameter.Encoder) {
			for range 2 {
				e.Open(diameter.RequestedServiceUnit)
				e.Close()
			}
		}),
		"Rating-Group":              service(twice(diameter.RatingGroup)),
		"Rating-Group of a message": twice(diameter.RatingGroup),
		"Termination-Cause":         twice(diameter.TerminationCause),
		"Origin-State-Id":           twice(diameter.OriginStateID),
		"Subscription-Id-Data": func(e *diameter.Encoder) {
			e.Open(diameter.SubscriptionID)
			e.Uint32(diameter.SubscriptionIDType, 1)
			e.String(diameter.SubscriptionIDData, "1")
			e.String(diameter.SubscriptionIDData, "2")
			e.Close()
		},
	} {
		if _, _, err := decode(t, update(more)); err == nil || err.Result != diameter.AVPOccursTooManyTimes {
			t.Errorf("%s twice: %v, want 5009", name, err)
		}
	}
}

// All Service-Identifiers of a service come back, the first of which names it.
func TestServiceIdentifiersComeBack(t *testing.T) {
	e, r, err := decode(t, update(func(e *diameter.Encoder) {
		for _, ids := range [][]uint32{{11, 12, 13}, {21}} {
			e.Open(diameter.MultipleServicesCreditControl)
			for _, id := range ids {
				e.Uint32(diameter.ServiceIdentifier, id)
			}
			e.Uint32(diameter.RatingGroup, ids[0])
			e.Close()
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	answer := charging.Answer{Result: charging.Success}
	for _, a := range r.Asks {
		answer.Grants = append(answer.Grants, charging.Grant{Group: a.Group, Service: a.Service, Has: a.Has, Result: charging.Success})
	}
	var enc diameter.Encoder
	enc.Reset(nil)
	Encode(&enc, self, e, &answer)
	m, _, ferr := diameter.Frame(enc.Bytes(), diameter.MessageMax)
	if ferr != nil {
		t.Fatal(ferr)
	}
	var got [][]uint32
	for b := m.Body; len(b) > 0; {
		var a diameter.AVP
		a, b, _ = diameter.Next(b)
		if a.Attr != diameter.MultipleServicesCreditControl {
			continue
		}
		var ids []uint32
		for g := a.Data; len(g) > 0; {
			var s diameter.AVP
			if s, g, _ = diameter.Next(g); s.Attr == diameter.ServiceIdentifier {
				id, _ := s.Uint32()
				ids = append(ids, id)
			}
		}
		got = append(got, ids)
	}
	if d := cmp.Diff([][]uint32{{11, 12, 13}, {21}}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestDecodingAndEncodingAllocateNothing(t *testing.T) {
	for _, id := range []string{"ccr-i-magma-4rg", "ccr-u-pgw-tariff-change", "ccr-i-open5gs"} {
		b := message(t, id)
		var e Envelope
		var r charging.Request
		var enc diameter.Encoder
		var a charging.Answer
		buf := make([]byte, 0, 4096)
		if n := testing.AllocsPerRun(200, func() {
			m, _, _ := diameter.Frame(b, diameter.MessageMax)
			if Decode(&m, Generic, &e, &r) != nil {
				t.Fatal("refused")
			}
			a.Result, a.Grants = charging.Success, a.Grants[:0]
			for i := range r.Asks {
				a.Grants = append(a.Grants, charging.Grant{Group: r.Asks[i].Group, Has: r.Asks[i].Has, Result: 2001, Unit: rating.Octets, Units: 1 << 20, Validity: 3600})
			}
			enc.Reset(buf)
			Encode(&enc, self, &e, &a)
			enc.Bytes()
		}); n != 0 {
			t.Errorf("%s: %v allocations", id, n)
		}
	}
}

// Any bytes end in a Request within its bounds or in an error that can be
// answered.
func FuzzCCR(f *testing.F) {
	files, _ := filepath.Glob("../testdata/vectors/*.json")
	for _, file := range files {
		f.Add(message(f, strings.TrimSuffix(filepath.Base(file), ".json")))
	}
	var e Envelope
	var r charging.Request
	var enc diameter.Encoder
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _, err := diameter.Frame(b, diameter.MessageMax)
		if err != nil {
			return
		}
		enc.Reset(nil)
		if aerr := Decode(&m, Generic, &e, &r); aerr != nil {
			EncodeError(&enc, self, &e, aerr)
		} else {
			if len(r.Asks) > charging.AsksMax+1 || len(e.Identities) > IdentitiesMax || r.Kind == 0 {
				t.Fatal("beyond the bounds")
			}
			for i := range r.Asks {
				u := &r.Asks[i].Used
				if min(u.Octets, u.Input, u.Output, u.Seconds, u.Events, int64(u.Money)) < 0 || max(u.Octets, u.Seconds, u.Events) > 2*usedMax {
					t.Fatalf("used %+v", *u)
				}
			}
			Encode(&enc, self, &e, &charging.Answer{Result: charging.Success})
		}
		answer, rest, err := diameter.Frame(enc.Bytes(), diameter.MessageMax)
		if err != nil || len(rest) != 0 {
			t.Fatalf("the answer cannot be read: %v", err)
		}
		for body := answer.Body; len(body) > 0; {
			var aerr *diameter.AVPError
			if _, body, aerr = diameter.Next(body); aerr != nil {
				t.Fatalf("the answer cannot be walked over: %v", aerr)
			}
		}
	})
}

// Any bytes are an answer of a client with or without a result, and any CCR of any
// client's dialect is decoded alike twice.
func FuzzAnswer(f *testing.F) {
	for _, command := range []diameter.Command{diameter.ReAuth, diameter.AbortSession} {
		var e diameter.Encoder
		e.Reset(nil)
		e.Answer(&diameter.Header{Command: command, Application: diameter.ApplicationCreditControl}, 0)
		e.String(diameter.SessionID, "s")
		e.Uint32(diameter.ResultCode, 2002)
		f.Add(e.Bytes())
		e.Reset(nil)
		e.Answer(&diameter.Header{Command: command}, diameter.FlagError)
		e.Open(diameter.ExperimentalResult)
		e.Uint32(diameter.VendorID, 10415)
		e.Uint32(diameter.ExperimentalResultCode, 5030)
		e.Close()
		f.Add(e.Bytes())
	}
	files, _ := filepath.Glob("../testdata/vectors/*.json")
	for _, file := range files {
		f.Add(message(f, strings.TrimSuffix(filepath.Base(file), ".json")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _, err := diameter.Frame(b, diameter.MessageMax)
		if err != nil {
			return
		}
		if r := DecodeReply(&m); len(r.Session)+len(r.Host)+len(r.Realm) > len(m.Body) {
			t.Fatal("a name from nowhere")
		}
		for _, name := range Dialects() {
			d := DialectOf(name)
			var e, again Envelope
			var r, second charging.Request
			first := Decode(&m, d, &e, &r)
			if other := Decode(&m, d, &again, &second); (first == nil) != (other == nil) || r.Content != second.Content || len(r.Asks) != len(second.Asks) {
				t.Fatalf("%s: the same message twice is %v and %v", name, first, other)
			}
			if first == nil {
				e.Destined(self)
			}
		}
	})
}

func BenchmarkDecodeEncode(b *testing.B) {
	for _, id := range []string{"ccr-i-magma-4rg", "ccr-u-pgw-tariff-change", "ccr-i-open5gs"} {
		b.Run(id, func(b *testing.B) {
			msg := message(b, id)
			var e Envelope
			var r charging.Request
			var enc diameter.Encoder
			a := charging.Answer{Result: 2001, Grants: []charging.Grant{{Group: 1, Has: charging.HasGroup, Result: 2001, Unit: rating.Octets, Units: 1 << 20, Validity: 3600, Threshold: 1000}}}
			buf := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				m, _, _ := diameter.Frame(msg, diameter.MessageMax)
				Decode(&m, Generic, &e, &r)
				enc.Reset(buf)
				Encode(&enc, self, &e, &a)
				enc.Bytes()
			}
		})
	}
}
