package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

const (
	// handshakesWanted is how many full handshakes a core should make in a second, where
	// crypto/tls alone can.
	handshakesWanted = 2000
	// shakers is how many connections are being made at once.
	shakers = 16
	// shakerHosts is how many addresses they come from, so that none runs out of ports.
	shakerHosts = 8
	// bareTLSName is who crypto/tls alone is in the results, engineName the same with
	// Pillion's HTTP/2 behind it, which every connection has to begin and to end.
	bareTLSName = "crypto/tls"
	engineName  = "crypto/tls, engine"
)

// settingsFrame is an empty SETTINGS frame, all that the bare server ever says.
var settingsFrame = []byte{0, 0, 0, 4, 0, 0, 0, 0, 0}

// greet begins HTTP/2 and waits for the server's first byte: then it has taken the
// client's certificate.
func greet(nc net.Conn) error {
	if _, err := nc.Write(append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), settingsFrame...)); err != nil {
		return err
	}
	var first [1]byte
	_, err := io.ReadFull(nc, first[:])
	return err
}

// runShaking makes one connection after the other, each with a full handshake, and says
// how many. args are an address, a folder of certificates, and how long.
func runShaking(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("%s: want an address, a folder of certificates and a duration", roleShaking)
	}
	certificates := certificates{args[1]}
	config, err := certificates.config(callerName)
	if err != nil {
		return fmt.Errorf("%s: %w", roleShaking, err)
	}
	root, err := certificates.root()
	if err != nil {
		return fmt.Errorf("%s: %w", roleShaking, err)
	}
	// What the server proves is not looked at: this is about the server's side, and the
	// client's shall not be slower.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if s.DidResume || len(s.PeerCertificates) == 0 || bytes.Equal(s.PeerCertificates[0].Raw, root) {
			return errors.New("that was no full handshake") //nolint:err113 // ends the program
		}
		return nil
	}
	howLong, err := time.ParseDuration(args[2])
	if err != nil {
		return fmt.Errorf("%s: %w", roleShaking, err)
	}
	end := time.Now().Add(howLong)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	var made atomic.Int64
	var running sync.WaitGroup
	failed := make(chan error, shakers)
	for i := range shakers {
		dialer := &tls.Dialer{Config: config, NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%shakerHosts))}}}
		running.Go(func() {
			for ctx.Err() == nil {
				if err := shake(ctx, dialer, args[0]); err != nil {
					// A dial is told of the end a little before the context knows.
					if ctx.Err() == nil && time.Now().Before(end) {
						failed <- err
					}
					return
				}
				made.Add(1)
			}
		})
	}
	running.Wait()
	select {
	case err := <-failed:
		return fmt.Errorf("%s: %w", roleShaking, err)
	default:
	}
	_, err = fmt.Fprintln(out, made.Load())
	return err
}

// shake makes one connection.
func shake(ctx context.Context, dialer *tls.Dialer, addr string) error {
	nc, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = nc.Close() }()
	return greet(nc)
}

// runBareTLS serves handshakes as fast as crypto/tls makes them. args are a folder of
// certificates, and engineName where there shall be HTTP/2 behind it.
func runBareTLS(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("%s: want a folder of certificates, and what is behind TLS", roleBareTLS)
	}
	serve := serveBareTLS
	if args[1] == engineName {
		h2Config := h2.Config{}.WithDefaults()
		serve = func(nc net.Conn) { h2.New(h2.NewTransport(nc), h2.Server, &h2Config, noRPCs{}).Serve() }
	}
	certificates := certificates{args[0]}
	config, err := certificates.config(calledName)
	if err != nil {
		return fmt.Errorf("%s: %w", roleBareTLS, err)
	}
	root, err := certificates.root()
	if err != nil {
		return fmt.Errorf("%s: %w", roleBareTLS, err)
	}
	authority, err := x509.ParseCertificate(root)
	if err != nil {
		return fmt.Errorf("%s: %w", roleBareTLS, err)
	}
	config.ClientCAs = x509.NewCertPool()
	config.ClientCAs.AddCert(authority)
	config.ClientAuth = tls.RequireAndVerifyClientCert
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("%s: %w", roleBareTLS, err)
	}
	ln := tls.NewListener(inner, config)
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	if _, err := fmt.Fprintln(out, ln.Addr()); err != nil {
		return fmt.Errorf("%s: %w", roleBareTLS, err)
	}
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", roleBareTLS, err)
		}
		go serve(nc)
	}
}

// serveBareTLS says that the handshake is over, and waits for the client to go.
func serveBareTLS(nc net.Conn) {
	defer func() { _ = nc.Close() }()
	if _, err := nc.Write(settingsFrame); err == nil {
		_, _ = io.Copy(io.Discard, nc)
	}
}

