package rtm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"rtm"
	"rtm/charging"
	"rtm/store"
	"rtm/store/storetest"
	"rtm/tenant"
)

// settle declares a tenant with its plan, and its two accounts.
func (b *twin) settle(name, number string) error {
	docs, err := tenant.Parse("t.yaml", []byte(strings.ReplaceAll(shop, "shop", name)))
	if err != nil {
		return err
	}
	if _, err = tenant.Apply(context.Background(), b.store, docs, false); err != nil {
		return err
	}
	if err = b.start(); err != nil {
		return err
	}
	for _, account := range []string{"1", "2"} {
		if _, err = b.n.Provision(context.Background(), rtm.Subscription{Tenant: name, Account: account, Profile: charging.Profile{
			Plan: "gold", Money: 100_000_000, Identities: []string{"imsi:" + number + account, "msisdn:49" + number + account},
		}}); err != nil {
			return err
		}
	}
	return nil
}

// A twin is a world with tenant alpha, and beta perhaps.
type twin struct {
	store store.Store
	n     *rtm.Instance
}

func (b *twin) start() (err error) {
	if b.n != nil {
		b.n.Stop()
	}
	b.n, err = rtm.Start(context.Background(), rtm.Config{Name: "a", Store: b.store, Shards: 2, Presence: rtm.Presence{PeerHost: "a", Diameter: []string{"a"}}})
	return err
}

func (b *twin) stop() {
	if b.n != nil {
		b.n.Stop()
	}
	b.store.Close()
}

// live has beta open a session, end another one, and use a service once.
func (b *twin) live() error {
	for _, m := range []*rtm.Inbound{
		message(charging.Initial, "beta", "s1", 0, "imsi:21"), message(charging.Initial, "beta", "s2", 0, "msisdn:4921"),
		message(charging.Termination, "beta", "s2", 1, "imsi:21"), message(charging.Event, "beta", "e", 0, "imsi:22"),
		message(charging.Update, "beta", "s1", 1, "imsi:21"),
	} {
		m.Tenants = []string{"beta"}
		if a, err := b.n.Do(context.Background(), m); err != nil || a.Result != charging.Success {
			return fmt.Errorf("%v of beta: %d, %v", m.Request.Kind, a.Result, err)
		}
	}
	return nil
}

// message is a CCR from a realm.
func message(kind charging.Kind, realm, session string, number uint32, ids ...string) *rtm.Inbound {
	in := ccr(kind, session, "", number, 1000)
	in.Identities = ids
	r := &in.Request
	r.Realm, r.Host, r.Indexed = []byte(realm), []byte("gw."+realm), true
	if kind == charging.Event {
		r.Action = charging.DirectDebiting
		in.OnceDoor, in.OnceName = "gy", fmt.Sprintf("%s;%s;%d", realm, session, number)
	}
	return in
}

// of lists all that the store has of a tenant.
func (b *twin) of(name string) (map[string]string, error) {
	found := make(map[string]string)
	var cursor []byte
	for {
		keys, recs, next, err := b.store.Scan(context.Background(), cursor, 1000)
		if err != nil {
			return nil, err
		}
		for i, k := range keys {
			if k.Kind == tenant.KindSession { // those that several tenants call the same share a record
				for _, e := range tenant.Entries(recs[i].Bytes) {
					if t, _ := tenant.AccountOf(e.Account); t == name {
						found[fmt.Sprint(k)] = fmt.Sprint(e)
					}
				}
				continue
			}
			t, _, _ := tenant.DecodeOwner(recs[i].Bytes)
			if k.Kind != tenant.KindCatalogue && (strings.HasPrefix(k.Name, name+"/") || t == name) {
				found[fmt.Sprint(k)] = fmt.Sprintf("%x %x", recs[i].Version, recs[i].Bytes)
			}
		}
		if cursor = next; len(next) == 0 {
			return found, nil
		}
	}
}

// Whatever a peer of tenant alpha sends, with beta's identities, realm, sessions, names
// of one-time requests and accounts' numbers in any mixture: nothing of beta changes,
// and each answer is what it is where there is no beta.
func TestTenantsDoNotMeet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		both, alone := &twin{store: storetest.NewMemory()}, &twin{store: storetest.NewMemory()}
		defer both.stop()
		defer alone.stop()
		err := both.settle("beta", "2")
		for _, b := range []*twin{both, alone} {
			if err == nil {
				err = b.settle("alpha", "1")
			}
		}
		if err == nil {
			err = both.live()
		}
		if err != nil {
			t.Fatal(err)
		}
		before, err := both.of("beta")
		if err != nil || len(before) < 8 {
			t.Fatalf("beta has %d records, %v", len(before), err)
		}
		identity := rapid.SampledFrom([]string{"imsi:11", "msisdn:4911", "imsi:12", "imsi:21", "msisdn:4921", "imsi:22", "msisdn:4922", "imsi:99"})
		for range rapid.IntRange(1, 12).Draw(t, "messages") {
			kind := rapid.SampledFrom([]charging.Kind{charging.Initial, charging.Update, charging.Termination, charging.Event}).Draw(t, "kind")
			session := rapid.SampledFrom([]string{"s1", "s2", "e", "own"}).Draw(t, "session")
			number := rapid.Uint32Range(0, 3).Draw(t, "number")
			ids := rapid.SliceOfN(identity, 0, 3).Draw(t, "identities")
			action := rapid.SampledFrom([]charging.Action{charging.DirectDebiting, charging.RefundAccount, charging.CheckBalance, charging.PriceEnquiry}).Draw(t, "action")
			content := rapid.Uint64Range(1, 4).Draw(t, "content")
			realm := rapid.SampledFrom([]string{"alpha", "beta"}).Draw(t, "realm")
			foreign := rapid.Bool().Draw(t, "names beta's event")
			var said [2]string
			for i, b := range []*twin{both, alone} {
				in := message(kind, realm, session, number, ids...)
				in.Tenants, in.Request.Content = []string{"alpha"}, content
				if kind == charging.Event {
					in.Request.Action = action
					if foreign {
						in.OnceName = "beta;e;0"
					}
				}
				a, err := b.n.Do(context.Background(), in)
				a.Bucket = 0
				text, _ := json.Marshal(a) // with what its prices say, not where they are
				said[i] = fmt.Sprintf("%s %v", text, err)
			}
			if said[0] != said[1] {
				t.Fatalf("alpha can tell that beta is there, by %v of %s for %v:\n%s\nand alone:\n%s", kind, session, ids, said[0], said[1])
			}
		}
		after, err := both.of("beta")
		if err != nil || len(after) != len(before) {
			t.Fatalf("beta had %d records, and has %d (%v)", len(before), len(after), err)
		}
		for k, was := range before {
			if after[k] != was {
				t.Fatalf("%s of beta has changed", k)
			}
		}
		end := message(charging.Termination, "beta", "s1", 2)
		end.Tenants = []string{"beta"}
		if a, err := both.n.Do(context.Background(), end); err != nil || a.Result != charging.Success {
			t.Fatalf("beta's session ends with %d, %v", a.Result, err)
		}
	})
}
