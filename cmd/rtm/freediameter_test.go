package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rtm/api"
	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/rtmtest"
)

// The gateway and the relay of docs/freediameter.md.
const (
	gatewayHost, gatewayRealm = "raw.sim.localdomain", "sim.localdomain"
	relayHost                 = "dra.example.net"
	servedRealm               = "rtm.localdomain"
)

var instanceHosts = [2]string{"a.ocs.rtm.localdomain", "b.ocs.rtm.localdomain"}

// fromPage is the indented block of a page that begins with those words.
func fromPage(t testing.TB, page, begin string) string {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\n\n       "+begin)
	block, _, ends := strings.Cut(rest, "\n\n")
	if !ok || !ends {
		t.Fatalf("%s has no block that begins with %q", page, begin)
	}
	return begin + strings.ReplaceAll(block, "\n       ", "\n") + "\n"
}

// freeDiameter is a freeDiameterd as docs/freediameter.md sets it up.
type freeDiameter struct {
	t    testing.TB
	addr string // where gateways connect
	cmd  *exec.Cmd
	log  string
}

const freeDiameterPage = "../../docs/freediameter.md"

// startFreeDiameter runs the page's relay, with more settings, in front of two
// servers until the test ends; only the ports are others.
func startFreeDiameter(t testing.TB, more string, servers ...*tap) *freeDiameter {
	t.Helper()
	path, err := exec.LookPath("freeDiameterd")
	if err != nil {
		t.Fatal("there is no freeDiameterd: run make install")
	}
	dir := t.TempDir()
	f := &freeDiameter{t: t, addr: rtmtest.FreeAddr(t), log: filepath.Join(dir, "log")}
	conf := fromPage(t, freeDiameterPage, "Identity = ")
	for from, addr := range map[string]string{"\nPort = 3870;": f.addr, "Port = 3868;": servers[0].addr, "Port = 3869;": servers[1].addr} {
		_, port, _ := net.SplitHostPort(addr)
		to := strings.TrimRight(from, "0123456789;") + port + ";"
		if strings.Count(conf, from) != 1 {
			t.Fatalf("%q is not once in\n%s", from, conf)
		}
		conf = strings.Replace(conf, from, to, 1)
	}
	conf = strings.ReplaceAll(conf, `"127.0.0.20"`, `"127.0.0.1"`)
	for name, text := range map[string]string{"dra.conf": conf + more, "dra.acl": fromPage(t, freeDiameterPage, "ALLOW_IPSEC ")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate := exec.Command("sh", "-c", fromPage(t, freeDiameterPage, "openssl "))
	certificate.Dir = dir
	if out, err := certificate.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	log, err := os.Create(f.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	f.cmd = exec.Command(path, "-c", "dra.conf")
	f.cmd.Dir, f.cmd.Stdout, f.cmd.Stderr = dir, log, log
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.cmd.Process.Kill()
		f.cmd.Wait()
		if t.Failed() {
			t.Logf("freeDiameterd: %s", f.said())
		}
	})
	for _, host := range instanceHosts {
		rtmtest.Until(t, host+" is open", func() bool { return f.opened(host) == 1 })
	}
	return f
}

func (f *freeDiameter) said() string {
	b, err := os.ReadFile(f.log)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

// opened is how often a peer has become open.
func (f *freeDiameter) opened(host string) int {
	return strings.Count(f.said(), "-> 'STATE_OPEN'\t'"+host+"'")
}

// A tap stands between the relay and a server, and notes each message that
// passes.
type tap struct {
	addr string
	to   string

	mu   sync.Mutex // guards all below
	seen []passed
	owed int // CCRs that were not answered yet
	lost int // CCRs that were not answered when their connection ended
}

// passed is one message.
type passed struct {
	up bool // towards the server
	diameter.Header
	result int
	routes []string // Route-Record
}

// startTap listens until the test ends, and forwards to a server.
func startTap(t testing.TB, to string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	k := &tap{addr: l.Addr().String(), to: to}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			owed := make(map[uint32]bool)
			go k.carry(c, s, true, owed)
			go k.carry(s, c, false, owed)
		}
	}()
	return k
}

