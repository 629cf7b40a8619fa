package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// behaviour is how well a greeter does. The demo tells it so while it runs, a line
// on its standard input each time: "well", "fail 0.3", "slow 200ms" or "sell 0.1".
type behaviour struct {
	fails float64 // the share of answers that fail
	slow  time.Duration
	sells float64 // by which part users buy more of whom the variant is [sellsMore]; 0: they buy nothing
}

func (b behaviour) String() string {
	switch {
	case b.fails > 0:
		return "fail " + strconv.FormatFloat(b.fails, 'g', -1, 64)
	case b.slow > 0:
		return "slow " + b.slow.String()
	case b.sells > 0:
		return "sell " + strconv.FormatFloat(b.sells, 'g', -1, 64)
	}
	return "well"
}

func parseBehaviour(line string) (behaviour, error) {
	what, value, _ := strings.Cut(line, " ")
	switch what {
	case "well":
		return behaviour{}, nil
	case "fail":
		share, err := strconv.ParseFloat(value, 64)
		return behaviour{fails: share}, err
	case "slow":
		d, err := time.ParseDuration(value)
		return behaviour{slow: d}, err
	case "sell":
		more, err := strconv.ParseFloat(value, 64)
		return behaviour{sells: more}, err
	}
	return behaviour{}, fmt.Errorf("%q is none of well, fail, slow and sell", line)
}

// conduct is the behaviour of a greeter as it is now.
type conduct struct{ now atomic.Pointer[behaviour] }

// follow does as the lines say until they end, and repeats each once it is in force.
func (c *conduct) follow(lines io.Reader, out io.Writer) {
	for s := bufio.NewScanner(lines); s.Scan(); {
		b, err := parseBehaviour(s.Text())
		if err != nil {
			fmt.Fprintln(out, "demo app:", err)
			continue
		}
		c.now.Store(&b)
		fmt.Fprintln(out, behaves, b)
	}
}

// behaves begins the line in which an app repeats how it behaves from now on.
const behaves = "behaves"

// unwell begins the message of an RPC that a greeter failed, whose name follows.
const unwell = "unwell is greeter "

// apply waits, or fails an RPC in its trailers, behind headers: where most sidecars do
// not see it. Where things are sold it says for how much. who is the greeter.
func (c *conduct) apply(ctx context.Context, who string) error {
	b := c.now.Load()
	if b == nil {
		return nil
	}
	if b.slow > 0 {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-time.After(b.slow):
		}
	}
	if b.fails > 0 && rand.Float64() < b.fails {
		if err := grpc.SendHeader(ctx, metadata.MD{}); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, unwell+who)
	}
	if b.sells > 0 {
		return grpc.SetTrailer(ctx, sale(ctx, b.sells))
	}
	return nil
}
