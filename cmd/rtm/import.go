package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"rtm/api"
)

// Bounds and times of an import.
const (
	importLines = 2000    // sent at once
	importBytes = 8 << 20 // … or this many octets
	importLine  = 1 << 20 // octets of a line
	badLinesMax = 10      // that are named
	importPause = time.Second
	importTries = 30 // while the server is busy or away
)

// An importing is one run of rtm import.
type importing struct {
	remote
	file   string
	from   int
	errors string
	out    importResult
	bad    *os.File // lines that were not taken; nil: they are not kept
	notes  io.Writer
}

// importResult is what became of a file.
type importResult struct {
	Lines     int           `json:"lines"`
	Created   int           `json:"created"`
	Changed   int           `json:"changed"`
	Unchanged int           `json:"unchanged"`
	Bad       int           `json:"bad"`
	First     []api.BadLine `json:"firstBad,omitempty"`
	Seconds   float64       `json:"seconds"`
}

func importCommand() *cobra.Command {
	i := &importing{}
	cmd := &cobra.Command{
		Use: "import FILE", Short: "add or change many subscribers, from lines of JSON", Args: cobra.ExactArgs(1),
		Long: `Read one JSON object a line, with the keys of a "kind: Subscriber" document, and make the server hold
what they say. FILE may be - for standard input. Each line counts by itself: one that is wrong is named,
and the others are taken. Money of an account that exists is never touched.

Importing a file again changes nothing, so an import that was interrupted is simply run again; --from
begins further down. rtm check FILE looks a file over without a server.`,
		Example: `  rtm import subscribers.jsonl
  {"tenant":"lab","plan":"standard","imsi":"001010000000042","msisdn":"491700000042","balance":"5.00"}`,
		RunE: func(cmd *cobra.Command, args []string) error {
			i.file, i.notes = args[0], cmd.ErrOrStderr()
			return i.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&i.from, "from", 1, "begin with this line")
	cmd.Flags().StringVar(&i.errors, "bad", "", "write the lines that were not taken to this file, to mend and import it")
	return i.bind(cmd)
}

func (i *importing) run(ctx context.Context, stdin io.Reader, out io.Writer) error {
	in, size := stdin, int64(-1)
	if i.file != "-" {
		f, err := os.Open(i.file)
		if err != nil {
			return exitError{err, exitUsage}
		}
		defer f.Close()
		if s, err := f.Stat(); err == nil {
			size = s.Size()
		}
		in = f
	}
	if i.from < 1 {
		return exitError{fmt.Errorf("--from is the number of a line, from 1, not %d", i.from), exitUsage}
	}
	if i.errors != "" {
		f, err := os.Create(i.errors)
		if err != nil {
			return exitError{err, exitUsage}
		}
		defer f.Close()
		i.bad = f
	}
	began := time.Now()
	err := i.send(ctx, bufio.NewReaderSize(in, importLine), i.progress(size))
	i.out.Seconds = time.Since(began).Seconds()
	if err != nil {
		return err
	}
	if err := i.print(out, i.out, i.table); err != nil {
		return err
	}
	if i.out.Bad > 0 {
		return exitError{fmt.Errorf("%d of %d lines were not taken: mend them and import them again", i.out.Bad, i.out.Lines), exitFailed}
	}
	return nil
}

// table tells people what became of the file.
func (i *importing) table(w io.Writer) {
	o := &i.out
	fmt.Fprintf(w, "%d lines in %.1f s: %d created, %d changed, %d unchanged, %d bad\n", o.Lines, o.Seconds, o.Created, o.Changed, o.Unchanged, o.Bad)
	for _, b := range o.First {
		fmt.Fprintf(w, "  line %d: %s\n", b.Line, b.Error)
	}
	if more := o.Bad - len(o.First); more > 0 {
		fmt.Fprintf(w, "  and %d more: --bad FILE keeps them all\n", more)
	}
}

// progress shows how far it has come, on a terminal: in octets of a file, else
// in lines.
func (i *importing) progress(size int64) *progressbar.ProgressBar {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return progressbar.DefaultSilent(size)
	}
	return progressbar.NewOptions64(size, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription("import "+i.file),
		progressbar.OptionShowBytes(size >= 0), progressbar.OptionShowCount(), progressbar.OptionEnableColorCodes(os.Getenv("NO_COLOR") == ""),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}

// send sends the file in parts, one after the other.
func (i *importing) send(ctx context.Context, in *bufio.Reader, bar *progressbar.ProgressBar) error {
	defer bar.Finish()
	var part bytes.Buffer
	line, first, lines := 0, 0, 0
	for end := false; !end; {
		text, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("%s: line %d is longer than %d KiB: write one subscriber a line", i.file, line+1, importLine>>10)
		}
		if end = errors.Is(err, io.EOF); err != nil && !end {
			return fmt.Errorf("%s: line %d: %w", i.file, line+1, err)
		}
		bar.Add(len(text))
		if len(text) > 0 {
			line++
		}
		if line >= i.from && len(bytes.TrimSpace(text)) > 0 {
			if lines == 0 {
				first = line
			}
			part.Write(bytes.TrimSuffix(text, []byte("\n")))
			lines++
		}
		if lines > 0 {
			part.WriteByte('\n') // blank lines count, so that the server numbers them as the file does
		}
		if lines > 0 && (end || lines == importLines || part.Len() >= importBytes) {
			if err := i.part(ctx, first, part.Bytes()); err != nil {
				return err
			}
			part.Reset()
			i.out.Lines, lines = i.out.Lines+lines, 0
		}
	}
	return nil
}

