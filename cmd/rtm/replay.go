package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rtm/replay"
)

// groupsShown is how many kinds of differences a table has; the other formats
// have all.
const groupsShown = 25

// A replaying is one run of rtm replay.
type replaying struct {
	remote
	conf        replay.Config
	file        string
	ports       []uint
	maps        []string
	mapFile     string
	subscribers []string
	keepIDs     bool
	grants      bool
	all         bool
	first       bool // no message was printed yet
}

func replayCommand() *cobra.Command {
	p := &replaying{first: true}
	w := &p.conf.Rewriter
	cmd := &cobra.Command{
		Use: "replay FILE", Short: "play captured Gy and Ro traffic to a server, and compare the answers", Args: cobra.ExactArgs(1),
		Long: `Read a capture (pcap or pcapng, also with gzip; - is standard input), send the CCRs of credit control in
it to a server in the order in which they were captured, and compare each answer with the one in the
capture: Result-Codes of the message and of each rating group, granted units, Validity-Time and final unit.

Each gateway of the capture connects under its own Origin-Host; rtm serve needs a Peer document for it, or
give one that it has with --host and --realm. Sessions are new ones with each run: their Session-Ids get a
mark. Destination-Realm is the server's, Destination-Host is left out, all else stays octet for octet. RAR,
ASR, Gx and what else is in the capture are counted and not replayed.

Nobody of the capture need exist on the server: --subscriber makes all of them one that does, --map and
--map-file map them one by one. --dry-run says without a server what is in the capture, and who.

Exit code 1 says that Result-Codes differ or that an answer is missing; with --grants also that grants do.`,
		Example: `  rtm replay gy.pcapng --dry-run
  rtm replay gy.pcapng --subscriber imsi:001010000000001 --subscriber msisdn:491700000001
  rtm replay gy.pcapng --map imsi:310150123456789=imsi:001010000000001 --target 127.0.0.20:3868 --all
  rtm replay gy.pcapng --map-file subscribers.csv --host pgw1.lab.example --realm lab.example --speed 1 -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p.file = args[0]
			return p.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.conf.Target, "target", "127.0.0.20:3868", "the server's Diameter address")
	f.StringArrayVar(&p.maps, "map", nil, "replay a captured subscriber as another: imsi:OLD=imsi:NEW, msisdn:OLD=msisdn:NEW; may be repeated")
	f.StringVar(&p.mapFile, "map-file", "", "the same from a CSV file, a line for each: imsi:OLD,imsi:NEW")
	f.StringArrayVar(&p.subscribers, "subscriber", nil, "replay all captured subscribers as this one: imsi:…; once more for its msisdn:…")
	f.BoolVar(&p.keepIDs, "keep-session-ids", false, "leave Session-Ids as captured: a second run then repeats the first one")
	f.StringVar(&w.Host, "host", "", "Origin-Host of all messages and of the connection (default: as captured)")
	f.StringVar(&w.Realm, "realm", "", "Origin-Realm, likewise")
	f.StringVar(&w.DestinationHost, "destination-host", "", "Destination-Host: a name, keep (as captured) or server (the peer's name) (default: left out)")
	f.StringVar(&w.DestinationRealm, "destination-realm", replay.Server, "Destination-Realm: a name, keep (as captured) or server (its own)")
	f.UintSliceVar(&p.ports, "port", nil, "read these ports only (default: any on which there is Diameter)")
	f.Float64Var(&p.conf.Speed, "speed", 0, "1: as fast as it was captured; 10: ten times as fast (0: as fast as answers come)")
	f.BoolVar(&w.Now, "now", false, "set Event-Timestamps to the time of sending")
	f.IntVar(&p.conf.Parallel, "parallel", 64, "messages of different sessions on their way at once; 1: one after the other")
	f.DurationVar(&p.conf.Tx, "tx", 10*time.Second, "give up an answer after that")
	f.BoolVar(&p.conf.Whole, "whole", false, "leave out sessions that began before the capture")
	f.BoolVar(&p.conf.Dry, "dry-run", false, "send nothing: say what is in the capture")
	f.BoolVar(&p.grants, "grants", false, "end with 1 also if grants differ")
	f.BoolVar(&p.all, "all", false, "print each message, not only what differs")
	f.StringVarP(&p.format, "output", "o", "table", "table, json or yaml")
	offer(cmd, "output", oneOf(formats))
	offer(cmd, "destination-host", oneOf([]string{replay.Keep, replay.Server}))
	offer(cmd, "destination-realm", oneOf([]string{replay.Keep, replay.Server}))
	cmd.MarkFlagFilename("map-file", "csv")
	return offerFirst(cmd, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"pcap", "pcapng", "cap", "gz"}, cobra.ShellCompDirectiveFilterFileExt
	})
}

// check finds what is written wrong before anything is read.
func (p *replaying) check() error {
	switch {
	case !slices.Contains(formats, p.format):
		return fmt.Errorf("--output is table, json or yaml, not %q", p.format)
	case p.conf.Speed < 0:
		return fmt.Errorf("--speed is 1 for the capture's own, 10 for ten times that, not %v", p.conf.Speed)
	case p.conf.Parallel < 1 || p.conf.Parallel > 1024:
		return fmt.Errorf("--parallel must be 1 to 1024, not %d", p.conf.Parallel)
	case p.conf.Tx <= 0:
		return fmt.Errorf("--tx must be more than 0, such as 10s, not %s", p.conf.Tx)
	}
	if _, _, err := net.SplitHostPort(p.conf.Target); err != nil {
		return fmt.Errorf("--target: %q is no address such as 127.0.0.20:3868", p.conf.Target)
	}
	for _, port := range p.ports {
		if port == 0 || port > 65535 {
			return fmt.Errorf("--port: there is no port %d", port)
		}
	}
	w := &p.conf.Rewriter
	for flag, v := range map[string]string{"host": w.Host, "realm": w.Realm, "destination-host": w.DestinationHost, "destination-realm": w.DestinationRealm} {
		if v != "" && !identityShape.MatchString(v) {
			return fmt.Errorf("--%s: %q is no Diameter identity", flag, v)
		}
	}
	return p.mapped()
}

// mapped reads who becomes whom.
func (p *replaying) mapped() error {
	m := &p.conf.Rewriter.Mapping
	for _, s := range p.subscribers {
		if err := m.Everybody(s); err != nil {
			return fmt.Errorf("--subscriber: %w", err)
		}
	}
	for _, pair := range p.maps {
		from, to, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("--map: write OLD=NEW, such as imsi:310150123456789=imsi:001010000000001, not %q", pair)
		}
		if err := m.Add(from, to); err != nil {
			return fmt.Errorf("--map: %w", err)
		}
	}
	if p.mapFile == "" {
		return nil
	}
	f, err := os.Open(p.mapFile)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := m.Read(f); err != nil {
		return fmt.Errorf("%s: %w", p.mapFile, err)
	}
	return nil
}

// watched shows how much is read, and reads no more when it is to end.
type watched struct {
	io.Reader
	bar *progressbar.ProgressBar
	ctx context.Context
}

func (w *watched) Read(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.Reader.Read(b)
	w.bar.Add(n)
	return n, err
}

func (p *replaying) run(ctx context.Context, stdin io.Reader, out io.Writer) error {
	if err := p.check(); err != nil {
		return exitError{err, exitUsage}
	}
	in, size := stdin, int64(-1)
	if p.file != "-" {
		f, err := os.Open(p.file)
		if err != nil {
			return exitError{err, exitUsage}
		}
		defer f.Close()
		if s, err := f.Stat(); err == nil && s.Mode().IsRegular() {
			size = s.Size()
		}
		in = f
	}
	ports := make([]uint16, len(p.ports))
	for i := range p.ports {
		ports[i] = uint16(p.ports[i])
	}
	bar := p.progress(size)
	defer bar.Finish()
	c, err := replay.Open(&watched{in, bar, ctx}, ports...)
	if err != nil {
		return exitError{fmt.Errorf("%s: %w", p.file, err), exitUsage}
	}
	if !p.keepIDs {
		p.conf.Rewriter.Run = fmt.Sprint(uint32(time.Now().UnixNano() >> 20))
	}
	if p.all {
		p.conf.Told = func(m *replay.Message) error { return p.tell(out, m) }
	}
	r, err := replay.NewPlayer(p.conf).Play(ctx, c.Next)
	bar.Finish()
	r.File, r.Capture = p.file, c.Counts
	if p.conf.Dry {
		r.Target, r.Run = "", ""
	} else {
		r.Subscribers = nil
	}
	if err != nil && r.Messages == 0 {
		return p.explain(err)
	}
	if why := p.nothing(c, r); why != nil {
		return why
	}
	if err := errors.Join(p.explain(err), p.close(out, r)); err != nil {
		return err
	}
	return p.judge(r)
}

// progress shows how far the file is read, on a terminal.
func (p *replaying) progress(size int64) *progressbar.ProgressBar {
	if p.all || !term.IsTerminal(int(os.Stderr.Fd())) {
		return progressbar.DefaultSilent(size)
	}
	return progressbar.NewOptions64(size, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription("replay "+p.file),
		progressbar.OptionShowBytes(true), progressbar.OptionEnableColorCodes(os.Getenv("NO_COLOR") == ""),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}

// explain says of an error of the connection what to do about it.
func (p *replaying) explain(err error) error {
	var dial *replay.DialError
	if !errors.As(err, &dial) {
		if errors.Is(err, replay.ErrLost) {
			return exitError{fmt.Errorf("%w: is the server running still? its log says why", err), exitUnreachable}
		}
		return err
	}
	var no *net.OpError
	if errors.As(err, &no) || errors.Is(err, context.DeadlineExceeded) {
		return exitError{fmt.Errorf("%w: is the server running, and is --target right?", err), exitUnreachable}
	}
	return fmt.Errorf("%w\nthe server must know this peer: give it a Peer document with host: %s, or replay as a peer that it knows with --host and --realm", err, dial.Host)
}

// nothing says why there was nothing to replay; nil: there was something.
func (p *replaying) nothing(c *replay.Capture, r *replay.Report) error {
	n := &c.Counts
	if r.Messages+r.Unsent+r.LeftOut > 0 {
		return nil
	}
	var why string
	switch {
	case n.Messages > 0:
		why = fmt.Sprintf("there is no CCR of credit control in it, but %s", others(n))
	case n.Encrypted > 0:
		why = fmt.Sprintf("there is no Diameter in the clear in it, but TLS on %s: what is encrypted cannot be replayed. Capture behind the TLS, or without it", many(n.Encrypted, "connection"))
	case n.Packets == 0:
		why = "there is no packet in it"
	case n.Unread == n.Packets:
		why = "it is of a kind of link that is not read: capture on Ethernet, on Linux' any, on loopback, or IP as it is"
	case n.Fragments > 0:
		why = fmt.Sprintf("there is no Diameter in it: of its %s %d are parts of IP packets, which are not put together", many(n.Packets, "packet"), n.Fragments)
	default:
		why = fmt.Sprintf("there is no Diameter in it, in %s", many(n.Packets, "packet"))
		if len(p.ports) > 0 {
			why += " on these ports: leave out --port to look everywhere"
		}
	}
	if n.Damage != "" {
		why += ". It cannot be read " + n.Damage
	}
	return fmt.Errorf("%s: %s", p.file, why)
}

// judge is the end of a replay.
func (p *replaying) judge(r *replay.Report) error {
	var what []string
	if r.Results > 0 {
		what = append(what, many(r.Results, "message")+" answered with other Result-Codes")
	}
	if p.grants && r.Grants > 0 {
		what = append(what, fmt.Sprintf("%d with other grants", r.Grants))
	}
	if r.Unanswered > 0 {
		what = append(what, fmt.Sprintf("%d not answered", r.Unanswered))
	}
	if r.Unsent > 0 {
		what = append(what, fmt.Sprintf("%d not to be sent", r.Unsent))
	}
	if len(what) > 0 && !p.conf.Dry {
		return errors.New(strings.Join(what, ", "))
	}
	return nil
}

// tell prints one message, as soon as it is done with.
func (p *replaying) tell(w io.Writer, m *replay.Message) (err error) {
	defer func() { p.first = false }()
	switch p.format {
	case "json":
		begin := ",\n    "
		if p.first {
			begin = "{\n  \"each\": [\n    "
		}
		b, err := json.MarshalIndent(m, "    ", "  ")
		if err == nil {
			_, err = w.Write(append([]byte(begin), b...))
		}
		return err
	case "yaml":
		if p.first {
			fmt.Fprintln(w, "each:")
		}
		return writeYAML(w, []*replay.Message{m})
	}
	_, err = fmt.Fprintf(w, "frame %d  %s %d  %s  %s\n", m.Frame, m.Kind(), m.Number, plain(m.Session), p.became(m))
	for _, d := range m.Differences {
		fmt.Fprintf(w, "    %s\n", different(&d))
	}
	return err
}

// became is what a message was answered, and had been.
func (p *replaying) became(m *replay.Message) string {
	before, now := "no captured answer", "no answer"
	if m.Captured != nil {
		before = m.Captured.Result.String()
	}
	if m.Replayed != nil {
		now = m.Replayed.Result.String()
		if m.Replayed.Error != "" {
			now += fmt.Sprintf(" (%s)", plain(m.Replayed.Error))
		}
	}
	switch {
	case m.Unsent != "":
		return "not sent: " + m.Unsent
	case p.conf.Dry, before == now:
		return before
	}
	return before + " → " + now
}

// plain is text of strangers as a terminal may show it.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func different(d *replay.Difference) string {
	what := d.What
	if d.Where != "" {
		what = d.Where + ": " + what
	}
	return fmt.Sprintf("%s %s → %s", what, d.Captured, d.Replayed)
}

// close prints the report, behind the messages if they were printed.
func (p *replaying) close(w io.Writer, r *replay.Report) error {
	switch {
	case p.format == "table":
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		p.table(t, r)
		return t.Flush()
	case p.format == "json" && !p.first:
		b, err := json.MarshalIndent(r, "", "  ")
		if err == nil {
			_, err = w.Write(append(append([]byte("\n  ],"), bytes.TrimPrefix(b, []byte("{"))...), '\n'))
		}
		return err
	}
	return p.print(w, r, nil)
}

func (p *replaying) table(w io.Writer, r *replay.Report) {
	n := &r.Capture
	fmt.Fprintf(w, "%s: %s; %s and %s with Diameter; %d CCR and %d CCA of credit control\n", r.File, many(n.Packets, "packet"),
		many(n.Connections, "TCP connection"), many(n.Associations, "SCTP association"), n.Requests, n.Answers)
	if s := others(n); s != "" {
		fmt.Fprintf(w, "not replayed: %s\n", s)
	}
	if s := troubles(n); s != "" {
		fmt.Fprintf(w, "not read: %s\n", s)
	}
	if n.Damage != "" {
		fmt.Fprintf(w, "the file cannot be read %s\n", n.Damage)
	}
	if p.conf.Dry {
		fmt.Fprintf(w, "%s of %s\n", many(r.Messages, "message"), many(r.Sessions, "session"))
	} else {
		fmt.Fprintf(w, "%s of %s sent to %s in %.1f s\n", many(r.Messages, "message"), many(r.Sessions, "session"), r.Target, r.Seconds)
	}
	if r.Partial > 0 {
		what := "a server that does not know them answers 5002; --whole leaves them out"
		if r.LeftOut > 0 {
			what = many(r.LeftOut, "message") + " left out"
		}
		fmt.Fprintf(w, "%s began before the capture: %s\n", many(r.Partial, "session"), what)
	}
	if p.conf.Dry {
		codes(w, r, true)
		people(w, r)
		return
	}
	fmt.Fprintf(w, "  equal\t%d\n  other Result-Codes\t%d\n  other grants\t%d\n  unanswered\t%d\n  no captured answer\t%d\n", r.Equal, r.Results, r.Grants, r.Unanswered, r.Unpaired)
	if r.Unsent > 0 {
		fmt.Fprintf(w, "  not to be sent\t%d\n", r.Unsent)
	}
	if r.Late > 0 {
		fmt.Fprintf(w, "  answered too late\t%d\n", r.Late)
	}
	if r.AskedReAuth+r.AskedAbort > 0 {
		fmt.Fprintf(w, "the server sent %d RAR and %d ASR, which were answered 2001 without more\n", r.AskedReAuth, r.AskedAbort)
	}
	codes(w, r, false)
	if len(r.Differences) > 0 {
		fmt.Fprintln(w, "differences, as captured → as replayed")
	}
	for i, g := range r.Differences {
		if i == groupsShown {
			fmt.Fprintf(w, "  and %d more: -o json has them\n", len(r.Differences)-i+r.More)
			break
		}
		fmt.Fprintf(w, "  %s\t%s\tfirst frame %d\n", different(&g.Difference), many(g.Messages, "message"), g.First)
	}
}

// codes prints how messages were answered.
func codes(w io.Writer, r *replay.Report, dry bool) {
	fmt.Fprintln(w, "Result-Codes")
	for _, from := range slices.Sorted(maps.Keys(r.Codes)) {
		for _, to := range slices.Sorted(maps.Keys(r.Codes[from])) {
			if dry {
				fmt.Fprintf(w, "  %s\t%d\n", from, r.Codes[from][to])
			} else {
				fmt.Fprintf(w, "  %s → %s\t%d\n", from, to, r.Codes[from][to])
			}
		}
	}
}

// peopleShown is how many subscribers a table has.
const peopleShown = 20

func people(w io.Writer, r *replay.Report) {
	fmt.Fprintln(w, "subscribers")
	for i, s := range r.Subscribers {
		if i == peopleShown {
			fmt.Fprintf(w, "  and more: -o json has the first %d\n", len(r.Subscribers))
			break
		}
		fmt.Fprintf(w, "  %s\n", plain(s))
	}
}

// An aside is a number of things, if there are any.
type aside struct {
	n    int
	what string // of several
	one  string // of one; empty: the same
}

func listed(list ...aside) string {
	var words []string
	for _, f := range list {
		switch {
		case f.n == 1 && f.one != "":
			words = append(words, "1 "+f.one)
		case f.n > 0:
			words = append(words, fmt.Sprintf("%d %s", f.n, f.what))
		}
	}
	return strings.Join(words, ", ")
}

// others is what a capture has beside what is replayed.
func others(n *replay.Counts) string {
	return listed(
		aside{n.Policy, "CCR of Gx", ""}, aside{n.ReAuths, "RAR", ""}, aside{n.Aborts, "ASR", ""}, aside{n.Strays, "CCA without their CCR", ""},
		aside{n.Others, "messages of other commands and applications", "message of another command or application"},
	)
}

// troubles is what of a capture could not be used.
func troubles(n *replay.Counts) string {
	return listed(
		aside{n.Encrypted, "connections with TLS", "connection with TLS"}, aside{n.Lost, "messages that are not there whole", "message that is not there whole"},
		aside{n.Malformed, "messages that are none", "message that is none"}, aside{n.TooLong, "messages of more than 64 KiB", "message of more than 64 KiB"},
		aside{n.Cut, "packets of which the end was not captured", "packet of which the end was not captured"},
		aside{n.Fragments, "parts of IP packets", "part of an IP packet"}, aside{n.Unread, "packets on links of other kinds", "packet on a link of another kind"},
		aside{n.Resynced, "places at which the next message had to be looked for", "place at which the next message had to be looked for"},
		aside{int(n.Skipped), "octets that belong to no message", "octet that belongs to no message"},
	)
}
