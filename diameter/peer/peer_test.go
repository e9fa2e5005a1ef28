package peer

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"rtm/diameter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a Handler whose answers a test chooses. Requests that nobody takes
// stay in hand.
type host struct {
	admit   func(Capabilities) diameter.Result
	receive func(r *Request)

	mu       sync.Mutex // guards all below
	held     []*Request
	answers  []diameter.Result
	lost     []any
	closings int
}

func (h *host) Admit(c Capabilities) (any, diameter.Result) {
	if h.admit == nil {
		return nil, 0
	}
	return nil, h.admit(c)
}

func (h *host) Receive(batch []*Request) {
	for _, r := range batch {
		if h.receive != nil {
			h.receive(r)
			continue
		}
		h.mu.Lock()
		h.held = append(h.held, r)
		h.mu.Unlock()
	}
}

func (h *host) Answered(_ *Conn, _ any, m *diameter.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers = append(h.answers, resultOf(m))
}

func (h *host) Closed(_ *Conn, unanswered []any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost = append(h.lost, unanswered...)
	h.closings++
}

// inHand takes the requests that are held.
func (h *host) inHand() []*Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.held
	h.held = nil
	return held
}

// success answers a request with 2001.
func success(r *Request) {
	var e diameter.Encoder
	e.Reset(nil)
	e.Answer(&r.Message.Header, 0)
	e.Uint32(diameter.ResultCode, uint32(diameter.Success))
	r.Answer(e.Bytes())
}

// Find is an open connection to that host; nil: there is none.
func (n *Node) Find(host string) *Conn {
	for _, c := range n.Conns() {
		if strings.EqualFold(c.Host, host) {
			return c
		}
	}
	return nil
}

func resultOf(m *diameter.Message) diameter.Result {
	a, _ := diameter.Find(m.Body, diameter.ResultCode)
	if len(a.Data) != 4 {
		return 0
	}
	return diameter.Result(binary.BigEndian.Uint32(a.Data))
}

func text(m *diameter.Message, attr diameter.Attr) string {
	a, _ := diameter.Find(m.Body, attr)
	return string(a.Data)
}

var ours3 = Config{OriginHost: "ocs.test", PeerHost: "a.ocs.test", Realm: "test", OriginStateID: 7}

// node is a Node of the test, on a pipe or on sockets.
func node(t *testing.T, c Config, h *host) *Node {
	t.Helper()
	n, err := New(c, h)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// far is the other end of a connection, in octets.
type far struct {
	t testing.TB
	net.Conn
	buf []byte
}

// pipe connects a far end to n without any socket.
func pipe(t *testing.T, n *Node) *far {
	near, other := net.Pipe()
	n.Accept(near)
	return &far{t: t, Conn: other}
}

// message writes a request.
func message(c diameter.Command, app diameter.Application, hop uint32, more func(e *diameter.Encoder)) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(c, app, 0, hop, hop)
	more(&e)
	return e.Bytes()
}

func cer(name string, app uint32) []byte { return cerOf(name, "far", app) }

func cerOf(name, realm string, app uint32) []byte {
	return message(diameter.CapabilitiesExchange, 0, 1, func(e *diameter.Encoder) {
		e.String(diameter.OriginHost, name)
		e.String(diameter.OriginRealm, realm)
		e.Address(diameter.HostIPAddress, netip.MustParseAddr("192.0.2.1"))
		e.Uint32(diameter.VendorID, 0)
		e.String(diameter.ProductName, "test")
		e.Uint32(diameter.AuthApplicationID, app)
	})
}

func ccr(hop uint32) []byte {
	return message(diameter.CreditControl, 4, hop, func(e *diameter.Encoder) {
		e.String(diameter.SessionID, fmt.Sprintf("far;%d", hop))
		e.Open(diameter.ProxyInfo)
		e.String(diameter.ProxyHost, "relay")
		e.String(diameter.ProxyState, "state")
		e.Close()
	})
}

func plain(c diameter.Command) []byte {
	return message(c, 0, 77, func(e *diameter.Encoder) {
		e.String(diameter.OriginHost, "gw")
		e.String(diameter.OriginRealm, "far")
	})
}

