package canary

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/hooks"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/control/mesh"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// listening is how long an elected sidecar listens before it lets a canary go on, also
	// where that is asked for: all others have dialled it by then, and told it what they
	// have counted, and of a roll-back that could not be written.
	listening = 3 * time.Second
	// between is the least time between two looks at what was reported.
	between = 5 * time.Millisecond
	// maxAhead bounds how far numbers go on by what a sidecar says.
	maxAhead = 1 << 20
	// firstBackoff and lastBackoff are how long it takes until a store that does not answer
	// is asked again.
	firstBackoff, lastBackoff = 100 * time.Millisecond, 2 * time.Second
)

// LeadOptions are what an elected sidecar needs.
type LeadOptions struct {
	// ID is the sidecar's name, for the history.
	ID string
	// Known returns the states of a service's canaries that this sidecar obeys, for where
	// the store loses them: see Agent.Known. Nil: it obeys none.
	Known func(service string) []*controlv1.RunState
	// Obstacle says why a canary of a service would divide nothing, as far as this sidecar
	// knows; "": it would divide something. Nil: nothing is known.
	Obstacle func(service string) string
	// Hooks tells hooks of transitions; nil: nobody is told. Whoever made it closes it.
	Hooks *hooks.Teller
	// Metrics counts transitions.
	Metrics *Metrics
	Logger  *slog.Logger
}

// Lead returns what begins to lead the canaries of a service.
func Lead(o LeadOptions) mesh.Lead {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return func(ctx context.Context, service string, store kv.Store, publish func(*meshv1.ReportResponse)) mesh.Leading {
		l := &leading{
			o: o, service: service, publish: publish, since: now(),
			log: o.Logger.With(slog.String("service", service)), canaries: map[string]*led{},
		}
		l.ledger = ledger.Open(ctx, ledger.Options{
			Store: store, Kind: control.Canary, Service: service, Known: o.Known, Written: l.tell, Logger: l.log,
		})
		l.ledger.Go(l.run)
		return l
	}
}

// leading leads the canaries of one service. Looking, deciding and publishing is done by
// one goroutine; the store is written by others, so that it holds nothing up.
type leading struct {
	o       LeadOptions
	service string
	ledger  *ledger.Ledger
	publish func(*meshv1.ReportResponse)
	log     *slog.Logger
	since   time.Time

	mu         sync.Mutex
	canaries   map[string]*led
	settled    bool // the ledger has said where they stand
	complained bool // that reports are refused
}

var _ mesh.Leading = (*leading)(nil)

// Close implements mesh.Leading.
func (l *leading) Close() {
	l.ledger.Close()
}

// Gone implements mesh.Leading: what a sidecar that is gone had counted still counts.
func (l *leading) Gone(*meshv1.Hello) {}

// Results implements mesh.Leading: experiments are another's.
func (l *leading) Results(string) *meshv1.ResultsResponse { return nil }

// Take implements mesh.Leading.
func (l *leading) Take(from *meshv1.Hello, m *meshv1.ReportRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger.Heard(m.GetHeard())
	for _, c := range m.GetCanaries() {
		if err := l.take(source{from.GetId(), from.GetProcess()}, c); err != nil && !l.complained {
			l.complained = true // once: who reports such things does so five times a second
			l.log.Warn("canary: what a sidecar reports cannot be, and does not count",
				slog.String("canary", c.GetName()), slog.String("sidecar", from.GetId()), slog.Any("error", err))
		}
	}
	l.ledger.Signal()
}

func (l *leading) take(from source, c *meshv1.CanaryCounts) error {
	r := l.canaries[c.GetName()]
	if r == nil || !r.active() || c.GetRun() != r.pool.run {
		return nil
	}
	if c.GetRolledBack() > 0 && r.entry.Fresh {
		return nil // it is of another run, which the store has lost: this one was begun here
	}
	if c.GetRolledBack() >= r.state.GetNumber() && c.GetRolledBack() > 0 {
		// Who was elected before had decided it, and could not write it.
		r.use(min(c.GetRolledBack(), r.state.GetNumber()+maxAhead, control.MaxNumber))
		l.back(r, r.next(controlv1.Phase_PHASE_ROLLED_BACK, cmp.Or(c.GetReason(), "it was rolled back before"), l.o.ID, now()))
		return nil
	}
	if c.GetStep() != r.pool.step {
		return nil // it has not heard of this step yet
	}
	return r.pool.take(from, c)
}

