package consul

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestTroublesAreLoggedWhenTheyBeginAndEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &logBook{}
		troubles := newTroubles(log.logger())
		away, denied := errors.New("is away"), errors.New("is denied")

		for range 100 {
			troubles.report("a", away)
			time.Sleep(time.Minute)
		}
		want(t, "lines", len(log.with("")), 1)
		troubles.report("b", denied) // another scope
		want(t, "lines", len(log.with("level=WARN")), 2)
		if !troubles.in("a") || !troubles.in("b") || troubles.in("c") {
			t.Fatal("scopes")
		}
		troubles.clear("a")
		troubles.clear("a")
		troubles.clear("c")
		want(t, "ends", len(log.with("over: is away")), 1)

		// One that comes and goes: a line in half a minute, and its end only where
		// its beginning was said.
		time.Sleep(time.Minute)
		for range 60 {
			troubles.report("a", away)
			troubles.clear("a")
			time.Sleep(time.Second)
		}
		want(t, "beginnings", len(log.with("msg=\"is away\"")), 3)
		want(t, "ends", len(log.with("over: is away")), 3)

		// What came back unsaid is said once it stays.
		troubles.report("a", away)
		time.Sleep(time.Minute)
		troubles.report("a", denied)
		want(t, "another trouble", len(log.with("is denied")), 2)
		for i := range 10 { // the same trouble, told differently
			troubles.report("d", &failure{kind: unreachable, text: fmt.Sprintf("consul: gone %d; wait", i)})
			time.Sleep(time.Minute)
		}
		troubles.clear("d")
		want(t, "one trouble, and its end", log.with("gone"), []string{log.with("gone 0; wait")[0], log.with("over: gone 0\"")[0]})
		troubles.report("a", denied)
		at, err := troubles.latest()
		if !errors.Is(err, denied) || at != time.Now() {
			t.Fatalf("%v, %v", err, at)
		}
		troubles.forget("a")
		if troubles.in("a") {
			t.Fatal("not forgotten")
		}
	})
}

// What is wrong now is shown with when it began, however often it is met.
func TestTroublesThatThereAreNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		troubles := newTroubles(slog.New(slog.DiscardHandler))
		began := time.Now()
		for range 3 {
			troubles.report("a", errors.New("is away"))
			time.Sleep(time.Second)
		}
		troubles.report("b", errors.New("is denied"))
		troubles.report("c", errors.New("is over soon"))
		troubles.clear("c")
		want(t, "problems", troubles.active(), []Problem{{"is away", began}, {"is denied", began.Add(3 * time.Second)}})

		// It is over, and comes back: it began later then, and is told as it is now.
		troubles.clear("a")
		time.Sleep(time.Second)
		troubles.report("a", errors.New("is away again"))
		want(t, "problems", troubles.active(), []Problem{{"is denied", began.Add(3 * time.Second)}, {"is away again", began.Add(4 * time.Second)}})

		for i := range 2 * maxProblems {
			troubles.report(fmt.Sprint(i), errors.New("another"))
		}
		want(t, "how many are shown", len(troubles.active()), maxProblems)
	})
}
