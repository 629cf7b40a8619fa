package attack

import (
	"encoding/binary"
	"io"
	"maps"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// Request is what a well-behaved client sends to an [Instance].
type Request int

// The requests.
const (
	// Unary is one small message.
	Unary Request = iota
	// Upload is one message of a megabyte.
	Upload
	// Open is a small message and no end: the client goes on when it is answered.
	Open
)

// Instance is a server that treats the sidecar that calls it badly, and what has
// to come of it.
type Instance struct {
	// Name says what it does.
	Name string
	// Request is what the clients send; it decides what the instance can do.
	Request Request
	// Deadline is what the clients give their RPCs. Default 30 s, which pass on no
	// machine by themselves; instances that leave an RPC hanging have it shorter.
	Deadline time.Duration
	// Codes are the statuses with which an RPC to the instance may end; none: any.
	Codes []codes.Code
	// Own says that an error is the sidecar's own, so that its message names the
	// instance. Says is what else it holds: the offence.
	Own  bool
	Says string
	// Ends are the codes of the GOAWAY with which the sidecar ends the connection;
	// none: it need not end it, or need not say why.
	Ends []http2.ErrCode
	// Elsewhere says that no RPC may fail where there is another instance of the
	// service: the bad one provably processes nothing.
	Elsewhere bool

	// Waited says that the sidecar has to wait until its connect timeout to tell.
	Waited bool

	// Life is after how long each connection is closed at the latest. 0: not at all.
	Life time.Duration

	settings  []http2.Setting
	onConn    func(net.Conn)           // instead of all that follows
	onOpen    func(*peer)              // after the SETTINGS
	onRequest func(p *peer, id uint32) // for each request, in the order of their ids
	onFrame   func(*peer, frameSeen)   // for each frame of the sidecar's
	deaf      bool                     // reads nothing after the preface
}

// frameSeen is a frame that the sidecar sent.
type frameSeen struct {
	typ    http2.FrameType
	flags  http2.Flags
	id     uint32
	length int
}

// Instances are all there are.
func Instances() []Instance {
	var all []Instance
	for _, some := range [][]Instance{
		instancesThatNeverBegin(), instancesWithBadSettings(), instancesThatFlood(), instancesThatBreakStreams(),
		instancesWithBadHeaders(), instancesWithBadWindows(), instancesWithBadAnswers(),
	} {
		all = append(all, some...)
	}
	for i := range all {
		if all[i].Deadline == 0 {
			all[i].Deadline = 30 * time.Second
		}
	}

	return all
}

// Running is an [Instance] that serves.
type Running struct {
	Address string

	listener net.Listener
	pick     func(conn int) Instance
	running  sync.WaitGroup

	mu    sync.Mutex
	open  map[net.Conn]bool
	conns int
	asked int
	ends  map[http2.ErrCode]int
	away  chan struct{} // closed with the first GOAWAY
	over  bool

	stopped chan struct{} // closed by Stop
}

// Start serves on a loopback port until Stop.
func (i Instance) Start() (*Running, error) {
	return StartInTurn(func(int) Instance { return i })
}

// StartInTurn serves on a loopback port until Stop, each connection as another
// instance: pick is told how many connections there were before.
func StartInTurn(pick func(conn int) Instance) (*Running, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Running{
		Address: listener.Addr().String(), listener: listener, pick: pick,
		open: map[net.Conn]bool{}, ends: map[http2.ErrCode]int{}, away: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	r.running.Go(r.accept)

	return r, nil
}

func (r *Running) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		over := r.over
		r.open[conn] = true
		instance := r.pick(r.conns)
		r.conns++
		r.mu.Unlock()
		if over {
			_ = conn.Close()

			return
		}
		r.running.Go(func() {
			defer r.closed(conn)
			if instance.Life > 0 {
				defer time.AfterFunc(instance.Life, func() { _ = conn.Close() }).Stop()
			}
			r.serve(conn, instance)
		})
	}
}

func (r *Running) closed(conn net.Conn) {
	_ = conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, conn)
}

// Stop ends the instance and waits for all that it does.
func (r *Running) Stop() {
	_ = r.listener.Close()
	r.mu.Lock()
	if !r.over {
		close(r.stopped)
	}
	r.over = true
	for conn := range r.open {
		_ = conn.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}

// Connections returns how many the sidecar made, Open how many of them there are
// still.
func (r *Running) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.conns
}

// Open returns how many connections are open now.
func (r *Running) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()

	return len(r.open)
}

// Requests returns how many requests came.
func (r *Running) Requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.asked
}

// Away is closed when the sidecar has said for the first time why it ends a
// connection. The graceful end of one does not count.
func (r *Running) Away() <-chan struct{} { return r.away }

// Ends returns the codes with which the sidecar ended connections, and how often.
func (r *Running) Ends() map[http2.ErrCode]int {
	r.mu.Lock()
	defer r.mu.Unlock()

	return maps.Clone(r.ends)
}

func (r *Running) sawEnd(code http2.ErrCode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if code != http2.ErrCodeNo && len(r.ends) == 0 {
		close(r.away)
	}
	if code != http2.ErrCodeNo {
		r.ends[code]++
	}
}

