package charging

import (
	"bytes"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"rtm/rating"
)

// Field numbers of the account record. They are never used for anything else;
// 11 to 19 are kept for loans, counters, rollover and account states.
const (
	accountPlan        protowire.Number = 1
	accountIdentity    protowire.Number = 2
	accountBucket      protowire.Number = 3
	accountSession     protowire.Number = 4
	accountLast        protowire.Number = 5 // LastBucket
	accountEvents      protowire.Number = 6
	accountDecided     protowire.Number = 7
	accountArmed       protowire.Number = 8
	accountLevel       protowire.Number = 9 // the lowest store level that may decide on it; absent: 1
	accountPlanVersion protowire.Number = 10
	accountBooked      protowire.Number = 20 // fixed: what the ledger adds up to (Account.Booked)
	accountMoved       protowire.Number = 21
)

const (
	bucketNumber    protowire.Number = 1
	bucketUnit      protowire.Number = 2
	bucketAllowance protowire.Number = 3
	bucketPriority  protowire.Number = 4
	bucketFrom      protowire.Number = 5
	bucketUntil     protowire.Number = 6
	bucketCredited  protowire.Number = 7
	bucketDebited   protowire.Number = 8
	bucketReserved  protowire.Number = 9
	bucketOverrun   protowire.Number = 10
)

// A session is its name and its next deadline, then a body that is only
// decoded when the session is named or due.
const (
	sessionID     protowire.Number = 1
	sessionHost   protowire.Number = 2 // varint: the first n octets of the Session-Id
	sessionRealm  protowire.Number = 3 // varint: the last n octets of the host
	sessionSub    protowire.Number = 4
	sessionWake   protowire.Number = 5
	sessionBody   protowire.Number = 6
	sessionHungry protowire.Number = 7

	bodyIdentity protowire.Number = 1 // varint: one above its place in the account
	bodyContext  protowire.Number = 2
	bodyOpened   protowire.Number = 3
	bodyLast     protowire.Number = 4
	bodyClose    protowire.Number = 5
	bodyTop      protowire.Number = 6
	bodyWindow   protowire.Number = 7
	bodyLate     protowire.Number = 8
	bodyHash     protowire.Number = 9
	bodyFirst    protowire.Number = 10
	bodyMessages protowire.Number = 11
	bodyGaps     protowire.Number = 12
	bodyRecords  protowire.Number = 13
	bodyNotice   protowire.Number = 14
	bodyGroup    protowire.Number = 15
	bodyFacts    protowire.Number = 16
	bodyEnded    protowire.Number = 17
	bodyCause    protowire.Number = 18
	bodyIndexed  protowire.Number = 19
	bodyIndex    protowire.Number = 20
	bodyBusy     protowire.Number = 21 // microseconds
	bodyTrail    protowire.Number = 22
	bodyDeaf     protowire.Number = 23
	bodyState    protowire.Number = 24
	bodyTold     protowire.Number = 25
	bodyVia      protowire.Number = 26
	bodySent     protowire.Number = 27
	bodyBefore   protowire.Number = 28
)

const (
	groupGroup     protowire.Number = 1
	groupService   protowire.Number = 2
	groupHas       protowire.Number = 3
	groupNumber    protowire.Number = 4
	groupResult    protowire.Number = 5 // less 2001, zigzag
	groupUnit      protowire.Number = 6
	groupGranted   protowire.Number = 7
	groupValidity  protowire.Number = 8
	groupHolding   protowire.Number = 9
	groupThreshold protowire.Number = 10
	groupFinal     protowire.Number = 11
	groupPlan      protowire.Number = 12
	groupRule      protowire.Number = 13
	groupPaid      protowire.Number = 14
	groupCharged   protowire.Number = 15
	groupRelease   protowire.Number = 16
	groupHold      protowire.Number = 17
	groupUsed      protowire.Number = 18
	groupDebited   protowire.Number = 19
	groupAllowed   protowire.Number = 20
	groupOverrun   protowire.Number = 21
	groupPlanName  protowire.Number = 22
	groupAssumed   protowire.Number = 23
	groupSince     protowire.Number = 24
	groupPace      protowire.Number = 25
	groupWaiting   protowire.Number = 26
	groupChange    protowire.Number = 27
	groupNextPlan  protowire.Number = 28
	groupNextRule  protowire.Number = 29
	groupPassed    protowire.Number = 30
)

