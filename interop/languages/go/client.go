package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/interop/languages/go/peerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health/grpc_health_v1"
	keepalives "google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

type client struct {
	target, authority string
	details           []byte
	idle              time.Duration

	conn   *grpc.ClientConn
	peer   peerpb.PeerClient
	ctx    context.Context
	unique string
}

// outcome is what a client says of a case, in a line of its own.
type outcome struct {
	Case string `json:"case"`
	// Error says what was wrong; empty where nothing was.
	Error string `json:"error"`
	// Code is the status of the RPC that was to fail.
	Code int `json:"code"`
}

var cases = map[string]func(*client) (codes.Code, error){
	"unary":             (*client).unary,
	"client_streaming":  (*client).clientStreaming,
	"server_streaming":  (*client).serverStreaming,
	"bidi_streaming":    (*client).bidiStreaming,
	"metadata":          (*client).metadata,
	"status":            (*client).status,
	"early_status":      (*client).earlyStatus,
	"deadline_expires":  (*client).deadlineExpires,
	"deadline_arrives":  (*client).deadlineArrives,
	"cancel":            (*client).cancel,
	"large":             (*client).large,
	"too_large_request": (*client).tooLargeRequest,
	"too_large_answer":  (*client).tooLargeAnswer,
	"gzip":              (*client).gzip,
	"health":            (*client).health,
	"reflection":        (*client).reflection,
	"keepalive":         (*client).keepalive,
}

func (c *client) run(names []string) error {
	conn, err := c.dial(c.authority)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	c.conn, c.peer = conn, peerpb.NewPeerClient(conn)
	c.unique = fmt.Sprintf("go-%d-%d", os.Getpid(), time.Now().UnixNano())

	for _, name := range names {
		try, known := cases[name]
		if !known {
			return fmt.Errorf("no case is named %q", name)
		}
		line, err := json.Marshal(c.outcome(name, try))
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}

	return nil
}

func (c *client) outcome(name string, try func(*client) (codes.Code, error)) outcome {
	var cancel context.CancelFunc
	c.ctx, cancel = context.WithTimeout(context.Background(), 2*patience)
	defer cancel()

	code, err := try(c)
	said := outcome{Case: name, Code: int(code)}
	if err != nil {
		said.Error = err.Error()
	}

	return said
}

func (c *client) dial(authority string) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(2*maxMessage)),
		grpc.WithKeepaliveParams(keepalives.ClientParameters{Time: keepalive, PermitWithoutStream: true}),
	}
	if authority != "" {
		options = append(options, grpc.WithAuthority(authority))
	}

	return grpc.NewClient("passthrough:///"+c.target, options...)
}

func (c *client) unary() (codes.Code, error) {
	response, err := c.peer.Unary(c.ctx, &peerpb.Request{Payload: []byte("hello")})
	if err != nil {
		return 0, err
	}

	return 0, same("the answer", string(response.GetPayload()), "hello")
}

func (c *client) clientStreaming() (codes.Code, error) {
	stream, err := c.peer.Collect(c.ctx)
	if err != nil {
		return 0, err
	}
	for range 100 {
		if err := stream.Send(&peerpb.Request{Payload: make([]byte, 50_000)}); err != nil {
			return 0, fmt.Errorf("send: %w", err)
		}
	}
	response, err := stream.CloseAndRecv()
	if err != nil {
		return 0, err
	}

	return 0, errors.Join(same("requests", response.GetRequests(), 100), same("bytes", response.GetBytes(), 5_000_000))
}

func (c *client) serverStreaming() (codes.Code, error) {
	stream, err := c.peer.Spread(c.ctx, &peerpb.Request{Answers: 100, AnswerSize: 50_000})
	if err != nil {
		return 0, err
	}
	answers, size := 0, 0
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, errors.Join(same("answers", answers, 100), same("bytes", size, 5_000_000))
		}
		if err != nil {
			return 0, err
		}
		answers++
		size += len(response.GetPayload())
	}
}

