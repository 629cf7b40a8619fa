package h2

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"pgregory.net/rapid"
)

// flowModel is what a peer knows of the windows it gave, by the frames alone.
type flowModel struct {
	t       *rapid.T
	r       *rig
	conn    int
	initial []int // of the SETTINGS sent: the one in force, then those not acknowledged
	frame   []int // the same of SETTINGS_MAX_FRAME_SIZE
	streams []*flowStream
}

type flowStream struct {
	o      *recorder
	id     uint32
	window int
	sent   []byte // handed to the engine
	ended  bool   // all was
	reset  bool
	opened bool // HEADERS came
	got    bool // END_STREAM came
}

// settle takes what the engine sent, and checks it against the windows.
func (m *flowModel) settle() {
	for _, line := range m.r.frames() {
		var id uint32
		var n int
		kind, _, _ := strings.Cut(line, " ")
		switch {
		case line == "SETTINGS ack":
			delta := m.initial[1] - m.initial[0]
			m.initial, m.frame = m.initial[1:], m.frame[1:]
			for _, s := range m.streams {
				if s.opened {
					s.window += delta
				}
			}
		case kind == "HEADERS":
			fmt.Sscanf(line, "HEADERS %d", &id)
			s := m.byID(id)
			if !s.opened {
				s.opened, s.window = true, m.initial[0]
			}
			s.got = strings.Contains(line, " end ")
		case kind == "DATA":
			fmt.Sscanf(line, "DATA %d %d", &id, &n)
			s := m.byID(id)
			m.conn -= n
			s.window -= n
			if n > 0 && (m.conn < 0 || s.window < 0) || n > m.frame[0] || s.got {
				m.t.Fatalf("%s: that leaves %d of the stream's window and %d of the connection's; frames of %d are allowed, ended: %v", line, s.window, m.conn, m.frame[0], s.got)
			}
			s.got = strings.HasSuffix(line, " end")
		case kind == "RST_STREAM":
		default:
			m.t.Fatal(line)
		}
	}
}

// byID returns the stream with an id; ids are given in the order of opening, but
// not to streams that were reset before they were sent.
func (m *flowModel) byID(id uint32) *flowStream {
	for _, s := range m.streams {
		s.o.s.conn.mu.Lock()
		if s.id == 0 {
			s.id = s.o.s.id
		}
		s.o.s.conn.mu.Unlock()
		if s.id == id {
			return s
		}
	}
	m.t.Fatalf("frames of stream %d, which nobody opened", id)
	return nil
}

func (m *flowModel) settings(initial, frame int) {
	m.initial, m.frame = append(m.initial, initial), append(m.frame, frame)
	m.r.must(m.r.WriteSettings(initialWindow(uint32(initial)), http2.Setting{ID: http2.SettingMaxFrameSize, Val: uint32(frame)}))
}

// step does one thing that changes what may be sent, or sends.
func (m *flowModel) step() {
	alive := slices.DeleteFunc(slices.Clone(m.streams), func(s *flowStream) bool { return s.reset })
	var s *flowStream
	if len(alive) > 0 {
		s = alive[rapid.IntRange(0, len(alive)-1).Draw(m.t, "stream")]
	}
	what := rapid.SampledFrom([]string{"open", "send", "send", "send", "trailers", "window", "conn window", "settings", "room", "reset", "peer resets"}).Draw(m.t, "step")
	switch {
	case what == "open" || s == nil:
		m.streams = append(m.streams, &flowStream{o: m.r.open(false, with(post, "x-long", strings.Repeat("v", 1000))...)})
	case what == "send" && !s.ended:
		n := rapid.SampledFrom([]int{0, 1, 50, 5000, 40000, 100000}).Draw(m.t, "size")
		s.ended = rapid.IntRange(0, 5).Draw(m.t, "end") == 0
		p := pattern[len(s.sent)%1000:][:n]
		do(func(b *Batch) { s.o.s.SendData(b, p, s.ended) })
		s.sent = append(s.sent, p...)
	case what == "trailers" && !s.ended:
		s.ended = true
		s.o.send(true, "grpc-status", "0")
	case what == "window" && s.opened:
		n := rapid.SampledFrom([]int{1, 100, 20000}).Draw(m.t, "increment")
		s.window += n
		m.r.must(m.r.WriteWindowUpdate(s.id, uint32(n)))
	case what == "conn window":
		n := rapid.SampledFrom([]int{1, 100, 20000, 200000}).Draw(m.t, "increment")
		m.conn += n
		m.r.must(m.r.WriteWindowUpdate(0, uint32(n)))
	case what == "settings":
		m.settings(rapid.SampledFrom([]int{0, 1, 1000, 65535, 200000}).Draw(m.t, "initial window"), rapid.SampledFrom([]int{16384, 20000, 100000}).Draw(m.t, "frame size"))
	case what == "room":
		m.r.room(rapid.SampledFrom([]int{0, 10, 1000, 1 << 20}).Draw(m.t, "room"))
	case what == "reset" && !s.got:
		s.reset = true
		s.o.rst(Cancel)
	case what == "peer resets" && s.opened && !s.got:
		s.reset = true
		m.r.must(m.r.WriteRSTStream(s.id, http2.ErrCodeCancel))
	}
	if rapid.Bool().Draw(m.t, "settle") {
		m.settle()
	}
}

// Whatever the peer does to the windows, and the streams to the connection: no
// window is overrun, and in the end everything has come.
func TestSendWindowsProperty(t *testing.T) {
	simulated(t, func(t *testing.T) {
		// Within a bubble a test's deadline may not be asked for.
		rapid.Check(struct{ testing.TB }{t}, func(rt *rapid.T) {
			r := newClient(t, Config{Budget: NewBudget(1 << 30)})
			defer r.finish()
			r.content = map[uint32][]byte{}
			m := &flowModel{t: rt, r: r, conn: 65535, initial: []int{65535}, frame: []int{16384}}
			if rapid.Bool().Draw(rt, "wide") {
				m.conn += 1 << 24
				r.must(r.WriteWindowUpdate(0, 1<<24))
			}
			for range rapid.IntRange(5, 60).Draw(rt, "steps") {
				m.step()
			}
			m.settle()
			r.room(1 << 30)
			m.settle()
			m.settings(1<<28, 16384)
			m.settle()
			m.conn += 1 << 28
			r.must(r.WriteWindowUpdate(0, 1<<28))
			m.settle()
			for i, s := range m.streams {
				if s.reset {
					continue
				}
				if got := r.content[s.id]; !bytes.Equal(got, s.sent) || s.got != s.ended {
					rt.Errorf("stream %d: %d of %d bytes came; ended: %v, its end came: %v", i, len(got), len(s.sent), s.ended, s.got)
				}
				r.headers(s.id, true, ok...)
				r.frames()
				if s.o.closed != s.ended {
					rt.Errorf("stream %d: ended: %v, closed: %v", i, s.ended, s.o.closed)
				}
			}
		})
	})
}
