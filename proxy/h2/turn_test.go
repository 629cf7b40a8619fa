package h2

import (
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sharing is a transport whose reader shares a processor: it says what each turn
// brought.
type sharing struct {
	*simEnd
	waited bool
	// took is what the reader takes between two reads.
	took   time.Duration
	passed func()
}

func (s *sharing) Read(l Lender) (int, error) {
	time.Sleep(s.took)
	return s.simEnd.Read(l)
}

func (s *sharing) Waited() bool { return s.waited }
func (s *sharing) MakeWay()     { s.passed() }

// share has the rig's connection share, and counts how often it makes way.
func (r *rig) share(s sharing) *atomic.Int32 {
	synctest.Wait()
	n := new(atomic.Int32)
	passed := s.passed
	s.simEnd = r.engine
	s.passed = func() {
		n.Add(1)
		if passed != nil {
			passed()
		}
	}
	r.c.t = &s
	r.must(r.WritePing(true, [8]byte{})) // or the next read is still the one before
	synctest.Wait()
	n.Store(0)
	return n
}

// long is a request of some 50 KB of fields, which take few bytes once the table
// has them.
func long() []string {
	all := get
	for range 50 {
		all = append(all[:len(all):len(all)], "a", strings.Repeat("b", 1000))
	}
	return all
}

// Who sends many long header sections at once has others take their turns between
// them, and what came of those before is written by then.
func TestLongSectionsTakeTurns(t *testing.T) {
	simulated(t, func(t *testing.T) {
		const requests = 12
		r := newServer(t, Config{MaxHeaderListSize: 64 << 10})
		r.headers(1, true, long()...)
		var told []int
		n := r.share(sharing{waited: true, passed: func() {
			r.w.mu.Lock()
			defer r.w.mu.Unlock()
			told = append(told, len(r.w.streams))
			if r.c.touchedBy != nil {
				t.Error("the batch is not done")
			}
		}})
		r.engine.in.setHold(true)
		for i := range uint32(requests) {
			r.headers(3+2*i, true, long()...)
		}
		r.engine.in.setHold(false)
		synctest.Wait()
		if got := n.Load(); got < requests/3 {
			t.Errorf("%d long requests at once made way %d times, after %v of them", requests, got, told)
		}
		for i := range told[1:] {
			if told[i+1]-told[i] > 3 {
				t.Errorf("it made way after so many requests: %v", told)
			}
		}
		r.share(sharing{waited: true, passed: func() { t.Error("a short request made way") }})
		r.headers(1001, true, get...)
		synctest.Wait()
	})
}

// A reader that never waits makes way once its turn is over; one that waits, or
// that has only begun, does not.
func TestTurns(t *testing.T) {
	tests := map[string]struct {
		sharing     sharing
		least, most int32
	}{
		"always something to read":     {sharing{took: turnTime / 4}, 100 / 8, 100 / 4},
		"each batch is a turn":         {sharing{took: turnTime}, 100 / 3, 100},
		"it waits":                     {sharing{took: turnTime, waited: true}, 0, 0},
		"everything takes no time yet": {sharing{}, 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{})
				n := r.share(test.sharing)
				r.engine.in.mu.Lock()
				r.engine.in.most = frameHeaderLen + 8
				r.engine.in.mu.Unlock()
				for range 100 {
					r.must(r.WritePing(true, [8]byte{}))
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if got := n.Load(); got < test.least || got > test.most {
					t.Errorf("it made way %d times in 100 batches, want %d to %d", got, test.least, test.most)
				}
			})
		})
	}
}

// The time that others took while a reader waited for them is not of its turn.
func TestTurnBeginsAfterTheWait(t *testing.T) {
	t.Parallel()
	var u turn
	now := time.Now()
	for _, step := range []struct {
		what   string
		after  time.Duration
		waited bool
		over   bool
	}{
		{"it waits", 0, true, false},
		{"others had their turns meanwhile", 5 * turnTime, false, false},
		{"it goes on for a part of a turn", turnTime / 2, false, false},
		{"its turn is over", turnTime / 2, false, true},
		{"it begins anew", turnTime, false, false},
		{"it waits in the middle of a turn", turnTime, true, false},
		{"which has the next one begin with what follows", turnTime, false, false},
	} {
		now = now.Add(step.after)
		if got := u.over(now, step.waited); got != step.over {
			t.Errorf("%s: over is %v, want %v", step.what, got, step.over)
		}
	}
}

// Long header sections that waited for a peer are not encoded all at once.
func TestParkedSectionsTakeTurns(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{MaxConcurrentStreams: 100})
		const answers = 50
		for i := range uint32(answers) {
			r.headers(1+2*i, true, get...)
		}
		synctest.Wait()
		n := r.share(sharing{waited: true})
		answer := append([]string{":status", "200"}, long()[len(get):]...)
		r.fillOutput(func() *recorder {
			for i := range answers {
				r.w.stream(i).send(true, answer...)
			}
			return nil
		})
		before := n.Load()
		r.room(8 << 20)
		synctest.Wait()
		if got := n.Load() - before; got < answers/5 {
			t.Errorf("%d long answers were encoded in %d turns", answers, got+1)
		}
	})
}

// The end of a connection with many RPCs is many turns.
func TestEndTakesTurns(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		for i := range uint32(10 * turnEnds) {
			r.headers(1+2*i, true, get...)
		}
		n := r.share(sharing{waited: true})
		r.end.Close()
		synctest.Wait()
		if got := n.Load(); got != 10 {
			t.Errorf("the end of %d RPCs made way %d times, want 10", 10*turnEnds, got)
		}
	})
}

// oneProcessor is set where the test below runs with one.
const oneProcessor = "PILLION_TEST_ONE_PROCESSOR"

// Who passes the wayside lets those run that have become readable, which a
// goroutine that yields does not while there is only one processor.
func TestPassing(t *testing.T) {
	if os.Getenv(oneProcessor) == "" {
		t.Parallel()
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPassing$", "-test.count=1", "-test.parallel=1")
		child.Env = append(os.Environ(), oneProcessor+"=1", "GOMAXPROCS=1")
		if out, err := child.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	wayside.pass() // opens it
	const rounds = 100
	missed := 0
	for range rounds {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		var ran atomic.Bool
		done := make(chan struct{})
		go func() {
			defer close(done)
			var p [1]byte
			_, _ = r.Read(p[:])
			ran.Store(true)
		}()
		wayside.pass() // the reader waits now
		if ran.Load() {
			t.Fatal("it read what is not there yet")
		}
		if _, err := w.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		wayside.pass()
		if !ran.Load() {
			missed++
		}
		<-done
		_, _ = r.Close(), w.Close()
	}
	// The scheduler is fair to those that yield too, now and then.
	if missed > rounds/10 {
		t.Errorf("%d of %d times, who had become readable did not run", missed, rounds)
	}
}

// Nobody is left waiting where many pass at once.
func TestManyPass(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	const many = 20
	for range many {
		go func() {
			for range 100 {
				wayside.pass()
			}
			done <- struct{}{}
		}()
	}
	for range many {
		<-done
	}
}

// Without a file descriptor to spare it is as if there were no turns.
func TestPassingWithoutDescriptor(t *testing.T) {
	t.Parallel()
	var none turnstile
	none.once.Do(func() {}) // as where opening failed
	none.pass()
}
