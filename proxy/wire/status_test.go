package wire_test

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestParseStatus(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]codes.Code{
		"0": codes.OK, "1": codes.Canceled, "4": codes.DeadlineExceeded, "14": codes.Unavailable, "16": codes.Unauthenticated,
		"00": codes.OK, "0014": codes.Unavailable, // 1*DIGIT, says the grammar
		"17": codes.Unknown, "99": codes.Unknown, "": codes.Unknown, "-1": codes.Unknown, "+1": codes.Unknown,
		" 0": codes.Unknown, "0 ": codes.Unknown, "OK": codes.Unknown, "1x": codes.Unknown, "1e0": codes.Unknown,
		"4294967296": codes.Unknown, "18446744073709551616": codes.Unknown, strings.Repeat("9", 100): codes.Unknown,
	} {
		if got := wire.ParseStatus(in); got != want {
			t.Errorf("ParseStatus(%q) = %v, want %v", in, got, want)
		}
	}
}

// TestStatusName holds the names against what codes.Code reads from JSON,
// which is the very list.
func TestStatusName(t *testing.T) {
	t.Parallel()
	for c := range codes.Code(17) {
		var back codes.Code
		if err := back.UnmarshalJSON([]byte(`"` + wire.StatusName(c) + `"`)); err != nil || back != c {
			t.Errorf("StatusName(%d) = %q, which grpc-go takes for %v (%v)", c, wire.StatusName(c), back, err)
		}
	}
	for _, c := range []codes.Code{17, 1000, 1<<32 - 1} {
		if got := wire.StatusName(c); got != "UNKNOWN" {
			t.Errorf("StatusName(%d) = %q", uint32(c), got)
		}
	}
}

func TestCodeFromReset(t *testing.T) {
	t.Parallel()
	special := map[http2.ErrCode]codes.Code{
		http2.ErrCodeRefusedStream:      codes.Unavailable,
		http2.ErrCodeCancel:             codes.Canceled,
		http2.ErrCodeEnhanceYourCalm:    codes.ResourceExhausted,
		http2.ErrCodeInadequateSecurity: codes.PermissionDenied,
	}
	for h2code := range http2.ErrCode(20) {
		want, ok := special[h2code]
		if !ok {
			want = codes.Internal
		}
		if got := wire.CodeFromReset(uint32(h2code)); got != want {
			t.Errorf("CodeFromReset(%v) = %v, want %v", h2code, got, want)
		}
	}
	if got := wire.CodeFromReset(1<<32 - 1); got != codes.Internal {
		t.Errorf("an unknown code is %v", got)
	}
}

func TestCodeFromHTTP(t *testing.T) {
	t.Parallel()
	special := map[int]codes.Code{
		400: codes.Internal, 431: codes.Internal,
		401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.Unimplemented,
		429: codes.Unavailable, 502: codes.Unavailable, 503: codes.Unavailable, 504: codes.Unavailable,
	}
	for status := -1; status < 1000; status++ {
		want, ok := special[status]
		if !ok {
			want = codes.Unknown
		}
		if got := wire.CodeFromHTTP(status); got != want {
			t.Errorf("CodeFromHTTP(%d) = %v, want %v", status, got, want)
		}
	}
}
