package main

import (
	"context"
	"errors"
	"time"

	"rtm"
	"rtm/api"
	"rtm/store"
	"rtm/tenant"
)

// A reader is a store of which nothing can be changed: a commit that only checks
// is answered from what is loaded, all others are refused.
type reader struct{ store.Store }

var errReads = errors.New("this is only a look: nothing is changed")

// Commit implements store.Store.
func (r reader) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	rs := make([]store.Result, len(cs))
	for i := range cs {
		rs[i] = r.check(ctx, &cs[i])
	}
	return rs, time.Time{}
}

func (r reader) check(ctx context.Context, c *store.Commit) store.Result {
	var keys []store.Key
	for _, w := range c.Writes {
		if w.Op != store.Check {
			return store.Result{Outcome: store.Refused, Err: errReads}
		}
		keys = append(keys, w.Key)
	}
	recs, err := r.Load(ctx, keys)
	if err != nil {
		return store.Result{Outcome: store.Refused, Err: err}
	}
	for i, w := range c.Writes {
		if recs[i].Version != w.Seen {
			return store.Result{Outcome: store.Conflict, Fresh: recs}
		}
	}
	return store.Result{Outcome: store.Done}
}

// Due implements store.Store: whatever is due is somebody else's.
func (reader) Due(context.Context, []store.Partition, int, time.Duration) (due []store.Due, next, now time.Time, err error) {
	return nil, time.Time{}, time.Time{}, errReads
}

// Trim implements store.Store.
func (reader) Trim(context.Context, store.Partition, uint64) error { return errReads }

// A sight is what is known of a cluster at one moment.
type sight struct {
	facts     store.Facts
	ahead     time.Duration // of the store's clock to this machine's
	trip      time.Duration // of asking for it
	instances []api.Instance
	level     uint32 // of the store
	tenants   []*tenant.Tenant
	peers     []*tenant.Peer
}

// read takes the sight from a store, and changes nothing in it.
func (s *sight) read(ctx context.Context, st store.Store) (err error) {
	if err := s.clock(func() (t time.Time, err error) {
		s.facts, err = st.Facts(ctx)
		return s.facts.Clock, err
	}); err != nil {
		return err
	}
	live, err := rtm.Live(ctx, st)
	if err != nil {
		return err
	}
	for i := range live {
		s.instances = append(s.instances, api.ShowInstance(&live[i]))
	}
	if s.level, err = rtm.StoreLevel(ctx, st); err != nil {
		return err
	}
	cat, err := tenant.Load(ctx, reader{st}, nil)
	if err != nil {
		return err
	}
	s.tenants, s.peers = cat.Tenants(), cat.Peers()
	return nil
}

// ask takes the sight from a server that has the embedded store open.
func (s *sight) ask(ctx context.Context, r *remote) error {
	get := func(path string, out any) error { return r.call(ctx, "GET", path, nil, nil, out) }
	var info api.Info
	if err := s.clock(func() (time.Time, error) {
		err := get("/v1/info", &info)
		return info.Clock, err
	}); err != nil {
		return err
	}
	s.facts = store.Facts{Kill: true, Power: info.Power, Node: info.Store, Mode: info.Mode, Clock: info.Clock}
	var out struct {
		Instances []api.Instance
		Tenants   []*tenant.Tenant
		Peers     []api.Peer
	}
	for _, path := range []string{"/v1/instances", "/v1/tenants", "/v1/peers"} {
		if err := get(path, &out); err != nil {
			return err
		}
	}
	var l api.Level
	if err := get("/v1/level", &l); err != nil {
		return err
	}
	s.instances, s.tenants, s.level = out.Instances, out.Tenants, l.Level
	for _, p := range out.Peers {
		if p.Declared {
			s.peers = append(s.peers, &tenant.Peer{Host: p.Host, Realm: p.Realm, Sources: p.Sources, Relays: p.Relays, Tenants: p.Tenants, Dialect: p.Dialect, AnswerAs: p.AnswerAs, Certificate: p.Certificate})
		}
	}
	return nil
}

// clock compares a clock that is asked for with this machine's.
func (s *sight) clock(asked func() (time.Time, error)) error {
	before := time.Now()
	t, err := asked()
	s.trip = time.Since(before)
	s.ahead = t.Sub(before.Round(0).Add(s.trip / 2))
	return err
}
