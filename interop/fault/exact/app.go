package exact

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Service is the full name of the gRPC service that apps answer.
const Service = "pillion.test.Exact"

// maxMessage is the largest message that apps and clients take.
const maxMessage = 64 << 20

// App is an instance that answers the RPCs of [Call].
type App struct {
	Name, Address string

	server *grpc.Server
	ledger *Ledger
	calls  atomic.Int64
	served chan struct{}
}

// New returns an app for a server of the caller's own, made with its [App.Options].
// Kill is not for it.
func New(name string, ledger *Ledger) *App { return &App{Name: name, ledger: ledger} }

// Options make a server answer the RPCs of [Call], beside the services in protobuf
// that are registered with it.
func (a *App) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodec(codec{}), grpc.MaxRecvMsgSize(maxMessage),
		grpc.UnknownServiceHandler(a.handle),
	}
}

// Serve starts an app, which ends with the test.
func Serve(t testing.TB, listener net.Listener, name string, ledger *Ledger, options ...grpc.ServerOption) *App {
	t.Helper()

	a := New(name, ledger)
	a.Address, a.served = listener.Addr().String(), make(chan struct{})
	a.server = grpc.NewServer(append(a.Options(), options...)...)
	go func() {
		defer close(a.served)
		_ = a.server.Serve(listener)
	}()
	t.Cleanup(a.Kill)

	return a
}

// Kill ends the app at once.
func (a *App) Kill() {
	a.server.Stop()
	<-a.served
}

// Calls is how many RPCs have come.
func (a *App) Calls() int { return int(a.calls.Load()) }

func (a *App) handle(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	method := strings.TrimPrefix(full, "/"+Service+"/")
	a.calls.Add(1)
	a.ledger.began()
	defer a.ledger.ended()

	c := conversation{app: a, stream: stream}
	switch method {
	case Unary.method(), Bidi.method():
		return c.echo()
	case ClientStream.method():
		return c.collect()
	case ServerStream.method():
		return c.stretch()
	}

	return status.Errorf(codes.Unimplemented, "no method %q", full)
}

// conversation is one RPC as the app sees it.
type conversation struct {
	app    *App
	stream grpc.ServerStream
	first  head
	seq    uint32 // of the next request
}

// receive returns the next request, io.EOF behind the last.
func (c *conversation) receive() (head, error) {
	var m []byte
	err := c.stream.RecvMsg(&m)
	if errors.Is(err, io.EOF) && c.seq != c.first.messages {
		return head{}, c.spoilt(fmt.Errorf("%d requests came, and no more, want %d", c.seq, c.first.messages))
	}
	if err != nil {
		return head{}, err
	}
	h, err := parse(m, request, c.seq)
	if err != nil {
		return head{}, c.spoilt(err)
	}
	if c.seq == 0 {
		c.first = h
		c.app.ledger.reach(h.id, c.app.Name)
	} else if h.id != c.first.id {
		return head{}, c.spoilt(fmt.Errorf("a request of RPC %d came", h.id))
	}
	c.seq++

	return h, nil
}

func (c *conversation) spoilt(err error) error {
	c.app.ledger.spoilt(c.first.id, err)

	return status.Error(codes.DataLoss, err.Error())
}

func (c *conversation) send(seq uint32) error {
	h := c.first
	h.seq = seq
	m := h.message(answer)

	return c.stream.SendMsg(&m)
}

// echo answers each request.
func (c *conversation) echo() error {
	for {
		h, err := c.receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.send(h.seq); err != nil {
			return err
		}
	}
}

// collect answers all requests once.
func (c *conversation) collect() error {
	for {
		_, err := c.receive()
		if errors.Is(err, io.EOF) {
			return c.send(0)
		}
		if err != nil {
			return err
		}
	}
}

// stretch answers one request as often as it says.
func (c *conversation) stretch() error {
	if _, err := c.receive(); err != nil {
		return err
	}
	for seq := range c.first.messages {
		if err := c.send(seq); err != nil {
			return err
		}
	}

	return nil
}
