package rtmtest

import (
	"encoding/binary"
	"slices"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// A Bug is a mistake that can be planted in a simulation, and what a failure that
// shows it begins with: it was found for what it is, and not for something else.
type Bug struct {
	Name string
	By   []string
}

// Bugs are mistakes that can be planted in a simulation, to see it find them.
// Most are made in what surrounds the loop here: the store's model, its client,
// the instance. One needs a hook in the loop, rtm.Shard.Planted.
var Bugs = []Bug{
	{"doubt-is-done", []string{"I6"}},                // a commit in doubt is taken for done
	{"version-unchecked", []string{"I1, I3", "I6"}},  // the store does not compare versions
	{"counter-version", []string{"I1, I3", "I6"}},    // versions count up, and what a commit in doubt has written is kept
	{"hint-kept-in-doubt", []string{"I6", "money"}},  // what a commit in doubt would have written is taken for the record
	{"wait-elsewhere", []string{"I6"}},               // WAIT on another connection than the commits'
	{"ack-one-of-two", []string{"I6", "I10"}},        // one replica is enough
	{"answer-repeat-before-durable", []string{"I6"}}, // what only checks is answered before the running sync
	{"read-not-fenced", []string{"I10"}},             // what only checks is answered without a write
	{"rearm-unchecked", []string{"I12"}},             // a conflict moves the wake-up time all the same
	{"remove-on-claim", []string{"I12"}},             // a claimed wake-up is gone
	{"ship-before-durable", []string{"I8"}},          // events are read, and cursors moved, before that is durable
	{"step-owns-after-panic", []string{"money"}},     // what a panic left of an account is used further
	{"instance-clock", []string{"I9"}},               // decisions are by the instance's date
	{"index-after-answer", []string{"I10"}},          // the session index is written when the answer has left
	{"closed-session-dropped", []string{"I7"}},       // closed sessions are not kept
	{"overtaken-without-grant", []string{"§2"}},      // a message that came behind a higher number is granted nothing
	{"one-wait-for-all", []string{"I8"}},             // what one cluster has proved, the others have too: of what names several, record files' cursors
	{"reply-twice", []string{"I6"}},                  // a request leaves the loop twice
	{"reply-lost", []string{"I12"}},                  // … or never
	{"doubt-is-busy", []string{"I6"}},                // what may have taken effect is answered 3004
	{"notice-lost", []string{"I12"}},                 // notices are decided, and not sent
	{"price-of-today", []string{"money"}},            // what was granted is charged by the newest version of the plan
	{"usage-halved", []string{"money"}},              // half of what was used is charged
	{"content-ignored", []string{"§2"}},              // a number alone makes a repeat
	{"hold-too-small", []string{"I2"}},               // a session holds less than is reserved for it
	{"hold-stays", []string{"I2", "I5"}},             // a session ends, and something stays reserved: I2 sees it at once, I5 when all is over
	{"grant-beyond-limit", []string{"I4"}},           // more is reserved than there is
	{"tenant-unchecked", []string{"I11"}},            // a peer may name everybody's subscribers
}

// count numbers the versions of accounts' records, with a planted bug.
func (k *client) count(cs []store.Commit) {
	if k.n.m.Bug != "counter-version" {
		return
	}
	for i := range cs {
		for j := range cs[i].Writes {
			if w := &cs[i].Writes[j]; w.Op == store.Put && w.Key.Kind == tenant.KindAccount {
				binary.BigEndian.PutUint64(w.New[:], binary.BigEndian.Uint64(w.Seen[:])+1)
			}
		}
	}
}

// inDoubt are the results of a batch of which nothing was heard.
func (k *client) inDoubt(cs []store.Commit) []store.Result {
	switch k.n.m.Bug {
	case "doubt-is-done":
		return results(len(cs), store.Done)
	case "hint-kept-in-doubt", "counter-version":
		for i := range cs {
			if w := &cs[i].Writes[0]; w.Op == store.Put && w.Key.Kind == tenant.KindAccount {
				k.doubtful = map[store.Key]*store.Record{w.Key: {Version: w.New, Bytes: w.Bytes}}
			}
		}
	}
	return results(len(cs), store.InDoubt)
}

// trust takes what is in doubt for done, with a planted bug, if another cluster's
// commits are.
func (r *router) trust(rs []store.Result) {
	is := func(o store.Outcome) func(r store.Result) bool {
		return func(r store.Result) bool { return r.Outcome == o }
	}
	if r.n.m.Bug != "one-wait-for-all" || !slices.ContainsFunc(rs, is(store.Done)) {
		return
	}
	for i := range rs {
		if rs[i].Outcome == store.InDoubt {
			rs[i] = store.Result{Outcome: store.Done}
		}
	}
}

// remembered is recs, with a planted bug: what a commit in doubt has left.
func (k *client) remembered(keys []store.Key, recs []store.Record) []store.Record {
	for i := range keys {
		if r := k.doubtful[keys[i]]; r != nil {
			recs[i] = *r
		}
	}
	return recs
}

// trusts reports whether a commit is not even sent, with a planted bug: it only
// checks what a commit in doubt has left.
func (k *client) trusts(c *store.Commit) bool {
	w := &c.Writes[0]
	r := k.doubtful[w.Key]
	if r == nil {
		return false
	}
	if k.n.m.Bug == "hint-kept-in-doubt" && checksOnly(c) && w.Seen == r.Version {
		return true
	}
	delete(k.doubtful, w.Key)
	return false
}

// spoil is what leaves a shard, with a planted bug.
func (n *instance) spoil(replies []rtm.Reply) []rtm.Reply {
	switch n.m.Bug {
	case "reply-twice", "reply-lost", "doubt-is-busy", "notice-lost":
	default:
		return replies
	}
	replies = slices.Clone(replies)
	for i := range replies {
		r := &replies[i]
		switch last := i == len(replies)-1; {
		case n.m.Bug == "doubt-is-busy" && r.Outcome == rtm.Silent:
			r.Outcome = rtm.Busy
		case n.m.Bug == "notice-lost":
			r.In.Notices = nil
		case n.m.Bug == "reply-twice" && last && r.Outcome == rtm.Answered && n.m.versions%20 == 0:
			return append(replies, *r)
		case n.m.Bug == "reply-lost" && last && r.Outcome == rtm.Answered && n.m.versions%20 == 0:
			return replies[:i]
		}
	}
	return replies
}

// plant takes away what an overtaken message wants, with a planted bug: as if a
// higher number had named its rating groups too.
func (n *instance) plant(in *rtm.Inbound) {
	switch n.m.Bug {
	case "usage-halved":
		for i := range in.Request.Asks {
			in.Request.Asks[i].Used.Octets /= 2
		}
	case "content-ignored":
		in.Request.Content = uint64(in.Request.Number) | 1
	}
	if n.m.Bug != "overtaken-without-grant" || in.Request.Kind != charging.Update {
		return
	}
	to, ok := in.Token.(*taken)
	if !ok {
		return
	}
	for _, o := range to.s.messages {
		if o.number > to.number && o.answer != nil {
			for i := range in.Request.Asks {
				in.Request.Asks[i].Wants = false
			}
		}
	}
}

// planted is cs, with a planted bug: without the entries of the session index,
// which are written when the answer has left.
func (n *instance) planted(cs []store.Commit) []store.Commit {
	switch n.m.Bug {
	case "hold-too-small", "hold-stays", "grant-beyond-limit":
		for i := range cs {
			n.m.miscounted(&cs[i])
		}
		return cs
	case "index-after-answer":
	default:
		return cs
	}
	cs = slices.Clone(cs)
	for i := range cs {
		w := cs[i].Writes[0]
		if w.Key.Kind != tenant.KindSession {
			continue
		}
		late := copied(&cs[i])
		n.later(200*time.Millisecond, func() { n.store.commit([]store.Commit{late}, func([]store.Result) {}) })
		cs[i] = store.Commit{Writes: []store.Write{{Op: store.Check, Key: store.Key{Partition: w.Key.Partition, Kind: w.Key.Kind, Name: "nobody's"}}}}
	}
	return cs
}

// miscounted changes what a commit of an account reserves, and what its entries say of
// it, so that nothing but the check of the planted bug can tell.
func (m *Sim) miscounted(c *store.Commit) {
	w := &c.Writes[0]
	var a charging.Account
	if w.Op != store.Put || w.Key.Kind != tenant.KindAccount || a.Decode(w.Bytes) != nil || a.DecodeAll() != nil {
		return
	}
	for i := range c.Events {
		var e charging.Entry
		if e.Decode(c.Events[i]) != nil {
			return
		}
		for j := range e.Movements {
			mv := &e.Movements[j]
			k := slices.IndexFunc(a.Buckets, func(b charging.Bucket) bool { return b.Number == mv.Bucket })
			if k >= 0 && m.miscount(&a, &a.Buckets[k], &e, mv) {
				w.Bytes, c.Events[i] = a.Append(nil), e.Append(nil)
				return
			}
		}
	}
}

// miscount plants the bug at one movement, if it can be there.
func (m *Sim) miscount(a *charging.Account, b *charging.Bucket, e *charging.Entry, mv *charging.Movement) bool {
	hold := func() *charging.Hold {
		for i := range a.Sessions {
			for j := range a.Sessions[i].Groups {
				for k := range a.Sessions[i].Groups[j].Holds {
					if h := &a.Sessions[i].Groups[j].Holds[k]; h.Bucket == b.Number && h.Amount > 1 {
						return h
					}
				}
			}
		}
		return nil
	}()
	switch m.Bug {
	case "hold-too-small":
		if hold == nil || mv.Held == 0 {
			return false
		}
		hold.Amount--
	case "hold-stays":
		if e.Sort != charging.FinalRecord || mv.Released == 0 {
			return false
		}
		b.Reserved++
		mv.Reserve++
	case "grant-beyond-limit":
		if hold == nil || mv.Held == 0 {
			return false
		}
		n := b.Available() + 1
		hold.Amount, b.Reserved = hold.Amount+n, b.Reserved+n
		mv.Held, mv.Reserve, mv.Available = mv.Held+n, mv.Reserve+n, mv.Available-n
	}
	return true
}

// mayName are the tenants whose subscribers the gateway may name, with a planted bug.
func (g *gateway) mayName() []string {
	if g.m.Bug == "tenant-unchecked" {
		return nil
	}
	return g.tenants
}
