package upstream

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

func TestPreview(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{Meta: map[string]string{"zone": "x"}}, &Policy{
		Balance:  balance.Options{Policy: balance.EWMA},
		Locality: &Locality{Key: "zone", Overprovisioning: 1.4},
		Subsets:  map[string]Subset{"v2": {Meta: map[string]string{"version": "v2"}, Fallback: FallbackAny}},
	}, endpoints("a zone=x *3", "b zone=x", "c zone=y", "d zone=y version=v2", "e zone=x version=v2")...)
	a, b, d := p.instance("a"), p.instance("b"), p.instance("d")
	a.Begin(time.Now())
	p.answer("a", Outcome{FirstByte: time.Second})
	b.Block(Ejected|Unhealthy, true)
	d.mu.Lock()
	d.backoff.failed(d.opts, errors.New("connecting to d:1: connection refused"), func() {})
	d.leaveAlone()
	d.mu.Unlock()
	p.instance("e").slow.Store(true)

	got := p.cluster.Preview(&Choice{Subset: "v2", Now: time.Now()})
	want := []Candidate{
		{Subset: "v2", Share: 1, Why: "takes long to connect to"},
		{Subset: "v2", Far: true, Share: 1, Why: "connecting to d:1: connection refused"},
		{Share: 0.6, Usable: true, InFlight: 1, Latency: time.Second},
		{Share: 0.2, Why: "ejected, unhealthy"},
		{Share: 0.2, Why: "takes long to connect to"},
		{Far: true, Share: 0.5, Usable: true},
		{Far: true, Share: 0.5, Why: "connecting to d:1: connection refused"},
	}
	ids := []string{"e", "d", "a", "b", "e", "c", "d"}
	if len(got) != len(want) {
		t.Fatalf("%d candidates, want %d: %+v", len(got), len(want), got)
	}
	would := 0
	for i, c := range got {
		w := want[i]
		if c.Endpoint.ID != ids[i] || c.Subset != w.Subset || c.Far != w.Far || math.Abs(c.Share-w.Share) > 1e-9 ||
			c.Usable != w.Usable || c.Why != w.Why || c.InFlight != w.InFlight ||
			math.Abs(float64(c.Latency-w.Latency)) > float64(w.Latency)/20 {
			t.Errorf("candidate %d is %+v, want %q %+v", i, c, ids[i], w)
		}
		if c.Would {
			would++
			if !c.Usable {
				t.Errorf("%q would be picked, and is not usable", c.Endpoint.ID)
			}
		}
	}
	if would != 1 {
		t.Errorf("%d candidates would be picked", would)
	}
	if got := p.cluster.Preview(&Choice{Subset: "unknown"}); got != nil {
		t.Errorf("an unknown subset has candidates: %+v", got)
	}
	p.block("a", "b", "c", "d", "e")
	for _, c := range p.cluster.Preview(nil) {
		if c.Would || c.Usable || c.Why == "" {
			t.Errorf("with all blocked, a candidate is %+v", c)
		}
	}
}

// What is shown is what is picked, and to show it changes nothing.
func TestPreviewIsWhatComes(t *testing.T) {
	t.Parallel()
	for _, policy := range []balance.Policy{balance.RoundRobin, balance.LeastRequest, balance.PickFirst, balance.RingHash, balance.Maglev} {
		p := newPool(t, Options{Meta: map[string]string{"zone": "x"}}, &Policy{
			Balance:  balance.Options{Policy: policy, BoundedLoad: 1.5},
			Locality: &Locality{Key: "zone", Overprovisioning: 1.4, MaxLoadRatio: 2},
		}, endpoints("a zone=x", "b zone=x *2", "c zone=y")...)
		for i := range 200 {
			ch := &Choice{Hash: uint64(i) * 0x9E3779B97F4A7C15, Hashed: true}
			var shown string
			for _, c := range append(p.cluster.Preview(ch), p.cluster.Preview(ch)...) {
				if c.Would {
					if shown != "" && shown != c.Endpoint.ID {
						t.Fatalf("%v: shown %s, then %s", policy, shown, c.Endpoint.ID)
					}
					shown = c.Endpoint.ID
				}
			}
			in, _ := p.cluster.Pick(ch)
			if in.Endpoint().ID != shown {
				t.Fatalf("%v: shown %s, picked %s", policy, shown, in.Endpoint().ID)
			}
			if i%3 > 0 {
				in.Begin(time.Now())
			}
		}
	}
}
