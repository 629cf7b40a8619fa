package routing

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

func TestAuthorityComesFirst(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Default: "fallback"})
		r.source.set(func() { r.source.answering["helloworld.Greeter"] = []string{"other"} })
		c := r.route("greeter:443", sayHello)
		c.want("waits")
		r.source.tell(t, "greeter", true)
		c.want("greeter by authority")
		if n := r.source.askedFor("helloworld.Greeter"); n != 0 {
			t.Errorf("who answers was asked %d times, though nobody needs to know", n)
		}
		r.route("greeter.service.consul", sayHello).want("greeter by authority")
	})
}

func TestThenTheGRPCService(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Default: "fallback"})
		r.source.set(func() { r.source.answering["helloworld.Greeter"] = []string{"greeter"} })
		c := r.route("127.0.0.1:15001", sayHello)
		c.want("waits")
		r.source.tell(t, "greeter", true)
		c.want("greeter by grpc service")
		// An authority that names no service is no obstacle.
		d := r.route("example.com", sayHello)
		d.want("waits")
		r.source.tell(t, "example.com", false)
		d.want("greeter by grpc service")
	})
}

func TestThenTheDefault(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Default: "fallback"})
		r.source.tell(t, "fallback", true)
		r.route("localhost", sayHello).want("fallback by default")
		r.route("localhost", "/grpc.health.v1.Health/Check").want("fallback by default")
		r.source.set(func() { r.source.answering["a.B"] = []string{"x", "y"} })
		r.route("localhost", "/a.B/C").want("fallback by default")
		if n := r.source.askedFor("grpc.health.v1.Health"); n != 0 {
			t.Error("it is asked who answers health: all do")
		}
	})
}

// The one service that answers is not there: the default is better than nothing.
func TestTheDefaultWhereTheOnlyOneThatAnswersIsGone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Default: "fallback"})
		r.source.tell(t, "fallback", true)
		r.source.set(func() { r.source.answering["helloworld.Greeter"] = []string{"greeter"} })
		c := r.route("localhost", sayHello)
		r.source.tell(t, "greeter", false)
		c.want("fallback by default")
	})
}

func TestReflectionForTheMesh(t *testing.T) {
	simulated(t, func(t *testing.T) {
		reflection := newRig(t, Options{}).opts.NewCluster("reflection")
		r := newRig(t, Options{Reflection: reflection})
		for _, v := range []string{"v1", "v1alpha"} {
			path := "/grpc.reflection." + v + ".ServerReflection/ServerReflectionInfo"
			r.route("localhost:15001", path).want("reflection by mesh reflection")
			c := r.route("greeter", path)
			synctest.Wait()
			if _, times := r.source.watching("greeter"); times == 1 && v == "v1" {
				r.source.tell(t, "greeter", true)
			}
			c.want("greeter by authority")
		}
	})
}

func TestExplain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.source.set(func() {
			r.source.all = []string{"billing", "greeter"}
			r.source.answering["a.B"] = []string{"x", "y"}
		})
		c := r.route("nobody", sayHello)
		r.source.tell(t, "nobody", false)
		c.want(`Unimplemented NR: no destination: authority "nobody" names no service; gRPC service "helloworld.Greeter": no service says that it answers it; no default destination; known services: billing, greeter`)
		r.route("localhost", "/a.B/C").want(`*several services answer it (x, y): name one in :authority; no default destination; known services: billing, greeter`)
		r.route("localhost", "nonsense").want(`Unimplemented NR: no destination: *`)
		r.route(strings.Repeat("%", 50000), "nonsense").want(`Unimplemented NR: no destination: *`)
		if _, _, message := r.Explain("", strings.Repeat("x", 50000), "/"+strings.Repeat("y", 50000)+"/M"); len(message) > 2000 {
			t.Errorf("a message of %d bytes", len(message))
		}
	})
}

func TestExplainAMissingDefault(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Default: "fallback"})
		r.source.tell(t, "fallback", false)
		r.route("localhost", sayHello).want(`Unimplemented NR: *the default destination "fallback" is not in the registry; known services: none`)
	})
}

func TestManyKnownServices(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.source.set(func() {
			for i := range 15 {
				r.source.all = append(r.source.all, fmt.Sprintf("s%02d", i))
			}
		})
		r.route("localhost", sayHello).want("*known services: s00, s01, s02, s03, s04, s05, s06, s07, s08, s09 and 5 more")
	})
}

