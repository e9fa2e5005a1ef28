package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm/charging"
	"rtm/ctf"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/tenant"
)

// How far BenchmarkScale goes: the sessions that are open at the largest level,
// a multiple of 1,000. RTM_SCALE sets another number.
var scaleSessions = 1_000_000

// scaleTouches is how many CCR-U are sent at each level: one for each session
// that the largest one opens.
func scaleTouches() int { return scaleSessions / 10 * 9 }

const (
	scaleParallel = 256
	scaleValidity = 6 * time.Hour // nothing is due while it runs

	rssSpreadMax   = 64 << 20  // between the levels, on Redis
	embeddedMax    = 512 << 20 // resident, with the store
	redisBytesMax  = 650       // of an open session
	scaleHost      = "smf.epc.mnc001.mcc001.3gppnetwork.org"
	scaleRealm     = "epc.mnc001.mcc001.3gppnetwork.org"
	scaleEachAhead = 512 // accounts that are provisioned in one round trip
)

func init() {
	if n, err := strconv.Atoi(os.Getenv("RTM_SCALE")); err == nil && n >= 1000 {
		scaleSessions = n / 1000 * 1000
	}
}

// scalePeer is a gateway that names the subscriber in every message, so that no
// session index is kept.
const scalePeer = `---
kind: Peer
host: ` + scaleHost + `
realm: ` + scaleRealm + `
sources: [127.0.0.0/8]
tenants: [sim]
dialect: open5gs
`

// say prints a line at once: a benchmark's log is only shown when it has ended,
// and cut short.
func say(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

// fill declares tenant, plan and peer, and makes accounts straight in a store,
// as Provision would, but many in one round trip. It returns their IMSIs.
func fill(t testing.TB, st store.Store, accounts int, validity, grace time.Duration) (imsis []string) {
	t.Helper()
	ctx := context.Background()
	docs, err := tenant.Parse("scale", []byte(fmt.Sprintf(simPlan, int(validity.Seconds()), int(grace.Seconds()))+scalePeer))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.Apply(ctx, st, docs, false); err != nil {
		t.Fatal(err)
	}
	cat, err := tenant.Load(ctx, st, nil)
	if err != nil {
		t.Fatal(err)
	}
	plans := cat.Plans("sim", []byte("octets"))
	for n := range accounts {
		imsis = append(imsis, fmt.Sprintf("001018%09d", n))
	}
	var wg sync.WaitGroup
	pages := make(chan int)
	for range 4 {
		wg.Go(func() {
			for from := range pages {
				var cs []store.Commit
				for n := from; n < min(from+scaleEachAhead, accounts); n++ {
					cs = append(cs, newAccount(plans, fmt.Sprintf("sim-%d", n), "imsi:"+imsis[n])...)
				}
				rs, _ := st.Commit(ctx, cs)
				for i := range rs {
					if rs[i].Outcome != store.Done {
						t.Errorf("provision %s: %s %v", cs[i].Writes[0].Key, rs[i].Outcome, rs[i].Err)
					}
				}
			}
		})
	}
	for from := 0; from < accounts; from += scaleEachAhead {
		pages <- from
	}
	close(pages)
	wg.Wait()
	return imsis
}

// drawn is a version.
func drawn() (v store.Version) {
	rand.Read(v[:])
	return v
}

// newAccount is the commits that make one account with one identity.
func newAccount(plans charging.Plans, name, id string) []store.Commit {
	var a charging.Account
	var o charging.Outcome
	v := drawn()
	charging.Step(&a, &charging.Request{Kind: charging.Provision, Profile: &charging.Profile{
		Plan: "octets", Identities: []string{id}, Money: 1e12,
	}}, &charging.World{Now: time.Now(), Plans: plans, Tenant: "sim", Account: name, Version: v}, &o)
	account := store.Commit{Writes: []store.Write{{Op: store.Put, Key: tenant.AccountKey("sim", name), New: v, Bytes: a.Append(nil)}}}
	for i := range o.Log.Entries {
		account.Events = append(account.Events, o.Log.Entries[i].Append(nil))
	}
	return []store.Commit{account, {Writes: []store.Write{{
		Op: store.Put, Key: tenant.IdentityKey(id), New: drawn(), Bytes: tenant.EncodeOwner(nil, "sim", name),
	}}}}
}

// scaled is one run of BenchmarkScale.
type scaled struct {
	b      *testing.B
	server *process
	target string
	api    string
	imsis  []string
	octets int64 // that gateways reported, in all
	sent   int64 // messages that were answered, in all
}

// start runs the server until it serves.
func (s *scaled) start(where, records string) {
	s.target = rtmtest.FreeAddr(s.b)
	addr := rtmtest.FreeAddr(s.b)
	s.api = "http://" + addr
	s.server = run(s.b, "serve", "--store", where, "--diameter", s.target, "--http", addr, "--records", records)
	rtmtest.Until(s.b, "the server is ready", ready(s.api))
}

// play has gateways send messages over sessions First … of the run; all must be
// answered 2001.
func (s *scaled) play(c ctf.Config) *ctf.Sim {
	s.b.Helper()
	c.Targets, c.Host, c.Realm, c.IMSIs = []string{s.target}, scaleHost, scaleRealm, s.imsis
	c.Groups, c.Parallel, c.Leave, c.Seed = 1, scaleParallel, true, 1764000000
	sim, err := ctf.New(c)
	if err == nil {
		err = sim.Run(s.b.Context())
	}
	if err != nil {
		s.b.Fatal(err)
	}
	if sim.Counts.Failed.Load()+sim.Counts.GivenUp.Load() > 0 || sim.Counts.Left.Load() != int64(c.Sessions) {
		s.b.Fatalf("%d of %d sessions are open: %s", sim.Counts.Left.Load(), c.Sessions, sim.FirstFailure())
	}
	for _, book := range sim.Books() {
		s.octets += book.Units
	}
	s.sent += sim.Counts.Answered.Load()
	return sim
}

// open opens sessions from+1 … to, and says how long that took.
func (s *scaled) open(from, to int) {
	start := time.Now()
	sim := s.play(ctf.Config{First: from, Sessions: to - from})
	took := time.Since(start)
	say("%9d sessions opened in %.1f s, %.0f a second, slowest %s", to-from, took.Seconds(), float64(to-from)/took.Seconds(), sim.Slowest())
}

// touch sends CCR-U over sessions from+1 … to, which have been opened and no
// more: at each level the same number of them.
func (s *scaled) touch(from, to int) {
	start := time.Now()
	updates := scaleTouches() / (to - from)
	s.play(ctf.Config{First: from, Sessions: to - from, Sent: 1, Updates: updates})
	took := time.Since(start)
	say("%9d CCR-U, %d for each session of this level, in %.1f s, %.0f a second", scaleTouches(), updates, took.Seconds(), float64(scaleTouches())/took.Seconds())
}

// written waits until every event is in a record file.
func (s *scaled) written() {
	s.b.Helper()
	want := int64(len(s.imsis)) + s.sent
	for deadline := time.Now().Add(5 * time.Minute); metric(s.b, s.api, "rtm_records_total") < want; {
		if time.Now().After(deadline) {
			s.b.Fatalf("%d of %d records are in files", metric(s.b, s.api, "rtm_records_total"), want)
		}
		<-time.After(200 * time.Millisecond)
	}
}

// metric is a counter of a server.
func metric(t testing.TB, api, name string) int64 {
	t.Helper()
	res, err := http.Get(api + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+"{"); ok {
			v, _ := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
			return int64(v)
		}
	}
	return 0
}