func (f *far) send(b []byte) {
	f.t.Helper()
	f.SetWriteDeadline(time.Now().Add(2 * time.Second))
	if _, err := f.Write(b); err != nil {
		f.t.Fatalf("the connection does not take a message: %v", err)
	}
}

// next is the next message, or nil if there is none within d or the connection
// is closed.
func (f *far) next(d time.Duration) *diameter.Message {
	f.SetReadDeadline(time.Now().Add(d))
	for b := make([]byte, 64<<10); ; {
		if m, rest, err := diameter.Frame(f.buf, diameter.MessageMax); err == nil {
			m.Body = slices.Clone(m.Body)
			f.buf = rest
			return &m
		}
		n, err := f.Read(b)
		if err != nil {
			return nil
		}
		f.buf = append(f.buf, b[:n]...)
	}
}

// want is the next message, which must be of that command and, if it is an
// answer, have that result.
func (f *far) want(c diameter.Command, r diameter.Result) *diameter.Message {
	f.t.Helper()
	m := f.next(2 * time.Second)
	if m == nil || m.Command != c || m.Request() != (r == 0) || r != 0 && resultOf(m) != r {
		f.t.Fatalf("got %+v, want %s %s", m, c, r)
	}
	return m
}

// closes reports after how long the other end closes, within most.
func (f *far) closes(most time.Duration) (time.Duration, bool) {
	start := time.Now()
	f.SetReadDeadline(start.Add(most))
	for b := make([]byte, 64<<10); ; {
		if _, err := f.Read(b); err != nil {
			ne, timeout := err.(net.Error)
			return time.Since(start), !timeout || !ne.Timeout()
		}
	}
}

func (f *far) open(name string) {
	f.t.Helper()
	f.send(cer(name, 4))
	f.want(diameter.CapabilitiesExchange, diameter.Success)
}

// pass lets simulated time pass.
func pass(d time.Duration) { <-time.After(d) }

func TestCapabilities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{admit: func(c Capabilities) diameter.Result {
			if c.Host == "stranger" {
				return diameter.UnknownPeer
			}
			return 0
		}}
		n := node(t, ours3, h)
		defer n.Close()
		for _, c := range []struct {
			what   string
			cer    []byte
			result diameter.Result
		}{
			{"credit control", cer("gw", 4), diameter.Success},
			{"a relay", cer("gw", 0xFFFFFFFF), diameter.Success},
			{"another application", cer("gw", 16777238), diameter.NoCommonApplication},
			{"unknown", cer("stranger", 4), diameter.UnknownPeer},
			{"unknown, other application", cer("stranger", 1), diameter.UnknownPeer},
			{"no realm", message(diameter.CapabilitiesExchange, 0, 1, func(e *diameter.Encoder) {
				e.String(diameter.OriginHost, "gw")
				e.Address(diameter.HostIPAddress, netip.MustParseAddr("192.0.2.1"))
				e.Uint32(diameter.VendorID, 0)
				e.String(diameter.ProductName, "test")
			}), diameter.MissingAVP},
		} {
			f := pipe(t, n)
			f.send(c.cer)
			m := f.next(time.Second)
			if m == nil || resultOf(m) != c.result || text(m, diameter.OriginHost) != "a.ocs.test" {
				t.Fatalf("%s: answered %+v, want %s", c.what, m, c.result)
			}
			if (m.Flags&diameter.FlagError != 0) != c.result.Protocol() {
				t.Errorf("%s: E bit of %s is wrong", c.what, c.result)
			}
			if product := text(m, diameter.ProductName); (product == "") != c.result.Protocol() {
				t.Errorf("%s: Product-Name %q", c.what, product)
			}
			if _, closed := f.closes(time.Second); closed != (c.result != diameter.Success) {
				t.Errorf("%s: closed is %v", c.what, closed)
			}
			f.Close()
			synctest.Wait()
		}
	})
}

