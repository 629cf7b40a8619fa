package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/pillion-proxy/pillion/control/experiment/report"
)

// stage is a story while it is told.
type stage struct {
	options Options
	*scenario
	fleet  *fleet
	load   *load
	screen *screen
	pace   pace

	// What the sidecars counted when they were last asked.
	clients []metrics
	arrived []int // RPCs that came to each greeter's sidecar
	shown   []int // those of them that were shown

	// marks are what was counted when acts began, by names of the story's own, and
	// moves how users moved.
	// findings are what came so far of a story that is played, and watched is the canary
	// or experiment that each second tells of.
	findings []finding
	watched  string
	looks    []report.Range // intervals that seconds have told
	claimed  bool           // the last of them shows that the variant is better

	start   time.Time
	seconds <-chan time.Time

	marks map[string]mark
	moves map[string]moves
}

// moves are how many users moved to the canary, and back.
type moves struct{ there, back int }

// found remembers how many users have moved since the policies last changed.
func (s *stage) found(name, stable, canary string) {
	s.moves[name] = moves{s.load.moves(stable, canary), s.load.moves(canary, stable)}
}

// end is the mark that is made when the load has ended.
const end = "end"

// mark is what was counted at some moment.
type mark struct {
	at         time.Time
	ok, failed int     // RPCs of the load
	retries    float64 // attempts that policies asked for
	attempts   float64
	arrived    []int
}

// tell tells the story. It ends early, without an error, when ctx does.
func (s *stage) tell(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	s.start, s.seconds = time.Now(), tick.C
	if s.play != nil {
		if err := s.play(ctx, s); ctx.Err() == nil {
			return err
		}
		return nil
	}
	acts := s.acts
	for time.Since(s.start) < time.Duration(s.pace) {
		select {
		case <-ctx.Done():
			return nil
		case <-s.seconds:
		}
		s.load.settle() // what was changed a second ago is in force
		for len(acts) > 0 && time.Since(s.start) >= time.Duration(acts[0].at*float64(s.pace)) {
			if acts[0].what != "" {
				s.screen.event(acts[0].what)
			}
			if err := acts[0].do(ctx, s); err != nil {
				return err
			}
			acts = acts[1:]
		}
		s.second(ctx)
	}
	return nil
}

// second shows what happened since it was last called.
func (s *stage) second(ctx context.Context) {
	s.ask(ctx)
	s.news()
	figures := s.load.second()
	note := ""
	if s.note != nil {
		note = s.note(s)
	}
	s.screen.second(time.Since(s.start), figures, s.bars(figures), note)
}

// news shows what sidecars said lately.
func (s *stage) news() {
	for _, story := range s.fleet.news() {
		s.screen.event(story)
	}
}

// glance is how often is looked whether something has come to be.
const glance = 50 * time.Millisecond

// until shows the seconds until something is so, which has a limit.
func (s *stage) until(ctx context.Context, what string, limit time.Duration, so func() bool) error {
	late := time.NewTimer(limit)
	defer late.Stop()
	look := time.NewTicker(glance)
	defer look.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("%w: after %v still not: %s", ErrNotSo, limit, what)
		case <-s.seconds:
			s.second(ctx)
		case <-look.C:
			s.news()
		}
	}
	return nil
}

// finds notes down what came of a part of a story.
func (s *stage) finds(kept bool, what string, args ...any) {
	s.findings = append(s.findings, finding{kept, fmt.Sprintf(what, args...)})
}

// rest shows the seconds of a while.
func (s *stage) rest(ctx context.Context, while time.Duration) error {
	over := time.Now().Add(while)
	return s.until(ctx, "", while+time.Minute, func() bool { return time.Now().After(over) })
}

// ask asks all sidecars what they have counted.
func (s *stage) ask(ctx context.Context) {
	s.clients = scrapeAll(ctx, s.fleet.clients)
	if !s.arrivals {
		return
	}
	arrived := make([]int, len(s.fleet.beside))
	for i, m := range scrapeAll(ctx, s.fleet.beside) {
		arrived[i] = int(m.sum("grpc_server_started_total", nil))
		if m == nil && s.arrived != nil {
			arrived[i] = s.arrived[i] // it did not answer
		}
	}
	s.arrived = arrived
}

// bars are how many RPCs were answered by each greeter in the last second, or how many
// arrived there.
func (s *stage) bars(f figures) map[string]int {
	if !s.arrivals {
		return f.by
	}
	by := make(map[string]int, len(s.greeters))
	for i, name := range s.greeters {
		by[name] = s.arrived[i]
		if s.shown != nil {
			by[name] -= s.shown[i]
		}
	}
	s.shown = s.arrived
	return by
}

// edit puts these policies in the place of those that hold.
func (s *stage) edit(ctx context.Context, policies string) error {
	s.load.unsettle()
	return s.fleet.edit(ctx, policies)
}

// now is what is counted at this moment.
func (s *stage) now(ctx context.Context) mark {
	s.ask(ctx)
	total := s.load.total()
	return mark{
		at: time.Now(), ok: total.ok, failed: total.failed, arrived: s.arrived,
		retries:  sumOf(s.clients, "pillion_retries_total", labels{"kind": "retry"}),
		attempts: sumOf(s.clients, "pillion_attempts_total", labels{"side": "outbound"}),
	}
}

// mark remembers what is counted at this moment.
func (s *stage) mark(ctx context.Context, name string) { s.marks[name] = s.now(ctx) }

// between is what happened between two marks.
func (s *stage) between(from, to string) mark {
	a, b := s.marks[from], s.marks[to]
	d := mark{ok: b.ok - a.ok, failed: b.failed - a.failed, retries: b.retries - a.retries, attempts: b.attempts - a.attempts}
	for i := range b.arrived {
		d.arrived = append(d.arrived, b.arrived[i]-a.arrived[i])
	}
	return d
}

// rpcs is how many RPCs of the load ended.
func (m *mark) rpcs() int { return m.ok + m.failed }

// failing is the share of RPCs that failed, in percent.
func (m *mark) failing() float64 { return percent(m.failed, m.rpcs()) }

func percent(part, whole int) float64 { return 100 * float64(part) / float64(max(whole, 1)) }
