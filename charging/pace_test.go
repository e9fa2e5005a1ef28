package charging

import (
	"testing"
	"time"

	"rtm/rating"
)

// A drive is a gateway whose user takes so many octets a second, until he has had a GB.
// An answer comes after 200 ms; meanwhile the user goes on, also beyond what is left.
type drive struct {
	ccrs    int
	overrun int64 // octets used beyond what was granted
}

func (r *rig) drive(speed int64) (d drive) {
	const wait, gigabyte = 200 * time.Millisecond, 1_000_000_000
	sent := int64(0)
	ask := func(kind Kind, used int64) Grant {
		q := ccr(kind, uint32(d.ccrs), used, 1)
		d.ccrs++
		return r.do(q).Grants[0]
	}
	g := ask(Initial, 0)
	since := int64(0) // used since the last report
	for sent < gigabyte && g.Units > 0 {
		until := min(max(g.Units-g.Threshold-since, 0), int64(g.Validity)*speed)
		r.w.Now = r.w.Now.Add(time.Duration(float64(until) / float64(speed) * float64(time.Second)))
		since += until
		meanwhile := speed * int64(wait) / int64(time.Second)
		d.overrun += max(meanwhile-(g.Units-since), 0)
		sent += since
		g = ask(Update, since)
		r.w.Now = r.w.Now.Add(wait)
		since = meanwhile
	}
	ask(Termination, since)
	return d
}

// Quotas that follow the speed of use take far fewer messages of a fast user, and fewer
// of a slow one, than fixed ones, and let neither have more that was not granted; and
// with little money left they get small.
func TestQuotasThatFollowTheSpeedOfUse(t *testing.T) {
	fixed := rating.Quota{Size: 10 * mib, Threshold: 2 * mib, Validity: time.Hour}
	follows := fixed
	follows.Most, follows.Least, follows.Lasts = 1<<30, mib, 5*time.Minute
	for _, c := range []struct {
		user        string
		speed       int64 // octets a second
		money       rating.Micros
		fixed, want int // CCRs of a GB at most
	}{
		{"100 kbit/s", 12_500, 1_000_000_000, 125, 125},
		{"1 Mbit/s", 125_000, 1_000_000_000, 125, 40},
		{"100 Mbit/s", 12_500_000, 1_000_000_000, 125, 10},
		{"100 Mbit/s, with money for 1 GB", 12_500_000, 953_674_317 / 1000, 125, 45},
	} {
		var got [2]drive
		for i, quota := range []rating.Quota{fixed, follows} {
			s := service(1, 1_000, 1) // a MiB costs a thousandth
			s.Quota = quota
			r := newRig(t, c.money, versions{plan("p", 1, s)})
			got[i] = r.drive(c.speed)
			if b := r.main(); b.Reserved != 0 {
				t.Errorf("%s: %d reserved in the end", c.user, b.Reserved)
			}
		}
		t.Logf("%-32s fixed: %3d CCRs, %8d octets beyond grants; following: %3d CCRs, %8d octets", c.user, got[0].ccrs, got[0].overrun, got[1].ccrs, got[1].overrun)
		if got[0].ccrs > c.fixed+5 || got[1].ccrs > c.want || got[1].overrun > got[0].overrun {
			t.Errorf("%s: %+v", c.user, got)
		}
	}
}
