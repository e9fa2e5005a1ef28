package rating

import (
	"fmt"
	"slices"
	"strings"
)

// Why says why service i of the plan, from 0, does not apply to f; empty: it does.
func (p *Plan) Why(i int, f *Facts) string {
	s := &p.Services[i]
	switch {
	case !among(s.Contexts, f.Context):
		return fmt.Sprintf("context %d is not %s", f.Context, numbers(s.Contexts))
	case !s.charges(f):
		return s.otherGroup(f)
	case !s.names(f.APN):
		return fmt.Sprintf("APN %q is not %s", f.APN, strings.Join(s.APNs, " or "))
	case !s.carries(f.Media):
		return "the call carries other media"
	case len(s.Zones) > 0 && !s.in(p, f, p.called(f)):
		names := make([]string, len(s.Zones))
		for j, z := range s.Zones {
			names[j] = p.Zones[z].Name
		}
		return fmt.Sprintf("%s is not in %s", p.where(f), strings.Join(names, " or "))
	}
	if m := p.moment(f.At); s.Bands != 0 && s.Bands&p.on(&m) == 0 {
		var names []string
		for j := range p.Bands {
			if s.Bands>>j&1 != 0 {
				names = append(names, p.Bands[j].Name)
			}
		}
		return "it is not " + strings.Join(names, " or ")
	}
	return ""
}

func (s *Service) otherGroup(f *Facts) string {
	switch {
	case len(s.Groups) > 0 && !(f.HasGroup && slices.Contains(s.Groups, f.Group)):
		if !f.HasGroup {
			return "it names no rating group, so it is not " + numbers(s.Groups)
		}
		return fmt.Sprintf("rating group %d is not %s", f.Group, numbers(s.Groups))
	case !f.HasService:
		return "it names no service, so it is not " + numbers(s.Services)
	}
	return fmt.Sprintf("service %d is not %s", f.Service, numbers(s.Services))
}

func numbers(list []uint32) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = fmt.Sprint(n)
	}
	return strings.Join(words, " or ")
}

// where says in which zone of numbers f's called party is, and in which network it is.
func (p *Plan) where(f *Facts) string {
	var words []string
	if len(f.Called) > 0 {
		zone := "no zone"
		if z := p.called(f); z >= 0 {
			zone = "zone " + p.Zones[z].Name
		}
		words = append(words, fmt.Sprintf("number %s (%s)", f.Called, zone))
	}
	if len(f.PLMN) > 0 {
		words = append(words, fmt.Sprintf("network %s", f.PLMN))
	}
	if words == nil {
		return "a place that nobody names"
	}
	return strings.Join(words, ", ")
}

// called is the zone of the number that f calls; below zero: it has none.
func (p *Plan) called(f *Facts) int {
	if z, ok := p.Prefixes.Zone(f.Called); ok {
		return int(z)
	}
	return -1
}
