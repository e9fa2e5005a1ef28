package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rtm"
	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/rtmtest"
	"rtm/store"
)

// guardedTenants are two tenants with a gateway each, on one server.
func guardedTenants(accounts int) string {
	var b strings.Builder
	for _, name := range []string{"calm", "storm"} {
		fmt.Fprintf(&b, `kind: Tenant
name: %[1]s
currency: EUR
---
{kind: Plan, tenant: %[1]s, name: basic, services: [{name: data, unit: octets, price: "0.01", per: 1 MiB, default: true}]}
---
{kind: Peer, host: "*", realm: %[1]s.example, sources: [127.0.0.0/8], tenants: [%[1]s]}
`, name)
		for i := range accounts {
			fmt.Fprintf(&b, "---\n{kind: Subscriber, tenant: %s, plan: basic, imsi: %q, balance: \"1000000\"}\n", name, imsiOf(name, i))
		}
		if name == "calm" {
			b.WriteString("---\n")
		}
	}
	return b.String()
}

func imsiOf(name string, i int) string {
	if name == "calm" {
		return fmt.Sprintf("00101%010d", i)
	}
	return fmt.Sprintf("00102%010d", i)
}

// debit is a CCR-E that takes an octet of a subscriber. The end of its Session-Id
// are eight digits, so that a sender can count them on.
func debit(tenant string, conn, account int) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, 1, 1)
	e.String(diameter.SessionID, fmt.Sprintf("gw.%s;%d;%d;00000000", tenant, os.Getpid(), conn))
	e.String(diameter.OriginHost, fmt.Sprintf("gw%d.%s.example", conn, tenant))
	e.String(diameter.OriginRealm, tenant+".example")
	e.String(diameter.DestinationRealm, tenant+".example")
	e.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
	e.String(diameter.ServiceContextID, "32251@3gpp.org")
	e.Uint32(diameter.CCRequestType, 4)
	e.Uint32(diameter.CCRequestNumber, 0)
	e.Uint32(diameter.RequestedAction, 0)
	e.Open(diameter.SubscriptionID)
	e.Uint32(diameter.SubscriptionIDType, 1)
	e.String(diameter.SubscriptionIDData, imsiOf(tenant, account))
	e.Close()
	e.Open(diameter.RequestedServiceUnit)
	e.Uint64(diameter.CCTotalOctets, 1)
	e.Close()
	return e.Bytes()
}

// A blaster sends debits of one tenant over some connections, without waiting for
// answers beyond a window.
type blaster struct {
	tenant      string
	connections int
	accounts    int
	Sent        atomic.Int64
	Granted     atomic.Int64
	Busy        atomic.Int64
	Other       atomic.Int64
}

