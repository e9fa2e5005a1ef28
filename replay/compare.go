package replay

import (
	"fmt"
	"slices"
	"strings"

	"rtm/diameter"
)

// A Verdict is what a CCA decides, as far as it is compared.
type Verdict struct {
	Result   diameter.Result `json:"result"`
	Vendor   uint32          `json:"vendor,omitempty"` // of an Experimental-Result
	Error    string          `json:"error,omitempty"`  // Error-Message
	Services []Service       `json:"services,omitempty"`
}

// A Service is one Multiple-Services-Credit-Control, or what stands for it at the
// level of the message: then it has neither name.
type Service struct {
	RatingGroup  *uint32         `json:"ratingGroup,omitempty"`
	Identifiers  []uint32        `json:"serviceIdentifiers,omitempty"`
	Result       diameter.Result `json:"result,omitempty"` // zero: there is none, the message's counts
	Granted      []Units         `json:"granted,omitempty"`
	ValidityTime *uint32         `json:"validityTime,omitempty"`
	FinalUnit    string          `json:"finalUnit,omitempty"`
}

// Units is one kind of a Granted-Service-Unit.
type Units struct {
	Kind  string `json:"kind"`
	Value uint64 `json:"value"`
}

// Name says which service it is.
func (s *Service) Name() string {
	var words []string
	if s.RatingGroup != nil {
		words = append(words, fmt.Sprintf("rating group %d", *s.RatingGroup))
	}
	for _, id := range s.Identifiers {
		words = append(words, fmt.Sprintf("service %d", id))
	}
	return strings.Join(words, " ")
}

// Judge reads the verdict of a CCA from its AVPs. What cannot be read is left out.
func Judge(body []byte) (v Verdict) {
	message := Service{}
	for b := body; len(b) > 0; {
		a, rest, err := diameter.Next(b)
		if err != nil {
			break
		}
		b = rest
		switch a.Attr {
		case diameter.ResultCode:
			n, _ := a.Uint32()
			v.Result = diameter.Result(n)
		case diameter.ExperimentalResult:
			if code, ok := diameter.Find(a.Data, diameter.ExperimentalResultCode); ok {
				n, _ := code.Uint32()
				v.Result = diameter.Result(n)
			}
			if vendor, ok := diameter.Find(a.Data, diameter.VendorID); ok {
				v.Vendor, _ = vendor.Uint32()
			}
		case diameter.ErrorMessage:
			v.Error = string(a.Data)
		case diameter.MultipleServicesCreditControl:
			s := Service{}
			s.read(a.Data)
			v.Services = append(v.Services, s)
		case diameter.GrantedServiceUnit, diameter.ValidityTime, diameter.FinalUnitIndication, diameter.QoSFinalUnitIndication:
			message.read(a.Raw)
		}
	}
	if len(message.Granted) > 0 || message.FinalUnit != "" || message.ValidityTime != nil {
		v.Services = append(v.Services, message)
	}
	return v
}

// read takes in what b says of a service.
func (s *Service) read(b []byte) {
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			return
		}
		b = rest
		n, _ := a.Uint32()
		switch a.Attr {
		case diameter.RatingGroup:
			s.RatingGroup = &n
		case diameter.ServiceIdentifier:
			s.Identifiers = append(s.Identifiers, n)
		case diameter.ResultCode:
			s.Result = diameter.Result(n)
		case diameter.ValidityTime:
			s.ValidityTime = &n
		case diameter.FinalUnitIndication, diameter.QoSFinalUnitIndication:
			s.FinalUnit = finalUnit(a.Data)
		case diameter.GrantedServiceUnit:
			s.Granted = append(s.Granted, units(a.Data)...)
		}
	}
}

// finalUnit is the Final-Unit-Action (RFC 8506 §8.35).
func finalUnit(b []byte) string {
	a, _ := diameter.Find(b, diameter.FinalUnitAction)
	n, err := a.Uint32()
	names := []string{"TERMINATE", "REDIRECT", "RESTRICT_ACCESS"}
	if err != nil || n >= uint32(len(names)) {
		return "unknown"
	}
	return names[n]
}

