package rtm

import (
	"errors"
	"slices"
	"time"

	"rtm/charging"
	"rtm/store"
	"rtm/tenant"
)

// Times and bounds of an audit.
const (
	auditEvery   = 5 * time.Minute        // a walk begins no sooner after the last one began
	auditPause   = 250 * time.Millisecond // between two parts of a walk, roughly
	auditCalm    = TickDeadline           // for that long no timer may have been late, before one counts as lost
	auditConfirm = 5 * time.Second        // … and an account is looked at again after that
	auditDrop    = 2 * time.Minute        // … unless timers are late all that time: then the next walk sees
	auditOthers  = 10                     // other records pass that much faster than accounts
	eventsMax    = 1000                   // of one partition
	suspectsMax  = 1000                   // accounts that are looked at again at once
	reportedMax  = 10_000                 // accounts of one walk that are known to be reported
)

// An Auditor walks over all accounts, slowly, and has those whose record does not
// hold looked at again by the loop (charging.Audit), which puts it on record, sets
// the account's timer anew, and changes nothing else. It is stepped like a Shard:
//
//	cursor, n, ok := a.Part(now)        what is to be scanned
//	ins, found := a.Scanned(…)
//	p, n, ok := a.Stream(now)           whose events are to be read, behind it
//	keys := a.Read(events)
//	ins := a.Linked(…)
//	keys := a.Again(now)                what is to be loaded once more
//	ins, found := a.Loaded(…)
//	found := a.Judged(ins, outcomes)    ins are for the loop
//
// Beside the records it reads the events that no follower has taken away yet, up
// to eventsMax of a partition: an account's are to follow each other without a gap,
// and to lead to what its record has.
//
// An account is reported once in a walk. One whose deadline has passed is only
// reported if it is still so some seconds later, under the same version, while no
// timer anywhere is late: after an outage many are, and none is lost.
type Auditor struct {
	Rate  int           // accounts a second; zero: none
	Every time.Duration // zero: auditEvery

	next     time.Time
	cursor   []byte
	began    time.Time // of this walk; zero: none has begun
	scanned  bool      // all records: events and suspects are left
	stream   int       // the partition whose events are next; store.Partitions: all are read
	links    []link    // of the events that Read has taken
	seen     int64     // accounts in it
	reported map[store.Key]bool
	suspects []suspect
	again    []store.Key // of the suspects that Again has returned

	account charging.Account
	entry   charging.Entry
	Counts  AuditCounts
}

// AuditCounts is what an auditor has found since it began.
type AuditCounts struct {
	Accounts   int64            `json:"accounts,omitempty"`   // looked at
	Mismatches map[string]int64 `json:"mismatches,omitempty"` // by the name of the invariant (charging.Faults)
	Walks      int64            `json:"walks,omitempty"`      // that came to their end
	Walked     time.Time        `json:"walked,omitzero"`      // when the last one did
	Whole      int64            `json:"whole,omitempty"`      // accounts in it
}

// A suspect is an account whose deadline has passed.
type suspect struct {
	account store.Key
	version store.Version
	since   time.Time
}

// A link is an account's events in a stream.
type link struct {
	account store.Key
	chain   charging.Chain
}

// A Finding is an account whose record does not hold.
type Finding struct {
	Account store.Key
	Faults  charging.Faults
}

// Next is when the auditor has something to do.
func (a *Auditor) Next() time.Time { return a.next }

// Rest ends the walk that runs: another instance walks, or none does.
func (a *Auditor) Rest(now time.Time) {
	a.cursor, a.began, a.suspects = nil, time.Time{}, a.suspects[:0]
	a.next = now.Add(time.Second)
}

// Part is what is to be scanned now, from where, and how many records; false:
// nothing is.
func (a *Auditor) Part(now time.Time) (cursor []byte, n int, ok bool) {
	if a.began.IsZero() {
		a.began, a.seen, a.scanned, a.cursor, a.stream = now, 0, false, nil, 0
		a.reported, a.suspects = make(map[store.Key]bool), a.suspects[:0]
		if a.Counts.Mismatches == nil {
			a.Counts.Mismatches = make(map[string]int64)
		}
	}
	a.next = now.Add(time.Second)
	return a.cursor, min(max(a.Rate*int(auditPause/time.Millisecond)/1000, 1), 500), !a.scanned
}

// Scanned takes a part of the walk and returns what the loop is to look at, and
// what it cannot. calm is since when no timer was late; zero: one is.
func (a *Auditor) Scanned(keys []store.Key, recs []store.Record, next []byte, now, calm time.Time) (ins []*Inbound, found []Finding) {
	accounts := 0
	for i, k := range keys {
		if k.Kind == tenant.KindAccount {
			accounts++
			ins, found = a.look(k, &recs[i], now, calm, ins, found)
		}
	}
	a.seen += int64(accounts)
	a.Counts.Accounts += int64(accounts)
	a.cursor, a.scanned = next, next == nil
	cost := time.Duration(max(accounts, len(keys)/auditOthers)) * time.Second / time.Duration(max(a.Rate, 1))
	a.next = now.Add(max(cost, time.Millisecond))
	if a.scanned && a.seen == 0 { // then there are no events
		a.stream, a.next = store.Partitions, now.Add(time.Second)
	}
	return ins, found
}

// Stream is which partition's events are to be read now, from the first one on,
// and how many; false: none.
func (a *Auditor) Stream(now time.Time) (p store.Partition, n int, ok bool) {
	if !a.scanned || a.stream == store.Partitions {
		return 0, 0, false
	}
	a.next = now.Add(time.Second / time.Duration(max(a.Rate*auditOthers, 1)))
	return store.Partition(a.stream), eventsMax, true
}

