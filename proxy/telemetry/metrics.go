package telemetry

import (
	"cmp"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// The defaults of MetricsLimits.
const (
	maxMethods = 2000
	maxPath    = 256
)

// MetricsLimits bounds what Metrics tells apart. The zero value of a field means
// its default.
type MetricsLimits struct {
	// Methods is how many methods one direction tells apart. Each makes some 25
	// time series, and an app that answers any path it is asked for would let a
	// caller choose the labels. Default 2,000.
	Methods int
	// Path is how long the path of a method of its own may be, in bytes.
	// Default 256.
	Path int
}

// other stands for the service and the method of all that is not known.
const other = "other"

// Metrics holds the counters of one direction, by method. It is a
// prometheus.Collector of
//
//	grpc_{client,server}_started_total         RPCs begun
//	grpc_{client,server}_handled_total         RPCs ended, by grpc_code; only codes that occurred
//	grpc_{client,server}_msg_received_total    messages
//	grpc_{client,server}_msg_sent_total        messages
//	grpc_{client,server}_handling_seconds      histogram of how long RPCs took
//
// with the labels grpc_type, grpc_service and grpc_method, named and meant as
// go-grpc-middleware's are.
type Metrics struct {
	// methods is replaced, never changed: who looks a method up takes no lock.
	methods atomic.Pointer[map[string]*Method]
	learn   sync.Mutex // held while methods is replaced
	other   *Method
	limits  MetricsLimits

	started, handled, received, sent, handling *prometheus.Desc
}

// NewMetrics returns the counters of one direction, with no method known.
func NewMetrics(kind Kind) *Metrics { return NewLimitedMetrics(kind, MetricsLimits{}) }

// NewLimitedMetrics is NewMetrics with limits other than the defaults.
func NewLimitedMetrics(kind Kind, limits MetricsLimits) *Metrics {
	limits.Methods = cmp.Or(limits.Methods, maxMethods)
	limits.Path = cmp.Or(limits.Path, maxPath)
	by := []string{"grpc_type", "grpc_service", "grpc_method"}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(kind.prefix()+name, help, append(by[:len(by):len(by)], labels...), nil)
	}
	side := "the local app's calls (outbound)"
	if kind == Inbound {
		side = "calls to the local app (inbound)"
	}
	m := &Metrics{
		limits:   limits,
		other:    newMethod(other, other),
		started:  desc("started_total", "RPCs begun: "+side+"."),
		handled:  desc("handled_total", "RPCs ended, by status: "+side+".", "grpc_code"),
		received: desc("msg_received_total", "Messages received in RPCs: "+side+"."),
		sent:     desc("msg_sent_total", "Messages sent in RPCs: "+side+"."),
		handling: desc("handling_seconds", "How long RPCs took from their headers to their end: "+side+"."),
	}
	m.other.other = true
	m.methods.Store(&map[string]*Method{})
	return m
}

// Method returns the counters of a method by its full path, such as
// "/helloworld.Greeter/SayHello". It is never nil: a path that was not learned
// gives the counters that all such share. It takes no lock and does not
// allocate, and does not keep path.
func (m *Metrics) Method(path string) *Method {
	if method, ok := (*m.methods.Load())[path]; ok {
		return method
	}
	return m.other
}

// MaxMethods returns how many methods are told apart at most.
func (m *Metrics) MaxMethods() int { return m.limits.Methods }

// Learn makes a path known and returns its counters, because an instance
// answered it with something other than UNIMPLEMENTED, or reflection described
// it. It may be called again, once the type is known. A path that is no gRPC
// path or is too long stays unknown, and so does everything beyond as many methods
// as may be (see MetricsLimits). An RPC that makes its own path known should end in the counters
// that it began in, or more RPCs of the method end than began.
func (m *Metrics) Learn(path string, t RPCType) *Method {
	if method := m.Method(path); !method.other {
		method.setType(t)
		return method
	}
	service, _, ok := wire.SplitPath(path)
	if !ok || len(path) > m.limits.Path || !labelValue(path) || len(*m.methods.Load()) >= m.limits.Methods {
		return m.other
	}
	m.learn.Lock()
	defer m.learn.Unlock()
	known := *m.methods.Load()
	method, ok := known[path]
	if !ok {
		if len(known) >= m.limits.Methods {
			return m.other
		}
		path = strings.Clone(path)
		method = newMethod(path[1:1+len(service)], path[len(service)+2:])
		method.path = path
		next := make(map[string]*Method, len(known)+1)
		maps.Copy(next, known)
		next[path] = method
		m.methods.Store(&next)
	}
	method.setType(t)
	return method
}

// labelValue reports whether a path may become the value of a label. Prometheus
// refuses what is no UTF-8; the rest keeps dashboards and logs readable.
func labelValue(path string) bool {
	return utf8.ValidString(path) && !strings.ContainsFunc(path, func(r rune) bool {
		return r <= ' ' || r == 0x7f
	})
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{m.started, m.handled, m.received, m.sent, m.handling} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector. It reads each counter on its own, so
// RPCs that end during the scrape may be in one metric and not yet in another.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.collect(ch, m.other)
	for _, method := range *m.methods.Load() {
		m.collect(ch, method)
	}
}

func (m *Metrics) collect(ch chan<- prometheus.Metric, method *Method) {
	by := []string{RPCType(method.rpcType.Load()).String(), method.service, method.method}
	counter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), append(by[:len(by):len(by)], labels...)...)
	}
	// What comes last in an RPC is read first: a scrape never shows more RPCs
	// ended than begun.
	count, buckets := method.took.snapshot()
	seconds := float64(method.nanos.Load()) / 1e9
	ch <- prometheus.MustNewConstHistogram(m.handling, count, seconds, buckets, by...)
	for code := range method.codes {
		if n := method.codes[code].Load(); n > 0 {
			counter(m.handled, n, codes.Code(code).String())
		}
	}
	counter(m.received, method.received.Load())
	counter(m.sent, method.sent.Load())
	counter(m.started, method.started.Load())
}
