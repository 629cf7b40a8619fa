package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pillion-proxy/pillion/interop/bench/canned"
	"github.com/pillion-proxy/pillion/interop/bench/crowd"
)

// bigSetting is what the part about many and large things is measured in.
var bigSetting = setting{name: "big", title: settings[0].title, workers: settings[0].workers, pinned: settings[0].pinned}

// crowdScene is a number of connections and of streams on each that hang there.
type crowdScene struct {
	scene scene
	what  string
	// conns are open, each after one RPC; where streams is not 0, so many RPCs
	// hang on each, answered but for the end.
	conns, streams int
}

var crowdScenes = []crowdScene{
	{scene: "5,000 connections", what: "idle connection, of 5,000", conns: 5000},
	{scene: "10,000 streams", what: "idle stream, of 10,000 on one connection", conns: 1, streams: 10_000},
	{scene: "20x500 streams", what: "idle stream, of 500 on each of 20 connections", conns: 20, streams: 500},
}

const (
	// sceneRate is unary RPCs at bigRate.
	sceneRate scene = "100,000 RPC/s"
	bigRate         = 100_000

	// Transfers: one message at a time, and one long stream.
	sceneMessage scene = "messages of 4 MiB"
	sceneGiB     scene = "a stream of 1 GiB"

	// sceneTLS is the engine behind crypto/tls.
	sceneTLS scene = "5,000 TLS connections"
)

var (
	rateShape    = shape{conns: 8, streams: 32}
	messageOrder = canned.Order{Messages: 1, Size: 4 << 20}
	// idleOrder is a message, and the next after a quarter of an hour.
	idleOrder = canned.Order{Size: 1000, Rate: 1}
)

const (
	// messageCount is how many messages are fetched, one after the other.
	messageCount = 64
	// crowdTime bounds how long a proxy may take to take a crowd in.
	crowdTime = 30 * time.Second

	messageBody = "message.body"
	gibBody     = "gib.body"
)