// levels opens ever more sessions, sends the same traffic at each level, and
// returns what the server keeps resident after it.
func (s *scaled) levels(at func(open int, when string)) (rss []int64) {
	from, before, began := 0, cpu(s.b, s.server.cmd.Process.Pid), s.sent
	for _, to := range []int{scaleSessions / 100, scaleSessions / 10, scaleSessions} {
		s.open(from, to)
		s.written()
		at(to, "opened")
		s.touch(from, to)
		s.written()
		at(to, "touched")
		rss = append(rss, memory(s.b, s.server.cmd.Process.Pid, "VmRSS"))
		say("%9d sessions open: the server keeps %d MiB resident, %d at most so far", to,
			rss[len(rss)-1]>>20, memory(s.b, s.server.cmd.Process.Pid, "VmHWM")>>20)
		from = to
	}
	each := float64((cpu(s.b, s.server.cmd.Process.Pid) - before).Microseconds()) / float64(s.sent-began)
	say("%9d messages: %.1f µs of the server's processor time for each, with its record", s.sent-began, each)
	s.b.ReportMetric(each, "server-µs/CCR")
	return rss
}

// memory is a line of /proc/PID/status, in octets.
func memory(b *testing.B, pid int, name string) int64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), name+":")
	kib := int64(0)
	fmt.Sscan(rest, &kib)
	return kib << 10
}

// audit walks over all accounts: every session is there, and what gateways
// reported is what was debited.
func (s *scaled) audit(st store.Store) {
	s.b.Helper()
	start := time.Now()
	sessions, debited := 0, int64(0)
	var a charging.Account
	for cursor, first := []byte(nil), true; first || cursor != nil; first = false {
		keys, recs, next, err := st.Scan(s.b.Context(), cursor, 4096)
		if err != nil {
			s.b.Fatal(err)
		}
		for i := range keys {
			if keys[i].Kind != tenant.KindAccount {
				continue
			}
			if err := a.Decode(recs[i].Bytes); err != nil {
				s.b.Fatal(err)
			}
			sessions += len(a.Sessions)
			for j := range a.Buckets {
				debited += a.Buckets[j].Debited
			}
		}
		cursor = next
	}
	say("%9d sessions are there, %d octets reported, %d micro-units debited; a walk over all takes %.1f s", sessions, s.octets, debited, time.Since(start).Seconds())
	if sessions != scaleSessions || debited != s.octets {
		s.b.Errorf("%d sessions and %d octets are wanted", scaleSessions, s.octets)
	}
}

