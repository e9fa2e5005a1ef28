package tenant

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of what Parse reads.
const (
	FileMax     = 16 << 20  // octets of a file
	DocumentMax = 512 << 10 // octets of one document in it
	lineMax     = 8 << 10   // octets of a line
	depthMax    = 16        // brackets within brackets
	columnMax   = 256       // where a key or a dash can stand: bounds the depth of blocks
	errorsMax   = 10        // wrong documents that one error tells of
	messageMax  = 4 << 10   // octets of what it says of each
)

// Documents is what a file declares.
type Documents struct {
	Tenants     []Tenant
	Plans       []PlanDoc
	Peers       []Peer
	Subscribers []Subscriber
}

// An origin is where a document stands in a file: its text from the line behind
// the dashes on.
type origin struct {
	file string
	text []byte
	line int // lines of the file before text
}

// Parse reads a file of YAML documents, each with a kind: Tenant, Plan, Peer or
// Subscriber. name is the file's, for errors: they quote the line and say what
// to write instead, up to errorsMax of them joined. Unknown keys are errors; so
// are anchors, aliases, tags and empty values. What it returns is complete:
// defaults are written out, names are in their canonical form. What documents
// say of each other is checked by Cross.
func Parse(name string, data []byte) (*Documents, error) {
	if len(data) > FileMax {
		return nil, fmt.Errorf("%s: larger than %d MiB: split it", name, FileMax>>20)
	}
	d := &Documents{}
	var errs []error
	for o := range origins(name, data) {
		if err := d.add(o); err != nil {
			if errs = append(errs, err); len(errs) == errorsMax {
				break
			}
		}
	}
	if len(errs) == 0 && d.empty() {
		return nil, fmt.Errorf("%s: holds no document: begin with kind: Tenant, Plan, Peer or Subscriber", name)
	}
	return d, errors.Join(errs...)
}

func (d *Documents) empty() bool {
	return len(d.Tenants)+len(d.Plans)+len(d.Peers)+len(d.Subscribers) == 0
}

// origins cuts a file at its lines of three dashes (YAML 1.2 §9.1.2), so that
// what one document costs does not depend on the others.
func origins(name string, data []byte) func(func(*origin) bool) {
	return func(yield func(*origin) bool) {
		start, startLine, line := 0, 0, 0
		for at := 0; at < len(data); line++ {
			end := len(data)
			if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
				end = at + i + 1
			}
			if isDivider(data[at:end]) && at > start {
				if !yield(&origin{name, data[start:at], startLine}) {
					return
				}
				start, startLine = at, line
			}
			at = end
		}
		yield(&origin{name, data[start:], startLine})
	}
}

func isDivider(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// add reads one document and adds it to d.
func (d *Documents) add(o *origin) error {
	body, err := o.body()
	if err == nil && body != nil {
		err = d.decode(o, body)
	}
	if err != nil {
		return o.explain(body, err)
	}
	return nil
}

// body is the document as a tree of nothing but mappings, lists and scalars;
// nil: there is none.
func (o *origin) body() (body ast.Node, err error) {
	if len(o.text) > DocumentMax {
		return nil, fmt.Errorf("the document that begins at line %d is larger than %d KiB: split it", o.line+1, DocumentMax>>10)
	}
	line := o.line
	for text := range bytes.Lines(o.text) {
		if line++; len(text) > lineMax {
			return nil, fmt.Errorf("line %d is longer than %d octets: break it", line, lineMax)
		}
	}
	tokens := lexer.Tokenize(string(o.text))
	for _, t := range tokens {
		t.Position.Line += o.line
	}
	if err := shallow(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0)
	var tab *yaml.SyntaxError
	if errors.As(err, &tab) && strings.Contains(tab.Message, "'\t'") {
		return nil, at(tab.Token, "a tab stands here: indent with blanks")
	}
	if err != nil {
		return nil, err
	}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			return nil, at(doc.Body.GetToken(), "a second document begins here: write --- before it")
		}
		body = doc.Body
	}
	if body == nil {
		return nil, nil
	}
	if _, ok := body.(*ast.MappingNode); !ok {
		return nil, at(body.GetToken(), "a document is made of keys and values, such as kind: Tenant")
	}
	return body, plain(body, "")
}