// Decode makes a the account that b holds. Its slices point into b, which must
// stay as it is as long as a is used. Sessions are decoded when they are
// needed. An empty b is an account that does not exist. Errors: ErrRecord;
// ErrLevel, if b is above the level that this build knows.
func (a *Account) Decode(b []byte) error {
	a.reset()
	if len(b) == 0 {
		return nil
	}
	a.Exists, a.size = true, len(b)
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return ErrRecord
		}
		switch f.number {
		case accountLevel:
			if a.Level = uint32(min(f.value, math.MaxUint32)); a.Level > Level {
				return ErrLevel // it comes first: nothing behind it need be understood
			}
		case accountPlan:
			a.Plan = f.bytes
		case accountIdentity:
			if len(f.bytes) > 0 {
				a.Identities = append(a.Identities, f.bytes)
			}
		case accountBucket:
			if !a.grownBuckets().decode(f.bytes) {
				return ErrRecord
			}
		case accountSession:
			if !a.grownSessions().decodeHead(f.bytes) {
				return ErrRecord
			}
		case accountPlanVersion:
			a.PlanVersion = uint32(f.value)
		case accountLast:
			a.LastBucket = uint32(f.value)
		case accountEvents:
			a.Events = f.value
		case accountDecided:
			a.Decided = f.time()
		case accountArmed:
			a.Armed = f.time()
		case accountBooked:
			a.Booked = f.value
		case accountMoved:
			a.Moved = f.time()
		default:
			if !a.next.decode(&f) {
				a.unknown = append(a.unknown, f.raw...)
			}
		}
	}
	if a.Booked == 0 { // written before there was such a sum
		a.Booked = a.balance()
	}
	a.unbooked = a.Booked - a.balance()
	return nil
}

func (a *Account) reset() {
	*a = Account{
		Identities: a.Identities[:0], Buckets: a.Buckets[:0], Sessions: a.Sessions[:0], unknown: a.unknown[:0],
	}
}

// grownBuckets appends an empty bucket, using the memory of an earlier one.
func (a *Account) grownBuckets() *Bucket {
	if len(a.Buckets) == cap(a.Buckets) {
		a.Buckets = append(a.Buckets, Bucket{})
	} else {
		a.Buckets = a.Buckets[:len(a.Buckets)+1]
	}
	b := &a.Buckets[len(a.Buckets)-1]
	*b = Bucket{unknown: b.unknown[:0]}
	return b
}

// grownSessions appends an empty session, using the memory of an earlier one.
func (a *Account) grownSessions() *Session {
	if len(a.Sessions) == cap(a.Sessions) {
		a.Sessions = append(a.Sessions, Session{})
	} else {
		a.Sessions = a.Sessions[:len(a.Sessions)+1]
	}
	s := &a.Sessions[len(a.Sessions)-1]
	s.reset()
	return s
}

func (s *Session) reset() {
	*s = Session{Groups: s.Groups[:0], Trail: s.Trail[:0], Told: s.Told[:0], unknown: s.unknown[:0], later: s.later[:0]}
}

// grownGroups appends an empty group, using the memory of an earlier one.
func (s *Session) grownGroups() *Group {
	if len(s.Groups) == cap(s.Groups) {
		s.Groups = append(s.Groups, Group{})
	} else {
		s.Groups = s.Groups[:len(s.Groups)+1]
	}
	g := &s.Groups[len(s.Groups)-1]
	*g = Group{Holds: g.Holds[:0], unknown: g.unknown[:0]}
	return g
}

// Append writes a after b and returns both.
func (a *Account) Append(b []byte) []byte {
	if a.Level > 1 {
		b = appendUint(b, accountLevel, uint64(a.Level))
	}
	b = appendBytes(b, accountPlan, a.Plan)
	for _, id := range a.Identities {
		b = appendBytes(b, accountIdentity, id)
	}
	var start int
	for i := range a.Buckets {
		b, start = open(b, accountBucket)
		b = done(a.Buckets[i].append(b), start)
	}
	for i := range a.Sessions {
		b, start = open(b, accountSession)
		b = done(a.Sessions[i].append(b, a.Identities), start)
	}
	b = appendUint(b, accountLast, uint64(a.LastBucket))
	b = appendUint(b, accountEvents, a.Events)
	b = appendTime(b, accountDecided, a.Decided)
	b = appendTime(b, accountArmed, a.Armed)
	b = appendUint(b, accountPlanVersion, uint64(a.PlanVersion))
	b = appendFixed(b, accountBooked, a.Booked)
	b = appendTime(b, accountMoved, a.Moved)
	return append(a.next.append(b), a.unknown...)
}

