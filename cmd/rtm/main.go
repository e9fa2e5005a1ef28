// Rtm is a telecom charging server: it grants quota to data sessions, calls
// and messages over Diameter Gy/Ro while they run, and takes the money.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitFailed      = 1 // a check failed, or the command could not do what it was asked
	exitUsage       = 2
	exitUnreachable = 3 // no server there
)

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "rtm:", err)
	code := exitFailed
	var e exitError
	if errors.As(err, &e) {
		code = e.code
	}
	os.Exit(code)
}

// command is the whole command line.
func command() *cobra.Command {
	root := &cobra.Command{
		Use: "rtm", Short: "An online charging server whose instances keep nothing",
		Long: `rtm grants quota to data sessions, calls and messages over Diameter Gy/Ro, and takes the money.
All state is in a store; any instance handles any message of any session.

Begin with "rtm dev": it runs at once, and says what to do next.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		text, _, _ := strings.Cut(err.Error(), ": strconv.") // which says nothing that a user could do
		return exitError{fmt.Errorf("%s\nsee %s --help", text, c.CommandPath()), exitUsage}
	})
	root.AddCommand(serveCommand(), frontCommand(), devCommand(), simCommand(), replayCommand(), applyCommand(), checkCommand(), topCommand(), traceCommand(), doctorCommand(), importCommand(), subscriberCommand(), balanceCommand(),
		sessionCommand(), cdrCommand(), explainCommand(), peerCommand(), configCommand(), versionCommand(), demoCommand())
	root.AddCommand(tenantCommand(), planCommand(), rateCommand(), instanceCommand(), exportCommand(), upgradeCommand())
	root.AddCommand(backupCommand(), restoreCommand(), migrateCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			built := ""
			if b, ok := debug.ReadBuildInfo(); ok {
				built = " " + b.GoVersion
			}
			fmt.Fprintf(cmd.OutOrStdout(), "rtm %s%s\n", version, built)
		},
	}
}
