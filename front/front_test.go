package front_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/front"
	"rtm/rtmtest"
)

// core is an instance: it answers what it is told to.
type core struct {
	t      *testing.T
	name   string
	addr   string
	node   *peer.Node
	answer atomic.Pointer[func(r *peer.Request) diameter.Result] // zero: none
	got    atomic.Int64
	again  atomic.Int64 // with T
	mu     sync.Mutex   // guards conn, said
	conn   *peer.Conn
	said   []diameter.Result // answers to RARs
}

func startCore(t *testing.T, name string) *core {
	t.Helper()
	c := &core{t: t, name: name, addr: rtmtest.FreeAddr(t)}
	c.says(func(*peer.Request) diameter.Result { return diameter.Success })
	c.run()
	return c
}

func (c *core) run() {
	c.t.Helper()
	node, err := peer.New(peer.Config{PeerHost: c.name + ".ocs.example", Realm: "example"}, c)
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.node = node
	go node.Serve(l)
	c.t.Cleanup(node.Close)
}

func (c *core) says(f func(r *peer.Request) diameter.Result) { c.answer.Store(&f) }

func (c *core) instance() front.Instance { return front.Instance{Name: c.name, Addr: c.addr} }

func (c *core) Admit(peer.Capabilities) (any, diameter.Result) { return c, 0 }

func (c *core) Receive(batch []*peer.Request) {
	for _, r := range batch {
		c.got.Add(1)
		c.mu.Lock()
		c.conn = r.Conn
		c.mu.Unlock()
		if r.Message.Flags&diameter.FlagRetransmit != 0 {
			c.again.Add(1)
		}
		result := (*c.answer.Load())(r)
		if result == 0 {
			continue
		}
		var e diameter.Encoder
		e.Reset(nil)
		e.Answer(&r.Message.Header, 0)
		id, _ := diameter.Find(r.Message.Body, diameter.SessionID)
		e.Octets(diameter.SessionID, id.Data)
		e.Uint32(diameter.ResultCode, uint32(result))
		e.String(diameter.OriginHost, c.name)
		r.Answer(e.Bytes())
	}
}

func (c *core) Answered(_ *peer.Conn, _ any, m *diameter.Message) {
	a, _ := diameter.Find(m.Body, diameter.ResultCode)
	v, _ := a.Uint32()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, diameter.Result(v))
}

func (c *core) Closed(*peer.Conn, []any) {}

// prompt sends a RAR for that client through the front.
func (c *core) prompt(host string) bool {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	return conn.Send("", func(hop, end uint32) []byte {
		var e diameter.Encoder
		e.Reset(nil)
		e.Request(diameter.ReAuth, diameter.ApplicationCreditControl, diameter.FlagProxiable, hop, end)
		e.String(diameter.SessionID, "s")
		e.String(diameter.OriginHost, "ocs.example")
		e.String(diameter.OriginRealm, "example")
		e.String(diameter.DestinationRealm, "far")
		e.String(diameter.DestinationHost, host)
		return e.Bytes()
	})
}

// gateway is a client with one connection.
type gateway struct {
	t       *testing.T
	node    *peer.Node
	conn    *peer.Conn
	name    string
	mu      sync.Mutex // guards answers
	answers map[string][]answer
	lost    atomic.Int64
	prompts atomic.Int64
}

type answer struct {
	result diameter.Result
	by     string
	end    uint32
}

func connect(t *testing.T, name, addr string) *gateway {
	t.Helper()
	g := &gateway{t: t, name: name, answers: make(map[string][]answer)}
	node, err := peer.New(peer.Config{PeerHost: name, Realm: "far", OwedMax: 1 << 16}, g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	g.node = node
	g.conn, err = node.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) Admit(peer.Capabilities) (any, diameter.Result) { return nil, 0 }

func (g *gateway) Receive(batch []*peer.Request) {
	for _, r := range batch {
		g.prompts.Add(1)
		var e diameter.Encoder
		e.Reset(nil)
		e.Answer(&r.Message.Header, 0)
		e.String(diameter.SessionID, "s")
		e.Uint32(diameter.ResultCode, uint32(diameter.LimitedSuccess))
		e.String(diameter.OriginHost, g.name)
		r.Answer(e.Bytes())
	}
}

func (g *gateway) Answered(_ *peer.Conn, token any, m *diameter.Message) {
	a, _ := diameter.Find(m.Body, diameter.ResultCode)
	v, _ := a.Uint32()
	by, _ := diameter.Find(m.Body, diameter.OriginHost)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answers[token.(string)] = append(g.answers[token.(string)], answer{diameter.Result(v), string(by.Data), m.EndToEnd})
}

func (g *gateway) Closed(_ *peer.Conn, unanswered []any) { g.lost.Add(int64(len(unanswered))) }

// send sends a CCR of a session, whose answer has that name.
func (g *gateway) send(session, from string, records ...string) {
	g.t.Helper()
	if !g.conn.Send(session, func(hop, end uint32) []byte {
		var e diameter.Encoder
		e.Reset(nil)
		e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, hop, end)
		e.String(diameter.SessionID, session)
		e.String(diameter.OriginHost, from)
		e.String(diameter.OriginRealm, "far")
		for _, r := range records {
			e.String(diameter.RouteRecord, r)
		}
		return e.Bytes()
	}) {
		g.t.Fatal("the connection is closed")
	}
}

