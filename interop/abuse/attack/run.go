package attack

import (
	"context"
	"fmt"
	"time"
)

// Report is what came of one attack that was made again and again.
type Report struct {
	// Ends are how the attacks ended, as [End.String] writes it, and how often.
	Ends map[string]int
	// Last is how the last one ended.
	Last End
	// Took is how long all of it took.
	Took time.Duration
}

// String is a line of it.
func (r Report) String() string {
	return fmt.Sprintf("%v in %v; the last one: %d bytes sent, %d streams answered, %d reset, %q",
		r.Ends, r.Took.Round(time.Millisecond), r.Last.Sent, r.Last.Answered, r.Last.Reset, r.Last.Reason)
}

const (
	// briefTimes is how often an attack is made that says one thing only.
	briefTimes = 2
	// mostTime is what an attack gets that the sidecar is to end, however busy the
	// machine is.
	mostTime = 20 * time.Second
)

// Endure attacks an address again and again for a while. The error says how one
// attack ended wrong, or that the attacker got nowhere.
func (c Client) Endure(ctx context.Context, address string, while time.Duration) (report Report, err error) {
	most := mostTime
	if c.Lasts {
		most = while
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()

	report.Ends = map[string]int{}
	began := time.Now()
	defer func() { report.Took = time.Since(began) }()
	for times := 0; time.Since(began) < while && !(c.Brief && times == briefTimes); times++ {
		end, err := c.Run(ctx, address)
		if err != nil {
			if ctx.Err() != nil && times > 0 {
				break
			}

			return report, err
		}
		report.Ends[end.String()]++
		report.Last = end
		if !c.Right(end) {
			return report, fmt.Errorf("ended with %v, want one of %q", end, c.Want)
		}
	}

	return report, nil
}
