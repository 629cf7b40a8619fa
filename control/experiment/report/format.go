package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// beyond is what is as good as infinite: numbers of it can be worked with no more.
const beyond = 1e300

// value writes a figure of a measure, in as many digits as are of use.
func value(k Kind, x float64) string {
	switch {
	case math.IsNaN(x):
		return "-"
	case x > beyond:
		return "∞"
	case x < -beyond:
		return "-∞"
	case k == Success:
		return fixed(100*x, 4) + " %"
	case k == Latency:
		switch size := math.Abs(x); {
		case size >= 1:
			return digits(x) + " s"
		case size >= 1e-3:
			return digits(1e3*x) + " ms"
		default:
			return digits(1e6*x) + " µs"
		}
	}
	return digits(x)
}

// difference writes a difference of a measure, with its sign.
func difference(k Kind, x float64) string {
	text := value(k, x)
	if k == Success && math.Abs(x) <= beyond {
		text = fixed(100*x, 2) + " pp" // percentage points
	}
	if x > 0 {
		return "+" + text
	}
	return text
}

// relative writes a part, such as of the control's mean, with its sign.
func relative(x float64) string {
	switch {
	case !(math.Abs(x) <= beyond):
		return value(Reported, x)
	case x > 0:
		return "+" + percent(x)
	}
	return percent(x)
}

// interval writes both bounds.
func interval(r Range, write func(float64) string) string {
	if !r.Low.Known() && !r.High.Known() {
		return "-"
	}
	return write(float64(r.Low)) + " to " + write(float64(r.High))
}

// percent writes a part of something.
func percent(x float64) string {
	if !(math.Abs(x) <= beyond) {
		return "-"
	}
	return fixed(100*x, 2) + " %"
}

// pValue writes a p-value.
func pValue(p float64) string {
	switch {
	case math.IsNaN(p):
		return "-"
	case p < 0.0001:
		return "<0.0001"
	case p < 0.1:
		return strconv.FormatFloat(p, 'f', 4, 64)
	}
	return strconv.FormatFloat(p, 'f', 2, 64)
}

// pEquals writes a p-value in a sentence.
func pEquals(p float64) string {
	if text := pValue(p); text[0] == '<' {
		return "p < " + text[1:]
	}
	return "p = " + pValue(p)
}

// verdict writes a verdict. minEffect is the measure's.
func verdict(v Verdict, minEffect float64) string {
	switch v {
	case Better, Worse:
		return string(v)
	case Open:
		return "no difference shown yet"
	case Negligible:
		return "less than " + percent(minEffect) + " either way"
	case TooFew:
		return "too few units"
	}
	return "-"
}

// digits writes a number in four digits.
func digits(x float64) string {
	if size := math.Abs(x); size != 0 && (size >= 1e7 || size < 1e-4) {
		return strconv.FormatFloat(x, 'e', 3, 64)
	} else if size >= 1000 {
		return grouped(strconv.FormatFloat(x, 'f', 0, 64))
	} else if size >= 1 {
		return fixed(x, 3-int(math.Log10(size)))
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}

// fixed writes a number with at most so many digits behind the point, and more where it
// would be 0 otherwise.
func fixed(x float64, behind int) string {
	if size := math.Abs(x); size >= 1000 {
		return digits(x)
	} else if size > 0 && size < math.Pow10(-behind+1) {
		return strconv.FormatFloat(x, 'g', 2, 64)
	}
	text := strconv.FormatFloat(x, 'f', behind, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// count writes how many there are.
func count(n uint64) string { return grouped(strconv.FormatUint(n, 10)) }

// grouped puts commas between thousands.
func grouped(digits string) string {
	digits, negative := strings.CutPrefix(digits, "-")
	var b strings.Builder
	if negative {
		b.WriteByte('-')
	}
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// at writes a time.
func at(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04 MST")
}

// lasting writes a duration in the unit that suits it.
func lasting(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= century:
		return "more than a century"
	case d >= 730*day:
		return fmt.Sprintf("%.1f years", float64(d)/float64(365.25*float64(day)))
	case d >= 2*day:
		return fmt.Sprintf("%.1f days", float64(d)/float64(day))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%.1f hours", d.Hours())
	}
	if d <= time.Minute {
		return "1 minute"
	}
	return fmt.Sprintf("%.0f minutes", math.Ceil(d.Minutes()))
}
