package tenant

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// An EmergencyDoc names what a tenant's emergency services are told by. A message
// that one of these is in goes before the others of its kind when there is more than can
// be done, and the tenant's limits.rate does not count for it.
type EmergencyDoc struct {
	RatingGroups []uint32 `json:"ratingGroups,omitempty"` // Rating-Group
	ServiceIDs   []uint32 `json:"serviceIds,omitempty"`   // Service-Identifier
	APNs         []string `json:"apns,omitempty"`         // Called-Station-Id
	Called       []string `json:"called,omitempty"`       // Called-Party-Address: a number such as "112", or "urn:service:sos" and all that it has below it
}

var calledRule = regexp.MustCompile(`^([0-9]{2,15}|urn:[a-z0-9.:-]{1,60})$`)

func (e *EmergencyDoc) complete() error {
	if max(len(e.RatingGroups), len(e.ServiceIDs), len(e.APNs), len(e.Called)) > listMax {
		return wrong("emergency", "its lists are longer than %d", listMax)
	}
	for i, apn := range e.APNs {
		if e.APNs[i] = strings.ToLower(apn); !domainRule.MatchString(e.APNs[i]) {
			return wrong(fmt.Sprintf("emergency.apns[%d]", i), "%q must be an APN such as sos", short(apn))
		}
	}
	for i, number := range e.Called {
		if e.Called[i] = strings.ToLower(number); !calledRule.MatchString(e.Called[i]) {
			return wrong(fmt.Sprintf("emergency.called[%d]", i), "%q must be a number such as 112, or urn:service:sos", short(number))
		}
	}
	return nil
}

// Service reports whether a rating group or service is for emergencies.
func (e *EmergencyDoc) Service(group uint32, hasGroup bool, service uint32, hasService bool) bool {
	return hasGroup && slices.Contains(e.RatingGroups, group) || hasService && slices.Contains(e.ServiceIDs, service)
}

// Reaches reports whether an APN, or a called party as clients write it ("tel:112",
// "sip:112@example.net;user=phone", "urn:service:sos.fire"), is for emergencies.
func (e *EmergencyDoc) Reaches(apn, called []byte) bool {
	is := func(b []byte, s string) bool { return strings.EqualFold(string(b), s) }
	if slices.ContainsFunc(e.APNs, func(name string) bool { return is(apn, name) }) {
		return true
	}
	if len(e.Called) == 0 || len(called) == 0 {
		return false
	}
	number := called
	if scheme, rest, ok := bytes.Cut(called, []byte(":")); ok && (is(scheme, "tel") || is(scheme, "sip") || is(scheme, "sips")) {
		number = rest
		if end := bytes.IndexAny(rest, "@;"); end >= 0 {
			number = rest[:end]
		}
	}
	return slices.ContainsFunc(e.Called, func(name string) bool {
		return is(number, name) || strings.HasPrefix(name, "urn:") && len(called) > len(name) && called[len(name)] == '.' && is(called[:len(name)], name)
	})
}
