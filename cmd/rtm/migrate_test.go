package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"rtm/rtmtest"
)

// site is a server in a process of its own on an embedded store.
type site struct {
	*process
	dir, target, api, records string
}

func startSite(t testing.TB) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), target: rtmtest.FreeAddr(t), api: rtmtest.FreeAddr(t), records: t.TempDir()}
	s.process = run(t, s.on("embedded:"+s.dir)...)
	rtmtest.Until(t, "the server is ready", ready("http://"+s.api))
	return s
}

// on is the command line of the server on that store.
func (s *site) on(where string) []string {
	return []string{"serve", "--store", where, "--diameter", s.target, "--http", s.api, "--records", s.records}
}

// again starts the server after it has ended, on that store.
func (s *site) again(where string) {
	s.t.Helper()
	s.args = s.on(where)
	s.start()
	rtmtest.Until(s.t, "the server is ready on "+where, ready("http://"+s.api))
}

func (s *site) lab() *lab {
	return &lab{targets: []string{s.target}, api: "http://" + s.api, records: s.records}
}

// rtmProcess runs a command in a process of its own.
func rtmProcess(args ...string) (string, error) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "RTM_TEST_MAIN=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// played is what gateways found, after they were told to end.
func (g *gateways) played(t testing.TB, l *lab) *outcome {
	t.Helper()
	g.play.records = l.records
	close(g.stop)
	if err := <-g.done; err != nil {
		t.Fatal(err)
	}
	owners := make(map[string]string)
	for n := range g.play.subscribers {
		owners[fmt.Sprintf("001018%09d", n)] = fmt.Sprintf("%s/sim-%d", simTenant, n)
	}
	o := g.play.measure(g.sim, time.Second)
	o.check(true, "all sessions ended", "")
	g.play.verify(t.Context(), o, g.sim, owners, g.before)
	return o
}

var waited = regexp.MustCompile(`requests waited (\S+)`)

// A server moves to Redis behind Sentinels under load: gateways lose no answer and see no other
// result than 2001, balances, records and their own books agree to the octet,
// and sessions that were open before end after. Then it is killed and started on
// Redis; the old directory says where its data has gone.
func TestMigrateUnderLoad(t *testing.T) {
	s := startSite(t)
	redis := rtmtest.StartSentinels(t, rtmtest.NewNet(t), 2).URL()
	l := s.lab()
	g := begin(t, l, func(p *play) {
		p.conf.Tx, p.conf.Hold, p.conf.Rate = 5*time.Second, 300*time.Millisecond, 150
		p.conf.Again = 200 * time.Millisecond // when it is back after the kill, all that waited comes at once
	})
	g.answered(t, 1500)
	if _, err := rtmProcess("backup", "--store", "embedded:"+s.dir, "-f", filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("a directory that a process has open is read")
	}
	out := mustTell(t, "migrate", "--to", redis, "--api", l.api)
	t.Log(out)
	m := waited.FindStringSubmatch(out)
	if pause, err := time.ParseDuration(m[1]); err != nil || pause > time.Second {
		t.Errorf("the pause was %s", m[1])
	}
	g.answered(t, 1500)
	if n := g.sim.Counts.Busy.Load() + g.sim.Counts.Failed.Load(); n > 0 {
		t.Errorf("%d answers were other than 2001: %s", n, g.sim.FirstFailure())
	}
	if out, err := rtmProcess(s.on("embedded:" + s.dir)...); err == nil || !strings.Contains(out, "moved to "+redis) {
		t.Errorf("a second server on the old directory: %v\n%s", err, out)
	}
	s.kill9()
	s.again(redis)
	g.answered(t, 1500)
	all(t, g.played(t, l))
	if _, err := told(t, "migrate", "--to", "embedded:"+t.TempDir(), "--api", l.api); err == nil || !strings.Contains(err.Error(), "stop all instances") {
		t.Errorf("a server on Redis: %v", err)
	}
}

