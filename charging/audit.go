package charging

import (
	"strings"
	"time"
)

// The balance sum. A bucket's credits and debits, each times an odd number of its
// own, add up modulo 2^64 to the account's balance sum; the same sum over the
// movements of all entries is kept in the record (Account.Booked). Step adds to
// it what the entries of a decision say, and nothing else does. So if the two are
// the same, the balances are what the account's entries say, in all, without
// reading them: a credit or a debit without an entry, or an entry without its
// credit or debit, shows in this and every later record, but for one chance in
// 2^64.

// weight spreads n over 64 bits (the end of SplitMix64), and is odd.
func weight(n uint64) uint64 {
	n *= 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31 | 1
}

// booked is what a credit and a debit of that bucket add to the sum.
func booked(bucket uint32, credit, debit int64) uint64 {
	n := 2 * uint64(bucket)
	return weight(n+1)*uint64(credit) + weight(n+2)*uint64(debit)
}

func (b *Bucket) balance() uint64 { return booked(b.Number, b.Credited, b.Debited) }

// balance is the balance sum of the buckets as they are.
func (a *Account) balance() (sum uint64) {
	for i := range a.Buckets {
		sum += a.Buckets[i].balance()
	}
	return sum
}

// book adds the entries of a decision to the sum.
func (a *Account) book(l *Log) {
	for i := range l.Entries {
		for _, m := range l.Entries[i].Movements {
			a.Booked += booked(m.Bucket, m.Credit, m.Debit)
		}
	}
}

// Faults are invariants (reliability.md §1) that an account's record breaks.
type Faults uint8

// The faults that an audit can find.
const (
	FaultBalance     Faults = 1 << iota // I1: an amount is negative, or more is gone than was there and is owed
	FaultReservation                    // I2: what is reserved is not what open sessions hold
	FaultLedger                         // I3: what was credited and debited is not what the entries say
	FaultTimer                          // a deadline has passed, or comes before the time index was told to look
	FaultRecord                         // the record cannot be decoded
)

// faultNames are the faults in the order of their bits.
var faultNames = [...]string{"I1", "I2", "I3", "timer", "record"}

// Each calls f with the name of each fault.
func (f Faults) Each(name func(string)) {
	for i, n := range faultNames {
		if f>>i&1 != 0 {
			name(n)
		}
	}
}

// FaultNames lists the names of all faults.
func FaultNames() []string { return faultNames[:] }

// String lists the faults by name.
func (f Faults) String() string {
	var names []string
	f.Each(func(n string) { names = append(names, n) })
	return strings.Join(names, ", ")
}

// Overdue is how far a deadline may lie in the past before its timer counts as
// lost: timers are late by a lease and a poll, unless an outage held them up.
const Overdue = time.Minute

// Audit recomputes what must hold of a, as its record has it, at that moment. It
// decodes every session. What it proves: I1 and I2 in full; I3 in so far as the
// balances are what the entries of all commits since the record has a balance sum
// add up to, and that open sessions were not charged more than was debited. That
// the entries are there is for a Chain to say, of those that are still in a stream;
// in record files their numbers leave no gap. Of the time index it proves that the record asked for a look
// at its next deadline in time, and that no deadline passed without one; an entry
// that is gone from the index before its time shows when its time has passed. calm
// says that no timer is late anywhere; else one that has not fired may still do so.
func (a *Account) Audit(now time.Time, calm bool) (f Faults) {
	if a.DecodeAll() != nil {
		return FaultRecord
	}
	debited, purse := int64(0), false
	for i := range a.Buckets {
		b := &a.Buckets[i]
		if b.Reserved < 0 || b.Credited < 0 || b.Debited < 0 || b.Available() < -b.Overrun {
			f |= FaultBalance
		}
		if b.elsewhere != 0 {
			f |= FaultReservation
		}
		if money(b) {
			debited, purse = debited+b.Debited, true
		}
	}
	charged := int64(0)
	for i := range a.Sessions {
		for j := range a.Sessions[i].Groups {
			g := &a.Sessions[i].Groups[j]
			charged += int64(g.Debited)
			for _, h := range g.Holds {
				if h.Amount < 0 || h.Amount > 0 && a.bucket(h.Bucket) == nil {
					f |= FaultReservation
				}
			}
		}
	}
	whole := purse && uint32(len(a.Buckets)) == a.LastBucket // no bucket was ever forgotten
	if a.unbooked != 0 || whole && charged > debited {
		f |= FaultLedger
	}
	if wake := a.Wake(); !wake.IsZero() && (a.Armed.IsZero() || a.Armed.After(wake) || calm && now.Sub(wake) > Overdue) {
		f |= FaultTimer
	}
	return f
}

// audit reports what does not hold, and changes nothing but the account's number
// of entries: whoever finds out why has to find it as it is. The commit sets the
// index entry to the next deadline, as that of a tick does.
func (d *decision) audit() {
	f := d.a.Audit(d.now, d.r.Calm)
	if d.r.Chain != nil && !d.r.Chain.Leads(d.a) {
		f |= FaultLedger
	}
	d.o.Answer.Result, d.o.Answer.Faults = Success, f
	if f == 0 {
		return
	}
	if f&FaultRecord != 0 {
		d.abandon(UnableToComply)
		return
	}
	e := d.entry(Audited, nil)
	e.Text, e.Result, d.o.Changed = "does not hold: "+f.String(), Success, true
}

// A Chain follows entries of one account, in the order of its stream: each has the
// number after the one before, and what it says is available in a bucket is what
// was available before and what it moved.
type Chain struct {
	Last   uint64 // number of the last entry; zero: none yet
	Broken bool   // an entry is missing, or its movements do not add up
	free   []available
}

// available is what the last entry that moved a bucket said.
type available struct {
	bucket uint32
	units  int64
}

// Follow adds an entry.
func (c *Chain) Follow(e *Entry) {
	c.Broken = c.Broken || c.Last != 0 && e.Number != c.Last+1
	c.Last = e.Number
	for i := range e.Movements {
		m := &e.Movements[i]
		if was := c.at(m.Bucket); was == nil {
			c.free = append(c.free, available{m.Bucket, m.Available})
		} else {
			c.Broken = c.Broken || was.units+m.Credit-m.Debit-m.Reserve != m.Available
			was.units = m.Available
		}
	}
}

func (c *Chain) at(bucket uint32) *available {
	for i := range c.free {
		if c.free[i].bucket == bucket {
			return &c.free[i]
		}
	}
	return nil
}

// Leads reports whether the entries lead to the record of a, which was read after
// them: it may have later ones, but not fewer. Of a bucket that was forgotten since
// nothing is to be said.
func (c *Chain) Leads(a *Account) bool {
	if c.Broken || a.Events != c.Last {
		return !c.Broken && a.Events > c.Last
	}
	for i := range c.free {
		if b := a.bucket(c.free[i].bucket); b != nil && b.Available() != c.free[i].units {
			return false
		}
	}
	return true
}
