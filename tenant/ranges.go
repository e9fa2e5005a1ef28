package tenant

import (
	"fmt"
	"strings"
)

// A numbers is a range of identities of a tenant: all that begin with some
// digits ("imsi:00101*"), or those from one to another of the same length
// ("msisdn:491700000000-491700099999").
type numbers struct {
	scheme   string // imsi or msisdn
	from, to string // to empty: all that begin with from
}

// parseNumbers reads a range.
func parseNumbers(text string) (numbers, error) {
	scheme, value, _ := strings.Cut(text, ":")
	r := numbers{scheme: scheme}
	if prefix, ok := strings.CutSuffix(value, "*"); ok {
		r.from = strings.TrimPrefix(prefix, "+")
	} else {
		from, to, _ := strings.Cut(value, "-")
		r.from, r.to = strings.TrimPrefix(from, "+"), strings.TrimPrefix(to, "+")
		if len(r.from) != len(r.to) || r.from > r.to {
			r.scheme = ""
		}
	}
	if r.scheme != "imsi" && r.scheme != "msisdn" || !digits(r.from, 1, 15) || r.to != "" && !digits(r.to, 1, 15) {
		return numbers{}, fmt.Errorf(`%q must be a range such as "imsi:00101*" or "msisdn:491700000000-491700099999"`, short(text))
	}
	return r, nil
}

func (r numbers) String() string {
	if r.to == "" {
		return r.scheme + ":" + r.from + "*"
	}
	return r.scheme + ":" + r.from + "-" + r.to
}

// holds reports whether the digits of an identity of the range's scheme are in it.
func (r numbers) holds(value string) bool {
	if r.to == "" {
		return strings.HasPrefix(value, r.from)
	}
	return len(value) == len(r.from) && r.from <= value && value <= r.to
}

// overlaps reports whether an identity can be in both.
func (r numbers) overlaps(o numbers) bool {
	if r.to == "" {
		r, o = o, r
	}
	switch {
	case r.scheme != o.scheme:
		return false
	case r.to == "":
		return strings.HasPrefix(r.from, o.from) || strings.HasPrefix(o.from, r.from)
	case o.to == "":
		n := len(o.from)
		return n <= len(r.from) && r.from[:n] <= o.from && o.from <= r.to[:n]
	}
	return len(r.from) == len(o.from) && r.from <= o.to && o.from <= r.to
}

// completeRanges checks the ranges and writes them in one way.
func (t *Tenant) completeRanges() error {
	t.numbers = t.numbers[:0]
	for i, text := range t.Ranges {
		r, err := parseNumbers(text)
		if err != nil {
			return wrong(fmt.Sprintf("ranges[%d]", i), "%v", err)
		}
		t.Ranges[i], t.numbers = r.String(), append(t.numbers, r)
	}
	return nil
}

// overlap names the first range of t that has identities in common with one of
// another tenant; empty: there is none.
func (t *Tenant) overlap(o *Tenant) (mine, other string) {
	for _, r := range t.numbers {
		for _, s := range o.numbers {
			if r.overlaps(s) {
				return r.String(), s.String()
			}
		}
	}
	return "", ""
}

// A RangeError says that an identity is not one of those that a tenant may have.
type RangeError struct{ Identity, Tenant, Owner string }

func (e *RangeError) Error() string {
	if e.Owner != "" {
		return fmt.Sprintf("%s is in a range of tenant %s, not of %s", e.Identity, e.Owner, e.Tenant)
	}
	return fmt.Sprintf("%s is in none of the ranges of tenant %s: add one to ranges: of the tenant", e.Identity, e.Tenant)
}

// Admits reports why a tenant may not have an identity: *RangeError, if the
// identity is in another tenant's range, or if the tenant has ranges for its sort
// and it is in none of them.
func (c *Catalogue) Admits(tenant, identity string) error {
	scheme, value, _ := strings.Cut(identity, ":")
	if scheme != "imsi" && scheme != "msisdn" {
		return nil
	}
	if owner := c.TenantOf(identity); owner != "" && owner != tenant {
		return &RangeError{identity, tenant, owner}
	} else if owner == tenant {
		return nil
	}
	if t := c.tenants[tenant]; t != nil {
		for _, r := range t.numbers {
			if r.scheme == scheme && !r.holds(value) {
				return &RangeError{identity, tenant, ""}
			}
		}
	}
	return nil
}

// TenantOf is the tenant in whose ranges an identity is; empty: in nobody's.
func (c *Catalogue) TenantOf(identity string) string {
	scheme, value, _ := strings.Cut(identity, ":")
	for _, t := range c.ranged {
		for _, r := range t.numbers {
			if r.scheme == scheme && r.holds(value) {
				return t.Name
			}
		}
	}
	return ""
}

// TenantAmong is the one of these tenants in whose ranges an identity is; empty: it
// is in nobody's of them.
func (c *Catalogue) TenantAmong(tenants []string, identity string) string {
	scheme, value, _ := strings.Cut(identity, ":")
	for _, name := range tenants {
		t := c.tenants[name]
		if t == nil {
			continue
		}
		for _, r := range t.numbers {
			if r.scheme == scheme && r.holds(value) {
				return name
			}
		}
	}
	return ""
}

// TenantOfRealm is the tenant that a Destination-Realm means; empty: nobody's.
func (c *Catalogue) TenantOfRealm(realm string) string { return c.realms[realm] }

// Realms lists the realms of all tenants.
func (c *Catalogue) Realms() (realms []string) {
	for _, t := range c.Tenants() {
		realms = append(realms, t.Realms...)
	}
	return realms
}