func (k *Bucket) append(b []byte) []byte {
	b = appendUint(b, bucketNumber, uint64(k.Number))
	b = appendUint(b, bucketUnit, uint64(k.Unit))
	b = appendUint(b, bucketAllowance, uint64(k.Allowance))
	b = appendInt(b, bucketPriority, int64(k.Priority))
	b = appendTime(b, bucketFrom, k.From)
	b = appendTime(b, bucketUntil, k.Until)
	b = appendInt(b, bucketCredited, k.Credited)
	b = appendInt(b, bucketDebited, k.Debited)
	b = appendInt(b, bucketReserved, k.Reserved)
	b = appendInt(b, bucketOverrun, k.Overrun)
	return append(b, k.unknown...)
}

func (k *Bucket) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case bucketNumber:
			k.Number = uint32(f.value)
		case bucketUnit:
			k.Unit = rating.Unit(f.value)
		case bucketAllowance:
			k.Allowance = uint32(f.value)
		case bucketPriority:
			k.Priority = int32(f.int())
		case bucketFrom:
			k.From = f.time()
		case bucketUntil:
			k.Until = f.time()
		case bucketCredited:
			k.Credited = f.int()
		case bucketDebited:
			k.Debited = f.int()
		case bucketReserved:
			k.Reserved = f.int()
		case bucketOverrun:
			k.Overrun = f.int()
		default:
			k.unknown = append(k.unknown, f.raw...)
		}
	}
	k.elsewhere = k.Reserved
	return true
}

// DecodeClosed makes s the session that b, the record of a closed one, holds.
// Its slices point into b.
func (s *Session) DecodeClosed(b []byte) error {
	s.reset()
	if !s.decodeHead(b) || !s.decodeBody(nil) {
		return ErrRecord
	}
	return nil
}

// AppendClosed writes s, a closed session, after b.
func (s *Session) AppendClosed(b []byte) []byte { return s.append(b, nil) }

func (s *Session) decodeHead(b []byte) bool {
	var f field
	var host, realm int
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case sessionID:
			s.ID = f.bytes
		case sessionHost:
			s.Host, host = f.bytes, int(min(f.value, 1<<16))
		case sessionRealm:
			s.Realm, realm = f.bytes, int(min(f.value, 1<<16))
		case sessionSub:
			s.Sub = f.value
		case sessionWake:
			s.Wake = f.time()
		case sessionBody:
			s.body = f.bytes
		case sessionHungry:
			s.Hungry = f.value != 0
		default:
			s.unknown = append(s.unknown, f.raw...)
		}
	}
	if host > len(s.ID) {
		return false
	}
	if host > 0 {
		s.Host = s.ID[:host]
	}
	if realm > len(s.Host) {
		return false
	}
	if realm > 0 {
		s.Realm = s.Host[len(s.Host)-realm:]
	}
	return true
}

func (s *Session) append(b []byte, identities [][]byte) []byte {
	b = appendBytes(b, sessionID, s.ID)
	if len(s.Host) > 0 && bytes.HasPrefix(s.ID, s.Host) {
		b = appendUint(b, sessionHost, uint64(len(s.Host)))
	} else {
		b = appendBytes(b, sessionHost, s.Host)
	}
	if len(s.Realm) > 0 && bytes.HasSuffix(s.Host, s.Realm) {
		b = appendUint(b, sessionRealm, uint64(len(s.Realm)))
	} else {
		b = appendBytes(b, sessionRealm, s.Realm)
	}
	b = appendUint(b, sessionSub, s.Sub)
	b = appendTime(b, sessionWake, s.Wake)
	b = appendUint(b, sessionHungry, bit(s.Hungry))
	if !s.decoded {
		b = appendBytes(b, sessionBody, s.body)
		return append(b, s.unknown...)
	}
	b, start := open(b, sessionBody)
	b = done(s.appendBody(b, identities), start)
	return append(b, s.unknown...)
}

