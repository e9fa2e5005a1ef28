package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"rtm/diameter"
	"rtm/diameter/peer"
)

// hostsMax bounds as how many gateways a replay connects.
const hostsMax = 64

// Config says how a capture is played.
type Config struct {
	Target   string // address of the server
	Rewriter Rewriter
	Speed    float64       // of the capture's time: 1 as it was, 10 in a tenth of it; zero: as fast as answers come
	Parallel int           // messages that are on their way at once, at most; zero: 64
	Tx       time.Duration // a message without an answer is given up after that; zero: 10 s
	Whole    bool          // sessions that began before the capture are left out
	Dry      bool          // nothing is sent: the report says what is in the capture
	// Told is told of each message when it is done with; nil: nobody is.
	Told func(m *Message) error
}

// ErrLost says that the server closed a connection before the end.
var ErrLost = errors.New("the server closed the connection")

// A Player replays one capture. A message is sent when those before it in the
// file were sent and those before it in its session are done with.
type Player struct {
	config Config
	report *Report
	links  map[string]*link
	open   []*flight       // on their way, in the order in which they were sent
	busy   map[string]bool // sessions that have a message on its way
	begun  time.Time
	first  time.Time // of the capture
	inbox  inbox
}

// A link is the connection of one gateway of the capture.
type link struct {
	inbox       *inbox
	host, realm string
	node        *peer.Node
	conn        *peer.Conn
}

// A flight is a message on its way.
type flight struct {
	message *Message
	sent    time.Time
	done    bool
}

// An inbox takes what connections bring to the player.
type inbox struct {
	wake chan struct{}

	mu       sync.Mutex // guards all below
	arrivals []arrival
	over     bool // the player leaves
	lost     bool // a connection was closed before that
	reAuths  int
	aborts   int
}

// An arrival is the answer to a message.
type arrival struct {
	flight  *flight
	verdict Verdict
}

// NewPlayer prepares a replay.
func NewPlayer(c Config) *Player {
	if c.Parallel <= 0 {
		c.Parallel = 64
	}
	if c.Tx <= 0 {
		c.Tx = 10 * time.Second
	}
	p := &Player{config: c, report: newReport(), links: make(map[string]*link), busy: make(map[string]bool)}
	p.inbox.wake = make(chan struct{}, 1)
	return p
}

// Play plays the exchanges that next gives until io.EOF. The report is there, and
// true as far as it goes, also beside an error.
func (p *Player) Play(ctx context.Context, next func() (*Exchange, error)) (*Report, error) {
	p.begun = time.Now()
	err := p.play(ctx, next)
	p.leave()
	r := p.report
	r.Target, r.Run, r.Seconds = p.config.Target, p.config.Rewriter.Run, time.Since(p.begun).Seconds()
	p.inbox.mu.Lock()
	r.AskedReAuth, r.AskedAbort = p.inbox.reAuths, p.inbox.aborts
	p.inbox.mu.Unlock()
	r.finish()
	return r, err
}

// play is the loop: read on, send what may be sent, else wait.
func (p *Player) play(ctx context.Context, next func() (*Exchange, error)) error {
	var held *Exchange
	var about *Message
	for ended := false; ; {
		for held == nil && !ended {
			if err := ctx.Err(); err != nil {
				return err
			}
			x, err := next()
			if ended = errors.Is(err, io.EOF); ended {
				break
			}
			if err != nil {
				return err
			}
			m := message(x)
			p.report.subscriber(x.Request)
			whole := p.report.session(m)
			switch {
			case !whole && p.config.Whole:
				p.report.LeftOut++
			case p.config.Dry:
				if err := p.dry(m); err != nil {
					return err
				}
			default:
				held, about = x, m
			}
		}
		if held == nil && len(p.open) == 0 {
			return nil
		}
		wait, err := p.settle()
		if err != nil {
			return err
		}
		if held != nil {
			now := time.Now()
			if due := p.due(held); len(p.open) < p.config.Parallel && !p.busy[about.Session] {
				if !due.After(now) {
					if err := p.send(ctx, held, about); err != nil {
						return err
					}
					held = nil
					continue
				}
				wait = min(wait, due.Sub(now))
			}
		} else if len(p.open) == 0 {
			continue
		}
		if err := p.wait(ctx, wait); err != nil {
			return err
		}
	}
}

// due is when a message is to be sent.
func (p *Player) due(x *Exchange) time.Time {
	if p.config.Speed <= 0 {
		return p.begun
	}
	if p.first.IsZero() {
		p.first, p.begun = x.At, time.Now()
	}
	return p.begun.Add(time.Duration(float64(x.At.Sub(p.first)) / p.config.Speed))
}

// wait waits for something to come, no longer than that.
func (p *Player) wait(ctx context.Context, most time.Duration) error {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.inbox.wake:
	case <-t.C:
	}
	return nil
}

// settle takes in what has come, and gives up what did not. It returns how long
// the message that was sent first may still take.
func (p *Player) settle() (time.Duration, error) {
	p.inbox.mu.Lock()
	arrivals, lost := p.inbox.arrivals, p.inbox.lost
	p.inbox.arrivals = nil
	p.inbox.mu.Unlock()
	for _, a := range arrivals {
		if a.flight.done {
			p.report.Late++
			continue
		}
		a.flight.message.Replayed = &a.verdict
		if err := p.end(a.flight); err != nil {
			return 0, err
		}
	}
	now := time.Now()
	for len(p.open) > 0 {
		f := p.open[0]
		if left := p.config.Tx - now.Sub(f.sent); !f.done && left > 0 && !lost {
			return left, nil
		}
		p.open = p.open[1:]
		if !f.done {
			if err := p.end(f); err != nil {
				return 0, err
			}
		}
	}
	if lost {
		return 0, fmt.Errorf("%w after %d messages", ErrLost, p.report.Messages)
	}
	return p.config.Tx, nil
}

