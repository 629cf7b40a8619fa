package abuse

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
)

// Each attack is made again and again for as long as this.
const (
	attackTime = 250 * time.Millisecond
	// raceTime is less: the race detector looks at what happens, not at how much.
	raceTime = 50 * time.Millisecond
	// lightest is the bound of memory of attacks that leave nothing behind.
	lightest = 64 << 20
	// brief is how often an attack is made that says one thing only.
	brief = 3
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
			r := startRig(t, port.side, port.plain, nil)
			t.Run("attacks", func(t *testing.T) {
				for _, client := range attack.Clients() {
					// Under the race detector those that make much of everything would show
					// only that it is slow.
					if client.Slow || !port.plain && client.Memory > lightest {
						continue
					}
					t.Run(client.Name, func(t *testing.T) {
						var ends string
						peak := r.during(t, client.Memory, func() { ends = r.endure(t, client, port.time) })
						if client.Memory > lightest {
							r.load.More(t, 0) // the app, which is swamped as well, shall have got over it
						}
						t.Logf("%s; at most %.0f MiB resident", ends, float64(peak)/(1<<20))
					})
				}
			})
			r.load.End(t)
		})
	}
}

// endure has a client attack again and again for a while, and checks each end.
func (r *rig) endure(t *testing.T, client attack.Client, while time.Duration) string {
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
	times := 0
	for began := time.Now(); time.Since(began) < while && !(client.Brief && times == brief); times++ {
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
			t.Fatalf("ended with %v (%d bytes sent, %d streams answered, %d reset, %q), want one of %q; all: %v",
				end, end.Sent, end.Answered, end.Reset, end.Reason, client.Want, ends)
		}
	}
	return fmt.Sprintf("%v; the last one: %d bytes sent, %d streams answered, %d reset, %q",
		ends, last.Sent, last.Answered, last.Reset, last.Reason)
}
