package rtm

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// The parts of all instances are the tenant's rate, and lie where its traffic is.
func TestPartsOfARate(t *testing.T) {
	for _, c := range []struct {
		demand []float64
		want   []float64 // of a rate of 300
	}{
		{[]float64{0, 0, 0}, []float64{100, 100, 100}},
		{[]float64{100, 0, 0}, []float64{166, 66, 66}},
		{[]float64{400, 0, 0}, []float64{286, 6, 6}},
		{[]float64{4000, 0, 0}, []float64{298, 0, 0}},
		{[]float64{400, 200, 0}, []float64{195, 100, 4}},
		{[]float64{1000}, []float64{300}},
	} {
		var all []Presence
		for i, d := range c.demand {
			all = append(all, Presence{Name: fmt.Sprint(i), Demand: map[string]float64{"a": d, "b": 7}})
		}
		sum := 0.0
		for i := range all {
			got := part(300, "a", all[i].Name, all)
			if sum += got; math.Floor(got) != c.want[i] {
				t.Errorf("where %v a second are wanted, instance %d has %.1f, not %.0f", c.demand, i, got, c.want[i])
			}
		}
		if math.Abs(sum-300) > 0.001 {
			t.Errorf("where %v a second are wanted, all have %.1f", c.demand, sum)
		}
	}
	if got := part(5, "a", "me", nil); got != 5 {
		t.Errorf("alone it has %.1f", got)
	}
}

func TestDemandIsMeasured(t *testing.T) {
	var d demand
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	d.measure(nil, at)
	for _, c := range []struct {
		after time.Duration
		asked int64
		want  float64
	}{{2 * time.Second, 200, 100}, {time.Millisecond, 900, 100}, {time.Second, 1000, 799}, {time.Second, 1000, 399}, {time.Minute, 61_000, 1000}} {
		at = at.Add(c.after)
		if got := d.measure(map[string]int64{"a": c.asked}, at)["a"]; math.Floor(got) != c.want {
			t.Errorf("%s later, at %d: %.1f a second, not %.0f", c.after, c.asked, got, c.want)
		}
	}
	many := make(map[string]int64)
	for i := range 10_000 {
		many[fmt.Sprint("t", i)] = int64(i)
	}
	if got := d.measure(many, at.Add(time.Second)); len(got) != demandMax || got["t9999"] != 9999 {
		t.Errorf("%d tenants are told, t9999 at %.1f", len(got), got["t9999"])
	}
}