// carry takes what from says to to until either is closed.
func (k *tap) carry(from, to net.Conn, up bool, owed map[uint32]bool) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 64<<10)
	for whole := []byte(nil); ; {
		n, err := from.Read(b)
		if err != nil {
			break
		}
		for whole = append(whole, b[:n]...); ; {
			m, rest, err := diameter.Frame(whole, diameter.MessageMax)
			if err != nil {
				break
			}
			whole = rest
			k.note(&m, up, owed)
		}
		if _, err := to.Write(b[:n]); err != nil {
			break
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.owed -= len(owed)
	k.lost += len(owed)
	clear(owed)
}

func (k *tap) note(m *diameter.Message, up bool, owed map[uint32]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = append(k.seen, passed{up, m.Header, number(m.Body, diameter.ResultCode), every(m.Body, diameter.RouteRecord)})
	if m.Command != diameter.CreditControl {
		return
	}
	k.owed -= len(owed)
	if m.Request() {
		owed[m.HopByHop] = true
	} else {
		delete(owed, m.HopByHop)
	}
	k.owed += len(owed)
}

// count is how many messages have passed that are like that.
func (k *tap) count(like func(p *passed) bool) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.seen {
		if like(&k.seen[i]) {
			n++
		}
	}
	return n
}

// unanswered is how many CCRs wait for an answer, and how many never got one.
func (k *tap) unanswered() (waiting, lost int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.owed, k.lost
}

// what makes count see messages of one command in one direction.
func what(c diameter.Command, request, up bool) func(p *passed) bool {
	return func(p *passed) bool { return p.Command == c && p.Request() == request && p.up == up }
}

func (k *tap) requests() int { return k.count(what(diameter.CreditControl, true, true)) }

// repeats counts the CCRs that carry T.
func (k *tap) repeats() int {
	return k.count(func(p *passed) bool {
		return p.Command == diameter.CreditControl && p.Request() && p.Flags&diameter.FlagRetransmit != 0
	})
}

// hub is freeDiameter between gateways and two instances, all of them processes.
type hub struct {
	relay     *freeDiameter
	instances [2]*process
	http      [2]string
	taps      [2]*tap
	lab       *lab
}

func startHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{}
	redis, records := rtmtest.StartRedis(t), t.TempDir()
	for i, host := range instanceHosts {
		target, management := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t)
		h.instances[i] = run(t, "serve", "--store", "redis://"+redis.Addr, "--peer-host", host,
			"--diameter", target, "--http", management, "--records", records)
		h.http[i], h.taps[i] = "http://"+management, startTap(t, target)
	}
	for _, api := range h.http {
		rtmtest.Until(t, api+" is ready", ready(api))
	}
	h.lab = &lab{api: h.http[0], records: records}
	h.lab.apply(t, "../../examples/lab.yaml")
	h.apply(t, fromPage(t, freeDiameterPage, "kind: Tenant"))
	h.relay = startFreeDiameter(t, "", h.taps[:]...)
	h.lab.targets = []string{h.relay.addr}
	return h
}

// apply makes documents count on both instances.
func (h *hub) apply(t *testing.T, documents string) {
	t.Helper()
	r := remote{url: h.lab.api}
	if err := r.call(t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(documents), nil); err != nil {
		t.Fatal(err)
	}
}

// freeDiameter as a relay in front of two instances, to which it deals messages
// as chance will have it.
func TestFreeDiameterAsRelay(t *testing.T) {
	t.Parallel()
	h := startHub(t)
	for _, s := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"both instances get messages of one session, and what agents add is kept apart", h.oneSession},
		{"RAR and ASR go back through it", h.prompts},
		{"watchdogs when nobody speaks", h.watchdogs},
		{"a session stays with an instance until that leaves", h.stays},
		{"an instance leaves under load and comes back", h.leaves},
		{"instances are killed with requests in hand", h.killed},
		{"Route-Record in each request that arrives, in no answer that leaves", h.routes},
		{"it says goodbye", h.goodbye},
	} {
		if !t.Run(s.name, s.test) {
			return // what follows needs what failed
		}
	}
}

