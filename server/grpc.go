package server

import (
	"context"
	"log/slog"
	"runtime/debug"

	"buf.build/go/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	validating "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	channelz "google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// newGRPC makes the gRPC side with all its services. Its calls are not counted:
// grpc_server_* is for the local app's.
func (s *Server) newGRPC() *grpc.Server {
	var (
		logger = logging.LoggerFunc(func(ctx context.Context, level logging.Level, msg string, fields ...any) {
			s.admin.Logger.Log(ctx, slog.Level(level), "admin: "+msg, fields...)
		})
		logOptions = []logging.Option{logging.WithLogOnEvents(logging.FinishCall), logging.WithLevels(logLevel)}
		recovered  = recovery.WithRecoveryHandlerContext(s.recovered)
		// Shared with whoever else validates, and made at the first call only.
		validator = protovalidate.GlobalValidator
	)
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(s.admin.Limits.RequestBytes),
		grpc.ChainUnaryInterceptor(
			logging.UnaryServerInterceptor(logger, logOptions...),
			recovery.UnaryServerInterceptor(recovered), // inside logging, so that a panic is logged as the INTERNAL it becomes
			validating.UnaryServerInterceptor(validator),
		),
		grpc.ChainStreamInterceptor(
			logging.StreamServerInterceptor(logger, logOptions...),
			recovery.StreamServerInterceptor(recovered),
			s.endWithServer,
			validating.StreamServerInterceptor(validator),
		),
	)
	adminv1.RegisterAdminServer(server, s.admin)
	healthpb.RegisterHealthServer(server, s.health)
	channelz.RegisterChannelzServiceToServer(server)
	reflection.Register(server) // v1 and v1alpha
	return server
}

// setServing tells the health service's clients. The empty name is the whole
// server.
func (s *Server) setServing(ready bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if ready {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(adminv1.Admin_ServiceDesc.ServiceName, status)
}

// logLevel keeps probes out of the log, and in it what is our fault.
func logLevel(code codes.Code) logging.Level {
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return logging.LevelError
	case codes.OK:
		return logging.LevelDebug
	}
	return logging.LevelInfo
}

// recovered answers a call that panicked.
func (s *Server) recovered(ctx context.Context, panicked any) error {
	s.admin.Logger.ErrorContext(ctx, "admin: a call panicked", "panic", panicked, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "admin: the call failed; the sidecar's log says more")
}

// endWithServer ends the streams that wait for something to happen (health's
// Watch) when the server stops: nothing else would, and they would keep it from
// stopping.
func (s *Server) endWithServer(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	err := handler(srv, endingStream{ServerStream: stream, ctx: ctx})
	if s.stopping.Err() != nil && stream.Context().Err() == nil {
		return status.Error(codes.Unavailable, "admin: the sidecar is shutting down")
	}
	return err
}

// endingStream is a stream with a context of its own.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }
