package telemetry

import (
	"cmp"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// maxServices is the default of Counters.MaxServices.
const maxServices = 1000

// Counters holds what there is to count beside the RPCs themselves. Who does a
// thing bumps its counter; Counters is the prometheus.Collector of
//
//	pillion_rpc_failures_total{side,service,flag}     RPCs that Pillion ended, by short code
//	pillion_attempts_total{side,service}              attempts of RPCs, the first included
//	pillion_transparent_retries_total{side,service}   attempts after one that was not processed
//	pillion_retries_total{side,service,kind}          attempts that policies asked for: retries, hedges
//	pillion_retries_refused_total{side,service,reason} failed RPCs under such a policy that were not sent again
//	pillion_connect_failures_total{side,service}      connections to instances that failed
//	pillion_upstream_connections{side,service}        connections to instances that are open
//	pillion_downstream_connections{side}              callers' connections that are open
//	pillion_buffered_bytes                            bytes held for RPCs, both sides
//	pillion_access_log_dropped_total                  RPCs missing from the access log
//	pillion_group_rpcs_total{policy,rule,group,grpc_code}  RPCs of a split's groups
//	pillion_group_rpc_seconds{policy,rule,group}      how long they took
//	pillion_rpcs_in_flight{side}                      RPCs under way
//	pillion_rpcs_shed_total{side,reason}              RPCs refused before they went on
//	pillion_concurrency_limit                         the adaptive limit of the local app
//	pillion_concurrency_waiting                       RPCs that count against it
//	pillion_concurrency_latency_seconds               what the app takes without a queue
//	pillion_ejections_total{service,reason}           instances ejected as outliers
//	pillion_ejections_held_total{service}             ejections for which there was no room
//	pillion_health_checks_total{service,result}       answers to health checks
//	pillion_instance_breaker_openings_total{service}  instances' circuit breakers that opened
//	pillion_blocked_instances{service,reason}         instances that are left alone now
//	pillion_mesh_connections{side,security}           connections with the mesh, by what is spoken
//	pillion_tls_handshakes_total{side,result}         TLS handshakes, by how they ended
//	pillion_certificate_expiry_seconds                how long the own certificate is still valid
//	pillion_access_denied_total{policy,mode}          RPCs that access rules and intentions refused
//
// side is "outbound" or "inbound"; service is the destination, empty where none
// was found. The zero value is ready for use. It must not be copied.
type Counters struct {
	// MaxServices is how many destinations one direction tells apart; 0 stands for
	// 1,000. The names come from the registry, not from a caller, but a mesh changes
	// over months. It must be set before the Counters are used.
	MaxServices int
	// DownstreamConnections counts the callers' connections that are open, by
	// Kind.
	DownstreamConnections [2]atomic.Int64
	// BufferedBytes is how many bytes of RPCs are held in memory.
	BufferedBytes atomic.Int64
	// AccessLogDropped counts the RPCs that the access log should have named
	// and does not, because it was not written quickly enough or at all.
	AccessLogDropped atomic.Uint64
	// Admission is about which RPCs may begin, by Kind.
	Admission [2]Admission
	// Security is about mutual TLS with the rest of the mesh, by Kind.
	Security [2]Security
	// CertificateExpiry is when the sidecar's own certificate expires.
	CertificateExpiry Expiry
	// Callers are those that call the local app.
	Callers Callers

	mu       sync.Mutex
	services [2]map[string]*Service // by Kind and name
	groups   map[GroupKey]*Group
	denials  atomic.Pointer[func() []Denials]
}

// Service holds the counters of one destination in one direction.
type Service struct {
	// Attempts counts the attempts of RPCs, the first of each included.
	Attempts atomic.Uint64
	// TransparentRetries counts the attempts that were made because the one
	// before provably was not processed.
	TransparentRetries atomic.Uint64
	// Retries counts the attempts that a retry policy asked for, Hedges those that a
	// hedging policy did.
	Retries, Hedges atomic.Uint64
	// ConnectFailures counts the connections to instances that were refused,
	// timed out or broke before they could be used.
	ConnectFailures atomic.Uint64
	// Connections counts the connections to instances that are open.
	Connections atomic.Int64
	// Judgement is about instances that are left alone for what they answer; a
	// destination of RPCs of the local app has it alone.
	Judgement Judgement

	failures   [wire.NumFlags]atomic.Uint64
	notRetried [retry.NumReasons]atomic.Uint64
	_          [cacheLine]byte // a neighbour's counters are not on our last line
}

// Failed counts an RPC that Pillion ended, by its short code. FlagNone is no
// failure and counts nothing.
func (s *Service) Failed(flag wire.Flag) {
	if flag != wire.FlagNone && int(flag) < len(s.failures) {
		s.failures[flag].Add(1)
	}
}

// NotRetried counts an RPC that failed though a policy has RPCs sent again, by why it
// was not. None counts nothing.
func (s *Service) NotRetried(why retry.Reason) {
	if why != retry.None && int(why) < len(s.notRetried) {
		s.notRetried[why].Add(1)
	}
}

// Service returns the counters of a destination, "" for RPCs of which none was
// found. The name comes from the registry, never from a caller. It is for when
// a destination is set up, not for each RPC: it takes a lock. Beyond
// MaxServices names a direction all share the one called "other".
func (c *Counters) Service(kind Kind, name string) *Service {
	name = strings.ToValidUTF8(name, "\uFFFD") // Prometheus refuses anything else
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.services[kind]
	if known == nil {
		known = make(map[string]*Service)
		c.services[kind] = known
	}
	if s, ok := known[name]; ok {
		return s
	}
	if len(known) >= cmp.Or(c.MaxServices, maxServices) {
		name = other
		if s, ok := known[name]; ok {
			return s
		}
	}
	s := new(Service)
	known[strings.Clone(name)] = s
	return s
}

// known returns the destinations of one direction, so that no lock is held
// while the scrape takes them.
func (c *Counters) known(kind Kind) map[string]*Service {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.services[kind])
}

