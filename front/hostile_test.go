package front_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/front"
	"rtm/rtmtest"
)

// rawGate is a gateway that speaks by hand.
type rawGate struct {
	t *testing.T
	c net.Conn
}

func frameOf(write func(e *diameter.Encoder)) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	write(&e)
	return e.Bytes()
}

func rawConnect(t *testing.T, name, addr string) *rawGate {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	g := &rawGate{t, c}
	g.write(frameOf(func(e *diameter.Encoder) {
		e.Request(diameter.CapabilitiesExchange, diameter.ApplicationBase, 0, 1, 1)
		e.String(diameter.OriginHost, name)
		e.String(diameter.OriginRealm, "far")
		e.Address(diameter.HostIPAddress, netip.MustParseAddr("127.0.0.1"))
		e.Uint32(diameter.VendorID, 0)
		e.String(diameter.ProductName, "raw")
		e.Uint32(diameter.AuthApplicationID, 4)
	}))
	g.read()
	return g
}

func (g *rawGate) write(b []byte) {
	if _, err := g.c.Write(b); err != nil {
		g.t.Log("write:", err)
	}
}

func (g *rawGate) readMaybe() (m diameter.Message, err error) {
	head := make([]byte, 20)
	if _, err = io.ReadFull(g.c, head); err != nil {
		return m, err
	}
	n := int(head[1])<<16 | int(head[2])<<8 | int(head[3])
	b := append(head, make([]byte, n-20)...)
	if _, err = io.ReadFull(g.c, b[20:]); err != nil {
		return m, err
	}
	m, _, err = diameter.Frame(b, 1<<20)
	return m, err
}

func (g *rawGate) read() diameter.Message {
	g.t.Helper()
	m, err := g.readMaybe()
	if err != nil {
		g.t.Fatal(err)
	}
	return m
}

func ccrOf(session, from string, more func(e *diameter.Encoder)) func(hop, end uint32) []byte {
	return func(hop, end uint32) []byte {
		return frameOf(func(e *diameter.Encoder) {
			e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, hop, end)
			e.String(diameter.SessionID, session)
			e.String(diameter.OriginHost, from)
			e.String(diameter.OriginRealm, "far")
			if more != nil {
				more(e)
			}
		})
	}
}

// A message that is too long for an instance with what a relay adds is refused, and takes
// no connection away.
func TestAMessageThatIsTooLong(t *testing.T) {
	a, b := startCore(t, "a"), startCore(t, "b")
	f, addr := stand(t, nil)
	meet(t, f, 2, a.instance(), b.instance())
	bad := connect(t, "bad.far", addr)
	bad.conn.Send("poison", ccrOf("poison", "bad.far", func(e *diameter.Encoder) {
		e.Octets(diameter.Attr(60001), make([]byte, 64<<10-e.Len()-8))
	}))
	rtmtest.Until(t, "it is refused", func() bool { return len(bad.all()) == 1 })
	good := connect(t, "good.far", addr)
	good.send("good", "good.far")
	rtmtest.Until(t, "another one is answered", func() bool { return len(good.all()) == 1 })
	if l := f.Links(); l["a"] < 0 || l["b"] < 0 || f.Counts.Resent.Load() != 0 {
		t.Errorf("connections to instances: %v, %d sent again", l, f.Counts.Resent.Load())
	}
}

// What an instance never answers is no load of its for ever.
func TestWhatIsForgottenIsNoLoad(t *testing.T) {
	a, b := startCore(t, "a"), startCore(t, "b")
	f, addr := stand(t, func(c *front.Config) {
		c.Cores.Watchdog, c.Cores.OwedFor, c.Gates.Watchdog = 500*time.Millisecond, time.Second, time.Hour
		c.Patience, c.GiveUp = 200*time.Millisecond, time.Second
	})
	meet(t, f, 2, a.instance(), b.instance())
	g := connect(t, "gw.far", addr)
	a.says(func(*peer.Request) diameter.Result { return 0 })
	for i := range 40 {
		g.send(fmt.Sprint(i), "gw.far")
	}
	rtmtest.Until(t, "all are answered", func() bool { return len(g.all()) == 40 })
	a.says(func(*peer.Request) diameter.Result { return diameter.Success })
	rtmtest.Until(t, "the instance has nothing in hand", func() bool { return f.Links()["a"] == 0 })
	before := a.got.Load()
	for i := range 100 {
		g.send(fmt.Sprint("later", i), "gw.far")
		rtmtest.Until(t, "it is answered", func() bool { return len(g.all()) == 41+i })
	}
	if n := a.got.Load() - before; n < 20 || f.Links()["a"] != 0 {
		t.Errorf("with nothing under way %v are in hand; of 100 messages the instance got %d", f.Links(), n)
	}
}

