package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// remote is a server's management interface, as the commands use it.
type remote struct {
	url    string
	format string
	walked bool // the last answer says that the server looked at all accounts for it
}

// formats are the ways in which results are printed.
var formats = []string{"table", "json", "yaml"}

// bind adds the flags of a command that asks a server and prints its answer.
func (r *remote) bind(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVarP(&r.format, "output", "o", "table", "table, json or yaml")
	offer(cmd, "output", oneOf(formats))
	return r.reach(cmd)
}

// reach adds the flag that says where the server is.
func (r *remote) reach(cmd *cobra.Command) *cobra.Command {
	base := "http://127.0.0.1:8868"
	if v := os.Getenv("RTM_API"); v != "" {
		base = v
	}
	cmd.Flags().StringVar(&r.url, "api", base, "the server's management interface")
	cmd.PreRunE = func(*cobra.Command, []string) error { return r.check() }
	return cmd
}

// check finds wrong values before anything is asked.
func (r *remote) check() error {
	if r.format != "" && !slices.Contains(formats, r.format) {
		return exitError{fmt.Errorf("--output is table, json or yaml, not %q", r.format), exitUsage}
	}
	if u, err := url.Parse(r.url); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return exitError{fmt.Errorf("--api: %q is no address such as http://127.0.0.1:8868", r.url), exitUsage}
	}
	return nil
}

// A refusal is an answer of the server that says no.
type refusal struct {
	status int // of HTTP
	text   string
}

func (r refusal) Error() string { return r.text }

// call asks the server and decodes its answer into out, if that is not nil.
func (r *remote) call(ctx context.Context, method, path string, header http.Header, in io.Reader, out any) error {
	limited, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, method, strings.TrimSuffix(r.url, "/")+path, in)
	if err != nil {
		return exitError{fmt.Errorf("%w: is --api right?", err), exitUsage}
	}
	req.Header = header
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if in != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("given up: %w", ctx.Err())
		}
		return exitError{fmt.Errorf("no server at %s: %w; is rtm running, and is --api right?", r.url, err), exitUnreachable}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return exitError{fmt.Errorf("the server at %s broke off: %w; try again", r.url, err), exitUnreachable}
	}
	r.walked = res.Header.Get("Rtm-Found-By") == "walk"
	if res.StatusCode >= 300 {
		return refused(method, res, b)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s does not answer as rtm does: %w; is --api right, and is the server's version that of rtm version?", r.url, err)
	}
	return nil
}

// refused is what the server says against a request.
func refused(method string, res *http.Response, body []byte) error {
	var p struct {
		Title, Detail string
		Errors        []struct{ Message, Location string }
	}
	if json.Unmarshal(body, &p) != nil || p.Detail == "" {
		return refusal{res.StatusCode, "the server answered " + res.Status + ": is --api right?"}
	}
	text := p.Detail
	for _, e := range p.Errors {
		text += "\n  " + e.Location + ": " + e.Message
	}
	no := refusal{res.StatusCode, text}
	if res.StatusCode == http.StatusUnprocessableEntity && (method == http.MethodGet || len(p.Errors) > 0) {
		return exitError{no, exitUsage} // nothing but a value of ours can be wrong
	}
	return no
}

// print writes v as the user wants it; table writes it for people.
func (r *remote) print(w io.Writer, v any, table func(w io.Writer)) error {
	switch r.format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		return writeYAML(w, v)
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	table(t)
	return t.Flush()
}

// writeYAML writes v with the keys that it has in JSON.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if b, err = yaml.JSONToYAML(b); err == nil {
		_, err = w.Write(b)
	}
	return err
}

func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.AddCommand(subs...)
	return c
}
