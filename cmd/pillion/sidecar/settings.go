package sidecar

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/admission"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/recording"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/upstream"
)

// settings are the engine's, as the configuration has them.
type settings struct {
	http2     *h2.Config
	instances upstream.Options   // connections to the mesh's instances
	app       upstream.Options   // connections to the local app
	gates     [2]*admission.Gate // which RPCs may begin, by telemetry.Kind
}

func newSettings(cfg *configv1.Bootstrap, counters *telemetry.Counters) settings {
	http2, conns := cfg.GetHttp2(), cfg.GetConnections()
	base := h2.Config{
		MaxConcurrentStreams: http2.GetMaxConcurrentStreams(),
		InitialStreamWindow:  http2.GetInitialStreamWindow(),
		MaxStreamWindow:      http2.GetMaxStreamWindow(),
		ConnWindow:           http2.GetConnectionWindow(),
		MaxFrameSize:         http2.GetMaxFrameSize(),
		MaxHeaderListSize:    http2.GetMaxHeaderListSize(),
		Budget:               h2.NewCountedBudget(int64(http2.GetBufferBudget()), &counters.BufferedBytes),
	}
	limitHTTP2(&base, http2)
	callers := base.WithDefaults()
	base.KeepaliveInterval = conns.GetKeepalive().GetInterval().AsDuration()
	base.KeepaliveTimeout = conns.GetKeepalive().GetTimeout().AsDuration()
	base.MaxOpenStreams = conns.GetMaxStreamsPerConnection()
	peers := base.WithDefaults()
	opts := upstream.Options{
		HTTP2:          &peers,
		ConnectTimeout: conns.GetConnectTimeout().AsDuration(),
		BackoffBase:    conns.GetBackoff().GetInitial().AsDuration(),
		BackoffMax:     conns.GetBackoff().GetMax().AsDuration(),
		IdleTimeout:    never(conns.GetIdleTimeout().AsDuration()),
		MaxAge:         conns.GetMaxAge().AsDuration(),
		Meta:           cfg.GetService().GetMeta(),
	}
	limitInstances(&opts, conns)
	app := opts
	// The app is on this machine: trying costs next to nothing, and it should
	// take RPCs as soon as it is back.
	app.BackoffBase, app.BackoffMax = localBackoff, localBackoff
	return settings{http2: &callers, instances: opts, app: app, gates: newGates(cfg.GetOverload(), counters)}
}

func newGates(cfg *configv1.Overload, counters *telemetry.Counters) (gates [2]*admission.Gate) {
	for side := range gates {
		o := admission.Options{MaxRPCs: int(cfg.GetMaxRpcs()), Counts: &counters.Admission[side]}
		if c := cfg.GetAdaptiveConcurrency(); c != nil && telemetry.Kind(side) == telemetry.Inbound {
			o.Concurrency = &admission.Concurrency{
				MinLimit: int(c.GetMinLimit()), MaxLimit: int(c.GetMaxLimit()), InitialLimit: int(c.GetInitialLimit()),
				Tolerance: c.GetTolerance(), MeasureInterval: c.GetMeasureInterval().AsDuration(), Random: rand.Float64,
			}
		}
		gates[side] = admission.NewGate(o)
	}
	return gates
}

const localBackoff = 20 * time.Millisecond

// never turns the configuration's 0 for "never" or "nothing" into the engine's,
// where 0 stands for the default.
func never[T int | time.Duration](d T) T {
	if d == 0 {
		return -1
	}
	return d
}

// openAccessLog returns nil where there is to be none.
func openAccessLog(cfg *configv1.AccessLog, counters *telemetry.Counters, logger *slog.Logger) (*telemetry.AccessLog, error) {
	if cfg == nil {
		return nil, nil
	}
	o := telemetry.AccessLogOptions{
		Sample: cfg.GetSample(), Errors: cfg.GetErrors(),
		Dropped: &counters.AccessLogDropped, Logger: logger,
	}
	limitAccessLog(&o, cfg)
	switch cfg.GetPath() {
	case "stdout":
		return telemetry.NewAccessLog(os.Stdout, o), nil
	case "stderr":
		return telemetry.NewAccessLog(os.Stderr, o), nil
	}
	l, err := telemetry.OpenAccessLog(cfg.GetPath(), o)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return l, nil
}

// recordingOptions say which RPCs are remembered for `pillion plan`.
func recordingOptions(c *configv1.Control) recording.Options {
	r := c.GetRecording() // none without the block, whose defaults are filled in
	return recording.Options{Size: int(r.GetSize()), OneIn: int(r.GetOneIn()), MaxAge: r.GetMaxAge().AsDuration()}
}
