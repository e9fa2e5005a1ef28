package charging

import (
	"fmt"
	"time"

	"rtm/rating"
)

// A Sort says what an Entry reports.
type Sort uint8

// The sorts of entries.
const (
	Message       Sort = iota + 1 // a request of a session took effect
	FinalRecord                   // a session ended: all it used
	Supplementary                 // usage reported after the end of its session
	OneTime                       // an event was debited or refunded
	Ledger                        // a bucket was credited or expired
	Released                      // a reservation went back since nothing was heard
	Unattributed                  // usage of a session that nobody knows
	Undelivered                   // a notice was given up
	Provisioned                   // the account was created or changed
	Audited                       // an invariant does not hold: Text says which
)

// String gives the sort as records spell it.
func (s Sort) String() string {
	switch s {
	case Message:
		return "message"
	case FinalRecord:
		return "final"
	case Supplementary:
		return "supplementary"
	case OneTime:
		return "event"
	case Ledger:
		return "ledger"
	case Released:
		return "released"
	case Unattributed:
		return "unattributed"
	case Undelivered:
		return "undelivered"
	case Provisioned:
		return "provisioned"
	case Audited:
		return "audited"
	}
	if name := nextSort(s); name != "" {
		return name
	}
	return fmt.Sprintf("unknown-%d", uint8(s))
}

// known reports whether this build knows what such an entry says.
func (s Sort) known() bool { return s >= Message && s <= Audited || nextSort(s) != "" }

// A Line is what an entry says about one rating group. In a final record it is
// the sum over the session.
type Line struct {
	Group, Service uint32
	Has            Has
	Result         Result
	Unit           rating.Unit
	PlanName       []byte // empty: the entry's Plan
	Plan           uint32 // version
	Rule           uint32
	Used           Units
	Allowed        int64         // units that allowances paid for
	Paid           int64         // units that money paid for under this rule, in all
	Charged        rating.Micros // money, for this entry
	Overrun        int64         // units beyond what was granted
	Granted        int64
	Final          rating.FinalAction
	Reason         uint8 // Reporting-Reason, one above its value on the wire
	Wanted         int64 // one above the units asked for, as the client put it; zero: it asked for nothing
	After          bool  // a second line of its group: what was used after a tariff change
}

// A Movement is a change of one bucket. Σ Debit over all entries of an account
// is what the bucket has debited, Σ Credit what it has credited (I3). Reserve is
// Held less Released less what the debit took from the reservation.
type Movement struct {
	Bucket    uint32
	Unit      rating.Unit
	Credit    int64
	Debit     int64
	Overrun   int64
	Reserve   int64 // change of what is reserved
	Held      int64 // newly reserved
	Released  int64 // given back unused
	Available int64 // afterwards
}

// An Entry is an event of an account. (Tenant, Account, Number) names it; the
// version of the write it belongs to proves which of two tries was the one.
type Entry struct {
	Sort            Sort
	Number          uint64
	Version         [8]byte
	Tenant, Account string
	At              time.Time
	Instance        []byte
	Took            time.Duration // from the arrival of the request to its decision
	Kind            Kind          // of the request
	Realm, Session  []byte
	Sub             uint64
	Host            []byte
	Identity        []byte
	Request         uint32 // CC-Request-Number
	Context         uint32
	Result          Result
	Cause           Cause
	Text            string // an operator's reason
	Record          uint32 // number of the charging record within its session, from 1
	Messages        uint32
	Plan            string // its name
	Opened, Ended   time.Time
	Lines           []Line
	Movements       []Movement
	Particulars     Particulars
	Strange         bool // it, or something in it, is of a later version: its octets say more than this
}

// A Log collects the entries of a decision, in memory that is used again.
type Log struct{ Entries []Entry }

func (l *Log) reset() { l.Entries = l.Entries[:0] }

// Message appends the encoded entry of the request's own message to b; none: it took
// effect on nothing.
func (l *Log) Message(b []byte) []byte {
	for i := range l.Entries {
		switch e := &l.Entries[i]; e.Sort {
		case Message, Supplementary, OneTime, Unattributed:
			return e.Append(b)
		default:
		}
	}
	return b
}

