package rating

import (
	"slices"
	"time"
)

// BandsMax bounds the time bands of one plan.
const BandsMax = 64

// A Band is a part of the week, by the clock of the plan's zone.
type Band struct {
	Name string
	Days Days
	From int // minutes since midnight at which it begins
	To   int // … at which it ends; not above From: on the next day
}

// Days is a set of days: bit 0 is Sunday, as in time.Weekday, bit 7 every holiday.
type Days uint8

// Holiday is the day of a plan's calendar. It is none of the week's.
const Holiday = 7

// Has reports whether the set has that day.
func (d Days) Has(day int) bool { return d>>day&1 != 0 }

// How long a day is on the clock's face; on two days a year the clock is changed.
const (
	dayMinutes = 24 * 60
	daySeconds = dayMinutes * 60
)

// within reports whether b is on at that minute of that day; before is the day before.
func (b *Band) within(day, before, minute int) bool {
	if b.From < b.To {
		return b.Days.Has(day) && b.From <= minute && minute < b.To
	}
	return b.Days.Has(day) && b.From <= minute || b.Days.Has(before) && minute < b.To
}

// A moment is a time as a plan's clock and calendar show it.
type moment struct {
	at          time.Time
	second      int // of the day
	day, before int
}

func (p *Plan) moment(at time.Time) (m moment) {
	m.at = at
	local := at.UTC()
	if p.Zone != nil {
		local = at.In(p.Zone)
	}
	_, offset := local.Zone()
	face := local.Unix() + int64(offset)
	m.second = int((face%daySeconds + daySeconds) % daySeconds)
	date := (face - int64(m.second)) / daySeconds
	m.day, m.before = p.day(date), p.day(date-1)
	return m
}

// day is what sort of day that is.
func (p *Plan) day(date int64) int {
	if _, ok := slices.BinarySearch(p.Holidays, date); ok {
		return Holiday
	}
	return int((date%7 + 11) % 7) // 1970 began on a Thursday
}

// on is the set of the plan's bands that are on: bit i is Bands[i].
func (p *Plan) on(m *moment) (on uint64) {
	for i := range p.Bands {
		if p.Bands[i].within(m.day, m.before, m.second/60) {
			on |= 1 << i
		}
	}
	return on
}

// Always reports whether one of these bands is on at any time: bit i is Bands[i].
func (p *Plan) Always(bands uint64) bool {
	minutes := []int{0} // at which one ends, or the day begins
	for i := range p.Bands {
		minutes = append(minutes, p.Bands[i].From, p.Bands[i].To%dayMinutes)
	}
	on := func(day, before, minute int) bool {
		for i := range p.Bands {
			if bands>>i&1 != 0 && p.Bands[i].within(day, before, minute) {
				return true
			}
		}
		return false
	}
	for day := range Holiday + 1 {
		for before := range Holiday + 1 {
			if day != Holiday && before != Holiday && day != (before+1)%7 {
				continue
			}
			for _, minute := range minutes {
				if !on(day, before, minute) {
					return false
				}
			}
		}
	}
	return true
}

// until is when the first of a plan's bands begins or ends after m, or its clock is
// changed: at no time before that another one is on.
func (p *Plan) until(m *moment) time.Time {
	first := dayMinutes // midnight: another day
	for i := range p.Bands {
		for _, minute := range [2]int{p.Bands[i].From, p.Bands[i].To} {
			if minute*60 > m.second {
				first = min(first, minute)
			}
		}
	}
	next := m.at.Truncate(time.Second).Add(time.Duration(first*60-m.second) * time.Second)
	if p.Zone != nil {
		if _, change := m.at.In(p.Zone).ZoneBounds(); !change.IsZero() && change.Before(next) {
			return change
		}
	}
	return next
}
