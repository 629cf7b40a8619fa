package upstream

import (
	"encoding/base64"
	"math"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// report is the trailers of an instance that answers so many RPCs per second, at some
// utilization of its processors.
func report(cpu, rps float64) []hpack.Field {
	m := protowire.AppendFixed64(protowire.AppendTag(nil, 1, protowire.Fixed64Type), math.Float64bits(cpu))
	m = protowire.AppendFixed64(protowire.AppendTag(m, 6, protowire.Fixed64Type), math.Float64bits(rps))
	return []hpack.Field{
		{Name: "grpc-status", Value: "0"},
		{Name: balance.LoadReportKey, Value: base64.RawStdEncoding.EncodeToString(m)},
	}
}

// answer has an instance answer an RPC.
func (p *pool) answer(id string, o Outcome) {
	in := p.instance(id)
	o.Turn = in.Begin(time.Now())
	in.End()
	in.Observe(time.Now(), &o)
}

func byReports() *Policy {
	return &Policy{
		Balance: balance.Options{Policy: balance.WeightedRoundRobin},
		Reports: balance.ReportOptions{Blackout: 10 * time.Second, Expiration: 3 * time.Minute, Update: time.Second, ErrorPenalty: 1},
	}
}

// Instances get RPCs by the load that they report, and by the registry's weights as
// long as they do not.
func TestWeightsByReports(t *testing.T) {
	simulated(t, func(t *testing.T) {
		p := newPool(t, Options{}, byReports(), endpoints("a", "b", "c *2")...)
		pass := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second / 2) {
				p.cluster.Pick(nil)
			}
		}
		want := func(what string, a, b, c int) {
			t.Helper()
			got := p.pick(nil, 1000)
			for id, want := range map[string]int{"a": a, "b": b, "c": c} {
				if off := got[id] - want; off < -10 || off > 10 {
					t.Errorf("%s: %v of 1000, want a %d, b %d, c %d", what, got, a, b, c)
				}
			}
		}
		// 100 / 0.5 = 200, 100 / 0.25 = 400, and who does not report has their mean.
		both := func() {
			p.answer("a", Outcome{Trailers: report(0.5, 100)})
			p.answer("b", Outcome{Trailers: report(0.25, 100)})
		}
		pass(time.Second)
		want("nobody reports", 250, 250, 500)
		both()
		pass(8 * time.Second)
		want("two have reported for 8 s", 250, 250, 500)
		both()
		pass(4 * time.Second)
		want("two have reported for 12 s", 222, 444, 333)
		p.cluster.Update(endpoints("a", "b", "c *2"), true)
		want("after an update", 222, 444, 333)
		p.answer("c", Outcome{Trailers: []hpack.Field{{Name: balance.LoadReportKey, Value: "nonsense"}}})
		pass(2 * time.Second)
		want("one reports nonsense", 222, 444, 333)
		p.block("b")
		pass(time.Second)
		p.block()
		both()
		pass(2 * time.Second)
		want("one was gone, and reports anew", 250, 250, 500)
		pass(4 * time.Minute)
		want("reports have expired", 250, 250, 500)
	})
}

// Reports are for weighted_round_robin alone.
func TestOthersIgnoreReports(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{}, &Policy{Reports: balance.ReportOptions{Expiration: time.Hour, Update: time.Second}}, endpoints("a", "b")...)
	p.answer("a", Outcome{Trailers: report(0.5, 100)})
	p.answer("b", Outcome{Trailers: report(0.1, 100)})
	p.cluster.tick()
	if got := p.pick(nil, 100); got["a"] != 50 {
		t.Errorf("a round robin gives %v", got)
	}
}