func TestIPv4AndIPv6(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		n := node(t, ours3, &host{receive: success})
		go n.Serve(l)
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		f := &far{t: t, Conn: c}
		// The request comes in the same segment as the CER.
		f.send(append(cer("gw", 4), ccr(2)...))
		m := f.want(diameter.CapabilitiesExchange, diameter.Success)
		a, _ := diameter.Find(m.Body, diameter.HostIPAddress)
		if ip, err := a.Address(); err != nil || ip != netip.MustParseAddrPort(l.Addr().String()).Addr() {
			t.Errorf("Host-IP-Address %s, listening on %s: %v", ip, l.Addr(), err)
		}
		f.want(diameter.CreditControl, diameter.Success)
		f.Close()
		n.Close()
	}
}

func TestNothingBeforeTheCER(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		for what, b := range map[string][]byte{"a CCR": ccr(1), "a DWR": plain(diameter.DeviceWatchdog), "nothing": nil, "half a CER": cer("gw", 4)[:40]} {
			f := pipe(t, n)
			if b != nil {
				f.send(b)
			}
			after, closed := f.closes(6 * time.Second)
			if whole := what == "a CCR" || what == "a DWR"; !closed || whole && after > time.Second || !whole && after != 5*time.Second {
				t.Errorf("%s: closed %v after %s", what, closed, after)
			}
		}
	})
}

func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		for range 3 {
			start := time.Now()
			m := f.next(time.Hour)
			if took := time.Since(start); m == nil || m.Command != diameter.DeviceWatchdog || took < 24*time.Second || took > 32*time.Second {
				t.Fatalf("after %s: %+v", time.Since(start), m)
			}
			var e diameter.Encoder
			e.Reset(nil)
			e.Answer(&m.Header, 0)
			e.Uint32(diameter.ResultCode, uint32(diameter.Success))
			f.send(e.Bytes())
			synctest.Wait()
			if n.Conns()[0].Suspect() {
				t.Error("suspect, and it answered")
			}
		}
		f.send(plain(diameter.DeviceWatchdog))
		if m := f.want(diameter.DeviceWatchdog, diameter.Success); text(m, diameter.OriginHost) != "a.ocs.test" {
			t.Errorf("DWA of %s", text(m, diameter.OriginHost))
		}
		if after, closed := f.closes(time.Hour); !closed || after > 64*time.Second {
			t.Errorf("silent for %s, closed %v", after, closed)
		}
	})
}

// A message must be whole 10 s after its first octet, however it trickles; after
// 5 s at least 1 KiB must have come for each second.
func TestSlowSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		for range 5 { // each within its time
			f.send(ccr(2)[:30])
			pass(4 * time.Second)
			f.send(ccr(2)[30:])
			f.want(diameter.CreditControl, diameter.Success)
		}
		for _, c := range []struct {
			octets int // a second
			most   time.Duration
		}{{1, 5 * time.Second}, {2 << 10, 10 * time.Second}} {
			f := pipe(t, n)
			f.open(fmt.Sprintf("gw%d", c.octets))
			f.SetWriteDeadline(time.Time{})
			start, ended := time.Now(), make(chan bool)
			go func() {
				defer close(ended)
				for b := long(60_000); len(b) > 0; b = b[c.octets:] {
					if _, err := f.Write(b[:c.octets]); err != nil {
						return
					}
					pass(time.Second)
				}
			}()
			if _, closed := f.closes(time.Minute); !closed || time.Since(start).Truncate(time.Second) != c.most {
				t.Errorf("%d octets a second: closed %v after %s", c.octets, closed, time.Since(start))
			}
			<-ended
		}
		if got := n.Counts.Limits[LimitSlow].Load(); got != 2 {
			t.Errorf("%d were counted as slow", got)
		}
	})
}

