package peer

import (
	"testing"
	"time"
)

// However many send what serves nobody, no more than their part of the time goes
// into it; each has as much of that; and who sends little of it is held up little.
func TestThrift(t *testing.T) {
	const turn = 240 * time.Microsecond // a full buffer of them
	for _, senders := range []int{1, 8, 100} {
		var budget thrift
		now, spent := time.Now(), make([]time.Duration, senders)
		begun, next := now, make([]time.Time, senders)
		resting, own := make([]bool, senders), make([]time.Time, senders)
		for ; now.Sub(begun) < time.Second; now = now.Add(10 * time.Microsecond) {
			for i := range senders {
				if now.Before(next[i]) {
					continue
				}
				if resting[i] {
					budget.rested()
				}
				spent[i] += turn
				pause := budget.spend(&own[i], turn, now)
				resting[i], next[i] = pause > 0, now.Add(max(turn, pause))
			}
		}
		sum, most, least := time.Duration(0), time.Duration(0), time.Hour
		for _, s := range spent {
			sum, most, least = sum+s, max(most, s), min(least, s)
		}
		whole := time.Second * processors / wasteShare
		if sum > whole*5/4+time.Duration(senders)*(turn+wasteOwn*processors/wasteShare) || sum < whole*3/4 {
			t.Errorf("%d senders took %s of %s", senders, sum, whole)
		}
		if most-least > 2*turn+most/5 {
			t.Errorf("one of %d senders took %s, another %s", senders, most, least)
		}
		var mine time.Time
		for range 10 { // a message a tenth of a second
			if pause := budget.spend(&mine, turn/40, now); pause > 0 {
				t.Errorf("beside %d senders, one message is held up for %s", senders, pause)
			}
			now = now.Add(time.Second / 10)
		}
	}
	var budget thrift
	var own time.Time
	if pause := budget.spend(&own, time.Hour, time.Now()); pause > wasteTurn*wasteShare {
		t.Errorf("who was not let run is held up for %s", pause)
	}
	if pause := budget.spend(&own, 0, time.Now().Add(time.Minute)); pause > 0 {
		t.Errorf("a minute later nothing is owed, but who comes is held up for %s", pause)
	}
}