// flat fails if what is resident grows with the open sessions.
func (s *scaled) flat(rss []int64) {
	spread := slices.Max(rss) - slices.Min(rss)
	say("largest less smallest: %d MiB (goal: at most %d)", spread>>20, rssSpreadMax>>20)
	s.b.ReportMetric(float64(spread>>20), "MiB-spread")
	if spread > rssSpreadMax {
		s.b.Errorf("the server's memory grows with open sessions: %d MiB between the levels", spread>>20)
	}
}

// BenchmarkScale opens a million sessions in a server of its own process, on
// Redis and embedded, and prints what that takes.
func BenchmarkScale(b *testing.B) {
	b.Run("redis", scaleOnRedis)
	b.Run("embedded", scaleEmbedded)
}

func scaleOnRedis(b *testing.B) {
	redis := rtmtest.StartRedis(b)
	where := "redis://" + redis.Addr
	st, err := openStore(b.Context(), &config{Store: where}, quiet(b))
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	s := &scaled{b: b}
	s.provision(st)
	s.start(where, b.TempDir())
	s.written()
	before := redis.UsedMemory()
	say("%9d accounts: Redis uses %d MiB, %d octets each", scaleSessions, before>>20, before/int64(scaleSessions))
	each := int64(0)
	rss := s.levels(func(open int, when string) {
		n := (redis.UsedMemory() - before) / int64(open)
		if open == scaleSessions {
			each = max(each, n)
		}
		say("%9d sessions %s: Redis uses %d octets for each", open, when, n)
	})
	s.flat(rss)
	say("%9d octets of Redis for each open session (goal: at most %d)", each, redisBytesMax)
	b.ReportMetric(float64(each), "redis-B/session")
	b.ReportMetric(0, "ns/op")
	if each > redisBytesMax {
		b.Errorf("an open session takes %d octets of Redis", each)
	}
	s.audit(st)
}

// provision makes the accounts of a run.
func (s *scaled) provision(st store.Store) {
	start := time.Now()
	s.imsis = fill(s.b, st, scaleSessions, scaleValidity, 30*time.Second)
	took := time.Since(start)
	say("%9d accounts provisioned in %.1f s, %.0f a second (%d in one round trip, straight into the store)",
		scaleSessions, took.Seconds(), float64(scaleSessions)/took.Seconds(), scaleEachAhead)
}

func scaleEmbedded(b *testing.B) {
	dir, records := b.TempDir(), b.TempDir()
	open := func() store.Store {
		st, err := openStore(b.Context(), &config{Store: "embedded:" + dir}, quiet(b))
		if err != nil {
			b.Fatal(err)
		}
		return st
	}
	s := &scaled{b: b}
	st := open()
	s.provision(st)
	if err := st.Close(); err != nil {
		b.Fatal(err)
	}
	s.start("embedded:"+dir, records)
	s.written()
	before := diskUse(b, dir)
	say("%9d accounts: the store has %d MiB on disk, %d octets each", scaleSessions, before>>20, before/int64(scaleSessions))
	rss := s.levels(func(open int, when string) {
		say("%9d sessions %s: the store has %d MiB on disk", open, when, diskUse(b, dir)>>20)
	})
	if most := slices.Max(rss); most > embeddedMax { // its buffers and cache fill up, and are bounded
		b.Errorf("the process keeps %d MiB resident, %d at most is wanted", most>>20, embeddedMax>>20)
	}
	s.server.kill9()
	start := time.Now()
	s.server.start()
	rtmtest.Until(b, "the server is ready again", ready(s.api))
	up := time.Since(start)
	s.play(ctf.Config{First: scaleSessions / 3, Sessions: 1, Sent: 2, Updates: 1})
	took := time.Since(start)
	b.ReportMetric(float64(slices.Max(rss)>>20), "MiB-resident")
	say("killed with -9 and started again: ready after %.2f s, a CCR-U of an old session answered after %.2f s", up.Seconds(), took.Seconds())
	b.ReportMetric(took.Seconds(), "s-restart")
	b.ReportMetric(0, "ns/op")
	s.server.kill9()
	st = open()
	defer st.Close()
	s.audit(st)
}

// diskUse is how much the files of a directory take.
func diskUse(b *testing.B, dir string) (sum int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if info, ierr := d.Info(); err == nil && ierr == nil && d.Type().IsRegular() {
			sum += info.Size()
		}
		return nil // a file that has just gone is none
	})
	if err != nil {
		b.Fatal(err)
	}
	return sum
}
