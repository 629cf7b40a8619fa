package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pillion-proxy/pillion/interop/bench/canned"
)

// Messages that the loads send and get, payload in bytes.
const (
	unarySize  = 100
	streamSize = 16 << 10
	// rpcPath is what the loads call. No proxy routes by it except where the
	// scale is measured.
	rpcPath = "/helloworld.Greeter/SayHello"
)

// unaryAnswer is how many bytes of DATA a unary answer has.
const unaryAnswer = canned.PrefixLen + unarySize

// setting is how much of the machine a proxy has.
type setting struct {
	name, title string
	workers     int
	pinned      bool
}

var settings = []setting{
	{name: "one", title: "One worker, alone on a core (load and backend on another)", workers: 1, pinned: true},
	{name: "two", title: "Two workers, beside the load on all cores", workers: 2},
}

func settingNames() []string {
	names := make([]string, len(settings))
	for i, s := range settings {
		names[i] = s.name
	}
	return names
}

func (s setting) placement() (placement, error) {
	if !s.pinned {
		return unpinned, nil
	}
	return pinned()
}

// rig is everything that runs in one setting: the backend, and before it each
// proxy that takes part.
type rig struct {
	opts    *options
	setting setting
	where   placement
	// dir holds the requests' bodies, and a folder for each process.
	dir         string
	self        string
	load        *h2load
	results     results
	progress    io.Writer
	backend     *process
	backendAddr string
	contestants []*contestant
	limits      limits
}

// limits are what a proxy is told to allow: connections of clients, and streams
// on each.
type limits struct{ conns, streams int }

// The limits of most parts, and of the one about many things. With more
// connections than 4,000, HAProxy's own bound on file descriptors is in the way
// on small machines.
var (
	usualLimits = limits{conns: 4000, streams: 1024}
	bigLimits   = limits{conns: 6000, streams: 20_000}
)

// contestant is a proxy that takes part.
type contestant struct {
	// name is who the figures are of.
	name string
	proc *process
	site site
	// requests is how many a run of a shape sends, once that is known.
	requests map[shape]int
	// streams is how many a streaming run downloads, once that is known.
	streams int
	// authority and path are what the load asks it for.
	authority, path string
	// more and headers are as load has them.
	more, headers []string
	// forgiven is how many failed runs are repeated: a peer's, never Pillion's.
	forgiven int
}

// forgivenRuns is how many failed runs of a peer are repeated in all. HAProxy
// before 2.6.17 now and then closes a connection to an instance in the middle
// of gRPC streams (haproxy/haproxy#2388).
const forgivenRuns = 5

// insist takes one measurement, again where requests failed and the contestant
// is forgiven that. How often it happened is shown with the results.
func (r *rig) insist(c *contestant, s scene, measure func() error) error {
	for {
		err := measure()
		if err == nil || c.forgiven == 0 || !errors.Is(err, errLoad) {
			return err
		}
		c.forgiven--
		r.add(c, s, failedRuns, 1)
		r.sayf("%s %s: a run of %s FAILED and is repeated: %v", r.setting.name, s, c.name, err)
	}
}

// start starts the backend, listening on all of hosts.
func (r *rig) start(ctx context.Context, hosts ...string) error {
	var err error
	r.backend, r.backendAddr, err = startBackend(ctx, r.self, r.dir, r.where, r.setting.workers, hosts...)
	return err
}

// join starts a proxy and waits until it is ready. prepare says how to run it,
// given where.
func (r *rig) join(ctx context.Context, name, bin string, prepare func(site) (launch, error)) (*contestant, error) {
	dir := filepath.Join(r.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	addresses, err := freeAddresses(2)
	if err != nil {
		return nil, err
	}
	s := site{bin: bin, listen: addresses[0], admin: addresses[1], backend: r.backendAddr, workers: r.setting.workers, limits: r.limits, dir: dir}
	l, err := prepare(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	proc, err := startProcess(command{name: name, argv: l.argv, env: l.env, dir: dir, core: r.where.proxy})
	if err != nil {
		return nil, err
	}
	c := &contestant{name: name, proc: proc, site: s, requests: map[shape]int{}, path: rpcPath}
	r.contestants = append(r.contestants, c)
	if err := proc.waitListening(ctx, s.listen); err != nil {
		return nil, err
	}
	if l.ready != nil {
		if err := proc.poll(ctx, "become ready", l.ready); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// stop ends all processes of the rig.
func (r *rig) stop() {
	for _, c := range r.contestants {
		c.proc.stop()
	}
	if r.backend != nil {
		r.backend.stop()
	}
}

// turn is the order of a round: everybody is first once, so that nobody always
// runs on a machine that another has just warmed or tired.
func (r *rig) turn(round int) []*contestant {
	by := round % len(r.contestants)
	return slices.Concat(r.contestants[by:], r.contestants[:by])
}

func (r *rig) add(c *contestant, s scene, m metric, value float64) {
	r.results.add(key{r.setting.name, c.name, s, m}, value)
}

func (r *rig) sayf(format string, args ...any) {
	_, _ = fmt.Fprintf(r.progress, format+"\n", args...)
}

// body is the file with a request's body.
func (r *rig) body(name string) string { return filepath.Join(r.dir, name) }

// Names of the files with requests' bodies.
const (
	unaryBody     = "unary.body"
	streamBody    = "stream.body"
	bulkPacedBody = "bulk-paced.body"
	bulkFullBody  = "bulk-full.body"
)

// writeBodies writes what the loads send.
func (r *rig) writeBodies() error {
	for name, body := range map[string][]byte{
		unaryBody:     canned.UnaryRequest(unarySize),
		streamBody:    r.streamOrder().Request(),
		bulkPacedBody: canned.Order{Size: streamSize, Rate: bulkPace}.Request(),
		bulkFullBody:  canned.Order{Size: streamSize}.Request(),
	} {
		if err := os.WriteFile(r.body(name), body, 0o600); err != nil {
			return fmt.Errorf("a request's body: %w", err)
		}
	}
	return nil
}

// spent runs f and returns the CPU time that the contestant used meanwhile.
func (c *contestant) spent(f func() error) (time.Duration, error) {
	before, err := cpuTime(c.proc.pid())
	if err != nil {
		return 0, c.proc.failed("CPU time: %w", err)
	}
	if err := f(); err != nil {
		return 0, c.proc.failed("%w", err)
	}
	after, err := cpuTime(c.proc.pid())
	if err != nil {
		return 0, c.proc.failed("CPU time: %w", err)
	}
	return after - before, nil
}

// measureMemory records the contestants' idle memory, and begins to look for
// its peak.
func (r *rig) measureMemory() error {
	for _, c := range r.contestants {
		m, err := residentMemory(c.proc.pid())
		if err != nil {
			return c.proc.failed("memory: %w", err)
		}
		r.add(c, sceneMemory, idleRSS, float64(m.now))
		if err := resetPeak(c.proc.pid()); err != nil {
			return c.proc.failed("%w", err)
		}
	}
	return nil
}

// measurePeak records the contestants' peak of memory since the last one.
func (r *rig) measurePeak(s scene) error {
	for _, c := range r.contestants {
		m, err := residentMemory(c.proc.pid())
		if err != nil {
			return c.proc.failed("memory: %w", err)
		}
		r.add(c, s, peakRSS, float64(m.peak))
		if err := resetPeak(c.proc.pid()); err != nil {
			return c.proc.failed("%w", err)
		}
	}
	return nil
}
