package replay

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rtm/diameter"
)

// mapping is what these words say: OLD=NEW each, or one identity for everybody.
func mapping(t *testing.T, words ...string) (m Mapping) {
	t.Helper()
	for _, w := range words {
		from, to, ok := strings.Cut(w, "=")
		var err error
		if ok {
			err = m.Add(from, to)
		} else {
			err = m.Everybody(w)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// What is to be kept comes back octet for octet, whatever the client is.
func TestNothingChangesByItself(t *testing.T) {
	files, _ := filepath.Glob("../testdata/vectors/cc*.json")
	if len(files) < 15 {
		t.Fatal(files)
	}
	for _, f := range files {
		id := strings.TrimSuffix(filepath.Base(f), ".json")
		b := vector(t, id)
		w := Rewriter{DestinationHost: Keep, DestinationRealm: Keep}
		out, err := w.Request(b, start)
		if err != nil || !bytes.Equal(out, b) {
			t.Errorf("%s: %v\n%x\n%x", id, err, out, b)
		}
	}
}

// avps are the values of b, in order, by name; groups are opened.
func avps(t *testing.T, b []byte) (out []string) {
	t.Helper()
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			t.Fatal(err)
		}
		b = rest
		if a.Attr == diameter.SubscriptionID {
			scheme, value := subscriber(&a)
			out = append(out, scheme+":"+value)
			continue
		}
		out = append(out, a.Attr.String()+" "+string(a.Data))
	}
	return out
}

func TestRewriting(t *testing.T) {
	captured := request(t, "ccr-u-magma-1of4rg", 7)
	m, _, err := diameter.Frame(captured, diameter.MessageMax)
	if err != nil {
		t.Fatal(err)
	}
	before := avps(t, m.Body)
	at := time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC) // in the second era of Diameter's time
	w := Rewriter{Run: "77", Host: "gw.lab.example", Realm: "lab.example", Now: true}
	for _, line := range before {
		if strings.HasPrefix(line, "imsi:") {
			w.Mapping = mapping(t, line+"=imsi:99970000000001")
		}
	}
	out, err := w.to("ocs1.example", "example").Request(captured, at)
	if err != nil {
		t.Fatal(err)
	}
	identify(out, 1, 2)
	n, rest, err := diameter.Frame(out, diameter.MessageMax)
	if err != nil || len(rest) > 0 || n.HopByHop != 1 || n.EndToEnd != 2 || n.Flags != m.Flags {
		t.Fatalf("%+v, %v", n.Header, err)
	}
	if err := n.Check(diameter.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	after := avps(t, n.Body)
	i := 0
	for _, line := range before {
		name, value, _ := strings.Cut(line, " ")
		want := line
		switch {
		case name == "Session-Id":
			host, tail, _ := strings.Cut(value, ";")
			tail = tail[:strings.Index(tail, "IMSI")]
			want = name + " " + host + ";77;" + tail + "IMSI99970000000001"
		case name == "Origin-Host":
			want = name + " gw.lab.example"
		case name == "Origin-Realm":
			want = name + " lab.example"
		case name == "Destination-Realm":
			want = name + " example"
		case name == "Destination-Host":
			continue
		case name == "Event-Timestamp":
			a, _ := diameter.Find(n.Body, diameter.EventTimestamp)
			if got, _ := a.Time(); !got.Equal(at) {
				t.Errorf("Event-Timestamp is %s", got)
			}
			i++
			continue
		case strings.HasPrefix(line, "imsi:"):
			want = "imsi:99970000000001"
		}
		if i >= len(after) || after[i] != want {
			t.Fatalf("AVP %d is %q, want %q", i, after[i], want)
		}
		i++
	}
	if i != len(after) {
		t.Errorf("there are %d AVPs more", len(after)-i)
	}
}

// ccr is a request with these Subscription-Ids.
func ccr(identities ...string) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, 0, 1, 2)
	e.String(diameter.SessionID, "gw;1;2")
	for _, id := range identities {
		scheme, value, _ := strings.Cut(id, ":")
		e.Open(diameter.SubscriptionID)
		e.String(diameter.SubscriptionIDData, value) // in this order it is allowed too
		e.Uint32(diameter.SubscriptionIDType, number(scheme))
		e.Close()
	}
	e.Uint32(diameter.CCRequestNumber, 0)
	return e.Bytes()
}

