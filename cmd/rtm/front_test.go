package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"rtm"
	"rtm/api"
	"rtm/diameter"
	"rtm/rtmtest"
)

const frontPage = "../../docs/front.md"

// frontLine is two instances on Redis with two fronts before them, all of them processes.
type frontLine struct {
	t         *testing.T
	instances [2]*process
	fronts    [2]*process
	http      [2]string // of the instances
	pages     [2]string // of the fronts
	lab       *lab
}

func startFronts(t *testing.T) *frontLine {
	t.Helper()
	h := &frontLine{t: t}
	redis, records := rtmtest.StartRedis(t), t.TempDir()
	for i, host := range instanceHosts {
		management := rtmtest.FreeAddr(t)
		h.instances[i] = run(t, "serve", "--store", "redis://"+redis.Addr, "--peer-host", host,
			"--diameter", rtmtest.FreeAddr(t), "--http", management, "--records", records)
		h.http[i] = "http://" + management
	}
	for _, api := range h.http {
		rtmtest.Until(t, api+" is ready", ready(api))
	}
	h.lab = &lab{api: h.http[0], records: records}
	h.lab.apply(t, "../../examples/lab.yaml")
	sim, _, _ := strings.Cut(fromPage(t, freeDiameterPage, "kind: Tenant"), "---\n")
	h.apply(sim)
	h.apply(fromPage(t, frontPage, "kind: Peer"))
	for i := range h.fronts {
		addr, page := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t)
		h.fronts[i] = run(t, "front", "--store", "redis://"+redis.Addr, "--name", fmt.Sprint("front", i), "--diameter", addr, "--http", page)
		h.lab.targets, h.pages[i] = append(h.lab.targets, addr), "http://"+page
	}
	for _, page := range h.pages {
		rtmtest.Until(t, page+" is ready", ready(page))
	}
	h.apply("kind: Peer\nhost: raw.sim.localdomain\nrealm: sim.localdomain\nsources: [127.0.0.0/8]\ntenants: [lab]\nvia: [front.ocs.rtm.localdomain]\n")
	rtmtest.Until(t, "the front knows the peer", func() bool {
		c, err := net.Dial("tcp", h.lab.targets[0])
		if err != nil {
			t.Fatal(err)
		}
		_, result := introduce(t, c, "raw.sim.localdomain", "example")
		c.Close()
		return result == int(diameter.UnknownPeer) // its document names it, with another realm
	})
	return h
}

func (h *frontLine) apply(documents string) {
	h.t.Helper()
	r := remote{url: h.lab.api}
	if err := r.call(h.t.Context(), "POST", "/v1/apply", http.Header{"Content-Type": {"application/yaml"}}, strings.NewReader(documents), nil); err != nil {
		h.t.Fatal(err)
	}
}

// figure is a line of a front's metrics.
func (h *frontLine) figure(i int, name string) (v float64) {
	h.t.Helper()
	v, text := h.look(i, name)
	if text != "" {
		h.t.Fatalf("%s is not in the metrics:\n%s", name, text)
	}
	return v
}

// look is figure, or all that the metrics say, if they do not say that.
func (h *frontLine) look(i int, name string) (v float64, all string) {
	h.t.Helper()
	res, err := http.Get(h.pages[i] + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			fmt.Sscan(rest, &v)
			return v, ""
		}
	}
	return 0, fmt.Sprint(string(text), err)
}

// load plays sessions through both fronts while something happens.
func (h *frontLine) load(t *testing.T, while func()) *outcome {
	t.Helper()
	p, stop, ended := newPlay(h.lab), make(chan struct{}), make(chan struct{})
	p.conf.Sessions, p.conf.Parallel, p.conf.Hold, p.conf.Hop, p.conf.Stop = 1<<20, 100, 200*time.Millisecond, true, stop
	var o *outcome
	var failed error
	go func() {
		defer close(ended)
		o, failed = p.play(t.Context())
	}()
	func() {
		defer close(stop)
		passed := `rtm_front_requests_total{front="front0",outcome="passed"}`
		before := h.figure(0, passed)
		rtmtest.Until(t, "the load is there", func() bool { return h.figure(0, passed) > before+200 })
		while()
	}()
	if <-ended; failed != nil {
		t.Fatal(failed)
	}
	all(t, o)
	return o
}

