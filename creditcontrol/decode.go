package creditcontrol

import (
	"encoding/binary"
	"math/bits"

	"rtm/charging"
	"rtm/diameter"
	"rtm/rating"
)

// A decoder is one call of Decode.
type decoder struct {
	e    *Envelope
	r    *charging.Request
	seen uint32 // single-occurrence AVPs met
	base charging.Ask
	used bool // units at message level were met
	sent octets
	hash uint64
}

// octets adds up the octets of several Used-Service-Units, before and after a
// tariff change. Some gateways report each unit in one of its own: then the
// total is there beside input and output, and counts alone.
type octets [2]struct {
	total, parts int64 // by CC-Total-Octets; by CC-Input- and CC-Output-Octets alone
	both         bool  // one report had total and parts
}

// add takes in one report.
func (o *octets) add(u *unit) {
	side := &o[0]
	if u.after {
		side = &o[1]
	}
	if !u.total {
		side.parts += u.Input + u.Output
		return
	}
	side.total += u.Octets
	side.both = side.both || u.Input+u.Output > 0
}

// sum is what was used on one side of the tariff change.
func (o *octets) sum(side int) int64 {
	s := &o[side]
	if s.total > 0 && !s.both {
		return s.total
	}
	return s.total + s.parts
}

// Decode reads a CCR. e and r are filled as far as it goes also when an error
// is returned, so that EncodeError can answer; what they hold are views on m.
// Errors carry the Result-Code and the Failed-AVP (reliability limits: 5001,
// 5004, 5005, 5009, 5014).
func Decode(m *diameter.Message, d *Dialect, e *Envelope, r *charging.Request) *diameter.AVPError {
	e.reset(m, d)
	*r = charging.Request{Asks: r.Asks[:0]}
	if err := m.Check(diameter.DefaultLimits); err != nil {
		e.salvage(m.Body)
		return err
	}
	c := decoder{e: e, r: r, hash: hashSeed}
	for b := m.Body; len(b) > 0; {
		var a diameter.AVP
		a, b, _ = diameter.Next(b) // Check has walked over it
		if err := c.avp(&a); err != nil {
			e.salvage(b)
			return err
		}
	}
	return c.finish()
}

// salvage reads what an error answer needs from b, as far as that can be read.
func (e *Envelope) salvage(b []byte) {
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return
		}
		b = rest
		switch a.Attr {
		case diameter.SessionID:
			if id, err := a.Identity(); err == nil && e.SessionID == nil {
				e.SessionID = id
			}
		case diameter.CCRequestType:
			if v, err := a.Uint32(); err == nil && !e.HasType {
				e.Type, e.HasType = v, v >= typeInitial && v <= typeEvent
			}
		case diameter.CCRequestNumber:
			if v, err := a.Uint32(); err == nil && !e.HasNumber {
				e.Number, e.HasNumber = v, true
			}
		case diameter.ProxyInfo:
			e.proxy(&a)
		}
	}
}

func (e *Envelope) proxy(a *diameter.AVP) {
	if len(e.ProxyInfo) < ProxiesMax {
		e.ProxyInfo = append(e.ProxyInfo, a.Raw)
	}
}

// single are the AVPs that a CCR holds at most once.
var single = [...]diameter.Attr{
	diameter.SessionID, diameter.OriginHost, diameter.OriginRealm, diameter.DestinationHost,
	diameter.DestinationRealm, diameter.AuthApplicationID, diameter.ServiceContextID, diameter.CCRequestType,
	diameter.CCRequestNumber, diameter.CCSubSessionID, diameter.RequestedAction, diameter.RequestedServiceUnit,
	diameter.EventTimestamp, diameter.ServiceIdentifier, diameter.ServiceInformation, diameter.UserEquipmentInfo,
	diameter.UserName, diameter.MultipleServicesIndicator, diameter.RatingGroup, diameter.TerminationCause,
	diameter.OriginStateID,
}

// amounts are those that a Requested- or Used-Service-Unit holds at most once.
var amounts = [...]diameter.Attr{
	diameter.CCTime, diameter.CCTotalOctets, diameter.CCInputOctets, diameter.CCOutputOctets,
	diameter.CCServiceSpecificUnits, diameter.CCMoney, diameter.TariffChangeUsage,
}

// once refuses the second one of an AVP of list. seen is a bit of each that was met.
func once(list []diameter.Attr, seen *uint32, a *diameter.AVP) *diameter.AVPError {
	for i := range list {
		if list[i] != a.Attr {
			continue
		}
		if *seen&(1<<i) != 0 {
			return a.Fail(diameter.AVPOccursTooManyTimes)
		}
		*seen |= 1 << i
		return nil
	}
	return nil
}