// at is an error that quotes the line of t.
func at(t *token.Token, format string, args ...any) error {
	return &yaml.SyntaxError{Message: fmt.Sprintf(format, args...), Token: t}
}

// shallow refuses what a catalogue never needs, before anything recursive looks
// at it.
func shallow(tokens token.Tokens) error {
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return at(t, "anchors, aliases and << are not used here: write it out, and put a text that begins with & or * in quotes")
		case token.TagType, token.DirectiveType:
			return at(t, "tags and directives are not used here: put a text that begins with ! or %% in quotes")
		case token.MappingKeyType:
			return at(t, "a key with a question mark is not used here: write key: value")
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingValueType:
			if depth == 0 && t.Position.Column > columnMax {
				return at(t, "lists and keys begin in the first %d columns", columnMax)
			}
		}
		if depth > depthMax {
			return at(t, "brackets are nested deeper than %d", depthMax)
		}
	}
	return nil
}

// counted are the keys whose values are whole numbers, switched those that are
// true or false.
var (
	counted  = []string{"contexts", "ratingGroups", "serviceIds", "sessions", "priority"}
	switched = []string{"control", "default", "money", "replace", "restarts"}
	decimal  = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)
)

// plain makes every scalar below n the text that was written, for YAML would
// read 001010000000001 as an octal number and 0.10 as 0.1. key is the one that
// n is the value of.
func plain(n ast.Node, key string) error {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			name, ok := v.Key.(*ast.StringNode)
			if !ok {
				return at(v.Key.GetToken(), "a key must be a word")
			}
			if _, empty := v.Value.(*ast.NullNode); empty {
				return at(v.Key.GetToken(), "%s has no value: write one, or leave the line out", name.Value)
			}
			text, err := written(v.Value, name.Value)
			if err != nil {
				return err
			}
			v.Value = text
		}
	case *ast.SequenceNode:
		for i := range n.Values {
			text, err := written(n.Values[i], key)
			if err != nil {
				return err
			}
			n.Values[i] = text
		}
	}
	return nil
}

// written is n, or the text that it was written as.
func written(n ast.Node, key string) (ast.Node, error) {
	t := n.GetToken()
	scalar := false
	switch n.(type) {
	case *ast.NullNode:
		return nil, at(t, "the list has an entry without a value: write one, or leave it out")
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode, *ast.BoolNode, *ast.StringNode:
		scalar = true
	}
	switch {
	case !scalar:
		return n, plain(n, key)
	case slices.Contains(counted, key):
		if _, ok := n.(*ast.IntegerNode); !ok || !decimal.MatchString(t.Value) {
			return nil, at(t, "%s: %q must be a whole number without quotes, such as 10", key, short(t.Value))
		}
		return n, nil
	case slices.Contains(switched, key):
		if _, ok := n.(*ast.BoolNode); !ok || t.Value != "true" && t.Value != "false" {
			return nil, at(t, "%s: %q must be true or false", key, short(t.Value))
		}
		return n, nil
	}
	return ast.String(t), nil
}

// decode turns the tree into the document that its kind says.
func (d *Documents) decode(o *origin, body ast.Node) error {
	switch kind := kindOf(body); kind {
	case "Tenant":
		return take(body, &d.Tenants, func(t *Tenant) error { t.origin = o; return t.complete() })
	case "Plan":
		return take(body, &d.Plans, func(p *PlanDoc) error { p.origin = o; return p.complete() })
	case "Peer":
		return take(body, &d.Peers, func(p *Peer) error { p.origin = o; return p.complete() })
	case "Subscriber":
		return take(body, &d.Subscribers, func(s *Subscriber) error { s.origin = o; return s.complete() })
	case "":
		return wrong("kind", "is missing: write kind: Tenant, Plan, Peer or Subscriber")
	default:
		return wrong("kind", "%q must be Tenant, Plan, Peer or Subscriber", short(kind))
	}
}

