package modeltest

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

var (
	seedFlag    = flag.String("seed", "", "play this `seed` alone")
	seedsFlag   = flag.Int("seeds", 0, "how many seeds are played (default 40, or 8 with -short)")
	firstFlag   = flag.Uint64("first", 1, "the first of them")
	withoutFlag = flag.String("without", "", "`indices` of faults to leave out, as in 3,5, or all")
	onlyFlag    = flag.String("clients", "", "`indices` of the only clients that make RPCs")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are what the flags say of a plan.
type options struct {
	without []int
	all     bool
	clients []int
}

func parseOptions(t *testing.T) (o options) {
	numbers := func(s string) (all []int) {
		for field := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, n)
		}
		return all
	}
	switch *withoutFlag {
	case "":
	case "all":
		o.all = true
	default:
		o.without = numbers(*withoutFlag)
	}
	if *onlyFlag != "" {
		o.clients = numbers(*onlyFlag)
	}
	return o
}

// leaveOut takes out of a plan what the flags say.
func (p *plan) leaveOut(o options) {
	p.faults = slices.DeleteFunc(p.faults, func(f *fault) bool { return o.all || slices.Contains(o.without, f.index) })
	if o.clients != nil {
		p.rpcs = slices.Clone(p.rpcs)
		for _, r := range p.rpcs {
			r.left = !slices.Contains(o.clients, r.client)
		}
	}
}

// Each RPC ends once, with an outcome that the model allows, whatever clients,
// instances and the network do; and nothing is left of it.
func TestModel(t *testing.T) {
	o := parseOptions(t)
	if *seedFlag != "" {
		seed, err := strconv.ParseUint(*seedFlag, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) { play(t, seed, o) })
		return
	}
	n := *seedsFlag
	if n == 0 {
		if n = 40; testing.Short() {
			n = 8
		}
	}
	for i := range n {
		seed := *firstFlag + uint64(i)
		t.Run(fmt.Sprintf("%#x", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { play(t, seed, o) })
		})
	}
}

// play plays one seed and reports what the model does not allow.
func play(t *testing.T, seed uint64, o options) {
	w := newWorld(t, newPlan(seed, o))
	w.play()
	w.settle()
	w.stop()
	w.judge()
	w.report()
}

// report fails the test where something is not allowed.
func (w *world) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if testing.Verbose() {
		w.t.Log(w.summary())
	}
	if len(w.violations) == 0 {
		return
	}
	const most = 8
	var lines []string
	told := map[*rpc]bool{}
	for i, v := range w.violations {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more", len(w.violations)-most))
			break
		}
		lines = append(lines, fmt.Sprintf("%v: %s", v.at, v.text))
		if r := v.rpc; r != nil && !told[r] {
			told[r] = true
			lines = append(lines, "  RPC "+r.describe())
			lines = append(lines, shown(r.notes, "    ")...)
		}
	}
	lines = append(lines, "what went wrong elsewhere:")
	lines = append(lines, shown(w.events, "    ")...)
	w.t.Errorf("%s\n\nPlay it again with\n  go test ./proxy/modeltest -run TestModel -seed=%#x\n(with -cpu=1 what happens at one moment happens in nearly the same order each time), and leave out faults with -without=0,1 or all, clients with -clients=0.\n%s",
		strings.Join(lines, "\n"), w.plan.seed, w.summary())
}

func (r *rpc) describe() string {
	return fmt.Sprintf("%d of client %d: kind %d, requests %v, answers %v, timeout %v, cancelled after %v, ends %d after %d with status %d or %v, think %v, pauses %v %v %v",
		r.id, r.client, r.kind, r.requests, r.answers, r.timeout, r.cancelAfter, r.ends, r.after, r.status, r.code, r.think, r.pause, r.slowness, r.slowReading)
}

// summary says what the seed is about and how its RPCs ended.
func (w *world) summary() string {
	p := w.plan
	ends := map[string]int{}
	for _, r := range p.rpcs {
		o := &r.outcome
		end := howNames[o.how]
		if o.how == answered {
			end = strings.TrimSpace(o.status + " " + o.flag)
		}
		ends[end]++
	}
	return fmt.Sprintf("%d clients, %d instances (sidecars: %v), %v, latency %v, %d faults, %d connections; %d RPCs ended so: %v",
		p.clients, p.instances, p.sidecars, p.policy, p.latency, len(p.faults), len(w.net.conns), len(p.rpcs), ends)
}