// RARs that a gateway does not answer take no room from those of others.
func TestPromptsThatNobodyAnswers(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, func(c *front.Config) {
		c.Gates.Watchdog, c.Gates.OwedFor, c.Cores.InFlight = 500*time.Millisecond, time.Second, 3
	})
	meet(t, f, 1, a.instance())
	g := connect(t, "good.far", addr)
	g.send("1", "good.far")
	dumb := rawConnect(t, "dumb.far", addr)
	dumb.write(ccrOf("2", "dumb.far", nil)(7, 7))
	go func() { // answers DWRs, not RARs
		for {
			m, err := dumb.readMaybe()
			if err != nil {
				return
			}
			if m.Request() && m.Command == diameter.DeviceWatchdog {
				dumb.write(frameOf(func(e *diameter.Encoder) {
					e.Answer(&m.Header, 0)
					e.Uint32(diameter.ResultCode, 2001)
					e.String(diameter.OriginHost, "dumb.far")
					e.String(diameter.OriginRealm, "far")
				}))
			}
		}
	}()
	rtmtest.Until(t, "both are known", func() bool { return a.got.Load() == 2 })
	for range 3 {
		a.prompt("dumb.far")
	}
	rtmtest.Until(t, "they are passed on", func() bool { return f.Counts.Prompts.Load() == 3 })
	rtmtest.Until(t, "a RAR for another gateway goes through, when they are forgotten", func() bool {
		a.prompt("good.far")
		return g.prompts.Load() > 0
	})
}

// What waits at an instance that has fallen silent goes to one that comes later.
func TestAnInstanceThatComesLater(t *testing.T) {
	a, b := startCore(t, "a"), startCore(t, "b")
	f, addr := stand(t, func(c *front.Config) { c.Patience, c.GiveUp = 300*time.Millisecond, 20*time.Second })
	meet(t, f, 1, a.instance())
	a.says(func(*peer.Request) diameter.Result { return 0 })
	g := connect(t, "gw.far", addr)
	g.send("1", "gw.far")
	<-time.After(600 * time.Millisecond) // twice as long as the front is patient
	meet(t, f, 2, a.instance(), b.instance())
	rtmtest.Until(t, "it is answered", func() bool { return len(g.all()) == 1 })
}

// A RAR goes over the connection of its gateway that answers watchdogs.
func TestAPromptPassesByTheSilentConnection(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, func(c *front.Config) { c.Gates.Watchdog = 3 * time.Second })
	meet(t, f, 1, a.instance())
	old := rawConnect(t, "gw.far", addr) // answers nothing
	old.write(ccrOf("1", "gw.far", nil)(7, 7))
	rtmtest.Until(t, "it is known", func() bool { return a.got.Load() == 1 })
	rtmtest.Until(t, "it is suspect", func() bool {
		for _, c := range f.Gates().Conns() {
			if c.Suspect() {
				return true
			}
		}
		return false
	})
	fresh := connect(t, "gw.far", addr)
	a.prompt("gw.far")
	rtmtest.Until(t, "the RAR comes over the new connection", func() bool { return fresh.prompts.Load() == 1 })
}

