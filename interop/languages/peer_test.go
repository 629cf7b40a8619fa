package languages

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// peer is a language whose program is built.
type peer struct {
	Language

	folder string
	// version is the toolchain's.
	version string
	// address is where its server listens.
	address string
	// outbound and inbound are the sidecars between clients and it.
	outbound, inbound *harness.Sidecar
}

// buildPeers builds what this machine can. Languages that PILLION_LANGUAGES names
// must be there; where it is "all", what is missing is skipped.
func buildPeers(t *testing.T) []*peer {
	t.Helper()

	wanted := os.Getenv("PILLION_LANGUAGES")
	if wanted == "" {
		t.Skip("PILLION_LANGUAGES is not set, because the first run fetches and compiles for minutes: run `make languages`")
	}
	for name := range strings.SplitSeq(wanted, ",") {
		if wanted != "all" && !slices.ContainsFunc(All, func(l Language) bool { return l.Name == name }) {
			t.Fatalf("PILLION_LANGUAGES names %q, which no folder here has: want all, or some of go, python, node, java and rust with commas between them", name)
		}
	}
	cache, err := cacheFolder()
	if err != nil {
		t.Fatal(err)
	}

	peers := make([]*peer, len(All))
	t.Run("build", func(t *testing.T) {
		for i, language := range All {
			named := slices.Contains(strings.Split(wanted, ","), language.Name)
			if wanted != "all" && !named && language.Name != "go" {
				continue
			}
			t.Run(language.Name, func(t *testing.T) {
				t.Parallel()

				begin := time.Now()
				folder, version, err := Build(language, ".", cache)
				if _, missing := errors.AsType[*MissingError](err); missing && !named {
					note(&report.skipped, err.Error())
					t.Skip(err)
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s, built or found in %v", version, time.Since(begin).Round(time.Millisecond))
				peers[i] = &peer{Language: language, folder: folder, version: version}
			})
		}
	})
	if t.Failed() {
		t.FailNow()
	}

	var there []*peer
	for _, p := range peers {
		if p != nil {
			there = append(there, p)
		}
	}

	return there
}

func note(lines *[]string, line string) {
	report.Lock()
	defer report.Unlock()

	*lines = append(*lines, line)
}

// serve starts the peer's server and the two sidecars before it.
func (p *peer) serve(t *testing.T) {
	t.Helper()

	command, env := p.Command(p.folder)
	server := harness.Start(t, harness.Command{Path: command[0], Args: append(command[1:], "server"), Env: env})
	said := server.Await(t, `^listening on (\S+) \((.*)\)$`)
	p.address = said[1]
	note(&report.ran, p.Name+": "+said[2]+" ("+p.version+")")

	p.inbound = harness.Inbound(t, p.address)
	mesh := harness.NewMesh(t, map[string]harness.Service{
		harness.RouteService: {Endpoints: harness.Endpoints(p.inbound.Inbound)},
	})
	// There is no default: the clients' authority decides.
	p.outbound = harness.StartSidecar(t, harness.Config{Outbound: true, Mesh: mesh})
}

// outcome is what a client says of a case.
type outcome struct {
	Case  string     `json:"case"`
	Error string     `json:"error"`
	Code  codes.Code `json:"code"`
}

// startClient starts the peer's client.
func (p *peer) startClient(t *testing.T, target, authority string, cases []string, more ...string) *harness.Process {
	t.Helper()

	command, env := p.Command(p.folder)
	args := slices.Concat(command[1:], []string{
		"client", "--target", target, "--details", hex.EncodeToString(statusDetails(t)), "--cases", strings.Join(cases, ","),
	}, more)
	if authority != "" {
		args = append(args, "--authority", authority)
	}

	return harness.Start(t, harness.Command{Path: command[0], Args: args, Env: env})
}

// outcomesOf waits for a client's end and returns what it said, by the case.
func outcomesOf(t *testing.T, client *harness.Process) map[string]outcome {
	t.Helper()

	if code := client.Wait(t); code != 0 {
		t.Errorf("the client ended with %d", code)
	}
	outcomes := map[string]outcome{}
	for line := range strings.Lines(client.Output()) {
		var said outcome
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &said) == nil {
			outcomes[said.Case] = said
		}
	}

	return outcomes
}

// statusDetails is the google.rpc.Status that clients have servers fail with.
var statusDetails = func(t *testing.T) []byte {
	t.Helper()

	details, err := detailsOnce()
	if err != nil {
		t.Fatal(err)
	}

	return details
}

var detailsOnce = sync.OnceValues(func() ([]byte, error) {
	detail, err := anypb.New(wrapperspb.String("why"))
	if err != nil {
		return nil, err
	}

	return proto.MarshalOptions{Deterministic: true}.Marshal(&rpcstatus.Status{
		Code: int32(codes.FailedPrecondition), Message: "because of 100 % naïveté: 世界", Details: []*anypb.Any{detail},
	})
})
