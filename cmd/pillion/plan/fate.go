package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// aspects are what may be otherwise for an RPC, in the order in which they are told.
var aspects = []string{"destination", "answer", "deadline", "attempts", "rate limit", "fault", "mirror", "metadata", "at the destination", "beside the service"}

// fate is what becomes of an RPC, by aspect.
func fate(request *adminv1.ExplainRequest, answer *adminv1.ExplainResponse) map[string]string {
	f := map[string]string{}
	parts := map[string]*shares{}
	for _, o := range answer.GetOutcomes() {
		for aspect, text := range outcome(request, o) {
			if parts[aspect] == nil {
				parts[aspect] = &shares{}
			}
			parts[aspect].add(text, o.GetShare())
		}
	}
	for aspect, s := range parts {
		f[aspect] = s.text()
	}
	f["beside the service"] = says(answer.GetInbound())
	return f
}

// outcome is what becomes of it by one decision.
func outcome(request *adminv1.ExplainRequest, o *adminv1.Outcome) map[string]string {
	to := o.GetService()
	if o.GetSubset() != "" {
		to += "/" + o.GetSubset()
	}
	if o.GetGroup() != "" {
		to += " as " + o.GetGroup()
	}
	if o.GetStatus() != "" {
		to = "none"
	}
	f := map[string]string{
		"destination":        to,
		"answer":             o.GetStatus(),
		"rate limit":         strings.Join(o.GetRateLimits(), ", "),
		"fault":              o.GetFault(),
		"mirror":             o.GetMirror(),
		"at the destination": says(o.GetDestination()),
	}
	if o.GetStatus() != "" {
		return f
	}
	if t := o.GetTimeout(); t != nil {
		f["deadline"] = t.AsDuration().String()
	}
	if t := o.GetPerAttemptTimeout(); t != nil {
		f["deadline"] += fmt.Sprintf(" (%v for each attempt)", t.AsDuration())
	}
	if n := o.GetMaxAttempts(); n > 1 {
		f["attempts"] = fmt.Sprintf("%d on %s", n, strings.Join(o.GetRetryOn(), ", "))
		if d := o.GetHedgingDelay(); d != nil {
			f["attempts"] += fmt.Sprintf(", hedged after %v", d.AsDuration())
		}
	}
	f["metadata"] = changed(request.GetMetadata(), o.GetMetadata())
	return f
}

// changed says what becomes of metadata: "+key: value" is added, "-key: value" removed.
func changed(from, to []*adminv1.Metadata) string {
	left := map[string]int{}
	for _, m := range from {
		left[m.GetKey()+": "+m.GetValue()]++
	}
	var changes []string
	for _, m := range to {
		text := m.GetKey() + ": " + m.GetValue()
		if left[text] > 0 {
			left[text]--
			continue
		}
		changes = append(changes, "+"+text)
	}
	for _, text := range slices.Sorted(maps.Keys(left)) {
		if left[text] > 0 {
			changes = append(changes, "-"+text)
		}
	}
	return strings.Join(changes, ", ")
}

// says is what policies say that hold as a whole.
func says(list []*adminv1.InForce) string {
	var lines []string
	for _, one := range list {
		if one.GetPolicy() != "" {
			lines = append(lines, one.GetKind()+" "+one.GetSays())
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// shares is how likely each of several things is.
type shares struct {
	texts []string
	share map[string]float64
}

func (s *shares) add(text string, share float64) {
	if s.share == nil {
		s.share = map[string]float64{}
	}
	if !slices.Contains(s.texts, text) {
		s.texts = append(s.texts, text)
	}
	s.share[text] += share
}

func (s *shares) text() string {
	if len(s.texts) == 1 {
		return s.texts[0]
	}
	var parts []string
	for _, text := range s.texts {
		parts = append(parts, policy.Percent(s.share[text])+" "+cmp.Or(text, "none"))
	}
	return strings.Join(parts, ", ")
}
