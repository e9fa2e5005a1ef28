package store_test

import (
	"testing"
	"time"

	"rtm/store"
)

// The offset of the quickest answer counts; one of another clock, after a
// failover, counts at once, however long it took.
func TestClock(t *testing.T) {
	var c store.Clock
	const ms = time.Millisecond
	for _, step := range []struct {
		name                 string
		before, after, shows time.Duration
		want                 time.Duration // the offset after it
	}{
		{"the first", 0, 10 * ms, time.Hour + 5*ms, time.Hour},
		{"a slow one", 20 * ms, 60 * ms, time.Hour + 21*ms, time.Hour},
		{"a quick one", 100 * ms, 102 * ms, time.Hour + 104*ms, time.Hour + 3*ms},
		{"another node, ahead", 200 * ms, 400 * ms, time.Hour + 20*time.Second + 300*ms, time.Hour + 20*time.Second},
		{"a quick one of it", 500 * ms, 501 * ms, time.Hour + 20*time.Second + 501*ms, time.Hour + 20*time.Second + ms/2},
		{"another node, behind", 600 * ms, 700 * ms, 650 * ms, 0},
	} {
		if c.Learn(step.before, step.after, step.shows); c.Now(0) != step.want {
			t.Errorf("%s: the store is %s ahead, want %s", step.name, c.Now(0), step.want)
		}
	}
}
