package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// abuseSettings are what the part about attacks is measured in.
var abuseSettings = map[string]setting{
	settings[0].name: {name: "abuse one", title: settings[0].title, workers: settings[0].workers, pinned: settings[0].pinned},
	settings[1].name: {name: "abuse two", title: settings[1].title, workers: settings[1].workers, pinned: settings[1].pinned},
}

const (
	// sceneCalm is the load of the part without an attack.
	sceneCalm scene = "no attack"
	// calmEvery is after how many attacks it is measured again.
	calmEvery = 8
	// victimName is the service that attackers call.
	victimName = "app"
	// badName is the service whose instance attacks.
	badName = "bad"
	// attackedName is who is attacked where that is not who is measured.
	attackedName = "attacked"
	// attackNiceness lets everybody else on the load's core go first.
	attackNiceness = 19
)

// abuseShape is the well-behaved load: unary RPCs at besideRate.
var abuseShape = shape{conns: 4, streams: openStreams}

// abuse measures how long the RPCs of well-behaved clients take while another one
// attacks, again and again, and how much memory Pillion takes meanwhile.
func (r *rig) abuse(ctx context.Context, pillion participant) error {
	if err := r.start(ctx); err != nil {
		return err
	}
	victim, err := startProcess(command{name: roleVictim, argv: []string{r.self, roleVictim}, env: goWorkers(1), dir: r.dir, core: r.where.load})
	if err != nil {
		return err
	}
	defer victim.stop()
	victimAddr, err := victim.firstLine(ctx)
	if err != nil {
		return err
	}
	for round := range r.opts.rounds {
		r.sayf("abuse, round %d of %d", round+1, r.opts.rounds)
		for i, a := range r.opts.abuses() {
			if i%calmEvery == 0 {
				if err := r.undergo(ctx, pillion, victimAddr, nil, false); err != nil {
					return err
				}
			}
			if err := r.undergo(ctx, pillion, victimAddr, &a, false); err != nil {
				return err
			}
			if !r.opts.control {
				continue
			}
			if err := r.undergo(ctx, pillion, victimAddr, &a, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// undergo measures the load through a Pillion of its own, which no other attack has
// been at, with an attack or without one. elsewhere has another Pillion attacked,
// which is on the load's core with the lowest priority, as the attacker is: what that
// costs the load is not the attacked one's doing.
func (r *rig) undergo(ctx context.Context, pillion participant, victim string, a *abuse, elsewhere bool) error {
	r.contestants = nil
	c, mesh, err := r.attackable(ctx, pillion.name, pillion.bin, victim)
	if c != nil {
		defer c.proc.stop()
	}
	if err != nil {
		return err
	}
	if a == nil {
		return r.beside(ctx, c, sceneCalm)
	}
	if !elsewhere {
		return r.underAttack(ctx, c, c, *a, mesh)
	}
	where := r.where
	r.where.proxy = r.where.load
	other, mesh, err := r.attackable(ctx, attackedName, pillion.bin, victim)
	r.where = where
	if other != nil {
		defer other.proc.stop()
	}
	if err != nil {
		return err
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, other.proc.pid(), attackNiceness); err != nil {
		return other.proc.failed("lowering its priority: %w", err)
	}
	return r.underAttack(ctx, c, other, *a, mesh)
}

// attackable starts a Pillion that leads to the backend and to the victim.
func (r *rig) attackable(ctx context.Context, name, bin, victim string) (*contestant, *meshFile, error) {
	var mesh meshFile
	c, err := r.join(ctx, name, bin, func(s site) (launch, error) {
		mesh = meshFile{path: filepath.Join(s.dir, "mesh.yaml"), services: map[string]string{"b": s.backend, victimName: victim}}
		const config = "pillion.yaml"
		err := errors.Join(mesh.write(), os.WriteFile(filepath.Join(s.dir, config), fmt.Appendf(nil,
			"outbound: {listen: %q, default_service: b}\nadmin: {listen: %q}\nregistry: {file: {path: mesh.yaml}}\n", s.listen, s.admin), 0o600))
		return launch{
			argv: []string{s.bin, "run", "-c", config}, env: goWorkers(s.workers), ready: httpOK("http://" + s.admin + "/ready"),
		}, err
	})
	if err == nil {
		c.authority = "b"
	}
	return c, &mesh, err
}

// abuse is one attack, of a client's or of an instance's.
type abuse struct {
	name, role string
}

func (a abuse) scene() scene { return scene(a.role + ": " + a.name) }

// control is the load's while another Pillion is attacked.
func (a abuse) control() scene { return a.scene() + ", of another" }

// abuses are all that were chosen.
func (o *options) abuses() []abuse {
	var all []abuse
	for _, c := range attack.Clients() {
		all = append(all, abuse{c.Name, roleAttack})
	}
	for _, i := range attack.Instances() {
		all = append(all, abuse{i.Name, roleInstance})
	}
	return slices.DeleteFunc(all, func(a abuse) bool { return !o.attacks.MatchString(string(a.scene())) })
}

// underAttack measures the load through c while a process attacks c, or another.
func (r *rig) underAttack(ctx context.Context, c, attacked *contestant, a abuse, mesh *meshFile) error {
	attacker, err := startProcess(command{
		name: "attacker", argv: []string{r.self, a.role, a.name, attacked.site.listen},
		env: goWorkers(1), dir: r.dir, core: r.where.load,
	})
	if err != nil {
		return err
	}
	defer attacker.stop()
	if err := unix.Setpriority(unix.PRIO_PROCESS, attacker.pid(), attackNiceness); err != nil {
		return attacker.failed("lowering its priority: %w", err)
	}
	line, err := attacker.firstLine(ctx)
	if err != nil {
		return err
	}
	if a.role == roleInstance {
		mesh.services[badName] = line
		if err := mesh.write(); err != nil {
			return err
		}
		known := func(ctx context.Context) bool {
			var answer strings.Builder
			err := get(ctx, "http://"+attacked.site.admin+"/endpoints?service="+badName, &answer)
			return err == nil && strings.Contains(answer.String(), line)
		}
		if err := attacked.proc.poll(ctx, "know "+line, known); err != nil {
			return err
		}
	}
	if c != attacked {
		return r.beside(ctx, c, a.control())
	}
	return r.beside(ctx, c, a.scene())
}

// meshFile is the mesh of the part: services of one endpoint each.
type meshFile struct {
	path     string
	services map[string]string
}

// write replaces the file in one step.
func (m meshFile) write() error {
	var b strings.Builder
	b.WriteString("services:\n")
	for _, name := range slices.Sorted(maps.Keys(m.services)) {
		fmt.Fprintf(&b, "  %s: {endpoints: [{address: %q}]}\n", name, m.services[name])
	}
	fresh := m.path + ".new"
	if err := os.WriteFile(fresh, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("mesh: %w", err)
	}
	return os.Rename(fresh, m.path)
}

// beside measures the well-behaved load.
func (r *rig) beside(ctx context.Context, c *contestant, s scene) error {
	if err := resetPeak(c.proc.pid()); err != nil {
		return err
	}
	result, err := r.load.run(ctx, r.unary(c, abuseShape, int(besideRate*r.opts.runTime.Seconds()), besideRate))
	if err != nil {
		return c.proc.failed("%s: %w", s, err)
	}
	m, err := residentMemory(c.proc.pid())
	if err != nil {
		return err
	}
	p99 := percentile(result.latencies, 99)
	r.add(c, s, sameP50, float64(percentile(result.latencies, 50)))
	r.add(c, s, sameP99, float64(p99))
	r.add(c, s, peakRSS, float64(m.peak))
	r.sayf("%s %s: p99 %d µs, at most %d MB", r.setting.name, s, p99, m.peak/megabyte)
	return nil
}

const (
	// attackTime bounds one go of an attack; then it begins anew.
	attackTime = time.Second
	// attackDelay is how long an attacker waits once it is there: the others are
	// connected by then, and the requests before it are not counted (see
	// parseRequestLog). What an attack costs who connects during it is another
	// matter: he waits for what others at his address have done.
	attackDelay = 40 * time.Millisecond
)

// afterDelay waits until the attack is to begin.
func afterDelay(ctx context.Context) {
	select {
	case <-time.After(attackDelay):
	case <-ctx.Done():
	}
}

var errNoAttack = errors.New("no such attack")

// runAttack attacks an address until it is ended. It prints a line when it is
// about to begin.
func runAttack(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("%s: want an attack's name and an address", roleAttack)
	}
	attacks := attack.Clients()
	i := slices.IndexFunc(attacks, func(a attack.Client) bool { return a.Name == args[0] })
	if i < 0 {
		return fmt.Errorf("%s: %w: %q", roleAttack, errNoAttack, args[0])
	}
	if _, err := fmt.Fprintln(out, "attacking"); err != nil {
		return fmt.Errorf("%s: %w", roleAttack, err)
	}
	afterDelay(ctx)
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, attackTime)
		// That an attack gets nowhere is no failure of the benchmark's.
		_, _ = attacks[i].Run(once, args[1])
		cancel()
	}
	return nil
}

// runVictim serves the app that attackers call, on an address that it prints.
func runVictim(ctx context.Context, out io.Writer) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("%s: %w", roleVictim, err)
	}
	server := grpc.NewServer()
	testpb.RegisterTestServiceServer(server, attack.Victim{})
	context.AfterFunc(ctx, server.Stop)
	if _, err := fmt.Fprintln(out, ln.Addr()); err != nil {
		return fmt.Errorf("%s: %w", roleVictim, err)
	}
	return server.Serve(ln)
}

