package h2

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// fuzzSeeds are conversations that reach deep into the engine; more come from the
// fuzzer.
func fuzzSeeds(f *testing.F, role Role) {
	record := func(send func(p *peer)) {
		_, end := newSim()
		p := newPeer(f, end, false)
		send(p)
		f.Add(end.out.buf, uint8(0), uint8(0))
		f.Add(end.out.buf, uint8(1), uint8(7))
	}
	head := func(p *peer, id uint32, end bool) {
		if role == Server {
			p.headers(id, end, with(post, "content-length", "5", "x", "y")...)
		} else {
			p.headers(id, end, with(ok, "x", "y")...)
		}
	}
	record(func(p *peer) { p.must(p.WriteSettings(maxStreams(1), initialWindow(100))) })
	record(func(p *peer) { p.must(p.WriteSettings()); head(p, 1, true) })
	record(func(p *peer) {
		p.must(p.WriteSettings())
		head(p, 1, false)
		p.must(p.WriteDataPadded(1, false, []byte("hello"), make([]byte, 9)))
		p.must(p.WriteWindowUpdate(1, 100))
		p.must(p.WriteSettings(initialWindow(0)))
		p.must(p.WriteSettings(initialWindow(1<<20), http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20}))
		p.headers(1, true, "grpc-status", "0")
	})
	record(func(p *peer) {
		p.must(p.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}))
		p.must(p.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.encode(get...)[:3], PadLength: 3}))
		p.must(p.WriteContinuation(3, false, nil))
		p.must(p.WriteContinuation(3, true, p.encode("a", "b")))
		p.must(p.WritePing(false, [8]byte{}))
		p.must(p.WritePing(true, shutdownPing))
		p.must(p.WriteRSTStream(3, http2.ErrCodeRefusedStream))
		p.must(p.WriteGoAway(1, http2.ErrCodeNo, []byte("bye")))
		p.must(p.WritePriority(1, http2.PriorityParam{StreamDep: 1}))
		p.must(p.WriteData(1, true, nil))
	})
}

func FuzzServer(f *testing.F) {
	fuzzSeeds(f, Server)
	f.Fuzz(func(t *testing.T, p []byte, most, what uint8) { fuzz(t, Server, p, most, what) })
}

func FuzzClient(f *testing.F) {
	fuzzSeeds(f, Client)
	f.Fuzz(func(t *testing.T, p []byte, most, what uint8) { fuzz(t, Client, p, most, what) })
}

// fuzz has a connection get these bytes, in reads of at most so many, while its
// streams do what the bits of what say. It must neither hang nor keep anything,
// and each of its frames must make sense to golang.org/x/net.
func fuzz(t *testing.T, role Role, p []byte, most, what uint8) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{MaxConcurrentStreams: 5, MaxHeaderListSize: 2000, Budget: NewBudget(10000), KeepaliveInterval: time.Minute}
		r := newRig(t, role, cfg)
		r.engine.in.most = int(most)
		bit := func(n int) bool { return what>>n&1 == 1 }
		if bit(0) {
			r.room(100)
		}
		send := func(b *Batch, o *recorder, event string) {
			if event == "closed" {
				return
			}
			if role == Server {
				o.s.SendHeaders(b, fields(ok...), bit(1))
			}
			o.s.SendData(b, make([]byte, 3000), bit(2))
			if bit(3) {
				o.s.Reset(b, Cancel)
			}
			o.s.SendHeaders(b, fields("grpc-status", "0"), true)
		}
		r.w.fresh = func(o *recorder) { o.react, o.keep = send, bit(4) }
		if role == Client {
			for range 3 {
				o := newRecorder(t)
				o.react, o.keep = send, bit(4)
				do(func(b *Batch) {
					o.mu.Lock()
					defer o.mu.Unlock()
					gen, err := r.c.Open(b, &o.s, fields(post...), bit(5))
					if err == nil {
						o.gen = gen
						r.opened = append(r.opened, o)
					}
				})
			}
		} else {
			r.raw([]byte(clientPreface))
		}
		if bit(6) {
			r.frames()
			r.shutdown()
		}
		r.raw(p)
		r.frames()
		if bit(7) {
			do(func(b *Batch) { r.c.Abort(b, InternalError, "enough") })
		}
		r.drain()
	})
}
