package sidecar

import (
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/outbound"
	"github.com/pillion-proxy/pillion/proxy/relay"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry/consul"
	"github.com/pillion-proxy/pillion/server"
)

// What the configuration bounds, in the terms of the parts that keep the bounds.

func limitHTTP2(to *h2.Config, cfg *configv1.HTTP2) {
	to.HeaderTableSize = cfg.GetHeaderTableSize()
	to.MaxContinuations = cfg.GetMaxContinuationFrames()
	to.Nuisance = int32(cfg.GetMaxUnproductiveFrames())
	to.PrematureResets = cfg.GetMaxPrematureResets()
	to.PrematureAge = cfg.GetPrematureResetAge().AsDuration()
	to.MaxOwed = cfg.GetMaxOutboundControlFrames()
	to.MaxOutput = cfg.GetOutputBuffer()
	to.MaxControl = cfg.GetMaxOutput()
	to.HandshakeTimeout = cfg.GetHandshakeTimeout().AsDuration()
	to.StallTimeout = cfg.GetStallTimeout().AsDuration()
	to.LingerTimeout = cfg.GetLingerTimeout().AsDuration()
}

func limitInstances(to *upstream.Options, cfg *configv1.Connections) {
	to.MaxConns = int(cfg.GetMaxConnectionsPerInstance())
	to.MaxDraining = int(cfg.GetMaxDrainingConnections())
	to.MaxWaiting = int(cfg.GetMaxPendingRpcs())
	to.SlowConnect = cfg.GetSlowConnectTimeout().AsDuration()
	to.DeadAfter = cfg.GetDeadPeerTimeout().AsDuration()
}

func retryLimits(cfg *configv1.Retry) relay.Retry {
	return relay.Retry{
		MaxAttempts:  int(cfg.GetMaxAttempts()),
		ReplayBytes:  never(int(cfg.GetBufferPerRpc())),
		MaxInstances: int(cfg.GetMaxInstances()),
	}
}

func outboundLimits(cfg *configv1.Outbound) outbound.Limits {
	r := cfg.GetReflection()
	return outbound.Limits{
		MaxNames:    int(cfg.GetMaxNames()),
		MaxWaiting:  int(cfg.GetMaxPendingRpcs()),
		NotFoundTTL: cfg.GetNotFoundTtl().AsDuration(),
		Reflection: outbound.ReflectionLimits{
			MaxStreams:       int(r.GetMaxStreams()),
			MaxServices:      int(r.GetMaxServices()),
			Concurrency:      int(r.GetMaxConcurrentServices()),
			MaxQuestionBytes: int(r.GetMaxQuestionSize()),
			MaxAnswerBytes:   int(r.GetMaxAnswerSize()),
			MaxListBytes:     int(r.GetMaxListSize()),
			ServiceTimeout:   r.GetServiceTimeout().AsDuration(),
			Timeout:          r.GetTimeout().AsDuration(),
			Idle:             r.GetIdleTimeout().AsDuration(),
		},
	}
}

func adminLimits(cfg *configv1.Admin) server.Limits {
	return server.Limits{
		Connections:       int(cfg.GetMaxConnections()),
		Streams:           int(cfg.GetMaxConcurrentStreams()),
		HeaderBytes:       int(cfg.GetMaxHeaderSize()),
		RequestBytes:      int(cfg.GetMaxRequestSize()),
		Scrapes:           int(cfg.GetMaxConcurrentScrapes()),
		ReadHeaderTimeout: cfg.GetReadHeaderTimeout().AsDuration(),
		RequestTimeout:    cfg.GetRequestTimeout().AsDuration(),
		IdleTimeout:       cfg.GetIdleTimeout().AsDuration(),
		StallTimeout:      cfg.GetStallTimeout().AsDuration(),
		Profile:           cfg.GetMaxProfile().AsDuration(),
	}
}

func metricsLimits(cfg *configv1.Metrics) telemetry.MetricsLimits {
	return telemetry.MetricsLimits{Methods: int(cfg.GetMaxMethods()), Path: int(cfg.GetMaxMethodLength())}
}

func limitAccessLog(to *telemetry.AccessLogOptions, cfg *configv1.AccessLog) {
	to.Queue = int(cfg.GetQueue())
	to.Texts = telemetry.TextLimits{
		Name:    int(cfg.GetMaxNameLength()),
		Path:    int(cfg.GetMaxPathLength()),
		Message: int(cfg.GetMaxMessageLength()),
	}
}

func consulLimits(cfg *configv1.ConsulRegistry) consul.Limits {
	return consul.Limits{
		AnswerBytes:    int(cfg.GetMaxAnswerSize()),
		Instances:      int(cfg.GetMaxInstances()),
		CachedServices: int(cfg.GetMaxCachedServices()),
		CacheFileBytes: int(cfg.GetMaxCacheFileSize()),
		ConnectTimeout: cfg.GetConnectTimeout().AsDuration(),
		CallTimeout:    cfg.GetCallTimeout().AsDuration(),
	}
}