// serve misbehaves on one connection until it is over.
func (r *Running) serve(conn net.Conn, instance Instance) {
	if instance.onConn != nil {
		instance.onConn(conn)

		return
	}
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	p := &peer{
		Conn: conn, running: r, instance: &instance,
		requests: make(chan uint32, 1<<16), over: make(chan struct{}),
	}
	if p.send(settingsFrame(instance.settings...)) != nil {
		return
	}
	if instance.deaf {
		if instance.onOpen != nil {
			instance.onOpen(p)
		}
		<-r.stopped // nobody is told of its end before

		return
	}
	var acting sync.WaitGroup
	acting.Go(p.act)
	p.read()
	close(p.over)
	_ = conn.Close()
	acting.Wait()
}

// peer is a connection of a sidecar's, as an instance sees it.
type peer struct {
	net.Conn

	running  *Running
	instance *Instance
	requests chan uint32
	over     chan struct{} // closed when nothing more comes, or the sidecar has said GOAWAY

	once sync.Once
	mu   sync.Mutex // one write at a time
}

// act does what the instance does of its own accord, and then request by request.
func (p *peer) act() {
	if p.instance.onOpen != nil {
		p.instance.onOpen(p)
	}
	for {
		select {
		case id := <-p.requests:
			if p.instance.onRequest != nil {
				p.instance.onRequest(p, id)
			}
		case <-p.over:
			return
		}
	}
}

// read takes what the sidecar sends until the connection is over.
func (p *peer) read() {
	framer := http2.NewFramer(io.Discard, p)
	framer.SetMaxReadFrameSize(1 << 24)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		head := frame.Header()
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			p.running.mu.Lock()
			p.running.asked++
			p.running.mu.Unlock()
			p.requests <- head.StreamID
		case *http2.GoAwayFrame:
			p.running.sawEnd(frame.ErrCode)
		case *http2.PingFrame:
			if !frame.IsAck() && p.instance.onFrame == nil {
				_ = p.send(frameOf(http2.FramePing, http2.FlagPingAck, 0, frame.Data[:]))
			}
		}
		if p.instance.onFrame != nil {
			p.instance.onFrame(p, frameSeen{head.Type, head.Flags, head.StreamID, int(head.Length)})
		}
	}
}

// send writes frames as they are. It fails when the connection is gone.
func (p *peer) send(frames ...[]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, frame := range frames {
		if _, err := p.Write(frame); err != nil {
			return err
		}
	}

	return nil
}

// flood sends frames again and again until the connection is gone.
func (p *peer) flood(frames ...[]byte) {
	const chunk = 16 << 10
	var one []byte
	for _, frame := range frames {
		one = append(one, frame...)
	}
	many := one
	for len(many)+len(one) <= chunk {
		many = append(many, one...)
	}
	for p.send(many) == nil {
	}
}

// wait waits, but not beyond the connection's end.
func (p *peer) wait(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-p.over:
		return false
	}
}

// abort closes the connection by a TCP reset.
func abort(conn net.Conn) {
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// frameOf makes a frame of anything.
func frameOf(typ http2.FrameType, flags http2.Flags, id uint32, payload []byte) []byte {
	return appendFrame(make([]byte, 0, 9+len(payload)), typ, flags, id, payload)
}

func settingsFrame(settings ...http2.Setting) []byte {
	var payload []byte
	for _, s := range settings {
		payload = binary.BigEndian.AppendUint16(payload, uint16(s.ID))
		payload = binary.BigEndian.AppendUint32(payload, s.Val)
	}

	return frameOf(http2.FrameSettings, 0, 0, payload)
}

func setting(id http2.SettingID, value uint32) http2.Setting {
	return http2.Setting{ID: id, Val: value}
}

func number(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func windowUpdate(id, increment uint32) []byte {
	return frameOf(http2.FrameWindowUpdate, 0, id, number(increment))
}

func reset(id uint32, code http2.ErrCode) []byte {
	return frameOf(http2.FrameRSTStream, 0, id, number(uint32(code)))
}

func goAway(last uint32, code http2.ErrCode) []byte {
	return frameOf(http2.FrameGoAway, 0, 0, append(number(last), number(uint32(code))...))
}

func data(id uint32, end bool, payload []byte) []byte {
	var flags http2.Flags
	if end {
		flags = http2.FlagDataEndStream
	}

	return frameOf(http2.FrameData, flags, id, payload)
}

// headers makes a HEADERS frame of names and values in turn.
func headers(id uint32, end bool, fields ...string) []byte {
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}

	return frameOf(http2.FrameHeaders, flags, id, block(fields...))
}

// block encodes names and values in turn, whatever is in them.
func block(fields ...string) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		b = appendLiteral(b, fields[i], fields[i+1])
	}

	return b
}

// message is a gRPC message: an empty protobuf of that length's zeros would not
// parse, so n is 0 in all that shall be taken for good.
func message(n int) []byte {
	return append(append([]byte{0}, number(uint32(n))...), make([]byte, n)...)
}

// begin is the head of a good answer, ending its end, answer the whole of one.
func begin(id uint32) []byte {
	return headers(id, false, ":status", "200", "content-type", "application/grpc")
}

func ending(id uint32) []byte { return headers(id, true, "grpc-status", "0") }

func answer(id uint32) []byte {
	return append(append(begin(id), data(id, false, message(0))...), ending(id)...)
}

// Well is an instance that answers each RPC well.
func Well() Instance {
	return Instance{
		Name: "well", Deadline: 10 * time.Second, Codes: []codes.Code{codes.OK},
		onRequest: func(p *peer, id uint32) { _ = p.send(answer(id)) },
	}
}
