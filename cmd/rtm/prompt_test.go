package main

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"rtm"
	"rtm/api"
	"rtm/charging"
	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store/storetest"
	"rtm/tenant"
)

// documents applies documents, and waits until all instances have them.
func (l *lab) documents(t testing.TB, text string) {
	t.Helper()
	r := remote{url: l.api}
	if err := r.call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	first := l.live()[0].Catalogue()
	rtmtest.Until(t, "all instances have the documents", func() bool {
		for _, i := range l.live() {
			if i.Catalogue().Version() != first.Version() {
				return false
			}
		}
		return true
	})
}

// poor is a subscriber without credit, and what its gateway does when nobody answers.
const poor = `{kind: Tenant, name: lab, currency: EUR, failureHandling: retry-and-terminate, directDebitingFailureHandling: continue}
---
kind: Plan
tenant: lab
name: poor
services:
  - {name: data, contexts: [32251], unit: octets, price: "1.00", per: 10 MiB, quota: {size: 10 MiB, validity: 1h},
     final: redirect, redirect: "https://top-up.example/", wait: 10m}
---
{kind: Subscriber, tenant: lab, plan: poor, imsi: "001010000000001", balance: "0"}
`

// The gateway is connected to B. A top-up at A has it report within a second; what it
// asks for then is granted.
func TestATopUpAsksTheGatewayAtOnce(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	l.documents(t, poor)
	w := dialPeer(t, l.targets[1], "pgw.epc", "epc")
	rtmtest.Until(t, "A knows who is connected to B", func() bool {
		for _, p := range l.live()[0].Instances() {
			if p.Name == "B" && len(p.Peers) == 1 {
				return true
			}
		}
		return false
	})
	m := w.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0))
	mscc, _ := diameter.Find(m.Body, diameter.MultipleServicesCreditControl)
	final, ok := diameter.Find(mscc.Data, diameter.FinalUnitIndication)
	if number(m.Body, diameter.ResultCode) != 2001 || number(mscc.Data, diameter.ResultCode) != 2001 || !ok || number(mscc.Data, diameter.ValidityTime) != 600 {
		t.Fatalf("a session without credit is answered %+v", m)
	}
	if server, ok := diameter.Find(final.Data, diameter.RedirectServer); !ok || textOf(server.Data, diameter.RedirectServerAddress) != "https://top-up.example/" {
		t.Errorf("the user is sent to %q", textOf(server.Data, diameter.RedirectServerAddress))
	}
	if n := number(m.Body, diameter.CreditControlFailureHandling); n != 2 {
		t.Errorf("Credit-Control-Failure-Handling is %d", n)
	}

	begun := time.Now()
	l.tell(t, "balance", "topup", "imsi:001010000000001", "5.00")
	m, ok = w.next(5 * time.Second)
	if took := time.Since(begun); !ok || m.Command != diameter.ReAuth || took > 3*time.Second {
		t.Fatalf("after %s the gateway got %+v", took, m)
	}
	w.replies(m, "pgw.epc", "epc", 2002)
	m = w.exchange(ccr("pgw.epc", "epc", "s;1", 2, 1, 0))
	mscc, _ = diameter.Find(m.Body, diameter.MultipleServicesCreditControl)
	if _, ok := diameter.Find(mscc.Data, diameter.GrantedServiceUnit); !ok {
		t.Errorf("with credit it is answered %+v", m)
	}
	l.untilNotice(t, "s;1", "")
	m = w.exchange(longer(ccr("pgw.epc", "epc", "e;1", 4, 0, 0), func(e *diameter.Encoder) { e.Uint32(diameter.RequestedAction, 0) }))
	if n := number(m.Body, diameter.DirectDebitingFailureHandling); n != 1 {
		t.Errorf("Direct-Debiting-Failure-Handling is %d", n)
	}
}

