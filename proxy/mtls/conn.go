package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/h2"
)

// Conn is a connection whose peer is proven, or a plaintext one that was let through. It
// is meant to be carried by [h2.NewTransport], which takes its Transport; as a
// [net.Conn] it works too.
type Conn struct {
	raw   net.Conn
	under h2.Transport // the transport to use, of the socket or of TLS
	tls   *tls.Conn    // nil: plaintext
	peer  *identity.Peer
	usage x509.ExtKeyUsage
	// state is what peer was verified by, shown whose certificate it was shown.
	state, shown *identity.State
}

// Transport returns the transport to be used by the HTTP/2 engine.
func (c *Conn) Transport() h2.Transport { return c.under }

// Peer returns who has proven to be at the other end; nil in plaintext.
func (c *Conn) Peer() *identity.Peer { return c.peer }

// ConnectionState describes the TLS connection. It is zero in plaintext.
func (c *Conn) ConnectionState() tls.ConnectionState {
	if c.tls == nil {
		return tls.ConnectionState{}
	}
	return c.tls.ConnectionState()
}

// NetConn returns the connection beneath. What is read from it or written to it is lost
// for this one.
func (c *Conn) NetConn() net.Conn { return c.raw }

// makeWay waits until others that have become readable had their turns.
func (c *Conn) makeWay() {
	if w, is := c.under.(wayMaker); is {
		w.MakeWay()
	}
}

// whole lends a buffer that is there anyway.
type whole []byte

// Lend implements h2.Lender.
func (w whole) Lend() []byte { return w }

// Return implements h2.Lender.
func (w whole) Return() {}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return c.under.Read(whole(p))
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) { return c.under.Write(p, 0) }

// CloseWrite says that nothing more will be written.
func (c *Conn) CloseWrite() error { return c.under.CloseWrite() }

// Close closes the connection without a word. It may be called at any time.
func (c *Conn) Close() error { return c.under.Close() }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.raw.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.under.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.raw.SetWriteDeadline(t) }
