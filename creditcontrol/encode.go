package creditcontrol

import (
	"time"

	"rtm/charging"
	"rtm/diameter"
	"rtm/rating"
)

// Encode writes the CCA to the request that e holds: Session-Id first, the
// seven AVPs that a strict client insists on, and each rating group in the
// style of the request, with a Result-Code of its own.
func Encode(enc *diameter.Encoder, s *Self, e *Envelope, a *charging.Answer) {
	head(enc, s, e, diameter.Result(a.Result))
	if e.Type != typeEvent {
		enc.Uint32(diameter.CCSessionFailover, 1) // FAILOVER_SUPPORTED: any instance goes on with the session
		if e.Failure.Session != 0 {
			enc.Uint32(diameter.CreditControlFailureHandling, uint32(e.Failure.Session-1))
		}
	} else if e.Failure.Event != 0 {
		enc.Uint32(diameter.DirectDebitingFailureHandling, uint32(e.Failure.Event-1))
	}
	for i := range a.Grants {
		g := &a.Grants[i]
		if g.Has&charging.AtMessage != 0 {
			quota(enc, g, a.Currency)
			continue
		}
		enc.Open(diameter.MultipleServicesCreditControl)
		granted(enc, g, a.Currency)
		if g.Has&charging.HasService != 0 {
			enc.Uint32(diameter.ServiceIdentifier, g.Service)
		}
		for _, s := range e.Services {
			if s.Ask == i {
				enc.Uint32(diameter.ServiceIdentifier, s.ID)
			}
		}
		if g.Has&charging.HasGroup != 0 {
			enc.Uint32(diameter.RatingGroup, g.Group)
		}
		if g.Validity != 0 {
			enc.Uint32(diameter.ValidityTime, g.Validity)
		}
		enc.Uint32(diameter.ResultCode, uint32(g.Result))
		final(enc, g)
		threshold(enc, g)
		trigger(enc, g)
		enc.Close()
	}
	if a.Checked {
		result := uint32(0) // ENOUGH_CREDIT
		if a.NoCredit {
			result = 1
		}
		enc.Uint32(diameter.CheckBalanceResult, result)
	}
	if a.HasCost {
		cost(enc, a.Cost, a.Currency)
	}
	if a.Low != 0 {
		enc.Uint32(diameter.LowBalanceIndication, uint32(a.Low-1))
	}
	if a.Told {
		enc.Open(diameter.RemainingBalance)
		value(enc, a.Balance)
		enc.Uint32(diameter.CurrencyCode, a.Currency)
		enc.Close()
	}
	failedRating(enc, e, a)
	tail(enc, e)
}

// head begins an answer: the seven required AVPs of a CCA, as far as they are
// known.
func head(enc *diameter.Encoder, s *Self, e *Envelope, r diameter.Result) {
	flags := uint8(0)
	if r.Protocol() {
		flags = diameter.FlagError
	}
	enc.Answer(&e.Header, flags)
	if e.SessionID != nil {
		enc.Octets(diameter.SessionID, e.SessionID)
	}
	enc.Uint32(diameter.ResultCode, uint32(r))
	enc.String(diameter.OriginHost, s.OriginHost)
	enc.String(diameter.OriginRealm, s.OriginRealm)
	if r.Protocol() {
		return // answer-message form (RFC 6733 §7.2)
	}
	enc.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
	if e.HasType {
		enc.Uint32(diameter.CCRequestType, e.Type)
	}
	if e.HasNumber {
		enc.Uint32(diameter.CCRequestNumber, e.Number)
	}
}

// tail ends an answer: Proxy-Info comes back unchanged, in its order.
func tail(enc *diameter.Encoder, e *Envelope) {
	for _, p := range e.ProxyInfo {
		enc.Raw(p)
	}
}

// quota writes a grant at message level.
func quota(enc *diameter.Encoder, g *charging.Grant, currency uint32) {
	granted(enc, g, currency)
	if g.Validity != 0 {
		enc.Uint32(diameter.ValidityTime, g.Validity)
	}
	final(enc, g)
}