// A relay that cannot deliver says so, and the next one that leads there gets it, also if
// both have one name, as fronts do, or it is connected to another instance.
func TestARelayThatCannotDeliver(t *testing.T) {
	for title, c := range map[string]struct {
		names [2]string
		of    int // instances; the second relay is connected to the last one
	}{"two relays": {[2]string{"dra1.hub", "dra2.hub"}, 1}, "two of one name": {[2]string{"dra.hub", "dra.hub"}, 1},
		"one at another instance": {[2]string{"dra1.hub", "dra2.hub"}, 2}, "one of that name at another instance": {[2]string{"dra.hub", "dra.hub"}, 2}} {
		t.Run(title, func(t *testing.T) {
			l := startLab(t, storetest.NewMemory(), c.of)
			for _, i := range l.instances {
				i.door.learn = false
			}
			l.apply(t, "../../examples/lab.yaml")
			var relays [2]*wire
			for i, name := range c.names {
				l.peer(t, name, "relays: [epc]\n")
				relays[i] = dialPeer(t, l.targets[min(i, c.of-1)], name, "hub")
			}
			for _, i := range l.instances {
				l.hears(t, i.core.Name)
			}
			if r := number(relays[0].exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0)).Body, diameter.ResultCode); r != 2001 {
				t.Fatalf("CCA-I %d", r)
			}
			l.tell(t, "session", "reauth", "s;1")
			got := make(chan bool, len(relays))
			for i, w := range relays {
				go func() {
					m, ok := w.next(3 * time.Second) // before the timer sends it again
					if ok = ok && m.Command == diameter.ReAuth; ok {
						w.replies(m, c.names[i], "hub", 3002)
					}
					got <- ok
				}()
			}
			if first, second := <-got, <-got; !first || !second {
				t.Errorf("a relay got the RAR: %t, %t", first, second)
			}
		})
	}
}

// An operator asks for a report of one rating group: the gateway hears which, and session
// show tells it. One that the session does not have is refused.
func TestAReportOfOneRatingGroup(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	w.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0))
	if _, err := told(t, "session", "reauth", "s;1", "--rating-group", "99", "--api", l.api); err == nil || !strings.Contains(err.Error(), "it has 10") {
		t.Errorf("a rating group that is not there: %v", err)
	}
	l.tell(t, "session", "reauth", "s;1", "--rating-group", "10")
	m, ok := w.next(3 * time.Second)
	if !ok || m.Command != diameter.ReAuth || number(m.Body, diameter.RatingGroup) != 10 {
		t.Fatalf("the gateway got %+v", m)
	}
	var s api.Session
	if err := (&remote{url: l.api}).call(t.Context(), "GET", "/v1/sessions/s;1", nil, nil, &s); err != nil || s.NoticeGroup == nil || *s.NoticeGroup != 10 {
		t.Errorf("session show: %+v, %v", s, err)
	}
	if text, err := told(t, "session", "show", "s;1", "--api", l.api); err != nil || !strings.Contains(text, "asked its gateway to REAUTHORISE for rating group 10") {
		t.Errorf("session show: %v\n%s", err, text)
	}
}

// hears waits until who is connected to the instance of that name is known where the
// operator is.
func (l *lab) hears(t testing.TB, name string) {
	t.Helper()
	rtmtest.Until(t, "it is known who is connected to "+name, func() bool {
		var all struct{ Instances []api.Instance }
		err := (&remote{url: l.api}).call(t.Context(), "GET", "/v1/instances", nil, nil, &all)
		return err == nil && slices.ContainsFunc(all.Instances, func(i api.Instance) bool { return i.Name == name && len(i.Peers) > 0 })
	})
}

