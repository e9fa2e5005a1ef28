package main

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/tenant"
)

// A hand is a gateway that sends one message at a time, by hand, and keeps what
// comes back.
type hand struct {
	t       testing.TB
	node    *peer.Node
	answers chan reply
}

// A reply is an answer to a message, as it came.
type reply struct {
	token  string
	result uint32
	octets uint64 // granted
	at     time.Time
}

const handHost = "gw.sim.localdomain" // which the plan of rtm sim lets in

func newHand(t testing.TB) *hand {
	t.Helper()
	h := &hand{t: t, answers: make(chan reply, 100)}
	var err error
	if h.node, err = peer.New(peer.Config{PeerHost: handHost, Realm: "sim.localdomain", Watchdog: time.Minute}, h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.node.Close)
	return h
}

func (h *hand) Admit(peer.Capabilities) (any, diameter.Result) { return nil, diameter.UnknownPeer }
func (h *hand) Receive([]*peer.Request)                        {}
func (h *hand) Closed(*peer.Conn, []any)                       {}

func (h *hand) Answered(_ *peer.Conn, token any, m *diameter.Message) {
	r := reply{token: token.(string), at: time.Now()}
	if a, ok := diameter.Find(m.Body, diameter.ResultCode); ok {
		r.result, _ = a.Uint32()
	}
	if services, ok := diameter.Find(m.Body, diameter.MultipleServicesCreditControl); ok {
		if unit, ok := diameter.Find(services.Data, diameter.GrantedServiceUnit); ok {
			octets, _ := diameter.Find(unit.Data, diameter.CCTotalOctets)
			r.octets, _ = octets.Uint64()
		}
	}
	h.answers <- r
}

func (h *hand) dial(addr string) *peer.Conn {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	c, err := h.node.Dial(ctx, addr)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// send sends a CCR of one rating group over a connection; the answer has token.
func (h *hand) send(c *peer.Conn, token, session, imsi string, kind, number uint32, used uint64, flags uint8) {
	h.t.Helper()
	if !c.Send(token, func(hop, end uint32) []byte {
		var e diameter.Encoder
		e.Reset(nil)
		e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable|flags, hop, end)
		e.String(diameter.SessionID, session)
		e.String(diameter.OriginHost, handHost)
		e.String(diameter.OriginRealm, "sim.localdomain")
		e.String(diameter.DestinationRealm, "sim.localdomain")
		e.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
		e.String(diameter.ServiceContextID, "32251@3gpp.org")
		e.Uint32(diameter.CCRequestType, kind)
		e.Uint32(diameter.CCRequestNumber, number)
		e.Open(diameter.SubscriptionID)
		e.Uint32(diameter.SubscriptionIDType, 1)
		e.String(diameter.SubscriptionIDData, imsi)
		e.Close()
		e.Uint32(diameter.MultipleServicesIndicator, 1)
		e.Open(diameter.MultipleServicesCreditControl)
		e.Open(diameter.RequestedServiceUnit)
		e.Close()
		if kind != 1 {
			e.Open(diameter.UsedServiceUnit)
			e.Uint64(diameter.CCTotalOctets, used)
			e.Close()
		}
		e.Uint32(diameter.RatingGroup, 1)
		e.Close()
		return e.Bytes()
	}) {
		h.t.Fatalf("%s could not be sent", token)
	}
}

// want is the next answer, which must be that one and grant something.
func (h *hand) want(token string) {
	h.t.Helper()
	select {
	case r := <-h.answers:
		if r.token != token || r.result != uint32(diameter.Success) || r.octets == 0 {
			h.t.Fatalf("answered %+v, not %s", r, token)
		}
	case <-time.After(10 * time.Second):
		h.t.Fatalf("%s is not answered", token)
	}
}

// until are the answers that come until that one has.
func (h *hand) until(token string) iter.Seq[reply] {
	return func(yield func(reply) bool) {
		for {
			select {
			case r := <-h.answers:
				if !yield(r) || r.token == token {
					return
				}
			case <-time.After(10 * time.Second):
				h.t.Fatalf("%s is not answered", token)
			}
		}
	}
}

