// Package rating knows what things cost: plans, the services in them, prices
// per quantity, and how much to grant at a time. It is pure and closed-form:
// the price of a quantity and the quantity for a price are one multiplication
// and one division in 128 bits, whatever the quantity. It does not know
// accounts, sessions, messages or where a plan came from.
package rating

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"
)

// Micros is money in millionths of a currency's main unit.
type Micros int64

// Unlimited is what Affordable returns when a price of zero sets no limit.
const Unlimited = math.MaxInt64

// UnitsMax bounds a quantity of any unit, as the wire does (reliability.md: units ≤ 2^53).
const UnitsMax = 1 << 53

// A Unit is what a service is measured in.
type Unit uint8

// The units of TS 32.299: CC-Total-Octets, CC-Time, CC-Service-Specific-Units,
// CC-Money.
const (
	Octets Unit = iota + 1
	Seconds
	Events
	Money
)

// String gives the unit as plans and records spell it.
func (u Unit) String() string {
	switch u {
	case Octets:
		return "octets"
	case Seconds:
		return "seconds"
	case Events:
		return "events"
	case Money:
		return "money"
	}
	return fmt.Sprintf("Unit(%d)", uint8(u))
}

// Facts is what a price may depend on.
type Facts struct {
	Context    uint32 // the specification number of the Service-Context-Id: 32251; zero: none known
	Group      uint32 // Rating-Group, if HasGroup
	Service    uint32 // Service-Identifier, if HasService
	HasGroup   bool
	HasService bool
	APN        []byte    // Called-Station-Id
	PLMN       []byte    // MCC-MNC of the serving network, 5 or 6 digits
	Called     []byte    // Called-Party-Address, or the recipient of a message
	RAT        uint8     // 3GPP-RAT-Type
	Media      uint8     // of a call: 1 audio, 2 video, or both
	At         time.Time // the moment that is rated
}

// A Quota is how much is granted at a time, and how.
type Quota struct {
	Size        int64         // units of a grant, or of the first one
	Most        int64         // of one that follows the speed of use; zero: all have Size
	Least       int64         // … when little is left; with Most
	Lasts       time.Duration // … which is as much as is used in that time; with Most
	Threshold   int64         // units left at which the client asks again; zero: none. It follows Size
	Validity    time.Duration // Validity-Time, whole seconds
	Holding     time.Duration // Quota-Holding-Time, whole seconds; zero: none
	Consumption time.Duration // Quota-Consumption-Time, whole seconds; zero: none. With Seconds
	Triggers    []uint32      // Trigger-Types upon which the client reports; empty: none, nil: its own
}

// QuotaTimeMax bounds the times of a quota.
const QuotaTimeMax = 30 * 24 * time.Hour

// After is how much to grant to somebody who uses pace units a second and can have
// at most left: what Lasts asks for, but no more than a quarter of what is left, so
// that slices get smaller towards the end and others find something. Who never
// reported has a pace below zero.
func (q *Quota) After(pace, left int64) int64 {
	if q.Most == 0 {
		return q.Size
	}
	want := q.Size
	if pace >= 0 {
		want = q.Most
		if seconds := int64(q.Lasts / time.Second); pace < q.Most/seconds {
			want = max(pace*seconds, q.Size)
		}
	}
	return max(min(want, left/4), q.Least)
}

// Reminder is the threshold of a grant of that size: it grows and shrinks with it.
func (q *Quota) Reminder(size int64) int64 {
	hi, lo := bits.Mul64(uint64(q.Threshold), uint64(size))
	n, _ := bits.Div64(hi, lo, uint64(q.Size)) // the threshold is below the size
	return int64(n)
}

// A FinalAction is what a client does after the last units (Final-Unit-Action).
type FinalAction uint8

// The actions of RFC 8506 §8.35, one above the value on the wire.
const (
	Terminate FinalAction = iota + 1
	Redirect
	RestrictAccess
)

// String gives the action in the standard's spelling.
func (f FinalAction) String() string {
	switch f {
	case Terminate:
		return "TERMINATE"
	case Redirect:
		return "REDIRECT"
	case RestrictAccess:
		return "RESTRICT_ACCESS"
	}
	return fmt.Sprintf("FinalAction(%d)", uint8(f))
}

