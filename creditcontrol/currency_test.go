package creditcontrol

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rtm/charging"
	"rtm/diameter"
	"rtm/rating"
)

// Ten yen are not ten euros: the currency of a CC-Money is told to who charges, or it
// is refused.
func TestACurrencyIsNotIgnored(t *testing.T) {
	of := func(currency uint32) (*charging.Request, *diameter.AVPError) {
		_, r, err := decode(t, update(func(e *diameter.Encoder) {
			e.Open(diameter.RequestedServiceUnit)
			e.Open(diameter.CCMoney)
			e.Open(diameter.UnitValue)
			e.Uint64(diameter.ValueDigits, 10)
			e.Close()
			e.Uint32(diameter.CurrencyCode, currency)
			e.Close()
			e.Close()
		}))
		return r, err
	}
	eur, _ := of(978)
	if jpy, err := of(392); err == nil && cmp.Diff(eur.Asks, jpy.Asks) == "" {
		t.Errorf("10 JPY are asked for as 10 EUR are: %+v", jpy.Asks[0].Want)
	}
}

// A grant of money says which.
func TestAGrantOfMoneySaysWhich(t *testing.T) {
	var enc diameter.Encoder
	Encode(&enc, self, &Envelope{SessionID: []byte("s"), Type: 1, HasType: true, HasNumber: true}, &charging.Answer{
		Result: 2001, Currency: 978, Grants: []charging.Grant{{Group: 50, Has: charging.HasGroup, Result: 2001, Unit: rating.Money, Units: 2_500_000}},
	})
	if got := names(t, enc.Bytes()); !strings.Contains(got, "CC-Money\n[\nUnit-Value\n[\nValue-Digits\nExponent\n]\nCurrency-Code\n]") {
		t.Errorf("the answer is\n%s", got)
	}
}
