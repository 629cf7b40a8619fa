package policy

import (
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/internal/regex"
)

// test is what a condition compares by.
type test uint8

const (
	testExact test = iota
	testPrefix
	testSuffix
	testRegex
	testPresent
	testRange
	testPath // a regular expression on the path, not on metadata
)

// condition is a condition on a metadata key or a cookie.
type condition struct {
	key        key    // or a cookie's name
	text       string // of exact, prefix and suffix; bytes as they are when decoded
	regex      *regex.Regex
	longest    int // bytes of a value that the regex is tried on
	start, end int64
	test       test
	cookie     bool
	binary     bool
	present    bool // what testPresent asks for
	invert     bool
	isBytes    bool // the text was written in base64
}

// holds says whether the condition, turned around or not, holds for a request.
func (c *condition) holds(rpc *RPC, v *values) bool { return c.met(rpc, v) != c.invert }

// met says whether the condition holds before it is turned around. A key that is
// missing fulfils none but `present: false`.
func (c *condition) met(rpc *RPC, v *values) bool {
	if c.test == testPath {
		return c.matchesRegex(rpc.Path)
	}
	if rpc.marks.n > 0 && !c.cookie && !c.binary { // as most, so it takes as few steps as can be
		at := rpc.find(&c.key)
		if at < 0 {
			return c.test == testPresent && !c.present
		}
		if rpc.alone(&c.key) {
			return c.metBy(rpc.Fields[at].Value, true)
		}
	}
	if c.cookie {
		value, found := rpc.cookie(c.key.text)
		return c.metBy(value, found)
	}
	if c.binary && c.test != testPresent {
		return c.metBinary(rpc.Fields)
	}
	value, count := v.of(rpc, &c.key)
	return c.metBy(value, count > 0)
}

// metBy says whether a value, or that there is none, fulfils the condition.
func (c *condition) metBy(value string, found bool) bool {
	switch {
	case c.test == testPresent:
		return found == c.present
	case !found:
		return false
	case c.test == testRegex:
		return c.matchesRegex(value)
	}
	return c.fulfilledBy(value)
}

// fulfilledBy compares a value. Regular expressions are not its business: package
// regexp lets the text escape, which would move callers' buffers to the heap.
func (c *condition) fulfilledBy(value string) bool {
	switch c.test {
	case testExact:
		return value == c.text
	case testPrefix:
		return strings.HasPrefix(value, c.text)
	case testSuffix:
		return strings.HasSuffix(value, c.text)
	case testRange:
		n, ok := parseInt(value)
		return ok && n >= c.start && n < c.end
	}
	return false
}

// parseInt reads a whole number with an optional sign. Package strconv allocates an
// error for what is none, which callers choose.
func parseInt(s string) (n int64, ok bool) {
	negative := false
	if s != "" && (s[0] == '-' || s[0] == '+') {
		negative = s[0] == '-'
		s = s[1:]
	}
	if s == "" {
		return 0, false
	}
	// Counting down reaches the least number, which has no positive counterpart.
	const least = -1 << 63
	for i := range len(s) {
		digit := int64(s[i]) - '0'
		if digit < 0 || digit > 9 || n < least/10 {
			return 0, false
		}
		if n *= 10; n < least+digit {
			return 0, false
		}
		n -= digit
	}
	if negative {
		return n, true
	}
	return -n, n != least
}

// compileConditions compiles conditions on metadata, or on cookies.
func (p *problems) compileConditions(field string, list []*configv1.MetadataMatch, cookies bool) []condition {
	conditions := make([]condition, 0, len(list))
	for i, m := range list {
		conditions = append(conditions, p.compileCondition(at(field, i), m, cookies))
	}
	return conditions
}

func (p *problems) compileCondition(field string, m *configv1.MetadataMatch, isCookie bool) condition {
	c := condition{key: newKey(m.GetKey()), cookie: isCookie, invert: m.GetInvert()}
	if isCookie {
		p.checkCookie(field+".key", c.key.text)
	} else {
		if reason := conditionKeyProblem(c.key.text); reason != "" {
			p.addf(field+".key", "%s", reason)
		}
		c.binary = isBinary(c.key.text)
	}
	switch k := m.GetCondition().(type) {
	case *configv1.MetadataMatch_Exact:
		c.test, c.text = testExact, k.Exact
	case *configv1.MetadataMatch_Prefix:
		c.test, c.text = testPrefix, k.Prefix
	case *configv1.MetadataMatch_Suffix:
		c.test, c.text = testSuffix, k.Suffix
	case *configv1.MetadataMatch_Regex:
		c.test, c.text = testRegex, k.Regex
		p.compileRegex(field+".regex", &c)
	case *configv1.MetadataMatch_Present:
		c.test, c.present, c.invert = testPresent, k.Present != c.invert, false
	case *configv1.MetadataMatch_Range:
		c.test, c.start, c.end = testRange, k.Range.GetStart(), k.Range.GetEnd()
		if c.start >= c.end {
			p.addf(field+".range", "no number is from %d up to and without %d: end has to be above start", c.start, c.end)
		}
	case *configv1.MetadataMatch_Bytes:
		c.test, c.text, c.isBytes = testExact, string(k.Bytes), true
		if !c.binary {
			p.addf(field+".bytes", "%q is no -bin key: use exact", c.key.text)
		}
	default:
		p.addf(field, "asks for nothing: write exact, prefix, suffix, regex, present, range or bytes")
	}
	return c
}

// checkCookie reports what is no cookie's name.
func (p *problems) checkCookie(field, name string) {
	if strings.ContainsAny(name, "=; \t\",") || name == "" {
		p.addf(field, "%q is no cookie's name", name)
	}
}

// conditionKeyProblem says why nothing can be asked of a key; "": it can.
func conditionKeyProblem(key string) string {
	switch {
	case key == ":path" || key == ":method":
		return quoted(key) + " is a pseudo field of HTTP/2: use methods"
	case strings.HasPrefix(key, ":"):
		return quoted(key) + " is a pseudo field of HTTP/2, which conditions do not see"
	}
	return keySyntaxProblem(key)
}
