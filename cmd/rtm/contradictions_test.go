package main

import (
	"cmp"
	"testing"
	"time"

	"rtm/diameter"
	"rtm/store/storetest"
)

// odd is a message of one session of a gateway, with what is said in the end.
type odd struct {
	session      string
	kind, number uint32
	host, realm  string    // empty: the gateway's own
	context      string    // Service-Context-Id; empty: data
	at           time.Time // Event-Timestamp; zero: now
	say          func(e *diameter.Encoder)
}

func (o odd) bytes() []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, o.number+100, o.number+100)
	e.String(diameter.SessionID, o.session)
	if o.host == "" {
		o.host, o.realm = "pgw.odd.example", "odd.example"
	}
	if o.at.IsZero() {
		o.at = time.Now()
	}
	e.String(diameter.OriginHost, o.host)
	e.String(diameter.OriginRealm, o.realm)
	e.String(diameter.DestinationRealm, o.realm)
	e.Uint32(diameter.AuthApplicationID, 4)
	e.String(diameter.ServiceContextID, cmp.Or(o.context, "32251@3gpp.org"))
	e.Uint32(diameter.CCRequestType, o.kind)
	e.Uint32(diameter.CCRequestNumber, o.number)
	e.Time(diameter.EventTimestamp, o.at)
	e.Open(diameter.SubscriptionID)
	e.Uint32(diameter.SubscriptionIDType, 1)
	e.String(diameter.SubscriptionIDData, "001010000000001")
	e.Close()
	o.say(&e)
	return e.Bytes()
}

// inGroup says something of rating group 10.
func inGroup(say func(e *diameter.Encoder)) func(e *diameter.Encoder) {
	return func(e *diameter.Encoder) {
		e.Open(diameter.MultipleServicesCreditControl)
		say(e)
		e.Uint32(diameter.RatingGroup, 10)
		e.Close()
	}
}

func wish(e *diameter.Encoder) {
	e.Open(diameter.RequestedServiceUnit)
	e.Close()
}

func usedUnits(attr diameter.Attr, n uint64) func(e *diameter.Encoder) {
	return func(e *diameter.Encoder) {
		e.Open(diameter.UsedServiceUnit)
		if attr == diameter.CCTime {
			e.Uint32(attr, uint32(n))
		} else {
			e.Uint64(attr, n)
		}
		e.Close()
	}
}

func twain(a, b func(e *diameter.Encoder)) func(e *diameter.Encoder) {
	return func(e *diameter.Encoder) { a(e); b(e) }
}

// money is CC-Money of that value, which may be negative, in a refund.
func money(digits int64) func(e *diameter.Encoder) {
	return func(e *diameter.Encoder) {
		e.Uint32(diameter.RequestedAction, 1) // REFUND_ACCOUNT
		e.Open(diameter.RequestedServiceUnit)
		e.Open(diameter.CCMoney)
		e.Open(diameter.UnitValue)
		e.Uint64(diameter.ValueDigits, uint64(digits))
		e.Close()
		e.Close()
		e.Close()
	}
}

// balance is what has been taken from an account and given to it.
type balance struct {
	octets, charged, credited, reserved int64 // of the allowance; of money; to money; of both
	open                                bool  // it has a session
}

