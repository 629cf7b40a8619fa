package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/dirkv"
	"github.com/pillion-proxy/pillion/control/status"
	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// rig is a service in two versions, v1 and v2, which has no sidecars, and the sidecars of
// those who call it, who follow the documents of Consul's KV or of a folder.
type rig struct {
	t        *testing.T
	agent    *agents.Agent // nil: it is a folder
	dir      string
	files    *harness.Mesh // nil: the apps are in Consul
	where    []string      // how commands find the documents
	service  string
	apps     []*load.App
	sidecars []*caller
}

// caller is the sidecar of one who calls the service.
type caller struct {
	*harness.Sidecar

	id, app string
	command harness.Command
}

// newRig starts the apps. The rigs of one agent have services of different names.
func newRig(t *testing.T, agent *agents.Agent, service string) *rig {
	t.Helper()

	r := &rig{t: t, agent: agent, service: service}
	for _, version := range []string{"v1", "v2"} {
		r.apps = append(r.apps, load.StartApp(t, version, ""))
	}
	if agent != nil {
		r.where = []string{"--consul", agent.Address}
		r.register()

		return r
	}
	r.dir = filepath.Join(t.TempDir(), "documents")
	r.where = []string{"--control", r.dir}
	var endpoints []harness.Endpoint
	for _, a := range r.apps {
		endpoints = append(endpoints, harness.Endpoint{Address: a.Address, Meta: map[string]string{"version": a.Name}})
	}
	r.files = harness.NewMesh(t, map[string]harness.Service{service: {Endpoints: endpoints}})

	return r
}

// register tells Consul of the apps.
func (r *rig) register() {
	r.t.Helper()

	for _, a := range r.apps {
		_, port, err := net.SplitHostPort(a.Address)
		must(r.t, err)
		n, err := strconv.Atoi(port)
		must(r.t, err)
		must(r.t, r.agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: r.service + "-" + port, Name: r.service, Address: "127.0.0.1", Port: n, Meta: map[string]string{"version": a.Name},
		}))
	}
}

// start starts the sidecar of a caller without waiting for it. What it keeps over a
// restart it keeps in a folder; "": it keeps nothing.
func (r *rig) start(state string) *caller {
	r.t.Helper()

	n := strconv.Itoa(len(r.sidecars))
	c := &caller{id: r.service + "-web-" + n, app: r.service + "-web"}
	outbound, inbound, admin := harness.FreeAddress(r.t), harness.FreeAddress(r.t), harness.FreeAddress(r.t)
	app := load.StartApp(r.t, c.id, "")
	follow := map[string]any{"recording": map[string]any{"one_in": 1}}
	bootstrap := map[string]any{
		"admin":    map[string]any{"listen": admin},
		"outbound": map[string]any{"listen": outbound, "default_service": r.service},
		"inbound":  map[string]any{"listen": inbound},
		"service":  map[string]any{"name": c.app, "id": c.id, "address": app.Address, "health_check": map[string]any{"disabled": true}},
		"control":  follow, "drain": map[string]any{"timeout": "5s"},
	}
	if state != "" {
		follow["state_dir"] = state
	}
	if r.agent == nil {
		follow["dir"] = r.dir
		bootstrap["registry"] = map[string]any{"file": map[string]any{"path": r.files.Path}}
	} else {
		source := map[string]any{"address": r.agent.Address}
		if state != "" {
			source["cache_dir"] = state + "-instances"
		}
		follow["consul_entries"] = false
		bootstrap["registry"] = map[string]any{"consul": source}
	}
	text, err := json.Marshal(bootstrap)
	must(r.t, err)
	path := filepath.Join(r.t.TempDir(), "pillion.yaml")
	must(r.t, os.WriteFile(path, text, 0o600))
	c.command = harness.Command{Path: harness.PlainPillion(r.t), Args: []string{"run", "-c", path}}
	c.Sidecar = &harness.Sidecar{Process: harness.Start(r.t, c.command), Outbound: outbound, Inbound: inbound, Admin: admin}
	r.sidecars = append(r.sidecars, c)

	return c
}

// restart kills a sidecar, as a crash does, and starts it again where it was.
func (r *rig) restart(c *caller) {
	r.t.Helper()

	c.Kill()
	c.Process = harness.Start(r.t, c.command)
}

// ready starts sidecars and waits until they are ready, and have said how they stand.
func (r *rig) ready(count int) {
	r.t.Helper()

	for range count {
		r.start(filepath.Join(r.t.TempDir(), "state"))
	}
	store := r.store()
	for _, c := range r.sidecars {
		c.AwaitReady(r.t)
		agents.Eventually(r.t, c.id+" says how it stands", func() bool {
			_, err := store.Get(r.t.Context(), control.StatusKey(c.app, c.id))

			return err == nil
		})
	}
}