// A server is killed while it moves, again and again, at any moment: whichever
// store it is started on again is the truth, and it is the only one that opens.
func TestKilledWhileItMigrates(t *testing.T) {
	s := startSite(t)
	l := s.lab()
	srv := rtmtest.StartRedis(t)
	redis := "redis://" + srv.Addr
	g := begin(t, l, func(p *play) {
		p.conf.Tx, p.conf.Hold, p.conf.Resends, p.conf.Rate = time.Second, 200*time.Millisecond, 60, 150
		p.conf.Again = 200 * time.Millisecond // when it is back, all that waited comes at once
	})
	g.answered(t, 2000)
	moved, before := false, 0
	for try := 0; try < 8 && !moved; try++ {
		ended := make(chan error, 1)
		go func() {
			_, err := told(t, "migrate", "--to", redis, "--api", l.api)
			ended <- err
		}()
		most := 40 // the first ones come while it copies
		if try > 1 {
			most = 600
		}
		<-time.After(time.Duration(rand.IntN(most)) * time.Millisecond)
		s.kill9()
		err := <-ended
		where := "embedded:" + s.dir
		if out := s.refused(where); strings.Contains(out, "moved to") {
			moved, where = true, redis
			if strings.Contains(s.refused(redis), "not taken into service") {
				if out, err := rtmProcess("migrate", "--to", redis, "--finish", s.dir); err != nil {
					t.Fatalf("the move is not finished: %v\n%s", err, out)
				}
			}
		} else if before++; err == nil {
			t.Fatal("the move says that it is done, and the old store opens")
		}
		s.again(where)
		g.answered(t, 300)
	}
	if !moved {
		mustTell(t, "migrate", "--to", redis, "--api", l.api)
	}
	g.answered(t, 500)
	all(t, g.played(t, l))
	t.Logf("killed %d times before the switch, moved by then: %v", before, moved)
	if before == 0 {
		t.Error("no kill came before the switch: not what was to be tried")
	}
}

// refused is what a server is told that opens that store; empty: it opens.
func (s *site) refused(where string) string {
	s.t.Helper()
	out, err := rtmProcess("backup", "--store", where, "-f", filepath.Join(s.t.TempDir(), "look"))
	if err == nil {
		return ""
	}
	return out
}

// Whoever asks for a move and goes away has it given up; the server stays, and a
// backup that is broken off leaves no file.
func TestInterruptedCommands(t *testing.T) {
	s := startSite(t)
	l := s.lab()
	if out, err := told(t, "migrate", "--to", "redis://127.0.0.1:1", "--api", l.api); err == nil || !strings.Contains(err.Error(), "stays on its old store") {
		t.Errorf("to a Redis that is not there: %v %s", err, out)
	}
	if _, err := told(t, "migrate", "--to", "somewhere", "--api", l.api); err == nil {
		t.Error("to a store that is none")
	}
	if _, err := told(t, "migrate", "--to", "embedded:"+s.dir, "--api", l.api); err == nil {
		t.Error("into itself")
	}
	res, err := http.Get(l.api + "/v1/info")
	if err != nil || res.StatusCode != 200 {
		t.Fatal("the server is gone", err)
	}
	res.Body.Close()
	hole := rtmtest.FreeAddr(t)
	file := filepath.Join(t.TempDir(), "rtm.backup")
	if _, err := told(t, "backup", "-f", file, "--api", "http://"+hole); err == nil {
		t.Error("a server that is not there")
	}
	if left, _ := filepath.Glob(file + "*"); len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}
	for _, args := range [][]string{{"restore", "nothing", "--check"}, {"restore", "-", "--store", "embedded:x"}, {"restore", "x"}, {"restore", "x", "--check", "--store", "embedded:y"}} {
		if _, err := told(t, args...); err == nil {
			t.Errorf("rtm %v", args)
		}
	}
}
