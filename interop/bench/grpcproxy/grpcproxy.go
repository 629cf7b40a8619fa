// Package grpcproxy is the pass-through that one would write first in Go: a
// grpc-go server whose every RPC opens the same one on a grpc-go client
// connection and copies messages both ways without decoding them. The
// benchmarks measure it as a peer; it has no policies.
package grpcproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Windows in bytes, the same as the other peers are configured with.
const (
	streamWindow     = 1 << 20
	connectionWindow = 16 << 20
)

// bothWays describes any RPC: unary is a stream of one message.
var bothWays = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// Serve forwards every RPC that arrives on ln to backend ("host:port") until
// ln is closed.
func Serve(ln net.Listener, backend string) error {
	cc, err := grpc.NewClient("passthrough:///"+backend,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connectionWindow),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(math.MaxInt),
			grpc.MaxCallSendMsgSize(math.MaxInt)))
	if err != nil {
		return fmt.Errorf("grpcproxy: backend %s: %w", backend, err)
	}
	defer func() { _ = cc.Close() }()
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.UnknownServiceHandler(forwardTo(cc)),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.MaxRecvMsgSize(math.MaxInt),
		grpc.MaxSendMsgSize(math.MaxInt))
	if err := server.Serve(ln); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("grpcproxy: %w", err)
	}
	return nil
}

// forwardTo returns the handler that carries one RPC to cc.
func forwardTo(cc *grpc.ClientConn) grpc.StreamHandler {
	return func(_ any, down grpc.ServerStream) error {
		method, ok := grpc.MethodFromServerStream(down)
		if !ok {
			return status.Error(codes.Internal, "grpcproxy: the RPC has no method")
		}
		ctx, cancel := context.WithCancel(outgoing(down.Context()))
		defer cancel()
		up, err := cc.NewStream(ctx, bothWays, method)
		if err != nil {
			return err
		}
		// Where sending fails, receiving says why.
		go func() {
			if err := send(up, down); err != nil {
				cancel()
			}
		}()
		return receive(up, down)
	}
}

// outgoing sends on the metadata that came in, except what grpc-go writes
// itself.
func outgoing(ctx context.Context) context.Context {
	in, _ := metadata.FromIncomingContext(ctx)
	out := make(metadata.MD, len(in))
	for key, values := range in {
		if strings.HasPrefix(key, ":") || key == "content-type" || key == "user-agent" {
			continue
		}
		out[key] = values
	}
	return metadata.NewOutgoingContext(ctx, out)
}

// send copies the request's messages, and its end.
func send(up grpc.ClientStream, down grpc.ServerStream) error {
	for {
		var m message
		err := down.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return up.CloseSend()
		}
		if err != nil {
			return err
		}
		if err := up.SendMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // the RPC is over
			}
			return err
		}
	}
}

// receive copies the answer: metadata, messages, trailers and status.
func receive(up grpc.ClientStream, down grpc.ServerStream) error {
	header, err := up.Header()
	if err != nil {
		down.SetTrailer(up.Trailer())
		return err
	}
	delete(header, "content-type")
	if err := down.SetHeader(header); err != nil {
		return err
	}
	for {
		var m message
		err := up.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			down.SetTrailer(up.Trailer())
			return nil
		}
		if err != nil {
			down.SetTrailer(up.Trailer())
			return err
		}
		if err := down.SendMsg(&m); err != nil {
			return err
		}
	}
}

// message is a gRPC message as it was received.
type message struct{ data mem.BufferSlice }

// codec moves messages without looking into them.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name is what stands in the content-type: the messages are protobuf's to
// everybody else.
func (codec) Name() string { return "proto" }

// Marshal hands the buffers over to the transport, which frees them.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return nil, fmt.Errorf("grpcproxy: cannot send a %T", v)
	}
	return m.data, nil
}

// Unmarshal keeps the buffers beyond the call, so it takes a reference.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return fmt.Errorf("grpcproxy: cannot receive into a %T", v)
	}
	data.Ref()
	m.data = data
	return nil
}
