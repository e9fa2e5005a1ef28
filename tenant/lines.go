package tenant

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
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
	case err == nil && !ended(d):
		err = errors.New("more than one object: write one on each line")
	case err == nil && doc.Kind != "" && doc.Kind != "Subscriber":
		err = fmt.Errorf("kind: %q must be Subscriber, or be left out", short(doc.Kind))
	}
	if err != nil {
		return Subscriber{}, fmt.Errorf("%s: line %d: %w", file, line, plainly(err))
	}
	s := doc.Subscriber
	s.origin = &origin{file, text, line - 1}
	return s, s.origin.explain(nil, s.complete())
}

// ended reports whether nothing follows.
func ended(d *json.Decoder) bool {
	_, err := d.Token()
	return errors.Is(err, io.EOF)
}

// plainly says errors of the JSON decoder in words of the file.
func plainly(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	field, unknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	switch {
	case unknown:
		name := strings.Trim(field, `"`)
		return fmt.Errorf("unknown key %q: %s", short(name), nearest(name, keys(reflect.TypeFor[Subscriber]())))
	case errors.As(err, &kind):
		return fmt.Errorf("%s: a %s stands where a %s is expected, such as \"imsi\": \"001010000000001\"", strings.TrimPrefix(kind.Field, "Subscriber."), kind.Value, kind.Type.Kind())
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("not one JSON object, such as {\"tenant\": \"lab\", \"plan\": \"standard\", \"imsi\": \"001010000000001\"}: %w", err)
	}
	return err
}
