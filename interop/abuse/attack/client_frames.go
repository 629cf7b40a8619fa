package attack

import (
	"golang.org/x/net/http2"
)

// clientFrames are single frames that break the rules of a connection (RFC 9113
// sections 4 to 6).
func clientFrames() []Client {
	hang := appendRequest(nil, whole, 1, request(MethodHang))
	on := func(typ http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
		return appendFrame(append([]byte(nil), hang...), typ, flags, stream, payload)
	}

	return []Client{
		single("too long a frame", "sends a frame above SETTINGS_MAX_FRAME_SIZE", size,
			appendHeader(nil, 1<<24-1, http2.FrameHeaders, whole, 1)),
		single("RST_STREAM of a wrong length", "sends RST_STREAM of 3 octets", size, on(http2.FrameRSTStream, 0, 1, make([]byte, 3))),
		single("PING of a wrong length", "sends PING of 9 octets", size, on(http2.FramePing, 0, 0, make([]byte, 9))),
		single("SETTINGS of a wrong length", "sends SETTINGS of 5 octets", size, on(http2.FrameSettings, 0, 0, make([]byte, 5))),
		single("WINDOW_UPDATE of a wrong length", "sends WINDOW_UPDATE of 5 octets", size, on(http2.FrameWindowUpdate, 0, 1, make([]byte, 5))),
		single("acknowledgement with a payload", "acknowledges SETTINGS at length", size, on(http2.FrameSettings, http2.FlagSettingsAck, 0, make([]byte, 6))),
		single("RST_STREAM of an idle stream", "resets a stream that was never opened", protocol, on(http2.FrameRSTStream, 0, 7, make([]byte, 4))),
		single("DATA on an idle stream", "sends DATA on a stream that was never opened", protocol, on(http2.FrameData, 0, 7, emptyMessage)),
		single("DATA on stream 0", "sends DATA of the connection", protocol, on(http2.FrameData, 0, 0, emptyMessage)),
		single("HEADERS on an even stream", "opens a stream that is a server's to open", protocol, on(http2.FrameHeaders, whole, 2, request(MethodHang))),
		single("HEADERS within a block", "begins a header block within another", protocol, appendRequest(appendRequest(nil, 0, 1, nil), whole, 3, nil)),
		single("CONTINUATION without HEADERS", "goes on with a block that was never begun", protocol, on(http2.FrameContinuation, 0, 1, nil)),
		single("PUSH_PROMISE", "promises a push to a server", protocol, on(http2.FramePushPromise, whole, 1, make([]byte, 4))),
		single("too much padding", "pads DATA by more than it is long", protocol, on(http2.FrameData, http2.FlagDataPadded, 1, []byte{200, 1})),
		single("an id below the last one", "opens a stream whose id is below the last one's", protocol,
			appendRequest(appendRequest(nil, whole, 101, request(MethodHang)), whole, 51, request(MethodHang))),
		single("illegal SETTINGS_ENABLE_PUSH", "sends SETTINGS_ENABLE_PUSH 2", protocol, settingsOf(http2.SettingEnablePush, 2)),
		single("SETTINGS_MAX_FRAME_SIZE too small", "allows frames of 100 octets", protocol, settingsOf(http2.SettingMaxFrameSize, 100)),
		single("SETTINGS_MAX_FRAME_SIZE too large", "allows frames of 2^24 octets", protocol, settingsOf(http2.SettingMaxFrameSize, 1<<24)),
		single("SETTINGS_INITIAL_WINDOW_SIZE too large", "allows a window of 2^31", flow, settingsOf(http2.SettingInitialWindowSize, 1<<31)),
		single("WINDOW_UPDATE of zero", "enlarges the connection's window by 0", protocol, appendWindow(nil, 0, 0)),
		single("overflow of the connection's window", "enlarges the connection's window beyond 2^31-1", flow, appendWindow(nil, 0, 1<<31-1)),
		single("overflow of a window by SETTINGS", "enlarges all streams' windows beyond 2^31-1", flow,
			append(appendWindow(append([]byte(nil), hang...), 1, 1<<31-1-65535), settingsOf(http2.SettingInitialWindowSize, 1<<20)...)),
		single("no SETTINGS", "begins with something else", protocol, nil),
	}
}

// single is an attack of one frame, or a few, that ends the connection.
func single(name, what, want string, p []byte) Client {
	c := Client{Name: name, What: what, Want: []string{want}, Memory: ordinary, Brief: true, Run: say(p)}
	if p == nil {
		c.Run = raw(appendFrame([]byte(http2.ClientPreface), http2.FramePing, 0, 0, make([]byte, 8)))
	}

	return c
}

func settingsOf(id http2.SettingID, value uint32) []byte {
	return appendSettings(nil, http2.Setting{ID: id, Val: value})
}