// Requests that contradict themselves, their session or all reason get a named answer,
// charge what was used and nothing else, and harm nobody else.
func TestContradictions(t *testing.T) {
	const mib = 1 << 20
	nothing := func(*diameter.Encoder) {}
	for name, c := range map[string]struct {
		first    []odd // answered 2001
		then     odd
		whole    int   // Result-Code of the answer
		part     int   // … in its rating group; 0: it has none
		grants   bool  // units
		octets   int64 // that are charged in all, to the allowance
		open     bool  // the session, in the end
		refunded int64 // micro-units
	}{
		"a termination that wants quota": {
			first: []odd{{kind: 1, say: inGroup(wish)}},
			then:  odd{kind: 3, number: 1, say: inGroup(twain(wish, usedUnits(diameter.CCTotalOctets, mib)))},
			whole: 2001, part: 2001, octets: mib,
		},
		"a final report of what was never granted": {
			first: []odd{{kind: 1, say: nothing}},
			then:  odd{kind: 3, number: 1, say: inGroup(usedUnits(diameter.CCTotalOctets, mib))},
			whole: 2001, part: 2001, octets: mib,
		},
		"time wanted of a service that sells octets": {
			first: []odd{{kind: 1, say: inGroup(wish)}},
			then: odd{kind: 2, number: 1, say: inGroup(func(e *diameter.Encoder) {
				e.Open(diameter.RequestedServiceUnit)
				e.Uint32(diameter.CCTime, 60)
				e.Close()
			})},
			whole: 2001, part: 5031, open: true,
		},
		"time used of a service that sells octets": {
			first: []odd{{kind: 1, say: inGroup(wish)}},
			then:  odd{kind: 2, number: 1, say: inGroup(twain(wish, usedUnits(diameter.CCTime, 60)))},
			whole: 2001, part: 5031, open: true,
		},
		"more octets than there are": {
			first: []odd{{kind: 1, say: inGroup(wish)}},
			then:  odd{kind: 2, number: 1, say: inGroup(usedUnits(diameter.CCTotalOctets, 1<<60))},
			whole: 5004, open: true,
		},
		"a refund of less than nothing":      {then: odd{kind: 4, say: money(-100)}, whole: 5004},
		"a refund of all the money there is": {then: odd{kind: 4, say: money(1 << 62)}, whole: 5004},
		"a refund":                           {then: odd{kind: 4, say: money(1)}, whole: 2001, refunded: 1_000_000},
		"a message from 1999": {
			first: []odd{{kind: 1, say: inGroup(wish)}},
			then:  odd{kind: 2, number: 1, at: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), say: inGroup(twain(wish, usedUnits(diameter.CCTotalOctets, mib)))},
			whole: 2001, part: 2001, grants: true, octets: mib, open: true,
		},
		"a message from tomorrow": {
			first: []odd{{kind: 1, say: inGroup(wish)}},
			then:  odd{kind: 2, number: 1, at: time.Now().Add(24 * time.Hour), say: inGroup(twain(wish, usedUnits(diameter.CCTotalOctets, mib)))},
			whole: 2001, part: 2001, grants: true, octets: mib, open: true,
		},
		"an update of no session": {
			then:  odd{kind: 2, number: 1, say: inGroup(twain(wish, usedUnits(diameter.CCTotalOctets, mib)))},
			whole: 5002,
		},
		"a number that said something else before": {
			first: []odd{{kind: 1, say: inGroup(wish)}, {kind: 2, number: 1, say: inGroup(twain(wish, usedUnits(diameter.CCTotalOctets, mib)))}},
			then:  odd{kind: 2, number: 1, say: inGroup(twain(wish, usedUnits(diameter.CCTotalOctets, 2*mib)))},
			whole: 5012, octets: mib, open: true,
		},
		"no such CC-Request-Type": {then: odd{kind: 9, say: inGroup(wish)}, whole: 5004},
		"another's name on this connection": {
			first: []odd{{kind: 1, say: inGroup(wish)}},
			then:  odd{kind: 2, number: 1, host: "smf.other.example", realm: "other.example", say: inGroup(usedUnits(diameter.CCTotalOctets, mib))},
			whole: 5004, open: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startLab(t, storetest.NewMemory(), 1)
			l.apply(t, "../../examples/lab.yaml")
			good, w := dialPeer(t, l.targets[0], "pgw.good.example", "good.example"), dialPeer(t, l.targets[0], "pgw.odd.example", "odd.example")
			account := func() (b balance) {
				s := l.first(t)
				for _, k := range s.Buckets {
					if b.reserved += k.Reserved; k.Unit == "money" {
						b.charged, b.credited = b.charged+k.Debited, b.credited+k.Credited
					} else {
						b.octets += k.Debited
					}
				}
				b.open = len(s.Sessions) > 0
				return b
			}
			before := account()
			for _, o := range c.first {
				o.session = "odd;1"
				if r := number(w.exchange(o.bytes()).Body, diameter.ResultCode); r != 2001 {
					t.Fatalf("before it: %d", r)
				}
			}
			c.then.session = "odd;1"
			m := w.exchange(c.then.bytes())
			part, grants := 0, false
			if a, ok := diameter.Find(m.Body, diameter.MultipleServicesCreditControl); ok {
				part = number(a.Data, diameter.ResultCode)
				_, grants = diameter.Find(a.Data, diameter.GrantedServiceUnit)
			}
			after := account()
			if r := number(m.Body, diameter.ResultCode); r != c.whole || part != c.part || grants != c.grants {
				t.Errorf("answered %d, in its rating group %d, with units %t; want %d, %d, %t", r, part, grants, c.whole, c.part, c.grants)
			}
			want := balance{octets: before.octets + c.octets, charged: before.charged, credited: before.credited + c.refunded, open: c.open}
			if c.open {
				want.reserved = after.reserved
			}
			if after != want {
				t.Errorf("then %+v, want %+v", after, want)
			}
			for _, raw := range [][]byte{ // what nobody has asked for
				answerTo(diameter.ReAuth, "no such session"), answerTo(diameter.CreditControl, "odd;1"), answerTo(diameter.AbortSession, "odd;1"),
			} {
				w.Write(raw)
			}
			for _, peer := range []*wire{good, w} {
				dwr := diameter.Encoder{}
				dwr.Reset(nil)
				dwr.Request(diameter.DeviceWatchdog, 0, 0, 7, 7)
				dwr.String(diameter.OriginHost, "pgw")
				dwr.String(diameter.OriginRealm, "example")
				peer.Write(dwr.Bytes())
				if m, ok := peer.next(2 * time.Second); !ok || m.Command != diameter.DeviceWatchdog {
					t.Errorf("then a DWR got %+v", m)
				}
			}
			if last := account(); last != after {
				t.Errorf("what nobody has asked for made it %+v", last)
			}
		})
	}
}

// answerTo is an answer of that command to a request that nobody has sent.
func answerTo(c diameter.Command, session string) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Answer(&diameter.Header{Flags: diameter.FlagRequest, Command: c, Application: diameter.ApplicationCreditControl, HopByHop: 4711, EndToEnd: 4711}, 0)
	e.String(diameter.SessionID, session)
	e.Uint32(diameter.ResultCode, 2001)
	e.String(diameter.OriginHost, "pgw.odd.example")
	e.String(diameter.OriginRealm, "odd.example")
	return e.Bytes()
}
