package h2

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// everything returns the bytes that the engine has sent until it closed.
func (p *peer) everything() string {
	p.t.Helper()
	synctest.Wait()
	if err := p.take(-1); err == nil {
		p.t.Error("the engine has not closed its side")
	}
	return p.got.String()
}

func TestPrefaceByteByByte(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Server, Config{})
		for _, c := range []byte(clientPreface) {
			synctest.Wait()
			r.raw([]byte{c})
		}
		r.must(r.WriteSettings())
		want(t, "the server's first frames", r.frames(), "SETTINGS*", "WINDOW_UPDATE 0*", "SETTINGS ack")
	})
}

func TestPrefaceThatIsWrong(t *testing.T) {
	for name, preface := range map[string]string{
		"SSH":              "SSH-2.0-OpenSSH_9.6\r\n",
		"wrong at its end": clientPreface[:len(clientPreface)-1] + "!",
		"of RFC 7540's":    "PRI * HTTP/2.0\r\n\r\nXX",
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Server, Config{})
				r.raw([]byte(preface))
				want(t, "the answer", r.frames(),
					"SETTINGS*", "WINDOW_UPDATE 0*", "GOAWAY 0 PROTOCOL_ERROR the connection preface of HTTP/2 is missing", "end: EOF")
			})
		})
	}
}

// Whoever looks into the log is told what to do.
func TestTLSOnThePlaintextPort(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Server, Config{})
		r.raw([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
		want(t, "the answer", r.frames(), "SETTINGS*", "WINDOW_UPDATE 0*",
			"GOAWAY 0 PROTOCOL_ERROR the client speaks TLS, but this port is plaintext*", "end: EOF")
	})
}

func TestHTTP1IsAnsweredInHTTP1(t *testing.T) {
	requests := map[string]string{
		"GET":      "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST":     "POST /a HTTP/1.1\r\nHost: a\r\n\r\n",
		"PUT":      "PUT /a HTTP/1.1\r\n\r\n",
		"PRI 1.1":  "PRI * HTTP/1.1\r\n\r\n",
		"shortest": "GET ",
	}
	for name, request := range requests {
		for _, most := range []int{0, 1} {
			t.Run(name+[]string{"", " byte by byte"}[most], func(t *testing.T) {
				simulated(t, func(t *testing.T) {
					r := newRig(t, Server, Config{})
					r.engine.in.most = most
					r.raw([]byte(request))
					got := r.everything()
					if !strings.HasPrefix(got, "HTTP/1.1 505 ") || !strings.Contains(got, "gRPC over HTTP/2") {
						t.Errorf("the answer is %q", got)
					}
				})
			})
		}
	}
}

func TestServerThatSpeaksHTTP1(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Client, Config{})
		o := r.open(true, get...)
		r.raw([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		r.frames()
		want(t, "what the owner is told", o.log(), "reset conn*", "closed")
		want(t, "what the handler is told", r.w.log(), "closed: the server speaks HTTP/1, not HTTP/2*")
	})
}

func TestServerThatSpeaksTLS(t *testing.T) {
	for name, more := range map[string]string{"an alert": "", "an alert and more": "\x15\x03\x01\x00\x02\x01\x00"} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Client, Config{})
				o := r.open(true, get...)
				r.raw([]byte("\x15\x03\x01\x00\x02\x02\x46" + more))
				r.frames()
				want(t, "what the owner is told", o.log(), "reset conn*", "closed")
				want(t, "what the handler is told", r.w.log(), "closed: the server speaks TLS, not HTTP/2*")
			})
		})
	}
}

func TestFirstFrameHasToBeSettings(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r := newRig(t, role, Config{})
			if role == Server {
				r.raw([]byte(clientPreface))
				r.must(r.WritePing(false, [8]byte{}))
			} else {
				r.must(r.WriteSettingsAck())
			}
			want(t, "the answer", r.frames(),
				"SETTINGS*", "WINDOW_UPDATE 0*", "GOAWAY 0 PROTOCOL_ERROR the first frame is not SETTINGS", "end: EOF")
		})
	})
}

func TestHandshakeTimeout(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r := newRig(t, role, Config{HandshakeTimeout: 3 * time.Second})
			if role == Server {
				r.raw([]byte(clientPreface))
			}
			start := time.Now()
			<-r.served
			if took := time.Since(start); took != 3*time.Second+lingerTime {
				t.Errorf("the connection ended after %v", took)
			}
			want(t, "the last words", r.frames(), "SETTINGS*", "WINDOW_UPDATE 0*", "GOAWAY 0 SETTINGS_TIMEOUT*", "end: EOF")
			want(t, "what the handler is told", r.w.log(), "closed: SETTINGS_TIMEOUT*")
		})
	})
}
