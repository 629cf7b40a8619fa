package meshreflect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
)

var (
	errNoReflection = errors.New("it does not offer reflection: register it, as grpc's reflection.Register does")
	errIdle         = errors.New("the conversation was idle")
)

// conversation is a reflection stream to one instance of a service. What
// follows from one answer is asked of the same instance, since others may be
// of another version. It is used by one goroutine at a time.
type conversation struct {
	service string
	opts    *Options
	stream  grpc.BidiStreamingClient[v1.ServerReflectionRequest, v1.ServerReflectionResponse]
	// ctx is the stream's. It ends with the one that the conversation began
	// with, when an answer is late, and when no question has come for a while.
	ctx    context.Context
	cancel context.CancelCauseFunc
	idle   *time.Timer
}

// converse begins a conversation with a question, in the version of reflection
// that the service speaks. The conversation goes on until life ends; ctx
// bounds the answer alone.
func (m *Mesh) converse(life, ctx context.Context, service string, question *v1.ServerReflectionRequest) (*conversation, *v1.ServerReflectionResponse, error) {
	methods := []string{
		v1.ServerReflection_ServerReflectionInfo_FullMethodName,
		grpc_reflection_v1alpha.ServerReflection_ServerReflectionInfo_FullMethodName,
	}
	alpha := m.speaksAlpha(service)
	if alpha { // asked first; another instance may be newer
		methods[0], methods[1] = methods[1], methods[0]
	}
	for i, method := range methods {
		c, answer, err := m.converseIn(life, ctx, service, method, question)
		if err == nil {
			m.setSpeaksAlpha(service, alpha != (i == 1))
			return c, answer, nil
		}
		if status.Code(err) != codes.Unimplemented {
			return nil, nil, err
		}
	}
	return nil, nil, errNoReflection
}

// converseIn is converse in one version of reflection.
func (m *Mesh) converseIn(life, ctx context.Context, service, method string, question *v1.ServerReflectionRequest) (*conversation, *v1.ServerReflectionResponse, error) {
	c := &conversation{service: service, opts: &m.opts}
	c.ctx, c.cancel = context.WithCancelCause(life)
	c.idle = time.AfterFunc(m.opts.Idle, func() { c.cancel(errIdle) })
	answer, err := c.within(ctx, func() (*v1.ServerReflectionResponse, error) {
		conn, err := m.opts.Dial(c.ctx, service)
		if err != nil {
			return nil, err
		}
		if closer, ok := conn.(io.Closer); ok {
			context.AfterFunc(c.ctx, func() { _ = closer.Close() })
		}
		stream, err := conn.NewStream(c.ctx, &v1.ServerReflection_ServiceDesc.Streams[0], method,
			grpc.MaxCallRecvMsgSize(m.opts.MaxAnswerBytes))
		if err != nil {
			return nil, err
		}
		c.stream = &grpc.GenericClientStream[v1.ServerReflectionRequest, v1.ServerReflectionResponse]{ClientStream: stream}
		return c.exchange(question)
	})
	if err != nil {
		c.abandon()
		return nil, nil, err
	}
	return c, answer, nil
}

// ask asks a further question. After an error the conversation is over.
func (c *conversation) ask(ctx context.Context, question *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
	answer, err := c.within(ctx, func() (*v1.ServerReflectionResponse, error) { return c.exchange(question) })
	if err != nil {
		c.abandon()
		return nil, err
	}
	return answer, nil
}

// within gives do the time that a service has for an answer, and cancels the
// stream if it needs more.
func (c *conversation) within(ctx context.Context, do func() (*v1.ServerReflectionResponse, error)) (*v1.ServerReflectionResponse, error) {
	late := fmt.Errorf("no answer within %v", c.opts.ServiceTimeout)
	ctx, done := context.WithTimeoutCause(ctx, c.opts.ServiceTimeout, late)
	defer done()
	stop := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)) })
	defer stop()
	c.idle.Reset(c.opts.Idle + c.opts.ServiceTimeout)
	answer, err := do()
	if err != nil && c.ctx.Err() != nil {
		//nolint:contextcheck // why we cancelled says more than that we did
		err = context.Cause(c.ctx)
	}
	c.idle.Reset(c.opts.Idle)
	return answer, err
}

func (c *conversation) exchange(question *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
	if err := c.stream.Send(question); err != nil && !errors.Is(err, io.EOF) { // io.EOF: Recv knows why
		return nil, err
	}
	answer, err := c.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it ended the reflection stream without an answer")
	}
	return answer, err
}

// end ends the conversation in good order, so that it counts nowhere as an RPC
// that failed.
func (c *conversation) end(ctx context.Context) {
	_, _ = c.within(ctx, func() (*v1.ServerReflectionResponse, error) {
		if err := c.stream.CloseSend(); err != nil {
			return nil, err
		}
		return c.stream.Recv() // io.EOF, from a server that behaves
	})
	c.abandon()
}

// abandon ends the conversation at once.
func (c *conversation) abandon() {
	c.idle.Stop()
	c.cancel(nil)
}
