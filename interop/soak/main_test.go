package soak

import (
	"flag"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	duration = flag.Duration("for", 6*time.Second, "how long everything churns, after a warm-up of a third of that, of 2m at most")
	seed     = flag.Uint64("seed", 0, "decides what is random; 0 chooses one")
	detector = flag.Bool("detector", false, "observe sidecars that are built with the race detector; their memory is not judged")
	folder   = flag.String("out", "", "where measurements, plots and logs go; by default a temporary folder, which is kept after a failure only")
	only     = flag.String("only", "", "the parts of the churn to play, separated by commas; by default all")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
