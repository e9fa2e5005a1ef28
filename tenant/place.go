package tenant

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // what a plan's clock shows must not depend on the machine

	"rtm/rating"
)

// A ZoneDoc is where a subscriber is, whom the user calls, or both. Of several zones with
// numbers the one with the longest prefix is meant.
type ZoneDoc struct {
	Name     string   `json:"name"`
	Networks []string `json:"networks,omitempty"` // serving networks: "26201", a country "262", countries "310-316"; left out: all
	Called   []string `json:"called,omitempty"`   // first digits of numbers that are called, without plus: "49", "4915"; left out: all
}

// A TimeDoc is a part of the week, by the plan's clock.
type TimeDoc struct {
	Name string   `json:"name"`
	Days []string `json:"days,omitempty"` // mon, mon-fri, holiday …; left out: all
	From string   `json:"from,omitempty"` // "22:00"; left out: midnight
	To   string   `json:"to,omitempty"`   // "06:00", on the next day if it is not after From; left out: midnight
}

// prefixesMax bounds the prefixes that are written out in a plan.
const prefixesMax = 10_000

// compilePlaces reads zones, times, the clock and the calendar.
func (p *PlanDoc) compilePlaces(plan *rating.Plan) (err error) {
	if p.TimeZone != "" {
		if plan.Zone, err = time.LoadLocation(p.TimeZone); err != nil || p.TimeZone == "Local" {
			return wrong("timeZone", "%q must be a zone such as Europe/Berlin", short(p.TimeZone))
		}
	}
	if len(p.Holidays) > listMax {
		return wrong("holidays", "are %d; %d are possible", len(p.Holidays), listMax)
	}
	for i, h := range p.Holidays {
		day, err := time.Parse(time.DateOnly, h)
		if err != nil {
			return wrong(fmt.Sprintf("holidays[%d]", i), "%q must be a date such as 2027-12-25", short(h))
		}
		plan.Holidays = append(plan.Holidays, day.Unix()/86400)
	}
	slices.Sort(plan.Holidays)
	return first(p.compileTimes(plan), p.compileZones(plan))
}

func (p *PlanDoc) compileTimes(plan *rating.Plan) (err error) {
	if len(p.Times) > rating.BandsMax {
		return wrong("times", "are %d; %d are possible", len(p.Times), rating.BandsMax)
	}
	for i := range p.Times {
		d, at := &p.Times[i], fmt.Sprintf("times[%d]", i)
		b := rating.Band{Name: d.Name, To: 24 * 60}
		if err := first(checkGiven(at+".name", d.Name, "night"), checkTitle(at+".name", d.Name, titleMax)); err != nil {
			return err
		}
		if slices.ContainsFunc(plan.Bands, func(o rating.Band) bool { return o.Name == d.Name }) {
			return wrong(at+".name", "%q is the name of another time of the plan already", d.Name)
		}
		if b.Days, err = days(at+".days", d.Days); err != nil {
			return err
		}
		if d.From != "" {
			if b.From, err = minuteOf(at+".from", d.From); err != nil {
				return err
			}
		}
		if d.To != "" && d.To != "00:00" {
			if b.To, err = minuteOf(at+".to", d.To); err != nil {
				return err
			}
		}
		if b.From == b.To {
			return wrong(at+".to", "%q is when it begins: leave both out if it is the whole day", d.To)
		}
		if err := clockChanges(at, d, &b, plan.Zone); err != nil {
			return err
		}
		plan.Bands = append(plan.Bands, b)
	}
	return nil
}

