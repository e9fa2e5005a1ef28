package api

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"rtm"
	"rtm/store"
	"rtm/store/storetest"
)

var update = flag.Bool("update", false, "write openapi.yaml")

const shop = `kind: Tenant
name: shop
currency: EUR
---
kind: Plan
tenant: shop
name: basic
services:
  - {name: data, unit: octets, price: "0.01", per: 1 MiB, quota: {size: 10 MiB, validity: 10 min}}
---
kind: Subscriber
tenant: shop
account: alice
plan: basic
balance: "10"
identities: ["imsi:001010000000001"]
`

// site is the interface in front of an instance on a store of its own.
type site struct {
	t     testing.TB
	store *tank
	ready error
	http.Handler
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, store: &tank{Store: storetest.NewMemory()}}
	n, err := rtm.Start(t.Context(), rtm.Config{Name: "A", Store: s.store, Presence: rtm.Presence{PeerHost: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	instances := func() []*rtm.Instance { return []*rtm.Instance{n} }
	reg := prometheus.NewRegistry()
	reg.MustRegister(Metrics(instances))
	s.Handler, _ = New(Config{Version: "test", Instances: instances, Registry: reg, Ready: func() error { return s.ready },
		Records: func(_ context.Context, q RecordQuery) (page RecordPage, err error) {
			for _, line := range []string{`{"type":"final","session":"s","account":"alice"}`, `{"type":"ledger","account":"alice"}`} {
				if q.Match(json.RawMessage(line)) && len(page.Lines) < q.Limit {
					page.Lines = append(page.Lines, json.RawMessage(line))
				}
			}
			return page, nil
		}})
	return s
}

// ask sends a request: method and path, header lines, body.
func (s *site) ask(what string, headers []string, in string) (status int, header http.Header, body string) {
	s.t.Helper()
	method, path, _ := strings.Cut(what, " ")
	r := httptest.NewRequest(method, path, strings.NewReader(in))
	if in != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return w.Code, w.Result().Header, string(b)
}

// must asks and wants 2xx.
func (s *site) must(what string, headers []string, in string) string {
	s.t.Helper()
	status, _, body := s.ask(what, headers, in)
	if status/100 != 2 {
		s.t.Fatalf("%s: %d %s", what, status, body)
	}
	return body
}

// A tank is a store that can be full.
type tank struct {
	store.Store
	full atomic.Bool
}

func (f *tank) Commit(ctx context.Context, cs []store.Commit) ([]store.Result, time.Time) {
	if !f.full.Load() {
		return f.Store.Commit(ctx, cs)
	}
	rs := make([]store.Result, len(cs))
	for i := range rs {
		rs[i] = store.Result{Outcome: store.Refused, Err: errors.New("OOM")}
	}
	return rs, time.Now()
}

// A body has a limit, and who should come later is told when.
func TestLimitsOfABody(t *testing.T) {
	s := newSite(t)
	s.must("POST /v1/apply", yaml, shop)
	cause := strings.Repeat("x", bodyMax)
	if status, _, body := s.ask("POST /v1/subscribers/shop%2Falice/topups", nil, `{"amount":"1","cause":"`+cause+`"}`); status != http.StatusRequestEntityTooLarge {
		t.Errorf("%d octets: %d %s", bodyMax, status, body)
	}
	for extra, want := range map[string]string{
		strings.Repeat("[", 16) + strings.Repeat("]", 16): "400 nested more than 16 deep",
		strings.Repeat("[", 15) + strings.Repeat("]", 15): "422 unexpected property",
		"[" + strings.Repeat("1,", 256) + "1]":            "400 more than 256 elements",
		"[" + strings.Repeat("1,", 255) + "1]":            "422 unexpected property",
		"[":                                               "400 invalid character",
	} {
		status, _, body := s.ask("POST /v1/subscribers/shop%2Falice/topups", nil, `{"amount":"1","odd":`+extra+`}`)
		if code, text, _ := strings.Cut(want, " "); fmt.Sprint(status) != code || !strings.Contains(body, text) {
			t.Errorf("%.20s…: %d %s, want %s", extra, status, body, want)
		}
	}
	s.store.full.Store(true)
	status, h, body := s.ask("POST /v1/subscribers/shop%2Falice/topups", []string{"Idempotency-Key: k"}, `{"amount":"1"}`)
	if status != http.StatusTooManyRequests || h.Get("Retry-After") == "" {
		t.Errorf("a full store: %d %q %s", status, h.Get("Retry-After"), body)
	}
	counted := s.must("GET /metrics", nil, "")
	for code, n := range map[string]int{"200": 1, "400": 3, "413": 1, "422": 2, "429": 1} {
		if line := fmt.Sprintf("rtm_http_requests_total{code=%q,method=\"post\"} %d\n", code, n); !strings.Contains(counted, line) {
			t.Errorf("not counted: %s", line)
		}
	}
}

var yaml = []string{"Content-Type: application/yaml"}

// The description in the tree is what the server says of itself.
func TestOpenAPI(t *testing.T) {
	_, a := New(Config{Version: "0", Instances: func() []*rtm.Instance { return nil }})
	got, err := a.OpenAPI().YAML()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("openapi.yaml", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("openapi.yaml is not what the server says; go test ./api -run TestOpenAPI -update\n%s", diff)
	}
}

func TestTopUpOnce(t *testing.T) {
	s := newSite(t)
	s.must("POST /v1/apply", yaml, shop)
	key := []string{"Idempotency-Key: k1"}
	first := s.must("POST /v1/subscribers/001010000000001/topups", key, `{"amount":"5.50"}`)
	if again := s.must("POST /v1/subscribers/shop%2Falice/topups", key, `{"amount":"5.50"}`); again != first {
		t.Errorf("the repeat says %s, the first said %s", again, first)
	}
	if status, _, body := s.ask("POST /v1/subscribers/001010000000001/topups", key, `{"amount":"6"}`); status != 422 || !strings.Contains(body, "another top-up") {
		t.Errorf("another amount under the same key: %d %s", status, body)
	}
	s.must("POST /v1/subscribers/001010000000001/topups", []string{"Idempotency-Key: k2"}, `{"amount":"1 GiB","unit":"octets","priority":-5,"until":"2027-01-01T00:00:00Z"}`)
	var sub Subscriber
	if err := json.Unmarshal([]byte(s.must("GET /v1/subscribers/001010000000001", nil, "")), &sub); err != nil {
		t.Fatal(err)
	}
	money, octets := int64(0), int64(0)
	for _, b := range sub.Buckets {
		if b.Unit == "money" {
			money += b.Available
		} else {
			octets += b.Available
		}
	}
	if money != 15_500_000 || octets != 1<<30 {
		t.Errorf("%d micro-units and %d octets: %+v", money, octets, sub.Buckets)
	}
}

func TestApplyAgainChangesNothing(t *testing.T) {
	s := newSite(t)
	s.must("POST /v1/apply?dryRun=true", yaml, shop)
	if body := s.must("GET /v1/tenants", nil, ""); strings.Contains(body, "shop") {
		t.Errorf("a dry run wrote: %s", body)
	}
	if body := s.must("POST /v1/apply", yaml, shop); strings.Count(body, "created")+strings.Count(body, `"changed"`) != 3 {
		t.Errorf("applied: %s", body)
	}
	if body := s.must("POST /v1/apply", yaml, shop); strings.Count(body, "unchanged") != 3 {
		t.Errorf("applied again: %s", body)
	}
	if body := s.must("POST /v1/subscribers", nil, `{"tenant":"shop","imsi":"001010000000002","msisdn":"491700000002","plan":"basic","balance":"1"}`); !strings.Contains(body, "created") {
		t.Errorf("added: %s", body)
	}
	if body := s.must("GET /v1/subscribers/491700000002", nil, ""); !strings.Contains(body, "imsi:001010000000002") {
		t.Errorf("shown: %s", body)
	}
}

// Whatever is wrong is told as a problem, and what to do about it.
func TestProblems(t *testing.T) {
	s := newSite(t)
	s.must("POST /v1/apply", yaml, shop)
	key := []string{"Idempotency-Key: k"}
	for _, c := range []struct {
		what    string
		headers []string
		in      string
		status  int
		want    string
	}{
		{"GET /v1/subscribers/999", nil, "", 404, "subscriber 999"},
		{"GET /v1/subscribers/shop%2Fnobody", nil, "", 404, "nobody"},
		{"GET /v1/sessions/gw;1;2", nil, "", 404, "gw;1;2"},
		{"POST /v1/sessions/gw;1;2/reauth", nil, "", 404, "gw;1;2"},
		{"POST /v1/sessions/gw;1;2/abort", nil, "", 404, "gw;1;2"},
		{"GET /v1/sessions?limit=0", nil, "", 422, "limit"},
		{"GET /v1/sessions?limit=many", nil, "", 422, "limit"},
		{"GET /v1/sessions?cursor=x", nil, "", 422, "none of the list of sessions"},
		{"GET /v1/sessions?idle=soon", nil, "", 422, "such as 90s"},
		{"GET /v1/sessions?subscriber=999", nil, "", 404, "subscriber 999"},
		{"GET /v1/sessions/gw;1;2?subscriber=shop%2Falice", nil, "", 404, "subscriber shop/alice, session gw;1;2"},
		{"GET /v1/subscribers?cursor=AAAAAAAA", nil, "", 422, "none of the list of subscribers"},
		{"GET /v1/export?cursor=!", nil, "", 422, "none of the list of subscribers to export"},
		{"GET /v1/records?cursor=AAAAAAAA", nil, "", 422, "none of the list of records"},
		{"GET /v1/records?since=today", nil, "", 422, "since"},
		{"GET /v1/records?type=nothing", nil, "", 422, "type"},
		{"GET /v1/tenants/nobody", nil, "", 404, "rtm tenant list"},
		{"GET /v1/plans/shop/gold", nil, "", 404, "rtm plan list"},
		{"GET /v1/plans/shop/basic?version=2", nil, "", 404, "its last is 1"},
		{"GET /v1/peers/gw", nil, "", 404, "rtm peer list"},
		{"POST /v1/apply", yaml, "kind: Plan\nname: x\nprize: 5\n", 422, "prize"},
		{"POST /v1/apply", yaml, "kind: Nothing\n", 422, "Nothing"},
		{"POST /v1/apply", yaml, ": : :", 422, ""},
		{"POST /v1/apply", yaml, strings.Replace(shop, "plan: basic", "plan: gold", 1), 422, "gold"},
		{"POST /v1/subscribers", nil, `{"tenant":"shop","imsi":"1","plan":"basic"}`, 422, "imsi"},
		{"POST /v1/subscribers", nil, `{"tenant":"shop","imsi":"001010000000009","plan":"gold"}`, 422, "gold"},
		{"POST /v1/subscribers", nil, `{"tenant":"nobody","imsi":"001010000000009","plan":"basic"}`, 422, "nobody"},
		{"POST /v1/subscribers", nil, `{"tenant":"shop","account":"bob","imsi":"001010000000001","plan":"basic"}`, 409, "alice"},
		{"POST /v1/subscribers", nil, `{"tenant":"shop","imsi":"001010000000009","plan":"basic","colour":"red"}`, 422, "colour"},
		{"POST /v1/subscribers", nil, `{"tenant":`, 400, ""},
		{"POST /v1/subscribers/001010000000001/topups", nil, `{"amount":"1"}`, 422, "Idempotency-Key"},
		{"POST /v1/subscribers/001010000000001/topups", key, `{"amount":"-1"}`, 422, ""},
		{"POST /v1/subscribers/001010000000001/topups", key, `{"amount":"0"}`, 422, "above zero"},
		{"POST /v1/subscribers/001010000000001/topups", key, `{"amount":"1e30"}`, 422, ""},
		{"POST /v1/subscribers/001010000000001/topups", key, `{"amount":"0.00000001"}`, 422, ""},
		{"POST /v1/subscribers/001010000000001/topups", key, `{"amount":"1","unit":"gold"}`, 422, "unit"},
		{"POST /v1/subscribers/001010000000001/topups", key, `{"amount":"1","until":"tomorrow"}`, 422, "until"},
		{"POST /v1/subscribers/999/topups", key, `{"amount":"1"}`, 404, "999"},
	} {
		status, header, body := s.ask(c.what, c.headers, c.in)
		if status != c.status || !strings.Contains(body, c.want) || !strings.HasPrefix(header.Get("Content-Type"), "application/problem+json") {
			t.Errorf("%s %s\ngot  %d %s %s\nwant %d … %s", c.what, c.in, status, header.Get("Content-Type"), body, c.status, c.want)
		}
	}
	if status, _, _ := s.ask("POST /v1/apply", yaml, strings.Repeat("#", BodyMax+1)); status != 413 {
		t.Errorf("a body that is too large: %d", status)
	}
	web := []string{"Sec-Fetch-Site: cross-site", "Origin: http://evil.example"}
	if status, _, _ := s.ask("POST /v1/subscribers/001010000000001/topups", append(web, key...), `{"amount":"1"}`); status != 403 {
		t.Errorf("a web page from elsewhere: %d", status)
	}
	if body := s.must("GET /v1/subscribers/001010000000001", nil, ""); !strings.Contains(body, `"credited":10000000`) {
		t.Errorf("something was changed: %s", body)
	}
	if body := s.must("GET /metrics", nil, ""); !strings.Contains(body, `rtm_answers_total{instance="A",result="2001"} `) {
		t.Errorf("who was answered is not in the metrics: %s", body)
	}
}

func TestHealth(t *testing.T) {
	s := newSite(t)
	if body := s.must("GET /healthz", nil, ""); body != "ok\n" {
		t.Errorf("healthz: %s", body)
	}
	s.must("GET /readyz", nil, "")
	body := s.must("GET /metrics", nil, "")
	for _, line := range []string{`rtm_requests_total{instance="A"}`, `rtm_notices_dropped_total{instance="A"} 0`} {
		if !strings.Contains(body, line) {
			t.Errorf("%s is not in the metrics: %s", line, body)
		}
	}
	if body := s.must("GET /v1/info", nil, ""); !strings.Contains(body, `"version":"test"`) {
		t.Errorf("info: %s", body)
	}
	if body := s.must("GET /v1/instances", nil, ""); !strings.Contains(body, `"name":"A"`) {
		t.Errorf("instances: %s", body)
	}
	if body := s.must("GET /v1/records?type=final&session=s", nil, ""); strings.Count(body, "type") != 1 {
		t.Errorf("records: %s", body)
	}
	s.ready = errors.New("leaving")
	if status, _, body := s.ask("GET /readyz", nil, ""); status != 503 || !strings.Contains(body, "leaving") {
		t.Errorf("readyz while leaving: %d %s", status, body)
	}
}

// A cursor is good for the list that gave it, and for no other.
func TestCursorsOfLists(t *testing.T) {
	s := newSite(t)
	s.must("POST /v1/apply", yaml, shop)
	for i := range 40 {
		s.must("POST /v1/subscribers", nil, fmt.Sprintf(`{"tenant":"shop","imsi":"00101000000%04d","plan":"basic"}`, 100+i))
	}
	seen, cursor := make(map[string]bool), ""
	var page AccountList
	for pages := 1; ; pages++ {
		page = AccountList{}
		if err := json.Unmarshal([]byte(s.must("GET /v1/subscribers?limit=1&cursor="+cursor, nil, "")), &page); err != nil || pages > 41 {
			t.Fatal(pages, err)
		}
		for _, a := range page.Subscribers {
			if seen[a.Account] {
				t.Errorf("%s is on two pages", a.Account)
			}
			seen[a.Account] = true
		}
		if page.Cursor == "" {
			break
		}
		cursor = page.Cursor
	}
	if len(seen) != 41 || cursor == "" {
		t.Errorf("%d subscribers", len(seen))
	}
	for _, list := range []string{"sessions", "export", "records"} {
		if status, _, body := s.ask("GET /v1/"+list+"?cursor="+cursor, nil, ""); status != 422 {
			t.Errorf("%s: %d %s", list, status, body)
		}
	}
}

// What is on a store of another kind, or on one that others hold too, is told
// that it cannot be written down or moved here.
func TestStoreThatCannotMove(t *testing.T) {
	s := newSite(t)
	if status, _, body := s.ask("GET /v1/backup", nil, ""); status != 501 || !strings.Contains(body, "cannot be written to a file") {
		t.Errorf("backup: %d %s", status, body)
	}
	if status, _, body := s.ask("POST /v1/migrate", nil, `{"to":"redis://127.0.0.1:1"}`); status != 409 || !strings.Contains(body, "rtm backup and rtm restore") {
		t.Errorf("migrate: %d %s", status, body)
	}
}
