package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/tenant"
)

func applyCommand() *cobra.Command {
	r, file, dry := &remote{}, "", false
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "make tenants, plans, peers and subscribers what a file says", Args: cobra.NoArgs,
		Long: `Read YAML documents and make the server hold what they declare. The file is checked whole before
anything is written. Applying it again changes nothing; a plan that was edited becomes a new version.`,
		Example: "  rtm apply -f examples/lab.yaml\n  rtm apply -f - < plans.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return exitError{errors.New("name the file: rtm apply -f FILE"), exitUsage}
			}
			b, err := readFile(file, cmd.InOrStdin())
			if err != nil {
				return exitError{err, exitUsage}
			}
			if _, err := tenant.Parse(file, b); err != nil {
				return err
			}
			var changes []api.Change
			path := "/v1/apply?file=" + url.QueryEscape(file)
			if dry {
				path += "&dryRun=true"
			}
			h := http.Header{"Content-Type": {"application/yaml"}}
			if err := r.call(cmd.Context(), "POST", path, h, bytes.NewReader(b), &changes); err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), changes, func(w io.Writer) {
				for _, c := range changes {
					fmt.Fprintf(w, "%s\t%s\t%s\n", c.Kind, c.Name, c.What)
				}
			})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file of YAML documents; - reads standard input")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would change in the catalogue")
	return r.bind(cmd)
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, api.BodyMax))
	}
	return os.ReadFile(name)
}
