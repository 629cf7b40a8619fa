package traffic

import (
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/load"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds every wait and every RPC that has to succeed.
	patience = 60 * time.Second
	// unaryCall is the method of most of these tests.
	unaryCall = "/grpc.testing.TestService/UnaryCall"
)

// shares makes RPCs, some at a time, and counts who answered.
func shares(t *testing.T, conn *grpc.ClientConn, count int) map[string]int {
	t.Helper()

	const workers = 20

	type result struct {
		name string
		err  error
	}
	results := make(chan result)
	for range workers {
		go func() {
			for range count / workers {
				name, err := load.Who(t.Context(), conn)
				results <- result{name, err}
			}
		}()
	}

	answered := map[string]int{}
	failed := 0
	for range count / workers * workers {
		r := <-results
		if r.err != nil {
			failed++
			if failed <= 5 {
				t.Errorf("RPC: %v", r.err)
			}

			continue
		}
		answered[r.name]++
	}
	if failed > 0 {
		t.Errorf("%d of %d RPCs failed", failed, count)
	}

	return answered
}

// eventually asks again and again until the answer is yes.
func eventually(t testing.TB, what string, reached func() bool) {
	t.Helper()

	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()

	deadline := time.Now().Add(patience)
	for !reached() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}