// long is a CCR of about n octets.
func long(n int) []byte {
	return message(diameter.CreditControl, 4, 1, func(e *diameter.Encoder) {
		e.Octets(diameter.SessionID, make([]byte, n))
	})
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		n := node(t, ours3, h)
		f, idle := pipe(t, n), pipe(t, n)
		f.open("gw")
		idle.open("gw")
		f.send(ccr(2))
		synctest.Wait()
		left := make(chan time.Time)
		go func() { n.Leave(5 * time.Second); left <- time.Now() }()
		for _, p := range []*far{f, idle} {
			m := p.want(diameter.DisconnectPeer, 0)
			if a, _ := diameter.Find(m.Body, diameter.DisconnectCause); len(a.Data) != 4 || a.Data[3] != 0 {
				t.Errorf("Disconnect-Cause %x, want REBOOTING", a.Data)
			}
			var e diameter.Encoder
			e.Reset(nil)
			e.Answer(&m.Header, 0)
			e.Uint32(diameter.ResultCode, uint32(diameter.Success))
			p.send(e.Bytes())
		}
		if after, closed := idle.closes(time.Second); !closed || after != 0 {
			t.Errorf("nothing is in hand, and it closes after %s (%v)", after, closed)
		}
		parted := time.Now()
		pass(300 * time.Millisecond)
		success(h.inHand()[0])
		f.want(diameter.CreditControl, diameter.Success)
		if at := <-left; at.Sub(parted) != 300*time.Millisecond {
			t.Errorf("left %s after the DPA, the last answer came after 300 ms", at.Sub(parted))
		}
	})
}

// What is in hand for ever does not hold a leaving instance: 0.9 s after the
// DPA it closes; without a DPA, when Leave says so.
func TestLeaveWithoutAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, answers := range []bool{true, false} {
			h := &host{}
			n := node(t, ours3, h)
			f := pipe(t, n)
			f.open("gw")
			f.send(ccr(2))
			synctest.Wait()
			start := time.Now()
			done := make(chan bool)
			go func() { n.Leave(5 * time.Second); close(done) }()
			m := f.want(diameter.DisconnectPeer, 0)
			want := 5 * time.Second
			if answers {
				want = 900 * time.Millisecond
				var e diameter.Encoder
				e.Reset(nil)
				e.Answer(&m.Header, 0)
				f.send(e.Bytes())
			}
			<-done
			if took := time.Since(start); took != want {
				t.Errorf("answered %v: left after %s, want %s", answers, took, want)
			}
			h.inHand()[0].Drop()
		}
	})
}

func TestThePeerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		f.send(append(plain(diameter.DisconnectPeer), ccr(2)...))
		if m := f.want(diameter.DisconnectPeer, diameter.Success); text(m, diameter.OriginHost) != "a.ocs.test" {
			t.Errorf("DPA of %s", text(m, diameter.OriginHost))
		}
		f.want(diameter.CreditControl, diameter.Success) // what was on its way is answered
		if after, closed := f.closes(time.Minute); !closed || after != 10*time.Second {
			t.Errorf("closed %v after %s", closed, after)
		}
	})
}

// A peer that does not read is not read any more, and is cut off; what waits
// for it is bounded meanwhile.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ours3
		c.WriteMax = 10_000
		most := atomic.Int64{}
		n := node(t, c, &host{receive: func(r *Request) {
			conn := r.Conn
			success(r)
			conn.out.Lock()
			most.Store(max(most.Load(), int64(len(conn.pending))))
			conn.out.Unlock()
		}})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		start, sent := time.Now(), 0
		for {
			f.SetWriteDeadline(time.Now().Add(time.Minute))
			if _, err := f.Write(ccr(uint32(sent))); err != nil {
				break
			}
			sent++
		}
		if took := time.Since(start); took != 5*time.Second || sent > 1000 || most.Load() > 20_000 {
			t.Errorf("cut off after %s and %d messages, %d octets waited", took, sent, most.Load())
		}
	})
}

