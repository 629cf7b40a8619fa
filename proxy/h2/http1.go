package h2

import (
	"bytes"
	"errors"
	"strconv"
)

var errHTTP1 = errors.New("the client speaks HTTP/1")

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

func looksLikeHTTP1(p []byte) bool {
	for _, m := range http1Methods {
		if n := min(len(p), len(m)); n >= 3 && bytes.Equal(p[:n], m[:n]) {
			return true
		}
	}
	return false
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
