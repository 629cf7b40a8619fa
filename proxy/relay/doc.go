// Package relay carries one RPC from its caller to an instance and back,
// without changing it. It knows gRPC over HTTP/2: the deadline, the status, the
// message boundaries. It does not know where configuration comes from or how a
// destination is found.
//
// The path of an RPC, each step in a file named for it:
//
//	rpc.go       what an RPC is, and how it ends
//	request.go   accept: the caller's headers; find the service it is addressed to
//	record.go    whether it is one of those that are remembered
//	caller.go    who calls, and what the app is told of that
//	access.go    whether the caller may, also once the rules have changed
//	govern.go    what the policies say of it, and where their routes send it
//	divide.go    which groups of split policies it is in, and who is told how it ended
//	measures.go  what apps report of it
//	obey.go      what they have done before it is sent: time, faults, limits, breakers
//	failover.go  where an RPC goes for which there is no instance
//	mirror.go    copies of the request for somebody else
//	attempt.go   pick an instance, open a stream there, send the request
//	response.go  what the instance answers, and how the RPC ends
//	retry.go     another attempt, where the instance provably did nothing or a
//	             policy says so
//	hedge.go     several attempts at a time
//	deadline.go  the time that the caller gives
//	late.go      whether a caller that cancels does so because it is over
//	alarm.go     its timer, kept from one RPC to the next
//	timeouts.go  and those of policies
//	policed.go   what an RPC has for policies alone
//	answer.go    what Pillion itself answers
//	shed.go      what becomes of an RPC that may not begin now
//	hold.go      or not before more of its request is there
//	replay.go    memory for what is kept of a request
//	fields.go    what a request's fields count as, and that they are bounded
//
// # Locks
//
// Each RPC has one lock, which every event takes: those of the caller's stream,
// of the attempts' streams, of the deadline and of whoever the RPC waits for. It
// is held while the RPC calls into instances and connections, whose locks come
// after it. RPCs and their streams are used again for later RPCs, so a late
// event is told apart by the generation or the life that it was meant for.
package relay

import (
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/access"
	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/recording"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Router finds where an RPC goes.
type Router interface {
	// Policies are those in force, nil for none. An RPC asks once and keeps them to
	// its end.
	Policies() *policy.Set
	// Find returns the service that an RPC is addressed to.
	Find(set *policy.Set, authority, path string) Found
	// Service returns a service by its name.
	Service(name string) Found
	// Await has w told once Find may know more, or after a bound of its own; or
	// Service, where service is not empty. It is false where too many wait already:
	// w will not be told.
	Await(service, authority, path string, w Waiter, life uint32) bool
	// Explain says why there is no destination: the status, the short code and
	// one line. service is what Await had.
	Explain(service, authority, path string) (codes.Code, wire.Flag, string)
}

// Found is where an RPC goes, as far as it is known.
type Found struct {
	// Cluster is the service's instances; nil: it is not known yet, or there is no
	// such service.
	Cluster *upstream.Cluster
	// Service is the service's name. It may be there without a cluster: that of a
	// service that only a route knows. Empty: none was found.
	Service string
	// Route is what found it, for the access log.
	Route string
	// Wait says that it is not known yet, and that Await will tell.
	Wait bool
}

// Waiter waits for a destination. life is handed back as it was given.
type Waiter interface {
	OnRoute(life uint32)
}

// Config is what the RPCs of one direction have in common.
type Config struct {
	Side    telemetry.Kind
	Router  Router
	Metrics *telemetry.Metrics
	// Unrouted counts the RPCs without a destination.
	Unrouted *telemetry.Service
	// Log may be nil.
	Log *telemetry.AccessLog
	// Caller is the service that the RPCs come from, "" where that is not known.
	Caller string
	// DefaultTimeout is the deadline of RPCs that come without one, MaxTimeout
	// the longest that one may have. 0: none.
	DefaultTimeout, MaxTimeout time.Duration
	Retry                      Retry
	// RefusalTimeout is how long the end of a request that is no gRPC is waited
	// for, before it is answered. Default 5 s.
	RefusalTimeout time.Duration
	// Gate says which RPCs may begin; nil: all may.
	Gate *admission.Gate
	// Budget bounds what all RPCs keep together; nil: no bound.
	Budget *h2.Budget
	// Random draws for policies: waits, shares, which RPCs a rule is for. Default: the
	// process' own generator.
	Random func() uint64
	// Access says who may call what; nil: everybody may. Audited, unless it is nil, is
	// told of what it lets through and in mode "audit" would not: who called which method,
	// and who would have refused that.
	Access  *access.Gate
	Audited func(caller, path, by string)
	// Own are the RPCs that the sidecar itself answers; nil: it answers none.
	Own *Own
	// Recording remembers a sample of the RPCs; nil: nobody does.
	Recording *recording.Ring
	// Shield says that instances are apps and not sidecars: what they say in
	// headers that are Pillion's own is removed.
	Shield bool
}

// Retry bounds the transparent retry of RPCs that provably were not processed.
// The zero value of a field means its default.
type Retry struct {
	// MaxAttempts bounds how often an RPC is sent, the first time counted. 1: it
	// is never sent again. Instances that could not be reached do not count.
	// Default 3.
	MaxAttempts int
	// ReplayBytes is how much of a request is kept for another attempt; one that
	// is longer cannot be sent again. Default 64 KiB.
	ReplayBytes int
	// MaxInstances bounds the instances that an RPC tries, those that could not be
	// reached counted. One such is left alone from then on, so that few RPCs meet
	// more than one of them. Default 20.
	MaxInstances int
}

// Proxy relays the RPCs of one direction. It is the part of an [h2.Handler]
// that takes new streams.
type Proxy struct {
	cfg  Config
	made time.Time
	rpcs sync.Pool
}

// New returns a proxy.
func New(cfg Config) *Proxy {
	if cfg.Retry.MaxAttempts == 0 {
		cfg.Retry.MaxAttempts = 3
	}
	if cfg.Retry.ReplayBytes == 0 {
		cfg.Retry.ReplayBytes = 64 << 10
	}
	if cfg.Retry.MaxInstances == 0 {
		cfg.Retry.MaxInstances = 20
	}
	if cfg.RefusalTimeout == 0 {
		cfg.RefusalTimeout = 5 * time.Second
	}
	if cfg.Random == nil {
		cfg.Random = rand.Uint64
	}
	p := &Proxy{cfg: cfg, made: time.Now()}
	p.rpcs.New = func() any { return newRPC(p) }
	return p
}

// NewStream returns the stream of a new RPC.
func (p *Proxy) NewStream(*h2.Conn) *h2.Stream {
	r, _ := p.rpcs.Get().(*RPC) // nothing else is ever there
	return &r.down
}
