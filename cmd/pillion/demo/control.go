package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pillion-proxy/pillion/control/kv/dirkv"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// folder is where the documents of the mesh are.
func (f *fleet) folder() string { return filepath.Join(f.dir, "control") }

// control is the part of a bootstrap that has a sidecar obey documents. beside is the
// greeter that it is beside; "": it is a client's.
func (f *fleet) control(beside string) string {
	switch {
	case !f.controlled:
		return ""
	case beside != "" && len(f.deciders) > 0 && !slices.Contains(f.deciders, beside):
		return "control: {dir: control, candidate: false}\n"
	}
	return "control: {dir: control}\n"
}

// store opens the folder with the documents.
func (f *fleet) store() (*dirkv.Store, error) { return dirkv.Open(f.folder(), dirkv.Options{}) }

// write writes a file for a command, and shows it.
func (s *stage) write(name, text string) error {
	s.screen.say("\n$ cat " + name + "\n" + text)
	return os.WriteFile(filepath.Join(s.fleet.dir, name), []byte(text), 0o600)
}

// commandTimeout bounds how long a command may take.
const commandTimeout = time.Minute

// do shows a command, runs it as a person would who stands in the demo's folder, and shows
// what it says.
func (s *stage) do(ctx context.Context, args ...string) error {
	words := make([]string, len(args))
	for i, arg := range args {
		if words[i] = arg; strings.ContainsAny(arg, " ?") {
			words[i] = `"` + arg + `"`
		}
	}
	line := "pillion " + strings.Join(words, " ")
	limited, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, s.fleet.executable, args...)
	cmd.Dir = s.fleet.dir
	cmd.Env = append(os.Environ(), "PILLION_CONTROL="+s.fleet.folder(), "PILLION_ADMIN="+s.fleet.clients[0].at["admin"])
	cmd.SysProcAttr = childAttributes()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endTimeout
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run() }()
	for {
		select {
		case err := <-ended:
			s.screen.say("\n$ " + line + "\n" + out.String())
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(out.String()))
			}
			return ctx.Err()
		case <-s.seconds:
			s.second(ctx)
		}
	}
}

// answerTimeout is how long a sidecar may take to answer what a second shows.
const answerTimeout = 500 * time.Millisecond

// askClient asks the sidecar of the first client.
func (f *fleet) askClient(ask func(context.Context, adminv1.AdminClient) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+f.clients[0].at["admin"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	return errors.Join(ask(ctx, adminv1.NewAdminClient(conn)), conn.Close())
}
