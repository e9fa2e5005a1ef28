package replay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rtm/diameter"
	"rtm/diameter/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A host is a server that does what a test wants with each request.
type host struct {
	node  *peer.Node
	addr  string
	admit diameter.Result
	do    func(r *peer.Request, session string, number uint32)

	mu   sync.Mutex // guards all below
	seen []string   // Origin-Host, Session-Id and number of each request
	open int        // requests without an answer
	most int
	held []*peer.Request
}

func newHost(t *testing.T, do func(h *host, r *peer.Request, session string, number uint32)) *host {
	t.Helper()
	h := &host{}
	h.do = func(r *peer.Request, session string, number uint32) { do(h, r, session, number) }
	var err error
	if h.node, err = peer.New(peer.Config{PeerHost: "ocs.example", Realm: "example"}, h); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	go h.node.Serve(l)
	t.Cleanup(h.node.Close)
	return h
}

func (h *host) Admit(peer.Capabilities) (any, diameter.Result) { return nil, h.admit }
func (h *host) Answered(*peer.Conn, any, *diameter.Message)    {}
func (h *host) Closed(*peer.Conn, []any)                       {}
func (h *host) answer(r *peer.Request, result diameter.Result, more ...func(e *diameter.Encoder)) {
	h.mu.Lock()
	h.open--
	h.mu.Unlock()
	var e diameter.Encoder
	e.Reset(nil)
	e.Answer(&r.Message.Header, 0)
	e.Uint32(diameter.ResultCode, uint32(result))
	for _, f := range more {
		f(&e)
	}
	r.Answer(e.Bytes())
}

func (h *host) Receive(batch []*peer.Request) {
	for _, r := range batch {
		id, _ := diameter.Find(r.Message.Body, diameter.SessionID)
		number, _ := diameter.Find(r.Message.Body, diameter.CCRequestNumber)
		origin, _ := diameter.Find(r.Message.Body, diameter.OriginHost)
		n, _ := number.Uint32()
		session := string(id.Data)
		h.mu.Lock()
		h.seen = append(h.seen, fmt.Sprintf("%s %s %d", origin.Data, session, n))
		h.open++
		h.most = max(h.most, h.open)
		h.mu.Unlock()
		h.do(r, session, n)
	}
}

// tape gives exchanges: "gw1 s1 0" is a CCR-I, 9 a CCR-T, others CCR-U; each was
// answered 2001, and is ten seconds after the last one.
func tape(lines ...string) func() (*Exchange, error) {
	i := 0
	return func() (*Exchange, error) {
		if i == len(lines) {
			return nil, io.EOF
		}
		fields := strings.Fields(lines[i])
		i++
		var number, kind uint32
		fmt.Sscan(fields[2], &number)
		switch kind = 2; number {
		case 0:
			kind = 1
		case 9:
			kind = 3
		}
		var e diameter.Encoder
		e.Reset(nil)
		e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, 1, 2)
		e.String(diameter.SessionID, fields[1])
		if fields[0] != "-" {
			e.String(diameter.OriginHost, fields[0])
			e.String(diameter.OriginRealm, "lab.example")
		}
		e.String(diameter.DestinationRealm, "captured.example")
		e.String(diameter.DestinationHost, "old.captured.example")
		e.Uint32(diameter.CCRequestType, kind)
		e.Uint32(diameter.CCRequestNumber, number)
		x := &Exchange{Request: slices.Clone(e.Bytes()), Frame: i, At: start.Add(time.Duration(i) * 10 * time.Second)}
		m, _, _ := diameter.Frame(x.Request, diameter.MessageMax)
		e.Reset(nil)
		e.Answer(&m.Header, 0)
		e.Uint32(diameter.ResultCode, uint32(diameter.Success))
		x.Answer = e.Bytes()
		return x, nil
	}
}

func fine(h *host, r *peer.Request, _ string, _ uint32) { h.answer(r, diameter.Success) }

