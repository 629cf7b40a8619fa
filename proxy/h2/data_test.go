package h2

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

// Whatever the padding, and however the bytes come, the owner gets the payload
// and the end, and the windows are given back in full.
func TestDataInPieces(t *testing.T) {
	for _, most := range []int{0, 1, 2, 3, 7, 10} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, o := openStream(t, role)
					if role == Client {
						r.headers(1, false, ok...)
						r.frames()
					}
					o.log()
					r.engine.in.most = most
					var sent []byte
					for size := range 6 {
						for _, pad := range []int{-1, 0, 1, 2, 9} {
							payload := bytes.Repeat([]byte{byte('a' + size)}, size)
							sent = append(sent, payload...)
							end := size == 5 && pad == 9
							if pad < 0 {
								r.must(r.WriteData(1, end, payload))
							} else {
								r.must(r.WriteDataPadded(1, end, payload, make([]byte, pad)))
							}
						}
					}
					r.frames()
					if !bytes.Equal(o.data, sent) || !o.ended {
						t.Errorf("the owner got %q, ended: %v", o.data, o.ended)
					}
				})
			})
		})
	}
}

// The stream's window is what the owner has not given back; padding, which nobody
// else could give back, comes back by itself.
func TestReceiveWindows(t *testing.T) {
	for _, most := range []int{0, 20, 1000} {
		for _, pad := range []int{-1, 0, 100, 255} {
			t.Run(fmt.Sprintf("reads of %d, padding %d", most, pad), func(t *testing.T) {
				simulated(t, func(t *testing.T) {
					r, o := openStreamWith(t, Config{MaxStreamWindow: 65535}, Server)
					r.engine.in.most = most
					stream, conn := 65535, 1<<20
					payload := make([]byte, 50)
					if pad < 0 {
						payload = make([]byte, 300)
					}
					for range 700 { // two windows
						size := len(payload)
						if pad < 0 {
							r.must(r.WriteData(1, false, payload))
						} else {
							r.must(r.WriteDataPadded(1, false, payload, make([]byte, pad)))
							size += 1 + pad
						}
						if stream, conn = stream-size, conn-size; stream < 0 || conn < 0 {
							t.Fatalf("a sender would have to stop: %d left of the stream's window, %d of the connection's", stream, conn)
						}
						if stream < 40000 {
							for _, line := range r.frames() {
								var id, n int
								if _, err := fmt.Sscanf(line, "WINDOW_UPDATE %d %d", &id, &n); err != nil {
									t.Fatalf("%s", line)
								}
								if id == 0 {
									conn += n
								} else {
									stream += n
								}
							}
						}
					}
					r.frames()
					if want := 700 * len(payload); len(o.data) != want {
						t.Errorf("%d of %d bytes came", len(o.data), want)
					}
					if c, s := r.c, &o.s; s.recvWindow+s.consumed+s.padding != c.streamWindow || c.recvWindow+c.unreturned != c.recvTarget {
						t.Errorf("of %d bytes' window for a stream %d+%d+%d are left, of %d for the connection %d+%d",
							c.streamWindow, s.recvWindow, s.consumed, s.padding, c.recvTarget, c.recvWindow, c.unreturned)
					}
				})
			})
		}
	}
}

// What the owner keeps is not given back to the stream, but to the connection.
func TestWindowIsNotGivenBackBeforeItIsConsumed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStreamWith(t, Config{ConnWindow: 65535}, Server)
		o.keep = true
		r.sendData(1, 65535)
		want(t, "the connection's window", r.frames(),
			"WINDOW_UPDATE 0 16384", "WINDOW_UPDATE 0 16384", "PING pillionw", "WINDOW_UPDATE 0 16384", "WINDOW_UPDATE 0 16383")
		consume := func(n int) {
			do(func(b *Batch) {
				o.mu.Lock()
				defer o.mu.Unlock()
				o.s.Consume(b, n)
			})
		}
		consume(16382)
		want(t, "less than a quarter", r.frames())
		consume(1)
		want(t, "a quarter", r.frames(), "WINDOW_UPDATE 1 16383")
		r.must(r.WriteData(1, true, make([]byte, 16383)))
		want(t, "the connection's window", r.frames(), "WINDOW_UPDATE 0 16383")
		consume(65535)
		want(t, "nothing more is due on a stream that has ended", r.frames())
	})
}

