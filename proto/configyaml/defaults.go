package configyaml

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/registry"
)

// The defaults, as the schema's comments document them. Those of HTTP/2 and of
// connections are explained there.
const (
	defaultOutboundListen = "127.0.0.1:15001"
	defaultInboundListen  = "0.0.0.0:15006"
	defaultAdminListen    = "127.0.0.1:15000"
	defaultLoadBalancing  = "round_robin"
	defaultResolveTimeout = 2 * time.Second

	defaultWeight                  = 1
	defaultHealthInterval          = 5 * time.Second
	defaultHealthTimeout           = 2 * time.Second
	defaultDeregisterCriticalAfter = 10 * time.Minute

	defaultConsulIdleTimeout = 10 * time.Minute

	defaultConnectTimeout    = 5 * time.Second
	defaultBackoffInitial    = 100 * time.Millisecond
	defaultBackoffMax        = 3 * time.Second
	defaultKeepaliveInterval = 0
	defaultKeepaliveTimeout  = 20 * time.Second
	defaultIdleTimeout       = 30 * time.Minute
	defaultMaxAge            = 0

	defaultMaxConcurrentStreams = 1000
	defaultInitialStreamWindow  = 64 << 10
	defaultMaxStreamWindow      = 4 << 20
	defaultConnectionWindow     = 1 << 20
	defaultMaxHeaderListSize    = 64 << 10
	defaultMaxFrameSize         = 16 << 10
	defaultMaxConnections       = 10_000
	defaultBufferBudget         = 64 << 20

	defaultMaxAttempts  = 3
	defaultBufferPerRPC = 64 << 10
	defaultMaxInstances = 20

	defaultAccessLogPath  = "stdout"
	defaultSample         = 1
	defaultDrainTimeout   = 30 * time.Second
	defaultUpgradeTimeout = time.Minute
	defaultLogLevel       = "info"
	defaultLogFormat      = "auto"
)

// Effective returns a copy of a bootstrap with every default filled in, so that
// whoever reads it needs to know none. Blocks that open or register something
// (service, outbound, inbound, admin, registry, access_log, control) stay absent where
// they are absent. It changes nothing that is set, and needs no valid
// bootstrap.
func Effective(written *configv1.Bootstrap) *configv1.Bootstrap {
	b := proto.CloneOf(written)
	if b == nil {
		b = &configv1.Bootstrap{}
	}
	if b.Service != nil {
		effectiveService(b.Service)
	}
	if b.Outbound != nil {
		effectiveOutbound(b.Outbound, b.GetRegistry())
	}
	if b.Inbound != nil {
		setText(&b.Inbound.Listen, defaultInboundListen)
	}
	if b.Admin != nil {
		setText(&b.Admin.Listen, defaultAdminListen)
		limitAdmin(b.Admin)
	}
	effectiveIdentity(b)
	if consul := b.GetRegistry().GetConsul(); consul != nil {
		setDuration(&consul.IdleTimeout, defaultConsulIdleTimeout)
		setValue(&consul.AllowPlaintext, true)
		limitConsul(consul)
	}
	if file := b.GetRegistry().GetFile(); file != nil {
		setValue(&file.MaxSize, DefaultMeshSize)
	}
	if files := b.GetPolicies(); files != nil {
		setValue(&files.MaxSize, DefaultMeshSize)
	}
	if b.Control != nil {
		effectiveControl(b)
	}
	effectiveConnections(block(&b.Connections))
	effectiveHTTP2(block(&b.Http2))
	setValue(&block(&b.Retry).MaxAttempts, defaultMaxAttempts)
	setValue(&b.Retry.BufferPerRpc, defaultBufferPerRPC)
	setValue(&b.Retry.MaxInstances, defaultMaxInstances)
	if b.AccessLog != nil {
		setText(&b.AccessLog.Path, defaultAccessLogPath)
		setValue(&b.AccessLog.Sample, defaultSample)
		setValue(&b.AccessLog.Errors, true)
		limitAccessLog(b.AccessLog)
	}
	setDuration(&block(&b.Drain).Timeout, defaultDrainTimeout)
	setDuration(&block(&b.Upgrade).Timeout, defaultUpgradeTimeout)
	setText(&block(&b.Log).Level, defaultLogLevel)
	setText(&b.Log.Format, defaultLogFormat)
	limitMetrics(block(&b.Metrics))
	limitRPCs(block(&b.Overload))
	return b
}

