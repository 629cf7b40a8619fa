package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// killDelay is how long a command's output is waited for after it was killed: a child of
// its own may hold the pipe open.
const killDelay = time.Second

// environment names the variables that a command gets: how to find programs and write
// text, and none of the sidecar's tokens.
var environment = []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"}

// command runs a program with an input and returns the beginning of what it writes. No
// shell is between.
func command(ctx context.Context, run []string, input []byte) (string, error) {
	if len(run) == 0 {
		return "", errors.New("the command is empty")
	}
	cmd := exec.CommandContext(ctx, run[0], run[1:]...) //nolint:gosec // it is what the bootstrap says
	cmd.Env = []string{}                                // not nil, which stands for the sidecar's own
	for _, name := range environment {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Stdin = bytes.NewReader(input)
	var out beginning
	cmd.Stdout, cmd.Stderr = &out, &out
	alone(cmd)
	cmd.WaitDelay = killDelay
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && len(out.text) > 0 {
		return "", fmt.Errorf("%w: %s", exit, out.text)
	}
	return string(out.text), err
}

// beginning keeps the first bytes that are written to it. The exec package writes to it
// from one goroutine, as it is both outputs.
type beginning struct{ text []byte }

func (b *beginning) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), maxAnswer-len(b.text))]...)
	return len(p), nil
}