// longer is a request with AVPs added.
func longer(frame []byte, add func(e *diameter.Encoder)) []byte {
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, 0, 0)
	header := len(e.Bytes())
	add(&e)
	frame = append(frame, e.Bytes()[header:]...)
	binary.BigEndian.PutUint32(frame, uint32(frame[0])<<24|uint32(len(frame)))
	return frame
}

// proxied adds a Proxy-Info for each agent that wants to see its own again.
func proxied(frame []byte, agents ...string) []byte {
	return longer(frame, func(e *diameter.Encoder) {
		for _, a := range agents {
			e.Open(diameter.ProxyInfo)
			e.String(diameter.ProxyHost, a+".sim.localdomain")
			e.String(diameter.ProxyState, "state of "+a+"\x00\xff")
			e.Close()
		}
	})
}

// destined adds a Destination-Host.
func destined(frame []byte, host string) []byte {
	return longer(frame, func(e *diameter.Encoder) { e.String(diameter.DestinationHost, host) })
}

// oneSession plays one session until the relay has dealt messages of it to both
// instances, and then requests that are refused.
func (h *hub) oneSession(t *testing.T) {
	w := dialPeer(t, h.relay.addr, gatewayHost, gatewayRealm)
	send := func(result int, frame []byte) {
		t.Helper()
		frame = proxied(frame, "near", "far-away", "near")
		sent, _, err := diameter.Frame(frame, diameter.MessageMax)
		if err != nil {
			t.Fatal(err)
		}
		m := w.exchange(frame)
		if r := number(m.Body, diameter.ResultCode); r != result {
			t.Fatalf("answered %d, %d is wanted", r, result)
		}
		if error := m.Flags&diameter.FlagError != 0; error != diameter.Result(result).Protocol() {
			t.Errorf("%d with E %v", result, error)
		}
		if m.EndToEnd != sent.EndToEnd || m.HopByHop != sent.HopByHop {
			t.Errorf("%d has the identifiers %d, %d, sent were %d, %d", result, m.HopByHop, m.EndToEnd, sent.HopByHop, sent.EndToEnd)
		}
		if got, want := every(m.Body, diameter.ProxyInfo), every(sent.Body, diameter.ProxyInfo); len(want) != 3 || !slices.Equal(got, want) {
			t.Errorf("%d came back with Proxy-Info\n%q, sent was\n%q", result, got, want)
		}
		// freeDiameter notes in an answer whom it has that from; what the request carried stays out.
		for _, route := range every(m.Body, diameter.RouteRecord) {
			if strings.HasSuffix(route, gatewayHost) {
				t.Errorf("%d came back with the request's Route-Record", result)
			}
		}
	}
	ccr := func(session, imsi string, kind, number uint32, used uint64) []byte {
		return request(gatewayHost, gatewayRealm, servedRealm, session, imsi, kind, number, used)
	}
	const session, imsi = "raw.sim.localdomain;1", "001010000000001"
	send(2001, ccr(session, imsi, 1, 0, 0))
	n := uint32(1)
	for by := h.handled(t, session); len(by) < 2; by = h.handled(t, session) {
		if n > 40 {
			t.Fatalf("all %d messages were handled by %v", n, by)
		}
		send(2001, destined(ccr(session, imsi, 2, n, 1000), "ocs.rtm.localdomain")) // the Origin-Host of the answers
		n++
	}
	send(2001, ccr(session, imsi, 3, n, 1000))
	t.Logf("%d messages of one session", n+1)

	send(5030, ccr("raw.sim.localdomain;2", "001019999999999", 1, 0, 0))
	send(5002, ccr("raw.sim.localdomain;3", imsi, 2, 1, 1000))
	send(5004, ccr("raw.sim.localdomain;4", imsi, 9, 0, 0))
	send(3002, destined(ccr("raw.sim.localdomain;6", imsi, 1, 0, 0), "c.ocs.rtm.localdomain"))
	strayed := request(gatewayHost, gatewayRealm, "example.net", "raw.sim.localdomain;5", imsi, 1, 0, 0)
	send(3002, strayed) // the relay's own realm, and nobody of it is there: its own answer
}

