package tenant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// ParseSubscriber reads one line of JSON with the keys of a kind: Subscriber
// document. file and line are for errors, which are as those of Parse; text
// belongs to the subscriber after it.
func ParseSubscriber(file string, line int, text []byte) (Subscriber, error) {
	var doc struct {
		Kind string `json:"kind"`
		Subscriber
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&doc)
	switch {
	case err == nil && d.More():
		err = errors.New("more than one object: write one on each line")
	case err == nil && doc.Kind != "" && doc.Kind != "Subscriber":
		err = fmt.Errorf("kind: %q must be Subscriber, or be left out", short(doc.Kind))
	}
	if err != nil {
		return Subscriber{}, fmt.Errorf("%s: line %d: %w", file, line, err)
	}
	s := doc.Subscriber
	s.origin = &origin{file, text, line - 1}
	return s, s.origin.explain(nil, s.complete())
}
