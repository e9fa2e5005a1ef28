package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/tenant"
)

// Bounds of what a check reads and says.
const (
	lineMax = 1 << 20 // octets of one line of subscribers
	saidMax = 10      // errors and warnings of one file that are said
)

func checkCommand() *cobra.Command {
	r, server := &remote{}, false
	cmd := &cobra.Command{
		Use: "check FILE…", Short: "check documents, settings and subscribers before a server gets them", Args: someFiles,
		Long: `Read files as rtm apply, rtm serve --config and rtm import do, and say what is wrong with them:
YAML documents (tenants, plans, peers, subscribers), settings, and subscribers as JSON lines (*.jsonl,
*.ndjson). No server is needed: what documents name must be in one of the files. With --server it may
also be in the catalogue of a running server, and the files are compared with that.

Exit code 1 says that something is wrong; a warning is not.`,
		Example: "  rtm check examples/lab.yaml examples/rtm.yaml\n  rtm check --server plans.yaml subscribers.jsonl",
		RunE: func(cmd *cobra.Command, files []string) error {
			c := &checking{remote: r}
			for _, file := range files {
				if err := c.read(file, cmd.InOrStdin()); err != nil {
					return exitError{err, exitUsage}
				}
			}
			if err := c.cross(cmd.Context(), server); err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&server, "server", false, "check against the catalogue of the running server too")
	return r.bind(cmd)
}

func someFiles(cmd *cobra.Command, files []string) error {
	if len(files) == 0 {
		return exitError{errors.New("name at least one file: rtm check FILE…"), exitUsage}
	}
	return nil
}

// A fileReport is what was found in one file.
type fileReport struct {
	File     string   `json:"file"`
	Holds    string   `json:"holds,omitempty"`
	OK       bool     `json:"ok"`
	Errors   []string `json:"errors,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	more     int      // errors that are not listed
}

func (r *fileReport) wrong(err error) {
	if len(r.Errors) == saidMax {
		r.more++
		return
	}
	r.Errors = append(r.Errors, err.Error())
}

// checking is what a check has seen so far.
type checking struct {
	remote  *remote
	reports []*fileReport
	docs    tenant.Documents
	applied []string // files of documents, and their texts, as rtm apply would send them
	texts   [][]byte
	changes []api.Change // what the server would do
	broken  bool         // a document cannot be read: what others say of it is not known
	crossed bool         // something that is named was not found
	refused error        // what the server says of all files together
}

// read takes one file in; its error says that it could not be read at all.
func (c *checking) read(file string, stdin io.Reader) error {
	r := &fileReport{File: file}
	c.reports = append(c.reports, r)
	if ext := filepath.Ext(file); ext == ".jsonl" || ext == ".ndjson" {
		return c.lines(r)
	}
	b, err := readFile(file, stdin)
	if err != nil {
		return err
	}
	if isSettings(b) {
		r.settings(b)
	} else {
		c.documents(r, b)
	}
	return nil
}

// settingsOnly are the keys of a file of settings that no document has.
var (
	topKey       = regexp.MustCompile(`(?m)^"?([A-Za-z]+)"?\s*:`)
	settingsOnly = []string{"store", "diameter", "http", "originHost", "originRealm", "peerHost", "realms", "records"}
)

// isSettings reports whether a file is one of settings: it has no kind, and a key
// that no document has.
func isSettings(b []byte) bool {
	settings := false
	for _, m := range topKey.FindAllSubmatch(b, -1) {
		if string(m[1]) == "kind" {
			return false
		}
		settings = settings || slices.Contains(settingsOnly, string(m[1]))
	}
	return settings
}

func (r *fileReport) settings(b []byte) {
	c := defaults()
	err := c.read(r.File, b)
	if err == nil {
		if err = c.complete(); err != nil {
			err = fmt.Errorf("%s: %w", r.File, err)
		}
	}
	if err != nil {
		r.wrong(err)
		return
	}
	r.Holds = "settings of instance " + c.Name
}

func (c *checking) documents(r *fileReport, b []byte) {
	d, err := tenant.Parse(r.File, b)
	for _, err := range joined(err) {
		c.broken = true
		r.wrong(err)
	}
	if d == nil {
		return
	}
	r.Holds = contents(d)
	for _, err := range d.Doubts() {
		r.Warnings = append(r.Warnings, err.Error())
	}
	c.docs.Tenants, c.docs.Plans = append(c.docs.Tenants, d.Tenants...), append(c.docs.Plans, d.Plans...)
	c.docs.Peers, c.docs.Subscribers = append(c.docs.Peers, d.Peers...), append(c.docs.Subscribers, d.Subscribers...)
	c.applied, c.texts = append(c.applied, r.File), append(c.texts, b)
}

// lines reads subscribers, one a line, as rtm import does.
func (c *checking) lines(r *fileReport) error {
	f, err := os.Open(r.File)
	if err != nil {
		return err
	}
	defer f.Close()
	before := len(c.docs.Subscribers)
	s := bufio.NewScanner(f)
	s.Buffer(nil, lineMax)
	n := 0
	for s.Scan() {
		if n++; len(bytes.TrimSpace(s.Bytes())) == 0 {
			continue
		}
		sub, err := tenant.ParseSubscriber(r.File, n, bytes.Clone(s.Bytes()))
		if err != nil {
			r.wrong(err)
			continue
		}
		c.docs.Subscribers = append(c.docs.Subscribers, sub)
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		r.wrong(fmt.Errorf("%s: line %d is longer than %d octets", r.File, n+1, lineMax))
	} else if s.Err() != nil {
		return s.Err()
	}
	r.Holds = plural(len(c.docs.Subscribers)-before, "subscriber")
	return nil
}

// contents is what documents are in a file, in words.
func contents(d *tenant.Documents) string {
	var words []string
	services := 0
	for i := range d.Plans {
		services += len(d.Plans[i].Services)
	}
	for _, w := range []struct {
		n     int
		title string
		more  string
	}{
		{len(d.Tenants), "tenant", ""}, {len(d.Plans), "plan", " (" + plural(services, "service") + ")"},
		{len(d.Peers), "peer", ""}, {len(d.Subscribers), "subscriber", ""},
	} {
		if w.n > 0 {
			words = append(words, plural(w.n, w.title)+w.more)
		}
	}
	return strings.Join(words, ", ")
}

// plural is n and what it counts.
func plural(n int, title string) string {
	if n == 1 {
		return "1 " + title
	}
	return fmt.Sprintf("%d %ss", n, title)
}

// cross checks what the files say of each other, and of what a server has, if
// all documents could be read.
func (c *checking) cross(ctx context.Context, server bool) error {
	if c.broken {
		return nil
	}
	docs := c.docs
	if server {
		if err := c.known(ctx, &docs); err != nil {
			return err
		}
	}
	err := docs.Cross(&tenant.Catalogue{})
	for _, err := range joined(err) {
		c.crossed = !server
		c.blame(err)
	}
	if err == nil && server && len(c.texts) > 0 && c.wrong() == 0 {
		return c.dryRun(ctx)
	}
	return nil
}

// known adds the server's tenants and plans to docs, by name, where the files do
// not declare them.
func (c *checking) known(ctx context.Context, docs *tenant.Documents) error {
	var tenants struct{ Tenants []tenant.Tenant }
	if err := c.remote.call(ctx, http.MethodGet, "/v1/tenants", nil, nil, &tenants); err != nil {
		return err
	}
	var plans struct{ Plans []api.Plan }
	if err := c.remote.call(ctx, http.MethodGet, "/v1/plans", nil, nil, &plans); err != nil {
		return err
	}
	for _, t := range tenants.Tenants {
		if !slices.ContainsFunc(c.docs.Tenants, func(d tenant.Tenant) bool { return d.Name == t.Name }) {
			docs.Tenants = append(docs.Tenants, t)
		}
	}
	for _, p := range plans.Plans {
		if !slices.ContainsFunc(c.docs.Plans, func(d tenant.PlanDoc) bool { return d.Tenant == p.Tenant && d.Name == p.Name }) {
			docs.Plans = append(docs.Plans, tenant.PlanDoc{Tenant: p.Tenant, Name: p.Name})
		}
	}
	return nil
}

// dryRun asks the server what it would do with the documents.
func (c *checking) dryRun(ctx context.Context) error {
	path := "/v1/apply?dryRun=true&file=" + url.QueryEscape(strings.Join(c.applied, "+"))
	header := http.Header{"Content-Type": {"application/yaml"}}
	err := c.remote.call(ctx, http.MethodPost, path, header, bytes.NewReader(bytes.Join(c.texts, []byte("\n---\n"))), &c.changes)
	if no, ok := errors.AsType[refusal](err); ok {
		c.blame(no)
		return nil
	}
	return err
}

// blame gives an error to the file that it begins with.
func (c *checking) blame(err error) {
	for _, r := range c.reports {
		if strings.HasPrefix(err.Error(), r.File+": ") {
			r.wrong(err)
			return
		}
	}
	c.refused = err
}

// joined lists the errors that were joined into err.
func joined(err error) []error {
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return all.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// wrong counts the files that are.
func (c *checking) wrong() (n int) {
	for _, r := range c.reports {
		if len(r.Errors) > 0 {
			n++
		}
	}
	return n
}

func (c *checking) print(w io.Writer) error {
	for _, r := range c.reports {
		r.OK = len(r.Errors) == 0
		if r.more > 0 {
			r.Errors = append(r.Errors, fmt.Sprintf("%s: and %s more", r.File, plural(r.more, "error")))
		}
		if n := len(r.Warnings) - saidMax; n > 0 {
			r.Warnings = append(r.Warnings[:saidMax], fmt.Sprintf("%s: and %s more", r.File, plural(n, "warning")))
		}
	}
	out := struct {
		Files   []*fileReport `json:"files"`
		Changes []api.Change  `json:"changes,omitempty"`
	}{c.reports, c.changes}
	err := c.remote.print(w, out, func(w io.Writer) { c.table(w) })
	switch n := c.wrong(); {
	case err != nil:
		return err
	case c.refused != nil:
		return exitError{c.refused, exitFailed}
	case n > 0:
		hint := ""
		if c.crossed {
			hint = "; with --server, what a running server has counts too"
		}
		return exitError{fmt.Errorf("%d of %s wrong%s", n, plural(len(c.reports), "file"), hint), exitFailed}
	}
	return nil
}

func (c *checking) table(w io.Writer) {
	for _, r := range c.reports {
		fmt.Fprintln(w, r.line())
		for _, e := range r.Errors {
			fmt.Fprintln(w, indented("error: "+e))
		}
		for _, e := range r.Warnings {
			fmt.Fprintln(w, indented("warning: "+e))
		}
	}
	for _, d := range c.changes {
		fmt.Fprintf(w, "server: %s %s: %s\n", d.Kind, d.Name, d.What)
	}
}

// line says of a file what it holds and how it is.
func (r *fileReport) line() string {
	var how []string
	if r.OK {
		how = append(how, "ok")
	} else {
		how = append(how, plural(len(r.Errors)+max(r.more-1, 0), "error"))
	}
	if n := len(r.Warnings); n > 0 {
		how = append(how, plural(n, "warning"))
	}
	line := r.File + ": "
	if r.Holds != "" {
		line += r.Holds + ": "
	}
	return line + strings.Join(how, ", ")
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, " \n"), "\n", "\n  ")
}
