package policy

import (
	"strconv"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// Who knows the hash alone comes to the same group as an RPC does.
func TestAssignmentIsTheSplits(t *testing.T) {
	t.Parallel()
	weights := []int{3000, 2500, 2000, 1500, 1000}
	assignment := NewAssignment(weights)
	r := stickySplit(t, "experiment", weights...)
	rpc := request(sayHello, "user: ")
	for i := range 10_000 {
		user := strconv.Itoa(i)
		rpc.Fields[len(rpc.Fields)-1].Value = user
		want := r.Decide(rpc, "greeter", nil).Group.Name
		if got := "v" + strconv.Itoa(assignment.Group(seededHash(xxhash.Sum64String("experiment"), user))); got != want {
			t.Fatalf("user %s is in %s, but by the hash in %s", user, want, got)
		}
	}
	if last := assignment.Group(1<<64 - 1); last < 0 || last >= len(weights) {
		t.Errorf("the last hash is in group %d", last)
	}
}