// An AddressType says what a Redirect-Server-Address is, one above the value on
// the wire (RFC 8506 §8.38).
type AddressType uint8

// The types.
const (
	IPv4Address AddressType = iota + 1
	IPv6Address
	URLAddress
	SIPAddress
)

// String gives the type in the standard's words.
func (a AddressType) String() string {
	switch a {
	case IPv4Address:
		return "IPv4 Address"
	case IPv6Address:
		return "IPv6 Address"
	case URLAddress:
		return "URL"
	case SIPAddress:
		return "SIP URI"
	}
	return fmt.Sprintf("AddressType(%d)", uint8(a))
}

// FiltersMax bounds the filters of one service.
const FiltersMax = 16

// A Price is one service of a plan: its unit, what that unit costs, which
// allowances pay for it, and its quota.
type Price struct {
	Rule       uint32 // its number in the plan version, from 1
	Name       string
	Unit       Unit // with Money the client knows what its service costs, and asks for that
	Step       int64
	Per        int64
	Micro      Micros        // Micro is the price of Per units, charged in whole Steps
	NoMoney    bool          // only allowances pay for it
	Free       bool          // clients let it pass without credit control (4011)
	Allowances []uint32      // Allowance.ID of those that pay for it, before money does
	Quota      Quota         // how much is granted at a time
	Final      FinalAction   // what the client does after the last units
	Redirect   string        // with Redirect: where the client sends its user (Redirect-Server-Address)
	Address    AddressType   // … and what that is
	Filter     string        // with RestrictAccess: the name of a packet filter of the client (Filter-Id)
	Filters    []string      // … or filters written out (Restriction-Filter-Rule, an IPFilterRule each)
	Wait       time.Duration // … and how long the user may stay there to top up; whole seconds
}

// Takes reports whether the allowance with that ID pays for p; zero is what
// was given without naming an allowance, and pays for everything of its unit.
func (p *Price) Takes(allowance uint32) bool {
	return allowance == 0 || len(p.Allowances) > 0 && among(p.Allowances, allowance)
}

// Costs reports whether the same usage costs the same by p and by q.
func (p *Price) Costs(q *Price) bool {
	return p.Micro == q.Micro && p.Per == q.Per && p.Step == q.Step && p.SamePayers(q)
}

// SamePayers reports whether p and q measure alike, and the same allowances pay for
// both.
func (p *Price) SamePayers(q *Price) bool {
	return p.Unit == q.Unit && p.NoMoney == q.NoMoney && slices.Equal(p.Allowances, q.Allowances)
}

// Check reports what makes p unusable. Total and Affordable of a price that
// passes are exact, or say that they cannot be.
func (p *Price) Check() error {
	switch {
	case p.Unit < Octets || p.Unit > Money:
		return fmt.Errorf("unit must be octets, seconds, events or money, not %s", p.Unit)
	case p.Unit == Money && (p.NoMoney || len(p.Allowances) > 0 || p.Quota.Threshold > 0):
		return fmt.Errorf("what is measured in money is paid with money, and has no threshold (TS 32.299 §7.2.168)")
	case p.Free && p.Micro > 0:
		return fmt.Errorf("what passes without credit control must cost nothing")
	case p.Step < 1 || p.Step > UnitsMax:
		return fmt.Errorf("step must be 1 to %d %s, not %d", int64(UnitsMax), p.Unit, p.Step)
	case p.Per < 1 || p.Per > UnitsMax:
		return fmt.Errorf("per must be 1 to %d %s, not %d", int64(UnitsMax), p.Unit, p.Per)
	case p.Micro < 0:
		return fmt.Errorf("price must not be negative, but is %d micro-units", p.Micro)
	case p.Quota.Size < 1 || p.Quota.Size > UnitsMax:
		return fmt.Errorf("quota size must be 1 to %d %s, not %d", int64(UnitsMax), p.Unit, p.Quota.Size)
	}
	if err := p.Quota.check(p.Unit); err != nil {
		return err
	}
	switch {
	case p.Final < Terminate || p.Final > RestrictAccess:
		return fmt.Errorf("final action must be terminate, redirect or restrict-access")
	case (p.Final == Redirect) != (p.Redirect != ""), (p.Redirect != "") != (p.Address != 0):
		return fmt.Errorf("a redirect address and the final action redirect need each other (RFC 8506 §5.6.2)")
	case (p.Final == RestrictAccess) != (p.Filter != "" || len(p.Filters) > 0):
		return fmt.Errorf("a filter and the final action restrict-access need each other (RFC 8506 §5.6.3)")
	case len(p.Filters) > FiltersMax:
		return fmt.Errorf("%d filters; %d are possible", len(p.Filters), FiltersMax)
	case (p.Final > Terminate) != (p.Wait > 0) || p.Wait > QuotaTimeMax || p.Wait%time.Second != 0:
		return fmt.Errorf("redirect and restrict-access need a time to top up of 1 second to 30 days in whole seconds, not %s", p.Wait)
	}
	if hi, lo := bits.Mul64(uint64(p.Step), uint64(p.Micro)); hi != 0 || lo > math.MaxInt64/2 {
		return fmt.Errorf("one step of %d %s costs too much to be counted", p.Step, p.Unit)
	}
	return nil
}

