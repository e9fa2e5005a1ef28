package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rtm/ctf"
	"rtm/rtmtest"
)

// What BenchmarkScaling gives each instance and the gateways. The quota is so
// small that all instances, Redis and the gateways together stay below the two
// cores of the smallest machine that this is meant for.
const (
	scalingInstances = 4
	scalingPercent   = 10                    // of a core, for each instance
	scalingPeriod    = 20 * time.Millisecond // in which it may use that
	scalingParallel  = 256                   // sessions at once, for each instance
	scalingAccounts  = 1000                  // for each instance
	scalingWarm      = 6 * time.Second
	scalingFor       = 8 * time.Second
	scalingRounds    = 3
	scalingMin       = 0.9 // of linear
)

var scalingSizes = []int{1, 2, 4}

// A quota is a control group of the kernel that bounds the processor time of a
// process.
type quota struct{ dir string }

// newQuota makes one, until the test ends: of version 1 or 2, whichever the
// machine has.
func newQuota(t testing.TB, percent int, period time.Duration) *quota {
	t.Helper()
	name := fmt.Sprintf("rtm-scaling-%d-%s", os.Getpid(), filepath.Base(t.TempDir()))
	micros, of := strconv.FormatInt(period.Microseconds()*int64(percent)/100, 10), strconv.FormatInt(period.Microseconds(), 10)
	for _, v := range []struct {
		root  string
		needs string // the file that shows that this version is there
		files [][2]string
	}{
		{"/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", [][2]string{{"cpu.cfs_period_us", of}, {"cpu.cfs_quota_us", micros}}},
		{"/sys/fs/cgroup", "cgroup.controllers", [][2]string{{"cpu.max", micros + " " + of}}},
	} {
		if _, err := os.Stat(filepath.Join(v.root, v.needs)); err != nil {
			continue
		}
		if v.needs == "cgroup.controllers" {
			os.WriteFile(filepath.Join(v.root, "cgroup.subtree_control"), []byte("+cpu"), 0o644) // else cpu.max is missing
		}
		q := &quota{filepath.Join(v.root, name)}
		if err := os.Mkdir(q.dir, 0o755); err != nil {
			t.Fatalf("a processor quota needs the right to make control groups (run it as root, outside a container): %v", err)
		}
		t.Cleanup(func() { os.Remove(q.dir) })
		for _, f := range v.files {
			q.write(t, f[0], f[1])
		}
		return q
	}
	t.Fatal("a processor quota needs the cpu controller of control groups, version 1 or 2, under /sys/fs/cgroup; there is none")
	return nil
}

func (q *quota) write(t testing.TB, file, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(q.dir, file), []byte(value), 0o644); err != nil {
		t.Fatalf("a processor quota could not be set: %v", err)
	}
}

// throttled is in how many periods the process wanted more than it may use, and
// in how many it ran.
func (q *quota) throttled(t testing.TB) (wanted, periods int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(q.dir, "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "nr_throttled %d", &wanted)
		fmt.Sscanf(line, "nr_periods %d", &periods)
	}
	return wanted, periods
}

// BenchmarkScaling compares 1, 2 and 4 instances on one Redis, each of which may
// use the same small part of a core, with messages that hop between them. Four
// instances run in any case, with so many sessions waiting at each that what a
// system call carries is about the same (with 64 a lone instance, for which all
// its gateways wait while it may not run, gets them in lockstep, and is 20 %
// cheaper than one among several: that is no loss of those). They run as four clusters of one, each with a Redis and
// gateways of its own, as two of two, or as one of four. So the machine is as
// busy, and its caches are as cold, whatever is measured, and what differs is
// that instances share a store and sessions.
func BenchmarkScaling(b *testing.B) {
	rates := make(map[int][]float64)
	for range scalingRounds {
		for _, n := range scalingSizes {
			rates[n] = append(rates[n], scaledRate(b, n))
		}
	}
	one := median(rates[1])
	say("medians of %d rounds; every instance may use %d %% of a core, and %d run at any time:", scalingRounds, scalingPercent, scalingInstances)
	for _, n := range scalingSizes {
		linear := median(rates[n]) / one / float64(n)
		say("%d together: %6.0f CCR/s, %.2f of linear (goal: at least %.1f)", n, median(rates[n]), linear, scalingMin)
		b.ReportMetric(linear, fmt.Sprintf("linear-%d", n))
		if linear < scalingMin {
			b.Errorf("%d instances do %.2f of %d times what one does", n, linear, n)
		}
	}
	b.ReportMetric(0, "ns/op")
}

func median(list []float64) float64 {
	s := slices.Sorted(slices.Values(list))
	return s[len(s)/2]
}

