package explain

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/pillion-proxy/pillion/interop/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

// policyFolder is a folder of policies that a test edits.
type policyFolder string

func newPolicyFolder(t *testing.T, name, text string) policyFolder {
	t.Helper()

	f := policyFolder(t.TempDir())
	f.set(t, name, text)

	return f
}

// set replaces a file as a whole.
func (f policyFolder) set(t *testing.T, name, text string) {
	t.Helper()

	path := filepath.Join(string(f), name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (f policyFolder) settings() map[string]any {
	return map[string]any{"policies": map[string]any{"path": string(f)}}
}

// stand is how a policy stands, as /config shows it.
type stand struct {
	Name, Service, Kind, State string
	Problems                   []string
	Where                      string
}

// policies asks /config how policies stand, and for the version of what is in force.
func policies(t *testing.T, s *harness.Sidecar) (version string, list map[string]stand) {
	t.Helper()

	var page struct {
		Policies struct {
			Version string
			List    []stand
		}
	}
	if err := json.Unmarshal([]byte(s.Get(t, "/config")), &page); err != nil {
		t.Fatal(err)
	}
	list = map[string]stand{}
	for _, one := range page.Policies.List {
		list[one.Name] = one
	}

	return page.Policies.Version, list
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()

	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("app"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// call makes one RPC with metadata in pairs, and returns who answered.
func call(t *testing.T, conn *grpc.ClientConn, pairs ...string) (string, error) {
	t.Helper()

	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), pairs...), patience)
	defer cancel()
	answer, err := testpb.NewTestServiceClient(conn).UnaryCall(ctx, &testpb.SimpleRequest{})

	return answer.GetUsername(), err
}
