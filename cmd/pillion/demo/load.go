package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/proto/helloworld"
)

// load calls the greeter at a steady rate, whatever comes back.
type load struct {
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	now  figures // since second was last called
	sums totals
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
const callers = 10

// rpcTimeout is what each RPC is given.
const rpcTimeout = 2 * time.Second

func startLoad(target string, rate int) (*load, error) {
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	l := &load{conn: conn, now: newFigures(), sums: totals{figures: newFigures()}}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	every := callers * time.Second / time.Duration(max(rate, 1))
	for range callers {
		l.done.Go(func() { l.call(ctx, every) })
	}
	return l, nil
}

func newFigures() figures { return figures{by: map[string]int{}, failures: map[string]int{}} }

// call makes an RPC on every tick until ctx ends; the RPC under way is finished.
func (l *load) call(ctx context.Context, every time.Duration) {
	client := helloworld.NewGreeterClient(l.conn)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rpc, cancel := context.WithTimeout(context.WithoutCancel(ctx), rpcTimeout)
		start := time.Now()
		reply, err := client.SayHello(rpc, &helloworld.HelloRequest{Name: "world"})
		took := time.Since(start)
		cancel()
		l.note(reply.GetMessage(), took, err)
	}
}

func (l *load) note(message string, took time.Duration, err error) {
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
	_ = l.conn.Close()
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
