package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"
)

// between parts two command lines that one process runs together.
const between = "--"

// together is the command line that runs two programs as one contestant, whose CPU
// time and memory are those of both.
func together(self string, near, far []string) []string {
	return slices.Concat([]string{self, roleTogether}, near, []string{between}, far)
}

var errTogether = fmt.Errorf("%s: want two command lines with %s between them", roleTogether, between)

// runTogether runs two programs until it is told to end, or one of them ends.
func runTogether(ctx context.Context, args []string) error {
	i := slices.Index(args, between)
	if i < 1 || i == len(args)-1 {
		return errTogether
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	for _, argv := range [][]string{args[:i], args[i+1:]} {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = stopTimeout - time.Second
		if err := cmd.Start(); err != nil {
			ended <- err
			continue
		}
		go func() { ended <- cmd.Wait() }()
	}
	err := <-ended
	asked := ctx.Err() != nil
	cancel()
	err = errors.Join(err, <-ended)
	if asked {
		return nil
	}
	return fmt.Errorf("%s: one has ended: %w", roleTogether, err)
}
