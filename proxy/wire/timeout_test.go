package wire_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestParseTimeout(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"0n":        0,
		"1n":        time.Nanosecond,
		"7u":        7 * time.Microsecond,
		"250m":      250 * time.Millisecond,
		"00000001S": time.Second,
		"99999999S": 99999999 * time.Second,
		"99999999M": 99999999 * time.Minute,
		"2562047H":  2562047 * time.Hour,
		"2562048H":  math.MaxInt64,
		"99999999H": math.MaxInt64,
	} {
		if got, err := wire.ParseTimeout(in); got != want || err != nil {
			t.Errorf("ParseTimeout(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "n", "1", "12", "S1", "1s", "1h", "1 S", " 1S", "1S ", "-1S", "+1S", "1.5S", "0x1S", "1_0S",
		"123456789n", "1mS", "\x00S", "1\xffS", "٣S",
	} {
		got, err := wire.ParseTimeout(in)
		if err == nil || got != 0 {
			t.Errorf("ParseTimeout(%q) = %v, %v; want an error", in, got, err)
		}
	}
}

func TestParseTimeoutErrorNamesTheValue(t *testing.T) {
	t.Parallel()
	if _, err := wire.ParseTimeout("5x"); err == nil || !strings.Contains(err.Error(), `grpc-timeout "5x"`) {
		t.Errorf("error is %v", err)
	}
	_, err := wire.ParseTimeout(strings.Repeat("9\n", 1<<20))
	if err == nil || len(err.Error()) > 256 || strings.Contains(err.Error(), "\n") {
		t.Errorf("a value of 2 MiB makes an error of %d bytes", len(err.Error()))
	}
}

func TestAppendTimeout(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		math.MinInt64:                   "0n",
		-1:                              "0n",
		0:                               "0n",
		1:                               "1n",
		99_999_999:                      "99999999n",
		100_000_000:                     "100000u",
		100_000_001:                     "100001u",
		99_999_999 * time.Microsecond:   "99999999u",
		99_999_999*time.Microsecond + 1: "100000m",
		99_999_999 * time.Millisecond:   "99999999m",
		99_999_999*time.Millisecond + 1: "100000S",
		99_999_999 * time.Second:        "99999999S",
		99_999_999*time.Second + 1:      "1666667M",
		99_999_999 * time.Minute:        "99999999M",
		99_999_999*time.Minute + 1:      "1666667H",
		math.MaxInt64:                   "2562048H",
	} {
		if got := string(wire.AppendTimeout([]byte("x"), d)); got != "x"+want {
			t.Errorf("AppendTimeout(x, %d) = %q, want %q", d, got, "x"+want)
		}
	}
}

func TestTimeoutRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// Bits drawn first, or nearly every duration would be in hours.
		d := time.Duration(rapid.Int64Range(1, math.MaxInt64).Draw(t, "d") >> rapid.IntRange(0, 62).Draw(t, "shift"))
		s := string(wire.AppendTimeout(nil, d))
		got, err := wire.ParseTimeout(s)
		if err != nil {
			t.Fatalf("%d is written %q, which does not parse: %v", d, s, err)
		}
		if got < d {
			t.Fatalf("%d is written %q, which is less", d, s)
		}
		// A unit is left at eight digits for one that is at most 1000 times as
		// long: five digits are kept at worst, and nothing is lost below.
		if d <= 99_999_999 && got != d || got-d > d/100_000 {
			t.Fatalf("%d is written %q, which is %d too much", d, s, got-d)
		}
	})
}

func FuzzParseTimeout(f *testing.F) {
	for _, s := range []string{"", "0n", "1S", "99999999H", "123456789n", "-1S", "1x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := wire.ParseTimeout(s)
		if err != nil {
			if d != 0 {
				t.Fatalf("%q: %v beside an error", s, d)
			}
			return
		}
		if d < 0 {
			t.Fatalf("%q is negative: %v", s, d)
		}
		again, err := wire.ParseTimeout(string(wire.AppendTimeout(nil, d)))
		if err != nil || again < d {
			t.Fatalf("%q is %d, and %d (%v) once written again", s, d, again, err)
		}
	})
}

func BenchmarkParseTimeout(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wire.ParseTimeout("4999321u"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendTimeout(b *testing.B) {
	b.ReportAllocs()
	buf := make([]byte, 0, 16)
	for b.Loop() {
		buf = wire.AppendTimeout(buf[:0], 4999321*time.Microsecond)
	}
}
