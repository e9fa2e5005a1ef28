package main

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"rtm/ctf"
	"rtm/rtmtest"
)

// alone is the only process on an embedded store.
type alone struct {
	*process
	dir, notes string
	lab        *lab
}

// startAlone runs it until the test ends.
func startAlone(t testing.TB, env ...string) *alone {
	t.Helper()
	a := &alone{dir: t.TempDir(), notes: filepath.Join(t.TempDir(), "synced")}
	target, api, records := rtmtest.FreeAddr(t), rtmtest.FreeAddr(t), t.TempDir()
	a.process = runWith(t, append(env, "RTM_TEST_SYNCED="+a.notes), "serve", "--store", "embedded:"+a.dir, "--diameter", target, "--http", api, "--records", records)
	a.lab = &lab{targets: []string{target}, api: "http://" + api, records: records}
	rtmtest.Until(t, "it is ready", ready(a.lab.api))
	return a
}

// under plays load while a fault is done, and ends it after that. What comes
// before the load is tried again, as an operator would.
func under(t testing.TB, l *lab, change func(p *play), fault func()) *outcome {
	t.Helper()
	stop, begun := make(chan struct{}), make(chan *ctf.Sim, 1)
	go func() {
		defer close(stop)
		sim := <-begun
		rtmtest.Within(t, time.Minute, "gateways are served", func() bool { return sim.Counts.Answered.Load() > 100 })
		fault()
	}()
	for since := time.Now(); ; {
		started := false
		p := newPlay(l)
		p.conf.Sessions, p.conf.Stop, p.timeout = 1_000_000, stop, 10*time.Minute
		p.begun = func(sim *ctf.Sim) { started = true; begun <- sim }
		p.conf.Rate, p.conf.Hold, p.conf.Tx, p.conf.Resends, p.conf.Again = 400, 200*time.Millisecond, time.Second, 60, 500*time.Millisecond
		p.conf.Yield = true
		change(p)
		o, err := p.play(t.Context())
		if err == nil {
			return o
		}
		if started || time.Since(since) > time.Minute {
			t.Fatal(err)
		}
		<-time.After(500 * time.Millisecond)
	}
}

// The only process on the embedded store, killed under load and started again,
// every second time after a loss of power: what of the log was not synced is
// gone, or a part of that is.
func TestKillTheOnlyOneEmbedded(t *testing.T) {
	t.Parallel()
	a := startAlone(t)
	dropped := int64(0)
	o := under(t, a.lab, func(*play) {}, func() {
		for n := range embeddedKills {
			<-time.After(700 * time.Millisecond)
			a.kill9()
			if n%2 == 1 {
				dropped += rtmtest.LosePower(t, a.dir, a.notes, func(unsynced int64) int64 { return rand.Int64N(unsynced+1) * int64(n/2%2) })
			}
			a.start()
		}
		rtmtest.Until(t, "it is back", ready(a.lab.api))
	})
	all(t, o)
	t.Logf("%d kills, %d with a loss of power that dropped %d octets; %d messages, %d resent, %d lost, %d doubled",
		embeddedKills, embeddedKills/2, dropped, o.Messages, o.Resent, o.Lost, o.Doubled)
}

// The disk is full: the process ends with 1, and when there is room again, all
// that was acknowledged is there.
func TestFaultDiskFull(t *testing.T) {
	t.Parallel()
	a := startAlone(t, "RTM_TEST_FULL=3000000")
	code := -1
	o := under(t, a.lab, func(*play) {}, func() {
		a.cmd.Wait()
		code = a.cmd.ProcessState.ExitCode()
		a.env = nil
		a.start()
		rtmtest.Until(t, "it is back", ready(a.lab.api))
	})
	if code != 1 {
		t.Errorf("it ended with %d\n%s", code, a.out.String())
	}
	all(t, o)
}