// run sends so many a second until ctx ends; window: so many are under way at
// most, on each connection.
func (b *blaster) run(ctx context.Context, addr string, rate, window int) error {
	var wg sync.WaitGroup
	errs := make(chan error, b.connections)
	for n := range b.connections {
		wg.Go(func() {
			if err := b.connection(ctx, addr, n, rate/b.connections, window); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func (b *blaster) connection(ctx context.Context, addr string, n, rate, window int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(hello(fmt.Sprintf("gw%d.%s.example", n, b.tenant), b.tenant+".example")); err != nil {
		return err
	}
	var under atomic.Int64
	under.Store(1) // the CER
	read := make(chan error, 1)
	go func() { read <- b.count(c, &under) }()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })
	defer stop()
	var frames [][]byte
	for a := range min(b.accounts, 100) {
		frames = append(frames, debit(b.tenant, n, (n*100+a)%b.accounts))
	}
	at := bytes.Index(frames[0], []byte("00000000"))
	var batch []byte
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begun, sent := time.Now(), 0; ctx.Err() == nil; {
		due := int(time.Since(begun).Seconds()*float64(rate)) - sent
		due = min(due, 500, window-int(under.Load()))
		if due <= 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			continue
		}
		batch = batch[:0]
		for range due {
			f := frames[sent%len(frames)]
			sent++
			copy(f[at:], fmt.Sprintf("%08d", sent))
			binary.BigEndian.PutUint32(f[12:], uint32(sent))
			batch = append(batch, f...)
		}
		under.Add(int64(due))
		if _, err := c.Write(batch); err != nil {
			break
		}
		b.Sent.Add(int64(due))
	}
	c.Close()
	<-read
	return nil
}

// count reads answers until the connection ends.
func (b *blaster) count(c net.Conn, under *atomic.Int64) error {
	buf, have := make([]byte, 1<<18), 0
	for {
		n, err := c.Read(buf[have:])
		if err != nil {
			return err
		}
		have += n
		rest := buf[:have]
		for {
			m, after, err := diameter.Frame(rest, diameter.MessageMax)
			if err != nil {
				break
			}
			rest = after
			if m.Request() {
				continue
			}
			under.Add(-1)
			switch number(m.Body, diameter.ResultCode) {
			case 2001:
				if m.Command == diameter.CreditControl {
					b.Granted.Add(1)
				}
			case 3004:
				b.Busy.Add(1)
			default:
				b.Other.Add(1)
			}
		}
		have = copy(buf, rest)
	}
}

// hello is a CER.
func hello(host, realm string) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CapabilitiesExchange, 0, 0, 1, 1)
	e.String(diameter.OriginHost, host)
	e.String(diameter.OriginRealm, realm)
	e.Address(diameter.HostIPAddress, netip.MustParseAddr("127.0.0.1"))
	e.Uint32(diameter.VendorID, 0)
	e.String(diameter.ProductName, "test")
	e.Uint32(diameter.AuthApplicationID, 4)
	return e.Bytes()
}

// declareGuarded gives a server the two tenants.
func declareGuarded(t testing.TB, api string, accounts int) {
	t.Helper()
	r := remote{url: api}
	if err := r.call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(guardedTenants(accounts)), nil); err != nil {
		t.Fatal(err)
	}
}

// slowed is a store that needs a while for each event of what it is to carry,
// whatever is committed together: what it can do is bounded, on any machine.
type slowed struct {
	store.Store
	one sync.Mutex
}

func (s *slowed) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	s.one.Lock()
	events := 0
	for i := range cs {
		events += len(cs[i].Events)
	}
	<-time.After(time.Duration(events) * 200 * time.Microsecond)
	s.one.Unlock()
	return s.Store.Commit(ctx, cs)
}

// A tenant sends far more than the server can do. The other one's requests are all
// granted, and none of them waits for what the first has waiting: in the time of
// one, no more of the first is done than may be in the loop.
func TestAStormOfOneTenant(t *testing.T) {
	l := startLab(t, &slowed{Store: embedded(t)}, 1)
	declareGuarded(t, l.api, 200)
	core := l.instances[0].core
	rtmtest.Until(t, "the peers are known", func() bool { return len(core.Catalogue().Peers()) == 2 })
	storm := &blaster{tenant: "storm", connections: 8, accounts: 200}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- storm.run(ctx, l.targets[0], 20_000, 1000) }()
	defer func() { stop(); <-ended }()
	rtmtest.Until(t, "more comes than can be done", func() bool { return storm.Busy.Load() > 1000 && storm.Granted.Load() > 500 })
	calm := dialPeer(t, l.targets[0], "gw0.calm.example", "calm.example")
	f := debit("calm", 0, 1)
	at := bytes.Index(f, []byte("00000000"))
	var passed []int64
	var may int64 // how many may be in the loop: on a slow machine more than on a quick one
	for i := range 20 {
		copy(f[at:], fmt.Sprintf("%08d", i))
		before := storm.Granted.Load()
		if got := number(calm.exchange(f).Body, diameter.ResultCode); got != 2001 {
			t.Errorf("the other tenant's request %d: %d", i, got)
		}
		passed = append(passed, storm.Granted.Load()-before)
		core.Admission(func(a *rtm.Admission) { may = max(may, int64(a.Limit())) })
	}
	slices.Sort(passed)
	t.Logf("storm: %d sent, %d granted, %d busy, %d other; while one of the others was worked on, %d of it were granted (median), %d at most, and %d may be in the loop",
		storm.Sent.Load(), storm.Granted.Load(), storm.Busy.Load(), storm.Other.Load(), passed[10], passed[19], may)
	if passed[10] > may {
		t.Errorf("while one request of the other tenant was worked on, %d of the storm were, and %d may be in the loop", passed[10], may)
	}
	if storm.Other.Load() > 0 {
		t.Errorf("%d answers are neither granted nor busy", storm.Other.Load())
	}
	res, err := http.Get(l.api + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	for _, line := range []string{`rtm_tenant_shed_total{instance="A",tenant="storm"} [1-9]`, `rtm_tenant_shed_total{instance="A",tenant="calm"} 0\n`, `rtm_shed_total{instance="A",reason="(full|wait)"} [1-9]`} {
		if err != nil || !regexp.MustCompile(line).Match(text) {
			t.Errorf("%s is not in the metrics (%v)", line, err)
		}
	}
}