// check reports what makes q unusable for that unit.
func (q *Quota) check(unit Unit) error {
	whole := func(d time.Duration) bool { return d >= 0 && d <= QuotaTimeMax && d%time.Second == 0 }
	switch {
	case q.Threshold < 0 || q.Threshold >= q.Size:
		return fmt.Errorf("quota threshold must be below the size %d, not %d", q.Size, q.Threshold)
	case q.Validity == 0 || !whole(q.Validity):
		return fmt.Errorf("quota validity must be 1 second to 30 days in whole seconds, not %s", q.Validity)
	case !whole(q.Holding):
		return fmt.Errorf("quota holding time must be at most 30 days in whole seconds, not %s", q.Holding)
	case !whole(q.Consumption):
		return fmt.Errorf("quota consumption time must be at most 30 days in whole seconds, not %s", q.Consumption)
	case q.Consumption > 0 && unit != Seconds:
		return fmt.Errorf("quota consumption time is for what is measured in seconds (TS 32.299 §7.2.156)")
	case q.Most == 0 && (q.Least != 0 || q.Lasts != 0):
		return fmt.Errorf("a quota that follows the speed of use needs a largest size")
	case q.Most != 0 && (q.Least < 1 || q.Least > q.Size || q.Size > q.Most || q.Most > UnitsMax):
		return fmt.Errorf("quota sizes must be least ≤ size ≤ most ≤ %d, not %d, %d, %d", int64(UnitsMax), q.Least, q.Size, q.Most)
	case q.Most != 0 && (q.Lasts == 0 || !whole(q.Lasts)):
		return fmt.Errorf("quota must last 1 second to 30 days in whole seconds, not %s", q.Lasts)
	}
	return nil
}

// Total returns the price of quantity units from the first on: begun steps
// count whole, and the sum is rounded down to a micro-unit, to the
// subscriber's favour. False: it does not fit, or quantity is negative.
func (p *Price) Total(quantity int64) (Micros, bool) {
	if quantity < 0 {
		return 0, false
	}
	if p.Micro == 0 || quantity == 0 {
		return 0, true
	}
	steps := uint64(quantity-1)/uint64(p.Step) + 1
	hi, lo := bits.Mul64(steps, uint64(p.Step)*uint64(p.Micro))
	if hi >= uint64(p.Per) {
		return 0, false
	}
	total, _ := bits.Div64(hi, lo, uint64(p.Per))
	return Micros(total), total <= math.MaxInt64
}