// decodeBody decodes the rest of a session, once. What its groups hold is
// taken off the buckets' reservations elsewhere by the caller.
func (s *Session) decodeBody(identities [][]byte) bool {
	if s.decoded {
		return true
	}
	s.decoded = true
	var f field
	hashes := 0
	for b := s.body; len(b) > 0; {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case bodyIdentity:
			if s.Identity = f.bytes; f.kind == protowire.VarintType && f.value > 0 && f.value <= uint64(len(identities)) {
				s.Identity = identities[f.value-1]
			}
		case bodyHash:
			if hashes == len(s.Hashes) || !s.Hashes[hashes].decode(f.bytes) {
				return false
			}
			hashes++
		case bodyNotice:
			if !s.Notice.decode(f.bytes) {
				return false
			}
		case bodyGroup:
			if !s.grownGroups().decode(f.bytes) {
				return false
			}
		case bodyTrail:
			var h Handled
			if !h.decode(f.bytes, s.Trail) {
				return false
			}
			s.Trail = append(s.Trail, h)
		case bodyTold:
			var t Told
			if !t.decode(f.bytes) {
				return false
			}
			s.Told = append(s.Told, t)
		case bodyFacts:
			if !s.Particulars.decode(f.bytes) {
				return false
			}
		default:
			s.decodeNumber(&f)
		}
	}
	s.body = nil
	return true
}

// decodeNumber takes the fields of a body that are one number.
func (s *Session) decodeNumber(f *field) {
	switch f.number {
	case bodyContext:
		s.Context = uint32(f.value)
	case bodyOpened:
		s.Opened = f.time()
	case bodyLast:
		s.Last = f.time()
	case bodyClose:
		s.Close = f.time()
	case bodyTop:
		s.Top = uint32(f.value)
	case bodyWindow:
		s.Window = f.value
	case bodyLate:
		s.Late = f.value
	case bodyFirst:
		s.First = f.value
	case bodyMessages:
		s.Messages = uint32(f.value)
	case bodyGaps:
		s.Gaps = uint32(f.value)
	case bodyRecords:
		s.Records = uint32(f.value)
	case bodyEnded:
		s.Ended = f.time()
	case bodyCause:
		s.Cause = Cause(f.value)
	case bodyBusy:
		s.Busy = time.Duration(f.value) * time.Microsecond
	case bodyIndexed:
		s.Indexed = f.time()
	case bodyIndex:
		copy(s.Index[:], f.bytes)
	case bodyDeaf:
		s.Deaf = f.value != 0
	case bodyState:
		s.State = uint32(f.value)
	case bodyVia:
		s.Via = f.bytes
	case bodySent:
		s.Sent = f.time()
	case bodyBefore:
		s.Before = append(s.Before, f.value)
	default:
		s.later = append(s.later, f.raw...)
	}
}

func (s *Session) appendBody(b []byte, identities [][]byte) []byte {
	if i := slices.IndexFunc(identities, func(id []byte) bool { return bytes.Equal(id, s.Identity) }); i >= 0 {
		b = appendUint(b, bodyIdentity, uint64(i)+1)
	} else {
		b = appendBytes(b, bodyIdentity, s.Identity)
	}
	b = appendUint(b, bodyContext, uint64(s.Context))
	b = appendTime(b, bodyOpened, s.Opened)
	b = appendTime(b, bodyLast, s.Last)
	b = appendTime(b, bodyClose, s.Close)
	b = appendUint(b, bodyTop, uint64(s.Top))
	b = appendUint(b, bodyWindow, s.Window)
	b = appendUint(b, bodyLate, s.Late)
	for i := range s.Hashes {
		if h := &s.Hashes[i]; h.Number != 0 || h.Hash != 0 {
			b = s.Hashes[i].append(b)
		}
	}
	b = appendFixed(b, bodyFirst, s.First)
	b = appendUint(b, bodyMessages, uint64(s.Messages))
	b = appendUint(b, bodyGaps, uint64(s.Gaps))
	b = appendUint(b, bodyRecords, uint64(s.Records))
	if s.Notice.Number != 0 {
		b = s.Notice.append(b)
	}
	var start int
	for i := range s.Groups {
		b, start = open(b, bodyGroup)
		b = done(s.Groups[i].append(b), start)
	}
	b = appendUint(b, bodyBusy, uint64(s.Busy/time.Microsecond))
	for i := range s.Trail {
		b = s.Trail[i].append(b, s.Trail[:i])
	}
	b, start = open(b, bodyFacts)
	b = done(s.Particulars.append(b), start)
	b = appendTime(b, bodyEnded, s.Ended)
	b = appendUint(b, bodyCause, uint64(s.Cause))
	if !s.Indexed.IsZero() {
		b = appendTime(b, bodyIndexed, s.Indexed)
		b = appendBytes(b, bodyIndex, s.Index[:])
	}
	b = appendUint(b, bodyDeaf, bit(s.Deaf))
	b = appendUint(b, bodyState, uint64(s.State))
	b = appendBytes(b, bodyVia, s.Via)
	b = appendTime(b, bodySent, s.Sent)
	for _, first := range s.Before {
		b = appendFixed(b, bodyBefore, first)
	}
	for i := range s.Told {
		b = s.Told[i].append(b)
	}
	return append(b, s.later...)
}

