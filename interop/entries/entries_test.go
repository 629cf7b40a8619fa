package entries

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/interop/consul"
)

// TestEntriesMeanTheSame makes the same RPCs through an Envoy and through a Pillion, under
// each of the cases' configuration entries.
func TestEntriesMeanTheSame(t *testing.T) {
	m := startMesh(t)
	var services, recorded []string
	var entries []api.ConfigEntry
	var upstreams api.UpstreamConfiguration
	for _, c := range cases {
		services = append(services, c.name)
		m.place(t, c)
		entries = append(entries, c.entries...)
		if c.upstream != nil {
			c.upstream.Name = c.name
			upstreams.Overrides = append(upstreams.Overrides, c.upstream)
		}
		m.policies += c.policy
	}
	m.calling(t, &upstreams)
	for _, c := range chains {
		entries, recorded = append(entries, c.entries...), append(recorded, c.name)
	}
	m.writeAll(t, entries)
	m.record(t, append(recorded, services...))
	m.call(t, services)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.sidecar.Output())
		}
	})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for name, conn := range map[string]*grpc.ClientConn{"Envoy": m.envoy[c.name], "Pillion": m.pillion[c.name]} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					if c.timeout != "" {
						m.checkConnecting(t, conn, name == "Pillion")
						return
					}
					m.settle(t, c, conn)
					for i, r := range c.rpcs {
						m.check(t, fmt.Sprintf("RPC %d", i), r, conn, name == "Pillion")
					}
					if c.shares != nil {
						checkShares(t, c, conn)
					}
					if c.limit > 0 {
						m.checkLimit(t, c, conn)
					}
					if c.ejects {
						m.checkEjection(t, conn)
					}
				})
			}
		})
	}
}

// place registers the instances of a case.
func (m *mesh) place(t *testing.T, c testCase) {
	t.Helper()
	of := c.instances
	if of == nil {
		of = map[string][]placed{"": {{version: v1}, {version: v2}}}
	}
	for service, list := range of {
		if service == "" {
			service = c.name
		}
		for _, p := range list {
			var port int
			if app := m.apps[p.version]; app != nil {
				port = app.port(t)
			} else {
				port = listenSilently(t)
			}
			m.register(t, service, p.version, p.status, port)
		}
	}
}

// settle waits until the caller knows where the service is.
func (m *mesh) settle(t *testing.T, c testCase, conn *grpc.ClientConn) {
	t.Helper()
	consul.Eventually(t, "an RPC to "+c.name, func() bool {
		_, _, err := call(t.Context(), conn, "/settle.Service/Settle", c.settle)
		return status.Code(err) != codes.Unavailable
	})
}

// check makes an RPC, and looks at what comes of it.
func (m *mesh) check(t *testing.T, what string, r rpc, conn *grpc.ClientConn, pillion bool) {
	t.Helper()
	method := r.method
	if method == "" {
		method = "/any.Service/Method"
	}
	what = fmt.Sprintf("%s, %s %v", what, method, r.head)
	want := r.want
	if pillion && r.differs != "" {
		want = r.differs
	}
	first := ""
	for range max(r.many, 1) {
		head := maps.Clone(r.head)
		if head == nil {
			head = map[string]string{}
		}
		head[askID] = newID()
		begun := time.Now()
		said, back, err := call(t.Context(), conn, method, head)
		took := time.Since(begun)
		came := said.Service + "/" + said.Instance
		if err != nil {
			came = status.Code(err).String()
		}
		switch {
		case strings.HasSuffix(want, "/*"):
			if !strings.HasPrefix(came, strings.TrimSuffix(want, "*")) {
				t.Errorf("%s: %s, want %s (%v)", what, came, want, err)
			}
		case came != want:
			t.Errorf("%s: %s, want %s (%v)", what, came, want, err)
		}
		if first == "" {
			first = came
		} else if came != first {
			t.Errorf("%s: it went to %s and to %s", what, first, came)
		}
		if r.most > 0 && (took < r.least || took > r.most) {
			t.Errorf("%s: it took %v, want %v to %v", what, took, r.least, r.most)
		}
		if got := m.apps[v1].attempts(head[askID]) + m.apps[v2].attempts(head[askID]); r.times > 0 && got != r.times {
			t.Errorf("%s: it came %d times, want %d", what, got, r.times)
		}
		checkHeaders(t, what+": the instance sees", said.Headers, r.seen)
		checkHeaders(t, what+": the caller sees", back, r.back)
	}
}

