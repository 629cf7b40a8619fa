package modeltest

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rpcKind is one of the four kinds of RPCs.
type rpcKind uint8

const (
	unary rpcKind = iota
	clientStream
	serverStream
	bidi
)

// ends is how an instance ends an RPC.
type ends uint8

const (
	endsWell       ends = iota // headers, messages, trailers
	endsAtOnce                 // nothing but a status, before the request has ended
	endsEarly                  // headers, some messages, trailers, while the request is under way
	endsReset                  // RST_STREAM before an answer
	endsResetLater             // RST_STREAM after headers and perhaps messages
	endsResetMid               // RST_STREAM in the middle of a message
	endsDying                  // the connection breaks
)

// rpc is an RPC: what is to happen, and what did.
type rpc struct {
	id     int
	client int
	start  time.Duration
	kind   rpcKind
	path   string

	requests, answers  []int // sizes of the messages
	metadata           []hpack.HeaderField
	headers, trailers  []hpack.HeaderField
	timeout            time.Duration // 0: none
	cancelAfter        time.Duration // 0: never
	pause              time.Duration // of the client, between messages
	slowness           time.Duration // of the client, between reads
	think              time.Duration // of the instance, before the answer and between messages
	slowReading        time.Duration // of the instance
	ends               ends
	after              int // messages of the answer until it ends, unless it ends well
	status             int
	message            string
	code               http2.ErrCode
	endApart, infoHead bool
	left               bool // out of the test
	seed               uint64

	mu       sync.Mutex
	attempts []*attempt
	outcome  outcome
	notes    []note
}

// note is something that happened to an RPC.
type note struct {
	at   time.Duration
	text string
	args []any
}

func newRPC(p *plan, id int) *rpc {
	r := rng(p.seed, "rpc", id)
	c := &rpc{
		id: id, client: r.IntN(p.clients), start: between(r, 0, horizon), kind: rpcKind(r.IntN(4)),
		path: "/model.Test/R" + strconv.Itoa(id), seed: r.Uint64(), code: http2.ErrCodeCancel,
	}
	if chance(r, 3) { // many at the same time
		c.start = c.start.Truncate(500 * time.Millisecond)
	}
	c.requests, c.answers = []int{size(r)}, []int{size(r)}
	if c.kind == clientStream || c.kind == bidi {
		c.requests = sizes(r)
	}
	if c.kind == serverStream || c.kind == bidi {
		c.answers = sizes(r)
	}
	c.metadata, c.headers, c.trailers = fields(r, "m"), fields(r, "h"), fields(r, "t")
	switch r.IntN(10) {
	case 0, 1:
		c.timeout = between(r, time.Millisecond, 500*time.Millisecond).Truncate(time.Microsecond)
	case 2, 3, 4:
		c.timeout = between(r, time.Second, 20*time.Second).Truncate(time.Millisecond)
	}
	if chance(r, 12) {
		c.cancelAfter = between(r, 1, 200*time.Millisecond)
	}
	c.pause, c.slowness = pause(r), pause(r)
	c.think, c.slowReading = pause(r), pause(r)
	c.after = r.IntN(len(c.answers))
	c.endApart, c.infoHead = chance(r, 3), chance(r, 40)
	c.decideEnd(r)
	return c
}

func (c *rpc) decideEnd(r *rand.Rand) {
	switch n := r.IntN(100); {
	case n < 80:
	case n < 85:
		c.ends = endsAtOnce
	case n < 90:
		c.ends = endsEarly
	case n < 92:
		c.ends = endsReset
	case n < 94:
		c.ends = endsResetLater
	case n < 96:
		c.ends = endsResetMid
	case n < 97:
		c.ends = endsDying
	}
	if c.ends != endsWell || chance(r, 10) {
		c.status = r.IntN(17)
		c.message = oneOf(r, "", "no", "100% wrong: ä", strings.Repeat("long ", 50))
	}
	c.code = oneOf(r, http2.ErrCodeCancel, http2.ErrCodeInternal, http2.ErrCodeEnhanceYourCalm,
		http2.ErrCodeRefusedStream, http2.ErrCodeNo)
	if c.ends >= endsResetLater && c.code == http2.ErrCodeRefusedStream {
		c.code = http2.ErrCodeProtocol // an instance that has begun may not say that
	}
}

// size returns a message's: mostly small.
func size(r *rand.Rand) int {
	switch n := r.IntN(100); {
	case n < 70:
		return r.IntN(300)
	case n < 93:
		return r.IntN(20_000)
	case n < 99:
		return r.IntN(150_000)
	}
	return r.IntN(600_000)
}

func sizes(r *rand.Rand) []int {
	all := make([]int, 1+r.IntN(8))
	for i := range all {
		all[i] = size(r)
	}
	return all
}

func pause(r *rand.Rand) time.Duration {
	switch r.IntN(8) {
	case 0:
		return between(r, 0, 10*time.Millisecond)
	case 1:
		return between(r, 0, 200*time.Millisecond)
	}
	return 0
}

// fields are metadata, whose order and repetition matter.
func fields(r *rand.Rand, prefix string) (all []hpack.HeaderField) {
	for range r.IntN(5) {
		name, value := fmt.Sprintf("%s-%d", prefix, r.IntN(4)), strconv.FormatUint(r.Uint64(), 36)
		switch r.IntN(12) {
		case 0:
			p := make([]byte, r.IntN(100))
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			name, value = name+"-bin", base64.RawStdEncoding.EncodeToString(p)
		case 1:
			value = strings.Repeat(value, 1+r.IntN(300))
		case 2:
			value = "always the same"
		}
		all = append(all, hpack.HeaderField{Name: name, Value: value})
	}
	return all
}

// noise is what messages are made of.
var noise = func() []byte {
	p := make([]byte, 65521)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}()

// body returns messages with their prefixes. No two bodies are alike, nor two
// messages of one.
func body(key uint64, sizes []int) []byte {
	total := 0
	for _, n := range sizes {
		total += 5 + n
	}
	p := make([]byte, 0, total)
	for i, n := range sizes {
		p = binary.BigEndian.AppendUint32(append(p, 0), uint32(n))
		off := int((key + uint64(i)*7919) % uint64(len(noise)))
		for n > 0 {
			part := noise[off:min(off+n, len(noise))]
			p = append(p, part...)
			n -= len(part)
			off = 0
		}
	}
	return p
}

// boundary returns where the first n messages end.
func boundary(sizes []int, n int) (at int) {
	for _, size := range sizes[:n] {
		at += 5 + size
	}
	return at
}

func (c *rpc) request() []byte { return body(c.seed, c.requests) }

// answer is what an attempt of an RPC is answered: each attempt is told apart.
func (c *rpc) answer(serial int) []byte {
	return body(c.seed+uint64(serial+1)*1_000_003, c.answers)
}

// note writes down what happens to an RPC.
func (c *rpc) note(w *world, text string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, note{time.Since(w.began), text, args})
}