// badCallers is how many RPCs to a bad instance are under way, and badDeadline how
// long each may take.
const (
	badCallers  = 10
	badDeadline = 300 * time.Millisecond
)

// runInstance serves as a bad instance on an address that it prints, and calls it
// through a proxy, again and again.
func runInstance(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("%s: want an instance's name and a proxy's address", roleInstance)
	}
	instances := attack.Instances()
	i := slices.IndexFunc(instances, func(in attack.Instance) bool { return in.Name == args[0] })
	if i < 0 {
		return fmt.Errorf("%s: %w: %q", roleInstance, errNoAttack, args[0])
	}
	running, err := instances[i].Start()
	if err != nil {
		return fmt.Errorf("%s: %w", roleInstance, err)
	}
	defer running.Stop()
	conn, err := grpc.NewClient("passthrough:///"+args[1], grpc.WithAuthority(badName), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("%s: %w", roleInstance, err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintln(out, running.Address); err != nil {
		return fmt.Errorf("%s: %w", roleInstance, err)
	}
	afterDelay(ctx)
	var callers sync.WaitGroup
	for range badCallers {
		callers.Go(func() {
			for ctx.Err() == nil {
				callBad(ctx, testpb.NewTestServiceClient(conn), instances[i].Request)
			}
		})
	}
	callers.Wait()
	return nil
}

// callBad makes one RPC, whose end is of no interest.
func callBad(ctx context.Context, client testpb.TestServiceClient, request attack.Request) {
	ctx, cancel := context.WithTimeout(ctx, badDeadline)
	defer cancel()
	switch request {
	case attack.Open:
		stream, err := client.FullDuplexCall(ctx)
		if err == nil && stream.Send(&testpb.StreamingOutputCallRequest{}) == nil {
			_, _ = stream.Recv()
		}
	case attack.Upload:
		_, _ = client.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 1<<20)}})
	case attack.Unary:
		_, _ = client.UnaryCall(ctx, &testpb.SimpleRequest{})
	}
}

// abuseWithin is what an attack may multiply the others' p99 by.
const abuseWithin = 3

// abuseTargets judges how attacks are felt by others.
func abuseTargets(r results, o *options) []target {
	var all []target
	for _, name := range o.settings {
		s := abuseSettings[name]
		calm := median(r.of(s.name, pillionName, sceneCalm, sameP99))
		if math.IsNaN(calm) {
			continue
		}
		var ratios []float64
		for _, a := range o.abuses() {
			ratios = append(ratios, median(r.of(s.name, pillionName, a.scene(), sameP99))/calm)
		}
		slices.Sort(ratios)
		all = append(all,
			target{what: s.workersText() + ": others' unary p99 under the worst attack ÷ without one", limit: abuseWithin, digits: 2, got: ratios[len(ratios)-1]},
			target{what: s.workersText() + ": the same, under 95 of 100 attacks", limit: abuseWithin, digits: 2, got: ratios[len(ratios)*95/100]})
	}
	return all
}
