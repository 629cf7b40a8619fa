// Command actor plays a part in a test of abuse, in a process of its own: what an
// attacker costs himself, and an app that he swamps, must not be taken for what
// he costs the sidecar between them, and the race detector must slow neither.
//
//	actor app                          serves the app that attacks call, and prints its address
//	actor attack NAME ADDRESS WHILE    attacks again and again, and prints a report in JSON
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := play(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "actor:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("want `app`, or `attack NAME ADDRESS WHILE`")

func play(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "app":
		return serve(ctx, out)
	case len(args) == 4 && args[0] == "attack":
		while, err := time.ParseDuration(args[3])
		if err != nil {
			return err
		}

		return assault(ctx, args[1], args[2], while, out)
	}

	return errUsage
}

// serve is the app.
func serve(ctx context.Context, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, attack.Victim{})
	context.AfterFunc(ctx, server.Stop)
	if _, err := fmt.Fprintf(out, "app at %s\n", listener.Addr()); err != nil {
		return err
	}

	return server.Serve(listener)
}

// assault is the attacker. That an attack ended wrong is part of the report.
func assault(ctx context.Context, name, address string, while time.Duration, out io.Writer) error {
	all := attack.Clients()
	at := slices.IndexFunc(all, func(c attack.Client) bool { return c.Name == name })
	if at < 0 {
		return fmt.Errorf("no attack is named %q", name)
	}
	report, err := all[at].Endure(ctx, address, while)
	wrong := ""
	if err != nil {
		wrong = cmp.Or(err.Error(), "it failed")
	}

	return json.NewEncoder(out).Encode(struct {
		attack.Report

		Wrong string
	}{report, wrong})
}
