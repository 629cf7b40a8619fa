package harness

import (
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A process that somebody else kills is no riddle in the tests that needed it.
func TestWhoKilledIt(t *testing.T) {
	t.Parallel()

	for name, test := range map[string]struct {
		end  func(*testing.T, *Process)
		want bool
	}{
		"somebody else": {func(t *testing.T, p *Process) {
			t.Helper()
			if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}, true},
		"the test":              {func(_ *testing.T, p *Process) { p.Kill() }, false},
		"the test, by signal":   {func(t *testing.T, p *Process) { t.Helper(); p.Signal(t, syscall.SIGKILL) }, false},
		"told to end":           {func(t *testing.T, p *Process) { t.Helper(); p.Signal(t, syscall.SIGTERM) }, false},
		"nobody, while it runs": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			p, err := start(Command{Path: "/bin/sleep", Args: []string{"60"}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			if test.end != nil {
				test.end(t, p)
				select {
				case <-p.Exited():
				case <-time.After(patience):
					t.Fatal("it has not ended")
				}
			}
			if got := p.wasKilled(); got != test.want {
				t.Errorf("was it killed by somebody else: %v", got)
			}
		})
	}
}

func TestFreePortsAreNotGivenTwice(t *testing.T) {
	t.Parallel()

	given := map[int]bool{}
	for range 200 {
		port := FreePort(t)
		if given[port] || port < firstPort || port >= lastPort {
			t.Fatalf("port %d, after %d others", port, len(given))
		}
		given[port] = true
	}
}
