package h2

import (
	"fmt"
	"testing"

	"golang.org/x/net/http2"
)

func TestFramesThatAreWrong(t *testing.T) {
	tests := []struct {
		name    string
		typ     http2.FrameType
		flags   http2.Flags
		id      uint32
		payload string
		want    string // GOAWAY's code, or a RST_STREAM
	}{
		{"PRIORITY on stream 0", http2.FramePriority, 0, 0, "\x00\x00\x00\x00\x00", "PROTOCOL_ERROR"},
		{"PRIORITY of 4 octets", http2.FramePriority, 0, 1, "\x00\x00\x00\x00", "RST_STREAM 1 FRAME_SIZE_ERROR"},
		{"PRIORITY on itself", http2.FramePriority, 0, 1, "\x80\x00\x00\x01\x00", "RST_STREAM 1 PROTOCOL_ERROR"},
		{"RST_STREAM on stream 0", http2.FrameRSTStream, 0, 0, "\x00\x00\x00\x00", "PROTOCOL_ERROR"},
		{"RST_STREAM of 3 octets", http2.FrameRSTStream, 0, 1, "\x00\x00\x00", "FRAME_SIZE_ERROR"},
		{"RST_STREAM on an idle stream", http2.FrameRSTStream, 0, 3, "\x00\x00\x00\x00", "PROTOCOL_ERROR"},
		{"PING on a stream", http2.FramePing, 0, 1, "\x00\x00\x00\x00\x00\x00\x00\x00", "PROTOCOL_ERROR"},
		{"PING of 7 octets", http2.FramePing, 0, 0, "\x00\x00\x00\x00\x00\x00\x00", "FRAME_SIZE_ERROR"},
		{"PING ack of 9 octets", http2.FramePing, http2.FlagPingAck, 0, "\x00\x00\x00\x00\x00\x00\x00\x00\x00", "FRAME_SIZE_ERROR"},
		{"WINDOW_UPDATE of 3 octets", http2.FrameWindowUpdate, 0, 1, "\x00\x00\x00", "FRAME_SIZE_ERROR"},
		{"WINDOW_UPDATE by 0", http2.FrameWindowUpdate, 0, 0, "\x80\x00\x00\x00", "PROTOCOL_ERROR"},
		{"WINDOW_UPDATE by 0 on a stream", http2.FrameWindowUpdate, 0, 1, "\x00\x00\x00\x00", "RST_STREAM 1 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE too far", http2.FrameWindowUpdate, 0, 0, "\x7f\xff\xff\xff", "FLOW_CONTROL_ERROR"},
		{"WINDOW_UPDATE too far on a stream", http2.FrameWindowUpdate, 0, 1, "\x7f\xff\xff\xff", "RST_STREAM 1 FLOW_CONTROL_ERROR"},
		{"WINDOW_UPDATE on an idle stream", http2.FrameWindowUpdate, 0, 3, "\x00\x00\x00\x01", "PROTOCOL_ERROR"},
		{"a frame that is too long", http2.FramePing, 0, 0, string(make([]byte, minMaxFrameSize+1)), "FRAME_SIZE_ERROR"},
		{"DATA that is too long", http2.FrameData, 0, 1, string(make([]byte, minMaxFrameSize+1)), "FRAME_SIZE_ERROR"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, o := openStream(t, role)
					r.must(r.WriteRawFrame(test.typ, test.flags, test.id, []byte(test.payload)))
					if test.want[:3] == "RST" {
						want(t, "the answer", r.frames(), test.want)
						want(t, "what the owner is told", o.log(), "reset malformed*", "closed")
						return
					}
					want(t, "the answer", r.frames(), fmt.Sprintf("GOAWAY %d %s*", role.lastOf1(), test.want), "end: EOF")
					want(t, "what the owner is told", o.log(), "reset conn*", "closed")
				})
			})
		})
	}
}

func TestFramesThatAreIgnored(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role)
			r.must(r.WriteRawFrame(0x99, 0xff, 1, make([]byte, minMaxFrameSize)))
			r.must(r.WriteRawFrame(0x99, 0, 1000, nil))
			r.must(r.WritePriority(1, http2.PriorityParam{StreamDep: 99, Exclusive: true, Weight: 255}))
			r.must(r.WritePriority(77, http2.PriorityParam{}))
			r.must(r.WritePing(true, [8]byte{'?'}))
			r.must(r.WriteSettingsAck())
			r.raw([]byte("\x00\x00\x04\x08\x00\x80\x00\x00\x00\x00\x00\x00\x01")) // the reserved bit of the id
			want(t, "the answer", r.frames())
			want(t, "what the owner is told", o.log())
		})
	})
}

func TestPingIsAnswered(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, _ := openStream(t, role)
			r.must(r.WritePing(false, [8]byte{'1', '2', '3', '4', '5', '6', '7', '8'}))
			want(t, "the answer", r.frames(), "PING ack 12345678")
		})
	})
}

func TestPeerResets(t *testing.T) {
	tests := []struct {
		code ErrCode
		told string
	}{
		{Cancel, "reset peer CANCEL"},
		{RefusedStream, "reset peer REFUSED_STREAM unprocessed"},
		{NoError, "reset peer NO_ERROR"},
		{0x4711, "reset peer error code 0x4711"},
	}
	for _, test := range tests {
		t.Run(test.code.String(), func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, o := openStream(t, role)
					r.must(r.WriteRSTStream(1, http2.ErrCode(test.code)))
					r.must(r.WriteRSTStream(1, http2.ErrCode(test.code))) // once more does no harm
					r.must(r.WriteWindowUpdate(1, 5))
					want(t, "the answer", r.frames())
					want(t, "what the owner is told", o.log(), test.told, "closed")
				})
			})
		})
	}
}

// A connection that accepts larger frames gets them, in whatever pieces.
func TestLargeFrames(t *testing.T) {
	for _, most := range []int{0, 1000} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r, o := openStreamWith(t, Config{MaxFrameSize: maxMaxFrameSize, InitialStreamWindow: 1 << 20, MaxHeaderListSize: 1 << 20}, Server)
				r.engine.in.most = most
				r.must(r.WriteData(1, false, make([]byte, 300000)))
				r.frames()
				if len(o.data) != 300000 {
					t.Errorf("%d bytes of DATA came", len(o.data))
				}
				r.must(r.WriteRawFrame(0x99, 0, 0, make([]byte, readBufferSize-frameHeaderLen)))
				r.must(r.WritePing(false, [8]byte{'x'}))
				want(t, "the answer", r.frames(), "PING ack x*")
				// Of other types, no frame is longer than what one read may bring.
				r.must(r.WriteRawFrame(0x99, 0, 0, make([]byte, readBufferSize)))
				want(t, "the answer", r.frames(), "GOAWAY 1 FRAME_SIZE_ERROR*", "end: EOF")
			})
		})
	}
}
