package peer

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"rtm/diameter"
)

// knocker opens connections from an address of its choice.
func knocker(t *testing.T, n *Node, ip string) *far {
	near, other := net.Pipe()
	n.Accept(from{near, &net.TCPAddr{IP: net.ParseIP(ip), Port: 1000}})
	return &far{t: t, Conn: other}
}

// Half-open connections: from one address at most Open wait for their CER, of all
// at most OpenAll, and whoever has sent its CER takes up none of these places.
func TestHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ours3
		c.CERRate, c.Open, c.OpenAll = 1000, 5, 8
		n := node(t, c, &host{receive: success})
		defer n.Close()
		var all []*far
		knock := func(ip string, times int) (in int) {
			for range times {
				f := knocker(t, n, ip)
				if _, closed := f.closes(time.Millisecond); !closed {
					in++
					all = append(all, f)
				}
			}
			return in
		}
		for i := range 20 {
			good := knocker(t, n, "192.0.2.9")
			good.open(fmt.Sprintf("gw%d", i))
			defer good.Close()
		}
		if in := knock("192.0.2.1", 50); in != 5 {
			t.Errorf("%d of 50 are half open from one address", in)
		}
		if in := knock("2001:db8::1", 2) + knock("2001:db8::2", 50); in != 3 {
			t.Errorf("%d more are half open in all, 3 are free", in)
		}
		pass(5 * time.Second)
		synctest.Wait()
		if got := n.Counts.Limits[LimitCER].Load(); got != 8 || n.waiting != 0 || len(n.knocking) != 0 {
			t.Errorf("%d were closed without a CER; %d wait, from %d addresses", got, n.waiting, len(n.knocking))
		}
		if got := n.Counts.Limits[LimitOpen].Load(); got != 45+49 {
			t.Errorf("%d were refused since too many are half open", got)
		}
		if in := knock("2001:db8::3", 50); in != 5 {
			t.Errorf("%d of 50 are half open from one /64", in)
		}
		for _, f := range all {
			f.Close()
		}
	})
}

// Before its CER nobody may send more than a CER has.
func TestLongCER(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		f := pipe(t, n)
		f.send(long(20_000)[:3000])
		if after, closed := f.closes(time.Minute); !closed || after != 0 || n.Counts.Limits[LimitFrame].Load() != 1 {
			t.Errorf("closed %v after %s", closed, after)
		}
		pipe(t, n).open("gw")
	})
}

// A CER with 64 Origin-Hosts is refused, and nobody is harmed.
func TestManyOriginHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		f := pipe(t, n)
		f.send(message(diameter.CapabilitiesExchange, 0, 1, func(e *diameter.Encoder) {
			for i := range 64 {
				e.String(diameter.OriginHost, fmt.Sprintf("gw%d", i))
			}
			e.String(diameter.OriginRealm, "far")
			e.Uint32(diameter.AuthApplicationID, 4)
		}))
		f.want(diameter.CapabilitiesExchange, diameter.AVPOccursTooManyTimes)
		if _, closed := f.closes(time.Second); !closed {
			t.Error("the connection stays")
		}
		pipe(t, n).open("gw")
	})
}

// A second CER does not make another peer of a connection.
func TestOneIdentityPerConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		f.send(cer("other", 4))
		f.want(diameter.CapabilitiesExchange, diameter.UnableToComply)
		if n.Find("gw") == nil || n.Find("other") != nil {
			t.Error("the connection has changed its name")
		}
	})
}

// A mistake of ours in one message is answered 5012 and counted, and the
// connection goes on.
func TestPanicInOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{receive: success}
		n := node(t, ours3, h)
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		answered := false
		c := n.Find("gw")
		c.Send("one", func(hop, end uint32) []byte {
			return message(diameter.ReAuth, 4, hop, func(e *diameter.Encoder) { e.String(diameter.SessionID, "s") })
		})
		m := f.want(diameter.ReAuth, 0)
		n.handler = panicking{h, &answered}
		var e diameter.Encoder
		e.Reset(nil)
		e.Answer(&m.Header, 0)
		f.send(e.Bytes())
		f.send(ccr(2))
		f.want(diameter.CreditControl, diameter.Success)
		if !answered || n.Counts.Panics.Load() != 1 {
			t.Errorf("asked %v, %d panics", answered, n.Counts.Panics.Load())
		}
		g := pipe(t, n)
		g.send(cer("gw2", 4))
		g.want(diameter.CapabilitiesExchange, diameter.UnableToComply)
		if _, closed := g.closes(time.Second); !closed || n.Counts.Panics.Load() != 2 {
			t.Errorf("a CER that nobody could decide on: closed %v, %d panics", closed, n.Counts.Panics.Load())
		}
	})
}

// panicking is a handler with mistakes.
type panicking struct {
	*host
	answered *bool
}

