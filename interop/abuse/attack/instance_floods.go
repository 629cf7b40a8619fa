package attack

import (
	"bytes"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// instancesThatFlood send without end what gets nothing done, as soon as there is
// a request.
func instancesThatFlood() []Instance {
	calm := []http2.ErrCode{http2.ErrCodeEnhanceYourCalm}
	flood := func(name string, frames func(id uint32) [][]byte) Instance {
		return Instance{
			Name: "flood of " + name, Codes: []codes.Code{codes.Unavailable}, Own: true, Says: "ENHANCE_YOUR_CALM", Ends: calm,
			onRequest: func(p *peer, id uint32) { p.flood(frames(id)...) },
		}
	}
	same := func(frames ...[]byte) func(uint32) [][]byte {
		return func(uint32) [][]byte { return frames }
	}
	window := func(size uint32) []byte { return settingsFrame(setting(http2.SettingInitialWindowSize, size)) }
	table := func(size uint32) []byte { return settingsFrame(setting(http2.SettingHeaderTableSize, size)) }
	begun := func(i Instance, then func(p *peer, id uint32)) Instance {
		i.onRequest = func(p *peer, id uint32) {
			if p.send(begin(id)) == nil {
				then(p, id)
			}
		}

		return i
	}

	return []Instance{
		flood("SETTINGS", same(settingsFrame())),
		flood("SETTINGS with 2700 parameters", same(frameOf(http2.FrameSettings, 0, 0,
			bytes.Repeat(settingsFrame(setting(77, 7))[9:], 2700)))),
		flood("SETTINGS that change the windows", same(window(1), window(60000))),
		flood("SETTINGS that change the table", same(table(0), table(4096))),
		flood("acknowledgements of SETTINGS", same(frameOf(http2.FrameSettings, http2.FlagSettingsAck, 0, nil))),
		flood("PING", same(frameOf(http2.FramePing, 0, 0, make([]byte, 8)))),
		flood("answers to PING", same(frameOf(http2.FramePing, http2.FlagPingAck, 0, make([]byte, 8)))),
		flood("PRIORITY", func(id uint32) [][]byte {
			return [][]byte{frameOf(http2.FramePriority, 0, id, []byte{0, 0, 0, 0, 7})}
		}),
		flood("unknown frames", same(frameOf(0x42, 0, 0, nil))),
		flood("long unknown frames", same(frameOf(0x42, 0xff, 99, make([]byte, 16000)))),
		flood("GOAWAY", func(id uint32) [][]byte { return [][]byte{goAway(id+1000, http2.ErrCodeNo)} }),
		flood("GOAWAY with a long reason", func(id uint32) [][]byte {
			return [][]byte{frameOf(http2.FrameGoAway, 0, 0,
				append(append(number(id+1000), number(0)...), bytes.Repeat([]byte("x"), 15000)...))}
		}),
		flood("WINDOW_UPDATE of the connection", same(windowUpdate(0, 1))),
		flood("WINDOW_UPDATE of a stream", func(id uint32) [][]byte { return [][]byte{windowUpdate(id, 1)} }),
		flood("informational answers", func(id uint32) [][]byte {
			return [][]byte{headers(id, false, ":status", "100"), headers(id, false, ":status", "103", "link", "</x>")}
		}),
		flood("empty CONTINUATION", func(id uint32) [][]byte {
			return [][]byte{
				frameOf(http2.FrameHeaders, 0, id, nil),
				bytes.Repeat(frameOf(http2.FrameContinuation, 0, id, nil), 200),
			}
		}),
		flood("CONTINUATION", func(id uint32) [][]byte {
			return [][]byte{
				frameOf(http2.FrameHeaders, 0, id, block(":status", "200")),
				bytes.Repeat(frameOf(http2.FrameContinuation, 0, id, block("x", string(make([]byte, 1000)))), 200),
			}
		}),
		begun(flood("empty DATA", nil), func(p *peer, id uint32) { p.flood(data(id, false, nil)) }),
		begun(flood("padding", nil), func(p *peer, id uint32) {
			p.flood(frameOf(http2.FrameData, http2.FlagDataPadded, id, append([]byte{15}, make([]byte, 15)...)))
		}),
		begun(flood("resets of streams that are over", nil), func(p *peer, id uint32) {
			if p.send(data(id, false, message(0)), ending(id)) == nil {
				p.flood(reset(id, http2.ErrCodeCancel))
			}
		}).over(),
		begun(flood("DATA on streams that are over", nil), func(p *peer, id uint32) {
			if p.send(data(id, false, message(0)), ending(id)) == nil {
				p.flood(data(id, false, []byte("x")))
			}
		}).over().by("window of a stream that was reset", http2.ErrCodeFlowControl),
		begun(flood("HEADERS on streams that are over", nil), func(p *peer, id uint32) {
			if p.send(data(id, false, message(0)), ending(id)) == nil {
				p.flood(ending(id))
			}
		}).over(),
		begun(flood("WINDOW_UPDATE of streams that are over", nil), func(p *peer, id uint32) {
			if p.send(data(id, false, message(0)), ending(id)) == nil {
				p.flood(windowUpdate(id, 1))
			}
		}).over(),
	}
}

// by says what else ends the connection.
func (i Instance) by(offence string, code http2.ErrCode) Instance {
	i.Says, i.Ends = offence, []http2.ErrCode{code}

	return i
}

// over says that the instance has answered an RPC before it begins: some RPCs end
// well, and only those that come later with the connection.
func (i Instance) over() Instance {
	i.Codes = []codes.Code{codes.OK, codes.Unavailable}

	return i
}