// granted writes the Granted-Service-Unit. Octets are always the total:
// Open5GS acts on nothing else.
func granted(enc *diameter.Encoder, g *charging.Grant, currency uint32) {
	if g.Unit == 0 {
		return
	}
	enc.Open(diameter.GrantedServiceUnit)
	if !g.Change.IsZero() {
		enc.Time(diameter.TariffTimeChange, g.Change)
	}
	switch g.Unit {
	case rating.Octets:
		enc.Uint64(diameter.CCTotalOctets, uint64(g.Units))
	case rating.Seconds:
		enc.Uint32(diameter.CCTime, uint32(min(g.Units, 1<<32-1)))
	case rating.Events:
		enc.Uint64(diameter.CCServiceSpecificUnits, uint64(g.Units))
	case rating.Money:
		enc.Open(diameter.CCMoney)
		value(enc, rating.Micros(g.Units))
		enc.Uint32(diameter.CurrencyCode, currency)
		enc.Close()
	}
	enc.Close()
}

// final writes the Final-Unit-Indication. Without a grant beside it the client acts
// on it at once.
func final(enc *diameter.Encoder, g *charging.Grant) {
	if g.Final == 0 {
		return
	}
	enc.Open(diameter.FinalUnitIndication)
	enc.Uint32(diameter.FinalUnitAction, uint32(g.Final-1))
	if p := g.Price; p != nil && g.Final == p.Final {
		for _, rule := range p.Filters {
			enc.String(diameter.RestrictionFilterRule, rule)
		}
		if p.Filter != "" {
			enc.String(diameter.FilterID, p.Filter)
		}
		if p.Redirect != "" {
			enc.Open(diameter.RedirectServer)
			enc.Uint32(diameter.RedirectAddressType, uint32(p.Address-1))
			enc.String(diameter.RedirectServerAddress, p.Redirect)
			enc.Close()
		}
	}
	enc.Close()
}

// trigger writes what else the client does with a grant: when it pauses the clock,
// and upon what it reports (TS 32.299 §7.2.156, §7.2.236).
func trigger(enc *diameter.Encoder, g *charging.Grant) {
	if g.Price == nil || g.Unit == 0 {
		return
	}
	q := &g.Price.Quota
	if q.Consumption != 0 {
		enc.Uint32(diameter.QuotaConsumptionTime, uint32(q.Consumption/time.Second))
	}
	if q.Triggers == nil {
		return
	}
	enc.Open(diameter.Trigger)
	for _, t := range q.Triggers {
		enc.Uint32(diameter.TriggerType, t)
	}
	enc.Close()
}

func threshold(enc *diameter.Encoder, g *charging.Grant) {
	if g.Threshold != 0 {
		n := uint32(min(g.Threshold, 1<<32-1))
		switch g.Unit {
		case rating.Octets:
			enc.Uint32(diameter.VolumeQuotaThreshold, n)
		case rating.Seconds:
			enc.Uint32(diameter.TimeQuotaThreshold, n)
		case rating.Events:
			enc.Uint32(diameter.UnitQuotaThreshold, n)
		case rating.Money:
		}
	}
	if g.Holding != 0 {
		enc.Uint32(diameter.QuotaHoldingTime, g.Holding)
	}
}

// value writes a Unit-Value with as few digits as it needs.
func value(enc *diameter.Encoder, m rating.Micros) {
	digits, exponent := int64(m), int32(-6)
	for exponent < 0 && digits%10 == 0 {
		digits /= 10
		exponent++
	}
	enc.Open(diameter.UnitValue)
	enc.Uint64(diameter.ValueDigits, uint64(digits))
	enc.Uint32(diameter.Exponent, uint32(exponent))
	enc.Close()
}

// cost writes a Cost-Information; strict clients refuse one without currency.
func cost(enc *diameter.Encoder, m rating.Micros, currency uint32) {
	enc.Open(diameter.CostInformation)
	value(enc, m)
	enc.Uint32(diameter.CurrencyCode, currency)
	enc.Close()
}

