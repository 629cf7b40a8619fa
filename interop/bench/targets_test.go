package main

import (
	"math"
	"strings"
	"testing"
)

// judge finds the verdict of the target whose text has all the words.
func judge(t *testing.T, all []target, words ...string) target {
	t.Helper()
	var found []target
next:
	for _, g := range all {
		for _, w := range words {
			if !strings.Contains(g.what, w) {
				continue next
			}
		}
		found = append(found, g)
	}
	if len(found) != 1 {
		t.Fatalf("%d targets have %q, want one", len(found), words)
	}
	return found[0]
}

func TestTargetsAreJudgedByRatiosOfMedians(t *testing.T) {
	t.Parallel()
	one := settings[0]
	r := results{}
	put := func(subject string, s scene, m metric, values ...float64) {
		for _, v := range values {
			r.add(key{one.name, subject, s, m}, v)
		}
	}
	put(pillionName, "8x32", cpuPerRPC, 4, 5, 9)
	put(haproxyName, "8x32", cpuPerRPC, 10, 10, 10)
	put(envoyName, "8x32", cpuPerRPC, 29, 29, 29)
	put(pillionName, "64x8", cpuPerRPC, 6.1)
	put(haproxyName, "64x8", cpuPerRPC, 10)
	put(pillionName, sceneStreaming, bytesPerSecond, 90)
	put(haproxyName, sceneStreaming, bytesPerSecond, 100)
	put(pillionName, sceneMemory, idleRSS, 24.9e6)
	put(pillionName, sceneMemory, peakRSS, 40.1e6)

	all := targets(r, settings[:1], new(options))
	for _, c := range []struct {
		words []string
		got   float64
		says  string
	}{
		{[]string{"RPC at 8x32", "haproxy"}, 0.5, "met"},
		{[]string{"RPC at 8x32", "envoy"}, 5.0 / 29, "missed"},
		{[]string{"RPC at 64x8", "haproxy"}, 0.61, "missed"},
		{[]string{"RPC at 64x8", "envoy"}, math.NaN(), "not measured"},
		{[]string{"16 KiB"}, 0.9, "missed"},
		{[]string{"idle"}, 24.9, "met"},
		{[]string{"under the unary loads"}, 40.1, "missed"},
		{[]string{"p99", "paced"}, math.NaN(), "not measured"},
	} {
		g := judge(t, all, c.words...)
		same := math.Abs(g.got-c.got) < 1e-9 || math.IsNaN(g.got) && math.IsNaN(c.got)
		if !same || !strings.Contains(g.verdict(), c.says) {
			t.Errorf("%s: found %v, %s; want %v, %s", g.what, g.got, g.verdict(), c.got, c.says)
		}
	}
}

func TestScaleIsOnlyJudgedAtEqualConnections(t *testing.T) {
	t.Parallel()
	r := results{}
	put := func(c string, cpu, conns float64) {
		r.add(key{scaleSetting.name, c, scaleShape.scene(), cpuPerRPC}, cpu)
		r.add(key{scaleSetting.name, c, scaleShape.scene(), liveConns}, conns)
	}
	put("rr", 10, 10)
	put("rr-services", 10.4, 10)
	put("method", 10, 10)
	put("method-services", 10.6, 10)
	put("pf", 10, 1)
	put("pf-endpoints", 9, 2)
	put("rr-refusing", 99, 10)

	all := scaleTargets(r)
	if len(all) != 3 {
		t.Errorf("%d targets, want 3: refusing endpoints have none", len(all))
	}
	for _, c := range []struct{ words, says string }{
		{"1,000 services of 10 endpoints", "met"},
		{"1,000 services of 10, found", "missed"},
		{"pick_first", "not comparable: 2 connections to instances, not 1"},
	} {
		if g := judge(t, all, c.words); !strings.Contains(g.verdict(), c.says) {
			t.Errorf("%s: %s, want %s", g.what, g.verdict(), c.says)
		}
	}
}

func TestTargetsText(t *testing.T) {
	t.Parallel()
	g := target{limit: 1.0 / 6, digits: 3, got: 0.1}
	if g.wanted() != "at most 0.167" || g.found() != "0.100" {
		t.Errorf("wanted %q, found %q", g.wanted(), g.found())
	}
	g = target{limit: 1, atLeast: true, unit: " MB", got: math.NaN()}
	if g.wanted() != "at least 1 MB" || g.found() != "-" || g.met() {
		t.Errorf("wanted %q, found %q, met %v", g.wanted(), g.found(), g.met())
	}
}
