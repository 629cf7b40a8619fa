package follow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/registry"
)

func sortedIDs[V any](m map[documents.ID]V) []documents.ID {
	return slices.SortedFunc(maps.Keys(m), func(a, b documents.ID) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
}

// service is one service that is followed. All but what says otherwise is guarded by
// Follower.mu.
type service struct {
	f    *Follower
	name string
	ctx  context.Context // of the watches, with stop; nil: there are none
	stop context.CancelFunc

	// answered is closed once it is known, or clear, what holds; settled once that is in
	// force. The flags beside belong to the goroutine of WatchPolicies.
	answered, settled  chan struct{}
	once               sync.Once // closes answered
	isTaken, isSettled bool

	followers int
	isOver    bool
	// What the store says, as it is read.
	seen    map[documents.ID]seen
	states  []*controlv1.RunState
	pending map[documents.ID]uint64 // the number of the last request
	err     error                   // why that may be out of date
	assumed bool                    // nothing is known, and it is not waited for any more
	// What the disk held at the beginning, or was handed over, as what held until then.
	isHanded     bool
	cached       map[documents.ID]*controlv1.Document
	cachedStates []*controlv1.RunState
	// What holds, or is to: the last good version of each document.
	docs  map[documents.ID]*controlv1.Document
	stand map[documents.ID]standing

	isKnown bool // what the documents are, or that it will not be known soon
	// What others say of the service: whether it is asked for, because RPCs go there.
	wantsEntries, watchingEntries bool
	entries                       *registry.Policies // nil: nothing was said yet

	watchingStates bool

	absent map[part]*absent // what the store had, and has not any more
	asking bool             // about that
	askNow chan struct{}    // there is more of it
}

// seen is the newest version of a document.
type seen struct {
	doc     *controlv1.Document
	version uint64 // of the key
	problem error  // why it cannot hold
}

// standing is how a document stands.
type standing struct {
	inForce *controlv1.Document // nil: no version is
	problem string
}

func newService(f *Follower, name string) *service {
	s := &service{
		f: f, name: name, answered: make(chan struct{}), settled: make(chan struct{}),
		docs: map[documents.ID]*controlv1.Document{}, stand: map[documents.ID]standing{},
		absent: map[part]*absent{}, askNow: make(chan struct{}, 1),
	}
	before, untilNow := f.handed(name)
	s.isHanded = untilNow
	if !untilNow {
		if kept := f.o.Cache.load(name); kept != nil {
			before = kept
		}
	}
	if before != nil {
		s.cached, s.cachedStates = before.docs, before.states
	}
	return s
}

// watch follows the service until ctx ends.
func (s *service) watch(ctx context.Context) {
	var states sync.WaitGroup
	defer states.Wait()
	patience := s.f.o.Patience
	if s.cached != nil {
		patience = cachePatience
	}
	if s.isHanded {
		s.know()
	}
	timer := time.AfterFunc(patience, s.resort)
	defer timer.Stop()
	watchStates := func() {
		if !s.watchingStates {
			s.watchingStates = true
			states.Go(func() {
				control.Anchor(ctx, s.f.o.Store, control.ServiceAnchors(s.name))
				s.f.o.Store.Watch(ctx, control.StatePrefix(s.name), s.readStates)
			})
		}
	}
	s.watchEntries(ctx)
	s.f.mu.Lock()
	if len(s.cachedStates) > 0 {
		watchStates()
	}
	s.f.mu.Unlock()
	s.f.o.Store.Watch(ctx, control.ServicePrefix(s.name), func(st kv.State) {
		if s.read(st) {
			s.f.mu.Lock()
			watchStates()
			s.f.mu.Unlock()
		}
	})
}

// resort does with what there is where the store has not answered in time.
func (s *service) resort() {
	s.f.mu.Lock()
	if s.seen == nil {
		if s.cached == nil {
			s.assumed = true
		}
		s.err = cmp.Or(s.err, fmt.Errorf("%s: no answer yet about service %q", s.f.o.Store.Describe(), s.name))
	}
	s.f.mu.Unlock()
	s.know()
}

// know says that it is known, or clear, what the documents are.
func (s *service) know() {
	s.f.mu.Lock()
	s.isKnown = true
	s.f.mu.Unlock()
	s.settle()
}

// settle says that it is known, or clear, what holds, once it is.
func (s *service) settle() {
	s.f.mu.Lock()
	isClear := s.isKnown && (s.entries != nil || !s.wantsEntries)
	s.f.mu.Unlock()
	if isClear {
		s.once.Do(func() { close(s.answered) })
		s.f.signal()
	}
}

// watchEntries has what others say of the service be watched, if that is wanted, once.
func (s *service) watchEntries(ctx context.Context) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.wantsEntries && !s.watchingEntries {
		s.watchingEntries = true
		s.f.watching.Go(func() {
			s.f.o.Entries(ctx, s.name, func(now *registry.Policies) {
				s.f.mu.Lock()
				s.entries = now
				s.f.mu.Unlock()
				s.settle()
			})
		})
	}
}

