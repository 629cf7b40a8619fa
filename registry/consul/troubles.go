package consul

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Scopes of trouble that do not belong to one service.
const (
	scopeAgent       = "agent"
	scopeToken       = "token"
	scopeLimit       = "limit"
	scopeCache       = "cache"
	scopeCatalogue   = "catalogue"
	scopeDatacenters = "datacentres"
)

// troubleQuiet is the least time between two lines about the same scope's
// troubles: one that comes and goes does not fill the log.
const troubleQuiet = 30 * time.Second

// troubles logs what is wrong once when it begins and once when it is over,
// however many queries meet it. Each scope has at most one trouble at a time.
type troubles struct {
	log *slog.Logger

	mu    sync.Mutex
	known map[string]*trouble
	last  error
	when  time.Time
}

// trouble is what a scope suffers from, or suffered from last.
type trouble struct {
	active bool
	since  time.Time // when that began
	last   string    // how it was told last
	said   bool      // it was logged, so its end is too
	is     string
	text   string
	logged time.Time
}

func newTroubles(log *slog.Logger) *troubles {
	return &troubles{log: log, known: map[string]*trouble{}}
}

// report says that a scope is in trouble.
func (t *troubles) report(scope string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()

	now := time.Now()
	t.last, t.when = err, now

	entry := t.known[scope]
	if entry == nil {
		entry = &trouble{}
		t.known[scope] = entry
	}
	if !entry.active {
		entry.active, entry.since = true, now
	}
	entry.last = err.Error()

	is := kindOf(err)
	if entry.said && entry.is == is {
		return
	}
	if !entry.logged.IsZero() && now.Sub(entry.logged) < troubleQuiet {
		return
	}
	entry.said, entry.is, entry.text, entry.logged = true, is, err.Error(), now
	t.log.Warn(entry.text)
}

// clear says that a scope is well.
func (t *troubles) clear(scope string) {
	t.mu.Lock()
	defer t.mu.Unlock()

	entry := t.known[scope]
	if entry == nil || !entry.active {
		return
	}
	if entry.said {
		what, _, _ := strings.Cut(strings.TrimPrefix(entry.text, "consul: "), ";")
		t.log.Info("consul: over: " + what)
	}
	entry.active, entry.said = false, false
}

// forget drops what is remembered of a scope that is of no interest any more.
func (t *troubles) forget(scope string) {
	t.mu.Lock()
	defer t.mu.Unlock()

	delete(t.known, scope)
}

// in says whether a scope is in trouble.
func (t *troubles) in(scope string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()

	entry := t.known[scope]

	return entry != nil && entry.active
}

// active are the troubles there are now, those that have lasted longest first.
func (t *troubles) active() (problems []Problem) {
	t.mu.Lock()
	defer t.mu.Unlock()

	for _, entry := range t.known {
		if entry.active {
			problems = append(problems, Problem{Text: entry.last, Since: entry.since})
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Text, b.Text))
	})

	return problems[:min(len(problems), maxProblems)]
}

// latest is the last trouble there was, over or not.
func (t *troubles) latest() (time.Time, error) {
	t.mu.Lock()
	defer t.mu.Unlock()

	return t.when, t.last
}

// maxProblems bounds what a Status tells: each watched service may have its own.
const maxProblems = 20
