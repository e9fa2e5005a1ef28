package main

import (
	"fmt"
	"testing"

	"rtm/diameter"
	"rtm/store/storetest"
)

// An event that says to whom a message goes, and how many units that takes only by that,
// costs each recipient and each part (TS 32.274): 0.09 each in the lab. A repeat at the
// other instance costs nothing.
func TestMessagesCostTheirRecipients(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	l.apply(t, "../../examples/lab.yaml")
	a, b := dialPeer(t, l.targets[0], "smsc.odd.example", "odd.example"), dialPeer(t, l.targets[1], "smsc.odd.example", "odd.example")
	debited := func() (sum int64) {
		t.Helper()
		s := l.first(t)
		for _, k := range s.Buckets {
			sum += k.Debited
		}
		return sum
	}
	event := func(say func(e *diameter.Encoder)) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) {
			e.Uint32(diameter.RequestedAction, 0) // DIRECT_DEBITING
			e.Open(diameter.ServiceInformation)
			say(e)
			e.Close()
		}
	}
	address := func(e *diameter.Encoder, n int) {
		e.Open(diameter.RecipientAddress)
		e.Uint32(diameter.AddressType, 1)
		e.String(diameter.AddressData, fmt.Sprintf("49170%d", n))
		e.Close()
	}
	short := func(recipients int, parts uint32) func(e *diameter.Encoder) {
		return event(func(e *diameter.Encoder) {
			e.Open(diameter.SMSInformation)
			for n := range recipients {
				e.Open(diameter.RecipientInfo)
				address(e, n)
				e.Close()
			}
			if parts > 0 {
				e.Uint32(diameter.NumberOfMessagesSent, parts)
			}
			e.Close()
		})
	}
	for i, c := range []struct {
		name  string
		say   func(e *diameter.Encoder)
		units int64
	}{
		{"nobody said to whom", event(func(*diameter.Encoder) {}), 1},
		{"a short message to one", short(1, 0), 1},
		{"a short message to three", short(3, 0), 3},
		{"a long one to three, in two parts", short(3, 2), 6},
		{"a multimedia message to two", event(func(e *diameter.Encoder) {
			e.Open(diameter.MMSInformation)
			address(e, 1)
			address(e, 2)
			e.Uint32(diameter.MessageSize, 307200)
			e.Close()
		}), 2},
		{"the client counts: two units, whoever gets it", twain(short(3, 2), func(e *diameter.Encoder) {
			e.Open(diameter.RequestedServiceUnit)
			e.Uint64(diameter.CCServiceSpecificUnits, 2)
			e.Close()
		}), 2},
	} {
		before := debited()
		o := odd{session: fmt.Sprintf("sms;%d", i), kind: 4, host: "smsc.odd.example", realm: "odd.example", context: "32274@3gpp.org", say: c.say}
		raw := o.bytes()
		for _, w := range []*wire{a, b} {
			m := w.exchange(raw)
			granted, _ := diameter.Find(m.Body, diameter.GrantedServiceUnit)
			units, _ := diameter.Find(granted.Data, diameter.CCServiceSpecificUnits)
			n, _ := units.Uint64()
			if r := number(m.Body, diameter.ResultCode); r != 2001 || int64(n) != c.units {
				t.Errorf("%s: answered %d, %d units; want 2001, %d", c.name, r, n, c.units)
			}
			if got := debited() - before; got != c.units*90_000 {
				t.Errorf("%s: %d micro-units, want %d units of 90000", c.name, got, c.units)
			}
		}
	}
	o := odd{session: "sms;2", kind: 4, host: "smsc.odd.example", realm: "odd.example", context: "32274@3gpp.org", say: short(4, 0)}
	if r := number(a.exchange(o.bytes()).Body, diameter.ResultCode); r != 5012 {
		t.Errorf("another recipient under the number of an earlier event: %d, want 5012", r)
	}
}

// What a tenant says about servers that do not answer is told to its gateways as sessions
// begin and as events come; one that says nothing leaves it to them (RFC 8506 §8.14,
// §8.15).
func TestFailureHandling(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	const none = -1
	value := func(m *diameter.Message, attr diameter.Attr) int {
		if _, ok := diameter.Find(m.Body, attr); !ok {
			return none
		}
		return number(m.Body, attr)
	}
	for i, c := range []struct {
		more           string
		session, event int
	}{
		{"", none, none},
		{", failureHandling: terminate, directDebitingFailureHandling: terminate-or-buffer", 0, 0},
		{", failureHandling: continue, directDebitingFailureHandling: continue", 1, 1},
		{", failureHandling: retry-and-terminate", 2, none},
	} {
		l.documents(t, "{kind: Tenant, name: lab, currency: EUR"+c.more+"}")
		m := w.exchange(ccr("pgw.epc", "epc", fmt.Sprintf("s;%d", i), 1, 0, 0))
		if got := value(m, diameter.CreditControlFailureHandling); number(m.Body, diameter.ResultCode) != 2001 || got != c.session {
			t.Errorf("%q: of a session %d, want %d", c.more, got, c.session)
		}
		m = w.exchange(longer(ccr("pgw.epc", "epc", fmt.Sprintf("e;%d", i), 4, 0, 0), func(e *diameter.Encoder) { e.Uint32(diameter.RequestedAction, 0) }))
		if got := value(m, diameter.DirectDebitingFailureHandling); got != c.event {
			t.Errorf("%q: of an event %d, want %d", c.more, got, c.event)
		}
	}
}
