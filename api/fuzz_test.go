package api

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// bodies are the operations that take a body.
var bodies = []struct{ method, path, kind string }{
	{"POST", "/v1/apply", "application/yaml"},
	{"POST", "/v1/subscribers", "application/json"},
	{"POST", "/v1/import", "application/x-ndjson"},
	{"PUT", "/v1/identities/imsi:001010000000001", "application/json"},
	{"POST", "/v1/subscribers/shop%2Falice/topups", "application/json"},
	{"POST", "/v1/sessions/s/reauth", "application/json"},
	{"POST", "/v1/sessions/s/abort", "application/json"},
	{"POST", "/v1/sessions/s/abort", ""},
}

// Whatever a body holds, its sender is told: done, or what is wrong with it.
func FuzzBody(f *testing.F) {
	for i, b := range []string{
		shop, `{"tenant":"shop","plan":"basic","imsi":"001010000000007","balance":"1"}`,
		`{"tenant":"shop","plan":"basic","msisdn":"491","buckets":[{"unit":"octets","amount":"1 GiB"}]}` + "\n{}\n",
		`{"to":"shop/alice"}`, `{"amount":"5","key":"k","cause":"shop"}`, `{"ratingGroup":1}`, `{"cause":"x"}`, `[[[[[[[[]]]]]]]]`,
	} {
		f.Add(uint8(i), b)
	}
	s := newSite(f)
	if code, text := s.send("POST", "/v1/apply", "application/yaml", shop); code >= 300 {
		f.Fatalf("%d %s", code, text)
	}
	f.Fuzz(func(t *testing.T, which uint8, b string) {
		o := bodies[int(which)%len(bodies)]
		if code, text := s.send(o.method, o.path, o.kind, b); code >= 500 && code != 503 {
			t.Fatalf("%s %s: %d %s", o.method, o.path, code, text)
		}
	})
}

func (s *site) send(method, path, kind, body string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}