// read takes what the store says of the documents, and says whether states matter.
func (s *service) read(st kv.State) (runs bool) {
	s.f.mu.Lock()
	s.err = st.Err
	if !st.Known {
		denied := errors.Is(st.Err, kv.ErrDenied)
		if denied && s.seen == nil && s.cached == nil {
			s.assumed = true
		}
		s.f.mu.Unlock()
		if denied {
			s.know() // waiting would not help
		}
		return false
	}
	s.assumed = false
	before := s.seen
	s.seen, s.pending = map[documents.ID]seen{}, map[documents.ID]uint64{}
	for _, e := range st.Entries {
		kind, name, request, ok := control.ParseServiceKey(s.name, e.Key)
		key := documents.ID{Kind: kind, Name: name}
		switch {
		case !ok:
		case request:
			var r controlv1.Request
			if protojson.Unmarshal(e.Value, &r) == nil {
				s.pending[key] = r.GetNumber()
			}
		default:
			one, known := before[key]
			if !known || one.version != e.Version {
				one = s.decode(key, e)
			}
			s.seen[key] = one
			runs = runs || kind != control.Policy
		}
	}
	s.f.mu.Unlock()
	s.know()
	return runs
}

// readStates takes what the store says of canaries and experiments.
func (s *service) readStates(st kv.State) {
	if !st.Known {
		return
	}
	var states []*controlv1.RunState
	for _, e := range st.Entries {
		if control.IsAnchor(e.Key) {
			continue
		}
		state := &controlv1.RunState{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e.Value, state); err != nil ||
			e.Key != control.StateKey(control.Kind(state.GetKind()), s.name, state.GetName()) {
			s.f.o.Logger.Warn("the state of a canary or experiment cannot be read, and is left out", "key", e.Key)
			continue
		}
		states = append(states, state)
	}
	s.f.mu.Lock()
	before := s.states
	if s.cachedStates != nil {
		before = s.cachedStates
	}
	for _, state := range states {
		s.found(part{stateID(state), true})
	}
	for _, old := range before {
		if !slices.ContainsFunc(states, func(now *controlv1.RunState) bool { return stateID(now) == stateID(old) }) && s.stateStays(old) {
			states = append(states, old)
		}
	}
	s.states, s.cachedStates = states, nil
	s.f.mu.Unlock()
	s.f.signal()
}

// take takes over what is to hold from now on, the documents and the states. f.mu is
// held, by the goroutine of WatchPolicies.
func (s *service) take() {
	select {
	case <-s.answered:
	default:
		return
	}
	s.isTaken = true
	if s.seen == nil {
		s.docs = s.cached
	} else {
		docs := make(map[documents.ID]*controlv1.Document, len(s.seen))
		for key, one := range s.seen {
			switch last := s.docs[key]; {
			case one.problem == nil:
				docs[key] = one.doc
			case last != nil:
				docs[key] = last
			case s.cached[key] != nil:
				docs[key] = s.cached[key]
			}
			s.found(part{of: key})
		}
		for _, before := range []map[documents.ID]*controlv1.Document{s.cached, s.docs} {
			for key, last := range before {
				switch _, there := s.seen[key]; {
				case there:
				case s.stays(key):
					docs[key] = last
				default:
					s.found(part{of: key})
				}
			}
		}
		s.docs, s.cached = docs, nil
	}
	states := s.holding()
	for _, a := range s.f.o.Agents {
		a.States(s.name, states)
	}
}

// holding returns the states that are obeyed: of what runs, and of what a document stands
// for. f.mu is held.
func (s *service) holding() (list []*controlv1.RunState) {
	states := s.states
	if s.cachedStates != nil {
		states = s.cachedStates
	}
	for _, state := range states {
		if runs(state) || s.docs[stateID(state)] != nil {
			list = append(list, state)
		}
	}
	return list
}

func runs(state *controlv1.RunState) bool {
	return state.GetPhase() == controlv1.Phase_PHASE_RUNNING || state.GetPhase() == controlv1.Phase_PHASE_PAUSED
}

