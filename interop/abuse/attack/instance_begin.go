package attack

import (
	"io"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// drain reads until the other side has had enough.
func drain(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// says makes a connection on which something is said and then nothing more.
func says(text string) func(net.Conn) {
	return func(conn net.Conn) {
		_, _ = io.WriteString(conn, text)
		drain(conn)
	}
}

// instancesThatNeverBegin never come to be ready for RPCs, or end at once.
func instancesThatNeverBegin() []Instance {
	const silence = "SETTINGS_TIMEOUT"
	never := func(name, offence string, onConn func(net.Conn)) Instance {
		return Instance{
			Name: name, onConn: onConn, Codes: []codes.Code{codes.Unavailable},
			Own: true, Says: offence, Elsewhere: true, Waited: offence == silence,
		}
	}

	return []Instance{
		never("closes after accepting", "", func(net.Conn) {}),
		never("resets after accepting", "", abort),
		never("says nothing", silence, drain),
		never("says nothing and reads nothing", silence, func(conn net.Conn) {
			// It reads one byte of what comes, and waits for the end in vain.
			one := make([]byte, 1)
			for _, err := conn.Read(one); err == nil; _, err = conn.Read(one) {
				time.Sleep(50 * time.Millisecond)
			}
		}),
		never("HTTP/1.1", "HTTP/1", says("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")),
		never("HTTP/1.1 without end", "HTTP/1", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			for {
				if _, err := conn.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}),
		never("TLS alert", "TLS", says("\x15\x03\x01\x00\x02\x02\x46")),
		never("TLS alert and end", "TLS", func(conn net.Conn) {
			_, _ = io.WriteString(conn, "\x15\x03\x01\x00\x02\x02\x46")
			if tcp, is := conn.(*net.TCPConn); is {
				_ = tcp.CloseWrite()
			}
			drain(conn)
		}),
		never("garbage", "", says("\x00\x00\x04\x07 this is no SETTINGS, and goes on for a while")),
		never("garbage without end", "", func(conn net.Conn) {
			random := rand.NewChaCha8([32]byte{1})
			for chunk := make([]byte, 16<<10); ; {
				_, _ = random.Read(chunk)
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		}),
		never("SETTINGS byte by byte", "SETTINGS", func(conn net.Conn) {
			go drain(conn)
			for range 16 << 10 {
				if _, err := conn.Write([]byte{0, 16, 0}[:1]); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}),
		never("first frame is a PING", "the first frame is not SETTINGS",
			says(string(frameOf(http2.FramePing, 0, 0, make([]byte, 8))))),
		never("first frame is an acknowledgement", "the first frame is not SETTINGS",
			says(string(frameOf(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)))),
		never("first frame is too long", "",
			says(string(frameOf(http2.FrameSettings, 0, 0, make([]byte, 60000))))),
		never("GOAWAY at once", "", says(string(settingsFrame())+string(goAway(0, http2.ErrCodeNo)))),

		{
			Name: "closes after SETTINGS", Codes: []codes.Code{codes.Unavailable}, Own: true,
			onConn: func(conn net.Conn) {
				_, _ = conn.Write(settingsFrame())
				_, _ = io.ReadFull(conn, make([]byte, len(http2.ClientPreface)))
			},
		},
		{
			Name: "resets after SETTINGS", Codes: []codes.Code{codes.Unavailable}, Own: true,
			onConn: func(conn net.Conn) {
				_, _ = conn.Write(settingsFrame())
				_, _ = io.ReadFull(conn, make([]byte, len(http2.ClientPreface)))
				abort(conn)
			},
		},
		{
			Name: "closes after 50 ms", Codes: []codes.Code{codes.OK, codes.Unavailable}, Own: true,
			onOpen: func(p *peer) {
				go func() {
					p.wait(50 * time.Millisecond)
					_ = p.Close()
				}()
			},
			onRequest: func(p *peer, id uint32) { _ = p.send(answer(id)) },
		},
		{
			Name: "GOAWAY after 50 ms", Codes: []codes.Code{codes.OK, codes.Unavailable}, Elsewhere: true,
			onOpen: func(p *peer) {
				go func() {
					p.wait(50 * time.Millisecond)
					_ = p.send(goAway(1<<31-1, http2.ErrCodeNo))
				}()
			},
			onRequest: func(p *peer, id uint32) { _ = p.send(answer(id)) },
		},
		{
			Name: "closes in the middle of a frame", Codes: []codes.Code{codes.Unavailable}, Own: true, Says: "EOF",
			onRequest: func(p *peer, id uint32) {
				_ = p.send(answer(id)[:20])
				_ = p.Close()
			},
		},
		{
			Name: "resets in the middle of a frame", Codes: []codes.Code{codes.Unavailable}, Own: true,
			onRequest: func(p *peer, id uint32) {
				_ = p.send(answer(id)[:20])
				abort(p.Conn)
			},
		},
		{
			Name: "leaves in the middle of a message", Codes: []codes.Code{codes.Internal, codes.Unavailable},
			onRequest: func(p *peer, id uint32) {
				_ = p.send(begin(id), data(id, false, message(1000)[:500]))
				_ = p.Close()
			},
		},
	}
}

// instancesWithBadSettings say in SETTINGS what they should not.
func instancesWithBadSettings() []Instance {
	unavailable := []codes.Code{codes.Unavailable}
	good := func(p *peer, id uint32) { _ = p.send(answer(id)) }
	illegal := func(name, offence string, end http2.ErrCode, frame []byte) Instance {
		return Instance{
			Name: "SETTINGS: " + name, Codes: unavailable, Own: true, Says: offence, Elsewhere: true,
			Ends:   []http2.ErrCode{end},
			onOpen: func(p *peer) { _ = p.send(frame) },
		}
	}
	// These come before the first SETTINGS, as the whole of it.
	first := func(name, offence string, end http2.ErrCode, settings ...http2.Setting) Instance {
		return Instance{
			Name: "SETTINGS: " + name, Codes: unavailable, Own: true, Says: offence, Elsewhere: true,
			Ends: []http2.ErrCode{end}, settings: settings,
		}
	}
	later := func(i Instance) Instance { // RPCs may have gone out before it
		i.Elsewhere = false

		return i
	}

	return []Instance{
		first("MAX_FRAME_SIZE 1", "SETTINGS_MAX_FRAME_SIZE", http2.ErrCodeProtocol, setting(http2.SettingMaxFrameSize, 1)),
		first("MAX_FRAME_SIZE 2^24", "SETTINGS_MAX_FRAME_SIZE", http2.ErrCodeProtocol, setting(http2.SettingMaxFrameSize, 1<<24)),
		first("INITIAL_WINDOW_SIZE 2^31", "SETTINGS_INITIAL_WINDOW_SIZE", http2.ErrCodeFlowControl,
			setting(http2.SettingInitialWindowSize, 1<<31)),
		first("ENABLE_PUSH", "SETTINGS_ENABLE_PUSH", http2.ErrCodeProtocol, setting(http2.SettingEnablePush, 1)),
		later(illegal("five octets", "multiple of 6", http2.ErrCodeFrameSize,
			frameOf(http2.FrameSettings, 0, 0, make([]byte, 5)))),
		later(illegal("on a stream", "SETTINGS on a stream", http2.ErrCodeProtocol,
			frameOf(http2.FrameSettings, 0, 1, nil))),
		later(illegal("acknowledgement with a payload", "acknowledgement", http2.ErrCodeFrameSize,
			frameOf(http2.FrameSettings, http2.FlagSettingsAck, 0, make([]byte, 6)))),
		{
			Name: "SETTINGS: HEADER_TABLE_SIZE 4 GiB", Codes: []codes.Code{codes.OK}, Elsewhere: true,
			settings: []http2.Setting{setting(http2.SettingHeaderTableSize, 1<<32-1)}, onRequest: good,
		},
		{
			Name: "SETTINGS: HEADER_TABLE_SIZE 0", Codes: []codes.Code{codes.OK}, Elsewhere: true,
			settings: []http2.Setting{setting(http2.SettingHeaderTableSize, 0)}, onRequest: good,
		},
		{
			Name: "SETTINGS: MAX_HEADER_LIST_SIZE 0", Codes: []codes.Code{codes.OK}, Elsewhere: true,
			settings: []http2.Setting{setting(http2.SettingMaxHeaderListSize, 0)}, onRequest: good,
		},
		{
			Name: "SETTINGS: MAX_CONCURRENT_STREAMS 0", Codes: unavailable, Own: true,
			Says: "no streams", Elsewhere: true,
			settings: []http2.Setting{setting(http2.SettingMaxConcurrentStreams, 0)}, onRequest: good,
		},
		{
			Name:  "SETTINGS: MAX_CONCURRENT_STREAMS falls to 0",
			Codes: []codes.Code{codes.OK, codes.Unavailable}, Elsewhere: true,
			settings: []http2.Setting{setting(http2.SettingMaxConcurrentStreams, 1)},
			onRequest: func(p *peer, id uint32) {
				_ = p.send(settingsFrame(setting(http2.SettingMaxConcurrentStreams, 0)), answer(id))
			},
		},
		{
			Name: "SETTINGS: MAX_CONCURRENT_STREAMS up and down", Elsewhere: true,
			Codes:    []codes.Code{codes.OK},
			settings: []http2.Setting{setting(http2.SettingMaxConcurrentStreams, 0)},
			onOpen: func(p *peer) {
				go func() {
					for p.wait(2 * time.Millisecond) {
						_ = p.send(settingsFrame(setting(http2.SettingMaxConcurrentStreams, 1)))
						p.wait(2 * time.Millisecond)
						_ = p.send(settingsFrame(setting(http2.SettingMaxConcurrentStreams, 0)))
					}
				}()
			},
			onRequest: good,
		},
	}
}
