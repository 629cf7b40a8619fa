package relay

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
	"github.com/pillion-proxy/pillion/registry"
)

// obey puts policies in force.
func (r *rig) obey(yaml string) *policy.Set {
	r.t.Helper()
	set := compile(r.t, r.router.policies.Load(), yaml)
	r.cluster.Configure(set.Service("greeter").Cluster())
	for name, c := range r.router.others {
		c.Configure(set.Service(name).Cluster())
	}
	r.router.policies.Store(set)
	return set
}

// compile compiles policies, written as people write them, in the place of others.
func compile(t testing.TB, before *policy.Set, yaml string) *policy.Set {
	t.Helper()
	return compileIn(t, policy.Env{}, before, yaml)
}

// compileIn is compile in an environment.
func compileIn(t testing.TB, env policy.Env, before *policy.Set, yaml string) *policy.Set {
	t.Helper()
	mesh, err := configyaml.ParseMesh("mesh.yaml", []byte("policies:\n"+yaml))
	if err != nil {
		t.Fatalf("the test's own policies: %v", err)
	}
	set, refused := policy.Compile(mesh.GetPolicies(), before, env)
	for _, why := range refused {
		t.Fatalf("the test's own policies: %v", why)
	}
	return set
}

// governedRig is a rig under policies.
func governedRig(t *testing.T, o options, yaml string) *rig {
	t.Helper()
	if o.Random == nil {
		o.Random = even
	}
	r := newRig(t, o)
	r.obey(yaml)
	return r
}

// service makes another service, whose instances the test plays.
func (r *rig) service(name string, addresses ...string) *upstream.Cluster {
	r.t.Helper()
	up := upstream.Options{HTTP2: r.http2, Dial: r.net.Dial, Jitter: func() float64 { return 0.5 }}.WithDefaults()
	c := upstream.NewCluster(name, balance.PickFirst, &up, r.counters.Service(telemetry.Outbound, name))
	r.t.Cleanup(func() {
		c.Close()
		time.Sleep(time.Minute)
	})
	var endpoints []registry.Endpoint
	for _, a := range addresses {
		endpoints = append(endpoints, registry.Endpoint{ID: a, Address: a, Weight: 1})
	}
	c.Update(endpoints, false)
	r.router.mu.Lock()
	defer r.router.mu.Unlock()
	if r.router.others == nil {
		r.router.others = map[string]*upstream.Cluster{}
	}
	r.router.others[name] = c
	return c
}

// versions has the instances a:1, b:1 ... be of the versions v1, v2 ...
func (r *rig) versions(n int) {
	var endpoints []registry.Endpoint
	for i := range n {
		endpoints = append(endpoints, registry.Endpoint{
			ID: address(i), Address: address(i), Weight: 1, Meta: map[string]string{"version": fmt.Sprintf("v%d", i+1)},
		})
	}
	r.cluster.Update(endpoints, false)
}

// request returns the one request that a host got since it was last asked, and its
// connection.
func request(t testing.TB, h *scriptpeer.Host) (*scriptpeer.Frame, *scriptpeer.Peer) {
	t.Helper()
	for _, p := range h.Conns() {
		for _, f := range p.Frames() {
			if f.Type == http2.FrameHeaders {
				return f, p
			}
		}
	}
	t.Fatal("the instance got no request")
	return nil, nil
}

// quiet fails the test where a host has got anything.
func quiet(t testing.TB, hosts ...*scriptpeer.Host) {
	t.Helper()
	for _, h := range hosts {
		for _, p := range h.Conns() {
			if lines := p.Lines(); len(lines) > 0 {
				t.Fatalf("an instance got %q", lines)
			}
		}
	}
}

// answer returns the frame of the caller's that ends an RPC.
func (r *rig) answer() *scriptpeer.Frame {
	r.t.Helper()
	var last *scriptpeer.Frame
	for _, f := range r.Frames() {
		if f.Type == http2.FrameHeaders {
			last = f
		}
	}
	if last == nil {
		r.t.Fatal("the caller got no answer")
	}
	return last
}

