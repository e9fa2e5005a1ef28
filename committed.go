package rtm

import (
	"errors"
	"slices"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Committed takes the results of Loaded's commits, in their order, and returns
// the requests that leave the loop. All others are in the next cycle.
func (s *Shard) Committed(results []store.Result, now time.Time) []Reply {
	s.far += (now.Sub(s.now) - s.far) / 8
	s.now = now
	for i := range results {
		sp, r := &s.spans[i], &results[i]
		s.count(r.Outcome)
		switch sp.sort {
		case accountSpan:
			s.settle(sp.work, r)
		case lookedSpan:
			s.proved(sp.in, sp.at, r)
		case indexSpan:
			s.indexedAt(sp.in, r)
		}
	}
	s.expireAll()
	s.sweep()
	return s.replies
}

func (s *Shard) count(o store.Outcome) {
	s.Counts.Commits++
	switch o {
	case store.Done:
	case store.Conflict:
		s.Counts.Conflicts++
	case store.InDoubt:
		s.Counts.InDoubt++
	case store.Refused:
		s.Counts.Refused++
	}
}

// settle ends a batch, or sends it round again.
func (s *Shard) settle(w *work, r *store.Result) {
	switch r.Outcome {
	case store.Done:
		s.done(w)
		w.most = 0
		w.rest = s.now.Add(time.Duration(r.Contended) * restUnit)
		return
	case store.Conflict:
		w.adopt(r.Fresh)
		mend(w.batch)
	case store.InDoubt:
		w.fresh, w.extras = false, w.extras[:0]
		for _, in := range w.batch {
			in.doubt = true
		}
		mend(w.batch)
		s.pause(w)
	case store.Refused:
		w.fresh, w.extras = false, w.extras[:0]
		mend(w.batch)
		if !errors.Is(r.Err, store.ErrTooLarge) {
			s.pause(w)
			break
		}
		if w.most = len(w.batch) / 2; w.most == 0 {
			w.batch[0].spoilt, w.batch[0].tooLarge = charging.UnableToComply, true
		}
	}
	for _, in := range w.batch {
		in.broken = true
	}
	s.again(w)
}

// mend has requests decided anew that could not be carried out: that was on an older
// record.
func mend(batch []*Inbound) {
	for _, in := range batch {
		if !in.tooLarge {
			in.spoilt = 0
		}
	}
}

// done lets the answers of a batch leave.
func (s *Shard) done(w *work) {
	w.fresh, w.extras = false, w.extras[:0]
	s.Counts.Batched += uint64(len(w.batch))
	for _, in := range w.batch {
		if in.passes > 0 {
			s.pass(in)
			continue
		}
		in.state = answered
		s.paid(in)
	}
	w.batch = w.batch[:0]
}

// paid notes that one of the commits of in has ended. With the last one in goes on, or
// looks again if something that it rests on was not so any more.
func (s *Shard) paid(in *Inbound) {
	switch in.waits--; {
	case in.waits > 0:
	case in.broken:
		s.rest = s.now.Add(s.jittered())
		in.doubt = in.doubt || in.state == answered // its usage is on record already
		in.recalls, in.disowned = 0, in.disowned[:0]
		s.afresh(in)
	default:
		s.leave(in)
	}
}

// leave sends in on when all is committed that it owes to this node: to another one
// that it owes something to as well, to the account that it was led to, or out of the
// loop.
func (s *Shard) leave(in *Inbound) {
	if _, more := in.owes(); more {
		s.reply(in, Onward)
		return
	}
	switch {
	case in.state == checking:
		s.forward(in, in.Account)
	case in.state == denied && in.doubt: // it may have taken effect where nobody is found now
		s.reply(in, Silent)
	default:
		s.reply(in, Answered)
	}
}

// adopt takes the records that came with a conflict, in the order of the
// commit's writes: the account first, then those beside it that were named.
func (w *work) adopt(fresh []store.Record) {
	w.record, w.fresh = clone(fresh[0]), true
	n := 1
	for i := range w.extras {
		e := &w.extras[i]
		if !e.write && !e.relied {
			continue
		}
		r := clone(fresh[n])
		e.seen, e.stored = r.Version, r.Bytes
		n++
	}
}

func clone(r store.Record) store.Record {
	return store.Record{Version: r.Version, Bytes: append([]byte(nil), r.Bytes...)}
}

// proved notes whether what in rests on is so still. If its account has a commit that
// goes round again, that has its own proofs.
func (s *Shard) proved(in *Inbound, at int, r *store.Result) {
	in.proofs[at].proven = r.Outcome == store.Done
	in.broken = in.broken || !in.proofs[at].proven
	s.paid(in)
}

// indexedAt ends the writing of a session index, or writes again. An account's
// commit that went round again has its own.
func (s *Shard) indexedAt(in *Inbound, r *store.Result) {
	switch {
	case r.Outcome == store.Done:
		in.index.due = false
		s.paid(in)
		return
	case in.broken:
		s.paid(in)
		return
	case r.Outcome == store.Conflict:
		s.share(&in.index, &r.Fresh[0])
	default:
		s.rest = s.now.Add(s.jittered())
	}
	s.owing = append(s.owing, in)
}

// share keeps what the index says of other accounts' sessions. Then the version is not
// the one that the session remembers, so that whatever it writes later conflicts, and
// learns again who else is there. What a repeat finds there already, or an earlier try
// has written, is only proved: a conflict may have been found where it does not last.
func (s *Shard) share(x *indexWrite, was *store.Record) {
	x.seen = was.Version
	value, others := tenant.EncodeEntry(was.Bytes, x.entry, s.now, x.late)
	x.proof = was.Version == x.new || x.repeat && slices.ContainsFunc(tenant.Entries(was.Bytes), x.entry.Covers)
	if x.value = value; !others.IsZero() && !x.proof {
		x.new, x.keep = s.Version(), max(x.keep, others.Sub(s.now))
	}
}

func (s *Shard) reply(in *Inbound, o Outcome) {
	switch o {
	case Answered:
		s.Counts.Results[in.Answer.Result]++
		for i := range in.Answer.Grants {
			s.Counts.Grants[in.Answer.Grants[i].Result]++
		}
	case Busy, Silent:
		s.Counts.BusyReplies++
	case Forward, Onward, NeedPlan, Above:
	}
	s.replies = append(s.replies, Reply{In: in, Outcome: o})
}

// expireAll sends away what waits beyond its deadline.
func (s *Shard) expireAll() {
	for _, w := range s.order {
		w.waiting = s.expire(w.waiting)
	}
	s.seeking = s.expire(s.seeking)
	s.owing = s.expire(s.owing)
}

// turnedAway is how a request leaves that is not answered.
func (in *Inbound) turnedAway() Outcome {
	if in.doubt || in.state == answered {
		return Silent
	}
	return Busy
}

// expire keeps those of list whose deadline has not come.
func (s *Shard) expire(list []*Inbound) []*Inbound {
	kept := list[:0]
	for _, in := range list {
		if s.now.Before(in.Deadline) {
			kept = append(kept, in)
			continue
		}
		s.reply(in, in.turnedAway())
	}
	return kept
}

// sweep forgets accounts for which nothing waits.
func (s *Shard) sweep() {
	kept := s.order[:0]
	for _, w := range s.order {
		if len(w.waiting) > 0 || s.rests(w.rest) {
			kept = append(kept, w)
			continue
		}
		delete(s.queues, w.key.Name)
		*w = work{waiting: w.waiting[:0], batch: w.batch[:0], extras: w.extras[:0]}
		s.free = append(s.free, w)
	}
	clear(s.order[len(kept):])
	s.order = kept
}
