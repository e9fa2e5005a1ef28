package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rtm"
	"rtm/api"
)

// Times of a view.
const (
	topEvery  = time.Second
	topWindow = 5 * time.Second        // rates are those of the last…
	topLeast  = 900 * time.Millisecond // shorter than that, they say nothing
	topPoll   = 100 * time.Millisecond // between looks for the first rates
	topSettle = 4 * time.Second        // one that has said nothing new by then has no rates
	topAsk    = 2 * time.Second        // for one look
)

func topCommand() *cobra.Command {
	r, once, times := &remote{}, false, 1
	cmd := &cobra.Command{
		Use: "top", Short: "watch the instances: rates, latencies, peers", Args: cobra.NoArgs,
		Long: `Show each instance that is alive, once a second: CCRs answered in a second by type (initial, update,
termination, event), the time from reading one to answering it, the share of one processor spent
deciding, and how long the store takes to commit. Rates and latencies are those of the last seconds;
a latency is estimated from the buckets of rtm_request_seconds.

Where the output is no terminal, and with --once, -n or -o, it measures for a second and prints.`,
		Example: "  rtm top\n  rtm top --once -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if times < 1 {
				return exitError{fmt.Errorf("-n must be 1 or more, not %d", times), exitUsage}
			}
			t := &top{remote: r}
			if !once && !cmd.Flags().Changed("times") && r.format == "table" && isTerminal(cmd.OutOrStdout()) {
				return t.live(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
			}
			return t.print(cmd.Context(), cmd.OutOrStdout(), times)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "print once, and end")
	cmd.Flags().IntVarP(&times, "times", "n", times, "print that many times, a second apart, and end")
	return r.bind(cmd)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// top looks at a server again and again.
type top struct {
	remote *remote
	meter  meter
}

// topView is what one look shows.
type topView struct {
	Server    string    `json:"server"`
	Version   string    `json:"version"`
	Store     string    `json:"store"`
	Mode      string    `json:"mode"`
	Offset    string    `json:"clockOffset"` // of the store's clock to that of the server's machine
	Instances []topRow  `json:"instances"`
	Total     topRow    `json:"total"`
	Peers     []topPeer `json:"peers"`
}

// topRow is an instance, or all together. Counts are per second.
type topRow struct {
	Name        string    `json:"name"`
	PeerHost    string    `json:"peerHost,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	Seconds     float64   `json:"measuredSeconds"` // zero: there are no rates and latencies yet
	Answers     float64   `json:"answersPerSecond"`
	Kinds       kinds     `json:"byType"`
	P50         float64   `json:"p50Millis"`
	P99         float64   `json:"p99Millis"`
	Busy        float64   `json:"busy"` // share of one processor
	InFlight    int64     `json:"inFlight"`
	Connections int       `json:"connections"`
	Peers       int       `json:"peers"`
	Store       float64   `json:"storeMillis"` // of a round trip of commits
	Refused     float64   `json:"refusedPerSecond"`
	Leaving     bool      `json:"leaving,omitempty"`

	seen  time.Time
	late  []api.Latency
	trips float64 // per second
}

// kinds are answers per second, by CC-Request-Type.
type kinds struct {
	Initial   float64 `json:"initial"`
	Update    float64 `json:"update"`
	Terminate float64 `json:"terminate"`
	Event     float64 `json:"event"`
}

// topPeer is who is connected, and to whom.
type topPeer struct {
	Host      string   `json:"host"`
	Instances []string `json:"instances"`
}

// look asks the server once.
func (t *top) look(ctx context.Context) (v topView, err error) {
	ctx, cancel := context.WithTimeout(ctx, topAsk)
	defer cancel()
	var info api.Info
	if err := t.remote.call(ctx, "GET", "/v1/info", nil, nil, &info); err != nil {
		return v, err
	}
	var out struct{ Instances []api.Instance }
	if err := t.remote.call(ctx, "GET", "/v1/instances", nil, nil, &out); err != nil {
		return v, err
	}
	t.meter.take(out.Instances)
	v = topView{Server: t.remote.url, Version: info.Version, Store: info.Store, Mode: info.Mode, Offset: info.Offset, Instances: []topRow{}}
	for i := range out.Instances {
		v.Instances = append(v.Instances, t.meter.row(out.Instances[i].Name))
	}
	v.Peers = connectedTo(out.Instances)
	v.Total = total(v.Instances)
	v.Total.Peers = len(v.Peers)
	return v, nil
}

// connectedTo lists the peers of all instances by name.
func connectedTo(all []api.Instance) []topPeer {
	peers := []topPeer{}
	for i := range all {
		for _, host := range all[i].Peers {
			j, found := slices.BinarySearchFunc(peers, host, func(p topPeer, host string) int { return strings.Compare(p.Host, host) })
			if !found {
				peers = slices.Insert(peers, j, topPeer{Host: host})
			}
			peers[j].Instances = append(peers[j].Instances, all[i].Name)
		}
	}
	return peers
}

// A meter makes rates of the last seconds from what instances have counted.
type meter struct {
	looks map[string][]api.Instance // of each instance, in this life of it, the oldest first
}

// take notes what each instance says, if it is new.
func (m *meter) take(all []api.Instance) {
	next := make(map[string][]api.Instance)
	for _, i := range all {
		was := m.looks[i.Name]
		if len(was) > 0 && !was[0].Since.Equal(i.Since) {
			was = nil // it began again, and so did its counts
		}
		if len(was) == 0 || was[len(was)-1].Seen.Before(i.Seen) {
			was = append(was, i)
		}
		for len(was) > 2 && i.Seen.Sub(was[1].Seen) >= topWindow {
			was = was[1:]
		}
		next[i.Name] = was
	}
	m.looks = next
}

// row is an instance as it was in the last seconds.
func (m *meter) row(name string) topRow {
	looks := m.looks[name]
	a, b := &looks[0], &looks[len(looks)-1]
	r := topRow{
		Name: b.Name, PeerHost: b.PeerHost, Since: b.Since, InFlight: b.InFlight, Connections: b.Connections, Peers: len(b.Peers),
		Leaving: b.Leaving, seen: b.Seen,
	}
	seconds := b.Seen.Sub(a.Seen).Seconds()
	if seconds < topLeast.Seconds() {
		return r
	}
	rate := func(a, b int64) float64 { return float64(b-a) / seconds }
	r.Seconds = seconds
	r.Kinds = kinds{
		rate(a.Answered.Initial, b.Answered.Initial), rate(a.Answered.Update, b.Answered.Update),
		rate(a.Answered.Terminate, b.Answered.Terminate), rate(a.Answered.Event, b.Answered.Event),
	}
	r.Answers = r.Kinds.Initial + r.Kinds.Update + r.Kinds.Terminate + r.Kinds.Event
	r.Busy, r.Refused = (b.BusySeconds-a.BusySeconds)/seconds, rate(a.Refused, b.Refused)
	if r.trips = rate(a.StoreTrips, b.StoreTrips); r.trips > 0 {
		r.Store = 1000 * (b.StoreSeconds - a.StoreSeconds) / seconds / r.trips
	}
	for k := range min(len(a.Latency), len(b.Latency)) {
		r.late = append(r.late, api.Latency{Seconds: b.Latency[k].Seconds, Count: b.Latency[k].Count - a.Latency[k].Count})
	}
	r.P50, r.P99 = 1000*quantile(r.late, 0.5), 1000*quantile(r.late, 0.99)
	return r
}

// total is all rows together.
func total(rows []topRow) (t topRow) {
	t.Name = "total"
	for i := range rows {
		r := &rows[i]
		t.Seconds, t.Answers, t.Busy, t.Refused = max(t.Seconds, r.Seconds), t.Answers+r.Answers, t.Busy+r.Busy, t.Refused+r.Refused
		t.Kinds = kinds{t.Kinds.Initial + r.Kinds.Initial, t.Kinds.Update + r.Kinds.Update, t.Kinds.Terminate + r.Kinds.Terminate, t.Kinds.Event + r.Kinds.Event}
		t.InFlight, t.Connections = t.InFlight+r.InFlight, t.Connections+r.Connections
		if t.trips += r.trips; t.trips > 0 {
			t.Store += (r.Store - t.Store) * r.trips / t.trips
		}
		if t.late == nil {
			t.late = slices.Clone(r.late)
			continue
		}
		for k := range min(len(t.late), len(r.late)) {
			t.late[k].Count += r.late[k].Count
		}
	}
	t.P50, t.P99 = 1000*quantile(t.late, 0.5), 1000*quantile(t.late, 0.99)
	return t
}

// quantile estimates in seconds what a share of all took no longer than, as if
// those of a bucket lay evenly in it; beyond the last bound it is that bound.
func quantile(late []api.Latency, share float64) float64 {
	all, before, below := int64(0), int64(0), 0.0
	for _, l := range late {
		all += l.Count
	}
	want := share * float64(all)
	for _, l := range late {
		if l.Seconds == 0 || all == 0 {
			break
		}
		if n := float64(l.Count); n > 0 && float64(before)+n >= want {
			return below + (l.Seconds-below)*(want-float64(before))/n
		}
		before, below = before+l.Count, l.Seconds
	}
	if all == 0 {
		return 0
	}
	return below
}

// print measures and prints, a number of times.
func (t *top) print(ctx context.Context, out io.Writer, times int) error {
	for n := range times {
		v, err := t.settled(ctx, n > 0)
		if err != nil {
			return err
		}
		if err := t.remote.print(out, v, v.table); err != nil {
			return err
		}
	}
	return nil
}

// settled looks until all instances have rates; again waits a second at first.
func (t *top) settled(ctx context.Context, again bool) (topView, error) {
	wait, until := topPoll, time.Now().Add(topSettle)
	if again {
		if err := pause(ctx, topEvery); err != nil {
			return topView{}, err
		}
	}
	for {
		v, err := t.look(ctx)
		if err != nil || time.Now().After(until) || !slices.ContainsFunc(v.Instances, func(r topRow) bool { return r.Seconds == 0 }) {
			return v, err
		}
		if err := pause(ctx, wait); err != nil {
			return v, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (v topView) table(w io.Writer) {
	fmt.Fprintf(w, "rtm %s at %s   store %s (%s), clock offset %s\n\n", v.Version, v.Server, v.Store, v.Mode, v.Offset)
	fmt.Fprintf(w, "INSTANCE\tPEER HOST\tUP\tANSWERS/S\tI/U/T/E\tP50\tP99\tBUSY\tIN FLIGHT\tCONNS\tPEERS\tSTORE\tREFUSED/S\n")
	for i := range v.Instances {
		v.Instances[i].line(w)
	}
	v.Total.line(w)
	if len(v.Peers) > 0 {
		fmt.Fprintf(w, "\nPEER\tINSTANCES\n")
	}
	for _, p := range v.Peers {
		fmt.Fprintf(w, "%s\t%s\n", p.Host, strings.Join(p.Instances, " "))
	}
}

func (r *topRow) line(w io.Writer) {
	up, k := "", r.Kinds
	if !r.Since.IsZero() {
		up = r.seen.Sub(r.Since).Round(time.Second).String()
	}
	if r.Leaving {
		up = "leaving"
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", r.Name, r.PeerHost, up, r.rate(r.Answers),
		r.rate(k.Initial)+"/"+r.rate(k.Update)+"/"+r.rate(k.Terminate)+"/"+r.rate(k.Event), millis(r.P50), millis(r.P99),
		r.share(), r.InFlight, r.Connections, r.Peers, millis(r.Store), r.rate(r.Refused))
}

// rate is a count per second as it is shown: a dash if it is not known yet.
func (r *topRow) rate(n float64) string {
	switch {
	case r.Seconds == 0:
		return "–"
	case n > 0 && n < 10:
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.0f", n)
}

func (r *topRow) share() string {
	if r.Seconds == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f %%", 100*r.Busy)
}

// millis is a time as it is shown; zero: there was none. The last bound of the
// buckets stands for all that took longer.
func millis(ms float64) string {
	switch last := rtm.Latencies[len(rtm.Latencies)-1]; {
	case ms == 0:
		return "–"
	case ms >= 1000*last.Seconds():
		return ">" + last.String()
	}
	return fmt.Sprintf("%.2f ms", ms)
}

// live shows the view on a terminal until q is pressed.
func (t *top) live(ctx context.Context, in io.Reader, out io.Writer, opts ...tea.ProgramOption) error {
	opts = append(opts, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out))
	_, err := tea.NewProgram(topScreen{top: t, ctx: ctx}, opts...).Run()
	if ctx.Err() != nil || errors.Is(err, tea.ErrInterrupted) {
		return nil // it was told to end
	}
	return err
}

// topScreen is the terminal as bubbletea sees it.
type topScreen struct {
	top    *top
	ctx    context.Context
	view   topView
	err    error
	looked bool
	paused bool
	width  int
	height int
}

type (
	topLooked struct {
		view topView
		err  error
	}
	topTick struct{}
)

// Init implements tea.Model.
func (s topScreen) Init() tea.Cmd { return s.look }

func (s topScreen) look() tea.Msg {
	v, err := s.top.look(s.ctx)
	return topLooked{v, err}
}

// Update implements tea.Model.
func (s topScreen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	again := tea.Tick(topEvery, func(time.Time) tea.Msg { return topTick{} })
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.width, s.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "esc", "ctrl+c":
			return s, tea.Quit
		case "p":
			s.paused = !s.paused
		}
	case topTick:
		if s.paused {
			return s, again
		}
		return s, s.look
	case topLooked:
		s.looked = true
		if s.err = msg.err; msg.err == nil && !s.paused {
			s.view = msg.view
		}
		return s, again
	}
	return s, nil
}

// View implements tea.Model.
func (s topScreen) View() tea.View {
	v := tea.NewView(s.text())
	v.AltScreen, v.WindowTitle = true, "rtm top"
	return v
}

// text is what fits on the screen, the keys in its last line.
func (s topScreen) text() string {
	var b strings.Builder
	if s.looked && s.view.Server != "" {
		t := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
		s.view.table(t)
		t.Flush()
	}
	foot := "q quits, p pauses"
	switch {
	case s.paused:
		foot = "paused: p goes on, q quits"
	case s.err != nil:
		foot = strings.Join(strings.Fields(s.err.Error()), " ") + "   q quits"
	}
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	if room := s.height - 2; s.height > 0 && len(lines) > room {
		lines = lines[:max(room, 0)]
	}
	lines = append(lines, "", foot)
	for i, l := range lines {
		if r := []rune(l); s.width > 0 && len(r) > s.width {
			lines[i] = string(r[:s.width])
		}
	}
	return strings.Join(lines, "\n")
}
