package ratelimit

import (
	"fmt"
	"testing"
	"time"
)

func BenchmarkShared(b *testing.B) {
	m := New(Limit{Requests: 1000})
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		m.Take(now, "")
	}
}

func BenchmarkKnownKeys(b *testing.B) {
	m := New(Limit{Requests: 1000, Interval: time.Hour, MaxKeys: 10_000})
	keys := make([]string, 8192)
	for i := range keys {
		keys[i] = fmt.Sprintf("user-%d", i)
	}
	now := time.Now()
	for _, k := range keys {
		m.Take(now, k)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		m.Take(now, keys[i%len(keys)])
	}
}

func BenchmarkNewKeys(b *testing.B) {
	m := New(Limit{Requests: 1, Interval: time.Hour, MaxKeys: 10_000})
	keys := make([]string, 1<<16)
	for i := range keys {
		keys[i] = fmt.Sprintf("user-%d", i)
	}
	now := time.Now()
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		m.Take(now, keys[i%len(keys)])
	}
}
