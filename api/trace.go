package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rtm"
	"rtm/store"
)

// A TraceWish says which messages are wanted: those of a subscriber's account, or of a
// peer.
type TraceWish struct {
	Account    store.Key // the zero Key: of any
	Identities []string  // of the account: messages whose account is not known are its by these
	Host       string    // Origin-Host of the peer, or of a client behind it; empty: of any
}

// A TraceLine is a message as it went by.
type TraceLine struct {
	At       time.Time `json:"at" doc:"when it was read or sent, by the machine's clock"`
	Instance string    `json:"instance"`
	Peer     string    `json:"peer" doc:"Origin-Host of the connection"`
	Way      string    `json:"way" enum:"in,out" doc:"to the server, or from it"`
	Message  string    `json:"message" doc:"such as CCR-I, CCA-I, RAR"`
	Session  string    `json:"session,omitempty"`
	Number   *uint32   `json:"number,omitempty" doc:"CC-Request-Number"`
	Result   uint32    `json:"result,omitempty" doc:"Result-Code"`
	Micros   int64     `json:"micros,omitempty" doc:"of an answer: since its request was read"`
	Account  string    `json:"account,omitempty" doc:"who is charged"`
	Decision []string  `json:"decision,omitempty" doc:"of an answer: what was decided, or why there is none"`
	Text     []string  `json:"text,omitempty" doc:"the AVPs, one a line"`
	Lost     int64     `json:"lost,omitempty" doc:"messages that were not shown here, since there were too many"`
}

// ErrTraces says that as many traces run as may.
var ErrTraces = errors.New("as many traces run at this instance as may: end another one first")

// traceMax bounds a trace.
const traceMax = time.Hour

// TraceOf is the header that says as what a name is traced.
const TraceOf = "Rtm-Trace-Of"

// What a name is traced as.
const (
	OfSubscriber = "subscriber"
	OfPeer       = "peer"
	OfHost       = "host" // an Origin-Host that nothing here knows: of a gateway behind a relay, or of nobody
)

// hostShape is what can be an Origin-Host (RFC 6733 §4.3.1), and no subscriber's number.
var hostShape = regexp.MustCompile(`^[A-Za-z0-9._-]*[A-Za-z._-][A-Za-z0-9._-]*$`)

type traceInput struct {
	Of string `query:"of" required:"true" doc:"a subscriber, as imsi:001010000000001 or tenant/account, or the Origin-Host of a peer"`
}

// trace streams the messages of one subscriber or peer that this process handles,
// until whoever asked goes away, for an hour at most.
func (s *server) trace(ctx context.Context, in *traceInput) (*huma.StreamResponse, error) {
	if s.Trace == nil {
		return nil, huma.Error501NotImplemented("this server has no Diameter")
	}
	n := s.instance()
	wish, as := TraceWish{}, OfSubscriber
	key, err := n.Find(ctx, in.Of)
	if err == nil {
		a, no := n.Account(ctx, key)
		switch {
		case errors.Is(no, rtm.ErrNotFound):
			err = no
		case no == nil:
			wish.Identities = identities(a)
		}
	}
	switch {
	case err == nil:
		wish.Account = key
	case s.peerKnown(ctx, in.Of):
		wish.Host, as = in.Of, OfPeer
	case hostShape.MatchString(in.Of):
		wish.Host, as = in.Of, OfHost
	case errors.Is(err, rtm.ErrNotFound) || !strings.Contains(in.Of, ":"):
		return nil, huma.Error404NotFound(in.Of + " is no subscriber, and can be no Origin-Host: rtm subscriber list and rtm peer list show what there is")
	default:
		return nil, problem(err)
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		limited, cancel := context.WithTimeout(ctx.Context(), traceMax)
		defer cancel()
		out := json.NewEncoder(ctx.BodyWriter())
		flush := func() {}
		if f, ok := ctx.BodyWriter().(http.Flusher); ok {
			flush = f.Flush
		}
		ctx.SetHeader("Content-Type", "application/x-ndjson")
		ctx.SetHeader(TraceOf, as)
		err := s.Trace(limited, wish, flush, func(l TraceLine) error {
			err := out.Encode(l)
			flush()
			return err
		})
		if errors.Is(err, ErrTraces) {
			ctx.SetStatus(http.StatusTooManyRequests)
			_ = out.Encode(map[string]string{"error": err.Error()})
		}
	}}, nil
}

// peerKnown reports whether a peer of that name is connected somewhere, or has a
// document.
func (s *server) peerKnown(ctx context.Context, host string) bool {
	n := s.instance()
	for _, p := range n.Catalogue().Peers() {
		if strings.EqualFold(p.Host, host) {
			return true
		}
	}
	for _, p := range n.Instances() {
		for _, h := range n.PeersOf(ctx, &p) {
			if strings.EqualFold(h, host) {
				return true
			}
		}
	}
	return false
}
