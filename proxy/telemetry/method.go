package telemetry

import (
	"sync/atomic"
	"time"
	"unsafe"

	"google.golang.org/grpc/codes"
)

// numCodes is how many status codes gRPC defines, OK included.
const numCodes = int(codes.Unauthenticated) + 1

// Method holds the counters of one gRPC method in one direction. Its methods
// may be called from many goroutines at once; none blocks or allocates.
//
// It fills whole cache lines, so that two methods never share one. One method's
// counters are not spread over the cores: with the few that a sidecar has, that
// would cost more than sharing does.
type Method struct {
	methodCounters
	_ [(cacheLine - unsafe.Sizeof(methodCounters{})%cacheLine) % cacheLine]byte
}

const cacheLine = 64

// methodCounters has first, in one cache line, what every RPC that succeeds
// touches: the fields up to codes[codes.OK].
type methodCounters struct {
	started  atomic.Uint64
	received atomic.Uint64
	sent     atomic.Uint64
	nanos    atomic.Uint64 // sum of the durations
	codes    [numCodes]atomic.Uint64
	took     durations

	service, method string
	path            string        // "" where the method is not known
	rpcType         atomic.Uint32 // an RPCType
	other           bool
}

func newMethod(service, method string) *Method {
	m := new(Method)
	m.service, m.method = service, method
	return m
}

// Other reports whether these are the shared counters of the methods that are
// not known.
func (m *Method) Other() bool { return m.other }

// Path is the full path that the method was learned by, which stays as long as it is
// needed; "" where these are the shared counters (see Other).
func (m *Method) Path() string { return m.path }

// Started counts an RPC that has begun.
func (m *Method) Started() { m.started.Add(1) }

// Received counts n messages as grpc_*_msg_received_total does: those of the
// response on the outbound side, as a gRPC client counts them; those of the
// request on the inbound side, as a gRPC server does.
func (m *Method) Received(n int) {
	if n > 0 {
		m.received.Add(uint64(n))
	}
}

// Sent counts n messages that went the other way than Received's.
func (m *Method) Sent(n int) {
	if n > 0 {
		m.sent.Add(uint64(n))
	}
}

// Handled counts an RPC that has ended: with which status, and how long after
// it began. A code that gRPC does not define counts as Unknown, a negative
// duration as none.
func (m *Method) Handled(code codes.Code, d time.Duration) {
	if int64(code) >= int64(numCodes) {
		code = codes.Unknown
	}
	d = max(d, 0)
	m.codes[code].Add(1)
	m.took.buckets[bucketOf(d)].Add(1)
	m.nanos.Add(uint64(d))
}

// setType makes the method's type known. The first that was seen stays, so that
// the label does not change back and forth where two services disagree.
func (m *Method) setType(t RPCType) {
	if t != TypeUnknown && !m.other {
		m.rpcType.CompareAndSwap(uint32(TypeUnknown), uint32(t))
	}
}
