package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"rtm/api"
	"rtm/ctf"
	"rtm/rtmtest"
	"rtm/store/storetest"
)

// traffic plays sessions against all instances of l until the test ends.
func traffic(t *testing.T, l *lab) {
	t.Helper()
	p := newPlay(l)
	p.conf.Sessions, p.conf.Rate, p.conf.Hop, p.conf.Seed = 1_000_000, 200, true, 1
	if _, err := p.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	sim, err := ctf.New(p.conf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sim.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	rtmtest.Until(t, "gateways are served", func() bool { return sim.Counts.Ended.Load() > 0 })
}

func TestTopOnce(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 2)
	traffic(t, l)
	out, code := tell(t, "top", "--api", l.api, "--once", "-o", "json")
	var v topView
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 {
		t.Fatalf("exit %d, %v:\n%s", code, err, out)
	}
	if len(v.Instances) != 2 || v.Instances[0].Name != "A" || v.Instances[1].PeerHost != "b.ocs.rtm.localdomain" || v.Mode == "" {
		t.Fatal(out)
	}
	for _, r := range append(v.Instances, v.Total) {
		if r.Seconds < topLeast.Seconds() || r.Answers <= 0 || r.Kinds.Update <= 0 || r.Kinds.Event != 0 {
			t.Errorf("%s: rates %+v in %.3f s", r.Name, r.Kinds, r.Seconds)
		}
		if r.P50 <= 0 || r.P99 < r.P50 || r.Busy <= 0 || r.Store <= 0 || r.Connections < 1 || r.Peers != 1 {
			t.Errorf("%+v", r)
		}
	}
	if k := v.Total.Kinds; k.Initial <= 0 || k.Terminate <= 0 {
		t.Errorf("all together: %+v", k)
	}
	if len(v.Peers) != 1 || v.Peers[0].Host != "gw.sim.localdomain" || strings.Join(v.Peers[0].Instances, "") != "AB" {
		t.Errorf("peers %+v", v.Peers)
	}
	table, code := tell(t, "top", "--api", l.api)
	for _, want := range []string{"\nINSTANCE  PEER HOST ", "\nA         a.ocs.rtm.localdomain ", "\ntotal ", " ms  ", "\nPEER                INSTANCES\ngw.sim.localdomain  A B\n"} {
		if !strings.Contains(table, want) || code != 0 {
			t.Errorf("exit %d, %q is missing:\n%s", code, want, table)
		}
	}
	if _, code := tell(t, "top", "--api", "http://127.0.0.1:1"); code != exitUnreachable {
		t.Errorf("exit %d without a server", code)
	}
	if _, code := tell(t, "top", "--api", l.api, "-n", "0"); code != exitUsage {
		t.Errorf("exit %d for -n 0", code)
	}
}

// screen is what a terminal was sent.
type screen struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) shows(text string) func() bool {
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Contains(s.b.String(), text)
	}
}

func TestTopLive(t *testing.T) {
	l := startLab(t, storetest.NewMemory(), 1)
	keys, typed := io.Pipe()
	s, ended := &screen{}, make(chan error, 1)
	top := &top{remote: &remote{url: l.api, format: "table"}}
	go func() {
		ended <- top.live(t.Context(), keys, s, tea.WithWindowSize(120, 20), tea.WithEnvironment([]string{"TERM=xterm"}))
	}()
	rtmtest.Until(t, "the instance is shown", s.shows("a.ocs.rtm.localdomain"))
	io.WriteString(typed, "p")
	rtmtest.Until(t, "it is paused", s.shows("paused: p goes on"))
	io.WriteString(typed, "q")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What fits on a screen, and what is shown when the server is gone.
func TestTopScreen(t *testing.T) {
	var m tea.Model = topScreen{top: &top{}, ctx: t.Context()}
	tell := func(msg tea.Msg) string {
		m, _ = m.Update(msg)
		return m.View().Content
	}
	view := topView{Server: "http://ocs", Instances: []topRow{{Name: "A"}, {Name: "B"}, {Name: "C"}}}
	tell(tea.WindowSizeMsg{Width: 20, Height: 7})
	lines := strings.Split(tell(topLooked{view: view}), "\n")
	if len(lines) != 7 || !strings.HasPrefix(lines[4], "B ") || lines[6] != "q quits, p pauses" {
		t.Errorf("%q", lines)
	}
	for _, line := range lines {
		if len([]rune(line)) > 20 {
			t.Errorf("%q is wider than the screen", line)
		}
	}
	if text := tell(topLooked{err: refusal{503, "no store"}}); !strings.Contains(text, "no store") || !strings.Contains(text, "\nB ") {
		t.Errorf("the last figures are gone, or the reason:\n%s", text)
	}
}

func TestTopMeasures(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	says := func(since, seen, updates int) []api.Instance {
		return []api.Instance{{
			Name: "A", Since: at.Add(time.Duration(since) * time.Second), Seen: at.Add(time.Duration(seen) * time.Second),
			Answered: api.Answered{Update: int64(updates)}, Latency: []api.Latency{{Seconds: 0.001, Count: int64(updates)}, {}},
		}}
	}
	var m meter
	for i, c := range []struct{ since, seen, updates, rate int }{
		{0, 10, 100, 0}, // one look says nothing
		{0, 10, 100, 0}, // nor does the same again
		{0, 12, 300, 100},
		{0, 14, 700, 150},
		{0, 20, 700, 0}, // it was silent for longer than the window
		{21, 22, 50, 0}, // it began again: its counts are others
		{21, 23, 60, 10},
	} {
		m.take(says(c.since, c.seen, c.updates))
		if r := m.row("A"); r.Answers != float64(c.rate) {
			t.Errorf("look %d: %v a second, want %d", i, r.Answers, c.rate)
		}
	}
	if m.take(nil); len(m.looks) != 0 {
		t.Error("who is gone is remembered")
	}
	late := []api.Latency{{Seconds: 0.001, Count: 50}, {Seconds: 0.002, Count: 40}, {Count: 10}}
	for share, want := range map[float64]float64{0.25: 0.0005, 0.5: 0.001, 0.7: 0.0015, 0.99: 0.002} {
		if got := quantile(late, share); got < want-1e-9 || got > want+1e-9 {
			t.Errorf("%v of all took %v s, want %v", share, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 || quantile([]api.Latency{{Seconds: 1}}, 0.5) != 0 {
		t.Error("nothing took some time")
	}
}