// avp takes one AVP of message level.
func (c *decoder) avp(a *diameter.AVP) *diameter.AVPError {
	if err := once(single[:], &c.seen, a); err != nil {
		return err
	}
	e := c.e
	var err *diameter.AVPError
	switch a.Attr {
	case diameter.SessionID:
		e.SessionID = a.Data
	case diameter.OriginHost:
		e.OriginHost = a.Data
	case diameter.OriginRealm:
		e.OriginRealm = a.Data
	case diameter.OriginStateID:
		e.OriginState, err = a.Uint32()
	case diameter.DestinationHost:
		e.DestinationHost = a.Data
	case diameter.DestinationRealm:
		e.DestinationRealm = a.Data
	case diameter.ServiceContextID:
		e.Context = a.Data
		c.mix(a.Data)
	case diameter.CCRequestType:
		err = c.requestType(a)
	case diameter.CCRequestNumber:
		e.Number, err = a.Uint32()
		e.HasNumber = true
		c.mix(a.Data)
	case diameter.CCSubSessionID:
		c.r.Sub, err = a.Uint64()
	case diameter.RequestedAction:
		err = c.action(a)
	case diameter.EventTimestamp:
		e.Timestamp, err = a.Time()
	case diameter.ProxyInfo:
		e.proxy(a)
	case diameter.RouteRecord:
		if len(e.Routes) < RoutesMax {
			e.Routes = append(e.Routes, a.Data)
		}
	default:
		return c.content(a)
	}
	return err
}

// content takes the AVPs that say who uses what.
func (c *decoder) content(a *diameter.AVP) *diameter.AVPError {
	switch a.Attr {
	case diameter.SubscriptionID:
		c.mix(a.Data)
		return c.subscription(a)
	case diameter.SubscriptionIDExtension:
		c.extension(a)
	case diameter.UserName:
		c.userName(a)
	case diameter.MultipleServicesCreditControl:
		return c.service(a)
	case diameter.ServiceIdentifier:
		c.base.Service, _ = a.Uint32()
		c.base.Has |= charging.HasService
	case diameter.RatingGroup:
		c.base.Group, _ = a.Uint32()
		c.base.Has |= charging.HasGroup
	case diameter.RequestedServiceUnit:
		c.used = true
		c.mix(a.Data)
		return requested(a, &c.base)
	case diameter.UsedServiceUnit:
		c.used = true
		c.mix(a.Data)
		return reported(a, &c.base, &c.sent)
	case diameter.ServiceInformation:
		particulars(a.Data, &c.r.Particulars)
	case diameter.UserEquipmentInfo:
		if v, ok := diameter.Find(a.Data, diameter.UserEquipmentInfoValue); ok {
			c.r.Particulars.Equipment = v.Data
		}
	case diameter.CalledStationID:
		c.r.Particulars.APN = a.Data
	}
	return nil
}

func (c *decoder) requestType(a *diameter.AVP) *diameter.AVPError {
	c.e.Type, _ = a.Uint32()
	if c.e.Kind() == 0 {
		return a.Fail(diameter.InvalidAVPValue)
	}
	c.e.HasType = true
	c.mix(a.Data)
	return nil
}

func (c *decoder) action(a *diameter.AVP) *diameter.AVPError {
	v, _ := a.Uint32()
	if v > 3 {
		return a.Fail(diameter.InvalidAVPValue)
	}
	c.r.Action = charging.Action(v + 1)
	return nil
}

// finish checks what must be there, and completes the request.
func (c *decoder) finish() *diameter.AVPError {
	e, r := c.e, c.r
	switch {
	case e.SessionID == nil:
		return diameter.Missing(diameter.SessionID)
	case e.OriginHost == nil:
		return diameter.Missing(diameter.OriginHost)
	case e.OriginRealm == nil:
		return diameter.Missing(diameter.OriginRealm)
	case e.Context == nil:
		return diameter.Missing(diameter.ServiceContextID)
	case !e.HasType:
		return diameter.Missing(diameter.CCRequestType)
	case !e.HasNumber:
		return diameter.Missing(diameter.CCRequestNumber)
	case e.Type == typeEvent && r.Action == 0:
		return diameter.Missing(diameter.RequestedAction)
	}
	r.Kind = e.Kind()
	if r.Kind != charging.Event {
		r.Action = 0 // Open5GS sends one in every CCR; it means nothing there
	}
	if c.used {
		c.base.Has |= charging.AtMessage
		r.Asks = append(r.Asks, c.base)
	} else if r.Kind == charging.Event && len(r.Asks) == 0 {
		r.Asks = append(r.Asks, charging.Ask{Has: c.base.Has | charging.AtMessage, Group: c.base.Group, Service: c.base.Service})
	}
	r.Session, r.Realm, r.Host = e.SessionID, e.OriginRealm, e.OriginHost
	r.Number, r.Context, r.At = e.Number, contextNumber(e.Context), e.Timestamp
	Speak(e.Dialect, e, r)
	c.mixWord(uint64(r.Action))
	if p := &r.Particulars; p.Recipients+p.Segments > 0 { // they are quantities, if nothing else says how many
		c.mixWord(uint64(p.Recipients)<<32 | uint64(p.Segments))
	}
	r.Content = c.hash
	return nil
}

