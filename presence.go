package rtm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Times of presence.
const (
	presenceEvery = time.Second
	collectEvery  = 200 * time.Millisecond // what others left for an instance is looked for that often
	presenceStale = 6 * time.Second        // who was not heard of for that long is gone
	peersMax      = 16 << 10               // octets of neighbours in the list of instances: if there are more, all are in records of their own
	peersEach     = 128 << 10              // octets of neighbours in one of these
	peersEvery    = time.Minute            // they are written again, and expire after three times that
	hostsMax      = 1000                   // peer hosts of instances that are remembered
	casTries      = 8
	awaitPoll     = 20 * time.Millisecond
)

// A Presence is what an instance says of itself to the others.
type Presence struct {
	Name      string      `json:"name"`
	PeerHost  string      `json:"peerHost"`
	Diameter  []string    `json:"diameter,omitempty"`
	HTTP      string      `json:"http,omitempty"`
	Since     time.Time   `json:"since"`
	Seen      time.Time   `json:"seen"`                 // by the store's clock
	Machine   string      `json:"machine,omitempty"`    // where it runs; empty: nobody knows
	Peers     []Neighbour `json:"neighbours,omitempty"` // who is connected to it; if there are many, some of them
	More      int         `json:"more,omitempty"`       // records that list them all, then
	Leaving   bool        `json:"leaving,omitempty"`
	Catalogue string      `json:"catalogue,omitempty"` // the version of its catalogue
	Requests  int64       `json:"requests"`            // decided so far
	Busy      int64       `json:"busy"`                // nanoseconds spent deciding them
	Trips     int64       `json:"trips,omitempty"`     // to the store and back, of the loop's commits so far
	Waited    int64       `json:"waited,omitempty"`    // nanoseconds of these trips
	Offset    int64       `json:"offset,omitempty"`    // nanoseconds that the store's clock is ahead of its machine's

	Demand map[string]float64 `json:"demand,omitempty"` // sessions and events a second that tenants with a rate want to begin there

	Level uint32      `json:"level,omitempty"` // the highest store level that it knows; zero: 1
	Audit AuditCounts `json:"audit,omitzero"`
	Figures
}

// A Neighbour is a peer that is connected to an instance. It tells the others
// which notices an instance can deliver.
type Neighbour struct {
	Host     string `json:"host"`
	Realm    string `json:"realm"`
	Document string `json:"document,omitempty"` // Peer.Name of the document that let it in; empty: it was learned, and serves all tenants
	Relays   bool   `json:"relays,omitempty"`   // it was learned, and passes on messages of others
}

// Reaches reports whether a notice may go over the connection of b, whose
// document is p, on that way to its client. Who does not serve the tenant of the account
// gets none, whatever it calls itself.
func (b *Neighbour) Reaches(p *tenant.Peer, account store.Key, due *charging.Due, way Toward) bool {
	owner, _ := tenant.AccountOf(account)
	switch {
	case p == nil && b.Document != "", p != nil && !p.Serves(owner):
		return false
	case way > Direct && (way == Relayed) == strings.EqualFold(b.Host, string(due.Via)), way == Learned && due.Tries > learnedTries:
		return false
	case way == Direct:
		return strings.EqualFold(b.Host, string(due.Host)) && strings.EqualFold(b.Realm, string(due.Realm))
	case p == nil:
		return b.Relays
	}
	return p.Leads(string(due.Realm))
}

// octets is how many it takes up in a record.
func (b *Neighbour) octets() int {
	body, _ := json.Marshal(b) // strings and a bool
	return len(body) + 1
}

// few are as many of list as fit into so many octets, but one at least.
func few(list []Neighbour, octets int) []Neighbour {
	for i := range list {
		if octets -= list[i].octets(); octets < 0 && i > 0 {
			return list[:i]
		}
	}
	return list
}

