package configyaml

import (
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// The defaults of what bounds others: peers, callers, registries and those who
// look at the admin port. docs/limits.md gives the reason for each.

func limitHTTP2(h *configv1.HTTP2) {
	const (
		smallestFrame = 16 << 10 // the least that SETTINGS_MAX_FRAME_SIZE may be
		outputBuffer  = 128 << 10
		maxOutput     = 1 << 20
	)
	setValue(&h.HeaderTableSize, 4<<10)
	setValue(&h.MaxContinuationFrames, max(64, h.GetMaxHeaderListSize()/smallestFrame+1))
	setValue(&h.MaxUnproductiveFrames, 2000)
	setValue(&h.MaxConnectionRate, 2000)
	setValue(&h.MaxPrematureResets, 500)
	setDuration(&h.PrematureResetAge, 100*time.Millisecond)
	setValue(&h.MaxOutboundControlFrames, 12_000)
	setValue(&h.OutputBuffer, outputBuffer)
	setValue(&h.MaxOutput, max(maxOutput, h.GetOutputBuffer()))
	setDuration(&h.HandshakeTimeout, 10*time.Second)
	setDuration(&h.StallTimeout, 30*time.Second)
	setDuration(&h.LingerTimeout, time.Second)
	setDuration(&h.RefusalTimeout, 5*time.Second)
}

func limitConnections(c *configv1.Connections) {
	setValue(&c.MaxConnectionsPerInstance, 16)
	setValue(&c.MaxDrainingConnections, 64)
	setValue(&c.MaxPendingRpcs, 10_000)
	setDuration(&c.SlowConnectTimeout, 250*time.Millisecond)
	setDuration(&c.DeadPeerTimeout, 30*time.Second)
}

func limitOutbound(o *configv1.Outbound) {
	setValue(&o.MaxNames, 10_000)
	setValue(&o.MaxPendingRpcs, 10_000)
	setDuration(&o.NotFoundTtl, 2*time.Second)
	r := block(&o.Reflection)
	setValue(&r.MaxStreams, 100)
	setValue(&r.MaxServices, 1000)
	setValue(&r.MaxConcurrentServices, 16)
	setValue(&r.MaxQuestionSize, 4<<10)
	setValue(&r.MaxAnswerSize, 4<<20)
	setValue(&r.MaxListSize, 64<<10)
	setDuration(&r.ServiceTimeout, 2*time.Second)
	setDuration(&r.Timeout, 10*time.Second)
	setDuration(&r.IdleTimeout, 30*time.Second)
}

func limitAdmin(a *configv1.Admin) {
	setValue(&a.MaxConnections, 128)
	setValue(&a.MaxConcurrentStreams, 100)
	setValue(&a.MaxHeaderSize, 64<<10)
	setValue(&a.MaxRequestSize, 1<<20)
	setValue(&a.MaxConcurrentScrapes, 4)
	setDuration(&a.ReadHeaderTimeout, 10*time.Second)
	setDuration(&a.RequestTimeout, time.Minute)
	setDuration(&a.IdleTimeout, 5*time.Minute)
	setDuration(&a.StallTimeout, 30*time.Second)
	setDuration(&a.MaxProfile, 10*time.Minute)
}

func limitAccessLog(l *configv1.AccessLog) {
	setValue(&l.Queue, 4096)
	setValue(&l.MaxNameLength, 256)
	setValue(&l.MaxPathLength, 512)
	setValue(&l.MaxMessageLength, 1<<10)
}

func limitMetrics(m *configv1.Metrics) {
	setValue(&m.MaxMethods, 2000)
	setValue(&m.MaxMethodLength, 256)
	setValue(&m.MaxServices, 1000)
}

func limitRPCs(o *configv1.Overload) {
	setValue(&o.MaxRpcs, 50_000)
	if c := o.GetAdaptiveConcurrency(); c != nil {
		setValue(&c.MinLimit, 1)
		setValue(&c.MaxLimit, max(1000, c.GetMinLimit()))
		setValue(&c.InitialLimit, min(max(20, c.GetMinLimit()), c.GetMaxLimit()))
		setValue(&c.Tolerance, 0.25)
		setDuration(&c.MeasureInterval, 30*time.Second)
	}
}

func limitConsul(c *configv1.ConsulRegistry) {
	setValue(&c.MaxConnections, 64)
	setValue(&c.MaxAnswerSize, 64<<20)
	setValue(&c.MaxInstances, 1<<16)
	setValue(&c.MaxCachedServices, 1000)
	setValue(&c.MaxCacheFileSize, 16<<20)
	setDuration(&c.ConnectTimeout, 3*time.Second)
	setDuration(&c.CallTimeout, 5*time.Second)
}
