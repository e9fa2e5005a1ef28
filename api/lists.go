package api

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rtm"
	"rtm/charging"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// Paging is how a list is asked for page by page.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"about how many; a page may hold some more, or fewer, and none is left out"`
	Cursor string `query:"cursor" maxLength:"1024" doc:"where to go on: what the page before said"`
}

// at is where a page of that list begins; nil: at its beginning. A cursor that
// was not given for such a list is refused.
func (p *Paging) at(list string) ([]byte, error) {
	if p.Cursor == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil || len(b) < 5 || binary.BigEndian.Uint32(b) != mark(list, b[4:]) {
		return nil, strayCursor(list)
	}
	return b[4:], nil
}

func strayCursor(list string) error {
	return huma.Error422UnprocessableEntity(fmt.Sprintf("this cursor is none of the list of %s: give the one that the page before ended with, or leave it out to begin anew", list))
}

// cursor writes where the next page of that list begins; empty: there is none.
func cursor(list string, next []byte) string {
	if len(next) == 0 {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, mark(list, next)), next...))
}

// mark keeps cursors of different lists, and typing errors, apart.
func mark(list string, b []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE([]byte(list)), crc32.IEEETable, b)
}

// accounts takes one page of accounts.
func (s *server) accounts(ctx context.Context, list string, p *Paging, of string, take func(store.Key, *charging.Account) int) (next string, err error) {
	at, err := p.at(list)
	if err != nil {
		return "", err
	}
	after, err := s.instance().Accounts(ctx, rtm.Walk{Cursor: at, Tenant: of, Limit: p.Limit}, take)
	switch {
	case errors.Is(err, store.ErrCursor):
		return "", strayCursor(list)
	case err != nil:
		return "", huma.Error503ServiceUnavailable(err.Error())
	}
	return cursor(list, after), nil
}

// Account is a subscriber in a list.
type Account struct {
	Tenant     string   `json:"tenant"`
	Account    string   `json:"account"`
	Plan       string   `json:"plan"`
	Identities []string `json:"identities"`
	Money      int64    `json:"money" doc:"micro-units of money that are available"`
	Text       string   `json:"text" doc:"money, for people"`
	Sessions   int      `json:"sessions" doc:"that are open"`
}

type subscribersInput struct {
	Paging
	Tenant string `query:"tenant" doc:"only subscribers of this tenant"`
	Plan   string `query:"plan" doc:"only subscribers with this plan"`
	Open   bool   `query:"open" doc:"only subscribers with open sessions"`
}

// AccountList is a page of subscribers.
type AccountList struct {
	Subscribers []Account `json:"subscribers"`
	Cursor      string    `json:"cursor,omitempty" doc:"where to go on; without it, this is the last page"`
}

func (s *server) subscribers(ctx context.Context, in *subscribersInput) (*body[AccountList], error) {
	out, now := AccountList{Subscribers: []Account{}}, s.instance().Now()
	var err error
	out.Cursor, err = s.accounts(ctx, "subscribers", &in.Paging, in.Tenant, func(k store.Key, a *charging.Account) int {
		if in.Plan != "" && string(a.Plan) != in.Plan || in.Open && len(a.Sessions) == 0 {
			return 0
		}
		out.Subscribers = append(out.Subscribers, listed(k, a, now))
		return 1
	})
	return &body[AccountList]{out}, err
}

func listed(k store.Key, a *charging.Account, now time.Time) Account {
	out := Account{Plan: string(a.Plan), Identities: identities(a), Sessions: len(a.Sessions)}
	out.Tenant, out.Account = tenant.AccountOf(k)
	for i := range a.Buckets {
		if b := &a.Buckets[i]; b.Unit == rating.Money && !over(b, now) && !b.From.After(now) {
			out.Money += b.Available()
		}
	}
	out.Text = tenant.FormatMoney(rating.Micros(out.Money))
	return out
}

