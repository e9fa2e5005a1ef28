package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rtm/api"
	"rtm/diameter"
	"rtm/diameter/peer"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/store/storetest"
)

// startTrace runs rtm trace, and returns what it prints, notes too, once the instances are
// watched.
func (l *lab) startTrace(t *testing.T, args ...string) (text func() string, end func() error) {
	t.Helper()
	var out lockedBuffer
	ctx, cancel := context.WithCancel(t.Context())
	root := command()
	root.SetArgs(append([]string{"trace", "--api", l.api}, args...))
	root.SetOut(&out)
	root.SetErr(&out)
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	rtmtest.Until(t, "all instances are watched", func() bool { return strings.Contains(out.String(), "watching ") })
	return out.String, func() error { cancel(); return <-ended }
}

// The gateway is connected to B; the trace is asked for at A, and shows each message
// with its AVPs, what was asked of the gateway, and nothing of other subscribers.
func TestTraceOfASubscriber(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	l.apply(t, "../../examples/lab.yaml")
	text, end := l.startTrace(t, "msisdn:491700000001")
	w := dialPeer(t, l.targets[1], "pgw.epc", "epc")
	w.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0))
	w.exchange(request("pgw.epc", "epc", "epc", "other;1", "001010000000002", 1, 0, 0))
	l.tell(t, "session", "reauth", "s;1")
	m, ok := w.next(5 * time.Second)
	if !ok || m.Command != diameter.ReAuth {
		t.Fatalf("got %+v", m)
	}
	w.replies(m, "pgw.epc", "epc", 2002)
	w.exchange(ccr("pgw.epc", "epc", "s;1", 2, 1, 1000))
	want := []string{
		"B pgw.epc → CCR-I s;1 #0", "Subscription-Id-Data: 001010000000001", "B pgw.epc ← CCA-I s;1 #0 2001 after",
		"• rating group 10: granted 10 MiB of internet", "• bucket 2: 10 MiB reserved,", "CC-Total-Octets: ",
		"B pgw.epc ← RAR s;1", "Re-Auth-Request-Type: 0", "B pgw.epc → RAA s;1 2002", "B pgw.epc → CCR-U s;1 #1", "B pgw.epc ← CCA-U s;1 #1 2001 after",
		"• rating group 10: internet of plan standard v1; used 1000 B, charged 0.00, 1000 B from allowances; granted 10 MiB",
	}
	rtmtest.Until(t, "all messages are shown", func() bool { return strings.Contains(text(), want[len(want)-1]) })
	rest := text()
	for _, line := range want {
		at := strings.Index(rest, line)
		if at < 0 {
			t.Fatalf("%q does not come in its turn in\n%s", line, text())
		}
		rest = rest[at+len(line):]
	}
	if strings.Contains(text(), "other;1") {
		t.Errorf("another subscriber is shown:\n%s", text())
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	rtmtest.Until(t, "nobody watches any more", func() bool { return l.instances[1].door.tracer.active.Load() == 0 })
}

