package grpcproxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers each message with itself and sends the metadata "x-echo" back
// in its header and "x-echo-bin" in its trailer. The message "fail" ends the
// RPC.
func echo(_ any, stream grpc.ServerStream) error {
	in, _ := metadata.FromIncomingContext(stream.Context())
	if err := stream.SetHeader(metadata.MD{"x-echo": in.Get("x-echo")}); err != nil {
		return err
	}
	stream.SetTrailer(metadata.MD{"x-echo-bin": in.Get("x-echo-bin")})
	for {
		var m message
		err := stream.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if string(m.data.Materialize()) == "fail" {
			return status.Error(codes.DataLoss, "gone: ☃")
		}
		if err := stream.SendMsg(&m); err != nil {
			return err
		}
	}
}

// proxied starts an echoing server and a proxy before it.
func proxied(t *testing.T) *grpc.ClientConn {
	t.Helper()
	backend := grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.UnknownServiceHandler(echo))
	backendLn := listen(t)
	go func() { _ = backend.Serve(backendLn) }()
	t.Cleanup(backend.Stop)

	ln := listen(t)
	served := make(chan error, 1)
	go func() { served <- Serve(ln, backendLn.Addr().String()) }()
	cc, err := grpc.NewClient("passthrough:///"+ln.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cc.Close()
		ln.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return cc
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func text(s string) *message { return &message{mem.BufferSlice{mem.SliceBuffer(s)}} }

func TestForwardsUnary(t *testing.T) {
	cc := proxied(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-echo", "one", "x-echo", "two", "x-echo-bin", "\x00\x01")
	var header, trailer metadata.MD
	var answer message
	body := bytes.Repeat([]byte("0123456789"), 30_000)
	if err := cc.Invoke(ctx, "/any.Service/Method", text(string(body)), &answer, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(answer.data.Materialize(), body) {
		t.Error("the answer is not what was sent")
	}
	if got := header.Get("x-echo"); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("header %q, want one, two", got)
	}
	if got := trailer.Get("x-echo-bin"); !slices.Equal(got, []string{"\x00\x01"}) {
		t.Errorf("trailer %q, want 00 01", got)
	}
}

func TestForwardsStatus(t *testing.T) {
	err := proxied(t).Invoke(t.Context(), "/any.Service/Method", text("fail"), new(message))
	if s := status.Convert(err); s.Code() != codes.DataLoss || s.Message() != "gone: ☃" {
		t.Errorf("status %v, want DATA_LOSS", s)
	}
}

func TestForwardsFullDuplexAndCancel(t *testing.T) {
	cc := proxied(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := cc.NewStream(ctx, bothWays, "/any.Service/Method")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"a", "b", "c"} {
		if err := stream.SendMsg(text(word)); err != nil {
			t.Fatal(err)
		}
		var m message
		if err := stream.RecvMsg(&m); err != nil {
			t.Fatal(err)
		}
		if got := string(m.data.Materialize()); got != word {
			t.Errorf("%q came back, want %q", got, word)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(message)); !errors.Is(err, io.EOF) {
		t.Errorf("after half-close: %v, want the end", err)
	}
	if stream, err = cc.NewStream(ctx, bothWays, "/any.Service/Method"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := stream.RecvMsg(new(message)); status.Code(err) != codes.Canceled {
		t.Errorf("after cancel: %v, want CANCELLED", err)
	}
}
