package upgrade

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// longStream is an RPC that is under way for as long as the test likes.
type longStream struct {
	grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]
}

func openStream(t testing.TB, conn *grpc.ClientConn) longStream {
	t.Helper()

	stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := longStream{stream}
	s.roundTrip(t, "before")

	return s
}

// roundTrip has one message answered.
func (s longStream) roundTrip(t testing.TB, when string) {
	t.Helper()

	if err := s.answered(); err != nil {
		t.Errorf("%s: a stream that was under way: %v", when, err)
	}
}

func (s longStream) answered() error {
	// EOF is what Send says of a stream that is over; Recv says how it ended.
	if err := s.Send(&testpb.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err := s.Recv()

	return err
}

// finish ends the stream as an app does that has said all.
func (s longStream) finish(t testing.TB) {
	t.Helper()

	if err := s.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end of a stream that was under way: %v", err)
	}
}