func TestSubscribers(t *testing.T) {
	for _, c := range []struct{ captured, mapping, want string }{
		{"imsi:310150000000001 msisdn:15550001", "", "imsi:310150000000001 msisdn:15550001"},
		{"imsi:310150000000001 msisdn:15550001", "imsi:310150000000001=imsi:001010000000001", "imsi:001010000000001 msisdn:15550001"},
		{"imsi:310150000000002", "imsi:310150000000001=imsi:001010000000001", "imsi:310150000000002"},
		{"msisdn:+15550001", "msisdn:15550001=msisdn:491700000001", "msisdn:+491700000001"},
		{"sip:SIP:Alice@Example.org", "sip:alice@example.org=sip:bob@example.org", "sip:SIP:bob@example.org"},
		{"imsi:310150000000001 msisdn:15550001 sip:a@b", "imsi:001010000000001", "imsi:001010000000001"},
		{"msisdn:15550001 imsi:310150000000001", "imsi:001010000000001 msisdn:491700000001", "msisdn:491700000001 imsi:001010000000001"},
		{"msisdn:+15550001", "imsi:001010000000001 msisdn:491700000001", "msisdn:+491700000001"},
		{"sip:a@b", "msisdn:491700000001 imsi:001010000000001", "imsi:001010000000001"},
		{"nai:a@b private:x", "private:y", "private:y"},
	} {
		w := Rewriter{Mapping: mapping(t, strings.Fields(c.mapping)...)}
		out, err := w.Request(ccr(strings.Fields(c.captured)...), start)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range avps(t, out[diameter.HeaderLength:]) {
			if !strings.Contains(line, " ") {
				got = append(got, line)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s with %s: %s, want %s", c.captured, c.mapping, s, c.want)
		}
	}
}

func TestSessionIDs(t *testing.T) {
	long := "gw.example;" + strings.Repeat("x", 220) + ";IMSI310150000000001"
	for _, c := range []struct{ id, run, mapping, want string }{
		{"gw.example;1;2", "", "", "gw.example;1;2"},
		{"gw.example;1;2", "5", "", "gw.example;5;1;2"},
		{"simuhuawei-42", "5", "", "simuhuawei-42;5"},
		{"gw;1;2;IMSI310150000000001", "5", "imsi:310150000000001=imsi:001010000000001", "gw;5;1;2;IMSI001010000000001"},
		{"gw;1;2;IMSI310150000000002", "5", "imsi:310150000000001=imsi:001010000000001", "gw;5;1;2;IMSI310150000000002"},
		{"gw;1;2;IMSI310150000000002", "5", "imsi:001010000000001", "gw;5;1;2;IMSI001010000000001"},
		{"gw;310150000000001;2", "", "imsi:310150000000001=imsi:001010000000001", "gw;001010000000001;2"},
		{"gw;9310150000000001;2", "", "imsi:310150000000001=imsi:001010000000001", "gw;9310150000000001;2"}, // a longer number
		{"gw;310150000000001;2", "", "imsi:001010000000001", "gw;310150000000001;2"},                        // it need not be an IMSI
	} {
		w := Rewriter{Run: c.run, Mapping: mapping(t, strings.Fields(c.mapping)...)}
		if got := w.Session(c.id); got != c.want {
			t.Errorf("%s: %s, want %s", c.id, got, c.want)
		}
	}
	w := Rewriter{Run: "1234567890"}
	a, b := w.Session(long), w.Session(strings.Replace(long, "xx", "yy", 1))
	if len(a) != diameter.IdentityMax || a == b || !strings.HasPrefix(a, "gw.example;") || !strings.HasSuffix(a, ";IMSI310150000000001") {
		t.Errorf("%q, %q", a, b)
	}
}

func TestMappings(t *testing.T) {
	var m Mapping
	if err := m.Read(strings.NewReader("captured,as\n# the first one\nimsi:310150000000001, imsi:001010000000001\nmsisdn:+15550001,msisdn:491700000001\n")); err != nil {
		t.Fatal(err)
	}
	if len(m.one) != 2 || m.one["msisdn:15550001"] != "491700000001" {
		t.Errorf("%v", m.one)
	}
	for _, c := range []struct{ from, to, says string }{
		{"310150000000001", "imsi:001010000000001", "no identity such as"},
		{"imsi:31015x", "imsi:001010000000001", "no identity such as"},
		{"imei:310150000000001", "imsi:001010000000001", "no identity such as"},
		{"imsi:310150000000001", "msisdn:491700000001", "map an imsi to an imsi"},
		{"imsi:310150000000001", "imsi:001010000000002", "mapped twice"},
		{"sip:", "sip:a@b", "no identity such as"},
		{"sip:" + strings.Repeat("a", 300), "sip:a@b", "no identity such as"},
	} {
		if err := m.Add(c.from, c.to); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s=%s: %v, want %q", c.from, c.to, err, c.says)
		}
	}
	if err := m.Everybody("imsi:001010000000001"); err == nil {
		t.Error("both ways at once")
	}
	for text, says := range map[string]string{"imsi:310150000000009\n": "wrong number of fields", "a,b\nimsi:1,imsi:2\n": "line 2: ", "imsi:310150000000009,x\n": "line 1: "} {
		if err := new(Mapping).Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

// A message whose AVPs cannot be read is refused, not sent.
func TestUnreadable(t *testing.T) {
	b := ccr("imsi:310150000000001")
	binary.BigEndian.PutUint32(b[diameter.HeaderLength+4:], 0x40FFFFFF)
	if _, err := new(Rewriter).Request(b, start); err == nil {
		t.Error("an AVP longer than its message was taken")
	}
}
