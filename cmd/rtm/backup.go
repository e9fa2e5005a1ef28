package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/backup"
	"rtm/cdr"
	"rtm/store"
	"rtm/store/embed"
	"rtm/store/redis"
	"rtm/tenant"
)

// kindNames are what the records of a store are, for people.
var kindNames = map[string]string{
	string(rune(tenant.KindAccount)): "accounts", string(rune(tenant.KindClosed)): "closed sessions", string(rune(tenant.KindOnce)): "one-time answers",
	string(rune(tenant.KindIdentity)): "identities", string(rune(tenant.KindSession)): "session index", string(rune(tenant.KindCatalogue)): "catalogue",
	string(rune(tenant.KindPresence)): "presence", string(rune(tenant.KindCursor)): "cursors of record files",
	string(rune(tenant.KindLevel)): "the store's level",
}

// saver is one run of rtm backup.
type saver struct {
	remote
	file  string
	store string
	zip   bool
	told  io.Writer
}

// saved is what a backup or a restore prints.
type saved struct {
	File    string         `json:"file"`
	From    backup.About   `json:"from"`
	Holds   backup.Summary `json:"holds"`
	Seconds float64        `json:"seconds"`
	Skipped int            `json:"eventsInRecordFiles,omitempty"`
}

func backupCommand() *cobra.Command {
	b := &saver{}
	cmd := &cobra.Command{
		Use: "backup", Short: "write everything the store holds into a file, while it is in use", Args: cobra.NoArgs,
		Long: `Write accounts, open and closed sessions, directory, catalogue, one-time answers, wake-up times and the
events that are in no record file yet into one file, while all of it is in use. The server at --api writes
it from its store; with --store, a store that no server of this machine holds is read directly.

The file ends with a mark and checksums: what was cut off or changed is refused by rtm restore before it
writes anything. It holds personal data, and only its owner can read it. docs/backup.md says what a
restored system then guarantees.`,
		Example: "  rtm backup -f rtm.backup.gz\n  rtm backup | ssh safe 'cat > rtm.backup'\n  rtm backup --store redis://127.0.0.1:6379 -f rtm.backup.gz",
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.told = cmd.ErrOrStderr()
			return b.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&b.file, "file", "f", "-", "file to write; - writes standard output")
	cmd.Flags().StringVar(&b.store, "store", "", "read this store directly: embedded:DIR that no process has open, or the URL of a Redis")
	cmd.Flags().BoolVar(&b.zip, "gzip", false, "compress, also if the file's name does not end in .gz")
	return b.bind(cmd)
}

func (b *saver) run(ctx context.Context, stdout io.Writer) error {
	began := time.Now()
	if b.file == "-" {
		if isTerminal(stdout) {
			return exitError{errors.New("a backup is not for a terminal: name a file with --file"), exitUsage}
		}
		_, _, err := b.write(ctx, stdout)
		return err
	}
	part := b.file + ".part"
	os.Remove(part)
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return exitError{fmt.Errorf("%w: name another file with --file", err), exitUsage}
	}
	defer os.Remove(part) // it has its name, or is not whole
	defer f.Close()
	about, said, err := b.write(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(part, b.file)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s was not written", err, b.file)
	}
	out := saved{File: b.file, From: about, Holds: said, Seconds: time.Since(began).Seconds()}
	return b.print(stdout, out, out.table)
}