// Each request waits for the answer before it, so nothing may be held back.
func (c *client) bidiStreaming() (codes.Code, error) {
	stream, err := c.peer.Chat(c.ctx)
	if err != nil {
		return 0, err
	}
	for i := range 20 {
		text := fmt.Sprintf("message %d", i)
		if err := stream.Send(&peerpb.Request{Payload: []byte(text)}); err != nil {
			return 0, fmt.Errorf("send: %w", err)
		}
		response, err := stream.Recv()
		if err != nil {
			return 0, err
		}
		if err := same("answer", string(response.GetPayload()), text); err != nil {
			return 0, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	if _, err = stream.Recv(); !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("the stream ended with %w", err)
	}

	return 0, nil
}

var (
	texts    = []string{"one", "two words"}
	binaries = []string{"\x00\x01\xfe\xff", "\x80,;= "}
)

func withEcho(ctx context.Context) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.MD{"x-echo": texts, "x-echo-bin": binaries})
}

func sameMetadata(header, trailer metadata.MD) error {
	return errors.Join(
		same("x-echo", split(header["x-echo"]), texts), same("x-echo-bin", header["x-echo-bin"], binaries),
		same("x-trail", split(trailer["x-trail"]), texts), same("x-trail-bin", trailer["x-trail-bin"], binaries),
	)
}

// split undoes what grpc-js does with repeated values: it joins them with a comma,
// as HTTP allows.
func split(values []string) []string {
	return strings.Split(strings.Join(values, ", "), ", ")
}

func (c *client) metadata() (codes.Code, error) {
	var header, trailer metadata.MD
	_, err := c.peer.Unary(withEcho(c.ctx), &peerpb.Request{}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		return 0, err
	}
	if err := sameMetadata(header, trailer); err != nil {
		return 0, fmt.Errorf("unary: %w", err)
	}

	stream, err := c.peer.Spread(withEcho(c.ctx), &peerpb.Request{Answers: 1})
	if err != nil {
		return 0, err
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	header, err = stream.Header()

	return 0, errors.Join(err, sameMetadata(header, stream.Trailer()))
}

const message = "because of 100 % naïveté: 世界" //nolint:gosmopolitan // what is not ASCII is what is tried

func (c *client) sameStatus(err error) error {
	details, failure := proto.Marshal(status.Convert(err).Proto())

	return errors.Join(failure, same("message", status.Convert(err).Message(), message),
		same("details", details, c.details))
}

func (c *client) status() (codes.Code, error) {
	var trailer metadata.MD
	failing := &peerpb.Request{
		Answers: 1, FailCode: uint32(codes.FailedPrecondition), FailMessage: message, FailDetails: c.details,
	}
	_, err := c.peer.Unary(withEcho(c.ctx), failing, grpc.Trailer(&trailer))
	if err := errors.Join(c.sameStatus(err), same("x-trail-bin", trailer["x-trail-bin"], binaries)); err != nil {
		return status.Code(err), fmt.Errorf("unary: %w", err)
	}

	stream, err := c.peer.Spread(c.ctx, failing)
	if err != nil {
		return 0, err
	}
	if _, err := stream.Recv(); err != nil {
		return 0, fmt.Errorf("the answer before the status: %w", err)
	}
	_, err = stream.Recv()

	return status.Code(err), c.sameStatus(err)
}

// The server ends the RPC while the client is still sending.
func (c *client) earlyStatus() (codes.Code, error) {
	stream, err := c.peer.Collect(c.ctx)
	if err != nil {
		return 0, err
	}
	request := &peerpb.Request{FailCode: uint32(codes.Aborted), FailMessage: message, Payload: make([]byte, 50_000)}
	for range 1000 {
		if stream.Send(request) != nil {
			break
		}
	}
	_, err = stream.CloseAndRecv()

	return status.Code(err), same("message", status.Convert(err).Message(), message)
}

func (c *client) ended(hold string) error {
	response, err := c.peer.Ended(c.ctx, &peerpb.EndedRequest{Hold: hold})
	if err != nil {
		return err
	}

	return same("the server saw the RPC cancelled", response.GetCancelled(), true)
}

func (c *client) deadlineExpires() (codes.Code, error) {
	ctx, cancel := context.WithTimeout(c.ctx, 300*time.Millisecond)
	defer cancel()

	hold := c.unique + "-deadline"
	begin := time.Now()
	_, err := c.peer.Unary(ctx, &peerpb.Request{Hold: hold})
	if took := time.Since(begin); took < 250*time.Millisecond || took > 5*time.Second {
		return status.Code(err), fmt.Errorf("a deadline of 300 ms expired after %v", took)
	}

	return status.Code(err), c.ended(hold)
}

func (c *client) deadlineArrives() (codes.Code, error) {
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()

	response, err := c.peer.Unary(ctx, &peerpb.Request{})
	if err != nil {
		return 0, err
	}
	if left := response.GetRemainingMs(); left < 20_000 || left > 30_100 {
		return 0, fmt.Errorf("of 30 s there were %d ms left", left)
	}

	return 0, nil
}

func (c *client) cancel() (codes.Code, error) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()

	hold := c.unique + "-cancel"
	stream, err := c.peer.Chat(ctx)
	if err != nil {
		return 0, err
	}
	if err := stream.Send(&peerpb.Request{Hold: hold}); err != nil {
		return 0, err
	}
	if _, err := stream.Recv(); err != nil {
		return 0, err
	}
	cancel()
	_, err = stream.Recv()

	return status.Code(err), c.ended(hold)
}