// sendData sends n bytes of DATA in frames of 16384 bytes.
func (r *rig) sendData(id uint32, n int) {
	for ; n > 0; n -= minMaxFrameSize {
		r.must(r.WriteData(id, false, make([]byte, min(n, minMaxFrameSize))))
	}
}

func TestDataBeyondTheStreamsWindow(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role)
			if role == Client {
				r.headers(1, false, ok...)
				r.frames()
			}
			o.keep = true
			r.sendData(1, 65535)
			r.frames()
			o.log()
			r.must(r.WriteData(1, false, []byte("x")))
			want(t, "the answer", r.frames(), "RST_STREAM 1 FLOW_CONTROL_ERROR")
			want(t, "what the owner is told", o.log(), "reset malformed FLOW_CONTROL_ERROR", "closed")
		})
	})
}

func TestDataBeyondTheConnectionsWindow(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, _ := openStreamWith(t, Config{ConnWindow: 65535}, Server)
		r.c.mu.Lock()
		r.c.recvWindow = 10 // as if it had not been given back
		r.c.mu.Unlock()
		r.must(r.WriteData(1, false, make([]byte, 11)))
		want(t, "the answer", r.frames(), "GOAWAY 1 FLOW_CONTROL_ERROR*", "end: EOF")
	})
}

// Data for a stream that was reset still counts against the connection's window.
func TestDataForNobodyIsGivenBackToTheConnection(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStreamWith(t, Config{ConnWindow: 65535}, Server)
		o.rst(Cancel)
		r.frames()
		r.sendData(1, 65535)
		want(t, "the connection's window", r.frames(), "WINDOW_UPDATE 0*", "WINDOW_UPDATE 0*", "WINDOW_UPDATE 0*", "WINDOW_UPDATE 0*")
		// What was on its way when the stream was reset is within its window.
		r.must(r.WriteData(1, false, []byte("x")))
		want(t, "the answer to more", r.frames(), "GOAWAY 1 FLOW_CONTROL_ERROR DATA beyond the window*", "end: EOF")
	})
}

func TestDataFramesThatAreWrong(t *testing.T) {
	tests := []struct {
		name    string
		flags   http2.Flags
		id      uint32
		payload string
		want    string
	}{
		{"on stream 0", 0, 0, "x", "GOAWAY 1 PROTOCOL_ERROR*"},
		{"on an idle stream", 0, 3, "x", "GOAWAY 1 PROTOCOL_ERROR*"},
		{"on a stream that never can be", 0, 2, "x", "GOAWAY 1 PROTOCOL_ERROR*"},
		{"padding as long as the payload", http2.FlagDataPadded, 1, "\x03xx", "GOAWAY 1 PROTOCOL_ERROR*"},
		{"padding longer than the payload", http2.FlagDataPadded, 1, "\xffxx", "GOAWAY 1 PROTOCOL_ERROR*"},
		{"padded and empty", http2.FlagDataPadded, 1, "", "GOAWAY 1 PROTOCOL_ERROR*"},
	}
	for _, test := range tests {
		for _, most := range []int{0, 1} {
			t.Run(fmt.Sprint(test.name, " reads of ", most), func(t *testing.T) {
				simulated(t, func(t *testing.T) {
					r, o := openStream(t, Server)
					r.engine.in.most = most
					r.must(r.WriteRawFrame(http2.FrameData, test.flags, test.id, []byte(test.payload)))
					want(t, "the answer", r.frames(), test.want, "end: EOF")
					want(t, "what the owner is told", o.log(), "reset conn*", "closed")
				})
			})
		}
	}
}

func TestDataAfterTheEnd(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role)
			if role == Client {
				r.headers(1, true, ok...)
			} else {
				r.must(r.WriteData(1, true, nil))
			}
			r.frames()
			o.log()
			r.must(r.WriteData(1, false, []byte("x")))
			want(t, "the answer", r.frames(), "RST_STREAM 1 STREAM_CLOSED")
			want(t, "what the owner is told", o.log(), "reset malformed STREAM_CLOSED", "closed")
		})
	})
}

