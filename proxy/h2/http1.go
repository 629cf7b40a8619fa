package h2

import (
	"bytes"
	"errors"
	"strconv"
)

var (
	// ErrHTTP1 is why a connection ended whose client was told, in its own language,
	// what this port speaks.
	ErrHTTP1       = errors.New("the client speaks HTTP/1, and was told that this port speaks HTTP/2 (h2c)")
	errHTTP1Server = errors.New("the server speaks HTTP/1, not HTTP/2 with prior knowledge (h2c)")
)

// errTLSServer is how a plaintext client is turned away by a server that speaks TLS
// only.
var errTLSServer = errors.New("the server speaks TLS, not HTTP/2 in plaintext (h2c)")

// isTLSAlert says whether p begins as a TLS alert does (RFC 8446 section 5.1). It
// is seven octets long, and read as a frame's header it would be that of a frame of
// more than a megabyte.
func isTLSAlert(p []byte) bool {
	return len(p) >= 5 && p[0] == 21 && p[1] == 3 && p[3] == 0 && p[4] == 2
}

// http1Status is how an HTTP/1 server begins its answer to our preface. Read as a
// frame's header it would be that of a frame of 4 MiB.
const http1Status = "HTTP/1."

// http1Answer tells somebody who speaks HTTP/1 to the port what it speaks.
var http1Answer = func() string {
	const body = "This port speaks gRPC over HTTP/2 with prior knowledge (h2c), not HTTP/1. Point a plaintext gRPC client at it.\n"
	return "HTTP/1.1 505 HTTP Version Not Supported\r\n" +
		"content-type: text/plain; charset=utf-8\r\n" +
		"content-length: " + strconv.Itoa(len(body)) + "\r\n" +
		"connection: close\r\n\r\n" + body
}()

var http1Methods = [][]byte{
	[]byte("GET "), []byte("POST "), []byte("HEAD "), []byte("PUT "), []byte("DELETE "),
	[]byte("OPTIONS "), []byte("PATCH "), []byte("TRACE "), []byte("CONNECT "), []byte("PRI * HTTP/1"),
}

// looksLikeHTTP1 says whether p begins as an HTTP/1 request does, or, where p is
// too short to tell, whether it may.
func looksLikeHTTP1(p []byte) (yes, perhaps bool) {
	for _, m := range http1Methods {
		if bytes.HasPrefix(p, m) {
			return true, false
		}
		perhaps = perhaps || bytes.HasPrefix(m, p)
	}
	return false, perhaps
}

// answerHTTP1 replaces our SETTINGS, where they are not sent yet, by an answer
// in the client's own language. A server therefore sends its SETTINGS only when
// it has seen how the client begins.
func (r *reader) answerHTTP1() {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.output()
	o.b = append(o.b[:0], http1Answer...)
}
