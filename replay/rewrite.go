package replay

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"rtm/diameter"
)

// Values of Destination-Host and -Realm that are none.
const (
	Keep   = "keep"   // as captured
	Server = "server" // who the server says it is
)

// A Rewriter makes of a captured CCR one that a server can be asked today. What
// it does not speak of stays as it was, octet for octet.
type Rewriter struct {
	Mapping          Mapping
	Run              string // goes into each Session-Id, so that the sessions are new; empty: they stay
	Host, Realm      string // Origin-Host and -Realm; empty: as captured
	DestinationHost  string // empty: the AVP is left out; Keep; Server
	DestinationRealm string // Keep; empty or Server
	Now              bool   // Event-Timestamp is the time of sending
}

// to is w for a server that says who it is.
func (w Rewriter) to(host, realm string) *Rewriter {
	if w.DestinationHost == Server {
		w.DestinationHost = host
	}
	if w.DestinationRealm == "" || w.DestinationRealm == Server {
		w.DestinationRealm = realm
	}
	return &w
}

// Origin is who a captured CCR is sent by.
func (w *Rewriter) Origin(request []byte) (host, realm string) {
	body := request[diameter.HeaderLength:]
	if a, ok := diameter.Find(body, diameter.OriginHost); ok {
		host = string(a.Data)
	}
	if a, ok := diameter.Find(body, diameter.OriginRealm); ok {
		realm = string(a.Data)
	}
	if w.Host != "" {
		host = w.Host
	}
	if w.Realm != "" {
		realm = w.Realm
	}
	return host, realm
}

// Request is the CCR that is sent for a captured one. Its Hop-by-Hop and
// End-to-End identifiers are for identify to replace. Error: its AVPs cannot be
// read.
func (w *Rewriter) Request(captured []byte, now time.Time) ([]byte, error) {
	dst := append(make([]byte, 0, len(captured)+64), captured[:diameter.HeaderLength]...)
	body := captured[diameter.HeaderLength:]
	names := w.everybody(body)
	for b := body; len(b) > 0; {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return nil, fmt.Errorf("an AVP cannot be read: %w", err)
		}
		whole := b[:len(b)-len(rest)]
		b = rest
		switch a.Attr {
		case diameter.SessionID:
			dst = put(dst, &a, []byte(w.Session(string(a.Data))))
		case diameter.OriginHost:
			dst = w.text(dst, &a, whole, w.Host)
		case diameter.OriginRealm:
			dst = w.text(dst, &a, whole, w.Realm)
		case diameter.DestinationHost:
			if w.DestinationHost != "" {
				dst = w.text(dst, &a, whole, w.DestinationHost)
			}
		case diameter.DestinationRealm:
			dst = w.text(dst, &a, whole, w.DestinationRealm)
		case diameter.EventTimestamp:
			if w.Now {
				dst = put(dst, &a, binary.BigEndian.AppendUint32(nil, uint32(now.Unix()+era)))
				continue
			}
			dst = append(dst, whole...)
		case diameter.SubscriptionID:
			dst = w.subscription(dst, &a, whole, &names)
		default:
			dst = append(dst, whole...)
		}
	}
	n := len(dst)
	dst[1], dst[2], dst[3] = byte(n>>16), byte(n>>8), byte(n)
	return dst, nil
}

// identify gives a message its identifiers.
func identify(frame []byte, hop, end uint32) []byte {
	binary.BigEndian.PutUint32(frame[12:], hop)
	binary.BigEndian.PutUint32(frame[16:], end)
	return frame
}

// era is 1970 in seconds since 1900 (RFC 6733 §4.3.1).
const era = 2_208_988_800

// text writes a with another value; empty and Keep: as it is.
func (w *Rewriter) text(dst []byte, a *diameter.AVP, whole []byte, v string) []byte {
	if v == "" || v == Keep {
		return append(dst, whole...)
	}
	return put(dst, a, []byte(v))
}

// put writes a with other data: code, flags and vendor stay.
func put(dst []byte, a *diameter.AVP, data []byte) []byte {
	head := len(a.Raw) - len(a.Data)
	start := len(dst)
	dst = append(append(dst, a.Raw[:head]...), data...)
	n := head + len(data)
	dst[start+5], dst[start+6], dst[start+7] = byte(n>>16), byte(n>>8), byte(n)
	return append(dst, make([]byte, -n&3)...)
}