// Hosts lists the names of list, each once.
func Hosts(list []Neighbour) (hosts []string) {
	for i := range list {
		hosts = append(hosts, list[i].Host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// A heard is what the list of instances says of one. What another version has
// written there goes back as it was.
type heard struct {
	Presence
	as json.RawMessage // nil: as Presence has it
}

// UnmarshalJSON implements json.Unmarshaler.
func (h *heard) UnmarshalJSON(b []byte) error {
	h.as = slices.Clone(b)
	return json.Unmarshal(b, &h.Presence)
}

// MarshalJSON implements json.Marshaler.
func (h heard) MarshalJSON() ([]byte, error) {
	if h.as != nil {
		return h.as, nil
	}
	return json.Marshal(h.Presence)
}

// Figures are what an instance counted at its door since it began, for those who
// watch it. All of it is written every second: it is little, and stays so.
type Figures struct {
	Answered    [4]int64 `json:"answered"`       // CCRs, by CC-Request-Type: initial, update, termination, event
	Late        []int64  `json:"late,omitempty"` // of these, those that took no longer than each of Latencies, and the rest
	Refused     int64    `json:"refused,omitempty"`
	InFlight    int64    `json:"inFlight,omitempty"`
	Connections int      `json:"connections,omitempty"`
}

// Latencies are the upper bounds of the buckets that answers are counted in.
// Instances of several versions compare them: they stay as they are.
var Latencies = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond,
	20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2500 * time.Millisecond,
}

var presenceKey = store.Key{Partition: tenant.Partition("presence"), Kind: tenant.KindPresence, Name: "instances"}

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
		all := n.Connected()
		if me.Peers = few(all, peersMax); len(me.Peers) < len(all) {
			var err error
			if me.More, err = n.listPeers(ctx, all); err != nil {
				return err
			}
		}
	}
	if n.Figures != nil {
		me.Figures = n.Figures()
	}
	me.Name, me.Since = n.Name, n.since
	me.Requests, me.Busy = n.Load.Requests.Load(), n.Load.Busy.Load()
	me.Trips, me.Waited, me.Offset = n.Load.Trips.Load(), n.Load.Waited.Load(), int64(n.Offset())
	me.Leaving, me.Catalogue = n.leaving.Load(), n.Catalogue().Version()
	me.Level, me.Audit = n.Knows, n.Audited()
	me.Demand = n.demand.measure(n.asked(), time.Now())
	me.Seen = n.Now()
	list, err := swap(ctx, n.Store, presenceKey, n.version, 0, func(all *[]heard) (bool, error) {
		*all = slices.DeleteFunc(*all, func(p heard) bool {
			return p.Name == me.Name || me.Seen.Sub(p.Seen) > presenceStale
		})
		*all = append(*all, heard{Presence: me})
		slices.SortFunc(*all, func(a, b heard) int { return a.Since.Compare(b.Since) })
		return true, nil
	})
	if err == nil {
		all := make([]Presence, len(list))
		for i := range list {
			all[i] = list[i].Presence
		}
		n.others.Store(&all)
		n.meet(all)
	}
	return err
}

func peersKey(instance string, i int) store.Key {
	return store.Key{Partition: tenant.Partition(instance), Kind: tenant.KindPresence, Name: fmt.Sprintf("peers/%s/%d", instance, i)}
}

// listPeers writes the records that list all neighbours, if they have changed, and
// returns how many records there are.
func (n *Instance) listPeers(ctx context.Context, all []Neighbour) (records int, err error) {
	if slices.Equal(all, n.listed) && time.Since(n.listedAt) < peersEvery {
		return n.listedIn, nil
	}
	for rest := all; len(rest) > 0; records++ {
		part := few(rest, peersEach)
		rest = rest[len(part):]
		_, err := swap(ctx, n.Store, peersKey(n.Name, records), n.version, 3*peersEvery, func(list *[]Neighbour) (bool, error) {
			*list = part
			return true, nil
		})
		if err != nil {
			return 0, err
		}
	}
	n.listed, n.listedIn, n.listedAt = slices.Clone(all), records, time.Now()
	return records, nil
}

