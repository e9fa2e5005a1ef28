package ctf

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rtm/diameter"
	"rtm/diameter/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server grants whatever is asked for. If it has a prompt, that goes out before
// the first message is answered: what crosses on the way.
type server struct {
	t      *testing.T
	prompt diameter.Command
	result diameter.Result // the answer to the prompt that is wanted
	first  *peer.Request   // held until the prompt is answered
	kinds  chan uint32     // CC-Request-Types that came
}

// serve runs s until the test ends, and returns its address.
func (s *server) serve() string {
	s.t.Helper()
	n, err := peer.New(peer.Config{PeerHost: "ocs", Realm: "near", Log: slog.New(slog.DiscardHandler)}, s)
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	go n.Serve(l)
	s.t.Cleanup(n.Close)
	return l.Addr().String()
}

func (s *server) Admit(peer.Capabilities) (any, diameter.Result) { return nil, 0 }
func (s *server) Closed(*peer.Conn, []any)                       {}

func (s *server) Receive(batch []*peer.Request) {
	for _, r := range batch {
		a, _ := diameter.Find(r.Message.Body, diameter.CCRequestType)
		kind, _ := a.Uint32()
		if s.kinds <- kind; kind != kindInitial || s.prompt == 0 {
			grant(r)
			continue
		}
		id, _ := diameter.Find(r.Message.Body, diameter.SessionID)
		s.first = r
		r.Conn.Send(nil, func(hop, end uint32) []byte {
			var e diameter.Encoder
			e.Reset(nil)
			e.Request(s.prompt, diameter.ApplicationCreditControl, diameter.FlagProxiable, hop, end)
			e.Octets(diameter.SessionID, id.Data)
			return e.Bytes()
		})
	}
}

func (s *server) Answered(_ *peer.Conn, _ any, m *diameter.Message) {
	if r := diameter.Result(code(m.Body)); r != s.result {
		s.t.Errorf("%s was answered %s, want %s", s.prompt, r, s.result)
	}
	grant(s.first)
}

// grant answers with 2001 and some octets for group 1.
func grant(r *peer.Request) {
	var e diameter.Encoder
	e.Reset(nil)
	e.Answer(&r.Message.Header, 0)
	e.Uint32(diameter.ResultCode, uint32(diameter.Success))
	e.Open(diameter.MultipleServicesCreditControl)
	e.Open(diameter.GrantedServiceUnit)
	e.Uint64(diameter.CCTotalOctets, 1000)
	e.Close()
	e.Uint32(diameter.RatingGroup, 1)
	e.Close()
	r.Answer(e.Bytes())
}

// next is the kind of the next message.
func (s *server) next() string {
	s.t.Helper()
	select {
	case kind := <-s.kinds:
		return KindNames[kind]
	case <-time.After(10 * time.Second):
		s.t.Fatal("no message within 10 s")
		return ""
	}
}

// A gateway that is prompted while it waits for an answer does what it was asked
// as soon as that is there, however long it pauses otherwise.
func TestPromptsCrossAnAnswer(t *testing.T) {
	for _, c := range []struct {
		prompt diameter.Command
		result diameter.Result
		kind   uint32
	}{{diameter.ReAuth, diameter.LimitedSuccess, kindUpdate}, {diameter.AbortSession, diameter.Success, kindTermination}} {
		t.Run(c.prompt.String(), func(t *testing.T) {
			s := &server{t: t, prompt: c.prompt, result: c.result, kinds: make(chan uint32, 8)}
			sim, err := New(Config{Targets: []string{s.serve()}, Host: "gw", Realm: "far", IMSIs: []string{"1"},
				Sessions: 1, Updates: 2, Groups: 1, Hold: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- sim.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}()
			if first, second := s.next(), s.next(); first != KindNames[kindInitial] || second != KindNames[c.kind] {
				t.Errorf("got %s, %s", first, second)
			}
		})
	}
}

// A run that is told to stop ends the sessions that are open, and begins no more.
func TestStop(t *testing.T) {
	s, stop := &server{t: t, kinds: make(chan uint32, 1<<16)}, make(chan struct{})
	sim, err := New(Config{Targets: []string{s.serve()}, Host: "gw", Realm: "far", IMSIs: []string{"1"},
		Sessions: 1 << 20, Updates: 2, Groups: 1, Parallel: 8, Hold: 10 * time.Millisecond, Stop: stop})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sim.Run(t.Context()) }()
	for range 100 {
		s.next()
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := &sim.Counts; n.Started.Load() != n.Ended.Load() || n.Started.Load() < 16 || n.Failed.Load() != 0 {
		t.Errorf("%d were begun, %d ended, %d answers failed: %s", n.Started.Load(), n.Ended.Load(), n.Failed.Load(), sim.FirstFailure())
	}
}