func checkHeaders(t *testing.T, what string, got map[string][]string, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if joined := strings.ReplaceAll(strings.Join(got[key], ","), ", ", ","); joined != value {
			t.Errorf("%s %s %q, want %q", what, key, joined, value)
		}
	}
}

var ids struct {
	sync.Mutex
	last int
}

func newID() string {
	ids.Lock()
	defer ids.Unlock()
	ids.last++
	return fmt.Sprint(ids.last)
}

// many is how many RPCs are made to see shares.
const many = 2000

// checkShares makes many RPCs, and compares how often each place comes with what is
// expected: within five standard deviations.
func checkShares(t *testing.T, c testCase, conn *grpc.ClientConn) {
	t.Helper()
	got := sharesOf(t, conn, many)
	for place, share := range c.shares {
		sigma := math.Sqrt(share * (1 - share) / many)
		if n := float64(got[place]) / many; math.Abs(n-share) > 5*sigma {
			t.Errorf("%s got %.4f of the RPCs, want %.4f ± %.4f", place, n, share, 5*sigma)
		}
	}
	for place, n := range got {
		if _, known := c.shares[place]; !known {
			t.Errorf("%d RPCs went to %q, want %q alone", n, place, slices.Sorted(maps.Keys(c.shares)))
		}
	}
}

// sharesOf makes RPCs, a few at a time, and counts where they go: "service/version", and
// what leg of a split that was, in the instance's or the caller's words.
func sharesOf(t *testing.T, conn *grpc.ClientConn, n int) map[string]int {
	t.Helper()
	var (
		mu   sync.Mutex
		got  = map[string]int{}
		done sync.WaitGroup
	)
	for range 8 {
		done.Go(func() {
			for range n / 8 {
				place := placeOf(call(t.Context(), conn, "/any.Service/Method", nil))
				mu.Lock()
				got[place]++
				mu.Unlock()
			}
		})
	}
	done.Wait()
	return got
}

func placeOf(said seen, back metadata.MD, err error) string {
	if err != nil {
		return err.Error()
	}
	return said.Service + "/" + said.Instance + " " + strings.Join(append(said.Headers["y-leg"], back["y-from"]...), ",")
}

// A change of entries is obeyed by both, without one failed RPC.
func TestEntriesChange(t *testing.T) {
	m := startMesh(t)
	m.place(t, testCase{name: "store"})
	m.write(t, versions("store", defaultV1))
	m.call(t, []string{"store"})
	conns := map[string]*grpc.ClientConn{"Envoy": m.envoy["store"], "Pillion": m.pillion["store"]}
	awaitAll := func(want string) {
		t.Helper()
		for name, conn := range conns {
			got := ""
			consul.Eventually(t, name+" goes to "+want, func() bool {
				said, _, err := call(t.Context(), conn, hello, nil)
				if got = said.Service + "/" + said.Instance; err != nil {
					got = err.Error()
				}
				return got == want
			})
		}
	}
	awaitAll("store/v1")

	ctx, cancel := context.WithCancel(t.Context())
	var going sync.WaitGroup
	failed := make(chan error, 1)
	going.Go(func() { // only through Pillion: an Envoy may well fail some
		for ctx.Err() == nil {
			if _, _, err := call(t.Context(), conns["Pillion"], hello, nil); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		}
	})
	m.write(t, splitter("store", api.ServiceSplit{Weight: 100, ServiceSubset: v2}))
	awaitAll("store/v2")
	// A subset that is new has its instances before RPCs are sent there.
	m.write(t, versions("store", func(r *api.ServiceResolverConfigEntry) {
		r.Subsets["new"] = api.ServiceResolverSubset{Filter: "Service.ID == `store-v1`"}
	}))
	m.write(t, splitter("store", api.ServiceSplit{Weight: 100, ServiceSubset: "new"}))
	awaitAll("store/v1")
	if _, err := m.agent.Client.ConfigEntries().Delete(api.ServiceSplitter, "store", nil); err != nil {
		t.Fatal(err)
	}
	m.write(t, versions("store", func(r *api.ServiceResolverConfigEntry) { r.DefaultSubset = v2 }))
	awaitAll("store/v2")
	cancel()
	going.Wait()
	select {
	case err := <-failed:
		t.Errorf("an RPC through the Pillion failed meanwhile: %v\n%s", err, m.sidecar.Output())
	default:
	}
}
