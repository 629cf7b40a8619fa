package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const greeter = "greeter"

// rig is a store and the sidecars that use it.
type rig struct {
	t      *testing.T
	memory *memkv.Memory

	// errorf is told what is wrong; of t where nothing else is said.
	errorf func(format string, args ...any)

	mu      sync.Mutex
	sides   map[string]*side // by address
	leading []*leading       // all that ever were
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return &rig{t: t, memory: memkv.New(), sides: map[string]*side{}, errorf: t.Errorf}
}

// simulated runs a test on virtual time.
func simulated(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		test(t, r)
		for _, s := range r.sides {
			s.Close(context.Background())
		}
		for _, l := range r.leading {
			if !l.isOver() {
				t.Errorf("%s has not ended to lead", l.by)
			}
		}
	})
}

// side is one sidecar.
type side struct {
	*Member
	*counting
	rig     *rig
	id      string
	address string
	view    *memkv.Store
	store   *countedStore

	mu    sync.Mutex
	conns []net.Conn // to it
	dead  bool       // nobody reaches it
	hole  bool       // what is sent either way is lost
	// killed says that what it does from then on only the test sees.
	killed bool
}

// add starts a sidecar. change may be nil.
func (r *rig) add(id string, change func(*Options)) *side {
	r.t.Helper()
	s := &side{rig: r, id: id, address: id + ":15006", view: r.memory.Store(), counting: newCounting()}
	s.store = &countedStore{Store: s.view}
	o := Options{
		Store: s.store, ID: id, Service: "svc-" + id, Address: s.address, Candidacy: Candidate,
		Counting: s.counting, Lead: s.lead, Dial: r.dial,
	}
	if change != nil {
		change(&o)
	}
	s.Member = New(o)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sides[s.address] = s
	return s
}

// several starts some that are all active.
func (r *rig) several(n int) (all []*side) {
	r.t.Helper()
	for i := range n {
		s := r.add(fmt.Sprintf("s%d", i), nil)
		s.Set(greeter, true)
		all = append(all, s)
	}
	return all
}

// dial connects two of them.
func (r *rig) dial(ctx context.Context, address string) (net.Conn, error) {
	r.mu.Lock()
	s := r.sides[address]
	r.mu.Unlock()
	if s == nil {
		return nil, errors.New("no such host")
	}
	s.mu.Lock()
	dead := s.dead
	s.mu.Unlock()
	if dead {
		return nil, errors.New("connection refused")
	}
	nc, err := s.Dial(ctx)
	if err != nil {
		return nil, err
	}
	nc = way{nc, s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, nc)
	return nc, nil
}

// way is a connection to a sidecar.
type way struct {
	net.Conn
	to *side
}

func (w way) Read(p []byte) (int, error) {
	for {
		n, err := w.Conn.Read(p)
		if err != nil || !w.to.isHole() {
			return n, err
		}
	}
}

func (w way) Write(p []byte) (int, error) {
	if w.to.isHole() {
		return len(p), nil
	}
	return w.Conn.Write(p)
}

func (s *side) isHole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hole
}

func (s *side) setHole(hole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hole = hole
}

// dials returns how often it was connected to.
func (s *side) dials() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// cut has nobody reach it any more.
func (s *side) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	for _, nc := range s.conns {
		_ = nc.Close()
	}
}

// isDead says that its process has ended.
func (s *side) isDead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killed
}

// kill ends its process, as far as others can see.
func (s *side) kill() {
	s.view.Kill()
	s.cut()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killed = true
}

// leader returns who decides now, and fails where several do.
func (r *rig) leader() *leading {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var found *leading
	for _, l := range r.leading {
		if l.isOver() || l.by.isDead() {
			continue
		}
		if found != nil {
			r.errorf("%s and %s decide at a time", found.by, l.by)
		}
		found = l
	}
	return found
}

// elect waits until somebody is elected, and until all that is to follow has.
func (r *rig) elect() *leading {
	r.t.Helper()
	time.Sleep(2 * time.Second)
	synctest.Wait()
	l := r.leader()
	if l == nil {
		r.t.Fatal("nobody is elected")
	}
	return l
}

// countedStore counts what is asked of a store.
type countedStore struct {
	kv.Store
	mu              sync.Mutex
	sessions, locks int
	open            int
}

func (s *countedStore) Session(ctx context.Context, o kv.SessionOptions) (kv.Session, error) {
	session, err := s.Store.Session(ctx, o)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions++
	if err != nil {
		return nil, err
	}
	s.open++
	return &countedSession{session, s}, nil
}

type countedSession struct {
	kv.Session
	of *countedStore
}

func (s *countedSession) TryLock(ctx context.Context, key string, value []byte) (bool, error) {
	s.of.mu.Lock()
	s.of.locks++
	s.of.mu.Unlock()
	return s.Session.TryLock(ctx, key, value)
}

func (s *countedSession) Close(ctx context.Context) error {
	s.of.mu.Lock()
	s.of.open--
	s.of.mu.Unlock()
	return s.Session.Close(ctx)
}

// attempts returns how many sessions all have begun, and how many are open.
func (r *rig) attempts() (all, open int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sides {
		s.store.mu.Lock()
		all, open = all+s.store.sessions, open+s.store.open
		s.store.mu.Unlock()
	}
	return all, open
}

// counting counts the RPCs of the canary "new", and remembers what it is to obey.
type counting struct {
	mu         sync.Mutex
	rpcs, told uint64
	urgent     func(string)
	states     map[string]*controlv1.RunState
	thresholds map[string]uint64
	sources    map[string]*meshv1.Sources
	obeyed     []time.Time
	units      int // of the experiment "units", with all
}