// run leads until the lock is lost, or until Close.
func (l *leading) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := time.Hour
		if entries, known := l.ledger.Entries(); known {
			l.mu.Lock()
			l.settle(entries)
			next = l.round(now())
			l.mu.Unlock()
		}
		timer.Reset(next)
		select {
		case <-l.ledger.Wake():
		case <-timer.C:
		case <-l.ledger.Context().Done():
			return
		}
		timer.Reset(between)
		select {
		case <-timer.C:
		case <-l.ledger.Context().Done():
			return
		}
	}
}

// jitter has not all ask at once that were turned away at once.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// round looks at all canaries, decides, and says when to look again at the latest. l.mu is
// held.
func (l *leading) round(at time.Time) time.Duration {
	next := time.Hour
	soon := func(t time.Time) { next = min(next, max(t.Sub(at), time.Millisecond)) }
	for _, name := range slices.Sorted(maps.Keys(l.canaries)) {
		r := l.canaries[name]
		r.look(at)
		if s := r.rollBack(l.o.ID, at); s != nil {
			l.back(r, s)
		}
		if at.Before(r.retryAt) {
			soon(r.retryAt)
			continue
		}
		if r.want == nil {
			l.decide(r, at)
		}
		if r.want != nil {
			if !r.committing {
				l.commit(r)
			}
		} else if l.early(r, at) {
			soon(l.since.Add(listening))
		} else if r.active() {
			if w := r.waiting(at, l.since.Add(listening)); !w.until.IsZero() {
				soon(w.until)
			}
		}
	}
	return next
}

// decide has a request done, or the canary go on. l.mu is held.
func (l *leading) decide(r *led, at time.Time) {
	switch {
	case r.entry.Lost:
		r.want = r.entry.Restored(l.o.ID)
	case r.entry.Behind:
		r.want = r.entry.Ahead(l.o.ID)
	}
	if r.want != nil {
		r.want.Number = control.Next(r.highest)
		return
	}
	if l.early(r, at) {
		return
	}
	if r.entry.Pending() {
		s := l.obstructed(r, at)
		if s == nil {
			s = r.done(r.entry, l.others(r), at)
		}
		if over(s) {
			l.back(r, s)
		} else {
			r.want = s
		}
		return
	}
	if r.state.GetPhase() == controlv1.Phase_PHASE_RUNNING {
		r.want = r.onward(l.o.ID, at, l.since.Add(listening))
	}
}

// early says that something is asked that may give the canary more RPCs, and that it is not
// known yet whether sidecars have it rolled back. l.mu is held.
func (l *leading) early(r *led, at time.Time) bool {
	if !r.entry.Pending() || !Active(r.state.GetPhase()) || r.state.GetRun() != r.inherited || !at.Before(l.since.Add(listening)) {
		return false
	}
	switch r.entry.Request.GetAction() {
	case controlv1.Action_ACTION_RESUME, controlv1.Action_ACTION_PROMOTE, controlv1.Action_ACTION_PROMOTE_FULLY:
		return true
	default:
		return false
	}
}

// others names the other canaries that run, or are about to. l.mu is held.
func (l *leading) others(r *led) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(l.canaries)) {
		other := l.canaries[name]
		if other != r && (Active(other.state.GetPhase()) || Active(other.want.GetPhase())) {
			names = append(names, name)
		}
	}
	return names
}

// back has a state hold at once that takes all RPCs off a canary, whatever the store says,
// and written as soon as that can be. What was to be written before is not any more. l.mu
// is held.
func (l *leading) back(r *led, s *controlv1.RunState) {
	if r.want != nil {
		s.Request = max(s.GetRequest(), r.want.GetRequest())
	}
	l.hold(r, s)
	r.want, r.obeyed = s, true
	r.retryAt, r.backoff = time.Time{}, 0
}

// hold has a state hold on all sidecars. l.mu is held.
func (l *leading) hold(r *led, s *controlv1.RunState) {
	if err := r.adopt(s); err != nil {
		l.log.Error("canary: its document cannot be read", slog.String("canary", r.name), slog.Any("error", err))
	}
	if l.ledger.Context().Err() == nil && l.settled {
		l.publish(&meshv1.ReportResponse{States: []*controlv1.RunState{proto.CloneOf(s)}})
	}
}
