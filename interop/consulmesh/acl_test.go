package consulmesh

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
	"github.com/pillion-proxy/pillion/interop/load"
)

// What the token of a sidecar beside the app "greeter" needs, and what one beside
// a client does.
const (
	registerRules = `service "greeter" { policy = "write" } service "greeter-sidecar-proxy" { policy = "write" }`
	discoverRules = `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`
	// poorRules are too little for both.
	poorRules = `node_prefix "" { policy = "read" }`

	unknownToken = "00000000-0000-0000-0000-00000000dead"
)

// tokenFile is a file that a token is kept in, and replaced as secret managers do.
type tokenFile struct{ path string }

func newTokenFile(t *testing.T, token string) tokenFile {
	t.Helper()

	file := tokenFile{filepath.Join(t.TempDir(), "token")}
	file.replace(t, token)

	return file
}

func (f tokenFile) replace(t *testing.T, token string) {
	t.Helper()

	if err := os.WriteFile(f.path+".new", []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		t.Fatal(err)
	}
}

// setting is the file as a bootstrap's registry.consul has it.
func (f tokenFile) setting() map[string]any { return map[string]any{"token_file": f.path} }

// A token that may not enough, or that Consul has never seen, is said to be so in
// a line that names the rule that is missing. Once the file holds a better one,
// all works, without a restart.
func TestTokensThatMayTooLittle(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t, consul.WithACLs())
	poor := agent.Token(t, poorRules)

	registering := newTokenFile(t, poor)
	i := startInstance(t, agent, "greeter", "one", instanceOptions{consul: registering.setting()})
	awaitLine(t, i.sidecar, "the ACL token may not register service greeter", `service "greeter-sidecar-proxy" { policy = "write" }`)

	if shown := sourceOf(t, i.sidecar); !strings.Contains(shown.Error, `service "greeter-sidecar-proxy" { policy = "write" }`) {
		t.Errorf("/config shows the source as %+v", shown)
	}

	// They ask for a service that nobody has registered yet.
	files := map[string]tokenFile{poor: newTokenFile(t, poor), unknownToken: newTokenFile(t, unknownToken)}
	clients := map[string]*harness.Sidecar{}
	for token, file := range files {
		clients[token] = startClient(t, agent, file.setting())
		_, err := load.Who(t.Context(), dialGreeter(t, clients[token].Outbound))
		if err == nil {
			t.Fatal("a token that may not read services found one")
		}
		t.Logf("with a token that may not read services: %v", err)
	}
	awaitLine(t, clients[poor], "the ACL token may not read", `service "greeter" { policy = "read" }`)
	awaitLine(t, clients[unknownToken], "the token is unknown to Consul", `service "greeter" { policy = "read" }`)

	rotated := time.Now()
	registering.replace(t, agent.Token(t, registerRules))
	i.awaitHealth(t, agent, api.HealthPassing)
	t.Logf("registered, and passing, %v after the token was replaced", time.Since(rotated).Round(time.Millisecond))
	rotated = time.Now()
	for token, file := range files {
		file.replace(t, agent.Token(t, discoverRules))
		conn := dialGreeter(t, clients[token].Outbound)
		consul.Eventually(t, "RPCs end well", func() bool {
			_, err := load.Who(t.Context(), conn)

			return err == nil
		})
	}
	t.Logf("RPCs end well %v after the tokens were replaced", time.Since(rotated).Round(time.Millisecond))

	consul.Eventually(t, "/config shows nothing wrong", func() bool { return sourceOf(t, i.sidecar).Error == "" })

	for name, sidecar := range map[string]*harness.Sidecar{
		"of the app": i.sidecar, "with the poor token": clients[poor], "with the unknown token": clients[unknownToken],
	} {
		if lines := warnings(sidecar); len(lines) > 5 {
			t.Errorf("the sidecar %s warned %d times:\n%s", name, len(lines), strings.Join(lines, "\n"))
		}
	}
}

// Tokens are rotated while RPCs run, and the old ones cease to be: nobody
// notices, and news still comes.
func TestTokensAreRotated(t *testing.T) {
	t.Parallel()

	agent := consul.Start(t, consul.WithACLs())
	files := []tokenFile{newTokenFile(t, agent.Token(t, registerRules)), newTokenFile(t, agent.Token(t, discoverRules))}
	first := startInstance(t, agent, "greeter", "first", instanceOptions{consul: files[0].setting()})
	first.awaitHealth(t, agent, api.HealthPassing)
	l := load.Start(t, dialGreeter(t, startClient(t, agent, files[1].setting()).Outbound), usualLoad)
	first.takesTraffic(t)

	for n, rules := range []string{registerRules, discoverRules} {
		old, err := os.ReadFile(files[n].path)
		if err != nil {
			t.Fatal(err)
		}
		files[n].replace(t, agent.Token(t, rules))
		token, _, err := agent.Client.ACL().TokenReadSelf(&api.QueryOptions{Token: strings.TrimSpace(string(old))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := agent.Client.ACL().TokenDelete(token.AccessorID, nil); err != nil {
			t.Fatal(err)
		}
	}
	// Longer than a token is believed without a look at its file.
	l.More(t, 3*time.Second)
	l.Check(t, "tokens are rotated")

	// The agent reports health with the token that the service was registered with.
	second := startInstance(t, agent, "greeter", "second", instanceOptions{consul: files[0].setting()})
	passing := second.awaitHealth(t, agent, api.HealthPassing)
	second.takesTraffic(t)
	within(t, "a new instance takes traffic, with new tokens", passing, time.Now())
	first.app.serving(false)
	critical := first.awaitHealth(t, agent, api.HealthCritical)
	within(t, "traffic leaves an instance that is critical, with new tokens", critical, first.fallsSilent(t))
	l.End(t)
}
