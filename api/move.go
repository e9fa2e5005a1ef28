package api

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"rtm/backup"
	"rtm/store"
)

// BrokenOff is the trailer of a stream that could not be written to its end: why.
const BrokenOff = "Rtm-Broken-Off"

// backupBuffer is how much of a backup is written at once.
const backupBuffer = 256 << 10

// portable is the store of this process, as backups are made of it.
func (s *server) portable() (store.Portable, error) {
	if st, ok := store.Inner(s.instance().Store).(store.Portable); ok {
		return st, nil
	}
	return nil, huma.Error501NotImplemented("this kind of store cannot be written to a file")
}

// backup streams the contents of the store as a file that rtm restore reads. A
// stream that breaks off lacks its end, which every reader sees.
func (s *server) backup(context.Context, *struct{}) (*huma.StreamResponse, error) {
	st, err := s.portable()
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", "application/octet-stream")
		ctx.SetHeader("Trailer", BrokenOff)
		w := bufio.NewWriterSize(ctx.BodyWriter(), backupBuffer)
		_, err := backup.Write(ctx.Context(), st, w, s.Version, backup.Gently(ctx.Context(), func(backup.Progress) {}))
		if err == nil {
			err = w.Flush()
		}
		if err != nil {
			ctx.SetHeader(BrokenOff, err.Error())
		}
	}}, nil
}

type migrateInput struct {
	Body struct {
		To string `json:"to" doc:"the store that takes the data: the URL of a Redis, or embedded:DIR; it must be empty"`
	}
}

// A MigrateLine is a line of the answer to a migration: how far it has come, and
// at the end what it did, or why it did not.
type MigrateLine struct {
	*backup.Progress
	Result *backup.Result `json:"result,omitempty"`
	Error  string         `json:"error,omitempty"`
}

// migrate moves this process to another store while it serves. It is given up
// when whoever asked goes away before the switch.
func (s *server) migrate(_ context.Context, in *migrateInput) (*huma.StreamResponse, error) {
	m, ok := s.instance().Store.(*backup.Movable)
	if !ok || s.Receive == nil {
		return nil, huma.Error409Conflict("this server is not on an embedded store. Others hold the data too, so it cannot move by itself: stop all instances, then rtm backup and rtm restore")
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", "application/x-ndjson")
		out := json.NewEncoder(ctx.BodyWriter())
		flush := func() {}
		if f, ok := ctx.BodyWriter().(http.Flusher); ok {
			flush = f.Flush
		}
		tell := func(l MigrateLine) {
			_ = out.Encode(l) // who is gone has ended the context
			flush()
		}
		res, err := m.Move(ctx.Context(), func(id, old string) (store.Portable, error) { return s.Receive(ctx.Context(), in.Body.To, id, old) },
			s.Shown(in.Body.To), func() {
				for _, n := range s.Instances() {
					n.Moved()
				}
			}, func(p backup.Progress) { tell(MigrateLine{Progress: &p}) })
		if err != nil {
			tell(MigrateLine{Error: err.Error()})
			return
		}
		for _, n := range s.Instances() {
			n.Moved() // an answer of the old store may have been on its way when it was told first
		}
		log := s.instance().Log
		log.Warn("the data has moved, and is served from there: start this instance with that --store from now on",
			"store", res.To, "records", res.Records, "again", res.Again, "pause", res.Pause)
		if res.Unfinished != "" {
			log.Error("the new store could not be marked as being in service: no other instance can open it until rtm migrate --finish has",
				"store", res.To, "error", res.Unfinished)
		}
		tell(MigrateLine{Result: res})
	}}, nil
}
