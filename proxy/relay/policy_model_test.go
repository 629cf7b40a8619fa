package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// mesh is grpc-go servers behind a Pillion, and a grpc-go client before it.
type mesh struct {
	*grpc.ClientConn
	begun time.Time
}

// handler is what the servers do: n is the instance.
type handler func(n int, s grpc.ServerStream) error

func newMesh(t *testing.T, instances int, give func(*policed), does handler) *mesh {
	t.Helper()
	servers := map[string]*bufconn.Listener{}
	for i := range instances {
		l := bufconn.Listen(64 << 10)
		servers[address(i)] = l
		app := grpc.NewServer(grpc.WaitForHandlers(true), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			return does(i, s)
		}))
		go func() { _ = app.Serve(l) }()
		t.Cleanup(app.Stop)
	}
	dial, end := through(servers, give)
	t.Cleanup(end)
	cc, err := grpc.NewClient("passthrough:///greeter", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return &mesh{cc, time.Now()}
}

func (m *mesh) call(ctx context.Context) error {
	return m.Invoke(ctx, "/a.B/C", wrapperspb.String("asked"), new(wrapperspb.StringValue))
}

// However many RPCs fail, the attempts beyond the first are those that the budget has.
func TestTotalFailureStaysWithinTheBudget(t *testing.T) {
	const (
		seconds, perSecond = 40, 20
		ratio, least       = 0.2, 1.0
	)
	type counts struct{ early, attempts int }
	play := func(t *testing.T, give func(*policed), fails func() error) (c counts) {
		var mu sync.Mutex
		start := time.Now()
		m := newMesh(t, 3, give, func(_ int, s grpc.ServerStream) error {
			mu.Lock()
			c.attempts++
			if time.Since(start) < 10*time.Second {
				c.early++
			}
			mu.Unlock()
			if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil {
				return err
			}
			return fails()
		})
		var calls sync.WaitGroup
		for range seconds * perSecond {
			calls.Go(func() {
				if err := m.call(t.Context()); status.Code(err) != codes.Unavailable {
					t.Errorf("an RPC ended %v", err)
				}
			})
			time.Sleep(time.Second / perSecond)
		}
		calls.Wait()
		return c
	}
	check := func(t *testing.T, c counts) {
		const rpcs = seconds * perSecond
		if most := rpcs + ratio*rpcs + least*(seconds+10+1); float64(c.attempts) > most {
			t.Errorf("%d attempts for %d RPCs, at most %v are allowed", c.attempts, rpcs, most)
		}
		// What is allowed is given, or a policy that sends nothing again would pass.
		if float64(c.attempts) < rpcs+0.9*ratio*rpcs {
			t.Errorf("%d attempts for %d RPCs", c.attempts, rpcs)
		}
	}
	limits := func() *retry.Limits {
		return retry.NewLimits(&retry.BudgetOptions{Ratio: ratio, MinPerSecond: least}, nil)
	}
	t.Run("retry", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			p := retryPolicy(func(p *retry.Policy) { p.Limits = limits() })
			check(t, play(t, func(pol *policed) { pol.retry = p }, func() error { return status.Error(codes.Unavailable, "down") }))
		})
	})
	t.Run("hedging", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			p := hedgingPolicy(func(p *retry.Hedging) { p.Limits = limits() })
			check(t, play(t, func(pol *policed) { pol.hedging = p }, func() error {
				time.Sleep(70 * time.Millisecond)
				return status.Error(codes.Unavailable, "down")
			}))
		})
	})
}

// No attempt is told, or given, more time than remains.
func TestAttemptsNeverHaveMoreThanRemains(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				draw := func(most int) time.Duration { return time.Duration(1+rnd.IntN(most)) * time.Millisecond }
				perAttempt, whole := draw(200), draw(400)
				retries := retryPolicy(func(p *retry.Policy) {
					p.MaxAttempts, p.Codes = 10, wire.CodesOf(codes.Unavailable, codes.DeadlineExceeded)
				})
				hedging := hedgingPolicy(func(p *retry.Hedging) {
					p.MaxAttempts, p.Delay, p.NonFatal = 5, draw(100), wire.CodesOf(codes.Unavailable, codes.DeadlineExceeded)
				})
				hedges := rnd.IntN(2) == 0
				var begun time.Time
				var mu sync.Mutex
				attempts, late := 0, 0
				m := newMesh(t, 5, func(p *policed) {
					p.attemptTimeout = perAttempt
					if hedges {
						p.hedging = hedging
					} else {
						p.retry = retries
					}
				}, func(_ int, s grpc.ServerStream) error {
					mu.Lock()
					attempts++
					doze, remains := draw(300), whole-time.Since(begun)
					mu.Unlock()
					deadline, ok := s.Context().Deadline()
					if told := time.Until(deadline); !ok || told > min(remains, perAttempt)+timeoutSlack+time.Millisecond {
						t.Errorf("an attempt is told %v, and %v remain, %v for an attempt", told, remains, perAttempt)
					}
					since := time.Now()
					select {
					case <-s.Context().Done():
						if took := time.Since(since); took > min(remains, perAttempt)+time.Millisecond {
							mu.Lock()
							late++
							mu.Unlock()
						}
					case <-time.After(doze):
					}
					return status.Error(codes.Unavailable, "down")
				})
				for range 5 {
					mu.Lock()
					begun = time.Now()
					mu.Unlock()
					ctx, cancel := context.WithTimeout(t.Context(), whole)
					_ = m.call(ctx)
					cancel()
					if took := time.Since(begun); took > whole+time.Millisecond {
						t.Errorf("the RPC took %v of %v", took, whole)
					}
					time.Sleep(time.Second)
				}
				synctest.Wait()
				if attempts < 5 || late > 0 {
					t.Errorf("%d attempts in all, %d of which were cancelled late", attempts, late)
				}
			})
		})
	}
}

