package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"rtm"
	"rtm/creditcontrol"
	"rtm/diameter"
	"rtm/rtmtest"
	"rtm/store"
	"rtm/tenant"
)

// What a document may say a peer is, is what the decoder knows.
func TestDialectsAreKnown(t *testing.T) {
	if got := creditcontrol.Dialects(); !slices.Equal(got, tenant.Dialects) {
		t.Errorf("creditcontrol knows %v, documents may say %v", got, tenant.Dialects)
	}
}

// stalled is a store whose commits wait while it is held.
type stalled struct {
	store.Store
	held sync.RWMutex
}

func (s *stalled) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	s.held.RLock()
	defer s.held.RUnlock()
	return s.Store.Commit(ctx, cs)
}

// 10,000 requests come over 10 connections while the store hangs: as many as may
// are in the loop or wait for it, the others are told 3004 at once. The whole
// server has no goroutine per message, and it answers when the store does.
func TestTenThousandInFlight(t *testing.T) {
	st := &stalled{Store: embedded(t)}
	l := startLab(t, st, 1)
	l.apply(t, "../../examples/lab.yaml")
	const connections, each = 10, 1000
	var wires []*wire
	for n := range connections {
		wires = append(wires, dialPeer(t, l.targets[0], fmt.Sprintf("gw%d.test", n), "test"))
	}
	st.held.Lock()
	before := runtime.NumGoroutine() // those of other tests among them, which may end meanwhile
	for n, w := range wires {
		var e diameter.Encoder
		e.Reset(nil)
		for i := range uint32(each) {
			e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, diameter.FlagProxiable, i, i)
			e.String(diameter.SessionID, fmt.Sprintf("gw%d;%d", n, i))
			e.String(diameter.OriginHost, fmt.Sprintf("gw%d.test", n))
			e.String(diameter.OriginRealm, "test")
			e.String(diameter.DestinationRealm, l.config.OriginRealm)
			e.Uint32(diameter.AuthApplicationID, 4)
			e.String(diameter.ServiceContextID, "32251@3gpp.org")
			e.Uint32(diameter.CCRequestType, 1)
			e.Uint32(diameter.CCRequestNumber, 0)
			e.Open(diameter.SubscriptionID)
			e.Uint32(diameter.SubscriptionIDType, 1)
			e.String(diameter.SubscriptionIDData, fmt.Sprintf("0010100000000%02d", 1+i%10))
			e.Close()
			e.Bytes()
		}
		if _, err := w.Write(e.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	release := sync.OnceFunc(st.held.Unlock)
	defer release()
	node, core := l.instances[0].node, l.instances[0].core
	rtmtest.Until(t, "all are in flight or turned away", func() bool {
		return node.Counts.InFlight.Load()+core.Load.Shed.Load() == connections*each && node.Counts.Received.Load() > connections*each
	})
	if got, most := node.Counts.InFlight.Load(), int64(rtm.LimitMax+rtm.WaitMax); got < rtm.LimitMin+rtm.WaitFree || got > most {
		t.Errorf("%d are in flight", got)
	}
	if more, most := runtime.NumGoroutine()-before, connections+2*runtime.NumCPU(); more > most {
		t.Errorf("%d goroutines more than before the requests came, at most %d are wanted", more, most)
	} else {
		t.Logf("%d goroutines more with %d requests in flight", more, node.Counts.InFlight.Load())
	}
	release()
	for _, w := range wires {
		if _, ok := w.next(5 * time.Second); !ok {
			t.Error("a gateway heard nothing, and the store is back")
		}
	}
}

// Any file is settings or an error.
func FuzzConfig(f *testing.F) {
	b, err := os.ReadFile("../../examples/rtm.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("tls: {listen: [':5868'], certificate: a, key: b, ca: c}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := defaults()
		if c.read("f", b) == nil && c.complete() == nil && (c.PeerHost == "" || c.Name == "") {
			t.Fatal("complete, without a name")
		}
	})
}

// A message of 90 KiB is answered where the limit is above that; elsewhere its sender is
// disconnected.
func TestTheLengthOfAMessage(t *testing.T) {
	long := func(host string) []byte {
		var e diameter.Encoder
		e.Reset(nil)
		e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, 0, 7, 7)
		e.String(diameter.SessionID, host+";1;1")
		e.String(diameter.OriginHost, host)
		e.String(diameter.OriginRealm, "test")
		e.String(diameter.ProductName, string(make([]byte, 90<<10)))
		return e.Bytes()
	}
	for _, most := range []int{diameter.MessageMax, 128 << 10} {
		l := startLab(t, embedded(t), 1, func(c *config) { c.Limits.Message = most })
		l.apply(t, "../../examples/lab.yaml")
		w := dialPeer(t, l.targets[0], "gw.test", "test")
		if _, err := w.Write(long("gw.test")); err != nil {
			t.Fatal(err)
		}
		m, answered := w.next(10 * time.Second)
		if want := most > diameter.MessageMax; answered != want || answered && number(m.Body, diameter.ResultCode) != 5005 {
			t.Errorf("limits.message %d: answered %v with %d", most, answered, number(m.Body, diameter.ResultCode))
		}
	}
}