func kindOf(body ast.Node) string {
	if m, ok := body.(*ast.MappingNode); ok {
		for _, v := range m.Values {
			if v.Key.GetToken().Value == "kind" {
				return v.Value.GetToken().Value
			}
		}
	}
	return ""
}

// take decodes one document strictly, completes it and appends it to list.
func take[T any](body ast.Node, list *[]T, complete func(*T) error) error {
	var doc struct {
		Kind string `json:"kind"`
		Doc  T      `json:",inline" yaml:",inline"`
	}
	if err := yaml.NodeToValue(body, &doc, yaml.Strict()); err != nil {
		return simpler(err, reflect.TypeFor[T]())
	}
	if err := complete(&doc.Doc); err != nil {
		return err
	}
	*list = append(*list, doc.Doc)
	return nil
}

// simpler says errors of the decoder in words of the file.
func simpler(err error, document reflect.Type) error {
	var unknown *yaml.UnknownFieldError
	var kind *yaml.TypeError
	var shape *yaml.UnexpectedNodeTypeError
	var size *yaml.OverflowError
	switch {
	case errors.As(err, &unknown):
		return at(unknown.Token, "unknown key %q: %s", short(unknown.Token.Value), nearest(unknown.Token.Value, keys(document)))
	case errors.As(err, &kind):
		return at(kind.Token, "a list or keys stand where one value is expected")
	case errors.As(err, &shape) && shape.Expected == ast.SequenceType:
		return at(shape.Token, "a list is expected here, such as [10, 20]")
	case errors.As(err, &shape):
		return at(shape.Token, "keys and values are expected here, such as {name: internet}")
	case errors.As(err, &size):
		return at(size.Token, "%s is too large, or below zero", short(size.SrcNum))
	}
	return err
}

// keys lists the keys of a document and of what is in it.
func keys(t reflect.Type) (names []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			names = append(append(names, name), keys(f.Type)...)
		}
	}
	return names
}

// nearest names the key that was probably meant, or else all.
func nearest(word string, names []string) string {
	best, least := "", 3
	for _, name := range names {
		if n := distance(strings.ToLower(word), strings.ToLower(name)); n < least {
			best, least = name, n
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	slices.Sort(names)
	return "there are " + strings.Join(slices.Compact(names), ", ")
}

// distance is how many letters must be put in, left out or exchanged to make b
// of a; long words are far apart.
func distance(a, b string) int {
	if len(a) > 2*nameMax {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			n := corner
			if a[i] != b[j] {
				n = 1 + min(corner, row[j], row[j+1])
			}
			corner, row[j+1] = row[j+1], n
		}
	}
	return row[len(b)]
}

// explain adds the file, the line and its text to err, which is about the
// document.
func (o *origin) explain(body ast.Node, err error) error {
	if o == nil || err == nil {
		return err
	}
	var field *fieldError
	if errors.As(err, &field) {
		if body == nil {
			body, _ = o.body()
		}
		if t := locate(body, field.path); t != nil {
			err = at(t, "%s", field.Error())
		}
	}
	if text := err.Error(); len(text) > messageMax {
		return fmt.Errorf("%s: %s…", o.file, strings.ToValidUTF8(text[:messageMax], ""))
	}
	return fmt.Errorf("%s: %w", o.file, err)
}

// locate finds what stands at a path, or as near to it as there is something.
func locate(body ast.Node, path string) *token.Token {
	if body == nil {
		return nil
	}
	found := body
	for step := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		next := child(found, step)
		if next == nil {
			break
		}
		found = next
	}
	if m, ok := found.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return m.Values[0].Key.GetToken()
	}
	return found.GetToken()
}

func child(n ast.Node, step string) ast.Node {
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			if v.Key.GetToken().Value == step {
				return v.Value
			}
		}
	case *ast.SequenceNode:
		for i, v := range n.Values {
			if fmt.Sprint(i) == step {
				return v
			}
		}
	}
	return nil
}
