package tenant

import (
	"bytes"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

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

// FormerFor is how long a directory record says whose identity it was before: as
// long as the answer of a refund is kept, the longest of what may be repeated.
const FormerFor = 7 * 24 * time.Hour

// EncodeMoved is EncodeOwner with a second line: whose it was, until when that
// matters.
func EncodeMoved(b []byte, tenant, account string, former store.Key, until time.Time) []byte {
	b = append(EncodeOwner(b, tenant, account), '\n')
	b = append(append(b, former.Name...), ' ')
	return strconv.AppendInt(b, until.Unix(), 10)
}

// Former is the account whose identity it was before, if that still matters at
// that moment; false: it does not.
func Former(b []byte, now time.Time) (account store.Key, ok bool) {
	_, line, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return store.Key{}, false
	}
	line, _, _ = bytes.Cut(line, []byte("\n")) // behind it: of a later version
	name, end, _ := strings.Cut(string(line), " ")
	until, err := strconv.ParseInt(end, 10, 64)
	t, a, ok := DecodeOwner([]byte(name))
	if err != nil || !ok || now.Unix() >= until {
		return store.Key{}, false
	}
	return AccountKey(t, a), true
}

// Owner is the inverse of EncodeOwner and EncodeMoved, as views on b; false: b is
// no directory record.
func Owner(b []byte) (tenant, account []byte, ok bool) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i]
	}
	tenant, account, ok = bytes.Cut(b, []byte("/"))
	if !ok || len(tenant) == 0 || len(account) == 0 || bytes.IndexByte(account, '/') >= 0 {
		return nil, nil, false
	}
	return tenant, account, true
}

// Owners are the entries of a directory record, as views on b: one, but for a
// session's whose name several tenants use.
func Owners(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(tenant, account []byte) bool) {
		for line := range bytes.SplitSeq(b, []byte("\n")) {
			t, a, ok := Owner(line)
			if ok && bytes.IndexByte(a, ' ') < 0 && !yield(t, a) { // with a space: Former
				return
			}
		}
	}
}

// sharersMax bounds the tenants that have an entry in one record.
const sharersMax = 8

// EncodeBeside appends the value of a session's record that keeps what was says of
// other tenants: nobody can take the session of another one out of the index by
// naming his own so. alone: it says nothing of others.
func EncodeBeside(b, was []byte, tenant, account string) (value []byte, alone bool) {
	alone = true
	n := 1
	for t, a := range Owners(was) {
		if string(t) != tenant && n < sharersMax {
			b, alone, n = append(EncodeOwner(b, string(t), string(a)), '\n'), false, n+1
		}
	}
	return EncodeOwner(b, tenant, account), alone
}

// DecodeOwner is Owner with texts that outlive b, for one allocation.
func DecodeOwner(b []byte) (tenant, account string, ok bool) {
	t, a, ok := Owner(b)
	if !ok {
		return "", "", false
	}
	both := string(b[:len(t)+1+len(a)])
	return both[:len(t)], both[len(t)+1:], true
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
		if t, a, _ := DecodeOwner(was.Bytes); t != tenant || a != account {
			return store.Commit{}, &TakenError{identity, t, a}
		}
		w = store.Write{Op: store.Check, Key: w.Key, Seen: was.Version}
	}
	return store.Commit{Writes: []store.Write{w}}, nil
}

// Reassign is the commit that gives an identity to that account, whoever had it
// when was was loaded, which it remembers. It comes between taking it out of the
// one account's record and putting it into the other's; each step can be
// repeated.
func Reassign(identity, tenant, account string, was store.Record, v store.Version, now time.Time) store.Commit {
	c, err := Claim(identity, tenant, account, was, v)
	if err == nil {
		return c
	}
	w := store.Write{Op: store.Put, Key: IdentityKey(identity), Seen: was.Version, New: v, Bytes: EncodeOwner(nil, tenant, account)}
	if t, a, ok := DecodeOwner(was.Bytes); ok {
		w.Bytes = EncodeMoved(nil, tenant, account, AccountKey(t, a), now.Add(FormerFor))
	}
	return store.Commit{Writes: []store.Write{w}}
}

// Forget is the commit that takes an identity out of the directory, if was is
// still what it says.
func Forget(identity string, was store.Record) store.Commit {
	return store.Commit{Writes: []store.Write{{Op: store.Delete, Key: IdentityKey(identity), Seen: was.Version}}}
}
