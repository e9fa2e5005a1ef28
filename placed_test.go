package rtm_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
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

func (h *halves) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	for i := range cs {
		if h.away.Load() && cs[i].Writes[0].Key.Partition >= 512 {
			<-ctx.Done()
			rs := make([]store.Result, len(cs))
			for i := range rs {
				rs[i].Outcome = store.InDoubt
			}
			return rs, time.Time{}
		}
	}
	return h.hooked.Commit(ctx, cs)
}

// While one node of the store is silent, what lies on another is answered at once, also
// beside requests whose session index or further identities lie there.
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
	// named is a name that says which node it lies on.
	named := func(away bool, name string, key func(string) store.Key) string {
		for i := range 100 {
			if s := name + strconv.Itoa(i); (key(s).Partition >= 512) == away {
				return s
			}
		}
		t.Fatal("no such name")
		return ""
	}
	session := func(name string) store.Key { return tenant.SessionKey("far", name, 0) }
	lost := make(chan error, 60)
	for i := range 60 {
		in := ccr(charging.Initial, string(rune('a'+i)), whose[gone], 0, 0)
		want := rtm.ErrBusy
		switch {
		case i < 20: // its account lies there
			in.Account = gone
		case i < 40: // its session index does
			in = ccr(charging.Initial, named(true, fmt.Sprint(i), session), whose[here], 0, 0)
			in.Account, in.Request.Indexed, want = here, true, rtm.ErrDoubt
		default: // one of its identities does
			in.Identities = []string{named(false, "msisdn:491", tenant.IdentityKey), named(true, "msisdn:491", tenant.IdentityKey)}
		}
		in.Arrived = n.Now()
		in.Deadline = in.Arrived.Add(1500 * time.Millisecond)
		go func() {
			_, err := n.Do(t.Context(), in)
			if errors.Is(err, want) {
				err = nil
			}
			lost <- err
		}()
	}
	for i := range 40 {
		in := ccr(charging.Initial, named(false, fmt.Sprint("here", i, "-"), session), whose[here], 0, 0)
		in.Account, in.Request.Indexed = here, true
		in.Arrived = n.Now()
		in.Deadline = in.Arrived.Add(500 * time.Millisecond)
		if a, err := n.Do(t.Context(), in); err != nil || a.Result != charging.Success {
			t.Fatalf("beside a silent node: %d %v", a.Result, err)
		}
	}
	for range 60 {
		if err := <-lost; err != nil {
			t.Errorf("a request that needs the silent node: %v", err)
		}
	}
	h.away.Store(false)
}
