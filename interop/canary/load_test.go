package canary

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/load"
)

// outcome is what a caller knows of one RPC.
type outcome struct {
	sidecar, user int
	began, ended  time.Time
	version       string // that answered, also where that was a failure on purpose
	failed        bool
	err           error // of any other kind
}

// callers make RPCs through sidecars at an even rate. Those of one user never overlap.
type callers struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu   sync.Mutex
	seen []outcome
}

// usersEach is how many users have their RPCs made by each sidecar in turn.
const usersEach = 100

// startCallers makes so many RPCs a second through each sidecar. The users of each are its
// own, unless they roam from one sidecar to the next.
func startCallers(t *testing.T, addresses []string, perSecond int, roam bool) *callers {
	t.Helper()

	ctx, stop := context.WithCancel(context.Background())
	c := &callers{stop: stop}
	var conns []*grpc.ClientConn
	for _, address := range addresses {
		conns = append(conns, load.Dial(t, address))
	}
	for i := range addresses {
		const workers = 10
		for w := range workers {
			c.done.Go(func() {
				tick := time.NewTicker(time.Second * workers / time.Duration(perSecond))
				defer tick.Stop()
				for n := 0; ; n++ {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
					user, via := i*usersEach+w+workers*(n%(usersEach/workers)), i
					if roam {
						via = (i + n/(usersEach/workers)) % len(conns)
					}
					c.call(conns[via], via, user)
				}
			})
		}
	}
	t.Cleanup(c.end)

	return c
}

func (c *callers) call(conn *grpc.ClientConn, via, user int) {
	o := outcome{sidecar: via, user: user, began: time.Now()}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "x-user", fmt.Sprint("user-", user)), patience)
	answer, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{})
	cancel()
	o.ended = time.Now()
	o.version = answer.GetUsername()
	if err != nil {
		if version, ok := strings.CutPrefix(status.Convert(err).Message(), injected); ok {
			o.version, o.failed = version, true
		} else {
			o.err = err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, o)
}

// end stops the RPCs.
func (c *callers) end() {
	c.stop()
	c.done.Wait()
}

// outcomes returns what came of all RPCs so far, in the order in which they ended.
func (c *callers) outcomes() []outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := slices.Clone(c.seen)
	slices.SortFunc(seen, func(a, b outcome) int { return a.ended.Compare(b.ended) })

	return seen
}

// check fails the test where an RPC failed that was not to, and says how many did on
// purpose.
func check(t *testing.T, seen []outcome) (onPurpose int) {
	t.Helper()

	others := 0
	for _, o := range seen {
		switch {
		case o.failed:
			onPurpose++
		case o.err != nil:
			if others++; others <= 5 {
				t.Errorf("sidecar %d, user %d: %v", o.sidecar, o.user, o.err)
			}
		}
	}
	if others > 0 {
		t.Errorf("%d of %d RPCs failed that were not to", others, len(seen))
	}

	return onPurpose
}

// sticky fails the test where a key saw the canary, then the stable version, then the
// canary again, in one step: but for those that one transition after the other explains,
// of which changes are the times. Sidecars take a transition over within near.
func sticky(t *testing.T, seen []outcome, changes []time.Time) {
	t.Helper()

	const near = 500 * time.Millisecond
	byUser := map[int][]outcome{}
	for _, o := range seen {
		if o.version != "" && !slices.ContainsFunc(changes, func(at time.Time) bool {
			return o.ended.After(at.Add(-near)) && o.began.Before(at.Add(near))
		}) {
			byUser[o.user] = append(byUser[o.user], o)
		}
	}
	step := func(o outcome) (n int) {
		for _, at := range changes {
			if o.began.After(at) {
				n++
			}
		}

		return n
	}
	wrong := 0
	for user, list := range byUser {
		slices.SortFunc(list, func(a, b outcome) int { return a.began.Compare(b.began) })
		left := map[int]bool{} // steps in which the user was seen to leave the canary
		for i := 1; i < len(list); i++ {
			before, now := list[i-1], list[i]
			s := step(now)
			if step(before) == s && before.version == "v2" && now.version == "v1" {
				left[s] = true
			}
			if left[s] && now.version == "v2" {
				if wrong++; wrong <= 3 {
					t.Errorf("user %d saw the canary again %v after it had left it, in one step", user, now.began.Sub(before.began))
				}
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d times a user came back to the canary in one step", wrong)
	}
}
