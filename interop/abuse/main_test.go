package abuse

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if actorDir != "" {
			_ = os.RemoveAll(actorDir)
		}
		os.Exit(code)
	}))
}
