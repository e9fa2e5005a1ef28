// Package charging decides. [Step] applies one request to one account: it
// reserves, debits, releases, opens and closes sessions, and says what to
// answer, what to record and when to look again (the Online Charging Function
// and Account Balance Management Function of TS 32.296, §5). It is pure: no
// clock, store, socket, goroutine or log, and it does not know Diameter, keys
// or versions of records. codec.go turns accounts into bytes and back.
package charging

import (
	"fmt"
	"time"

	"rtm/rating"
)

// A Kind is what a Request asks for.
type Kind uint8

// The kinds of requests. The first four are the CC-Request-Types of RFC 8506
// §8.3; all others come from an operator or from time.
const (
	Initial Kind = iota + 1
	Update
	Termination
	Event
	Tick        // a wake-up time has come
	Provision   // create the account, or change its plan and identities
	TopUp       // credit a bucket
	Reauthorise // ask the client to report: RAR
	Abort       // ask the client to end the session: ASR
	Notified    // the client answered a RAR or ASR
	Identify    // put an identity into the account, or take one out
	Audit       // recompute the invariants of the account, and report what does not hold
	kindsEnd    // one above the last
	KindsMax    = int(kindsEnd)
)

// String gives the kind as records and metrics spell it.
func (k Kind) String() string {
	switch k {
	case Initial:
		return "INITIAL_REQUEST"
	case Update:
		return "UPDATE_REQUEST"
	case Termination:
		return "TERMINATION_REQUEST"
	case Event:
		return "EVENT_REQUEST"
	case Tick:
		return "TICK"
	case Provision:
		return "PROVISION"
	case TopUp:
		return "TOP_UP"
	case Reauthorise:
		return "REAUTHORISE"
	case Abort:
		return "ABORT"
	case Notified:
		return "NOTIFIED"
	case Identify:
		return "IDENTIFY"
	case Audit:
		return "AUDIT"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// A Result is a Result-Code (RFC 6733 §7.1, RFC 8506 §9).
type Result uint32

// The results a decision can have.
const (
	Success               Result = 2001
	LimitedSuccess        Result = 2002
	EndUserServiceDenied  Result = 4010
	NotApplicable         Result = 4011
	CreditLimitReached    Result = 4012
	UnknownSession        Result = 5002
	InvalidValue          Result = 5004
	ContradictingRequests Result = 5007
	ResourcesExceeded     Result = 5006
	UnableToComply        Result = 5012
	UserUnknown           Result = 5030
	RatingFailed          Result = 5031
)

// An Action is the Requested-Action of an event (RFC 8506 §8.41), one above
// its value on the wire.
type Action uint8

// The four actions.
const (
	DirectDebiting Action = iota + 1
	RefundAccount
	CheckBalance
	PriceEnquiry
)

// Units are quantities side by side, as a Requested- or Used-Service-Unit
// holds them. Octets is the total; whoever decodes a message that has only
// Input and Output sums them.
type Units struct {
	Octets, Input, Output int64
	Seconds, Events       int64
	Money                 rating.Micros
}

// Of returns the quantity in that unit.
func (u *Units) Of(unit rating.Unit) int64 {
	switch unit {
	case rating.Octets:
		return u.Octets
	case rating.Seconds:
		return u.Seconds
	case rating.Events:
		return u.Events
	case rating.Money:
		return int64(u.Money)
	}
	return 0
}

// A Measure is a set of units.
type Measure uint8

// In is the set of that unit alone.
func In(unit rating.Unit) Measure { return 1 << unit }

// Has says which of Rating-Group and Service-Identifier a client named, and
// where: an answer comes back in the style of its request.
type Has uint8

// AtMessage marks units at message level, without a
// Multiple-Services-Credit-Control.
const (
	HasGroup Has = 1 << iota
	HasService
	AtMessage
)

// An Ask is one Multiple-Services-Credit-Control of a request, or the units at
// message level.
type Ask struct {
	Group, Service uint32
	Has            Has
	Wants          bool    // a Requested-Service-Unit that is not all zeros is there
	Want           Units   // zeros: the amount is ours to choose
	Reports        bool    // a Used-Service-Unit is there
	Used           Units   // since the last report; the sum of all Used-Service-Units
	After          Units   // the part of Used after a tariff change (Tariff-Change-Usage 1)
	Split          bool    // the client told the two apart
	Measured       Measure // what Used is measured in; zero: nobody said
	Reason         uint8   // Reporting-Reason, one above its value on the wire; zero: none

	Currency uint32 // ISO 4217 number of its CC-Money; zero: the account's
}

// foreign reports whether what was used cannot be rated in that unit, since it was
// measured in others only.
func (ask *Ask) foreign(unit rating.Unit) bool {
	return ask.Measured != 0 && ask.Measured&In(unit) == 0 && ask.Used != (Units{})
}

// AsksMax bounds the Asks of one request (reliability.md: MSCC per message 64).
const AsksMax = 64

// Particulars is what a session's messages say about it, kept for rating and
// records. The slices are views into the request, as text unless said otherwise.
type Particulars struct {
	APN        []byte // Called-Station-Id
	ChargingID []byte // 3GPP-Charging-Id, as on the wire
	Address    []byte // PDP-Address, 4 or 16 octets
	SGSN       []byte // SGSN-Address (or SGW), 4 or 16 octets
	GGSN       []byte // GGSN-Address (or PGW), 4 or 16 octets
	PLMN       []byte // MCC-MNC of the serving network (3GPP-SGSN-MCC-MNC)
	Location   []byte // 3GPP-User-Location-Info, as on the wire
	Equipment  []byte // User-Equipment-Info-Value
	Calling    []byte // Calling-Party-Address, or the originator of a message
	Called     []byte // Called-Party-Address, or the recipient of a message
	Zone       []byte // 3GPP-MS-TimeZone, two octets
	RAT        uint8  // 3GPP-RAT-Type
	Role       uint8  // Role-Of-Node or SM-Message-Type, one above its value on the wire
	Media      uint8  // of a call: rating.Audio, rating.Video, or both
	Recipients uint32 // of a message; zero: nobody said
	Segments   uint32 // short messages that a long one was cut into; zero: nobody said
	Size       uint32 // of a message, octets; zero: nobody said

	unknown []byte
}

// Carries says what a call carries: audio, or video, with audio or without; empty:
// nobody said.
func (p *Particulars) Carries() string {
	switch {
	case p.Media&rating.Video != 0:
		return "video"
	case p.Media != 0:
		return "audio"
	}
	return ""
}

// A Client is what the client of a message bears and needs: its dialect, as far as
// decisions depend on it.
type Client struct {
	Least    int64         // octets: it is not granted less
	Validity time.Duration // of a grant at most; zero: as the plan says
	Deaf     bool          // it does nothing upon a RAR
	Splits   bool          // it tells usage before and after a Tariff-Time-Change apart
	Informed bool          // it can be told of money
	State    uint32        // its Origin-State-Id, which rises when it loses its sessions; zero: it has none, or that is not to be relied on
}

// A Request is one thing to be decided. The slices belong to the caller and
// must stay as they are until the decision is committed.
type Request struct {
	Kind        Kind
	Realm       []byte // Origin-Realm: part of the session's name
	Session     []byte // Session-Id
	Sub         uint64 // CC-Sub-Session-Id, zero: none
	Host        []byte // Origin-Host
	Via         []byte // the relay that it came over; empty: none
	Number      uint32 // CC-Request-Number
	Content     uint64 // hash of the charging content
	Context     uint32 // specification number of the Service-Context-Id
	At          time.Time
	Identity    []byte // whom the message names; must be among the account's identities. Empty: nobody
	Formerly    bool   // … or was not long ago
	Asks        []Ask
	Indexed     bool      // later messages may leave the subscriber out: keep a session index
	Kept        time.Time // until when the session index, which led here, has the session; zero: it did not
	Particulars Particulars
	Client      Client
	Action      Action // of an Event

	// Of an operator's request.
	Amount   int64    // TopUp: units, or micro-units of money
	Bucket   Bucket   // TopUp: Unit, Allowance, Priority, From, Until; Unit zero: money
	Cause    string   // TopUp, Abort: for the ledger
	Profile  *Profile // Provision
	Adds     string   // Identify: the identity that the account gets; empty: none
	Drops    string   // Identify: the identity that it loses; empty: none
	Group    uint32   // Reauthorise: that rating group alone, if HasGroup
	HasGroup bool     //
	Result   Result   // Notified: the Result-Code of the client's answer
	Notice   uint32   // Notified: the notice's number
	Calm     bool     // Audit: no timer is late, so one that has not fired is lost
	Chain    *Chain   // Audit: of the entries that were read, which are to lead to the record; nil: none were
}

// A Profile is what an operator says about an account.
type Profile struct {
	Plan       string
	Identities []string
	Money      rating.Micros // what a new account starts with
	Buckets    []Bucket      // … and beside it: Unit, Allowance, Priority, Until, Credited; nil: the plan's allowances
}

// A Grant answers one Ask.
type Grant struct {
	Group, Service uint32
	Has            Has
	Result         Result
	Unit           rating.Unit        // of Units; zero: nothing is granted
	Units          int64              // granted
	Validity       uint32             // seconds
	Holding        uint32             // seconds; zero: none
	Threshold      int64              // units left at which to ask again; zero: none
	Final          rating.FinalAction // zero: more can follow
	Change         time.Time          // Tariff-Time-Change; zero: none
	Price          *rating.Price      // says the rest: where to redirect, filters, triggers; nil: nothing more
}

// An Answer is what the client is told: facts, so that a repeat is told the
// same from a few numbers.
type Answer struct {
	Result   Result
	Grants   []Grant
	Cost     rating.Micros // of a price enquiry or an event, or of a session so far
	HasCost  bool
	Currency uint32        // ISO 4217 number of Cost, Balance and grants of money
	Balance  rating.Micros // money that is left, what is reserved included
	Told     bool          // … which the client is told
	Low      Low
	NoCredit bool   // a balance check: not enough
	Checked  bool   // a balance check was made
	Bucket   uint32 // TopUp: the number of the bucket credited
	Created  bool   // Provision: there was no such account
	Changed  bool   // Provision, Identify: the account is another one than before
	Faults   Faults // Audit: what does not hold
}

// Low is a Low-Balance-Indication (TS 32.299 §7.2.86), one above its value on the wire.
type Low uint8

// What it says.
const (
	NotLow Low = iota + 1
	IsLow
)

// Bounds of an account. Beyond them a request is refused.
const (
	BucketsMax    = 64
	IdentitiesMax = 16
	RecordMax     = 64 << 10 // octets of an encoded account: above it no session and no rating group is added

	sessionSize = 512 // octets that a session adds, roughly
	groupSize   = 96  // … and a rating group
)

// A Bucket holds units of one kind. Available is Credited − Debited − Reserved
// (invariant I1); Overrun is how far clients used more than they held.
type Bucket struct {
	Number    uint32 // within the account, never used again
	Unit      rating.Unit
	Allowance uint32 // rating.Allowance.ID; zero: pays for everything of its unit
	Priority  int32  // lower pays first
	From      time.Time
	Until     time.Time // zero: for ever
	Credited  int64
	Debited   int64
	Reserved  int64
	Overrun   int64

	unknown   []byte
	elsewhere int64 // Reserved less the holds of the sessions that are decoded: must not change
	share     int64 // what one of several rating groups may take, while they ask together
	was       int64 // what was free when the message in hand came
}

// Available is what may still be reserved.
func (b *Bucket) Available() int64 { return b.Credited - b.Debited - b.Reserved }

// A Hold is what a grant reserves in one bucket.
type Hold struct {
	Bucket uint32
	Amount int64 // units, or micro-units of money

	unknown []byte
}

// A Group is what a session knows about one rating group: the last grant,
// what it reserves, and what was used in all.
type Group struct {
	Group, Service uint32
	Has            Has
	Number         uint32 // CC-Request-Number of the last message that named it
	Result         Result // the answer that message got
	Unit           rating.Unit
	Granted        int64
	Validity       uint32
	Holding        uint32
	Threshold      int64
	Final          rating.FinalAction
	PlanName       []byte        // of Plan; empty: the account's
	Plan           uint32        // version that prices what is used of the grant
	Rule           uint32        // rule in it
	Paid           int64         // units that money paid for under Plan and Rule
	Charged        rating.Micros // for them
	Release        time.Time     // when Holds go back; zero: nothing is held
	Holds          []Hold

	Used    Units         // in all
	Debited rating.Micros // money, in all
	Allowed int64         // units that allowances paid for, in all
	Overrun int64         // units used beyond what could be held or paid
	Assumed int64         // units charged since the client vanished: what it reports of them later is paid

	Since    time.Time // of the last report or grant
	Pace     int64     // one above the units used a second of late; zero: nothing was reported yet
	Waiting  time.Time // since then the user is where credit can be topped up; zero: not
	Change   time.Time // from then on usage of the grant costs what rule NextRule of version NextPlan says; zero: no change
	NextPlan uint32
	NextRule uint32
	Passed   bool // usage from after Change was charged: Next is what the grant was made under

	left        int64 // of Granted, while a message's reports are taken one by one
	unknown     []byte
	unknownUsed []byte // of Used
}

// A Session is an open session of an account, or the record of a closed one.
type Session struct {
	Realm       []byte
	ID          []byte
	Sub         uint64
	Host        []byte // Origin-Host of the last message: where a RAR goes
	Via         []byte // … and the relay that it came over; empty: none
	Identity    []byte // whom the first message named
	Context     uint32
	Opened      time.Time
	Last        time.Time // of the last message
	Sent        time.Time // the latest Event-Timestamp of its messages, by the client's clock; zero: none had one
	Close       time.Time // Tcc: closed by then without a message
	Wake        time.Time // the earliest of Close, Release of any group, and Notice.Next
	Hungry      bool      // more credit would change what a group has: it was refused, got its last units, or waits
	Deaf        bool      // a RAR does nothing (Client.Deaf)
	State       uint32    // Client.State of the last message
	Told        []Told    // what its last answers said of money, oldest first
	Top         uint32    // the highest CC-Request-Number applied
	Window      uint64    // bit i: Top − i is applied
	Late        uint64    // bit i: Top − i came after the close
	Hashes      [4]Numbered
	First       uint64   // hash of the initial request
	Before      []uint64 // … and of those of the sessions that it took the name of, the last FormersMax
	Messages    uint32   // applied in all
	Gaps        uint32
	Records     uint32        // charging records written
	Busy        time.Duration // from arrival to decision, of all messages together
	Trail       []Handled     // the last TrailMax messages, oldest first
	Notice      Notice
	Indexed     time.Time // until when the session index has it; zero: it was never written
	Index       [8]byte   // the version it was written under
	Groups      []Group
	Particulars Particulars
	Ended       time.Time // zero: open
	Cause       Cause     // why it ended

	body    []byte // the encoded rest, while it is not decoded
	decoded bool
	later   []byte // fields of the body that a later version wrote
	unknown []byte
}

// Told is what the answer to a message said of money, for its repeat.
type Told struct {
	Number  uint32
	Cost    rating.Micros
	HasCost bool
	Balance rating.Micros
	Told    bool
	Low     Low
	Broke   bool // want of credit refused all of it

	unknown []byte
}

// FormersMax is of how many sessions that had its name before a session remembers how they
// began.
const FormersMax = 4

// TrailMax is how many messages a session remembers who handled them.
const TrailMax = 8

// Handled says which instance decided a message, and how long it took from its
// arrival on.
type Handled struct {
	Number   uint32
	Kind     Kind
	Instance []byte
	Took     time.Duration

	unknown []byte
}

// Numbered is the content hash of one request number.
type Numbered struct {
	Number uint32
	Hash   uint64

	unknown []byte
}

// A Notice is a message that the client of a session must still get.
type Notice struct {
	Kind     Kind   // Reauthorise or Abort; zero: none
	Number   uint32 // rises with each notice of the session
	Group    uint32
	HasGroup bool
	Tries    uint8
	Next     time.Time

	unknown []byte
}

// A Cause says why a session ended or a reservation went back.
type Cause uint8

// The causes.
const (
	Terminated    Cause = iota + 1 // the client said so
	Expired                        // nothing was heard for too long (Tcc)
	Reinitialised                  // the client opened the same Session-Id anew
	Refused                        // an update was refused at command level
	Gone                           // the client no longer knows it
	Unopened                       // it never was open: usage was reported of it that belongs to nobody
	Replaced                       // its subscriber opened another one in its place
	Restarted                      // its client has lost it (Origin-State-Id)
)

// String gives the cause as records spell it.
func (c Cause) String() string {
	switch c {
	case Terminated:
		return "terminated"
	case Expired:
		return "expired"
	case Reinitialised:
		return "reinitialised"
	case Refused:
		return "refused"
	case Gone:
		return "gone"
	case Unopened:
		return "unopened"
	case Replaced:
		return "replaced"
	case Restarted:
		return "restarted"
	}
	return fmt.Sprintf("Cause(%d)", uint8(c))
}

// An Account is what one commit changes: balances, identities, open sessions.
// It is decoded for a cycle of the loop and thrown away after it; its slices
// are used again.
type Account struct {
	Exists      bool
	Plan        []byte   // its name
	PlanVersion uint32   // of it, the newest that decided something here
	Identities  [][]byte // "imsi:001010000000001", "msisdn:491700000001", …
	Buckets     []Bucket
	Sessions    []Session
	LastBucket  uint32    // the highest number a bucket ever had
	Events      uint64    // events written so far
	Decided     time.Time // the time of the last decision: no decision goes back behind it
	Armed       time.Time // what the time index was last set to; zero: nothing
	Level       uint32    // the lowest store level that may decide on it; below 2: any
	Booked      uint64    // what the credits and debits of all its entries add up to (audit.go)
	Moved       time.Time // until then one of its identities may have had another owner when it was used: ask the directory

	next     later  // what a build of the next level keeps (now.go, next.go)
	unbooked uint64 // Booked less what the buckets say, as decoded: no decision changes it
	size     int    // octets of the record, as decoded and with what was added since, roughly
	unknown  []byte // fields of a later version, kept
}

// Plans gives the versions of the account's plan.
type Plans interface {
	// Current is the version that is in force at that moment, and never older
	// than any the account has seen; nil: there is none.
	Current(at time.Time) *rating.Plan
	// Version is that version; nil: it is not here.
	Version(n uint32) *rating.Plan
	// Next is when another version than the current one comes into force; zero:
	// none is known that will.
	Next(at time.Time) time.Time
}

// World is what a decision may know beside the account.
type World struct {
	Now      time.Time
	Plans    Plans
	Named    func(plan []byte) Plans // of the tenant's plan of another name; nil: it is not here
	Closed   *Session                // the record of this closed session, if there is one; Step may change it
	Once     *Once                   // the record of this one-time request, if there is one
	Tenant   string
	Account  string
	Version  [8]byte       // of the write that this decision will be part of
	Instance []byte        // who decides
	Took     time.Duration // since the request was read
	Level    uint32        // of the store: nothing above it is written
}

// Once is the record of a request that is carried out at most once: an event,
// a top-up.
type Once struct {
	Content uint64
	Answer  Answer
}

// An Extra says what a decision does with a record beside the account: the
// closed record of its session, or its once record.
type Extra uint8

// What a decision does with it.
const (
	Untouched Extra = iota
	Relied          // it must still be as World has it, or still be missing
	Written         // it is written
)

// Indexing is what becomes of a session's entry in the session index.
type Indexing struct {
	Op     Extra         // Written: a new version of it; Relied: as it was last written, should it be missing
	Seen   [8]byte       // the version it was last written under; zero: never
	For    time.Duration // how long it is kept
	Opened time.Time     // when the session was
}

// A Closing is the record of a session that ended, to be kept for a while.
type Closing struct {
	Session Session
	For     time.Duration
}

// An Outcome is what follows from a request. It is used again.
type Outcome struct {
	Answer   Answer
	Changed  bool  // the account must be written; else it must only still be the same
	Stranger bool  // the identity is not one of this account: whoever said so was wrong
	Abandon  bool  // the account is spoilt and must be decoded again: Answer says what to tell this request
	NeedPlan bool  // Abandon, and a version of the plan is not here: load it, then decide again
	Settled  bool  // the answer rests on what the account has of the session, whoever is said to have it
	Closed   Extra // of the session that the request names
	Closings []Closing
	Once     Extra
	OnceFor  time.Duration
	Open     bool     // the session is open after this
	Opened   bool     // this opened it
	Index    Indexing // of the session that the request names
	Notices  []Due
	Log      Log
}

// Due is a notice to be sent now.
type Due struct {
	Notice
	Realm, Host, Via, Session []byte
	Sub                       uint64
}