// end is done with a message.
func (p *Player) end(f *flight) error {
	f.done = true
	delete(p.busy, f.message.Session)
	p.open = slices.DeleteFunc(p.open, func(o *flight) bool { return o == f })
	p.report.add(f.message)
	return p.tell(f.message)
}

func (p *Player) tell(m *Message) error {
	if p.config.Told == nil {
		return nil
	}
	return p.config.Told(m)
}

// dry takes a message in without sending it.
func (p *Player) dry(m *Message) error {
	p.report.Messages++
	code := none
	if m.Captured != nil {
		code = m.Captured.code()
	} else {
		p.report.Unpaired++
	}
	if p.report.Codes[code] == nil {
		p.report.Codes[code] = make(map[string]int)
	}
	p.report.Codes[code][none]++
	return p.tell(m)
}

// send sends one message.
func (p *Player) send(ctx context.Context, x *Exchange, m *Message) error {
	host, realm := p.config.Rewriter.Origin(x.Request)
	if host == "" || realm == "" {
		return p.unsent(m, errors.New("it does not say who sent it: no Origin-Host or Origin-Realm"))
	}
	l, err := p.link(ctx, host, realm)
	if err != nil {
		return fmt.Errorf("frame %d: %w", x.Frame, err)
	}
	now := time.Now()
	out, err := p.config.Rewriter.to(l.conn.Host, l.conn.Realm).Request(x.Request, now)
	if err != nil {
		return p.unsent(m, err)
	}
	f := &flight{message: m, sent: now}
	p.busy[m.Session] = true
	p.open = append(p.open, f)
	p.report.Messages++
	l.conn.Send(f, func(hop, end uint32) []byte { return identify(out, hop, end) }) // Closed tells if it cannot
	return nil
}

// unsent notes a message that cannot be sent.
func (p *Player) unsent(m *Message, why error) error {
	m.Unsent = why.Error()
	p.report.Unsent++
	return p.tell(m)
}

// link finds or makes the connection of a gateway.
func (p *Player) link(ctx context.Context, host, realm string) (*link, error) {
	name := strings.ToLower(host + " " + realm)
	if l := p.links[name]; l != nil {
		return l, nil
	}
	if len(p.links) >= hostsMax {
		return nil, fmt.Errorf("there are more than %d gateways in the capture", hostsMax)
	}
	l := &link{inbox: &p.inbox, host: host, realm: realm}
	node, err := peer.New(peer.Config{PeerHost: host, Realm: realm, Product: "rtm replay", OwedMax: 1 << 20, WriteMax: 16 << 20}, l)
	if err != nil {
		return nil, err
	}
	dial, cancel := context.WithTimeout(ctx, p.config.Tx)
	defer cancel()
	if l.conn, err = node.Dial(dial, p.config.Target); err != nil {
		node.Close()
		return nil, &DialError{Host: host, Realm: realm, Err: err}
	}
	l.node = node
	p.links[name] = l
	return l, nil
}

// A DialError says that a gateway could not connect.
type DialError struct {
	Host, Realm string
	Err         error
}

// Error says who could not connect, and why.
func (e *DialError) Error() string { return fmt.Sprintf("as %s of %s: %v", e.Host, e.Realm, e.Err) }

// Unwrap is why.
func (e *DialError) Unwrap() error { return e.Err }

// leave says farewell on all connections.
func (p *Player) leave() {
	p.inbox.put(func(i *inbox) { i.over = true })
	for _, l := range p.links {
		l.node.Leave(time.Second)
	}
}

// put changes what is in the inbox, and wakes the player.
func (i *inbox) put(change func(i *inbox)) {
	i.mu.Lock()
	change(i)
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// Answered implements peer.Handler.
func (l *link) Answered(_ *peer.Conn, token any, m *diameter.Message) {
	a := arrival{token.(*flight), Judge(m.Body)}
	l.inbox.put(func(i *inbox) { i.arrivals = append(i.arrivals, a) })
}

// Closed implements peer.Handler.
func (l *link) Closed(*peer.Conn, []any) {
	l.inbox.put(func(i *inbox) { i.lost = i.lost || !i.over })
}

// Admit implements peer.Handler; nobody connects to a replay.
func (l *link) Admit(peer.Capabilities) (any, diameter.Result) { return nil, diameter.UnknownPeer }

// Receive implements peer.Handler: RAR and ASR are acknowledged, and nothing
// follows that is not in the capture.
func (l *link) Receive(batch []*peer.Request) {
	for _, r := range batch {
		aborts := r.Message.Command == diameter.AbortSession
		var e diameter.Encoder
		e.Reset(nil)
		e.Answer(&r.Message.Header, 0)
		if id, ok := diameter.Find(r.Message.Body, diameter.SessionID); ok {
			e.Octets(diameter.SessionID, id.Data)
		}
		e.Uint32(diameter.ResultCode, uint32(diameter.Success))
		e.String(diameter.OriginHost, l.host)
		e.String(diameter.OriginRealm, l.realm)
		r.Answer(e.Bytes())
		l.inbox.put(func(i *inbox) {
			if aborts {
				i.aborts++
			} else {
				i.reAuths++
			}
		})
	}
}
