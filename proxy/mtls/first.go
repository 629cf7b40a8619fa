package mtls

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

const (
	// firstSize is how many of a caller's first bytes are looked at.
	firstSize = 24
	// maxAwaited is how much of a caller's first message has to have come before it is
	// worth a place; with post-quantum keys it is below 2 KiB.
	maxAwaited = 4 << 10
	// dismissTime and dismissBytes are how long, and how much, a caller is listened to
	// who was told why he has to go: a socket that is closed with something unread
	// takes back what was said last.
	dismissTime  = time.Second
	dismissBytes = 256 << 10
)

// listen waits for how a caller begins, and for all of his first message where it is
// TLS. Of a socket nothing is taken by that, and no memory held meanwhile.
func (t *transport) listen(nc net.Conn) ([]byte, error) {
	if sc, is := nc.(syscall.Conn); is && canPeek {
		if rc, err := sc.SyscallConn(); err == nil {
			return peek(rc)
		}
	}
	if err := t.fill(); err != nil {
		return nil, err
	}
	return t.wire.in.rest[:min(firstSize, len(t.wire.in.rest))], nil
}

// awaited is how much has to have come of what begins so.
func awaited(first []byte) int {
	if first[0] != recordHandshake {
		return 1
	}
	if len(first) < recordHeader {
		return recordHeader
	}
	return min(recordHeader+payloadLength(first), maxAwaited)
}

// plaintext returns the transport of a caller who speaks plaintext.
func (t *transport) plaintext() h2.Transport {
	if len(t.wire.in.rest) == 0 {
		return t.under
	}
	p := &begun{Transport: t.under, rest: bytes.Clone(t.wire.in.rest)}
	t.wire.in.Return()
	return p
}

// begun is a transport of which something has been read.
type begun struct {
	h2.Transport
	rest []byte
}

// Read implements h2.Transport.
func (b *begun) Read(l h2.Lender) (int, error) {
	if len(b.rest) == 0 {
		return b.Transport.Read(l)
	}
	n := copy(l.Lend(), b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Beneath returns the transport itself.
func (b *begun) Beneath() h2.Transport { return b.Transport }

var errPlaintext = errors.New("the caller speaks plaintext, and this port wants mutual TLS: let it call through its own sidecar, or set inbound.tls to permissive until it does")

const plaintextAnswer = "this port wants mutual TLS, and plaintext came: call through a sidecar of the mesh, or give the client TLS credentials of it"

// tellPlaintext tells a caller in plaintext, in his own language, what is wrong.
func (t *transport) tellPlaintext(first []byte) {
	answer := goAway()
	if !bytes.HasPrefix([]byte(http2.ClientPreface), first[:min(4, len(first))]) {
		answer = []byte("HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: " +
			strconv.Itoa(len(plaintextAnswer)+1) + "\r\nconnection: close\r\n\r\n" + plaintextAnswer + "\n")
	}
	if _, err := t.under.Write(answer, dismissTime); err == nil {
		t.dismiss()
	}
}

// goAway is what an HTTP/2 client is told.
func goAway() []byte {
	var b bytes.Buffer
	f := http2.NewFramer(&b, nil)
	_ = f.WriteSettings()
	_ = f.WriteGoAway(0, http2.ErrCodeInadequateSecurity, []byte(plaintextAnswer))
	return b.Bytes()
}

// dismiss puts out what there is to say, and listens until the caller has gone, or for a
// moment.
func (t *transport) dismiss() {
	if _, err := t.wire.out.finish(dismissTime); err != nil {
		return
	}
	_ = t.under.CloseWrite()
	_ = t.under.SetReadDeadline(time.Now().Add(dismissTime))
	t.wire.in.Return()
	for total := 0; total < dismissBytes; {
		n, err := t.under.Read(&t.wire.in)
		t.wire.in.Return()
		if err != nil {
			return
		}
		total += n
	}
}