// Each session's messages wait for each other, sessions do not, and nothing
// overtakes what is before it in the file.
func TestOrder(t *testing.T) {
	hold := func(h *host, r *peer.Request, session string, number uint32) {
		h.mu.Lock()
		h.held = append(h.held, r)
		ready := len(h.held) == 3 || strings.HasPrefix(session, "s1") && number > 0
		held := h.held
		if ready {
			h.held = nil
		}
		h.mu.Unlock()
		if ready {
			for _, r := range slices.Backward(held) {
				h.answer(r, diameter.Success)
			}
		}
	}
	h := newHost(t, hold)
	lines := []string{"gw s1 0", "gw s2 0", "gw s3 0", "gw s1 1", "gw s1 2", "gw s1 9"}
	r, err := NewPlayer(Config{Target: h.addr}).Play(t.Context(), tape(lines...))
	if err != nil || r.Equal != 6 || r.Messages != 6 || r.Sessions != 3 || h.most != 3 {
		t.Errorf("%v, %+v, %d at once", err, r, h.most)
	}
	if !slices.Equal(h.seen, lines) {
		t.Errorf("%q", h.seen)
	}
}

func TestOneAfterTheOther(t *testing.T) {
	h := newHost(t, fine)
	lines := []string{"gw s1 0", "gw s2 0", "gw s3 0", "gw s2 1"}
	r, err := NewPlayer(Config{Target: h.addr, Parallel: 1}).Play(t.Context(), tape(lines...))
	if err != nil || r.Equal != 4 || h.most != 1 || !slices.Equal(h.seen, lines) {
		t.Errorf("%v, %+v, %d at once", err, r, h.most)
	}
}

// Each gateway of the capture connects under its own name, and what must change
// in its messages does.
func TestGateways(t *testing.T) {
	var wrong []string
	h := newHost(t, func(h *host, r *peer.Request, session string, _ uint32) {
		realm, _ := diameter.Find(r.Message.Body, diameter.DestinationRealm)
		to, named := diameter.Find(r.Message.Body, diameter.DestinationHost)
		origin, _ := diameter.Find(r.Message.Body, diameter.OriginHost)
		if string(realm.Data) != "example" || named && string(to.Data) != "ocs.example" || string(origin.Data) != r.Conn.Host || !strings.HasSuffix(session, ";42") {
			h.mu.Lock()
			wrong = append(wrong, session)
			h.mu.Unlock()
		}
		h.answer(r, diameter.Success)
	})
	for _, to := range []string{"", Server} {
		w := Rewriter{Run: "42", DestinationHost: to}
		r, err := NewPlayer(Config{Target: h.addr, Rewriter: w}).Play(t.Context(), tape("gw1 s1 0", "gw2 s2 0", "gw1 s1 9", "- s3 0"))
		if err != nil || r.Equal != 3 || r.Unsent != 1 {
			t.Errorf("%v, %+v", err, r)
		}
	}
	if len(wrong) > 0 || len(h.seen) != 6 {
		t.Errorf("%q, %q", wrong, h.seen)
	}
}

func TestDifferencesAreTold(t *testing.T) {
	h := newHost(t, func(h *host, r *peer.Request, session string, number uint32) {
		switch {
		case session == "s2":
			h.answer(r, diameter.UserUnknown, func(e *diameter.Encoder) { e.String(diameter.ErrorMessage, "nobody") })
		case number == 1:
			r.Drop()
		default:
			h.answer(r, diameter.Success)
		}
	})
	var told []*Message
	p := NewPlayer(Config{Target: h.addr, Tx: 200 * time.Millisecond, Told: func(m *Message) error { told = append(told, m); return nil }})
	r, err := p.Play(t.Context(), tape("gw s1 0", "gw s2 0", "gw s1 1", "gw s1 2", "gw s4 3"))
	if err != nil || r.Equal != 3 || r.Results != 1 || r.Unanswered != 1 || r.Partial != 1 || len(told) != 5 {
		t.Errorf("%v, %+v", err, r)
	}
	if len(r.Differences) != 1 || r.Differences[0].First != 2 || r.Differences[0].Replayed != "5030 USER_UNKNOWN" {
		t.Errorf("%+v", r.Differences[0])
	}
	for _, m := range told {
		if m.Session == "s2" && m.Replayed.Error != "nobody" {
			t.Errorf("%+v", m.Replayed)
		}
	}
}

