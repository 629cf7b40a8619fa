package outbound

import (
	"time"

	"github.com/pillion-proxy/pillion/proxy/meshreflect"
	"github.com/pillion-proxy/pillion/proxy/routing"
)

// Limits bound what callers may make the outbound side remember and ask. The zero
// value of a field means its default, which [routing.Options] and
// [meshreflect.Options] name.
type Limits struct {
	MaxNames    int           // services and gRPC service names that are remembered, of either
	MaxWaiting  int           // RPCs that wait for one of them
	NotFoundTTL time.Duration // how long "there is no such service" is believed
	Reflection  ReflectionLimits
}

// ReflectionLimits bound the reflection of the whole mesh.
type ReflectionLimits struct {
	MaxStreams, MaxServices, Concurrency           int
	MaxQuestionBytes, MaxAnswerBytes, MaxListBytes int
	ServiceTimeout, Timeout, Idle                  time.Duration
}

func (l *Limits) apply(o *routing.Options) {
	o.MaxNames, o.MaxWaiting, o.NotFoundTTL = l.MaxNames, l.MaxWaiting, l.NotFoundTTL
}

func (l *ReflectionLimits) apply(o *meshreflect.Options) {
	o.MaxSessions, o.MaxServices, o.Concurrency = l.MaxStreams, l.MaxServices, l.Concurrency
	o.MaxQuestionBytes, o.MaxAnswerBytes, o.MaxListBytes = l.MaxQuestionBytes, l.MaxAnswerBytes, l.MaxListBytes
	o.ServiceTimeout, o.Timeout, o.Idle = l.ServiceTimeout, l.Timeout, l.Idle
}
