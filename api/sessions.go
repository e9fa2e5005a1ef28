package api

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Group is a rating group of a session as it is shown.
type Group struct {
	RatingGroup *uint32 `json:"ratingGroup,omitempty"`
	ServiceID   *uint32 `json:"serviceIdentifier,omitempty"`
	Result      uint32  `json:"result"`
	Unit        string  `json:"unit,omitempty"`
	Granted     int64   `json:"granted"`
	Final       string  `json:"final,omitempty"`
	Release     string  `json:"reservedUntil,omitempty"`
	Octets      int64   `json:"usedOctets"`
	Seconds     int64   `json:"usedSeconds"`
	Events      int64   `json:"usedEvents"`
	Charged     int64   `json:"charged" doc:"micro-units of money"`
	Allowed     int64   `json:"fromAllowances"`
	Overrun     int64   `json:"overrun,omitempty"`
}

// Handled says which instance decided a message.
type Handled struct {
	Number   uint32 `json:"number"`
	Request  string `json:"request"`
	Instance string `json:"instance"`
	Micros   int64  `json:"micros" doc:"microseconds from its arrival to its decision"`
}

// Session is an open session as it is shown.
type Session struct {
	Session  string    `json:"session"`
	Tenant   string    `json:"tenant"`
	Account  string    `json:"account"`
	Identity string    `json:"identity,omitempty"`
	Host     string    `json:"originHost"`
	Realm    string    `json:"originRealm"`
	Context  uint32    `json:"serviceContext"`
	Opened   time.Time `json:"opened"`
	Last     time.Time `json:"last"`
	Closes   time.Time `json:"closes" doc:"closed by then, if nothing more is heard"`
	Messages uint32    `json:"messages"`
	Gaps     uint32    `json:"gaps,omitempty"`
	Busy     int64     `json:"instanceMicros" doc:"microseconds that instances worked on it, all messages together"`
	Notice   string    `json:"notice,omitempty" doc:"what its client was asked and has not answered"`
	Groups   []Group   `json:"groups"`
	Trail    []Handled `json:"trail" doc:"who handled its last messages"`
}

func showSession(key store.Key, s *charging.Session) Session {
	t, account := tenant.AccountOf(key)
	out := Session{
		Session: string(s.ID), Tenant: t, Account: account, Identity: string(s.Identity), Host: string(s.Host), Realm: string(s.Realm),
		Context: s.Context, Opened: s.Opened, Last: s.Last, Closes: s.Close, Messages: s.Messages, Gaps: s.Gaps,
		Busy: s.Busy.Microseconds(), Groups: []Group{}, Trail: []Handled{},
	}
	if s.Notice.Kind != 0 {
		out.Notice = s.Notice.Kind.String()
	}
	for i := range s.Groups {
		out.Groups = append(out.Groups, showGroup(&s.Groups[i]))
	}
	for _, h := range s.Trail {
		out.Trail = append(out.Trail, Handled{Number: h.Number, Request: h.Kind.String(), Instance: string(h.Instance), Micros: h.Took.Microseconds()})
	}
	return out
}

func showGroup(g *charging.Group) Group {
	out := Group{
		Result: uint32(g.Result), Granted: g.Granted, Release: text(g.Release), Octets: g.Used.Octets, Seconds: g.Used.Seconds,
		Events: g.Used.Events, Charged: int64(g.Debited), Allowed: g.Allowed, Overrun: g.Overrun,
	}
	if g.Has&charging.HasGroup != 0 {
		out.RatingGroup = &g.Group
	}
	if g.Has&charging.HasService != 0 {
		out.ServiceID = &g.Service
	}
	if g.Unit != 0 {
		out.Unit = g.Unit.String()
	}
	if g.Final != 0 {
		out.Final = g.Final.String()
	}
	return out
}

type sessionsInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type sessionList struct {
	Sessions []Session `json:"sessions"`
	More     bool      `json:"more"`
}

func (s *server) sessions(ctx context.Context, in *sessionsInput) (*body[sessionList], error) {
	out := sessionList{Sessions: []Session{}}
	err := s.instance().Sessions(ctx, func(o rtm.Open) bool {
		if out.More = len(out.Sessions) >= in.Limit; out.More {
			return false
		}
		out.Sessions = append(out.Sessions, showSession(o.Account, &o.Session))
		return true
	})
	return &body[sessionList]{out}, problem(err)
}

type sessionInput struct {
	Session string `path:"session" doc:"Session-Id as on the wire"`
}

func (s *server) session(ctx context.Context, in *sessionInput) (*body[Session], error) {
	o, err := s.instance().Session(ctx, in.Session)
	if err != nil {
		return nil, problem(err)
	}
	return &body[Session]{showSession(o.Account, &o.Session)}, nil
}

func (s *server) reauth(ctx context.Context, in *sessionInput) (*struct{}, error) {
	return s.prompt(ctx, in.Session, charging.Reauthorise)
}

func (s *server) abort(ctx context.Context, in *sessionInput) (*struct{}, error) {
	return s.prompt(ctx, in.Session, charging.Abort)
}

func (s *server) prompt(ctx context.Context, id string, kind charging.Kind) (*struct{}, error) {
	n := s.instance()
	o, err := n.Session(ctx, id)
	if err == nil {
		err = n.Prompt(ctx, o, kind)
	}
	return nil, problem(err)
}

type recordsInput struct {
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Type    string `query:"type" enum:"message,final,supplementary,event,ledger,released,unattributed,undelivered,provisioned" doc:"only records of this type"`
	Session string `query:"session"`
	Account string `query:"account"`
}

type recordList struct {
	Records []json.RawMessage `json:"records" doc:"the newest last"`
}

func (s *server) records(_ context.Context, in *recordsInput) (*body[recordList], error) {
	if s.Records == nil {
		return nil, huma.Error404NotFound("this server writes no record files")
	}
	match := func(line json.RawMessage) bool {
		var r struct{ Type, Session, Account string }
		if in.Session != "" && !bytes.Contains(line, []byte(in.Session)) {
			return false
		}
		return json.Unmarshal(line, &r) == nil && (in.Type == "" || r.Type == in.Type) &&
			(in.Session == "" || r.Session == in.Session) && (in.Account == "" || r.Account == in.Account)
	}
	lines, err := s.Config.Records(in.Limit, match)
	if lines == nil {
		lines = []json.RawMessage{}
	}
	return &body[recordList]{recordList{lines}}, problem(err)
}