// Who was reached over one connection of a relay is reached over its other one.
func TestARelayWithTwoConnections(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, nil)
	meet(t, f, 1, a.instance())
	one, two := connect(t, "relay.far", addr), connect(t, "relay.far", addr)
	one.send("1", "behind.far")
	rtmtest.Until(t, "it is answered", func() bool { return len(one.all()) == 1 })
	two.send("2", "behind.far")
	rtmtest.Until(t, "it is answered", func() bool { return len(two.all()) == 1 })
	two.node.Close()
	rtmtest.Until(t, "one is gone", func() bool { return len(f.Gates().Conns()) == 1 })
	a.prompt("behind.far")
	rtmtest.Until(t, "the RAR comes over the other one", func() bool { return one.prompts.Load() == 1 })
}

type mute struct{}

func (mute) Silent(*diameter.Message) bool { return true }

// A gateway that is to get no 3004 gets none from an instance either.
func TestWhoBearsNoRefusal(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, func(c *front.Config) {
		c.Admit = func(peer.Capabilities) (any, diameter.Result) { return mute{}, 0 }
	})
	meet(t, f, 1, a.instance())
	a.says(func(*peer.Request) diameter.Result { return diameter.TooBusy })
	g := connect(t, "gw.far", addr)
	g.send("1", "gw.far")
	rtmtest.Until(t, "it is left without an answer", func() bool { return f.Counts.Dropped.Load() == 1 })
	if l := g.all(); len(l) != 0 {
		t.Errorf("answered %v", l)
	}
}

// A message that has to wait for an instance again may wait as long again.
func TestHeldTwice(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, func(c *front.Config) { c.Hold = 3 * time.Second })
	g := connect(t, "gw.far", addr)
	a.says(func(*peer.Request) diameter.Result { return 0 })
	g.send("1", "gw.far") // waits
	<-time.After(2 * time.Second)
	meet(t, f, 1, a.instance()) // a gets it
	rtmtest.Until(t, "a has it", func() bool { return a.got.Load() == 1 })
	a.node.Close() // and dies; it waits again, for 3 s
	rtmtest.Until(t, "a is gone", func() bool { return f.Links()["a"] < 0 })
	<-time.After(1500 * time.Millisecond) // longer than the first wait would have lasted
	a.says(func(*peer.Request) diameter.Result { return diameter.Success })
	a.run()
	meet(t, f, 1, a.instance())
	rtmtest.Until(t, "it is answered", func() bool { return len(g.all()) == 1 })
}

// A gateway whose messages have as many AVPs as may be holds up no other one.
func TestOneAVPTooMany(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, func(c *front.Config) {
		c.Take = func(r *peer.Request) bool { // as door.inspect does
			if err := r.Message.Check(diameter.DefaultLimits); err != nil {
				r.Bad()
				r.Answer(frameOf(func(e *diameter.Encoder) {
					e.Answer(&r.Message.Header, 0)
					e.Uint32(diameter.ResultCode, uint32(err.Result))
				}))
				return false
			}
			return true
		}
	})
	a.says(func(r *peer.Request) diameter.Result { // as door.inspect does
		if err := r.Message.Check(diameter.DefaultLimits); err != nil {
			r.Bad()
			return err.Result
		}
		return diameter.Success
	})
	meet(t, f, 1, a.instance())
	good, bad := connect(t, "good.far", addr), connect(t, "bad.far", addr)
	slowest := func() (most time.Duration) {
		for range 8 {
			began := time.Now()
			n := len(good.all())
			good.send(fmt.Sprint("s", began.UnixNano()), "good.far")
			rtmtest.Until(t, "it is answered", func() bool { return len(good.all()) == n+1 })
			most = max(most, time.Since(began))
			<-time.After(150 * time.Millisecond)
		}
		return most
	}
	quiet := slowest()
	stop := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			for range 50 {
				bad.conn.Send("bad", ccrOf("bad", "bad.far", func(e *diameter.Encoder) {
					for range 512 - 3 {
						e.Octets(diameter.Attr(60001), nil)
					}
				}))
			}
		}
	}()
	loud := slowest()
	close(stop)
	t.Logf("the slowest answer of the good one: %s before, %s beside; the bad one's: %v; not read: instance %d times, front %d times", quiet, loud,
		bad.all()[0], a.node.Counts.Limits[peer.LimitBad].Load(), f.Gates().Counts.Limits[peer.LimitBad].Load())
	if loud > 400*time.Millisecond {
		t.Error("one gateway holds up another")
	}
}
