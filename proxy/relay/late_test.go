package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// gRPC's libraries cancel an RPC when its deadline passes, a little before the
// sidecar's clock says so. An instance that does not answer is found out all the same,
// and one whose callers change their minds is not blamed.
func TestCallersGiveUp(t *testing.T) {
	for _, tc := range []struct {
		name    string
		timeout string
		after   time.Duration
		ejected bool
	}{
		{"at the deadline", "100m", 100 * time.Millisecond, true},
		{"a little before", "100m", 90 * time.Millisecond, true},
		{"long before", "100m", 89 * time.Millisecond, false},
		{"a little before a long one", "10S", 9980 * time.Millisecond, true},
		{"long before a long one", "10S", 9979 * time.Millisecond, false},
		{"there is none", "", time.Hour, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, options{instances: 2})
				r.net.Listen("a:1")
				r.net.Listen("b:1")
				r.cluster.Configure(&upstream.Policy{Balance: balance.Options{Policy: balance.ByDefault}, Ejection: &outlier.Config{
					Interval: time.Hour, BaseTime: time.Hour, MaxTime: time.Hour, MaxPercent: 50,
					Failures: wire.CodesOf(codes.DeadlineExceeded), ConsecutiveFailures: 1,
				}})
				var pairs []string
				if tc.timeout != "" {
					pairs = []string{"grpc-timeout", tc.timeout}
				}
				r.Request(1, "/a.B/C", true, pairs...)
				synctest.Wait()
				time.Sleep(tc.after)
				r.Reset(1, http2.ErrCodeCancel)
				synctest.Wait()
				if st := r.cluster.Status().Instances[0]; (st.Blocked == upstream.Ejected) != tc.ejected {
					t.Errorf("blocked for %q, want ejected %v", st.Blocked, tc.ejected)
				}
			})
		})
	}
}
