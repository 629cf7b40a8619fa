package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Handshake is how a TLS handshake ended.
type Handshake uint8

// The results. NumHandshakes is how many there are.
const (
	// HandshakeOK: the peer has proven who it is.
	HandshakeOK Handshake = iota
	// HandshakeResumed: it has, with what an earlier handshake left; it was verified
	// again.
	HandshakeResumed
	// HandshakePlaintext: the peer did not speak TLS.
	HandshakePlaintext
	// HandshakeNoCertificate: it showed no certificate.
	HandshakeNoCertificate
	// HandshakeUntrusted: its certificate is none that is believed: expired, not for
	// this use, without a SPIFFE ID, or of an authority that is not among the roots.
	HandshakeUntrusted
	// HandshakeWrongIdentity: it has proven to be somebody else than who was dialled.
	HandshakeWrongIdentity
	// HandshakeTimeout: it took too long, or there was no room for it.
	HandshakeTimeout
	// HandshakeNoIdentity: there is no certificate of our own yet.
	HandshakeNoIdentity
	// HandshakeError: anything else, such as a version of TLS that is not spoken, no
	// HTTP/2, or a connection that ended.
	HandshakeError

	NumHandshakes = iota
)

var handshakeNames = [NumHandshakes]string{
	"ok", "resumed", "plaintext", "no_certificate", "untrusted", "wrong_identity", "timeout", "no_identity", "error",
}

// String returns the result as the metrics' label has it.
func (h Handshake) String() string {
	if int(h) >= len(handshakeNames) {
		return ""
	}
	return handshakeNames[h]
}

// Security holds what there is to count about mutual TLS in one direction.
type Security struct {
	// Handshakes counts those that are over, by how they ended.
	Handshakes [NumHandshakes]atomic.Uint64
	// Secure and Plaintext count the connections with the rest of the mesh that are
	// open: callers' on the inbound side, those to instances on the outbound side.
	Secure, Plaintext atomic.Int64
	// InForce says that TLS may be spoken. What else there is to count is exported
	// only then.
	InForce atomic.Bool
}

// Handshaken counts a handshake.
func (s *Security) Handshaken(h Handshake) {
	if int(h) < len(s.Handshakes) {
		s.Handshakes[h].Add(1)
	}
}

// Opened counts a connection as open, until closed is called, once.
func (s *Security) Opened(secure bool) (closed func()) {
	n := &s.Plaintext
	if secure {
		n = &s.Secure
	}
	n.Add(1)
	return func() { n.Add(-1) }
}

// Expiry is when the sidecar's own certificate expires.
type Expiry struct{ at atomic.Int64 } // Unix time in nanoseconds; 0: there is none

// Set says when it expires; the zero time: there is none.
func (e *Expiry) Set(at time.Time) {
	if at.IsZero() {
		e.at.Store(0)
		return
	}
	e.at.Store(at.UnixNano())
}

var (
	handshakesDesc = prometheus.NewDesc("pillion_tls_handshakes_total",
		"TLS handshakes that are over, by how they ended: ok and resumed are good.", []string{"side", "result"}, nil)
	meshConnectionsDesc = prometheus.NewDesc("pillion_mesh_connections",
		"Connections with the rest of the mesh that are open, by what is spoken: mtls or plaintext.", []string{"side", "security"}, nil)
	expiryDesc = prometheus.NewDesc("pillion_certificate_expiry_seconds",
		"How long the sidecar's own certificate is still valid; negative once it has expired.", nil, nil)
)

var securityDescs = []*prometheus.Desc{handshakesDesc, meshConnectionsDesc, expiryDesc}

// collect exports what is counted of one direction.
func (s *Security) collect(ch chan<- prometheus.Metric, side string) {
	gauge := func(n int64, security string) {
		ch <- prometheus.MustNewConstMetric(meshConnectionsDesc, prometheus.GaugeValue, float64(n), side, security)
	}
	gauge(s.Plaintext.Load(), "plaintext")
	if !s.InForce.Load() {
		return
	}
	gauge(s.Secure.Load(), "mtls")
	for result := range s.Handshakes {
		ch <- prometheus.MustNewConstMetric(handshakesDesc, prometheus.CounterValue,
			float64(s.Handshakes[result].Load()), side, Handshake(result).String())
	}
}

// collect exports the expiry, where there is a certificate.
func (e *Expiry) collect(ch chan<- prometheus.Metric) {
	if at := e.at.Load(); at != 0 {
		ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, time.Until(time.Unix(0, at)).Seconds())
	}
}