func (l *Log) add() *Entry {
	if len(l.Entries) == cap(l.Entries) {
		l.Entries = append(l.Entries, Entry{})
	} else {
		l.Entries = l.Entries[:len(l.Entries)+1]
	}
	e := &l.Entries[len(l.Entries)-1]
	*e = Entry{Lines: e.Lines[:0], Movements: e.Movements[:0]}
	return e
}

// Append writes e after b.
func (e *Entry) Append(b []byte) []byte {
	b = appendUint(b, 1, uint64(e.Sort))
	b = appendUint(b, 2, e.Number)
	b = appendBytes(b, 3, e.Version[:])
	b = appendBytes(b, 4, e.Tenant)
	b = appendBytes(b, 5, e.Account)
	b = appendTime(b, 6, e.At)
	b = appendBytes(b, 7, e.Instance)
	b = appendUint(b, 8, uint64(max(e.Took, 0)))
	b = appendUint(b, 9, uint64(e.Kind))
	b = appendBytes(b, 10, e.Realm)
	b = appendBytes(b, 11, e.Session)
	b = appendUint(b, 12, e.Sub)
	b = appendBytes(b, 13, e.Host)
	b = appendBytes(b, 14, e.Identity)
	b = appendUint(b, 15, uint64(e.Request))
	b = appendUint(b, 16, uint64(e.Context))
	b = appendUint(b, 17, uint64(e.Result))
	b = appendUint(b, 18, uint64(e.Cause))
	b = appendBytes(b, 19, e.Text)
	b = appendUint(b, 20, uint64(e.Record))
	b = appendUint(b, 21, uint64(e.Messages))
	b = appendBytes(b, 22, e.Plan)
	b = appendTime(b, 23, e.Opened)
	b = appendTime(b, 24, e.Ended)
	var start int
	for i := range e.Lines {
		b, start = open(b, 25)
		b = done(e.Lines[i].append(b), start)
	}
	for i := range e.Movements {
		b, start = open(b, 26)
		b = done(e.Movements[i].append(b), start)
	}
	if e.Sort != FinalRecord && e.Sort != Supplementary && e.Sort != OneTime {
		return b
	}
	b, start = open(b, 27)
	return done(e.Particulars.append(b), start)
}

// Decode makes e the entry that b holds. Its slices point into b.
func (e *Entry) Decode(b []byte) error {
	*e = Entry{Lines: e.Lines[:0], Movements: e.Movements[:0]}
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return ErrRecord
		}
		switch f.number {
		case 25:
			var l Line
			if !l.decode(f.bytes, &e.Strange) {
				return ErrRecord
			}
			e.Lines = append(e.Lines, l)
		case 26:
			var m Movement
			if !m.decode(f.bytes, &e.Strange) {
				return ErrRecord
			}
			e.Movements = append(e.Movements, m)
		case 27:
			if !e.Particulars.decode(f.bytes) {
				return ErrRecord
			}
		default:
			if !e.decodeText(&f) && !e.decodeNumber(&f) {
				e.Strange = true
			}
		}
	}
	e.Strange = e.Strange || !e.Sort.known() || len(e.Particulars.unknown) > 0
	return nil
}

// decodeText takes the fields of an entry that are octets; false: it is none.
func (e *Entry) decodeText(f *field) bool {
	switch f.number {
	case 3:
		copy(e.Version[:], f.bytes)
	case 4:
		e.Tenant = string(f.bytes)
	case 5:
		e.Account = string(f.bytes)
	case 7:
		e.Instance = f.bytes
	case 10:
		e.Realm = f.bytes
	case 11:
		e.Session = f.bytes
	case 13:
		e.Host = f.bytes
	case 14:
		e.Identity = f.bytes
	case 19:
		e.Text = string(f.bytes)
	case 22:
		e.Plan = string(f.bytes)
	default:
		return false
	}
	return true
}

