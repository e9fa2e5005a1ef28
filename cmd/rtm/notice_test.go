package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rtm/api"
	"rtm/ctf"
	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store/storetest"
)

// ccr is a CCR of one gateway for rating group 10, with usage if there is some,
// to its own realm, as Open5GS has it.
func ccr(host, realm, session string, kind, number uint32, used uint64) []byte {
	return request(host, realm, realm, session, "001010000000001", kind, number, used)
}

// request is a CCR to a realm for a subscriber and rating group 10, with usage if
// there is some.
func request(host, realm, to, session, imsi string, kind, number uint32, used uint64) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, 100+number, 100+number)
	e.String(diameter.SessionID, session)
	e.String(diameter.OriginHost, host)
	e.String(diameter.OriginRealm, realm)
	e.String(diameter.DestinationRealm, to)
	e.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
	e.String(diameter.ServiceContextID, "32251@3gpp.org")
	e.Uint32(diameter.CCRequestType, kind)
	e.Uint32(diameter.CCRequestNumber, number)
	e.Open(diameter.SubscriptionID)
	e.Uint32(diameter.SubscriptionIDType, 1)
	e.String(diameter.SubscriptionIDData, imsi)
	e.Close()
	e.Open(diameter.MultipleServicesCreditControl)
	e.Uint32(diameter.RatingGroup, 10)
	e.Open(diameter.RequestedServiceUnit)
	e.Close()
	if used > 0 {
		e.Open(diameter.UsedServiceUnit)
		e.Uint64(diameter.CCTotalOctets, used)
		e.Close()
	}
	e.Close()
	return e.Bytes()
}

// exchange sends a request and returns its answer, which must come.
func (w *wire) exchange(b []byte) *diameter.Message {
	w.t.Helper()
	if _, err := w.Write(b); err != nil {
		w.t.Fatal(err)
	}
	m, ok := w.next(3 * time.Second)
	if !ok || m.Request() {
		w.t.Fatalf("no answer: %+v", m)
	}
	return m
}

// replies answers a request of the server.
func (w *wire) replies(m *diameter.Message, host, realm string, result uint32) {
	w.t.Helper()
	var e diameter.Encoder
	e.Reset(nil)
	flags := uint8(0)
	if diameter.Result(result).Protocol() {
		flags = diameter.FlagError
	}
	e.Answer(&m.Header, flags)
	e.String(diameter.SessionID, textOf(m.Body, diameter.SessionID))
	e.Uint32(diameter.ResultCode, result)
	e.String(diameter.OriginHost, host)
	e.String(diameter.OriginRealm, realm)
	if _, err := w.Write(e.Bytes()); err != nil {
		w.t.Fatal(err)
	}
}

// tell runs a command of an operator.
func (l *lab) tell(t testing.TB, args ...string) {
	t.Helper()
	root := command()
	root.SetArgs(append(args, "--api", l.api))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("rtm %v: %v", args, err)
	}
}

// prompted plays the one session of p, and asks first for a report and then for its end.
func (l *lab) prompted(t *testing.T, p *play) {
	t.Helper()
	if _, err := p.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	sim, err := ctf.New(p.conf)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sim.Run(t.Context()) }()
	var s api.Session
	shown := func() error {
		s = api.Session{}
		return p.remote.call(t.Context(), "GET", "/v1/sessions/"+sim.Watched(), nil, nil, &s)
	}
	rtmtest.Until(t, "the session is open", func() bool { return shown() == nil })
	l.tell(t, "session", "reauth", sim.Watched())
	rtmtest.Until(t, "the RAR was answered, and the report came", func() bool {
		return shown() == nil && s.Notice == "" && s.Messages >= 2 && sim.Counts.ReAuths.Load() > 0
	})
	l.tell(t, "session", "abort", sim.Watched())
	rtmtest.Until(t, "the ASR was answered, and the session ended", func() bool { return shown() != nil && sim.Counts.Aborts.Load() > 0 })
	if err := <-ended; err != nil || sim.Counts.Failed.Load() != 0 {
		t.Errorf("%v, %s", err, sim.FirstFailure())
	}
}

