package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// Dial shakes hands with an instance to which nc leads, in the calling goroutine, until
// ctx ends or the handshake's timeout. It waits as long for a certificate of our own,
// if there is none yet. sessions may be nil. After an error, which is an [*Error] that
// does not name the instance, nc is closed.
//
// That the instance believes us is not known before it has sent something: the transport's
// first error says so where it does not.
func (t *TLS) Dial(ctx context.Context, nc net.Conn, to Expected, sessions *Sessions) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.o.HandshakeTimeout)
	defer cancel()
	c, err := t.dial(ctx, nc, &to, sessions)
	if err != nil {
		t.o.Outbound.Handshaken(err.Result)
		_ = nc.Close()
		return nil, err
	}
	t.o.Outbound.Handshaken(result(c))
	return c, nil
}

func (t *TLS) dial(ctx context.Context, nc net.Conn, to *Expected, sessions *Sessions) (*Conn, *Error) {
	state, err := t.o.Keeper.Wait(ctx)
	if err != nil {
		return nil, failure(telemetry.HandshakeNoIdentity, err)
	}
	deadline, _ := ctx.Deadline()
	tr := newTransport(h2.NewTransport(nc))
	s := &shaking{t: t, tr: tr, deadline: deadline, to: to, shown: state}
	tr.tls = tls.Client(&tr.wire, t.forInstance(s, sessions))
	tr.refusal = s.explainLater
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	err = s.run()
	if !stop() { // nc is closed
		return nil, failure(telemetry.HandshakeTimeout, t.late(ctx, s.why))
	}
	if err != nil {
		_, _ = tr.wire.out.finish(time.Second) // what is wrong with the instance
		return nil, s.explain(err)
	}
	return s.conn(nc, x509.ExtKeyUsageServerAuth), nil
}

// late says why a handshake was given up.
func (t *TLS) late(ctx context.Context, why *Error) error {
	switch {
	case why != nil:
		return why
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("the instance did not finish the TLS handshake in time: %w", ctx.Err())
	}
	return fmt.Errorf("the TLS handshake with the instance was given up: %w", ctx.Err())
}

// forInstance returns the configuration for one connection to an instance.
func (t *TLS) forInstance(s *shaking, sessions *Sessions) *tls.Config {
	c := t.config()
	c.ServerName = s.to.ServerName
	// Shown whatever authorities the instance names: those of its mesh may be on their
	// way to it.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return s.shown.Certificate, nil
	}
	// A SPIFFE ID is no host name. What is verified instead is in VerifyConnection.
	c.InsecureSkipVerify = true
	c.VerifyConnection = s.verifyInstance
	c.ClientSessionCache = sessions.of(s.shown)
	return c
}
