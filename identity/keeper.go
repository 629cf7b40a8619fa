package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// renewsBy is the share of its lifetime by which a certificate has been renewed where a
// source does not say: SPIRE renews at a half, cert-manager and certbot at two thirds.
const renewsBy = 0.7

// lookEvery is how long the keeper goes without looking at the clock: timers stand
// still while a machine sleeps, certificates do not.
const lookEvery = time.Minute

// Options are what a [Keeper] needs besides its source.
type Options struct {
	// Logger is told of new certificates, and of renewal that stalls. nil: discarded.
	Logger *slog.Logger
	// Now is the clock. nil: [time.Now].
	Now func() time.Time
}

// Keeper keeps the newest state of a source. A certificate that it has is never lost to
// a source that has none at the moment.
type Keeper struct {
	source Source
	logger *slog.Logger
	now    func() time.Time

	current atomic.Pointer[State]

	stop  context.CancelFunc
	ended sync.WaitGroup
	// renewed wakes what looks after the certificate's times.
	renewed chan struct{}

	// delivering is held while watchers are told, so that each is told in order. It is
	// taken before mu.
	delivering sync.Mutex
	mu         sync.Mutex
	// changed is closed when there is a new state.
	changed  chan struct{}
	watchers map[*watcher]struct{}
}

type watcher struct {
	update func(*State)
	gone   atomic.Bool
}

// Keep begins to watch a source, until [Keeper.Close].
func Keep(src Source, o Options) *Keeper {
	k := &Keeper{
		source: src, logger: o.Logger, now: o.Now,
		renewed: make(chan struct{}, 1), changed: make(chan struct{}), watchers: make(map[*watcher]struct{}),
	}
	if k.logger == nil {
		k.logger = slog.New(slog.DiscardHandler)
	}
	if k.now == nil {
		k.now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.stop = cancel
	k.ended.Go(func() { src.Watch(ctx, k.take) })
	k.ended.Go(func() { k.attend(ctx) })
	return k
}

// Close ends the watching. What is current stays so.
func (k *Keeper) Close() {
	k.stop()
	k.ended.Wait()
}

// Current is the newest state; nil where there is none yet. It costs an atomic load.
func (k *Keeper) Current() *State { return k.current.Load() }

// Status says how the source is doing.
func (k *Keeper) Status() Status { return k.source.Status() }

// Wait returns the newest state as soon as there is one with a certificate that has not
// expired. The error says why there is none when ctx ends.
func (k *Keeper) Wait(ctx context.Context) (*State, error) {
	for {
		k.mu.Lock()
		changed := k.changed
		k.mu.Unlock()
		state := k.Current()
		if state != nil && state.Certificate != nil && !k.now().After(state.Expiry()) {
			return state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, k.missing(state, ctx.Err())
		}
	}
}

// missing says that there is no certificate that could be used.
func (k *Keeper) missing(state *State, cause error) error {
	what := "there is no certificate yet"
	if state != nil && state.Certificate != nil {
		what = "the own certificate has expired at " + moment(state.Expiry())
	}
	status := k.source.Status()
	if status.Err != nil {
		return fmt.Errorf("%s: %s: %w", what, describe(status), status.Err)
	}
	return fmt.Errorf("%s: %s has not brought one: %w", what, describe(status), cause)
}

// describe names a source.
func describe(s Status) string {
	if s.Location == "" {
		return "identity source " + s.Kind
	}
	return "identity source " + s.Kind + " at " + s.Location
}

// Watch hands over the current state, if there is one, and then each that follows it, in
// order and never two at once. update must neither block nor call Watch. After stop
// returned no further call begins.
func (k *Keeper) Watch(update func(*State)) (stop func()) {
	w := &watcher{update: update}
	k.delivering.Lock()
	defer k.delivering.Unlock()
	k.mu.Lock()
	k.watchers[w] = struct{}{}
	k.mu.Unlock()
	if state := k.Current(); state != nil {
		update(state)
	}
	return func() {
		w.gone.Store(true)
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.watchers, w)
	}
}

// take makes what the source hands over the current state.
func (k *Keeper) take(next *State) {
	k.delivering.Lock()
	defer k.delivering.Unlock()
	held := k.Current()
	if next = k.consider(held, next); next == nil {
		return
	}
	k.current.Store(next)
	k.mu.Lock()
	watchers := make([]*watcher, 0, len(k.watchers))
	for w := range k.watchers {
		watchers = append(watchers, w)
	}
	k.mu.Unlock()
	k.report(held, next)
	for _, w := range watchers {
		if !w.gone.Load() {
			w.update(next)
		}
	}
	// Those who wait for it begin once everybody knows: names in access rules stand for
	// something only then.
	k.mu.Lock()
	close(k.changed)
	k.changed = make(chan struct{})
	k.mu.Unlock()
	select {
	case k.renewed <- struct{}{}:
	default:
	}
}

// consider returns what is to be current after next came; nil if that is what is held.
func (k *Keeper) consider(held, next *State) *State {
	if next == nil {
		return nil
	}
	if next.Certificate != nil {
		checked, err := NewState(next.Certificate, next.Bundles, next.Obtained)
		if err != nil {
			k.logger.Error("certificate is not taken over, what held before stays in force", "source", k.source.Status().Kind, "error", err)
			return nil
		}
		next = checked
	}
	if held == nil || held.TrustDomain != next.TrustDomain {
		return next
	}
	if k.better(held, next) {
		with := *next
		with.Certificate, with.ID, with.Obtained = held.Certificate, held.ID, held.Obtained
		next = &with
	}
	if next.SameCertificate(held) && next.SameRoots(held) {
		return nil
	}
	return next
}