// scaledRate is the CCR/s of a cluster of n instances, as fast as they answer,
// beside as many others as make scalingInstances.
func scaledRate(b *testing.B, n int) float64 {
	var clusters []*bounded
	defer func() {
		for _, c := range clusters {
			c.end()
		}
	}()
	for range scalingInstances / n {
		clusters = append(clusters, startBounded(b, n))
	}
	play := func(seed uint64, length time.Duration) (answered int64) {
		var wg sync.WaitGroup
		for _, c := range clusters {
			wg.Go(func() { c.play(b, seed, length) })
		}
		wg.Wait()
		for _, c := range clusters {
			answered += c.answered
		}
		return answered
	}
	play(1, scalingWarm)
	before := usage(b, clusters)
	start := time.Now()
	answered := play(2, scalingFor)
	took := time.Since(start)
	used := usage(b, clusters).less(before)
	rate := float64(answered) / took.Seconds() / float64(len(clusters))
	say("%d together: %6.0f CCR/s, %.2f records filed for each; at their quota in %d %% of all periods, %.1f µs/CCR; busy cores: instances %.2f, Redis %.2f, gateways %.2f", n, rate,
		float64(used.filed)/float64(answered), 100*used.throttled/max(used.periods, 1), float64(used.instances.Microseconds())/float64(answered),
		used.instances.Seconds()/took.Seconds(), used.redis.Seconds()/took.Seconds(), used.gateways.Seconds()/took.Seconds())
	return rate
}

// bounded is a cluster of instances, each of which has a quota.
type bounded struct {
	*pair
	quotas   []*quota
	imsis    []string
	answered int64
}

func startBounded(b *testing.B, n int) *bounded {
	c := &bounded{pair: &pair{redis: rtmtest.StartRedis(b), records: b.TempDir()}}
	st, err := openStore(b.Context(), &config{Store: "redis://" + c.redis.Addr}, quiet(b))
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	c.imsis = fill(b, st, scalingAccounts*n, time.Hour, 30*time.Second)
	for i := range n {
		c.quotas = append(c.quotas, newQuota(b, scalingPercent, scalingPeriod))
		c.join(b)
		c.quotas[i].write(b, "cgroup.procs", strconv.Itoa(c.procs[i].cmd.Process.Pid))
	}
	return c
}

// play has gateways send to all instances for that long.
func (c *bounded) play(b *testing.B, seed uint64, length time.Duration) {
	sim, err := ctf.New(ctf.Config{
		Targets: c.targets, Host: scaleHost, Realm: scaleRealm, IMSIs: c.imsis, Sessions: 1 << 30, Groups: 1, Updates: 2,
		Parallel: scalingParallel * len(c.procs), Hop: true, Length: length, Seed: seed,
	})
	if err == nil {
		err = sim.Run(b.Context())
	}
	if err != nil || sim.Counts.Failed.Load()+sim.Counts.GivenUp.Load() > 0 {
		b.Errorf("%v %s", err, sim.FirstFailure())
	}
	c.answered = sim.Counts.Answered.Load()
}

// end ends a cluster before the next one is measured.
func (c *bounded) end() {
	for _, p := range c.procs {
		p.kill9()
	}
	c.redis.Kill()
}

// used is processor time, and periods of quotas.
type used struct {
	instances, redis, gateways time.Duration
	throttled, periods         int
	filed                      int64 // records in files
}

func usage(b *testing.B, clusters []*bounded) (u used) {
	for _, c := range clusters {
		for i, p := range c.procs {
			throttled, periods := c.quotas[i].throttled(b)
			u.throttled, u.periods = u.throttled+throttled, u.periods+periods
			u.instances += cpu(b, p.cmd.Process.Pid)
			u.filed += metric(b, c.apis[i], "rtm_records_total")
		}
		u.redis += cpu(b, c.redis.PID())
	}
	u.gateways = cpu(b, os.Getpid())
	return u
}

func (u used) less(v used) used {
	return used{
		u.instances - v.instances, u.redis - v.redis, u.gateways - v.gateways, u.throttled - v.throttled, u.periods - v.periods, u.filed - v.filed,
	}
}

// While gateways send, an instance joins and another one leaves: no request
// fails, and none is charged twice or not at all.
func TestOneJoinsAndOneLeaves(t *testing.T) {
	p := startPair(t, func(*pair) {})
	third := rtmtest.FreeAddr(t)
	play := newPlay(&lab{targets: append(slices.Clone(p.targets), third), api: p.apis[1], records: p.records})
	play.conf.Sessions, play.conf.Rate, play.conf.Hold, play.conf.Hop, play.conf.Patient = 3500, 500, 200*time.Millisecond, true, true
	var o *outcome
	ended := make(chan error, 1)
	go func() {
		var err error
		o, err = play.play(t.Context())
		ended <- err
	}()
	<-time.After(3 * time.Second)
	p.joinAt(t, third)
	<-time.After(2 * time.Second)
	p.procs[0].leave()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	all(t, o)
	if o.Closed != 1 {
		t.Errorf("%d connections were closed; that of the one that left is expected", o.Closed)
	}
}
