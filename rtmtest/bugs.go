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

// Bugs are mistakes that can be planted in a simulation, to see it find them.
// Most are made in what surrounds the loop here: the store's model, its client,
// the instance. One needs a hook in the loop, rtm.Shard.Planted.
var Bugs = []string{
	"doubt-is-done",                // a commit in doubt is taken for done
	"version-unchecked",            // the store does not compare versions
	"counter-version",              // versions count up, and what a commit in doubt has written is kept
	"hint-kept-in-doubt",           // what a commit in doubt would have written is taken for the record
	"wait-elsewhere",               // WAIT on another connection than the commits'
	"ack-one-of-two",               // one replica is enough
	"answer-repeat-before-durable", // what only checks is answered before the running sync
	"read-not-fenced",              // what only checks is answered without a write
	"rearm-unchecked",              // a conflict moves the wake-up time all the same
	"remove-on-claim",              // a claimed wake-up is gone
	"ship-before-durable",          // events are read, and cursors moved, before that is durable
	"step-owns-after-panic",        // what a panic left of an account is used further
	"instance-clock",               // decisions are by the instance's date
	"index-after-answer",           // the session index is written when the answer has left
	"closed-session-dropped",       // closed sessions are not kept
	"overtaken-without-grant",      // a message that came behind a higher number is granted nothing
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

// plant takes away what an overtaken message wants, with a planted bug: as if a
// higher number had named its rating groups too.
func (n *instance) plant(in *rtm.Inbound) {
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
	if n.m.Bug != "index-after-answer" {
		return cs
	}
	cs = slices.Clone(cs)
	for i := range cs {
		w := cs[i].Writes[0]
		if w.Key.Kind != tenant.KindSession {
			continue
		}
		late := copied(&cs[i])
		n.later(200*time.Millisecond, func() { n.client.commit([]store.Commit{late}, func([]store.Result) {}) })
		cs[i] = store.Commit{Writes: []store.Write{{Op: store.Check, Key: store.Key{Partition: w.Key.Partition, Kind: w.Key.Kind, Name: "nobody's"}}}}
	}
	return cs
}
