package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rtm/store"
)

// A RecordQuery asks the record files for their newest lines that match.
type RecordQuery struct {
	Limit  int
	Before []byte    // what a page ended with: only older lines; nil: from the newest on
	Since  time.Time // files that hold nothing of this time on need not be read; zero: all
	Until  time.Time // likewise; zero: all
	Match  func(json.RawMessage) bool
}

// A RecordPage is what they say.
type RecordPage struct {
	Lines []json.RawMessage // the newest last
	Next  []byte            // where older ones are; nil: there are none
}

type recordsInput struct {
	Paging
	Type    string    `query:"type" enum:"message,final,supplementary,event,ledger,released,unattributed,undelivered,provisioned,audited,unreadable" doc:"only records of this type"`
	Tenant  string    `query:"tenant" doc:"only records of this tenant"`
	Account string    `query:"account" doc:"only records of this account, as its name or as tenant/account"`
	Session string    `query:"session" doc:"only records of this Session-Id"`
	Since   time.Time `query:"since" doc:"only records of this time or later"`
	Until   time.Time `query:"until" doc:"only records before this time. Files written more than an hour later are not looked at"`
}

type recordList struct {
	Records []json.RawMessage `json:"records" doc:"the newest last"`
	Cursor  string            `json:"cursor,omitempty" doc:"where older ones are; without it, there are none"`
}

func (s *server) records(ctx context.Context, in *recordsInput) (*body[recordList], error) {
	if s.Records == nil {
		return nil, huma.Error404NotFound("this server writes no record files")
	}
	before, err := in.at("records")
	if err != nil {
		return nil, err
	}
	q := RecordQuery{Limit: in.Limit, Before: before, Since: in.Since, Until: in.Until, Match: in.matcher()}
	page, err := s.Config.Records(ctx, q)
	switch {
	case errors.Is(err, store.ErrCursor):
		return nil, strayCursor("records")
	case err != nil:
		return nil, huma.Error503ServiceUnavailable(err.Error())
	}
	if page.Lines == nil {
		page.Lines = []json.RawMessage{}
	}
	return &body[recordList]{recordList{page.Lines, cursor("records", page.Next)}}, nil
}

// matcher says which lines are wanted. Most are not, and need not be decoded for
// that.
func (in *recordsInput) matcher() func(json.RawMessage) bool {
	session, _ := json.Marshal(in.Session) // a text: it cannot fail
	session = bytes.Trim(session, `"`)
	return func(line json.RawMessage) bool {
		if !bytes.Contains(line, session) {
			return false
		}
		var r struct {
			Type, Tenant, Account, Session string
			At                             time.Time
		}
		return json.Unmarshal(line, &r) == nil && (in.Type == "" || r.Type == in.Type) && (in.Tenant == "" || r.Tenant == in.Tenant) &&
			(in.Session == "" || r.Session == in.Session) && (in.Account == "" || r.Account == in.Account || r.Tenant+"/"+r.Account == in.Account) &&
			(in.Since.IsZero() || !r.At.Before(in.Since)) && (in.Until.IsZero() || r.At.Before(in.Until))
	}
}