func TestLatencyFromOutcomes(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	config := &Policy{Balance: balance.Options{Policy: balance.EWMA}}
	for _, c := range []struct {
		what    string
		outcome Outcome
		want    time.Duration
	}{
		{"an answer counts from its first byte", Outcome{FirstByte: 20 * ms, Total: time.Hour}, 20 * ms},
		{"a failure is slow", Outcome{Code: codes.Unavailable, FirstByte: ms, Total: ms}, 10 * ms},
		{"what the caller did wrong is no failure", Outcome{Code: codes.NotFound, FirstByte: ms, Total: ms}, ms},
		{"a limiter's refusal says nothing", Outcome{Code: codes.Unavailable, FirstByte: ms, Total: ms, Excused: true}, 0},
		{"nor does a caller that cancels", Outcome{Code: codes.Canceled, FirstByte: ms, Total: ms, Excused: true}, 0},
	} {
		p := newPool(t, Options{}, config, endpoints("a")...)
		p.answer("a", c.outcome)
		got := time.Duration(p.instance("a").Latency(time.Now().UnixNano()))
		if off := got - c.want; off < -c.want/20 || off > c.want/20 {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
		p.cluster.Update(endpoints("a version=v2", "b"), false)
		p.cluster.Configure(&Policy{Balance: config.Balance, PanicPercent: 5})
		if after := time.Duration(p.instance("a").Latency(time.Now().UnixNano())); after < got*9/10 {
			t.Errorf("%s: %v is forgotten as others change: %v", c.what, got, after)
		}
		p.cluster.Configure(nil)
		if p.instance("a").measures.Load() != nil {
			t.Error("an instance is measured though nobody asks for it")
		}
	}
}

// Bounded loads count what RPCs really have under way, whatever changes meanwhile.
func TestBoundedLoads(t *testing.T) {
	t.Parallel()
	config := &Policy{
		Balance: balance.Options{Policy: balance.RingHash, BoundedLoad: 1.25},
		Subsets: map[string]Subset{"v1": {Meta: map[string]string{"version": "v1"}}},
	}
	es := endpoints("a version=v1", "b version=v1", "c", "d")
	p := newPool(t, Options{}, config, es...)
	type rpc struct {
		in   *Instance
		turn Turn
	}
	var rpcs []rpc
	begin := func(ch *Choice, n int) map[string]int {
		got := map[string]int{}
		for range n {
			in, _ := p.cluster.Pick(ch)
			got[in.Endpoint().ID]++
			rpcs = append(rpcs, rpc{in, in.Begin(time.Now())})
		}
		return got
	}
	one := &Choice{Hash: 1, Hashed: true}
	// ceil(1.25 * 40 / 4) is the most, and so others have the rest.
	if got := begin(one, 40); len(got) != 4 || max(got["a"], got["b"], got["c"], got["d"]) != 13 {
		t.Errorf("40 RPCs of one key go to %v", got)
	}
	v1 := &Choice{Subset: "v1", Hash: 1, Hashed: true}
	load := p.cluster.loads["near v1"]
	before := load.RPCs.Load()
	if before != p.instance("a").InFlight()+p.instance("b").InFlight() {
		t.Errorf("%d RPCs count in a subset, whose instances have %d and %d", before, p.instance("a").InFlight(), p.instance("b").InFlight())
	}
	begin(v1, 20)
	p.cluster.Update(es[1:], false) // a goes
	p.cluster.Configure(nil)
	begin(v1, 0)
	p.cluster.Configure(config)
	begin(one, 20)
	for _, r := range rpcs {
		r.in.End()
		r.in.Observe(time.Now(), &Outcome{Turn: r.turn})
	}
	for key, l := range p.cluster.loads {
		if n := l.RPCs.Load(); n != 0 {
			t.Errorf("%q has %d RPCs when all have ended", key, n)
		}
	}
}

// A bound that is set while RPCs are under way counts them.
func TestBoundOfRPCsUnderWay(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{}, nil, endpoints("a", "b")...)
	var turns []Turn
	for range 50 {
		turns = append(turns, p.instance("a").Begin(time.Now()), p.instance("b").Begin(time.Now()))
	}
	p.cluster.Configure(&Policy{Balance: balance.Options{Policy: balance.RingHash, BoundedLoad: 1.5}})
	one := &Choice{Hash: 1, Hashed: true}
	got := map[string]bool{}
	for i := range 100 {
		in, _ := p.cluster.Pick(&Choice{Hash: uint64(i) * 0x9E3779B97F4A7C15, Hashed: true})
		got[in.String()] = true
	}
	if len(got) != 2 {
		t.Errorf("keys go to %v alone, though both are within their bounds", got)
	}
	for i, in := range []string{"a", "b"} {
		for range 50 {
			p.instance(in).End()
			p.instance(in).Observe(time.Now(), &Outcome{Turn: turns[i]})
		}
	}
	p.cluster.tick()
	first, _ := p.cluster.Pick(one)
	for range 3 { // ceil(1.5 * 4 / 2)
		first.Begin(time.Now())
	}
	if second, _ := p.cluster.Pick(one); second == first {
		t.Error("an idle cluster's bound counts RPCs that have ended")
	}
}

// Many begin and end RPCs while the policy changes: nothing is lost of the counts.
func TestBoundedLoadsOfMany(t *testing.T) {
	t.Parallel()
	config := &Policy{Balance: balance.Options{Policy: balance.Maglev, TableSize: 101, BoundedLoad: 1.1}}
	p := newPool(t, Options{}, config, endpoints("a", "b", "c")...)
	stop := make(chan struct{})
	var callers, changes sync.WaitGroup
	for i := range 4 {
		callers.Go(func() {
			for k := range 3000 {
				in, ok := p.cluster.Pick(&Choice{Hash: uint64(i*k) << 40, Hashed: true})
				if !ok {
					t.Error("nothing is picked")
					return
				}
				turn := in.Begin(time.Now())
				in.End()
				in.Observe(time.Now(), &Outcome{Turn: turn})
			}
		})
	}
	changes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			p.cluster.Configure([]*Policy{nil, config}[i%2])
			p.cluster.Update(endpoints("a", "b", "c", "d")[i%2:], false)
		}
	})
	callers.Wait()
	close(stop)
	changes.Wait()
	for key, l := range p.cluster.loads {
		if n := l.RPCs.Load(); n != 0 {
			t.Errorf("%q has %d RPCs when all have ended", key, n)
		}
	}
}