// Session is the Session-Id that a captured one becomes. The run's mark goes
// behind the host, so that the id still begins with who made it and ends as
// clients that put an IMSI there want it.
func (w *Rewriter) Session(id string) string {
	id = w.Mapping.session(id)
	if w.Run == "" {
		return id
	}
	host, rest, ok := strings.Cut(id, ";")
	mark := ";" + w.Run
	if ok {
		mark += ";"
	}
	if len(id)+len(mark) > diameter.IdentityMax { // so long that a part must go: its hash stays
		h := fnv.New64a()
		h.Write([]byte(id))
		mark += fmt.Sprintf("%016x;", h.Sum64())
		all := host + ";" + rest
		room := diameter.IdentityMax - len(mark)
		return all[:room/2] + mark + all[len(all)-room/2:]
	}
	return host + mark + rest
}

// subscriber reads a Subscription-Id; empty: it cannot be.
func subscriber(a *diameter.AVP) (scheme, value string) {
	kind, _ := diameter.Find(a.Data, diameter.SubscriptionIDType)
	data, ok := diameter.Find(a.Data, diameter.SubscriptionIDData)
	t, err := kind.Uint32()
	if err != nil || !ok || t >= uint32(len(schemes)) {
		return "", ""
	}
	return schemes[t], string(data.Data)
}

// identity is how a message names its subscriber.
type identity struct{ scheme, value string }

// everybody is how a message is to name the one whom everybody becomes: in the
// ways that it was captured with, or else in the first that this one has.
func (w *Rewriter) everybody(body []byte) (names []identity) {
	seen := make(map[string]bool)
	for b := body; len(b) > 0 && w.Mapping.all != nil; {
		a, rest, err := diameter.Next(b)
		if err != nil {
			break
		}
		if b = rest; a.Attr != diameter.SubscriptionID {
			continue
		}
		scheme, value := subscriber(&a)
		if to, ok := w.Mapping.all[scheme]; ok && !seen[scheme] {
			seen[scheme] = true
			names = append(names, identity{scheme, like(scheme, value, to)})
		}
	}
	for _, scheme := range []string{"imsi", "msisdn", "sip", "nai", "private"} {
		if to, ok := w.Mapping.all[scheme]; ok && len(names) == 0 {
			names = append(names, identity{scheme, to})
		}
	}
	return names
}

// subscription writes a Subscription-Id as the mapping has it. Where everybody
// becomes one, the first of a message is followed by all that are to be there,
// and the others are left out.
func (w *Rewriter) subscription(dst []byte, a *diameter.AVP, whole []byte, names *[]identity) []byte {
	if w.Mapping.all == nil {
		scheme, value := subscriber(a)
		to, ok := w.Mapping.one[scheme+":"+normal(scheme, value)]
		if !ok {
			return append(dst, whole...)
		}
		return name(dst, a, identity{scheme, like(scheme, value, to)})
	}
	for _, n := range *names {
		dst = name(dst, a, n)
	}
	*names = nil
	return dst
}

// like is an identity in the form in which another one was captured.
func like(scheme, captured, v string) string {
	switch {
	case scheme == "msisdn" && strings.HasPrefix(captured, "+"):
		return "+" + v
	case scheme == "sip" && strings.HasPrefix(strings.ToLower(captured), "sip:"):
		return captured[:4] + v
	}
	return v
}

// name writes a with another identity in it.
func name(dst []byte, a *diameter.AVP, n identity) []byte {
	var inner []byte
	for b := a.Data; len(b) > 0; {
		c, rest, err := diameter.Next(b)
		if err != nil {
			break // nothing behind the identity could be read
		}
		part := b[:len(b)-len(rest)]
		b = rest
		switch c.Attr {
		case diameter.SubscriptionIDType:
			inner = put(inner, &c, binary.BigEndian.AppendUint32(nil, number(n.scheme)))
		case diameter.SubscriptionIDData:
			inner = put(inner, &c, []byte(n.value))
		default:
			inner = append(inner, part...)
		}
	}
	return put(dst, a, inner)
}

// number is the Subscription-Id-Type of a scheme.
func number(scheme string) uint32 {
	for i, s := range schemes {
		if s == scheme {
			return uint32(i)
		}
	}
	return 0
}
