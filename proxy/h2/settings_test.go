package h2

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

func initialWindow(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
}

// A request that was parked when the peer allowed its stream goes out only when the
// peer allows it again (RFC 9113 section 5.1.2).
func TestLimitLoweredBeforeARequestGoesOut(t *testing.T) {
	for _, how := range []string{"the limit is raised", "another stream ends", "the connection ends"} {
		t.Run(how, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newClient(t, Config{})
				first := r.open(true, post...)
				want(t, "the first request", r.frames(), "HEADERS 1*")
				o := r.fillOutput(func() *recorder { return r.open(false, post...) })
				o.write(10, true)
				r.must(r.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}))
				synctest.Wait()
				want(t, "beyond the limit", r.others(r.drain()), "SETTINGS ack")
				switch how {
				case "the limit is raised":
					r.must(r.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2}))
					want(t, "within the limit", r.frames(), "SETTINGS ack", "HEADERS 3*", "DATA 3 10 end")
				case "another stream ends":
					first.rst(Cancel)
					want(t, "in the place of another", r.frames(), "RST_STREAM 1 CANCEL", "HEADERS 3*", "DATA 3 10 end")
				default:
					r.end.Close()
					synctest.Wait()
					o.mu.Lock()
					defer o.mu.Unlock()
					if !o.reset.Unprocessed {
						t.Errorf("a request that was never sent counts as processed: %+v", o.reset)
					}
				}
			})
		})
	}
}

func TestFirstSettings(t *testing.T) {
	cfg := Config{MaxConcurrentStreams: 7, InitialStreamWindow: 100000, ConnWindow: 200000, MaxFrameSize: 20000, MaxHeaderListSize: 3000}
	t.Run("server", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newRig(t, Server, cfg)
			r.raw([]byte(clientPreface))
			r.must(r.WriteSettings())
			want(t, "the first frames", r.frames(), "SETTINGS 3=7 4=100000 5=20000 6=3000", "WINDOW_UPDATE 0 134465", "SETTINGS ack")
		})
	})
	t.Run("client", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newRig(t, Client, cfg)
			want(t, "the first frames", r.frames(), "SETTINGS 2=0 4=100000 5=20000 6=3000", "WINDOW_UPDATE 0 134465")
		})
	})
	t.Run("defaults of a zero Config", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			a, b := newSim()
			c := New(a, Client, &Config{}, &watcher{t: t})
			go c.Serve()
			want(t, "the first frames", newPeer(t, b, true).frames(), "SETTINGS 2=0 4=65535 5=16384 6=65536", "WINDOW_UPDATE 0 983041")
			b.Close()
		})
	})
}

// A window that shrinks below what was sent becomes negative, and has to be made
// up for first (RFC 9113 section 6.9.2).
func TestInitialWindowSizeChanges(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role, initialWindow(100))
			if taken := o.write(300, false); taken != 100 {
				t.Errorf("%d bytes went out at once", taken)
			}
			want(t, "with a window of 100", r.frames(), "DATA 1 100")

			r.must(r.WriteSettings(initialWindow(30)))
			r.must(r.WriteWindowUpdate(1, 70))
			want(t, "with a window of 30-100+70", r.frames(), "SETTINGS ack")
			r.must(r.WriteWindowUpdate(1, 1))
			want(t, "with a window of 1", r.frames(), "DATA 1 1")
			r.must(r.WriteSettings(initialWindow(80)))
			want(t, "with a window larger by 50", r.frames(), "SETTINGS ack", "DATA 1 50")
			want(t, "what the owner is told", o.log(), "taken 1", "taken 50")
		})
	})
}

// openStream starts a connection whose peer has these settings, with stream 1
// open and able to send DATA.
func openStream(t *testing.T, role Role, settings ...http2.Setting) (*rig, *recorder) {
	t.Helper()
	return openStreamWith(t, Config{}, role, settings...)
}

func openStreamWith(t *testing.T, cfg Config, role Role, settings ...http2.Setting) (*rig, *recorder) {
	t.Helper()
	if role == Client {
		r := newClient(t, cfg, settings...)
		o := r.open(false, post...)
		want(t, "the request", r.frames(), "HEADERS 1*")
		return r, o
	}
	r := newServer(t, cfg, settings...)
	r.headers(1, false, post...)
	r.frames()
	o := r.w.stream(0)
	want(t, "the request", o.log(), "request POST*")
	o.send(false, ok...)
	want(t, "the answer's beginning", r.frames(), "HEADERS 1*")
	return r, o
}

func TestWindowOverflowBySettings(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role)
			r.must(r.WriteWindowUpdate(1, 1))
			r.must(r.WriteSettings(initialWindow(1<<31 - 1)))
			want(t, "the answer", r.frames(), fmt.Sprintf("GOAWAY %d FLOW_CONTROL_ERROR*", role.lastOf1()), "end: EOF")
			want(t, "what the owner is told", o.log(), "reset conn*", "closed")
		})
	})
}

