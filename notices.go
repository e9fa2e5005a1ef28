package rtm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Bounds of notices.
const (
	inboxMax  = 256  // notices that wait for one instance
	outboxMax = 4096 // notices that wait to be handed to others
)

// Notices bring a RAR or ASR to the instance that its gateway is connected to,
// by a record in the store that each instance empties. One that is lost on the
// way is sent again by its session's timer. Nothing here waits but for the store:
// driver.go and the simulation call the same.
type Notices struct {
	Name    string // of this instance
	Store   store.Store
	Version func() store.Version
	// Notify is Config.Notify.
	Notify func(p Parcel, way Toward) bool
	// Lost is told how many notices found no room; nil: nobody asks.
	Lost func(many int)
	// Catalogue tells whom the peers of other instances serve; nil: all are learned.
	Catalogue func() *tenant.Catalogue

	mu      sync.Mutex // guards waiting
	waiting []Parcel
}

// Toward is a way to the client of a session.
type Toward uint8

// The ways, the best first.
const (
	Direct  Toward = iota // its own connection
	Learned               // the relay that its last message came over, as long as there is hope
	Relayed               // any other relay that may lead there
	Again                 // the relay that its last message came over after all
	ways                  // how many there are
)

// learnedTries is how often a notice goes the way that its session came, when no answer
// comes and there is another.
const learnedTries = 2

// A Parcel is a notice on its way to the instance that is connected to the
// client.
type Parcel struct {
	Account store.Key    `json:"account"`
	Due     charging.Due `json:"due"`
	Tried   []string     `json:"tried,omitempty"` // names of the instances whose relays have all said that they do not lead there
}

func parcelsKey(instance string) store.Key {
	return store.Key{Partition: tenant.Partition(instance), Kind: tenant.KindPresence, Name: "parcels/" + instance}
}

// Dispatch sends a notice over the gateway's own connection here. False: there is
// none, and it waits for Route; if too many do, it is lost.
func (n *Notices) Dispatch(account store.Key, due charging.Due) bool {
	p := Parcel{Account: account, Due: due}
	if n.Notify(p, Direct) {
		return true
	}
	n.put(p)
	return false
}

// PassOn has Route bring a notice to another instance, none of those that have tried:
// no connection here leads to its gateway.
func (n *Notices) PassOn(p Parcel) {
	p.Tried = append(slices.Clip(p.Tried), n.Name)
	n.put(p)
}

// put has a notice wait for Route.
func (n *Notices) put(p Parcel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting) < outboxMax {
		n.waiting = append(n.waiting, p)
	} else {
		n.lose(1)
	}
}

func (n *Notices) lose(many int) {
	if n.Lost != nil && many > 0 {
		n.Lost(many)
	}
}

func (n *Notices) take() []Parcel {
	n.mu.Lock()
	defer n.mu.Unlock()
	parcels := n.waiting
	n.waiting = nil
	return parcels
}

// Route hands on what waits: to an instance that the gateway is connected to, else over
// the relay that its session came over, else over another one; each here, or to an
// instance that has it. all is who lives, as far as is known: of several the one that
// was heard of last.
func (n *Notices) Route(ctx context.Context, all []Presence) error {
	others := slices.DeleteFunc(slices.Clone(all), func(p Presence) bool { return p.Name == n.Name })
	slices.SortStableFunc(others, func(a, b Presence) int { return b.Seen.Compare(a.Seen) })
	for i := range others {
		others[i].Peers = append(slices.Clip(others[i].Peers), others[i].more(ctx, n.Store)...)
	}
	to := make(map[string][]Parcel)
	for _, p := range n.take() {
		for way := range ways {
			if way > Direct && !slices.Contains(p.Tried, n.Name) && n.Notify(p, way) {
				break
			}
			if i := slices.IndexFunc(others, func(o Presence) bool { return !slices.Contains(p.Tried, o.Name) && n.reaches(o.Peers, &p, way) }); i >= 0 {
				to[others[i].Name] = append(to[others[i].Name], p)
				break
			}
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(to)) {
		parcels, left := to[name], 0
		_, err := swap(ctx, n.Store, parcelsKey(name), n.Version, time.Minute, func(all *[]Parcel) (bool, error) {
			room := max(inboxMax-len(*all), 0)
			taken := min(len(parcels), room)
			*all, left = append(*all, parcels[:taken]...), len(parcels)-taken
			return room > 0, nil
		})
		if err != nil {
			left = len(parcels)
			errs = append(errs, fmt.Errorf("notices to %s: %w", name, err))
		}
		n.lose(left)
	}
	return errors.Join(errs...)
}

// reaches reports whether one of list can be sent that notice.
func (n *Notices) reaches(list []Neighbour, p *Parcel, way Toward) bool {
	var cat *tenant.Catalogue
	if n.Catalogue != nil {
		cat = n.Catalogue()
	}
	return slices.ContainsFunc(list, func(b Neighbour) bool {
		return b.Reaches(cat.PeerNamed(b.Document), p.Account, &p.Due, way)
	})
}

// Collect sends the notices that others left for this instance.
func (n *Notices) Collect(ctx context.Context) {
	var mine []Parcel
	_, err := swap(ctx, n.Store, parcelsKey(n.Name), n.Version, time.Minute, func(all *[]Parcel) (bool, error) {
		mine, *all = *all, nil
		return len(mine) > 0, nil
	})
	if err != nil {
		return
	}
	for _, p := range mine {
		for way := Direct; way < ways && !n.Notify(p, way); way++ {
		}
	}
}

// more are the neighbours of an instance whose number does not fit into the list of
// instances, as far as they can be read.
func (p *Presence) more(ctx context.Context, s store.Store) (all []Neighbour) {
	if p.More == 0 {
		return nil
	}
	keys := make([]store.Key, p.More)
	for i := range keys {
		keys[i] = peersKey(p.Name, i)
	}
	recs, err := s.Load(ctx, keys)
	if err != nil {
		return nil
	}
	for _, r := range recs {
		var part []Neighbour
		if json.Unmarshal(r.Bytes, &part) == nil {
			all = append(all, part...)
		}
	}
	return all
}
