package relay

import (
	"github.com/pillion-proxy/pillion/interop/rawh2"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// answerAll calls answer for each request, when its body is complete.
func answerAll(conn *rawh2.Conn, answer func(*http2.MetaHeadersFrame)) {
	requests := map[uint32]*http2.MetaHeadersFrame{}
	for {
		frame, err := conn.Read()
		if err != nil {
			return
		}

		var ended bool
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if requests[frame.StreamID] == nil {
				// A frame lives only until the next is read.
				requests[frame.StreamID] = &http2.MetaHeadersFrame{HeadersFrame: copyOf(frame), Fields: frame.Fields}
			}
			ended = frame.StreamEnded()
		case *http2.DataFrame:
			ended = frame.StreamEnded()
		case *http2.RSTStreamFrame:
			delete(requests, frame.StreamID)
		}

		if stream := frame.Header().StreamID; ended && requests[stream] != nil {
			answer(requests[stream])
			delete(requests, stream)
		}
	}
}

func copyOf(frame *http2.MetaHeadersFrame) *http2.HeadersFrame {
	headers := *frame.HeadersFrame

	return &headers
}

// grpcHeaders are the fields that begin a gRPC answer.
func grpcHeaders() []hpack.HeaderField {
	return []hpack.HeaderField{rawh2.Field(":status", "200"), rawh2.Field("content-type", "application/grpc")}
}
