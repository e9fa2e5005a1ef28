package tenant

import (
	"fmt"
	"strings"
)

// Bounds of what names a subscriber.
const (
	IdentityMax   = 200 // octets of an identity, its scheme included
	IdentitiesMax = 16  // of one account
)

// CanonicalIdentity gives an identity as the directory knows it: "imsi:" and 14
// or 15 digits, "msisdn:" and 3 to 15 digits without the plus (short ones are
// numbers inside a network), "sip:" and "nai:" in lower case, "private:" as it
// is (the Subscription-Id-Types of RFC 8506 §8.47).
func CanonicalIdentity(text string) (string, error) {
	scheme, value, ok := strings.Cut(text, ":")
	if len(text) > IdentityMax {
		return "", fmt.Errorf("identity of %d characters is longer than %d", len(text), IdentityMax)
	}
	switch {
	case !ok:
	case scheme == "imsi":
		if !digits(value, 14, 15) {
			return "", fmt.Errorf("imsi %q must be 14 or 15 digits", value)
		}
		return text, nil
	case scheme == "msisdn":
		value = strings.TrimPrefix(value, "+")
		if !digits(value, 3, 15) {
			return "", fmt.Errorf("msisdn %q must be 3 to 15 digits, country code first, without blanks", value)
		}
		return "msisdn:" + value, nil
	case value == "" || strings.ContainsFunc(value, unprintable):
		return "", fmt.Errorf("identity %q must have printable characters without blanks behind its %s: prefix", text, scheme)
	case scheme == "sip", scheme == "nai":
		return strings.ToLower(text), nil
	case scheme == "private":
		return text, nil
	}
	return "", fmt.Errorf("identity %q must have imsi:, msisdn:, sip:, nai: or private: in front", text)
}

// unprintable reports whether r cannot be in an identity.
func unprintable(r rune) bool { return r < '!' || r > '~' }

func digits(s string, least, most int) bool {
	return len(s) >= least && len(s) <= most && strings.Trim(s, "0123456789") == ""
}

// PossibleIdentities lists what a person may mean by a bare number or name, in
// the order in which to look: 15 digits may be an IMSI or an MSISDN. What has a
// scheme means itself. Nothing: it cannot be an identity.
func PossibleIdentities(text string) (ids []string) {
	schemes := []string{"", "imsi:", "msisdn:"}
	if strings.Contains(text, "@") {
		schemes = []string{"", "sip:", "nai:"}
	}
	for _, scheme := range schemes {
		if id, err := CanonicalIdentity(scheme + text); err == nil {
			ids = append(ids, id)
			if scheme == "" {
				break
			}
		}
	}
	return ids
}
