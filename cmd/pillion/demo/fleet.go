package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// fleet is all processes of the demo.
type fleet struct {
	executable string
	dir        string   // where the files are
	names      []string // of the greeters
	apps       []*process
	appAddrs   []string
	beside     []sidecar // the apps'
	clients    []sidecar
	services   string // the mesh file, but for its policies
	controlled bool   // they obey documents
	deciders   []string
}

// sidecar is a sidecar's process, and where it listens.
type sidecar struct {
	*process
	at map[string]string // by side
}

// startFleet starts everything a scenario needs, and waits until it listens.
func startFleet(ctx context.Context, o Options, dir string, s *scenario) (_ *fleet, err error) {
	f := &fleet{executable: o.Executable, dir: dir, names: s.greeters, controlled: s.controlled, deciders: s.deciders}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	if err := f.makeCA(); err != nil {
		return nil, err
	}
	var mesh strings.Builder
	mesh.WriteString("services:\n  greeter:\n    grpc: [helloworld.Greeter]\n    endpoints:\n")
	for _, name := range f.names {
		app, at, err := startApp(ctx, f.executable, name, "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		f.apps, f.appAddrs = append(f.apps, app), append(f.appAddrs, at)
		beside, err := f.startBeside(ctx, name, at)
		if err != nil {
			return nil, err
		}
		f.beside = append(f.beside, beside)
		fmt.Fprintf(&mesh, "    - {address: %q, meta: {version: %s}}\n", beside.at["inbound"], name)
	}
	f.services = mesh.String()
	if err := f.writeMesh(s.policies(pace(o.Duration))); err != nil {
		return nil, err
	}
	for i := range s.clients {
		name, outbound, admin := "client", o.Outbound, o.Admin
		if s.clients > 1 {
			name = fmt.Sprintf("client %d", i+1)
		}
		if i > 0 {
			outbound, admin = "127.0.0.1:0", "127.0.0.1:0"
		}
		client, err := f.startSidecar(ctx, name, fmt.Sprintf(
			"outbound: {listen: %q}\nadmin: {listen: %q}\nregistry: {file: {path: mesh.yaml}}\n%s",
			outbound, admin, f.identity(strings.ReplaceAll(name, " ", "-"))+f.control("")), "outbound", "admin")
		if err != nil {
			return nil, err
		}
		f.clients = append(f.clients, client)
	}
	return f, nil
}

// startBeside starts the sidecar beside a greeter that listens at an address.
func (f *fleet) startBeside(ctx context.Context, name, at string) (sidecar, error) {
	return f.startSidecar(ctx, "greeter-"+name, fmt.Sprintf(
		"service: {name: greeter, id: greeter-%s, address: %q, meta: {version: %s}}\ninbound: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\n%s",
		name, at, name, f.identity("greeter")+f.control(name)), "inbound", "admin")
}

func startApp(ctx context.Context, executable, name, listen string) (*process, string, error) {
	app, err := start(executable, "greeter "+name, "demo", "app", "--version-name", name, "--listen", listen)
	if err != nil {
		return nil, "", err
	}
	at, err := app.listening(ctx, "app")
	if err != nil {
		return nil, "", errors.Join(err, app.end())
	}
	return app, at["app"], nil
}

// startSidecar starts a sidecar with a bootstrap of that content.
func (f *fleet) startSidecar(ctx context.Context, name, bootstrap string, sides ...string) (sidecar, error) {
	path := filepath.Join(f.dir, name+".yaml")
	if err := os.WriteFile(path, []byte(bootstrap+"log: {format: json}\ndrain: {timeout: 3s}\n"), 0o600); err != nil {
		return sidecar{}, err
	}
	p, err := start(f.executable, "the sidecar of "+name, "run", "-c", path)
	if err != nil {
		return sidecar{}, err
	}
	at, err := p.listening(ctx, sides...)
	if err != nil {
		return sidecar{}, errors.Join(err, p.end())
	}
	return sidecar{p, at}, nil
}

// restartApp starts an app again where it was.
func (f *fleet) restartApp(ctx context.Context, i int) (err error) {
	f.apps[i], _, err = startApp(ctx, f.executable, f.names[i], f.appAddrs[i])
	return err
}

// tell has an app behave so, and waits until it does.
func (f *fleet) tell(ctx context.Context, i int, b behaviour) error {
	app := f.apps[i]
	app.forget()
	if _, err := fmt.Fprintln(app.in, b); err != nil {
		return fmt.Errorf("telling %s: %w", app.name, err)
	}
	return app.taken(ctx)
}

// tellAll has all apps behave so.
func (f *fleet) tellAll(ctx context.Context, b behaviour) error {
	for i := range f.apps {
		if err := f.tell(ctx, i, b); err != nil {
			return err
		}
	}
	return nil
}

// meshPath is the file that the clients' sidecars read.
func (f *fleet) meshPath() string { return filepath.Join(f.dir, "mesh.yaml") }

// writeMesh writes the mesh file as an editor does that takes care: nobody sees half
// of it.
func (f *fleet) writeMesh(policies string) error {
	path := f.meshPath()
	if err := os.WriteFile(path+".new", []byte(f.services+policies), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// edit changes the policies while everything runs, and waits until the clients'
// sidecars say that they have taken that over.
func (f *fleet) edit(ctx context.Context, policies string) error {
	for _, c := range f.clients {
		c.forget()
	}
	if err := f.writeMesh(policies); err != nil {
		return err
	}
	for _, c := range f.clients {
		if err := c.taken(ctx); err != nil {
			return err
		}
	}
	return nil
}

// news tells what the policies of the clients' sidecars did lately.
func (f *fleet) news() (news []string) {
	var names []string
	for i, s := range f.beside {
		names = append(names, s.at["inbound"], "greeter "+f.names[i])
	}
	named := strings.NewReplacer(names...)
	for _, c := range f.clients {
		for _, story := range c.news() {
			if strings.HasPrefix(story, "takes ") {
				story = c.name + " " + story
			}
			news = append(news, named.Replace(story))
		}
	}
	for _, s := range f.beside {
		news = append(news, s.news()...)
	}
	return news
}

// scrapeAll asks sidecars for their metrics. Of one that does not answer nothing is
// known.
func scrapeAll(ctx context.Context, sidecars []sidecar) []metrics {
	all := make([]metrics, len(sidecars))
	for i, s := range sidecars {
		all[i], _ = scrape(ctx, s.at["admin"])
	}
	return all
}

// sentElsewhere is how many RPCs met an instance that was gone.
func (f *fleet) sentElsewhere(ctx context.Context) int {
	return int(sumOf(scrapeAll(ctx, f.clients), "pillion_transparent_retries_total", labels{"service": "greeter", "side": "outbound"}))
}

// stop ends everything: who calls goes first.
func (f *fleet) stop() {
	for _, c := range f.clients {
		_ = c.end()
	}
	for _, s := range f.beside {
		_ = s.end()
	}
	for _, app := range f.apps {
		if app != nil {
			_ = app.end()
		}
	}
}
