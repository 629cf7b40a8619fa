package control

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(holderVariable); address != "" {
		holdLock(address)

		return
	}
	goleak.VerifyTestMain(m)
}
