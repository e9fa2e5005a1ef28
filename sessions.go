package rtm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// labelsMax bounds the realms that are tried for the host of a Session-Id.
const labelsMax = 16

// A Way is how a session was found.
type Way string

// The ways, the fastest first. All but the last read a few records.
const (
	BySubscriber Way = "subscriber" // the caller knew whose it is
	ByIndex      Way = "index"      // the session index knew
	ByIMSI       Way = "imsi"       // the Session-Id says it
	ByWalk       Way = "walk"       // all accounts were looked at
)

// An Open is an open session and whose it is.
type Open struct {
	Account store.Key
	Session charging.Session
	Way     Way
}

// Session finds an open session by its Session-Id. With a subscriber, as Find
// takes it, only that account is looked at. Otherwise hints are tried and
// checked; if none holds, all accounts are walked over, which takes seconds on a
// large store. Errors: ErrNotFound.
func (n *Instance) Session(ctx context.Context, id, subscriber string) (Open, error) {
	if subscriber != "" {
		key, err := n.Find(ctx, subscriber)
		if err != nil {
			return Open{}, err
		}
		o, err := n.open(ctx, key, id, BySubscriber)
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("subscriber %s, session %s: %w", subscriber, id, ErrNotFound)
		}
		return o, err
	}
	for _, way := range []func(context.Context, string) (Open, error){n.byIndex, n.byIMSI, n.byWalk} {
		if o, err := way(ctx, id); !errors.Is(err, ErrNotFound) {
			return o, err
		}
	}
	return Open{}, fmt.Errorf("session %s: %w", id, ErrNotFound)
}

// open is the session of that account; ErrNotFound: the account has it not.
func (n *Instance) open(ctx context.Context, key store.Key, id string, way Way) (Open, error) {
	recs, err := n.Store.Load(ctx, []store.Key{key})
	if err != nil {
		return Open{}, err
	}
	return within(&charging.Account{}, key, recs[0].Bytes, id, way)
}

// within is the session in the record of an account, decoded into a.
func within(a *charging.Account, key store.Key, record []byte, id string, way Way) (Open, error) {
	if err := a.Decode(record); err != nil {
		return Open{}, fmt.Errorf("account %s: %w", key.Name, err)
	}
	i := slices.IndexFunc(a.Sessions, func(s charging.Session) bool { return string(s.ID) == id })
	if i < 0 {
		return Open{}, ErrNotFound
	}
	if err := a.DecodeAll(); err != nil {
		return Open{}, fmt.Errorf("account %s: %w", key.Name, err)
	}
	return Open{Account: key, Session: a.Sessions[i], Way: way}, nil
}

// byIndex asks the session index, for each realm that can be meant.
func (n *Instance) byIndex(ctx context.Context, id string) (Open, error) {
	var keys []store.Key
	for _, realm := range n.realms(id) {
		keys = append(keys, tenant.SessionKey(realm, id, 0))
	}
	recs, err := n.Store.Load(ctx, keys)
	if err != nil {
		return Open{}, err
	}
	for _, r := range recs {
		for _, e := range slices.Backward(tenant.Entries(r.Bytes)) {
			if o, err := n.open(ctx, e.Account, id, ByIndex); !errors.Is(err, ErrNotFound) {
				return o, err
			}
		}
	}
	return Open{}, ErrNotFound
}

// realms lists the Origin-Realms that may have named a session so: what its host
// ends with (RFC 6733 §8.8), and those of the peers that are declared.
func (n *Instance) realms(id string) (realms []string) {
	host, _, _ := strings.Cut(id, ";")
	for range labelsMax {
		realms = append(realms, host, strings.ToLower(host))
		_, host, _ = strings.Cut(host, ".")
	}
	for _, p := range n.Catalogue().Peers() {
		realms = append(append(realms, p.Realm), p.Relays...)
	}
	slices.Sort(realms)
	return slices.DeleteFunc(slices.Compact(realms), func(r string) bool { return r == "" || r == "*" })
}

// ofMagma is the end of the Session-Ids that Magma makes.
var ofMagma = regexp.MustCompile(`;IMSI([0-9]{14,15})$`)

// byIMSI asks the directory for the IMSI that the Session-Id ends with.
func (n *Instance) byIMSI(ctx context.Context, id string) (Open, error) {
	m := ofMagma.FindStringSubmatch(id)
	if m == nil {
		return Open{}, ErrNotFound
	}
	key, err := n.Find(ctx, "imsi:"+m[1])
	if err != nil {
		return Open{}, err
	}
	return n.open(ctx, key, id, ByIMSI)
}

// byWalk looks at every account. The Session-Id stands in the record as it is:
// only what holds its octets is decoded.
func (n *Instance) byWalk(ctx context.Context, id string) (Open, error) {
	a, octets := &charging.Account{}, []byte(id)
	var cursor []byte
	for {
		keys, recs, next, err := n.Store.Scan(ctx, cursor, chunkMax)
		if err != nil {
			return Open{}, err
		}
		for i, k := range keys {
			if k.Kind != tenant.KindAccount || !bytes.Contains(recs[i].Bytes, octets) {
				continue
			}
			if o, err := within(a, k, recs[i].Bytes, id, ByWalk); err == nil {
				return o, nil
			}
		}
		if next == nil {
			return Open{}, ErrNotFound
		}
		cursor = next
	}
}

// Prompt asks the client of a session for a report (charging.Reauthorise), of one rating
// group if group is not nil, or to end it (charging.Abort). Errors: ErrNotFound; another
// one says that the session has no such group.
func (n *Instance) Prompt(ctx context.Context, o Open, kind charging.Kind, group *uint32) error {
	r := charging.Request{Kind: kind, Realm: o.Session.Realm, Session: o.Session.ID, Sub: o.Session.Sub}
	if group != nil {
		r.Group, r.HasGroup = *group, true
	}
	a, err := n.Do(ctx, &Inbound{Account: o.Account, Request: r})
	switch {
	case err != nil || a.Result == charging.Success:
		return err
	case a.Result == charging.InvalidValue:
		return fmt.Errorf("session %s has no rating group %d: it has %s", o.Session.ID, *group, groups(&o.Session))
	}
	return fmt.Errorf("session %s: %w", o.Session.ID, ErrNotFound)
}

// groups lists the rating groups of a session.
func groups(s *charging.Session) string {
	var names []string
	for i := range s.Groups {
		if g := &s.Groups[i]; g.Has&charging.HasGroup != 0 {
			names = append(names, fmt.Sprint(g.Group))
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}
