// Package canned is the backend that the benchmarks put behind every proxy: it
// answers gRPC requests with frames made beforehand, so that the load's side
// costs little and the proxy's cost is what shows. It obeys HTTP/2's flow
// control and settings, but reads no header: what to answer is said in the
// request's message (see Order).
package canned

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
)

// Order is what a request's message may ask of the backend. A message without
// an order (see UnaryRequest) gets one answer of the server's ResponseSize.
type Order struct {
	// Messages is how many messages to stream; 0 streams until the client
	// resets the stream or closes the connection.
	Messages uint32
	// Size is each message's payload in bytes, at most MaxSize.
	Size uint32
	// Rate bounds the stream in bytes per second, prefixes included; 0 is as
	// fast as the windows allow.
	Rate uint64
}

// MaxSize bounds a message's payload in bytes.
const MaxSize = 4 << 20

// PrefixLen is the length in bytes of the prefix that gRPC writes before each
// message.
const PrefixLen = 5

// orderMagic begins a message that carries an order.
const orderMagic = "PBORDER1"

const orderLen = len(orderMagic) + 4 + 4 + 8

var errOrderSize = errors.New("canned: an order's message size is over the bound")

// Request returns the request's body that asks for o: one gRPC message.
func (o Order) Request() []byte {
	b := appendPrefix(nil, orderLen)
	b = append(b, orderMagic...)
	b = binary.BigEndian.AppendUint32(b, o.Messages)
	b = binary.BigEndian.AppendUint32(b, o.Size)
	return binary.BigEndian.AppendUint64(b, o.Rate)
}

// Bytes is how many bytes of DATA the answer to o has, prefixes included; 0
// where the stream does not end.
func (o Order) Bytes() int64 {
	return int64(o.Messages) * int64(PrefixLen+o.Size)
}

// UnaryRequest returns a request's body without an order: one gRPC message of
// size zero bytes.
func UnaryRequest(size int) []byte {
	return append(appendPrefix(nil, size), make([]byte, size)...)
}

// parseOrder reads the beginning of a request's body. ok is false where it
// carries no order.
func parseOrder(body []byte) (o Order, ok bool, err error) {
	if len(body) < PrefixLen+orderLen || string(body[PrefixLen:PrefixLen+len(orderMagic)]) != orderMagic {
		return Order{}, false, nil
	}
	b := body[PrefixLen+len(orderMagic):]
	o = Order{
		Messages: binary.BigEndian.Uint32(b),
		Size:     binary.BigEndian.Uint32(b[4:]),
		Rate:     binary.BigEndian.Uint64(b[8:]),
	}
	if o.Size > MaxSize {
		return Order{}, false, errOrderSize
	}
	return o, true, nil
}

// foreign says that a request's body, of which the beginning is given, is
// neither an order nor one of UnaryRequest's: a proxy asks something on its own
// account, reflection perhaps, and may keep its stream open until it has an
// answer.
func foreign(body []byte) bool {
	return len(body) > PrefixLen && body[PrefixLen] != 0 && body[PrefixLen] != orderMagic[0]
}

// asksHealth says that a request's body is one message of no bytes: a health check of
// the whole server, which has its own answer.
func asksHealth(body []byte) bool { return len(body) == PrefixLen && body[PrefixLen-1] == 0 }

func appendPrefix(b []byte, size int) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0), uint32(size))
}

// Server answers HTTP/2 connections with prior knowledge.
type Server struct {
	// ResponseSize is the payload in bytes of the answer to a request without
	// an order, at most MaxSize.
	ResponseSize int
}

// socketBuffer bounds, in bytes, what waits in the kernel before a unary
// answer: left to itself, Linux grows a loopback socket's buffer to megabytes,
// and the backend's queue would be measured as the proxy's.
const socketBuffer = 256 << 10

// Serve accepts connections until ln is closed, and returns once all have
// ended.
func (s *Server) Serve(ln net.Listener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	unary := cannedUnary(UnaryRequest(s.ResponseSize))
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if tcp, ok := nc.(*net.TCPConn); ok {
			// Without it the kernel's default is used: slower, never wrong.
			_ = tcp.SetWriteBuffer(socketBuffer)
		}
		c := newConn(nc, s.ResponseSize, unary)
		conns.Go(func() {
			// A proxy that goes away or breaks the protocol is closed; the load
			// generator's failed requests tell the rest.
			_ = c.serve()
		})
	}
}