// better says whether the certificate that is held is to be kept, whatever comes with
// the next one.
func (k *Keeper) better(held, next *State) bool {
	now := k.now()
	switch {
	case held.Certificate == nil:
		return false
	case next.Certificate == nil || next.SameCertificate(held):
		return true
	case now.After(next.Expiry()) && !now.After(held.Expiry()):
		k.logger.Error("certificate is not taken over, what held before stays in force", "source", k.source.Status().Kind,
			"error", fmt.Errorf("the certificate (%s) %w", next.ID, checkTime(next.Certificate.Leaf, now)))
		return true
	}
	return false
}

// report logs a change.
func (k *Keeper) report(held, next *State) {
	kind := k.source.Status().Kind
	if held == nil || !next.SameRoots(held) {
		k.logger.Info("roots are in force", "source", kind, "trust_domains", next.domains())
	}
	if next.Certificate == nil {
		return
	}
	if held == nil || !next.SameCertificate(held) {
		k.logger.Info("certificate is in force", "source", kind, "id", next.ID.String(),
			"serial", next.Certificate.Leaf.SerialNumber.Text(16), "until", moment(next.Expiry()))
	}
	now := k.now()
	if checkTime(next.Certificate.Leaf, now) != nil {
		return // which is said when it expires
	}
	if err := next.chainsToOwn(now); err != nil {
		k.logger.Warn("others of the trust domain may refuse the own certificate", "source", kind, "error", fmt.Errorf("the certificate %w", err))
	}
}

// Stalled says why the certificate should have been renewed by now: because half of its
// lifetime is gone and the source fails, or because all of the time is gone that a
// source which is well takes (see [Status].RenewsBy), or because it has expired. It
// is nil where all is well, and where there has been no certificate yet.
func (k *Keeper) Stalled() error {
	state := k.Current()
	if state == nil || state.Certificate == nil {
		return nil
	}
	return k.stalled(state, k.now())
}

func (k *Keeper) stalled(state *State, now time.Time) error {
	t := timesOf(state, k.source.Status())
	switch {
	case now.Before(t.half):
		return nil
	case !now.Before(t.end):
		return fmt.Errorf("the certificate %s has expired at %s: %w", state.ID, moment(t.end), t.reason())
	case t.status.Err != nil, !now.Before(t.due):
		return fmt.Errorf("the certificate %s is not renewed, and ends at %s: %w", state.ID, moment(t.end), t.reason())
	}
	return nil
}

// times are the moments of a certificate's life that matter for its renewal.
type times struct {
	status         Status
	half, due, end time.Time
}

func timesOf(state *State, status Status) times {
	leaf := state.Certificate.Leaf
	share := status.RenewsBy
	if share == 0 {
		share = renewsBy
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	at := func(share float64) time.Time {
		return leaf.NotBefore.Add(time.Duration(share * float64(life)))
	}
	return times{status: status, half: at(0.5), due: at(max(share, 0.5)), end: leaf.NotAfter}
}

// reason says what keeps a source from renewing.
func (t *times) reason() error {
	if t.status.Err != nil {
		return fmt.Errorf("%s: %w", describe(t.status), t.status.Err)
	}
	return errors.New(describe(t.status) + " has not brought a newer one")
}

// attend logs once for each certificate when half of its lifetime is gone, when it
// should have been renewed, and when it expires.
func (k *Keeper) attend(ctx context.Context) {
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	var a attendance
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.renewed:
		case <-timer.C:
		}
		state := k.Current()
		if state == nil || state.Certificate == nil {
			continue
		}
		timer.Reset(min(a.look(k, state, k.now()), lookEvery))
	}
}

// attendance is what has been said about a certificate.
type attendance struct {
	cert                   *tls.Certificate
	half, overdue, expired bool
}

// look says what is to be said now, and returns when to look again.
func (a *attendance) look(k *Keeper, state *State, now time.Time) time.Duration {
	if a.cert != state.Certificate {
		if a.overdue {
			k.logger.Info("renewal of the certificate goes on", "id", state.ID.String(), "until", moment(state.Expiry()))
		}
		*a = attendance{cert: state.Certificate}
	}
	t := timesOf(state, k.source.Status())
	stalled := k.stalled(state, now)
	switch {
	case stalled != nil && !now.Before(t.end):
		say(&a.expired, func() { k.logger.Error("the own certificate has expired: secure connections fail", "error", stalled) })
		return lookEvery
	case stalled != nil:
		say(&a.overdue, func() {
			k.logger.Warn("renewal of the certificate has stalled", "left", t.end.Sub(now).Round(time.Second), "error", stalled)
		})
		return t.end.Sub(now)
	case now.Before(t.half):
		return t.half.Sub(now)
	}
	say(&a.half, func() {
		k.logger.Info("half of the certificate's lifetime is gone, a newer one is expected", "id", state.ID.String(), "by", moment(t.due), "until", moment(t.end))
	})
	// The source may begin to fail at any time.
	return min(t.due.Sub(now), max(t.end.Sub(now)/20, time.Second))
}

// say does something once.
func say(done *bool, what func()) {
	if !*done {
		*done = true
		what()
	}
}