// copied is what a server does with one copy of a hedged RPC.
type copied struct {
	headers  bool // before the wait
	wait     time.Duration
	code     codes.Code
	pushback string
}

// hedged is what becomes of a hedged RPC.
type hedged struct {
	starts []time.Duration
	result string
	took   time.Duration
}

// hedgingModel says what gRFC A6 has become of an RPC, where there are more instances
// than copies.
func hedgingModel(p *retry.Hedging, copies []copied) (h hedged) {
	const never = time.Duration(1 << 62)
	var ends []time.Duration // of the copies; never: they have ended
	now, next := time.Duration(0), never
	send := func() {
		h.starts = append(h.starts, now)
		c := copies[len(ends)]
		ends = append(ends, now+c.wait)
		if c.headers {
			ends[len(ends)-1] = now
		}
		if next = never; len(ends) < p.MaxAttempts {
			next = now + p.Delay
		}
	}
	send()
	stopped := false
	for {
		first := 0
		for i, at := range ends {
			if at < ends[first] {
				first = i
			}
		}
		if next <= ends[first] && next != never {
			now = next
			send()
			continue
		}
		now = ends[first]
		c := copies[first]
		h.result, h.took = fmt.Sprintf("copy %d: %v", first+1, c.code), now
		if c.headers {
			h.took += c.wait
			return h
		}
		if c.code == codes.OK || !p.NonFatal.Has(c.code) {
			return h
		}
		ends[first] = never
		pushback, wait := retry.ReadPushback(pushed(c.pushback))
		switch {
		case stopped || len(ends) == p.MaxAttempts:
		case pushback == retry.Stop:
			stopped, next = true, never
		case pushback == retry.Wait:
			next = now + wait
		default:
			send()
		}
		if next == never && !slices.ContainsFunc(ends, func(at time.Duration) bool { return at != never }) {
			return h
		}
	}
}

// Random hedging policies and servers, against the model.
func TestHedgingIsAsItsModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 11))
				p := hedgingPolicy(func(p *retry.Hedging) {
					p.MaxAttempts, p.Delay = 2+rnd.IntN(4), time.Duration(rnd.IntN(100))*time.Millisecond
				})
				var copies []copied
				var mu sync.Mutex
				var begun time.Time
				var got hedged
				busy := map[int]int{}
				m := newMesh(t, 6, func(pol *policed) { pol.hedging = p }, func(n int, s grpc.ServerStream) error {
					mu.Lock()
					got.starts = append(got.starts, time.Since(begun))
					number := len(got.starts)
					if md, _ := metadata.FromIncomingContext(s.Context()); p.Delay > 0 && strings.Join(md.Get(wire.HeaderPreviousAttempts), ",") != strings.TrimPrefix(fmt.Sprint(number-1), "0") {
						t.Errorf("copy %d comes with %q previous attempts", number, md.Get(wire.HeaderPreviousAttempts))
					} else if p.Delay == 0 { // they come in any order
						_, _ = fmt.Sscan(strings.Join(append(md.Get(wire.HeaderPreviousAttempts), "0"), " "), &number)
						number++
					}
					c := copies[number-1]
					if busy[n]++; busy[n] > 1 {
						t.Errorf("there are two copies at instance %d", n)
					}
					mu.Unlock()
					defer func() {
						mu.Lock()
						busy[n]--
						mu.Unlock()
					}()
					if err := s.RecvMsg(new(wrapperspb.StringValue)); err != nil {
						return err
					}
					if c.headers {
						_ = s.SendHeader(nil)
					}
					select {
					case <-s.Context().Done():
						return s.Context().Err()
					case <-time.After(c.wait):
					}
					if c.pushback != "" {
						s.SetTrailer(metadata.Pairs(wire.HeaderRetryPushback, c.pushback))
					}
					if c.code != codes.OK {
						return status.Errorf(c.code, "copy %d", number)
					}
					return s.SendMsg(wrapperspb.String(fmt.Sprintf("copy %d", number)))
				})
				for range 5 {
					copies, got = nil, hedged{}
					for i := range p.MaxAttempts {
						// No two things happen at a time.
						c := copied{wait: time.Duration(rnd.IntN(200))*time.Millisecond + time.Duration(i+1)*time.Microsecond, code: codes.Unavailable}
						switch rnd.IntN(6) {
						case 0:
							c.code = codes.OK
						case 1:
							c.code = codes.NotFound
						case 2:
							c.pushback = fmt.Sprint(rnd.IntN(150))
						case 3:
							c.pushback = "-1"
						}
						c.headers = rnd.IntN(10) == 0
						copies = append(copies, c)
					}
					begun = time.Now()
					answer := new(wrapperspb.StringValue)
					err := m.Invoke(t.Context(), "/a.B/C", wrapperspb.String("asked"), answer)
					took := time.Since(begun)
					synctest.Wait()
					mu.Lock()
					got.took = took
					if got.result = fmt.Sprintf("%s: %v", answer.GetValue(), codes.OK); err != nil {
						got.result = fmt.Sprintf("%s: %v", status.Convert(err).Message(), status.Code(err))
					}
					if want := hedgingModel(p, copies); fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("%d copies, one each %v, of which become %+v:\n  %v\nwant\n  %v", p.MaxAttempts, p.Delay, copies, got, want)
					}
					mu.Unlock()
					time.Sleep(time.Second)
				}
			})
		})
	}
}