// handled are the instances that worked on a session, as the management
// interface tells.
func (h *hub) handled(t *testing.T, session string) (by []string) {
	t.Helper()
	var s api.Session
	r := remote{url: h.http[1]}
	if err := r.call(t.Context(), "GET", "/v1/sessions/"+session, nil, nil, &s); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Trail {
		if !slices.Contains(by, m.Instance) {
			by = append(by, m.Instance)
		}
	}
	return by
}

// prompts asks for a report and then for the end of a session whose gateway is
// behind the relay.
func (h *hub) prompts(t *testing.T) {
	p := newPlay(h.lab)
	p.conf.Destination, p.conf.Sessions, p.conf.Hold, p.conf.Seed = servedRealm, 1, time.Hour, 1
	h.lab.prompted(t, p)
	for _, m := range []struct {
		command diameter.Command
		result  int
	}{{diameter.ReAuth, 2002}, {diameter.AbortSession, 2001}} {
		answers := func(p *passed) bool { return what(m.command, false, true)(p) && p.result == m.result }
		asked, answered := 0, 0
		for _, k := range h.taps {
			asked, answered = asked+k.count(what(m.command, true, false)), answered+k.count(answers)
		}
		if asked == 0 || answered != asked { // on a busy machine it may be sent again
			t.Errorf("%s: %d were sent, %d were answered %d", m.command, asked, answered, m.result)
		}
	}
}

// watchdogs waits until the relay has asked both instances and a gateway whether
// they live.
func (h *hub) watchdogs(t *testing.T) {
	w := dialPeer(t, h.relay.addr, gatewayHost, gatewayRealm)
	var asked [2]int
	for i, k := range h.taps {
		asked[i] = k.count(what(diameter.DeviceWatchdog, true, true))
	}
	for i, k := range h.taps {
		rtmtest.Until(t, fmt.Sprintf("instance %d was asked, and has answered", i), func() bool {
			n := k.count(what(diameter.DeviceWatchdog, true, true))
			return n > asked[i] && k.count(what(diameter.DeviceWatchdog, false, false)) == n
		})
	}
	m, ok := w.next(10 * time.Second)
	if !ok || m.Command != diameter.DeviceWatchdog || !m.Request() || textOf(m.Body, diameter.OriginHost) != relayHost {
		t.Fatalf("the gateway was not asked: %+v", m)
	}
	var e diameter.Encoder
	e.Reset(nil)
	e.Answer(&m.Header, 0)
	e.Uint32(diameter.ResultCode, 2001)
	e.String(diameter.OriginHost, gatewayHost)
	e.String(diameter.OriginRealm, gatewayRealm)
	if _, err := w.Write(e.Bytes()); err != nil {
		t.Fatal(err)
	}
	for _, host := range instanceHosts {
		if n := h.relay.opened(host); n != 1 {
			t.Errorf("%s was opened %d times: the relay did not like an answer", host, n)
		}
	}
}

// stays plays a session of a gateway that goes on with whoever answered it, when
// instances answer as themselves: to the same one, until that has left.
func (h *hub) stays(t *testing.T) {
	relay := fromPage(t, freeDiameterPage, "kind: Tenant")
	h.apply(t, relay+"answerAs: instance\n")
	const host, session, imsi = "loyal.sim.localdomain", "loyal.sim.localdomain;1", "001010000000001"
	w := dialPeer(t, h.relay.addr, host, gatewayRealm)
	by, n := "", uint32(0)
	send := func(kind uint32) {
		t.Helper()
		frame := request(host, gatewayRealm, servedRealm, session, imsi, kind, n, 0)
		if by != "" {
			frame = destined(frame, by)
		}
		m := w.exchange(frame)
		if r := number(m.Body, diameter.ResultCode); r != 2001 {
			t.Fatalf("number %d to %s was answered %d", n, by, r)
		}
		by, n = textOf(m.Body, diameter.OriginHost), n+1
	}
	send(1)
	first := by
	for range 10 {
		if send(2); by != first {
			t.Fatalf("number %d was answered by %s, those before by %s", n-1, by, first)
		}
	}
	if handled := h.handled(t, session); len(handled) != 1 {
		t.Errorf("%v worked on it", handled)
	}
	i := slices.Index(instanceHosts[:], first)
	if i < 0 {
		t.Fatalf("answered by %s", first)
	}
	opened := h.relay.opened(first)
	farewell(h.instances[i].cmd)
	if send(3); by != instanceHosts[1-i] {
		t.Errorf("%s has left, and %s answered", first, by)
	}
	h.instances[i].start()
	rtmtest.Until(t, first+" is open again", func() bool { return h.relay.opened(first) > opened })
	rtmtest.Until(t, "all are ready", func() bool { return ready(h.http[0])() && ready(h.http[1])() })
	h.apply(t, relay)
}

