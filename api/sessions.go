package api

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

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
	APN      string    `json:"apn,omitempty"`
	Opened   time.Time `json:"opened"`
	Last     time.Time `json:"last"`
	Closes   time.Time `json:"closes" doc:"closed by then, if nothing more is heard"`
	Messages uint32    `json:"messages"`
	Gaps     uint32    `json:"gaps,omitempty"`
	Busy     int64     `json:"instanceMicros" doc:"microseconds that instances worked on it, all messages together"`
	Notice   string    `json:"notice,omitempty" doc:"what its client was asked and has not answered"`
	Groups   []Group   `json:"groups"`

	NoticeGroup *uint32 `json:"noticeRatingGroup,omitempty" doc:"the rating group that notice is about; left out: all"`

	Trail []Handled `json:"trail" doc:"who handled its last messages"`
}

func showSession(key store.Key, s *charging.Session) Session {
	t, account := tenant.AccountOf(key)
	out := Session{
		Session: string(s.ID), Tenant: t, Account: account, Identity: string(s.Identity), Host: string(s.Host), Realm: string(s.Realm),
		Context: s.Context, APN: string(s.Particulars.APN), Opened: s.Opened, Last: s.Last, Closes: s.Close, Messages: s.Messages, Gaps: s.Gaps,
		Busy: s.Busy.Microseconds(), Groups: []Group{}, Trail: []Handled{},
	}
	if s.Notice.Kind != 0 {
		out.Notice = s.Notice.Kind.String()
	}
	if s.Notice.Kind != 0 && s.Notice.HasGroup {
		out.NoticeGroup = &s.Notice.Group
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
	Paging
	Tenant     string `query:"tenant" doc:"only sessions of this tenant's subscribers"`
	Subscriber string `query:"subscriber" doc:"only sessions of this IMSI, MSISDN, identity or tenant/account: the fastest"`
	Host       string `query:"host" doc:"only sessions whose last message came from this Origin-Host"`
	APN        string `query:"apn" doc:"only sessions with this Called-Station-Id"`
	Idle       string `query:"idle" doc:"only sessions of which nothing was heard for so long, such as 10m"`
}

// SessionList is a page of open sessions.
type SessionList struct {
	Sessions []Session `json:"sessions"`
	Cursor   string    `json:"cursor,omitempty" doc:"where to go on; without it, this is the last page"`
}

func (s *server) sessions(ctx context.Context, in *sessionsInput) (*body[SessionList], error) {
	f := filter{host: in.Host, apn: in.APN, now: s.instance().Now()}
	if in.Idle != "" {
		var err error
		if f.idle, err = time.ParseDuration(in.Idle); err != nil || f.idle <= 0 {
			return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("idle: %q is no time such as 90s, 10m or 2h", in.Idle))
		}
	}
	out := SessionList{Sessions: []Session{}}
	take := func(k store.Key, a *charging.Account) int {
		found := f.of(k, a)
		out.Sessions = append(out.Sessions, found...)
		return len(found)
	}
	if in.Subscriber != "" {
		n := s.instance()
		key, err := n.Find(ctx, in.Subscriber)
		if err != nil {
			return nil, problem(err)
		}
		a, err := n.Account(ctx, key)
		if err != nil {
			return nil, problem(err)
		}
		if t, _ := tenant.AccountOf(key); in.Tenant == "" || in.Tenant == t {
			take(key, a)
		}
		return &body[SessionList]{out}, nil
	}
	var err error
	out.Cursor, err = s.accounts(ctx, "sessions", &in.Paging, in.Tenant, take)
	return &body[SessionList]{out}, err
}

// A filter says which sessions are wanted; zero fields want all.
type filter struct {
	host, apn string
	idle      time.Duration
	now       time.Time
}

// of is what f wants of an account's sessions. The rest of them is decoded only
// if a head is wanted.
func (f *filter) of(k store.Key, a *charging.Account) (out []Session) {
	wanted := func(s charging.Session) bool { return f.host == "" || strings.EqualFold(f.host, string(s.Host)) }
	if !slices.ContainsFunc(a.Sessions, wanted) || a.DecodeAll() != nil {
		return nil
	}
	for i := range a.Sessions {
		s := &a.Sessions[i]
		if wanted(*s) && (f.apn == "" || strings.EqualFold(f.apn, string(s.Particulars.APN))) && f.now.Sub(s.Last) >= f.idle {
			out = append(out, showSession(k, s))
		}
	}
	return out
}

// SessionInput is how a request names a session.
type SessionInput struct {
	Session    string `path:"session" doc:"Session-Id as on the wire"`
	Subscriber string `query:"subscriber" doc:"whose it is, as IMSI, MSISDN, identity or tenant/account: without it all accounts may have to be looked at"`
}

type foundSession struct {
	FoundBy string `header:"Rtm-Found-By" doc:"subscriber, index, imsi, or walk: over all accounts, which the query subscriber makes unnecessary"`
	Body    Session
}

func (s *server) session(ctx context.Context, in *SessionInput) (*foundSession, error) {
	o, err := s.instance().Session(ctx, in.Session, in.Subscriber)
	if err != nil {
		return nil, problem(err)
	}
	return &foundSession{string(o.Way), showSession(o.Account, &o.Session)}, nil
}

type prompted struct {
	FoundBy string `header:"Rtm-Found-By" doc:"as for the session itself"`
}

type reauthInput struct {
	SessionInput
	RatingGroup string `query:"ratingGroup" pattern:"^[0-9]{1,10}$" doc:"asks for a report of this Rating-Group alone"`
}

func (s *server) reauth(ctx context.Context, in *reauthInput) (*prompted, error) {
	if in.RatingGroup == "" {
		return s.prompt(ctx, &in.SessionInput, charging.Reauthorise, nil)
	}
	n, err := strconv.ParseUint(in.RatingGroup, 10, 32)
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(fmt.Sprintf("ratingGroup: %s is above 4294967295", in.RatingGroup))
	}
	group := uint32(n)
	return s.prompt(ctx, &in.SessionInput, charging.Reauthorise, &group)
}

func (s *server) abort(ctx context.Context, in *SessionInput) (*prompted, error) {
	return s.prompt(ctx, in, charging.Abort, nil)
}

func (s *server) prompt(ctx context.Context, in *SessionInput, kind charging.Kind, group *uint32) (*prompted, error) {
	n := s.instance()
	o, err := n.Session(ctx, in.Session, in.Subscriber)
	if err == nil {
		err = n.Prompt(ctx, o, kind, group)
	}
	return &prompted{string(o.Way)}, problem(err)
}
