package breaker

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestWhatCountsAsFailure(t *testing.T) {
	t.Parallel()
	byDefault := NewPolicy(PolicyOptions{})
	chosen := NewPolicy(PolicyOptions{Failures: wire.CodesOf(codes.NotFound)})
	for code := range codes.Code(17) {
		want := Success
		switch code {
		case codes.Unavailable, codes.Internal, codes.Unknown, codes.DeadlineExceeded, codes.DataLoss:
			want = Failure
		}
		if got := byDefault.Judge(code, false); got != want {
			t.Errorf("%v: %v, want %v", code, got, want)
		}
		if got := byDefault.Judge(code, true); got != Ignored {
			t.Errorf("%v, excused: %v", code, got)
		}
		if got := chosen.Judge(code, false); (got == Failure) != (code == codes.NotFound) {
			t.Errorf("%v: %v where NOT_FOUND is chosen", code, got)
		}
	}
}

// Together, the methods of a service are one circuit, which no other policy has had.
func TestCircuitsOfAllMethods(t *testing.T) {
	t.Parallel()
	o := PolicyOptions{Name: "all", Trip: &Trip{ConsecutiveFailures: 1}, MaxConcurrent: 1, Together: true}
	p := NewPolicy(o)
	a := p.Circuit("greeter", "/g.G/A")
	if a != p.Circuit("greeter", "/g.G/B") || a == p.Circuit("other", "/g.G/A") {
		t.Fatal("circuits are not one for each service")
	}
	r := enter(a, start)
	if enter(p.Circuit("greeter", "/g.G/B"), start).verdict != Full {
		t.Error("another method has room of its own")
	}
	if got := p.Look("greeter", "/g.G/C", start); got.UnderWay != 1 {
		t.Errorf("%+v", got)
	}
	r.place.Leave(start, Failure, 0).Tell()
	for k := range p.Circuits(start) {
		if got := k.String(); got != "greeter" && got != "other" {
			t.Errorf("a circuit is called %q", got)
		}
	}
	o.Before = p
	if o.Together = false; enter(NewPolicy(o).Circuit("greeter", "/g.G/A"), start).verdict != Admitted {
		t.Error("a method has taken over the breaker of all")
	}
	if o.Together = true; enter(NewPolicy(o).Circuit("greeter", "/g.G/A"), start).verdict != Refused {
		t.Error("the breaker did not stay")
	}
}

func TestCircuitsAreApart(t *testing.T) {
	t.Parallel()
	var told []string
	p := NewPolicy(PolicyOptions{
		Name: "calm", Trip: &Trip{ConsecutiveFailures: 1},
		Changed: func(k Key, tr Transition) { told = append(told, fmt.Sprintf("%v: %v", k, tr.To)) },
	})
	a := p.Circuit("greeter", "/g.G/A")
	if a != p.Circuit("greeter", "/g.G/A") || a == p.Circuit("greeter", "/g.G/B") || a == p.Circuit("other", "/g.G/A") {
		t.Fatal("circuits are not one for each method of each service")
	}
	r := enter(a, start)
	r.place.Leave(start, Failure, 0).Tell()
	if enter(a, start).verdict != Refused || enter(p.Circuit("greeter", "/g.G/B"), start).verdict != Admitted {
		t.Error("the wrong circuit opened")
	}
	if want := []string{"greeter g.G/A: open"}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
	var keys []string
	for k, s := range p.Circuits(start) {
		keys = append(keys, fmt.Sprintf("%v %v", k, s.Breaker.State))
	}
	if want := []string{"greeter g.G/A open", "greeter g.G/B closed", "other g.G/A closed"}; !slices.Equal(keys, want) {
		t.Errorf("%q", keys)
	}
}

func TestTheNumberOfCircuitsIsBounded(t *testing.T) {
	t.Parallel()
	p := NewPolicy(PolicyOptions{MaxConcurrent: 1})
	var wg sync.WaitGroup
	for range 4 { // several callers meet at the bound
		wg.Go(func() {
			for i := range MaxCircuits + 100 {
				p.Circuit("greeter", fmt.Sprintf("/g.G/M%d", i))
			}
		})
	}
	wg.Wait()
	all := maps.Collect(p.Circuits(start))
	if len(all) != MaxCircuits+1 {
		t.Errorf("%d circuits", len(all))
	}
	beyond := p.Circuit("greeter", "/g.G/New")
	if beyond != p.Circuit("elsewhere", "/g.G/Newer") || beyond.Key() != Other {
		t.Errorf("what is beyond the bound has circuits of its own: %v", beyond.Key())
	}
	if known := p.Circuit("greeter", "/g.G/M7"); known == beyond {
		t.Error("what was known before has none of its own any more")
	}
}

