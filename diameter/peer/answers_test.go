package peer

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"rtm/diameter"
)

// Who sends answers to what nobody has asked is read more slowly.
func TestAnswersToNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(t, ours3, &host{receive: success})
		defer n.Close()
		f := pipe(t, n)
		f.open("gw")
		for i := range uint32(20_000) {
			var e diameter.Encoder
			e.Reset(nil)
			e.Answer(&diameter.Header{Command: diameter.ReAuth, Application: 4, HopByHop: i}, 0)
			e.Uint32(diameter.ResultCode, 2001)
			f.send(e.Bytes())
		}
		if n.Counts.Limits[LimitBad].Load()+n.Counts.Limits[LimitWaste].Load() == 0 {
			t.Error("20,000 in no time, and it was never held up")
		}
		f.Close()
	})
}

// Nobody can answer a request, or lose it, before it is built.
func TestSentWhenItIsBuilt(t *testing.T) {
	for _, how := range []string{"answered", "closed"} {
		h := &host{}
		n := node(t, ours3, h)
		f := pipe(t, n)
		f.open("gw")
		given := func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.answers)+len(h.lost) > 0
		}
		n.Find("gw").Send(1, func(hop, _ uint32) []byte {
			if how == "closed" {
				f.Close()
			} else {
				var e diameter.Encoder
				e.Reset(nil)
				e.Answer(&diameter.Header{Command: diameter.ReAuth, Application: 4, HopByHop: hop}, 0)
				e.Uint32(diameter.ResultCode, 2001)
				f.send(e.Bytes())
			}
			for range 100 {
				if <-time.After(10 * time.Millisecond); given() {
					t.Error(how, ": its token was given back before it was built")
					break
				}
			}
			return []byte(fmt.Sprint())
		})
		f.Close()
		n.Close()
	}
}