// load plays sessions through the relay for as long as the test does something
// to the instances, and holds the books against what it finds.
func (h *hub) load(t *testing.T, while func()) *outcome {
	t.Helper()
	p, stop, ended := newPlay(h.lab), make(chan struct{}), make(chan struct{})
	p.conf.Destination, p.conf.Sessions, p.conf.Parallel, p.conf.Hold, p.conf.Stop = servedRealm, 1<<20, 250, 300*time.Millisecond, stop
	var o *outcome
	var failed error
	go func() {
		defer close(ended)
		o, failed = p.play(t.Context())
	}()
	func() {
		defer close(stop)
		before := h.taps[0].requests() + h.taps[1].requests()
		rtmtest.Until(t, "the load is there", func() bool { return h.taps[0].requests()+h.taps[1].requests() > before+500 })
		while()
	}()
	if <-ended; failed != nil {
		t.Fatal(failed)
	}
	all(t, o)
	return o
}

// back starts an instance again and waits until the relay deals messages to it.
func (h *hub) back(t *testing.T, i int) {
	t.Helper()
	before := h.taps[i].requests()
	h.instances[i].start()
	rtmtest.Until(t, "it gets messages again", func() bool { return h.taps[i].requests() > before+100 })
}

// farewell tells a process to end, and waits until it has.
func farewell(cmd *exec.Cmd) error {
	cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer late.Stop()
	return cmd.Wait()
}

// leaves ends an instance in good order, and starts it again.
func (h *hub) leaves(t *testing.T) {
	k, repeats := h.taps[1], h.taps[0].repeats()
	_, before := k.unanswered()
	asked, answered := k.count(what(diameter.DisconnectPeer, true, false)), k.count(what(diameter.DisconnectPeer, false, true))
	o := h.load(t, func() {
		began := time.Now()
		if err := farewell(h.instances[1].cmd); err != nil {
			t.Errorf("it ended with %v: %s", err, h.instances[1].out.String())
		}
		t.Logf("it was gone after %s", time.Since(began))
		if k.count(what(diameter.DisconnectPeer, true, false)) != asked+1 || k.count(what(diameter.DisconnectPeer, false, true)) != answered+1 {
			t.Error("there was no DPR, or no DPA")
		}
		h.back(t, 1)
	})
	if o.Resent > 0 {
		t.Errorf("gateways sent %d again", o.Resent)
	}
	_, lost := k.unanswered()
	t.Logf("%d requests were not answered before it left, the relay sent %d with T, slowest answer %s", lost-before, h.taps[0].repeats()-repeats, o.Max)
}

// inHandMin is how many requests are in hand when an instance is killed.
const inHandMin = 10

// killed ends first the one instance, then the other, with requests in hand.
func (h *hub) killed(t *testing.T) {
	repeats, caught := h.taps[0].repeats()+h.taps[1].repeats(), 0
	o := h.load(t, func() {
		for i, k := range h.taps {
			_, before := k.unanswered()
			h.kill(t, i)
			rtmtest.Until(t, "its connection is closed", func() bool { waiting, _ := k.unanswered(); return waiting == 0 })
			_, lost := k.unanswered()
			if lost-before < inHandMin {
				t.Errorf("only %d requests were in hand", lost-before)
			}
			caught += lost - before
			h.back(t, i)
		}
	})
	t.Logf("%d requests were in hand, the relay sent %d with T, gateways sent %d again, slowest answer %s",
		caught, h.taps[0].repeats()+h.taps[1].repeats()-repeats, o.Resent, o.Max)
}