func (t *Told) append(b []byte) []byte {
	b, start := open(b, bodyTold)
	b = appendUint(b, 1, uint64(t.Number))
	b = appendInt(b, 2, int64(t.Cost))
	b = appendUint(b, 3, bit(t.HasCost))
	b = appendInt(b, 4, int64(t.Balance))
	b = appendUint(b, 5, bit(t.Told))
	b = appendUint(b, 6, uint64(t.Low))
	b = appendUint(b, 7, bit(t.Broke))
	return done(append(b, t.unknown...), start)
}

func (t *Told) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case 1:
			t.Number = uint32(f.value)
		case 2:
			t.Cost = rating.Micros(f.int())
		case 3:
			t.HasCost = f.value != 0
		case 4:
			t.Balance = rating.Micros(f.int())
		case 5:
			t.Told = f.value != 0
		case 6:
			t.Low = Low(f.value)
		case 7:
			t.Broke = f.value != 0
		default:
			t.unknown = append(t.unknown, f.raw...)
		}
	}
	return true
}

// append writes h, which comes behind the entries before: an instance's name is
// written once, and later ones say in which of the entries it stands, from 1.
func (h *Handled) append(b []byte, before []Handled) []byte {
	b, start := open(b, bodyTrail)
	b = appendUint(b, 1, uint64(h.Number))
	b = appendUint(b, 2, uint64(h.Kind))
	if i := slices.IndexFunc(before, func(o Handled) bool { return bytes.Equal(o.Instance, h.Instance) }); i >= 0 {
		b = appendUint(b, 5, uint64(i)+1)
	} else {
		b = appendBytes(b, 3, h.Instance)
	}
	b = appendUint(b, 4, uint64(h.Took/time.Microsecond))
	return done(append(b, h.unknown...), start)
}

func (h *Handled) decode(b []byte, before []Handled) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case 1:
			h.Number = uint32(f.value)
		case 2:
			h.Kind = Kind(f.value)
		case 3:
			h.Instance = f.bytes
		case 4:
			h.Took = time.Duration(f.value) * time.Microsecond
		case 5:
			if f.value == 0 || f.value > uint64(len(before)) {
				return false
			}
			h.Instance = before[f.value-1].Instance
		default:
			h.unknown = append(h.unknown, f.raw...)
		}
	}
	return true
}

func (h *Numbered) append(b []byte) []byte {
	b, start := open(b, bodyHash)
	b = appendUint(b, 1, uint64(h.Number))
	b = appendFixed(b, 2, h.Hash)
	return done(append(b, h.unknown...), start)
}

func (h *Numbered) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case 1:
			h.Number = uint32(f.value)
		case 2:
			h.Hash = f.value
		default:
			h.unknown = append(h.unknown, f.raw...)
		}
	}
	return true
}

func (n *Notice) append(b []byte) []byte {
	b, start := open(b, bodyNotice)
	b = appendUint(b, 1, uint64(n.Kind))
	b = appendUint(b, 2, uint64(n.Number))
	b = appendUint(b, 3, uint64(n.Group))
	if n.HasGroup {
		b = appendUint(b, 4, 1)
	}
	b = appendUint(b, 5, uint64(n.Tries))
	b = appendTime(b, 6, n.Next)
	return done(append(b, n.unknown...), start)
}