func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		n := node(t, ours3, h)
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		for i := range uint32(1024) {
			f.send(ccr(i))
		}
		f.send(ccr(5000))
		m := f.want(diameter.CreditControl, diameter.TooBusy)
		if m.HopByHop != 5000 || m.Flags&diameter.FlagError == 0 || text(m, diameter.SessionID) != "far;5000" || text(m, diameter.OriginHost) != "ocs.test" {
			t.Errorf("refused with %+v", m)
		}
		if a, ok := diameter.Find(m.Body, diameter.ProxyInfo); !ok || len(a.Data) == 0 {
			t.Error("Proxy-Info is lost")
		}
		if n.Counts.Busy.Load() != 1 || n.Conns()[0].InFlight() != 1024 {
			t.Errorf("busy %d, in flight %d", n.Counts.Busy.Load(), n.Conns()[0].InFlight())
		}
		held := h.inHand()
		success(held[0])
		f.want(diameter.CreditControl, diameter.Success)
		f.send(ccr(5001))
		synctest.Wait()
		if again := h.inHand(); len(again) != 1 || again[0].Message.HopByHop != 5001 {
			t.Errorf("%d in hand", len(again))
		}
		for _, r := range held[1:] {
			r.Drop()
		}
	})
}

func TestNoLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{}
		n := node(t, ours3, h)
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		f.send(append(ccr(1), ccr(2)...))
		synctest.Wait()
		held := h.inHand()
		held[0].Late, held[1].Late = time.Now().Add(7*time.Second), time.Now().Add(9*time.Second)
		pass(8 * time.Second)
		success(held[0])
		success(held[1])
		if m := f.want(diameter.CreditControl, diameter.Success); m.HopByHop != 2 {
			t.Errorf("answered %d", m.HopByHop)
		}
		if n.Counts.Late.Load() != 1 {
			t.Errorf("%d late", n.Counts.Late.Load())
		}
	})
}

func TestFourConnectionsPerPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{})
		defer n.Close()
		var fs []*far
		for range 4 {
			f := pipe(t, n)
			f.open("gw")
			fs = append(fs, f)
		}
		f := pipe(t, n)
		f.send(cer("gw", 4))
		f.want(diameter.CapabilitiesExchange, diameter.UnableToComply)
		fs[0].Close()
		synctest.Wait()
		pipe(t, n).open("gw")
		pipe(t, n).open("other")
	})
}

// from is a connection that says it comes from elsewhere.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{})
		defer n.Close()
		knock := func(ip string) bool {
			near, other := net.Pipe()
			n.Accept(from{near, &net.TCPAddr{IP: net.ParseIP(ip), Port: 1000}})
			f := &far{t: t, Conn: other}
			_, closed := f.closes(time.Millisecond)
			return !closed
		}
		in := 0
		for range 50 {
			if knock("192.0.2.1") {
				in++
			}
		}
		if got := n.Counts.Limits[LimitRate].Load(); in != 10 || got != 40 {
			t.Errorf("%d of 50 came in within a second, %d were counted", in, got)
		}
		if !knock("192.0.2.2") {
			t.Error("another address is kept out")
		}
		pass(time.Second)
		if !knock("192.0.2.1") {
			t.Error("still kept out a second later")
		}
	})
}

func TestUnframed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		version := ccr(9)
		version[0] = 2
		short := ccr(9)
		copy(short[1:], []byte{0, 0, 12})
		odd := ccr(9)
		odd[3]++
		huge := ccr(9)
		copy(huge[1:], []byte{0xFF, 0xFF, 0xFC})
		for _, c := range []struct {
			what   string
			b      []byte
			result diameter.Result
		}{
			{"version 2", version, diameter.UnsupportedVersion}, {"length 12", short, 0}, {"a length that is no multiple of 4", odd, 0}, {"16 MiB", huge, 0},
		} {
			f := pipe(t, n)
			f.open("gw")
			f.send(append(ccr(1), c.b...))
			if c.result != 0 {
				f.want(diameter.CreditControl, c.result)
			}
			f.want(diameter.CreditControl, diameter.Success) // what came before is not lost
			if after, closed := f.closes(time.Second); !closed || after != 0 {
				t.Errorf("%s: closed %v after %s", c.what, closed, after)
			}
			synctest.Wait()
		}
	})
}

