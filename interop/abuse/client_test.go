package abuse

import (
	"context"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
)

// Each attack is made again and again for as long as this.
const (
	attackTime = 500 * time.Millisecond
	// raceTime is less: the race detector looks at what happens, not at how much.
	raceTime = 150 * time.Millisecond
)

// Every attack of a client's, on both ports, beside well-behaved clients of the
// same port: the attacker is ended as it should be, memory stays within the
// attack's bound, and no RPC of the others fails or gets stuck.
func TestClientsThatAttack(t *testing.T) {
	for _, port := range []struct {
		name, side string
		plain      bool
		time       time.Duration
	}{
		{"outbound", outbound, true, attackTime},
		{"inbound", inbound, true, attackTime},
		{"outbound with the race detector", outbound, false, raceTime},
	} {
		t.Run(port.name, func(t *testing.T) {
			t.Parallel()

			r := startRig(t, port.side, port.plain, nil)
			t.Run("attacks", func(t *testing.T) {
				for _, client := range attack.Clients() {
					if client.Slow {
						continue
					}
					t.Run(client.Name, func(t *testing.T) {
						peak := r.during(t, client.Memory, func() { r.endure(t, client, port.time) })
						t.Logf("at most %.1f MiB resident", float64(peak)/(1<<20))
					})
				}
			})
			r.load.End(t)
		})
	}
}

// endure has a client attack again and again for a while, and checks each end.
func (r *rig) endure(t *testing.T, client attack.Client, while time.Duration) {
	t.Helper()

	// Those who are to be ended get time for that, however busy the machine is.
	const most = 10 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	if client.Lasts {
		ctx, cancel = context.WithTimeout(t.Context(), while)
		defer cancel()
	}
	ends := map[string]int{}
	var last attack.End
	for began := time.Now(); time.Since(began) < while; {
		end, err := client.Run(ctx, r.port)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			t.Fatalf("the attacker: %v", err)
		}
		ends[end.String()]++
		last = end
		if !client.Right(end) {
			t.Fatalf("ended with %v (%s), want one of %q; all: %v", end, end.Reason, client.Want, ends)
		}
	}
	t.Logf("%v; the last one: %d bytes sent, %d streams answered, %d reset, %q", ends, last.Sent, last.Answered, last.Reset, last.Reason)
}
