package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"rtm/ctf"
	"rtm/rtmtest"
)

// cpu is the processor time that a process has used, user and system.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	if pid == 0 {
		return 0
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// The fields behind the name, which stands in brackets: 12 and 13 are
	// utime and stime in hundredths of a second.
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	user, _ := strconv.Atoi(string(f[11]))
	system, _ := strconv.Atoi(string(f[12]))
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkClosedLoop is the main job with processes of their own for server and
// Redis, and the generator in this one: sessions of I, U, U, T over one instance,
// as fast as they are answered; then the latency at half of that rate, and at
// two fixed ones.
func BenchmarkClosedLoop(b *testing.B) {
	b.Run("embedded", func(b *testing.B) { closedLoop(b, "embedded:"+b.TempDir(), 0) })
	b.Run("redis everysec", func(b *testing.B) {
		r := rtmtest.StartRedis(b, "--appendonly", "yes", "--appendfsync", "everysec")
		closedLoop(b, "redis://"+r.Addr, r.PID())
	})
}

func closedLoop(b *testing.B, where string, redis int) {
	target, api := rtmtest.FreeAddr(b), rtmtest.FreeAddr(b)
	server := run(b, "serve", "--store", where, "--diameter", target, "--http", api, "--records", b.TempDir())
	rtmtest.Until(b, "the server is ready", ready("http://"+api))
	p := newPlay(&lab{targets: []string{target}, api: "http://" + api})
	p.subscribers, p.conf.Parallel = 10_000, 128
	if _, err := p.prepare(b.Context()); err != nil {
		b.Fatal(err)
	}
	play := func(sessions int, rate float64) *outcome {
		p.conf.Seed++
		p.conf.Sessions, p.conf.Rate = sessions, rate
		sim, err := ctf.New(p.conf)
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if err := sim.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		o := p.measure(sim, time.Since(start))
		if sim.Counts.Failed.Load() != 0 || sim.Counts.GivenUp.Load() != 0 {
			b.Fatal(sim.FirstFailure())
		}
		return o
	}
	play(5000, 0) // warm
	pids := []int{server.cmd.Process.Pid, redis, os.Getpid()}
	var before, after [3]time.Duration
	var messages, seconds float64
	for b.Loop() {
		for i, pid := range pids {
			before[i] -= cpu(b, pid)
		}
		o := play(40_000, 0)
		for i, pid := range pids {
			after[i] += cpu(b, pid)
		}
		messages += float64(o.Messages)
		seconds += o.Seconds
	}
	rate := messages / seconds
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(rate, "CCR/s")
	for i, name := range []string{"server", "redis", "generator"} {
		if pids[i] != 0 {
			b.ReportMetric(float64((after[i]+before[i]).Microseconds())/messages, name+"-µs/CCR")
		}
	}
	for _, at := range []struct {
		name string
		rate float64
	}{{"half", rate / 2}, {"at-5000", 5000}, {"at-10000", 10_000}} {
		o := play(int(at.rate/4*3), at.rate/4) // for three seconds
		b.ReportMetric(float64(o.P50.Microseconds())/1000, at.name+"-p50-ms")
		b.ReportMetric(float64(o.P99.Microseconds())/1000, at.name+"-p99-ms")
	}
}