// decodeNumber takes the fields of an entry that are one number; false: it is none.
func (e *Entry) decodeNumber(f *field) bool {
	switch f.number {
	case 1:
		e.Sort = Sort(f.value)
	case 2:
		e.Number = f.value
	case 6:
		e.At = f.time()
	case 8:
		e.Took = time.Duration(f.value)
	case 9:
		e.Kind = Kind(f.value)
	case 12:
		e.Sub = f.value
	case 15:
		e.Request = uint32(f.value)
	case 16:
		e.Context = uint32(f.value)
	case 17:
		e.Result = Result(f.value)
	case 18:
		e.Cause = Cause(f.value)
	case 20:
		e.Record = uint32(f.value)
	case 21:
		e.Messages = uint32(f.value)
	case 23:
		e.Opened = f.time()
	case 24:
		e.Ended = f.time()
	default:
		return false
	}
	return true
}

func (l *Line) append(b []byte) []byte {
	b = appendUint(b, 1, uint64(l.Group))
	b = appendUint(b, 2, uint64(l.Service))
	b = appendUint(b, 3, uint64(l.Has))
	b = appendUint(b, 4, uint64(l.Result))
	b = appendUint(b, 5, uint64(l.Unit))
	b = appendUint(b, 6, uint64(l.Plan))
	b = appendUint(b, 7, uint64(l.Rule))
	if l.Used != (Units{}) {
		var start int
		b, start = open(b, 8)
		b = done(l.Used.append(b), start)
	}
	b = appendUint(b, 9, uint64(l.Allowed))
	b = appendUint(b, 10, uint64(l.Paid))
	b = appendInt(b, 11, int64(l.Charged))
	b = appendUint(b, 12, uint64(l.Overrun))
	b = appendUint(b, 13, uint64(l.Granted))
	b = appendUint(b, 14, uint64(l.Final))
	b = appendUint(b, 15, uint64(l.Reason))
	b = appendBytes(b, 16, l.PlanName)
	b = appendUint(b, 17, uint64(l.Wanted))
	return appendUint(b, 18, bit(l.After))
}

// decode also notes whether there are fields that a later version wrote.
func (l *Line) decode(b []byte, strange *bool) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case 1:
			l.Group = uint32(f.value)
		case 2:
			l.Service = uint32(f.value)
		case 3:
			l.Has = Has(f.value)
		case 4:
			l.Result = Result(f.value)
		case 5:
			l.Unit = rating.Unit(f.value)
		case 6:
			l.Plan = uint32(f.value)
		case 7:
			l.Rule = uint32(f.value)
		case 8:
			unknown, ok := l.Used.decode(f.bytes)
			if !ok {
				return false
			}
			*strange = *strange || len(unknown) > 0
		case 9:
			l.Allowed = int64(f.value)
		case 10:
			l.Paid = int64(f.value)
		case 11:
			l.Charged = rating.Micros(f.int())
		case 12:
			l.Overrun = int64(f.value)
		case 13:
			l.Granted = int64(f.value)
		case 14:
			l.Final = rating.FinalAction(f.value)
		case 15:
			l.Reason = uint8(f.value)
		case 16:
			l.PlanName = f.bytes
		case 17:
			l.Wanted = int64(f.value)
		case 18:
			l.After = f.value != 0
		default:
			*strange = true
		}
	}
	return true
}

func (m *Movement) append(b []byte) []byte {
	b = appendUint(b, 1, uint64(m.Bucket))
	b = appendUint(b, 2, uint64(m.Unit))
	b = appendInt(b, 3, m.Credit)
	b = appendInt(b, 4, m.Debit)
	b = appendInt(b, 5, m.Overrun)
	b = appendInt(b, 6, m.Reserve)
	b = appendInt(b, 7, m.Available)
	b = appendInt(b, 8, m.Held)
	return appendInt(b, 9, m.Released)
}

// decode also notes whether there are fields that a later version wrote.
func (m *Movement) decode(b []byte, strange *bool) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case 1:
			m.Bucket = uint32(f.value)
		case 2:
			m.Unit = rating.Unit(f.value)
		case 3:
			m.Credit = f.int()
		case 4:
			m.Debit = f.int()
		case 5:
			m.Overrun = f.int()
		case 6:
			m.Reserve = f.int()
		case 7:
			m.Available = f.int()
		case 8:
			m.Held = f.int()
		case 9:
			m.Released = f.int()
		default:
			*strange = true
		}
	}
	return true
}