// Sessions that are not whole can be left out, and what is in a capture can be
// said without a server.
func TestWithoutAServer(t *testing.T) {
	lines := []string{"gw s1 1", "gw s2 0", "gw s1 9", "gw s2 9"}
	h := newHost(t, fine)
	r, err := NewPlayer(Config{Target: h.addr, Whole: true}).Play(t.Context(), tape(lines...))
	if err != nil || r.LeftOut != 2 || r.Equal != 2 || r.Partial != 1 || r.Sessions != 1 {
		t.Errorf("%v, %+v", err, r)
	}
	r, err = NewPlayer(Config{Target: "127.0.0.1:1", Dry: true}).Play(t.Context(), tape(lines...))
	if err != nil || r.Messages != 4 || r.Codes["2001 SUCCESS"][none] != 4 {
		t.Errorf("%v, %+v", err, r)
	}
}

// A message goes when it is due; the capture's forty seconds are two tenths of
// one here.
func TestSpeed(t *testing.T) {
	h := newHost(t, fine)
	begun := time.Now()
	r, err := NewPlayer(Config{Target: h.addr, Speed: 200}).Play(t.Context(), tape("gw s1 0", "gw s1 1", "gw s1 2", "gw s1 3", "gw s1 9"))
	if took := time.Since(begun); err != nil || r.Equal != 5 || took < 200*time.Millisecond {
		t.Errorf("%v, %+v after %s", err, r, took)
	}
}

func TestServersThatAreNotThere(t *testing.T) {
	play := func(target string) error {
		_, err := NewPlayer(Config{Target: target, Tx: 5 * time.Second}).Play(t.Context(), tape("gw s1 0", "gw s1 1"))
		return err
	}
	var dial *DialError
	var no *net.OpError
	if err := play("127.0.0.1:1"); !errors.As(err, &dial) || !errors.As(err, &no) || dial.Host != "gw" {
		t.Error(err)
	}
	h := newHost(t, fine)
	h.admit = diameter.UnknownPeer
	if err := play(h.addr); !errors.As(err, &dial) || errors.As(err, &no) || !strings.Contains(err.Error(), "3010") {
		t.Error(err)
	}
	h = newHost(t, func(_ *host, r *peer.Request, _ string, _ uint32) {
		c := r.Conn
		r.Drop()
		c.Close()
	})
	if err := play(h.addr); !errors.Is(err, ErrLost) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h = newHost(t, func(_ *host, r *peer.Request, _ string, _ uint32) { r.Drop(); cancel() })
	r, err := NewPlayer(Config{Target: h.addr}).Play(ctx, tape("gw s1 0", "gw s1 1"))
	if !errors.Is(err, context.Canceled) || r.Messages != 1 {
		t.Error(err, r)
	}
}

// What the server asks for in the meantime is acknowledged and counted.
func TestNotices(t *testing.T) {
	h := newHost(t, func(h *host, r *peer.Request, _ string, _ uint32) {
		for _, command := range []diameter.Command{diameter.ReAuth, diameter.AbortSession} {
			r.Conn.Send(nil, func(hop, end uint32) []byte {
				var e diameter.Encoder
				e.Reset(nil)
				e.Request(command, diameter.ApplicationCreditControl, 0, hop, end)
				e.String(diameter.SessionID, "s1")
				return e.Bytes()
			})
		}
		h.answer(r, diameter.Success)
	})
	r, err := NewPlayer(Config{Target: h.addr}).Play(t.Context(), tape("gw s1 0"))
	if err != nil || r.AskedReAuth != 1 || r.AskedAbort != 1 {
		t.Errorf("%v, %+v", err, r)
	}
}

// Identifiers are the connection's own.
func TestIdentifiers(t *testing.T) {
	b := identify(make([]byte, diameter.HeaderLength), 7, 8)
	if binary.BigEndian.Uint32(b[12:]) != 7 || binary.BigEndian.Uint32(b[16:]) != 8 {
		t.Errorf("%x", b)
	}
}
