package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store/storetest"
)

// Gateways of two tenants call themselves the same, behind one front: only that which
// instances know by the name is passed on, and gets what is for its sessions.
func TestNamesakesBehindAFront(t *testing.T) {
	st := storetest.NewMemory()
	l := startLab(t, st, 1)
	l.instances[0].door.learn = false
	docs := twoTenants + `---
{kind: Peer, host: front.ocs.rtm.localdomain, realm: rtm.localdomain, sources: [127.0.0.0/8], relays: ["*"], tenants: [alpha, beta]}
---
{kind: Peer, host: "*", realm: shared.example, sources: [127.0.0.2], tenants: [alpha], via: [front.ocs.rtm.localdomain]}
---
{kind: Peer, host: "*", sources: [127.0.0.3], tenants: [beta], via: [front.ocs.rtm.localdomain]}
`
	r := remote{url: l.api}
	if err := r.call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(docs), nil); err != nil {
		t.Fatal(err)
	}
	c := defaults()
	c.PeerHost = "front." + c.OriginHost
	s := &frontServer{store: st, fixed: l.targets, log: quiet(t)}
	if err := s.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.open(&c); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.front.Serve(ln)
	ctx, end := context.WithCancel(t.Context())
	looked := make(chan bool)
	go func() { s.look(ctx); close(looked) }()
	t.Cleanup(func() { end(); <-looked; s.front.Close() })
	rtmtest.Until(t, "the front is connected", func() bool {
		for _, n := range s.front.Links() {
			return n >= 0
		}
		return false
	})
	from := func(source, target string) *wire {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		c, err := d.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		w, result := introduce(t, c, "pgw1.shared.example", "shared.example")
		if result != 2001 {
			t.Fatalf("%s was answered %d", source, result)
		}
		return w
	}
	const imsi = "001010000000001" // alpha's
	ccr := func(session string, kind, number uint32) []byte {
		return request("pgw1.shared.example", "shared.example", "rtm.localdomain", session, imsi, kind, number, 0)
	}
	result := func(m *diameter.Message) int { return number(m.Body, diameter.ResultCode) }
	beta := from("127.0.0.3", l.targets[0])
	if n := result(beta.exchange(ccr("s;direct", 1, 0))); n != 5030 {
		t.Errorf("beta's gateway named alpha's subscriber to the instance: %d", n)
	}
	beta.Close()
	alpha, beta := from("127.0.0.2", ln.Addr().String()), from("127.0.0.3", ln.Addr().String())
	if n := result(alpha.exchange(ccr("s;1", 1, 0))); n != 2001 {
		t.Errorf("alpha's gateway: %d", n)
	}
	if n := result(beta.exchange(ccr("s;2", 1, 0))); n != 3010 {
		t.Errorf("beta's gateway named alpha's subscriber over the front: %d", n)
	}
	l.tell(t, "session", "reauth", "s;1")
	if m, ok := alpha.next(3 * time.Second); !ok || m.Command != diameter.ReAuth {
		t.Errorf("alpha's gateway got %+v", m)
	}
	if m, ok := beta.next(300 * time.Millisecond); ok {
		t.Errorf("beta's gateway got a request about %s, which is alpha's", textOf(m.Body, diameter.SessionID))
	}
}
