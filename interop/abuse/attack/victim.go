package attack

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// Victim is the app that clients' attacks call: it does what the names of the
// methods say.
type Victim struct {
	testpb.UnimplementedTestServiceServer
}

// UnaryCall is [MethodQuick].
func (Victim) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{}, nil
}

// FullDuplexCall answers each message with one: it is for those who mean well.
func (Victim) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

// EmptyCall is [MethodHang].
func (Victim) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	<-ctx.Done()

	return nil, ctx.Err()
}

// StreamingOutputCall is [MethodEndless].
func (Victim) StreamingOutputCall(_ *testpb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	answer := &testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, 16<<10)}}
	for {
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// StreamingInputCall is [MethodSink].
func (Victim) StreamingInputCall(stream grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	for {
		if _, err := stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return stream.SendAndClose(&testpb.StreamingInputCallResponse{})
			}

			return err
		}
	}
}
