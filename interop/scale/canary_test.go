package scale

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/requests"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// trial is the canary that all sidecars report on.
const trial = "hub-v2"

// startCanary starts a canary of the hub, and waits until all sidecars obey it and report
// to one. It says how long that took.
func (f *fleet) startCanary(t *testing.T) (obeyed spread, reporting time.Duration) {
	t.Helper()
	f.revision++
	subsets := map[string]*configv1.Subset{
		"v1": {Meta: map[string]string{"version": "v1"}}, "v2": {Meta: map[string]string{"version": "v2"}},
	}
	versions := &configv1.Policy{Name: "hub-versions", Service: hub, Kind: &configv1.Policy_Subsets{Subsets: &configv1.SubsetsPolicy{Default: "v1", Subsets: subsets}}}
	document := &configv1.Canary{
		Name: trial, Service: hub, Stable: "v1", Canary: "v2",
		Steps:  []*configv1.CanaryStep{{Weight: 1000, Hold: durationpb.New(time.Hour)}},
		Guards: &configv1.CanaryGuards{Errors: []*configv1.ErrorGuard{{}}},
	}
	f.commit(t,
		f.document(t, control.Policy, hub, versions.Name, &controlv1.Document{Body: &controlv1.Document_Policy{Policy: versions}}),
		f.document(t, control.Canary, hub, trial, &controlv1.Document{Body: &controlv1.Document_Canary{Canary: document}}))
	a := f.await(f.sidecars, func(_ *sidecar, set *policy.Set) bool { return weight(set) > 0 })
	subject := requests.Subject{Kind: control.Canary, Service: hub, Name: trial}
	if _, err := requests.Ask(t.Context(), f.people, subject, &controlv1.Request{Action: controlv1.Action_ACTION_START}); err != nil {
		t.Fatal(err)
	}
	a.wait(t, "the canary runs everywhere")
	f.awaitReporters(t)
	return a.spread(), time.Since(a.began)
}

// awaitReporters waits until all sidecars report to one.
func (f *fleet) awaitReporters(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for f.reporters() < len(f.sidecars)-1 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("of %d sidecars %d report", len(f.sidecars), f.reporters())
		}
	}
}

// weight is what share of RPCs a sidecar has go to the canary, in 1/10,000.
func weight(set *policy.Set) (share uint32) {
	p, _ := set.Policy(canary.PolicyName(trial))
	for _, d := range p.Source.GetSplit().GetSplit().GetDestinations() {
		if d.GetGroup() == canary.CanaryGroup {
			share = d.GetWeight()
		}
	}
	return share
}

// elected is the sidecar that decides; nil: none does.
func (f *fleet) elected() *sidecar {
	for _, s := range f.sidecars {
		for _, st := range s.member.Status() {
			if st.Leading {
				return s
			}
		}
	}
	return nil
}

// reporters is how many report to it.
func (f *fleet) reporters() (n int) {
	s := f.elected()
	if s == nil {
		return 0
	}
	for _, st := range s.member.Status() {
		n += st.Reporters
	}
	return n
}

// call has RPCs through a sidecar come to something.
func (s *sidecar) call(group string, code codes.Code) {
	o := s.canaries.Observer(telemetry.GroupKey{Policy: canary.PolicyName(trial), Group: group})
	o.Ended(&telemetry.Outcome{Code: code, Took: 3 * time.Millisecond})
}

// traffic has all sidecars see RPCs for a while: ten a second each, all well.
func (f *fleet) traffic(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for i, s := range f.sidecars {
			group := canary.StableGroup
			if i%10 == int(time.Until(end)/(100*time.Millisecond))%10 {
				group = canary.CanaryGroup
			}
			s.call(group, codes.OK)
		}
	}
}

// fail has the canary fail one RPC of each sidecar, all at once, of which none can tell
// anything alone. It says how long it takes until each has taken its RPCs off.
func (f *fleet) fail(t *testing.T) spread {
	t.Helper()
	a := f.await(f.sidecars, func(_ *sidecar, set *policy.Set) bool { return weight(set) == 0 })
	for _, s := range f.sidecars {
		s.call(canary.CanaryGroup, codes.Unavailable)
	}
	a.wait(t, fmt.Sprintf("the canary is taken back on all %d", len(f.sidecars)))
	return a.spread()
}