// part sends some lines. While the server is busy or away it tries again; what
// was taken already is unchanged then.
func (i *importing) part(ctx context.Context, first int, text []byte) error {
	path := fmt.Sprintf("/v1/import?line=%d&file=%s", first, url.QueryEscape(i.file))
	for try := 1; ; try++ {
		var res api.Import
		err := i.call(ctx, "POST", path, http.Header{"Content-Type": {"application/x-ndjson"}}, bytes.NewReader(text), &res)
		no, refused := errors.AsType[refusal](err)
		busy := err != nil && (!refused || no.status == http.StatusServiceUnavailable || no.status == http.StatusTooManyRequests) && try < importTries
		for _, b := range res.Bad {
			busy = busy || b.Retry && try < importTries
		}
		switch {
		case err == nil && !busy:
			return i.taken(first, text, &res)
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted: lines before %d are done; go on with --from %d", first, first)
		case !busy:
			return fmt.Errorf("%w\nlines before %d are done; go on with --from %d", err, first, first)
		case try == 1 && first == i.from && err != nil: // it was never there
			return err
		}
		fmt.Fprintf(i.notes, "line %d: the server is busy or away, trying again\n", first)
		select {
		case <-ctx.Done():
		case <-time.After(importPause):
		}
	}
}

// taken adds up what became of some lines.
func (i *importing) taken(first int, text []byte, res *api.Import) error {
	o := &i.out
	o.Created, o.Changed, o.Unchanged, o.Bad = o.Created+res.Created, o.Changed+res.Changed, o.Unchanged+res.Unchanged, o.Bad+len(res.Bad)
	for _, b := range res.Bad {
		if len(o.First) < badLinesMax {
			o.First = append(o.First, b)
		}
	}
	if i.bad == nil || len(res.Bad) == 0 {
		return nil
	}
	wrong := make(map[int]bool)
	for _, b := range res.Bad {
		wrong[b.Line] = true
	}
	number := first
	for line := range bytes.Lines(text) {
		if wrong[number] {
			if _, err := i.bad.Write(line); err != nil {
				return err
			}
		}
		number++
	}
	return nil
}

func subscriberReassign() *cobra.Command {
	r, to := &remote{}, ""
	cmd := &cobra.Command{
		Use: "reassign IDENTITY --to SUBSCRIBER", Short: "give an IMSI, MSISDN or other identity to another account", Args: cobra.ExactArgs(1),
		Long: `Give an identity to another account: it is taken from the account that has it. Sessions that are open
under it stay with the account that opened them, and are charged there to their end. Each step can be
repeated: running the command again completes what was interrupted.`,
		Example: "  rtm subscriber reassign msisdn:491700000001 --to lab/imsi-001010000000002",
		RunE: func(cmd *cobra.Command, args []string) error {
			var c api.Change
			body, err := json.Marshal(map[string]string{"to": to})
			if err != nil {
				return err
			}
			in := bytes.NewReader(body)
			if err := r.call(cmd.Context(), "PUT", "/v1/identities/"+url.PathEscape(args[0]), nil, in, &c); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), c, func(w io.Writer) { fmt.Fprintf(w, "%s\t%s\t%s\n", args[0], c.Name, c.What) })
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the account that gets it: IMSI, MSISDN, identity or tenant/account (required)")
	cmd.MarkFlagRequired("to")
	return r.bind(cmd)
}
