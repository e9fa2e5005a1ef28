package rtm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Times of presence.
const (
	presenceEvery = time.Second
	presenceStale = 6 * time.Second // who was not heard of for that long is gone
	inboxMax      = 256             // notices that wait for one instance
	casTries      = 8
)

// A Presence is what an instance says of itself to the others.
type Presence struct {
	Name     string    `json:"name"`
	PeerHost string    `json:"peerHost"`
	Diameter []string  `json:"diameter,omitempty"`
	HTTP     string    `json:"http,omitempty"`
	Since    time.Time `json:"since"`
	Seen     time.Time `json:"seen"`             // by the store's clock
	Peers    []string  `json:"peers,omitempty"`  // Origin-Hosts connected to it
	Relays   []string  `json:"relays,omitempty"` // realms that its relays lead to; "*": any
	Leaving  bool      `json:"leaving,omitempty"`
	Requests int64     `json:"requests"` // decided so far
	Busy     int64     `json:"busy"`     // nanoseconds spent deciding them
}

// A Parcel is a notice on its way to the instance that is connected to the
// client.
type Parcel struct {
	Account store.Key    `json:"account"`
	Due     charging.Due `json:"due"`
}

var presenceKey = store.Key{Partition: tenant.Partition("presence"), Kind: tenant.KindPresence, Name: "instances"}

func parcelsKey(instance string) store.Key {
	return store.Key{Partition: tenant.Partition(instance), Kind: tenant.KindPresence, Name: "parcels/" + instance}
}

// swap changes one JSON record by compare-and-set: change gets what is there,
// and says whether it is to be written.
func swap[T any](ctx context.Context, s store.Store, key store.Key, draw func() store.Version, expire time.Duration, change func(*T) (bool, error)) (v T, err error) {
	recs, err := s.Load(ctx, []store.Key{key})
	if err != nil {
		return v, err
	}
	rec := recs[0]
	for range casTries {
		v = *new(T)
		if len(rec.Bytes) > 0 {
			if err := json.Unmarshal(rec.Bytes, &v); err != nil {
				return v, fmt.Errorf("%s: %w", key, err)
			}
		}
		write, err := change(&v)
		if err != nil || !write {
			return v, err
		}
		body, err := json.Marshal(v)
		if err != nil {
			return v, err
		}
		rs, _ := s.Commit(ctx, []store.Commit{{Writes: []store.Write{{
			Op: store.Put, Key: key, Seen: rec.Version, New: draw(), Bytes: body, Expire: expire,
		}}}})
		switch rs[0].Outcome {
		case store.Done:
			return v, nil
		case store.Conflict:
			rec = rs[0].Fresh[0]
		case store.InDoubt, store.Refused:
			return v, rs[0].Err
		}
	}
	return v, errors.New("others change it all the time")
}

// present tells the others of this instance, and learns of them.
func (n *Instance) present(ctx context.Context) error {
	me := n.Presence
	if n.Connected != nil {
		me.Peers, me.Relays = n.Connected()
	}
	me.Name, me.Since = n.Name, n.since
	me.Requests, me.Busy = n.Load.Requests.Load(), n.Load.Busy.Load()
	me.Leaving = n.leaving.Load()
	me.Seen = n.Now()
	all, err := swap(ctx, n.Store, presenceKey, n.version, 0, func(all *[]Presence) (bool, error) {
		*all = slices.DeleteFunc(*all, func(p Presence) bool {
			return p.Name == me.Name || me.Seen.Sub(p.Seen) > presenceStale
		})
		*all = append(*all, me)
		slices.SortFunc(*all, func(a, b Presence) int { return a.Since.Compare(b.Since) })
		return true, nil
	})
	if err == nil {
		n.others.Store(&all)
	}
	return err
}

// claim refuses to start beside a live instance of the same name or peer host:
// gateways would take the two for one.
func (n *Instance) claim(ctx context.Context) error {
	_, err := swap(ctx, n.Store, presenceKey, n.version, 0, func(all *[]Presence) (bool, error) {
		for _, p := range *all {
			if slices.Equal(p.Diameter, n.Presence.Diameter) {
				continue // it was killed: we hold its addresses now
			}
			live := n.Now().Sub(p.Seen) <= presenceStale
			if live && (p.Name == n.Name || n.Presence.PeerHost != "" && p.PeerHost == n.Presence.PeerHost) {
				return false, fmt.Errorf("instance %s is running as %s: give this one its own --name and --peer-host, or wait %s if it was killed",
					p.Name, p.PeerHost, presenceStale)
			}
		}
		return false, nil
	})
	return err
}