// Affordable returns how many units more than before can be had for have:
// the largest q with Total(before+q) − Total(before) ≤ have. It is Unlimited if
// all units that can be counted can be had, and zero if have or before is
// negative.
func (p *Price) Affordable(before int64, have Micros) int64 {
	spent, ok := p.Total(before)
	if have < 0 || !ok {
		return 0
	}
	if p.Micro == 0 {
		return Unlimited
	}
	// floor(steps·Step·Micro ÷ Per) ≤ budget is steps·Step·Micro ≤ (budget+1)·Per − 1.
	budget := min(uint64(spent)+uint64(have), math.MaxInt64)
	hi, lo := bits.Mul64(budget+1, uint64(p.Per))
	lo, borrow := bits.Sub64(lo, 1, 0)
	hi -= borrow
	step := uint64(p.Step) * uint64(p.Micro)
	if hi >= step {
		return Unlimited
	}
	steps, _ := bits.Div64(hi, lo, step)
	hi, units := bits.Mul64(steps, uint64(p.Step))
	if hi != 0 || units >= math.MaxInt64 {
		return Unlimited
	}
	return int64(units) - before
}

// A Service is a price and what it applies to. Empty lists match everything.
type Service struct {
	Price
	Contexts []uint32 // Service-Context-Id numbers
	Groups   []uint32 // Rating-Groups
	Services []uint32 // Service-Identifiers
	APNs     []string // in lower case
	Zones    []uint16 // of Plan.Zones: it applies in one of them
	Bands    uint64   // bit i is Plan.Bands[i]: it applies while one of them is on
	Media    uint8    // calls with that: 1 audio alone, 2 video; zero: all
	Default  bool     // applies to what names neither group nor service, whatever Groups and Services say
}

// An Allowance is what a plan gives on top of money.
type Allowance struct {
	ID       uint32 // usually AllowanceID of its name; never zero
	Name     string
	Unit     Unit
	Amount   int64
	Priority int32         // lower pays first
	Validity time.Duration // from the day it is given; zero: for ever
}

// AllowanceID draws the number of an allowance from its name (FNV-1a, 32 bits),
// so that it is the same in every version of a plan. It is never zero.
func AllowanceID(name string) uint32 {
	h := uint32(2166136261)
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return max(h, 1)
}

// AllowancesMax bounds the allowances of one plan.
const AllowancesMax = 32

// Bounds of a plan.
const (
	ServicesMax = 1000
	SessionsMax = 1024 // open sessions of an account
	GroupsMax   = 64   // rating groups of a session
	GraceMax    = time.Hour
)

// A Plan is one version of a tariff. It is not changed once it is in use.
type Plan struct {
	Name       string
	Version    uint32 // from 1, rising
	Currency   uint32 // ISO 4217 number
	Services   []Service
	Allowances []Allowance
	Zones      []Zone
	Prefixes   Prefixes       // of zones with Calls
	Bands      []Band         // by the clock of Zone
	Zone       *time.Location // nil: UTC
	Holidays   []int64        // dates, days since 1970, rising
	sieve      []mesh         // of Services, which must not change after Check
	Sessions   int            // open sessions per account at most
	Groups     int            // rating groups per session at most
	Grace      time.Duration  // after a grant's validity, before its reservation goes back
	Vanished   bool           // charge the last reservation of a client that vanished, instead of releasing it
	Replaces   bool           // a session ends when its subscriber opens another one for the same APN at the same client
	Refuses    bool           // who has no credit for one service of a session is refused the whole session
	SpendMax   Micros         // a session that has cost that much is aborted; zero: none
	DebtMax    Micros         // whose money is further below nothing has all sessions aborted; zero: none
	Tells      Tells
}

// A mesh lets through what a service may apply to, in few octets, so that many services are
// looked at in little time.
type mesh struct {
	group int64 // its only rating group; below zero: more, or none is needed
	zone  int32 // its only zone, which is one of numbers; below zero: likewise
}

func (p *Plan) mesh(s *Service) mesh {
	m := mesh{-1, -1}
	if len(s.Groups) == 1 && !s.Default {
		m.group = int64(s.Groups[0])
	}
	if len(s.Zones) == 1 && p.Zones[s.Zones[0]].Calls {
		m.zone = int32(s.Zones[0])
	}
	return m
}

// Tells is what a plan has clients told of money.
type Tells struct {
	Cost    bool   // what the session has cost (Cost-Information)
	Balance bool   // what is left (Remaining-Balance)
	Low     bool   // whether that is below Below (Low-Balance-Indication)
	Below   Micros //
}