func (n *Notice) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case 1:
			n.Kind = Kind(f.value)
		case 2:
			n.Number = uint32(f.value)
		case 3:
			n.Group = uint32(f.value)
		case 4:
			n.HasGroup = f.value != 0
		case 5:
			n.Tries = uint8(f.value)
		case 6:
			n.Next = f.time()
		default:
			n.unknown = append(n.unknown, f.raw...)
		}
	}
	return true
}

func (g *Group) append(b []byte) []byte {
	b = appendUint(b, groupGroup, uint64(g.Group))
	b = appendUint(b, groupService, uint64(g.Service))
	b = appendUint(b, groupHas, uint64(g.Has))
	b = appendUint(b, groupNumber, uint64(g.Number))
	b = appendInt(b, groupResult, int64(g.Result)-int64(Success))
	b = appendUint(b, groupUnit, uint64(g.Unit))
	b = appendUint(b, groupGranted, uint64(g.Granted))
	b = appendUint(b, groupValidity, uint64(g.Validity))
	b = appendUint(b, groupHolding, uint64(g.Holding))
	b = appendUint(b, groupThreshold, uint64(g.Threshold))
	b = appendUint(b, groupFinal, uint64(g.Final))
	b = appendUint(b, groupPlan, uint64(g.Plan))
	b = appendUint(b, groupRule, uint64(g.Rule))
	b = appendUint(b, groupPaid, uint64(g.Paid))
	b = appendUint(b, groupCharged, uint64(g.Charged))
	b = appendTime(b, groupRelease, g.Release)
	var start int
	for _, h := range g.Holds {
		b, start = open(b, groupHold)
		b = appendUint(b, 1, uint64(h.Bucket))
		b = done(append(appendUint(b, 2, uint64(h.Amount)), h.unknown...), start)
	}
	if g.Used != (Units{}) || len(g.unknownUsed) > 0 {
		b, start = open(b, groupUsed)
		b = done(append(g.Used.append(b), g.unknownUsed...), start)
	}
	b = appendUint(b, groupDebited, uint64(g.Debited))
	b = appendUint(b, groupAllowed, uint64(g.Allowed))
	b = appendUint(b, groupOverrun, uint64(g.Overrun))
	b = appendBytes(b, groupPlanName, g.PlanName)
	b = appendUint(b, groupAssumed, uint64(g.Assumed))
	b = appendTime(b, groupSince, g.Since)
	b = appendUint(b, groupPace, uint64(g.Pace))
	b = appendTime(b, groupWaiting, g.Waiting)
	if !g.Change.IsZero() {
		b = appendTime(b, groupChange, g.Change)
		b = appendUint(b, groupNextPlan, uint64(g.NextPlan))
		b = appendUint(b, groupNextRule, uint64(g.NextRule))
		b = appendUint(b, groupPassed, bit(g.Passed))
	}
	return append(b, g.unknown...)
}

func (g *Group) decode(b []byte) bool {
	g.Result = Success
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case groupHold:
			var h Hold
			if !h.decode(f.bytes) {
				return false
			}
			g.Holds = append(g.Holds, h)
		case groupUsed:
			var ok bool
			if g.unknownUsed, ok = g.Used.decode(f.bytes); !ok {
				return false
			}
		default:
			g.decodeNumber(&f)
		}
	}
	return true
}

