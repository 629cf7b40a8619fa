package relay

import (
	"strconv"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// fail ends an RPC with an error of Pillion's own. r.mu is held.
func (r *RPC) fail(b *h2.Batch, code codes.Code, flag wire.Flag, message string) {
	r.failWith(b, code, flag, message, h2.InternalError)
}

// failWith ends an RPC with an error of Pillion's own: by an answer of its own
// where the instance has not begun one, by trailers at the end of a message, and
// in the middle of one by a reset with code, since trailers there would end a
// message that is not complete. r.mu is held.
func (r *RPC) failWith(b *h2.Batch, code codes.Code, flag wire.Flag, message string, reset h2.ErrCode) {
	trailers := [...]hpack.Field{
		{Name: ":status", Value: "200"},
		{Name: wire.HeaderContentType, Value: wire.ContentType},
		{Name: wire.HeaderStatus, Value: strconv.Itoa(int(code))},
		{Name: wire.HeaderMessage, Value: wire.EncodeMessage(message)},
		{Name: wire.HeaderFlags, Value: flag.String()},
	}
	switch {
	case r.phase < phaseAnswering:
		r.status = 200
		r.down.SendHeaders(b, trailers[:], true)
	case r.resp.AtBoundary():
		r.down.SendHeaders(b, trailers[2:], true)
	default:
		if reset == h2.RefusedStream || reset == h2.NoError {
			// The caller must not take it for unprocessed, nor for well.
			reset = h2.InternalError
		}
		r.down.Reset(b, reset)
	}
	r.end(b, code, flag, message)
}

// answer ends an RPC that no instance has seen, with a status of a policy's. r.mu is
// held.
func (r *RPC) answer(b *h2.Batch, code codes.Code, flag wire.Flag, message string, more ...hpack.Field) {
	fields := []hpack.Field{
		{Name: ":status", Value: "200"},
		{Name: wire.HeaderContentType, Value: wire.ContentType},
		{Name: wire.HeaderStatus, Value: strconv.Itoa(int(code))},
		{Name: wire.HeaderMessage, Value: wire.EncodeMessage(message)},
	}
	if flag != wire.FlagNone {
		fields = append(fields, hpack.Field{Name: wire.HeaderFlags, Value: flag.String()})
	}
	r.status = 200
	r.down.SendHeaders(b, r.changeResponse(append(fields, more...)), true)
	r.end(b, code, flag, message)
}

// refuse answers a request that is no gRPC with a plain HTTP status, once the
// request has come to its end: until then it is checked as any other is. r.mu is
// held.
func (r *RPC) refuse(b *h2.Batch, status int16) {
	r.phase, r.refusal = phaseRefusing, status
	r.replayable = false
	if r.reqEnd {
		r.sendRefusal(b)
		return
	}
	r.setDeadline(r.p.cfg.RefusalTimeout)
}

func (r *RPC) sendRefusal(b *h2.Batch) {
	why := "This port carries gRPC only: POST with content-type application/grpc."
	if r.refusal == 431 {
		why = "The request's headers are larger than this sidecar accepts."
	}
	body := why + "\n"
	fields := []hpack.Field{
		{Name: ":status", Value: strconv.Itoa(int(r.refusal))},
		{Name: wire.HeaderContentType, Value: "text/plain; charset=utf-8"},
		{Name: "content-length", Value: strconv.Itoa(len(body))},
	}
	if r.refusal == 405 {
		fields = append(fields, hpack.Field{Name: "allow", Value: "POST"}) // RFC 9110 section 15.5.6
	}
	r.status = r.refusal
	r.down.SendHeaders(b, fields, false)
	r.down.SendData(b, []byte(body), true)
	r.end(b, wire.CodeFromHTTP(int(r.refusal)), wire.FlagDownstreamProtocolError, why)
}