// Read takes these events, of one moment, and returns the accounts to be loaded.
func (a *Auditor) Read(events []store.Event) (keys []store.Key) {
	a.stream++
	a.links = a.links[:0]
	for i := range events {
		if a.entry.Decode(events[i].Bytes) != nil {
			continue // it is a gap in somebody's
		}
		k := tenant.AccountKey(a.entry.Tenant, a.entry.Account)
		at := slices.IndexFunc(a.links, func(l link) bool { return l.account == k })
		if at < 0 {
			at = len(a.links)
			a.links, keys = append(a.links, link{account: k}), append(keys, k)
		}
		a.links[at].chain.Follow(&a.entry)
	}
	return keys
}

// Linked takes the records of Read's accounts, in their order, and returns what
// Scanned does.
func (a *Auditor) Linked(recs []store.Record, now time.Time) (ins []*Inbound) {
	for i := range a.links {
		l := &a.links[i]
		if a.reported[l.account] || a.account.Decode(recs[i].Bytes) != nil || l.chain.Leads(&a.account) {
			continue
		}
		chain := l.chain // the loop sees what a commit proves: the record that was read may be of a store that has lost it
		ins = append(ins, request(l.account, charging.Request{Kind: charging.Audit, Chain: &chain}, charging.FaultLedger, now))
	}
	a.next = a.next.Add(time.Duration(len(a.links)) * time.Second / time.Duration(max(a.Rate, 1)))
	return ins
}

// request asks the loop to look at an account in which faults were seen.
func request(k store.Key, r charging.Request, faults charging.Faults, now time.Time) *Inbound {
	return &Inbound{Request: r, Account: k, Arrived: now, Deadline: now.Add(TickDeadline), Token: faults}
}

// look audits one record.
func (a *Auditor) look(k store.Key, r *store.Record, now, calm time.Time, ins []*Inbound, found []Finding) ([]*Inbound, []Finding) {
	err := a.account.Decode(r.Bytes)
	if a.reported[k] || errors.Is(err, charging.ErrLevel) {
		return ins, found
	}
	if err != nil {
		return ins, a.report(Finding{k, charging.FaultRecord}, found)
	}
	at := slices.IndexFunc(a.suspects, func(s suspect) bool { return s.account == k })
	sure := false
	if at >= 0 {
		was := &a.suspects[at]
		sure = was.version == r.Version && now.Sub(was.since) >= auditConfirm && !calm.IsZero() && now.Sub(calm) >= auditCalm
		if was.version != r.Version {
			was.version, was.since = r.Version, now
		}
	}
	f := a.account.Audit(now, sure)
	late := f == 0 && a.account.Audit(now, true) != 0
	switch {
	case at < 0 && late && len(a.suspects) < suspectsMax:
		a.suspects = append(a.suspects, suspect{k, r.Version, now})
	case at >= 0 && (!late || now.Sub(a.suspects[at].since) > auditDrop):
		a.suspects = slices.Delete(a.suspects, at, at+1)
	}
	switch {
	case f&charging.FaultRecord != 0:
		return ins, a.report(Finding{k, f}, found)
	case f != 0:
		ins = append(ins, request(k, charging.Request{Kind: charging.Audit, Calm: sure}, f, now))
	}
	return ins, found
}

// Again is which accounts are to be loaded once more now.
func (a *Auditor) Again(now time.Time) []store.Key {
	a.again = a.again[:0]
	for _, s := range a.suspects {
		if now.Sub(s.since) >= auditConfirm && len(a.again) < TicksMax {
			a.again = append(a.again, s.account)
		}
	}
	return a.again
}

// Loaded takes the records of Again's keys, in their order, and returns what
// Scanned does.
func (a *Auditor) Loaded(recs []store.Record, now, calm time.Time) (ins []*Inbound, found []Finding) {
	for i, k := range a.again {
		ins, found = a.look(k, &recs[i], now, calm, ins, found)
	}
	return ins, found
}

// Judged takes what became of requests that Scanned or Loaded returned. What the
// loop could not decide on is reported as it was seen.
func (a *Auditor) Judged(ins []*Inbound, outcomes []Outcome) (found []Finding) {
	for i, in := range ins {
		f := in.Token.(charging.Faults)
		switch {
		case outcomes[i] != Answered: // the next walk looks again
			continue
		case in.Answer.Result == charging.Success:
			f = in.Answer.Faults
		}
		if f != 0 {
			found = a.report(Finding{in.Account, f}, found)
		}
	}
	return found
}

// Ended reports whether the walk has come to its end with this, and notes it.
func (a *Auditor) Ended(now time.Time) bool {
	if !a.scanned || a.stream < store.Partitions || len(a.suspects) > 0 || a.began.IsZero() {
		return false
	}
	every := a.Every
	if every == 0 {
		every = auditEvery
	}
	a.Counts.Walks++
	a.Counts.Walked, a.Counts.Whole = now, a.seen
	if at := a.began.Add(every); at.After(a.next) && a.seen > 0 { // else there are accounts soon
		a.next = at
	}
	a.began = time.Time{}
	return true
}

func (a *Auditor) report(f Finding, found []Finding) []Finding {
	if len(a.reported) < reportedMax {
		a.reported[f.Account] = true
	}
	f.Faults.Each(func(name string) { a.Counts.Mismatches[name]++ })
	return append(found, f)
}
