package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/filewatch"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/registry"
	"github.com/pillion-proxy/pillion/registry/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mesh returns a mesh file with one service, greeter, at this address.
func mesh(address string) string {
	return "services:\n  greeter:\n    endpoints:\n    - {address: \"" + address + "\"}\n"
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// records is a log handler that sends each record as text.
type records chan string

func (records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) WithAttrs([]slog.Attr) slog.Handler     { return r }
func (r records) WithGroup(string) slog.Handler          { return r }
func (r records) Handle(_ context.Context, record slog.Record) error {
	text := record.Level.String() + " " + record.Message
	record.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	r <- text
	return nil
}

// fixture is an open source, its log, and a watch of its service greeter.
type fixture struct {
	*Source
	log     records
	updates chan *registry.Service
}

func open(t *testing.T, path string) *fixture {
	t.Helper()
	f := &fixture{log: make(records, 100), updates: make(chan *registry.Service, 100)}
	source, err := Open(path, configyaml.DefaultMeshSize, slog.New(f.log))
	must(t, err)
	f.Source = source
	var watching sync.WaitGroup
	watching.Go(func() { source.Watch(t.Context(), "greeter", func(s *registry.Service) { f.updates <- s }) })
	t.Cleanup(func() {
		source.Close()
		watching.Wait()
	})
	return f
}

// expect waits until the greeter's next state is handed over.
func (f *fixture) expect(t *testing.T, addresses ...string) {
	t.Helper()
	select {
	case s := <-f.updates:
		var got []string
		if s != nil {
			for _, e := range s.Endpoints {
				got = append(got, e.Address)
			}
		}
		if !slices.Equal(got, addresses) {
			t.Fatalf("the greeter is at %q, want %q", got, addresses)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("no change is handed over, want %q; status: %+v", addresses, f.Status())
	}
}

// logged waits until a record with the text is logged and returns it.
func (f *fixture) logged(t *testing.T, text string) string {
	t.Helper()
	for {
		select {
		case record := <-f.log:
			if strings.Contains(record, text) {
				return record
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing with %q is logged", text)
		}
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, `
services:
  greeter:
    grpc: [helloworld.Greeter]
    endpoints:
    - {address: "127.0.0.1:2", weight: 3, meta: {version: v1}, tags: [a]}
    - {address: "127.0.0.1:1"}
  empty: {}
policies: []
`)
	source, err := Open(path, configyaml.DefaultMeshSize, nil)
	must(t, err)
	defer source.Close()
	names, err := source.Services(t.Context())
	if err != nil || !slices.Equal(names, []string{"empty", "greeter"}) {
		t.Errorf("services %q, %v", names, err)
	}
	names, err = source.Answering(t.Context(), "helloworld.Greeter")
	if err != nil || !slices.Equal(names, []string{"greeter"}) {
		t.Errorf("answering: %q, %v", names, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	source.Watch(ctx, "greeter", func(s *registry.Service) {
		cancel()
		want := []registry.Endpoint{
			{ID: "127.0.0.1:1", Address: "127.0.0.1:1", Weight: 1},
			{ID: "127.0.0.1:2", Address: "127.0.0.1:2", Weight: 3, Meta: map[string]string{"version": "v1"}, Tags: []string{"a"}},
		}
		if got := fmt.Sprint(s.Endpoints); got != fmt.Sprint(want) || s.Stale || s.Name != "greeter" {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	ctx, cancel = context.WithCancel(t.Context())
	source.Watch(ctx, "empty", func(s *registry.Service) {
		cancel()
		if s == nil || len(s.Endpoints) != 0 || s.GRPC != nil {
			t.Errorf("got %v; want a service that is known, but has nobody", s)
		}
	})
	if s := source.Status(); s.Path != path || s.Services != 2 || s.LoadedAt.IsZero() || s.Err != nil || !s.FailingSince.IsZero() {
		t.Errorf("status %+v", s)
	}
}

// Each way in which a file is given new content. Each step is one change, after
// which the greeter is at the address "changed:STEP".
func TestChanges(t *testing.T) {
	t.Parallel()
	type step func(t *testing.T, folder string)
	for name, c := range map[string]struct {
		prepare step
		steps   []step
		// path of the mesh file in the folder; mesh.yaml if empty
		path string
	}{
		"written in place": {
			prepare: func(t *testing.T, folder string) { write(t, folder+"/mesh.yaml", mesh("first:1")) },
			steps: []step{
				func(t *testing.T, folder string) { write(t, folder+"/mesh.yaml", mesh("changed:1")) },
				// The same size, and soon after.
				func(t *testing.T, folder string) { write(t, folder+"/mesh.yaml", mesh("changed:2")) },
			},
		},
		"replaced by renaming": {
			prepare: func(t *testing.T, folder string) { write(t, folder+"/mesh.yaml", mesh("first:1")) },
			steps:   []step{replaceFile("changed:1"), replaceFile("changed:2")},
		},
		"removed and made again": {
			prepare: func(t *testing.T, folder string) { write(t, folder+"/mesh.yaml", mesh("first:1")) },
			steps: []step{func(t *testing.T, folder string) {
				must(t, os.Remove(folder+"/mesh.yaml"))
				write(t, folder+"/mesh.yaml", mesh("changed:1"))
			}},
		},
		"Kubernetes' links": {
			prepare: func(t *testing.T, folder string) {
				must(t, os.Mkdir(folder+"/..0", 0o700))
				write(t, folder+"/..0/mesh.yaml", mesh("first:1"))
				must(t, os.Symlink("..0", folder+"/..data"))
				must(t, os.Symlink("..data/mesh.yaml", folder+"/mesh.yaml"))
			},
			steps: []step{swapKubernetes(1), swapKubernetes(2), swapKubernetes(3)},
		},
		"a link further up": {
			path: "current/conf/mesh.yaml",
			prepare: func(t *testing.T, folder string) {
				must(t, os.MkdirAll(folder+"/release0/conf", 0o700))
				write(t, folder+"/release0/conf/mesh.yaml", mesh("first:1"))
				must(t, os.Symlink("release0", folder+"/current"))
			},
			steps: []step{swapRelease(1), swapRelease(2), func(t *testing.T, folder string) {
				write(t, folder+"/release2/conf/mesh.yaml", mesh("changed:3"))
			}},
		},
		"the file that an absolute link leads to": {
			prepare: func(t *testing.T, folder string) {
				must(t, os.Mkdir(folder+"/elsewhere", 0o700))
				write(t, folder+"/elsewhere/real.yaml", mesh("first:1"))
				must(t, os.Symlink(folder+"/elsewhere/real.yaml", folder+"/mesh.yaml"))
			},
			steps: []step{func(t *testing.T, folder string) {
				write(t, folder+"/elsewhere/real.yaml", mesh("changed:1"))
			}},
		},
		"the folder replaced": {
			path: "conf/mesh.yaml",
			prepare: func(t *testing.T, folder string) {
				must(t, os.Mkdir(folder+"/conf", 0o700))
				write(t, folder+"/conf/mesh.yaml", mesh("first:1"))
			},
			steps: []step{replaceFolder(1), replaceFolder(2)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			path := c.path
			if path == "" {
				path = "mesh.yaml"
			}
			c.prepare(t, folder)
			f := open(t, filepath.Join(folder, path))
			f.expect(t, "first:1")
			for i, change := range c.steps {
				change(t, folder)
				f.expect(t, fmt.Sprintf("changed:%d", i+1))
			}
		})
	}
}

func replaceFile(address string) func(t *testing.T, folder string) {
	return func(t *testing.T, folder string) {
		t.Helper()
		write(t, folder+"/.mesh.tmp", mesh(address))
		must(t, os.Rename(folder+"/.mesh.tmp", folder+"/mesh.yaml"))
	}
}

func swapKubernetes(n int) func(t *testing.T, folder string) {
	return func(t *testing.T, folder string) {
		t.Helper()
		data := fmt.Sprintf("..%d", n)
		must(t, os.Mkdir(filepath.Join(folder, data), 0o700))
		write(t, filepath.Join(folder, data, "mesh.yaml"), mesh(fmt.Sprintf("changed:%d", n)))
		must(t, os.Symlink(data, folder+"/..data_tmp"))
		must(t, os.Rename(folder+"/..data_tmp", folder+"/..data"))
		must(t, os.RemoveAll(filepath.Join(folder, fmt.Sprintf("..%d", n-1))))
	}
}

func swapRelease(n int) func(t *testing.T, folder string) {
	return func(t *testing.T, folder string) {
		t.Helper()
		release := fmt.Sprintf("release%d", n)
		must(t, os.MkdirAll(filepath.Join(folder, release, "conf"), 0o700))
		write(t, filepath.Join(folder, release, "conf", "mesh.yaml"), mesh(fmt.Sprintf("changed:%d", n)))
		must(t, os.Symlink(release, folder+"/next"))
		must(t, os.Rename(folder+"/next", folder+"/current"))
	}
}

func replaceFolder(n int) func(t *testing.T, folder string) {
	return func(t *testing.T, folder string) {
		t.Helper()
		must(t, os.Mkdir(folder+"/new", 0o700))
		write(t, folder+"/new/mesh.yaml", mesh(fmt.Sprintf("changed:%d", n)))
		must(t, os.Rename(folder+"/conf", fmt.Sprintf("%s/old%d", folder, n)))
		must(t, os.Rename(folder+"/new", folder+"/conf"))
	}
}

func TestBadEdit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, mesh("first:1"))
	f := open(t, path)
	f.expect(t, "first:1")
	loaded := f.Status().LoadedAt

	write(t, path, "services:\n  greeter: {endpoint: []}\n  b: {endpoints: [{address: x}]}\n")
	record := f.logged(t, "not taken over")
	if !strings.Contains(record, path+`:2:13: services["greeter"]: unknown field "endpoint": did you mean "endpoints"?`) || strings.Contains(record, "\n") {
		t.Errorf("logged %q", record)
	}
	status := f.Status()
	if problems, ok := errors.AsType[configyaml.Problems](status.Err); !ok || problems[0].Line != 2 {
		t.Errorf("the status says %v", status.Err)
	}
	if status.FailingSince.IsZero() || !status.LoadedAt.Equal(loaded) || status.Services != 1 {
		t.Errorf("status %+v", status)
	}
	names, _ := f.Services(t.Context())
	if !slices.Equal(names, []string{"greeter"}) {
		t.Errorf("the services are %q after a bad edit", names)
	}

	// Bad in another way, and then good: nothing is said twice.
	write(t, path, "services: [")
	f.logged(t, "not valid YAML")
	if since := f.Status().FailingSince; !since.Equal(status.FailingSince) {
		t.Errorf("failing since %v, want %v", since, status.FailingSince)
	}
	write(t, path, mesh("second:1"))
	f.expect(t, "second:1")
	f.logged(t, "is in force")
	if s := f.Status(); s.Err != nil || !s.FailingSince.IsZero() || s.LoadedAt.Before(loaded) {
		t.Errorf("status %+v", s)
	}
}

// What is wrong is said once for each content, however often it is looked at.
func TestBadEditIsLoggedOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, mesh("first:1"))
	log := make(records, 100)
	s := &Source{Source: memory.New(), path: path, maxSize: configyaml.DefaultMeshSize, logger: slog.New(log), now: time.Now}
	must(t, s.open())
	count := func() (n int) {
		for len(log) > 0 {
			<-log
			n++
		}
		return n
	}
	count()
	steps := []struct {
		name string
		do   func()
		logs int
	}{
		{"unchanged", func() {}, 0},
		{"bad, with two problems", func() { write(t, path, "a: 1\nb: 2\n") }, 2},
		{"the same again", func() { write(t, path, "a: 1\nb: 2\n") }, 0},
		{"empty", func() { write(t, path, "") }, 1},
		{"missing", func() { must(t, os.Remove(path)) }, 1},
		{"still missing", func() {}, 0},
		{"as it was", func() { write(t, path, mesh("first:1")) }, 1},
		{"no services", func() { write(t, path, "services: {}\n") }, 1},
		{"empty, which now is no loss", func() { write(t, path, "# nothing\n") }, 1},
	}
	for _, step := range steps {
		step.do()
		s.reload()
		s.reload()
		if got := count(); got != step.logs {
			t.Errorf("%s: %d lines are logged, want %d", step.name, got, step.logs)
		}
	}
}

func TestMissingForAWhile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "mesh.yaml")
	write(t, path, mesh("first:1"))
	f := open(t, path)
	f.expect(t, "first:1")
	must(t, os.Remove(path))
	f.logged(t, "file does not exist")
	if f.Status().Err == nil {
		t.Error("the status does not say that the file is missing")
	}
	write(t, path, mesh("first:1"))
	f.logged(t, "is in force")
	if err := f.Status().Err; err != nil {
		t.Errorf("the status says %v", err)
	}
	// The greeter was never gone: the next thing handed over is a real change.
	write(t, path, mesh("second:1"))
	f.expect(t, "second:1")
}

func TestWithoutNotifications(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, mesh("first:1"))
	s := &Source{Source: memory.New(), path: path, maxSize: configyaml.DefaultMeshSize, logger: slog.New(slog.DiscardHandler), now: time.Now}
	must(t, s.open())
	ctx, cancel := context.WithCancel(t.Context())
	updates := make(chan *registry.Service, 10)
	var running sync.WaitGroup
	running.Go(func() { (&filewatch.Watcher{}).Run(ctx, s.reload) })
	running.Go(func() { s.Watch(ctx, "greeter", func(s *registry.Service) { updates <- s }) })
	f := &fixture{Source: s, updates: updates}
	f.expect(t, "first:1")
	write(t, path, mesh("second:1"))
	f.expect(t, "second:1")
	cancel()
	running.Wait()
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	_, err := Open(filepath.Join(folder, "mesh.yaml"), configyaml.DefaultMeshSize, nil)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	write(t, folder+"/bad.yaml", "service: {}\n")
	_, err = Open(folder+"/bad.yaml", configyaml.DefaultMeshSize, nil)
	if err == nil || err.Error() != folder+`/bad.yaml:1:1: unknown field "service": did you mean "services"?` {
		t.Errorf("bad file: %v", err)
	}
	write(t, folder+"/large.yaml", mesh("first:1"))
	_, err = Open(folder+"/large.yaml", 10, nil)
	if err == nil || !strings.Contains(err.Error(), "is larger than 10 bytes") {
		t.Errorf("file that is too large: %v", err)
	}
}

func TestManyWatchersOfAFile(t *testing.T) {
	t.Parallel()
	const watchers = 100
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	write(t, path, mesh("first:1"))
	source, err := Open(path, configyaml.DefaultMeshSize, nil)
	must(t, err)
	defer source.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var watching, first, second sync.WaitGroup
	first.Add(watchers)
	second.Add(watchers)
	for range watchers {
		watching.Go(func() {
			source.Watch(ctx, "greeter", func(s *registry.Service) {
				switch s.Endpoints[0].Address {
				case "first:1":
					first.Done()
				case "second:1":
					second.Done()
				}
			})
		})
	}
	first.Wait()
	write(t, path, mesh("second:1"))
	second.Wait()
	cancel()
	watching.Wait()
}
