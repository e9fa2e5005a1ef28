package tenant

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// What has ended makes room in the session index before what is open.
func TestTheEndedMakeRoom(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	open := Entry{Account: AccountKey("shop", "open"), Host: "gw", Opened: now.Add(-time.Hour), Until: now.Add(time.Hour)}
	b, _ := EncodeEntry(nil, open, now, false)
	for i := range 8 {
		b, _ = EncodeEntry(b, Entry{Account: AccountKey("shop", fmt.Sprint(i)), Host: "gw", Opened: now.Add(-30 * time.Minute), Until: now.Add(-time.Minute)}, now, false)
	}
	if !slices.ContainsFunc(Entries(b), open.Means) {
		t.Error("an open session has made room for ended ones")
	}
}

// Nobody's session is taken out of the index by those of another tenant.
func TestAnotherTenantTakesNothingOut(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var b []byte
	for i := range 8 {
		b, _ = EncodeEntry(b, Entry{Account: AccountKey("shop", fmt.Sprint(i)), Host: "gw", Opened: now, Until: now.Add(time.Hour)}, now, false)
	}
	b, _ = EncodeEntry(b, Entry{Account: AccountKey("club", "x"), Host: "gw", Opened: now, Until: now.Add(time.Hour)}, now, false)
	n := 0
	for _, e := range Entries(b) {
		if of, _ := AccountOf(e.Account); of == "shop" {
			n++
		}
	}
	if n != 8 {
		t.Errorf("%d of 8 sessions of the shop are left", n)
	}
}
