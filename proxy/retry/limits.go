package retry

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxDestinations is for how many destinations a policy counts by themselves;
// further ones share one count.
const maxDestinations = 1000

// Limits bound what a policy's attempts beyond the first may cost, for each
// destination by itself. nil bounds nothing.
type Limits struct {
	budget     *BudgetOptions
	throttling *ThrottlingOptions

	last  atomic.Pointer[Allowance]             // most policies have one destination
	known atomic.Pointer[map[string]*Allowance] // replaced as a whole

	mu sync.Mutex // of replacing
}

// NewLimits returns limits; what is nil does not hold. Where both are nil, so are
// the limits.
func NewLimits(budget *BudgetOptions, throttling *ThrottlingOptions) *Limits {
	if budget == nil && throttling == nil {
		return nil
	}
	l := &Limits{budget: budget, throttling: throttling}
	l.known.Store(new(map[string]*Allowance))
	return l
}

// For returns what there is for a service, whose name comes from the registry. It
// takes no lock but for a name that is new.
func (l *Limits) For(service string, now time.Time) *Allowance {
	if l == nil {
		return nil
	}
	if a := l.last.Load(); a != nil && a.service == service {
		return a
	}
	a := (*l.known.Load())[service]
	if a == nil {
		a = l.add(service, now)
	}
	if a.service == service {
		l.last.Store(a)
	}
	return a
}

func (l *Limits) add(service string, now time.Time) *Allowance {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := *l.known.Load()
	if len(known) >= maxDestinations {
		service = "" // no service's name
	}
	if a := known[service]; a != nil {
		return a
	}
	a := &Allowance{service: strings.Clone(service)}
	if l.budget != nil {
		a.budget = &budget{opts: *l.budget, base: now}
	}
	if l.throttling != nil {
		a.throttle = newThrottle(*l.throttling)
	}
	known = maps.Clone(known)
	if known == nil {
		known = make(map[string]*Allowance)
	}
	known[a.service] = a
	l.known.Store(&known)
	return a
}

// Allowance is what there is for one destination. nil bounds nothing.
type Allowance struct {
	service  string
	budget   *budget
	throttle *throttle
}

// Begin counts an RPC, when it is first sent.
func (a *Allowance) Begin(now time.Time) {
	if a != nil && a.budget != nil {
		a.budget.begin(now)
	}
}

// TryExtra counts an attempt beyond an RPC's first, if the budget has room for it.
func (a *Allowance) TryExtra(now time.Time) bool {
	return a == nil || a.budget == nil || a.budget.take(now)
}

// Failure takes a token for an attempt that failed with a status that has RPCs sent
// again, or for which the server asked not to send it again.
func (a *Allowance) Failure() {
	if a != nil && a.throttle != nil {
		a.throttle.failure()
	}
}

// Success gives tokens back for an RPC that ended OK.
func (a *Allowance) Success() {
	if a != nil && a.throttle != nil {
		a.throttle.success()
	}
}

// Throttled says whether there are too few tokens for further attempts.
func (a *Allowance) Throttled() bool {
	return a != nil && a.throttle != nil && !a.throttle.allowed()
}
