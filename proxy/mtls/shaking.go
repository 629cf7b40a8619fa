package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

const (
	// maxHandshake is the most that a peer may send before the handshake is over. With
	// post-quantum keys and chains of four it is about 12 KiB.
	maxHandshake = 128 << 10
	// maxShakingRecords is how many records that may be; some make one of each message,
	// and there are eight.
	maxShakingRecords = 128
	// maxWays is how often a handshake makes way for others. It takes three steps that
	// cost something; more records than that only fill messages.
	maxWays = 8
)

var (
	errTooLong = errors.New("the peer's TLS handshake is longer than 128 KiB, or in more than 128 pieces")
	errSlow    = errors.New("the caller's TLS handshake took too long while others were waiting")
)

// shaking is a handshake under way. It belongs to the goroutine that runs it.
type shaking struct {
	t        *TLS
	tr       *transport
	deadline time.Time
	to       *Expected       // nil: with a caller
	shown    *identity.State // whose certificate we show

	holding bool // a turn
	ways    int
	heard   int // octets that have come

	// What it has brought: who the peer is, by which state, or why not.
	peer  *identity.Peer
	state *identity.State
	why   *Error
}

// run shakes hands. The turn that it may still hold is given back.
func (s *shaking) run() error {
	s.tr.wire.shaking = s
	if s.to != nil {
		_ = s.begin() // the first message is a step too; what waits for its answer notices the deadline
	}
	err := s.tr.tls.HandshakeContext(context.Background())
	s.release()
	s.tr.wire.shaking = nil
	if err == nil && s.to == nil && s.tr.tls.ConnectionState().Version == tls.VersionTLS13 {
		// What is left is a ticket. It can go out with what the engine says first.
		_, _, err = s.tr.wire.out.try()
		return err
	}
	if _, failed := s.tr.wire.out.finish(s.left()); err == nil {
		err = failed
	}
	return err
}

// left is how much time there is, and never nothing: that would be for ever.
func (s *shaking) left() time.Duration { return max(time.Until(s.deadline), time.Millisecond) }

// await reads what comes next of the peer's messages, and takes a turn where there is
// something to do for it.
func (s *shaking) await() error {
	s.release()
	w := &s.tr.wire
	if _, err := w.out.finish(s.left()); err != nil {
		return err
	}
	n, err := s.tr.under.Read(&w.in)
	if err != nil {
		w.in.Return()
		return err
	}
	w.in.filled(n)
	if s.heard += n; s.heard > maxHandshake {
		return errTooLong
	}
	ahead := records{header: w.given.header, have: w.given.have, left: w.given.left}
	if ahead.take(w.in.rest, len(w.in.rest)); ahead.whole == 0 {
		return nil // crypto/tls only puts it aside
	}
	return s.begin()
}

// begin begins a step.
func (s *shaking) begin() error {
	long := s.t.turns.take()
	s.holding = true
	if long && s.ways < maxWays {
		s.ways++
		s.tr.MakeWay()
	}
	if !time.Now().Before(s.deadline) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (s *shaking) release() {
	if s.holding {
		s.holding = false
		s.t.turns.giveBack()
	}
}

// greet looks at what a caller asks for.
func (s *shaking) greet(common *tls.Config, hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if len(hello.SupportedProtos) == 0 {
		s.why = failure(telemetry.HandshakeError, errNoALPN)
		return nil, s.why
	}
	c := common.Clone()
	c.GetConfigForClient = nil
	c.VerifyConnection = s.verifyCaller
	return c, nil
}

// verifyCaller is VerifyConnection for callers.
func (s *shaking) verifyCaller(cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol != alpn {
		return s.fail(telemetry.HandshakeError, errNoALPN)
	}
	return s.verify(cs, x509.ExtKeyUsageClientAuth, "the caller's certificate")
}

// verifyInstance is VerifyConnection for instances.
func (s *shaking) verifyInstance(cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol != alpn {
		return s.fail(telemetry.HandshakeError, errors.New(`the instance does not speak HTTP/2 over TLS (ALPN "h2")`))
	}
	if err := s.verify(cs, x509.ExtKeyUsageServerAuth, "the instance's certificate"); err != nil {
		return err
	}
	if !slices.Contains(s.to.IDs, s.peer.ID) {
		return s.fail(telemetry.HandshakeWrongIdentity, fmt.Errorf("the instance proves to be %s, but %s is wanted", s.peer.ID, s.to))
	}
	return nil
}

// verify has the state that is in force now say who the peer is.
func (s *shaking) verify(cs tls.ConnectionState, usage x509.ExtKeyUsage, what string) error {
	state := s.t.o.Keeper.Current()
	peer, err := state.Verify(cs.PeerCertificates, usage, s.t.o.Now())
	if err != nil {
		return s.fail(telemetry.HandshakeUntrusted, fmt.Errorf("%s %w", what, err))
	}
	s.peer, s.state = peer, state
	return nil
}

// fail notes why the handshake is ended: crypto/tls hides it behind what it tells the
// peer.
func (s *shaking) fail(result telemetry.Handshake, err error) error {
	s.why = failure(result, err)
	return s.why
}

// String lists who is expected.
func (e *Expected) String() string {
	if len(e.IDs) == 0 {
		return "nobody"
	}
	names := make([]string, len(e.IDs))
	for i, id := range e.IDs {
		names[i] = id.String()
	}
	return strings.Join(names, " or ")
}

// explain says why a handshake has failed.
func (s *shaking) explain(err error) *Error {
	if s.why != nil {
		return s.why
	}
	peer := "the caller"
	if s.to != nil {
		peer = "the instance"
	}
	header, isHeader := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(s.deadline):
		return failure(telemetry.HandshakeTimeout, errSlow)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failure(telemetry.HandshakeTimeout, fmt.Errorf("%s did not finish the TLS handshake in time: %w", peer, err))
	case err.Error() == "tls: client didn't provide a certificate":
		return failure(telemetry.HandshakeNoCertificate, fmt.Errorf("the caller shows no certificate, and this port wants mutual TLS: let it call through its own sidecar, or give it a certificate of %s", s.shown.TrustDomain.Name()))
	case isHeader && s.to != nil && header.Conn != nil:
		return failure(telemetry.HandshakePlaintext, errors.New("the instance speaks no TLS, and mutual TLS is wanted of it: is it behind a sidecar, and that sidecar's inbound.tls not off?"))
	case refusesCertificate(err):
		return failure(telemetry.HandshakeError, s.refused(peer, err))
	case isEnd(err):
		return failure(telemetry.HandshakeError, fmt.Errorf("%s left in the middle of the TLS handshake: %w", peer, err))
	}
	return failure(telemetry.HandshakeError, fmt.Errorf("the TLS handshake with %s failed: %w", peer, err))
}

func (s *shaking) refused(peer string, err error) error {
	return fmt.Errorf("%s does not accept our certificate (%s): %w", peer, s.shown.ID, err)
}

// explainLater says what the end of a connection means on which the instance has sent
// nothing: with TLS 1.3 a client is through with the handshake before the server has
// looked at its certificate.
func (s *shaking) explainLater(err error) error {
	if refusesCertificate(err) {
		return s.refused("the instance", err)
	}
	return err
}

// refusesCertificate says whether err is an alert about our certificate (RFC 8446
// section 6.2).
func refusesCertificate(err error) bool {
	alert, is := errors.AsType[*net.OpError](err)
	if !is || alert.Op != "remote error" || alert.Err == nil {
		return false
	}
	text := alert.Err.Error()
	return strings.Contains(text, "certificate") || strings.Contains(text, "access denied")
}
