package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/proto/helloworld"
)

// load calls the greeter at a steady rate, whatever comes back.
type load struct {
	conns  []*grpc.ClientConn // one to each client's sidecar
	users  int                // RPCs are of one of so many users; 0: of nobody
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	now    figures // since second was last called
	sums   totals
	places placements
	seen   sightings
}

// figures are what happened in some time.
type figures struct {
	by        map[string]int // replies by version
	failures  map[string]int // failed RPCs by status
	latencies []time.Duration
}

// totals are what happened since the start.
type totals struct {
	figures
	ok, failed int
}

// callers is how many workers share the rate.
const callers = 40

// rpcTimeout is what each RPC is given.
const rpcTimeout = 5 * time.Second

// userKey is the metadata key that says whose RPC it is.
const userKey = "user-id"

func startLoad(targets []string, rate, users int) (*load, error) {
	l := &load{users: users, now: newFigures(), sums: totals{figures: newFigures()}, seen: newSightings()}
	for _, target := range targets {
		conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			l.close()
			return nil, fmt.Errorf("client: %w", err)
		}
		l.conns = append(l.conns, conn)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	every := callers * time.Second / time.Duration(max(rate, 1))
	for i := range callers {
		l.done.Go(func() { l.call(ctx, l.conns[i%len(l.conns)], every, time.Duration(i)*every/callers) })
	}
	return l, nil
}

func newFigures() figures { return figures{by: map[string]int{}, failures: map[string]int{}} }

// call makes an RPC on every tick until ctx ends; the RPC under way is finished.
// first is when it begins, so that not all callers do at once.
func (l *load) call(ctx context.Context, conn *grpc.ClientConn, every, first time.Duration) {
	client := helloworld.NewGreeterClient(conn)
	select {
	case <-ctx.Done():
		return
	case <-time.After(first):
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rpc, cancel := context.WithTimeout(context.WithoutCancel(ctx), rpcTimeout)
		user, name := -1, "world"
		if l.users > 0 {
			user = rand.IntN(l.users)
			name = strconv.Itoa(user)
			rpc = metadata.AppendToOutgoingContext(rpc, userKey, name)
		}
		epoch := l.epoch()
		start := time.Now()
		var trailer metadata.MD
		reply, err := client.SayHello(rpc, &helloworld.HelloRequest{Name: name}, grpc.Trailer(&trailer))
		took := time.Since(start)
		cancel()
		l.note(user, epoch, reply.GetMessage(), took, err)
		l.see(sighting{user: user, version: whose(reply.GetMessage(), err), began: start, failed: err != nil, leaked: len(trailer[measureKey]) > 0})
	}
}

func (l *load) note(user, epoch int, message string, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.sums.failed++
		for _, f := range []*figures{&l.now, &l.sums.figures} {
			f.failures[status.Code(err).String()]++
		}
		return
	}
	l.sums.ok++
	version := message[strings.LastIndexByte(message, ' ')+1:]
	for _, f := range []*figures{&l.now, &l.sums.figures} {
		f.by[version]++
		f.latencies = append(f.latencies, took)
	}
	if user >= 0 {
		l.places.note(user, epoch, version)
	}
}

// second returns what happened since it was last called.
func (l *load) second() figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.now
	l.now = newFigures()
	return f
}

func (l *load) total() totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sums
}

// stop ends the load when the RPCs under way have ended. It may be called again.
func (l *load) stop() {
	l.cancel()
	l.done.Wait()
	l.close()
}

func (l *load) close() {
	for _, conn := range l.conns {
		_ = conn.Close()
	}
}

// percentile returns the latency that a share of the RPCs stayed within.
func (f *figures) percentile(share float64) time.Duration {
	if len(f.latencies) == 0 {
		return 0
	}
	slices.Sort(f.latencies)
	return f.latencies[min(int(share*float64(len(f.latencies))), len(f.latencies)-1)]
}

func (f *figures) failed() (n int) {
	for _, k := range f.failures {
		n += k
	}
	return n
}
