package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rtm/api"
	"rtm/charging"
	"rtm/ctf"
	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/tenant"
)

// TestMain makes the test binary the program itself, so that tests can run it
// as processes and end them by kill −9.
func TestMain(m *testing.M) {
	if os.Getenv("RTM_TEST_MAIN") == "1" {
		if err := spoil(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitFailed)
		}
		main()
		os.Exit(0)
	}
	if what := os.Getenv("RTM_TEST_GUARD"); what != "" {
		guardChild(what)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// spoil gives the program a disk that notes what is synced in a file, or on
// which no file grows beyond some octets, if the test wants it.
func spoil() error {
	if notes := os.Getenv("RTM_TEST_SYNCED"); notes != "" {
		d, err := rtmtest.NewDisk(notes)
		if err != nil {
			return err
		}
		disk = d
	}
	if most, err := strconv.ParseUint(os.Getenv("RTM_TEST_FULL"), 10, 64); err == nil {
		signal.Ignore(syscall.SIGXFSZ)
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: most, Max: most})
	}
	return nil
}

// quiet is a log that goes to the test's output when it fails.
func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelError}))
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// lab is a cluster in this process, with its management interface.
type lab struct {
	*cluster
	targets []string
	api     string
	records string
}

// startLab runs instances on a store until the test ends.
func startLab(t testing.TB, st store.Store, instances int, set ...func(c *config)) *lab {
	t.Helper()
	c := defaults()
	c.Diameter, c.HTTP, c.Records = []string{"127.0.0.1:0"}, "127.0.0.1:0", t.TempDir()
	for _, change := range set {
		change(&c)
	}
	l := &lab{cluster: &cluster{config: c, store: st, learn: true, log: quiet(t)}, records: c.Records}
	for range instances {
		i, err := l.add(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.targets = append(l.targets, i.addrs[0])
	}
	t.Cleanup(func() {
		l.leave()
		st.Close()
	})
	stop, err := serveHTTP(&c, l.live, l.doors)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	l.api = "http://" + c.HTTP
	return l
}

// apply gives the lab what a file declares.
func (l *lab) apply(t testing.TB, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := remote{url: l.api}
	h := http.Header{"Content-Type": {"application/yaml"}}
	if err := r.call(t.Context(), "POST", "/v1/apply", h, bytes.NewReader(b), nil); err != nil {
		t.Fatal(err)
	}
}

// first is the first subscriber of the lab's file.
func (l *lab) first(t testing.TB) (s api.Subscriber) {
	t.Helper()
	if err := (&remote{url: l.api}).call(t.Context(), "GET", "/v1/subscribers/001010000000001", nil, nil, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// embedded opens a store in a directory of the test's.
func embedded(t testing.TB) store.Store {
	t.Helper()
	st, err := openStore(t.Context(), &config{Store: "embedded:" + t.TempDir()}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func onRedis(t testing.TB) store.Store {
	t.Helper()
	st, err := openStore(t.Context(), &config{Store: "redis://" + rtmtest.StartRedis(t).Addr}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// newPlay is what simulate plays, before a test changes it.
func newPlay(l *lab) *play {
	p := &play{remote: remote{url: l.api}, subscribers: 100, records: l.records, validity: time.Hour, grace: 30 * time.Second, timeout: 2 * time.Minute, quiet: true}
	p.conf.Host, p.conf.Realm, p.conf.Targets = "gw.sim.localdomain", "sim.localdomain", l.targets
	p.conf.Sessions, p.conf.Updates, p.conf.Groups, p.conf.Parallel, p.conf.Tx = 2000, 2, 1, 64, 5*time.Second
	return p
}

// simulate plays and returns the result.
func simulate(t testing.TB, l *lab, change func(p *play)) *outcome {
	t.Helper()
	p := newPlay(l)
	change(p)
	o, err := p.play(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// all fails the test for every check that does not hold.
func all(t testing.TB, o *outcome) {
	t.Helper()
	for _, c := range o.Checks {
		if !c.OK {
			t.Errorf("FAIL %s: %s", c.What, c.Text)
		}
	}
	t.Logf("%d messages, %.0f a second, p99 %s, %d resent", o.Messages, o.Rate, o.P99, o.Resent)
}

func TestSimBothStores(t *testing.T) {
	for name, open := range map[string]func(testing.TB) store.Store{"embedded": embedded, "redis": onRedis} {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, open(t), 2, func(c *config) { c.Audit, c.auditEvery = 2000, 100*time.Millisecond })
			o := simulate(t, l, func(p *play) {
				p.conf.Sessions, p.conf.Groups, p.conf.Hop, p.conf.Dup = 20_000, 2, true, true
			})
			all(t, o)
			a := l.instances[0].core.Audited()
			if len(a.Mismatches) > 0 || a.Walks < 2 || a.Accounts < 2*a.Whole || a.Whole == 0 {
				t.Errorf("audits found %+v", a)
			}
			t.Logf("%d accounts were audited in %d walks", a.Accounts, a.Walks)
			for target, row := range o.Matrix {
				for kind, n := range row {
					if kind != "" && n == 0 {
						t.Errorf("%s never handled %s", target, kind)
					}
				}
			}
		})
	}
}

// Sessions that share accounts, lost answers, and gateways that vanish.
func TestSharedAccountsLossAndSilence(t *testing.T) {
	l := startLab(t, embedded(t), 3)
	all(t, simulate(t, l, func(p *play) {
		p.accounts, p.conf.Sessions, p.conf.Hop, p.conf.Drop, p.conf.Tx = 10, 3000, true, 0.02, 200*time.Millisecond
		p.conf.Abandon, p.validity, p.grace = 20, 2*time.Second, time.Second
	}))
}

// Data, calls, messages and refunds over three instances, each message twice and some
// answers lost: every balance and every record is exact.
func TestMixedSessions(t *testing.T) {
	l := startLab(t, onRedis(t), 3)
	o := simulate(t, l, func(p *play) {
		p.subscribers, p.accounts, p.conf.Sessions, p.conf.Mix = 100, 50, 10_000, true
		p.conf.Hop, p.conf.Dup, p.conf.Drop, p.conf.Tx = true, true, 0.02, 500*time.Millisecond
	})
	all(t, o)
	for _, c := range o.Checks {
		t.Log(c.What, c.Text)
	}
}

// faulty is a store that makes one mistake, now and then: what a mistake in the
// product would look like from outside.
type faulty struct {
	store.Store
	spoil func(c *store.Commit, n int) (drop bool)
	mu    sync.Mutex // guards n
	n     int
}

func (f *faulty) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	kept, at := make([]store.Commit, 0, len(cs)), make([]int, 0, len(cs))
	rs := make([]store.Result, len(cs))
	for i := range cs {
		w := &cs[i].Writes[0]
		if w.Key.Kind == tenant.KindAccount && w.Op == store.Put && len(cs[i].Events) > 0 {
			f.mu.Lock()
			f.n++
			n := f.n
			f.mu.Unlock()
			if f.spoil(&cs[i], n) {
				rs[i].Outcome = store.Done
				continue
			}
		}
		kept, at = append(kept, cs[i]), append(at, i)
	}
	got, now := f.Store.Commit(ctx, kept)
	for j, i := range at {
		rs[i] = got[j]
	}
	return rs, now
}

// change edits the account that a commit writes.
func change(c *store.Commit, edit func(a *charging.Account)) {
	var a charging.Account
	if a.Decode(c.Writes[0].Bytes) == nil && a.DecodeAll() == nil && a.Exists {
		edit(&a)
		c.Writes[0].Bytes = a.Append(nil)
	}
}

// Mistakes as a program could make them: rtm sim exits 1 and names the
// subscriber.
func TestSimFindsPlantedFaults(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(c *store.Commit, n int) bool
		want  string
	}{
		"a repeat is charged twice": {func(c *store.Commit, n int) bool {
			if n%40 == 0 {
				change(c, func(a *charging.Account) {
					for i := range a.Sessions {
						a.Sessions[i].Window &^= 1 // it forgets that the last message was applied
					}
				})
			}
			return false
		}, "FAIL each balance is what it was"},
		"a reservation is kept": {func(c *store.Commit, n int) bool {
			if n%400 == 0 {
				change(c, func(a *charging.Account) {
					if len(a.Sessions) == 0 {
						a.Buckets[0].Reserved += 1000
					}
				})
			}
			return false
		}, "FAIL nothing is reserved"},
		"a commit is dropped after its answer": {
			func(_ *store.Commit, n int) bool { return n > 300 && n%400 == 0 }, "FAIL each balance is what it was",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, &faulty{Store: embedded(t), spoil: c.spoil}, 2)
			p := newPlay(l)
			p.conf.Parallel, p.conf.Tx, p.timeout, p.records = 1, 200*time.Millisecond, 30*time.Second, ""
			p.conf.Hop, p.conf.Dup = true, strings.HasPrefix(name, "a repeat")
			var out bytes.Buffer
			err := p.run(t.Context(), &out)
			var e exitError
			if !errors.As(err, &e) || e.code != exitFailed {
				t.Errorf("rtm sim ends with %v", err)
			}
			line := ""
			for l := range strings.Lines(out.String()) {
				if strings.HasPrefix(l, c.want) {
					line = l
				}
			}
			if line == "" || !strings.Contains(line, "sim/sim-") {
				t.Errorf("not found, or without the subscriber's name:\n%s", out.String())
			}
		})
	}
}

// overhear passes on what a server and its gateways say, and returns all messages.
func overhear(t *testing.T, server string) (addr string, heard func() [][]byte) {
	t.Helper()
	l := rtmtest.Listen(t)
	var mu sync.Mutex
	var frames [][]byte
	var done sync.WaitGroup
	carry := func(to, from net.Conn) {
		defer to.Close()
		var buf []byte
		for b := make([]byte, 64<<10); ; {
			n, err := from.Read(b)
			if n > 0 {
				to.Write(b[:n])
			}
			for buf = append(buf, b[:n]...); ; {
				_, rest, err := diameter.Frame(buf, diameter.MessageMax)
				if err != nil {
					break
				}
				mu.Lock()
				frames = append(frames, slices.Clone(buf[:len(buf)-len(rest)]))
				mu.Unlock()
				buf = rest
			}
			if err != nil {
				return
			}
		}
	}
	done.Go(func() {
		for {
			gateway, err := l.Accept()
			if err != nil {
				return
			}
			conn, err := net.Dial("tcp", server)
			if err != nil {
				gateway.Close()
				continue
			}
			done.Go(func() { carry(conn, gateway) })
			done.Go(func() { carry(gateway, conn) })
		}
	})
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), func() [][]byte {
		l.Close()
		done.Wait()
		return frames
	}
}

// What gateways and servers say is what an independent dissector reads: sessions of
// data, calls, messages, refunds, and what an operator asks for.
func TestTsharkReadsEveryMessage(t *testing.T) {
	l := startLab(t, embedded(t), 2)
	var heard []func() [][]byte
	for i, target := range l.targets {
		addr, frames := overhear(t, target)
		l.targets[i], heard = addr, append(heard, frames)
	}
	dir := t.TempDir()
	all(t, simulate(t, l, func(p *play) {
		p.conf.Sessions, p.conf.Mix, p.conf.Hop, p.conf.Seed, p.traceFile = 600, true, true, 1, dir+"/trace.txt"
	}))
	prompted(t, l)
	var frames [][]byte
	for _, f := range heard {
		frames = append(frames, f()...)
	}
	if len(frames) < 3000 {
		t.Errorf("%d messages, 3,000 are wanted", len(frames))
	}
	rtmtest.Dissect(t, avpTable, frames)
	if out, err := exec.Command("text2pcap", "-q", "-D", "-t", "%Y-%m-%d %H:%M:%S.%f", "-T", "40000,3868", dir+"/trace.txt", dir+"/trace.pcap").CombinedOutput(); err != nil {
		t.Errorf("what rtm sim --trace writes: %v: %s (make install brings text2pcap)", err, out)
	}
}

// An operator's wish reaches a gateway that is connected to another instance
// than the one that was asked, and is gone from the session when it is answered.
func TestReauthAndAbort(t *testing.T) { prompted(t, startLab(t, embedded(t), 2)) }

func prompted(t *testing.T, l *lab) {
	t.Helper()
	p := newPlay(l)
	p.conf.Targets, p.conf.Sessions, p.conf.Hold, p.conf.Seed = l.targets[1:], 1, time.Hour, 1
	if _, err := p.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	sim, err := ctf.New(p.conf)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sim.Run(t.Context()) }()
	var s api.Session
	shown := func() error {
		s = api.Session{}
		return p.remote.call(t.Context(), "GET", "/v1/sessions/"+sim.Watched(), nil, nil, &s)
	}
	rtmtest.Until(t, "the session is open", func() bool { return shown() == nil })
	tell := func(args ...string) {
		t.Helper()
		root := command()
		root.SetArgs(append(args, "--api", l.api))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("rtm %v: %v", args, err)
		}
	}
	tell("session", "reauth", sim.Watched())
	rtmtest.Until(t, "a RAR was answered, and the report came", func() bool {
		return shown() == nil && s.Notice == "" && s.Messages == 2 && sim.Counts.ReAuths.Load() == 1
	})
	if last := s.Trail[len(s.Trail)-1]; last.Request != "UPDATE_REQUEST" || last.Instance != "B" {
		t.Errorf("the report was %+v", last)
	}
	tell("session", "abort", sim.Watched())
	rtmtest.Until(t, "an ASR was answered, and the session ended", func() bool { return shown() != nil && sim.Counts.Aborts.Load() == 1 })
	if err := <-ended; err != nil || sim.Counts.Failed.Load() != 0 {
		t.Errorf("%v, %s", err, sim.FirstFailure())
	}
}

