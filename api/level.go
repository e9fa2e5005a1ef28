package api

import (
	"context"
	"maps"
	"slices"
	"time"

	"rtm"
)

// Level is how far an upgrade has come.
type Level struct {
	Level     uint32     `json:"level" doc:"the store's: nothing above it is written"`
	Since     *time.Time `json:"since,omitempty" doc:"when it rose to that"`
	Next      uint32     `json:"next" doc:"what it can rise to: the highest that all live instances know"`
	Settle    string     `json:"settle,omitempty" doc:"for how long all must have known it before it rises by itself; without it, it does not"`
	Instances []Knows    `json:"instances"`
}

// Knows says what level an instance knows.
type Knows struct {
	Name  string `json:"name"`
	Level uint32 `json:"level"`
}

func (s *server) showLevel(l *rtm.Levels) *body[Level] {
	out := Level{Level: l.Level, Next: l.Next, Instances: []Knows{}}
	if !l.Since.IsZero() {
		out.Since = &l.Since
	}
	if d := s.instance().Settle; d > 0 {
		out.Settle = d.String()
	}
	for _, name := range slices.Sorted(maps.Keys(l.Knows)) {
		out.Instances = append(out.Instances, Knows{name, l.Knows[name]})
	}
	return &body[Level]{out}
}

func (s *server) level(ctx context.Context, _ *struct{}) (*body[Level], error) {
	l, err := s.instance().Levels(ctx)
	if err != nil {
		return nil, problem(err)
	}
	return s.showLevel(&l), nil
}

// raise makes the level what all live instances know.
func (s *server) raise(ctx context.Context, _ *struct{}) (*body[Level], error) {
	l, err := s.instance().Raise(ctx)
	if err != nil {
		return nil, problem(err)
	}
	return s.showLevel(&l), nil
}
