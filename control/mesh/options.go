package mesh

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/mtls"
)

// Candidacy is whether a sidecar may be elected.
type Candidacy uint8

const (
	// Never says that it may not.
	Never Candidacy = iota
	// Reserve says that it may where nobody else has been for five seconds. Where others cannot
	// reach it, because it has no Address, it steps back every minute, in case somebody
	// is there by then whom they can.
	Reserve
	// Candidate says that it may at once.
	Candidate
)

// Mode is what is spoken on a port.
type Mode uint8

const (
	// Plaintext has nobody prove who he is.
	Plaintext Mode = iota
	// Permissive takes mutual TLS or plaintext, as the caller likes.
	Permissive
	// Strict takes mutual TLS alone.
	Strict
)

// Security says who the sidecar is and what it speaks.
type Security struct {
	// TLS shakes hands with the elected sidecar; Keeper has the own identity, the one of
	// TLS.
	TLS    *mtls.TLS
	Keeper *identity.Keeper
	// ServiceID is the template of services' SPIFFE IDs, see [identity.ServiceID].
	ServiceID string
	// Inbound is what the inbound port speaks. Where that is not Strict, sidecars that
	// have proven nothing may report as well.
	Inbound Mode
	// Strict has no sidecar be spoken with in plaintext.
	Strict bool
}

// Options configure a Member.
type Options struct {
	// Store is where the locks are.
	Store kv.Store
	// ID is the sidecar's name among the sidecars; Service is the app's, empty for a pure
	// client.
	ID, Service string
	// Process tells this process from others of the same ID. Default: drawn at random.
	Process uint64
	// Address is where other sidecars reach the inbound port, as host:port; empty: they
	// do not.
	Address   string
	Candidacy Candidacy
	// Security is nil where the sidecar has no identity: it speaks plaintext.
	Security *Security

	Counting Counting
	Lead     Lead
	// May, unless it is nil, says why a sidecar may not speak of a service that this one is
	// elected for and that it is not of itself; the zero ID has proven nothing. It is meant
	// for who stands beside the service's own app: see [inbound.Proxy.MayReport].
	//
	// [inbound.Proxy.MayReport]: github.com/pillion-proxy/pillion/proxy/inbound.Proxy.MayReport
	May func(peer spiffeid.ID, about string) error

	// Dial opens a connection to another sidecar, without TLS. Default: by TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Random draws from [0, 1), for all waits. Default: the process' own generator.
	Random func() float64
	// TTL is how long the session of an elected sidecar outlives its process. Default:
	// 10 s, the least that Consul takes.
	TTL    time.Duration
	Limits Limits
	Logger *slog.Logger
}

// Limits bound what other sidecars may take. The zero value of a field means its default.
type Limits struct {
	// Reporters bounds the sidecars that report at a time, of all services together; one
	// identity may have half of that. Default: 10,000.
	Reporters int
	// Known bounds the processes that report on one service in the time that this sidecar
	// leads it; one identity may have half of that. What those counted that are gone still
	// counts, and takes memory. Default: 20,000.
	Known int
	// ReportBytes bounds a report. Default: 4 MiB.
	ReportBytes int
	// ReportsPerSecond bounds how often a sidecar may report in the long run, where each
	// 64 KiB count as one more report; who reports more often is read no faster. Default:
	// 20.
	ReportsPerSecond float64
	// Questions bounds how many questions for evidence and results are answered at a time.
	// Default: 16.
	Questions int
}

const (
	defaultTTL = 10 * time.Second
	// lockDelay is how long nobody can be elected after a session was lost.
	lockDelay = time.Second
	// heartbeat is how long the elected sidecar is silent at most, silence how long others
	// wait for a word of it.
	heartbeat = 2 * time.Second
	silence   = 3 * heartbeat
	// reportEvery is how often what is not urgent is reported, and urgentEvery what is.
	reportEvery = 200 * time.Millisecond
	urgentEvery = 10 * time.Millisecond
	// chunkBytes is how large a report is made by ourselves.
	chunkBytes = 1 << 20
	// linger is how long a service stays active after it was said not to be: hooks are
	// still answered, and those who looked the last time see how it ended.
	linger = 10 * time.Second
	// lastWords is how long it may take at the end until those who report have heard what
	// was decided last.
	lastWords = 500 * time.Millisecond
	// storeTimeout bounds each question to the store.
	storeTimeout = 5 * time.Second
)

func (o *Options) withDefaults() {
	if o.Process == 0 {
		o.Process = rand.Uint64()
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{Timeout: storeTimeout}).DialContext(ctx, "tcp", address)
		}
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &o.Limits
	orDefault(&l.Reporters, 10_000)
	orDefault(&l.Known, 20_000)
	orDefault(&l.ReportBytes, 4<<20)
	orDefault(&l.ReportsPerSecond, 20)
	orDefault(&l.Questions, 16)
}

func orDefault[T int | float64](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}
