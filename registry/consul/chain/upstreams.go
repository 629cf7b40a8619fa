package chain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Upstreams is what the service-defaults entry of a calling service says of the services
// that it calls (`UpstreamConfig`). It never changes. A nil one says nothing.
type Upstreams struct {
	caller    string
	defaults  *upstream
	overrides map[string]*upstream
	// Notes are lines that people may want to read once: what of the entry is about the
	// calling service's own sidecar, and not obeyed.
	Notes []string
}

// upstream is what is said of one service, or of all.
type upstream struct {
	Name, Namespace, Partition, Peer string

	ConnectTimeoutMs   int
	Limits             *upstreamLimits
	PassiveHealthCheck *passiveHealthCheck

	// What is not obeyed.
	EnvoyListenerJSON, EnvoyClusterJSON  string
	Protocol, BalanceOutboundConnections string
	MeshGateway                          struct{ Mode string }

	where string // in the entry
}

// upstreamLimits are Envoy's; nil: none is said.
type upstreamLimits struct {
	MaxConnections, MaxPendingRequests, MaxConcurrentRequests *int
}

// passiveHealthCheck is when Envoy leaves an instance alone for what it answers. What is
// zero or nil has Envoy's own default.
type passiveHealthCheck struct {
	Interval                Duration
	MaxFailures             uint32
	EnforcingConsecutive5xx *uint32
	MaxEjectionPercent      *uint32
	BaseEjectionTime        *Duration
}

// ownDefaults is a service-defaults entry: as much of it as a caller's sidecar looks at.
type ownDefaults struct {
	Kind, Name, Namespace, Partition string

	UpstreamConfig *struct {
		Defaults  *upstream
		Overrides []*upstream
	}

	// What is about the service's own sidecar.
	MaxInboundConnections, LocalConnectTimeoutMs, LocalRequestTimeoutMs int

	BalanceInboundConnections string
	RateLimits                json.RawMessage
	EnvoyExtensions           []json.RawMessage
}

// maxOverrides bounds the services that an entry speaks of.
const maxOverrides = 10_000

// ParseUpstreams reads a service-defaults entry as `GET /v1/config/service-defaults/<name>`
// answers it. It is nil where the answer is "null", which stands for no entry.
func ParseUpstreams(answer []byte) (*Upstreams, error) {
	if text := bytes.TrimSpace(answer); len(text) == 0 || string(text) == "null" {
		return nil, nil
	}
	var entry ownDefaults
	if err := json.Unmarshal(answer, &entry); err != nil { //nolint:musttag // Consul writes its own names
		return nil, fmt.Errorf("it is no service-defaults entry: %w", err)
	}
	if entry.Kind != "service-defaults" {
		return nil, fmt.Errorf("it is no service-defaults entry, but %.100q", entry.Kind)
	}
	u := &Upstreams{caller: entry.Name, overrides: map[string]*upstream{}}
	u.noteOwn(&entry)
	c := entry.UpstreamConfig
	if c == nil {
		return u, nil
	}
	if len(c.Overrides) > maxOverrides {
		return nil, fmt.Errorf("the service-defaults entry %.100q has more than %d overrides", entry.Name, maxOverrides)
	}
	if u.defaults = c.Defaults; u.defaults != nil {
		u.defaults.where = u.place("upstream_config.defaults")
	}
	for i, o := range c.Overrides {
		// Those of peers and of other namespaces are of services that sidecars do not call.
		if o == nil || o.Name == "" || o.Peer != "" || !sameTenant(o.Namespace, entry.Namespace) || !sameTenant(o.Partition, entry.Partition) {
			continue
		}
		o.where = u.place("upstream_config.overrides[" + strconv.Itoa(i) + "]")
		u.overrides[o.Name] = o // of two the last one, as with Consul
	}
	return u, nil
}

func (u *Upstreams) place(field string) string {
	return "service-defaults " + strconv.Quote(cut(u.caller, 200)) + ": " + field
}

func (u *Upstreams) noteOwn(entry *ownDefaults) {
	for _, one := range []struct {
		is          bool
		field, then string
	}{
		{entry.MaxInboundConnections != 0, "max_inbound_connections", "write inbound limits in the sidecar's configuration"},
		{entry.LocalConnectTimeoutMs != 0, "local_connect_timeout_ms", "write connections.connect_timeout in the sidecar's configuration"},
		{entry.LocalRequestTimeoutMs != 0, "local_request_timeout_ms", "write a timeout policy with inbound: true"},
		{entry.BalanceInboundConnections != "", "balance_inbound_connections", "a sidecar balances RPCs, not connections"},
		{len(entry.RateLimits) > 0 && string(entry.RateLimits) != "null", "rate_limits", "write a rate_limit policy with inbound: true"},
		{len(entry.EnvoyExtensions) > 0, "envoy_extensions", "they are for Envoy alone"},
	} {
		if one.is {
			u.Notes = append(u.Notes, u.place(one.field)+" is not obeyed: "+one.then)
		}
	}
}

// resolved is what holds for a service.
type resolved struct {
	connect time.Duration // 0: nothing is said
	limits  *upstreamLimits
	health  *passiveHealthCheck
	// Where it is written, "" where nothing is.
	limitsAt, healthAt string
	notes              []string
}

// of returns what holds for a service: what its override says, field by field before the
// defaults, as Consul resolves it. Limits are one field, and so are health checks.
func (u *Upstreams) of(service string) resolved {
	var r resolved
	if u == nil {
		return r
	}
	for _, one := range []*upstream{u.defaults, u.overrides[service]} {
		if one == nil {
			continue
		}
		if one.ConnectTimeoutMs > 0 {
			r.connect = time.Duration(min(one.ConnectTimeoutMs, int(maxConnectTimeout/time.Millisecond))) * time.Millisecond
		}
		if one.Limits != nil {
			r.limits, r.limitsAt = one.Limits, one.where+".limits"
		}
		if one.PassiveHealthCheck != nil {
			r.health, r.healthAt = one.PassiveHealthCheck, one.where+".passive_health_check"
		}
		r.notes = append(r.notes, one.notes()...)
	}
	return r
}

// notes are lines about what is not obeyed.
func (u *upstream) notes() (notes []string) {
	for _, one := range []struct {
		is          bool
		field, then string
	}{
		{u.EnvoyListenerJSON != "", "envoy_listener_json", "it is for Envoy alone"},
		{u.EnvoyClusterJSON != "", "envoy_cluster_json", "it is for Envoy alone"},
		{u.Protocol != "", "protocol", "write it in the service-defaults of the service that is called"},
		{u.BalanceOutboundConnections != "", "balance_outbound_connections", "a sidecar balances RPCs, not connections"},
		{!slices.Contains([]string{"", "none"}, u.MeshGateway.Mode), "mesh_gateway", "sidecars call across datacentres directly alone"},
	} {
		if one.is {
			notes = append(notes, u.where+"."+one.field+" is not obeyed: "+one.then)
		}
	}
	return notes
}
