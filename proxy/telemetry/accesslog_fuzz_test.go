package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// FuzzAccessLog logs an RPC of which its caller and its instance wrote everything:
// it makes one line of valid JSON, of bounded length, that says what they wrote.
func FuzzAccessLog(f *testing.F) {
	f.Add("greeter", "/a.B/C", "a message", uint32(0), int64(1), uint64(2))
	f.Add("\xff\x00\n\"}", "\u2028\u2029</script>", "\\u0000\x1b[31m\x7f", uint32(99), int64(-1<<63), uint64(1<<63))
	f.Fuzz(func(t *testing.T, authority, path, message string, code uint32, took int64, n uint64) {
		var out bytes.Buffer
		l := NewAccessLog(&out, AccessLogOptions{Sample: 1})
		record := Record{
			Start: time.Unix(took%(1<<35), 0), Duration: time.Duration(took), UpstreamDuration: time.Duration(-took),
			Peer: authority, Authority: authority, Path: path, Service: path, Route: message, Instance: authority, Message: message,
			Code: codes.Code(code), Flag: wire.Flag(code), HTTPStatus: int(code), RequestMessages: n, ResponseBytes: n,
		}
		l.Log(&record)
		if err := l.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		line, rest, _ := bytes.Cut(out.Bytes(), []byte("\n"))
		if len(rest) > 0 || !json.Valid(line) || !utf8.Valid(line) || len(line) > 30000 {
			t.Fatalf("%q, then %q", line, rest)
		}
		if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
			t.Fatalf("a control character in %q", line)
		}
		var got struct{ Peer, Authority, Path, Service, Route, Instance, Message string }
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		for _, pair := range [][2]string{
			{got.Peer, shortened(authority, maxFuzzName)}, {got.Authority, shortened(authority, maxFuzzName)},
			{got.Path, shortened(path, maxFuzzPath)}, {got.Service, shortened(path, maxFuzzName)},
			{got.Route, shortened(message, maxFuzzName)}, {got.Message, shortened(message, maxFuzzMessage)},
		} {
			if pair[0] != pair[1] {
				t.Fatalf("the log says %q, not %q", pair[0], pair[1])
			}
		}
	})
}

const (
	maxFuzzName    = 256
	maxFuzzPath    = 512
	maxFuzzMessage = 1024
)

// shortened is what is left of a text: its first bytes, and U+FFFD for those that
// are no UTF-8.
func shortened(s string, limit int) string { return string([]rune(s[:min(len(s), limit)])) }