func (c *client) large() (codes.Code, error) {
	payload := bytes.Repeat([]byte("abcdefghijklmnop"), 4<<20/16)
	response, err := c.peer.Unary(c.ctx, &peerpb.Request{Payload: payload})
	if err != nil {
		return 0, err
	}
	if !bytes.Equal(response.GetPayload(), payload) {
		return 0, fmt.Errorf("%d other bytes came back", len(response.GetPayload()))
	}

	return 0, nil
}

func (c *client) tooLargeRequest() (codes.Code, error) {
	_, err := c.peer.Unary(c.ctx, &peerpb.Request{Payload: make([]byte, 9<<20)})

	return status.Code(err), nil
}

func (c *client) tooLargeAnswer() (codes.Code, error) {
	_, err := c.peer.Unary(c.ctx, &peerpb.Request{AnswerSize: 9 << 20})

	return status.Code(err), nil
}

func (c *client) gzip() (codes.Code, error) {
	response, err := c.peer.Unary(c.ctx, &peerpb.Request{Payload: make([]byte, 1<<20), AnswerSize: 1 << 20, Gzip: true},
		grpc.UseCompressor(gzip.Name))
	if err != nil {
		return 0, err
	}

	return 0, errors.Join(same("bytes", response.GetBytes(), 1<<20), same("the answer's bytes", len(response.GetPayload()), 1<<20))
}

func (c *client) health() (codes.Code, error) {
	health := grpc_health_v1.NewHealthClient(c.conn)
	response, err := health.Check(c.ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	watch, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return 0, err
	}
	first, err := watch.Recv()
	if err != nil {
		return 0, err
	}

	return 0, errors.Join(
		same("Check", response.GetStatus(), grpc_health_v1.HealthCheckResponse_SERVING),
		same("Watch", first.GetStatus(), grpc_health_v1.HealthCheckResponse_SERVING))
}

// Reflection is asked without the authority, as a person does who has a sidecar
// before him, and not one service.
func (c *client) reflection() (codes.Code, error) {
	conn, err := c.dial("")
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()

	stream, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(c.ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.CloseSend() }()

	err = stream.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "pillion.languages.v1.Peer"},
	})
	if err != nil {
		return 0, err
	}
	response, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	if len(response.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		return 0, fmt.Errorf("no descriptor came: %v", response)
	}

	return 0, nil
}

func (c *client) keepalive() (codes.Code, error) {
	if _, err := c.unary(); err != nil {
		return 0, err
	}
	fmt.Println("idle")
	time.Sleep(c.idle)
	fmt.Println("awake")

	return c.unary()
}

func same[T any](what string, got, want T) error {
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}

	return nil
}