func TestFixedStatus(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{}, `
- name: closed
  service: greeter
  route:
    rules:
    - name: maintenance
      match: {metadata: [{key: debug, present: false}]}
      status: {code: UNIMPLEMENTED, message: "back at noon"}
      response: {set: {x-when: noon}}
    - name: ours
      match: {metadata: [{key: debug, exact: status}]}
      status: {code: ABORTED}
`)
		a := r.net.Listen("a:1")
		r.Request(1, "/a.B/C", true)
		f := r.answer()
		if got := f.String(); got != "HEADERS 1 :status=200 grpc-status=12 grpc-message=back at noon end" || f.Get("x-when") != "noon" {
			t.Errorf("the caller got %s, x-when %q", got, f.Get("x-when"))
		}
		r.logged(map[string]any{"route": "closed/maintenance", "status": "UNIMPLEMENTED"})
		r.Request(3, "/a.B/C", true, "debug", "status")
		if f := r.answer(); f.Get("grpc-status") != "10" || !strings.Contains(f.Get("grpc-message"), `"closed"`) || !strings.Contains(f.Get("grpc-message"), "ours") {
			t.Errorf("the caller got %v", f)
		}
		quiet(t, a)
		r.ask(a, 5, true, "debug", "yes").TrailersOnly(5-4, "0")
	})
}

const splitPolicies = `
- name: versions
  service: greeter
  subsets:
    subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}
- name: canary
  service: greeter
  route:
    rules:
    - name: half
      split:
        destinations: [{weight: 5000, subset: v1}, {weight: 4000, subset: v2, request: {add: {x-new: "yes"}}}, {weight: 1000, service: other, group: elsewhere}]
        sticky: {key: {metadata: user}}
        allow_force: true
`

// Each key goes to the group that the compiled set says, the app is told which, and
// what the caller wrote there is gone.
func TestSplit(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Random: even}, instances: 2})
		r.versions(2)
		r.service("other", "o:1")
		set := r.obey(splitPolicies)
		hosts := map[string]*scriptpeer.Host{"v1": r.net.Listen("a:1"), "v2": r.net.Listen("b:1"), "elsewhere": r.net.Listen("o:1")}
		seen := map[string]int{}
		ask := func(i int, want string, pairs ...string) {
			t.Helper()
			r.Request(uint32(2*i+1), "/a.B/C", true, append(pairs, "pillion-group", "mine", "pillion-group", "mine too")...)
			f, p := request(t, hosts[want])
			count := 0
			for _, field := range f.Fields {
				if field.Name == "pillion-group" {
					count++
				}
			}
			if f.Get("pillion-group") != want || count != 1 || (f.Get("x-new") == "yes") != (want == "v2") {
				t.Fatalf("the app of %s got %v", want, f.Fields)
			}
			p.TrailersOnly(f.Stream, "0")
			if got := r.answer().Get("grpc-status"); got != "0" {
				t.Fatalf("status %s", got)
			}
			for _, h := range hosts {
				quiet(t, h)
			}
		}
		route := set.Service("greeter").Outbound("/a.B/C").Route
		i := 0
		for range 60 {
			user := fmt.Sprint("user-", i)
			rpc := policy.RPC{Path: "/a.B/C", Random: even}
			rpc.Fields = append(rpc.Fields, hpack.Field{Name: "user", Value: user})
			want := route.Decide(&rpc, "greeter", nil).Group.Name
			seen[want]++
			for range 2 {
				ask(i, want, "user", user)
				i++
			}
		}
		if len(seen) != 3 {
			t.Errorf("the keys went to %v", seen)
		}
		for _, want := range []string{"v2", "elsewhere", "v1"} {
			ask(i, want, "user", "user-0", "pillion-force", want)
			i++
		}
		r.records()
		ask(i, "elsewhere", "pillion-force", "elsewhere")
		r.logged(map[string]any{"service": "other", "route": "canary/half", "group": "elsewhere"})
	})
}

// An RPC that waits until its destination is looked up goes where it was decided at
// first, though another draw would say otherwise.
func TestWhatIsDecidedIsNotDrawnAgain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		draws := 0
		random := func() uint64 {
			draws++
			return uint64(draws-1) * (1 << 63)
		}
		r := newRig(t, options{Config: Config{Random: random}})
		other := r.service("other", "o:1")
		r.router.asked = map[string]bool{"other": true}
		set := r.obey(`
- {name: split, service: greeter, route: {rules: [{split: {destinations: [{weight: 5000, service: greeter}, {weight: 5000, service: other}]}}]}}
`)
		// Find out which draw goes to the service that is not known yet.
		for draws = 0; ; {
			was := draws
			rpc := policy.RPC{Path: "/a.B/C", Random: random}
			if set.Service("greeter").Outbound("/a.B/C").Route.Decide(&rpc, "greeter", nil).Service == "other" {
				draws = was
				break
			}
		}
		o, a := r.net.Listen("o:1"), r.net.Listen("a:1")
		r.Request(1, "/a.B/C", true)
		quiet(t, o, a)
		r.obey(`
- {name: split, service: greeter, route: {rules: [{to: {service: greeter}}]}}
`)
		r.router.reveal("other", other)
		_, p := request(t, o)
		p.TrailersOnly(1, "0")
		r.Want(answered)
		r.ask(a, 3, true).TrailersOnly(1, "0") // the next one obeys the new policy
	})
}

