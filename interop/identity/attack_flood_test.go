package identity

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// flooder opens one connection after the other, and does something bad on each until ctx
// ends or the port has enough of it.
type flooder func(ctx context.Context, raw net.Conn)

// While some flood a port with handshakes, of all kinds, the RPCs of others go on, and
// new callers come in.
func TestAttackByHandshakes(t *testing.T) {
	t.Parallel()

	const (
		flooders = 6 // of each kind
		stalled  = 30
	)
	ca := newAuthority(t)
	app := load.StartApp(t, "app", "")
	// Fewer at once than those who never go on.
	strict, _ := startStrict(t, ca, app.Address, map[string]any{"max_handshakes": stalled / 2})
	web := ca.Issue(callerPath)
	client := harness.StartSidecar(t, harness.Config{
		Outbound: true, Default: appService, Settings: proveBy(t, ca, web).settings(nil),
		Mesh: harness.NewMesh(t, map[string]harness.Service{appService: {Endpoints: harness.Endpoints(strict.Inbound)}}),
	})
	hello := clientHello(t)
	shake := func(config *tls.Config) flooder {
		return func(ctx context.Context, raw net.Conn) {
			_ = tls.Client(raw, config).HandshakeContext(ctx)
		}
	}
	wait := func(ctx context.Context, raw net.Conn) {
		defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
		_, _ = io.Copy(io.Discard, raw)
	}
	stranger := newAuthority(t).Issue(callerPath)
	kinds := map[string]struct {
		do flooder
		at int
	}{
		"whole handshakes":                 {shake(shows(web)), flooders},
		"handshakes of strangers":          {shake(shows(stranger)), flooders},
		"handshakes without a certificate": {shake(shows(nil)), flooders},
		"a beginning, and no more": {func(ctx context.Context, raw net.Conn) {
			_, _ = raw.Write(hello)
			wait(ctx, raw)
		}, stalled},
		"half a beginning": {func(ctx context.Context, raw net.Conn) {
			_, _ = raw.Write(hello[:len(hello)/2])
			wait(ctx, raw)
		}, stalled},
		"garbage": {func(ctx context.Context, raw net.Conn) {
			_, _ = raw.Write(append([]byte("\x16\x03\x01\x40\x00"), make([]byte, 0x4000)...))
			wait(ctx, raw)
		}, flooders},
	}

	l := load.Start(t, load.Dial(t, client.Outbound), load.Options{PerSecond: 50, StreamEvery: 5})
	l.More(t, 300*time.Millisecond)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	made := map[string]*atomic.Int64{}
	for name, kind := range kinds {
		count := new(atomic.Int64)
		made[name] = count
		for range kind.at {
			running.Go(func() {
				for ctx.Err() == nil {
					raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", strict.Inbound)
					if err != nil {
						continue
					}
					kind.do(ctx, raw)
					_ = raw.Close()
					count.Add(1)
				}
			})
		}
	}
	l.More(t, 2*time.Second)
	l.Check(t, "a flood of handshakes")
	began := time.Now()
	// Who is kept from going on by a busy machine loses his place too, and comes again.
	if _, err := load.Who(t.Context(), rpcsOver(t, strict.Inbound, shows(web)), grpc.WaitForReady(true)); err != nil {
		t.Errorf("a new caller, during the flood: %v", err)
	}
	entered := time.Since(began)
	stop()
	running.Wait()
	var said []string
	for name, count := range made {
		said = append(said, fmt.Sprintf("%d %s", count.Load(), name))
		if count.Load() == 0 {
			t.Errorf("no flood of %s", name)
		}
	}
	l.End(t)
	t.Logf("meanwhile: %s; a new caller got through in %v", strings.Join(said, ", "), entered.Round(time.Millisecond))
	if strict.Metric(t, "pillion_tls_handshakes_total", `result="timeout"`) == 0 {
		t.Error("no stalled handshake has made room")
	}
}

// clientHello is what a TLS client begins with.
func clientHello(t testing.TB) []byte {
	t.Helper()

	ours, theirs := net.Pipe()
	defer func() { _ = ours.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(theirs, shows(nil)).HandshakeContext(t.Context())
	}()
	defer func() { <-done }()
	defer func() { _ = theirs.Close() }()
	hello := make([]byte, 16<<10)
	n, err := ours.Read(hello)
	if err != nil {
		t.Fatal(err)
	}

	return hello[:n]
}

// A renegotiation, as TLS 1.2 has it, is refused: whoever asks for one has to go.
func TestAttackByRenegotiation(t *testing.T) {
	t.Parallel()

	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl, which can ask for a renegotiation (Debian: openssl)")
	}
	ca := newAuthority(t)
	strict, _ := startStrict(t, ca, load.StartApp(t, "app", "").Address, map[string]any{"min_tls_version": "1.2"})
	files := proveBy(t, ca, ca.Issue(callerPath)).folder
	cmd := exec.CommandContext(t.Context(), openssl, "s_client", "-connect", strict.Inbound, "-tls1_2", "-alpn", "h2",
		"-cert", files+"/leaf.pem", "-key", files+"/key.pem")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // that it fails is what is wanted; what it says is looked at
		_ = write.Close()
	}()
	var said strings.Builder
	asked := false
	for lines := bufio.NewScanner(read); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "Verify return code") && !asked {
			asked = true
			if _, err := io.WriteString(in, "R\n"); err != nil {
				t.Error(err)
			}
		}
	}
	<-ended
	if !asked || !strings.Contains(said.String(), "RENEGOTIATING") {
		t.Fatalf("openssl has not asked for a renegotiation:\n%s", said.String())
	}
	if !strings.Contains(said.String(), "alert") {
		t.Errorf("openssl was not told to go:\n%s", said.String())
	}
	if made := handshakes(t, strict, "inbound", "ok"); made != 1 {
		t.Errorf("%d handshakes, want the first alone", made)
	}
}