// active says whether a canary or an experiment runs, or is to.
func (s *service) active() bool {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.isOver {
		return false
	}
	done := map[documents.ID]uint64{}
	for _, state := range s.holding() {
		if runs(state) {
			return true
		}
		done[stateID(state)] = state.GetRequest()
	}
	for key, number := range s.pending {
		if control.After(number, done[key]) && s.docs[key] != nil {
			return true
		}
	}
	return false
}

// refused returns the documents that cannot hold as they are. f.mu is held.
func (s *service) refused() (list []registry.RefusedPolicy) {
	for _, key := range sortedIDs(s.seen) {
		one := s.seen[key]
		if one.problem == nil || key.Kind != control.Policy {
			continue
		}
		r := registry.RefusedPolicy{Policy: key.Name, Problem: one.problem.Error(), Service: s.name}
		if a := one.doc.GetPolicy().GetAccess(); a != nil {
			r.Access = a.GetMode() != "off" && a.GetMode() != "audit"
		} else {
			r.Access = one.doc.GetPolicy().GetKind() == nil // it might be one
		}
		list = append(list, r)
	}
	return list
}

// compiled is the name of the policy that a document is in force as.
func compiled(key documents.ID) string {
	if key.Kind == control.Policy {
		return key.Name
	}
	return string(key.Kind) + "." + key.Name
}

// note takes down how the documents stand, after they were handed over. f.mu is held, by
// the goroutine of WatchPolicies.
func (s *service) note(refused map[string]string) {
	if !s.isTaken {
		return
	}
	stand := make(map[documents.ID]standing, len(s.docs))
	for key, doc := range s.docs {
		st := standing{inForce: doc, problem: s.problemOf(key)}
		switch problem := refused[compiled(key)]; {
		case problem == "":
		case key.Kind != control.Policy:
			st.problem = problem
		default:
			st.problem = problem
			if s.seen[key].problem == nil {
				st.inForce = s.stand[key].inForce // the compiled one before it
			}
		}
		stand[key] = st
	}
	for key, one := range s.seen {
		if one.problem != nil {
			st := stand[key]
			st.problem = one.problem.Error()
			stand[key] = st
		}
	}
	s.tell(stand)
	s.stand = stand
}

// tell logs what of the documents is news since the first time that they were taken. f.mu
// is held.
func (s *service) tell(now map[documents.ID]standing) {
	if !s.isSettled {
		return
	}
	log := func(text string, key documents.ID, attrs ...any) {
		attrs = append([]any{slog.Bool("audit", true), slog.String("document", key.String()), slog.String("service", s.name)}, attrs...)
		s.f.o.Logger.Info(text, attrs...)
	}
	for _, key := range sortedIDs(now) {
		doc := now[key].inForce
		if doc == nil || doc.GetRevision() == s.stand[key].inForce.GetRevision() {
			continue
		}
		log("document is in force", key, slog.Uint64("revision", doc.GetRevision()),
			slog.String("author", documents.Printable(doc.GetAuthor())), slog.String("message", documents.Printable(doc.GetMessage())))
	}
	for _, key := range sortedIDs(s.stand) {
		if _, stays := now[key]; !stays {
			log("document is gone", key)
		}
	}
}

// status returns how the documents stand. f.mu is held.
func (s *service) status() (list []*controlv1.DocumentStatus) {
	for _, key := range sortedIDs(s.stand) {
		st := s.stand[key]
		one := &controlv1.DocumentStatus{
			Kind: string(key.Kind), Name: key.Name, Service: s.name,
			InForce: st.inForce.GetRevision(), Problem: st.problem, Revision: st.inForce.GetRevision(),
		}
		if seen, ok := s.seen[key]; ok {
			one.Revision = seen.doc.GetRevision()
		}
		list = append(list, one)
	}
	return list
}

// kept returns what is to be kept over a restart; nil: what there is need not be kept anew.
func (s *service) kept() *kept {
	s.f.mu.Lock()
	known := s.seen != nil
	s.f.mu.Unlock()
	if !known {
		return nil
	}
	return s.known()
}

// known returns what holds; nil: that is not known.
func (s *service) known() *kept {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if !s.isTaken || s.assumed {
		return nil
	}
	k := &kept{}
	for _, key := range sortedIDs(s.stand) {
		if doc := s.stand[key].inForce; doc != nil {
			k.documents = append(k.documents, doc)
		}
	}
	for _, state := range s.holding() {
		k.states = append(k.states, proto.CloneOf(state))
	}
	return k
}