func TestDestinationThatIsNotThere(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{}, `
- {name: versions, service: greeter, subsets: {subsets: {v9: {meta: {version: v9}}}}}
- name: away
  service: greeter
  route:
    rules:
    - {name: gone, match: {metadata: [{key: to, exact: service}]}, to: {service: gone}}
    - {name: nobody, match: {metadata: [{key: to, exact: subset}]}, to: {subset: v9}}
`)
		a := r.net.Listen("a:1")
		r.router.full = true
		r.Request(1, "/a.B/C", true, "to", "service")
		r.Want("HEADERS 1 :status=200 grpc-status=12 grpc-message=route away/gone: no way to * pillion-flags=NR end")
		r.Request(3, "/a.B/C", true, "to", "subset")
		r.Want(`HEADERS 3 :status=200 grpc-status=14 grpc-message=service "greeter": route away/nobody: no instance of subset "v9" can be used pillion-flags=UH end`)
		quiet(t, a)
	})
}

func TestTimeouts(t *testing.T) {
	const rules = `
- {name: patience, service: greeter, timeout: {default: 2s, max: 5s}}
- {name: quick, service: greeter, route: {rules: [{match: {metadata: [{key: quick, present: true}]}, timeout: 1s}]}}
`
	for what, c := range map[string]struct {
		policies string // default: rules
		config   Config
		request  []string
		want     time.Duration // 0: no deadline
		told     string        // grpc-timeout that the instance gets
	}{
		"none asked: the default":               {want: 2 * time.Second, told: "2000m"},
		"asked below the maximum":               {request: []string{"grpc-timeout", "4S"}, want: 4 * time.Second, told: "4S"},
		"asked above the maximum":               {request: []string{"grpc-timeout", "9S"}, want: 5 * time.Second, told: "5000m"},
		"the rule's goes before the default":    {request: []string{"quick", "1"}, want: time.Second, told: "1000m"},
		"but not before the caller's":           {request: []string{"quick", "1", "grpc-timeout", "3S"}, want: 3 * time.Second, told: "3S"},
		"policies stand instead of the options": {config: Config{DefaultTimeout: time.Second, MaxTimeout: time.Second}, want: 2 * time.Second, told: "2000m"},
		"field by field": {policies: `
- {name: patience, service: greeter, timeout: {max: 5s}}
`, config: Config{DefaultTimeout: 3 * time.Second, MaxTimeout: time.Second}, want: 3 * time.Second, told: "3000m"},
		"a maximum alone is for all": {policies: `
- {name: patience, service: greeter, timeout: {max: 5s}}
`, want: 5 * time.Second, told: "5000m"},
		"another method has none": {policies: `
- {name: patience, service: greeter, methods: ["a.B/D"], timeout: {default: 1s}}
`},
	} {
		t.Run(what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				if c.policies == "" {
					c.policies = rules
				}
				r := governedRig(t, options{Config: c.config}, c.policies)
				a := r.net.Listen("a:1")
				r.Request(1, "/a.B/C", true, c.request...)
				f, in := request(t, a)
				told := f.Get("grpc-timeout")
				if told != c.told && (c.told == "" || duration(t, told) != duration(t, c.told)) {
					t.Errorf("the instance is told %q, want %q", told, c.told)
				}
				if c.want == 0 {
					time.Sleep(time.Hour)
					r.Want()
					in.TrailersOnly(1, "0")
					r.Want(answered)
					return
				}
				time.Sleep(c.want - 1)
				r.Want()
				time.Sleep(1)
				r.Want("HEADERS 1 :status=200 grpc-status=4 grpc-message=deadline of " + c.want.String() + " exceeded * pillion-flags=DT end")
				in.Want("RST_STREAM 1 CANCEL")
			})
		})
	}
}