// decodeNumber takes the fields of a group that are one number.
func (g *Group) decodeNumber(f *field) {
	switch f.number {
	case groupGroup:
		g.Group = uint32(f.value)
	case groupService:
		g.Service = uint32(f.value)
	case groupHas:
		g.Has = Has(f.value)
	case groupNumber:
		g.Number = uint32(f.value)
	case groupResult:
		g.Result = Result(f.int() + int64(Success))
	case groupUnit:
		g.Unit = rating.Unit(f.value)
	case groupGranted:
		g.Granted = int64(f.value)
	case groupValidity:
		g.Validity = uint32(f.value)
	case groupHolding:
		g.Holding = uint32(f.value)
	case groupThreshold:
		g.Threshold = int64(f.value)
	case groupFinal:
		g.Final = rating.FinalAction(f.value)
	case groupPlan:
		g.Plan = uint32(f.value)
	case groupRule:
		g.Rule = uint32(f.value)
	case groupPaid:
		g.Paid = int64(f.value)
	case groupCharged:
		g.Charged = rating.Micros(f.value)
	case groupRelease:
		g.Release = f.time()
	case groupDebited:
		g.Debited = rating.Micros(f.value)
	case groupAllowed:
		g.Allowed = int64(f.value)
	case groupOverrun:
		g.Overrun = int64(f.value)
	case groupPlanName:
		g.PlanName = f.bytes
	case groupAssumed:
		g.Assumed = int64(f.value)
	case groupSince:
		g.Since = f.time()
	case groupPace:
		g.Pace = int64(f.value)
	case groupWaiting:
		g.Waiting = f.time()
	case groupChange:
		g.Change = f.time()
	case groupNextPlan:
		g.NextPlan = uint32(f.value)
	case groupNextRule:
		g.NextRule = uint32(f.value)
	case groupPassed:
		g.Passed = f.value != 0
	default:
		g.unknown = append(g.unknown, f.raw...)
	}
}

func (h *Hold) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case 1:
			h.Bucket = uint32(f.value)
		case 2:
			h.Amount = int64(f.value)
		default:
			h.unknown = append(h.unknown, f.raw...)
		}
	}
	return true
}

func (u *Units) append(b []byte) []byte {
	b = appendUint(b, 1, uint64(u.Octets))
	b = appendUint(b, 2, uint64(u.Input))
	b = appendUint(b, 3, uint64(u.Output))
	b = appendUint(b, 4, uint64(u.Seconds))
	b = appendUint(b, 5, uint64(u.Events))
	return appendInt(b, 6, int64(u.Money))
}

// decode also returns the fields that a later version wrote.
func (u *Units) decode(b []byte) (unknown []byte, ok bool) {
	var f field
	for len(b) > 0 {
		if b, ok = next(b, &f); !ok {
			return nil, false
		}
		switch f.number {
		case 1:
			u.Octets = int64(f.value)
		case 2:
			u.Input = int64(f.value)
		case 3:
			u.Output = int64(f.value)
		case 4:
			u.Seconds = int64(f.value)
		case 5:
			u.Events = int64(f.value)
		case 6:
			u.Money = rating.Micros(f.int())
		default:
			unknown = append(unknown, f.raw...)
		}
	}
	return unknown, true
}

func (p *Particulars) append(b []byte) []byte {
	b = appendBytes(b, 1, p.APN)
	b = appendBytes(b, 2, p.ChargingID)
	b = appendBytes(b, 3, p.Address)
	b = appendBytes(b, 4, p.SGSN)
	b = appendBytes(b, 5, p.GGSN)
	b = appendBytes(b, 6, p.PLMN)
	b = appendBytes(b, 7, p.Location)
	b = appendBytes(b, 8, p.Equipment)
	b = appendBytes(b, 9, p.Calling)
	b = appendBytes(b, 10, p.Called)
	b = appendBytes(b, 11, p.Zone)
	b = appendUint(b, 12, uint64(p.RAT))
	b = appendUint(b, 13, uint64(p.Role))
	b = appendUint(b, 14, uint64(p.Media))
	b = appendUint(b, 15, uint64(p.Recipients))
	b = appendUint(b, 16, uint64(p.Size))
	b = appendUint(b, 17, uint64(p.Segments))
	return append(b, p.unknown...)
}

func (p *Particulars) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return false
		}
		switch f.number {
		case 1:
			p.APN = f.bytes
		case 2:
			p.ChargingID = f.bytes
		case 3:
			p.Address = f.bytes
		case 4:
			p.SGSN = f.bytes
		case 5:
			p.GGSN = f.bytes
		case 6:
			p.PLMN = f.bytes
		case 7:
			p.Location = f.bytes
		case 8:
			p.Equipment = f.bytes
		case 9:
			p.Calling = f.bytes
		case 10:
			p.Called = f.bytes
		case 11:
			p.Zone = f.bytes
		case 12:
			p.RAT = uint8(f.value)
		case 13:
			p.Role = uint8(f.value)
		case 14:
			p.Media = uint8(f.value)
		case 15:
			p.Recipients = uint32(f.value)
		case 16:
			p.Size = uint32(f.value)
		case 17:
			p.Segments = uint32(f.value)
		default:
			p.unknown = append(p.unknown, f.raw...)
		}
	}
	return true
}

