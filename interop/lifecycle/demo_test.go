package lifecycle

import (
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
)

// The demo as a user runs it who sends its output to a file: plain lines, a
// summary, and exit 0 because no RPC failed. It needs no other program.
func TestTheDemo(t *testing.T) {
	t.Parallel()

	for name, binary := range map[string]func(testing.TB) string{"race": harness.Pillion, "plain": harness.PlainPillion} {
		t.Run(name, func(t *testing.T) {
			code, output := harness.Run(t, harness.Command{
				Path: binary(t), Args: []string{"demo"}, Dir: t.TempDir(), Env: []string{"PATH=/nonexistent"},
			})
			if code != 0 {
				t.Fatalf("exit %d:\n%s", code, output)
			}
			if strings.ContainsAny(output, "\x1b\r") {
				t.Errorf("the lines are not plain: %q", output)
			}
			t.Logf("%s", output)
			for _, said := range []string{"v1", "v2", " 0 failed"} {
				if !strings.Contains(output, said) {
					t.Errorf("%q is not in the output", said)
				}
			}
		})
	}
}