// Check reports the first thing that makes p unusable, naming the service, and prepares p
// for use.
func (p *Plan) Check() error {
	switch {
	case p.Name == "":
		return fmt.Errorf("a plan needs a name")
	case len(p.Services) == 0 || len(p.Services) > ServicesMax:
		return fmt.Errorf("plan %s has %d services; 1 to %d are possible", p.Name, len(p.Services), ServicesMax)
	case len(p.Allowances) > AllowancesMax:
		return fmt.Errorf("plan %s has %d allowances; %d are possible", p.Name, len(p.Allowances), AllowancesMax)
	case p.Sessions < 1 || p.Sessions > SessionsMax:
		return fmt.Errorf("plan %s: sessions per account must be 1 to %d, not %d", p.Name, SessionsMax, p.Sessions)
	case p.Groups < 1 || p.Groups > GroupsMax:
		return fmt.Errorf("plan %s: rating groups per session must be 1 to %d, not %d", p.Name, GroupsMax, p.Groups)
	case p.SpendMax < 0 || p.DebtMax < 0 || p.Tells.Below < 0 || p.Tells.Below > 0 && !p.Tells.Low:
		return fmt.Errorf("plan %s: amounts of money must not be negative", p.Name)
	case p.Grace < time.Second || p.Grace > GraceMax:
		return fmt.Errorf("plan %s: grace must be 1 second to 1 hour, not %s", p.Name, p.Grace)
	}
	for i := range p.Allowances {
		if err := p.checkAllowance(i); err != nil {
			return err
		}
	}
	if err := p.checkPlaces(); err != nil {
		return err
	}
	for i := range p.Services {
		if err := p.checkService(i); err != nil {
			return fmt.Errorf("plan %s, service %s: %w", p.Name, p.Services[i].Name, err)
		}
	}
	p.sieve = make([]mesh, len(p.Services))
	for i := range p.Services {
		p.sieve[i] = p.mesh(&p.Services[i])
	}
	return nil
}

func (p *Plan) checkAllowance(i int) error {
	a := &p.Allowances[i]
	if a.Name == "" || a.ID == 0 || a.Unit < Octets || a.Unit > Money || a.Amount < 1 || a.Amount > UnitsMax || a.Validity < 0 {
		return fmt.Errorf("plan %s, allowance %q: needs a name, a unit and an amount above zero", p.Name, a.Name)
	}
	for j := range i {
		if p.Allowances[j].ID == a.ID {
			return fmt.Errorf("plan %s, allowance %q: the name is taken, or its number is that of %q", p.Name, a.Name, p.Allowances[j].Name)
		}
	}
	return nil
}

// checkPlaces checks zones and bands.
func (p *Plan) checkPlaces() error {
	if len(p.Zones) > ZonesMax || len(p.Bands) > BandsMax || p.Prefixes.Len() > PrefixesMax {
		return fmt.Errorf("plan %s has %d zones, %d prefixes and %d times; %d, %d and %d are possible", p.Name, len(p.Zones), p.Prefixes.Len(), len(p.Bands), ZonesMax, PrefixesMax, BandsMax)
	}
	for i := range p.Bands {
		if b := &p.Bands[i]; b.Days == 0 || b.From < 0 || b.From >= dayMinutes || b.To < 1 || b.To > dayMinutes {
			return fmt.Errorf("plan %s, time %s: it needs days, and minutes of a day", p.Name, b.Name)
		}
	}
	for _, z := range p.Prefixes.zones {
		if int(z) >= len(p.Zones) || !p.Zones[z].Calls {
			return fmt.Errorf("plan %s: a prefix leads to zone number %d, which has none", p.Name, z)
		}
	}
	if !slices.IsSorted(p.Holidays) {
		return fmt.Errorf("plan %s: its holidays are not in order", p.Name)
	}
	return nil
}

func (p *Plan) checkService(i int) error {
	s := &p.Services[i]
	for _, z := range s.Zones {
		if int(z) >= len(p.Zones) {
			return fmt.Errorf("no zone of the plan has the number %d", z)
		}
	}
	if s.Bands>>len(p.Bands) != 0 {
		return fmt.Errorf("it has times that the plan does not have")
	}
	if s.Rule != uint32(i)+1 {
		return fmt.Errorf("rule number %d, want %d", s.Rule, i+1)
	}
	for _, id := range s.Allowances {
		a := p.allowance(id)
		if a == nil {
			return fmt.Errorf("no allowance of the plan has the number %d", id)
		}
		if a.Unit != s.Unit {
			return fmt.Errorf("allowance %s is in %s and cannot pay for %s", a.Name, a.Unit, s.Unit)
		}
	}
	return s.Price.Check()
}

