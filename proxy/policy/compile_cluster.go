package policy

import (
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/breaker"
	"github.com/pillion-proxy/pillion/proxy/health"
	"github.com/pillion-proxy/pillion/proxy/outlier"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Target is a service, or a subset of one; Service is "" for the one that is spoken of.
type Target struct {
	Service, Subset string
}

// clusterParts are what policies say of a service's instances, each as one policy says
// it; nil: none does. As long as these are the same, so is the [upstream.Policy].
type clusterParts struct {
	subsets   *subsets
	balancing *balancing
	ejection  *outlier.Config
	health    *health.Config
	breaker   *instanceBreaker
}

type subsets struct {
	byName    map[string]upstream.Subset
	byDefault string
	failover  map[string][]Target // of those subsets that say so
}

type balancing struct {
	options    balance.Options
	reports    balance.ReportOptions
	panic      int
	subsetSize int
	connect    time.Duration
	locality   *upstream.Locality
	slowStart  *upstream.SlowStart
	failover   []Target
	hash       *HashKey
}

type instanceBreaker struct {
	policy   string
	trip     *breaker.Trip
	failures wire.CodeSet
}

// policy makes what the cluster is told; nil: nothing is said.
func (c clusterParts) policy() *upstream.Policy {
	if c == (clusterParts{}) {
		return nil
	}
	p := noParts()
	p.Ejection, p.Health = c.ejection, c.health
	if s := c.subsets; s != nil {
		p.Subsets, p.DefaultSubset = s.byName, s.byDefault
	}
	if b := c.balancing; b != nil {
		p.Balance, p.Reports, p.PanicPercent, p.SubsetSize = b.options, b.reports, b.panic, b.subsetSize
		p.ConnectTimeout = b.connect
		p.Locality, p.SlowStart = b.locality, b.slowStart
	}
	if b := c.breaker; b != nil {
		p.Breaker, p.BreakerFailures, p.BreakerPolicy = b.trip, b.failures, b.policy
	}
	return p
}

// noParts is what the cluster is told where nothing is said.
func noParts() *upstream.Policy {
	return &upstream.Policy{Balance: balance.Options{Policy: balance.ByDefault}}
}

func compileSubsets(m *configv1.SubsetsPolicy) *subsets {
	s := &subsets{byName: make(map[string]upstream.Subset, len(m.GetSubsets())), byDefault: m.GetDefault()}
	for name, subset := range m.GetSubsets() {
		s.byName[name] = upstream.Subset{Meta: subset.GetMeta(), Tags: subset.GetTags(), Fallback: subset.GetFallback()}
		if len(subset.GetFailover()) > 0 {
			if s.failover == nil {
				s.failover = map[string][]Target{}
			}
			s.failover[name] = targets(subset.GetFailover())
		}
	}
	return s
}

func (p *problems) compileBalancing(m *configv1.LoadBalancingPolicy) *balancing {
	way, err := balance.ParsePolicy(m.GetPolicy())
	if err != nil {
		p.addf("load_balancing.policy", "%v", err)
	}
	p.checkBalancing(m, way)
	b := &balancing{
		options: balance.Options{Policy: way, RingSize: int(m.GetRingSize()), TableSize: int(m.GetTableSize()), BoundedLoad: m.GetBoundedLoad()},
		reports: balance.ReportOptions{
			Blackout:     m.GetLoadReports().GetBlackoutPeriod().AsDuration(),
			Expiration:   m.GetLoadReports().GetWeightExpirationPeriod().AsDuration(),
			Update:       m.GetLoadReports().GetWeightUpdatePeriod().AsDuration(),
			ErrorPenalty: m.GetLoadReports().GetErrorUtilizationPenalty(),
		},
		panic:      int(m.GetPanicThreshold()),
		subsetSize: int(m.GetSubsetSize()),
		connect:    m.GetConnectTimeout().AsDuration(),
		hash:       p.compileHashKey("load_balancing.hash", m.GetHash()),
	}
	if l := m.GetLocality(); l != nil {
		b.locality = &upstream.Locality{Key: l.GetKey(), Overprovisioning: l.GetOverprovisioning(), MaxLoadRatio: l.GetMaxLoadRatio()}
	}
	if s := m.GetSlowStart(); s != nil {
		b.slowStart = &upstream.SlowStart{Window: s.GetWindow().AsDuration(), Aggression: s.GetAggression(), MinPercent: int(s.GetMinWeightPercent())}
	}
	b.failover = targets(m.GetFailover())
	return b
}

func targets(list []*configv1.Destination) (targets []Target) {
	for _, d := range list {
		targets = append(targets, Target{Service: d.GetService(), Subset: d.GetSubset()})
	}
	return targets
}

func (p *problems) compileEjection(m *configv1.OutlierEjectionPolicy) *outlier.Config {
	p.checkEjection(m)
	c := &outlier.Config{
		Policy:              p.policy,
		Interval:            m.GetInterval().AsDuration(),
		BaseTime:            m.GetBaseEjectionTime().AsDuration(),
		MaxTime:             m.GetMaxEjectionTime().AsDuration(),
		MaxPercent:          int(m.GetMaxEjectionPercent()),
		Failures:            p.codes("outlier_ejection.failure_codes", m.GetFailureCodes()),
		ConsecutiveFailures: int(m.GetConsecutiveFailures()),
	}
	if s := m.GetSuccessRate(); s != nil {
		c.SuccessRate = &outlier.SuccessRate{
			StdevFactor:           int(s.GetStdevFactor()),
			EnforcementPercentage: int(s.GetEnforcementPercentage()),
			MinimumHosts:          int(s.GetMinimumHosts()),
			RequestVolume:         int(s.GetRequestVolume()),
		}
	}
	if f := m.GetFailurePercentage(); f != nil {
		c.FailurePercentage = &outlier.FailurePercentage{
			Threshold:             int(f.GetThreshold()),
			EnforcementPercentage: int(f.GetEnforcementPercentage()),
			MinimumHosts:          int(f.GetMinimumHosts()),
			RequestVolume:         int(f.GetRequestVolume()),
		}
	}
	return c
}

func (p *problems) compileHealth(m *configv1.HealthCheckPolicy) *health.Config {
	return &health.Config{
		Policy:    p.policy,
		Service:   m.GetGrpcService(),
		Watch:     m.GetWatch(),
		Interval:  m.GetInterval().AsDuration(),
		Timeout:   m.GetTimeout().AsDuration(),
		Unhealthy: int(m.GetUnhealthyThreshold()),
		Healthy:   int(m.GetHealthyThreshold()),
	}
}

// compileInstanceBreaker compiles the instances' own breakers; nil: there are none.
func (p *problems) compileInstanceBreaker(m *configv1.CircuitBreakerPolicy) *instanceBreaker {
	if m.GetPerInstance() == nil {
		return nil
	}
	failures, _ := wire.ParseCodes(m.GetFailureCodes()) // told of already where it is wrong
	return &instanceBreaker{policy: p.policy, trip: trip(m.GetPerInstance()), failures: failures}
}