func TestSettingsThatAreWrong(t *testing.T) {
	tests := []struct {
		name    string
		payload string
		flags   http2.Flags
		id      uint32
		code    ErrCode
	}{
		{"on a stream", "", 0, 1, ProtocolError},
		{"5 octets", "\x00\x04\x00\x00\x00", 0, 0, FrameSizeError},
		{"acknowledgement with a payload", "\x00\x04\x00\x00\x00\x00", http2.FlagSettingsAck, 0, FrameSizeError},
		{"ENABLE_PUSH 2", "\x00\x02\x00\x00\x00\x02", 0, 0, ProtocolError},
		{"INITIAL_WINDOW_SIZE 2^31", "\x00\x04\x80\x00\x00\x00", 0, 0, FlowControlError},
		{"INITIAL_WINDOW_SIZE 2^31, then 1", "\x00\x04\x80\x00\x00\x00\x00\x04\x00\x00\x00\x01", 0, 0, FlowControlError},
		{"MAX_FRAME_SIZE 16383", "\x00\x05\x00\x00\x3f\xff", 0, 0, ProtocolError},
		{"MAX_FRAME_SIZE 2^24", "\x00\x05\x01\x00\x00\x00", 0, 0, ProtocolError},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, _ := openStream(t, role)
					r.must(r.WriteRawFrame(http2.FrameSettings, test.flags, test.id, []byte(test.payload)))
					want(t, "the answer", r.frames(), fmt.Sprintf("GOAWAY %d %s*", role.lastOf1(), test.code), "end: EOF")
				})
			})
		})
	}
}

// lastOf1 is the last stream of the peer's once stream 1 was opened.
func (r Role) lastOf1() int {
	if r == Server {
		return 1
	}
	return 0
}

func TestPushIsRefused(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, _ := openStream(t, Client)
		r.must(r.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 1}))
		want(t, "the answer to a server that enables push", r.frames(), "GOAWAY 0 PROTOCOL_ERROR*", "end: EOF")
	})
}

func TestPushPromiseIsRefused(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, _ := openStream(t, role)
			r.must(r.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true, BlockFragment: r.encode(get...)}))
			want(t, "the answer", r.frames(), "GOAWAY*", "end: EOF")
		})
	})
}

func TestUnknownSettingsAreIgnored(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, _ := openStream(t, role)
			r.must(r.WriteSettings(http2.Setting{ID: 0x99, Val: 1}, http2.Setting{ID: http2.SettingEnablePush, Val: 0}))
			want(t, "the answer", r.frames(), "SETTINGS ack")
		})
	})
}

// A stream that waits for its id, since the output is full, has the window that
// is in force when it is opened.
func TestSettingsReachStreamsThatWaitToBeOpened(t *testing.T) {
	for _, test := range []struct {
		name          string
		before, after uint32
		out           string
	}{
		{"larger", 0, 10, "DATA 3 10"},
		{"smaller", 10, 4, "DATA 3 4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newClient(t, Config{}, initialWindow(test.before))
				r.open(false, post...)
				r.frames()
				waiting := r.fillOutput(func() *recorder { return r.open(false, with(post, "x-waits", "1")...) })
				waiting.write(20, false)
				r.c.mu.Lock()
				if waiting.s.id != 0 {
					t.Fatal("the stream does not wait")
				}
				r.c.mu.Unlock()
				r.must(r.WriteSettings(initialWindow(test.after)))
				synctest.Wait()
				var got []string
				for _, line := range r.drain() {
					if strings.HasPrefix(line, "HEADERS 3") || strings.HasPrefix(line, "DATA 3") {
						got = append(got, line)
					}
				}
				want(t, "the stream that waited", got, "HEADERS 3*", test.out)
			})
		})
	}
}

// A frame with thousands of parameters is not thousands of times the work of a
// frame with one.
func TestSettingsWithManyParameters(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Server, initialWindow(0))
		many := make([]http2.Setting, 2000)
		for i := range many {
			many[i] = initialWindow(uint32(i % 2 * 1000))
		}
		o.write(300, false)
		r.must(r.WriteSettings(with1(many, initialWindow(200))...))
		want(t, "the last value counts", r.frames(), "SETTINGS ack", "DATA 1 200")
		for range 40 {
			r.must(r.WriteSettings(many...))
		}
		got := r.frames()
		want(t, "the end of 80,000 parameters", got[len(got)-2:], "GOAWAY 1 ENHANCE_YOUR_CALM*", "end: EOF")
	})
}

func with1(s []http2.Setting, more ...http2.Setting) []http2.Setting {
	return append(append([]http2.Setting(nil), s...), more...)
}

// The table that our encoder may use is the peer's to say.
func TestHeaderTableSize(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
			r.dec.SetMaxDynamicTableSize(0)
			r.dec.SetAllowedMaxDynamicTableSize(0)
			for range 3 {
				if role == Server {
					o.send(false, ":status", "103", "x-new", "value")
					want(t, "a section without the table", r.frames(), "HEADERS 1 :status=103 x-new=value")
				} else {
					r.open(true, with(get, "x-new", "value")...)
					r.frames()
				}
			}
		})
	})
}
