package exact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kind is a kind of RPC.
type Kind uint8

// The four kinds.
const (
	Unary Kind = iota
	ClientStream
	ServerStream
	Bidi
)

// Kinds are all of them.
var Kinds = []Kind{Unary, ClientStream, ServerStream, Bidi}

func (k Kind) method() string {
	return [...]string{"Unary", "ClientStream", "ServerStream", "Bidi"}[k]
}

// String names the kind.
func (k Kind) String() string { return k.method() }

// Shape is what goes over an RPC: so many messages, in the directions in which
// the kind has several, each with a body of Size bytes.
type Shape struct{ Messages, Size int }

// Result is what became of an RPC.
type Result struct {
	ID   uint64
	Kind Kind
	Code codes.Code
	Err  error
	Took time.Duration
	// Wrong says which bytes were not what was sent, or that some are missing in
	// an RPC that ended OK. It must always be nil.
	Wrong error
}

// String is one line of it.
func (r Result) String() string {
	return fmt.Sprintf("%v RPC %d after %v: %v; wrong: %v", r.Kind, r.ID, r.Took.Round(time.Millisecond), r.Err, r.Wrong)
}

// Call makes one RPC. The ledger is that of the apps that may answer.
func Call(ctx context.Context, conn *grpc.ClientConn, ledger *Ledger, kind Kind, shape Shape) Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	began := time.Now()
	r := Result{ID: ledger.newID(), Kind: kind}
	c := call{
		head:    head{id: r.ID, messages: uint32(max(shape.Messages, 1)), size: uint32(shape.Size)},
		ctx:     ctx,
		cancel:  cancel,
		sending: make(chan struct{}),
	}
	r.Err = c.run(conn, kind)
	r.Took = time.Since(began)
	r.Code, r.Wrong = status.Code(r.Err), c.wrong

	return r
}

type call struct {
	head
	ctx     context.Context
	cancel  context.CancelFunc
	stream  grpc.ClientStream
	sending chan struct{}
	wrong   error
}

func (c *call) run(conn *grpc.ClientConn, kind Kind) error {
	requests, answers := c.messages, c.messages
	switch kind {
	case Unary:
		c.messages, requests, answers = 1, 1, 1
	case ClientStream:
		answers = 1
	case ServerStream:
		requests = 1
	case Bidi:
	}
	// grpc-go's own transparent retry would hide how an RPC ended. It ends with the
	// first message that is too large to be kept for it.
	const keepNothing = 1
	desc := &grpc.StreamDesc{ClientStreams: requests > 1 || kind == Bidi, ServerStreams: true}
	var err error
	c.stream, err = conn.NewStream(c.ctx, desc, "/"+Service+"/"+kind.method(),
		grpc.ForceCodec(codec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxRetryRPCBufferSize(keepNothing))
	if err != nil {
		return err
	}

	go c.send(requests)
	err = c.receive(answers)
	if err != nil || c.wrong != nil {
		c.cancel() // the sender may wait for a window
	}
	<-c.sending

	return err
}

func (c *call) send(count uint32) {
	defer close(c.sending)

	for seq := range count {
		h := c.head
		h.seq = seq
		m := h.message(request)
		if err := c.stream.SendMsg(&m); err != nil {
			return // the receiver hears why
		}
	}
	_ = c.stream.CloseSend()
}

// receive takes all answers and returns how the RPC ended.
func (c *call) receive(want uint32) error {
	for seq := uint32(0); ; seq++ {
		var m []byte
		err := c.stream.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			if seq != want {
				c.wrong = fmt.Errorf("%d answers came, want %d", seq, want)
			}

			return nil
		}
		if err != nil {
			return err
		}
		if c.wrong = c.check(m, seq, want); c.wrong != nil {
			return nil //nolint:nilerr // that is no end of the RPC: see Result.Wrong
		}
	}
}

// check says what is wrong with an answer.
func (c *call) check(m []byte, seq, want uint32) error {
	h, err := parse(m, answer, seq)
	switch {
	case err != nil:
		return err
	case seq >= want:
		return fmt.Errorf("an answer too many: %+v", h)
	case h.id != c.id || h.messages != c.messages || h.size != c.size:
		return fmt.Errorf("an answer to something else came: %+v", h)
	}

	return nil
}
