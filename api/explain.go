package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"rtm"
	"rtm/cdr"
	"rtm/rating"
	"rtm/store"
	"rtm/tenant"
)

// explainMax bounds how long records are looked for.
const explainMax = time.Minute

type explainInput struct {
	Session    string `path:"session" doc:"Session-Id as on the wire"`
	Subscriber string `query:"subscriber" doc:"whose it is: spares looking for it"`
}

// explain tells a session, open or closed, from the store and the record files
// that this server sees.
func (s *server) explain(ctx context.Context, in *explainInput) (*body[Story], error) {
	ctx, cancel := context.WithTimeout(ctx, explainMax)
	defer cancel()
	n := s.instance()
	look := cdr.Search{Store: n.Store, Dirs: s.Files, Session: in.Session}
	var key store.Key
	open, err := n.Session(ctx, in.Session, in.Subscriber)
	switch {
	case err == nil:
		key, look.Opened = open.Account, open.Session.Opened
	case !errors.Is(err, rtm.ErrNotFound):
		return nil, problem(err)
	case in.Subscriber != "":
		if key, err = n.Find(ctx, in.Subscriber); err != nil {
			return nil, problem(err)
		}
	}
	t := s.telling(in.Session)
	if !look.Opened.IsZero() {
		shown := showSession(key, &open.Session)
		t.Open = &shown
	}
	look.Tenant, look.Account = tenant.AccountOf(key)
	look.Partition = key.Partition
	return s.tell(ctx, &look, t)
}

type explainAccountInput struct {
	Subscriber string `path:"subscriber" doc:"IMSI, MSISDN, identity or tenant/account"`
	Last       int    `query:"last" minimum:"1" maximum:"1000" default:"20" doc:"how many entries"`
}

// explainAccount tells the last entries of an account: why its balance is what
// it is.
func (s *server) explainAccount(ctx context.Context, in *explainAccountInput) (*body[Story], error) {
	ctx, cancel := context.WithTimeout(ctx, explainMax)
	defer cancel()
	key, err := s.instance().Find(ctx, in.Subscriber)
	if err != nil {
		return nil, problem(err)
	}
	look := cdr.Search{Store: s.instance().Store, Dirs: s.Files, Partition: key.Partition, Last: in.Last}
	look.Tenant, look.Account = tenant.AccountOf(key)
	return s.tell(ctx, &look, s.telling(""))
}

// tell searches and tells.
func (s *server) tell(ctx context.Context, look *cdr.Search, t Telling) (*body[Story], error) {
	records, err := look.Run(ctx)
	if err != nil && len(records) == 0 {
		return nil, problem(err)
	}
	if len(records) == 0 {
		return nil, huma.Error404NotFound(NoRecords(t.Session))
	}
	s.name(ctx, &t, records[0].Tenant, records[0].Account)
	story := t.Tell(records)
	if err != nil {
		story.Missing = append(story.Missing, fmt.Sprintf("not all records were read: %v", err))
	}
	return &body[Story]{story}, nil
}

// NoRecords says that a session is in no record, and why that may be.
func NoRecords(session string) string {
	if session == "" {
		return "there is no record of the account here"
	}
	return fmt.Sprintf("session %s: there is no record of it here; one that was refused as it opened leaves none, and records of other machines can be given with --records", session)
}

// telling is what this server knows of plans.
func (s *server) telling(session string) Telling {
	cat := s.instance().Catalogue()
	return Telling{Session: session, Plan: func(t, plan string, version uint32) *rating.Plan {
		if p := cat.Plans(t, []byte(plan)); p != nil {
			return p.Version(version)
		}
		return nil
	}}
}

// name adds how the buckets of the account, and its money, are called.
func (s *server) name(ctx context.Context, t *Telling, of, account string) {
	n := s.instance()
	if o := n.Catalogue().Tenant(of); o != nil {
		t.Currency = o.Currency
	}
	a, err := n.Account(ctx, tenant.AccountKey(of, account))
	if err != nil {
		return
	}
	names := make(map[uint32]string)
	for i := range a.Buckets {
		names[a.Buckets[i].Number] = allowance(n, of, a.Plan, a.Buckets[i].Allowance)
	}
	t.Bucket = func(number uint32) string { return names[number] }
}