func newCounting() *counting {
	return &counting{states: map[string]*controlv1.RunState{}, thresholds: map[string]uint64{}, sources: map[string]*meshv1.Sources{}}
}

func (c *counting) Collect(_ string, r *meshv1.ReportRequest, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if all && c.units > 0 {
		e := &meshv1.ExperimentCounts{Name: "units", Run: 1, Epoch: 7}
		for i := range c.units {
			e.Units = append(e.Units, &meshv1.UnitCounts{Unit: uint64(i), Measures: []*meshv1.MeasureCounts{{Count: 1, Sum: 2}, {Count: 3, Sum: 4}}})
		}
		r.Experiments = append(r.Experiments, e)
	}
	if !all && c.rpcs == c.told {
		return
	}
	c.told = c.rpcs
	r.Canaries = append(r.Canaries, &meshv1.CanaryCounts{Name: "new", Run: 1, Step: 1, Canary: &meshv1.GroupCounts{Codes: map[uint32]uint64{0: c.rpcs}}})
}

func (c *counting) Urgent(f func(string)) { c.urgent = f }

func (c *counting) Obey(_ string, states []*controlv1.RunState, thresholds map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range states {
		if c.states[s.GetName()].GetNumber() < s.GetNumber() {
			c.states[s.GetName()] = s
			c.obeyed = append(c.obeyed, time.Now())
		}
	}
	maps.Copy(c.thresholds, thresholds)
}

func (c *counting) Hear(_ string, sources map[string]*meshv1.Sources) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.sources, sources)
}

// count counts RPCs.
func (c *counting) count(n uint64, urgent bool) {
	c.mu.Lock()
	c.rpcs += n
	c.mu.Unlock()
	if urgent {
		c.urgent(greeter)
	}
}

func (c *counting) number(name string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.states[name].GetNumber()
}

// leading adds up what it is told, by process.
type leading struct {
	rig     *rig
	by      *side
	ctx     context.Context
	store   kv.Store
	publish func(*meshv1.ReportResponse)

	mu     sync.Mutex
	rpcs   map[uint64]uint64
	units  map[uint64]int
	hellos map[uint64]*meshv1.Hello
	here   map[uint64]bool
	first  time.Time // when the first report with RPCs came
	takes  int
	over   bool
	inside bool
	hangs  chan struct{} // unless it is nil, Evidence waits for it
	last   func()        // unless it is nil, Close calls it
}

func (s *side) lead(ctx context.Context, _ string, store kv.Store, publish func(*meshv1.ReportResponse)) Leading {
	l := &leading{
		rig: s.rig, by: s, ctx: ctx, store: store, publish: publish, rpcs: map[uint64]uint64{}, units: map[uint64]int{},
		hellos: map[uint64]*meshv1.Hello{}, here: map[uint64]bool{},
	}
	s.rig.mu.Lock()
	defer s.rig.mu.Unlock()
	s.rig.leading = append(s.rig.leading, l)
	return l
}

func (s *side) String() string { return s.id }

// isOver says that it was told that it leads no more: ctx says so first.
func (l *leading) isOver() bool { return l.ctx.Err() != nil }

// alone fails where calls overlap.
func (l *leading) alone() func() {
	l.mu.Lock()
	if l.inside {
		l.rig.errorf("calls of Leading overlap")
	}
	if l.over {
		l.rig.errorf("Leading is called after Close")
	}
	l.inside = true
	l.mu.Unlock()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.inside = false
	}
}

func (l *leading) Take(from *meshv1.Hello, r *meshv1.ReportRequest) {
	defer l.alone()()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takes++
	l.here[from.GetProcess()], l.hellos[from.GetProcess()] = true, from
	for _, c := range r.GetCanaries() {
		n := c.GetCanary().GetCodes()[0]
		if n < l.rpcs[from.GetProcess()] {
			l.rig.errorf("the counts of %s go backwards", from.GetId())
		}
		if l.rpcs[from.GetProcess()] = n; n > 0 && l.first.IsZero() {
			l.first = time.Now()
		}
	}
	for _, e := range r.GetExperiments() {
		l.units[from.GetProcess()] += len(e.GetUnits())
	}
}

func (l *leading) Gone(from *meshv1.Hello) {
	defer l.alone()()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.here[from.GetProcess()] = false
}

func (l *leading) Evidence(name string) *meshv1.EvidenceResponse {
	defer l.alone()()
	if l.hangs != nil {
		<-l.hangs
	}
	if name != "new" {
		return nil
	}
	return &meshv1.EvidenceResponse{Waiting: "counted by " + l.by.id}
}

func (l *leading) Results(name string) *meshv1.ResultsResponse {
	defer l.alone()()
	if name != "new" {
		return nil
	}
	return &meshv1.ResultsResponse{Sidecars: 7}
}

func (l *leading) Close() {
	defer l.alone()()
	if l.last != nil {
		l.last()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

// sum is what all have counted together, and how many have.
func (l *leading) sum() (rpcs uint64, sidecars int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.rpcs {
		rpcs += n
	}
	return rpcs, len(l.rpcs)
}

// taken returns how many reports were taken.
func (l *leading) taken() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takes
}

// unitsOf returns how many units a process has told of.
func (l *leading) unitsOf(number uint64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.units[number]
}

// ids are those who report now, in order.
func (l *leading) ids() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for number, here := range l.here {
		if here {
			all = append(all, l.hellos[number].GetId())
		}
	}
	slices.Sort(all)
	return all
}

// say publishes a state.
func (l *leading) say(name string, number uint64) {
	l.publish(&meshv1.ReportResponse{States: []*controlv1.RunState{{Kind: "canary", Name: name, Number: number}}})
}
