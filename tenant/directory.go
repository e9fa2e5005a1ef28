package tenant

import "strings"

// EncodeOwner appends the value of a directory record: whose identity or
// session it is, as "tenant/account". It is a hint: the account's record is the
// truth.
func EncodeOwner(b []byte, tenant, account string) []byte {
	b = append(b, tenant...)
	b = append(b, '/')
	return append(b, account...)
}

// DecodeOwner is the inverse of EncodeOwner; false: b is no directory record.
func DecodeOwner(b []byte) (tenant, account string, ok bool) {
	tenant, account, ok = strings.Cut(string(b), "/")
	return tenant, account, ok && tenant != "" && account != ""
}
