package api

import (
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

func init() {
	plain := huma.NewError
	huma.NewError = func(status int, text string, errs ...error) huma.StatusError {
		return quietly(plain(status, text, errs...))
	}
}

// quietly takes the rejected values out of a problem: they are the sender's own,
// and may be anything.
func quietly(err huma.StatusError) huma.StatusError {
	if m, ok := err.(*huma.ErrorModel); ok {
		for _, d := range m.Errors {
			d.Value = nil
		}
	}
	return err
}

// guided answers what no operation takes with a problem that says where they
// are listed.
func guided(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(&misled{ResponseWriter: w, r: r}, r)
	})
}

// misled writes a problem in the place of the mux's own refusal.
type misled struct {
	http.ResponseWriter
	r *http.Request
}

func (m *misled) WriteHeader(status int) {
	text := "there is no " + m.r.URL.Path + " here"
	if status == http.StatusMethodNotAllowed {
		text = m.r.URL.Path + " does not take " + m.r.Method + ", but " + m.Header().Get("Allow")
	}
	p := huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: text + ": /openapi.yaml lists what there is"}
	m.Header().Set("Content-Type", "application/problem+json")
	m.Header().Del("Content-Length")
	m.ResponseWriter.WriteHeader(status)
	json.NewEncoder(m.ResponseWriter).Encode(p)
}

// Write implements http.ResponseWriter: the problem is written already.
func (m *misled) Write(b []byte) (int, error) { return len(b), nil }