// kill ends an instance with SIGKILL. It is stopped first, so that the last
// requests that reach it are certainly not answered.
func (h *hub) kill(t *testing.T, i int) {
	t.Helper()
	h.instances[i].cmd.Process.Signal(syscall.SIGSTOP)
	rtmtest.Until(t, "enough is in hand", func() bool { waiting, _ := h.taps[i].unanswered(); return waiting >= inHandMin })
	h.instances[i].kill9()
}

// routes looks at all messages that have passed.
func (h *hub) routes(t *testing.T) {
	for i, k := range h.taps {
		requests, answers := k.requests(), k.count(what(diameter.CreditControl, false, false))
		named := k.count(func(p *passed) bool {
			return what(diameter.CreditControl, true, true)(p) && len(p.routes) == 1 && strings.HasSuffix(p.routes[0], "."+gatewayRealm)
		})
		wrong := k.count(func(p *passed) bool { return !p.Request() && !p.up && len(p.routes) > 0 })
		if requests == 0 || named != requests || wrong > 0 {
			t.Errorf("instance %d: %d of %d requests have one Route-Record, %d of %d answers have some", i, named, requests, wrong, answers)
		}
		t.Logf("instance %d: %d CCR, %d CCA, %d DWR, %d CER", i, requests, answers,
			k.count(what(diameter.DeviceWatchdog, true, true)), k.count(what(diameter.CapabilitiesExchange, true, true)))
	}
}

// goodbye ends the relay: it takes leave of the instances. What becomes of it then
// is its own affair: on a busy machine an assertion on its queues ends it.
func (h *hub) goodbye(t *testing.T) {
	var before [2]int
	for i, k := range h.taps {
		before[i] = k.count(what(diameter.DisconnectPeer, true, true))
	}
	t.Logf("freeDiameterd ended with %v", farewell(h.relay.cmd))
	for i, k := range h.taps {
		if asked, answered := k.count(what(diameter.DisconnectPeer, true, true)), k.count(what(diameter.DisconnectPeer, false, false)); asked != before[i]+1 || answered != asked {
			t.Errorf("instance %d got %d DPR and sent %d DPA", i, asked-before[i], answered-before[i])
		}
	}
}

// nobody is a server that says nothing.
type nobody struct{}

func (nobody) Admit(peer.Capabilities) (any, diameter.Result) { return nil, 0 }
func (nobody) Receive(batch []*peer.Request) {
	for _, r := range batch {
		r.Drop()
	}
}
func (nobody) Answered(*peer.Conn, any, *diameter.Message) {}
func (nobody) Closed(*peer.Conn, []any)                    {}

// A server asks too, when nothing was heard for its own Tw; an instance's is 30 s,
// so here are two servers of the same make that ask after one.
func TestFreeDiameterAnswersWatchdogs(t *testing.T) {
	var taps [2]*tap
	var nodes [2]*peer.Node
	for i, host := range instanceHosts {
		n, err := peer.New(peer.Config{PeerHost: host, Realm: servedRealm, OriginStateID: originStateID, Watchdog: time.Second, Log: quiet(t)}, nobody{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go n.Serve(l)
		t.Cleanup(n.Close)
		nodes[i], taps[i] = n, startTap(t, l.Addr().String())
	}
	f := startFreeDiameter(t, fromPage(t, freeDiameterPage, `LoadExtension = "dict_nasreq`), taps[:]...)
	for i, k := range taps {
		rtmtest.Until(t, "three DWR were answered", func() bool {
			return k.count(func(p *passed) bool { return what(diameter.DeviceWatchdog, false, true)(p) && p.result == 2001 }) >= 3
		})
		if n := k.count(what(diameter.CapabilitiesExchange, true, true)); n != 1 || len(nodes[i].Conns()) != 1 {
			t.Errorf("server %d: %d CER, %d connections are open", i, n, len(nodes[i].Conns()))
		}
	}
	if !strings.Contains(f.said(), "'Device-Watchdog-Answer'") {
		t.Error("messages are not shown by name")
	}
}
