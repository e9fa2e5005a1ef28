package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rtm/cdr"
	"rtm/charging"
	"rtm/ctf"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/tenant"
)

// told runs a command, and returns what it prints.
func told(t testing.TB, args ...string) (string, error) {
	t.Helper()
	var out, notes bytes.Buffer
	root := command()
	root.SetOut(&out)
	root.SetErr(&notes)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func mustTell(t testing.TB, args ...string) string {
	t.Helper()
	out, err := told(t, args...)
	if err != nil {
		t.Fatalf("rtm %v: %v", args, err)
	}
	return out
}

// openAt opens a store as a server does.
func openAt(t testing.TB, where string) store.Store {
	t.Helper()
	st, err := openStore(t.Context(), &config{Store: where}, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// ledger is what events say of buckets.
type ledger map[string]map[uint32][2]int64 // account → bucket → credited, debited

func (l ledger) add(account string, bucket uint32, credit, debit int64) {
	if l[account] == nil {
		l[account] = make(map[uint32][2]int64)
	}
	was := l[account][bucket]
	l[account][bucket] = [2]int64{was[0] + credit, was[1] + debit}
}

// sound holds every account of a store against the invariants of one account
// (I1, I2), and against a ledger (I3).
func sound(t testing.TB, st store.Store, books ledger) (accounts, open int) {
	t.Helper()
	for cursor, first := []byte(nil), true; first || cursor != nil; first = false {
		ks, rs, next, err := st.Scan(t.Context(), cursor, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range ks {
			if k.Kind != tenant.KindAccount {
				continue
			}
			var a charging.Account
			if err := a.Decode(rs[i].Bytes); err != nil {
				t.Fatalf("%s: %v", k, err)
			}
			if err := a.DecodeAll(); err != nil || !a.Check() {
				t.Fatalf("%s breaks I1 or I2: %v", k, err)
			}
			accounts, open = accounts+1, open+len(a.Sessions)
			_, name := tenant.AccountOf(k)
			for j := range a.Buckets {
				b := &a.Buckets[j]
				held := int64(0)
				for s := range a.Sessions {
					for g := range a.Sessions[s].Groups {
						for _, h := range a.Sessions[s].Groups[g].Holds {
							if h.Bucket == b.Number {
								held += h.Amount
							}
						}
					}
				}
				if held != b.Reserved {
					t.Errorf("%s bucket %d: %d reserved, its sessions hold %d (I2)", k, b.Number, b.Reserved, held)
				}
				if got := books[name][b.Number]; got != [2]int64{b.Credited, b.Debited} {
					t.Errorf("%s bucket %d: credited %d and debited %d, its events say %v (I3)", k, b.Number, b.Credited, b.Debited, got)
				}
			}
		}
		cursor = next
	}
	return accounts, open
}

// booksOf adds up the events that are in a store.
func booksOf(t testing.TB, st store.Store, into ledger) (events int) {
	t.Helper()
	var e charging.Entry
	for p := range store.Partition(store.Partitions) {
		for after := uint64(0); ; {
			evs, err := st.Events(t.Context(), p, after, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, ev := range evs {
				after = ev.Seq
				if err := e.Decode(ev.Bytes); err != nil {
					t.Fatal(err)
				}
				events++
				for _, mv := range e.Movements {
					into.add(e.Account, mv.Bucket, mv.Credit, mv.Debit)
				}
			}
			if len(evs) < 1000 {
				break
			}
		}
	}
	return events
}

// gateways play against a lab until they are told to end.
type gateways struct {
	sim  *ctf.Sim
	stop chan struct{}
	done chan error
	play *play

	before map[string]account
}

func begin(t testing.TB, l *lab, change func(p *play)) *gateways {
	t.Helper()
	g := &gateways{stop: make(chan struct{}), done: make(chan error, 1), play: newPlay(l)}
	g.play.conf.Sessions, g.play.conf.Updates, g.play.conf.Hold, g.play.conf.Rate = 1_000_000, 6, 100*time.Millisecond, 400
	g.play.conf.Stop = g.stop
	change(g.play)
	if g.play.conf.Seed == 0 {
		g.play.conf.Seed = uint64(time.Now().UnixNano()) >> 10
	}
	owners, err := g.play.prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if g.before, err = g.play.balances(t.Context(), owners); err != nil {
		t.Fatal(err)
	}
	sim, err := ctf.New(g.play.conf)
	if err != nil {
		t.Fatal(err)
	}
	g.sim = sim
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { g.done <- sim.Run(ctx) }()
	return g
}

// answered waits until so many more messages were answered.
func (g *gateways) answered(t testing.TB, n int64) {
	t.Helper()
	want := g.sim.Counts.Answered.Load() + n
	rtmtest.Until(t, fmt.Sprint(n, " messages are answered"), func() bool { return g.sim.Counts.Answered.Load() >= want })
}

// A backup that is made while gateways open, report and end sessions is sound
// when it is restored, in either kind of store: each account agrees with itself
// and with its events. What was open at the backup ends by its timers.
func TestBackupUnderLoad(t *testing.T) {
	for _, from := range []string{"embedded", "redis"} {
		t.Run("from "+from, func(t *testing.T) {
			where := "embedded:" + t.TempDir()
			if from == "redis" {
				where = "redis://" + rtmtest.StartRedis(t).Addr
			}
			l := startLab(t, openAt(t, where), 2, func(c *config) { c.Records = "" })
			g := begin(t, l, func(p *play) { p.accounts, p.subscribers, p.validity, p.grace = 50, 200, 2*time.Second, time.Second })
			g.answered(t, 1000)
			file := filepath.Join(t.TempDir(), "rtm.backup.gz")
			out := mustTell(t, "backup", "-f", file, "--api", l.api)
			if from == "redis" { // the store itself may be read as well
				out = mustTell(t, "backup", "-f", file, "--store", where)
			}
			t.Log(out)
			g.answered(t, 500)
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file: %v %v", info, err)
			}
			for _, to := range []string{"embedded:" + t.TempDir(), "redis://" + rtmtest.StartRedis(t).Addr} {
				restored(t, file, to)
			}
			close(g.stop)
			<-g.done
		})
	}
}

func restored(t *testing.T, file, to string) {
	t.Helper()
	mustTell(t, "restore", file, "--store", to)
	if _, err := told(t, "restore", file, "--store", to); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("into a store with records: %v", err)
	}
	st := openAt(t, to)
	books := ledger{}
	events := booksOf(t, st, books)
	accounts, open := sound(t, st, books)
	if accounts != 50 || open == 0 || events == 0 {
		t.Errorf("%d accounts with %d open sessions and %d events: not what was to be tried", accounts, open, events)
	}
	startLab(t, st, 1)
	rtmtest.Until(t, "all sessions of the backup have ended by their timers", func() bool {
		_, left := sessions(t, st)
		return left == 0
	})
	sound(t, st, books) // time has debited nothing
}

// The system is lost some time after its backup. What is restored goes on with
// the same record files: no event comes into them twice, none that the backup
// holds is missing, and the files without what was lost are the ledger.
func TestRecordFilesAfterARestore(t *testing.T) {
	dir, records := t.TempDir(), t.TempDir()
	old := openAt(t, "embedded:"+dir)
	l := startLab(t, old, 2, func(c *config) { c.Records = records })
	g := begin(t, l, func(p *play) { p.accounts, p.subscribers, p.validity, p.grace = 50, 200, 2*time.Second, time.Second })
	g.answered(t, 1500)
	file := filepath.Join(t.TempDir(), "rtm.backup")
	mustTell(t, "backup", "-f", file, "--api", l.api)
	g.answered(t, 1500)
	close(g.stop)
	<-g.done
	l.leave() // files are finished; the store is lost
	old.Close()

	to := "embedded:" + t.TempDir()
	if _, err := told(t, "restore", file, "--store", to, "--records", otherRecords(t, records)); !errors.Is(err, cdr.ErrOtherRecords) {
		t.Errorf("with the record files of another system: %v", err)
	}
	out := mustTell(t, "restore", file, "--store", to, "--records", records)
	if !strings.Contains(out, "were in record files already") {
		t.Errorf("no event was followed between the backup and the loss: not what was to be tried\n%s", out)
	}
	t.Log(out)
	st := openAt(t, to)
	var cut [store.Partitions]uint64 // events up to here are of the history that goes on
	for p := range cut {
		s, err := store.Inner(st).(store.Portable).Stream(t.Context(), store.Partition(p), 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		cut[p] = s.Last - 1<<32
	}
	again := startLab(t, st, 2, func(c *config) { c.Records = records })
	all(t, simulate(t, again, func(p *play) { p.accounts, p.subscribers, p.conf.Sessions, p.records = 50, 200, 500, "" }))
	rtmtest.Until(t, "the sessions of the backup have ended by their timers", func() bool {
		_, left := sessions(t, st)
		return left == 0
	})
	again.leave()
	books, ids, lost := ledger{}, make(map[string]bool), 0
	if err := cdr.Read(records, func(r *cdr.Record) error {
		if ids[r.ID] {
			t.Errorf("record %s came twice", r.ID)
		}
		ids[r.ID] = true
		if r.Seq > cut[r.Partition] && r.Seq <= cut[r.Partition]+1<<32 {
			lost++
			return nil
		}
		for _, m := range r.Movements {
			books.add(r.Account, m.Bucket, m.Credit, m.Debit)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if accounts, open := sound(t, st, books); accounts != 50 || open != 0 {
		t.Errorf("%d accounts, %d open sessions", accounts, open)
	}
	if lost == 0 {
		t.Error("nothing happened between the backup and the loss: not what was to be tried")
	}
	t.Logf("%d records, %d of them of what was lost", len(ids), lost)
}

// sessions counts accounts and their open sessions.
func sessions(t testing.TB, st store.Store) (accounts, open int) {
	t.Helper()
	for cursor, first := []byte(nil), true; first || cursor != nil; first = false {
		ks, rs, next, err := st.Scan(t.Context(), cursor, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range ks {
			var a charging.Account
			if k.Kind == tenant.KindAccount && a.Decode(rs[i].Bytes) == nil {
				accounts, open = accounts+1, open+len(a.Sessions)
			}
		}
		cursor = next
	}
	return accounts, open
}

// otherRecords are record files with other events at the same places.
func otherRecords(t *testing.T, records string) string {
	t.Helper()
	dir := t.TempDir()
	files, err := cdr.Files(records)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.ReplaceAll(b, []byte(`"id":"sim/`), []byte(`"id":"other/`))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
