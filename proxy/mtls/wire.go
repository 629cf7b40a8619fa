package mtls

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// again is what crypto/tls is told when nothing more has come. It keeps no error that
// is temporary, and goes on where it was when it is asked the next time.
type again struct{}

func (again) Error() string   { return "nothing more has come yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

var errAgain net.Error = again{}

// wire is the connection that crypto/tls works on: it reads what the transport has read
// from the socket, and what it writes is collected. Only during the handshake does it
// wait.
type wire struct {
	under interface {
		LocalAddr() net.Addr
		RemoteAddr() net.Addr
	}
	in  input
	out output
	// given are the records that crypto/tls was given.
	given records

	// shaking is the handshake under way, nil afterwards.
	shaking *shaking

	// sending: who writes for the engine encrypts. What is written else is an answer
	// to what was read, and is noted in answered, which belongs to the reader.
	sending  atomic.Bool
	answered bool
}

// Read implements net.Conn for crypto/tls.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.in.rest) == 0 {
		if w.shaking == nil {
			return 0, errAgain
		}
		if err := w.shaking.await(); err != nil {
			return 0, err
		}
	}
	if w.shaking != nil && w.given.whole > maxShakingRecords {
		return 0, errTooLong
	}
	n := w.given.take(w.in.rest, len(p))
	copy(p, w.in.rest[:n])
	w.in.used(n)
	return n, nil
}

// Write implements net.Conn for crypto/tls.
func (w *wire) Write(p []byte) (int, error) {
	w.out.append(p)
	if w.shaking == nil && !w.sending.Load() {
		w.answered = true
	}
	return len(p), nil
}

// Close implements net.Conn; crypto/tls is never told to close.
func (w *wire) Close() error { return nil }

// LocalAddr implements net.Conn.
func (w *wire) LocalAddr() net.Addr { return w.under.LocalAddr() }

// RemoteAddr implements net.Conn.
func (w *wire) RemoteAddr() net.Addr { return w.under.RemoteAddr() }

// SetDeadline implements net.Conn: nothing waits here.
func (w *wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// greet is called when a caller has said what he can do, before anything is computed.
func (w *wire) greet(common *tls.Config, hello *tls.ClientHelloInfo) (*tls.Config, error) {
	return w.shaking.greet(common, hello)
}

var _ io.ReadWriter = (*wire)(nil)