func (p *Plan) allowance(id uint32) *Allowance {
	for i := range p.Allowances {
		if p.Allowances[i].ID == id {
			return &p.Allowances[i]
		}
	}
	return nil
}

// Price returns the first service that applies to f; until is when another
// might, zero: not by time. False: there is no tariff (5031), until then.
func (p *Plan) Price(f *Facts) (price *Price, until time.Time, ok bool) {
	called, on := p.called(f), uint64(0)
	sift := len(p.sieve) == len(p.Services)
	for i := range p.Services {
		if sift {
			if m := &p.sieve[i]; m.zone >= 0 && int(m.zone) != called || m.group >= 0 && (!f.HasGroup || m.group != int64(f.Group)) {
				continue
			}
		}
		s := &p.Services[i]
		if len(s.Zones) > 0 && !s.in(p, f, called) || !s.applies(f) {
			continue
		}
		if s.Bands != 0 {
			if until.IsZero() {
				m := p.moment(f.At)
				on, until = p.on(&m), p.until(&m)
			}
			if s.Bands&on == 0 {
				continue
			}
		}
		return &s.Price, until, true
	}
	return nil, until, false
}

// Rule returns the service with that number; nil: there is none.
func (p *Plan) Rule(n uint32) *Price {
	if n == 0 || n > uint32(len(p.Services)) {
		return nil
	}
	return &p.Services[n-1].Price
}

func (s *Service) applies(f *Facts) bool {
	return among(s.Contexts, f.Context) && s.charges(f) && s.names(f.APN) && s.carries(f.Media)
}

// charges reports whether s applies to the Rating-Group and Service-Identifier
// of f.
func (s *Service) charges(f *Facts) bool {
	if s.Default && !f.HasGroup && !f.HasService {
		return true
	}
	return (len(s.Groups) == 0 || f.HasGroup && among(s.Groups, f.Group)) &&
		(len(s.Services) == 0 || f.HasService && among(s.Services, f.Service))
}

// Covers reports whether s applies to all that o applies to: behind it in a plan,
// o never does.
func (s *Service) Covers(o *Service) bool {
	return within(o.Contexts, s.Contexts) && within(o.APNs, s.APNs) && within(o.Groups, s.Groups) && within(o.Services, s.Services) &&
		within(o.Zones, s.Zones) && (s.Bands == 0 || o.Bands != 0 && o.Bands&^s.Bands == 0) &&
		(s.Media == 0 || s.Media == o.Media) && (s.Ungrouped() || !o.Ungrouped())
}

// Ungrouped reports whether s applies to what names neither group nor service.
func (s *Service) Ungrouped() bool { return s.Default || len(s.Groups)+len(s.Services) == 0 }

// within reports whether all that list matches is matched by other.
func within[T comparable](list, other []T) bool {
	if len(other) == 0 {
		return true
	}
	for _, l := range list {
		if !slices.Contains(other, l) {
			return false
		}
	}
	return len(list) > 0
}

// Media of a call.
const (
	Audio = 1
	Video = 2
)

// carries reports whether s applies to a call of these media: one with video is no
// audio call.
func (s *Service) carries(media uint8) bool {
	switch s.Media {
	case 0:
		return true
	case Video:
		return media&Video != 0
	}
	return media == s.Media
}

func (s *Service) names(apn []byte) bool {
	if len(s.APNs) == 0 {
		return true
	}
	for _, a := range s.APNs {
		if fold(a, apn) {
			return true
		}
	}
	return false
}

// fold compares ASCII without case; a is in lower case.
func fold(a string, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != a[i] {
			return false
		}
	}
	return true
}

// among reports whether list is empty or holds n.
func among(list []uint32, n uint32) bool {
	if len(list) == 0 {
		return true
	}
	for _, l := range list {
		if l == n {
			return true
		}
	}
	return false
}
