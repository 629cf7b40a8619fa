package lifecycle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/harness"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait.
const patience = 60 * time.Second

// pillion runs the command to its end.
func pillion(t *testing.T, args ...string) (code int, output string) {
	t.Helper()

	return harness.Run(t, harness.Command{Path: harness.Pillion(t), Args: args})
}

// write puts a file into a folder of the test's own.
func write(t *testing.T, folder, name, text string) string {
	t.Helper()

	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	return path
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()

	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	return conn
}

// oneLine fails the test where an error is more than a line, or says not all of this.
func oneLine(t *testing.T, output string, says ...string) {
	t.Helper()

	if lines := strings.Count(strings.TrimSpace(output), "\n") + 1; lines != 1 {
		t.Errorf("%d lines instead of one:\n%s", lines, output)
	}
	for _, text := range says {
		if !strings.Contains(output, text) {
			t.Errorf("%q is not in %q", text, output)
		}
	}
}
