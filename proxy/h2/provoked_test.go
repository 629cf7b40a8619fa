package h2

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// wantNoEnd checks that the peer was not told to calm down.
func (r *rig) wantNoEnd() {
	r.t.Helper()
	for _, line := range r.frames() {
		if strings.HasPrefix(line, "GOAWAY") || strings.HasPrefix(line, "end") {
			r.t.Fatal(line)
		}
	}
}

// toldToCalmDown says whether the peer is told so by now.
func (r *rig) toldToCalmDown() bool {
	r.t.Helper()
	return slices.ContainsFunc(r.frames(), func(l string) bool {
		return strings.HasPrefix(l, "GOAWAY") && strings.Contains(l, "ENHANCE_YOUR_CALM")
	})
}

// A peer that was sent many small frames may answer all of them at once.
func TestUpdatesInOneBurst(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStreamWith(t, Config{}, Server)
		const frames = 6000
		for range frames {
			o.write(1, false)
		}
		r.frames()
		for range frames {
			r.must(r.WriteWindowUpdate(1, 1))
			r.must(r.WriteWindowUpdate(0, 1))
		}
		r.wantNoEnd()
		for range 5000 {
			r.must(r.WriteWindowUpdate(0, 1))
		}
		r.wantCalm()
	})
}

// A peer that opens a window octet by octet makes a frame of each (CVE-2019-9511).
func TestUpdatesOctetByOctet(t *testing.T) {
	for name, id := range map[string]uint32{"stream": 1, "connection": 0} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
				r.headers(1, false, post...)
				r.frames()
				o := r.w.stream(0)
				o.send(false, ok...)
				if id == 1 {
					r.must(r.WriteWindowUpdate(0, 1<<30))
				}
				o.write(4<<20, false)
				r.frames()
				for i := range 4000 {
					r.must(r.WriteWindowUpdate(id, 1))
					if r.toldToCalmDown() {
						return
					}
					if i == 3999 {
						t.Error("the peer was not told to calm down")
					}
				}
			})
		})
	}
}

// Of streams that a client has reset, frames of all kinds may be on their way.
func TestFramesBehindResets(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		const streams = 5000
		for range streams {
			r.open(false, post...)
		}
		r.frames()
		for _, o := range r.opened {
			o.rst(Cancel)
		}
		r.frames()
		for i := range streams { // an answer without reading the request, as grpc-go's servers give
			id := uint32(1 + 2*i)
			r.must(r.WriteWindowUpdate(id, 1))
			r.headers(id, true, with(ok, "grpc-status", "12")...)
			r.must(r.WriteRSTStream(id, http2.ErrCodeNo))
		}
		r.wantNoEnd()
	})
}

// What is only an answer is a nuisance where nothing was asked.
func TestAnswersThatNobodyAskedFor(t *testing.T) {
	for name, send := range map[string]func(r *rig){
		"SETTINGS ack": func(r *rig) { r.must(r.WriteSettingsAck()) },
		"PING ack":     func(r *rig) { r.must(r.WritePing(true, [8]byte{})) },
		"growth ack":   func(r *rig) { r.must(r.WritePing(true, growthPing)) },
		"shutdown ack": func(r *rig) { r.must(r.WritePing(true, shutdownPing)) },
	} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, _ := openStream(t, role)
					for range 5000 {
						send(r)
					}
					r.wantCalm()
				})
			})
		})
	}
}

// A peer may say twice that it goes away, not for ever.
func TestGoAwayWithoutEnd(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, _ := openStream(t, role)
			for range 5000 {
				r.must(r.WriteGoAway(1, http2.ErrCodeNo, nil))
			}
			r.wantCalm()
		})
	})
}

// A change of all streams' windows costs as much as there are streams.
func TestWindowsThatComeAndGo(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		for id := uint32(1); id < 1900; id += 2 {
			r.headers(id, false, post...)
		}
		r.frames()
		for i := range uint32(200) {
			r.must(r.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000 + i%2}))
		}
		r.wantCalm()
	})
}

// A client whose RPCs have short deadlines ends them all, where an instance hangs;
// and a client without deadlines may do so at a rate at which it would not need to
// reset anything, were it to wait a second each time.
func TestResetsThatAreExcused(t *testing.T) {
	clients := map[string]struct {
		deadline, wait time.Duration
		each           int // streams between two waits
		calm           bool
	}{
		"deadlines of 50ms":                      {50 * time.Millisecond, 49 * time.Millisecond, 500, false},
		"deadlines of 50ms, without waiting":     {50 * time.Millisecond, 20 * time.Millisecond, 500, true},
		"deadlines too short to be believed":     {time.Millisecond, time.Millisecond, 500, true},
		"no deadlines, 900 a second":             {0, 10 * time.Millisecond, 9, false},
		"no deadlines, 5,000 a second":           {0, 10 * time.Millisecond, 50, true},
		"short deadlines, but only 900 a second": {time.Millisecond, 10 * time.Millisecond, 9, false},
	}
	for name, client := range clients {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				id := uint32(1)
				for range 20_000 / client.each {
					first := id
					for range client.each {
						r.headers(id, false, get...)
						id += 2
					}
					r.frames()
					for i := first; i < id; i += 2 {
						if client.deadline > 0 {
							r.w.stream(int(i / 2)).s.Patience(client.deadline * 9 / 10)
						}
					}
					time.Sleep(client.wait)
					for ; first < id; first += 2 {
						r.must(r.WriteRSTStream(first, http2.ErrCodeCancel))
					}
					if r.toldToCalmDown() {
						if !client.calm {
							t.Errorf("the peer was told to calm down after %d streams", id/2)
						}
						return
					}
				}
				if client.calm {
					t.Error("the peer was not told to calm down")
				}
			})
		})
	}
}