func TestCircuitsKeepNoCallersMemory(t *testing.T) {
	t.Parallel()
	p := NewPolicy(PolicyOptions{})
	buf := []byte("greeter/g.G/A")
	path := unsafe.String(&buf[7], len(buf)-7)
	c := p.Circuit("greeter", path)
	copy(buf, "XXXXXXXXXXXXXXX")
	if c.Key() != (Key{"greeter", "/g.G/A"}) || p.Circuit("greeter", "/g.G/A") != c {
		t.Errorf("the key became %v", c.Key())
	}
}

// TestNothingIsAllocated is not parallel: AllocsPerRun counts what every goroutine
// allocates.
func TestNothingIsAllocated(t *testing.T) {
	p := NewPolicy(PolicyOptions{
		MaxConcurrent: 2, MaxPending: 1,
		Trip: &Trip{ConsecutiveFailures: 5, FailureRatio: 0.5, SlowCallRatio: 0.5, SlowCall: time.Second},
	})
	var place Place
	now := start
	service, path := "greeter", "/helloworld.Greeter/SayHello"
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(10 * time.Millisecond)
		c := p.Circuit(service, path)
		if v := c.Enter(now, &place, nil, 1); v != Admitted {
			t.Fatalf("%v", v)
		}
		place.Leave(now, p.Judge(codes.NotFound, false), time.Millisecond)
	}); n != 0 {
		t.Errorf("an RPC that is admitted allocates %v times", n)
	}
	c := p.Circuit(service, path)
	held := []*rpc{enter(c, now), enter(c, now), enter(c, now)}
	if n := testing.AllocsPerRun(1000, func() {
		if v := c.Enter(now, &place, nil, 1); v != Full {
			t.Fatalf("%v", v)
		}
		_ = c.Refusal(Full)
	}); n != 0 {
		t.Errorf("an RPC that is refused allocates %v times", n)
	}
	for _, r := range held {
		r.place.Leave(now, Success, 0).Tell()
	}
}

// What a change of the policy does not concern stays as it is.
func TestBreakersOutliveAChangeOfTheLimit(t *testing.T) {
	t.Parallel()
	now := time.Now()
	trip := &Trip{ConsecutiveFailures: 1}
	opened := func() *Policy {
		p := NewPolicy(PolicyOptions{Name: "p", Trip: trip, MaxConcurrent: 1})
		var place Place
		if v := p.Circuit("a", "/x").Enter(now, &place, nil, 0); v != Admitted {
			t.Fatal(v)
		}
		place.Leave(now, Failure, 0)
		return p
	}
	for _, c := range []struct {
		name string
		to   PolicyOptions
		want Verdict
	}{
		{"another limit", PolicyOptions{Trip: &Trip{ConsecutiveFailures: 1}, MaxConcurrent: 2}, Refused},
		{"other failures", PolicyOptions{Trip: trip, Failures: 1}, Refused},
		{"another trip", PolicyOptions{Trip: &Trip{ConsecutiveFailures: 2}}, Admitted},
		{"no trip", PolicyOptions{MaxConcurrent: 1}, Admitted},
	} {
		c.to.Before = opened()
		p := NewPolicy(c.to)
		var place Place
		if got := p.Circuit("a", "/x").Enter(now, &place, nil, 0); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if got := p.Circuit("a", "/y").Enter(now, new(Place), nil, 0); got != Admitted {
			t.Errorf("%s: another method is %v", c.name, got)
		}
	}
}

func TestPoliciesAboutInstancesAloneRestrictNothing(t *testing.T) {
	t.Parallel()
	for want, policies := range map[bool][]*Policy{
		false: {nil, NewPolicy(PolicyOptions{Name: "p"})},
		true:  {NewPolicy(PolicyOptions{MaxConcurrent: 1}), NewPolicy(PolicyOptions{Trip: &Trip{ConsecutiveFailures: 1}})},
	} {
		for i, p := range policies {
			if p.Restricts() != want {
				t.Errorf("%d: %v, want %v", i, !want, want)
			}
		}
	}
}