// handshakes measures how many full handshakes with callers the far one of each pair
// makes in a second of CPU time, and crypto/tls alone.
func (r *rig) handshakes(ctx context.Context, certificates certificates) error {
	type server struct {
		name string
		proc *process
		addr string
	}
	var servers []server
	defer func() {
		for _, s := range servers {
			s.proc.stop()
		}
	}()
	for _, name := range []string{bareTLSName, engineName} {
		dir := filepath.Join(r.dir, roleBareTLS+strconv.Itoa(len(servers)))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		bare, err := startProcess(command{
			name: roleBareTLS, argv: []string{r.self, roleBareTLS, certificates.folder, name},
			env: goWorkers(r.setting.workers), dir: dir, core: r.where.proxy,
		})
		if err != nil {
			return err
		}
		servers = append(servers, server{name, bare, ""})
		if servers[len(servers)-1].addr, err = bare.firstLine(ctx); err != nil {
			return err
		}
	}
	for _, c := range r.contestants {
		pair, ok := securePairs[c.name]
		if !ok {
			continue
		}
		addresses, err := freeAddresses(2)
		if err != nil {
			return err
		}
		s := secureSite{site: c.site, far: addresses[0], farAdmin: addresses[1], certificates: certificates}
		_, far, err := pair(s)
		if err != nil {
			return err
		}
		proc, err := startProcess(command{name: c.name + "-handshakes", argv: far.argv, env: far.env, dir: s.dir, core: r.where.proxy})
		if err != nil {
			return err
		}
		servers = append(servers, server{c.name, proc, s.far})
		if err := proc.waitListening(ctx, s.far); err != nil {
			return err
		}
		if far.ready != nil {
			if err := proc.poll(ctx, "become ready", far.ready); err != nil {
				return err
			}
		}
	}
	for round := range r.opts.rounds {
		r.sayf("mtls: handshakes, round %d of %d", round+1, r.opts.rounds)
		for i := range servers {
			s := servers[(i+round)%len(servers)]
			perCore, err := r.shaking(ctx, s.proc, s.addr, certificates)
			if err != nil {
				return err
			}
			r.results.add(key{r.setting.name, s.name, sceneShaking, handshakesPerCore}, perCore)
			r.sayf("%s %s: %.0f full handshakes per second of CPU", r.setting.name, s.name, perCore)
		}
	}
	return nil
}

// shaking measures one server once.
func (r *rig) shaking(ctx context.Context, proc *process, addr string, certificates certificates) (float64, error) {
	before, err := cpuTime(proc.pid())
	if err != nil {
		return 0, proc.failed("CPU time: %w", err)
	}
	client, err := startProcess(command{
		name: roleShaking, argv: []string{r.self, roleShaking, addr, certificates.folder, r.opts.runTime.String()},
		env: goWorkers(1), dir: r.dir, core: r.where.load,
	})
	if err != nil {
		return 0, err
	}
	defer client.stop()
	select {
	case <-client.ended:
	case <-time.After(r.opts.runTime + loadGrace):
		return 0, client.failed("it does not end: %w", errLoad)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := cpuTime(proc.pid())
	if err != nil {
		return 0, proc.failed("CPU time: %w", err)
	}
	line, err := client.firstLine(ctx)
	if err != nil {
		return 0, err
	}
	made, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || made == 0 {
		return 0, proc.failed("%w: %w", errLoad, client.failed("handshakes: %q", line))
	}
	return float64(made) / (after - before).Seconds(), nil
}

// handshakeTarget judges them: as many as are wanted, or as crypto/tls itself makes.
func handshakeTarget(r results, s setting) target {
	of := func(name string) float64 { return median(r.of(s.name, name, sceneShaking, handshakesPerCore)) }
	wanted := float64(handshakesWanted)
	if bare := of(bareTLSName); bare < wanted {
		wanted = bare
	}
	return target{
		what:  "full handshakes of the inbound side per second and core (or as many as crypto/tls alone makes)",
		limit: wanted, atLeast: true, got: of(pillionName),
	}
}

// writeHandshakes shows them.
func (o *outcome) writeHandshakes(w *bytes.Buffer, s setting) {
	of := func(name string) []float64 { return o.results.of(s.name, name, sceneShaking, handshakesPerCore) }
	if len(of(bareTLSName)) == 0 {
		return
	}
	fmt.Fprint(w, "### Full handshakes with callers, both sides proven, none resumed\n\n")
	t := table{head: []string{"", "per second of CPU time", "÷ crypto/tls alone"}}
	for _, p := range o.participants {
		if r, ok := compare(of(p.name), of(bareTLSName)); ok {
			t.row(p.label(), figure(of(p.name), 1, 0), r.text(ok, false))
		}
	}
	r, ok := compare(of(engineName), of(bareTLSName))
	t.row("crypto/tls, with Pillion's HTTP/2 behind it", figure(of(engineName), 1, 0), r.text(ok, false))
	t.row("crypto/tls alone", figure(of(bareTLSName), 1, 0), "")
	t.write(w)
}
