package h2

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// Connections share a config that is complete: it is part of what each of many
// idle ones costs.
func TestConnectionsShareTheirConfig(t *testing.T) {
	t.Parallel()
	full := Config{Nuisance: 7}.WithDefaults()
	end, _ := newSim()
	if c := New(end, Server, &full, answerAll{}); c.cfg != &full {
		t.Error("a complete config was copied")
	}
	raw := Config{Nuisance: 7}
	c := New(end, Server, &raw, answerAll{})
	if c.cfg == &raw || c.cfg.Nuisance != 7 || c.cfg.MaxOwed == 0 {
		t.Errorf("a config without defaults became %+v", c.cfg)
	}
	if raw.MaxOwed != 0 {
		t.Error("the caller's config was changed")
	}
}

// Each limit holds where it is set, and not at its default.
func TestLimitsAreConfigurable(t *testing.T) {
	tests := map[string]struct {
		cfg  Config
		test func(r *rig)
	}{
		"MaxContinuations": {Config{MaxContinuations: 3}, func(r *rig) {
			r.continued(1, 3)
			want(r.t, "what the owner of the first is told", r.w.stream(0).log(), "request*")
			r.continued(3, 4)
			want(r.t, "the answer to the second", r.frames(), "GOAWAY 1 ENHANCE_YOUR_CALM*", "end: EOF")
		}},
		"more MaxContinuations than the default": {Config{MaxContinuations: 100}, func(r *rig) {
			r.continued(1, 100)
			want(r.t, "what the owner is told", r.w.stream(0).log(), "request*")
		}},
		"PrematureResets": {Config{PrematureResets: 20}, func(r *rig) {
			id := uint32(1)
			for range 20 {
				r.headers(id, true, get...)
				r.must(r.WriteRSTStream(id, http2.ErrCodeCancel))
				id += 2
			}
			want(r.t, "the answer to as many as allowed", r.frames())
			r.headers(id, true, get...)
			r.must(r.WriteRSTStream(id, http2.ErrCodeCancel))
			r.wantCalm()
		}},
		"PrematureResets where any number may be open": {Config{PrematureResets: 20, MaxConcurrentStreams: 1<<31 - 1}, func(r *rig) {
			for id := uint32(1); id < 200; id += 2 {
				r.headers(id, true, get...)
				r.must(r.WriteRSTStream(id, http2.ErrCodeCancel))
			}
			r.wantCalm()
		}},
		"PrematureAge": {Config{PrematureResets: 20, PrematureAge: 2 * time.Second}, func(r *rig) {
			for id := uint32(1); id < 1000; id += 2 {
				r.headers(id, true, get...)
			}
			time.Sleep(time.Second) // by default none would count any more
			for id := uint32(1); id < 1000; id += 2 {
				r.must(r.WriteRSTStream(id, http2.ErrCodeCancel))
			}
			r.wantCalm()
		}},
		"Nuisance": {Config{Nuisance: 50}, func(r *rig) {
			for range 200 {
				r.must(r.WritePing(false, [8]byte{}))
			}
			r.wantCalm()
		}},
		"MaxOwed": {Config{MaxOwed: 100, StallTimeout: 5 * time.Second}, func(r *rig) {
			r.room(0)
			for range 1900 {
				r.must(r.WritePing(false, [8]byte{}))
				synctest.Wait() // each read brings one
			}
			if owed := r.owed(); owed < 100 || owed > 110 {
				r.t.Errorf("%d answers are kept, want 100", owed)
			}
			<-r.served
		}},
		"MaxControl": {Config{MaxOutput: 16 << 10, MaxControl: 20 << 10, StallTimeout: 5 * time.Second}, func(r *rig) {
			r.room(0)
			for range 1900 {
				r.must(r.WritePing(false, [8]byte{}))
				synctest.Wait() // each read brings one
			}
			if n := r.waiting(); n < 20<<10 || n > 21<<10 {
				r.t.Errorf("%d bytes wait in the output, want 20 KiB", n)
			}
			<-r.served
		}},
		"LingerTimeout": {Config{LingerTimeout: 7 * time.Second}, func(r *rig) {
			r.room(0)
			start := time.Now()
			r.headers(2, true, get...)
			<-r.served
			if took := time.Since(start); took != 7*time.Second {
				r.t.Errorf("an ended connection was kept for %v", took)
			}
		}},
		"MaxOutput": {Config{MaxOutput: 20 << 10}, func(r *rig) {
			r.room(0)
			r.must(r.WriteWindowUpdate(0, 1<<20))
			for i := range 10 {
				r.headers(uint32(1+2*i), true, get...)
			}
			synctest.Wait()
			for i := range 10 {
				o := r.w.stream(i)
				o.send(false, ok...)
				o.write(10000, false)
			}
			if n := r.waiting(); n > 64<<10 {
				r.t.Errorf("%d bytes wait in the output", n)
			}
			r.room(1 << 20)
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) { test.test(newServer(t, test.cfg)) })
		})
	}
}

