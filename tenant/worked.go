package tenant

import (
	"fmt"
	"time"

	"rtm/rating"
)

// An ExampleDoc is a usage and what it must cost by the plan that it stands in: the plan
// is refused where it comes out otherwise.
type ExampleDoc struct {
	Context     uint32  `json:"context,omitempty"`     // default 32251
	RatingGroup *uint32 `json:"ratingGroup,omitempty"` // left out: none
	ServiceID   *uint32 `json:"serviceId,omitempty"`   // left out: none
	APN         string  `json:"apn,omitempty"`         // Called-Station-Id
	Network     string  `json:"network,omitempty"`     // MCC and MNC of the serving network
	Called      string  `json:"called,omitempty"`      // who is called
	Media       string  `json:"media,omitempty"`       // of a call: audio or video
	At          string  `json:"at,omitempty"`          // RFC 3339; default when the plan starts
	Quantity    string  `json:"quantity"`              // of a whole session
	Service     string  `json:"service,omitempty"`     // the service that must apply; empty: any
	Cost        string  `json:"cost"`                  // what it must cost, in money
}

// facts is what a message of the example says.
func (d *ExampleDoc) facts(at string, begins time.Time) (*rating.Facts, error) {
	f := &rating.Facts{Context: d.Context, APN: []byte(d.APN), PLMN: []byte(d.Network), Called: []byte(d.Called), Media: media[d.Media], At: begins}
	if f.Context == 0 {
		f.Context = 32251
	}
	if d.Media != "" && f.Media == 0 {
		return nil, choose(at+".media", d.Media, "audio", "video")
	}
	if d.RatingGroup != nil {
		f.Group, f.HasGroup = *d.RatingGroup, true
	}
	if d.ServiceID != nil {
		f.Service, f.HasService = *d.ServiceID, true
	}
	if d.At != "" {
		when, err := time.Parse(time.RFC3339, d.At)
		if err != nil {
			return nil, wrong(at+".at", "%q must be a time with its zone, such as 2027-01-01T22:30:00+01:00", short(d.At))
		}
		f.At = when
	}
	return f, nil
}

// proveExamples works the examples of a plan.
func (p *PlanDoc) proveExamples(plan *rating.Plan) error {
	if len(p.Examples) > listMax {
		return wrong("examples", "are %d; %d are possible", len(p.Examples), listMax)
	}
	begins, err := p.Begins()
	if err != nil {
		return err
	}
	for i := range p.Examples {
		if err := p.Examples[i].prove(fmt.Sprintf("examples[%d]", i), plan, begins); err != nil {
			return err
		}
	}
	return nil
}

// whyNot says why the service of that name does not apply to f, or, of no name, the last one.
func whyNot(plan *rating.Plan, f *rating.Facts, name string) string {
	for i := range plan.Services {
		if s := &plan.Services[i]; s.Name == name || name == "" && i == len(plan.Services)-1 {
			if why := plan.Why(i, f); why != "" {
				return s.Name + ": " + why
			}
			return "that is before it"
		}
	}
	return "the plan has none of that name"
}

func (d *ExampleDoc) prove(at string, plan *rating.Plan, begins time.Time) error {
	if err := first(checkGiven(at+".quantity", d.Quantity, "5 MiB"), checkGiven(at+".cost", d.Cost, `"0.05"`)); err != nil {
		return err
	}
	f, err := d.facts(at, begins)
	if err != nil {
		return err
	}
	price, _, ok := plan.Price(f)
	switch {
	case !ok:
		return wrong(at, "no service of the plan applies to it: %s", whyNot(plan, f, ""))
	case d.Service != "" && d.Service != price.Name:
		return wrong(at+".service", "it is %q that applies, not %q: %s", price.Name, short(d.Service), whyNot(plan, f, d.Service))
	}
	n, err := ParseQuantity(d.Quantity, price.Unit)
	if err != nil {
		return wrong(at+".quantity", "%v", err)
	}
	want, err := ParseMoney(d.Cost)
	if err != nil {
		return wrong(at+".cost", "%v", err)
	}
	got := rating.Micros(0)
	if !price.NoMoney {
		if got, ok = price.Total(n); !ok {
			return wrong(at+".quantity", "%s cost more than can be counted", FormatQuantity(n, price.Unit))
		}
	}
	if got != want {
		return wrong(at+".cost", "%s of %q cost %s, not %s", FormatQuantity(n, price.Unit), price.Name, FormatMoney(got), FormatMoney(want))
	}
	return nil
}
