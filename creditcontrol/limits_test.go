package creditcontrol

import (
	"strings"
	"testing"

	"rtm/diameter"
)

// What a message may hold, and not one more of it (docs/limits.md).
func TestBounds(t *testing.T) {
	total := func(unit diameter.Attr, n uint64) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) {
			e.Open(diameter.MultipleServicesCreditControl)
			e.Open(unit)
			e.Uint64(diameter.CCTotalOctets, n)
			e.Close()
			e.Close()
		}
	}
	repeated := func(n int, one func(e *diameter.Encoder)) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) {
			for range n {
				one(e)
			}
		}
	}
	class := func(e *diameter.Encoder) { e.String(diameter.Class, "x") }
	service := func(e *diameter.Encoder) { e.Open(diameter.MultipleServicesCreditControl); e.Close() }
	deep := func(n int) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) {
			var b []byte // the encoder itself goes no deeper than may be
			for range n {
				b = append([]byte{0, 0, 1, 23, diameter.FlagM, 0, 0, byte(8 + len(b))}, b...) // Failed-AVP
			}
			e.Raw(b)
		}
	}
	subscriber := func(kind uint32, octets int) func(e *diameter.Encoder) {
		return func(e *diameter.Encoder) {
			e.Open(diameter.SubscriptionID)
			e.Uint32(diameter.SubscriptionIDType, kind)
			e.String(diameter.SubscriptionIDData, strings.Repeat("1", octets))
			e.Close()
		}
	}
	const own = 8 // AVPs that each message below has beside
	for name, c := range map[string]struct {
		session      int // octets of the Session-Id; zero: a few
		fits, beyond func(e *diameter.Encoder)
		want         diameter.Result
	}{
		"AVPs":                       {fits: repeated(512-own, class), beyond: repeated(513-own, class), want: diameter.AVPOccursTooManyTimes},
		"groups in groups":           {fits: deep(8), beyond: deep(9), want: diameter.AVPOccursTooManyTimes},
		"rating groups":              {fits: repeated(64, service), beyond: repeated(65, service), want: diameter.AVPOccursTooManyTimes},
		"units that are asked for":   {fits: total(diameter.RequestedServiceUnit, 1<<53), beyond: total(diameter.RequestedServiceUnit, 1<<53+1), want: diameter.InvalidAVPValue},
		"units that are reported":    {fits: total(diameter.UsedServiceUnit, 1<<50), beyond: total(diameter.UsedServiceUnit, 1<<50+1), want: diameter.InvalidAVPValue},
		"digits of an IMSI":          {fits: subscriber(1, 64), beyond: subscriber(1, 65), want: diameter.InvalidAVPValue},
		"octets of another identity": {fits: subscriber(4, 255), beyond: subscriber(4, 256), want: diameter.InvalidAVPValue},
	} {
		if err := sent(t, "s", c.fits); err != nil {
			t.Errorf("%s: as many as may be: %v", name, err)
		}
		if err := sent(t, "s", c.beyond); err == nil || err.Result != c.want {
			t.Errorf("%s: one more: %v, want %d", name, err, c.want)
		}
	}
	none := func(*diameter.Encoder) {}
	if err := sent(t, strings.Repeat("s", 255), none); err != nil {
		t.Errorf("a Session-Id of 255 octets: %v", err)
	}
	if err := sent(t, strings.Repeat("s", 256), none); err == nil || err.Attr != diameter.SessionID {
		t.Errorf("a Session-Id of 256 octets: %v", err)
	}
}

// sent is what becomes of an update with that session and what is said beside.
func sent(t *testing.T, session string, say func(e *diameter.Encoder)) *diameter.AVPError {
	t.Helper()
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, 1, 1)
	e.String(diameter.SessionID, session)
	e.String(diameter.OriginHost, "gw.far")
	e.String(diameter.OriginRealm, "far")
	e.String(diameter.DestinationRealm, "far")
	e.Uint32(diameter.AuthApplicationID, 4)
	e.String(diameter.ServiceContextID, "32251@3gpp.org")
	e.Uint32(diameter.CCRequestType, 2)
	e.Uint32(diameter.CCRequestNumber, 1)
	say(&e)
	_, _, err := decode(t, e.Bytes())
	return err
}
