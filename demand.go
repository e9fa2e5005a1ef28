package rtm

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

const (
	demandMax  = 100             // tenants of one instance whose demand the others are told
	demandSpan = time.Second / 2 // it is not measured over less
	spareParts = 10              // one in so many of a tenant's rate goes to all instances alike, whatever they want
)

// A demand measures how many sessions and events a second are to begin at an
// instance, of tenants that have a rate: others then leave it as much of that.
type demand struct {
	asked map[string]int64 // of each tenant, when that was counted
	at    time.Time
	rates map[string]float64 // a second
}

// measure takes what tenants have asked for until now. What falls is halved at
// most, so that a moment's pause costs nothing.
func (d *demand) measure(asked map[string]int64, now time.Time) map[string]float64 {
	span := now.Sub(d.at)
	if span < demandSpan {
		return d.rates
	}
	was := d.rates
	d.rates = make(map[string]float64)
	for name, n := range asked {
		rate := max(float64(n-d.asked[name])/span.Seconds(), was[name]/2)
		if rate > 0.1 {
			d.rates[name] = rate
		}
	}
	d.asked, d.at = asked, now
	if len(d.rates) > demandMax {
		names := slices.SortedFunc(maps.Keys(d.rates), func(a, b string) int {
			return cmp.Or(cmp.Compare(d.rates[b], d.rates[a]), cmp.Compare(a, b))
		})
		for _, name := range names[demandMax:] {
			delete(d.rates, name)
		}
	}
	return d.rates
}

// asked is how many sessions and events tenants that have a rate wanted to begin.
func (n *Instance) asked() map[string]int64 {
	asked := make(map[string]int64)
	n.Admission(func(a *Admission) {
		a.Classes(func(c *Class) {
			if c.Tenant != "" && c.weight.Rate > 0 {
				asked[c.Tenant] = c.Asked
			}
		})
	})
	return asked
}

// part is how much of a tenant's rate is that of the instance of that name. Each
// has what was asked for there, and what is left is divided equally; if more is
// asked for than the rate, it is divided like that. All parts together are the
// rate, if all have heard the same.
func part(rate float64, tenant, instance string, all []Presence) float64 {
	if len(all) == 0 {
		return rate
	}
	least := rate / float64(spareParts*len(all))
	sum, mine := 0.0, least
	for i := range all {
		want := all[i].Demand[tenant] + least
		sum += want
		if all[i].Name == instance {
			mine = want
		}
	}
	if sum >= rate {
		return rate * mine / sum
	}
	return mine + (rate-sum)/float64(len(all))
}