// The attack set: what strangers and peers with bad intentions send. Each runs
// until ctx ends; what the server does to their connections is its business.
var attacks = map[string]func(ctx context.Context, addr string, n int){
	"half open":  func(ctx context.Context, addr string, n int) { hold(ctx, addr, nil) },
	"half a CER": func(ctx context.Context, addr string, n int) { hold(ctx, addr, hello("x", "y")[:30]) },
	"CERs of strangers": func(ctx context.Context, addr string, n int) {
		hold(ctx, addr, hello(fmt.Sprintf("stranger%d", n), "elsewhere.example"))
	},
	"64 Origin-Hosts": func(ctx context.Context, addr string, n int) {
		var e diameter.Encoder
		e.Reset(nil)
		e.Request(diameter.CapabilitiesExchange, 0, 0, 1, 1)
		for i := range 64 {
			e.String(diameter.OriginHost, fmt.Sprintf("gw%d.storm.example", i))
		}
		e.String(diameter.OriginRealm, "storm.example")
		e.Uint32(diameter.AuthApplicationID, 4)
		hold(ctx, addr, e.Bytes())
	},
	"a sender of one octet a time": func(ctx context.Context, addr string, n int) {
		trickle(ctx, addr, fmt.Sprintf("slow%d.storm.example", n))
	},
	"512 AVPs": func(ctx context.Context, addr string, n int) {
		flood(ctx, addr, fmt.Sprintf("many%d.storm.example", n), bomb(2000, 0))
	},
	"groups in groups": func(ctx context.Context, addr string, n int) {
		flood(ctx, addr, fmt.Sprintf("deep%d.storm.example", n), bomb(0, 30))
	},
	"oversize": func(ctx context.Context, addr string, n int) {
		b := debit("storm", 0, 0)
		copy(b[1:], []byte{0xFF, 0xFF, 0xFC})
		flood(ctx, addr, fmt.Sprintf("big%d.storm.example", n), b)
	},
	"somebody else's name": func(ctx context.Context, addr string, n int) {
		flood(ctx, addr, fmt.Sprintf("other%d.storm.example", n), append(debit("calm", 0, 0), hello("gw0.calm.example", "calm.example")...))
	},
	"who does not read": func(ctx context.Context, addr string, n int) {
		c, err := greet(ctx, addr, fmt.Sprintf("deaf%d.storm.example", n))
		if err != nil {
			return
		}
		defer c.Close()
		for b := bytes.Repeat(bomb(600, 0), 10); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	},
}

