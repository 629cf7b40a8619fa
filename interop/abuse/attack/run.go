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
	// most is how often an attack is made, and mostBrief one that says one thing
	// only.
	most, mostBrief = 10, 2
	// mostTime is what an attack gets that the sidecar is to end, however busy the
	// machine is.
	mostTime = 60 * time.Second
)

// Endure attacks an address again and again for a while. The error says how one
// attack ended wrong, or that the attacker got nowhere.
func (c Client) Endure(ctx context.Context, address string, while time.Duration) (report Report, err error) {
	left := most
	if c.Brief {
		left = mostBrief
	}
	ctx, cancel := context.WithTimeout(ctx, mostTime)
	defer cancel()

	report.Ends = map[string]int{}
	began := time.Now()
	defer func() { report.Took = time.Since(began) }()
	for ; time.Since(began) < while && left > 0; left-- {
		end, err := c.once(ctx, address, while)
		if err != nil {
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

// once attacks once; where that ends with its time, the time is longer until it got
// anywhere: a busy machine may take a while to connect.
func (c Client) once(ctx context.Context, address string, while time.Duration) (End, error) {
	if !c.Lasts {
		return c.Run(ctx, address)
	}
	for {
		some, cancel := context.WithTimeout(ctx, while)
		end, err := c.Run(some, address)
		late := some.Err() != nil
		cancel()
		if err == nil || !late || ctx.Err() != nil {
			return end, err
		}
		while *= 2
	}
}
