package h2

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// wantCalm checks that the peer was told to calm down.
func (r *rig) wantCalm() {
	r.t.Helper()
	lines := r.frames()
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "ENHANCE_YOUR_CALM") && l[:6] == "GOAWAY" }) {
		r.t.Errorf("the peer was not told to calm down, but %d lines ending in %q", len(lines), lines[max(0, len(lines)-3):])
	}
}

func TestNuisances(t *testing.T) {
	floods := map[string]func(r *rig){
		"PING":                    func(r *rig) { r.must(r.WritePing(false, [8]byte{})) },
		"SETTINGS":                func(r *rig) { r.must(r.WriteSettings()) },
		"PRIORITY":                func(r *rig) { r.must(r.WritePriority(1, http2.PriorityParam{StreamDep: 3})) },
		"unknown frames":          func(r *rig) { r.must(r.WriteRawFrame(0x77, 0, 0, nil)) },
		"empty DATA":              func(r *rig) { r.must(r.WriteData(1, false, nil)) },
		"padding only":            func(r *rig) { r.must(r.WriteDataPadded(1, false, nil, make([]byte, 5))) },
		"WINDOW_UPDATE":           func(r *rig) { r.must(r.WriteWindowUpdate(1, 1)) },
		"WINDOW_UPDATE of all":    func(r *rig) { r.must(r.WriteWindowUpdate(0, 1)) },
		"RST_STREAM of no stream": func(r *rig) { r.must(r.WriteRSTStream(1, http2.ErrCodeCancel)) },
	}
	for name, send := range floods {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, _ := openStream(t, role)
					if role == Client {
						r.headers(1, false, ok...)
						r.frames()
					}
					for range 5000 {
						send(r)
					}
					r.wantCalm()
				})
			})
		})
	}
}

// What is a nuisance in a row is none now and then.
func TestNuisancesInTime(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{Nuisance: 100})
		for range 100 {
			for range 49 {
				r.must(r.WritePing(false, [8]byte{}))
			}
			if n := len(r.frames()); n != 49 {
				t.Fatalf("%d PINGs were answered", n)
			}
			time.Sleep(time.Second)
		}
	})
}

// Work makes up for nuisances: a gRPC client pings to measure the bandwidth, and
// gives back both windows for each small frame of DATA that it gets.
func TestNuisancesWithWork(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStreamWith(t, Config{Nuisance: 100}, Server)
		for range 2000 {
			o.write(10, false)
			r.must(r.WriteWindowUpdate(1, 10))
			r.must(r.WriteWindowUpdate(0, 10))
			want(t, "the answer", r.frames(), "DATA 1 10")
		}
		for range 1000 {
			r.must(r.WriteData(1, false, []byte("x")))
			r.must(r.WritePing(false, [8]byte{}))
			want(t, "the answer to DATA and PING", r.frames(), "PING ack*")
		}
	})
}

// A client that opens streams only to reset them is told to calm down (rapid
// reset), also on a connection that was useful for long.
func TestRapidReset(t *testing.T) {
	for _, good := range []int{0, 15000} {
		t.Run(fmt.Sprintf("after %d good streams", good), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				r.c.handler = answerAll{}
				r.must(r.WriteWindowUpdate(0, 1<<30))
				id := uint32(1)
				for range good {
					r.headers(id, true, get...)
					if id += 2; id%500 == 1 {
						r.frames()
					}
				}
				r.frames()
				r.c.handler = r.w
				for range 10000 {
					r.headers(id, true, get...)
					r.must(r.WriteRSTStream(id, http2.ErrCodeCancel))
					id += 2
				}
				r.wantCalm()
			})
		})
	}
}

// A client may also be made to have its streams reset.
func TestMadeYouReset(t *testing.T) {
	resets := map[string]func(r *rig, id uint32){
		"WINDOW_UPDATE by 0": func(r *rig, id uint32) { r.must(r.WriteWindowUpdate(id, 0)) },
		"window overflow":    func(r *rig, id uint32) { r.must(r.WriteWindowUpdate(id, 1<<31-1)) },
		"PRIORITY on itself": func(r *rig, id uint32) { r.must(r.WritePriority(id, http2.PriorityParam{StreamDep: id})) },
		"DATA after the end": func(r *rig, id uint32) { r.must(r.WriteData(id, false, []byte("x"))) },
		"trailers twice":     func(r *rig, id uint32) { r.headers(id, true, "x", "y") },
	}
	for name, reset := range resets {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				for id := uint32(1); id < 20000; id += 2 {
					r.headers(id, true, get...)
					reset(r, id)
				}
				r.wantCalm()
			})
		})
	}
}