// units reads a Granted-Service-Unit. Zeros of one kind beside units of another
// say nothing, and are left out.
func units(b []byte) (out []Units) {
	some := false
	for len(b) > 0 {
		a, rest, err := diameter.Next(b)
		if err != nil {
			break
		}
		b = rest
		u := Units{Kind: a.Attr.String()}
		switch a.Attr {
		case diameter.CCTime:
			n, _ := a.Uint32()
			u.Value = uint64(n)
		case diameter.CCTotalOctets, diameter.CCInputOctets, diameter.CCOutputOctets, diameter.CCServiceSpecificUnits:
			u.Value, _ = a.Uint64()
		case diameter.CCMoney:
			u = money(a.Data)
		default: // when the tariff changes, and what vendors add
			continue
		}
		some = some || u.Value != 0
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b Units) int { return strings.Compare(a.Kind, b.Kind) })
	return slices.DeleteFunc(out, func(u Units) bool { return some && u.Value == 0 })
}

// money is an amount in its least digit, which is part of its kind.
func money(b []byte) Units {
	value, _ := diameter.Find(b, diameter.UnitValue)
	digits, _ := diameter.Find(value.Data, diameter.ValueDigits)
	exponent, _ := diameter.Find(value.Data, diameter.Exponent)
	n, _ := digits.Uint64()
	e, _ := exponent.Uint32()
	return Units{Kind: fmt.Sprintf("CC-Money in 10^%d", int32(e)), Value: n}
}

// A Difference is one thing that the replayed answer says otherwise.
type Difference struct {
	Result   bool   `json:"-"`               // a result code differs, not a grant
	Where    string `json:"where,omitempty"` // rating group, service; empty: the message
	What     string `json:"what"`            // Result-Code, CC-Total-Octets, …
	Captured string `json:"captured"`
	Replayed string `json:"replayed"`
}

const none = "none"

// Compare says what differs. Where Result-Codes differ and one of them is no
// success, what they are about is not compared any further: it can only differ.
func Compare(captured, replayed *Verdict) (out []Difference) {
	if captured.Result != replayed.Result || captured.Vendor != replayed.Vendor {
		out = append(out, Difference{Result: true, What: "Result-Code", Captured: captured.code(), Replayed: replayed.code()})
		if captured.Result/1000 != 2 || replayed.Result/1000 != 2 {
			return out
		}
	}
	left := slices.Clone(replayed.Services)
	for i := range captured.Services {
		s := &captured.Services[i]
		j := slices.IndexFunc(left, func(o Service) bool { return o.Name() == s.Name() })
		if j < 0 {
			out = s.compare(out, captured, replayed, nil)
			continue
		}
		out = s.compare(out, captured, replayed, &left[j])
		left = slices.Delete(left, j, j+1)
	}
	for i := range left {
		s := &left[i]
		for _, d := range s.compare(nil, replayed, captured, nil) {
			d.Captured, d.Replayed = d.Replayed, d.Captured
			out = append(out, d)
		}
	}
	return out
}

// code is the message's Result-Code.
func (v *Verdict) code() string {
	switch {
	case v.Result == 0:
		return none
	case v.Vendor != 0:
		return fmt.Sprintf("%d of vendor %d", uint32(v.Result), v.Vendor)
	}
	return v.Result.String()
}

// compare adds what o, the same service of another answer, says otherwise; nil:
// the answer has none. A service without a Result-Code, or that is not there, has
// the message's.
func (s *Service) compare(out []Difference, mine, other *Verdict, o *Service) []Difference {
	where := s.Name()
	missing := o == nil
	if missing {
		o = &Service{}
	}
	add := func(result bool, what, a, b string) {
		if a != b {
			out = append(out, Difference{result, where, what, a, b})
		}
	}
	if a, b := s.result(mine), o.result(other); a != b {
		add(true, "Result-Code", a.String(), b.String())
		if a/1000 != 2 || b/1000 != 2 {
			return out
		}
	}
	if missing {
		add(false, "Multiple-Services-Credit-Control", "there", none)
	}
	kinds := make(map[string]bool)
	for _, u := range append(slices.Clone(s.Granted), o.Granted...) {
		if !kinds[u.Kind] {
			kinds[u.Kind] = true
			add(false, u.Kind, granted(s.Granted, u.Kind), granted(o.Granted, u.Kind))
		}
	}
	add(false, "Validity-Time", optional(s.ValidityTime), optional(o.ValidityTime))
	add(false, "Final-Unit-Action", orNone(s.FinalUnit), orNone(o.FinalUnit))
	return out
}

func (s *Service) result(v *Verdict) diameter.Result {
	if s.Result != 0 {
		return s.Result
	}
	return v.Result
}

func granted(us []Units, kind string) string {
	for _, u := range us {
		if u.Kind == kind {
			return fmt.Sprint(u.Value)
		}
	}
	return none
}

func optional(n *uint32) string {
	if n == nil {
		return none
	}
	return fmt.Sprint(*n)
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}
