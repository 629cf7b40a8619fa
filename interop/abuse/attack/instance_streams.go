package attack

import (
	"fmt"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// instancesThatBreakStreams send the right frames at the wrong time or place, and
// end streams and connections whenever they like.
func instancesThatBreakStreams() []Instance {
	// onStream resets the stream alone, whole ends the connection.
	onStream := func(name, offence string, frames func(id uint32) [][]byte) Instance {
		return Instance{
			Name: name, Codes: []codes.Code{codes.Internal}, Own: true, Says: offence,
			onRequest: func(p *peer, id uint32) { _ = p.send(frames(id)...) },
		}
	}
	whole := func(name, offence string, frames func(id uint32) [][]byte) Instance {
		i := onStream(name, offence, frames)
		i.Codes, i.Ends = []codes.Code{codes.Unavailable}, []http2.ErrCode{http2.ErrCodeProtocol}

		return i
	}
	before := func(i Instance) Instance { // the RPC was answered before it
		i.Codes = append(i.Codes, codes.OK)

		return i
	}
	resets := func(code http2.ErrCode, status codes.Code, elsewhere bool) Instance {
		return Instance{
			Name: fmt.Sprintf("RST_STREAM %v of everything", code), Codes: []codes.Code{status},
			Own: true, Says: "reset the stream with " + code.String(), Elsewhere: elsewhere,
			onRequest: func(p *peer, id uint32) { _ = p.send(reset(id, code)) },
		}
	}
	sections := func(frames ...func(id uint32) []byte) func(id uint32) [][]byte {
		return func(id uint32) (all [][]byte) {
			for _, frame := range frames {
				all = append(all, frame(id))
			}

			return all
		}
	}

	return []Instance{
		resets(http2.ErrCodeRefusedStream, codes.Unavailable, true),
		resets(http2.ErrCodeInternal, codes.Internal, false),
		resets(http2.ErrCodeNo, codes.Internal, false),
		resets(http2.ErrCodeCancel, codes.Canceled, false),
		resets(http2.ErrCodeEnhanceYourCalm, codes.ResourceExhausted, false),
		resets(http2.ErrCodeInadequateSecurity, codes.PermissionDenied, false),
		{
			Name: "RST_STREAM of a code that there is not", Codes: []codes.Code{codes.Internal}, Own: true, Says: "0xdeadbeef",
			onRequest: func(p *peer, id uint32) { _ = p.send(reset(id, 0xdeadbeef)) },
		},
		{
			Name: "REFUSED_STREAM after the headers", Codes: []codes.Code{codes.Unavailable}, Own: true,
			onRequest: func(p *peer, id uint32) { _ = p.send(begin(id), reset(id, http2.ErrCodeRefusedStream)) },
		},
		{
			// Those that come with the first are sent again as often as is allowed.
			Name: "GOAWAY after each stream", Codes: []codes.Code{codes.OK, codes.Unavailable}, Own: true, Elsewhere: true,
			onRequest: func(p *peer, id uint32) { _ = p.send(goAway(id, http2.ErrCodeNo), answer(id)) },
		},
		{
			Name: "GOAWAY for each request, which it has not seen", Codes: []codes.Code{codes.Unavailable}, Own: true,
			Elsewhere: true,
			onRequest: func(p *peer, id uint32) { _ = p.send(goAway(id-1, http2.ErrCodeNo)) },
		},
		{
			Name: "GOAWAY whose last id goes up", Codes: []codes.Code{codes.OK, codes.Unavailable}, Own: true, Elsewhere: true,
			onRequest: func(p *peer, id uint32) {
				for last := uint32(0); last < 100; last++ {
					_ = p.send(goAway(last, http2.ErrCodeNo))
				}
				_ = p.send(answer(id))
			},
		},
		{
			Name: "GOAWAY and going on", Codes: []codes.Code{codes.OK}, Elsewhere: true,
			onRequest: func(p *peer, id uint32) {
				_ = p.send(goAway(1<<31-1, http2.ErrCodeNo), answer(id))
			},
		},
		{
			Name: "GOAWAY and silence", Deadline: time.Second,
			Codes: []codes.Code{codes.DeadlineExceeded, codes.Unavailable}, Own: true,
			onRequest: func(p *peer, id uint32) { _ = p.send(goAway(id, http2.ErrCodeNo)) },
		},
		{
			Name: "GOAWAY with an error and a long reason", Codes: []codes.Code{codes.Unavailable}, Own: true,
			onRequest: func(p *peer, id uint32) {
				_ = p.send(frameOf(http2.FrameGoAway, 0, 0,
					append(append(number(id), number(uint32(http2.ErrCodeInternal))...), make([]byte, 10000)...)))
				_ = p.Close()
			},
		},
		whole("GOAWAY on a stream", "GOAWAY on a stream", func(id uint32) [][]byte {
			return [][]byte{frameOf(http2.FrameGoAway, 0, id, make([]byte, 8))}
		}),

		onStream("DATA before the headers", "DATA before a header section", sections(func(id uint32) []byte {
			return data(id, false, message(0))
		})),
		before(onStream("DATA after the end", "", sections(answer, func(id uint32) []byte { return data(id, true, message(0)) }))),
		before(onStream("headers after the end", "", sections(answer, begin))),
		onStream("DATA after the end, while the request goes on", "",
			sections(begin, func(id uint32) []byte { return data(id, true, message(0)) },
				func(id uint32) []byte { return data(id, true, message(0)) })).request(Open).relayed(),
		onStream("headers twice", "trailers without END_STREAM", sections(begin, begin)),
		onStream("trailers without the end", "trailers without END_STREAM", sections(begin, func(id uint32) []byte {
			return headers(id, false, "grpc-status", "0")
		})),
		onStream("trailers with a :status", "malformed trailers", sections(begin, func(id uint32) []byte {
			return headers(id, true, ":status", "200", "grpc-status", "0")
		})),
		onStream("informational answer with the end", "informational", sections(func(id uint32) []byte {
			return headers(id, true, ":status", "100")
		})),
		whole("HEADERS of an even id", "idle stream", sections(func(uint32) []byte { return begin(2) })),
		whole("DATA of an even id", "idle stream", sections(func(uint32) []byte { return data(4, false, message(0)) })),
		whole("HEADERS on an idle stream", "idle stream", sections(func(id uint32) []byte { return begin(id + 10000) })),
		whole("DATA on an idle stream", "idle stream", sections(func(id uint32) []byte { return data(id+10000, true, nil) })),
		whole("RST_STREAM on an idle stream", "idle stream", sections(func(id uint32) []byte {
			return reset(id+10000, http2.ErrCodeCancel)
		})),
		whole("WINDOW_UPDATE on an idle stream", "idle stream", sections(func(id uint32) []byte {
			return windowUpdate(id+10000, 1)
		})),
		whole("HEADERS on stream 0", "stream 0", sections(func(uint32) []byte { return begin(0) })),
		whole("DATA on stream 0", "stream 0", sections(func(uint32) []byte { return data(0, false, message(0)) })),
		whole("RST_STREAM on stream 0", "stream 0", sections(func(uint32) []byte { return reset(0, http2.ErrCodeCancel) })),
		whole("PUSH_PROMISE", "PUSH_PROMISE", sections(func(id uint32) []byte {
			return frameOf(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, id,
				append(number(2), block(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x")...))
		})),
		whole("CONTINUATION of nothing", "CONTINUATION without HEADERS", sections(func(id uint32) []byte {
			return frameOf(http2.FrameContinuation, http2.FlagContinuationEndHeaders, id, block("x", "y"))
		})),
		whole("a frame within a header block", "interrupted", sections(func(id uint32) []byte {
			return frameOf(http2.FrameHeaders, 0, id, block(":status", "200"))
		}, answer)),
		whole("padding longer than the frame", "padding", sections(func(id uint32) []byte {
			return frameOf(http2.FrameData, http2.FlagDataPadded, id, []byte{200, 1, 2, 3})
		})),
		{
			Name: "RST_STREAM of three octets", Codes: []codes.Code{codes.Unavailable}, Own: true, Says: "RST_STREAM of a length",
			Ends: []http2.ErrCode{http2.ErrCodeFrameSize},
			onRequest: func(p *peer, id uint32) {
				_ = p.send(frameOf(http2.FrameRSTStream, 0, id, make([]byte, 3)))
			},
		},
		{
			Name: "a frame of 16 MiB", Codes: []codes.Code{codes.Unavailable}, Own: true, Says: "SETTINGS_MAX_FRAME_SIZE",
			Ends: []http2.ErrCode{http2.ErrCodeFrameSize},
			onRequest: func(p *peer, id uint32) {
				_ = p.send(data(id, false, make([]byte, 1<<24-1)))
			},
		},
		onStream("more than content-length", "content-length", sections(func(id uint32) []byte {
			return headers(id, false, ":status", "200", "content-type", "application/grpc", "content-length", "5")
		}, func(id uint32) []byte { return data(id, false, message(100)) })),
		onStream("less than content-length", "content-length", sections(func(id uint32) []byte {
			return headers(id, false, ":status", "200", "content-type", "application/grpc", "content-length", "500")
		}, ending)),
	}
}

// request changes what is sent to the instance.
func (i Instance) request(r Request) Instance {
	i.Request = r

	return i
}

// relayed says that the RPC ends with what the instance sent, and the client judges.
func (i Instance) relayed() Instance {
	i.Codes, i.Own = nil, false

	return i
}
