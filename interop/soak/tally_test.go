package soak

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// enough is how many wrong ends of RPCs are told of.
const enough = 20

// tally counts how RPCs ended.
type tally struct {
	mu      sync.Mutex
	ends    map[string]map[string]int
	wrong   int
	total   int
	excused int
	starved int
}

// note counts an end; wrong says why it must not be, if it must not.
func (y *tally) note(t testing.TB, group string, code codes.Code, wrong error) {
	t.Helper()

	y.mu.Lock()
	defer y.mu.Unlock()

	if y.ends == nil {
		y.ends = map[string]map[string]int{}
	}
	if y.ends[group] == nil {
		y.ends[group] = map[string]int{}
	}
	y.ends[group][code.String()]++
	y.total++
	if wrong == nil {
		return
	}
	y.wrong++
	if y.wrong <= enough {
		t.Errorf("%s: %v", group, wrong)
	}
}

func (y *tally) excuse() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.excused++
}

func (y *tally) starve() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.starved++
}

// tooManyStarved says whether attackers who take the budget of buffered bytes do
// more harm than for the moment of it: to one RPC in fifty.
func (y *tally) tooManyStarved() error {
	all := y.undisturbed()
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.starved > 5+all/50 {
		return fmt.Errorf("%d RPCs were refused because the budget of buffered bytes was taken, beside %d that nothing disturbed", y.starved, all)
	}

	return nil
}

// undisturbed is how many RPCs ended well that nothing disturbed.
func (y *tally) undisturbed() int {
	y.mu.Lock()
	defer y.mu.Unlock()

	sum := 0
	for group, ends := range y.ends {
		if strings.HasPrefix(group, undisturbedGroup) {
			sum += ends[codes.OK.String()]
		}
	}

	return sum
}

// String has a line for each group.
func (y *tally) String() string {
	y.mu.Lock()
	defer y.mu.Unlock()

	var b strings.Builder
	fmt.Fprintf(&b, "%d RPCs, %d of them refused in bursts that were too much, %d while the buffer budget was taken, %d wrong\n", y.total, y.excused, y.starved, y.wrong)
	for _, group := range slices.Sorted(maps.Keys(y.ends)) {
		fmt.Fprintf(&b, "  %s: %v\n", group, y.ends[group])
	}

	return b.String()
}

// bursts are the times at which there are more RPCs than sidecars allow, so that
// they refuse those that nothing else disturbs.
type bursts struct {
	mu   sync.Mutex
	list []burst
}

type burst struct{ from, to time.Time } // to is zero while it lasts

// after is how long after a burst RPCs may still be refused: answers are on their
// way, and sidecars held up by others'.
const after = 2 * time.Second

func (b *bursts) begin() (end func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := len(b.list)
	b.list = append(b.list, burst{from: time.Now()})

	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.list[i].to = time.Now()
	}
}

// excuse says whether an RPC may have ended so because of a burst.
func (b *bursts) excuse(err error, began, ended time.Time) bool {
	if code := status.Code(err); code != codes.ResourceExhausted && code != codes.Unavailable {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()

	return slices.ContainsFunc(b.list, func(one burst) bool {
		return ended.After(one.from) && (one.to.IsZero() || began.Before(one.to.Add(after)))
	})
}
