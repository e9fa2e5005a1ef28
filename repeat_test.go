package rtm_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

// severed is a store whose connection breaks in the middle of a batch, once: the
// first commit is there, the others are not, and nobody hears of it.
type severed struct {
	store.Store
	armed bool
	cut   int // batches that were cut
}

func (s *severed) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	if !s.armed || len(cs) < 2 {
		return s.Store.Commit(ctx, cs)
	}
	s.armed, s.cut = false, s.cut+1
	_, now := s.Store.Commit(ctx, cs[:1])
	rs := make([]store.Result, len(cs))
	for i := range rs {
		rs[i] = store.Result{Outcome: store.InDoubt, Err: errors.New("cut")}
	}
	return rs, now
}

// An account that has a session, and a session index that does not know it since
// the connection broke between the two: the repeat is answered when the index
// has it, so that an update that names no subscriber finds the session.
func TestARepeatLooksAfterTheSessionIndex(t *testing.T) {
	s := &severed{Store: storetest.NewMemory()}
	open(t, s)
	n := start(t, s, "A")
	subscribe(t, n)
	s.armed = true
	r := initial("cut")
	r.Indexed = true
	if a, err := n.Do(t.Context(), &rtm.Inbound{Account: alice, Request: r}); err != nil || a.Result != charging.Success || s.cut != 1 {
		t.Fatalf("%+v, %v, %d batches were cut", a, err, s.cut)
	}
	recs, err := s.Load(t.Context(), []store.Key{tenant.SessionKey("far", "cut", 0)})
	if err != nil || len(recs[0].Bytes) == 0 {
		t.Fatalf("the session index has %q, %v", recs[0].Bytes, err)
	}
	r.Kind, r.Number, r.Content = charging.Update, 1, 2
	if a, err := n.Do(t.Context(), &rtm.Inbound{Request: r}); err != nil || a.Result != charging.Success {
		t.Errorf("an update that names nobody: %+v, %v", a, err)
	}
}
