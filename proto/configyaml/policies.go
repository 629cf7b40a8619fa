package configyaml

import (
	"cmp"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// The defaults of policies, as the schema's comments document and explain them.
const (
	defaultGroupKey       = "pillion-group"
	defaultFraction       = 10_000
	defaultMaxMirrored    = 100
	defaultMirroredBytes  = 64 << 10
	defaultFallback       = "none"
	defaultInitialBackoff = 25 * time.Millisecond
	defaultMaxBackoff     = 250 * time.Millisecond
	defaultMultiplier     = 2
	defaultRetryRatio     = 0.2
	defaultRetryFloor     = 3
	defaultBreakerWindow  = 10 * time.Second
	defaultMinVolume      = 20
	defaultOpenFor        = 5 * time.Second
	defaultMaxOpenFor     = time.Minute
	defaultProbes         = 3
	defaultLimitInterval  = time.Second
	defaultMaxKeys        = 10_000

	defaultRingSize          = 1024
	defaultTableSize         = 65_537
	defaultBlackout          = 10 * time.Second
	defaultWeightExpiration  = 3 * time.Minute
	defaultWeightUpdate      = time.Second
	defaultErrorPenalty      = 1
	defaultLocalityKey       = "zone"
	defaultOverprovisioning  = 1.4
	defaultMaxLoadRatio      = 2
	defaultSlowStart         = 30 * time.Second
	defaultAggression        = 1
	defaultMinWeightPercent  = 10
	defaultEjectionInterval  = 10 * time.Second
	defaultEjectionTime      = 30 * time.Second
	defaultMaxEjectionTime   = 300 * time.Second
	defaultMaxEjectedPercent = 50
	defaultConsecutive       = 5
	defaultStdevFactor       = 1900
	defaultEnforcement       = 100
	defaultSuccessHosts      = 5
	defaultSuccessVolume     = 100
	defaultFailureThreshold  = 85
	defaultFailureHosts      = 2
	defaultFailureVolume     = 20
	defaultUnhealthy         = 3
	defaultHealthy           = 2
)

// defaultFailureCodes are what is an instance's fault, as a rule.
var defaultFailureCodes = []string{"UNAVAILABLE", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "DATA_LOSS"}

// effectivePolicy fills in the defaults of a policy in place.
func effectivePolicy(p *configv1.Policy) {
	switch {
	case p.GetRoute() != nil:
		for i, rule := range p.GetRoute().GetRules() {
			effectiveRule(rule, i)
		}
	case p.GetSubsets() != nil:
		for _, subset := range p.GetSubsets().GetSubsets() {
			setText(&subset.Fallback, defaultFallback)
		}
	case p.GetRetry() != nil:
		effectiveRetry(p.GetRetry())
	case p.GetHedging() != nil:
		h := p.GetHedging()
		setDuration(&h.HedgingDelay, 0)
		setValue(&h.BufferPerRpc, defaultBufferPerRPC)
		effectiveBudget(block(&h.Budget))
	case p.GetCircuitBreaker() != nil:
		b := p.GetCircuitBreaker()
		setCodes(&b.FailureCodes)
		setValue(&b.MaxPending, 0)
		for _, trip := range []*configv1.BreakerTrip{b.Trip, b.PerInstance} {
			if trip != nil {
				effectiveTrip(trip)
			}
		}
	case p.GetRateLimit() != nil:
		for _, limit := range p.GetRateLimit().GetLimits() {
			setDuration(&limit.Interval, defaultLimitInterval)
			setValue(&limit.Burst, limit.GetRequests())
			setValue(&limit.MaxKeys, defaultMaxKeys)
		}
	case p.GetLoadBalancing() != nil:
		effectiveBalancing(p.GetLoadBalancing())
	case p.GetOutlierEjection() != nil:
		effectiveEjection(p.GetOutlierEjection())
	case p.GetHealthCheck() != nil:
		h := p.GetHealthCheck()
		setDuration(&h.Interval, defaultHealthInterval)
		setDuration(&h.Timeout, min(defaultHealthTimeout, h.Interval.AsDuration()))
		setValue(&h.UnhealthyThreshold, defaultUnhealthy)
		setValue(&h.HealthyThreshold, defaultHealthy)
	case p.GetAccess() != nil:
		effectiveAccess(p.GetAccess())
	case p.GetSplit() != nil:
		if split := p.GetSplit().GetSplit(); split != nil {
			effectiveSplit(split)
		}
	}
}

func effectiveRule(rule *configv1.RouteRule, i int) {
	setText(&rule.Name, strconv.Itoa(i+1))
	if mirror := rule.GetMirror(); mirror != nil {
		setValue(&mirror.Fraction, defaultFraction)
		setValue(&mirror.MaxConcurrent, defaultMaxMirrored)
		setValue(&mirror.MaxBytes, defaultMirroredBytes)
	}
	if split := rule.GetSplit(); split != nil {
		effectiveSplit(split)
	}
	if retry := rule.GetRetry(); retry != nil {
		effectiveRetry(retry)
	}
}

func effectiveRetry(r *configv1.RetryPolicy) {
	setDuration(&r.InitialBackoff, defaultInitialBackoff)
	setDuration(&r.MaxBackoff, max(defaultMaxBackoff, r.InitialBackoff.AsDuration()))
	setValue(&r.BackoffMultiplier, defaultMultiplier)
	setValue(&r.BufferPerRpc, defaultBufferPerRPC)
	effectiveBudget(block(&r.Budget))
}

func effectiveSplit(s *configv1.Split) {
	setText(&s.GroupKey, defaultGroupKey)
	for _, d := range s.GetDestinations() {
		setText(&d.Group, cmp.Or(d.Subset, d.Service))
	}
}

func effectiveBudget(b *configv1.RetryBudget) {
	setValue(&b.Ratio, defaultRetryRatio)
	setValue(&b.MinPerSecond, defaultRetryFloor)
}

func effectiveTrip(t *configv1.BreakerTrip) {
	setDuration(&t.Window, defaultBreakerWindow)
	setValue(&t.MinVolume, defaultMinVolume)
	setDuration(&t.OpenFor, defaultOpenFor)
	setDuration(&t.MaxOpenFor, max(defaultMaxOpenFor, t.OpenFor.AsDuration()))
	setValue(&t.Probes, defaultProbes)
}

func effectiveBalancing(b *configv1.LoadBalancingPolicy) {
	setValue(&b.RingSize, defaultRingSize)
	setValue(&b.TableSize, defaultTableSize)
	setValue(&b.BoundedLoad, 0)
	setValue(&b.PanicThreshold, 0)
	setValue(&b.SubsetSize, 0)
	reports := block(&b.LoadReports)
	setDuration(&reports.BlackoutPeriod, defaultBlackout)
	setDuration(&reports.WeightExpirationPeriod, defaultWeightExpiration)
	setDuration(&reports.WeightUpdatePeriod, defaultWeightUpdate)
	setValue(&reports.ErrorUtilizationPenalty, defaultErrorPenalty)
	if l := b.Locality; l != nil {
		setText(&l.Key, defaultLocalityKey)
		setValue(&l.Overprovisioning, defaultOverprovisioning)
		setValue(&l.MaxLoadRatio, defaultMaxLoadRatio)
	}
	if s := b.SlowStart; s != nil {
		setDuration(&s.Window, defaultSlowStart)
		setValue(&s.Aggression, defaultAggression)
		setValue(&s.MinWeightPercent, defaultMinWeightPercent)
	}
}

func effectiveEjection(e *configv1.OutlierEjectionPolicy) {
	setDuration(&e.Interval, defaultEjectionInterval)
	setDuration(&e.BaseEjectionTime, defaultEjectionTime)
	setDuration(&e.MaxEjectionTime, max(defaultMaxEjectionTime, e.BaseEjectionTime.AsDuration()))
	setValue(&e.MaxEjectionPercent, defaultMaxEjectedPercent)
	setCodes(&e.FailureCodes)
	setValue(&e.ConsecutiveFailures, defaultConsecutive)
	if s := e.SuccessRate; s != nil {
		setValue(&s.StdevFactor, defaultStdevFactor)
		setValue(&s.EnforcementPercentage, defaultEnforcement)
		setValue(&s.MinimumHosts, defaultSuccessHosts)
		setValue(&s.RequestVolume, defaultSuccessVolume)
	}
	if f := e.FailurePercentage; f != nil {
		setValue(&f.Threshold, defaultFailureThreshold)
		setValue(&f.EnforcementPercentage, defaultEnforcement)
		setValue(&f.MinimumHosts, defaultFailureHosts)
		setValue(&f.RequestVolume, defaultFailureVolume)
	}
}

func setCodes(codes *[]string) {
	if len(*codes) == 0 {
		*codes = slices.Clone(defaultFailureCodes)
	}
}

// checkNames finds policies of one name: the later one is wrong.
func checkNames(f *findings, policies []*configv1.Policy) {
	first := make(map[string]int, len(policies))
	for i, p := range policies {
		if j, twice := first[p.GetName()]; twice {
			f.addf(fmt.Sprintf("policies[%d].name", i), "%q is policies[%d] already: give it another name", p.GetName(), j)
			continue
		}
		first[p.GetName()] = i
	}
}

// PolicyProblems are what is wrong with one policy of a file whose others are in
// order.
type PolicyProblems struct {
	// Index is the policy's place in the file, from 0 on.
	Index int
	// Name is the policy's, as far as it could be read.
	Name     string
	Problems Problems
	// Service is what it is for, "" where that could not be read.
	Service string
	// Access says that it refuses callers, or may be meant to.
	Access bool
}

// ParseMeshInPart is [ParseMesh] for a file that is in use: a policy that is wrong
// is left out and told of, and the rest holds. An error means that more is wrong
// than single policies.
func ParseMeshInPart(path string, data []byte) (*configv1.MeshFile, []PolicyProblems, error) {
	rules, _ := compiledRules()
	defer runtime.KeepAlive(rules) // they are needed again wherever policies are left out
	root, _ := parseYAML(data)
	items := policyItems(root)
	doc := &document{path: path, root: root, desc: (&configv1.MeshFile{}).ProtoReflect().Descriptor()}
	left := make([]int, len(items)) // where in the file each policy is that was not left out
	for i := range items {
		left[i] = i
	}
	wrong := make(map[int]findings)
	for first := true; ; first = false {
		mesh, found := meshOf(path, data)
		if len(found) == 0 {
			return mesh, problemsOf(doc, items, wrong), nil
		}
		now := make(map[int]bool)
		for _, f := range found {
			i, rest, ok := cutPolicy(f.field)
			if !ok || i >= len(left) {
				return nil, nil, doc.report(found, nil)
			}
			at := left[i]
			f.field = fmt.Sprintf("policies[%d]%s", at, rest)
			if !first { // what was read was not the file
				f.line, f.column = 0, 0
			}
			wrong[at] = append(wrong[at], f)
			now[at] = true
		}
		left = slices.DeleteFunc(left, func(i int) bool { return now[i] })
		var err error
		if data, err = withPolicies(root, items, left); err != nil {
			return nil, nil, doc.report(found, nil)
		}
	}
}

// meshOf reads a mesh file as a whole.
func meshOf(path string, data []byte) (*configv1.MeshFile, findings) {
	mesh := &configv1.MeshFile{}
	if _, found := parse(path, data, mesh); len(found) > 0 {
		return nil, alsoRules(found, mesh)
	}
	effectiveMesh(mesh)
	found := checkRules(mesh)
	if len(found) == 0 {
		found = checkMesh(mesh)
	}
	return mesh, found
}

// policiesKey is what the list of policies is called.
const policiesKey = "policies"

// policyItems returns the policies of a mesh file.
func policyItems(root *yaml.Node) []*yaml.Node {
	if root == nil || root.Kind != yaml.MappingNode {
		return nil
	}
	list := valueOf(root, func(key string) bool { return key == policiesKey })
	if list == nil || list.Kind != yaml.SequenceNode {
		return nil
	}
	return list.Content
}

// withPolicies writes a mesh file anew with some of its policies alone.
func withPolicies(root *yaml.Node, items []*yaml.Node, left []int) ([]byte, error) {
	changed := *root
	changed.Content = slices.Clone(root.Content)
	for i := 0; i+1 < len(changed.Content); i += 2 {
		if changed.Content[i].Value == policiesKey {
			list := *changed.Content[i+1]
			list.Content = nil
			for _, at := range left {
				list.Content = append(list.Content, items[at])
			}
			changed.Content[i+1] = &list
		}
	}
	return yaml.Marshal(&changed)
}

func problemsOf(doc *document, items []*yaml.Node, wrong map[int]findings) []PolicyProblems {
	var out []PolicyProblems
	for _, i := range slices.Sorted(maps.Keys(wrong)) {
		p := PolicyProblems{Index: i, Problems: doc.report(wrong[i], nil)}
		p.Service, p.Access = meansAccess(items[i])
		if items[i].Kind == yaml.MappingNode {
			if name := valueOf(items[i], func(key string) bool { return key == "name" }); name != nil {
				p.Name = name.Value
			}
		}
		out = append(out, p)
	}
	return out
}

// cutPolicy splits a field's path into the policy's number and the rest.
func cutPolicy(field string) (index int, rest string, ok bool) {
	inside, ok := strings.CutPrefix(field, policiesKey+"[")
	if !ok {
		return 0, "", false
	}
	number, rest, ok := strings.Cut(inside, "]")
	if !ok {
		return 0, "", false
	}
	index, err := strconv.Atoi(number)
	return index, rest, err == nil && index >= 0
}

// meansAccess says which service a policy is for that is wrong, and whether it would
// refuse callers: where it is of no other kind.
func meansAccess(item *yaml.Node) (service string, access bool) {
	if item.Kind != yaml.MappingNode {
		return "", true
	}
	text := func(in *yaml.Node, key string) string {
		if v := valueOf(in, func(k string) bool { return k == key }); v != nil && v.Kind == yaml.ScalarNode {
			return v.Value
		}
		return ""
	}
	kinds := (&configv1.Policy{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range kinds.Len() {
		name := kinds.Get(i).TextName()
		if v := valueOf(item, func(k string) bool { return k == name }); v != nil {
			if name != accessKey {
				return text(item, "service"), false
			}
			if mode := text(v, "mode"); v.Kind == yaml.MappingNode && (mode == "off" || mode == "audit") {
				return text(item, "service"), false
			}
		}
	}
	return text(item, "service"), true
}

// accessKey is what an access policy is called.
const accessKey = "access"