// A node dials another: RAR goes there, its answer comes back; what has no
// answer when the connection goes is told.
func TestServerInitiated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &host{}
		n := node(t, ours3, server)
		near, other := net.Pipe()
		n.Accept(near)
		f := &far{t: t, Conn: other}
		f.open("gw")
		c := n.Find("GW")
		if c == nil || n.Find("nobody") != nil {
			t.Fatal("the connection is not found by its host")
		}
		rar := func(hop, end uint32) []byte {
			return message(diameter.ReAuth, 4, hop, func(e *diameter.Encoder) { e.String(diameter.SessionID, "s") })
		}
		if !c.Send("one", rar) || !c.Send("two", rar) {
			t.Fatal("not sent")
		}
		m := f.want(diameter.ReAuth, 0)
		var e diameter.Encoder
		e.Reset(nil)
		e.Answer(&m.Header, 0)
		e.Uint32(diameter.ResultCode, uint32(diameter.LimitedSuccess))
		f.send(e.Bytes())
		unknown := m.Header
		unknown.HopByHop += 1000
		e.Reset(nil)
		e.Answer(&unknown, 0)
		f.send(e.Bytes()) // an answer to nothing is dropped
		f.want(diameter.ReAuth, 0)
		if m := f.next(time.Minute); m == nil || m.Command != diameter.DeviceWatchdog { // it is not answered: the node's own, and no matter of its handler
			t.Fatalf("got %+v, want a DWR", m)
		}
		f.Close()
		synctest.Wait()
		if fmt.Sprint(server.answers) != fmt.Sprint([]diameter.Result{diameter.LimitedSuccess}) || fmt.Sprint(server.lost) != "[two]" || server.closings != 1 {
			t.Errorf("answers %v, lost %v, %d closings", server.answers, server.lost, server.closings)
		}
		if c.Send("three", rar) {
			t.Error("sent over a closed connection")
		}
		n.Close()
	})
}

func TestDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, client := &host{receive: success}, &host{}
	n := node(t, ours3, server)
	go n.Serve(l)
	defer n.Close()
	far := node(t, Config{PeerHost: "gw.far", Realm: "far"}, client)
	defer far.Close()
	c, err := far.Dial(t.Context(), l.Addr().String())
	if err != nil || c.Host != "a.ocs.test" || c.Realm != "test" {
		t.Fatalf("dialled %+v: %v", c, err)
	}
	for i := range 100 {
		c.Send(i, func(hop, end uint32) []byte { return ccr(hop) })
	}
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		client.mu.Lock()
		got := len(client.answers)
		client.mu.Unlock()
		if got == 100 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of 100 answers", got)
		}
	}
	server.admit = func(Capabilities) diameter.Result { return diameter.UnknownPeer }
	other := node(t, Config{PeerHost: "x", Realm: "far"}, &host{})
	defer other.Close()
	if _, err := other.Dial(t.Context(), l.Addr().String()); err == nil {
		t.Error("a refused CER is an open connection")
	}
}

// 10,000 requests are in hand, on 10 connections: no goroutine per message.
func TestGoroutines(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{}
	n := node(t, ours3, h)
	go n.Serve(l)
	defer n.Close()
	before := runtime.NumGoroutine()
	for i := range 10 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f := &far{t: t, Conn: c}
		f.open(fmt.Sprintf("gw%d", i))
		var all []byte
		for k := range uint32(1000) {
			all = append(all, ccr(k)...)
		}
		f.send(all)
	}
	for deadline := time.Now().Add(5 * time.Second); n.Counts.InFlight.Load() < 10_000; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d in flight", n.Counts.InFlight.Load())
		}
	}
	if got := runtime.NumGoroutine() - before; got > 2*10 {
		t.Errorf("%d goroutines for 10 connections", got)
	}
	for _, r := range h.inHand() {
		r.Drop()
	}
}

