package retry

import (
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

func pushback(values ...string) []hpack.Field {
	fields := []hpack.Field{{Name: wire.HeaderStatus, Value: "14"}}
	for _, v := range values {
		fields = append(fields, hpack.Field{Name: wire.HeaderRetryPushback, Value: v})
	}
	return fields
}

func TestPushback(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []string
		want   Pushback
		wait   time.Duration
	}{
		{nil, NoPushback, 0},
		{[]string{"0"}, Wait, 0},
		{[]string{"1"}, Wait, time.Millisecond},
		{[]string{"2147483647"}, Wait, 2147483647 * time.Millisecond},
		{[]string{"2147483648"}, Stop, 0},
		{[]string{"-1"}, Stop, 0},
		{[]string{"-0"}, Stop, 0},
		{[]string{"+1"}, Stop, 0},
		{[]string{"01"}, Stop, 0},
		{[]string{""}, Stop, 0},
		{[]string{" 1"}, Stop, 0},
		{[]string{"1.5"}, Stop, 0},
		{[]string{"soon"}, Stop, 0},
		{[]string{"5", "5"}, Stop, 0},
		{[]string{"5", "x"}, Stop, 0},
	} {
		if got, wait := ReadPushback(pushback(c.values...)); got != c.want || wait != c.wait {
			t.Errorf("%q: %v, %v, want %v, %v", c.values, got, wait, c.want, c.wait)
		}
	}
}

func FuzzPushback(f *testing.F) {
	for _, s := range []string{"0", "12", "-1", "007", "2147483648", "1e3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, wait := ReadPushback(pushback(s))
		if p == NoPushback {
			t.Fatal("it is not seen")
		}
		if p == Wait && strconv.FormatInt(wait.Milliseconds(), 10) != s || wait < 0 || wait > math.MaxInt32*time.Millisecond {
			t.Fatalf("%q is read as %v", s, wait)
		}
	})
}