// A list of headers that is larger than the default allows can be continued for
// as long as it takes.
func TestContinuationsFollowTheListSize(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		list, want uint32
	}{{64 << 10, 64}, {1 << 20, 65}, {16 << 20, 1025}} {
		if got := (Config{MaxHeaderListSize: test.list}).WithDefaults().MaxContinuations; got != test.want {
			t.Errorf("%d CONTINUATIONs for a list of %d, want %d", got, test.list, test.want)
		}
	}
}

// The size of the compression tables is told to the peer, and holds for what it
// sends and for what it is sent.
func TestHeaderTableSizeOfOurs(t *testing.T) {
	for name, size := range map[string]uint32{"smaller": 1024, "larger": 16384} {
		cfg := Config{HeaderTableSize: size}
		t.Run(name+"/told", func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				full := cfg.WithDefaults()
				if got := appendFirstSettings(nil, role, &full); !bytes.Contains(got, []byte{0, 1, 0, 0, byte(size >> 8), byte(size)}) {
					t.Errorf("SETTINGS are % x", got)
				}
			})
		})
		t.Run(name+"/for the peer", func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, cfg)
				r.enc.SetMaxDynamicTableSizeLimit(1 << 20)
				r.enc.SetMaxDynamicTableSize(size)
				r.headers(1, true, get...)
				synctest.Wait()
				want(t, "what the owner is told", r.w.stream(0).log(), "request*")
				r.enc.SetMaxDynamicTableSize(size + 1)
				r.headers(3, true, get...)
				want(t, "the answer to a table that is too large", r.frames(), "GOAWAY 1 COMPRESSION_ERROR*", "end: EOF")
			})
		})
		t.Run(name+"/for us", func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, cfg, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1 << 20})
				// A table size update (RFC 7541 section 6.3).
				update := []byte{0x3f, byte(size-31)&0x7f | 0x80, byte((size - 31) >> 7)}
				if got := r.c.enc.BeginBlock(nil); !bytes.Equal(got, update) {
					t.Errorf("the first block begins % x, want % x", got, update)
				}
			})
		})
	}
}

// continued sends a request whose header block ends with the nth CONTINUATION.
func (r *rig) continued(id uint32, n int) {
	r.t.Helper()
	r.must(r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: true, BlockFragment: r.encode(get...)}))
	for i := range n {
		r.must(r.WriteContinuation(id, i == n-1, nil))
	}
	synctest.Wait()
}

// owed is how many frames are owed to the peer.
func (r *rig) owed() int {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.c.owed
}

// waiting is how many bytes wait for the peer, those being written included.
func (r *rig) waiting() int {
	synctest.Wait()
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	n := r.c.appended - r.c.written
	if r.c.out != nil {
		n += uint64(len(r.c.out.b))
	}
	return int(n)
}
