package tenant_test

import (
	"strings"
	"testing"

	"rtm/tenant"
)

func TestParseSubscriberLines(t *testing.T) {
	s, err := tenant.ParseSubscriber("f", 1, []byte(`{"tenant":"lab","plan":"standard","imsi":"001010000000001","msisdn":"+491700000001","balance":"5.00","buckets":[{"unit":"octets","amount":"1 GiB","until":"2027-01-01T00:00:00Z"}]}`))
	if err != nil || s.Account != "imsi-001010000000001" || len(s.Buckets) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	for text, want := range map[string]string{
		`{"tenant":"lab","plan":"standard","imsi":1}`:                 "f: line 7: imsi: a number stands where a string is expected",
		`{"tenant":"lab","plan":"standard","imsy":"001010000000001"}`: `f: line 7: unknown key "imsy": did you mean imsi?`,
		`{"tenant":"lab","plan":"standard","imsi":"0010100000000`:     "f: line 7: not one JSON object",
		`["lab"]`:                            "f: line 7: ",
		`{"tenant":"lab","plan":"standard"}`: "a subscriber needs an imsi or a msisdn",
		`{"tenant":"lab","plan":"standard","imsi":"12"}`:                             `imsi: "12" must be 14 or 15 digits`,
		`{"kind":"Peer","tenant":"lab"}`:                                             `kind: "Peer" must be Subscriber, or be left out`,
		`{"tenant":"lab","plan":"standard","imsi":"001010000000001"} {"a":1}`:        "more than one object",
		`{"tenant":"lab","plan":"standard","imsi":"001010000000001"}}`:               "more than one object",
		`{"tenant":"LAB","plan":"standard","imsi":"001010000000001"}`:                `"LAB" must be 1 to 32 lower-case letters`,
		`{"tenant":"lab","plan":"standard","imsi":"001010000000001","balance":"-1"}`: "balance",
	} {
		if _, err := tenant.ParseSubscriber("f", 7, []byte(text)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "f: ") {
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
}
