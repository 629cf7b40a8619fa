package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/interop/languages/go/peerpb"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	keepalives "google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func serve() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}

	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(2*maxMessage),
		grpc.KeepaliveParams(keepalives.ServerParameters{Time: keepalive}),
		grpc.KeepaliveEnforcementPolicy(keepalives.EnforcementPolicy{MinTime: keepalive / 2, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := echoMetadata(ctx, grpc.ServerTransportStreamFromContext(ctx)); err != nil {
				return nil, err
			}

			return handler(ctx, request)
		}),
		grpc.StreamInterceptor(func(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if err := echoMetadata(stream.Context(), grpc.ServerTransportStreamFromContext(stream.Context())); err != nil {
				return err
			}

			return handler(service, stream)
		}),
	)
	peerpb.RegisterPeerServer(server, &peer{ended: map[string]chan struct{}{}})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	fmt.Printf("listening on %s (grpc-go %s)\n", listener.Addr(), grpc.Version)

	return server.Serve(listener)
}

func echoMetadata(ctx context.Context, stream grpc.ServerTransportStream) error {
	got, _ := metadata.FromIncomingContext(ctx)
	header, trailer := metadata.MD{}, metadata.MD{}
	header.Append("x-echo", got["x-echo"]...)
	header.Append("x-echo-bin", got["x-echo-bin"]...)
	trailer.Append("x-trail", got["x-echo"]...)
	trailer.Append("x-trail-bin", got["x-echo-bin"]...)

	return errors.Join(stream.SetHeader(header), stream.SetTrailer(trailer))
}

type peer struct {
	peerpb.UnimplementedPeerServer

	mu    sync.Mutex
	ended map[string]chan struct{} // by their hold; closed at the end
}

func (p *peer) Unary(ctx context.Context, request *peerpb.Request) (*peerpb.Response, error) {
	if request.GetGzip() {
		if err := grpc.SetSendCompressor(ctx, gzip.Name); err != nil {
			return nil, err
		}
	}
	if request.GetFailCode() != 0 {
		return nil, failure(request)
	}
	if request.GetHold() != "" {
		p.hold(ctx, request)

		return nil, ctx.Err()
	}

	return answer(ctx, request), nil
}

func (p *peer) Collect(stream peerpb.Peer_CollectServer) error {
	response := &peerpb.Response{}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(response)
		}
		if err != nil {
			return err
		}
		if request.GetFailCode() != 0 {
			return failure(request)
		}
		response.Requests++
		response.Bytes += uint64(len(request.GetPayload()))
	}
}

func (p *peer) Spread(request *peerpb.Request, stream peerpb.Peer_SpreadServer) error {
	for range request.GetAnswers() {
		if err := stream.Send(answer(stream.Context(), request)); err != nil {
			return err
		}
	}
	if request.GetFailCode() != 0 {
		return failure(request)
	}

	return nil
}

func (p *peer) Chat(stream peerpb.Peer_ChatServer) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if request.GetFailCode() != 0 {
			return failure(request)
		}
		if err := stream.Send(answer(stream.Context(), request)); err != nil {
			return err
		}
		if request.GetHold() != "" {
			p.hold(stream.Context(), request)

			return stream.Context().Err()
		}
	}
}

func (p *peer) Ended(ctx context.Context, request *peerpb.EndedRequest) (*peerpb.EndedResponse, error) {
	select {
	case <-p.end(request.GetHold()):
		return &peerpb.EndedResponse{Cancelled: true}, nil
	case <-time.After(10 * time.Second):
		return &peerpb.EndedResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *peer) hold(ctx context.Context, request *peerpb.Request) {
	select {
	case <-ctx.Done():
		close(p.end(request.GetHold()))
	case <-time.After(patience):
	}
}

func (p *peer) end(hold string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.ended[hold] == nil {
		p.ended[hold] = make(chan struct{})
	}

	return p.ended[hold]
}

func answer(ctx context.Context, request *peerpb.Request) *peerpb.Response {
	response := &peerpb.Response{
		Payload: request.GetPayload(), Requests: 1, Bytes: uint64(len(request.GetPayload())),
	}
	if request.GetAnswerSize() > 0 {
		response.Payload = make([]byte, request.GetAnswerSize())
	}
	if deadline, is := ctx.Deadline(); is {
		response.RemainingMs = uint32(time.Until(deadline).Milliseconds())
	}

	return response
}

func failure(request *peerpb.Request) error {
	var details rpcstatus.Status
	if len(request.GetFailDetails()) == 0 {
		return status.Error(codes.Code(request.GetFailCode()), request.GetFailMessage())
	}
	if err := proto.Unmarshal(request.GetFailDetails(), &details); err != nil {
		return status.Errorf(codes.InvalidArgument, "fail_details: %v", err)
	}

	return status.FromProto(&details).Err()
}