func effectiveService(s *configv1.Service) {
	if s.Address == "" && s.Port != nil {
		s.Address = net.JoinHostPort("127.0.0.1", strconv.FormatUint(uint64(s.GetPort()), 10))
	}
	setText(&s.Id, defaultServiceID(s))
	setValue(&block(&s.Weights).Passing, defaultWeight)
	setValue(&s.Weights.Warning, defaultWeight)
	check := block(&s.HealthCheck)
	setDuration(&check.Interval, defaultHealthInterval)
	setDuration(&check.Timeout, min(defaultHealthTimeout, check.Interval.AsDuration()))
	setDuration(&check.DeregisterCriticalAfter, defaultDeregisterCriticalAfter)
}

// defaultServiceID tells apart the instances of a service on one machine.
func defaultServiceID(s *configv1.Service) string {
	network, address, err := registry.ParseAddress(s.GetAddress())
	if err != nil || s.GetName() == "" {
		return ""
	}
	if network == "unix" {
		h := fnv.New32a()
		h.Write([]byte(address))
		return fmt.Sprintf("%s-%08x", s.GetName(), h.Sum32())
	}
	_, port, _ := net.SplitHostPort(address)
	return s.GetName() + "-" + port
}

func effectiveOutbound(o *configv1.Outbound, r *configv1.Registry) {
	setText(&o.Listen, defaultOutboundListen)
	setText(&o.LoadBalancing, defaultLoadBalancing)
	setDuration(&o.ResolveTimeout, defaultResolveTimeout)
	limitOutbound(o)
	if upstreams := r.GetStatic().GetUpstreams(); len(upstreams) == 1 {
		for name := range upstreams {
			setText(&o.DefaultService, name)
		}
	}
}

func effectiveConnections(c *configv1.Connections) {
	setDuration(&c.ConnectTimeout, defaultConnectTimeout)
	backoff := block(&c.Backoff)
	setDuration(&backoff.Initial, defaultBackoffInitial)
	setDuration(&backoff.Max, max(defaultBackoffMax, backoff.Initial.AsDuration()))
	keepalive := block(&c.Keepalive)
	setDuration(&keepalive.Interval, defaultKeepaliveInterval)
	setDuration(&keepalive.Timeout, defaultKeepaliveTimeout)
	setDuration(&c.IdleTimeout, defaultIdleTimeout)
	setDuration(&c.MaxAge, defaultMaxAge)
	limitConnections(c)
}

func effectiveHTTP2(h *configv1.HTTP2) {
	setValue(&h.MaxConcurrentStreams, defaultMaxConcurrentStreams)
	setValue(&h.InitialStreamWindow, defaultInitialStreamWindow)
	setValue(&h.MaxStreamWindow, max(defaultMaxStreamWindow, h.GetInitialStreamWindow()))
	setValue(&h.ConnectionWindow, max(defaultConnectionWindow, h.GetInitialStreamWindow()))
	setValue(&h.MaxHeaderListSize, defaultMaxHeaderListSize)
	setValue(&h.MaxFrameSize, defaultMaxFrameSize)
	setValue(&h.MaxConnections, defaultMaxConnections)
	setValue(&h.BufferBudget, defaultBufferBudget)
	limitHTTP2(h)
}

// effectiveMesh fills in the defaults of a mesh file in place.
func effectiveMesh(mesh *configv1.MeshFile) {
	for _, service := range mesh.GetServices() {
		for _, endpoint := range service.GetEndpoints() {
			setValue(&endpoint.Weight, defaultWeight)
		}
	}
	for _, policy := range mesh.GetPolicies() {
		effectivePolicy(policy)
	}
}

// block returns the message that a field holds, made if it was absent.
func block[T any](field **T) *T {
	if *field == nil {
		*field = new(T)
	}
	return *field
}

func setText(field *string, value string) { *field = cmp.Or(*field, value) }

func setValue[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func setDuration(field **durationpb.Duration, value time.Duration) {
	if *field == nil {
		*field = durationpb.New(value)
	}
}
