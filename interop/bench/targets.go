package main

import (
	"fmt"
	"math"
)

// target is what Pillion should reach, and what a run found.
type target struct {
	what string
	// limit and got are in the target's unit; got is NaN where it was not
	// measured.
	limit, got float64
	// atLeast turns the limit from a ceiling into a floor.
	atLeast bool
	// digits is how many decimals to show.
	digits int
	unit   string
	// hindrance says why a figure that was taken proves nothing; "" is none.
	hindrance string
}

func (t target) met() bool {
	if t.atLeast {
		return t.got >= t.limit
	}
	return t.got <= t.limit
}

func (t target) verdict() string {
	switch {
	case t.hindrance != "":
		return "not comparable: " + t.hindrance
	case math.IsNaN(t.got):
		return "not measured"
	case t.met():
		return "met"
	}
	return "**missed**"
}

func (t target) wanted() string {
	word := "at most"
	if t.atLeast {
		word = "at least"
	}
	return fmt.Sprintf("%s %.*f%s", word, t.digits, t.limit, t.unit)
}

func (t target) found() string {
	if math.IsNaN(t.got) {
		return "-"
	}
	return fmt.Sprintf("%.*f%s", t.digits, t.got, t.unit)
}

const megabyte = 1e6

// Ceilings on Pillion's CPU per RPC as a share of a peer's.
var cpuTargets = []struct {
	peer  string
	shape shape
	share float64
}{
	{haproxyName, shape{8, 32}, 0.5},
	{haproxyName, shape{64, 8}, 0.6},
	{haproxyName, shape{16, 1}, 0.8},
	{envoyName, shape{8, 32}, 1.0 / 6},
	{envoyName, shape{64, 8}, 1.0 / 6},
}

// targets judges a run by its ratios of medians.
func targets(r results, chosen []setting, o *options) []target {
	var all []target
	for _, s := range chosen {
		for _, c := range cpuTargets {
			all = append(all, target{
				what:  fmt.Sprintf("%s: CPU per RPC at %s ÷ %s's", s.workersText(), c.shape, c.peer),
				limit: c.share, digits: 3,
				got: r.share(s.name, c.peer, c.shape.scene(), cpuPerRPC),
			})
		}
		all = append(all, target{
			what:  fmt.Sprintf("%s: bytes per second of 16 KiB messages ÷ %s's", s.workersText(), haproxyName),
			limit: 1, atLeast: true, digits: 3,
			got: r.share(s.name, haproxyName, sceneStreaming, bytesPerSecond),
		})
		for _, scene := range []scene{sceneBulkPaced, sceneBulkFull} {
			all = append(all, target{
				what:  fmt.Sprintf("%s: unary p99 beside %s ÷ %s's", s.workersText(), scene, haproxyName),
				limit: 1, digits: 3,
				got: r.share(s.name, haproxyName, scene, sameP99),
			})
		}
		for _, m := range []struct {
			metric metric
			what   string
			limit  float64
		}{{idleRSS, "resident memory idle", 25}, {peakRSS, "resident memory under the unary loads", 40}} {
			all = append(all, target{
				what:  s.workersText() + ": " + m.what,
				limit: m.limit, unit: " MB", digits: 1,
				got: median(r.of(s.name, pillionName, sceneMemory, m.metric)) / megabyte,
			})
		}
	}
	all = append(all, policyTargets(r, chosen)...)
	all = append(all, mtlsTargets(r, chosen, o)...)
	all = append(all, abuseTargets(r, o)...)
	return append(all, scaleTargets(r)...)
}

// scaleTargets judges that an RPC costs the same in a large mesh as in a small
// one.
func scaleTargets(r results) []target {
	const within = 1.05
	var all []target
	for _, c := range scaleCases {
		if c.base == "" || c.informative {
			continue
		}
		t := target{
			what:  fmt.Sprintf("CPU per RPC: %s ÷ %s", c.title, scaleTitle(c.base)),
			limit: within, digits: 3, got: math.NaN(),
		}
		at := scaleShape.scene()
		if cost, ok := compare(r.of(scaleSetting.name, c.name, at, cpuPerRPC), r.of(scaleSetting.name, c.base, at, cpuPerRPC)); ok {
			t.got = cost.ofMedians
		}
		conns := median(r.of(scaleSetting.name, c.name, at, liveConns))
		baseConns := median(r.of(scaleSetting.name, c.base, at, liveConns))
		if conns != baseConns && !math.IsNaN(t.got) {
			t.hindrance = fmt.Sprintf("%.0f connections to instances, not %.0f", conns, baseConns)
		}
		all = append(all, t)
	}
	return all
}

func scaleTitle(name string) string {
	for _, c := range scaleCases {
		if c.name == name {
			return c.title
		}
	}
	return name
}

// share is Pillion's figure as a share of a peer's; NaN where either was not
// measured.
func (r results) share(setting, peer string, s scene, m metric) float64 {
	c, ok := compare(r.of(setting, pillionName, s, m), r.of(setting, peer, s, m))
	if !ok {
		return math.NaN()
	}
	return c.ofMedians
}

func (s setting) workersText() string {
	if s.workers == 1 {
		return "1 worker"
	}
	return fmt.Sprintf("%d workers", s.workers)
}