// A peer that answers no RAR, but every DWR, keeps its connection, and after a
// minute its RARs stand in nobody's way.
func TestAnswersThatNeverCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ours3
		c.OwedMax = 2
		n := node(t, c, &host{})
		near, other := net.Pipe()
		n.Accept(near)
		f := &far{t: t, Conn: other}
		f.open("gw")
		conn := n.Find("gw")
		watched := make(chan int)
		go func() {
			answered := 0
			for m := f.next(24 * time.Hour); m != nil; m = f.next(24 * time.Hour) {
				if m.Command != diameter.DeviceWatchdog {
					continue
				}
				var e diameter.Encoder
				e.Reset(nil)
				e.Answer(&m.Header, 0)
				e.Uint32(diameter.ResultCode, uint32(diameter.Success))
				f.send(e.Bytes())
				answered++
			}
			watched <- answered
		}()
		rar := func(hop, end uint32) []byte {
			return message(diameter.ReAuth, 4, hop, func(e *diameter.Encoder) { e.String(diameter.SessionID, "s") })
		}
		if !conn.Send(1, rar) || !conn.Send(2, rar) || conn.Send(3, rar) {
			t.Error("two requests may be owed, and no third")
		}
		pass(10 * time.Minute)
		if len(n.Conns()) != 1 || !conn.Send(4, rar) {
			t.Error("ten minutes later the connection is closed, or takes no request")
		}
		n.Close()
		f.Close()
		if answered := <-watched; answered < 8 {
			t.Errorf("%d watchdogs in ten minutes", answered)
		}
	})
}

// A request that was not answered for a minute gives its place back when another
// one needs it, however long the watchdog is silent.
func TestOwedForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ours3
		c.OwedMax, c.Watchdog = 1, time.Hour
		n := node(t, c, &host{})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		go io.Copy(io.Discard, f)
		conn := n.Find("gw")
		rar := func(hop, end uint32) []byte {
			return message(diameter.ReAuth, 4, hop, func(e *diameter.Encoder) { e.String(diameter.SessionID, "s") })
		}
		sent := conn.Send(1, rar)
		pass(time.Minute)
		early := conn.Send(2, rar)
		pass(time.Second)
		if late := conn.Send(3, rar); !sent || early || !late {
			t.Errorf("sent at first %v, within the minute %v, after it %v", sent, early, late)
		}
	})
}

// Names are compared without case (RFC 6733 §1.3).
func TestNamesWithoutCase(t *testing.T) {
	n := node(t, ours3, &host{})
	defer n.Close()
	for _, name := range []string{"gw.far", "Gw.far", "GW.far", "gw.FAR"} {
		pipe(t, n).open(name)
	}
	f := pipe(t, n)
	f.send(cer("GW.FAR", 4))
	f.want(diameter.CapabilitiesExchange, diameter.UnableToComply)
	if n.Find("Gw.Far") == nil || len(n.Conns()) != 4 {
		t.Errorf("%d connections", len(n.Conns()))
	}
}

// reasoned is a handler that lets peers in by their address, and says so.
type reasoned struct{ *host }

type reason string

func (r reason) Reason() string { return string(r) }

func (reasoned) Admit(c Capabilities) (any, diameter.Result) {
	return reason(c.Remote.Addr().String()), 0
}

// Who calls itself like another peer, in another realm or let in for another
// reason, takes none of its connections.
func TestNamesakesAreCountedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := ours3
		c.PerPeer = 1
		n := node(t, c, &host{})
		defer n.Close()
		n.handler = reasoned{&host{}}
		var all []*far
		from := func(ip, realm string, want diameter.Result) {
			t.Helper()
			f := knocker(t, n, ip)
			all = append(all, f)
			f.send(cerOf("gw", realm, 4))
			f.want(diameter.CapabilitiesExchange, want)
		}
		from("192.0.2.1", "far", diameter.Success)
		from("192.0.2.1", "FAR", diameter.UnableToComply)
		from("192.0.2.1", "near", diameter.Success)
		from("192.0.2.2", "far", diameter.Success)
		from("192.0.2.2", "far", diameter.UnableToComply)
		for _, f := range all {
			f.Close()
		}
		synctest.Wait()
		if n.mu.Lock(); len(n.seats) != 0 {
			t.Errorf("%v are counted when all are gone", n.seats)
		}
		n.mu.Unlock()
	})
}