func TestDataOnAStreamThatIsClosed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(1, true, get...)
		r.frames()
		r.w.stream(0).send(true, ok...)
		r.frames()
		r.must(r.WriteData(1, false, []byte("x")))
		want(t, "the answer", r.frames(), "RST_STREAM 1 STREAM_CLOSED")
	})
}

func TestDataBeforeTheResponse(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Client)
		r.headers(1, false, ":status", "103")
		r.must(r.WriteData(1, false, []byte("x")))
		want(t, "the answer", r.frames(), "RST_STREAM 1 PROTOCOL_ERROR")
		want(t, "what the owner is told", o.log(), "informational 103", "reset malformed PROTOCOL_ERROR", "closed")
	})
}

func TestContentLength(t *testing.T) {
	tests := []struct {
		name   string
		length string
		sizes  []int // of DATA frames; the last ends the stream
		rst    string
	}{
		{"right", "5", []int{2, 3}, ""},
		{"right and empty", "0", []int{0}, ""},
		{"too little", "5", []int{2, 2}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"too much", "5", []int{2, 4}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"too much before the end", "5", []int{6, 0}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"nothing", "5", []int{0}, "RST_STREAM 1 PROTOCOL_ERROR"},
	}
	for _, test := range tests {
		for _, most := range []int{0, 1} {
			for _, trailers := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s reads of %d trailers %v", test.name, most, trailers), func(t *testing.T) {
					bothRoles(t, func(t *testing.T, role Role) {
						simulated(t, func(t *testing.T) {
							r, o := sendLength(t, role, test.length)
							r.engine.in.most = most
							for i, size := range test.sizes {
								r.must(r.WriteData(1, i == len(test.sizes)-1 && !trailers, make([]byte, size)))
							}
							if trailers {
								r.headers(1, true, "x", "y")
							}
							frames := r.frames()
							want(t, "the answer", frames, lines(test.rst)...)
							log := o.log()
							if test.rst != "" {
								want(t, "what the owner is told", log[len(log)-2:], "reset malformed PROTOCOL_ERROR", "closed")
							}
							if o.ended != (test.rst == "") {
								t.Errorf("the owner is told %q", log)
							}
						})
					})
				})
			}
		}
	}
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// sendLength starts an exchange whose content the peer has announced.
func sendLength(t *testing.T, role Role, length string) (*rig, *recorder) {
	if role == Client {
		r, o := openStream(t, Client)
		r.headers(1, false, with(ok, "content-length", length)...)
		r.frames()
		return r, o
	}
	r := newServer(t, Config{})
	r.headers(1, false, with(post, "content-length", length)...)
	r.frames()
	return r, r.w.stream(0)
}

func TestContentLengthOfARequestWithoutContent(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(1, true, with(post, "content-length", "5")...)
		want(t, "the answer", r.frames(), "RST_STREAM 1 PROTOCOL_ERROR")
		want(t, "what the owner is told", r.w.stream(0).log(), "request POST http://a/ content-length=5", "reset malformed PROTOCOL_ERROR", "closed")
	})
}

// The answer to a HEAD request has a length and no content.
func TestContentLengthOfAResponseWithoutContent(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Client)
		r.headers(1, true, with(ok, "content-length", "5")...)
		r.frames()
		want(t, "what the owner is told", o.log(), "response 200 content-length=5 end")
	})
}

// A stream may end in the middle of a frame; the rest of the frame is passed over.
func TestResetInTheMiddleOfAFrame(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Server)
		frame := append(appendFrameHeader(nil, 10, frameData, flagEndStream, 1), "0123456789"...)
		r.raw(frame[:12])
		synctest.Wait()
		want(t, "what the owner is told", o.log(), "data 3")
		o.rst(Cancel)
		r.raw(frame[12:])
		r.must(r.WritePing(false, [8]byte{'x'}))
		want(t, "the answer", r.frames(), "RST_STREAM 1 CANCEL", "PING ack x\x00*")
		if log := o.log(); !slices.Equal(log, []string{"closed"}) {
			t.Errorf("the owner is told %q", log)
		}
	})
}