func duration(t *testing.T, timeout string) time.Duration {
	t.Helper()
	d, err := wire.ParseTimeout(timeout)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A policy's timeout counts from the headers, also where those waited.
func TestTimeoutAfterALookUp(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{}, `
- {name: patience, service: greeter, timeout: {default: 1s}}
`)
		a := r.net.Listen("a:1")
		r.router.pending = true
		r.Request(1, "/a.B/C", true)
		synctest.Wait()
		time.Sleep(400 * time.Millisecond)
		r.router.settle(r.cluster)
		f, _ := request(t, a)
		if got := duration(t, f.Get("grpc-timeout")); got < 600*time.Millisecond || got > 610*time.Millisecond {
			t.Errorf("the instance is told %v", got)
		}
		time.Sleep(600 * time.Millisecond)
		r.Want("HEADERS 1 :status=200 grpc-status=4 * pillion-flags=DT end")
		r.router.pending = true
		r.Request(3, "/a.B/C", true)
		synctest.Wait()
		time.Sleep(time.Minute)
		r.router.settle(r.cluster)
		r.Want("HEADERS 3 :status=200 grpc-status=4 * pillion-flags=DT end")
		for _, f := range a.Conn().Frames() {
			if f.Type == http2.FrameHeaders {
				t.Error("the instance got an RPC that was too late")
			}
		}
	})
}

func TestRateLimit(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{}, `
- name: limits
  service: greeter
  rate_limit:
    limits:
    - {requests: 100, key: {caller: true}, match: {metadata: [{key: free, present: false}]}}
    - {requests: 1, interval: 10s, key: {metadata: tenant}, match: {metadata: [{key: tenant, present: true}]}}
`)
		a := r.net.Listen("a:1")
		r.ask(a, 1, true, "tenant", "x").TrailersOnly(1, "0")
		r.Want(answered)
		time.Sleep(4 * time.Second)
		r.Request(3, "/a.B/C", true, "tenant", "x")
		f := r.answer()
		if got := f.String(); !strings.HasPrefix(got, `HEADERS 3 :status=200 grpc-status=8 grpc-message=rate limited: policy "limits", limit 2: there is room again in 6s pillion-flags=RL grpc-retry-pushback-ms=6000 grpc-status-details-bin=`) {
			t.Errorf("the caller got %s", got)
		}
		var details spb.Status
		raw, err := base64.RawStdEncoding.DecodeString(f.Get("grpc-status-details-bin"))
		if err != nil || proto.Unmarshal(raw, &details) != nil || len(details.GetDetails()) != 1 {
			t.Fatalf("the details are %q", f.Get("grpc-status-details-bin"))
		}
		var info errdetails.RetryInfo
		if err := details.GetDetails()[0].UnmarshalTo(&info); err != nil || info.GetRetryDelay().AsDuration() != 6*time.Second || details.GetCode() != 8 {
			t.Errorf("the details are %v (%v)", &details, err)
		}
		quiet(t, a)
		r.ask(a, 5, true, "tenant", "y").TrailersOnly(3, "0")
		r.Want("HEADERS 5 :status=200 grpc-status=0 end")
		time.Sleep(6 * time.Second)
		r.ask(a, 7, true, "tenant", "x").TrailersOnly(5, "0")
		r.Want("HEADERS 7 :status=200 grpc-status=0 end")
		if got := r.failures(wire.FlagRateLimited); got != 1 {
			t.Errorf("%d RPCs counted as rate limited", got)
		}
	})
}

func TestResponseMetadata(t *testing.T) {
	const change = `
- name: labels
  service: greeter
  route: {rules: [{response: {set: {x-set: ours}, add: {x-add: more}, remove: [x-secret]}}]}
`
	check := func(t *testing.T, f *scriptpeer.Frame, changed bool) {
		t.Helper()
		want := map[string]string{"x-set": "theirs", "x-add": "", "x-secret": "42", "x-kept": "1"}
		if changed {
			want = map[string]string{"x-set": "ours", "x-add": "more", "x-secret": "", "x-kept": "1"}
		}
		for key, value := range want {
			if got := f.Get(key); got != value {
				t.Errorf("%v: %s is %q, want %q", f, key, got, value)
			}
		}
	}
	theirs := []string{"x-set", "theirs", "x-secret", "42", "x-kept", "1", "x-secret", "43"}
	for what, policies := range map[string]string{"": change, ", held back": change + `
- {name: again, service: greeter, retry: {max_attempts: 2, retryable_status_codes: [UNAVAILABLE], hold_headers: true}}
`} {
		t.Run("headers"+what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := governedRig(t, options{}, policies)
				in := r.ask(r.net.Listen("a:1"), 1, true)
				in.Response(1, theirs...)
				in.Message(1, 10, false)
				in.Trailers(1, "0", theirs...)
				frames := r.Frames()
				if len(frames) != 3 {
					t.Fatalf("the caller got %v", frames)
				}
				check(t, frames[0], true)
				check(t, frames[2], false)
			})
		})
		t.Run("trailers only"+what, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := governedRig(t, options{}, policies)
				in := r.ask(r.net.Listen("a:1"), 1, true)
				in.TrailersOnly(1, "5", theirs...)
				f := r.answer()
				check(t, f, true)
				if f.Get("grpc-status") != "5" {
					t.Errorf("the caller got %v", f)
				}
			})
		})
	}
}

