package rtmtest

import (
	"slices"
	"time"

	"rtm/store"
)

// A router is an instance's way to the store: a client of each of its clusters. What
// lies on several it asks for at each of them alone, at once, as the driver of
// production and store/redis do: one that does not answer holds up its own.
type router struct {
	n       *instance
	clients []*client
}

func newRouter(n *instance) *router {
	r := &router{n: n}
	n.store = r
	for _, c := range n.m.clusters {
		r.clients = append(r.clients, newClient(n, c))
	}
	r.compare()
	return r
}

// behind is an instance that takes a node for a master which is none any more: that
// one, or one of those after it. If there is none, it is that one.
func (m *Sim) behind(i int) *instance {
	for j := range m.instances {
		n := m.instances[(i+j)%len(m.instances)]
		if slices.ContainsFunc(n.store.clients, func(k *client) bool { return n.ready && k.node != k.c.master() }) {
			return n
		}
	}
	return m.instances[i]
}

// compare learns how far the masters' clocks are apart: the slowest is the store's.
func (r *router) compare() {
	if len(r.clients) < len(r.n.m.clusters) {
		return
	}
	slowest := r.clients[0].node.skew
	for _, k := range r.clients[1:] {
		slowest = min(slowest, k.node.skew)
	}
	for _, k := range r.clients {
		k.ahead[k.node.id] = k.node.skew - slowest
	}
}

// at is the client of a partition's cluster.
func (r *router) at(p store.Partition) *client { return r.clients[r.n.m.clusterOf(p).index] }

// A part is what of a list is a matter of one client: the places in the list.
type part struct {
	*client
	of []int
}

// parts sorts a list of n by whose matter it is.
func (r *router) parts(n int, where func(i int) store.Partition) (ps []part) {
	of := make([][]int, len(r.clients))
	for i := range n {
		c := r.n.m.clusterOf(where(i)).index
		of[c] = append(of[c], i)
	}
	for c := range of {
		if len(of[c]) > 0 {
			ps = append(ps, part{r.clients[c], of[c]})
		}
	}
	return ps
}

// load reads records. nil: a cluster that has one of them did not answer.
func (r *router) load(keys []store.Key, done func([]store.Record)) {
	if len(r.clients) == 1 {
		r.clients[0].load(keys, done)
		return
	}
	ps := r.parts(len(keys), func(i int) store.Partition { return keys[i].Partition })
	if len(ps) == 1 {
		ps[0].load(keys, done)
		return
	}
	recs, left, failed := make([]store.Record, len(keys)), len(ps), false
	for _, p := range ps {
		some := make([]store.Key, len(p.of))
		for j, i := range p.of {
			some[j] = keys[i]
		}
		p.load(some, func(found []store.Record) {
			if found == nil {
				failed = true
			} else {
				for j, i := range p.of {
					recs[i] = found[j]
				}
			}
			switch left--; {
			case left > 0:
			case failed:
				done(nil)
			default:
				done(recs)
			}
		})
	}
}

// commit sends to each cluster what is its own, with a WAIT of its own.
func (r *router) commit(cs []store.Commit, done func([]store.Result)) {
	if len(r.clients) == 1 {
		r.clients[0].commit(cs, done)
		return
	}
	ps := r.parts(len(cs), func(i int) store.Partition { return cs[i].Writes[0].Key.Partition })
	rs, left := make([]store.Result, len(cs)), len(ps)
	for _, p := range ps {
		some := make([]store.Commit, len(p.of))
		for j, i := range p.of {
			some[j] = cs[i]
		}
		p.commit(some, func(found []store.Result) {
			for j, i := range p.of {
				rs[i] = found[j]
			}
			if left--; left == 0 {
				r.trust(rs)
				done(rs)
			}
		})
	}
}

// due claims wake-ups at all clusters. What one gave is told also if another failed;
// then ok is false.
func (r *router) due(n int, lease time.Duration, done func(due []store.Due, next, now time.Time, ok bool)) {
	if len(r.clients) == 1 {
		r.clients[0].due(n, lease, done)
		return
	}
	var due []store.Due
	var next, now time.Time
	left, whole := len(r.clients), true
	for _, k := range r.clients {
		k.due(n, lease, func(some []store.Due, soonest, its time.Time, ok bool) {
			due, whole = append(due, some...), whole && ok
			next, now = earlier(next, soonest), earlier(now, its)
			if left--; left == 0 {
				for _, d := range due { // whoever claimed it looked at another clock
					if d.Wake.After(now) {
						now = d.Wake
					}
				}
				done(due, next, now, whole)
			}
		})
	}
}

// earlier is the earlier of two times, of which one may be none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (r *router) events(p store.Partition, after uint64, n int, done func(evs []store.Event, ok bool)) {
	r.at(p).events(p, after, n, done)
}

func (r *router) trim(p store.Partition, upTo uint64, done func(ok bool)) {
	r.at(p).trim(p, upTo, done)
}

// askTime learns the store's time: ok, if any cluster has told it.
func (r *router) askTime(done func(ok bool)) {
	left, told := len(r.clients), false
	for _, k := range r.clients {
		k.askTime(func(ok bool) {
			told = told || ok
			if left--; left == 0 {
				done(told)
			}
		})
	}
}

func (r *router) keepLooking() {
	for _, k := range r.clients {
		k.keepLooking()
	}
}

// scan walks over one cluster after the other. A cursor begins with which it is.
func (r *router) scan(cursor []byte, most int, done func(keys []store.Key, recs []store.Record, next []byte, ok bool)) {
	i := 0
	if len(cursor) > 0 {
		i, cursor = int(cursor[0]), cursor[1:]
	}
	r.clients[i].scan(cursor, most, func(keys []store.Key, recs []store.Record, next []byte, ok bool) {
		switch {
		case !ok:
		case next != nil:
			next = append([]byte{byte(i)}, next...)
		case i+1 < len(r.clients):
			next = []byte{byte(i + 1)}
		}
		done(keys, recs, next, ok)
	})
}
