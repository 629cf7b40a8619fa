package control

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// command runs pillion and returns its exit code and what it says.
func command(t testing.TB, where []string, args ...string) (int, string) {
	t.Helper()

	return harness.Run(t, harness.Command{Path: harness.PlainPillion(t), Args: append(args, where...)})
}

// shown is what pillion history -o json says of a revision.
type shown struct {
	Revision uint64 `json:"revision,string"`
	Author   string `json:"author"`
	Policy   struct {
		Timeout struct {
			Default string `json:"default"`
		} `json:"timeout"`
	} `json:"policy"`
}

// history returns the revisions of a document.
func history(t testing.TB, where []string, id string) []shown {
	t.Helper()

	code, text := command(t, where, "history", id, "-o", "json")
	var all struct {
		Documents []shown `json:"documents"`
	}
	if err := json.Unmarshal([]byte(text), &all); code != 0 || err != nil {
		t.Fatalf("%d %v %s", code, err, text)
	}

	return all.Documents
}

// Many people apply the same documents at once, each in one way: each command that says
// that it was done was done, and wholly; each other one says who was first.
func TestManyApplyAtOnce(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t, agents.WithACLs())
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte(agent.Token(t, aclRules(t, "operator"))), 0o600))
	for name, where := range map[string][]string{
		"Consul": {"--consul", agent.Address, "--token-file", token},
		"folder": {"--control", filepath.Join(t.TempDir(), "store")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			manyApply(t, where)
		})
	}
}

func manyApply(t *testing.T, where []string) {
	const people, documents, rounds = 5, 4, 2

	var (
		mu   sync.Mutex
		done = map[string]int{} // revisions, by who wrote them
		all  sync.WaitGroup
	)
	for i := range people {
		all.Go(func() {
			who := fmt.Sprint("p", i)
			path := filepath.Join(t.TempDir(), who+".yaml")
			for round := range rounds {
				var text strings.Builder
				text.WriteString("policies:\n")
				for n := range documents {
					fmt.Fprintf(&text, "- {name: d%d, service: s, methods: [a.B/m%d], timeout: {default: %ds}}\n", n, n, 1+round*people+i)
				}
				if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
					t.Error(err)
				}
				code, said := command(t, where, "apply", "-f", path, "--author", who, "-m", fmt.Sprint("round ", round))
				mu.Lock()
				switch written := strings.Count(said, "(revision "); {
				case code == 0 && written == documents:
					done[who]++
				case code == 0 || written > strings.Count(said, "meanwhile"), !strings.Contains(said, " meanwhile, in revision "):
					t.Errorf("exit code %d:\n%s", code, said)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()

	first := history(t, where, "policy/d0")
	by := map[string]int{}
	for i, revision := range first {
		by[revision.Author]++
		if revision.Revision != uint64(i+1) {
			t.Errorf("revision %d is %d", i+1, revision.Revision)
		}
	}
	if fmt.Sprint(by) != fmt.Sprint(done) {
		t.Errorf("the history has %v, but it was told of as done: %v", by, done)
	}
	// All documents were written together each time.
	for n := 1; n < documents; n++ {
		if other := history(t, where, fmt.Sprint("policy/d", n)); fmt.Sprint(other) != fmt.Sprint(first) {
			t.Errorf("d%d has the history %v\nand not that of d0, %v", n, other, first)
		}
	}
}

// Who may not write is told which rule is missing, and nothing is written.
func TestWhoMayApply(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t, agents.WithACLs())
	dir := t.TempDir()
	where := map[string][]string{}
	for _, role := range []string{"operator", "viewer"} {
		token := filepath.Join(dir, role)
		must(t, os.WriteFile(token, []byte(agent.Token(t, aclRules(t, role))), 0o600))
		where[role] = []string{"--consul", agent.Address, "--token-file", token}
	}
	path := filepath.Join(dir, "d.yaml")
	must(t, os.WriteFile(path, []byte("policies:\n- {name: slow, service: s, timeout: {default: 1s}}\n"), 0o600))

	code, said := command(t, where["viewer"], "apply", "-f", path)
	if code != 1 || strings.Contains(said, "\n") || !strings.Contains(said, "pillion: cannot write: ") || !strings.Contains(said, `policy = "write"`) {
		t.Errorf("exit code %d: %s", code, said)
	}
	if code, said := command(t, where["operator"], "get"); code != 0 || said != "there are no documents" {
		t.Errorf("exit code %d: %s", code, said)
	}
	for _, args := range [][]string{{"apply", "-f", path}, {"get"}, {"diff", "-f", path}, {"delete", "policy/slow"}, {"rollback", "policy/slow"}, {"history", "policy/slow"}} {
		if code, said := command(t, where["operator"], args...); code != 0 {
			t.Errorf("%v: exit code %d: %s", args, code, said)
		}
	}
	for _, args := range [][]string{{"get"}, {"diff", "-f", path}, {"history", "policy/slow"}} {
		if code, said := command(t, where["viewer"], args...); code != 0 {
			t.Errorf("%v: exit code %d: %s", args, code, said)
		}
	}
}

// While Consul is away commands say so, in a line.
func TestApplyWithoutConsul(t *testing.T) {
	t.Parallel()

	where := []string{"--consul", harness.FreeAddress(t)}
	for _, args := range [][]string{{"get"}, {"history", "policy/slow"}, {"delete", "policy/slow"}, {"rollback", "policy/slow", "--to", "1"}} {
		code, said := command(t, where, args...)
		if code != 1 || strings.Contains(said, "\n") || !strings.Contains(said, "connection refused") {
			t.Errorf("%v: exit code %d: %s", args, code, said)
		}
	}
}