var dayNames = map[string]int{"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6, "holiday": rating.Holiday}

// days reads names of days, and from one to another; none: all.
func days(path string, names []string) (set rating.Days, err error) {
	if len(names) == 0 {
		return 0xFF, nil
	}
	for i, name := range names {
		begin, end, several := strings.Cut(name, "-")
		from, ok := dayNames[begin]
		to := from
		if several {
			var there bool
			to, there = dayNames[end]
			ok = ok && there && from != rating.Holiday && to != rating.Holiday
		}
		if !ok {
			return 0, wrong(fmt.Sprintf("%s[%d]", path, i), "%q must be one of %s, or from one to another, such as mon-fri", short(name), "mon, tue, wed, thu, fri, sat, sun, holiday")
		}
		for day := from; ; day = (day + 1) % 7 {
			if set |= 1 << day; day == to {
				break
			}
		}
	}
	return set, nil
}

// minuteOf reads a time of day.
func minuteOf(path, text string) (int, error) {
	t, err := time.Parse("15:04", text)
	if err != nil || len(text) != 5 {
		return 0, wrong(path, "%q must be a time of day such as 06:30", short(text))
	}
	return t.Hour()*60 + t.Minute(), nil
}

// clockChanges refuses a time that begins or ends while the clock is changed: in the hour
// that is left out it would not come, in the hour that comes twice it would come twice.
// The changes of two years are looked at; where their rules change later, what is in
// force is by the clock, whatever that shows.
func clockChanges(at string, d *TimeDoc, b *rating.Band, zone *time.Location) error {
	if zone == nil {
		return nil
	}
	for change := time.Date(2026, 1, 1, 0, 0, 0, 0, zone); ; {
		_, end := change.ZoneBounds()
		if end.IsZero() || end.Year() > 2028 {
			return nil
		}
		_, before := end.Add(-time.Second).In(zone).Zone()
		_, after := end.In(zone).Zone()
		face := func(offset int) int { return int(((end.Unix()+int64(offset))%86400+86400)%86400) / 60 }
		low, high := min(face(before), face(after)), max(face(before), face(after))
		for _, edge := range []struct {
			key, text string
			minute    int
		}{{"from", d.From, b.From}, {"to", d.To, b.To}} {
			if low < edge.minute && edge.minute < high {
				what := "is left out"
				if after < before {
					what = "comes twice"
				}
				return wrong(at+"."+edge.key, "%q %s on %s, when the clock in %s goes from %s to %s: write one of these two", edge.text, what, end.In(zone).Format(time.DateOnly), zone,
					clockFace(face(before)), clockFace(face(after)))
			}
		}
		change = end.Add(time.Second)
	}
}

func clockFace(minute int) string { return fmt.Sprintf("%02d:%02d", minute/60, minute%60) }

func (p *PlanDoc) compileZones(plan *rating.Plan) error {
	if len(p.Zones) > rating.ZonesMax {
		return wrong("zones", "are %d; %d are possible", len(p.Zones), rating.ZonesMax)
	}
	for i := range p.Zones {
		d, at := &p.Zones[i], fmt.Sprintf("zones[%d]", i)
		z := rating.Zone{Name: d.Name, Calls: len(d.Called) > 0}
		if err := first(checkGiven(at+".name", d.Name, "eu"), checkTitle(at+".name", d.Name, titleMax)); err != nil {
			return err
		}
		if slices.ContainsFunc(plan.Zones, func(o rating.Zone) bool { return o.Name == d.Name }) {
			return wrong(at+".name", "%q is the name of another zone of the plan already", d.Name)
		}
		if len(d.Networks)+len(d.Called) == 0 {
			return wrong(at, "it names no place: write networks: [\"262\"] or called: [\"49\"]")
		}
		if len(d.Networks) > prefixesMax || plan.Prefixes.Len()+len(d.Called) > prefixesMax {
			return wrong(at, "its lists are longer than %d", prefixesMax)
		}
		for j, text := range d.Networks {
			n, ok := networkOf(text)
			if !ok {
				return wrong(fmt.Sprintf("%s.networks[%d]", at, j), "%q must be a network such as 26201, a country such as 262, or countries such as 310-316", short(text))
			}
			z.Networks = append(z.Networks, n)
		}
		for j, digits := range d.Called {
			prefix, ok := rating.PrefixOf(digits)
			if !ok {
				return wrong(fmt.Sprintf("%s.called[%d]", at, j), "%q must be up to %d digits, without plus", short(digits), rating.PrefixMax)
			}
			if other, taken := plan.Prefixes.Put(prefix, uint16(i)); taken {
				return wrong(fmt.Sprintf("%s.called[%d]", at, j), "%q is in zone %s already", digits, append(plan.Zones, z)[other].Name)
			}
		}
		plan.Zones = append(plan.Zones, z)
	}
	return nil
}

// networkOf reads a serving network: "26201", "310410", "262", "310-316".
func networkOf(text string) (n rating.Network, ok bool) {
	number := func(digits string, least, most int) (uint16, bool) {
		v, err := strconv.ParseUint(digits, 10, 16)
		return uint16(v), err == nil && len(digits) >= least && len(digits) <= most
	}
	if from, to, several := strings.Cut(text, "-"); several {
		a, ok := number(from, 3, 3)
		b, there := number(to, 3, 3)
		return rating.Network{From: a, To: b}, ok && there && a < b
	}
	if len(text) < 3 {
		return n, false
	}
	if n.From, ok = number(text[:3], 3, 3); ok && len(text) > 3 {
		n.Code = text[3:]
		_, ok = number(n.Code, 2, 3)
	}
	n.To = n.From
	return n, ok
}

// place resolves the names of the zones and times that a service applies in.
func (s *ServiceDoc) place(at string, r *rating.Service, plan *rating.Plan) error {
	for i, name := range s.Zones {
		j := slices.IndexFunc(plan.Zones, func(z rating.Zone) bool { return z.Name == name })
		if j < 0 {
			return wrong(fmt.Sprintf("%s.zones[%d]", at, i), "%q is not among the plan's zones: add it there", short(name))
		}
		r.Zones = append(r.Zones, uint16(j))
	}
	for i, name := range s.Times {
		j := slices.IndexFunc(plan.Bands, func(b rating.Band) bool { return b.Name == name })
		if j < 0 {
			return wrong(fmt.Sprintf("%s.times[%d]", at, i), "%q is not among the plan's times: add it there", short(name))
		}
		r.Bands |= 1 << j
	}
	return nil
}

// placesUsed finds a zone or a time that no service names.
func (p *PlanDoc) placesUsed() error {
	for i := range p.Zones {
		if name := p.Zones[i].Name; !slices.ContainsFunc(p.Services, func(s ServiceDoc) bool { return slices.Contains(s.Zones, name) }) {
			return wrong(fmt.Sprintf("zones[%d].name", i), "%q prices nothing: name it in a service, as zones: [%s]", name, name)
		}
	}
	for i := range p.Times {
		if name := p.Times[i].Name; !slices.ContainsFunc(p.Services, func(s ServiceDoc) bool { return slices.Contains(s.Times, name) }) {
			return wrong(fmt.Sprintf("times[%d].name", i), "%q prices nothing: name it in a service, as times: [%s]", name, name)
		}
	}
	return nil
}