// big measures what many connections and streams cost, and large transfers and
// a high rate: each proxy by itself, begun anew for each of the crowds.
func (r *rig) big(ctx context.Context, all []participant) error {
	for name, order := range map[string]canned.Order{messageBody: messageOrder, gibBody: r.gibOrder()} {
		if err := os.WriteFile(r.body(name), order.Request(), 0o600); err != nil {
			return fmt.Errorf("a request's body: %w", err)
		}
	}
	r.limits = bigLimits
	if err := r.start(ctx); err != nil {
		return err
	}
	for round := range r.opts.rounds {
		for i := range all {
			p := all[(i+round)%len(all)]
			r.sayf("big: round %d of %d, %s", round+1, r.opts.rounds, p.title)
			if err := r.bigOnce(ctx, p); err != nil {
				return err
			}
		}
		if r.opts.vs == "" {
			if err := r.behindTLS(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rig) bigOnce(ctx context.Context, p participant) error {
	for _, s := range crowdScenes {
		err := r.alone(ctx, p, func(c *contestant) error { return r.crowd(ctx, c, s) })
		if err != nil {
			return err
		}
	}
	return r.alone(ctx, p, func(c *contestant) error {
		for _, measure := range []struct {
			scene scene
			run   func(context.Context, *contestant) error
		}{
			{sceneRate, r.highRate},
			{sceneMessage, r.transfer(sceneMessage, messageBody, r.few(messageCount), messageOrder)},
			{sceneGiB, r.transfer(sceneGiB, gibBody, 1, r.gibOrder())},
		} {
			if err := resetPeak(c.proc.pid()); err != nil {
				return err
			}
			err := r.insist(c, measure.scene, func() error { return measure.run(ctx, c) })
			if err = r.excuse(c, measure.scene, err); err != nil {
				return err
			}
		}
		return nil
	})
}

// alone runs one proxy for one measurement.
func (r *rig) alone(ctx context.Context, p participant, measure func(*contestant) error) error {
	r.contestants = nil
	c, err := r.join(ctx, p.name, p.bin, p.launch)
	if c != nil {
		defer c.proc.stop()
	}
	if err != nil {
		return err
	}
	if err := measure(c); err != nil {
		return c.proc.failed("%w", err)
	}
	return nil
}

// excuse notes what a peer could not do; Pillion has to do all of it.
func (r *rig) excuse(c *contestant, s scene, err error) error {
	if err == nil || c.name == pillionName || c.name == otherName || !errors.Is(err, crowd.ErrRefused) && !errors.Is(err, errLoad) {
		return err
	}
	r.add(c, s, couldNot, 1)
	r.sayf("%s %s: %s cannot: %v", r.setting.name, s, c.name, err)
	return nil
}

// crowd measures how much memory a process takes for each member of a crowd.
func (r *rig) crowd(ctx context.Context, c *contestant, s crowdScene) error {
	ctx, cancel := context.WithTimeout(ctx, crowdTime)
	defer cancel()
	memory := func() (int64, error) {
		m, err := residentMemory(c.proc.pid())
		return m.now, err
	}
	before, err := r.settled(ctx, memory)
	if err != nil {
		return err
	}
	each, whole, body := 1, true, canned.UnaryRequest(unarySize)
	conns := r.few(s.conns)
	count := conns
	if s.streams > 0 {
		each, whole, body = r.few(s.streams), false, idleOrder.Request()
		count = conns * each
	}
	members := crowd.Crowd{Address: c.site.listen, Authority: "b", Path: c.path, Body: body}
	defer members.Close()
	if err = members.Connect(ctx, conns); err == nil {
		err = members.Open(ctx, each, whole)
	}
	if err != nil {
		return r.excuse(c, s.scene, err)
	}
	after, err := r.settled(ctx, memory)
	if err != nil {
		return err
	}
	if err := members.Held(); err != nil {
		return r.excuse(c, s.scene, err)
	}
	perMember := float64(after-before) / float64(count)
	r.add(c, s.scene, bytesEach, perMember)
	r.sayf("%s %s %s: %.2f KB each", r.setting.name, s.scene, c.name, perMember/kilo)
	return nil
}

// gibOrder is a GiB, in a smoke test less.
func (r *rig) gibOrder() canned.Order {
	if r.opts.quick {
		return canned.Order{Messages: quickMessages, Size: streamSize}
	}
	return canned.Order{Messages: gib / streamSize, Size: streamSize}
}

// settled is a process's memory once it has settled, in a smoke test what it is.
func (r *rig) settled(ctx context.Context, memory func() (int64, error)) (int64, error) {
	if r.opts.quick {
		return memory()
	}
	return crowd.Settle(ctx, memory)
}

// few makes a crowd small in a smoke test.
func (r *rig) few(n int) int {
	if r.opts.quick {
		return min(n, 20)
	}
	return n
}

// highRate asks for bigRate, and sees what it gets.
func (r *rig) highRate(ctx context.Context, c *contestant) error {
	requests := max(1000, int(bigRate*r.opts.runTime.Seconds()))
	var result loadResult
	cpu, err := c.spent(func() (err error) {
		result, err = r.load.run(ctx, r.unary(c, rateShape, requests, bigRate))
		return err
	})
	if err != nil {
		return err
	}
	r.add(c, sceneRate, rpcPerSecond, result.requestsPerSecond)
	r.add(c, sceneRate, cpuShare, cpu.Seconds()/result.elapsed.Seconds())
	r.add(c, sceneRate, sameP50, float64(percentile(result.latencies, 50)))
	r.add(c, sceneRate, sameP99, float64(percentile(result.latencies, 99)))
	r.sayf("%s %s %s: %.0f RPC/s", r.setting.name, sceneRate, c.name, result.requestsPerSecond)
	return nil
}

// transfer fetches so many answers, one at a time.
func (r *rig) transfer(s scene, body string, count int, order canned.Order) func(context.Context, *contestant) error {
	return func(ctx context.Context, c *contestant) error {
		l := load{
			addr: c.site.listen, shape: shape{conns: 1, streams: 1}, body: r.body(body), path: c.path, authority: c.authority,
			requests: count, answer: order.Bytes(), streaming: true, core: r.where.load,
		}
		var result loadResult
		cpu, err := c.spent(func() (err error) {
			result, err = r.load.run(ctx, l)
			return err
		})
		if err != nil {
			return err
		}
		m, err := residentMemory(c.proc.pid())
		if err != nil {
			return err
		}
		r.add(c, s, bytesPerSecond, float64(result.data)/result.elapsed.Seconds())
		r.add(c, s, cpuPerGiB, cpu.Seconds()/float64(result.data)*gib)
		r.add(c, s, peakRSS, float64(m.peak))
		r.sayf("%s %s %s: %.0f MB/s", r.setting.name, s, c.name, float64(result.data)/result.elapsed.Seconds()/megabyte)
		return nil
	}
}

// behindTLS measures what an idle connection costs the engine behind crypto/tls.
func (r *rig) behindTLS(ctx context.Context) error {
	dir := filepath.Join(r.dir, roleTLS)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("temporary folder: %w", err)
	}
	p, err := startProcess(command{name: roleTLS, argv: []string{r.self, roleTLS}, env: goWorkers(r.setting.workers), dir: dir, core: r.where.proxy})
	if err != nil {
		return err
	}
	defer p.stop()
	addr, err := p.firstLine(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, crowdTime)
	defer cancel()
	memory := func() (int64, error) {
		m, err := residentMemory(p.pid())
		return m.now, err
	}
	before, err := r.settled(ctx, memory)
	if err != nil {
		return err
	}
	conns := r.few(5000)
	members := crowd.Crowd{
		Address: addr,
		TLS:     &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13}, //nolint:gosec // it is the memory that is measured
	}
	defer members.Close()
	if err := members.Connect(ctx, conns); err != nil {
		return p.failed("%w", err)
	}
	after, err := r.settled(ctx, memory)
	if err = errors.Join(err, members.Held()); err != nil {
		return p.failed("%w", err)
	}
	each := float64(after-before) / float64(conns)
	r.results.add(key{r.setting.name, roleTLS, sceneTLS, bytesEach}, each)
	r.sayf("%s %s: %.2f KB each", r.setting.name, sceneTLS, each/kilo)
	return nil
}