// failedRating names, at command level, what had no tariff (RFC 8506 §9.2): the
// Rating-Group, else the Service-Identifier, else the Service-Context-Id.
func failedRating(enc *diameter.Encoder, e *Envelope, a *charging.Answer) {
	for i := range a.Grants {
		g := &a.Grants[i]
		if g.Result != charging.RatingFailed {
			continue
		}
		enc.Open(diameter.FailedAVP)
		switch {
		case g.Has&charging.HasGroup != 0:
			enc.Uint32(diameter.RatingGroup, g.Group)
		case g.Has&charging.HasService != 0:
			enc.Uint32(diameter.ServiceIdentifier, g.Service)
		default:
			enc.Octets(diameter.ServiceContextID, e.Context)
		}
		enc.Close()
		return
	}
}

// EncodeError writes the answer to a request that Decode refused, from what
// could be read of it.
func EncodeError(enc *diameter.Encoder, s *Self, e *Envelope, err *diameter.AVPError) {
	head(enc, s, e, err.Result)
	if err.Failed != nil {
		enc.Open(diameter.FailedAVP)
		enc.Raw(err.Failed)
		enc.Close()
	}
	enc.String(diameter.ErrorMessage, err.Error())
	tail(enc, e)
}

// EncodeResult writes an answer that only has a result: with E set for 3xxx.
func EncodeResult(enc *diameter.Encoder, s *Self, e *Envelope, r diameter.Result) {
	head(enc, s, e, r)
	tail(enc, e)
}

// A Target is the session that a server-initiated request is about.
type Target struct {
	Session, Host, Realm []byte
	Sub                  uint64 // CC-Sub-Session-Id; zero: none
}

// EncodeReAuth writes a RAR: for one rating group, or the whole session or
// sub-session (RFC 8506 §5.5, RFC 6733 §8.3.1).
func EncodeReAuth(enc *diameter.Encoder, s *Self, t *Target, group uint32, hasGroup bool, hopByHop, endToEnd uint32) {
	enc.Request(diameter.ReAuth, diameter.ApplicationCreditControl, diameter.FlagProxiable, hopByHop, endToEnd)
	target(enc, s, t)
	enc.Uint32(diameter.ReAuthRequestType, 0) // AUTHORIZE_ONLY
	if t.Sub != 0 {
		enc.Uint64(diameter.CCSubSessionID, t.Sub)
	}
	if hasGroup {
		enc.Uint32(diameter.RatingGroup, group)
	}
}

// EncodeAbort writes an ASR (RFC 6733 §8.5.1). That knows no sub-sessions: the
// client ends all of the session, each with a termination of its own.
func EncodeAbort(enc *diameter.Encoder, s *Self, t *Target, hopByHop, endToEnd uint32) {
	enc.Request(diameter.AbortSession, diameter.ApplicationCreditControl, diameter.FlagProxiable, hopByHop, endToEnd)
	target(enc, s, t)
}

func target(enc *diameter.Encoder, s *Self, t *Target) {
	enc.Octets(diameter.SessionID, t.Session)
	enc.String(diameter.OriginHost, s.OriginHost)
	enc.String(diameter.OriginRealm, s.OriginRealm)
	enc.Octets(diameter.DestinationRealm, t.Realm)
	enc.Octets(diameter.DestinationHost, t.Host)
	enc.Uint32(diameter.AuthApplicationID, uint32(diameter.ApplicationCreditControl))
}

// A Reply is a RAA or ASA. Its slices are those of the message.
type Reply struct {
	Session, Host, Realm []byte // Session-Id and who answers; nil: not there
	Result               diameter.Result
}

// DecodeReply reads a RAA or ASA.
func DecodeReply(m *diameter.Message) (r Reply) {
	for _, v := range []struct {
		attr diameter.Attr
		to   *[]byte
	}{{diameter.SessionID, &r.Session}, {diameter.OriginHost, &r.Host}, {diameter.OriginRealm, &r.Realm}} {
		if a, ok := diameter.Find(m.Body, v.attr); ok {
			*v.to = a.Data
		}
	}
	if a, ok := diameter.Find(m.Body, diameter.ResultCode); ok {
		if v, err := a.Uint32(); err == nil {
			r.Result = diameter.Result(v)
		}
	}
	return r
}