// contextNumber is the specification number of a Service-Context-Id such as
// "8.32251@3gpp.org": the last number before the at sign, or before ".3gpp.org",
// which some send instead. Other text has none. (TS 32.299 §7.1.12)
func contextNumber(id []byte) uint32 {
	end := len(id)
	for i, ch := range id {
		if ch == '@' {
			end = i
			break
		}
	}
	const dotted = ".3gpp.org"
	if end == len(id) && end > len(dotted) && fold(id[end-len(dotted):], dotted) {
		end -= len(dotted)
	}
	n, scale := uint32(0), uint32(1)
	for i := end - 1; i >= 0 && id[i] != '.'; i-- {
		if id[i] < '0' || id[i] > '9' || end-i > 6 {
			return 0
		}
		n += uint32(id[i]-'0') * scale
		scale *= 10
	}
	return n
}

// service takes a Multiple-Services-Credit-Control.
func (c *decoder) service(a *diameter.AVP) *diameter.AVPError {
	if len(c.r.Asks) == charging.AsksMax {
		return a.Fail(diameter.AVPOccursTooManyTimes)
	}
	c.mix(a.Data)
	c.r.Asks = append(c.r.Asks, charging.Ask{})
	ask := &c.r.Asks[len(c.r.Asks)-1]
	var sent octets
	wished := false
	for b := a.Data; len(b) > 0; {
		var s diameter.AVP
		s, b, _ = diameter.Next(b)
		var err *diameter.AVPError
		switch s.Attr {
		case diameter.RatingGroup:
			if ask.Has&charging.HasGroup != 0 {
				return s.Fail(diameter.AVPOccursTooManyTimes)
			}
			ask.Group, err = s.Uint32()
			ask.Has |= charging.HasGroup
		case diameter.ServiceIdentifier: // may be several; the first one names the quota
			var id uint32
			switch id, err = s.Uint32(); {
			case ask.Has&charging.HasService == 0:
				ask.Service, ask.Has = id, ask.Has|charging.HasService
			case len(c.e.Services) < ServicesMax:
				c.e.Services = append(c.e.Services, FurtherService{len(c.r.Asks) - 1, id})
			}
		case diameter.RequestedServiceUnit:
			if wished {
				return s.Fail(diameter.AVPOccursTooManyTimes)
			}
			wished, err = true, requested(&s, ask)
		case diameter.UsedServiceUnit:
			err = reported(&s, ask, &sent)
		case diameter.ReportingReason, ietfReportingReason:
			ask.Reason = reason(&s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ietfReportingReason is Reporting-Reason as CGRateS' tests send it: without
// its vendor.
const ietfReportingReason = diameter.Attr(872)

func reason(a *diameter.AVP) uint8 {
	v, err := a.Uint32()
	if err != nil || v > 100 {
		return 0
	}
	return uint8(v) + 1
}

// requested takes a Requested-Service-Unit: an empty one leaves the amount to
// us, one of zeros asks for nothing (Magma sends it after final units).
func requested(a *diameter.AVP, ask *charging.Ask) *diameter.AVPError {
	var u unit
	if err := u.read(a, unitsMax); err != nil {
		return err
	}
	if !u.total {
		u.Octets = u.Input + u.Output
	}
	ask.Want = u.Units
	ask.Wants = !u.some || u.Units != charging.Units{}
	return u.priced(a, ask)
}

// reported takes a Used-Service-Unit and adds it to those before it, whose
// octets are in sent.
func reported(a *diameter.AVP, ask *charging.Ask, sent *octets) *diameter.AVPError {
	u := unit{used: true}
	if err := u.read(a, usedMax); err != nil {
		return err
	}
	ask.Reports = true
	if u.reason != 0 {
		ask.Reason = u.reason
	}
	ask.Measured |= u.measured()
	sent.add(&u)
	ask.Split = ask.Split || u.split
	if u.after {
		add(&ask.After, &u.Units)
		ask.After.Octets = sent.sum(1)
	}
	add(&ask.Used, &u.Units)
	ask.Used.Octets = sent.sum(0) + sent.sum(1)
	n := &ask.Used
	if max(n.Octets, n.Input, n.Output, n.Seconds, n.Events, int64(n.Money)) > usedMax {
		return a.Fail(diameter.InvalidAVPValue)
	}
	return u.priced(a, ask)
}

// measured says in which units u has an amount.
func (u *unit) measured() (m charging.Measure) {
	for i, in := range [...]rating.Unit{rating.Seconds, rating.Octets, rating.Octets, rating.Octets, rating.Events, rating.Money} { // as amounts are
		if u.seen&(1<<i) != 0 {
			m |= charging.In(in)
		}
	}
	return m
}

// add adds v to u, but for the total of octets.
func add(u, v *charging.Units) {
	u.Input += v.Input
	u.Output += v.Output
	u.Seconds += v.Seconds
	u.Events += v.Events
	u.Money += v.Money
}

// unit is a Requested- or Used-Service-Unit.
type unit struct {
	charging.Units
	seen   uint32 // of amounts
	used   bool   // it reports
	some   bool   // an amount is there, if only zero
	total  bool
	after  bool
	split  bool // it says on which side of a tariff change it was
	reason uint8

	currency uint32 // of CC-Money; zero: it names none
}

// priced notes in which currency an ask is; one message does not mix them.
func (u *unit) priced(a *diameter.AVP, to *charging.Ask) *diameter.AVPError {
	if u.currency == 0 {
		return nil
	}
	if to.Currency != 0 && to.Currency != u.currency {
		return a.Fail(diameter.InvalidAVPValue)
	}
	to.Currency = u.currency
	return nil
}

func (u *unit) read(group *diameter.AVP, most uint64) *diameter.AVPError {
	for b := group.Data; len(b) > 0; {
		var a diameter.AVP
		a, b, _ = diameter.Next(b)
		err := once(amounts[:], &u.seen, &a)
		if err != nil {
			return err
		}
		switch a.Attr {
		case diameter.CCTime:
			var v uint32
			v, err = a.Uint32()
			u.Seconds, u.some = int64(v), true
		case diameter.CCTotalOctets:
			err = u.amount(&a, &u.Octets, most)
			u.total = true
		case diameter.CCInputOctets:
			err = u.amount(&a, &u.Input, most)
		case diameter.CCOutputOctets:
			err = u.amount(&a, &u.Output, most)
		case diameter.CCServiceSpecificUnits:
			err = u.amount(&a, &u.Events, most)
		case diameter.CCMoney:
			err = u.money(&a)
		case diameter.TariffChangeUsage:
			v, _ := a.Uint32()
			u.after, u.split = v == 1, v <= 1
		case diameter.ReportingReason, ietfReportingReason:
			u.reason = reason(&a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unit) amount(a *diameter.AVP, to *int64, most uint64) *diameter.AVPError {
	v, err := a.Uint64()
	if err != nil {
		return err
	}
	if v > most {
		return a.Fail(diameter.InvalidAVPValue)
	}
	*to, u.some = int64(v), true
	return nil
}

// money reads CC-Money: Value-Digits × 10^Exponent (RFC 8506 §8.22), exactly
// or not at all.
func (u *unit) money(a *diameter.AVP) *diameter.AVPError {
	u.some = true
	value, ok := diameter.Find(a.Data, diameter.UnitValue)
	if !ok {
		return diameter.Missing(diameter.UnitValue)
	}
	digits, ok := diameter.Find(value.Data, diameter.ValueDigits)
	if !ok || len(digits.Data) != 8 {
		return diameter.Missing(diameter.ValueDigits)
	}
	exponent := int32(0)
	if x, ok := diameter.Find(value.Data, diameter.Exponent); ok && len(x.Data) == 4 {
		exponent = int32(binary.BigEndian.Uint32(x.Data))
	}
	if code, ok := diameter.Find(a.Data, diameter.CurrencyCode); ok {
		u.currency, _ = code.Uint32()
	}
	v := int64(binary.BigEndian.Uint64(digits.Data))
	m, ok := micros(v, exponent, u.used)
	if !ok {
		return a.Fail(diameter.InvalidAVPValue)
	}
	u.Money = m
	return nil
}

// micros is v × 10^exponent in micro-units; false: negative or too much. What
// is finer than a micro-unit is rounded up if it is a report, else refused.
func micros(v int64, exponent int32, report bool) (rating.Micros, bool) {
	if v < 0 {
		return 0, false
	}
	for exponent += 6; exponent > 0 && v != 0; exponent-- {
		hi, lo := bits.Mul64(uint64(v), 10)
		if hi != 0 || lo > unitsMax {
			return 0, false
		}
		v = int64(lo)
	}
	for ; exponent < 0 && v != 0; exponent++ {
		rest := v % 10
		if v /= 10; rest != 0 && !report {
			return 0, false
		} else if rest != 0 {
			v++
		}
	}
	return rating.Micros(v), v <= unitsMax
}

var subscriptionID = [...]diameter.Attr{diameter.SubscriptionIDType, diameter.SubscriptionIDData}

// subscription takes a Subscription-Id.
func (c *decoder) subscription(a *diameter.AVP) *diameter.AVPError {
	seen := uint32(0)
	for b := a.Data; len(b) > 0; {
		var s diameter.AVP
		s, b, _ = diameter.Next(b)
		if err := once(subscriptionID[:], &seen, &s); err != nil {
			return err
		}
	}
	kind, ok := diameter.Find(a.Data, diameter.SubscriptionIDType)
	if !ok {
		return diameter.Missing(diameter.SubscriptionIDType)
	}
	data, ok := diameter.Find(a.Data, diameter.SubscriptionIDData)
	if !ok {
		return diameter.Missing(diameter.SubscriptionIDData)
	}
	t, err := kind.Uint32()
	if err != nil {
		return err
	}
	if t > uint32(EndUserPrivate) {
		return kind.Fail(diameter.InvalidAVPValue)
	}
	if len(data.Data) > diameter.IdentityMax || t <= uint32(EndUserIMSI) && len(data.Data) > digitsMax {
		return data.Fail(diameter.InvalidAVPValue)
	}
	c.identity(SubscriptionType(t), data.Data)
	return nil
}

// extension takes a Subscription-Id-Extension (RFC 8506 §8.58).
func (c *decoder) extension(a *diameter.AVP) {
	for b := a.Data; len(b) > 0; {
		var s diameter.AVP
		s, b, _ = diameter.Next(b)
		if len(s.Data) > diameter.IdentityMax {
			continue
		}
		switch s.Attr {
		case diameter.SubscriptionIDE164:
			c.identity(EndUserE164, s.Data)
		case diameter.SubscriptionIDIMSI:
			c.identity(EndUserIMSI, s.Data)
		case diameter.SubscriptionIDSIPURI:
			c.identity(EndUserSIPURI, s.Data)
		case diameter.SubscriptionIDNAI:
			c.identity(EndUserNAI, s.Data)
		case diameter.SubscriptionIDPrivate:
			c.identity(EndUserPrivate, s.Data)
		}
	}
}

// userName takes the User-Name, which some clients fill with the MSISDN.
func (c *decoder) userName(a *diameter.AVP) {
	kind := EndUserE164
	for _, ch := range a.Data {
		if (ch < '0' || ch > '9') && ch != '+' {
			kind = EndUserNAI
			break
		}
	}
	if len(a.Data) <= diameter.IdentityMax {
		c.identity(kind, a.Data)
	}
}

// identity adds one more, in the order in which they count.
func (c *decoder) identity(t SubscriptionType, data []byte) {
	if t == EndUserE164 && len(data) > 0 && data[0] == '+' {
		data = data[1:]
	}
	ids := c.e.Identities
	if len(data) == 0 || len(ids) == IdentitiesMax {
		return
	}
	n := Identity{Type: t, Data: data}
	ids = append(ids, n)
	at := len(ids) - 1
	for at > 0 && n.rank() < ids[at-1].rank() {
		ids[at] = ids[at-1]
		at--
	}
	ids[at] = n
	c.e.Identities = ids
}

// The content hash tells a repeat from another message under the same number.
// It covers type, number, subscriber, service context, action and units, but nothing
// that a relay or a resend changes. It is not a secret, and it is part of the format
// of stored records: it never changes.
const (
	hashSeed  = 0x9E3779B97F4A7C15
	hashPrime = 0xD6E8FEB86659FD93
)

func (c *decoder) mixWord(v uint64) {
	h := (c.hash ^ v) * hashPrime
	c.hash = h ^ h>>32
}

func (c *decoder) mix(b []byte) {
	c.mixWord(uint64(len(b)))
	for ; len(b) >= 8; b = b[8:] {
		c.mixWord(binary.LittleEndian.Uint64(b))
	}
	tail := uint64(0)
	for i, v := range b {
		tail |= uint64(v) << (8 * i)
	}
	c.mixWord(tail)
}
