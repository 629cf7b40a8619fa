package outbound

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/internal/fewlines"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// Security says how instances are spoken with. Where the options have none, it is in
// plaintext, and those that speak mutual TLS alone are not used.
type Security struct {
	TLS *mtls.TLS
	// Keeper has the own identity, the one of TLS.
	Keeper *identity.Keeper
	// ServiceID is the template of the SPIFFE ID that the instances of a service have to
	// prove where the registry says nothing, see [identity.ServiceID].
	ServiceID string
	// Strict has no instance be spoken with in plaintext.
	Strict bool
}

var (
	errSpeaksTLS   = errors.New("the instance speaks mutual TLS alone, and outbound.tls is off here: give the sidecar an identity")
	errPlaintext   = errors.New("the instance speaks plaintext alone, and outbound.tls is strict here: give it a sidecar with an identity, or set outbound.tls to permissive for as long as it has none")
	errNotATLSConn = errors.New("the connection is none that was dialled here")
)

// spoken is what is spoken with an instance.
type spoken uint8

const (
	speakPlaintext spoken = iota
	speakTLS
	speakNothing
)

// speak decides what is spoken with an instance of which the registry says what it
// speaks. s may be nil.
func (s *Security) speak(with registry.Security) (spoken, error) {
	switch with {
	case registry.SecurityMTLS:
		if s == nil {
			return speakNothing, errSpeaksTLS
		}
		return speakTLS, nil
	case registry.SecurityPermissive:
		if s == nil {
			return speakPlaintext, nil
		}
		return speakTLS, nil
	case registry.SecurityPlaintext:
		if s != nil && s.Strict {
			return speakNothing, errPlaintext
		}
		return speakPlaintext, nil
	}
	if s != nil && s.Strict { // the registry does not say, so it is found out
		return speakTLS, nil
	}
	return speakPlaintext, nil
}

// secure has connections be what they have to be. It is safe for concurrent use.
type secure struct {
	*Security // nil: plaintext
	counts    *telemetry.Security
	// strangers logs instances that are not who they should be.
	strangers fewlines.Log
}

func newSecure(o *Options) *secure {
	s := &secure{Security: o.Security, counts: &o.Counters.Security[telemetry.Outbound]}
	s.strangers = fewlines.Log{
		Logger: o.Logger, Level: slog.LevelWarn,
		One:  "an instance has not proven to be of its service, and is not used",
		More: "more instances have not proven to be of their services",
	}
	if o.Security != nil {
		s.counts.InForce.Store(true)
	}
	if o.Logger == nil {
		s.strangers.Logger = slog.Default()
	}
	return s
}

// of implements what [upstream.Options] wants.
func (s *secure) of(service string, e *registry.Endpoint) upstream.Security {
	speak, err := s.speak(e.Security)
	c := &security{secure: s, service: service, address: e.Address, speak: speak, refusal: err}
	if speak == speakTLS {
		c.ids, c.serverName = e.Identities, e.ServerName
		c.sessions = new(mtls.Sessions)
		c.known = e.Security != registry.SecurityUnknown
	}
	return c
}

// security is that of the connections to one instance.
type security struct {
	*secure
	service, address string
	speak            spoken
	refusal          error
	ids              []string // as in registry.Endpoint
	serverName       string
	sessions         *mtls.Sessions
	known            bool // the registry says that it speaks TLS
}

// Key implements upstream.Security.
func (c *security) Key() string {
	switch c.speak {
	case speakNothing:
		return "nothing: " + c.refusal.Error()
	case speakTLS:
		return "tls\x00" + c.serverName + "\x00" + strings.Join(c.ids, "\x00")
	}
	return ""
}

// Refusal implements upstream.Security.
func (c *security) Refusal() error { return c.refusal }

// Dial implements upstream.Security.
func (c *security) Dial(ctx context.Context, open func(context.Context) (net.Conn, error)) (net.Conn, error) {
	switch c.speak {
	case speakNothing:
		return nil, c.refusal
	case speakPlaintext:
		return open(ctx)
	}
	// Before the instance is connected to: it does not wait long for us to begin.
	state, err := c.Keeper.Wait(ctx)
	if err != nil {
		c.counts.Handshaken(telemetry.HandshakeNoIdentity)
		return nil, err
	}
	expected, err := c.expected(state)
	if err != nil {
		return nil, err
	}
	for pause := firstPause; ; pause *= 2 {
		nc, err := open(ctx)
		if err != nil {
			return nil, err
		}
		secured, err := c.TLS.Dial(ctx, nc, expected, c.sessions)
		if err == nil {
			return secured, nil
		}
		_ = nc.Close()
		if pause > lastPause || !c.isBehind(err) || !wait(ctx, pause) {
			c.complain(err)
			return nil, err
		}
	}
}

// How long is waited before an instance is connected to again that is behind what the
// registry says of it.
const firstPause, lastPause = 10 * time.Millisecond, 160 * time.Millisecond

// isBehind says whether an instance speaks plaintext of which the registry says that it
// speaks TLS. While its sidecar is being replaced, the process before it may take another
// connection or two.
func (c *security) isBehind(err error) bool {
	failed, ok := errors.AsType[*mtls.Error](err)
	return ok && failed.Result == telemetry.HandshakePlaintext && c.known
}

// wait is false where ctx has ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// expected is who the instance has to prove to be.
func (c *security) expected(own *identity.State) (mtls.Expected, error) {
	td := own.TrustDomain
	to := mtls.Expected{ServerName: strings.ReplaceAll(c.serverName, "{trust_domain}", td.Name())}
	if len(c.ids) == 0 {
		id, err := c.idOf(own)
		if err != nil {
			return to, err
		}
		to.IDs = []spiffeid.ID{id}
		return to, nil
	}
	for _, text := range c.ids {
		id, err := identity.ExpandID(text, td, c.service)
		if err != nil {
			return to, fmt.Errorf("the registry says what the instance has to prove to be: %w", err)
		}
		if !slices.Contains(to.IDs, id) {
			to.IDs = append(to.IDs, id)
		}
	}
	return to, nil
}

// idOf is the service's SPIFFE ID where the registry says nothing. Where Consul names the
// sidecar itself, it is the one that it gives to the service beside it.
func (c *security) idOf(own *identity.State) (spiffeid.ID, error) {
	consul, is := identity.ParseConsulID(own.ID)
	if c.ServiceID != "" || !is {
		return identity.ServiceID(c.ServiceID, own.TrustDomain, c.service)
	}
	consul.Service = c.service
	return consul.ID(own.TrustDomain)
}

// complain logs an instance that is somebody else, or nobody who is believed.
func (c *security) complain(err error) {
	if failed, ok := errors.AsType[*mtls.Error](err); ok {
		switch failed.Result {
		case telemetry.HandshakeWrongIdentity, telemetry.HandshakeUntrusted, telemetry.HandshakeNoCertificate:
			c.strangers.Note("service", c.service, "instance", c.address, "err", err)
		}
	}
}

// Attend implements upstream.Security.
func (c *security) Attend(nc net.Conn, end func(reason error), drain func()) (stop func()) {
	if c.speak != speakTLS {
		return c.counts.Opened(false)
	}
	conn, ok := nc.(*mtls.Conn)
	if !ok || conn.Peer() == nil { // which cannot be
		end(errNotATLSConn)
		return func() {}
	}
	closed := c.counts.Opened(true)
	unattend := c.TLS.Attend(conn, mtls.Watched{End: end, Drain: drain})
	return func() {
		unattend()
		closed()
	}
}
