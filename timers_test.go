package rtm_test

import (
	"testing"
	"time"

	"rtm"
	"rtm/store"
	"rtm/tenant"
)

// How late each wake-up was claimed is counted, and one that came too early was not late.
func TestLatenessOfTicks(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var timers rtm.Timers
	key := store.Key{Kind: tenant.KindAccount, Name: "lab/a"}
	var due []store.Due
	for _, late := range []time.Duration{-time.Second, 0, 10 * time.Millisecond, 11 * time.Millisecond, 6 * time.Second, time.Hour} {
		due = append(due, store.Due{Key: key, Wake: now.Add(-late)})
	}
	timers.Claimed(due, time.Time{}, now, now)
	want := [len(rtm.TickLateness) + 1]uint64{0: 3, 1: 1, 6: 1, 10: 1}
	if timers.Lates != want || timers.Fired != 6 || timers.Late != time.Hour+6*time.Second+21*time.Millisecond {
		t.Errorf("%v, %d in all, %s", timers.Lates, timers.Fired, timers.Late)
	}
}
