package mesh

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/inmemory"
)

// Member is one sidecar among the others: for each active service it reports to the one
// that is elected, or is that one. It is safe for concurrent use.
type Member struct {
	o Options

	ctx  context.Context // ended by Close
	stop context.CancelFunc
	// seats are the goroutines of seats.
	running sync.WaitGroup

	inside *inmemory.Listener
	server *grpc.Server
	busy   busy

	mu     sync.Mutex
	seats  map[string]*seat
	closed bool
}

// New returns a member, to be closed.
func New(o Options) *Member {
	o.withDefaults()
	m := &Member{o: o, inside: inmemory.Listen(), seats: map[string]*seat{}}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.busy = newBusy(o.Limits)
	m.server = m.newServer()
	m.running.Go(func() { _ = m.server.Serve(m.inside) })
	o.Counting.Urgent(m.urgent)
	return m
}

// Set says whether a service is active: whether one of its canaries or experiments runs
// or is paused, or somebody has asked something of one that was not done yet. It does not
// block. A service that is not active any more is looked after for ten seconds more.
func (m *Member) Set(service string, active bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.seats[service]
	switch {
	case m.closed, s == nil && !active:
	case !active:
		s.leaveLater(linger)
	case s == nil || !s.stay():
		m.seats[service] = m.open(service, s)
	}
}

// open begins to look after a service; before, which may be nil, is to be over first.
// m.mu is held.
func (m *Member) open(service string, before *seat) *seat {
	s := newSeat(m, service)
	m.running.Go(func() {
		if before != nil {
			<-before.over
		}
		s.run()
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.seats[service] == s {
			delete(m.seats, service)
		}
	})
	return s
}

// seat returns the one of a service; nil: it is not active.
func (m *Member) seat(service string) *seat {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seats[service]
}

// urgent is what agents tell that there is something to report.
func (m *Member) urgent(service string) {
	if s := m.seat(service); s != nil {
		select {
		case s.urgent <- struct{}{}:
		default:
		}
	}
}

// Dial connects to what answers other sidecars, within the process. It is meant for the
// inbound side, which tells there who calls (see the field Mesh of its options): whoever
// can call it is believed to be whom he says he is.
func (m *Member) Dial(ctx context.Context) (net.Conn, error) { return m.inside.Dial(ctx) }

// Status is how it stands with a service.
type Status struct {
	// Service is its name.
	Service string
	// Leader is who is elected; nil: nobody is, as far as it is known.
	Leader *controlv1.Leader
	// Leading says that it is this sidecar.
	Leading bool
	// Reporters is how many other sidecars report to it, where it is this one.
	Reporters int
	// Since is when this sidecar began to report to the elected one, or was elected; zero
	// while it does not.
	Since time.Time
	// Problem is what is wrong, on one line; empty: nothing is.
	Problem string
}

// Status returns how it stands with the active services, by their names.
func (m *Member) Status() (all []Status) {
	m.mu.Lock()
	seats := make([]*seat, 0, len(m.seats))
	for _, s := range m.seats {
		seats = append(seats, s)
	}
	m.mu.Unlock()
	for _, s := range seats {
		all = append(all, s.status())
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Service, b.Service) })
	return all
}

// Problems returns what is wrong now, a line for each active service where something is.
func (m *Member) Problems() (lines []string) {
	for _, s := range m.Status() {
		if s.Problem != "" {
			lines = append(lines, "control: service "+s.Service+": "+s.Problem)
		}
	}
	return lines
}

// Close ends it: what this sidecar is elected for it gives back at once, and says so to
// those who report to it. It should be called before the inbound side is shut down, which
// waits for RPCs under way. It returns when all is over; ctx bounds what is said to the
// store.
func (m *Member) Close(ctx context.Context) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	seats := make([]*seat, 0, len(m.seats))
	for _, s := range m.seats {
		seats = append(seats, s)
	}
	m.mu.Unlock()
	for _, s := range seats {
		s.leave(ctx)
	}
	for _, s := range seats {
		<-s.over
	}
	m.stop()
	m.serveLast(ctx)
	_ = m.inside.Close()
	m.running.Wait()
}

// serveLast ends the server once all have heard the last words, or when that takes too
// long.
func (m *Member) serveLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		m.server.GracefulStop()
	}()
	select {
	case <-heard:
	case <-ctx.Done():
		m.server.Stop()
		<-heard
	}
}

// clone is for what is kept of others' messages.
func clone[M proto.Message](m M) M { return proto.CloneOf(m) }
