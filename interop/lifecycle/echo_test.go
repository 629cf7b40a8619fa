package lifecycle

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
)

// echoApp answers every message with an empty one.
type echoApp struct {
	testpb.UnimplementedTestServiceServer
}

func (echoApp) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

func (echoApp) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
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

func startEcho(t *testing.T) string {
	t.Helper()

	listener := harness.Listen(t)
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, echoApp{})
	reflection.Register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	return listener.Addr().String()
}

// ping makes one RPC, which has to succeed.
func ping(t *testing.T, address string) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := testpb.NewTestServiceClient(dial(t, address)).EmptyCall(ctx, &testpb.Empty{}); err != nil {
		t.Errorf("ping through %s: %v", address, err)
	}
}

// held is a stream that is under way.
type held struct {
	grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]
}

func hold(t *testing.T, address string) held {
	t.Helper()

	stream, err := testpb.NewTestServiceClient(dial(t, address)).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := held{stream}
	if err := h.roundTrip(); err != nil {
		t.Fatal(err)
	}

	return h
}

func (h held) roundTrip() error {
	// EOF is what Send says of a stream that is over; Recv says how it ended.
	if err := h.Send(&testpb.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err := h.Recv()

	return err
}

func (h held) finish(t *testing.T) {
	t.Helper()

	if err := h.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := h.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}
