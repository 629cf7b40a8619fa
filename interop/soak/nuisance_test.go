package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// end notes the end of an RPC that has to end so, unless there was a burst.
func (r *rig) end(group string, began time.Time, err error, allowed ...codes.Code) {
	code := status.Code(err)
	var wrong error
	switch {
	case slices.Contains(allowed, code):
	case r.bursts.excuse(err, began, time.Now()):
		r.tally.excuse()
	default:
		wrong = fmt.Errorf("ended after %v with %v, want one of %v", time.Since(began).Round(time.Millisecond), err, allowed)
	}
	r.tally.note(r.t, group, code, wrong)
}

// forEachWay calls something over and over through a connection of its own on
// each way to the steady service, some at once.
func (a *acting) forEachWay(atOnce int, what func(own *acting, conn *grpc.ClientConn)) {
	var all sync.WaitGroup
	defer all.Wait()
	for name, address := range a.ways() {
		conn, hangUp := a.dial(address, steadyService)
		a.s.Cleanup(hangUp)
		for i := range atOnce {
			own := &acting{rig: a.rig, Rand: a.random(fmt.Sprint(a.Uint64(), name, i)), ctx: a.ctx, s: a.s}
			all.Go(func() {
				for own.pause(0, 500*time.Millisecond) {
					what(own, conn)
				}
			})
		}
	}
}

// cancelRPCs begins RPCs and cancels them, before or while they are answered.
func cancelRPCs(a *acting) {
	a.forEachWay(2, func(own *acting, conn *grpc.ClientConn) {
		ctx, cancel := context.WithCancel(own.ctx)
		defer cancel()
		began := time.Now()
		client := testpb.NewTestServiceClient(conn)
		if own.IntN(2) == 0 {
			time.AfterFunc(own.duration(100*time.Millisecond), cancel)
			_, err := client.EmptyCall(ctx, &testpb.Empty{})
			own.end("cancelled", began, err, codes.Canceled)

			return
		}
		stream, err := client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
		for range 1 + own.IntN(20) {
			if err != nil {
				break
			}
			_, err = stream.Recv()
		}
		cancel()
		for err == nil {
			_, err = stream.Recv()
		}
		own.end("cancelled in the middle", began, err, codes.Canceled)
	})
}

// missDeadlines makes RPCs that hang until their deadlines.
func missDeadlines(a *acting) {
	a.forEachWay(2, func(own *acting, conn *grpc.ClientConn) {
		ctx, cancel := context.WithTimeout(own.ctx, time.Millisecond+own.duration(300*time.Millisecond))
		defer cancel()
		began := time.Now()
		_, err := testpb.NewTestServiceClient(conn).EmptyCall(ctx, &testpb.Empty{})
		own.end("deadline", began, err, codes.DeadlineExceeded, codes.Canceled)
	})
}

// readSlowly takes endless answers a message at a time.
func readSlowly(a *acting) {
	a.forEachWay(1, func(own *acting, conn *grpc.ClientConn) {
		ctx, cancel := context.WithCancel(own.ctx)
		defer cancel()
		began := time.Now()
		stream, err := testpb.NewTestServiceClient(conn).StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{})
		for range 20 {
			if err != nil || !own.pause(20*time.Millisecond, 200*time.Millisecond) {
				break
			}
			_, err = stream.Recv()
		}
		cancel()
		for err == nil {
			_, err = stream.Recv()
		}
		// Of the budget nothing may be left for those who take their time.
		own.end("slow reader", began, err, codes.Canceled, codes.ResourceExhausted)
	})
}

// keepIdleStreams opens streams, leaves them alone for a while, and then uses
// them: nothing may have become of them.
func keepIdleStreams(a *acting) {
	a.forEachWay(5, func(own *acting, conn *grpc.ClientConn) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(own.ctx), 5*time.Minute)
		defer cancel()
		began := time.Now()
		stream, err := testpb.NewTestServiceClient(conn).FullDuplexCall(ctx)
		if err == nil {
			err = exchange(stream)
		}
		if err == nil {
			own.pause(time.Second, time.Minute)
			err = exchange(stream)
		}
		if err == nil {
			_ = stream.CloseSend()
			if _, err = stream.Recv(); errors.Is(err, io.EOF) {
				err = nil
			}
		}
		own.end("idle stream", began, err, codes.OK)
	})
}

func exchange(stream grpc.BidiStreamingClient[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	// What Send says of a stream that is over, Recv says better.
	_ = stream.Send(&testpb.StreamingOutputCallRequest{})
	_, err := stream.Recv()

	return err
}

// askReflection does what grpcurl does, of the mesh and of one service.
func askReflection(a *acting) {
	for a.pause(0, time.Second) {
		for _, service := range []string{"localhost", steadyService} {
			conn, hangUp := a.dial(a.outbound.Outbound, service)
			began := time.Now()
			err := reflect(a.ctx, conn)
			hangUp()
			if a.ctx.Err() != nil {
				return
			}
			// The services of the mesh are asked whatever is being done to them.
			a.end("reflection of "+service, began, err, codes.OK, codes.NotFound, codes.DeadlineExceeded)
		}
	}
}

func reflect(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	for _, question := range []*reflectionpb.ServerReflectionRequest{
		{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}},
		{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "grpc.testing.TestService"}},
		{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: "grpc/testing/nothing.proto"}},
	} {
		_ = stream.Send(question)
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	_ = stream.CloseSend()
	if _, err = stream.Recv(); errors.Is(err, io.EOF) {
		return nil
	}

	return err
}