// An instance is frozen with a CCR-U in hand: one that it has read and waits for
// the store with, and one that has come and is not read. The gateway sends both
// again to the other instance, where each is served once. When the frozen one
// goes on, it answers neither: the gateway has long gone on, and some abort on
// an answer that comes later than 7 s.
func TestFaultFrozenWithRequestInHand(t *testing.T) {
	t.Parallel()
	net := rtmtest.NewNet(t)
	redis := rtmtest.StartRedis(t)
	store := net.Relay("redis", redis.Addr)
	s := startFleet(t, net, "redis://"+store.Addr, func() {})
	p := newPlay(s.lab)
	p.subscribers = 2
	owners, err := p.prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before, err := p.balances(t.Context(), owners)
	if err != nil {
		t.Fatal(err)
	}
	gw := newHand(t)
	a, b := gw.dial(s.lab.targets[0]), gw.dial(s.lab.targets[1])
	for n, session := range []string{"read", "unread"} {
		gw.send(b, session+" opened", session, p.conf.IMSIs[n], 1, 0, 0, 0)
		gw.want(session + " opened")
	}

	heal := net.Deafen([]string{"redis"}, []string{"a"})
	gw.send(a, "read by a", "read", p.conf.IMSIs[0], 2, 1, 1000, 0)
	rtmtest.Until(t, "a has it in hand", func() bool { return metric(t, s.apis["a"], "rtm_diameter_in_flight") == 1 })
	s.procs["a"].freeze()
	gw.send(a, "unread by a", "unread", p.conf.IMSIs[1], 2, 1, 2000, 0)
	frozen := time.Now()
	gw.send(b, "read by b", "read", p.conf.IMSIs[0], 2, 1, 1000, diameter.FlagRetransmit)
	gw.want("read by b")
	gw.send(b, "unread by b", "unread", p.conf.IMSIs[1], 2, 1, 2000, diameter.FlagRetransmit)
	gw.want("unread by b")
	<-time.After(time.Until(frozen.Add(7500 * time.Millisecond)))
	heal()
	s.procs["a"].thaw()

	// What comes in the first half second may have come before, and is not answered
	// either. When a has nothing in hand any more, whatever it answered is on its way; so
	// it has come when a later report is answered.
	<-time.After(time.Second)
	rtmtest.Until(t, "a has nothing in hand", func() bool { return metric(t, s.apis["a"], "rtm_diameter_in_flight") == 0 })
	for number, done := uint32(2), false; !done; number++ {
		if time.Since(frozen) > 30*time.Second {
			t.Fatal("a does not answer any more")
		}
		token := fmt.Sprintf("report %d", number)
		gw.send(a, token, "read", p.conf.IMSIs[0], 2, number, 500, 0)
		for r := range gw.until(token) {
			if done = r.token == token && r.result == uint32(diameter.Success); !done {
				t.Errorf("%s was answered %d %s after it was sent", r.token, r.result, r.at.Sub(frozen).Round(time.Millisecond))
			}
		}
	}
	after, err := p.balances(t.Context(), owners)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{owners[p.conf.IMSIs[0]]: 1500, owners[p.conf.IMSIs[1]]: 2000} {
		if got := after[name].debited - before[name].debited; got != want {
			t.Errorf("%s was debited %d, %d were reported", name, got, want)
		}
	}
}

// swallowing is a store that keeps what became of one write of an account to itself, when
// it is armed: the instance has committed, and never learns it, as one that dies then.
type swallowing struct {
	store.Store
	armed   atomic.Bool
	gone    chan struct{} // told when it has swallowed
	release chan struct{}
}

func (s *swallowing) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	results, now := s.Store.Commit(ctx, cs)
	for i := range cs {
		if w := &cs[i].Writes[0]; w.Op == store.Put && w.Key.Kind == tenant.KindAccount && s.armed.CompareAndSwap(true, false) {
			close(s.gone)
			<-s.release
		}
	}
	return results, now
}

// An instance is lost between its commit and its answer, with each sort of message: sent
// again to the other one it is answered as it was decided, and takes effect once.
func TestLostBetweenCommitAndAnswer(t *testing.T) {
	for name, kind := range map[string]uint32{"initial": 1, "update": 2, "termination": 3, "event": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := &swallowing{Store: onRedis(t), gone: make(chan struct{}), release: make(chan struct{})}
			l := startLab(t, st, 2)
			t.Cleanup(sync.OnceFunc(func() { close(st.release) })) // before the instances are stopped
			l.apply(t, "../../examples/lab.yaml")
			a, b := dialPeer(t, l.targets[0], "pgw.epc", "epc"), dialPeer(t, l.targets[1], "pgw.epc", "epc")
			var n uint32
			if kind == 2 || kind == 3 {
				a.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0))
				n = 1
			}
			message := ccr("pgw.epc", "epc", "s;1", kind, n, 4096)
			if kind == 4 {
				message = longer(message, func(e *diameter.Encoder) { e.Uint32(diameter.RequestedAction, 0) })
			}
			st.armed.Store(true)
			if _, err := a.Write(message); err != nil {
				t.Fatal(err)
			}
			<-st.gone
			message[4] |= diameter.FlagRetransmit
			answer := b.exchange(message)
			if r := uint32(number(answer.Body, diameter.ResultCode)); r != 2001 {
				t.Errorf("sent again it is answered %d", r)
			}
			debited := int64(0)
			for _, k := range l.first(t).Buckets {
				debited += k.Debited
			}
			if debited != 4096 {
				t.Errorf("%d octets are debited, 4096 were used", debited)
			}
		})
	}
}
