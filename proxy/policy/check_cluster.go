package policy

import (
	"math/big"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/balance"
)

// checkBalancing checks what is between a load balancing policy's fields.
func (p *problems) checkBalancing(m *configv1.LoadBalancingPolicy, way balance.Policy) {
	const field = "load_balancing"
	if way.Hashes() && m.GetHash() == nil {
		p.addf(field+".hash", "is missing: %s chooses instances by it (metadata, cookie or caller)", way)
	}
	if size := m.GetTableSize(); m.TableSize != nil && !big.NewInt(int64(size)).ProbablyPrime(0) {
		p.addf(field+".table_size", "is %d, which is no prime number: %d is the next", size, nextPrime(size))
	}
	if bound := m.GetBoundedLoad(); bound > 0 && bound < 1 {
		p.addf(field+".bounded_load", "is %v, less than the share that each instance has to bear: write 0, for no bound, or at least 1", bound)
	}
	for i, d := range m.GetFailover() {
		if d.GetService() == "" && d.GetSubset() == "" {
			p.addf(at(field+".failover", i), "names neither a service nor a subset")
		}
	}
}

func nextPrime(n uint32) uint32 {
	for !big.NewInt(int64(n)).ProbablyPrime(0) { // exact below 2^64
		n++
	}
	return n
}

// checkEjection checks what is between an ejection policy's fields.
func (p *problems) checkEjection(m *configv1.OutlierEjectionPolicy) {
	const field = "outlier_ejection"
	p.codes(field+".failure_codes", m.GetFailureCodes())
	if m.GetMaxEjectionTime().AsDuration() < m.GetBaseEjectionTime().AsDuration() {
		p.addf(field+".max_ejection_time", "is %v, less than base_ejection_time, %v", m.GetMaxEjectionTime().AsDuration(), m.GetBaseEjectionTime().AsDuration())
	}
	if m.ConsecutiveFailures != nil && m.GetConsecutiveFailures() == 0 && m.GetSuccessRate() == nil && m.GetFailurePercentage() == nil {
		p.addf(field, "ejects nobody: write consecutive_failures, success_rate or failure_percentage")
	}
}
