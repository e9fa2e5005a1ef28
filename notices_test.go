package rtm_test

import (
	"testing"

	"rtm"
	"rtm/charging"
	"rtm/store/storetest"
)

// What finds no room on its way to another instance is counted, and the rest arrives.
func TestNoticesThatFindNoRoom(t *testing.T) {
	m := storetest.NewMemory()
	lost, sent := 0, 0
	a := rtm.Notices{Name: "a", Store: m, Version: storetest.NewVersion, Lost: func(many int) { lost += many }, Notify: func(rtm.Parcel, rtm.Toward) bool { return false }}
	b := rtm.Notices{Name: "b", Store: m, Version: storetest.NewVersion, Notify: func(rtm.Parcel, rtm.Toward) bool { sent++; return true }}
	due := charging.Due{Realm: []byte("far"), Host: []byte("gw.far"), Session: []byte("s")}
	for range 300 {
		a.Dispatch(alice, due)
	}
	there := []rtm.Presence{{Name: "a"}, {Name: "b", Peers: []rtm.Neighbour{{Host: "gw.far", Realm: "far"}}}}
	if err := a.Route(t.Context(), there); err != nil || lost != 300-256 {
		t.Errorf("%d of 300 were lost, %v", lost, err)
	}
	if b.Collect(t.Context()); sent != 256 {
		t.Errorf("%d arrived", sent)
	}
	lost = 0
	for range 4100 {
		a.Dispatch(alice, due)
	}
	if lost != 4 {
		t.Errorf("%d of 4100 were lost before they left", lost)
	}
}