// bomb is a CCR with so many AVPs, or with groups in groups.
func bomb(avps, depth int) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, 0, 1, 1)
	e.String(diameter.SessionID, "bomb")
	for range avps {
		e.Uint32(diameter.CCRequestNumber, 1)
	}
	inner := []byte{}
	for range depth {
		outer := binary.BigEndian.AppendUint32(nil, 456)
		outer = binary.BigEndian.AppendUint32(outer, 0x40000000|uint32(len(inner)+8))
		inner = append(outer, inner...)
	}
	if depth > 0 {
		e.Raw(inner)
	}
	return e.Bytes()
}

// hold connects, sends b, and reads until the other end closes.
func hold(ctx context.Context, addr string, b []byte) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	c.Write(b)
	for buf := make([]byte, 4096); ; {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// greet connects as a peer of the storm's tenant; the connection ends with ctx.
func greet(ctx context.Context, addr, host string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { c.Close() })
	_, err = c.Write(hello(host, "storm.example"))
	return c, err
}

// flood sends b again and again, and reads what comes.
func flood(ctx context.Context, addr, host string, b []byte) {
	c, err := greet(ctx, addr, host)
	if err != nil {
		return
	}
	defer c.Close()
	go func() {
		for buf := make([]byte, 64<<10); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// trickle sends a message octet by octet.
func trickle(ctx context.Context, addr, host string) {
	c, err := greet(ctx, addr, host)
	if err != nil {
		return
	}
	defer c.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for _, b := range bomb(500, 0) {
		<-tick.C
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
	}
}

// assault runs all attacks, each over some connections at a time, each again when
// it ends.
func assault(ctx context.Context, addr string, each int) (begun *atomic.Int64, wait func()) {
	begun = &atomic.Int64{}
	var wg sync.WaitGroup
	for _, attack := range attacks {
		for n := range each {
			wg.Go(func() {
				for ctx.Err() == nil {
					begun.Add(1)
					attack(ctx, addr, n)
					select {
					case <-ctx.Done():
					case <-time.After(20 * time.Millisecond):
					}
				}
			})
		}
	}
	return begun, wg.Wait
}

// Under all attacks at once, from its own address, a good peer is served, every
// bound is met and counted, and what the server holds is bounded.
func TestHostilePeers(t *testing.T) {
	l := startLab(t, embedded(t), 1, func(c *config) { c.Limits.Loopback, c.Limits.New = true, 50 })
	declareGuarded(t, l.api, 10)
	core, node := l.instances[0].core, l.instances[0].node
	l.instances[0].door.learn = false
	rtmtest.Until(t, "the peers are known", func() bool { return len(core.Catalogue().Peers()) == 2 })
	calm := dialPeer(t, l.targets[0], "gw0.calm.example", "calm.example")
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	begun, wait := assault(ctx, l.targets[0], 6)
	defer func() { stop(); wait() }()
	f := debit("calm", 0, 1)
	at := bytes.Index(f, []byte("00000000"))
	limits := &node.Counts.Limits
	met := map[string]func() int64{
		"rate": limits[peer.LimitRate].Load, "no CER": limits[peer.LimitCER].Load, "one octet a time": limits[peer.LimitSlow].Load, "oversize": limits[peer.LimitFrame].Load,
		"bad":     limits[peer.LimitBad].Load,
		"spoofed": l.instances[0].door.Counts.Spoofed.Load, "malformed": l.instances[0].door.Counts.Malformed.Load,
		"refused": node.Counts.Refused.Load, "held up": limits[peer.LimitWaste].Load,
	}
	sent := 0
	defer func() {
		for what, n := range met {
			t.Logf("%s: %d", what, n())
		}
		t.Logf("%d attacks begun, %d requests of the good peer served", begun.Load(), sent)
	}()
	for unmet := true; unmet; {
		if ctx.Err() != nil {
			t.Fatal("not every attack has met its bound within a minute")
		}
		for range 10 {
			copy(f[at:], fmt.Sprintf("%08d", sent))
			if got := number(calm.exchange(f).Body, diameter.ResultCode); got != 2001 {
				t.Fatalf("the good peer's request %d: %d", sent, got)
			}
			sent++
		}
		unmet = false
		for _, n := range met {
			unmet = unmet || n() == 0
		}
	}
	if node.Counts.Panics.Load()+core.Load.Panics.Load() != 0 {
		t.Error("the program failed on a message")
	}
	for _, c := range node.Conns() {
		if !strings.HasSuffix(c.Host, ".storm.example") && c.Host != "gw0.calm.example" {
			t.Errorf("%s is connected", c.Host)
		}
	}
}

// guardChild is the storm, or the attacks, in a process of its own: what it costs
// is not the good peer's. It is told "TENANT ADDR RATE WINDOW CONNECTIONS", or
// "attacks ADDR EACH", runs until SIGTERM, and prints what it counted.
func guardChild(what string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	args := strings.Fields(what)
	count := func(i int) int { n, _ := strconv.Atoi(args[i]); return n }
	if args[0] == "attacks" {
		begun, wait := assault(ctx, args[1], count(2))
		wait()
		fmt.Printf(`{"Begun":%d}`, begun.Load())
		return
	}
	b := &blaster{tenant: args[0], connections: count(4), accounts: guardAccounts}
	begun := time.Now()
	if err := b.run(ctx, args[1], count(2), count(3)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	fmt.Printf(`{"Sent":%d,"Granted":%d,"Busy":%d,"Other":%d,"Seconds":%f}`, b.Sent.Load(), b.Granted.Load(), b.Busy.Load(), b.Other.Load(), time.Since(begun).Seconds())
}

const (
	guardAccounts = 1000
	guardRate     = 200 // requests a second of the good peer
	guardFor      = 4 * time.Second
	guardRounds   = 3
)

// child is a running guardChild.
type child struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

func startChild(b *testing.B, nice int, format string, args ...any) *child {
	b.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), "RTM_TEST_GUARD="+fmt.Sprintf(format, args...))
	c.cmd.Stdout, c.cmd.Stderr = &c.out, os.Stderr
	if err := c.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, c.cmd.Process.Pid, nice); err != nil {
		b.Fatal(err)
	}
	return c
}