// Field numbers of a once record.
const (
	onceContent  protowire.Number = 1
	onceResult   protowire.Number = 2
	onceGrant    protowire.Number = 3
	onceCost     protowire.Number = 4
	onceHasCost  protowire.Number = 5
	onceCurrency protowire.Number = 6
	onceNoCredit protowire.Number = 7
	onceChecked  protowire.Number = 8
	onceBucket   protowire.Number = 9
)

// Append writes o after b.
func (o *Once) Append(b []byte) []byte {
	b = appendFixed(b, onceContent, o.Content)
	b = appendUint(b, onceResult, uint64(o.Answer.Result))
	for i := range o.Answer.Grants {
		g := &o.Answer.Grants[i]
		start := 0
		b, start = open(b, onceGrant)
		stored := Group{
			Group: g.Group, Service: g.Service, Has: g.Has, Result: g.Result, Unit: g.Unit, Granted: g.Units,
			Validity: g.Validity, Holding: g.Holding, Threshold: g.Threshold, Final: g.Final,
		}
		b = done(stored.append(b), start)
	}
	b = appendInt(b, onceCost, int64(o.Answer.Cost))
	b = appendUint(b, onceHasCost, bit(o.Answer.HasCost))
	b = appendUint(b, onceCurrency, uint64(o.Answer.Currency))
	b = appendUint(b, onceNoCredit, bit(o.Answer.NoCredit))
	b = appendUint(b, onceChecked, bit(o.Answer.Checked))
	return appendUint(b, onceBucket, uint64(o.Answer.Bucket))
}

func bit(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// Decode makes o the once record that b holds.
func (o *Once) Decode(b []byte) error {
	*o = Once{Answer: Answer{Grants: o.Answer.Grants[:0]}}
	a := &o.Answer
	var f field
	for len(b) > 0 {
		var ok bool
		if b, ok = next(b, &f); !ok {
			return ErrRecord
		}
		switch f.number {
		case onceContent:
			o.Content = f.value
		case onceResult:
			a.Result = Result(f.value)
		case onceGrant:
			var g Group
			if !g.decode(f.bytes) {
				return ErrRecord
			}
			a.Grants = append(a.Grants, g.grant())
		case onceCost:
			a.Cost = rating.Micros(f.int())
		case onceHasCost:
			a.HasCost = f.value != 0
		case onceCurrency:
			a.Currency = uint32(f.value)
		case onceNoCredit:
			a.NoCredit = f.value != 0
		case onceChecked:
			a.Checked = f.value != 0
		case onceBucket:
			a.Bucket = uint32(f.value)
		}
	}
	return nil
}

// grant is the answer that g stored.
func (g *Group) grant() Grant {
	return Grant{
		Group: g.Group, Service: g.Service, Has: g.Has, Result: g.Result, Unit: g.Unit, Units: g.Granted,
		Validity: g.Validity, Holding: g.Holding, Threshold: g.Threshold, Final: g.Final, Change: g.Change,
	}
}

// DecodeAll decodes every session of a, for those who show or audit accounts.
func (a *Account) DecodeAll() error {
	for i := range a.Sessions {
		if !a.decodeSession(&a.Sessions[i]) {
			return ErrRecord
		}
	}
	return nil
}

// decodeSession decodes the body of s and takes what it holds off the
// reservations elsewhere.
func (a *Account) decodeSession(s *Session) bool {
	if s.decoded {
		return true
	}
	if !s.decodeBody(a.Identities) {
		return false
	}
	for i := range s.Groups {
		for _, h := range s.Groups[i].Holds {
			if b := a.bucket(h.Bucket); b != nil {
				b.elsewhere -= h.Amount
			}
		}
	}
	return true
}

func (a *Account) bucket(number uint32) *Bucket {
	for i := range a.Buckets {
		if a.Buckets[i].Number == number {
			return &a.Buckets[i]
		}
	}
	return nil
}

// earlier is the earlier of two times, of which the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
