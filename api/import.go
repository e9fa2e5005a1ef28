package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"rtm"
	"rtm/tenant"
)

// ImportMax bounds the lines of one import; whoever has more sends several.
const ImportMax = 5000

type importInput struct {
	File    string `query:"file" doc:"name of the file, for errors"`
	Line    int    `query:"line" minimum:"1" default:"1" doc:"number of the first line in the file, for errors"`
	RawBody []byte `contentType:"application/x-ndjson"`
}

// A BadLine is a line that was not imported, and why.
type BadLine struct {
	Line  int    `json:"line"`
	Error string `json:"error"`
	Retry bool   `json:"retry,omitempty" doc:"the store was busy: the same line may be taken later"`
}

// Import is what became of some lines.
type Import struct {
	Created   int       `json:"created"`
	Changed   int       `json:"changed"`
	Unchanged int       `json:"unchanged"`
	Bad       []BadLine `json:"bad"`
}

// importLines makes subscribers of lines of JSON, each independently of the
// others: a line that is wrong is named, and the others are taken.
func (s *server) importLines(ctx context.Context, in *importInput) (*body[Import], error) {
	out := Import{Bad: []BadLine{}}
	subs, lines, err := readLines(in, &out)
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(err.Error())
	}
	for i, p := range s.instance().ProvisionAll(ctx, subs) {
		switch {
		case p.Err != nil:
			retry := errors.Is(p.Err, rtm.ErrBusy) || errors.Is(p.Err, rtm.ErrDoubt) || ctx.Err() != nil
			out.Bad = append(out.Bad, BadLine{Line: lines[i], Error: p.Err.Error(), Retry: retry})
		case p.Created:
			out.Created++
		case p.Changed:
			out.Changed++
		default:
			out.Unchanged++
		}
	}
	slices.SortFunc(out.Bad, func(a, b BadLine) int { return a.Line - b.Line })
	return &body[Import]{out}, nil
}

var errTooMany = errors.New("too many lines: send at most 5000 at a time")

// readLines reads the lines of an import; those that cannot be used are in out.
func readLines(in *importInput, out *Import) (subs []rtm.Subscription, lines []int, err error) {
	file, number := in.File, in.Line-1
	if file == "" {
		file = "body"
	}
	for text := range bytes.Lines(in.RawBody) {
		number++
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		if len(subs)+len(out.Bad) == ImportMax {
			return nil, nil, errTooMany
		}
		d, err := tenant.ParseSubscriber(file, number, text)
		var sub rtm.Subscription
		if err == nil {
			sub, err = rtm.SubscriptionOf(&d)
		}
		if err != nil {
			out.Bad = append(out.Bad, BadLine{Line: number, Error: brief(file, number, err)})
			continue
		}
		subs, lines = append(subs, sub), append(lines, number)
	}
	return subs, lines, nil
}

// brief is the first line of an error about a line, without the place, which is
// known.
func brief(file string, line int, err error) string {
	text, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), file+": "), "\n")
	text = strings.TrimPrefix(text, fmt.Sprintf("line %d: ", line))
	if place, rest, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(place, "[") {
		return rest
	}
	return text
}

type reassignInput struct {
	Identity string `path:"identity" doc:"such as msisdn:491700000001"`
	Body     struct {
		To string `json:"to" doc:"the account that gets it: an IMSI, MSISDN, identity or tenant/account"`
	}
}

// reassign gives an identity to another account. Sessions that are open under it
// stay with the account that opened them.
func (s *server) reassign(ctx context.Context, in *reassignInput) (*body[Change], error) {
	identity, err := tenant.CanonicalIdentity(in.Identity)
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(err.Error())
	}
	to, err := s.instance().Find(ctx, in.Body.To)
	if err != nil {
		return nil, problem(err)
	}
	c := Change{Kind: "Subscriber", Name: to.Name, What: tenant.Unchanged}
	changed, err := s.instance().Reassign(ctx, identity, to)
	if changed {
		c.What = tenant.Changed
	}
	return &body[Change]{c}, problem(err)
}
