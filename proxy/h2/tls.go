package h2

// looksLikeTLS says whether p begins as a TLS client does: with a handshake record
// of a version that is written 3.x (RFC 8446 section 5.1).
func looksLikeTLS(p []byte) bool { return len(p) >= 2 && p[0] == 22 && p[1] == 3 }

// missingPreface says what a client has done that does not speak HTTP/2, for
// whoever looks into the log. A TLS client needs no words of its own: what it makes
// of our frames, such as "first record does not look like a TLS handshake", is known
// to everybody.
func missingPreface(p []byte) string {
	if looksLikeTLS(p) {
		return "the client speaks TLS, but this port is plaintext: give the client plaintext (insecure) credentials"
	}
	return "the connection preface of HTTP/2 is missing"
}
