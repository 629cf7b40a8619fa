package mtls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

const (
	// maxPlaintext is the most that a record brings (RFC 8446 section 5.1).
	maxPlaintext = 16 << 10
	// maxRecords is how many records are decrypted in one turn; small ones cost about
	// half a microsecond each.
	maxRecords = 128
	// answerStall is how long the peer may take nothing of what answers it, before
	// nothing more is written to it.
	answerStall = 30 * time.Second
	// closeStall is the same for what is said last.
	closeStall = time.Second
)

// wayMaker is a transport whose reader shares processors with others, see [h2.Conn.MakeWay].
type wayMaker interface {
	Waited() bool
	MakeWay()
}

// transport is [h2.Transport] over TLS.
type transport struct {
	under h2.Transport
	way   wayMaker // what under is of it, or nil
	tls   *tls.Conn
	wire  wire

	// The read side's.
	waited  bool
	plain   plaintext
	chatter chatter
	// settled: all that came with the handshake has been read.
	settled bool
	// heard: the peer has sent data, and with it said that it believes us.
	heard bool
	// refusal says what it means where the peer ends the connection before.
	refusal func(error) error
}

// plaintext is what is decrypted and was not asked for yet.
type plaintext struct {
	buffer *recordBuffer
	rest   []byte
}

type recordBuffer [maxPlaintext]byte

var recordBuffers = sync.Pool{New: func() any { return new(recordBuffer) }}

func newTransport(under h2.Transport) *transport {
	t := &transport{under: under}
	t.way, _ = under.(wayMaker)
	t.wire.under = under
	t.wire.out.under = under
	t.wire.out.idle.L = &t.wire.out.mu
	return t
}

// Read implements h2.Transport. What has come is served before more is waited for.
func (t *transport) Read(l h2.Lender) (int, error) {
	t.waited = false
	for {
		if !t.ready() {
			if err := t.fill(); err != nil {
				return 0, err
			}
		}
		if n, err := t.serveWhatCame(l); n > 0 || err != nil {
			return n, err
		}
	}
}

// moreReader is a transport that can be read without waiting.
type moreReader interface {
	TryRead(l h2.Lender) (int, error)
}

// TryRead is Read, but returns 0 and no error where nothing has come that makes data,
// or where the transport beneath cannot tell.
func (t *transport) TryRead(l h2.Lender) (int, error) {
	if !t.ready() {
		under, is := t.under.(moreReader)
		if !is {
			return 0, nil
		}
		n, err := under.TryRead(&t.wire.in)
		if err := t.filled(n, err); n == 0 || err != nil {
			return 0, err
		}
	}
	return t.serveWhatCame(l)
}

// serveWhatCame decrypts what has come into what l lends.
func (t *transport) serveWhatCame(l h2.Lender) (int, error) {
	n, err := t.decrypt(l.Lend())
	t.answer()
	if n > 0 {
		t.heard = true
		return n, nil // an error comes again
	}
	l.Return()
	if err != nil {
		t.wire.in.Return()
		return 0, t.explain(err)
	}
	return 0, nil
}

// ready says whether there is something to decrypt or to hand over.
func (t *transport) ready() bool {
	return len(t.plain.rest) > 0 || len(t.wire.in.rest) > 0 || t.wire.given.whole > 0
}

// fill waits for ciphertext.
func (t *transport) fill() error {
	n, err := t.under.Read(&t.wire.in)
	t.waited = t.way == nil || t.way.Waited()
	return t.filled(n, err)
}

// filled notes what a read of ciphertext has brought.
func (t *transport) filled(n int, err error) error {
	if n > 0 && err == nil {
		t.wire.in.filled(n)
		return nil
	}
	t.wire.in.Return()
	if errors.Is(err, io.EOF) && t.wire.given.inside() {
		return io.ErrUnexpectedEOF
	}
	return err
}

// decrypt decrypts what has come into p, as far as there is room and as it is worth one
// turn.
func (t *transport) decrypt(p []byte) (n int, err error) {
	if len(t.plain.rest) > 0 {
		return t.serve(p), nil
	}
	for range maxRecords {
		if !t.ready() || n > 0 && len(p)-n < maxPlaintext {
			break
		}
		var m int
		if len(p)-n >= maxPlaintext {
			m, err = t.tls.Read(p[n:])
		} else if m, err = t.readAside(); m > 0 {
			m = t.serve(p)
		}
		if n += m; m > 0 {
			t.wire.given.whole--
		}
		if errors.Is(err, errAgain) {
			err = t.noteChatter()
		}
		if err != nil {
			break
		}
	}
	return n, err
}