// write writes the backup, and reads it as it goes by: what is written is whole.
func (b *saver) write(ctx context.Context, to io.Writer) (about backup.About, said backup.Summary, err error) {
	out := bufio.NewWriterSize(to, 1<<20)
	plain := io.Writer(out)
	var zip *gzip.Writer
	if b.zip || strings.HasSuffix(b.file, ".gz") {
		zip, _ = gzip.NewWriterLevel(out, gzip.BestSpeed)
		plain = zip
	}
	if b.store == "" {
		about, said, err = b.ask(ctx, plain)
	} else {
		about, said, err = b.direct(ctx, plain)
	}
	if err == nil && zip != nil {
		err = zip.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	return about, said, err
}

// ask has the server write it.
func (b *saver) ask(ctx context.Context, to io.Writer) (about backup.About, said backup.Summary, err error) {
	res, err := b.stream(ctx, "GET", "/v1/backup", nil)
	if err != nil {
		return about, said, err
	}
	defer res.Body.Close()
	bar := newBar(b.told)
	p := backup.Progress{Stage: backup.Copying}
	about, said, err = backup.Read(io.TeeReader(res.Body, to), func(part *store.Part) error {
		p.Records += int64(len(part.Copies))
		bar.show(p)
		return nil
	})
	bar.end()
	io.Copy(io.Discard, res.Body) // the trailer comes after it
	switch why := res.Trailer.Get(api.BrokenOff); {
	case ctx.Err() != nil:
		err = fmt.Errorf("given up: %w", ctx.Err())
	case why != "":
		err = fmt.Errorf("the server could not write it to its end: %s", why)
	case err != nil:
		err = exitError{fmt.Errorf("the server broke off: %w; try again", err), exitUnreachable}
	}
	return about, said, err
}

// direct reads the store itself.
func (b *saver) direct(ctx context.Context, to io.Writer) (about backup.About, said backup.Summary, err error) {
	st, err := look(ctx, b.store)
	if err != nil {
		return about, said, err
	}
	defer st.Close()
	bar := newBar(b.told)
	defer bar.end()
	said, err = backup.Write(ctx, st, to, version, bar.show)
	return backup.About{Program: version, Store: b.store}, said, err
}

// look opens a store to read it, and changes nothing in it.
func look(ctx context.Context, where string) (store.Portable, error) {
	if err := checkStore(where, ""); err != nil {
		return nil, exitError{err, exitUsage}
	}
	dir, ok := strings.CutPrefix(where, "embedded:")
	if !ok {
		st, _, err := redis.Look(ctx, redis.Config{URL: where})
		return st, err
	}
	if pid, err := embed.Holder(dir); err != nil || pid != 0 {
		return nil, errors.Join(err, fmt.Errorf("process %d has %s open: leave --store out, and the server at --api writes the backup", pid, dir))
	}
	return embed.Look(embed.Config{Dir: dir})
}

// table tells people what a backup holds.
func (s saved) table(w io.Writer) {
	h := &s.Holds
	fmt.Fprintf(w, "%s: %d records, %d events, %.1f MB before compression, in %.1f s\n", s.File, h.Total(), h.Events, float64(h.Bytes)/1e6, s.Seconds)
	for _, kind := range slices.Sorted(maps.Keys(h.Records)) {
		name := kindNames[kind]
		if name == "" {
			name = "of kind " + kind
		}
		fmt.Fprintf(w, "  %d\t%s\n", h.Records[kind], name)
	}
	when := "as it was at " + h.At.Format(time.RFC3339Nano)
	if !h.Whole {
		when = "each partition as it was at a moment of its own, the last one at " + h.At.Format(time.RFC3339Nano) +
			"; records that changed meanwhile are counted each time"
	}
	fmt.Fprintln(w, when)
	if s.Skipped > 0 {
		fmt.Fprintf(w, "%d events were in record files already and will not come into others\n", s.Skipped)
	}
}

func restoreCommand() *cobra.Command {
	r, records, checks := &saver{}, []string{}, false
	cmd := &cobra.Command{
		Use: "restore FILE --store STORE", Short: "fill an empty store from a backup", Args: cobra.ExactArgs(1),
		Long: `Read a backup to its end, and, if it is whole, write it into an empty store of either kind; then read that
again and compare counts and checksums. No server may use the store meanwhile: until the end it is marked
as half filled, and every server refuses it. A restore that was interrupted is simply run again.

With --records, the record files that were written after the backup are looked through, so that no event
comes into a file twice: name the directories of all instances. docs/backup.md says what to do about what
happened after the backup.`,
		Example: "  rtm restore rtm.backup.gz --store embedded:rtm-data --records records\n  rtm restore rtm.backup.gz --store redis://127.0.0.1:6379\n  rtm restore rtm.backup.gz --check",
		RunE: func(cmd *cobra.Command, args []string) error {
			r.file, r.told = args[0], cmd.ErrOrStderr()
			if checks == (r.store != "") {
				return exitError{errors.New("name the empty store with --store, or only look the file over with --check"), exitUsage}
			}
			return r.restore(cmd.Context(), records, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.store, "store", "", "the empty store: embedded:DIR, or the URL of a Redis as rtm serve --store takes it")
	f.StringArrayVar(&records, "records", nil, "directory of record files that were written after the backup; repeat it for more")
	f.BoolVar(&checks, "check", false, "only say whether the file is whole, and what it holds")
	f.StringVarP(&r.format, "output", "o", "table", "table, json or yaml")
	offer(cmd, "output", oneOf(formats))
	return cmd
}

func (b *saver) restore(ctx context.Context, records []string, stdout io.Writer) error {
	if b.file == "-" {
		return exitError{errors.New("a backup is read twice before it counts, so standard input is not enough: name a file"), exitUsage}
	}
	if !slices.Contains(formats, b.format) {
		return exitError{fmt.Errorf("--output is table, json or yaml, not %q", b.format), exitUsage}
	}
	for _, dir := range records {
		if _, err := os.ReadDir(dir); err != nil {
			return exitError{fmt.Errorf("--records: %w", err), exitUsage}
		}
	}
	out := saved{File: b.file}
	began := time.Now()
	bar := newBar(b.told)
	err := func() (err error) {
		defer bar.end()
		if b.store == "" {
			file, err := openBackup(b.file)
			if err != nil {
				return exitError{err, exitUsage}
			}
			defer file.Close()
			out.From, out.Holds, err = backup.Read(file, nil)
			return err
		}
		if err := checkStore(b.store, ""); err != nil {
			return exitError{err, exitUsage}
		}
		filling := false
		said, err := backup.Restore(ctx, backup.Restoring{
			Open: func() (io.ReadCloser, error) { return openBackup(b.file) },
			Fill: func(id, old string) (store.Portable, error) {
				st, err := receive(ctx, b.store, id, old, logger(b.told))
				filling = err == nil
				return st, err
			},
			Leave: func(k store.Key) bool { return k.Kind == tenant.KindPresence }, // those instances are gone
			After: func(st store.Portable, said *backup.Summary) (err error) {
				out.Skipped, err = cdr.Resume(ctx, st, records, said.At)
				return err
			},
			Told: bar.show,
		})
		if err != nil && filling {
			return fmt.Errorf("%w\n%s is half filled, and no server will use it: run the restore again, which begins anew", err, b.store)
		}
		if err == nil {
			out.Holds = *said
		}
		return err
	}()
	if err != nil {
		return err
	}
	out.Seconds = time.Since(began).Seconds()
	return b.print(stdout, out, out.table)
}

// openBackup opens a file, compressed or not.
func openBackup(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(f, 1<<20)
	if head, _ := in.Peek(2); string(head) != "\x1f\x8b" {
		return readCloser{in, f}, nil
	}
	zip, err := gzip.NewReader(in)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w: %w", name, backup.ErrDamaged, err)
	}
	return readCloser{zip, f}, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// stream asks the server for an answer that is read as it comes.
func (r *remote) stream(ctx context.Context, method, path string, in io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(r.url, "/")+path, in)
	if err != nil {
		return nil, exitError{fmt.Errorf("%w: is --api right?", err), exitUsage}
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, exitError{fmt.Errorf("no server at %s: %w; is rtm running, and is --api right?", r.url, err), exitUnreachable}
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return nil, refused(method, res, b)
}

// A bar shows the progress of a run in stages, on a terminal.
type bar struct {
	w     io.Writer
	stage string
	bar   *progressbar.ProgressBar
}

func newBar(told io.Writer) *bar {
	b := &bar{bar: progressbar.DefaultSilent(-1)}
	if isTerminal(told) {
		b.w = told
	}
	return b
}

func (b *bar) show(p backup.Progress) {
	if b.w != nil && p.Stage != b.stage {
		b.bar.Finish()
		b.stage = p.Stage
		of := p.Of
		if of == 0 {
			of = -1
		}
		b.bar = progressbar.NewOptions64(of, progressbar.OptionSetWriter(b.w), progressbar.OptionSetDescription(p.Stage),
			progressbar.OptionShowCount(), progressbar.OptionEnableColorCodes(os.Getenv("NO_COLOR") == ""),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	b.bar.Set64(p.Records)
}

func (b *bar) end() { b.bar.Finish() }
