// Command bench measures Pillion beside its peers in one run: CPU per RPC,
// throughput, latency and memory, in turns, and shows them as ratios. It
// changes nothing of what it measures and keeps no history.
//
// It needs Linux, two cores and h2load; peers that are not installed are named
// and skipped. Run it in the module's folder: go run ./bench.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/pillion-proxy/pillion/interop/bench/canned"
	"github.com/pillion-proxy/pillion/interop/bench/grpcproxy"
)

// roles are all of them.
var roles = []string{roleBackend, roleGRPCProxy, roleTLS, roleVictim, roleAttack, roleInstance, roleTogether, roleBareTLS, roleShaking}

// Roles that the program runs itself in, as its first argument.
const (
	roleBackend   = "backend"
	roleGRPCProxy = "grpcproxy"
	roleTLS       = "tls"
	roleVictim    = "victim"
	roleAttack    = "client"
	roleInstance  = "instance"
	roleTogether  = "together"
	roleBareTLS   = "baretls"
	roleShaking   = "handshakes"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run writes what was asked for to out, and how it goes on to progress.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case roleBackend:
			return runBackend(ctx, args[1:], out)
		case roleGRPCProxy:
			return runGRPCProxy(ctx, args[1:])
		case roleTLS:
			return runTLSEngine(ctx, out)
		case roleVictim:
			return runVictim(ctx, out)
		case roleAttack:
			return runAttack(ctx, args[1:], out)
		case roleInstance:
			return runInstance(ctx, args[1:], out)
		case roleTogether:
			return runTogether(ctx, args[1:])
		case roleBareTLS:
			return runBareTLS(ctx, args[1:], out)
		case roleShaking:
			return runShaking(ctx, args[1:], out)
		}
	}
	opts, err := parseOptions(args, progress)
	if err != nil {
		return err
	}
	return bench(ctx, &opts, out, progress)
}

// runBackend serves canned answers on the hosts given (default 127.0.0.1), all
// on one port, whose address on the first host it prints.
func runBackend(ctx context.Context, hosts []string, out io.Writer) error {
	if len(hosts) == 0 {
		hosts = []string{"127.0.0.1"}
	}
	server := canned.Server{ResponseSize: unarySize}
	served := make(chan error, len(hosts))
	port := "0"
	var first string
	for _, host := range hosts {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			return fmt.Errorf("backend: %w", err)
		}
		defer func() { _ = ln.Close() }()
		if first == "" {
			first = ln.Addr().String()
			if _, port, err = net.SplitHostPort(first); err != nil {
				return fmt.Errorf("backend: %w", err)
			}
		}
		go func() { served <- server.Serve(ln) }()
	}
	if _, err := fmt.Fprintln(out, first); err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return nil
	}
}

// runGRPCProxy forwards from args[0] to args[1].
func runGRPCProxy(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s: want a listener's address and a backend's", roleGRPCProxy)
	}
	ln, err := net.Listen("tcp", args[0])
	if err != nil {
		return fmt.Errorf("%s: %w", roleGRPCProxy, err)
	}
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	return grpcproxy.Serve(ln, args[1]) //nolint:contextcheck // an RPC has the context of its own stream
}