// The registry says nothing: RPCs wait for so long, then fail, and go on as soon
// as it does speak.
func TestTheRegistryIsSlow(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ResolveTimeout: 2 * time.Second})
		c := r.route("greeter", sayHello)
		time.Sleep(2*time.Second - 1)
		c.want("waits")
		time.Sleep(time.Nanosecond)
		c.want(`Unavailable UH: the registry has not said within 2s where service "greeter" is`)
		for range 20 { // RPCs keep coming: it stays watched
			time.Sleep(time.Second)
			r.route("greeter", sayHello).want("Unavailable UH: the registry has not said*")
		}
		r.source.tell(t, "greeter", true)
		r.route("greeter", sayHello).want("greeter by authority")
		if _, times := r.source.watching("greeter"); times != 1 {
			t.Errorf("watched %d times, want once: a slow registry would never get to its answer", times)
		}
	})
}

// A registry that never answers holds an RPC for the resolve timeout once, also
// where there are two questions.
func TestTheRegistryNeverAnswers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ResolveTimeout: 2 * time.Second})
		hold := make(chan struct{})
		r.source.set(func() { r.source.hold = hold })
		c := r.route("greeter", sayHello)
		time.Sleep(2*time.Second - 1)
		c.want("waits")
		time.Sleep(time.Nanosecond)
		c.want(`Unavailable UH: the registry has not said within 2s where service "greeter" is`)
		if n := r.source.askedFor("helloworld.Greeter"); n != 1 {
			t.Errorf("who answers was asked %d times", n)
		}
		close(hold)
	})
}

func TestAServiceNobodyAsksForAndTheRegistryDoesNotKnow(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ResolveTimeout: 2 * time.Second})
		r.route("greeter", sayHello)
		time.Sleep(unansweredTTL + 5*time.Second)
		if now, _ := r.source.watching("greeter"); now {
			t.Error("it is watched for ever")
		}
	})
}

func TestTheRegistryCannotSayWhoAnswers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.source.set(func() { r.source.err = errors.New("connection refused") })
		r.route("localhost", sayHello).want(`Unavailable UH: the registry cannot say now who answers gRPC service "helloworld.Greeter", and authority "localhost" names no service: connection refused`)
		r.source.set(func() { r.source.err, r.source.answering["helloworld.Greeter"] = nil, []string{"greeter"} })
		time.Sleep(5 * time.Second)
		c := r.route("localhost", sayHello)
		r.source.tell(t, "greeter", true)
		c.want("greeter by grpc service")

		// What is known stays, though it cannot be confirmed.
		r.source.set(func() { r.source.err = errors.New("connection refused") })
		for range 10 {
			time.Sleep(answeringTTL)
			r.route("localhost", sayHello).want("greeter by grpc service")
		}
	})
}

// "There is none" is believed for two seconds, unless the registry says otherwise.
func TestNoneIsForgotten(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		c := r.route("greeter", sayHello)
		r.source.tell(t, "greeter", false)
		c.want("Unimplemented*")
		r.route("greeter", sayHello).want("Unimplemented*")
		if _, times := r.source.watching("greeter"); times != 1 {
			t.Errorf("watched %d times", times)
		}
		r.source.tell(t, "greeter", true) // within the two seconds
		r.route("greeter", sayHello).want("greeter by authority")
		r.source.tell(t, "greeter", false)
		r.route("greeter", sayHello).want("Unimplemented*")
		time.Sleep(5 * time.Second)
		if now, _ := r.source.watching("greeter"); now {
			t.Error("what does not exist is still watched")
		}
		d := r.route("greeter", sayHello)
		d.want("waits")
		r.source.tell(t, "greeter", true)
		d.want("greeter by authority")
	})
}

// RPCs that go to the default destination are never held up for what the registry would
// say anew of their name, or of their authority, which may take as long as it is away.
func TestNoneIsRefreshedInTheBackground(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Default: "fallback"})
		c := r.route("elsewhere", sayHello)
		r.source.tell(t, "fallback", true)
		r.source.tell(t, "elsewhere", false)
		c.want("fallback by default")
		hold := make(chan struct{})
		r.source.set(func() { r.source.hold = hold })
		for range 100 {
			time.Sleep(time.Second)
			r.route("elsewhere", sayHello).want("fallback by default")
		}
		time.Sleep(30 * time.Second)
		r.route("localhost", sayHello).want("fallback by default") // one now and then
		if n := r.source.askedFor("helloworld.Greeter"); n < 20 {
			t.Errorf("who answers was asked %d times in two minutes", n)
		}
		if _, times := r.source.watching("elsewhere"); times != 1 {
			t.Errorf("watched %d times", times)
		}

		// What it says then holds.
		r.source.set(func() { r.source.answering["helloworld.Greeter"] = []string{"greeter"} })
		close(hold)
		synctest.Wait()
		d := r.route("localhost", sayHello)
		d.want("waits")
		r.source.tell(t, "greeter", true)
		d.want("greeter by grpc service")
	})
}

