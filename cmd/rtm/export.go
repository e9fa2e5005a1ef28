package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"rtm/api"
)

func exportCommand() *cobra.Command {
	x := &exporter{}
	cmd := &cobra.Command{
		Use: "export", Short: "write all subscribers as lines of JSON, which rtm import reads", Args: cobra.NoArgs,
		Long: `Write each subscriber as a line of JSON with the keys of a kind: Subscriber document: its plan and
identities, its balance, and what is left in its other buckets. What is reserved for open sessions is part
of it; sessions are not written. Subscribers that change meanwhile are written as they were when their
page was read; no line is missing that was there all the time.`,
		Example: "  rtm export -f subscribers.jsonl\n  rtm export --tenant lab | gzip > lab.jsonl.gz",
		RunE: func(cmd *cobra.Command, _ []string) error {
			x.told = cmd.ErrOrStderr()
			return x.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&x.file, "file", "f", "-", "file to write; - writes standard output")
	cmd.Flags().StringVar(&x.tenant, "tenant", "", "only subscribers of this tenant")
	offer(cmd, "tenant", x.remote.completion(tenantNames))
	return x.remote.reach(cmd)
}

// An exporter writes subscribers down.
type exporter struct {
	remote       remote
	file, tenant string
	told         io.Writer // warnings and progress
}

// run writes to standard output, or to a file that has its name when it is
// whole.
func (x *exporter) run(ctx context.Context, stdout io.Writer) error {
	if x.file == "-" {
		return x.write(ctx, stdout)
	}
	part := x.file + ".part"
	f, err := os.Create(part)
	if err != nil {
		return exitError{fmt.Errorf("%w: name another file with --file", err), exitUsage}
	}
	defer os.Remove(part) // it has its name, or is not whole
	defer f.Close()
	if err := x.write(ctx, f); err != nil {
		return fmt.Errorf("%w\n%s was not written", err, x.file)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(part, x.file)
}

func (x *exporter) write(ctx context.Context, to io.Writer) error {
	out := bufio.NewWriter(to)
	bar := progressbar.DefaultSilent(-1)
	if isTerminal(x.told) {
		bar = progressbar.NewOptions(-1, progressbar.OptionSetWriter(x.told), progressbar.OptionSetDescription("subscribers"),
			progressbar.OptionShowCount(), progressbar.OptionEnableColorCodes(os.Getenv("NO_COLOR") == ""), progressbar.OptionClearOnFinish())
	}
	defer bar.Finish()
	l := lister[api.Exported]{path: "/v1/export", key: "subscribers"}
	q := url.Values{"tenant": {x.tenant}, "limit": {fmt.Sprint(pageMax)}, "cursor": {""}}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	for {
		items, next, err := l.page(ctx, &x.remote, q)
		if err != nil {
			return err
		}
		for i := range items {
			s := &items[i].Subscriber
			for _, doubt := range items[i].Doubts {
				fmt.Fprintf(x.told, "%s/%s: %s\n", s.Tenant, s.Account, doubt)
			}
			if err := e.Encode(s); err != nil {
				return err
			}
		}
		bar.Add(len(items))
		if q.Set("cursor", next); next == "" {
			return out.Flush()
		}
	}
}
