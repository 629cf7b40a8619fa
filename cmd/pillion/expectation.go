package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/pillion-proxy/pillion/cmd/pillion/explain"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// caseResult is what became of one case.
type caseResult struct {
	answer   *adminv1.ExplainResponse
	problems []string
}

func (r *caseResult) addf(format string, args ...any) {
	if problem := fmt.Sprintf(format, args...); !slices.Contains(r.problems, problem) {
		r.problems = append(r.problems, problem)
	}
}

// differ notes that a field is not as expected.
func (r *caseResult) differ(field string, got, want any) {
	r.addf("%s is %s, want %s", field, quotedText(got), quotedText(want))
}

func quotedText(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

// runCase says what policies make of a case's RPC, and how that differs from what is
// expected. The error is about the RPC itself.
func runCase(ctx context.Context, w *explain.World, c *configv1.PolicyCase) (*caseResult, error) {
	answer, err := explain.Explain(ctx, w, requestOf(c))
	if err != nil {
		return nil, err
	}
	r := &caseResult{answer: answer}
	for _, o := range answer.GetOutcomes() {
		r.compare(o, c.GetExpect())
	}
	if len(c.GetExpect().GetShares()) > 0 {
		if err := r.shares(ctx, w, c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// compare looks at one of the things that may become of the RPC.
func (r *caseResult) compare(o *adminv1.Outcome, want *configv1.Expectation) {
	for _, text := range []struct {
		field, got string
		want       *string
	}{
		{"service", o.GetService(), want.Service}, {"subset", o.GetSubset(), want.Subset},
		{"group", o.GetGroup(), want.Group}, {"status", o.GetStatus(), want.Status},
	} {
		if text.want != nil && text.got != *text.want {
			r.differ(text.field, text.got, *text.want)
		}
	}
	if want.Rule != nil && o.GetRule() != want.GetRule() {
		if _, name, _ := strings.Cut(o.GetRule(), "/"); name != want.GetRule() || name == "" {
			r.differ("rule", o.GetRule(), want.GetRule())
		}
	}
	if want.Timeout != nil && o.GetTimeout().AsDuration() != want.GetTimeout().AsDuration() {
		r.differ("timeout", o.GetTimeout().AsDuration(), want.GetTimeout().AsDuration())
	}
	r.compareRepeats(o, want)
	r.compareAccess(o, want)
	for _, yes := range []struct {
		field string
		got   bool
		want  *bool
	}{
		{"rate_limited", len(o.GetRateLimits()) > 0, want.RateLimited},
		{"fault", o.GetFault() != "", want.Fault},
		{"mirrored", o.GetMirror() != "", want.Mirrored},
	} {
		if yes.want != nil && yes.got != *yes.want {
			r.differ(yes.field, yes.got, *yes.want)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want.GetMetadata())) {
		var values []string
		for _, m := range o.GetMetadata() {
			if m.GetKey() == key {
				values = append(values, m.GetValue())
			}
		}
		if got := strings.Join(values, ","); got != want.GetMetadata()[key] {
			r.differ("metadata["+strconv.Quote(key)+"]", got, want.GetMetadata()[key])
		}
	}
}

// compareAccess looks at whether the RPC is let through. What no policy is about is.
func (r *caseResult) compareAccess(o *adminv1.Outcome, want *configv1.Expectation) {
	switch {
	case want.GetAccess() == "":
	case o.GetStatus() != "":
		r.addf("it is answered %s and not sent, so nobody is asked whether it may be", o.GetStatus())
	default:
		if got := accessText(o.GetAccess()); got != want.GetAccess() {
			r.differ("access", got, want.GetAccess())
		}
	}
}

// accessText is what access policies decide, as expectations say it.
func accessText(a *adminv1.AccessSeen) string {
	if a == nil || a.GetAllowed() {
		return "allow"
	}
	return "deny"
}

func (r *caseResult) compareRepeats(o *adminv1.Outcome, want *configv1.Expectation) {
	if o.GetStatus() != "" && (want.MaxAttempts != nil || len(want.GetRetryOn()) > 0 || want.Hedging != nil) {
		r.addf("it is answered %s and not sent, so nothing is sent again", o.GetStatus())
		return
	}
	if want.MaxAttempts != nil && o.GetMaxAttempts() != want.GetMaxAttempts() {
		r.differ("max_attempts", o.GetMaxAttempts(), want.GetMaxAttempts())
	}
	if expected := want.GetRetryOn(); len(expected) > 0 {
		got, sorted := slices.Sorted(slices.Values(o.GetRetryOn())), slices.Sorted(slices.Values(expected))
		if slices.Equal(sorted, []string{"NONE"}) {
			sorted = nil
		}
		if !slices.Equal(got, sorted) {
			r.differ("retry_on", got, sorted)
		}
	}
	if want.Hedging != nil && (o.GetHedgingDelay() != nil) != want.GetHedging() {
		r.differ("hedging", o.GetHedgingDelay() != nil, want.GetHedging())
	}
}

// defaultShareRPCs is how many RPCs are tried for shares.
const defaultShareRPCs = 20_000

// shares tries many RPCs and counts the groups. The numbers that decide are the same
// each time, so a test that passes once passes always.
func (r *caseResult) shares(ctx context.Context, w *explain.World, c *configv1.PolicyCase) error {
	want := c.GetExpect().GetShares()
	rpcs := int(c.GetExpect().GetSharesRpcs())
	if rpcs == 0 {
		rpcs = defaultShareRPCs
	}
	random := rand.New(rand.NewPCG(1, 2))
	came := map[string]int{}
	request := requestOf(c)
	by := c.GetExpect().GetSharesBy()
	if by != "" {
		request.Metadata = slices.DeleteFunc(request.Metadata, func(m *adminv1.Metadata) bool { return m.GetKey() == by })
		request.Metadata = append(request.Metadata, &adminv1.Metadata{Key: by})
	}
	for i := range rpcs {
		request.Random = new(random.Uint64())
		if by != "" {
			request.Metadata[len(request.Metadata)-1].Value = "key-" + strconv.Itoa(i)
		}
		answer, err := explain.Explain(ctx, w, request)
		if err != nil {
			return err
		}
		came[answer.GetOutcomes()[0].GetGroup()]++
	}
	names := slices.Collect(maps.Keys(want))
	for name := range came {
		if _, expected := want[name]; !expected {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		share, expected := float64(came[name])/float64(rpcs), want[name]
		// Four standard deviations: one of 15,000 right policies would be taken for wrong.
		if off := 4*math.Sqrt(expected*(1-expected)/float64(rpcs)) + 1/float64(rpcs); math.Abs(share-expected) > off {
			r.addf("group %q has a share of %.4f of %d RPCs, want %g give or take %.4f", name, share, rpcs, expected, off)
		}
	}
	return nil
}
