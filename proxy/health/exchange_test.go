package health

import (
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

func fields(pairs ...string) (out []hpack.Field) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, hpack.Field{Name: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		http     int
		data     string
		trailers []hpack.Field
		want     Answer
	}{
		{"well", 200, message("\x08\x01"), fields("grpc-status", "0"), Answer{Good: true, Told: true, Text: "SERVING"}},
		{"unwell", 200, message("\x08\x02"), fields("grpc-status", "0"), Answer{Told: true, Text: "NOT_SERVING"}},
		{"does not know", 200, message(""), fields("grpc-status", "0"), Answer{Told: true, Text: "UNKNOWN"}},
		{"unknown service", 200, "", fields("grpc-status", "5", "grpc-message", "unknown%20service"), Failed("NOT_FOUND: unknown service")},
		{"no health service", 200, "", fields("grpc-status", "12"), Answer{Good: true, Unsupported: true, Text: "UNIMPLEMENTED: it knows no health checks"}},
		{"fails in the trailers", 200, message("\x08\x01"), fields("grpc-status", "14"), Failed("UNAVAILABLE")},
		{"no message", 200, "", fields("grpc-status", "0"), Failed("the answer is empty")},
		{"no gRPC", 404, "", nil, Failed("UNIMPLEMENTED: HTTP status 404, no grpc-status")},
		{"a gateway", 503, "", fields("server", "x"), Failed("UNAVAILABLE: HTTP status 503, no grpc-status")},
		{"no trailers", 200, message("\x08\x01"), nil, Failed("UNKNOWN: HTTP status 200, no grpc-status")},
		{"much to say", 200, "", fields("grpc-status", "13", "grpc-message", strings.Repeat("a", 1000)), Failed("INTERNAL: " + strings.Repeat("a", 200) + "...")},
		{"no text", 200, "", fields("grpc-status", "13", "grpc-message", "\xff"), Failed("INTERNAL: \uFFFD")},
	} {
		var x Exchange
		x.Head(tc.http)
		if err := x.Data([]byte(tc.data), nil); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if got := x.End(tc.trailers, false); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestWatchedAnswers(t *testing.T) {
	t.Parallel()
	var x Exchange
	x.Head(200)
	var got []Answer
	for _, data := range []string{message("\x08\x01"), message("\x08\x02") + message("\x08\x03"), "\x00"} {
		if err := x.Data([]byte(data), func(a Answer) { got = append(got, a) }); err != nil {
			t.Fatal(err)
		}
	}
	want := []Answer{{Good: true, Told: true, Text: "SERVING"}, {Told: true, Text: "NOT_SERVING"}, {Told: true, Text: "SERVICE_UNKNOWN"}}
	if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("it told %+v", got)
	}
	if !x.Heard() {
		t.Error("it is said to have told nothing")
	}
	// However it ends, that is not good, but where it knows no health checks.
	if a := x.End(fields("grpc-status", "0"), true); a.Good || a.Told || a.Text != "it ended the stream" {
		t.Errorf("the end is %+v", a)
	}
	if a := x.End(fields("grpc-status", "12"), true); !a.Good || !a.Unsupported {
		t.Errorf("the end is %+v", a)
	}
}
