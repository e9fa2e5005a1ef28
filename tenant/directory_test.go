package tenant_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

func TestIdentitiesHaveOneForm(t *testing.T) {
	for text, want := range map[string]string{
		"imsi:001010000000001":                "imsi:001010000000001",
		"imsi:00101000000001":                 "imsi:00101000000001",
		"msisdn:491700000001":                 "msisdn:491700000001",
		"msisdn:+491700000001":                "msisdn:491700000001",
		"msisdn:1006":                         "msisdn:1006",
		"sip:Alice@IMS.example":               "sip:alice@ims.example",
		"nai:Bob@Realm.example":               "nai:bob@realm.example",
		"private:Meter/7":                     "private:Meter/7",
		"imsi:0010100000000":                  "",
		"imsi:0010100000000011":               "",
		"imsi:00101000000000a":                "",
		"imsi:٠٠١٠١٠٠٠٠٠٠٠٠٠١":                "",
		"msisdn:12":                           "",
		"msisdn:1234567890123456":             "",
		"msisdn:++49170":                      "",
		"msisdn:49 170":                       "",
		"sip:":                                "",
		"sip:a b":                             "",
		"private:\x00":                        "",
		"tel:+49170":                          "",
		"IMSI:001010000000001":                "",
		"001010000000001":                     "",
		"":                                    "",
		"private:" + strings.Repeat("x", 200): "",
	} {
		got, err := tenant.CanonicalIdentity(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestWhatABareNumberMayMean(t *testing.T) {
	for text, want := range map[string][]string{
		"001010000000001":      {"imsi:001010000000001", "msisdn:001010000000001"},
		"491700000001":         {"msisdn:491700000001"},
		"+491700000001":        {"msisdn:491700000001"},
		"imsi:001010000000001": {"imsi:001010000000001"},
		"sip:A@b":              {"sip:a@b"},
		"A@b":                  {"sip:a@b", "nai:a@b"},
		"12":                   nil,
		"alice":                nil,
		"":                     nil,
	} {
		if got := tenant.PossibleIdentities(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestOwnersGoBothWays(t *testing.T) {
	b := tenant.EncodeOwner([]byte("x"), "lab", "imsi-001010000000001")[1:]
	if got, account, ok := tenant.DecodeOwner(b); !ok || got != "lab" || account != "imsi-001010000000001" || string(b) != "lab/imsi-001010000000001" {
		t.Errorf("%q: %q %q %t", b, got, account, ok)
	}
	for _, b := range []string{"", "lab", "/", "lab/", "/a", "lab/a/b", "lab/a b", "l b/a"} {
		if got, account, ok := tenant.DecodeOwner([]byte(b)); ok || got != "" || account != "" {
			t.Errorf("%q: %q %q", b, got, account)
		}
	}
	if n := testing.AllocsPerRun(100, func() { tenant.Owner(b) }); n != 0 {
		t.Errorf("Owner allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { tenant.DecodeOwner(b) }); n > 1 {
		t.Errorf("DecodeOwner allocates %v times", n)
	}
}

func FuzzOwner(f *testing.F) {
	f.Add([]byte("lab/imsi-001010000000001"))
	f.Add([]byte("lab/imsi-001010000000001\nshop/alice 2000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, account, ok := tenant.DecodeOwner(b)
		first, _, _ := strings.Cut(string(b), "\n") // the second line says whose it was
		if ok && string(tenant.EncodeOwner(nil, name, account)) != first {
			t.Errorf("%q is read as %q %q", b, name, account)
		}
		now := time.Unix(1_000_000, 0)
		was := store.Record{Version: store.Version{1}, Bytes: b}
		moved := tenant.Reassign("imsi:1", "a", "b", was, store.Version{2}, now).Writes[0].Bytes
		formers := tenant.Formers(b, now)
		if ok && (name != "a" || account != "b") {
			formers = slices.Insert(slices.DeleteFunc(formers, func(k store.Key) bool { return k == tenant.AccountKey(name, account) }), 0, tenant.AccountKey(name, account))
			formers = slices.DeleteFunc(formers, func(k store.Key) bool { return k == tenant.AccountKey("a", "b") })
			if again := tenant.Formers(moved, now); !slices.Equal(again, formers) {
				t.Errorf("%q was of %v, and then of %v", b, formers, again)
			}
		}
		mine := tenant.Entry{Account: tenant.AccountKey("a", "b"), Host: "gw", Opened: now.UTC(), Until: now.Add(time.Hour).UTC()}
		value, _ := tenant.EncodeEntry(b, mine, now, false)
		if all := tenant.Entries(value); !slices.Contains(all, mine) {
			t.Errorf("%q: %v", value, all)
		}
		mine.Host = name + "\n" + account
		value, _ = tenant.EncodeEntry(b, mine, now, false)
		for _, e := range tenant.Entries(value) {
			if !e.Means(mine) && !slices.Contains(tenant.Entries(b), e) {
				t.Errorf("%q: the host has written %v", value, e)
			}
		}
	})
}

// However many sessions of a tenant have one name, that of another one stays.
func TestEntriesOfATenantPushOutTheirOwn(t *testing.T) {
	var value []byte
	put := func(tenantName, account string, opened int64) {
		value, _ = tenant.EncodeEntry(value, tenant.Entry{Account: tenant.AccountKey(tenantName, account), Host: "gw", Opened: time.UnixMilli(opened), Until: time.UnixMilli(1000)}, time.UnixMilli(100), false)
	}
	put("shop", "alice", 1)
	for i := range 30 {
		put("other", strconv.Itoa(i), int64(2+i))
	}
	put("other", "29", 31) // once more
	all := tenant.Entries(value)
	if len(all) != 9 || !slices.ContainsFunc(all, func(e tenant.Entry) bool { return e.Account == tenant.AccountKey("shop", "alice") }) || all[8].Account != tenant.AccountKey("other", "29") {
		t.Errorf("%v", all)
	}
}

func TestKeysFindTheirAccount(t *testing.T) {
	k := tenant.AccountKey("lab", "imsi-001010000000001")
	if name, account := tenant.AccountOf(k); name != "lab" || account != "imsi-001010000000001" {
		t.Errorf("%v is of %q %q", k, name, account)
	}
	if tenant.SessionKey("far", "gw;1;2", 5) == tenant.SessionKey("far", "gw;1;2;5", 0) || tenant.SessionKey("far;gw", "1", 0) == tenant.SessionKey("far", "gw;1", 0) {
		t.Error("two sessions have one name")
	}
	for _, o := range []store.Key{tenant.ClosedKey(k, "example", "s;1", 0), tenant.ClosedKey(k, "example", "s;1", 7), tenant.OnceKey(k, "event", "s;1")} {
		if o.Partition != k.Partition || !strings.HasPrefix(o.Name, k.Name+"/") {
			t.Errorf("%v lies apart from %v", o, k)
		}
	}
	if got := tenant.Partition("lab/imsi-001010000000001"); got != k.Partition || got != 524 {
		t.Errorf("partition %d: it is part of the format of a store", got)
	}
}

// directory is a directory record by record.
type directory struct {
	t *testing.T
	s *storetest.Memory
	n byte
}

func (d *directory) record(identity string) store.Record {
	recs, err := d.s.Load(d.t.Context(), []store.Key{tenant.IdentityKey(identity)})
	if err != nil {
		d.t.Fatal(err)
	}
	return recs[0]
}

func (d *directory) version() store.Version { d.n++; return store.Version{d.n} }

func (d *directory) commit(c store.Commit) store.Outcome {
	rs, _ := d.s.Commit(d.t.Context(), []store.Commit{c})
	return rs[0].Outcome
}

func (d *directory) expect(identity, want string) {
	d.t.Helper()
	got, _, _ := strings.Cut(string(d.record(identity).Bytes), "\n")
	if got != want {
		d.t.Errorf("%s is of %q, want %q", identity, got, want)
	}
}

func TestAnIdentityHasOneOwner(t *testing.T) {
	const id = "imsi:001010000000001"
	d := &directory{t: t, s: storetest.NewMemory()}
	missing := d.record(id)

	a, err := tenant.Claim(id, "lab", "a", missing, d.version())
	if err != nil || d.commit(a) != store.Done {
		t.Fatalf("the first claim: %v", err)
	}
	d.expect(id, "lab/a")

	// Whoever saw it missing comes too late.
	b, err := tenant.Claim(id, "lab", "b", missing, d.version())
	if err != nil {
		t.Fatal(err)
	}
	if o := d.commit(b); o != store.Conflict {
		t.Errorf("a claim of what was taken meanwhile: %s", o)
	}
	_, err = tenant.Claim(id, "lab", "b", d.record(id), d.version())
	var taken *tenant.TakenError
	if !errors.As(err, &taken) || taken.Account != "a" || taken.Error() != id+" belongs to account a of tenant lab already" {
		t.Errorf("a claim of what is taken: %v", err)
	}
	// The same account of another tenant is another.
	if _, err = tenant.Claim(id, "bal", "a", d.record(id), d.version()); !errors.As(err, &taken) {
		t.Errorf("a claim for another tenant: %v", err)
	}

	// Claiming again proves it and writes nothing.
	before := d.record(id)
	again, err := tenant.Claim(id, "lab", "a", before, d.version())
	if err != nil || d.commit(again) != store.Done || d.record(id).Version != before.Version {
		t.Errorf("claiming one's own: %v, version %v, want %v", err, d.record(id).Version, before.Version)
	}

	// Reassigning compares, sets, remembers who had it, and can be repeated.
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	c := tenant.Reassign(id, "lab", "b", before, d.version(), at)
	if o := d.commit(c); o != store.Done {
		t.Errorf("reassign: %s", o)
	}
	d.expect(id, "lab/b")
	if o := d.commit(tenant.Reassign(id, "lab", "c", before, d.version(), at)); o != store.Conflict {
		t.Errorf("reassign what was reassigned meanwhile: %s", o)
	}
	moved := d.record(id)
	first, second := tenant.AccountKey("lab", "a"), tenant.AccountKey("lab", "b")
	if keys := tenant.Formers(moved.Bytes, at.Add(tenant.FormerFor-time.Second)); !slices.Equal(keys, []store.Key{first}) {
		t.Errorf("it was of %v before", keys)
	}
	if keys := tenant.Formers(moved.Bytes, at.Add(tenant.FormerFor)); len(keys) > 0 {
		t.Errorf("after all that time it was still of %v before", keys)
	}
	if keys := tenant.Formers(before.Bytes, at); len(keys) > 0 {
		t.Errorf("it had owners before the first: %v", keys)
	}
	third := tenant.Reassign(id, "lab", "c", moved, d.version(), at.Add(time.Hour)).Writes[0].Bytes
	if keys := tenant.Formers(third, at.Add(time.Hour)); !slices.Equal(keys, []store.Key{second, first}) {
		t.Errorf("the third owner is told of %v", keys)
	}
	if keys := tenant.Formers(third, at.Add(tenant.FormerFor)); !slices.Equal(keys, []store.Key{second}) {
		t.Errorf("a week after the first move it is of %v", keys)
	}
	back := store.Record{Version: d.version(), Bytes: third}
	if keys := tenant.Formers(tenant.Reassign(id, "lab", "a", back, d.version(), at.Add(time.Hour)).Writes[0].Bytes, at.Add(time.Hour)); !slices.Contains(keys, second) || slices.Contains(keys, first) {
		t.Errorf("back at the first it is of %v", keys)
	}
	if o := d.commit(tenant.Reassign(id, "lab", "b", moved, d.version(), at)); o != store.Done || d.record(id).Version != moved.Version {
		t.Errorf("reassign again: %s", o)
	}

	if o := d.commit(tenant.Forget(id, before)); o != store.Conflict {
		t.Errorf("forget what has changed: %s", o)
	}
	if o := d.commit(tenant.Forget(id, moved)); o != store.Done {
		t.Errorf("forget: %s", o)
	}
	d.expect(id, "")
}

// A further line, of a later version, changes nothing for this one.
func TestAFurtherLineOfADirectoryRecord(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	b := append(tenant.Reassign("imsi:1", "shop", "bob", store.Record{Version: store.Version{1}, Bytes: []byte("shop/alice")}, store.Version{2}, now).Writes[0].Bytes,
		"\nwhatever comes"...)
	if tn, a, ok := tenant.DecodeOwner(b); !ok || tn != "shop" || a != "bob" {
		t.Errorf("%s %s %t", tn, a, ok)
	}
	if keys := tenant.Formers(b, now); !slices.Equal(keys, []store.Key{tenant.AccountKey("shop", "alice")}) {
		t.Errorf("%v", keys)
	}
}
