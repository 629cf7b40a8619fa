package canary

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds every wait: whoever waits that long has failed.
	patience = 60 * time.Second
	// soon is what the issue of a canary's end may take from sufficient evidence on.
	soon = time.Second
)