// peer declares a peer, and waits until the instances know it.
func (l *lab) peer(t testing.TB, host, more string) {
	t.Helper()
	doc := "kind: Peer\nhost: " + host + "\nsources: [127.0.0.0/8]\ntenants: [lab]\n" + more
	r := remote{url: l.api}
	if err := r.call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(doc), nil); err != nil {
		t.Fatal(err)
	}
	rtmtest.Until(t, host+" is known", func() bool {
		for _, i := range l.live() {
			if p, ok := i.Catalogue().Peer(host, "", netip.MustParseAddr("127.0.0.1")); !ok || p.Host != host {
				return false
			}
		}
		return true
	})
}

// Another gateway of the realm is connected, to the instance that decides: it
// must not get the request, since it would deny the session.
func TestNoticeGoesToTheGatewayItself(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	l.apply(t, "../../examples/lab.yaml")
	other := dialPeer(t, l.targets[0], "pgw2.epc", "epc")
	own := dialPeer(t, l.targets[1], "pgw1.epc", "epc")
	rtmtest.Until(t, "instance A knows who is connected to B", func() bool {
		for _, p := range l.live()[0].Instances() {
			if p.Name == "B" && len(p.Peers) == 1 {
				return true
			}
		}
		return false
	})
	if r := number(own.exchange(ccr("pgw1.epc", "epc", "s;1", 1, 0, 0)).Body, diameter.ResultCode); r != 2001 {
		t.Fatalf("CCA-I %d", r)
	}
	l.tell(t, "session", "reauth", "s;1")
	m, ok := own.next(5 * time.Second)
	if !ok || m.Command != diameter.ReAuth || textOf(m.Body, diameter.DestinationHost) != "pgw1.epc" {
		t.Fatalf("pgw1 got %+v", m)
	}
	own.replies(m, "pgw1.epc", "epc", 2002)
	if m, ok := other.next(200 * time.Millisecond); ok {
		t.Errorf("pgw2 got %s of the session of pgw1", m.Command)
	}
	if r := number(own.exchange(ccr("pgw1.epc", "epc", "s;1", 2, 1, 1000)).Body, diameter.ResultCode); r != 2001 {
		t.Errorf("CCA-U %d", r)
	}
}

// A gateway behind a relay of another realm is asked through the relay; one
// whose relay does not lead there is not.
func TestNoticeThroughARelay(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.instances[0].door.learn = false
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "dra.hub", "relays: [epc]\n")
	l.peer(t, "dra.elsewhere", "relays: [far]\n")
	elsewhere := dialPeer(t, l.targets[0], "dra.elsewhere", "elsewhere")
	dra := dialPeer(t, l.targets[0], "dra.hub", "hub")
	if r := number(dra.exchange(ccr("pgw1.epc", "epc", "s;1", 1, 0, 0)).Body, diameter.ResultCode); r != 2001 {
		t.Fatalf("CCA-I %d", r)
	}
	l.tell(t, "session", "reauth", "s;1")
	if m, ok := dra.next(3 * time.Second); !ok || m.Command != diameter.ReAuth || textOf(m.Body, diameter.DestinationRealm) != "epc" {
		t.Errorf("the relay got %+v", m)
	}
	if m, ok := elsewhere.next(200 * time.Millisecond); ok {
		t.Errorf("the other relay got %s", m.Command)
	}
}

// An answer that says that the request did not arrive is none: it is sent again.
func TestNoticeThatDidNotArriveIsSentAgain(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	w.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0))
	l.tell(t, "session", "abort", "s;1")
	for _, result := range []uint32{3002, 2001} {
		m, ok := w.next(6 * time.Second)
		if !ok || m.Command != diameter.AbortSession {
			t.Fatalf("before %d: got %+v", result, m)
		}
		w.replies(m, "pgw.epc", "epc", result)
	}
	r := remote{url: l.api}
	rtmtest.Until(t, "the notice is gone, the session is not", func() bool {
		var s api.Session
		return r.call(t.Context(), "GET", "/v1/sessions/s;1", nil, nil, &s) == nil && s.Notice == ""
	})
}

