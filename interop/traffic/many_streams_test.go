package traffic

import (
	"context"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// An instance that allows 100 streams a connection gets as many connections as
// 1,000 streams need: none waits for another's end.
func TestStreamsBeyondAnInstancesLimitGetMoreConnections(t *testing.T) {
	t.Parallel()

	limited := load.StartApp(t, "limited", "", grpc.MaxConcurrentStreams(100))
	holdStreams(t, harness.Outbound(t, limited.Address), 1000, 1)
}

// Ten thousand streams at once, through two sidecars; when they are over,
// nothing of them is left in either. It is not parallel: it takes a lot.
func TestTenThousandStreamsAtOnce(t *testing.T) {
	inbound := harness.Inbound(t, load.StartApp(t, "app", "").Address)
	outbound := harness.Outbound(t, inbound.Inbound)

	before := [2]int{outbound.Goroutines(t), inbound.Goroutines(t)}
	holdStreams(t, outbound, 10_000, 20)
	for i, sidecar := range []*harness.Sidecar{outbound, inbound} {
		// What stays are connections: some goroutines each, and not one per stream.
		eventually(t, "the goroutines of the streams are gone", func() bool {
			return sidecar.Goroutines(t) < before[i]+300
		})
	}
}

// holdStreams opens streams over some connections, sends a message back and forth
// on each while all are open, and ends them.
func holdStreams(t *testing.T, sidecar *harness.Sidecar, count, connections int) {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()

	type stream = grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]
	var clients []testpb.TestServiceClient
	for range connections {
		clients = append(clients, testpb.NewTestServiceClient(load.Dial(t, sidecar.Outbound)))
	}

	streams := make([]stream, count)
	ping := func(s stream) {
		t.Helper()

		if err := s.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
	}

	for i := range streams {
		s, err := clients[i%connections].FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		streams[i] = s
		ping(s)
	}
	for _, s := range streams {
		ping(s)
	}
	for _, s := range streams {
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range streams {
		if _, err := s.Recv(); err == nil {
			t.Fatal("a message after the end")
		}
	}
}