// Gateways behind two fronts, and what becomes of instances and fronts meanwhile.
func TestFronts(t *testing.T) {
	t.Parallel()
	h := startFronts(t)
	for _, s := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"who is let in, and what is passed on", h.letIn},
		{"RAR and ASR come back", h.prompts},
		{"a gateway is traced", h.traced},
		{"instances are drained, killed and frozen, and gateways send nothing again", h.instancesGo},
		{"a front is killed, and drained", h.frontsGo},
	} {
		if !t.Run(s.name, s.test) {
			return
		}
	}
}

func (h *frontLine) letIn(t *testing.T) {
	c, err := net.Dial("tcp", h.lab.targets[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, result := introduce(t, c, "raw.sim.localdomain", "example"); result != int(diameter.UnknownPeer) {
		t.Errorf("one who calls itself like a peer was answered %d", result)
	}
	w := dialPeer(t, h.lab.targets[0], "raw.sim.localdomain", "sim.localdomain")
	send := func(want int, frame []byte) {
		t.Helper()
		if r := number(w.exchange(frame).Body, diameter.ResultCode); r != want {
			t.Errorf("answered %d, want %d", r, want)
		}
	}
	const session, imsi = "raw.sim.localdomain;f", "001010000000001"
	ccr := func(origin string, kind, number uint32) []byte {
		return request(origin, "sim.localdomain", servedRealm, session, imsi, kind, number, 1000)
	}
	send(2001, ccr("raw.sim.localdomain", 1, 0))
	send(5004, ccr("other.sim.localdomain", 2, 1)) // in somebody else's name
	for n := range uint32(10) {
		send(2001, proxied(ccr("raw.sim.localdomain", 2, n+1), "near"))
	}
	var s api.Session
	r := remote{url: h.http[1]}
	if err := r.call(t.Context(), "GET", "/v1/sessions/"+session, nil, nil, &s); err != nil {
		t.Fatal(err)
	}
	by := make(map[string]int)
	for _, m := range s.Trail {
		by[m.Instance]++
	}
	if len(by) != 2 {
		t.Errorf("the last messages were handled by %v", by)
	}
	send(2001, ccr("raw.sim.localdomain", 3, 11))
	send(5030, request("raw.sim.localdomain", "sim.localdomain", servedRealm, session+"2", "001019999999999", 1, 0, 0))
	send(3005, longer(request("raw.sim.localdomain", "sim.localdomain", servedRealm, session+"3", imsi, 1, 0, 0), func(e *diameter.Encoder) {
		e.String(diameter.RouteRecord, "front.ocs.rtm.localdomain")
	}))
	if n := h.figure(0, `rtm_front_requests_total{front="front0",outcome="refused"}`); n != 2 {
		t.Errorf("%v were refused by the front", n)
	}
}

// prompts asks for a report and for the end of a session at each of the fronts.
func (h *frontLine) prompts(t *testing.T) {
	for i, target := range h.lab.targets {
		p := newPlay(h.lab)
		p.conf.Targets, p.conf.Sessions, p.conf.Hold, p.conf.Seed = []string{target}, 1, time.Hour, uint64(i+1)
		h.lab.prompted(t, p)
	}
}

// traced watches a gateway behind a front by its name, and one session of it by its
// subscriber: each message is shown once, from whichever instance it went to, with the front
// that it came over.
func (h *frontLine) traced(t *testing.T) {
	const session, imsi = "raw.sim.localdomain;traced", "001010000000001"
	w := dialPeer(t, h.lab.targets[1], "raw.sim.localdomain", "sim.localdomain")
	ccr := func(kind, number uint32) []byte {
		return request("raw.sim.localdomain", "sim.localdomain", servedRealm, session, imsi, kind, number, 1000)
	}
	byPeer, endPeer := h.lab.startTrace(t, "raw.sim.localdomain", "--short")
	bySubscriber, endSubscriber := h.lab.startTrace(t, "imsi:"+imsi, "--short")
	w.exchange(ccr(1, 0))
	for n := range uint32(6) {
		w.exchange(ccr(2, n+1))
	}
	h.lab.tell(t, "session", "reauth", session)
	m, ok := w.next(5 * time.Second)
	if !ok || m.Command != diameter.ReAuth {
		t.Fatalf("got %+v", m)
	}
	w.replies(m, "raw.sim.localdomain", "sim.localdomain", 2001)
	w.exchange(ccr(3, 7))
	for _, text := range []func() string{byPeer, bySubscriber} {
		lines := map[string]int{"→ CCR-I": 1, "→ CCR-U": 6, "← CCA-U": 6, "← CCA-T " + session + " #7 2001": 1, "→ RAA " + session + " 2001": 1} // the other front may have been asked first, and answered 3002
		whole := func() bool {                                                                                                                   // the instances tell each by itself
			for line, want := range lines {
				if strings.Count(text(), line) < want {
					return false
				}
			}
			return true
		}
		rtmtest.Until(t, "all is shown", whole)
		for line, want := range lines {
			if n := strings.Count(text(), line); n != want {
				t.Errorf("%q is there %d times, not %d:\n%s", line, n, want, text())
			}
		}
		for _, host := range instanceHosts {
			if name, _, _ := strings.Cut(host, "."); !strings.Contains(text(), name+" front.ocs.rtm.localdomain → CCR") {
				t.Errorf("nothing is shown of %s:\n%s", name, text())
			}
		}
	}
	for _, end := range []func() error{endPeer, endSubscriber} {
		if err := end(); err != nil {
			t.Error(err)
		}
	}
}

func (h *frontLine) instancesGo(t *testing.T) {
	inHand := func(i int) bool {
		name := strings.SplitN(instanceHosts[i], ".", 2)[0]
		v, missing := h.look(0, fmt.Sprintf("rtm_front_in_hand{front=%q,instance=%q}", "front0", name))
		return missing == "" && v >= 0
	}
	again := func(i int) {
		h.instances[i].start()
		rtmtest.Until(t, "the instance is back", func() bool { return ready(h.http[i])() && inHand(i) })
	}
	o := h.load(t, func() {
		if err := farewell(h.instances[1].cmd); err != nil {
			t.Errorf("it ended with %v", err)
		}
		again(1)
		h.instances[0].kill9()
		again(0)
		h.instances[1].freeze()
		<-time.After(3 * time.Second)
		h.instances[1].thaw()
	})
	if o.Resent > 0 || o.Closed > 0 {
		t.Errorf("gateways sent %d again, and lost %d connections", o.Resent, o.Closed)
	}
	t.Logf("fronts sent %.0f and %.0f to a further instance, slowest answer %s",
		h.figure(0, `rtm_front_resent_total{front="front0"}`), h.figure(1, `rtm_front_resent_total{front="front1"}`), o.Max)
}

func (h *frontLine) frontsGo(t *testing.T) {
	h.load(t, func() {
		h.fronts[1].kill9()
		h.fronts[1].start()
		rtmtest.Until(t, "the front is back", ready(h.pages[1]))
		if err := farewell(h.fronts[1].cmd); err != nil {
			t.Errorf("it ended with %v", err)
		}
		h.fronts[1].start()
		rtmtest.Until(t, "the front is back", ready(h.pages[1]))
	})
}

// What a front is asked in vain.
func TestFrontNeedsASharedStore(t *testing.T) {
	root := command()
	root.SetArgs([]string{"front"})
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "--store redis://") {
		t.Errorf("%v", err)
	}
	s := &frontServer{machine: "here"}
	for _, c := range []struct{ listens, machine, want string }{
		{"192.0.2.1:3868", "there", "192.0.2.1:3868"}, {"0.0.0.0:3868", "here", "127.0.0.1:3868"}, {"[::]:3868", "there", "there:3868"}, {"", "", ""},
	} {
		p := rtm.Presence{Machine: c.machine}
		if c.listens != "" {
			p.Diameter = []string{c.listens}
		}
		if got := s.reach(&p); got != c.want {
			t.Errorf("%s of %s is reached at %q, want %q", c.listens, c.machine, got, c.want)
		}
	}
}