// loads makes RPCs through each of some sidecars.
func (r *rig) loads(of ...*caller) (all loads) {
	r.t.Helper()

	for _, c := range of {
		all = append(all, load.Start(r.t, load.Dial(r.t, c.Outbound), load.Options{PerSecond: 50, StreamEvery: 10}))
	}

	return all
}

type loads []*load.Load

func (all loads) more(t *testing.T, during string) {
	t.Helper()

	for _, l := range all {
		l.More(t, 200*time.Millisecond)
		l.Check(t, during)
	}
}

func (all loads) end(t *testing.T) {
	t.Helper()

	for _, l := range all {
		l.End(t)
	}
}

// answers waits until RPCs by a sidecar are answered by these versions alone, and returns
// how long that took. A hundred in a row are believed where there are several.
func (r *rig) answers(c *caller, versions ...string) time.Duration {
	r.t.Helper()

	conn, began := load.Dial(r.t, c.Outbound), time.Now()
	since, row, seen := began, 0, map[string]bool{}
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for row < 20*len(versions)*len(versions) || len(seen) < len(versions) {
		who, err := load.Who(ctx, conn)
		if err != nil {
			r.t.Fatalf("%s is to answer by %s: %v", versions, c.id, err)
		}
		if !slices.Contains(versions, who) {
			since, row, seen = time.Now(), 0, map[string]bool{}

			continue
		}
		row++
		seen[who] = true
	}

	return since.Sub(began)
}

// pillion runs a command on the documents that is to end so.
func (r *rig) pillion(code int, args ...string) string {
	r.t.Helper()

	got, said := command(r.t, r.where, args...)
	if got != code {
		r.t.Fatalf("pillion %s: exit %d, want %d:\n%s", strings.Join(args, " "), got, code, said)
	}

	return said
}

// file writes documents, in which SERVICE is the rig's.
func (r *rig) file(yaml string) (path string) {
	r.t.Helper()

	path = filepath.Join(r.t.TempDir(), "documents.yaml")
	must(r.t, os.WriteFile(path, []byte(strings.ReplaceAll(yaml, "SERVICE", r.service)), 0o600))

	return path
}

func (r *rig) apply(yaml string) {
	r.t.Helper()

	r.pillion(0, "apply", "-f", r.file(yaml), "-m", r.t.Name())
}

// routes has all RPCs go to a version.
func routes(version string) string {
	return `
policies:
- name: SERVICE-versions
  service: SERVICE
  subsets: {default: ` + version + `, subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}
`
}

// settle waits by `pillion status --wait`, and returns how the mesh stands.
func (r *rig) settle(code int) *status.Mesh {
	r.t.Helper()

	return r.mesh(r.pillion(code, "status", "--service", r.service, "--wait", "--timeout", "30s", "-o", "json"))
}

func (r *rig) mesh(text string) *status.Mesh {
	r.t.Helper()

	m := &status.Mesh{}
	if err := json.NewDecoder(bytes.NewBufferString(text)).Decode(m); err != nil {
		r.t.Fatalf("%v in %s", err, text)
	}

	return m
}

// store opens the store as somebody would who checks nothing.
func (r *rig) store() kv.Store {
	r.t.Helper()

	if r.agent == nil {
		store, err := dirkv.Open(r.dir, dirkv.Options{})
		must(r.t, err)

		return store
	}
	store, _ := openStore(r.t, r.agent, consul.Config{}, nil)

	return store
}

// upgrade has a sidecar replaced in place.
func (c *caller) upgrade(t *testing.T) {
	t.Helper()

	before := strings.Count(c.Output(), "upgraded: ")
	c.Signal(t, hangup)
	agents.Eventually(t, c.id+" is upgraded", func() bool { return strings.Count(c.Output(), "upgraded: ") > before })
}

// watching runs do while look is called again and again, each 10 ms.
func watching(look func(), do func()) {
	stop := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				look()
			}
		}
	})
	do()
	close(stop)
	ended.Wait()
}

// everywhere runs a test against Consul and against a folder.
func everywhere(t *testing.T, agent *agents.Agent, name string, test func(t *testing.T, r *rig)) {
	t.Helper()

	for where, of := range map[string]*agents.Agent{"Consul": agent, "folder": nil} {
		t.Run(fmt.Sprint(name, " ", where), func(t *testing.T) {
			t.Parallel()
			test(t, newRig(t, of, name))
		})
	}
}
