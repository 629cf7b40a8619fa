package attack

import (
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// instancesWithBadWindows break the rules of flow control, or keep them and take
// nothing.
func instancesWithBadWindows() []Instance {
	smallWindow := []http2.Setting{setting(http2.SettingInitialWindowSize, 0)}
	good := func(p *peer, id uint32) { _ = p.send(answer(id)) }

	return []Instance{
		{
			// First the stream is reset, and where it goes on, the connection ended.
			Name: "DATA beyond the stream's window", Codes: []codes.Code{codes.Internal, codes.Unavailable},
			Ends: []http2.ErrCode{http2.ErrCodeFlowControl},
			onRequest: func(p *peer, id uint32) {
				// The client does not read a message whose end has not come, so that
				// nothing of it is given back at once.
				_ = p.send(begin(id), data(id, false, message(4 << 20)[:16000]))
				for range 100 {
					if p.send(data(id, false, make([]byte, 16000))) != nil {
						return
					}
				}
			},
		},
		{
			Name: "DATA beyond the connection's window", Ends: []http2.ErrCode{http2.ErrCodeFlowControl},
			Codes: []codes.Code{codes.Internal, codes.Unavailable},
			onRequest: func(p *peer, id uint32) {
				// Padding counts, too: on a stream that is over, since a reset ends
				// that alone.
				_ = p.send(begin(id))
				p.flood(data(id, false, make([]byte, 16384)))
			},
		},
		{
			Name: "WINDOW_UPDATE by 0 of the connection", Codes: []codes.Code{codes.Unavailable}, Own: true, Says: "WINDOW_UPDATE by 0",
			Ends:      []http2.ErrCode{http2.ErrCodeProtocol},
			onRequest: func(p *peer, _ uint32) { _ = p.send(windowUpdate(0, 0)) },
		},
		{
			Name: "WINDOW_UPDATE by 0 of a stream", Codes: []codes.Code{codes.Internal}, Own: true, Says: "WINDOW_UPDATE by 0",
			onRequest: func(p *peer, id uint32) { _ = p.send(windowUpdate(id, 0)) },
		},
		{
			Name: "the connection's window overflows", Codes: []codes.Code{codes.Unavailable}, Own: true, Says: "overflows",
			Ends:      []http2.ErrCode{http2.ErrCodeFlowControl},
			onRequest: func(p *peer, _ uint32) { _ = p.send(windowUpdate(0, 1<<31-1), windowUpdate(0, 1<<31-1)) },
		},
		{
			Name: "a stream's window overflows", Codes: []codes.Code{codes.Internal}, Own: true, Says: "overflows",
			onRequest: func(p *peer, id uint32) { _ = p.send(windowUpdate(id, 1<<31-1), windowUpdate(id, 1<<31-1)) },
		},
		{
			Name: "SETTINGS make a stream's window overflow", Codes: []codes.Code{codes.Unavailable}, Own: true, Says: "overflow",
			Ends: []http2.ErrCode{http2.ErrCodeFlowControl},
			onRequest: func(p *peer, id uint32) {
				_ = p.send(windowUpdate(id, 1<<31-1-65535), settingsFrame(setting(http2.SettingInitialWindowSize, 1<<31-1)))
			},
		},
		{
			Name: "a window of 0 for ever", Request: Upload, Deadline: 2 * time.Second, settings: smallWindow,
			Codes: []codes.Code{codes.DeadlineExceeded},
			Own:   true,
		},
		{
			Name: "windows of one octet", Request: Upload, Deadline: 2 * time.Second, settings: smallWindow,
			Codes: []codes.Code{codes.DeadlineExceeded, codes.Unavailable}, Own: true,
			onRequest: func(p *peer, id uint32) { p.flood(windowUpdate(id, 1)) },
		},
		{
			Name: "reads nothing", Request: Upload, Deadline: 2 * time.Second, deaf: true,
			Codes: []codes.Code{codes.DeadlineExceeded, codes.ResourceExhausted}, Own: true,
		},
		{
			Name: "answers without reading", Request: Upload, deaf: true, Deadline: 2 * time.Second,
			Codes: []codes.Code{codes.OK, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Internal},
			onOpen: func(p *peer) {
				for id := uint32(1); id < 20; id += 2 {
					time.Sleep(100 * time.Millisecond) // until the stream may be there
					if p.send(answer(id)) != nil {
						return
					}
				}
			},
		},
		{
			Name: "answers before the request is there", Request: Upload, Codes: []codes.Code{codes.OK}, settings: smallWindow,
			onRequest: good,
		},
		{
			Name: "answers, and the request goes on", Request: Open, Codes: []codes.Code{codes.OK},
			onRequest: good,
		},
		{
			Name: "says that it has no window left, again and again", Request: Upload, Deadline: 2 * time.Second,
			Codes: []codes.Code{codes.DeadlineExceeded, codes.Unavailable}, Own: true,
			onRequest: func(p *peer, _ uint32) {
				for size := uint32(0); p.wait(time.Millisecond); size = 1 - size {
					if p.send(settingsFrame(setting(http2.SettingInitialWindowSize, size))) != nil {
						return
					}
				}
			},
		},
	}
}