// process is the program as a process.
type process struct {
	t       testing.TB
	program string // empty: the test's own
	args    []string
	env     []string
	cmd     *exec.Cmd
	pid     atomic.Int64
	out     spoken
}

// spoken is what a process has said so far.
type spoken struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (s *spoken) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func run(t testing.TB, args ...string) *process {
	t.Helper()
	return runWith(t, nil, args...)
}

// runWith is run with more in the environment.
func runWith(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	return (&process{t: t, args: args, env: env}).run()
}

// run starts the process, and ends it with the test.
func (p *process) run() *process {
	p.t.Helper()
	p.start()
	p.t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		if p.t.Failed() {
			p.t.Logf("%v\n%s", p.args, tail(p.out.String()))
		}
	})
	return p
}

// tail is the last lines of a log.
func tail(s string) string { return s[max(0, len(s)-4000):] }

// freeze stops the process where it is, until thaw.
func (p *process) freeze() {
	p.t.Helper()
	rtmtest.Freeze(p.t, p.cmd.Process)
}

func (p *process) thaw() { p.cmd.Process.Signal(syscall.SIGCONT) }

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(cmp.Or(p.program, os.Args[0]), p.args...)
	p.cmd.Env = append(append(os.Environ(), p.env...), "RTM_TEST_MAIN=1")
	p.cmd.Stderr = &p.out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.pid.Store(int64(p.cmd.Process.Pid))
}

