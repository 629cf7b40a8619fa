package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// ErrNothingSaid is why there is no connection of a caller who left before he said
// anything, as probes do. It is nothing to complain about.
var ErrNothingSaid = errors.New("the caller left without a word")

// Accept shakes hands with a caller, in the calling goroutine. It takes as long as the
// handshake's timeout at most. After an error, which is an [*Error] that does not name
// the caller, nc is closed.
func (t *TLS) Accept(nc net.Conn, mode Mode) (*Conn, error) {
	c, err := t.accept(nc, mode)
	if err != nil {
		t.o.Inbound.Handshaken(err.Result)
		_ = nc.Close()
		return nil, err
	}
	if c.tls != nil {
		t.o.Inbound.Handshaken(result(c))
	}
	return c, nil
}

// result is how a handshake is counted that went well.
func result(c *Conn) telemetry.Handshake {
	if c.tls.ConnectionState().DidResume {
		return telemetry.HandshakeResumed
	}
	return telemetry.HandshakeOK
}

func (t *TLS) accept(nc net.Conn, mode Mode) (*Conn, *Error) {
	deadline := time.Now().Add(t.o.HandshakeTimeout)
	tr := newTransport(h2.NewTransport(nc))
	if err := tr.under.SetReadDeadline(deadline); err != nil {
		return nil, failure(telemetry.HandshakeError, err)
	}
	first, err := tr.listen(nc)
	if err != nil {
		return nil, t.silent(err)
	}
	if first[0] != recordHandshake {
		if mode == Strict {
			tr.tellPlaintext(first)
			return nil, failure(telemetry.HandshakePlaintext, errPlaintext)
		}
		return &Conn{raw: nc, under: tr.plaintext()}, t.unbound(tr)
	}
	state, err := t.state(deadline)
	if err != nil {
		return nil, failure(telemetry.HandshakeNoIdentity, err)
	}
	return t.shakeCaller(nc, tr, state, deadline)
}

// recordHandshake is how a TLS client begins (RFC 8446 section 5.1).
const recordHandshake = 22

// silent says what it means that a caller does not begin.
func (t *TLS) silent(err error) *Error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failure(telemetry.HandshakeTimeout, fmt.Errorf("the caller did not begin a TLS handshake within %v", t.o.HandshakeTimeout))
	case isEnd(err):
		err = ErrNothingSaid
	}
	return failure(telemetry.HandshakeError, err)
}

// unbound takes away the handshake's deadline.
func (t *TLS) unbound(tr *transport) *Error {
	if err := tr.under.SetReadDeadline(time.Time{}); err != nil {
		return failure(telemetry.HandshakeError, err)
	}
	return nil
}

// state waits for a certificate to show.
func (t *TLS) state(deadline time.Time) (*identity.State, error) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	return t.o.Keeper.Wait(ctx)
}

func (t *TLS) shakeCaller(nc net.Conn, tr *transport, state *identity.State, deadline time.Time) (*Conn, *Error) {
	slot, err := t.slots.take(deadline, func() { _ = tr.under.SetReadDeadline(time.Unix(1, 0)) })
	if err != nil {
		return nil, failure(telemetry.HandshakeTimeout, err)
	}
	tr.tls = tls.Server(&tr.wire, t.forCallers(state))
	s := &shaking{t: t, tr: tr, deadline: deadline, shown: state}
	err = s.run()
	t.slots.giveBack(slot)
	if err != nil {
		why := s.explain(err)
		if why.Result != telemetry.HandshakeTimeout && !isEnd(err) {
			tr.dismiss()
		}
		return nil, why
	}
	return s.conn(nc, x509.ExtKeyUsageClientAuth), t.unbound(tr)
}

// conn is what a handshake that went well has brought.
func (s *shaking) conn(nc net.Conn, usage x509.ExtKeyUsage) *Conn {
	return &Conn{raw: nc, under: s.tr, tls: s.tr.tls, peer: s.peer, usage: usage, state: s.state, shown: s.shown}
}