func (g *gateway) all() (list []answer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.answers {
		list = append(list, a...)
	}
	return list
}

// stand is a front, and where it listens.
func stand(t *testing.T, change func(c *front.Config)) (f *front.Front, addr string) {
	t.Helper()
	c := front.Config{
		Gates: peer.Config{PeerHost: "ocs.example", Realm: "example"},
		Cores: peer.Config{PeerHost: "front.ocs.example", Realm: "example", OwedMax: 1 << 16},
		Admit: func(peer.Capabilities) (any, diameter.Result) { return nil, 0 },
		Take:  func(*peer.Request) bool { return true },
	}
	if change != nil {
		change(&c)
	}
	f, err := front.New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go f.Serve(l)
	t.Cleanup(f.Close)
	return f, l.Addr().String()
}

// meet tells f of instances until it is connected to as many of them.
func meet(t *testing.T, f *front.Front, many int, list ...front.Instance) {
	t.Helper()
	rtmtest.Until(t, "the front is connected", func() bool {
		f.Meet(list)
		n := 0
		for _, inHand := range f.Links() {
			if inHand >= 0 {
				n++
			}
		}
		return n == many
	})
}

func TestMessagesAreSpread(t *testing.T) {
	a, b := startCore(t, "a"), startCore(t, "b")
	f, addr := stand(t, nil)
	meet(t, f, 2, a.instance(), b.instance())
	g := connect(t, "gw.far", addr)
	if g.conn.Host != "ocs.example" {
		t.Errorf("the front is called %s", g.conn.Host)
	}
	for i := range 1000 {
		g.send(fmt.Sprint(i), "gw.far")
	}
	rtmtest.Until(t, "all are answered", func() bool { return len(g.all()) == 1000 })
	if a.got.Load() < 300 || b.got.Load() < 300 || a.got.Load()+b.got.Load() != 1000 {
		t.Errorf("one got %d, the other %d", a.got.Load(), b.got.Load())
	}
	for id, as := range g.answers {
		if len(as) != 1 || as[0].result != diameter.Success {
			t.Errorf("%s: %v", id, as)
		}
	}
	if f.Counts.Resent.Load()+f.Counts.Dropped.Load() != 0 || a.again.Load() != 0 {
		t.Errorf("%d resent, %d dropped", f.Counts.Resent.Load(), f.Counts.Dropped.Load())
	}
}

// Whatever becomes of an instance, each message is answered once, and what another one
// may have done has the T flag.
func TestAnInstanceThatGoes(t *testing.T) {
	for _, c := range []struct {
		name string
		goes func(a *core)
	}{
		{"killed", func(a *core) { a.node.Close() }},
		{"drained", func(a *core) { a.node.Leave(time.Second) }},
		{"silent", func(a *core) { a.says(func(*peer.Request) diameter.Result { return 0 }) }},
		{"busy", func(a *core) { a.says(func(*peer.Request) diameter.Result { return diameter.TooBusy }) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := startCore(t, "a"), startCore(t, "b")
			f, addr := stand(t, func(c *front.Config) { c.Patience = 300 * time.Millisecond })
			meet(t, f, 2, a.instance(), b.instance())
			g := connect(t, "gw.far", addr)
			slow := func(*peer.Request) diameter.Result { <-time.After(time.Millisecond); return diameter.Success }
			a.says(slow)
			b.says(slow)
			for i := range 600 {
				if g.send(fmt.Sprint(i), "gw.far"); i == 200 {
					c.goes(a)
				}
				if i%20 == 0 {
					<-time.After(5 * time.Millisecond)
				}
			}
			rtmtest.Until(t, "all are answered", func() bool { return len(g.all()) >= 600 })
			for id, as := range g.answers {
				if len(as) != 1 || as[0].result != diameter.Success {
					t.Errorf("%s: %v", id, as)
				}
			}
			if n := b.again.Load(); (c.name == "killed" || c.name == "silent") == (n == 0) && c.name != "busy" {
				t.Errorf("%d of %d came with T", n, b.got.Load())
			}
		})
	}
}

