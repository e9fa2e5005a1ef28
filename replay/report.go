package replay

import (
	"cmp"
	"hash/fnv"
	"slices"

	"rtm/diameter"
)

// Bounds of a report.
const (
	groupsMax      = 1000    // kinds of differences that are told apart
	sessionsMax    = 4 << 20 // sessions, likewise
	subscribersMax = 1000    // … and subscribers
)

// A Message is what became of one captured CCR.
type Message struct {
	Frame       int          `json:"frame"`
	AnswerFrame int          `json:"answerFrame,omitempty"`
	Session     string       `json:"session"` // as captured
	Type        uint32       `json:"type"`    // CC-Request-Type
	Number      uint32       `json:"number"`  // CC-Request-Number
	Captured    *Verdict     `json:"captured,omitempty"`
	Replayed    *Verdict     `json:"replayed,omitempty"`
	Unsent      string       `json:"unsent,omitempty"` // why it was not sent
	Differences []Difference `json:"differences,omitempty"`
}

// Types are the CC-Request-Types as they are said in short.
var Types = [...]string{"CCR", "CCR-I", "CCR-U", "CCR-T", "CCR-E"}

// Kind is the CC-Request-Type in short.
func (m *Message) Kind() string {
	if m.Type < uint32(len(Types)) {
		return Types[m.Type]
	}
	return Types[0]
}

// message reads what a report says of a captured CCR.
func message(x *Exchange) *Message {
	m := &Message{Frame: x.Frame, AnswerFrame: x.AnswerFrame}
	for b := x.Request[diameter.HeaderLength:]; len(b) > 0; {
		a, rest, err := diameter.Next(b)
		if err != nil {
			break
		}
		b = rest
		switch a.Attr {
		case diameter.SessionID:
			m.Session = string(a.Data)
		case diameter.CCRequestType:
			m.Type, _ = a.Uint32()
		case diameter.CCRequestNumber:
			m.Number, _ = a.Uint32()
		}
	}
	if x.Answer != nil {
		v := Judge(x.Answer[diameter.HeaderLength:])
		m.Captured = &v
	}
	return m
}

// A Group is messages that differ in the same way.
type Group struct {
	Difference
	Of       string `json:"of"` // "result" or "grant"
	Messages int    `json:"messages"`
	First    int    `json:"firstFrame"`
}

// A Report is what a replay adds up to.
type Report struct {
	File        string  `json:"file"`
	Target      string  `json:"target,omitempty"`
	Run         string  `json:"run,omitempty"` // the mark in the Session-Ids
	Seconds     float64 `json:"seconds"`
	Messages    int     `json:"messages"`             // sent
	Sessions    int     `json:"sessions"`             // of those
	Equal       int     `json:"equal"`                // messages that were answered as they had been
	Results     int     `json:"resultsDiffer"`        // with another Result-Code
	Grants      int     `json:"grantsDiffer"`         // with the same ones, but other grants
	Unanswered  int     `json:"unanswered"`           // that the server left without an answer
	Unpaired    int     `json:"noCapturedAnswer"`     // that have no answer in the capture to be compared with
	Unsent      int     `json:"unsent,omitempty"`     // that could not be read
	Partial     int     `json:"partial,omitempty"`    // sessions that began before the capture
	LeftOut     int     `json:"leftOut,omitempty"`    // messages of those, when only whole sessions are wanted
	AskedReAuth int     `json:"reAuths,omitempty"`    // RAR of the server in the meantime
	AskedAbort  int     `json:"aborts,omitempty"`     // … and ASR
	Late        int     `json:"late,omitempty"`       // answers that came when they were not waited for any more
	More        int     `json:"moreGroups,omitempty"` // differences that are in no group, since there are too many

	Codes       map[string]map[string]int `json:"codes"` // messages by captured and replayed Result-Code
	Differences []*Group                  `json:"differences"`
	Subscribers []string                  `json:"subscribers,omitempty"` // of the capture, the first of them
	Capture     Counts                    `json:"capture"`

	groups   map[Difference]*Group
	sessions map[uint64]bool // whole: its first message was seen
	named    map[string]bool
}

func newReport() *Report {
	return &Report{
		Codes: make(map[string]map[string]int), groups: make(map[Difference]*Group),
		sessions: make(map[uint64]bool), named: make(map[string]bool),
	}
}

// session notes a message of a session, and reports whether the session is whole.
// Sessions beyond those that can be told apart count as such.
func (r *Report) session(m *Message) (whole bool) {
	h := fnv.New64a()
	h.Write([]byte(m.Session))
	key := h.Sum64()
	whole, seen := r.sessions[key]
	if seen {
		return whole
	}
	if len(r.sessions) >= sessionsMax {
		return true
	}
	whole = m.Type != updateRequest && m.Type != terminationRequest
	r.sessions[key] = whole
	if !whole {
		r.Partial++
	}
	return whole
}

// Values of CC-Request-Type (RFC 8506 §8.3).
const (
	updateRequest      = 2
	terminationRequest = 3
)

// subscriber notes whom a captured CCR names.
func (r *Report) subscriber(request []byte) {
	for b := request[diameter.HeaderLength:]; len(b) > 0; {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return
		}
		b = rest
		if a.Attr != diameter.SubscriptionID || len(r.Subscribers) >= subscribersMax {
			continue
		}
		if scheme, value := subscriber(&a); scheme != "" {
			name := scheme + ":" + normal(scheme, value)
			if !r.named[name] {
				r.named[name] = true
				r.Subscribers = append(r.Subscribers, name)
			}
		}
	}
}

// add counts a message that was sent, with its differences.
func (r *Report) add(m *Message) {
	code := func(v *Verdict) string {
		if v == nil {
			return none
		}
		return v.code()
	}
	from, to := code(m.Captured), code(m.Replayed)
	if r.Codes[from] == nil {
		r.Codes[from] = make(map[string]int)
	}
	r.Codes[from][to]++
	switch {
	case m.Replayed == nil:
		r.Unanswered++
	case m.Captured == nil:
		r.Unpaired++
	default:
		m.Differences = Compare(m.Captured, m.Replayed)
		r.compared(m)
	}
}

func (r *Report) compared(m *Message) {
	result := false
	for _, d := range m.Differences {
		result = result || d.Result
	}
	switch {
	case result:
		r.Results++
	case len(m.Differences) > 0:
		r.Grants++
	default:
		r.Equal++
	}
	counted := make(map[*Group]bool)
	for _, d := range m.Differences {
		if !d.Result {
			d.Where = "" // grants of several rating groups often differ alike
		}
		g := r.groups[d]
		if g == nil {
			if len(r.groups) >= groupsMax {
				r.More++
				continue
			}
			g = &Group{Difference: d, Of: "grant", First: m.Frame}
			if d.Result {
				g.Of = "result"
			}
			r.groups[d] = g
		}
		if !counted[g] {
			counted[g] = true
			g.Messages++
		}
	}
}

// finish puts the groups in order: result codes before grants, many before few.
func (r *Report) finish() {
	r.Differences = r.Differences[:0]
	for _, g := range r.groups {
		r.Differences = append(r.Differences, g)
	}
	slices.SortFunc(r.Differences, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(b.Of, a.Of), cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.First, b.First),
			cmp.Compare(a.Where, b.Where), cmp.Compare(a.What, b.What), cmp.Compare(a.Captured, b.Captured), cmp.Compare(a.Replayed, b.Replayed))
	})
	if r.Sessions = len(r.sessions); r.LeftOut > 0 {
		r.Sessions -= r.Partial
	}
}
