package tenant

import (
	"bytes"
	"fmt"
	"strings"

	"rtm/store"
)

// EncodeOwner appends the value of a directory record: whose identity or
// session it is, as "tenant/account". It is a hint: the account's record is the
// truth.
func EncodeOwner(b []byte, tenant, account string) []byte {
	b = append(b, tenant...)
	b = append(b, '/')
	return append(b, account...)
}

// Owner is the inverse of EncodeOwner, as views on b; false: b is no directory
// record.
func Owner(b []byte) (tenant, account []byte, ok bool) {
	tenant, account, ok = bytes.Cut(b, []byte("/"))
	if !ok || len(tenant) == 0 || len(account) == 0 || bytes.IndexByte(account, '/') >= 0 {
		return nil, nil, false
	}
	return tenant, account, true
}

// DecodeOwner is Owner with texts that outlive b, for one allocation.
func DecodeOwner(b []byte) (tenant, account string, ok bool) {
	if _, _, ok = Owner(b); ok {
		tenant, account, _ = strings.Cut(string(b), "/")
	}
	return tenant, account, ok
}

// TakenError says that an identity belongs to another account.
type TakenError struct{ Identity, Tenant, Account string }

func (e *TakenError) Error() string {
	return fmt.Sprintf("%s belongs to account %s of tenant %s already", e.Identity, e.Account, e.Tenant)
}

// Claim is the commit that makes an identity that account's. was is its
// directory record as loaded: it must be missing, or name that account already,
// which the commit then only proves. Errors: *TakenError. A Conflict means that
// another was faster: claim again with the fresh record.
func Claim(identity, tenant, account string, was store.Record, v store.Version) (store.Commit, error) {
	w := store.Write{Op: store.Put, Key: IdentityKey(identity), Seen: was.Version, New: v, Bytes: EncodeOwner(nil, tenant, account)}
	if was.Version != (store.Version{}) {
		if !bytes.Equal(was.Bytes, w.Bytes) {
			t, a, _ := DecodeOwner(was.Bytes)
			return store.Commit{}, &TakenError{identity, t, a}
		}
		w = store.Write{Op: store.Check, Key: w.Key, Seen: was.Version}
	}
	return store.Commit{Writes: []store.Write{w}}, nil
}

// Reassign is the commit that gives an identity to that account, whoever had it
// when was was loaded. It comes between taking it out of the one account's
// record and putting it into the other's; each step can be repeated.
func Reassign(identity, tenant, account string, was store.Record, v store.Version) store.Commit {
	if c, err := Claim(identity, tenant, account, was, v); err == nil {
		return c
	}
	return store.Commit{Writes: []store.Write{{
		Op: store.Put, Key: IdentityKey(identity), Seen: was.Version, New: v, Bytes: EncodeOwner(nil, tenant, account),
	}}}
}

// Forget is the commit that takes an identity out of the directory, if was is
// still what it says.
func Forget(identity string, was store.Record) store.Commit {
	return store.Commit{Writes: []store.Write{{Op: store.Delete, Key: IdentityKey(identity), Seen: was.Version}}}
}
