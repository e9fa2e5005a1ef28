package tenant

import (
	"bytes"
	"fmt"
	"slices"
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

// FormersMax bounds how many it says it of.
const FormersMax = 8

// encodeMoved is EncodeOwner with a line for each account whose it was before,
// until when that matters.
func encodeMoved(tenant, account string, was []byte, now time.Time) []byte {
	b := EncodeOwner(nil, tenant, account)
	to := string(b)
	line := func(former string, until int64) {
		if former != to {
			b = strconv.AppendInt(append(append(append(b, '\n'), former...), ' '), until, 10)
		}
	}
	t, a, _ := DecodeOwner(was)
	last := t + "/" + a
	for _, f := range formers(was, now) {
		if f.account != last {
			line(f.account, f.until)
		}
	}
	line(last, now.Add(FormerFor).Unix())
	return b
}

// A former is an account whose an identity was.
type former struct {
	account string
	until   int64 // seconds since 1970
}

// formers are those that still matter, in the order in which they lost it.
func formers(b []byte, now time.Time) (all []former) {
	for i, text := range strings.Split(string(b), "\n") {
		name, end, _ := strings.Cut(text, " ")
		until, err := strconv.ParseInt(end, 10, 64)
		if _, _, ok := DecodeOwner([]byte(name)); i > 0 && ok && err == nil && now.Unix() < until {
			all = append(all, former{name, until})
		}
	}
	return all
}

// Formers are the accounts whose identity it was before, as far as that still
// matters at that moment, the last one first.
func Formers(b []byte, now time.Time) (accounts []store.Key) {
	if bytes.IndexByte(b, '\n') < 0 {
		return nil
	}
	for _, f := range slices.Backward(formers(b, now)) {
		t, a, _ := strings.Cut(f.account, "/")
		accounts = append(accounts, AccountKey(t, a))
	}
	return accounts
}

// Owner is whose identity a directory record says it is, as views on b; false: b is
// no directory record.
func Owner(b []byte) (tenant, account []byte, ok bool) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i]
	}
	tenant, account, ok = bytes.Cut(b, []byte("/"))
	if !ok || len(tenant) == 0 || len(account) == 0 || bytes.IndexByte(account, '/') >= 0 || bytes.IndexByte(b, ' ') >= 0 {
		return nil, nil, false
	}
	return tenant, account, true
}

// An Entry says whose a session is. Accounts may share a name of a session; each has
// its own entry in the record of that name.
type Entry struct {
	Account store.Key
	Host    string    // Origin-Host of the message that wrote it
	Opened  time.Time // in milliseconds
	Until   time.Time // it is kept until then, likewise
}

// Entries are those of a session's record, the newest last.
func Entries(b []byte) (all []Entry) {
	for line := range strings.SplitSeq(string(b), "\n") {
		name, rest, _ := strings.Cut(line, " ")
		host, rest, _ := strings.Cut(rest, " ")
		opened, until, _ := strings.Cut(rest, " ")
		if t, a, ok := DecodeOwner([]byte(name)); ok {
			all = append(all, Entry{AccountKey(t, a), host, moment(opened), moment(until)})
		}
	}
	return all
}

// Covers reports whether o is of the session of e and kept as long, to a second.
func (e Entry) Covers(o Entry) bool {
	return e.Means(o) && !o.Until.Before(e.Until.Add(-time.Second))
}

// moment is a time that EncodeEntry has written.
func moment(text string) time.Time {
	ms, _ := strconv.ParseInt(text, 10, 64)
	return time.UnixMilli(ms).UTC()
}

// Means reports whether both are of one session.
func (e Entry) Means(o Entry) bool { return e.Account == o.Account && e.Opened.Equal(o.Opened) }

// entriesMax bounds the accounts of one tenant that have an entry in one record.
const entriesMax = 8

// makeRoom takes out the oldest entry of the tenant of e, if that has as many as it may.
func makeRoom(all []Entry, e Entry) []Entry {
	of, _ := AccountOf(e.Account)
	own := func(o Entry) bool { t, _ := AccountOf(o.Account); return t == of }
	many := 0
	for _, o := range all {
		if own(o) {
			many++
		}
	}
	if many < entriesMax {
		return all
	}
	i := slices.IndexFunc(all, own)
	return slices.Delete(all, i, i+1)
}

// EncodeEntry is the value of a session's record: an entry, and what was says of
// other accounts, so that nobody can take the session of another one out of the
// index by naming his own so: when there are too many, the oldest of the entry's own
// tenant goes first. What is not to be kept any more is left out. A session keeps its
// place; a new one is the newest, or behind those that were opened before it, if it is
// entered late. others is until when the last of the others is kept; zero: there are
// none.
func EncodeEntry(was []byte, e Entry, now time.Time, late bool) (value []byte, others time.Time) {
	if strings.ContainsAny(e.Host, " \n") { // no host has such a name: it must not write entries of others
		e.Host = ""
	}
	mine := func(o Entry) bool { return o.Account == e.Account }
	all := slices.DeleteFunc(Entries(was), func(o Entry) bool { return !mine(o) && !o.Until.After(now) })
	place := slices.IndexFunc(all, e.Means)
	all = slices.DeleteFunc(all, mine)
	if place < 0 {
		all = makeRoom(all, e)
		place = len(all)
		if i := slices.IndexFunc(all, func(o Entry) bool { return o.Opened.After(e.Opened) }); late && i >= 0 {
			place = i
		}
	}
	for _, o := range all {
		if o.Until.After(others) {
			others = o.Until
		}
	}
	for _, o := range slices.Insert(all, place, e) {
		if len(value) > 0 {
			value = append(value, '\n')
		}
		value = append(append(append(append(value, o.Account.Name...), ' '), o.Host...), ' ')
		value = append(strconv.AppendInt(value, o.Opened.UnixMilli(), 10), ' ')
		value = strconv.AppendInt(value, o.Until.UnixMilli(), 10)
	}
	return value, others
}

// Enter is the commit that puts the entry of an open session into the session's record,
// which was as given.
func Enter(key store.Key, was store.Record, e Entry, v store.Version, now time.Time) store.Commit {
	value, others := EncodeEntry(was.Bytes, e, now, true)
	keep := max(e.Until.Sub(now), others.Sub(now), time.Hour)
	return store.Commit{Writes: []store.Write{{Op: store.Put, Key: key, Seen: was.Version, New: v, Bytes: value, Expire: keep}}}
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
	if _, _, ok := DecodeOwner(was.Bytes); ok {
		w.Bytes = encodeMoved(tenant, account, was.Bytes, now)
	}
	return store.Commit{Writes: []store.Write{w}}
}

// Forget is the commit that takes an identity out of the directory, if was is
// still what it says.
func Forget(identity string, was store.Record) store.Commit {
	return store.Commit{Writes: []store.Write{{Op: store.Delete, Key: IdentityKey(identity), Seen: was.Version}}}
}
