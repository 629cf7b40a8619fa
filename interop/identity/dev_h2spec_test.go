package identity

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// h2specCases is what h2spec 2.2.1 checks, one case that it calls strict among it.
const h2specCases = "146 tests, 146 passed, 0 skipped, 0 failed"

// HTTP/2 over mutual TLS is HTTP/2. h2spec cannot show a certificate: what it says goes
// through a pump that can.
func TestDevH2specAgainstATLSPort(t *testing.T) {
	t.Parallel()

	ca := newAuthority(t)
	sidecar, _ := startStrict(t, ca, load.StartApp(t, "app", "").Address, nil)
	pump := startPump(t, sidecar.Inbound, shows(ca.Issue(callerPath)))
	host, port, err := net.SplitHostPort(pump.address)
	if err != nil {
		t.Fatal(err)
	}
	// Its default of 2s for an answer is short on a machine that runs all tests at once.
	_, output := harness.Run(t, harness.Command{
		Path: harness.Tool(t, "h2spec"),
		Args: []string{"--strict", "--host", host, "--port", port, "--timeout", "5"},
	})

	closing := regexp.MustCompile(`\d+ tests, \d+ passed, \d+ skipped, \d+ failed`).FindString(output)
	t.Log(closing)
	if closing != h2specCases {
		_, failures, _ := strings.Cut(output, "Failures:")
		t.Errorf("h2spec says %q, want %q. Failures:%s", closing, h2specCases, failures)
	}
	secure := sidecar.Metric(t, "pillion_tls_handshakes_total", `side="inbound"`, `result="ok"`) +
		sidecar.Metric(t, "pillion_tls_handshakes_total", `side="inbound"`, `result="resumed"`)
	if secure < 100 {
		t.Errorf("%v connections by TLS, which cannot be what h2spec has made", secure)
	}
}

// pump speaks TLS on one side and plaintext on the other.
type pump struct {
	address string
	target  string
	config  *tls.Config

	mu    sync.Mutex
	open  map[net.Conn]bool
	ended bool
}

func startPump(t testing.TB, target string, config *tls.Config) *pump {
	t.Helper()

	listener := harness.Listen(t)
	p := &pump{address: listener.Addr().String(), target: target, config: config, open: map[net.Conn]bool{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			plain, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				if err := p.carry(plain); err != nil {
					t.Errorf("pump: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		p.ended = true
		for c := range p.open {
			_ = c.Close()
		}
		p.mu.Unlock()
		running.Wait()
	})

	return p
}

// hold has a connection closed with the pump, and says whether that is over already.
func (p *pump) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.open[c] = true

	return !p.ended
}

func (p *pump) release(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()

	delete(p.open, c)
}

// carry carries one connection, until either side closes it.
func (p *pump) carry(plain net.Conn) error {
	defer p.release(plain)
	if !p.hold(plain) {
		return nil
	}
	secure, err := tls.Dial("tcp", p.target, p.config)
	if err != nil {
		return err
	}
	defer p.release(secure)
	if !p.hold(secure) {
		return nil
	}

	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(plain, secure)
		// What the sidecar said last arrives before the end does.
		if half, is := plain.(*net.TCPConn); is {
			_ = half.CloseWrite()
		}
	})
	defer back.Wait()
	if _, err := io.Copy(secure, plain); err == nil || !errors.Is(err, net.ErrClosed) {
		_ = secure.Close()
	}

	return nil
}
