package main

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm/api"
	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store/storetest"
)

// namesakes are two tenants whose gateways may call themselves anything, each in a
// realm of their own.
const namesakes = `{kind: Tenant, name: beta, currency: EUR}
---
{kind: Peer, host: "*", realm: alpha.example, sources: [127.0.0.0/8], tenants: [lab]}
---
{kind: Peer, host: "*", realm: beta.example, sources: [127.0.0.0/8], tenants: [beta]}
`

// The gateways of another tenant that call themselves like this one's, or that
// come from the same place, take none of its connections; where its document has
// the name, they do not get in.
func TestConnectionsOfNamesakes(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.instances[0].door.learn = false
	l.apply(t, "../../examples/lab.yaml")
	l.declare(t, namesakes)
	cea := func(realm string) int {
		c, err := net.Dial("tcp", l.targets[0])
		if err != nil {
			t.Fatal(err)
		}
		_, r := introduce(t, c, "pgw1.alpha.example", realm)
		return r
	}
	for range 4 {
		if r := cea("beta.example"); r != 2001 {
			t.Fatalf("beta's gateway gets CEA %d", r)
		}
	}
	if r := cea("beta.example"); r != 5012 {
		t.Errorf("beta's fifth connection gets CEA %d", r)
	}
	if r := cea("alpha.example"); r != 2001 {
		t.Errorf("alpha's own gateway gets CEA %d", r)
	}
	l.declare(t, `{kind: Peer, host: pgw1.alpha.example, realm: alpha.example, sources: [127.0.0.0/8], tenants: [lab]}`)
	if r := cea("beta.example"); r != 3010 {
		t.Errorf("who calls himself as alpha's document does gets CEA %d", r)
	}
	if r := cea("alpha.example"); r != 2001 {
		t.Errorf("alpha's own gateway, which a document names, gets CEA %d", r)
	}
}

// While a gateway is away, a notice of its session waits for it, at whichever
// instance it comes back: neither another tenant's gateway of the same name gets it
// meanwhile, nor another tenant's relay.
func TestNoticesAreTheTenants(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	for _, i := range l.instances {
		i.door.learn = false
	}
	l.apply(t, "../../examples/lab.yaml")
	l.declare(t, namesakes+`---
{kind: Peer, host: dra.beta.example, realm: beta.example, sources: [127.0.0.0/8], tenants: [beta], relays: ["*"]}
`)
	own := dialPeer(t, l.targets[0], "pgw1.alpha.example", "alpha.example")
	var others []*wire
	for _, target := range l.targets {
		for _, host := range []string{"pgw1.alpha.example", "dra.beta.example"} {
			others = append(others, dialPeer(t, target, host, "beta.example"))
		}
	}
	if r := number(own.exchange(ccr("pgw1.alpha.example", "alpha.example", "s;1", 1, 0, 0)).Body, diameter.ResultCode); r != 2001 {
		t.Fatalf("CCA-I %d", r)
	}
	own.Close()
	rtmtest.Until(t, "A knows who is connected to B, and not to A any more", func() bool {
		all := l.live()[0].Instances()
		return len(all) == 2 && len(all[0].Peers) == 2 && len(all[1].Peers) == 2
	})
	l.tell(t, "session", "abort", "s;1")
	for i, w := range others {
		if m, ok := w.next(100 * time.Millisecond); ok {
			t.Errorf("beta's connection %d got %s of alpha's session %s", i, m.Command, textOf(m.Body, diameter.SessionID))
		}
	}
	own = dialPeer(t, l.targets[1], "PGW1.alpha.example", "Alpha.example")
	m, ok := own.next(20 * time.Second)
	if !ok || m.Command != diameter.AbortSession {
		t.Fatalf("alpha's own gateway got %+v", m)
	}
	own.replies(m, "pgw1.alpha.example", "alpha.example", 2001)
	l.untilNotice(t, "s;1", "")
}

// untilNotice waits until a session, which is open, has that notice.
func (l *lab) untilNotice(t testing.TB, session, notice string) {
	t.Helper()
	r := remote{url: l.api}
	rtmtest.Until(t, "the session is open, with notice "+notice, func() bool {
		var s api.Session
		return r.call(t.Context(), "GET", "/v1/sessions/"+session, nil, nil, &s) == nil && s.Notice == notice
	})
}

// Only the gateway says that it does not know the session. A relay that says so in
// its own name has lost the way: it is asked again, and may pass on what the
// gateway says.
func TestUnknownToARelayOnly(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.instances[0].door.learn = false
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "dra.hub", "relays: [epc]\n")
	dra := dialPeer(t, l.targets[0], "dra.hub", "hub")
	if r := number(dra.exchange(ccr("pgw1.epc", "epc", "s;1", 1, 0, 0)).Body, diameter.ResultCode); r != 2001 {
		t.Fatalf("CCA-I %d", r)
	}
	l.tell(t, "session", "reauth", "s;1")
	for _, origin := range [][2]string{{"dra.hub", "hub"}, {"PGW1.epc", "EPC"}} {
		m, ok := dra.next(20 * time.Second)
		if !ok || m.Command != diameter.ReAuth {
			t.Fatalf("before the answer of %v the relay got %+v", origin, m)
		}
		dra.replies(m, origin[0], origin[1], 5002)
	}
	r := remote{url: l.api}
	rtmtest.Until(t, "the session that its gateway does not know is closed", func() bool {
		var s api.Session
		return r.call(t.Context(), "GET", "/v1/sessions/s;1", nil, nil, &s) != nil
	})
}