// Malformed requests never get to be streams.
func TestMalformedRequestsWithoutEnd(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		for id := uint32(1); id < 20000; id += 2 {
			r.headers(id, true, "x", "y")
		}
		r.wantCalm()
	})
}

// Cancelling is a client's right where it has waited, or was answered, or does not
// do it most of the time.
func TestHonestCancellations(t *testing.T) {
	cancel := func(r *rig, id uint32) { r.must(r.WriteRSTStream(id, http2.ErrCodeCancel)) }
	clients := map[string]func(r *rig, id uint32){
		"waits for its deadline": func(r *rig, id uint32) {
			if id%1000 == 999 {
				r.frames()
				time.Sleep(150 * time.Millisecond) // a deadline
				for i := range uint32(500) {
					cancel(r, id-2*i)
				}
				r.frames()
			}
		},
		"answered": func(r *rig, id uint32) {
			r.frames()
			do(func(b *Batch) { r.w.stream(int(id/2)).s.SendHeaders(b, fields(ok...), false) })
			cancel(r, id)
		},
		"one in three": func(r *rig, id uint32) {
			r.frames()
			if id%3 == 0 {
				cancel(r, id)
			} else {
				r.w.stream(int(id/2)).send(true, ok...)
			}
		},
	}
	for name, then := range clients {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				for id := uint32(1); id < 6000; id += 2 {
					r.headers(id, true, get...)
					then(r, id)
				}
				for _, line := range r.frames() {
					if strings.HasPrefix(line, "GOAWAY") {
						t.Fatal(line)
					}
				}
			})
		})
	}
}

// Streams that we reset all at once, since an instance died or a deadline passed,
// may have frames on their way that are no offence of the peer's.
func TestMassReset(t *testing.T) {
	const streams = 5000
	t.Run("server", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newServer(t, Config{MaxConcurrentStreams: streams})
			for i := range streams {
				r.headers(uint32(1+2*i), false, post...)
			}
			r.frames()
			for i := range streams {
				r.w.stream(i).send(true, with(ok, "grpc-status", "14")...)
			}
			r.frames()
			for i := range streams {
				r.must(r.WriteData(uint32(1+2*i), false, []byte("late")))
				if i%2 == 0 {
					r.headers(uint32(1+2*i), true, "late", "trailers")
				} else {
					r.must(r.WriteRSTStream(uint32(1+2*i), http2.ErrCodeCancel))
				}
			}
			want(t, "frames", r.frames())
		})
	})
	t.Run("client", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newClient(t, Config{})
			for range streams {
				r.open(true, get...)
			}
			r.frames()
			for _, o := range r.opened {
				o.rst(Cancel)
			}
			r.frames()
			for i := range streams {
				r.headers(uint32(1+2*i), false, ok...)
				r.must(r.WriteData(uint32(1+2*i), false, []byte("late")))
				if i%2 == 0 {
					r.headers(uint32(1+2*i), true, "grpc-status", "0")
				} else {
					r.must(r.WriteRSTStream(uint32(1+2*i), http2.ErrCodeCancel))
				}
			}
			want(t, "frames", r.frames())
		})
	})
}

// That a stream was reset is no licence to go on with it for ever.
func TestNuisancesOnAStreamThatWasReset(t *testing.T) {
	floods := map[string]func(r *rig){
		"empty DATA": func(r *rig) { r.must(r.WriteData(1, false, nil)) },
		"its end":    func(r *rig) { r.must(r.WriteData(1, true, []byte("x"))) },
		"HEADERS":    func(r *rig) { r.headers(1, false, ok...) },
		"RST_STREAM": func(r *rig) { r.must(r.WriteRSTStream(1, http2.ErrCodeCancel)) },
	}
	for name, send := range floods {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, o := openStream(t, role)
					o.rst(Cancel)
					r.frames()
					for range 5000 {
						send(r)
					}
					r.wantCalm()
				})
			})
		})
	}
}

// Before it knows the limit a client may open more streams than that.
func TestManyStreamsAtTheBeginning(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Server, Config{MaxConcurrentStreams: 100})
		r.raw([]byte(clientPreface))
		r.must(r.WriteSettings())
		for i := range 1600 {
			r.headers(uint32(1+2*i), false, post...)
			r.must(r.WriteData(uint32(1+2*i), true, []byte("x")))
		}
		lines := r.frames()
		want(t, "the first refused", lines[3:4], "RST_STREAM 201 REFUSED_STREAM")
		want(t, "the last refused", lines[len(lines)-1:], "RST_STREAM 3199 REFUSED_STREAM")
	})
}