func TestAnAnswerIsRefreshedInTheBackground(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.source.set(func() { r.source.answering["helloworld.Greeter"] = []string{"old"} })
		c := r.route("localhost", sayHello)
		r.source.tell(t, "old", true)
		c.want("old by grpc service")
		time.Sleep(answeringTTL + 2*sweepEvery) // the sweep sees how old it is
		hold := make(chan struct{})
		r.source.set(func() {
			r.source.answering["helloworld.Greeter"] = []string{"new"}
			r.source.hold = hold
		})
		for range 100 { // nobody waits for it, and it is asked once
			r.route("localhost", sayHello).want("old by grpc service")
		}
		if n := r.source.askedFor("helloworld.Greeter"); n != 2 {
			t.Errorf("asked %d times, want 2", n)
		}
		close(hold)
		synctest.Wait()
		d := r.route("localhost", sayHello)
		d.want("waits")
		r.source.tell(t, "new", true)
		d.want("new by grpc service")
	})
}

func TestServicesAreAskedWhereTheRegistryDoesNotSay(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Learn: func(_ context.Context, service string) ([]string, error) {
			switch service {
			case "greeter":
				return []string{"helloworld.Greeter"}, nil
			case "broken":
				return nil, errors.New("no reflection")
			}
			return []string{"a.B"}, nil
		}})
		r.source.set(func() { r.source.all = []string{"broken", "greeter", "x", "y"} })
		c := r.route("localhost", sayHello)
		r.source.tell(t, "greeter", true)
		c.want("greeter by grpc service")
		r.route("localhost", "/a.B/C").want("*several services answer it (x, y): name one in :authority; no default destination; known services: broken, greeter, x, y")
	})
}

func TestIdleServicesAreDropped(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{IdleTimeout: time.Minute, Declared: []string{"declared"}, Default: "fallback"})
		r.source.tell(t, "declared", true)
		r.source.tell(t, "fallback", true)
		c := r.route("greeter", sayHello)
		r.source.tell(t, "greeter", true)
		c.want("greeter by authority")
		d := r.route("busy", sayHello)
		r.source.tell(t, "busy", true)
		d.want("busy by authority")
		in, _ := d.cluster.Pick(nil)
		in.Begin(time.Now())
		for range 3 { // who asks keeps it
			time.Sleep(50 * time.Second)
			r.route("greeter", sayHello).want("greeter by authority")
		}
		time.Sleep(65 * time.Second)
		for service, want := range map[string]bool{"greeter": false, "busy": true, "declared": true, "fallback": true} {
			if now, _ := r.source.watching(service); now != want {
				t.Errorf("%s is watched: %v, want %v", service, now, want)
			}
		}
		in.End()
		time.Sleep(65 * time.Second)
		if now, _ := r.source.watching("busy"); now {
			t.Error("busy is still watched, though its RPC has ended")
		}
		if n := len(r.Clusters()); n != 2 {
			t.Errorf("%d clusters, want 2", n)
		}
	})
}

// An RPC that has found a service is not let down where the service is dropped in
// that moment.
func TestAServiceIsDroppedWhileAnRPCIsOnItsWayThere(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{IdleTimeout: time.Minute})
		c := r.route("greeter", sayHello)
		r.source.tell(t, "greeter", true)
		c.want("greeter by authority")
		r.forget(time.Now()) // notes that it was used
		r.forget(time.Now().Add(time.Hour))
		if r.tables.Load().services.len() != 0 {
			t.Fatal("it is not dropped")
		}
		in, ok := c.cluster.Pick(nil)
		if !ok {
			t.Fatal("the RPC finds no instance")
		}
		in.Begin(time.Now())
		time.Sleep(10 * time.Second)
		if _, ok := c.cluster.Pick(nil); !ok {
			t.Error("its instances are gone before it has ended")
		}
		in.End()
		time.Sleep(2 * time.Second)
		if now, _ := r.source.watching("greeter"); now {
			t.Error("it is still watched")
		}
	})
}

// Callers choose the names: there is a bound to how many are remembered, and
// nobody spins where it is reached.
func TestTooManyNames(t *testing.T) {
	for most, want := range map[int]int{0: 10000, 3: 3} {
		t.Run(strconv.Itoa(want), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{MaxNames: most})
				full := new(tables)
				for i := range want {
					s := &service{cancel: func() {}}
					full.services = full.services.with(strconv.Itoa(i), s)
					full.names = full.names.with(strconv.Itoa(i), &name{})
				}
				r.tables.Store(full)
				r.route("greeter", sayHello).want("too many")
				r.route("localhost", sayHello).want("too many")
				if n := r.tables.Load().services.len() + r.tables.Load().names.len(); n != 2*want {
					t.Errorf("%d entries", n)
				}
			})
		})
	}
}

