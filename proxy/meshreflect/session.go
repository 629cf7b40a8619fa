package meshreflect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// server is a Mesh as grpc-go wants it.
type server struct{ mesh *Mesh }

// ServerReflectionInfo implements both versions of reflection.
func (s server) ServerReflectionInfo(stream grpc.BidiStreamingServer[v1.ServerReflectionRequest, v1.ServerReflectionResponse]) error {
	m := s.mesh
	defer m.sessions.Add(-1)
	if m.sessions.Add(1) > int64(m.opts.MaxSessions) {
		return status.Errorf(codes.ResourceExhausted, "%d reflection streams are open already: close some", m.opts.MaxSessions)
	}
	session := &session{mesh: m, ctx: stream.Context()}
	defer session.end()
	for {
		question, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(session.answer(question)); err != nil {
			return err
		}
	}
}

// session is one caller's reflection stream.
type session struct {
	mesh *Mesh
	ctx  context.Context // the stream's
	// current is the conversation with the service that answered the last
	// question for a symbol, or nil. Further questions go there first: the
	// caller is likely to resolve that symbol's imports, and another service
	// may have other files of the same names.
	current *conversation
}

func (s *session) end() {
	if s.current != nil {
		s.current.end(s.ctx)
	}
}

// answer answers one question. A failure is an answer too: the stream goes on.
func (s *session) answer(question *v1.ServerReflectionRequest) *v1.ServerReflectionResponse {
	if most := s.mesh.opts.MaxQuestionBytes; proto.Size(question) > most {
		// It is not repeated to the caller either.
		return answerWithError(nil, codes.InvalidArgument, fmt.Sprintf("the question is longer than %d bytes", most))
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.mesh.opts.Timeout)
	defer cancel()
	i := &inquiry{session: s, ctx: ctx, question: question}
	switch q := question.GetMessageRequest().(type) {
	case *v1.ServerReflectionRequest_ListServices:
		return s.listAll(ctx, question)
	case *v1.ServerReflectionRequest_FileContainingSymbol:
		return i.aboutSymbol(q.FileContainingSymbol)
	case *v1.ServerReflectionRequest_FileByFilename,
		*v1.ServerReflectionRequest_FileContainingExtension,
		*v1.ServerReflectionRequest_AllExtensionNumbersOfType:
		return i.aboutAnything()
	default:
		return answerWithError(question, codes.InvalidArgument, "the question is of no known kind")
	}
}

// listAll lists the gRPC services of all services that say what they answer,
// each name once. Those that do not answer are left out.
func (s *session) listAll(ctx context.Context, question *v1.ServerReflectionRequest) *v1.ServerReflectionResponse {
	lists, err := s.mesh.lists(ctx)
	if err != nil {
		return answerWithError(question, codes.Unavailable, err.Error())
	}
	names := slices.Clone(ownNames)
	for _, l := range lists {
		names = append(names, l.names...)
	}
	slices.Sort(names)
	answer := new(v1.ListServiceResponse)
	for _, name := range slices.Compact(names) {
		answer.Service = append(answer.Service, &v1.ServiceResponse{Name: name})
	}
	return &v1.ServerReflectionResponse{
		ValidHost: question.GetHost(), OriginalRequest: question,
		MessageResponse: &v1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: answer},
	}
}