// While there is no instance a message waits; if none comes its gateway is told.
func TestNoInstance(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, func(c *front.Config) { c.Hold = time.Second })
	g := connect(t, "gw.far", addr)
	g.send("early", "gw.far")
	meet(t, f, 1, a.instance())
	rtmtest.Until(t, "it is answered", func() bool { return len(g.all()) == 1 })
	a.node.Close()
	rtmtest.Until(t, "the connection is gone", func() bool { return f.Links()["a"] < 0 })
	g.send("alone", "gw.far")
	rtmtest.Until(t, "it is refused", func() bool { return len(g.all()) == 2 })
	if as := g.answers["early"]; as[0].result != diameter.Success {
		t.Errorf("the one that waited: %v", as)
	}
	if as := g.answers["alone"]; as[0].result != diameter.UnableToDeliver {
		t.Errorf("the other one: %v", as)
	}
	a.run()
	meet(t, f, 1, a.instance())
	g.send("again", "gw.far")
	rtmtest.Until(t, "it is answered", func() bool { return len(g.all()) == 3 })
}

// A RAR finds its gateway, also one behind a relay, and its answer the instance.
func TestPromptsComeBack(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, nil)
	meet(t, f, 1, a.instance())
	g := connect(t, "relay.far", addr)
	g.send("1", "relay.far")
	g.send("2", "behind.far")
	rtmtest.Until(t, "both are answered", func() bool { return len(g.all()) == 2 })
	for _, host := range []string{"relay.far", "BEHIND.far", "nobody.far"} {
		if !a.prompt(host) {
			t.Fatal("a RAR cannot be sent")
		}
	}
	said := func() []diameter.Result {
		a.mu.Lock()
		defer a.mu.Unlock()
		return slices.Sorted(slices.Values(a.said))
	}
	rtmtest.Until(t, "all are answered", func() bool { return len(said()) == 3 })
	if want := []diameter.Result{diameter.LimitedSuccess, diameter.LimitedSuccess, diameter.UnableToDeliver}; !slices.Equal(said(), want) {
		t.Errorf("answered %v", said())
	}
	g.node.Close()
	rtmtest.Until(t, "the gateway is gone", func() bool { return len(f.Gates().Conns()) == 0 })
	a.prompt("relay.far")
	rtmtest.Until(t, "the RAR is answered", func() bool { return len(said()) == 4 })
	if f.Counts.Strays.Load() != 2 || f.Counts.Prompts.Load() != 2 {
		t.Errorf("%d passed on, %d not", f.Counts.Prompts.Load(), f.Counts.Strays.Load())
	}
}

// What was here before goes no further, and who is refused reaches no instance.
func TestWhatIsNotPassedOn(t *testing.T) {
	a := startCore(t, "a")
	f, addr := stand(t, func(c *front.Config) {
		c.Take = func(r *peer.Request) bool {
			if id, _ := diameter.Find(r.Message.Body, diameter.SessionID); string(id.Data) != "bad" {
				return true
			}
			var e diameter.Encoder
			e.Reset(nil)
			e.Answer(&r.Message.Header, 0)
			e.Uint32(diameter.ResultCode, uint32(diameter.InvalidAVPValue))
			r.Answer(e.Bytes())
			return false
		}
	})
	meet(t, f, 1, a.instance())
	g := connect(t, "gw.far", addr)
	g.send("bad", "gw.far")
	g.send("looped", "gw.far", "x.example", strings.ToUpper("front.ocs.example"))
	rtmtest.Until(t, "both are answered", func() bool { return len(g.all()) == 2 })
	if g.answers["bad"][0].result != diameter.InvalidAVPValue || g.answers["looped"][0].result != diameter.LoopDetected || a.got.Load() != 0 {
		t.Errorf("%v, and an instance got %d", g.answers, a.got.Load())
	}
}

// A front that leaves answers what it has in hand.
func TestAFrontLeaves(t *testing.T) {
	a := startCore(t, "a")
	a.says(func(*peer.Request) diameter.Result { <-time.After(2 * time.Millisecond); return diameter.Success })
	f, addr := stand(t, nil)
	meet(t, f, 1, a.instance())
	g := connect(t, "gw.far", addr)
	for i := range 100 {
		g.send(fmt.Sprint(i), "gw.far")
	}
	rtmtest.Until(t, "they are on their way", func() bool { return a.got.Load() > 0 })
	f.Leave(5 * time.Second)
	rtmtest.Until(t, "the connection is closed", func() bool { return len(g.node.Conns()) == 0 })
	if n := len(g.all()); n != 100 || g.lost.Load() != 0 {
		t.Errorf("%d of 100 were answered, %d lost", n, g.lost.Load())
	}
}