func TestRequestMetadataAndAuthority(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{}, `
- name: rewrite
  service: greeter
  route: {rules: [{authority: "internal.example:443", request: {set: {x-set: ours}, add: {x-add: more}, remove: [x-secret]}, timeout: 3s}]}
`)
		a := r.net.Listen("a:1")
		r.Request(1, "/a.B/C", true, "x-secret", "1", "x-set", "theirs", "x-secret", "2")
		f, in := request(t, a)
		for key, want := range map[string]string{":authority": "internal.example:443", "x-set": "ours", "x-add": "more", "x-secret": "", "grpc-timeout": "3S"} {
			if got := f.Get(key); got != want && (key != "grpc-timeout" || duration(t, got) != 3*time.Second) {
				t.Errorf("%s is %q, want %q", key, got, want)
			}
		}
		in.TrailersOnly(1, "0")
		r.Want(answered)
		r.logged(map[string]any{"authority": "greeter"}) // what the caller wrote
	})
}

// An RPC that waits goes to the subset that was chosen for it, though there is none of
// the name any more.
func TestSubsetsStayForRPCsUnderWay(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Random: even}, instances: 2})
		r.versions(2)
		r.obey(`
- {name: versions, service: greeter, subsets: {subsets: {v2: {meta: {version: v2}}}}}
- {name: away, service: greeter, route: {rules: [{to: {subset: v2}}]}}
- {name: late, service: greeter, fault: {delay: {for: 1s, fraction: 10000}}}
`)
		b := r.net.Listen("b:1")
		r.Request(1, "/a.B/C", true)
		synctest.Wait()
		r.router.policies.Store(nil)
		r.cluster.Configure(nil)
		time.Sleep(time.Second)
		_, in := request(t, b)
		in.TrailersOnly(1, "0")
		r.Want(answered)
	})
}

// What policies say changes, but not for RPCs under way.
func TestPolicyChangesLeaveRPCsAlone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := governedRig(t, options{}, `
- {name: patience, service: greeter, timeout: {default: 10s}}
- {name: limits, service: greeter, circuit_breaker: {max_concurrent: 1, max_pending: 5}}
- {name: labels, service: greeter, route: {rules: [{response: {set: {x-set: old}}}]}}
- {name: late, service: greeter, fault: {delay: {for: 1s, fraction: 10000}, match: {metadata: [{key: late, present: true}]}}}
`)
		a := r.net.Listen("a:1")
		in := r.ask(a, 1, true)
		r.Request(3, "/a.B/C", true)                // waits for a place
		r.Request(5, "/a.B/C", true, "late", "yes") // is delayed
		synctest.Wait()
		r.obey(`
- {name: closed, service: greeter, route: {rules: [{status: {code: ABORTED}}]}}
`)
		r.Request(7, "/a.B/C", true)
		r.Want("HEADERS 7 :status=200 grpc-status=10 *")
		in.TrailersOnly(1, "0")
		if f := r.answer(); f.Stream != 1 || f.Get("x-set") != "old" {
			t.Errorf("the caller got %v", f.Fields)
		}
		if f, _ := request(t, a); f.Stream != 3 {
			t.Errorf("the instance got %v", f)
		}
		in.TrailersOnly(3, "0")
		r.Want("HEADERS 3 :status=200 grpc-status=0 end")
		time.Sleep(time.Second)
		if f, _ := request(t, a); f.Stream != 5 {
			t.Errorf("the instance got %v", f)
		}
		time.Sleep(9 * time.Second)
		r.Want("HEADERS 5 :status=200 grpc-status=4 * pillion-flags=DT end")
	})
}
