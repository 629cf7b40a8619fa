package health

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// What is written here, gRPC's own code reads.
func TestAppendRequest(t *testing.T) {
	t.Parallel()
	for _, service := range []string{"", "a", "helloworld.Greeter", strings.Repeat("s", 255)} {
		got := AppendRequest([]byte("x"), service)
		body := got[1+prefixLen:]
		if got[0] != 'x' || got[1] != 0 || int(got[4])<<8|int(got[5]) != len(body) {
			t.Fatalf("%q: the prefix is %v, the body has %d bytes", service, got[:1+prefixLen], len(body))
		}
		var request healthpb.HealthCheckRequest
		if err := proto.Unmarshal(body, &request); err != nil || request.GetService() != service {
			t.Errorf("%q: read as %q, %v", service, request.GetService(), err)
		}
	}
}

func message(body string) string {
	n := len(body)
	return string([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + body
}

func TestReader(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, bytes, want string }{
		{"nothing", "", ""},
		{"no field", message(""), "UNKNOWN "},
		{"serving", message("\x08\x01"), "SERVING "},
		{"not serving", message("\x08\x02"), "NOT_SERVING "},
		{"unknown service", message("\x08\x03"), "SERVICE_UNKNOWN "},
		{"a status to come", message("\x08\x2a"), "status 42 "},
		{"the last one holds", message("\x08\x01\x08\x02"), "NOT_SERVING "},
		{"fields to come", message("\x12\x03abc\x08\x01\x1d\x00\x00\x00\x00"), "SERVING "},
		{"another type", message("\x0a\x01a"), "UNKNOWN "},
		{"two", message("\x08\x01") + message("\x08\x02"), "SERVING NOT_SERVING "},
		{"unfinished", message("\x08\x01") + "\x00\x00", "SERVING "},
		{"compressed", "\x01\x00\x00\x00\x00", "the answer is compressed, which was not asked for"},
		{"long", "\x00\x00\x00\x10\x01", "the answer has 4097 bytes, more than the 4096 that it may have"},
		{"huge", "\x00\xff\xff\xff\xff", "the answer has 4294967295 bytes, more than the 4096 that it may have"},
		{"cut off", message("\x08"), "the answer is no HealthCheckResponse: "},
		{"no protobuf", message("\xff\xff\xff"), "the answer is no HealthCheckResponse: "},
		{"cut off, another", message("\x12\x05a"), "the answer is no HealthCheckResponse: "},
	} {
		// Wherever frames cut it.
		for size := 1; size <= max(len(tc.bytes), 1); size++ {
			if got := read(tc.bytes, size); !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" {
				t.Errorf("%s, %d bytes at a time: %q, want %q", tc.name, size, got, tc.want)
			}
		}
	}
}

func read(p string, size int) string {
	var r reader
	got := ""
	for len(p) > 0 {
		n := min(size, len(p))
		if err := r.feed([]byte(p[:n]), func(s Status) { got += s.String() + " " }); err != nil {
			return err.Error()
		}
		p = p[n:]
	}
	return got
}

// Whatever an instance sends, and wherever it is cut, comes to the same; what is
// read is what gRPC's own code reads; and little is kept.
func FuzzReader(f *testing.F) {
	f.Add([]byte(message("\x08\x01")), uint8(1))
	f.Add([]byte(message("\x12\x03abc\x08\x01")+message("\x08\x02")), uint8(3))
	f.Add([]byte("\x00\x00\x00\x10\x01"), uint8(2))
	f.Fuzz(func(t *testing.T, p []byte, size uint8) {
		whole, cut := "", ""
		errWhole := new(reader).feed(p, func(s Status) { whole += s.String() + " " })
		var r reader
		var errCut error
		for rest := p; len(rest) > 0 && errCut == nil; {
			n := min(max(int(size), 1), len(rest))
			errCut = r.feed(bytes.Clone(rest[:n]), func(s Status) { cut += s.String() + " " })
			rest = rest[n:]
		}
		if whole != cut || fmt.Sprint(errWhole) != fmt.Sprint(errCut) {
			t.Fatalf("at once %q, %v; in parts %q, %v", whole, errWhole, cut, errCut)
		}
		if len(r.buf) > maxMessage+prefixLen {
			t.Fatalf("%d bytes are kept", len(r.buf))
		}
		if len(p) > prefixLen {
			var response healthpb.HealthCheckResponse
			err := proto.Unmarshal(p[prefixLen:], &response)
			status, ourErr := parseResponse(p[prefixLen:])
			// Ours does not look into what it skips.
			if err == nil && (ourErr != nil || int32(status) != int32(response.GetStatus())) {
				t.Fatalf("%v, %v; gRPC reads %v", status, ourErr, response.GetStatus())
			}
		}
	})
}
