package tenant

import (
	"strconv"
	"strings"

	"rtm/store"
)

// The kinds of records. One letter each, never used for anything else.
const (
	KindAccount   = 'a' // charging.Account
	KindClosed    = 'c' // charging.Session after its end, in the account's partition
	KindOnce      = 'o' // charging.Once, in the account's partition
	KindIdentity  = 'd' // directory: identity → account
	KindSession   = 's' // directory: session → account
	KindCatalogue = 'k' // tenants, plans, peers
	KindPresence  = 'p' // which instances live
	KindCursor    = 'f' // how far a follower of events has come
	KindLevel     = 'l' // the store's level
)

// Partition spreads names over the partitions by FNV-1a, 64 bits, folded. It is
// part of the format of a store and never changes.
func Partition(name string) store.Partition {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h ^= h >> 32
	h ^= h >> 16
	return store.Partition(h % store.Partitions)
}

// AccountKey is where the account of a tenant lies. Neither name holds a slash.
func AccountKey(tenant, account string) store.Key {
	name := tenant + "/" + account
	return store.Key{Partition: Partition(name), Kind: KindAccount, Name: name}
}

// AccountOf gives the tenant and account of an AccountKey.
func AccountOf(k store.Key) (tenant, account string) {
	tenant, account, _ = strings.Cut(k.Name, "/")
	return tenant, account
}

// ClosedKey is where the record of a closed session of that account lies.
func ClosedKey(account store.Key, realm, session string, sub uint64) store.Key {
	return store.Key{Partition: account.Partition, Kind: KindClosed, Name: account.Name + "/" + sessionName(realm, session, sub)}
}

// OnceKey is where the answer of a one-time request of that account lies. The
// cause keeps doors apart: a Diameter event and a REST key never meet.
func OnceKey(account store.Key, cause, name string) store.Key {
	return store.Key{Partition: account.Partition, Kind: KindOnce, Name: account.Name + "/" + cause + "/" + name}
}

// IdentityKey is where the directory says whose identity that is.
func IdentityKey(identity string) store.Key {
	return store.Key{Partition: Partition(identity), Kind: KindIdentity, Name: identity}
}

// SessionKey is where the directory says to which account a session belongs.
func SessionKey(realm, session string, sub uint64) store.Key {
	name := sessionName(realm, session, sub)
	return store.Key{Partition: Partition(name), Kind: KindSession, Name: name}
}

// sessionName keeps its parts apart by what none of them can hold: realms and
// Session-Ids are printable.
func sessionName(realm, session string, sub uint64) string {
	if sub == 0 {
		return realm + "\n" + session
	}
	return realm + "\n" + session + "\n" + strconv.FormatUint(sub, 10)
}