// noteChatter notes that crypto/tls has made nothing of the records that it was given
// and that are not accounted for. Those of the handshake are not meant.
func (t *transport) noteChatter() error {
	n := t.wire.given.whole
	t.wire.given.whole = 0
	if !t.settled {
		t.settled = true
		return nil
	}
	return t.chatter.note(n)
}

// readAside reads a record for which there may be too little room.
func (t *transport) readAside() (int, error) {
	b := recordBuffers.Get().(*recordBuffer)
	n, err := t.tls.Read(b[:])
	t.plain = plaintext{b, b[:n]}
	if n == 0 {
		t.serve(nil)
	}
	return n, err
}

// serve hands over what was read aside.
func (t *transport) serve(p []byte) int {
	n := copy(p, t.plain.rest)
	if t.plain.rest = t.plain.rest[n:]; len(t.plain.rest) == 0 {
		recordBuffers.Put(t.plain.buffer)
		t.plain = plaintext{}
	}
	return n
}

// answer puts out what reading made us write: key updates, alerts.
func (t *transport) answer() {
	if !t.wire.answered {
		return
	}
	t.wire.answered = false
	if pending, _, err := t.wire.out.try(); pending && err == nil {
		// The engine knows nothing of it. That there are few is because of chatter.
		go func() { _, _ = t.wire.out.finish(answerStall) }()
	}
}

// explain says what an error means that ends the reading.
func (t *transport) explain(err error) error {
	if !t.heard && t.refusal != nil {
		return t.refusal(err)
	}
	return err
}

// TryWrite implements h2.Transport.
func (t *transport) TryWrite(p []byte) (n int, pending bool, err error) {
	for {
		size, err := t.encrypt(p[n:])
		if err != nil {
			return n, false, err
		}
		pending, out, err := t.wire.out.try()
		if err != nil && !out {
			size = 0
		}
		n += size
		if pending || err != nil || n == len(p) {
			return n, pending, err
		}
	}
}

// Write implements h2.Transport.
func (t *transport) Write(p []byte, stall time.Duration) (n int, err error) {
	for {
		size, err := t.encrypt(p[n:])
		if err != nil {
			return n, err
		}
		out, err := t.wire.out.finish(stall)
		if err != nil && !out {
			size = 0
		}
		n += size
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// encrypt adds the beginning of p to the output.
func (t *transport) encrypt(p []byte) (int, error) {
	p = p[:min(len(p), writeSize)]
	if len(p) == 0 {
		return 0, nil
	}
	t.wire.sending.Store(true)
	defer t.wire.sending.Store(false)
	return t.tls.Write(p)
}

// CloseWrite implements h2.Transport. The peer is told that nothing more comes (RFC 8446
// section 6.1).
func (t *transport) CloseWrite() error {
	t.wire.sending.Store(true)
	_ = t.tls.CloseWrite()
	t.wire.sending.Store(false)
	if pending, _, err := t.wire.out.try(); pending && err == nil {
		go func() {
			_, _ = t.wire.out.finish(closeStall)
			_ = t.under.CloseWrite()
		}()
		return nil
	}
	return t.under.CloseWrite()
}

// Waited says whether the last Read had to wait for the socket.
func (t *transport) Waited() bool { return t.waited }

// MakeWay returns once others that have become readable had their turns.
func (t *transport) MakeWay() {
	if t.way != nil {
		t.way.MakeWay()
	}
}

// Beneath returns the transport that carries the ciphertext.
func (t *transport) Beneath() h2.Transport { return t.under }

// SetReadDeadline implements h2.Transport.
func (t *transport) SetReadDeadline(at time.Time) error { return t.under.SetReadDeadline(at) }

// Close implements h2.Transport.
func (t *transport) Close() error { return t.under.Close() }

// RemoteAddr implements h2.Transport.
func (t *transport) RemoteAddr() net.Addr { return t.under.RemoteAddr() }

// LocalAddr implements h2.Transport.
func (t *transport) LocalAddr() net.Addr { return t.under.LocalAddr() }

var _ h2.Transport = (*transport)(nil)

// isEnd says whether a peer has just left.
func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