func (p panicking) Answered(*Conn, any, *diameter.Message) {
	*p.answered = true
	panic("a mistake")
}

func (p panicking) Admit(Capabilities) (any, diameter.Result) { panic("a mistake") }

// silent is a peer that is better served without 3004.
type silent struct{}

func (silent) Silent(m *diameter.Message) bool { return m.HopByHop%2 == 0 }

// Beyond its bound a request is answered 3004, or not at all if that serves its
// sender better.
func TestBusyBySender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		c := ours3
		c.InFlight = 1
		n := node(t, c, h)
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		n.Find("gw").Peer = silent{}
		f.send(append(append(ccr(1), ccr(2)...), ccr(3)...))
		if m := f.want(diameter.CreditControl, diameter.TooBusy); m.HopByHop != 3 {
			t.Errorf("%d was answered", m.HopByHop)
		}
		if n.Counts.Silent.Load() != 1 || n.Counts.Busy.Load() != 1 || n.Counts.Limits[LimitInFlight].Load() != 2 {
			t.Errorf("silent %d, busy %d", n.Counts.Silent.Load(), n.Counts.Busy.Load())
		}
		h.inHand()[0].Drop()
	})
}

// Who sends much that cannot be used is read no faster than BadMax a second, and
// what it sends after that is not lost.
func TestManyBadMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		var bad []byte
		for range 10 {
			bad = append(bad, message(999, 0, 1, func(*diameter.Encoder) {})...)
		}
		start := time.Now()
		go func() {
			f.SetWriteDeadline(time.Now().Add(time.Minute))
			for range 105 {
				f.Write(bad)
			}
			f.Write(ccr(7))
		}()
		for refused := 0; ; refused++ {
			m := f.next(time.Minute)
			if m == nil {
				t.Fatal("the connection is closed")
			}
			if m.Command == diameter.CreditControl {
				if took := time.Since(start); refused != 1050 || took < 9*time.Second || took > 11*time.Second {
					t.Errorf("%d were refused, in %s", refused, took)
				}
				break
			}
		}
		if n.Counts.Limits[LimitBad].Load() == 0 {
			t.Error("it was not counted")
		}
	})
}

// The first DPR has the connection closed after SlowMax. More of them change
// nothing about that, leave nothing behind, and are read like what is bad.
func TestManyDPRs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		var many []byte
		for range 10 {
			many = append(many, message(diameter.DisconnectPeer, 0, 1, func(*diameter.Encoder) {})...)
		}
		go func() {
			f.SetWriteDeadline(time.Now().Add(time.Minute))
			for range 200 {
				f.Write(many)
			}
		}()
		after, closed := f.closes(time.Minute)
		if got := n.Counts.Received.Load(); !closed || after != 10*time.Second || got > 1500 {
			t.Errorf("closed %v after %s, %d messages were read", closed, after, got)
		}
		if n.Counts.Limits[LimitBad].Load() == 0 {
			t.Error("it was not counted")
		}
	})
}

// The bounds that hold for all connections together, as they are when nothing is set.
func TestBoundsOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections, each, all = 10_000, 1024, 16_384
		h := &host{}
		n := node(t, ours3, h)
		defer n.Close()
		knock := func(i int) *far {
			f := knocker(t, n, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
			t.Cleanup(func() { f.Close() })
			return f
		}
		var gateways []*far
		for i := range connections {
			f := knock(i)
			f.open(fmt.Sprint("gw", i))
			gateways = append(gateways, f)
		}
		if _, closed := knock(connections).closes(time.Second); !closed || n.Counts.Limits[LimitConnections].Load() != 1 {
			t.Errorf("one more connection is closed: %t, counted %d times", closed, n.Counts.Limits[LimitConnections].Load())
		}
		for _, f := range gateways[:all/each] {
			for hop := range uint32(each) {
				f.send(ccr(hop))
			}
		}
		synctest.Wait()
		last := gateways[all/each]
		last.send(ccr(7))
		last.want(diameter.CreditControl, diameter.TooBusy)
		held := h.inHand()
		if in, met := n.Counts.InFlight.Load(), n.Counts.Limits[LimitInFlightAll].Load(); in != all || met != 1 || len(held) != all {
			t.Fatalf("%d are in flight, %d in hand; one more than may be was counted %d times", in, len(held), met)
		}
		held[0].Drop()
		last.send(ccr(8))
		synctest.Wait()
		if in, met := n.Counts.InFlight.Load(), n.Counts.Limits[LimitInFlightAll].Load(); in != all || met != 1 {
			t.Errorf("when one has left, %d are in flight, %d were refused", in, met)
		}
		for _, r := range append(held[1:], h.inHand()...) {
			r.Drop()
		}
		gateways[0].Close()
		pass(time.Second) // so many addresses in one were too many, too
		knock(connections + 1).open("another")
	})
}