// PID is the process, the last one if it was killed.
func (p *process) PID() int { return int(p.pid.Load()) }

// kill9 ends the process as the kernel would, and checks that it did.
func (p *process) kill9() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGKILL)
	err := p.cmd.Wait()
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
		p.t.Fatalf("it did not end by SIGKILL: %v\n%s", err, p.out.String())
	}
}

func ready(api string) func() bool {
	return func() bool {
		res, err := http.Get(api + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
}

// Two processes on Redis, one of them killed again and again: nothing is lost,
// nothing is charged twice, and gateways see only resends.
func TestKillOneOfTwoOnRedis(t *testing.T) {
	redis := rtmtest.StartRedis(t)
	records := t.TempDir()
	var targets, apis []string
	var procs []*process
	for _, name := range []string{"a", "b"} {
		target, api := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t)
		procs = append(procs, run(t, "serve", "--store", "redis://"+redis.Addr, "--name", name, "--peer-host", name+".ocs.example",
			"--diameter", target, "--http", api, "--records", records))
		targets, apis = append(targets, target), append(apis, "http://"+api)
	}
	for _, api := range apis {
		rtmtest.Until(t, api+" is ready", ready(api))
	}
	l := &lab{targets: targets, api: apis[0], records: records}
	stop := make(chan struct{})
	kills := make(chan int)
	go func() {
		n := 0
		defer func() { kills <- n }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(killEvery):
			}
			procs[1].kill9()
			n++
			select {
			case <-stop:
				return
			case <-time.After(presenceGone):
			}
			procs[1].start()
		}
	}()
	o := simulate(t, l, func(p *play) {
		p.conf.Sessions, p.conf.Rate, p.conf.Hold, p.conf.Hop, p.conf.Tx = killSessions, killRate, 500*time.Millisecond, true, 2*time.Second
		p.conf.Again = 500 * time.Millisecond
	})
	close(stop)
	n := <-kills
	all(t, o)
	t.Logf("%d kills, %d messages, %d resent, %d connections lost", n, o.Messages, o.Resent, o.Closed)
	// A kill after the last message is none that a gateway could feel.
	if o.Closed < 8 || o.Messages < o.Closed*1000 {
		t.Errorf("%d of %d kills were felt by %d messages: not what was to be tried", o.Closed, n, o.Messages)
	}
}

// How long the short forms of the fault tests run; `make fault-test` runs the
// long ones.
const (
	killEvery    = 2 * time.Second
	presenceGone = 500 * time.Millisecond
)

var killSessions, killRate, embeddedKills = 13_000, 500.0, 22

func init() {
	if os.Getenv("RTM_FAULTS") == "long" {
		killSessions, embeddedKills = 40_000, 100
	}
}