func TestTooManyWaiting(t *testing.T) {
	for most, want := range map[int]int{0: 10000, 3: 3} {
		t.Run(strconv.Itoa(want), func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newRig(t, Options{MaxWaiting: most})
				c := r.route("greeter", sayHello)
				e := &r.tables.Load().services.get("greeter").entry
				e.mu.Lock()
				for len(e.waiting) < want {
					e.waiting = append(e.waiting, waiter{nobody{}, 1})
				}
				e.mu.Unlock()
				r.route("greeter", sayHello).want("too many")
				r.source.tell(t, "greeter", true)
				c.want("greeter by authority")
			})
		})
	}
}

// "There is no such service" is believed for as long as it is configured.
func TestNotFoundTTL(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{NotFoundTTL: time.Minute})
		c := r.route("greeter", sayHello)
		r.source.tell(t, "greeter", false)
		c.want("Unimplemented*")
		time.Sleep(58 * time.Second)
		r.route("greeter", sayHello).want("Unimplemented*")
		time.Sleep(4 * time.Second)
		r.route("greeter", sayHello).want("waits")
	})
}

type nobody struct{}

func (nobody) OnRoute(uint32) {}

// The registry answers between an RPC's look and its wait.
func TestSettledBeforeTheWait(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.route("greeter", sayHello)
		r.source.tell(t, "greeter", true)
		c := &rpc{r: r, authority: "greeter", path: sayHello}
		if !r.Await("", c.authority, c.path, c, 7) {
			t.Fatal("it may not wait")
		}
		c.want("greeter by authority")
	})
}

// The answer that comes just as it is given up stays.
func TestAnswerAtTheBound(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		c := r.route("greeter", sayHello)
		r.source.tell(t, "greeter", true)
		r.tables.Load().services.get("greeter").giveUp()
		r.route("greeter", sayHello).want("greeter by authority")
		c.want("greeter by authority")
	})
}

func TestCloseTellsThoseThatWait(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{ResolveTimeout: time.Hour})
		hold := make(chan struct{})
		r.source.set(func() { r.source.hold = hold })
		c, d := r.route("greeter", sayHello), r.route("localhost", sayHello)
		c.want("waits")
		d.want("waits")
		r.Close()
		c.want("*")
		d.want("Unavailable*")
		r.route("another", sayHello).want("too many")
		r.route("localhost", "/x.Y/Z").want("too many")
		if now, _ := r.source.watching("greeter"); now {
			t.Error("it is still watched")
		}
	})
}

func TestClustersFollowTheRegistry(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Declared: []string{"b", "a", "c"}})
		r.source.tell(t, "a", true)
		r.source.tell(t, "b", true)
		var names []string
		for _, c := range r.Clusters() {
			names = append(names, c.Name())
		}
		if fmt.Sprint(names) != "[a b]" || fmt.Sprint(r.Known()) != "[a b]" {
			t.Errorf("clusters %v, known %v", names, r.Known())
		}
		r.source.tell(t, "a", false)
		if n := len(r.Clusters()); n != 1 {
			t.Errorf("%d clusters, want 1", n)
		}
	})
}

func TestClustersKnowWhatTheirServiceAnswers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{Declared: []string{"a"}})
		r.source.tell(t, "a", true)
		cluster := r.Clusters()[0]
		if names := cluster.Status().GRPC; len(names) != 0 {
			t.Errorf("it says nothing, the status says %v", names)
		}
		r.source.mu.Lock()
		update := r.source.updates["a"]
		r.source.mu.Unlock()
		update(&registry.Service{Name: "a", GRPC: []string{"a.A", "a.B"}})
		if names := cluster.Status().GRPC; fmt.Sprint(names) != "[a.A a.B]" {
			t.Errorf("the status says %v", names)
		}
		r.source.tell(t, "a", false)
		if names := cluster.Status().GRPC; len(names) != 0 {
			t.Errorf("it is gone, and the status says %v", names)
		}
	})
}

func TestFindAllocatesNothing(t *testing.T) {
	r := New(Options{Source: newSource(), Declared: []string{"greeter"}, NewCluster: func(name string) *upstream.Cluster {
		up := upstream.Options{HTTP2: new(h2.Config)}.WithDefaults()
		return upstream.NewCluster(name, 0, &up, nil)
	}})
	defer r.Close()
	r.tables.Load().services.get("greeter").update(&registry.Service{Name: "greeter"})
	if n := testing.AllocsPerRun(100, func() { r.Find(nil, "greeter:443", sayHello) }); n != 0 {
		t.Errorf("Find allocates %v times", n)
	}
}

// Callers choose the names that are looked up; only those that exist get a
// cluster, and so counters.
func TestUnknownNamesGetNoCluster(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.route("junk", sayHello).want("waits")
		r.source.tell(t, "junk", false)
		if c := r.tables.Load().services.get("junk").cluster.Load(); c != nil {
			t.Error("a name that the registry does not know has a cluster")
		}
	})
}
