package upstream

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/registry"
)

// What befalls instances is counted for the subsets that they are in, also when they are
// gone.
func TestEventsAreCountedBySubset(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		of := func(address, version string) registry.Endpoint {
			return registry.Endpoint{ID: address, Address: address, Weight: 1, Meta: map[string]string{"version": version, "any": "1"}}
		}
		r.cluster.Update([]registry.Endpoint{of("a:1", "v1"), of("b:1", "v1"), of("c:1", "v2"), of("d:1", "v2"), of("e:1", "v2")}, false)
		subsets := map[string]Subset{
			"v1": {Meta: map[string]string{"version": "v1"}}, "v2": {Meta: map[string]string{"version": "v2"}}, "any": {Meta: map[string]string{"any": "1"}},
		}
		want := func(subset string, count uint64, instances int, known bool) {
			t.Helper()
			synctest.Wait()
			if c, n, ok := r.cluster.Events(subset); c != count || n != instances || ok != known {
				t.Errorf("%q: %d events of %d instances, %v; want %d of %d, %v", subset, c, n, ok, count, instances, known)
			}
		}
		want("v1", 0, 0, false)
		r.cluster.Configure(&Policy{Ejection: ejection(), Subsets: subsets})
		want("v1", 0, 2, true)
		want("", 0, 5, true)
		rpcs(r.instance("c:1"), 4, codes.Unavailable)
		want("v2", 0, 3, true)
		rpcs(r.instance("c:1"), 1, codes.Unavailable) // five have it ejected
		want("v2", 1, 3, true)
		r.cluster.Configure(&Policy{Breaker: trip(), BreakerFailures: failures, Subsets: subsets})
		rpcs(r.instance("d:1"), 3, codes.Unavailable) // three open a breaker
		want("v2", 2, 3, true)
		rpcs(r.instance("a:1"), 3, codes.Unavailable)
		want("v1", 1, 2, true)
		want("any", 3, 5, true)
		want("", 3, 5, true)
		r.cluster.Update([]registry.Endpoint{of("a:1", "v1"), of("e:1", "v2")}, false)
		want("v2", 2, 1, true)
		want("", 3, 2, true)
		time.Sleep(time.Minute) // what comes back is no event
		want("", 3, 2, true)
		// The subsets of the policy before stay for one more.
		r.cluster.Configure(&Policy{Ejection: ejection()})
		want("v2", 2, 1, true)
		r.cluster.Configure(&Policy{Breaker: trip(), BreakerFailures: failures})
		want("v2", 0, 0, false)
		want("", 3, 2, true)
	})
}
