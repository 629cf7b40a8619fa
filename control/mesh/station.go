package mesh

import (
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/control"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// station is where all report while this sidecar is elected for a service. It has what
// was published for those who come later.
type station struct {
	m       *Member
	service string
	leader  *controlv1.Leader

	// deciding is held while Leading is called. mu may be taken while it is held, and not
	// the other way round: Leading publishes while it is called.
	deciding sync.Mutex
	leading  Leading
	over     bool

	mu        sync.Mutex
	seq       uint64
	states    map[run]published[*controlv1.RunState]
	limits    map[string]published[uint64] // thresholds, by experiment and run
	sources   map[string]published[*meshv1.Sources]
	changed   chan struct{}        // closed when there is more
	ended     chan struct{}        // closed by end
	orderly   bool                 // set before that
	reporters map[uint64]*reporter // by their number
	known     census
}

// run is what a state is of.
type run struct{ kind, name string }

// published is what was said, and when.
type published[T any] struct {
	what T
	seq  uint64
}

func newStation(m *Member, service string, leader *controlv1.Leader) *station {
	return &station{
		m: m, service: service, leader: leader,
		states: map[run]published[*controlv1.RunState]{}, limits: map[string]published[uint64]{},
		sources: map[string]published[*meshv1.Sources]{},
		changed: make(chan struct{}), ended: make(chan struct{}),
		reporters: map[uint64]*reporter{}, known: newCensus(m.o.Limits.Known),
	}
}

// begin says who decides.
func (st *station) begin(leading Leading) {
	st.deciding.Lock()
	defer st.deciding.Unlock()
	st.leading = leading
}

// end has nothing be decided any more, and all streams end. orderly says that the lock is
// about to be given back.
func (st *station) end(orderly bool) {
	st.deciding.Lock()
	if !st.over {
		st.over = true
		st.leading.Close()
	}
	st.deciding.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	st.orderly = orderly
	close(st.ended)
}

// decide calls Leading, unless that is over.
func (st *station) decide(f func(Leading)) bool {
	st.deciding.Lock()
	defer st.deciding.Unlock()
	if st.over {
		return false
	}
	f(st.leading)
	return true
}

// take takes a report.
func (st *station) take(from *meshv1.Hello, r *meshv1.ReportRequest) {
	st.decide(func(l Leading) { l.Take(from, r) })
}

// publish is what Leading says things to all with.
func (st *station) publish(said *meshv1.ReportResponse) {
	said = clone(said) // what it does with its own is its business
	st.mu.Lock()
	defer st.mu.Unlock()
	st.seq++
	for _, state := range said.GetStates() {
		of := run{state.GetKind(), state.GetName()}
		if before, is := st.states[of]; !is || !control.After(before.what.GetNumber(), state.GetNumber()) {
			st.states[of] = published[*controlv1.RunState]{state, st.seq}
		}
	}
	for name, threshold := range said.GetThresholds() {
		if before, is := st.limits[name]; !is || before.what != threshold {
			st.limits[name] = published[uint64]{threshold, st.seq}
		}
	}
	for name, sources := range said.GetSources() {
		st.sources[name] = published[*meshv1.Sources]{sources, st.seq}
	}
	close(st.changed)
	st.changed = make(chan struct{})
}

// since returns what was published after seq, where that ends, and what is closed when
// there is more.
func (st *station) since(seq uint64) (*meshv1.ReportResponse, uint64, <-chan struct{}) {
	st.mu.Lock()
	defer st.mu.Unlock()
	said := new(meshv1.ReportResponse)
	if seq == st.seq {
		return said, seq, st.changed
	}
	for _, p := range st.states {
		if p.seq > seq {
			said.States = append(said.States, p.what)
		}
	}
	for name, p := range st.limits {
		if p.seq > seq {
			if said.Thresholds == nil {
				said.Thresholds = map[string]uint64{}
			}
			said.Thresholds[name] = p.what
		}
	}
	for name, p := range st.sources {
		if p.seq > seq {
			if said.Sources == nil {
				said.Sources = map[string]*meshv1.Sources{}
			}
			said.Sources[name] = p.what
		}
	}
	return said, st.seq, st.changed
}

// why is what those are told whose streams end because the station did.
func (st *station) why() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.orderly {
		return status.Errorf(codes.Aborted, "sidecar %s was elected for service %q, and gives that back: another will be", st.m.o.ID, st.service)
	}
	return status.Errorf(codes.Unavailable, "sidecar %s was elected for service %q, and has lost that: another will be", st.m.o.ID, st.service)
}

// reporter is another sidecar's stream.
type reporter struct {
	hello    *meshv1.Hello // as Leading gets it
	caller   caller
	replaced chan struct{} // closed when another stream of it has come
	gone     bool          // guarded by station.deciding
}

// enter takes a stream in, in place of an earlier one of the same sidecar's.
func (st *station) enter(r *reporter) error {
	st.deciding.Lock()
	defer st.deciding.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	if before := st.reporters[r.hello.GetProcess()]; before != nil {
		before.gone = true // what it counted earlier would follow what it counts now
		close(before.replaced)
	} else if err := st.known.add(r.hello.GetProcess(), r.caller.String()); err != nil {
		return err
	}
	st.reporters[r.hello.GetProcess()] = r
	return nil
}

// take takes a report of it.
func (r *reporter) take(st *station, report *meshv1.ReportRequest) {
	st.decide(func(l Leading) {
		if !r.gone {
			l.Take(r.hello, report)
		}
	})
}

// leave ends it: nothing of it is taken any more.
func (st *station) leave(r *reporter) {
	st.mu.Lock()
	isLast := st.reporters[r.hello.GetProcess()] == r
	if isLast {
		delete(st.reporters, r.hello.GetProcess())
	}
	st.mu.Unlock()
	st.decide(func(l Leading) {
		r.gone = true
		if isLast {
			l.Gone(r.hello)
		}
	})
}

// count returns how many there are.
func (st *station) count() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.reporters)
}
