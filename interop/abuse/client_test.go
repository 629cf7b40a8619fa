package abuse

import (
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
)

// Each attack is made again and again for as long as this.
const (
	attackTime = 120 * time.Millisecond
	// heavyTime is for those that fill something: until it is full.
	heavyTime = 500 * time.Millisecond
	// raceTime is less: the race detector looks at what happens, not at how much.
	raceTime = 50 * time.Millisecond
	// lightest is the bound of memory of attacks that leave nothing behind.
	lightest = 64 << 20
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
						while := port.time
						if client.Memory > lightest {
							while = heavyTime
						}
						var report attack.Report
						peak := r.during(t, client.Memory, func() { report = endure(t, client, r.port, while) })
						if client.Memory > lightest && port.side == inbound {
							r.load.More(t, 0) // the app, which is swamped as well, shall have got over it
						}
						t.Logf("%s; at most %.0f MiB resident", report, float64(peak)/(1<<20))
					})
				}
			})
			r.load.End(t)
		})
	}
}