// What is sent to a gateway goes the way that its session came last: to the other instance,
// if that has the relay. If no answer comes, another relay gets it.
func TestTheWayThatTheSessionCame(t *testing.T) {
	t.Parallel()
	l := startLab(t, onRedis(t), 2)
	for _, i := range l.instances {
		i.door.learn = false
	}
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "dra1.hub", "relays: [epc]\n")
	l.peer(t, "dra2.hub", "relays: [epc]\n")
	ways := []*wire{dialPeer(t, l.targets[0], "dra1.hub", "hub"), dialPeer(t, l.targets[1], "dra2.hub", "hub")}
	at := func(n int, c diameter.Command, wait time.Duration) {
		t.Helper()
		if m, ok := ways[n].next(wait); !ok || m.Command != c {
			t.Errorf("dra%d got %+v", n+1, m)
		}
	}
	for n, w := range ways {
		if r := number(w.exchange(ccr("pgw.epc", "epc", "s;1", 1+uint32(n), uint32(n), 0)).Body, diameter.ResultCode); r != 2001 {
			t.Fatalf("CCA %d", r)
		}
	}
	l.hears(t, l.instances[1].core.Name)
	l.tell(t, "session", "reauth", "s;1")
	at(1, diameter.ReAuth, 2*time.Second)
	at(1, diameter.ReAuth, 5*time.Second)
	at(0, diameter.ReAuth, 7*time.Second)
	if m, ok := ways[1].next(10 * time.Millisecond); ok {
		t.Errorf("dra2 got %s, which it had left without an answer twice", m.Command)
	}
}

// A gateway behind a relay has a document of its own: it may name the subscribers of
// those of its tenants that the relay serves, and speaks its own dialect.
func TestAGatewayBehindARelay(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.instances[0].door.learn = false
	l.documents(t, twoTenants+`---
{kind: Peer, host: dra.hub, realm: hub, sources: [127.0.0.0/8], tenants: [alpha, beta], relays: ["*"]}
---
{kind: Peer, host: smf.far, realm: far, via: [dra.hub], tenants: [beta, gamma], dialect: open5gs}
`)
	dra := dialPeer(t, l.targets[0], "dra.hub", "hub")
	const alpha, beta, gamma = "001010000000001", "001020000000001", "001030000000001"
	for _, c := range []struct {
		host, realm, imsi string
		want, validity    int
	}{
		{"smf.far", "far", beta, 2001, 300}, // Open5GS is not left alone for longer
		{"smf.far", "far", alpha, 5030, -1}, // not its tenant
		{"smf.far", "far", gamma, 5030, -1}, // not the relay's
		{"other.far", "far", alpha, 2001, 3600},
		{"other.far", "far", beta, 2001, 3600},
	} {
		m := dra.exchange(request(c.host, c.realm, c.realm, c.host+";"+c.imsi, c.imsi, 1, 0, 0))
		if got := number(m.Body, diameter.ResultCode); got != c.want {
			t.Errorf("%s for %s: %d, want %d", c.host, c.imsi, got, c.want)
		}
		mscc, _ := diameter.Find(m.Body, diameter.MultipleServicesCreditControl)
		if got := number(mscc.Data, diameter.ValidityTime); c.want == 2001 && got != c.validity {
			t.Errorf("%s for %s: valid for %d s, want %d", c.host, c.imsi, got, c.validity)
		}
	}
}

