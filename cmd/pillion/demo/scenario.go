package demo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// scenario is a story that the demo tells: who is there, which policies hold, what
// happens when, and what must have come of it.
type scenario struct {
	// short says in a few words what it shows.
	short string
	// opening says what is started, in a sentence.
	opening  string
	greeters []string
	clients  int // sidecars of clients; the load is divided among them
	// users is of how many users RPCs are, chosen at random; 0: of nobody.
	users int
	// duration and rate are those that hold unless others are asked for.
	duration time.Duration
	rate     int
	// arrivals has the bars show what arrives at the instances, attempts that fail
	// included, and not what is answered.
	arrivals bool
	// policies are those in force at first, as the mesh file has them.
	policies func(pace) string
	acts     []act
	// prepare is what is done before the load begins; nil: nothing.
	prepare func(context.Context, *stage) error
	// play tells the story instead of acts, one thing after the other as they come to be.
	play func(context.Context, *stage) error
	// controlled has the sidecars obey the documents in a folder, and deciders are the
	// greeters beside whom one may be elected that decides; none: all.
	controlled bool
	deciders   []string
	// note adds figures of its own to those of a second; nil: none.
	note func(*stage) string
	// verdict says what came of it.
	verdict func(*stage) []finding
}

// act is something that happens in a story.
type act struct {
	at   float64 // the share of the story that is over then
	what string  // "": nothing that anybody would see
	do   func(context.Context, *stage) error
}

// finding is something that must be so, and whether it is.
type finding struct {
	kept bool
	what string
}

// storyDuration is how long a story takes that shows policies, and shortest the least
// that it can be told in.
const (
	storyDuration = time.Minute
	shortest      = 8 * time.Second
)

// pace is how long a whole story lasts. What policies wait for follows it, so that
// the same happens in a story that is told quickly.
type pace time.Duration

// of writes how long something takes that takes so many seconds in a story of a
// minute, as policies have it.
func (p pace) of(seconds float64) string {
	d := time.Duration(seconds * float64(p) / 60).Round(10 * time.Millisecond)
	return fmt.Sprintf("%gs", max(d, 100*time.Millisecond).Seconds())
}

// plain is the story that is told where none is asked for.
const plain = ""

// stories are the scenarios by name.
var stories = map[string]*scenario{
	plain: {
		opening:  "Starting greeter v1 and v2, a sidecar beside each, and a sidecar for a client…",
		greeters: []string{"v1", "v2"},
		clients:  1,
		duration: 12 * time.Second,
		rate:     1000,
		policies: func(pace) string { return "" },
		acts: []act{
			{1. / 3, "greeter v2 is ended; its sidecar stays", func(_ context.Context, s *stage) error { return s.fleet.apps[1].end() }},
			{2. / 3, "greeter v2 is back", func(ctx context.Context, s *stage) error { return s.fleet.restartApp(ctx, 1) }},
		},
		verdict: func(*stage) []finding { return nil },
	},
	"ab":      &abStory,
	"retry":   &retryStory,
	"breaker": &breakerStory,
	"outlier": &outlierStory,

	"canary":     &canaryStory,
	"experiment": &experimentStory,
}

// Scenarios are the names of the scenarios that there are beside the plain one, with
// what each shows, a line each.
func Scenarios() (lines []string) {
	for _, name := range ScenarioNames() {
		lines = append(lines, fmt.Sprintf("%-10s %s", name, stories[name].short))
	}
	return lines
}

// ScenarioNames are their names alone.
func ScenarioNames() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(stories)), func(name string) bool { return name == plain })
}

// scenarioOf finds a scenario.
func scenarioOf(name string) (*scenario, error) {
	s := stories[name]
	if s == nil {
		return nil, fmt.Errorf("there is no scenario %q: choose one of %s", name, strings.Join(ScenarioNames(), ", "))
	}
	return s, nil
}