func identities(a *charging.Account) []string {
	ids := []string{}
	for _, id := range a.Identities {
		ids = append(ids, string(id))
	}
	return ids
}

// over reports whether the time of a bucket is over.
func over(b *charging.Bucket, now time.Time) bool { return !b.Until.IsZero() && !b.Until.After(now) }

// Document is a subscriber as rtm import takes it: a line of JSON with the keys
// of a kind: Subscriber document.
type Document struct {
	Tenant     string       `json:"tenant"`
	Account    string       `json:"account"`
	Plan       string       `json:"plan"`
	Identities []string     `json:"identities"`
	Balance    string       `json:"balance"`
	Buckets    []BucketLine `json:"buckets" doc:"empty: none, not those that the plan gives"`
}

// BucketLine is what is left in a bucket beside the balance.
type BucketLine struct {
	Unit      string `json:"unit"`
	Amount    string `json:"amount"`
	Allowance string `json:"allowance,omitempty" doc:"its name, if it is one of the plan"`
	Priority  int32  `json:"priority,omitempty"`
	Until     string `json:"until,omitempty"`
}

// Exported is a subscriber to be written down, and what the document cannot
// say.
type Exported struct {
	Subscriber Document `json:"subscriber"`
	Doubts     []string `json:"doubts,omitempty"`
}

type exportInput struct {
	Paging
	Tenant string `query:"tenant" doc:"only subscribers of this tenant"`
}

// ExportList is a page of subscribers to be written down.
type ExportList struct {
	Subscribers []Exported `json:"subscribers"`
	Cursor      string     `json:"cursor,omitempty" doc:"where to go on; without it, this is the last page"`
}

func (s *server) export(ctx context.Context, in *exportInput) (*body[ExportList], error) {
	out, now := ExportList{Subscribers: []Exported{}}, s.instance().Now()
	var err error
	out.Cursor, err = s.accounts(ctx, "subscribers to export", &in.Paging, in.Tenant, func(k store.Key, a *charging.Account) int {
		out.Subscribers = append(out.Subscribers, s.exported(k, a, now))
		return 1
	})
	return &body[ExportList]{out}, err
}

// exported is an account as a document. What is reserved is part of it: it is
// not used yet.
func (s *server) exported(k store.Key, a *charging.Account, now time.Time) (e Exported) {
	d := &e.Subscriber
	d.Tenant, d.Account = tenant.AccountOf(k)
	d.Plan, d.Identities, d.Buckets = string(a.Plan), identities(a), []BucketLine{}
	if len(d.Identities) == 0 {
		e.Doubts = append(e.Doubts, "it has no identity, and an import would refuse it")
	}
	balance, main := int64(0), false
	for i := range a.Buckets {
		b := &a.Buckets[i]
		left := b.Credited - b.Debited
		switch {
		case !main && b.Unit == rating.Money && b.Allowance == 0 && b.Until.IsZero():
			balance, main = left, true
		case left > 0 && !over(b, now):
			name := allowance(s.instance(), d.Tenant, a.Plan, b.Allowance)
			if b.Allowance != 0 && name == "" {
				e.Doubts = append(e.Doubts, fmt.Sprintf("bucket %d (%s) is of an allowance that its plan never had, and was left out", b.Number, tenant.FormatQuantity(left, b.Unit)))
				continue
			}
			d.Buckets = append(d.Buckets, BucketLine{b.Unit.String(), tenant.FormatQuantity(left, b.Unit), name, b.Priority, text(b.Until)})
			if b.From.After(now) {
				e.Doubts = append(e.Doubts, fmt.Sprintf("bucket %d begins at %s only, which a document cannot say", b.Number, text(b.From)))
			}
		}
	}
	if balance < 0 {
		e.Doubts = append(e.Doubts, fmt.Sprintf("its balance is %s, and 0 was written", tenant.FormatMoney(rating.Micros(balance))))
		balance = 0
	}
	d.Balance = tenant.FormatMoney(rating.Micros(balance))
	return e
}
