// Package creditcontrol is the Diameter Credit-Control Application as gateways
// speak it on Gy and Ro (RFC 8506, TS 32.299): a CCR becomes a charging.Request,
// a charging.Answer becomes a CCA, and what a client does differently from
// others is in its dialect. It is pure. It does not know sockets, accounts or
// prices.
package creditcontrol

import (
	"bytes"
	"time"

	"rtm/charging"
	"rtm/diameter"
)

// Bounds of one message, beyond those of diameter.DefaultLimits.
const (
	ProxiesMax    = 16      // Proxy-Info AVPs
	RoutesMax     = 32      // Route-Record AVPs
	IdentitiesMax = 8       // subscriber identities that are looked at
	ServicesMax   = 64      // Service-Identifiers beside the first ones that come back
	digitsMax     = 64      // octets of an E.164 or IMSI identity
	unitsMax      = 1 << 53 // of one Requested-Service-Unit
	usedMax       = 1 << 50 // of one report
)

// Values of CC-Request-Type (RFC 8506 §8.3).
const (
	typeInitial     = 1
	typeUpdate      = 2
	typeTermination = 3
	typeEvent       = 4
)

// A Subscription-Id-Type (RFC 8506 §8.47).
type SubscriptionType uint8

// The types.
const (
	EndUserE164 SubscriptionType = iota
	EndUserIMSI
	EndUserSIPURI
	EndUserNAI
	EndUserPrivate
)

// An Identity names a subscriber, as a view on the frame.
type Identity struct {
	Type SubscriptionType
	Data []byte // E164 without its plus
}

// Append writes the identity as the directory knows it: "imsi:001010000000001".
func (i Identity) Append(b []byte) []byte {
	switch i.Type {
	case EndUserE164:
		b = append(b, "msisdn:"...)
	case EndUserIMSI:
		b = append(b, "imsi:"...)
	case EndUserSIPURI:
		return append(append(b, "sip:"...), bytes.TrimPrefix(bytes.ToLower(i.Data), []byte("sip:"))...)
	case EndUserNAI:
		return append(append(b, "nai:"...), bytes.ToLower(i.Data)...)
	case EndUserPrivate:
		b = append(b, "private:"...)
	}
	return append(b, i.Data...)
}

// rank orders identities: the IMSI counts before the MSISDN, that before the rest.
func (i Identity) rank() int {
	switch i.Type {
	case EndUserIMSI:
		return 0
	case EndUserE164:
		return 1
	case EndUserSIPURI, EndUserNAI, EndUserPrivate:
	}
	return 2
}

// An Envelope is what the answer to a CCR needs and charging must not see. It
// is used again; its slices are views on the frame.
type Envelope struct {
	Header           diameter.Header
	SessionID        []byte
	OriginHost       []byte
	OriginRealm      []byte
	DestinationHost  []byte
	DestinationRealm []byte
	Context          []byte // Service-Context-Id
	Type, Number     uint32
	HasType          bool
	HasNumber        bool
	OriginState      uint32    // Origin-State-Id; zero: none
	Timestamp        time.Time // Event-Timestamp; zero: none
	ProxyInfo        [][]byte  // whole AVPs
	Routes           [][]byte  // values of Route-Record
	Identities       []Identity
	Services         []FurtherService
	Dialect          *Dialect
	Failure          Failure
}

// Failure is what a client is told to do when no server answers, each one above its
// value on the wire; zero: nothing (RFC 8506 §8.14, §8.15).
type Failure struct {
	Session uint8 // Credit-Control-Failure-Handling
	Event   uint8 // Direct-Debiting-Failure-Handling
}

// A FurtherService is a Service-Identifier behind the first one of a
// Multiple-Services-Credit-Control: it comes back in the answer.
type FurtherService struct {
	Ask int // of the Request
	ID  uint32
}

// Retransmitted reports whether the T flag is set. It is only ever logged.
func (e *Envelope) Retransmitted() bool { return e.Header.Flags&diameter.FlagRetransmit != 0 }

func (e *Envelope) reset(m *diameter.Message, d *Dialect) {
	*e = Envelope{
		Header: m.Header, Dialect: d,
		ProxyInfo: e.ProxyInfo[:0], Routes: e.Routes[:0], Identities: e.Identities[:0],
		Services: e.Services[:0],
	}
}

// Self is who answers.
type Self struct {
	OriginHost  string
	OriginRealm string
	Hosts       []string // every host name that is one of ours
	Realms      []string // realms served beside OriginRealm
}

// Destined reports whether a request is for us: zero, or the protocol error to
// answer (RFC 6733 §6.1). A gateway's own realm counts as served, since Open5GS
// names it as Destination-Realm.
func (e *Envelope) Destined(s *Self) diameter.Result {
	for _, r := range e.Routes {
		if s.host(r) {
			return diameter.LoopDetected
		}
	}
	if len(e.DestinationRealm) > 0 && !fold(e.DestinationRealm, s.OriginRealm) &&
		!bytes.EqualFold(e.DestinationRealm, e.OriginRealm) && !among(s.Realms, e.DestinationRealm) {
		return diameter.RealmNotServed
	}
	if len(e.DestinationHost) > 0 && !s.host(e.DestinationHost) {
		return diameter.UnableToDeliver
	}
	return 0
}

func (s *Self) host(h []byte) bool { return fold(h, s.OriginHost) || among(s.Hosts, h) }

func among(list []string, b []byte) bool {
	for _, l := range list {
		if fold(b, l) {
			return true
		}
	}
	return false
}

// fold reports whether two identities are the same: ASCII, without case.
func fold(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if 'A' <= x && x <= 'Z' {
			x += 'a' - 'A'
		}
		if 'A' <= y && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}

// Kind is the request's kind in charging; zero: the type is not known.
func (e *Envelope) Kind() charging.Kind {
	switch e.Type {
	case typeInitial:
		return charging.Initial
	case typeUpdate:
		return charging.Update
	case typeTermination:
		return charging.Termination
	case typeEvent:
		return charging.Event
	}
	return 0
}