// Instances lists the live instances, the oldest first, as last heard.
func (n *Instance) Instances() []Presence {
	if p := n.others.Load(); p != nil {
		return *p
	}
	return nil
}

// Rank is this instance's place among the live ones, and how many there are.
func (n *Instance) Rank() (place, of int) {
	all := n.Instances()
	i := slices.IndexFunc(all, func(p Presence) bool { return p.Name == n.Name })
	return max(i, 0), max(len(all), 1)
}

// dispatch sends a notice over the gateway's own connection, here or at another
// instance, else through a relay. If nobody is connected, the session's timer
// tries again.
func (n *Instance) dispatch(account store.Key, due charging.Due) {
	host, realm := string(due.Host), string(due.Realm)
	switch {
	case n.Notify == nil || n.Notify(account, due, false):
	case n.post(account, due, func(p *Presence) bool { return containsFold(p.Peers, host) }):
	case n.Notify(account, due, true):
	default:
		n.post(account, due, func(p *Presence) bool { return containsFold(p.Relays, realm) || containsFold(p.Relays, "*") })
	}
}

// post leaves a notice for the first other instance that leads to the gateway.
func (n *Instance) post(account store.Key, due charging.Due, leads func(*Presence) bool) bool {
	all := n.Instances()
	for i := range all {
		if p := &all[i]; p.Name != n.Name && leads(p) {
			n.outbox.put(p.Name, Parcel{account, due})
			return true
		}
	}
	return false
}

func containsFold(list []string, s string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return strings.EqualFold(l, s) })
}

// An outbox holds parcels until the next round takes them away.
type outbox struct {
	mu   sync.Mutex // guards to
	to   map[string][]Parcel
	some chan struct{}
}

// put adds a parcel. One that finds the outbox full is lost here, and sent
// again by the session's timer.
func (o *outbox) put(instance string, p Parcel) {
	o.mu.Lock()
	if len(o.to[instance]) < inboxMax {
		o.to[instance] = append(o.to[instance], p)
	}
	o.mu.Unlock()
	select {
	case o.some <- struct{}{}:
	default:
	}
}

func (o *outbox) take() map[string][]Parcel {
	o.mu.Lock()
	defer o.mu.Unlock()
	to := o.to
	o.to = make(map[string][]Parcel)
	return to
}

// send takes the parcels to their instances. One that is lost on the way is
// sent again by the session's timer.
func (n *Instance) send(ctx context.Context) {
	for to, parcels := range n.outbox.take() {
		_, err := swap(ctx, n.Store, parcelsKey(to), n.version, time.Minute, func(all *[]Parcel) (bool, error) {
			room := max(inboxMax-len(*all), 0)
			*all = append(*all, parcels[:min(len(parcels), room)]...)
			return room > 0, nil
		})
		if err != nil {
			n.Log.Debug("notices did not reach another instance", "to", to, "error", err)
		}
	}
}

// collect sends the notices that others left for this instance.
func (n *Instance) collect(ctx context.Context) {
	var mine []Parcel
	_, err := swap(ctx, n.Store, parcelsKey(n.Name), n.version, time.Minute, func(all *[]Parcel) (bool, error) {
		mine, *all = *all, nil
		return len(mine) > 0, nil
	})
	if err != nil {
		return
	}
	for _, p := range mine {
		if n.Notify != nil {
			_ = n.Notify(p.Account, p.Due, false) || n.Notify(p.Account, p.Due, true)
		}
	}
}

// attend keeps presence up to date until the instance stops.
func (n *Instance) attend() {
	defer n.done.Done()
	t := time.NewTicker(presenceEvery)
	defer t.Stop()
	for {
		work := n.round
		select {
		case <-n.stop:
			return
		case <-n.outbox.some:
			work = n.send
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		work(ctx)
		cancel()
	}
}

// round tells of this instance, and sends what others left for it.
func (n *Instance) round(ctx context.Context) {
	if err := n.present(ctx); err != nil {
		n.Log.Debug("presence is not up to date", "error", err)
	}
	if n.Notify != nil {
		n.collect(ctx)
	}
}

// retire takes this instance off the list.
func (n *Instance) retire() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	swap(ctx, n.Store, presenceKey, n.version, 0, func(all *[]Presence) (bool, error) {
		before := len(*all)
		*all = slices.DeleteFunc(*all, func(p Presence) bool { return p.Name == n.Name })
		return len(*all) != before, nil
	}) // else it goes stale
}
