package tenant

import (
	"fmt"
	"net/netip"
	"time"

	"rtm/rating"
)

// What is rarely meant.
const (
	validityLeast = time.Minute      // below it, gateways ask more for time than for units
	graceLeast    = 10 * time.Second // Tx of the credit-control client (RFC 8506 §13)
)

// Doubts lists what documents that Parse found right say, and surely do not
// mean. They are as the errors of Parse, and hinder nothing.
func (d *Documents) Doubts() (doubts []error) {
	for i := range d.Plans {
		p := &d.Plans[i]
		for _, err := range p.doubts() {
			doubts = append(doubts, p.origin.explain(nil, err))
		}
	}
	for i := range d.Peers {
		p := &d.Peers[i]
		for j, s := range p.Sources {
			if n, err := netip.ParsePrefix(s); err == nil && n.Bits() == 0 && p.Host == "*" {
				doubts = append(doubts, p.origin.explain(nil, wrong(fmt.Sprintf("sources[%d]", j),
					"any host from any address is let in: name the networks that gateways connect from")))
			}
		}
	}
	return doubts
}

func (p *PlanDoc) doubts() (doubts []error) {
	plan, err := p.Compile(1)
	if err != nil {
		return nil
	}
	ungrouped := false
	for i := range plan.Services {
		s, at := &plan.Services[i], fmt.Sprintf("services[%d]", i)
		ungrouped = ungrouped || s.Ungrouped()
		if first := covering(plan.Services[:i], s); first != nil {
			doubts = append(doubts, wrong(at+".name", "%q never applies, since %q before it takes all that it could: write it further up", s.Name, first.Name))
		}
		if (len(s.Zones) > 0 || s.Bands != 0) && !complemented(plan, s) {
			doubts = append(doubts, wrong(at+".name", "%q has zones or times, and outside of them nothing takes what it takes there: that is answered 5031; write a service without them behind it", s.Name))
		}
		if v := s.Quota.Validity; v < validityLeast {
			doubts = append(doubts, wrong(at+".quota.validity", "each open session asks again every %s: write a minute or more", v))
		}
	}
	if !ungrouped {
		doubts = append(doubts, wrong("services", "no service takes what names neither rating group nor service, as Open5GS' messages do: "+
			"it is answered 5031; write default: true at the one that should"))
	}
	if plan.Grace < graceLeast {
		doubts = append(doubts, wrong("grace", "%s is less than the %s after which a gateway repeats a report: "+
			"its reservation may be gone when that comes", plan.Grace, graceLeast))
	}
	return doubts
}

// complemented reports whether some service takes what s takes, wherever and whenever.
func complemented(plan *rating.Plan, s *rating.Service) bool {
	bare, bands := *s, uint64(0)
	bare.Zones, bare.Bands = nil, 0
	for i := range plan.Services {
		o := plan.Services[i]
		when := o.Bands
		o.Bands = 0
		if o.Covers(&bare) { // it has no zones, or not these
			if when == 0 {
				return true
			}
			bands |= when
		}
	}
	return plan.Always(bands)
}

// covering is the first of services that covers s; nil: none does.
func covering(services []rating.Service, s *rating.Service) *rating.Service {
	for i := range services {
		if services[i].Covers(s) {
			return &services[i]
		}
	}
	return nil
}