var (
	failuresDesc = prometheus.NewDesc("pillion_rpc_failures_total",
		"RPCs that Pillion ended, by the short code of the reason (as in pillion-flags).", []string{"side", "service", "flag"}, nil)
	attemptsDesc = prometheus.NewDesc("pillion_attempts_total",
		"Attempts of RPCs at instances, the first of each included.", []string{"side", "service"}, nil)
	retriesDesc = prometheus.NewDesc("pillion_transparent_retries_total",
		"Attempts made because the one before provably was not processed.", []string{"side", "service"}, nil)
	policyRetriesDesc = prometheus.NewDesc("pillion_retries_total",
		"Attempts that policies asked for: kind is retry (after a failure) or hedge (before one).", []string{"side", "service", "kind"}, nil)
	notRetriedDesc = prometheus.NewDesc("pillion_retries_refused_total",
		"RPCs that failed under a retry or hedging policy and were not sent again, by the reason.", []string{"side", "service", "reason"}, nil)
	connectFailuresDesc = prometheus.NewDesc("pillion_connect_failures_total",
		"Connections to instances that could not be made.", []string{"side", "service"}, nil)
	upstreamDesc = prometheus.NewDesc("pillion_upstream_connections",
		"Connections to instances that are open.", []string{"side", "service"}, nil)
	downstreamDesc = prometheus.NewDesc("pillion_downstream_connections",
		"Callers' connections that are open.", []string{"side"}, nil)
	bufferedDesc = prometheus.NewDesc("pillion_buffered_bytes",
		"Bytes of RPCs held in memory.", nil, nil)
	logDroppedDesc = prometheus.NewDesc("pillion_access_log_dropped_total",
		"RPCs missing from the access log because it was not written quickly enough or at all.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *Counters) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		failuresDesc, attemptsDesc, retriesDesc, policyRetriesDesc, notRetriedDesc, connectFailuresDesc,
		upstreamDesc, downstreamDesc, bufferedDesc, logDroppedDesc,
	} {
		ch <- desc
	}
	ch <- deniedDesc
	ch <- groupDesc
	ch <- groupSecondsDesc
	for _, desc := range admissionDescs {
		ch <- desc
	}
	for _, desc := range judgementDescs {
		ch <- desc
	}
	for _, desc := range securityDescs {
		ch <- desc
	}
}

// Collect implements prometheus.Collector. Of the flags only those that
// occurred are exported.
func (c *Counters) Collect(ch chan<- prometheus.Metric) {
	counter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(desc *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), labels...)
	}
	gauge(bufferedDesc, c.BufferedBytes.Load())
	counter(logDroppedDesc, c.AccessLogDropped.Load())
	c.collectGroups(ch)
	c.CertificateExpiry.collect(ch)
	c.collectDenials(ch)
	for _, kind := range []Kind{Outbound, Inbound} {
		side := kind.String()
		gauge(downstreamDesc, c.DownstreamConnections[kind].Load(), side)
		c.Admission[kind].collect(ch, side)
		c.Security[kind].collect(ch, side)
		for name, s := range c.known(kind) {
			counter(attemptsDesc, s.Attempts.Load(), side, name)
			counter(retriesDesc, s.TransparentRetries.Load(), side, name)
			counter(policyRetriesDesc, s.Retries.Load(), side, name, "retry")
			counter(policyRetriesDesc, s.Hedges.Load(), side, name, "hedge")
			for why := range s.notRetried {
				if n := s.notRetried[why].Load(); n > 0 {
					counter(notRetriedDesc, n, side, name, retry.Reason(why).String())
				}
			}
			counter(connectFailuresDesc, s.ConnectFailures.Load(), side, name)
			gauge(upstreamDesc, s.Connections.Load(), side, name)
			if kind == Outbound {
				s.Judgement.collect(ch, name)
			}
			for flag := range s.failures {
				if n := s.failures[flag].Load(); n > 0 {
					counter(failuresDesc, n, side, name, wire.Flag(flag).String())
				}
			}
		}
	}
}
