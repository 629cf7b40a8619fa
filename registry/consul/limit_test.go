package consul

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLessIsAskedWhereTheAgentLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, log := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		fake.failWith(answerWith(429, "too many"))
		after(time.Minute)
		if slots := source.Status().Slots; slots >= defaultMaxConnections-shortCalls {
			t.Fatalf("still %d slots", slots)
		}
		want(t, "lines", len(log.with("limits us")), 1)

		fake.failWith(nil)
		after(time.Hour)
		want(t, "slots in the end", source.Status().Slots, defaultMaxConnections-shortCalls)
		want(t, "the end is told", len(log.with("over: the agent")), 1)
		book.stop()
	})
}
