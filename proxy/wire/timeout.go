package wire

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// maxTimeoutDigits is how many digits the protocol allows a timeout.
const maxTimeoutDigits = 8

// maxTimeoutValue is the largest number of maxTimeoutDigits digits.
const maxTimeoutValue = 99_999_999

// ParseTimeout reads a grpc-timeout: one to eight digits and a unit of H, M,
// S, m, u or n. What is beyond a time.Duration (some 292 years) becomes the
// largest one. Zero is allowed: that is what clients write whose deadline has
// passed already.
func ParseTimeout(s string) (time.Duration, error) {
	digits := len(s) - 1
	if digits < 1 || digits > maxTimeoutDigits {
		return 0, timeoutError(s)
	}
	var unit time.Duration
	switch s[digits] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, timeoutError(s)
	}
	var n int64
	for i := range digits {
		c := s[i] - '0'
		if c > 9 {
			return 0, timeoutError(s)
		}
		n = n*10 + int64(c)
	}
	if n > math.MaxInt64/int64(unit) { // only hours get here
		return math.MaxInt64, nil
	}
	return time.Duration(n) * unit, nil
}

func timeoutError(s string) error {
	const shown = 32 // a peer wrote it: enough to recognize it is enough
	if len(s) > shown {
		s = s[:shown] + "..."
	}
	return fmt.Errorf("%s %q: want 1 to %d digits and a unit of H, M, S, m, u or n, such as 250m", HeaderTimeout, s, maxTimeoutDigits)
}

// AppendTimeout appends d as a grpc-timeout, in the finest unit whose number
// fits into eight digits, and rounded up: who reads it never gives up before d
// has passed. A d that is not positive is "0n".
func AppendTimeout(dst []byte, d time.Duration) []byte {
	if d <= 0 {
		return append(dst, '0', 'n')
	}
	unit, name := time.Nanosecond, byte('n')
	switch {
	case d <= maxTimeoutValue*time.Nanosecond:
	case d <= maxTimeoutValue*time.Microsecond:
		unit, name = time.Microsecond, 'u'
	case d <= maxTimeoutValue*time.Millisecond:
		unit, name = time.Millisecond, 'm'
	case d <= maxTimeoutValue*time.Second:
		unit, name = time.Second, 'S'
	case d <= maxTimeoutValue*time.Minute:
		unit, name = time.Minute, 'M'
	default:
		unit, name = time.Hour, 'H' // no Duration has more than 2,562,048 of them
	}
	n := int64(d / unit)
	if d%unit != 0 {
		n++
	}
	return append(strconv.AppendInt(dst, n, 10), name)
}
