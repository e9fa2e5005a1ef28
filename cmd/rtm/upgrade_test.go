package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"rtm/api"
	"rtm/cdr"
	"rtm/charging"
	"rtm/ctf"
	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/tenant"
)

// What the build of the next level (charging/next.go) adds.
const (
	nextField = 5001
	nextType  = "visited"
)

// nextBuild is the program with one field of the account and one sort of entry
// more, as a later version has.
func nextBuild(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "rtm-next")
	if out, err := exec.Command("go", "build", "-tags", "rtmnext", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// mixed is a cluster of two versions on one Redis.
type mixed struct {
	t       *testing.T
	next    string // the later build
	redis   string
	records string
	play    *play
	before  map[string]account
	owners  map[string]string
	octets  map[string]int64 // that gateways reported, by account
}

// node is one of its instances.
type node struct {
	*process
	target, api string
}

// start runs an instance of that build and waits until it is ready.
func (m *mixed) start(program, name string) *node {
	m.t.Helper()
	n := &node{target: rtmtest.FreeAddr(m.t)}
	addr := rtmtest.FreeAddr(m.t)
	n.api = "http://" + addr
	n.process = (&process{t: m.t, program: program, args: m.args(name, n.target, addr)}).run()
	rtmtest.Until(m.t, name+" is ready", ready(n.api))
	return n
}

func (m *mixed) args(name, target, http string) []string {
	return []string{"serve", "--store", "redis://" + m.redis, "--name", name, "--peer-host", name + ".ocs.example",
		"--diameter", target, "--http", http, "--records", m.records, "--audit", "20000", "--settle", "0"}
}

// sessions has gateways send messages of sessions First … at these instances, one
// after the other, and counts what they reported.
func (m *mixed) sessions(c ctf.Config, at ...*node) {
	m.t.Helper()
	for _, n := range at {
		c.Targets = append(c.Targets, n.target)
	}
	c.Host, c.Realm, c.IMSIs, c.Seed = m.play.conf.Host, m.play.conf.Realm, m.play.conf.IMSIs, 1764000000
	c.Parallel, c.Tx = 32, 5*time.Second
	sim, err := ctf.New(c)
	if err == nil {
		err = sim.Run(m.t.Context())
	}
	if err != nil || sim.Counts.Failed.Load()+sim.Counts.GivenUp.Load() > 0 {
		m.t.Fatalf("%v, %s", err, sim.FirstFailure())
	}
	if left := sim.Counts.Left.Load(); c.Leave && left != int64(c.Sessions) {
		m.t.Fatalf("%d of %d sessions are open", left, c.Sessions)
	}
	for imsi, b := range sim.Books() {
		m.octets[m.owners[imsi]] += b.Units
	}
}

// accounts calls each for the record of every account.
func (m *mixed) accounts(each func(key store.Key, record []byte)) {
	m.t.Helper()
	st, err := openStore(m.t.Context(), &config{Store: "redis://" + m.redis}, quiet(m.t))
	if err != nil {
		m.t.Fatal(err)
	}
	defer st.Close()
	var cursor []byte
	for {
		keys, recs, next, err := st.Scan(m.t.Context(), cursor, 100)
		if err != nil {
			m.t.Fatal(err)
		}
		for i, k := range keys {
			if k.Kind == tenant.KindAccount {
				each(k, recs[i].Bytes)
			}
		}
		if cursor = next; cursor == nil {
			return
		}
	}
}

// has reports whether a record has a field of that number at its top.
func has(record []byte, number protowire.Number) bool {
	for len(record) > 0 {
		n, _, size := protowire.ConsumeField(record)
		if size < 0 {
			return false
		}
		if n == number {
			return true
		}
		record = record[size:]
	}
	return false
}

// settled compares the gateways' books with balances and record files.
func (m *mixed) settled(api string, finals int) (types map[string]int) {
	m.t.Helper()
	m.play.remote.url = api
	after, err := m.play.balances(m.t.Context(), m.owners)
	if err != nil {
		m.t.Fatal(err)
	}
	for name, a := range after {
		if got := a.debited - m.before[name].debited; got != m.octets[name] || a.reserved != 0 || a.sessions != 0 {
			m.t.Errorf("%s: %d octets reported, %d debited, %d reserved, %d sessions open", name, m.octets[name], got, a.reserved, a.sessions)
		}
	}
	filed := make(map[string]int64)
	rtmtest.Until(m.t, "each session has its final record", func() bool {
		types, filed = make(map[string]int), make(map[string]int64)
		if err := cdr.Read(m.records, func(r *cdr.Record) error {
			if types[r.Type]++; r.Type == "final" {
				for _, l := range r.Lines {
					filed[r.Tenant+"/"+r.Account] += l.Octets
				}
			}
			return nil
		}); err != nil {
			m.t.Fatal(err)
		}
		return types["final"] >= finals
	})
	if types["final"] != finals {
		m.t.Errorf("%d final records of %d sessions", types["final"], finals)
	}
	for name, octets := range m.octets {
		if filed[name] != octets {
			m.t.Errorf("%s: %d octets reported, %d in record files", name, octets, filed[name])
		}
	}
	return types
}

// Two versions of the program serve one set of sessions, both ways; then the level
// of the store rises, and the older one neither starts nor decides any more.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	m := &mixed{t: t, next: nextBuild(t), redis: rtmtest.StartRedis(t).Addr, records: t.TempDir(), octets: make(map[string]int64)}
	old, away := m.start(os.Args[0], "old"), m.start(os.Args[0], "away")
	next := m.start(m.next, "next")
	m.play = newPlay(&lab{targets: []string{old.target, next.target}, api: old.api, records: m.records})
	var err error
	if m.owners, err = m.play.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.before, err = m.play.balances(t.Context(), m.owners); err != nil {
		t.Fatal(err)
	}

	const each = 100
	part := func(first, sent, updates int, leave bool, at ...*node) {
		m.sessions(ctf.Config{First: first, Sessions: each, Sent: sent, Updates: updates, Leave: leave, Groups: 2, Hop: len(at) > 1, Dup: len(at) > 1}, at...)
	}
	part(0, 0, 1, true, old) // opened on the old one, gone on with on the new one, ended on the old one
	part(0, 2, 2, true, next)
	part(0, 4, 0, false, old)
	part(each, 0, 1, true, next) // the other way round
	part(each, 2, 2, true, old)
	part(each, 4, 0, false, next)
	part(2*each, 0, 3, false, old, next) // each message to both
	part(3*each, 0, 1, true, old, next)  // these stay open while the level rises
	m.accounts(func(k store.Key, record []byte) {
		var a charging.Account
		if err := a.Decode(record); err != nil || a.Level > 1 || has(record, nextField) {
			t.Errorf("%s is of level %d: %v", k, a.Level, err)
		}
	})
	if out, _ := tell(t, "upgrade", "status", "--api", next.api); !strings.Contains(out, "upgrade away and old, then it can rise to 2") {
		t.Errorf("rtm upgrade status says\n%s", out)
	}
	if _, says, code := ended(t, "upgrade", "finish", "--api", next.api); code != exitFailed || !strings.Contains(says, "the store's level stays as it is, 1: ") {
		t.Errorf("rtm upgrade finish beside old instances: exit %d\n%s", code, says)
	}

	// One old instance is cut off, with a gateway that is in the middle of a session.
	imsi, gw := m.play.conf.IMSIs[0], dialPeer(t, away.target, m.play.conf.Host, m.play.conf.Realm)
	ccr := func(kind, number uint32, used uint64) []byte {
		return request(m.play.conf.Host, m.play.conf.Realm, m.play.conf.Realm, m.play.conf.Host+";cut;off", imsi, kind, number, used)
	}
	if got := number(gw.exchange(ccr(1, 0, 0)).Body, diameter.ResultCode); got != 2001 {
		t.Fatalf("a session is not opened: %d", got)
	}
	away.cmd.Process.Signal(syscall.SIGSTOP)
	old.cmd.Process.Signal(syscall.SIGTERM)
	if err := old.cmd.Wait(); err != nil {
		t.Fatalf("the old instance ends with %v\n%s", err, old.out.String())
	}
	var l api.Level
	rtmtest.Until(t, "the one that is cut off counts no more", func() bool {
		r := remote{url: next.api}
		return r.call(t.Context(), http.MethodGet, "/v1/level", nil, nil, &l) == nil && l.Next == 2
	})
	if out, code := tell(t, "upgrade", "finish", "--api", next.api); code != 0 || !strings.Contains(out, "the store is at level 2") {
		t.Fatalf("rtm upgrade finish: exit %d\n%s", code, out)
	}

	// The new field and the new sort of entry appear.
	part(3*each, 2, 2, true, next)
	part(4*each, 0, 2, false, next)
	part(3*each, 4, 0, false, next)
	above := 0
	m.accounts(func(_ store.Key, record []byte) {
		if has(record, nextField) {
			above++
		}
	})
	if above != each {
		t.Errorf("%d of %d accounts that opened a session have the field of level 2", above, each)
	}

	// The old version does not start, and one that is back decides nothing.
	late, addr := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t)
	if _, says, code := ended(t, m.args("late", late, addr)...); code != exitFailed || !strings.Contains(says, "the store is at level 2, and this version of rtm knows level 1: install the version") {
		t.Errorf("the old version starts: exit %d\n%s", code, says)
	}
	if _, err := gw.Write(ccr(2, 1, 1000)); err != nil {
		t.Fatal(err)
	}
	away.cmd.Process.Signal(syscall.SIGCONT)
	var got []int
	for {
		a, ok := gw.next(5 * time.Second)
		if !ok {
			break // it has closed the connection
		}
		if a.Command == diameter.CreditControl {
			got = append(got, number(a.Body, diameter.ResultCode))
		} else if a.Command == diameter.DisconnectPeer && a.Request() {
			got = append(got, int(diameter.DisconnectPeer))
			gw.replies(a, m.play.conf.Host, m.play.conf.Realm, 2001)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, []int{int(diameter.DisconnectPeer), int(diameter.UnableToDeliver)}) {
		t.Errorf("the gateway got %v, and not 3002 and a DPR", got)
	}
	if ready(away.api)() {
		t.Error("an instance that the store has outgrown is ready")
	}
	rtmtest.Until(t, "it says what to do", func() bool {
		return strings.Count(away.out.String(), "takes no peers any more") == 1 && strings.Contains(away.out.String(), "rtm upgrade --help")
	})
	gw = dialPeer(t, next.target, m.play.conf.Host, m.play.conf.Realm) // the gateway goes elsewhere
	for n, kind := range []uint32{2, 3} {
		if r := number(gw.exchange(ccr(kind, uint32(n)+1, 1000)).Body, diameter.ResultCode); r != 2001 {
			t.Errorf("resent to the new instance: %d", r)
		}
	}
	m.octets[m.owners[imsi]] += 2000

	types := m.settled(next.api, 5*each+1)
	visits := types[nextType] + types[fmt.Sprintf("unknown-%d", 200)] // an old instance may have put some into its file
	if visits != each {
		t.Errorf("%d sessions were opened at level 2, %d visits are on record", each, visits)
	}
	out, code := tell(t, "cdr", "list", "--api", next.api, "--all")
	shown := 0
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 2 && (f[1] == nextType || f[1] == "unknown-200") && strings.HasPrefix(f[2], "sim-") {
			shown++
		}
	}
	if code != 0 || shown != each {
		t.Errorf("rtm cdr list of the old version: exit %d, %d of %d visits", code, shown, each)
	}
	var all struct{ Instances []api.Instance }
	r := remote{url: next.api}
	if err := r.call(t.Context(), http.MethodGet, "/v1/instances", nil, nil, &all); err != nil {
		t.Fatal(err)
	}
	for _, i := range all.Instances {
		if i.Audit != nil && len(i.Audit.Mismatches) > 0 {
			t.Errorf("audits of %s found %v", i.Name, i.Audit.Mismatches)
		}
	}
}