// A RAR of a sub-session names it, and its answer is about it.
func TestNoticeOfASubSession(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	w.exchange(longer(ccr("pgw.epc", "epc", "s;1", 1, 0, 0), func(e *diameter.Encoder) { e.Uint64(diameter.CCSubSessionID, 5) }))
	for _, result := range []uint32{2002, 5002} {
		l.tell(t, "session", "reauth", "s;1")
		m, ok := w.next(3 * time.Second)
		if !ok || m.Command != diameter.ReAuth {
			t.Fatalf("got %+v", m)
		}
		sub, _ := diameter.Find(m.Body, diameter.CCSubSessionID)
		if n, err := sub.Uint64(); err != nil || n != 5 {
			t.Errorf("it is about sub-session %d (%v)", n, err)
		}
		w.replies(m, "pgw.epc", "epc", result)
		if result == 2002 { // until the report that was promised
			l.untilNotice(t, "s;1", "REAUTHORISE")
			w.exchange(longer(ccr("pgw.epc", "epc", "s;1", 2, 1, 1000), func(e *diameter.Encoder) { e.Uint64(diameter.CCSubSessionID, 5) }))
			l.untilNotice(t, "s;1", "")
		}
	}
	r := remote{url: l.api}
	rtmtest.Until(t, "the sub-session that its client does not know is closed", func() bool {
		var s api.Session
		return r.call(t.Context(), "GET", "/v1/sessions/s;1", nil, nil, &s) != nil
	})
}

// All that is sent to a peer that wants it so carries the instance's own name.
func TestAnswerAsInstance(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "erl.far", "answerAs: instance\n")
	own := l.instances[0].core.Presence.PeerHost
	w := dialPeer(t, l.targets[0], "erl.far", "far")
	answers := map[string]*diameter.Message{"2001": w.exchange(ccr("erl.far", "far", "s;1", 1, 0, 0))}
	inFlight := &l.instances[0].node.Counts.InFlight
	inFlight.Add(1 << 20) // as if too much were in hand
	answers["3004"] = w.exchange(ccr("erl.far", "far", "s;1", 2, 1, 0))
	inFlight.Add(-1 << 20)
	l.tell(t, "session", "reauth", "s;1")
	answers["RAR"], _ = w.next(3 * time.Second)
	for what, m := range answers {
		if m == nil || textOf(m.Body, diameter.OriginHost) != own {
			t.Errorf("%s comes from %+v, not from %s", what, m, own)
		}
	}
}

// A document that is applied counts for who is connected already.
func TestAppliedWhileConnected(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	own := l.instances[0].core.Presence.PeerHost
	w := dialPeer(t, l.targets[0], "erl.far", "far")
	if m := w.exchange(ccr("erl.far", "far", "s;1", 1, 0, 0)); textOf(m.Body, diameter.OriginHost) == own {
		t.Fatal("it is answered as the instance before anybody said so")
	}
	l.peer(t, "erl.far", "answerAs: instance\n")
	if m := w.exchange(ccr("erl.far", "far", "s;1", 2, 1, 0)); textOf(m.Body, diameter.OriginHost) != own || number(m.Body, diameter.ResultCode) != 2001 {
		t.Errorf("answered %+v", m)
	}
}

// What a stranger calls itself never becomes part of a command.
func TestHintsAreNoCommandsOfStrangers(t *testing.T) {
	var log lockedBuffer
	l := startLab(t, storetest.NewMemory(), 1)
	d := l.instances[0].door
	d.learn, d.log = false, slog.New(slog.NewTextHandler(&log, nil))
	for _, name := range []string{"x'$(reboot)'", "gw.far"} {
		c, err := net.Dial("tcp", l.targets[0])
		if err != nil {
			t.Fatal(err)
		}
		var e diameter.Encoder
		e.Reset(nil)
		e.Request(diameter.CapabilitiesExchange, 0, 0, 1, 1)
		e.String(diameter.OriginHost, name)
		e.String(diameter.OriginRealm, "far")
		e.Uint32(diameter.VendorID, 0)
		e.String(diameter.ProductName, "test")
		e.Uint32(diameter.AuthApplicationID, 4)
		if _, err := c.Write(e.Bytes()); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil { // until it is closed
			t.Fatal(err)
		}
		c.Close()
	}
	rtmtest.Until(t, "both are told of", func() bool { return strings.Count(log.String(), "refused an unknown peer") == 2 })
	if text := log.String(); strings.Count(text, "rtm apply") != 1 || strings.Count(text, "reboot") != 1 {
		t.Errorf("only the peer that can be named gets a command:\n%s", text)
	}
}
