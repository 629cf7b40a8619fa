package mtls

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// Defaults of Options.
const (
	DefaultHandshakeTimeout = 5 * time.Second
	DefaultMaxHandshakes    = 1000
)

// alpn is the only protocol that is spoken over TLS (RFC 9113 section 3.2).
const alpn = "h2"

// Options configure a TLS.
type Options struct {
	// Keeper has the own certificate and the roots.
	Keeper *identity.Keeper
	// MinVersion is the lowest version that is spoken, [tls.VersionTLS12] or
	// [tls.VersionTLS13]. 0: TLS 1.3.
	MinVersion uint16
	// HandshakeTimeout bounds a handshake, from the first byte that is waited for. 0:
	// DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// MaxHandshakes is how many handshakes with callers are under way at once; others
	// wait, and those that are stuck make room for them. 0: DefaultMaxHandshakes.
	MaxHandshakes int
	// Inbound and Outbound count handshakes with callers and with instances. nil: not
	// counted.
	Inbound, Outbound *telemetry.Security
	// Logger is told of nothing that ends in an error, which whoever calls tells
	// better. nil: discarded.
	Logger *slog.Logger
	// Now is the clock by which certificates are judged. nil: [time.Now].
	Now func() time.Time
}

// Mode says whether a caller may do without TLS.
type Mode uint8

// The modes.
const (
	// Strict: a caller has to speak TLS, and to show a certificate.
	Strict Mode = iota
	// Permissive: a caller may speak plaintext. Who speaks TLS shows a certificate.
	Permissive
)

// Expected is who an instance has to prove to be.
type Expected struct {
	// IDs are those of which it has to have one. None: nobody is who is expected.
	IDs []spiffeid.ID
	// ServerName is what is asked for (SNI, RFC 6066 section 3). "": nothing.
	ServerName string
}

// TLS speaks mutual TLS with what its options say. It is safe for concurrent use.
type TLS struct {
	o     Options
	turns *turns
	slots *slots

	// server is for callers, made for the state that it holds.
	mu     sync.Mutex
	server *serverConfig

	attending attending
}

// New returns a TLS, to be closed when it is no longer used.
func New(o Options) *TLS {
	if o.MinVersion == 0 {
		o.MinVersion = tls.VersionTLS13
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if o.MaxHandshakes == 0 {
		o.MaxHandshakes = DefaultMaxHandshakes
	}
	if o.Inbound == nil {
		o.Inbound = new(telemetry.Security)
	}
	if o.Outbound == nil {
		o.Outbound = new(telemetry.Security)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &TLS{o: o, turns: newTurns(), slots: newSlots(o.MaxHandshakes, o.HandshakeTimeout/10)}
	t.attending.start(t)
	return t
}

// Close ends the attending of connections; they stay open.
func (t *TLS) Close() { t.attending.close() }

// serverConfig is what callers meet while a state is in force.
type serverConfig struct {
	state  *identity.State
	config *tls.Config
}

// forCallers returns the configuration for callers. Each state has one of its own, and
// with it keys of its own for session tickets: what was proven by an earlier state is
// proven again. [crypto/tls] replaces the keys every day by itself.
func (t *TLS) forCallers(state *identity.State) *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.server == nil || t.server.state != state {
		c := t.config()
		c.Certificates = []tls.Certificate{*state.Certificate}
		// Whether it is to be believed is found out in VerifyConnection.
		c.ClientAuth = tls.RequireAnyClientCert
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return hello.Conn.(*wire).greet(c, hello)
		}
		t.server = &serverConfig{state, c}
	}
	return t.server.config
}

// config is what both sides have in common. Which key exchanges are offered, and that
// there is a post-quantum one among them, is as Go has it.
func (t *TLS) config() *tls.Config {
	return &tls.Config{
		MinVersion: t.o.MinVersion,
		MaxVersion: tls.VersionTLS13,
		// For TLS 1.2; the suites of 1.3 cannot be chosen and are all good.
		CipherSuites: suites12,
		NextProtos:   []string{alpn},
		Time:         t.o.Now,
		// The engine writes whole batches; small records would only cost more.
		DynamicRecordSizingDisabled: true,
		Renegotiation:               tls.RenegotiateNever,
	}
}

// suites12 are those of TLS 1.2 with forward secrecy and authenticated encryption, as
// RFC 9113 section 9.2.2 wants them.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// Error is why there is no connection.
type Error struct {
	// Result is how it is counted.
	Result telemetry.Handshake
	err    error
}

// Error says it in one line.
func (e *Error) Error() string { return e.err.Error() }

// Unwrap returns what is behind it.
func (e *Error) Unwrap() error { return e.err }

func failure(result telemetry.Handshake, err error) *Error { return &Error{result, err} }

var errNoALPN = errors.New(`the caller does not ask for HTTP/2 (ALPN "h2"): gRPC clients do, and Envoy does where its cluster or listener speaks http2`)