// Two events are two, however their realms, Session-Ids and numbers run together.
func TestEventsAreToldApart(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	r := remote{url: l.api}
	debited := func() (n int64) {
		var s api.Subscriber
		if err := r.call(t.Context(), "GET", "/v1/subscribers/001010000000001", nil, nil, &s); err != nil {
			t.Fatal(err)
		}
		for _, b := range s.Buckets {
			n += b.Debited
		}
		return n
	}
	l.peer(t, "dra.hub", `relays: ["*"]`)
	relay := dialPeer(t, l.targets[0], "dra.hub", "hub")
	last := int64(0)
	for _, e := range []struct {
		realm, session string
		number         uint32
		sub            uint64
	}{{"h", "1;2", 3, 4}, {"h", "1;2;3", 4, 0}, {"h;1", "2", 3, 4}, {"h", "1;2", 3, 0}, {"h", "1;2", 34, 0}} {
		var enc diameter.Encoder
		enc.Reset(nil)
		enc.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, 1, 1)
		enc.String(diameter.SessionID, e.session)
		enc.String(diameter.OriginHost, "gw")
		enc.String(diameter.OriginRealm, e.realm)
		enc.String(diameter.DestinationRealm, l.config.OriginRealm)
		enc.Uint32(diameter.AuthApplicationID, 4)
		enc.String(diameter.ServiceContextID, "32251@3gpp.org")
		enc.Uint32(diameter.CCRequestType, 4)
		enc.Uint32(diameter.CCRequestNumber, e.number)
		if e.sub != 0 {
			enc.Uint64(diameter.CCSubSessionID, e.sub)
		}
		enc.Uint32(diameter.RequestedAction, 0)
		enc.Open(diameter.SubscriptionID)
		enc.Uint32(diameter.SubscriptionIDType, 1)
		enc.String(diameter.SubscriptionIDData, "001010000000001")
		enc.Close()
		enc.Open(diameter.RequestedServiceUnit)
		enc.Uint64(diameter.CCTotalOctets, 1<<20)
		enc.Close()
		m := relay.exchange(enc.Bytes())
		now := debited()
		if got := number(m.Body, diameter.ResultCode); got != 2001 || now <= last {
			t.Errorf("%+v: %d, debited %d after %d", e, got, now, last)
		}
		last = now
	}
}

// A log that takes no line keeps nobody waiting, and what strangers cause is
// written so often, and no more: the rest is counted.
func TestTheLogIsNoQueue(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	d := l.instances[0].door
	log := &stuck{}
	log.held.Lock()
	d.learn, d.log = false, slog.New(slog.NewTextHandler(log, nil))
	w := dialPeer(t, l.targets[0], "gw", "epc")
	const strangers = 2000
	for i := range strangers {
		imsi := fmt.Sprintf("00199%010d", i)
		m := w.exchange(request("gw", "epc", "epc", fmt.Sprintf("gw;%s;%d", imsi, i), imsi, 1, 0, 0))
		if r := number(m.Body, diameter.ResultCode); r != 5030 {
			t.Fatalf("stranger %d: %d", i, r)
		}
	}
	if d.strange.omitted(aboutSubscriber) == 0 {
		t.Error("nothing was left out")
	}
	log.held.Unlock()
	rtmtest.Until(t, "the log says so", func() bool {
		d.recount()
		return strings.Contains(log.String(), "about=subscriber lines=")
	})
	text := log.String()
	if strings.Contains(text, "0019900000") || !strings.Contains(text, "identity=imsi:…0000 session=gw;…0000;0 ") ||
		!strings.Contains(text, "rtm subscriber add imsi:NUMBER --tenant ") {
		t.Errorf("%.1000s", text)
	}
	if n := strings.Count(text, "unknown subscriber"); int64(n)+d.strange.omitted(aboutSubscriber) != strangers {
		t.Errorf("%d lines, and %d left out, of %d", n, d.strange.omitted(aboutSubscriber), strangers)
	}
}

// stuck is a log that takes nothing while it is held.
type stuck struct {
	held sync.Mutex
	lockedBuffer
}

func (s *stuck) Write(p []byte) (int, error) {
	s.held.Lock()
	defer s.held.Unlock()
	return s.lockedBuffer.Write(p)
}

// Of each sort so many lines are written in a second, and nothing twice.
func TestStrangersAreNamedOnce(t *testing.T) {
	var s strangers
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	count := func(about sort, who func(i int) string) (n int) {
		for i := range 100 {
			if s.first(about, who(i), at) {
				n++
			}
		}
		return n
	}
	each := func(i int) string { return fmt.Sprint(i) }
	if n, m := count(aboutPeer, each), count(aboutTLS, each); n != tellRate || m != tellRate {
		t.Errorf("%d and %d in one second", n, m)
	}
	at = at.Add(time.Second)
	if n := count(aboutPeer, func(int) string { return "0" }); n != 0 {
		t.Errorf("one was named %d times more", n)
	}
	if n := count(aboutPeer, func(int) string { return "x" }); n != 1 {
		t.Errorf("a new one was named %d times", n)
	}
	if n := count(aboutPeer, func(int) string { return "" }); n != tellRate-1 || s.omitted(aboutPeer) != 90+100-int64(n) {
		t.Errorf("%d more in that second, %d left out", n, s.omitted(aboutPeer))
	}
}
