package modeltest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// faultKind is something that goes wrong.
type faultKind uint8

const (
	cutNow faultKind = iota // a connection is reset
	cutSoon
	finish // one direction of a connection ends, in the middle of whatever is there
	stall
	vanish // nothing arrives any more; the connection is reset half a minute later
	hostDown
	hostHangs
	instanceGoesAway
	instanceBreaksOff // GOAWAY, and the connection ends
	instanceRefuses   // REFUSED_STREAM for all
	instanceLimits    // SETTINGS_MAX_CONCURRENT_STREAMS
	windowsChange
	instanceLeaves // the registry
	registryEmpty
	clientLeaves
	sidecarRestarts
	faultKinds
)

var faultNames = [...]string{
	"cut now", "cut soon", "finish", "stall", "vanish", "host down", "host hangs", "goes away", "breaks off",
	"refuses", "limits", "windows change", "leaves the registry", "registry empty", "client leaves", "sidecar restarts",
}

// fault is one of a plan's.
type fault struct {
	index int
	kind  faultKind
	at    time.Duration
	lasts time.Duration
	rng   *rand.Rand
}

func newFault(p *plan, i int) *fault {
	r := rng(p.seed, "fault", i)
	return &fault{
		index: i, kind: faultKind(r.IntN(int(faultKinds))), at: between(r, 0, horizon),
		lasts: between(r, time.Millisecond, oneOf(r, 50*time.Millisecond, 3*time.Second)), rng: r,
	}
}

func (f *fault) String() string {
	return fmt.Sprintf("%d: %s at %v for %v", f.index, faultNames[f.kind], f.at, f.lasts)
}

// trouble is what a fault, or an RPC that breaks a connection, may be the reason
// for.
type trouble uint8

const (
	troubleConn  trouble = 1 << iota // RPCs on a connection to an instance fail
	troubleDial                      // instances cannot be reached
	troubleLimit                     // RPCs wait
)

// disturbance is trouble at a time.
type disturbance struct {
	from, to time.Time
	trouble  trouble
}

func (w *world) disturb(t trouble, lasts time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.disturbances = append(w.disturbances, disturbance{now, now.Add(lasts), t})
}

// disturbed says whether there was trouble of a kind between two times, or so
// shortly before that it may have an effect.
func (w *world) disturbed(t trouble, from, to time.Time) bool {
	const aftermath = 8 * time.Second // back-off, and connections that hang
	for _, d := range w.disturbances {
		if d.trouble&t != 0 && !d.from.After(to) && !d.to.Add(aftermath).Before(from) {
			return true
		}
	}
	return false
}

// run does what is wrong, and mends it again.
func (f *fault) run(w *world) {
	time.Sleep(time.Until(w.began.Add(f.at)))
	in := w.instances[f.rng.IntN(len(w.instances))]
	switch f.kind {
	case cutNow, cutSoon, finish, stall, vanish:
		f.harmConn(w)
	case hostDown:
		w.disturb(troubleDial|troubleConn, f.lasts)
		w.event("%s is down", in.reachedAt())
		w.net.set(in.reachedAt(), true, false)
		for _, c := range w.net.live(func(c *conn) bool { return c.to == in.reachedAt() }) {
			c.harm("its host is down")
			c.reset()
		}
		f.wait(w)
		w.net.set(in.reachedAt(), false, false)
	case hostHangs:
		w.disturb(troubleDial, f.lasts)
		w.event("%s hangs", in.reachedAt())
		w.net.set(in.reachedAt(), false, true)
		f.wait(w)
		w.net.set(in.reachedAt(), false, false)
	case instanceGoesAway, instanceBreaksOff:
		f.goAway(w, in)
	case instanceRefuses:
		w.disturb(troubleConn, f.lasts)
		w.event("%s refuses", in.name)
		in.refusing.Add(1)
		f.wait(w)
		in.refusing.Add(-1)
	case instanceLimits:
		w.disturb(troubleLimit, f.lasts)
		w.event("%s limits its streams", in.name)
		in.change(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(f.rng.IntN(3))})
		f.wait(w)
		in.change(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000})
	case windowsChange:
		for range 5 {
			to := oneOf[uint32](f.rng, 1000, 5000, 65535, 300_000) // smaller steps are a nuisance
			w.event("windows of %s become %d", in.name, to)
			in.change(http2.Setting{ID: http2.SettingInitialWindowSize, Val: to})
			w.clients[f.rng.IntN(len(w.clients))].change(http2.Setting{ID: http2.SettingInitialWindowSize, Val: to})
			time.Sleep(f.lasts / 5)
		}
		in.change(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
		for _, c := range w.clients {
			c.change(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
		}
	case instanceLeaves:
		w.disturb(troubleDial, f.lasts)
		w.event("%s leaves the registry", in.name)
		w.register(func(there []bool) { there[in.index] = false })
		f.wait(w)
		w.register(func(there []bool) { there[in.index] = true })
	case registryEmpty:
		w.disturb(troubleDial, f.lasts)
		w.event("the registry is empty")
		w.register(func(there []bool) { clear(there) })
		f.wait(w)
		w.register(func(there []bool) {
			for i := range there {
				there[i] = true
			}
		})
	case clientLeaves:
		c := w.clients[f.rng.IntN(len(w.clients))]
		w.event("%s leaves", c.name)
		c.leave(chance(f.rng, 2))
	case sidecarRestarts:
		if in.hasSidecar() {
			w.disturb(troubleDial, f.lasts)
			in.restart(f.lasts)
		}
	}
}

func (f *fault) wait(w *world) {
	time.Sleep(f.lasts)
	w.event("that was fault %v", f)
}

// harmConn does something to one connection.
func (f *fault) harmConn(w *world) {
	client := chance(f.rng, 4)
	conns := w.net.live(func(c *conn) bool { return strings.HasPrefix(c.from, "client") == client })
	if len(conns) == 0 {
		return
	}
	c := conns[f.rng.IntN(len(conns))]
	w.event("%s: %v", c.name, f)
	c.harm(f.String())
	l := oneOf(f.rng, c.there, c.back)
	switch f.kind {
	case cutNow:
		w.disturb(troubleConn|troubleDial, time.Millisecond)
		c.reset()
	case cutSoon:
		// It may take until the next bytes come.
		w.disturb(troubleConn|troubleDial, time.Hour)
		l.cutIn(f.rng.IntN(oneOf(f.rng, 20, 2000, 50_000)), c.reset)
	case finish:
		w.disturb(troubleConn|troubleDial, time.Hour)
		l.finish(syscall.EPIPE)
	case stall:
		w.disturb(troubleConn|troubleDial, f.lasts) // keepalive may notice
		l.hold(time.Now().Add(f.lasts))
	case vanish:
		w.disturb(troubleConn|troubleDial, 30*time.Second)
		c.there.hold(time.Now().Add(time.Hour))
		c.back.hold(time.Now().Add(time.Hour))
		time.Sleep(30 * time.Second)
		c.reset()
	}
}

func (f *fault) goAway(w *world, in *instance) {
	w.disturb(troubleConn|troubleDial, time.Second)
	code := oneOf(f.rng, http2.ErrCodeNo, http2.ErrCodeNo, http2.ErrCodeEnhanceYourCalm)
	w.event("%s: GOAWAY: %v", in.name, f)
	for _, e := range in.connections() {
		if f.kind == instanceBreaksOff {
			e.nc.c.harm(f.String())
		}
		e.goAwayNow(code, f.kind == instanceBreaksOff)
	}
}