// While a session's answer is owed it is not asked to report; afterwards it is.
func TestAReportIsNotAskedForWhileAnAnswerIsOwed(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	w.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0))
	d := l.instances[0].door
	owed := d.owed.take([]byte("s;1"))
	due := charging.Due{Notice: charging.Notice{Kind: charging.Reauthorise, Number: 1}, Realm: []byte("epc"), Host: []byte("pgw.epc"), Session: []byte("s;1")}
	account := tenant.AccountKey("lab", "imsi-001010000000001")
	if !d.notify(rtm.Parcel{Account: account, Due: due}, rtm.Direct) {
		t.Fatal("the gateway is connected, and the notice not taken")
	}
	if m, ok := w.next(100 * time.Millisecond); ok {
		t.Fatalf("while an answer is owed the gateway got %s", m.Command)
	}
	d.settled(owed)
	if m, ok := w.next(3 * time.Second); !ok || m.Command != diameter.ReAuth {
		t.Errorf("then the gateway got %+v", m)
	}
	if owed.answers.Load() != 0 || len(owed.notices) != 0 {
		t.Errorf("%d answers are owed, %d notices wait", owed.answers.Load(), len(owed.notices))
	}

	// With so many messages on their way that some session of the same place always waits.
	d.owed.take([]byte("s;1"))
	if due.Number++; !d.notify(rtm.Parcel{Account: account, Due: due}, rtm.Direct) {
		t.Fatal("the notice was not taken")
	}
	rtmtest.Until(t, "the gateway is asked while others wait", func() bool {
		d.settled(d.owed.take([]byte("s;1")))
		m, ok := w.next(10 * time.Millisecond)
		return ok && m.Command == diameter.ReAuth
	})
	d.settled(owed)
}

// A gateway whose Origin-State-Id rises, as its document says, has lost its sessions.
func TestAGatewayThatHasRestarted(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "pgw.epc", "restarts: true\n")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	state := func(v uint32, frame []byte) []byte {
		return longer(frame, func(e *diameter.Encoder) { e.Uint32(diameter.OriginStateID, v) })
	}
	w.exchange(state(7, ccr("pgw.epc", "epc", "s;1", 1, 0, 0)))
	w.exchange(state(8, ccr("pgw.epc", "epc", "s;2", 1, 0, 0)))
	if r := number(w.exchange(state(8, ccr("pgw.epc", "epc", "s;1", 2, 1, 1000))).Body, diameter.ResultCode); r != 5002 {
		t.Errorf("the session from before is answered %d", r)
	}
	if r := number(w.exchange(state(8, ccr("pgw.epc", "epc", "s;2", 2, 1, 1000))).Body, diameter.ResultCode); r != 2001 {
		t.Errorf("the session of today is answered %d", r)
	}
}

// A gateway with two connections, of which one has fallen silent, is asked over the
// other one (RFC 3539 §3.4); the silent one is closed.
func TestTheSilentConnectionIsPassedBy(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1, func(c *config) { c.Watchdog = time.Second })
	l.instances[0].door.learn = false
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "pgw.epc", "")
	dead, alive := dialPeer(t, l.targets[0], "pgw.epc", "epc"), dialPeer(t, l.targets[0], "pgw.epc", "epc")
	const sessions = 6
	for i := range sessions {
		if r := number(dead.exchange(ccr("pgw.epc", "epc", fmt.Sprint("s;", i), 1, 0, 0)).Body, diameter.ResultCode); r != 2001 {
			t.Fatalf("CCA-I %d", r)
		}
	}
	asked := make(chan string, sessions)
	go func() {
		for {
			m, ok := alive.next(20 * time.Second)
			if !ok {
				return
			}
			alive.replies(m, "pgw.epc", "epc", 2001)
			if m.Command == diameter.ReAuth {
				asked <- textOf(m.Body, diameter.SessionID)
			}
		}
	}()
	rtmtest.Until(t, "one connection owes an answer to a watchdog", func() bool {
		conns, suspect := l.instances[0].node.Conns(), 0
		for _, c := range conns {
			if c.Suspect() {
				suspect++
			}
		}
		return len(conns) == 2 && suspect == 1
	})
	for i := range sessions {
		l.tell(t, "session", "reauth", fmt.Sprint("s;", i))
	}
	for range sessions {
		select {
		case <-asked:
		case <-time.After(5 * time.Second):
			t.Fatal("a RAR did not come over the connection that answers")
		}
	}
	if !dead.closed(10 * time.Second) {
		t.Error("the silent connection stays open")
	}
}

