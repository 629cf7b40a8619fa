package control

import "testing"

// Whatever number there is, another comes after it, and it does not come after that.
func TestNumbers(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{0, 1, 2, 1 << 20, MaxNumber - 1, MaxNumber} {
		next := Next(n)
		if next == 0 || next > MaxNumber || !After(next, n) || After(n, next) || After(n, n) {
			t.Errorf("after %d comes %d", n, next)
		}
	}
	if After(3, 7) || !After(7, 3) || After(2, MaxNumber) || !After(MaxNumber, 2) {
		t.Error("numbers are not in their order")
	}
}