// Of a peer also what is refused is shown.
func TestTraceOfAPeer(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	rtmtest.Until(t, "the peer is known", func() bool {
		all := l.live()[0].Instances()
		return len(all) == 1 && len(all[0].Peers) == 1
	})
	text, end := l.startTrace(t, "pgw.epc", "--short")
	w.exchange(request("pgw.epc", "epc", "epc", "s;9", "001019999999999", 1, 0, 0))
	w.exchange(request("pgw.epc", "epc", "elsewhere", "s;9", "001010000000001", 1, 0, 0))
	rtmtest.Until(t, "both refusals are shown", func() bool {
		return strings.Contains(text(), "CCA-I s;9 #0 5030") && strings.Contains(text(), "CCA s;9 3003")
	})
	for range 2 {
		w.exchange(ccr("pgw.epc", "epc", "s;1", 1, 0, 0))
	}
	w.exchange(ccr("pgw.epc", "epc", "s;2", 2, 1, 1000))
	rtmtest.Until(t, "usage of a session that is not open is shown", func() bool { return strings.Contains(text(), "CCA-U s;2 #1 5002") })
	for _, want := range []string{"• 5030, nobody here has that identity", "• it is on record already", "• 5002, the session was not open"} {
		if strings.Count(text(), want) != 1 {
			t.Errorf("%q is not shown once", want)
		}
	}
	if t.Failed() {
		t.Log(text())
	}
	if strings.Contains(text(), "Session-Id") {
		t.Errorf("the AVPs are shown:\n%s", text())
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// refusing is a store that takes no commits while it is told what becomes of them.
type refusing struct {
	store.Store
	outcome atomic.Uint32 // a store.Outcome; zero: as the store says
}

func (s *refusing) Commit(ctx context.Context, commits []store.Commit) ([]store.Result, time.Time) {
	o := store.Outcome(s.outcome.Load())
	if o == 0 {
		return s.Store.Commit(ctx, commits)
	}
	results := make([]store.Result, len(commits))
	for i := range results {
		results[i] = store.Result{Outcome: o, Err: errors.New("not now")}
	}
	return results, time.Now()
}

// A gateway behind a relay is traced by its own name, before anything of it has come; what
// gets no answer is shown too.
func TestTraceOfAGatewayBehindARelay(t *testing.T) {
	t.Parallel()
	st := &refusing{Store: storetest.NewMemory()}
	l := startLab(t, st, 1)
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "dra.hub", "relays: [epc]\ndialect: open5gs\n")
	text, end := l.startTrace(t, "smf1.epc", "--short")
	w := dialPeer(t, l.targets[0], "dra.hub", "hub")
	w.exchange(ccr("smf1.epc", "epc", "s;1", 1, 0, 0))
	w.exchange(ccr("smf2.epc", "epc", "s;2", 1, 0, 0))
	rtmtest.Until(t, "it is shown", func() bool { return strings.Contains(text(), "dra.hub ← CCA-I s;1 #0 2001") })
	for n, c := range []struct {
		outcome store.Outcome
		why     string
	}{{store.Refused, "it could not be decided and written within 5s: nothing was charged"}, {store.InDoubt, "it may have taken effect"}} {
		st.outcome.Store(uint32(c.outcome))
		w.Write(ccr("smf1.epc", "epc", "s;1", 2, uint32(1+n), 1000))
		rtmtest.Until(t, "what is not answered is shown, and why", func() bool {
			return strings.Count(text(), "dra.hub ← no answer") == 1+n && strings.Contains(text(), "• "+c.why)
		})
		st.outcome.Store(0)
	}
	if strings.Contains(text(), "s;2") || strings.Count(text(), "granted") != 1 { // what was decided, and not written, is not told
		t.Error(text())
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// What is turned away is shown with the reason: to who may hear it, and to who may not,
// also if nobody has looked at it, or at whose it is.
func TestTraceOfWhatIsTurnedAway(t *testing.T) {
	t.Parallel()
	st := &refusing{Store: storetest.NewMemory()}
	l := startLab(t, st, 1, func(c *config) { c.Limits.InFlight = 1 })
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "smf.epc", "dialect: open5gs\n")
	text, end := l.startTrace(t, "smf.epc", "--short")
	ofSubscriber, endOf := l.startTrace(t, "imsi:001010000000001", "--short")
	smf, pgw := dialPeer(t, l.targets[0], "smf.epc", "epc"), dialPeer(t, l.targets[0], "pgw.epc", "epc")
	st.outcome.Store(uint32(store.Refused))
	smf.Write(ccr("smf.epc", "epc", "s;1", 1, 0, 0))
	rtmtest.Until(t, "one is in hand", func() bool { return l.instances[0].node.Counts.InFlight.Load() == 1 })
	smf.Write(ccr("smf.epc", "epc", "s;1", 2, 1, 1000))
	rtmtest.Until(t, "what nobody has looked at is shown", func() bool {
		return strings.Contains(text(), "smf.epc → CCR-U s;1 #1") && strings.Contains(text(), "• too many requests")
	})
	pgw.exchange(ccr("pgw.epc", "epc", "s;2", 1, 0, 0))
	rtmtest.Until(t, "who may hear it is told, and so is who looks on", func() bool {
		return strings.Contains(ofSubscriber(), "pgw.epc ← CCA s;2 3004") && strings.Contains(ofSubscriber(), "• it could not be decided and written within 2.5s: nothing was charged\n")
	})
	st.outcome.Store(0)
	if err := errors.Join(end(), endOf()); err != nil {
		t.Error(err, text(), ofSubscriber())
	}
}

// mean is a plan that has nobody in without credit.
const mean = `---
{kind: Plan, tenant: lab, name: mean, refuse: session, services: [{name: data, contexts: [32251], unit: octets, price: "1.00", per: 10 MiB, quota: {size: 10 MiB}}]}
---
{kind: Subscriber, tenant: lab, plan: mean, imsi: "001010000000002", balance: "0"}
---
{kind: Subscriber, tenant: lab, plan: poor, imsi: "001010000000003", balance: "1.50"}
`

// An answer's decision says of each rating group which service of which plan applies, and
// why nothing is granted, also when that has written nothing.
func TestTraceOfWhatIsNotGranted(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.documents(t, poor+mean)
	text, end := l.startTrace(t, "pgw.epc", "--short")
	w := dialPeer(t, l.targets[0], "pgw.epc", "epc")
	for _, c := range []struct {
		message []byte
		want    string
	}{
		{ccr("pgw.epc", "epc", "s;1", 1, 0, 0), "• rating group 10: nothing is granted of data of plan poor v1: too little is left for one unit; the user may top up (REDIRECT)\n"},
		{request("pgw.epc", "epc", "epc", "s;2", "001010000000002", 1, 0, 0), "• rating group 10: 4012, credit limit reached"},
		{request("pgw.epc", "epc", "epc", "s;3", "001010000000003", 1, 0, 0), "• rating group 10: granted 10 MiB of data of plan poor v1\n  • bucket 1: 1.00 reserved, 0.50 free\n"},
		{request("pgw.epc", "epc", "epc", "s;3", "001010000000003", 2, 1, 10<<20), "• rating group 10: data of plan poor v1; used 10 MiB, charged 1.00; granted 5242890 B, the last: REDIRECT\n"},
		{longer(request("pgw.epc", "epc", "epc", "s;4", "001010000000003", 1, 0, 0), func(e *diameter.Encoder) {
			e.Open(diameter.MultipleServicesCreditControl)
			e.Uint32(diameter.RatingGroup, 20)
			e.Open(diameter.RequestedServiceUnit)
			e.Close()
			e.Close()
		}), "• rating group 20: "},
	} {
		before := len(text())
		w.exchange(c.message)
		rtmtest.Until(t, "the answer is shown", func() bool { return strings.Contains(text()[before:], " ← CCA-") })
		if got := text()[before:]; !strings.Contains(got, c.want) {
			t.Errorf("%q is not in\n%s", c.want, got)
		}
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}

// A message whose account is not known, as of one that is turned away at once, is its
// subscriber's by the identities in it.
func TestTraceByIdentity(t *testing.T) {
	tr := &tracer{}
	v, err := tr.join(api.TraceWish{Account: store.Key{Name: "lab/a"}, Identities: []string{"imsi:1", "msisdn:2"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		account    string
		identities []string
		want       int
	}{{"", []string{"msisdn:3", "imsi:1"}, 1}, {"", []string{"imsi:2"}, 0}, {"", nil, 0}, {"lab/b", []string{"imsi:1"}, 0}, {"lab/a", nil, 1}} {
		tr.pass(store.Key{Name: c.account}, c.identities, [2]string{}, func() seen { return seen{} })
		if len(v.out) != c.want {
			t.Errorf("account %q, %v: shown %d times", c.account, c.identities, len(v.out))
		}
		for len(v.out) > 0 {
			<-v.out
		}
	}
}

// An answer that is kept back since it is too late is shown as that.
func TestTraceOfALateAnswer(t *testing.T) {
	d := &door{}
	v, err := d.tracer.join(api.TraceWish{Host: "pgw.epc"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, late := range []time.Duration{-time.Second, time.Hour} {
		conn := &peer.Conn{Capabilities: peer.Capabilities{Host: "pgw.epc"}}
		c := &call{door: d, request: &peer.Request{Conn: conn, At: now.Add(-8 * time.Second), Late: now.Add(late)}}
		c.traced("")
		s := <-v.out
		if text := fmt.Sprint(s.line("A", 0, nil).Decision); strings.Contains(text, "too late") != (late < 0) {
			t.Errorf("%s before it is too late: %s", late, text)
		}
	}
}

// Whatever can be an Origin-Host can be traced before anything of it has come, since a
// gateway behind a relay need not be known: it is said what to expect, at once. What can be
// none is refused.
func TestTraceOfNobody(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	l.apply(t, "../../examples/lab.yaml")
	l.peer(t, "dra.hub", "relays: [epc]\n")
	for _, of := range []string{"imsi:001019999999999", "001019999999999", "sip:nobody@ims.example.net", "lab/imsi-1.2", "two words"} {
		var no refusal
		if _, err := told(t, "trace", of, "--for", "2s", "--api", l.api); !errors.As(err, &no) || no.status != 404 || !strings.Contains(err.Error(), "rtm peer list") {
			t.Errorf("%s: %v", of, err)
		}
	}
	text, end := l.startTrace(t, "smf1", "--short")
	rtmtest.Until(t, "it is said that nobody knows it", func() bool {
		return strings.Contains(text(), "watching smf1 at") && strings.Contains(text(), "rtm session list --host smf1")
	})
	w := dialPeer(t, l.targets[0], "dra.hub", "hub")
	w.exchange(ccr("smf1", "epc", "s;1", 1, 0, 0))
	rtmtest.Until(t, "it is shown", func() bool { return strings.Contains(text(), "dra.hub ← CCA-I s;1 #0 2001") })
	if err := end(); err != nil || strings.Contains(text(), "nothing") {
		t.Error(err, text())
	}
	text, end = l.startTrace(t, "dra.hub", "--short")
	rtmtest.Until(t, "it is watched", func() bool { return strings.Contains(text(), "watching dra.hub at") })
	if err := end(); err != nil || strings.Contains(text(), "rtm session list") || !strings.Contains(text(), "nothing of dra.hub came by") {
		t.Error(err, text())
	}
}

// Who looks on slowly holds up nobody: what does not fit is counted. More than a few
// may not look on at once.
func TestTraceIsBounded(t *testing.T) {
	tr := &tracer{}
	key := store.Key{Partition: 1, Name: "lab/a"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	shown, lost := make(chan string), make(chan int64, tracedMax+10)
	for range tracesMax {
		v, err := tr.join(api.TraceWish{Account: key})
		if err != nil {
			t.Fatal(err)
		}
		go v.follow(ctx, func(s *seen, n int64) error {
			lost <- n
			shown <- s.peer
			return nil
		})
	}
	if _, err := tr.join(api.TraceWish{Account: key}); tr.active.Load() != tracesMax || !errors.Is(err, api.ErrTraces) {
		t.Errorf("one more: %v", err)
	}
	copies := 0
	for i := range 2 * tracedMax {
		tr.pass(key, nil, [2]string{"gw", "gw"}, func() seen { copies++; return seen{peer: fmt.Sprint(i)} })
	}
	if copies != 2*tracedMax {
		t.Errorf("%d messages were copied %d times", 2*tracedMax, copies)
	}
	tr.pass(store.Key{Name: "lab/b"}, nil, [2]string{"gw", "gw"}, func() seen { t.Error("nobody wants it"); return seen{} })
	dropped := int64(0) // told with the first message that is shown, if that came late
	rtmtest.Until(t, "as many as do not fit are counted", func() bool {
		for len(lost) > 0 {
			dropped += <-lost
		}
		for _, v := range tr.views {
			dropped += v.lost.Swap(0)
		}
		return dropped >= tracesMax*(tracedMax-1)
	})
}

func BenchmarkTraceOff(b *testing.B) {
	tr := &tracer{}
	b.ReportAllocs()
	for b.Loop() {
		tr.pass(store.Key{}, nil, [2]string{}, nil)
	}
}