// The gateway is connected to A alone, the operator to B, on one Redis: a top-up and an
// abort reach it within a second, and what it reports then is charged. The same when A
// was killed, and the gateway has come to C.
func TestWhatIsWishedElsewhere(t *testing.T) {
	redis := rtmtest.StartRedis(t)
	var targets, apis []string
	var procs []*process
	for _, name := range []string{"a", "b", "c"} {
		target, management := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t)
		procs = append(procs, run(t, "serve", "--store", "redis://"+redis.Addr, "--name", name, "--peer-host", name+".ocs.example",
			"--diameter", target, "--http", management, "--records", ""))
		targets, apis = append(targets, target), append(apis, "http://"+management)
	}
	for _, a := range apis {
		rtmtest.Until(t, a+" is ready", ready(a))
	}
	l := &lab{targets: targets, api: apis[1]}
	if err := (&remote{url: l.api}).call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(poor+`---
{kind: Subscriber, tenant: lab, plan: poor, imsi: "001010000000002", balance: "0"}
---
{kind: Peer, host: pgw.epc, realm: epc, sources: [127.0.0.0/8], tenants: [lab]}
`), nil); err != nil {
		t.Fatal(err)
	}
	spent := func(imsi string) (debited int64) {
		var s api.Subscriber
		if err := (&remote{url: l.api}).call(t.Context(), "GET", "/v1/subscribers/"+imsi, nil, nil, &s); err != nil {
			t.Fatal(err)
		}
		for _, b := range s.Buckets {
			debited += b.Debited
		}
		return debited
	}
	var w *wire
	connect := func(to int, name string) {
		t.Helper()
		rtmtest.Until(t, name+" knows the gateway's document", func() bool {
			c, err := net.Dial("tcp", targets[to])
			if err != nil {
				return false
			}
			var result int
			w, result = introduce(t, c, "pgw.epc", "epc")
			return result == 2001
		})
		l.hears(t, strings.ToLower(name))
	}
	send := func(imsi string, kind, n uint32, used uint64) *diameter.Message {
		t.Helper()
		m := w.exchange(request("pgw.epc", "epc", "epc", "s;"+imsi, imsi, kind, n, used))
		if r := number(m.Body, diameter.ResultCode); r != 2001 {
			t.Fatalf("%d of %s is answered %d", n, imsi, r)
		}
		return m
	}
	wished := func(c diameter.Command, args ...string) {
		t.Helper()
		begun := time.Now()
		l.tell(t, args...)
		m, ok := w.next(5 * time.Second)
		took := time.Since(begun)
		if !ok || m.Command != c {
			t.Fatalf("after rtm %v the gateway got %+v within %s", args, m, took)
		}
		if took > time.Second {
			t.Errorf("rtm %v took %s to reach the gateway", args, took)
		}
		t.Logf("rtm %v: %s after %s", args, c, took)
		result := uint32(2002) // an update follows
		if c == diameter.AbortSession {
			result = 2001
		}
		w.replies(m, "pgw.epc", "epc", result)
	}
	for _, round := range []struct{ name, imsi string }{{"A", "001010000000001"}, {"C", "001010000000002"}} {
		if round.name == "A" {
			connect(0, "A")
		}
		send(round.imsi, 1, 0, 0)
		if round.name == "C" {
			procs[0].kill9()
			connect(2, "C")
		}
		wished(diameter.ReAuth, "balance", "topup", "imsi:"+round.imsi, "5.00")
		m := send(round.imsi, 2, 1, 0)
		mscc, _ := diameter.Find(m.Body, diameter.MultipleServicesCreditControl)
		if _, ok := diameter.Find(mscc.Data, diameter.GrantedServiceUnit); !ok {
			t.Errorf("with credit it is answered %+v", m)
		}
		send(round.imsi, 2, 2, 10<<20)
		wished(diameter.AbortSession, "session", "abort", "s;"+round.imsi)
		send(round.imsi, 3, 3, 5<<20)
		if got := spent(round.imsi); got != 1_500_000 {
			t.Errorf("15 MiB cost %d", got)
		}
	}
}
