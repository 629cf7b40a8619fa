package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// policing gives each RPC of a caller its policies.
type policing struct {
	callers
	give func(*policed)
}

func (p policing) NewStream(c *h2.Conn) *h2.Stream {
	r, _ := p.rpcs.Get().(*RPC)
	r.mu.Lock()
	defer r.mu.Unlock()
	p.give(r.police())
	return &r.down
}

// under connects a caller whose RPCs have these policies.
func (r *rig) under(give func(*policed)) *rig {
	r.t.Helper()
	other := *r
	other.Peer = r.callerOf(policing{callers{r.proxy}, give})
	r.t.Cleanup(other.Peer.Close)
	return &other
}

// even is a source of randomness whose waits are just those of the policy.
func even() uint64 { return 1 << 63 }

// seen is an attempt as an instance saw it.
type seen struct {
	at       time.Duration // since the RPC began
	host     string
	previous string // grpc-previous-rpc-attempts
	timeout  string // grpc-timeout
	peer     *scriptpeer.Peer
	id       uint32
}

func (s seen) String() string {
	return strings.TrimSpace(fmt.Sprintf("%v %s %s", s.at, s.host, s.previous))
}

// reaction is what an instance does with an attempt.
type reaction func(p *scriptpeer.Peer, id uint32)

func answers(status string, pairs ...string) reaction {
	return func(p *scriptpeer.Peer, id uint32) { p.TrailersOnly(id, status, pairs...) }
}

func resets(code http2.ErrCode) reaction {
	return func(p *scriptpeer.Peer, id uint32) { p.Reset(id, code) }
}

func silent(*scriptpeer.Peer, uint32) {}

// later does something after a while, unless the RPC is over.
func later(wait time.Duration, does reaction) reaction {
	return func(p *scriptpeer.Peer, id uint32) {
		time.AfterFunc(wait, func() { does(p, id) })
	}
}

// fails answers headers, and then a status in trailers.
func fails(status string) reaction {
	return func(p *scriptpeer.Peer, id uint32) {
		p.Response(id)
		p.Trailers(id, status)
	}
}

// play has instances react to attempts in their order, until the caller has got its
// answer and nothing more happens, or for a while. It tells which attempts there were,
// and what the caller and the instances got beside the request.
func (r *rig) play(hosts []*scriptpeer.Host, script ...reaction) (attempts []seen, caller, told []string) {
	r.t.Helper()
	start := time.Now()
	deaf := 0
	for time.Since(start) < 20*time.Second && deaf < 3000 {
		moved := false
		for i, h := range hosts {
			if h == nil {
				continue
			}
			for _, p := range h.Conns() {
				for _, f := range p.Frames() {
					switch f.Type {
					case http2.FrameHeaders:
						s := seen{time.Since(start), address(i), f.Get(wire.HeaderPreviousAttempts), f.Get(wire.HeaderTimeout), p, f.Stream}
						attempts = append(attempts, s)
						if n := len(attempts) - 1; n < len(script) {
							script[n](p, f.Stream)
						}
						moved = true
					case http2.FrameRSTStream:
						told = append(told, fmt.Sprintf("%v %s %v", time.Since(start), address(i), f.Code))
						moved = true
					}
				}
			}
		}
		for _, line := range r.Lines() {
			caller = append(caller, line)
			moved = true
		}
		if deaf++; moved {
			deaf = 0
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	synctest.Wait()
	return attempts, caller, told
}

// listen has n instances listen.
func (r *rig) listen(n int) (hosts []*scriptpeer.Host) {
	for i := range n {
		hosts = append(hosts, r.net.Listen(address(i)))
	}
	return hosts
}

// expect compares what came with what was wanted, where a "*" stands for anything.
func expect(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(got, want string) bool {
		start, rest, open := strings.Cut(want, "*")
		return got == want || open && strings.HasPrefix(got, start) && strings.HasSuffix(got, rest)
	}) {
		t.Errorf("%s:\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func lineOf(attempts []seen) (lines []string) {
	for _, a := range attempts {
		lines = append(lines, a.String())
	}
	return lines
}

// pushed is an answer's trailers with that pushback, "" for none.
func pushed(back string) []hpack.Field {
	if back == "" {
		return nil
	}
	return []hpack.Field{{Name: wire.HeaderRetryPushback, Value: back}}
}