// claim refuses to start beside a live instance of the same name or peer host:
// gateways would take the two for one.
func (n *Instance) claim(ctx context.Context) error {
	_, err := swap(ctx, n.Store, presenceKey, n.version, 0, func(all *[]Presence) (bool, error) {
		for _, p := range *all {
			if me := &n.Presence; me.Machine != "" && me.Machine == p.Machine && slices.Equal(me.Diameter, p.Diameter) {
				continue // it was killed: we hold its addresses on that machine now
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

// Live reads which instances are alive on a store, the oldest first, for one who
// is none of them.
func Live(ctx context.Context, s store.Store) ([]Presence, error) {
	facts, err := s.Facts(ctx)
	if err != nil {
		return nil, err
	}
	recs, err := s.Load(ctx, []store.Key{presenceKey})
	if err != nil || len(recs[0].Bytes) == 0 {
		return nil, err
	}
	var all []Presence
	if err := json.Unmarshal(recs[0].Bytes, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", presenceKey, err)
	}
	return slices.DeleteFunc(all, func(p Presence) bool { return facts.Clock.Sub(p.Seen) > presenceStale }), nil
}

// Known reports whether host is the peer host of an instance of the cluster: of
// one that lives, or that was seen here before it went. What a gateway addresses
// to it, any other answers.
func (n *Instance) Known(host []byte) bool {
	_, ok := n.hosts.Load(strings.ToLower(string(host)))
	return ok
}

// meet remembers the peer hosts of the instances that were heard of.
func (n *Instance) meet(all []Presence) {
	for i := range all {
		if h := strings.ToLower(all[i].PeerHost); h != "" && n.met < hostsMax {
			if _, was := n.hosts.LoadOrStore(h, true); !was {
				n.met++
			}
		}
	}
}

// Rank is this instance's place among the live ones, and how many there are.
func (n *Instance) Rank() (place, of int) {
	all := n.Instances()
	i := slices.IndexFunc(all, func(p Presence) bool { return p.Name == n.Name })
	return max(i, 0), max(len(all), 1)
}

// eldest reports whether this instance has been there for longest, of those that
// do not leave: it does what is to be done once for all.
func (n *Instance) eldest() bool {
	all := n.Instances()
	i := slices.IndexFunc(all, func(p Presence) bool { return !p.Leaving })
	return i >= 0 && all[i].Name == n.Name
}

// PeersOf lists the Origin-Hosts that are connected to an instance, as far as it
// has told.
func (n *Instance) PeersOf(ctx context.Context, p *Presence) []string {
	return Hosts(append(slices.Clip(p.Peers), p.more(ctx, n.Store)...))
}

// attend keeps presence up to date until the instance stops.
func (n *Instance) attend() {
	defer n.done.Done()
	t, c := time.NewTicker(presenceEvery), time.NewTicker(collectEvery)
	defer t.Stop()
	defer c.Stop()
	for {
		work := n.round
		select {
		case <-n.stop:
			return
		case <-n.outbox:
			work = n.route
		case <-c.C:
			work = n.collect
		case <-n.news:
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		work(ctx)
		cancel()
	}
}

// round tells of this instance, and learns of the others.
func (n *Instance) round(ctx context.Context) {
	if err := n.present(ctx); err != nil {
		n.Log.Debug("presence is not up to date", "error", err)
	} else {
		n.settle(ctx)
	}
}

// collect sends what others left for this instance.
func (n *Instance) collect(ctx context.Context) {
	if n.Notify != nil {
		n.notices.Collect(ctx)
	}
}

// dispatch sends a notice, or has it routed at once.
func (n *Instance) dispatch(account store.Key, due charging.Due) {
	if n.Notify != nil && !n.notices.Dispatch(account, due) {
		n.post()
	}
}

// PassOn hands a notice, which no connection here leads to the gateway of, to an
// instance that has not tried.
func (n *Instance) PassOn(p Parcel) {
	n.notices.PassOn(p)
	n.post()
}

// post has the notices that wait routed at once.
func (n *Instance) post() {
	select {
	case n.outbox <- struct{}{}:
	default:
	}
}

// route hands the notices that wait to where their gateways are.
func (n *Instance) route(ctx context.Context) {
	if err := n.notices.Route(ctx, n.Instances()); err != nil {
		n.Log.Debug("notices did not reach another instance", "error", err)
	}
}

// Await waits until every live instance has the catalogue that this one reads
// now, and reports whether they do before ctx ends.
func (n *Instance) Await(ctx context.Context) bool {
	n.reload()
	want := n.Catalogue().Version()
	for {
		recs, err := n.Store.Load(ctx, []store.Key{presenceKey})
		if ctx.Err() != nil {
			return false
		}
		var all []Presence
		if err == nil && json.Unmarshal(recs[0].Bytes, &all) == nil && !slices.ContainsFunc(all, func(p Presence) bool {
			return p.Name != n.Name && p.Catalogue != want && n.Now().Sub(p.Seen) <= presenceStale
		}) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(awaitPoll):
		}
	}
}

// retire takes this instance off the list.
func (n *Instance) retire() {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	swap(ctx, n.Store, presenceKey, n.version, 0, func(all *[]heard) (bool, error) {
		before := len(*all)
		*all = slices.DeleteFunc(*all, func(p heard) bool { return p.Name == n.Name })
		return len(*all) != before, nil
	}) // else it goes stale
}
