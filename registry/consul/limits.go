package consul

import (
	"cmp"
	"time"
)

// Limits bound what the agent's answers, and the files of Config.CacheDir, may
// make a Source hold and wait for. The zero value of a field means its default.
type Limits struct {
	// AnswerBytes bounds one answer of the agent's. Default 64 MiB: 20,000 instances
	// of some 3 KB each, which is what their checks take.
	AnswerBytes int
	// Instances bounds one service's instances; the rest is left out. Default
	// 65,536.
	Instances int
	// CachedServices bounds the files of a folder; the oldest go first. Default
	// 1,000.
	CachedServices int
	// CacheFileBytes bounds one file; a service that needs more is not kept. Default
	// 16 MiB.
	CacheFileBytes int
	// ConnectTimeout bounds the connecting to the agent, and a TLS handshake with it.
	// Default 3 s.
	ConnectTimeout time.Duration
	// CallTimeout bounds a call, beside what a blocking query waits. Default 5 s.
	CallTimeout time.Duration
}

func (l Limits) withDefaults() Limits {
	l.AnswerBytes = cmp.Or(l.AnswerBytes, 64<<20)
	l.Instances = cmp.Or(l.Instances, 1<<16)
	l.CachedServices = cmp.Or(l.CachedServices, 1000)
	l.CacheFileBytes = cmp.Or(l.CacheFileBytes, 16<<20)
	l.ConnectTimeout = cmp.Or(l.ConnectTimeout, 3*time.Second)
	l.CallTimeout = cmp.Or(l.CallTimeout, 5*time.Second)

	return l
}
