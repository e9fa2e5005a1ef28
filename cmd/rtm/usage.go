package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// strict makes wrong arguments of c, and of all commands below it, errors of
// usage that say what to write.
func strict(c *cobra.Command) {
	for _, sub := range c.Commands() {
		strict(sub)
	}
	if !c.Runnable() {
		c.Args, c.DisableFlagsInUseLine = known, true
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		return
	}
	check := c.Args
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		err := check(c, args)
		if err == nil {
			err = c.ValidateRequiredFlags()
		}
		if _, said := errors.AsType[exitError](err); err == nil || said {
			return err
		}
		return exitError{fmt.Errorf("%w: write %s\nsee %s --help", err, c.UseLine(), c.CommandPath()), exitUsage}
	}
}

// known refuses what is no command of a group, and names the one that was
// probably meant.
func known(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		text += ": did you mean " + strings.Join(near, " or ") + "?"
	}
	return exitError{fmt.Errorf("%s\nsee %s --help", text, c.CommandPath()), exitUsage}
}
