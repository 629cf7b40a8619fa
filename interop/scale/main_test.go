package scale

import (
	"flag"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// What `make scale` asks for. Without it the tests are small.
var full = flag.Bool("full", false, "measure with 100, 300 and 1,000 sidecars, and what grows with services and documents")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: whoever waits that long has failed.
const patience = 60 * time.Second
