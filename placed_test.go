package rtm_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
)

// halves is a store on two nodes, of which the second does not answer while it is
// away: whoever names something of it is told nothing before its time is over.
type halves struct {
	hooked
	away atomic.Bool
}

func (h *halves) Node(p store.Partition) (i, of int) { return int(p) / 512, 2 }

func (h *halves) Load(ctx context.Context, keys []store.Key) ([]store.Record, error) {
	for _, k := range keys {
		if h.away.Load() && k.Partition >= 512 {
			<-ctx.Done()
			return nil, errors.New("no answer")
		}
	}
	return h.hooked.Load(ctx, keys)
}

// While one node of the store is silent, what lies on another is answered at once,
// also beside requests that name both.
func TestANodeThatIsSilent(t *testing.T) {
	h := &halves{hooked: hooked{Store: storetest.NewMemory()}}
	open(t, h)
	n := start(t, h, "a")
	both(t, n)
	if alice.Partition/512 == bob.Partition/512 {
		t.Fatal("alice and bob lie on one node: take other names")
	}
	here, gone := alice, bob
	if alice.Partition >= 512 {
		here, gone = bob, alice
	}
	whose := map[store.Key]string{alice: "imsi:7", bob: "imsi:8"}
	for _, k := range []store.Key{here, gone} { // hints of both are known
		do(t, n, ccr(charging.Initial, "first", whose[k], 0, 0), charging.Success)
	}
	h.away.Store(true)
	lost := make(chan error, 20)
	for i := range 20 {
		go func() {
			in := ccr(charging.Initial, string(rune('a'+i)), whose[gone], 0, 0)
			in.Account, in.Arrived = gone, n.Now()
			in.Deadline = in.Arrived.Add(1500 * time.Millisecond)
			_, err := n.Do(t.Context(), in)
			lost <- err
		}()
	}
	for i := range 50 {
		in := ccr(charging.Initial, "here", whose[here], 0, 0)
		in.Account, in.Request.Session = here, append(in.Request.Session, byte('A'+i))
		in.Arrived = n.Now()
		in.Deadline = in.Arrived.Add(500 * time.Millisecond)
		if a, err := n.Do(t.Context(), in); err != nil || a.Result != charging.Success {
			t.Fatalf("beside a silent node: %d %v", a.Result, err)
		}
	}
	for range 20 {
		if err := <-lost; !errors.Is(err, rtm.ErrBusy) {
			t.Errorf("a request for the silent node: %v", err)
		}
	}
	h.away.Store(false)
}
