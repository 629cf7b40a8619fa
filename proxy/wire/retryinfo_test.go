package wire_test

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// readDetails reads the value as gRPC's libraries do.
func readDetails(t interface{ Fatalf(string, ...any) }, value string) (*spb.Status, *errdetails.RetryInfo) {
	raw, err := base64.RawStdEncoding.DecodeString(value)
	if err != nil {
		t.Fatalf("%q: %v", value, err)
	}
	st := new(spb.Status)
	if err := proto.Unmarshal(raw, st); err != nil {
		t.Fatalf("%q: %v", value, err)
	}
	if len(st.GetDetails()) != 1 {
		t.Fatalf("%d details", len(st.GetDetails()))
	}
	info := new(errdetails.RetryInfo)
	if err := st.GetDetails()[0].UnmarshalTo(info); err != nil {
		t.Fatalf("%v", err)
	}
	if len(st.ProtoReflect().GetUnknown())+len(info.ProtoReflect().GetUnknown()) > 0 {
		t.Fatalf("fields that nobody knows: %v, %v", st, info)
	}
	return st, info
}

func TestRetryInfoDetails(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		code := codes.Code(rapid.Uint32Range(0, 20).Draw(rt, "code"))
		message := rapid.String().Draw(rt, "message")
		delay := rapid.OneOf(rapid.Int64Range(0, math.MaxInt64), rapid.Int64Range(0, 5e9)).Draw(rt, "delay")
		st, info := readDetails(rt, wire.RetryInfoDetails(code, message, time.Duration(delay)))
		if st.GetCode() != int32(code) || st.GetMessage() != message || info.GetRetryDelay().AsDuration() != time.Duration(delay) {
			rt.Fatalf("%v, %v", st, info)
		}
		if err := info.GetRetryDelay().CheckValid(); err != nil {
			rt.Fatalf("%v", err)
		}
	})
}

func TestRetryInfoDetailsOfWhatIsNoText(t *testing.T) {
	t.Parallel()
	st, info := readDetails(t, wire.RetryInfoDetails(codes.ResourceExhausted, "a\xff\xfeb", -time.Second))
	if st.GetMessage() != wire.DecodeMessage(wire.EncodeMessage("a\xff\xfeb")) || strings.Count(st.GetMessage(), "\uFFFD") != 2 {
		t.Errorf("message %q is not that of grpc-message", st.GetMessage())
	}
	if info.GetRetryDelay() == nil || info.GetRetryDelay().AsDuration() != 0 {
		t.Errorf("delay %v", info.GetRetryDelay())
	}
}

func TestRetryPushback(t *testing.T) {
	t.Parallel()
	for delay, want := range map[time.Duration]string{
		-time.Second: "0", 0: "0", 1: "1", time.Millisecond: "1", time.Millisecond + 1: "2", 1500 * time.Millisecond: "1500",
		math.MaxInt64: strconv.Itoa(math.MaxInt32), math.MinInt64: "0",
	} {
		if got := wire.RetryPushback(delay); got != want {
			t.Errorf("%v: %q, want %q", delay, got, want)
		}
	}
}