// end stops a child and returns what it counted.
func (c *child) end(b *testing.B) (o struct {
	Sent, Granted, Busy, Other, Begun int64
	Seconds                           float64
}) {
	b.Helper()
	c.cmd.Process.Signal(syscall.SIGTERM)
	c.cmd.Wait()
	if err := json.Unmarshal(c.out.Bytes(), &o); err != nil {
		b.Fatalf("%v: %q", err, c.out.String())
	}
	return o
}

// goodPeer sends guardRate requests a second for guardFor, whether they are
// answered or not, and says how long each took from when it was due.
func goodPeer(b *testing.B, w *wire, count *int) (p50, p99 time.Duration) {
	b.Helper()
	f := debit("calm", 0, 1)
	at := bytes.Index(f, []byte("00000000"))
	all := int(guardFor.Seconds() * guardRate)
	begun := time.Now()
	due := func(i int) time.Time { return begun.Add(time.Duration(i) * time.Second / guardRate) }
	sent := make(chan error, 1)
	go func() {
		for i := range all {
			<-time.After(time.Until(due(i)))
			*count++
			copy(f[at:], fmt.Sprintf("%08d", *count))
			binary.BigEndian.PutUint32(f[12:], uint32(i))
			if _, err := w.Write(f); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	var took []time.Duration
	refused := 0
	for range all {
		m, ok := w.next(10 * time.Second)
		if !ok {
			b.Fatalf("the good peer hears nothing any more after %d of %d answers", len(took), all)
		}
		if number(m.Body, diameter.ResultCode) != 2001 {
			refused++
		}
		took = append(took, time.Since(due(int(m.HopByHop))))
	}
	if err := <-sent; err != nil || refused > 0 {
		b.Errorf("%d of the good peer's requests were refused (%v)", refused, err)
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

// BenchmarkGuard has a good peer of one tenant send 200 requests a second to a
// server on the embedded store, in turn: quiet, beside a storm of another tenant
// at five times what the server can do, quiet again, beside all attacks. Storm and
// attacks come from a process of their own with lower priority; in the quiet
// rounds the same process sends as much to a socket that nobody serves, so that
// the processor is as busy with senders as in the storm. The figures are medians
// of the rounds.
func BenchmarkGuard(b *testing.B) {
	target, api := rtmtest.FreeAddr(b), rtmtest.FreeAddr(b)
	server := run(b, "serve", "--store", "embedded:"+b.TempDir(), "--diameter", target, "--http", api, "--records", "",
		"--limit-loopback", "--limit-new-connections", "200")
	rtmtest.Until(b, "the server is ready", ready("http://"+api))
	declareGuarded(b, "http://"+api, guardAccounts)
	w := dialPeer(b, target, "gw0.calm.example", "calm.example")
	sink, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer sink.Close()
	go swallow(sink)
	n := 0
	goodPeer(b, w, &n) // warm
	c := startChild(b, 0, "storm %s %d %d %d", target, 1_000_000, 64, 4)
	<-time.After(4 * time.Second)
	o := c.end(b)
	capacity := float64(o.Granted) / o.Seconds
	say("what the server can do for 256 at a time: %.0f debits a second", capacity)
	rate := int(5 * capacity)
	figures := make(map[string][]float64)
	memory := map[string]int64{"at first": resident(b, server.PID())}
	for range guardRounds {
		for _, round := range []struct{ name, child string }{
			{"quiet", fmt.Sprintf("storm %s %d %d 8", sink.Addr(), rate, 1<<30)},
			{"storm", fmt.Sprintf("storm %s %d %d 8", target, rate, 1<<30)},
			{"idle", ""},
			{"attacks", fmt.Sprintf("attacks %s 10", target)},
		} {
			var c *child
			if round.child != "" {
				c = startChild(b, 10, "%s", round.child)
				<-time.After(time.Second)
			}
			p50, p99 := goodPeer(b, w, &n)
			text := ""
			if c != nil {
				o := c.end(b)
				text = fmt.Sprintf("; %.0f a second sent (%.1f times what can be done), %d granted, %d busy, %d other, %d attacks begun",
					float64(o.Sent)/max(o.Seconds, 1), float64(o.Sent)/max(o.Seconds, 1)/capacity, o.Granted, o.Busy, o.Other, o.Begun)
			}
			memory[round.name] = max(memory[round.name], resident(b, server.PID()))
			say("%-8s good peer: p50 %7.2f ms, p99 %7.2f ms; server %d MiB%s", round.name, ms(p50), ms(p99), resident(b, server.PID())>>20, text)
			figures[round.name] = append(figures[round.name], ms(p99))
		}
	}
	quiet, idle := median(figures["quiet"]), median(figures["idle"])
	say("good peer's p99, medians: idle %.2f ms, quiet (busy senders) %.2f ms, storm %.2f ms (%.2f times), attacks %.2f ms (%.2f times idle)",
		idle, quiet, median(figures["storm"]), median(figures["storm"])/quiet, median(figures["attacks"]), median(figures["attacks"])/idle)
	for what, octets := range memory {
		say("server's memory, %s: %d MiB", what, octets>>20)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(figures["storm"])/quiet, "storm÷quiet")
	b.ReportMetric(median(figures["attacks"])/idle, "attacks÷idle")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// swallow reads what comes and says nothing.
func swallow(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			for buf := make([]byte, 1<<18); ; {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}()
	}
}

// resident is the memory of a process.
func resident(b *testing.B, pid int) int64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
